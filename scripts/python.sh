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
log=$home/install.log

refuse() { # what is wrong, how to mend it
    printf 'error: %s\n  hint: %s\n' "$1" "$2" >&2
    exit 2
}

installed() { cmp -s "$wanted" "$stamp" && "$home/bin/python3" -c '' >/dev/null 2>&1; }

# Sets `pip` to the command that installs into $home: a virtual environment, or, where Python comes without
# the parts that make one, a folder of packages and a `python3` that looks there.
make_home() {
    command -v python3 >/dev/null ||
        refuse "\`python3\` is missing: some tests run it" "run \`apt-get install python3 python3-venv\`"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        refuse "\`$(python3 --version)\` is too old for the packages that some tests need" "install Python 3.11 or later"
    rm -rf "$home"
    mkdir "$home"
    if python3 -m venv "$home" >"$log" 2>&1; then
        pip=("$home/bin/python3" -m pip)
    elif python3 -m pip --version >"$log" 2>&1; then
        find "$home" -mindepth 1 -delete
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
    trap 'rm -rf "$home"' EXIT
    trap 'exit 130' INT TERM HUP
    make_home
    echo "python: fetching the packages of tests/requirements.txt into .venv (140 MB, once; 450 MB on disk)"
    if ! PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 "${pip[@]}" --disable-pip-version-check install \
        --quiet --no-deps --only-binary=:all: ${into[@]+"${into[@]}"} --requirement "$wanted" >"$log" 2>&1; then
        cat "$log" >&2
        printf 'error: pip could not install the packages of `%s`\n  hint: %s\n' "$wanted" "see the lines above" >&2
        exit 1
    fi
    rm -f "$log"
    cp "$wanted" "$stamp"
    trap - EXIT
}

if ! installed; then
    exec 9<"${BASH_SOURCE[0]}"
    flock 9 # two at once: the second waits and finds it done
    installed || install
fi
