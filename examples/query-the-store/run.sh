#!/bin/sh
# Usage: run.sh [folder for the store; a temporary one by default]
# The Python needs two packages: pip install deltalake pyarrow
set -eu
cd "$(dirname "$0")"
out=${1:-$(mktemp -d)}

perennial-ingest --log warn --config ingest.toml --store "$out/store" run --once >"$out/ingest.log"
"${PYTHON:-python3}" query.py "$out/store"
