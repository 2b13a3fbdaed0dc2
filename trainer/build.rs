//! Compiles the shim over libtorch; refuses a libtorch of another version than `tch` supports.
#![expect(clippy::disallowed_methods, reason = "a build script is configured by the environment")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The release of libtorch that the pinned `tch` is generated from.
const WANTED: &str = "2.11.";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo:rerun-if-changed=src/torch/shim.cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    // `torch-sys` passes its folder to its direct dependents.
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").map_err(
        |_| "torch-sys does not say where libtorch is\n  hint: run `make libtorch`, or set LIBTORCH",
    )?;
    let include = match std::env::var("LIBTORCH_INCLUDE") {
        Ok(home) => Path::new(&home).join("include"),
        Err(_) => Path::new(&lib).with_file_name("include"),
    };
    let (version, header) = version(&include)?;
    if !version.starts_with(WANTED) {
        return Err(format!(
            "`{}` belongs to libtorch {version}; this workspace needs {WANTED}*\n  hint: point LIBTORCH at a libtorch {WANTED}*, \
             or unset it and run `make libtorch`",
            header.display()
        ));
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .pic(true)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .flag(format!("-isystem{}", include.display()))
        .flag(format!("-isystem{}", include.join("torch/csrc/api/include").display()))
        .file("src/torch/shim.cpp")
        .compile("perennial_torch");
    println!("cargo:rustc-link-search=native={lib}");
    // `tch` does not set a run path for binaries that link it.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    Ok(())
}

/// The version that the headers declare, and the header with the declaration.
fn version(include: &Path) -> Result<(String, PathBuf), String> {
    for name in ["torch/headeronly/version.h", "torch/csrc/api/include/torch/version.h"] {
        let header = include.join(name);
        let Ok(text) = std::fs::read_to_string(&header) else { continue };
        println!("cargo:rerun-if-changed={}", header.display());
        let part = |key: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix("#define ")?.strip_prefix(key))?;
            rest.trim().parse::<u32>().ok()
        };
        if let (Some(major), Some(minor), Some(patch)) =
            (part("TORCH_VERSION_MAJOR "), part("TORCH_VERSION_MINOR "), part("TORCH_VERSION_PATCH "))
        {
            return Ok((format!("{major}.{minor}.{patch}"), header));
        }
    }
    Err(format!(
        "no version.h under `{}` declares the version of libtorch\n  hint: point LIBTORCH at a complete libtorch, \
         or unset it and run `make libtorch`",
        include.display()
    ))
}
