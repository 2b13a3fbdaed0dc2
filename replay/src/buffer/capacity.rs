//! The capacity of a buffer and its unit.

use std::fmt;
use std::str::FromStr;

use perennial_program::config::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Candidate;

/// The capacity of a buffer: `"100000 records"`, `"64MiB"` of text, or `"50000000 tokens"` (byte tokens with
/// every tokenizer: the bytes of text, and one for the boundary of each record).
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub enum Capacity {
    /// A number of records.
    Records(u64),
    /// A number of bytes of text.
    Bytes(Bytes),
    /// A number of byte tokens.
    Tokens(u64),
}

impl Capacity {
    /// The limit as a number.
    #[must_use]
    pub const fn limit(self) -> u64 {
        match self {
            Self::Records(limit) | Self::Tokens(limit) => limit,
            Self::Bytes(bytes) => bytes.get(),
        }
    }

    /// Its unit, as in the `buffers` table.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Records(_) => "records",
            Self::Bytes(_) => "bytes",
            Self::Tokens(_) => "tokens",
        }
    }

    /// The size of a record in this unit.
    #[must_use]
    pub const fn size(self, candidate: &Candidate) -> u64 {
        match self {
            Self::Records(_) => 1,
            Self::Bytes(_) => candidate.bytes,
            Self::Tokens(_) => candidate.bytes.saturating_add(1),
        }
    }
}

/// An invalid capacity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a capacity; write one as `100000 records`, `64MiB` or `50000000 tokens`")]
pub struct CapacityError(String);

impl FromStr for Capacity {
    type Err = CapacityError;

    fn from_str(text: &str) -> Result<Self, CapacityError> {
        let bad = || CapacityError(text.to_owned());
        let counted = |unit: &str| text.trim().strip_suffix(unit).map(str::trim_end);
        let number = |digits: &str| digits.parse::<u64>().map_err(|_| bad());
        if let Some(digits) = counted("records") {
            return number(digits).map(Self::Records);
        }
        if let Some(digits) = counted("tokens") {
            return number(digits).map(Self::Tokens);
        }
        // A bare number could mean any of the three.
        let has_unit = text.trim().ends_with(|c: char| c.is_ascii_alphabetic());
        text.parse().ok().filter(|_| has_unit).map(Self::Bytes).ok_or_else(bad)
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records(limit) => write!(f, "{limit} records"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Tokens(limit) => write!(f, "{limit} tokens"),
        }
    }
}

impl Serialize for Capacity {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Capacity {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_reads_back_what_it_prints() {
        for text in ["100 records", "64MiB", "0B", "7 tokens"] {
            assert_eq!(text.parse::<Capacity>().unwrap().to_string(), text);
        }
        assert_eq!("5records".parse(), Ok(Capacity::Records(5)));
    }

    #[test]
    fn capacity_refuses_a_number_without_a_unit() {
        for text in ["", "100", "-1 records", "1.5 tokens", "records", "64M", "100 rows"] {
            assert!(text.parse::<Capacity>().is_err(), "{text}");
        }
    }
}
