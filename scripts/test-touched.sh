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

# Names of packages, which are the names of their folders, from lines such as `ingest v0.1.0 (/path)`.
names() { cargo tree --workspace --prefix none --edges normal,build,dev "$@" | awk 'NF { print $1 }'; }
members=$(names --depth 0)

# Always `tests`: some of its rules read every file of the repository, and it drives the programs.
picked=tests
for member in $members; do
    if grep -q "^$member/" <<<"$changed"; then picked+=" $(names --invert "$member")"; fi
done
# What they are all built from, and the text that the tests of most of them read.
if grep -qxE 'Cargo\.(toml|lock)|\.cargo/.*|scripts/libtorch\.sh|data/.*' <<<"$changed"; then picked=$members; fi
picked=$(tr ' ' '\n' <<<"$picked" | grep -xF "$members" | sort -u | tr '\n' ' ')

echo "differs from $base, or depends on what does: $picked"
cargo build --workspace --bins
read -ra packages <<<"$picked"
cargo test "${packages[@]/#/--package=}"
