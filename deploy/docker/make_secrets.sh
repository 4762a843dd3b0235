#!/usr/bin/env bash
# Makes the passwords that docker-compose.yml hands to the services as files. Keeps those that exist.
set -euo pipefail
cd "$(dirname "$0")/secrets"

# The folder is closed to other people; the files are readable because containers run under a user of their own.
chmod 700 .
for name in redis_password api_keys; do
  [ -s "$name" ] && continue
  head -c 32 /dev/urandom | base64 | tr -d '/+=\n' > "$name"
  chmod 444 "$name"
  echo "made deploy/docker/secrets/$name"
done
