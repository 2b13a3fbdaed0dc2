#!/usr/bin/env bash
# Installs the Python that some tests run into .venv, which git ignores, with the packages of
# tests/requirements.txt.
#
# Exit codes: 0 it is installed, 1 the install failed, 2 something is missing.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=$root/.venv
wanted=$root/tests/requirements.txt
stamp=$home/requirements.txt # copied last: without it, or with an older one, the install is not complete
log=$home/install.log # exists from the beginning of an install to its end

refuse() { # what is wrong, how to fix it
    printf 'error: %s\n  hint: %s\n' "$1" "$2" >&2
    exit 2
}

# Imports a package too: after an upgrade of the system's Python, `python3` may look for packages elsewhere.
installed() { cmp -s "$wanted" "$stamp" && "$home/bin/python3" -c 'import deltalake' >/dev/null 2>&1; }

# Sets `pip` to the command that installs into $home: a virtual environment, or, if Python lacks the module
# that makes one, a folder of packages and a `python3` that looks there.
make_home() {
    command -v python3 >/dev/null ||
        refuse "\`python3\` is missing: some tests run it" "run \`apt-get install python3 python3-venv\`"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        refuse "\`$(python3 --version)\` is too old for the packages that some tests need" "install Python 3.11 or later"
    if [ -e "$home" ] && [ ! -f "$stamp" ] && [ ! -f "$log" ] && [ -n "$(ls -A "$home")" ]; then
        refuse "\`$home\` exists and was not made by \`make python\`" "move it away: the Python of the tests is installed there"
    fi
    trap 'rm -rf "$home"' EXIT
    trap 'exit 130' INT TERM HUP
    mkdir -p "$home"
    : >"$log"
    local room
    room=$(df -k --output=avail "$home" | tail -n 1)
    # The packages, the unpacked files, and the copy that stays in the cache of pip.
    [ "$room" -ge 950000 ] ||
        refuse "\`$root\` has $((room / 1000)) MB free; installing the Python of the tests takes 950 MB" "free some space there"
    find "$home" -mindepth 1 ! -name install.log -delete
    if python3 -m venv "$home" >"$log" 2>&1; then
        pip=("$home/bin/python3" -m pip)
    elif python3 -m pip --version >"$log" 2>&1; then
        find "$home" -mindepth 1 ! -name install.log -delete
        mkdir "$home/bin" "$home/packages"
        cat >"$home/bin/python3" <<'END'
#!/bin/sh
PYTHONPATH=$(dirname "$(dirname "$0")")/packages exec python3 "$@"
END
        chmod +x "$home/bin/python3"
        pip=(python3 -m pip)
        into=(--target "$home/packages")
    else
        refuse "\`python3\` has neither venv nor pip: one of them installs what the tests need" \
            "run \`apt-get install python3-venv\`"
    fi
}

install() {
    local pip into=()
    make_home
    echo "python: fetching the packages of tests/requirements.txt into .venv (170 MB, once; 560 MB on disk)"
    mkdir "$home/tmp" # pip unpacks into TMPDIR: /tmp may be a small file system of its own
    if ! TMPDIR=$home/tmp PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 "${pip[@]}" --disable-pip-version-check install \
        --quiet --no-deps --only-binary=:all: ${into[@]+"${into[@]}"} --requirement "$wanted" >"$log" 2>&1; then
        cat "$log" >&2
        printf 'error: pip could not install the packages of `%s`\n  hint: %s\n' "$wanted" "see the lines above" >&2
        exit 1
    fi
    rm -rf "$home/tmp"
    cp "$wanted" "$stamp"
    rm -f "$log"
    trap - EXIT
}

if ! installed; then
    exec 9<"${BASH_SOURCE[0]}"
    flock 9 # with two at once, the second waits and finds the install done
    installed || install
fi
