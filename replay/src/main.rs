//! The program `perennial-replay`. Everything is in the library, so that a build compiles it once: see [`perennial_replay::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    perennial_replay::cli::main()
}
