//! The normal form of a text, which its id hashes, and the looser `folded` form.
//!
//! Text is *stored* exactly as it was decoded; these forms exist only to be hashed. The version of
//! the rules is a property of the store ([`NORMAL_FORM`]): an id made by other rules is another id.

use std::borrow::Cow;

use caseless::Caseless as _;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use crate::id::RecordId;

/// The version of the normal form that this program makes.
pub const NORMAL_FORM: u32 = 1;

/// What identifies a text: compared whole before two texts are called the same.
///
/// xxh3 is no proof against a source that wants to collide, so the length and a second hash, keyed
/// by a seed that only the store knows, must agree too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// xxh3-128 of the normal form.
    pub id: RecordId,
    /// Bytes of the normal form.
    pub length: u64,
    /// xxh3-64 of the normal form under the store's own seed.
    pub verify_hash: u64,
}

impl Identity {
    /// The identity of `text` in the store whose second hash is keyed by `store_seed`.
    #[must_use]
    pub fn of(text: &str, store_seed: u64) -> Self {
        let normal = normal_form(text);
        let bytes = normal.as_bytes();
        Self {
            id: RecordId::from_hash(xxh3_128(bytes)),
            length: bytes.len() as u64,
            verify_hash: xxh3_64_with_seed(bytes, store_seed),
        }
    }
}

/// The normal form, version 1: Unicode NFC, line ends (CR LF, CR) to LF, white space cut at the end
/// of every line and of the text. Borrowed when the text already is in normal form.
///
/// White space is Unicode's `White_Space` property. Applying it twice changes nothing.
#[must_use]
pub fn normal_form(text: &str) -> Cow<'_, str> {
    let composed = nfc(text);
    if is_trimmed(&composed) {
        return composed;
    }
    let mut out = String::with_capacity(composed.len());
    let lines = composed.split('\n').flat_map(|line| {
        // "\r\n" is one line end: the CR before an LF must not open a line of its own.
        line.strip_suffix('\r').unwrap_or(line).split('\r')
    });
    for (index, line) in lines.enumerate() {
        if index > 0 {
            out.push('\n');
        }
        out.push_str(line.trim_end());
    }
    out.truncate(out.trim_end().len());
    Cow::Owned(out)
}

/// The folded form: NFKC, Unicode case folding, NFKC again, runs of white space to one space, none
/// at either end. Two texts that fold alike differ in nothing a reader would call content.
#[must_use]
pub fn folded_form(text: &str) -> String {
    let mut out = Collapsed { text: String::with_capacity(text.len()), blank: false };
    let mut folded = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let ascii = rest.bytes().position(|byte| !byte.is_ascii()).unwrap_or(rest.len());
        // The last of a run of ASCII may be composed with a mark behind it, and nothing before it can.
        let (plain, other) = rest.split_at(if ascii == rest.len() { ascii } else { ascii.saturating_sub(1) });
        out.extend(plain.bytes().map(|byte| char::from(byte.to_ascii_lowercase())));
        let end = other.bytes().skip(1).position(|byte| byte.is_ascii()).map_or(other.len(), |at| at + 1);
        let (other, after) = other.split_at(end);
        fold(other, &mut folded, &mut out);
        rest = after;
    }
    out.text
}

/// Adds what `text` folds to. Most text is in NFKC and stays in it: then two passes are saved.
fn fold(text: &str, folded: &mut String, out: &mut Collapsed) {
    folded.clear();
    if is_nfkc_quick(text.chars()) == IsNormalized::Yes {
        folded.extend(text.chars().default_case_fold());
    } else {
        folded.extend(text.nfkc().default_case_fold());
    }
    if is_nfkc_quick(folded.chars()) == IsNormalized::Yes {
        out.extend(folded.chars());
    } else {
        out.extend(folded.nfkc());
    }
}

/// The xxh3-128 of the folded form.
#[must_use]
pub fn folded_hash(text: &str) -> u128 {
    xxh3_128(folded_form(text).as_bytes())
}

