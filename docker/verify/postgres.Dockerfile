# Stands in for the official postgres image where no image registry is reached: Debian's PostgreSQL, with the part of the official
# image's contract that compose.yaml uses (POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, scripts of docker-entrypoint-initdb.d).
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql \
    && ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ \
    && mkdir -p /var/lib/postgresql/data /run/postgresql && chown -R postgres /var/lib/postgresql /run/postgresql
COPY postgres.sh /usr/local/bin/postgres.sh
USER postgres
VOLUME /var/lib/postgresql/data
CMD ["sh", "/usr/local/bin/postgres.sh"]
