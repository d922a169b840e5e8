#!/usr/bin/env bash
# run.sh go|java --host URL --write-key KEY --datafile FILE --cases FILE
#
# Compiles a listener of docs/listeners with its SDK, decides the cases and posts the decisions to a running gateway.
# Fetches the SDK from the Go module proxy or Maven Central. Not part of `make test`: see README.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
docs=$here/../../docs/listeners
language=$1
shift
room=$here/../.cache/listeners/$language
mkdir -p "$room"
case $language in
go)
  mkdir -p "$room/aqueduct"
  cp "$docs/aqueduct.go" "$room/aqueduct/"
  cp "$here/drive.go" "$room/main.go"
  cd "$room"
  printf 'module drive\n\ngo 1.24\n' >go.mod
  go get github.com/optimizely/go-sdk/v2@v2.3.1 >&2
  go vet ./... >&2
  exec go run . "$@"
  ;;
java)
  cp "$here/pom.xml" "$docs/AqueductListener.java" "$here/Drive.java" "$room/"
  cd "$room"
  [ -d lib ] || mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib >&2
  javac --release 11 -Xlint:all,-deprecation -Werror -cp 'lib/*' -d classes AqueductListener.java Drive.java
  exec java -cp 'classes:lib/*' Drive "$@"
  ;;
*)
  echo "go or java" >&2
  exit 2
  ;;
esac
