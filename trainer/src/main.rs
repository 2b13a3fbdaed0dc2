//! The program `perennial-train`. Everything is in the library, so that a build compiles it once: see [`perennial_trainer::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    perennial_trainer::cli::main()
}
