#!/bin/sh
# Usage: run.sh [folder for the store; a temporary one by default]
set -eu
cd "$(dirname "$0")"
out=${1:-$(mktemp -d)}
ingest="perennial-ingest --log warn --config ingest.toml --store $out/store"

$ingest run --once >"$out/ingest.log"
for number in 0 1 2 3 4 5; do $ingest explain "main/$number"; done
$ingest check
