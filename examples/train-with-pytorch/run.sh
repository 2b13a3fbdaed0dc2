#!/bin/sh
# Usage: run.sh [folder for the store; a temporary one by default]
set -eu
cd "$(dirname "$0")"
out=${1:-$(mktemp -d)}

perennial-ingest --log warn --config ingest.toml --store "$out/store" run --once >"$out/ingest.log"

# Port 0 is any free port: the server prints the address that it got.
perennial-replay --log warn --store "$out/store" --set mix.main=0.25 --set follow.block=16 \
    --set batch.rows=8 --set batch.tokens=256 \
    --set serve.http=127.0.0.1:0 --set serve.flight=127.0.0.1:0 serve >"$out/addresses" &
server=$!
trap 'kill "$server"; wait "$server"' EXIT
until grep -q '^http ' "$out/addresses"; do
    kill -0 "$server"   # ends this script if the server failed
    sleep 0.1
done

"${PYTHON:-python3}" train.py "http://$(sed -n 's/^http //p' "$out/addresses")"
