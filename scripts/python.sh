#!/usr/bin/env bash
# Puts the Python that some tests run into .venv, which git ignores. tests/requirements.txt says what
# packages it has.
#
# Exit codes: 0 it is there, 1 the install failed, 2 something is missing.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=$root/.venv
wanted=$root/tests/requirements.txt
stamp=$home/requirements.txt # copied last: without it, or with an older one, the install is not whole
log=$home/install.log # there from the beginning of an install to its end

refuse() { # what is wrong, how to mend it
    printf 'error: %s\n  hint: %s\n' "$1" "$2" >&2
    exit 2
}

# Asked for a package too: after an upgrade of the system's Python a `python3` is there that looks elsewhere.
installed() { cmp -s "$wanted" "$stamp" && "$home/bin/python3" -c 'import deltalake' >/dev/null 2>&1; }

# Sets `pip` to the command that installs into $home: a virtual environment, or, where Python comes without
# the parts that make one, a folder of packages and a `python3` that looks there.
make_home() {
    command -v python3 >/dev/null ||
        refuse "\`python3\` is missing: some tests run it" "run \`apt-get install python3 python3-venv\`"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        refuse "\`$(python3 --version)\` is too old for the packages that some tests need" "install Python 3.11 or later"
    if [ -e "$home" ] && [ ! -f "$stamp" ] && [ ! -f "$log" ] && [ -n "$(ls -A "$home")" ]; then
        refuse "\`$home\` is there, and is not what \`make python\` makes" "move it away: the tests' Python comes there"
    fi
    trap 'rm -rf "$home"' EXIT
    trap 'exit 130' INT TERM HUP
    mkdir -p "$home"
    : >"$log"
    local room
    room=$(df -k --output=avail "$home" | tail -n 1)
    # The packages, what they unpack to, and the copy that pip keeps for another time.
    [ "$room" -ge 800000 ] ||
        refuse "\`$root\` has room for $((room / 1000)) MB; installing the tests' Python takes 800 MB" "make room there"
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
    echo "python: fetching the packages of tests/requirements.txt into .venv (140 MB, once; 450 MB on disk)"
    mkdir "$home/tmp" # pip unpacks where TMPDIR says: /tmp may be a small file system of its own
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
    flock 9 # two at once: the second waits and finds it done
    installed || install
fi
