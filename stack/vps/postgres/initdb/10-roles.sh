#!/bin/bash
# Once, in an empty cluster: the database of the hub and the roles that use it. No role but postgres is a superuser, so
# that the trail can be changed by nobody who comes over the network.
#
#   metrica             owns the database; the hub
#   grafana             looks; what it may see is granted by the hub's migrations
#   postgres_exporter   pg_monitor
set -euo pipefail
secrets=${SECRETS:-/run/secrets}

url=$(<"$secrets/hub_database_url")
password=${url#postgresql://metrica:}
password=${password%%@*}

psql -v ON_ERROR_STOP=1 --no-psqlrc --username postgres --dbname postgres \
  -v metrica="$password" -v grafana="$(<"$secrets/grafana_database_password")" \
  -v exporter="$(<"$secrets/postgres_exporter_password")" <<'SQL'
CREATE ROLE metrica LOGIN PASSWORD :'metrica';
CREATE DATABASE metrica OWNER metrica;
CREATE ROLE grafana LOGIN PASSWORD :'grafana';
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '30s';
CREATE ROLE postgres_exporter LOGIN PASSWORD :'exporter' IN ROLE pg_monitor;
REVOKE ALL ON DATABASE metrica FROM PUBLIC;
GRANT CONNECT ON DATABASE metrica TO grafana, postgres_exporter;
SQL
