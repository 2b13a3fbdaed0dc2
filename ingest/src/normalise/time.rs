//! Timestamps, as sources write them, in microseconds since 1970 UTC.
//!
//! | written as | taken for |
//! |---|---|
//! | `"2016-09-05T05:43:06.5+02:00"` | RFC 3339; a blank may stand for the `T` |
//! | `"2016-09-05T05:43:06.5"` | the same in UTC |
//! | `"2016-09-05"` | midnight UTC |
//! | a number below 10^11 either side of 0 | seconds since 1970 (to the year 5138), fractions too |
//! | any other number | milliseconds since 1970 |
//!
//! Times outside the years 0001 to 9999 are refused. What is finer than a microsecond is cut off in a
//! text and rounded in a number.

use chrono::DateTime;

/// 0001-01-01T00:00:00Z.
const FIRST_US: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z.
const LAST_US: i64 = 253_402_300_799_999_999;

/// From here on a number is one of milliseconds.
const MILLISECONDS_FROM: f64 = 1e11;

/// The time that a text names; `None` where it names none, or one outside the years 0001 to 9999.
#[must_use]
pub fn of_text(text: &str) -> Option<i64> {
    // What a shorter form leaves out is what it means.
    let whole = ["", "Z", "T00:00:00Z"];
    let time = whole.iter().find_map(|rest| DateTime::parse_from_rfc3339(&format!("{text}{rest}")).ok())?;
    of_micros(time.timestamp_micros())
}

/// The time that a number names; `None` outside the years 0001 to 9999.
#[must_use]
pub fn of_number(number: f64) -> Option<i64> {
    let scale = if number.abs() < MILLISECONDS_FROM { 1e6 } else { 1e3 };
    let time = (number * scale).round();
    // The bounds are far inside of i64; NaN and infinities are outside of them.
    (time >= FIRST_US as f64 && time <= LAST_US as f64).then_some(time as i64).and_then(of_micros)
}

/// A time in microseconds since 1970; `None` outside the years 0001 to 9999.
#[must_use]
pub fn of_micros(time_us: i64) -> Option<i64> {
    (FIRST_US..=LAST_US).contains(&time_us).then_some(time_us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_name_the_times_of_the_table() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T01:00:00.25+01:00", Some(250_000)),
            ("1970-01-01 00:00:01Z", Some(1_000_000)),
            ("1970-01-01t00:00:00z", Some(0)),
            ("1970-01-01T00:00:01.0000019", Some(1_000_001)),
            ("1970-01-01 00:00:01", Some(1_000_000)),
            ("1970-01-02", Some(86_400_000_000)),
            ("1796-01-01T00:00:00Z", Some(-5_490_892_800_000_000)),
            ("0001-01-01T00:00:00Z", Some(FIRST_US)),
            ("9999-12-31T23:59:59.999999Z", Some(LAST_US)),
            ("9999-12-31T23:59:59.999999-01:00", None),
            ("0001-01-01T00:00:00+00:01", None),
            ("0000-00-00T00:00:00Z", None),
            ("0000-01-01T00:00:00Z", None),
            ("+292277026596-12-04T15:30:07Z", None),
            ("292277026596-12-04T15:30:07Z", None),
            ("2016-13-05T05:43:06Z", None),
            ("yesterday", None),
            ("", None),
            ("1473054186", None),
            (" 1970-01-01", None),
            ("1970-1-2", None),
            ("1970-01-01T", None),
            ("1970-01-01T00:00", None),
        ];
        for (text, time) in cases {
            assert_eq!(of_text(text), time, "{text}");
        }
    }

    #[test]
    fn numbers_are_seconds_or_milliseconds_by_their_size() {
        let cases = [
            (0.0, Some(0)),
            (1.5, Some(1_500_000)),
            (-1.0, Some(-1_000_000)),
            (1_473_054_186.0, Some(1_473_054_186_000_000)),
            (1_473_054_186_123.0, Some(1_473_054_186_123_000)),
            (1_473_054_186.123_456, Some(1_473_054_186_123_456)),
            (99_999_999_999.0, Some(99_999_999_999_000_000)),
            (100_000_000_000.0, Some(100_000_000_000_000)),
            (-62_135_596_800.0, Some(FIRST_US)),
            (-62_135_596_801.0, None),
            (253_402_300_800_000.0, None),
            (1e300, None),
            (f64::NAN, None),
            (f64::NEG_INFINITY, None),
        ];
        for (number, time) in cases {
            assert_eq!(of_number(number), time, "{number}");
        }
    }

    proptest! {
        #[test]
        fn text_of_any_time_in_range_names_it(time in FIRST_US..=LAST_US) {
            let text = DateTime::from_timestamp_micros(time).unwrap().to_rfc3339();
            prop_assert_eq!(of_text(&text), Some(time));
        }

        #[test]
        fn numbers_never_leave_the_range(number: f64) {
            if let Some(time) = of_number(number) {
                prop_assert!((FIRST_US..=LAST_US).contains(&time));
            }
        }
    }
}
