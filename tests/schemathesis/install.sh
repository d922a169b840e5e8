#!/usr/bin/env bash
# Installs the pinned schemathesis into tests/.cache/schemathesis. Does nothing when it is there already.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=$(dirname "$here")/.cache/schemathesis
mkdir -p "$cache"
stamp=$(sha256sum <"$here/requirements.txt" | cut -d' ' -f1)
if [ "$(cat "$cache/stamp" 2>/dev/null || true)" != "$stamp" ]; then
  rm -rf "$cache/venv" "$cache/stamp"
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  echo "$stamp" >"$cache/stamp"
fi
echo "schemathesis in $cache"
