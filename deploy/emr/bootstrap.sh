#!/usr/bin/env bash
# Installs the locked packages on each node of an EMR cluster: bootstrap.sh s3://.../requirements.txt
#
# pyspark stays out: a node has the Spark of its EMR release. The nodes need the package index (or a mirror
# of it: PIP_INDEX_URL) and a root volume of 40 GB.
set -euo pipefail
requirements=$(mktemp)
aws s3 cp --quiet "$1" "$requirements"
sudo python3.11 -m venv /opt/sightline
grep -v '^pyspark==' "$requirements" |
    sudo /opt/sightline/bin/python -m pip install --quiet --no-cache-dir --no-deps -r /dev/stdin
