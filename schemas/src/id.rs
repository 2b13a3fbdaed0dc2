//! Names and numbers that must not be mixed up: a record's id, its place in the store, a step.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use perennial_program::error::{Kind, ProgramError};

/// A value that is not an id, a shard name or another of this module's types.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{value}` is not a {what}: {why}")]
pub struct IdError {
    /// What it should have been.
    pub what: &'static str,
    /// What it was.
    pub value: String,
    /// Why it is refused.
    pub why: &'static str,
}

impl ProgramError for IdError {
    fn kind(&self) -> Kind {
        Kind::Input
    }
}

/// The id of a text: the xxh3-128 of its normal form (see [`crate::text`]), big-endian.
///
/// An id names a *text*; where and how often it was read is said by ([`Shard`], [`Seq`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId([u8; 16]);

impl RecordId {
    /// The id with this hash.
    #[must_use]
    pub const fn from_hash(hash: u128) -> Self {
        Self(hash.to_be_bytes())
    }

    /// The id in these bytes, as the store's `id` column holds it; `None` unless there are 16.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Its hash as a number.
    #[must_use]
    pub const fn as_hash(&self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.as_hash())
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RecordId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(hash) if hex => Ok(Self::from_hash(hash)),
            _ => Err(IdError {
                what: "record id",
                value: text.into(),
                why: "it must be 32 hexadecimal digits",
            }),
        }
    }
}

impl Serialize for RecordId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RecordId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The name of one ingest daemon's part of the stream. Cheap to clone.
///
/// A name is 1 to 64 of `a-z 0-9 _ -`, so that it can stand in paths, transaction ids and URLs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Shard(Arc<str>);

impl Shard {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `text` can be a shard's, a source's, a buffer's or a job's name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    !text.is_empty() && text.len() <= 64 && text.bytes().all(legal)
}

/// Refuses what [`is_name`] refuses, saying what it should have been.
///
/// # Errors
/// An [`IdError`] with the rule.
pub fn check_name(what: &'static str, text: &str) -> Result<(), IdError> {
    let why = "a name is 1 to 64 of the characters `a-z`, `0-9`, `_` and `-`";
    if is_name(text) { Ok(()) } else { Err(IdError { what, value: text.into(), why }) }
}

impl FromStr for Shard {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        check_name("shard", text)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Shard {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this; the last has itself.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// As a column holds it; the largest i64 stands for what does not fit.
            #[must_use]
            pub fn to_i64(self) -> i64 {
                i64::try_from(self.0).unwrap_or(i64::MAX)
            }

            /// From a column; a negative number is 0.
            #[must_use]
            pub fn from_i64(value: i64) -> Self {
                Self(u64::try_from(value).unwrap_or(0))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// The number of a reading in its shard: dense, from 0, given when a thing is read.
    Seq
);
number!(
    /// The place of a reading in the order of the store: dense from 0 over all shards, and the same for ever.
    Offset
);
number!(
    /// A version of one table of the store.
    Version
);
number!(
    /// An optimiser step of a training job, from 0.
    Step
);
number!(
    /// The number of a change of one buffer: dense, from 1; 0 is the empty buffer.
    Revision
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn record_id_survives_text_and_bytes(hash: u128) {
            let id = RecordId::from_hash(hash);
            prop_assert_eq!(id.to_string().parse::<RecordId>(), Ok(id));
            prop_assert_eq!(RecordId::from_bytes(id.as_bytes()), Some(id));
            prop_assert_eq!(id.as_hash(), hash);
        }

        #[test]
        fn record_id_orders_as_its_hash(a: u128, b: u128) {
            prop_assert_eq!(RecordId::from_hash(a).cmp(&RecordId::from_hash(b)), a.cmp(&b));
        }
    }

    #[test]
    fn record_id_refuses_other_texts() {
        for text in
            ["", "12", "+123456789012345678901234567890123", "g".repeat(32).as_str(), "é".repeat(16).as_str()]
        {
            assert!(text.parse::<RecordId>().is_err(), "{text}");
        }
    }

    #[test]
    fn shard_refuses_names_that_cannot_stand_in_a_path() {
        for text in ["", "a/b", "A", "a b", "..", &"a".repeat(65)] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
        assert_eq!("main-2_x".parse::<Shard>().unwrap().as_str(), "main-2_x");
    }
}
