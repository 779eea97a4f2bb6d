#!/usr/bin/env bash
# What must be there before Airflow starts: its database, its pools, the bucket. Done again, it changes nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

airflow db migrate
airflow pools import deploy/pools.json
python -m sightline.bucket
