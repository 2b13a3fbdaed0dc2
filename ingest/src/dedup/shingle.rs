//! Shingles: what two texts are compared by.
//!
//! A text is cut into *words*, and a shingle is five successive words, as a 64-bit hash. Two texts are
//! as alike as their sets of shingles.
//!
//! # Words
//! Words are found in the folded form ([`folded_form`]): case, width, ligatures and spacing are gone.
//! - A word is a run of letters and digits with the marks that follow them.
//! - A character of a script that is written without spaces (Han, Hiragana, Katakana, Thai, Lao, Khmer,
//!   Myanmar) is a word by itself, with its marks: so its shingles are 5-grams of characters. This is
//!   decided character by character, hence for each run of such a script on its own: in a mixed text a
//!   Latin word stands among the characters as one word.
//! - Soft hyphens and joiners, which are invisible, neither end a word nor count in it.
//! - Everything else separates words and is otherwise without effect: punctuation, symbols, emoji.
//!
//! A text of fewer than five words has one shingle, the hash of its whole folded form: there punctuation
//! counts, so that two short texts are never called alike for the two words they share. Every text has
//! thus at least one shingle.

use std::ops::Range;

use perennial_schemas::text::folded_form;
use unicode_normalization::char::is_combining_mark;
use xxhash_rust::xxh3::xxh3_64;

/// Words in a shingle.
pub const WORDS: usize = 5;

/// Cuts texts into shingles; keeps its buffers from text to text.
#[derive(Debug, Default)]
pub struct Shingler {
    folded: String,
    /// The hashes of the words, 8 little-endian bytes each: a shingle hashes 40 successive bytes.
    words: Vec<u8>,
}

impl Shingler {
    /// One without buffers yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The distinct shingles of `text`, ascending, in place of what `shingles` held: at least one.
    pub fn shingle(&mut self, text: &str, shingles: &mut Vec<u64>) {
        self.words.clear();
        let (folded, hashes) = (&mut self.folded, &mut self.words);
        fold_for_words(text, folded);
        words(folded, |word| hashes.extend_from_slice(&word.hash(folded).to_le_bytes()));
        shingles.clear();
        if self.words.len() < WORDS * size_of::<u64>() {
            shingles.push(whole(text));
            return;
        }
        shingles.extend(hashes_to_shingles(&self.words));
        shingles.sort_unstable();
        shingles.dedup();
    }
}

