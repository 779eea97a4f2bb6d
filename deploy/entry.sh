#!/usr/bin/env bash
# The image's entry point: writes the login of Airflow's `admin` where Airflow looks for it, and becomes the command.
set -euo pipefail

if [ -n "${SIGHTLINE_ADMIN_PASSWORD:-}" ]; then
    umask 077
    python -c 'import json, os; print(json.dumps({"admin": os.environ["SIGHTLINE_ADMIN_PASSWORD"]}))' \
        >"$AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"
    unset SIGHTLINE_ADMIN_PASSWORD # of no use to what runs later
fi
exec "$@"
