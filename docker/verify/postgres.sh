#!/bin/sh
# See postgres.Dockerfile: makes the cluster on the first start, then serves.
set -eu
data=/var/lib/postgresql/data
if [ ! -f $data/PG_VERSION ]; then
    printf %s "$POSTGRES_PASSWORD" > /tmp/password
    initdb -D $data -U "$POSTGRES_USER" --pwfile=/tmp/password -A scram-sha-256 > /dev/null
    rm /tmp/password
    echo "host all all all scram-sha-256" >> $data/pg_hba.conf
    pg_ctl -D $data -o "-c listen_addresses=''" -w start > /dev/null
    export PGPASSWORD="$POSTGRES_PASSWORD"
    psql -q -U "$POSTGRES_USER" -d postgres -c "CREATE DATABASE \"$POSTGRES_DB\""
    for script in /docker-entrypoint-initdb.d/*.sql; do
        psql -q -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$script"
    done
    pg_ctl -D $data -m fast -w stop > /dev/null
fi
exec postgres -D $data -c listen_addresses='*'