impl Shingler {
    /// The hashes of the words of the last text, in their order.
    pub fn words(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.words.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

/// The one shingle of a text of fewer than [`WORDS`] words.
pub(super) fn whole(text: &str) -> u64 {
    xxh3_64(folded_form(text).as_bytes())
}

/// The shingles of successive words, not sorted, given their hashes in little-endian bytes.
pub(super) fn hashes_to_shingles(words: &[u8]) -> impl Iterator<Item = u64> + '_ {
    words.windows(WORDS * size_of::<u64>()).step_by(size_of::<u64>()).map(xxh3_64)
}

/// Puts a text with the words of the folded form of `text` into `folded`: what separates words is not
/// what it is there.
///
/// Folding all of a text costs several times what everything else here does. A stretch without white
/// space folds by itself, so only those stretches are folded in which a character is not [`plain`].
pub(super) fn fold_for_words(text: &str, folded: &mut String) {
    folded.clear();
    if text.is_ascii() {
        folded.push_str(text);
        folded.make_ascii_lowercase();
        return;
    }
    let mut chars = text.char_indices();
    // Where the stretch begins, in the text and in the folded text.
    let (mut from, mut to) = (0, 0);
    while let Some((at, c)) = chars.next() {
        if let Some(c) = plain(c) {
            folded.push(c);
        } else if c.is_whitespace() {
            folded.push(' ');
        } else {
            let end = chars.find(|(_, c)| c.is_whitespace()).map_or(text.len(), |(at, _)| at);
            folded.truncate(to);
            folded.push_str(&folded_form(text.get(from..end).unwrap_or_default()));
            folded.push(' ');
            (from, to) = (end, folded.len());
            continue;
        }
        if c.is_whitespace() {
            (from, to) = (at + c.len_utf8(), folded.len());
        }
    }
}

/// What `c` folds to, a space for what separates words, where that does not depend on its neighbours;
/// `None` for all characters that are not common or not so simple.
const fn plain(c: char) -> Option<char> {
    let folded = match c as u32 {
        code @ (0x41..=0x5A | 0xC0..=0xD6 | 0xD8..=0xDE | 0x391..=0x3A1 | 0x3A3..=0x3A9 | 0x410..=0x42F) => {
            code + 32
        }
        code @ 0..=0x7F => code,
        code @ (0xE0..=0xF6 | 0xF8..=0xFF | 0x3B1..=0x3C1 | 0x3C3..=0x3C9 | 0x430..=0x45F) => code,
        code @ 0x400..=0x40F => code + 80,
        // Pairs of a capital and a small letter.
        code @ (0x100..=0x12F | 0x134..=0x137 | 0x14A..=0x177) => code | 1,
        code @ (0x139..=0x13E | 0x141..=0x148 | 0x179..=0x17E) => code + (code & 1),
        // Letters without case: Hebrew, Arabic, Hiragana, Katakana, Han, Hangul.
        code @ (0x5D0..=0x5EA
        | 0x621..=0x63A
        | 0x641..=0x64A
        | 0x3041..=0x3096
        | 0x30A1..=0x30FA
        | 0x30FC) => code,
        code @ (0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xAC00..=0xD7A3) => code,
        // Punctuation and signs, ideographic and full-width ones.
        0xA7
        | 0xA9
        | 0xAB
        | 0xB0
        | 0xB7
        | 0xBB
        | 0xD7
        | 0x2013
        | 0x2014
        | 0x2018..=0x201F
        | 0x2022
        | 0x2026 => 0x20,
        0x20AC | 0x2212 | 0x3001 | 0x3002 | 0x3008..=0x3011 | 0xFF01..=0xFF0F | 0xFF1A..=0xFF20 => 0x20,
        _ => return None,
    };
    char::from_u32(folded)
}

/// A word of a folded text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// Its bytes.
    pub(super) at: Range<usize>,
    /// Whether it has characters that do not count in it.
    hidden: bool,
}

impl Word {
    /// The hash of this word of `folded`.
    pub(super) fn hash(&self, folded: &str) -> u64 {
        let word = folded.get(self.at.clone()).unwrap_or_default();
        if self.hidden {
            let seen: String = word.chars().filter(|c| kind(*c) != Kind::Hidden).collect();
            return xxh3_64(seen.as_bytes());
        }
        xxh3_64(word.as_bytes())
    }
}

/// Calls `found` with the words of a folded text, from first to last.
pub(super) fn words(folded: &str, mut found: impl FnMut(Word)) {
    // The word being read, and whether it is one character that takes nothing but marks.
    let mut open: Option<(Word, bool)> = None;
    let mut unseen = false;
    for (at, c) in folded.char_indices() {
        let end = at + c.len_utf8();
        let kind = kind(c);
        match (&mut open, kind) {
            (Some((word, false)), Kind::Letter) | (Some((word, _)), Kind::Mark) => {
                word.at.end = end;
                word.hidden |= unseen;
                unseen = false;
            }
            (_, Kind::Hidden) => unseen = true,
            (_, Kind::Letter | Kind::Alone) => {
                let next = Word { at: at..end, hidden: false };
                if let Some((word, _)) = open.replace((next, kind == Kind::Alone)) {
                    found(word);
                }
                unseen = false;
            }
            (_, Kind::Mark | Kind::Gap) => {
                if let Some((word, _)) = open.take() {
                    found(word);
                }
                unseen = false;
            }
        }
    }
    if let Some((word, _)) = open {
        found(word);
    }
}

/// What a character of a folded text is to the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A letter or digit: begins a word or continues one.
    Letter,
    /// A word by itself.
    Alone,
    /// Belongs to the character before it; none by itself.
    Mark,
    /// Not there for a reader.
    Hidden,
    /// Separates words.
    Gap,
}

