# Stands in for the SeaweedFS image where no image registry is reached: moto's S3 server, on SeaweedFS's port. It holds everything
# in memory and checks no key.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
RUN pip install --no-cache-dir "moto[s3]==5.2.5" Flask==3.1.3 flask-cors==6.0.5 "Werkzeug<4"
EXPOSE 8333
ENTRYPOINT ["sh", "-c", "exec python -m moto.server -H 0.0.0.0 -p 8333"]
