//! Numbers as a reader sees them: true minus signs, thousands separated, units after a no-break space.

/// Stands where there is no figure.
pub const UNMEASURED: &str = "not measured";

/// Stands where there cannot be one.
pub const INAPPLICABLE: &str = "does not apply";

/// With `decimals` places and a true minus sign; never minus zero.
#[must_use]
pub fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return UNMEASURED.into();
    }
    let digits = format!("{:.decimals$}", value.abs());
    let zero = digits.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    if value < 0.0 && !zero { format!("\u{2212}{digits}") } else { digits }
}

/// With its sign, also where it is positive.
#[must_use]
pub fn signed(value: f64, decimals: usize) -> String {
    let text = fixed(value, decimals);
    let zero = text.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    if value > 0.0 && !zero && value.is_finite() { format!("+{text}") } else { text }
}

/// A share as per cent, with a decimal below ten per cent.
#[must_use]
pub fn percent(share: f64) -> String {
    if !share.is_finite() {
        return UNMEASURED.into();
    }
    let decimals = usize::from(share != 0.0 && share.abs() < 0.0995);
    format!("{}\u{a0}%", fixed(100.0 * share, decimals))
}

/// A share as whole per cent without the sign, for the ends of an interval.
#[must_use]
pub fn bare_percent(share: f64) -> String {
    fixed(100.0 * share, 0)
}

/// A count with thousands apart.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A large number in three figures or so: `1.05 M`.
#[must_use]
pub fn large(number: f64) -> String {
    for (unit, size) in [("G", 1e9), ("M", 1e6), ("k", 1e3)] {
        if number >= size {
            let value = number / size;
            return format!(
                "{}\u{a0}{unit}",
                fixed(value, if value < 9.995 { 2 } else { usize::from(value < 99.95) })
            );
        }
    }
    fixed(number, usize::from(number.fract() != 0.0 && number < 10.0))
}

/// Bytes of text: `928.8 kB`.
#[must_use]
pub fn bytes(number: u64) -> String {
    let number = number as f64;
    let unit = if number < 1e3 { "\u{a0}B" } else { "B" };
    format!("{}{unit}", large(number))
}

/// Seconds, minutes or hours.
#[must_use]
pub fn duration(seconds: f64) -> String {
    match seconds {
        _ if !seconds.is_finite() => UNMEASURED.into(),
        _ if seconds < 120.0 => format!("{}\u{a0}s", fixed(seconds, usize::from(seconds < 10.0))),
        _ if seconds < 7200.0 => format!("{}\u{a0}min", fixed(seconds / 60.0, 1)),
        _ => format!("{}\u{a0}h", fixed(seconds / 3600.0, 1)),
    }
}

/// At most `length` characters, the last an ellipsis where more were there.
#[must_use]
pub fn short(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let kept: String = text.chars().take(length.saturating_sub(1)).collect();
    format!("{}\u{2026}", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_readers() {
        assert_eq!(fixed(-1.25, 1), "\u{2212}1.2");
        assert_eq!(fixed(-0.001, 2), "0.00");
        assert_eq!(fixed(f64::NAN, 2), "not measured");
        assert_eq!(signed(0.5, 2), "+0.50");
        assert_eq!(signed(0.001, 2), "0.00");
        assert_eq!(signed(-0.5, 2), "\u{2212}0.50");
        assert_eq!(percent(0.755), "76\u{a0}%");
        assert_eq!(percent(0.004), "0.4\u{a0}%");
        assert_eq!(percent(0.0), "0\u{a0}%");
        assert_eq!([0.009, 0.0996, 0.5].map(percent), ["0.9\u{a0}%", "10\u{a0}%", "50\u{a0}%"]);
        assert_eq!([0, 12, 123, 1013, 1_234_567].map(count), ["0", "12", "123", "1,013", "1,234,567"]);
        assert_eq!(
            [999.0, 668_928.0, 1.05e6, 2.5e9].map(large),
            ["999", "669\u{a0}k", "1.05\u{a0}M", "2.50\u{a0}G"]
        );
        assert_eq!([12, 928_800].map(bytes), ["12\u{a0}B", "929\u{a0}kB"]);
        assert_eq!(
            [5.0, 75.0, 300.0, 9000.0].map(duration),
            ["5.0\u{a0}s", "75\u{a0}s", "5.0\u{a0}min", "2.5\u{a0}h"]
        );
        assert_eq!(
            [short("replay 25 %", 11), short("replay 25 % averaged", 11)],
            ["replay 25 %", "replay 25\u{2026}"]
        );
    }
}
