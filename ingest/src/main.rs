//! The program `perennial-ingest`. Everything is in the library, so that a build compiles it once: see [`perennial_ingest::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    perennial_ingest::cli::main()
}
