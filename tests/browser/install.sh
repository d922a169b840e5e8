#!/usr/bin/env bash
# Installs the pinned drivers into tests/.cache/browser. Does nothing when they are there already.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=$(dirname "$here")/.cache/browser
mkdir -p "$cache"
stamp=$(sha256sum <"$here/package-lock.json")
if [ "$(cat "$cache/stamp" 2>/dev/null || true)" != "$stamp" ]; then
  rm -rf "$cache/node_modules" "$cache/stamp"
  cp "$here/package.json" "$here/package-lock.json" "$cache/"
  npm ci --prefix "$cache" --ignore-scripts --no-audit --no-fund --loglevel=error
  echo "$stamp" >"$cache/stamp"
fi
cp "$here"/*.mjs "$cache/"
echo "browser tests in $cache: node $cache/console.mjs"
