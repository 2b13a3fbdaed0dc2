"""Makes the torch in .libtorch importable by Python 3.11 on a machine without CUDA's libraries.

Usage: cuda_stand_ins.py LIBTORCH OUT

torch's wheel for Linux is linked against some 3 GB of CUDA's libraries, which the loader wants to see even where no
GPU is used. For each one that is missing this compiles a library of the same name with the symbols that torch asks
of it. Each of them stops the program when it is called: nothing on the CPU calls them.
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path


# What CUDA's libraries call their functions.
PREFIX = re.compile("cu|nccl|nvrtc|nvshmem|nvml")


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def needed(library):
    """The libraries that it needs, and of each the names of the versions of symbols."""
    names = re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-d", "-W", library))
    versions = output("readelf", "-V", "-W", library).partition("ersion needs section")[2]
    owners, owner = {}, None
    for line in versions.splitlines():
        if found := re.search(r"File: (\S+)", line):
            owner = found.group(1)
        if found := re.search(r"Name: (\S+)", line):
            owners[found.group(1)] = owner
    return names, owners


def symbols_of(library, which):
    """Its symbols with their versions, which may be empty."""
    for line in output("nm", "-D", which, library).splitlines():
        name, _, version = line.split()[-1].partition("@")
        yield name, version.lstrip("@")


def main(libtorch, out):
    folders = [libtorch / "torch/lib", *libtorch.glob("nvidia/*/lib")]
    have = {path.name for folder in folders for path in folder.iterdir()}
    system = output("/sbin/ldconfig", "-p")
    libraries = [path for folder in folders for path in sorted(folder.glob("*.so*"))]
    defined = {name for library in libraries for name, _ in symbols_of(library, "--defined-only")}
    symbols = defaultdict(lambda: defaultdict(set))
    bare = set()
    for library in libraries:
        names, owners = needed(library)
        for name in names:
            if name not in have and f"\t{name} " not in system:
                symbols[name]
        for name, version in symbols_of(library, "--undefined-only"):
            if owners.get(version) in symbols:
                symbols[owners[version]][version].add(name)
            elif not version and name not in defined and PREFIX.match(name):
                bare.add(name)
    # It does not matter which one has the symbols without a version.
    if symbols:
        symbols[min(symbols)][""] = bare
    out.mkdir(parents=True, exist_ok=True)
    for name, versions in symbols.items():
        source, script = out / f"{name}.c", out / f"{name}.map"
        all_names = sorted(set().union(*versions.values()))
        source.write_text("".join(f"void {symbol}(void) {{ __builtin_trap(); }}\n" for symbol in all_names) + "\n")
        script.write_text("".join(f"{version} {{ {' '.join(f'{s};' for s in sorted(of))} }};\n" for version, of in versions.items() if version))
        link = [f"-Wl,-soname,{name}", *([f"-Wl,--version-script={script}"] if any(versions) else [])]
        subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", out / name, *link, source], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
