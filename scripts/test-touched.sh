#!/usr/bin/env bash
# Tests the crates that differ from a commit, and every crate of ours that depends on them.
# Usage: scripts/test-touched.sh [base commit, HEAD~1 if not given]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
base=${1:-HEAD~1}

if ! command -v git >/dev/null; then
    echo "error: \`git\` is missing: it says which crates differ" >&2
    echo "  hint: run \`apt-get install git\`, or \`make test\`" >&2
    exit 2
fi
if ! git rev-parse --verify --quiet "$base^{commit}" >/dev/null; then
    echo "error: \`$base\` names no commit here" >&2
    echo "  hint: name another (\`make test-touched BASE=origin/main\`), or run \`make test\`" >&2
    exit 2
fi
# Without renames: a file that moves from one crate to another changes both.
changed=$(git -c core.quotePath=off diff --name-only --no-renames --relative "$base" -- &&
    git -c core.quotePath=off ls-files --others --exclude-standard)
if [ -z "$changed" ]; then
    echo "nothing differs from $base: no test to run"
    exit 0
fi

# Names of packages, from lines such as `perennial-ingest v0.1.0 (/path)`.
names() { cargo tree --workspace --prefix none --edges normal,build,dev "$@" | awk 'NF { print $1 }'; }
members=$(names --depth 0)
# `name folder` of each of ours, the folder below this one.
folders=$(cargo tree --workspace --prefix none --depth 0 | sed -n "s|^\([^ ]*\) v[^(]*($PWD/\([^)]*\)).*|\1 \2|p")

# Always the tests across programs: some of their rules read every file, and they start the programs.
picked=perennial-tests
while read -r member folder; do
    # A file of a nested crate counts for the outer crate too: one crate too many costs little.
    if grep -q "^$folder/" <<<"$changed"; then picked+=" $(names --invert "$member")"; fi
done <<<"$folders"
# What all crates are built from, and the text that most of their tests read.
if grep -qxE 'Cargo\.(toml|lock)|rust-toolchain\.toml|\.cargo/.*|scripts/libtorch\.sh|data/.*' <<<"$changed"; then picked=$members; fi
picked=$(tr ' ' '\n' <<<"$picked" | grep -xF "$members" | sort -u | tr '\n' ' ')

echo "differs from $base, or depends on what does: $picked"
cargo build --workspace --bins
read -ra packages <<<"$picked"
cargo test "${packages[@]/#/--package=}"