/// What `c` is to the words.
pub(super) fn kind(c: char) -> Kind {
    match u32::from(c) {
        0..=0x7F if c.is_ascii_alphanumeric() => Kind::Letter,
        0..=0x7F => Kind::Gap,
        // Soft hyphen, non-joiner, joiner, word joiner, byte order mark.
        0xAD | 0x200C | 0x200D | 0x2060 | 0xFEFF => Kind::Hidden,
        // Blocks without marks first: looking marks up costs more.
        0x80..=0x2FF | 0x370..=0x482 | 0x48A..=0x58F | 0x3400..=0x9FFF | 0xAC00..=0xD7A3 => letter(c),
        _ if is_combining_mark(c) => Kind::Mark,
        _ => letter(c),
    }
}

fn letter(c: char) -> Kind {
    match c.is_alphanumeric() {
        true if is_unspaced(c) => Kind::Alone,
        true => Kind::Letter,
        false => Kind::Gap,
    }
}

/// Whether `c` is of a script that is written without spaces. Blocks rather than the property
/// `Script`: what else is in them is neither letter nor digit, or folds to something else.
const fn is_unspaced(c: char) -> bool {
    matches!(
        c as u32,
        0x0E00..=0x0EFF         // Thai, Lao
            | 0x1000..=0x109F   // Myanmar
            | 0x1780..=0x17FF   // Khmer
            | 0x2E80..=0x2FDF   // radicals
            | 0x3005..=0x3007 | 0x3021..=0x3029 | 0x3038..=0x303C // iteration mark, zero, Hangzhou numerals
            | 0x3040..=0x30FF   // Hiragana, Katakana
            | 0x31F0..=0x31FF   // small Katakana
            | 0x3400..=0x4DBF | 0x4E00..=0x9FFF // Han
            | 0xA9E0..=0xA9FF | 0xAA60..=0xAA7F // Myanmar
            | 0xF900..=0xFAFF   // Han, compatibility
            | 0x1AFF0..=0x1B16F // Kana
            | 0x20000..=0x3FFFF // Han
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shingles(text: &str) -> Vec<u64> {
        let mut out = Vec::new();
        Shingler::new().shingle(text, &mut out);
        out
    }

    fn cut(text: &str) -> Vec<String> {
        let folded = folded_form(text);
        let mut out = Vec::new();
        words(&folded, |word| out.push(folded[word.at].to_owned()));
        out
    }

    #[test]
    fn words_are_runs_of_letters_and_digits_and_single_characters_of_unspaced_scripts() {
        let cases: [(&str, &[&str]); 14] = [
            ("", &[]),
            ("  --  ", &[]),
            ("The Cat's 2nd_hat.", &["the", "cat", "s", "2nd", "hat"]),
            ("naïve Straße ÉTÉ", &["naïve", "strasse", "été"]),
            ("Москва-Река", &["москва", "река"]),
            ("使用Linux内核。", &["使", "用", "linux", "内", "核"]),
            ("ｶﾞｽ ｆｕｌｌ", &["ガ", "ス", "full"]),
            ("ภาษาไทย", &["ภ", "า", "ษ", "า", "ไ", "ท", "ย"]),
            ("ที่นี่", &["ที่", "นี่"]),
            ("한국어 텍스트", &["한국어", "텍스트"]),
            ("हिन्दी में", &["हिन्दी", "में"]),
            ("10㎏ x²", &["10kg", "x2"]),
            ("\u{301}a \u{301}", &["a"]),
            ("e\u{301}e", &["ée"]),
        ];
        for (text, expected) in cases {
            assert_eq!(cut(text), expected, "{text:?}");
        }
    }

    #[test]
    fn shingles_are_hashes_of_five_successive_words_and_stay_the_same_in_every_build() {
        // Changing any of these makes signatures in stores wrong: change `SIGNATURE_KIND` with it.
        let hash =
            |words: [&str; 5]| xxh3_64(&words.map(|word| xxh3_64(word.as_bytes()).to_le_bytes()).concat());
        let mut expected = [hash(["a", "b", "c", "d", "e"]), hash(["b", "c", "d", "e", "f"])];
        expected.sort_unstable();
        assert_eq!(shingles("A b, c d e F"), expected);
        assert_eq!(shingles("a b c d e"), [7_549_712_281_158_456_360]);
        assert_eq!(shingles("春眠不覺曉"), [13_009_355_899_377_817_757]);
        assert_eq!(shingles("two words"), [xxh3_64(b"two words")]);
    }

    #[test]
    fn plain_characters_fold_as_all_do_and_join_no_other() {
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let Some(plain) = plain(c) else { continue };
            let folded = folded_form(c.encode_utf8(&mut [0; 4]));
            let separates = folded.chars().all(|c| kind(c) == Kind::Gap);
            assert!(folded == plain.to_string() || separates && kind(plain) == Kind::Gap, "{c:?} {folded:?}");
            // `Maybe` is what could become one with the character before it.
            let joins = unicode_normalization::is_nfkc_quick([plain].into_iter());
            assert_eq!(joins, unicode_normalization::IsNormalized::Yes, "{c:?}");
        }
    }

    #[test]
    fn short_text_has_one_shingle_in_which_punctuation_counts() {
        for text in ["", "a", "x", "3 < 4", "3 > 4", "🎉", "one two three four"] {
            assert_eq!(shingles(text).len(), 1, "{text}");
        }
        assert_ne!(shingles("3 < 4"), shingles("3 > 4"));
        assert_eq!(shingles("  Two \n WORDS"), shingles("two words"));
    }

    #[test]
    fn soft_hyphens_and_joiners_change_nothing() {
        let plain = shingles("the cooperation of many small nations می‌خواهم");
        assert_eq!(
            shingles("the co\u{ad}operation of many small na\u{200d}tions\u{ad} می\u{200c}خواهم"),
            plain
        );
        assert_eq!(shingles("the cooperation of many small nations میخواهم"), plain);
    }

    #[test]
    fn shingler_does_not_remember_the_text_before() {
        let mut shingler = Shingler::new();
        let (mut first, mut again) = (Vec::new(), Vec::new());
        shingler.shingle("one two three four five six", &mut first);
        shingler.shingle("été ".repeat(500).as_str(), &mut again);
        assert_eq!(again.len(), 1);
        shingler.shingle("one two three four five six", &mut again);
        assert_eq!(again, first);
    }

    proptest! {
        #[test]
        fn shingles_ascend_and_there_is_at_least_one(text in any_text()) {
            let found = shingles(&text);
            prop_assert!(!found.is_empty());
            prop_assert!(found.is_sorted_by(|a, b| a < b));
        }

        #[test]
        fn texts_that_fold_alike_have_the_same_shingles(text in any_text()) {
            prop_assert_eq!(shingles(&folded_form(&text)), shingles(&text));
            prop_assert_eq!(shingles(&text.replace(' ', " \n\t ")), shingles(&text));
        }

        #[test]
        fn ascii_texts_are_cut_as_any_other(text in "[ -~\t\n]{0,60}") {
            let mut with = text.clone();
            with.push_str(" é");
            let mut expected = cut(&text);
            expected.push("é".into());
            prop_assert_eq!(cut(&with), expected);
        }

        #[test]
        fn words_are_those_of_the_folded_form(text in any_text()) {
            let mut folded = String::new();
            fold_for_words(&text, &mut folded);
            let mut found = Vec::new();
            words(&folded, |word| found.push(folded[word.at].to_owned()));
            prop_assert_eq!(found, cut(&text));
        }
    }

    fn any_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "\\PC{0,8}",
            "[ \t\r\n]{0,3}",
            "[a-zé\u{301}\u{300} ]{0,12}",
            "[一-三あ-うก-คｦ-ﾟ、]{0,9}",
            "[À-ſΑ-ώЀ-ѓ«…’\u{345} ]{0,20}"
        ];
        proptest::collection::vec(piece, 0..10).prop_map(|parts| parts.concat())
    }
}
