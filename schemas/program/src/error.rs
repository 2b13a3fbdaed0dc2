//! What an error means to the user of a program: its kind, its hint, and the one table from kind to exit
//! code, HTTP status and gRPC code.
//!
//! A kind exists only if the user would *act* differently. Every error type of the three
//! programs implements [`ProgramError`]; no other table of codes exists.

use std::error::Error;
use std::fmt::Write as _;

/// What went wrong, for the person or client who must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The configuration or the command line is wrong: change it and start again.
    Config,
    /// A request or an input is malformed: change it.
    Input,
    /// The thing asked for does not exist.
    NotFound,
    /// Another program holds or changed a thing that this one needs: stop the other, or read again.
    Conflict,
    /// The store, the disk or a server cannot be reached or is full: wait or make room; retry helps.
    Unavailable,
    /// The store breaks an invariant or needs a newer program: do not write; examine it.
    Corrupt,
    /// The program was stopped before the work was done.
    Interrupted,
    /// A defect of this program.
    Bug,
}

/// The codes of a [`Kind`] for shells and clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes {
    /// The kind.
    pub kind: Kind,
    /// Its name in logs and API bodies.
    pub name: &'static str,
    /// The process's exit code (0 is success).
    pub exit: u8,
    /// HTTP status.
    pub http: u16,
    /// gRPC status code (the number of `tonic::Code`).
    pub grpc: i32,
    /// Whether the same call may succeed later without a change by the user.
    pub retry: bool,
}

/// The codes of every kind. Exit codes follow `sysexits.h` if it has one for the kind.
pub const CODES: [Codes; 8] = [
    Codes { kind: Kind::Config, name: "config", exit: 2, http: 400, grpc: 3, retry: false },
    Codes { kind: Kind::Input, name: "input", exit: 65, http: 400, grpc: 3, retry: false },
    Codes { kind: Kind::NotFound, name: "not_found", exit: 66, http: 404, grpc: 5, retry: false },
    Codes { kind: Kind::Conflict, name: "conflict", exit: 73, http: 409, grpc: 10, retry: false },
    Codes { kind: Kind::Unavailable, name: "unavailable", exit: 69, http: 503, grpc: 14, retry: true },
    Codes { kind: Kind::Corrupt, name: "corrupt", exit: 76, http: 500, grpc: 15, retry: false },
    Codes { kind: Kind::Interrupted, name: "interrupted", exit: 130, http: 503, grpc: 1, retry: true },
    Codes { kind: Kind::Bug, name: "bug", exit: 70, http: 500, grpc: 13, retry: false },
];

impl Kind {
    /// The codes of this kind.
    #[must_use]
    pub const fn codes(self) -> Codes {
        CODES[self as usize]
    }
}

/// An error with a [`Kind`] and, where there is one, a hint for the user.
pub trait ProgramError: Error + Send + Sync + 'static {
    /// Who must act, and how.
    fn kind(&self) -> Kind;

    /// What the user can do: the key to change, the command to run.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// A [`ProgramError`] of any type, for programs' outermost functions.
pub type Failure = Box<dyn ProgramError>;

impl<E: ProgramError> From<E> for Failure {
    fn from(error: E) -> Self {
        Box::new(error)
    }
}

/// The text a program prints before it exits: the error, each cause once, and the hint.
///
/// ```text
/// error: cannot open table `records` at file:///data/store
///   because: permission denied
///   hint: give the user that runs perennial-ingest write access to the folder
/// ```
#[must_use]
pub fn render(error: &dyn ProgramError) -> String {
    let mut text = format!("error: {error}");
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        // Many libraries print their source inside their own message: print each text once.
        if !said.contains(&line) {
            let _ = write!(text, "\n  because: {}", line.replace('\n', "\n    "));
            said = line;
        }
        cause = error.source();
    }
    if let Some(hint) = error.hint() {
        let _ = write!(text, "\n  hint: {}", hint.replace('\n', "\n    "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open table `{table}`")]
    struct Open {
        table: &'static str,
        #[source]
        source: Cause,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("permission denied")]
    struct Cause;

    impl ProgramError for Open {
        fn kind(&self) -> Kind {
            Kind::Unavailable
        }
        fn hint(&self) -> Option<String> {
            Some("make it writable".into())
        }
    }

    #[test]
    fn table_has_one_row_per_kind_in_the_order_of_the_enum() {
        for (index, row) in CODES.iter().enumerate() {
            assert_eq!(row.kind as usize, index);
            assert_eq!(row.kind.codes(), *row);
        }
        let mut exits: Vec<u8> = CODES.iter().map(|row| row.exit).collect();
        exits.sort_unstable();
        exits.dedup();
        assert_eq!(exits.len(), CODES.len(), "a script tells kinds apart by exit code");
        assert!(exits.iter().all(|exit| *exit != 0 && *exit != 1 && *exit != 101));
    }

    #[test]
    fn render_prints_each_cause_once_and_the_hint() {
        let error = Open { table: "records", source: Cause };
        assert_eq!(
            render(&error),
            "error: cannot open table `records`\n  because: permission denied\n  hint: make it writable"
        );
    }
}
