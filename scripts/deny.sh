#!/usr/bin/env bash
# Checks every dependency against deny.toml, as far as this machine can: what could not be checked is printed.
# Exit codes: 0 nothing is wrong with what was checked, else the code of cargo-deny.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! cargo deny --version >/dev/null 2>&1; then
    echo "not run: cargo deny (advisories; licences, sources and bans are checked by \`make test\` too)"
    echo "  hint: \`cargo install cargo-deny --locked\` takes some minutes, once"
    exit 0
fi

cargo deny --offline check --hide-inclusion-graph licenses bans sources

# The database of advisories is a git repository elsewhere: without the network this check cannot fail.
if timeout 60 cargo deny fetch db >/dev/null 2>&1; then
    cargo deny check --disable-fetch advisories
else
    echo "not run: cargo deny check advisories (the database of advisories could not be fetched)"
fi
