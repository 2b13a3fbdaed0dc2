//! Values with their unit in the text: sizes, durations, shares.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};

use super::schema::KIND;

/// A unit is missing or unknown, or the number does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

/// What may be written for a value with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

/// A value that is written and read as a text, or as a whole number.
macro_rules! unit {
    ($name:ident, $kind:literal) => {
        impl TryFrom<Written> for $name {
            type Error = UnitError;

            fn try_from(written: Written) -> Result<Self, UnitError> {
                match written {
                    Written::Number(number) => number.to_string().parse(),
                    Written::Text(text) => text.parse(),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": ["string", "integer"], (KIND): $kind })
            }
        }
    };
}

/// A number of bytes: `"64MiB"`, `"512 kB"`, `"1.5GiB"`, or a plain integer.
///
/// Powers of 1024 end in `iB`, powers of 1000 in `B`; case does not matter. A fraction of a byte is cut
/// off. `64M` is refused: it means either.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "Written")]
pub struct Bytes(u64);

unit!(Bytes, "size, as `64MiB`");

/// Names of units and their sizes in bytes, the largest first.
const SIZES: [(&str, u64); 12] = [
    ("EiB", bytesize::EIB),
    ("EB", bytesize::EB),
    ("PiB", bytesize::PIB),
    ("PB", bytesize::PB),
    ("TiB", bytesize::TIB),
    ("TB", bytesize::TB),
    ("GiB", bytesize::GIB),
    ("GB", bytesize::GB),
    ("MiB", bytesize::MIB),
    ("MB", bytesize::MB),
    ("KiB", bytesize::KIB),
    ("kB", bytesize::KB),
];

impl Bytes {
    /// `count` bytes.
    #[must_use]
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// `count` times 1024 bytes, at most `u64::MAX`.
    #[must_use]
    pub const fn kib(count: u64) -> Self {
        Self(count.saturating_mul(bytesize::KIB))
    }

    /// `count` times 1024² bytes, at most `u64::MAX`.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count.saturating_mul(bytesize::MIB))
    }

    /// `count` times 1024³ bytes, at most `u64::MAX`.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count.saturating_mul(bytesize::GIB))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory, at most `usize::MAX`.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Bytes {
    /// In the largest unit that is exact; bytesize rounds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZES.iter().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size));
        match exact {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').trim();
        let number = text.trim_end().trim_end_matches(unit).trim_end();
        if unit.len() == 1 && "kmgtpe".contains(&unit.to_lowercase()) {
            let c = unit.to_uppercase();
            return Err(UnitError(format!(
                "`{text}` has no known unit; write `{number}{c}iB` (powers of 1024) or `{number}{c}B` (powers of 1000)"
            )));
        }
        let size = text.trim().parse::<ByteSize>();
        size.map(|size| Self(size.as_u64())).map_err(|_| {
            UnitError(format!("`{text}` is not a size; write one as `64MiB`, `512kB` or a number of bytes"))
        })
    }
}

/// A length of time: `"10s"`, `"250ms"`, `"5m"`, `"1h30m"`, `"7days"`, as the crate humantime reads it.
///
/// Resolution one nanosecond. A number without a unit is refused, except 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "Written")]
pub struct Duration(std::time::Duration);

unit!(Duration, "duration, as `1h30m`");

impl Duration {
    /// `count` seconds.
    #[must_use]
    pub const fn secs(count: u64) -> Self {
        Self(std::time::Duration::from_secs(count))
    }

    /// `count` milliseconds.
    #[must_use]
    pub const fn millis(count: u64) -> Self {
        Self(std::time::Duration::from_millis(count))
    }

    /// The same length as the standard library's type.
    #[must_use]
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl From<std::time::Duration> for Duration {
    fn from(duration: std::time::Duration) -> Self {
        Self(duration)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl FromStr for Duration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|error| UnitError(format!("`{text}` is not a duration, as `10s` or `1h30m`: {error}")))
    }
}

/// A part of a whole, from 0 to 1, both included; never NaN.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64")]
pub struct Share(f64);

impl Share {
    /// All of it.
    pub const ONE: Self = Self(1.0);

    /// `value` as a share.
    ///
    /// # Errors
    /// When `value` is NaN, below 0 or above 1.
    pub fn new(value: f64) -> Result<Self, UnitError> {
        if (0.0..=1.0).contains(&value) {
            // `-0.0` passes the range and would print as another value than `0.0`.
            return Ok(Self(value.abs()));
        }
        Err(UnitError(format!("`{value:?}` is not a share; write a number from 0 to 1")))
    }

