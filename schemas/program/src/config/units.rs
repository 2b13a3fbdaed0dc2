//! Values with their unit in the text: sizes, durations, shares.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};

/// Names by which the key list tells these types from plain strings and numbers.
pub(super) const KINDS: [(&str, &str); 3] = [
    ("$perennial::Bytes", "size, as `64MiB`"),
    ("$perennial::Duration", "duration, as `1h30m`"),
    ("$perennial::Share", "share from 0 to 1"),
];

/// A unit was missing, unknown, or the number before it does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

/// A number of bytes: `"64MiB"`, `"512 kB"`, `"1.5GiB"`, or a plain integer.
///
/// Powers of 1024 end in `iB`, powers of 1000 in `B`; case does not matter. `64M` is refused: it
/// means either.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

const SIZES: [(&str, u64); 13] = [
    ("EiB", 1 << 60),
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("EB", 1_000_000_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
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
        Self(count.saturating_mul(1 << 10))
    }

    /// `count` times 1024² bytes, at most `u64::MAX`.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 20))
    }

    /// `count` times 1024³ bytes, at most `u64::MAX`.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 30))
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
        let (number, unit) = split_unit(text.trim());
        if number.is_empty() {
            return Err(UnitError(format!("`{text}` is no size; write one as `64MiB` or `512kB`")));
        }
        if unit.is_empty() {
            let plain =
                number.parse().map_err(|_| UnitError(format!("`{text}` is no whole number of bytes")));
            return plain.map(Self);
        }
        let Some((_, size)) = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
            let letter =
                unit.chars().next().filter(|c| unit.len() == 1 && "kmgtpe".contains(c.to_ascii_lowercase()));
            let mend = match letter.map(|c| c.to_ascii_uppercase()) {
                Some(c) => {
                    format!("write `{number}{c}iB` (powers of 1024) or `{number}{c}B` (powers of 1000)")
                }
                None => "the units are `B`, `kB`, `MB`, `GB`, `TB` and `KiB`, `MiB`, `GiB`, `TiB`".to_owned(),
            };
            return Err(UnitError(format!("`{text}` has no known unit; {mend}")));
        };
        scaled(number, u128::from(*size))
            .and_then(|count| u64::try_from(count).ok())
            .map(Self)
            .ok_or_else(|| UnitError(format!("`{text}` is no whole number of bytes below 16EiB")))
    }
}

/// A length of time: `"10s"`, `"250ms"`, `"5m"`, `"1h30m"`, `"1.5s"`.
///
/// Units are `d`, `h`, `m`, `s`, `ms`, `us` and `ns`, each at most once, longest first; resolution
/// one nanosecond. A number without a unit is refused, but for 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

const TIMES: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

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
        let mut rest = self.0.as_nanos();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in TIMES {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

impl FromStr for Duration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = |why: &str| UnitError(format!("`{text}` {why}"));
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self::default());
        }
        let mut nanos = 0_u128;
        let mut after = None;
        while !rest.is_empty() {
            let (number, tail) = split_unit(rest);
            let end = tail.find(|c: char| c.is_ascii_digit() || c == ' ').unwrap_or(tail.len());
            let (unit, next) = tail.split_at(end);
            rest = next.trim_start();
            if number.is_empty() {
                return Err(bad("is no duration; write one as `10s`, `250ms` or `1h30m`"));
            }
            if unit.is_empty() {
                return Err(bad("has a number without a unit; write `s`, `ms`, `m` or `h` after it"));
            }
            let rank = TIMES.iter().position(|(name, _)| *name == unit);
            let Some((rank, (_, size))) = rank.and_then(|rank| Some((rank, TIMES.get(rank)?))) else {
                return Err(bad("has no known unit; the units are `d`, `h`, `m`, `s`, `ms`, `us` and `ns`"));
            };
            if after.is_some_and(|before| rank <= before) {
                return Err(bad("names its units twice or out of order; write the longest first"));
            }
            after = Some(rank);
            let part = scaled(number, *size).ok_or_else(|| bad("is no whole number of nanoseconds"))?;
            nanos = nanos.checked_add(part).ok_or_else(|| bad("is too long"))?;
        }
        if after.is_none() {
            return Err(bad("is no duration; write one as `10s`, `250ms` or `1h30m`"));
        }
        let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| bad("is too long"))?;
        let below = u32::try_from(nanos % 1_000_000_000).unwrap_or(0);
        Ok(Self(std::time::Duration::new(seconds, below)))
    }
}

/// The leading number of `text` and what follows it, blanks between them dropped.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    (number, rest.trim_start())
}

/// `number` (digits, at most one dot) times `scale`, when that is a whole number.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.contains('.') && (whole.is_empty() || fraction.is_empty() || fraction.len() > 18) {
        return None;
    }
    let whole = whole.parse::<u128>().ok()?.checked_mul(scale)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    let digits = u32::try_from(fraction.len()).ok()?;
    let below = fraction.parse::<u128>().ok()?.checked_mul(scale)?;
    let unit = 10_u128.checked_pow(digits)?;
    below.is_multiple_of(unit).then(|| whole.checked_add(below / unit))?
}

/// A part of a whole, from 0 to 1, both included; never NaN.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
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
        Err(UnitError(format!("`{value:?}` is no share; write a number from 0 to 1")))
    }

    /// The share as a number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(self.0)
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size, as `64MiB` or `512kB`")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Bytes, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Bytes, E> {
        Ok(Bytes(count))
    }

    fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Bytes, E> {
        u64::try_from(count).map(Bytes).map_err(|_| E::invalid_value(Unexpected::Signed(count), &self))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
        text.parse().map_err(E::custom)
    }
}

struct DurationVisitor;

impl<'de> Visitor<'de> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with its unit, as `10s` or `1h30m`")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Duration, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Duration, E> {
        match count {
            0 => Ok(Duration::default()),
            _ => Err(E::invalid_type(Unexpected::Unsigned(count), &self)),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Duration, E> {
        match count {
            0 => Ok(Duration::default()),
            _ => Err(E::invalid_type(Unexpected::Signed(count), &self)),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
        text.parse().map_err(E::custom)
    }
}

struct ShareVisitor;

impl<'de> Visitor<'de> for ShareVisitor {
    type Value = Share;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number from 0 to 1")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Share, D::Error> {
        from.deserialize_f64(self)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Share, E> {
        Share::new(value).map_err(|_| E::invalid_value(Unexpected::Float(value), &self))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Share, E> {
        Share::new(value as f64).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Share, E> {
        Share::new(value as f64).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_newtype_struct(KINDS[0].0, BytesVisitor)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_newtype_struct(KINDS[1].0, DurationVisitor)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_newtype_struct(KINDS[2].0, ShareVisitor)
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
        for text in [
            "",
            "B",
            "-1",
            "1.2.3MB",
            ".5MB",
            "1.MB",
            "0.3B",
            "1.5",
            "16EiB",
            "18446744073709551616",
            "1 M B",
            "1e3",
            "1Mbit",
        ] {
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
        assert_eq!(shown, ["0s", "999ms", "1s", "1m1s", "1d", "1h30m250ms"]);
    }

    #[test]
    fn durations_are_refused_without_a_unit_or_in_disorder() {
        for text in
            ["", "10", "s", "10x", "1m1h", "1s1s", "-1s", "0.5ns", "1h30", "99999999999999999999d", "1e3s"]
        {
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
