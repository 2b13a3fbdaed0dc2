#!/usr/bin/env bash
# Reports at once, with a hint, what a build of this workspace would miss only minutes later.
# Usage: scripts/toolchain.sh [cargo subcommand ..]     e.g. scripts/toolchain.sh fmt clippy
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
missing=0

miss() { # what is wrong, how to fix it
    printf 'error: %s\n  hint: %s\n' "$1" "$2" >&2
    missing=1
}

system="$(uname -s) $(uname -m)"
if [ "$system" != "Linux x86_64" ]; then
    miss "this system is \`$system\`; Perennial is built and tested on x86-64 Linux only" \
        "use an x86-64 Linux machine or container"
fi

needed=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$root/Cargo.toml")
rust_hint="install Rust $needed or later with rustup (https://www.rust-lang.org/tools/install), then open a new shell"
if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
    miss "\`cargo\` and \`rustc\` are not in PATH" "$rust_hint"
elif ! version=$(rustc --version 2>&1); then
    miss "\`rustc --version\` failed: $version" "run \`rustup toolchain install\` here: it reads rust-toolchain.toml"
else
    found=$(sed 's/^rustc \([0-9.]*\).*/\1/' <<<"$version")
    if [ "$(printf '%s\n%s\n' "$needed" "$found" | sort -V | head -n 1)" != "$needed" ]; then
        miss "rustc $found is older than $needed" "$rust_hint (Debian's own package is older)"
    fi
    for subcommand in "$@"; do
        component=${subcommand/fmt/rustfmt}
        cargo "$subcommand" --version >/dev/null 2>&1 ||
            miss "\`cargo $subcommand\` is missing" "run \`rustup component add $component\`"
    done
fi

# What the `cc` crate runs, for zstd, ring and the shim over libtorch.
for compiler in "${CC:-cc}" "${CXX:-c++}"; do
    command -v "${compiler%% *}" >/dev/null ||
        miss "the C or C++ compiler \`$compiler\` is missing" "run \`apt-get install build-essential\`"
done

[ "$missing" = 0 ] || exit 2