    /// The share as a number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = UnitError;

    fn try_from(value: f64) -> Result<Self, UnitError> {
        Self::new(value)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", (KIND): "share from 0 to 1" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IntoDeserializer as _;
    use serde::de::value::{Error, StrDeserializer};

    use super::*;

    proptest! {
        #[test]
        fn bytes_print_and_read_back(count in any::<u64>(), shift in 0_u32..64, tens in 0_u32..19) {
            for count in [count, count >> shift, (count >> shift) << shift, (count % 999) * 10_u64.pow(tens.min(16))] {
                let text = Bytes::new(count).to_string();
                prop_assert_eq!(text.parse(), Ok(Bytes::new(count)), "{}", text);
                let read: StrDeserializer<'_, Error> = text.as_str().into_deserializer();
                prop_assert_eq!(Bytes::deserialize(read), Ok(Bytes::new(count)));
            }
        }

        #[test]
        fn durations_print_and_read_back(secs in any::<u64>(), shift in 0_u32..64, nanos in 0_u32..1_000_000_000) {
            for (secs, nanos) in [(secs >> shift, nanos), (secs, 0), (0, nanos), (0, nanos / 1_000_000 * 1_000_000)] {
                let duration = Duration::from(std::time::Duration::new(secs, nanos));
                let text = duration.to_string();
                prop_assert_eq!(text.parse(), Ok(duration), "{}", text);
            }
        }

        #[test]
        fn no_text_is_a_panic(text in "[0-9.]{0,40} ?[a-zA-Zµ]{0,3}[0-9.a-z]{0,4}") {
            let _ = (text.parse::<Bytes>(), text.parse::<Duration>());
        }
    }

    #[test]
    fn bytes_have_the_value_of_their_unit() {
        for (text, count) in [
            ("0", 0),
            ("123", 123),
            ("7B", 7),
            ("512 kB", 512_000),
            ("512KiB", 524_288),
            ("64MiB", 67_108_864),
            ("64 mb", 64_000_000),
            ("1.5GiB", 1_610_612_736),
            ("0.5kB", 500),
            ("15EiB", 17_293_822_569_102_704_640),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Bytes::new(count)), "{text}");
        }
        let shown = [0, 1000, 1024, 1536, 1 << 20, 3 << 30, 5_000_000, 1_000_001]
            .map(|count| Bytes::new(count).to_string());
        assert_eq!(shown, ["0B", "1kB", "1KiB", "1536B", "1MiB", "3GiB", "5MB", "1000001B"]);
    }

    #[test]
    fn bytes_are_refused_when_they_are_not_one_number() {
        for text in ["", "B", "-1", "1.2.3MB", "1 M B", "1e3", "1Mbit", "64 MiB of"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        let error = "64M".parse::<Bytes>().unwrap_err().to_string();
        assert_eq!(
            error,
            "`64M` has no known unit; write `64MiB` (powers of 1024) or `64MB` (powers of 1000)"
        );
    }

    #[test]
    fn durations_have_the_value_of_their_units() {
        let nanos = |text: &str| text.parse::<Duration>().map(|duration| duration.get().as_nanos());
        for (text, expected) in [
            ("0", 0),
            ("0s", 0),
            ("10s", 10_000_000_000),
            ("250ms", 250_000_000),
            ("5m", 300_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1h 30m", 5_400_000_000_000),
            ("1.5 s", 1_500_000_000),
            ("2d1ns", 172_800_000_000_001),
            ("90us", 90_000),
        ] {
            assert_eq!(nanos(text), Ok(expected), "{text}");
        }
        let shown =
            [0, 999, 1000, 61_000, 86_400_000, 5_400_250].map(|millis| Duration::millis(millis).to_string());
        assert_eq!(shown, ["0s", "999ms", "1s", "1m 1s", "1day", "1h 30m 250ms"]);
    }

    #[test]
    fn durations_are_refused_without_a_unit() {
        for text in ["", "10", "s", "10x", "-1s", "0.5ns", "1h30", "99999999999999999999d", "1e3s"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn share_is_refused_outside_of_its_range() {
        for value in [f64::NAN, -0.1, 1.000_001, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(Share::new(value).is_err(), "{value}");
        }
        assert_eq!(Share::new(-0.0).unwrap().to_string(), "0.0");
        assert_eq!(Share::new(1.0), Ok(Share::ONE));
    }
}
