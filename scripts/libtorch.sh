#!/usr/bin/env bash
# Installs libtorch where `.cargo/config.toml` expects it: .libtorch/torch, which git ignores.
#
# A libtorch of your own has precedence: with LIBTORCH (its folder) or LIBTORCH_USE_PYTORCH=1 (the torch of
# your Python) nothing is installed, and only its version is checked.
# Exit codes: 0 a matching libtorch is there, 1 the install failed, 2 something is missing or wrong.
set -euo pipefail

torch=2.11.0 # the version that `tch` of Cargo.toml is written for
cudart=13.0.96
cupti=13.0.85 # libtorch_cpu.so needs these two parts of CUDA 13.0, and no other, also without a GPU

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=$root/.libtorch
partial=$home.partial

refuse() { # what is wrong, how to fix it
    printf 'error: %s\n  hint: %s\n' "$1" "$2" >&2
    exit 2
}

fits() { case $1 in "${torch%.*}" | "${torch%.*}".*) true ;; *) false ;; esac }

# The version that the headers under $1 declare; empty if they are not those of libtorch.
header_version() {
    local file
    for file in "$1"/include/torch/{headeronly,csrc/api/include/torch,.}/version.h; do
        [ -f "$file" ] || continue
        awk '$1 == "#define" && $2 ~ /^TORCH_VERSION_(MAJOR|MINOR|PATCH)$/ { part[$2] = $3 }
            $1 == "#define" && $2 == "TORCH_VERSION" && $3 ~ /^"/ { gsub(/"/, "", $3); whole = $3 }
            END {
                if ("TORCH_VERSION_MAJOR" in part)
                    print part["TORCH_VERSION_MAJOR"] "." part["TORCH_VERSION_MINOR"] "." part["TORCH_VERSION_PATCH"]
                else if (whole) print whole
            }' "$file" | grep . && return
    done
    return 1
}

check_folder() { # LIBTORCH
    local include=${LIBTORCH_INCLUDE:-$1} lib=${LIBTORCH_LIB:-$1} version
    local hint="point LIBTORCH at a libtorch $torch (the folder that holds include/ and lib/), or unset it to have one installed"
    case $1 in /*) ;; *) refuse "LIBTORCH=\`$1\` is not an absolute path" "$hint" ;; esac
    [ -e "$lib/lib/libtorch_cpu.so" ] || refuse "\`$lib/lib/libtorch_cpu.so\` does not exist (LIBTORCH=\`$1\`)" "$hint"
    version=$(header_version "$include") ||
        refuse "no version.h under \`$include/include/torch\` says which libtorch LIBTORCH=\`$1\` is" "$hint"
    fits "$version" || refuse "LIBTORCH=\`$1\` is libtorch $version; this workspace needs $torch" "$hint"
}

check_python() { # LIBTORCH_USE_PYTORCH
    local python=python3 said version
    local hint="install torch $torch into that Python (\`pip install torch==$torch setuptools\`), or unset LIBTORCH_USE_PYTORCH to have libtorch installed"
    [ -z "${VIRTUAL_ENV:-}" ] || python=python
    command -v "$python" >/dev/null || refuse "\`$python\` is missing, and LIBTORCH_USE_PYTORCH is set" "$hint"
    # The modules that the build imports, so that a missing one is named here.
    if ! said=$("$python" -c 'import torch, torch.utils.cpp_extension; print("torch", torch.__version__)' 2>&1); then
        refuse "\`$python\` cannot import torch, and LIBTORCH_USE_PYTORCH is set: ${said##*$'\n'}" "$hint"
    fi
    version=$(sed -n 's/^torch \([^+]*\).*/\1/p' <<<"$said")
    fits "$version" || refuse "the torch of \`$python\` is $version; this workspace needs $torch" "$hint"
}

# An install is moved here as a whole, so a partial one cannot be here; an older checkout may have left other versions.
installed() {
    compgen -G "$home/torch-$torch*.dist-info/METADATA" >/dev/null &&
        [ -f "$home/nvidia_cuda_runtime-$cudart.dist-info/METADATA" ] &&
        [ -f "$home/nvidia_cuda_cupti-$cupti.dist-info/METADATA" ] &&
        [ -f "$home/torch/lib/libtorch_cpu.so" ] && [ -d "$home/torch/include" ] &&
        [ -f "$home/nvidia/cu13/lib/libcudart.so.13" ] && [ -f "$home/nvidia/cu13/lib/libcupti.so.13" ]
}

# The Python whose pip is used: yours, or, if it has no pip, that of a temporary virtual environment.
find_pip() {
    command -v python3 >/dev/null ||
        refuse "\`python3\` is missing: its pip fetches libtorch" "run \`apt-get install python3 python3-pip\`"
    python=python3
    if ! python3 -m pip --version >/dev/null 2>&1; then
        python=$partial/.pip/bin/python3
        python3 -m venv "$partial/.pip" >/dev/null 2>&1 ||
            refuse "\`python3\` has neither pip nor venv: one of them fetches libtorch" "run \`apt-get install python3-pip\`"
    fi
}

install() {
    local python log=$partial/.pip.log
    rm -rf "$partial"
    mkdir "$partial"
    trap 'rm -rf "$partial"' EXIT
    trap 'exit 130' INT TERM HUP
    echo '*' >"$partial/.gitignore"
    local room
    room=$(df -k --output=avail "$partial" | tail -n 1)
    # The packages, the unpacked files, and the copy that stays in the cache of pip.
    [ "$room" -ge 2400000 ] ||
        refuse "\`$root\` has $((room / 1000)) MB free; installing libtorch takes 2,400 MB, and 1,200 MB afterwards" \
            "free some space there, or set LIBTORCH to the folder of a libtorch $torch"
    find_pip
    echo "libtorch: fetching $torch into .libtorch (545 MB, once; 1.2 GB on disk)"
    # Only libraries and headers are used, so one wheel serves every version of Python.
    local platforms=() glibc
    for glibc in {28..17}; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
    # pip unpacks into TMPDIR first: /tmp may be a small file system of its own.
    mkdir "$partial/.tmp"
    if ! TMPDIR=$partial/.tmp PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 "$python" -m pip --disable-pip-version-check install \
        --quiet --no-deps --no-compile --target "$partial" --only-binary=:all: \
        --implementation cp --python-version 3.11 \
        "${platforms[@]}" \
        "torch==$torch" "nvidia-cuda-runtime==$cudart" "nvidia-cuda-cupti==$cupti" >"$log" 2>&1; then
        cat "$log" >&2
        printf 'error: pip could not install libtorch %s\n  hint: %s\n' "$torch" \
            "see the lines above; with a libtorch of your own set LIBTORCH to its folder" >&2
        exit 1
    fi
    rm -rf "$partial/.pip" "$partial/.tmp" "$log" "$home"
    mv "$partial" "$home"
    trap - EXIT
    installed || { printf 'error: the packages of libtorch %s do not contain the expected files\n' "$torch" >&2; exit 1; }
}

if [ -n "${LIBTORCH_USE_PYTORCH+set}" ]; then
    check_python
elif [ -n "${LIBTORCH+set}" ] && [ "$LIBTORCH" != "$home/torch" ]; then
    check_folder "$LIBTORCH"
elif ! installed; then
    [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] ||
        refuse "this script installs no libtorch for \`$(uname -s) $(uname -m)\`, only for x86-64 Linux" "set LIBTORCH to the folder of a libtorch $torch"
    exec 9<"${BASH_SOURCE[0]}"
    flock 9 # with two builds at once, the second waits and finds the install done
    installed || install
fi
