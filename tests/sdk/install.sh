#!/usr/bin/env bash
# Installs the pinned SDKs into tests/.cache/sdk. Does nothing when they are there already.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=$(dirname "$here")/.cache/sdk
mkdir -p "$cache"

stamp=$(cat "$here/package-lock.json" "$here/requirements.txt" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$cache/stamp" 2>/dev/null || true)" != "$stamp" ]; then
  rm -rf "$cache/node_modules" "$cache/venv" "$cache/stamp"
  cp "$here/package.json" "$here/package-lock.json" "$cache/"
  # Not `npm ci`: an optional native part of a dependency is not published for every platform, and is not needed.
  # No install script is needed either.
  npm install --prefix "$cache" --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  echo "$stamp" >"$cache/stamp"
fi
# Node looks for packages beside the script: the drivers, and the listeners they try, have to stand beside them.
cp "$here"/*.mjs "$here"/*.py "$here"/../../docs/listeners/* "$cache/"
echo "SDKs and drivers in $cache"
