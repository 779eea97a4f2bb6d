#!/usr/bin/env bash
# Prints deploy/example.env with passwords and keys of its own: deploy/make_env.sh > .env
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
umask 077

secret() { head -c 32 /dev/urandom | base64 | tr '+/' '-_'; } # what Fernet takes for a key; the others too
plain() { secret | tr -dc 'A-Za-z0-9' | head -c 32; }         # for passwords inside URLs

while IFS= read -r line; do
    case $line in
    *=secret) echo "${line%secret}$(secret)" ;;
    *=password) echo "${line%password}$(plain)" ;;
    *) echo "$line" ;;
    esac
done <example.env