fn nfc(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.nfc().collect())
    }
}

/// Whether the rules on lines and white space would change nothing.
fn is_trimmed(text: &str) -> bool {
    let ends_blank = |line: &str| line.chars().next_back().is_some_and(char::is_whitespace);
    !text.contains('\r') && !text.ends_with('\n') && !text.split('\n').any(ends_blank)
}

/// A text whose runs of white space are one space, with none at either end.
struct Collapsed {
    text: String,
    /// Whether white space came after its last character.
    blank: bool,
}

impl Collapsed {
    fn extend(&mut self, chars: impl Iterator<Item = char>) {
        for next in chars {
            if next.is_whitespace() {
                self.blank = true;
                continue;
            }
            if self.blank && !self.text.is_empty() {
                self.text.push(' ');
            }
            self.blank = false;
            self.text.push(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_form_composes_unifies_line_ends_and_cuts_trailing_white_space() {
        let cases = [
            ("", ""),
            ("a", "a"),
            ("e\u{301}", "é"),
            ("a\r\nb\rc\n", "a\nb\nc"),
            ("a \t\nb\u{a0}\n\n", "a\nb"),
            ("\r\r\n", ""),
            ("a\r\r\nb", "a\n\nb"),
            ("  a", "  a"),
            ("a\n\nb", "a\n\nb"),
        ];
        for (from, to) in cases {
            assert_eq!(normal_form(from), to, "{from:?}");
        }
    }

    #[test]
    fn folded_form_ignores_case_width_and_spacing() {
        assert_eq!(folded_form(" The  \n STRASSE "), folded_form("the straße"));
        assert_eq!(folded_form("Ｆｕｌｌ　width"), "full width");
        assert_eq!(folded_form("ﬁne"), "fine");
        assert_ne!(folded_form("ab"), folded_form("a b"));
    }

    #[test]
    fn identity_is_the_same_in_every_build() {
        let identity = Identity::of("Perennial\r\n", 42);
        assert_eq!(identity.length, 9);
        assert_eq!(identity.id.to_string(), "fb103a313db8cd8ba9c1b0ad1a6996f9");
        assert_eq!(identity.verify_hash, 3209677476355227344);
    }

    proptest! {
        #[test]
        fn normal_form_is_idempotent(text in any_text()) {
            let once = normal_form(&text).into_owned();
            prop_assert_eq!(normal_form(&once), once.as_str());
        }

        #[test]
        fn folded_form_is_blind_to_the_normal_form(text in any_text()) {
            prop_assert_eq!(folded_form(&normal_form(&text)), folded_form(&text));
        }

        #[test]
        fn folded_form_is_that_of_the_whole_text_folded_in_one_go(text in any_text()) {
            let mut slow = Collapsed { text: String::new(), blank: false };
            slow.extend(text.nfkc().default_case_fold().nfkc());
            prop_assert_eq!(folded_form(&text), slow.text);
        }
    }

    #[test]
    fn every_character_folds_between_others_as_it_does_in_one_go() {
        for around in ["a", "e\u{301}", "ㄱ", "İ"] {
            // Beyond them no character folds or decomposes.
            for next in (0..0x2_0000).chain(0x2_F800..0x2_FA20).filter_map(char::from_u32) {
                let text = format!("{around}{next}{around} {next}x");
                let mut slow = Collapsed { text: String::new(), blank: false };
                slow.extend(text.nfkc().default_case_fold().nfkc());
                assert_eq!(folded_form(&text), slow.text, "{:x} {around}", u32::from(next));
            }
        }
    }

    fn any_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "\\PC{0,6}",
            "[ \t\r\n]{0,4}",
            "[a-zé\u{301}\u{300}]{0,4}",
            "[Ａ-Ｚİßﬁ\u{345}\u{1100}-\u{1175}]{0,4}"
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|parts| parts.concat())
    }
}
