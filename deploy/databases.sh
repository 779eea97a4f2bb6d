#!/usr/bin/env bash
# Runs once, in Postgres' container, when its volume is new: a role and a database each for Airflow and Marquez.
set -euo pipefail

make_database() { # its name, and the variable that holds the password: a command line is seen by all
    psql --quiet --set=ON_ERROR_STOP=1 --username=postgres --set=name="$1" <<SQL
\\getenv password $2
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
}

make_database airflow SIGHTLINE_AIRFLOW_DATABASE_PASSWORD
make_database marquez SIGHTLINE_MARQUEZ_DATABASE_PASSWORD
