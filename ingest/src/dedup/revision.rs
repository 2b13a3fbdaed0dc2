//! Revisions: what a text says that the kept one it resembles does not.
//!
//! A word of the new text is *old* if a shingle that covers it (five successive words, it among them) is
//! one of the kept text's, else it is *new*. So a word that was put in, or that took another's place, is
//! new; its neighbours, the rest of a paragraph that moved and what stands next to a deletion are old.
//! Runs of new words are at least five words apart, because an old word has four old neighbours: edits
//! that are closer are one run.
//!
//! A span reaches from the first word of a run to the end of the last one, and on to the beginning or the
//! end of the line where no other word stands between: a new list item comes with its bullet, a new
//! paragraph with its full stop.

use std::ops::Range;

use perennial_schemas::text::folded_form;

use super::shingle::{self, Kind, WORDS, kind};

/// The parts of a text that a kept one does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewText {
    /// Where they are: (start, end) in bytes of the text, ascending, apart from each other, none empty.
    pub spans: Vec<(u32, u32)>,
    /// Characters in them.
    pub chars: u64,
    /// Characters in the text.
    pub of: u64,
}

impl NewText {
    /// The share of the text that is new, 0 to 1; 0 for an empty text.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.of == 0 { 0.0 } else { self.chars as f64 / self.of as f64 }
    }

    /// Whether it has `chars` new characters or is new by this `share`, and not wholly old.
    #[must_use]
    pub fn is_at_least(&self, chars: u64, share: f64) -> bool {
        self.chars > 0 && (self.chars >= chars || self.share() >= share)
    }
}

/// Finds new text; keeps its buffers from text to text.
#[derive(Debug, Default)]
pub struct Reviser {
    words: Vec<Range<usize>>,
    hashes: Vec<u8>,
    old: Vec<bool>,
    folded: String,
}

impl Reviser {
    /// One without buffers yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The parts of `text` that a kept text with these shingles (ascending) does not have. Only the first
    /// 4 GiB of a text are read.
    pub fn new_text(&mut self, text: &str, kept: &[u64]) -> NewText {
        let of = text.chars().count() as u64;
        self.place_words(text);
        if self.words.len() < WORDS {
            // Its one shingle is that of the whole text.
            let old = kept.binary_search(&shingle::whole(text)).is_ok();
            let end = u32::try_from(text.len()).unwrap_or(u32::MAX);
            return if old || end == 0 {
                NewText { of, ..NewText::default() }
            } else {
                NewText { spans: vec![(0, end)], chars: of, of }
            };
        }
        self.mark_old(kept);
        let mut new = NewText { of, ..NewText::default() };
        let (mut first, mut done) = (0, 0);
        for run in self.old.chunk_by(|a, b| a == b) {
            let last = first + run.len() - 1;
            if run.first() == Some(&false)
                && let Some(span) = self.span(text, first, last)
                // Words of one place may be in two runs.
                && let Some(part) = text.get(span.start.max(done)..span.end)
                && let (Ok(start), Ok(end)) = (u32::try_from(span.end - part.len()), u32::try_from(span.end))
                && start < end
            {
                new.chars += part.chars().count() as u64;
                new.spans.push((start, end));
                done = span.end;
            }
            first = last + 1;
        }
        new
    }

    /// Marks the words that a shingle of the kept text covers.
    fn mark_old(&mut self, kept: &[u64]) {
        self.old.clear();
        self.old.resize(self.words.len(), false);
        for (first, shingle) in shingle::hashes_to_shingles(&self.hashes).enumerate() {
            if kept.binary_search(&shingle).is_ok()
                && let Some(covered) = self.old.get_mut(first..first + WORDS)
            {
                covered.fill(true);
            }
        }
    }

    /// The span of the run of words `first..=last`.
    fn span(&self, text: &str, first: usize, last: usize) -> Option<Range<usize>> {
        let (mut start, mut end) = (self.words.get(first)?.start, self.words.get(last)?.end);
        let before = first.checked_sub(1).and_then(|word| self.words.get(word)).map_or(0, |word| word.end);
        let line = text.get(..start)?.rfind('\n').map_or(0, |feed| feed + 1);
        if line >= before {
            start = line;
        }
        let after = self.words.get(last + 1).map_or(text.len(), |word| word.start);
        let line = text.get(end..)?.find('\n').map_or(text.len(), |feed| end + feed);
        if line <= after {
            end = line;
        }
        Some(start..end)
    }

    /// Finds the words of `text` and their hashes, those of its folded form, with their places in `text`.
    ///
    /// Folding can make several words of one character (`½`) and one character of several, so `text` is
    /// cut into segments that fold each for themselves; the words of a segment share its place.
    fn place_words(&mut self, text: &str) {
        self.words.clear();
        self.hashes.clear();
        if text.is_ascii() {
            self.fold(text, 0, true);
            return;
        }
        let mut open: Option<(usize, Kind)> = None;
        for (at, c) in text.char_indices() {
            // The subscript stays with its segment: folding orders it among the marks first.
            let class = if u32::from(c) == SUBSCRIPT { Kind::Mark } else { class(c) };
            let cuts = match (&open, class) {
                (Some(_), Kind::Gap | Kind::Alone) => true,
                (Some((_, base)), Kind::Letter) => *base == Kind::Alone,
                _ => false,
            };
            if cuts && let Some((start, _)) = open.take() {
                self.fold(text.get(start..at).unwrap_or_default(), start, false);
            }
            match (&mut open, class) {
                (_, Kind::Gap) => {}
                (None, _) => open = Some((at, class)),
                (Some((_, base)), Kind::Letter | Kind::Alone) => *base = class,
                (Some((_, base)), Kind::Mark) if u32::from(c) == SUBSCRIPT => *base = Kind::Letter,
                (Some(_), Kind::Mark | Kind::Hidden) => {}
            }
        }
        if let Some((start, _)) = open {
            self.fold(text.get(start..).unwrap_or_default(), start, false);
        }
    }

    /// Adds the words of a segment that begins at `start`: each at its own place, if the segment folds
    /// byte by byte, or all at the segment's.
    fn fold(&mut self, segment: &str, start: usize, bytewise: bool) {
        shingle::fold_for_words(segment, &mut self.folded);
        let (folded, words, hashes) = (&self.folded, &mut self.words, &mut self.hashes);
        shingle::words(folded, |word| {
            hashes.extend_from_slice(&word.hash(folded).to_le_bytes());
            let at = if bytewise { word.at } else { 0..segment.len() };
            words.push(start + at.start..start + at.end);
        });
    }
}

/// What the folded form of `c` begins with, as to the words: [`Kind::Gap`] if there is nothing of a
/// word in it.
fn class(c: char) -> Kind {
    match kind(c) {
        kind @ (Kind::Letter | Kind::Alone | Kind::Mark) if folds_in_kind(c) => kind,
        Kind::Gap if c.is_ascii() => Kind::Gap,
        _ => {
            let folded = folded_form(c.encode_utf8(&mut [0; 4]));
            folded.chars().map(kind).find(|kind| *kind != Kind::Gap).unwrap_or(Kind::Gap)
        }
    }
}

/// Whether `c` is in a common block where letters fold to letters and marks to marks: spares a fold.
const fn folds_in_kind(c: char) -> bool {
    match c as u32 {
        SUBSCRIPT | 0xE33 | 0xEB3 => false,
        code => {
            matches!(code, 0..=0x674 | 0x700..=0x10FF | 0x1780..=0x1FFF | 0x3041..=0x30FE | 0x3400..=0x9FFF | 0xAC00..=0xD7A3)
        }
    }
}

/// The Greek iota subscript: the one mark that folds to a letter, which then begins a word after a
/// character that is one by itself.
const SUBSCRIPT: u32 = 0x345;

#[cfg(test)]
mod tests {
    use super::super::shingle::Shingler;
    use super::*;
    use proptest::prelude::*;

    fn shingles(text: &str) -> Vec<u64> {
        let mut out = Vec::new();
        Shingler::new().shingle(text, &mut out);
        out
    }

    fn new_parts<'a>(text: &'a str, kept: &str) -> Vec<&'a str> {
        let new = Reviser::new().new_text(text, &shingles(kept));
        new.spans.iter().map(|(start, end)| &text[*start as usize..*end as usize]).collect()
    }

    const KEPT: &str = "one two three four five six seven eight nine ten eleven twelve thirteen";

    #[test]
    fn what_is_put_in_or_changed_is_new_and_its_neighbours_are_not() {
        let cases: [(&str, &[&str]); 9] = [
            (KEPT, &[]),
            ("one two three four five six SEVEN, eight nine ten eleven twelve thirteen!", &[]),
            ("one two three four five six sept eight nine ten eleven twelve thirteen", &["sept"]),
            ("one two three four five six and a half seven eight nine ten eleven twelve", &["and a half"]),
            (
                "one two three four five ten eleven twelve thirteen fourteen",
                &["ten eleven twelve thirteen fourteen"],
            ),
            ("one two three four five nine ten eleven twelve thirteen", &[]),
            ("nine ten eleven twelve thirteen one two three four five", &[]),
            ("zero one two three four five, six seven eight nine ten eleven x", &["zero", "x"]),
            (
                "one two tree for five six seven ate nine ten eleven twelve thirteen",
                &["one two tree for five six seven ate"],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(new_parts(text, KEPT), expected, "{text}");
        }
    }

    #[test]
    fn span_reaches_to_the_edge_of_its_line_where_no_other_word_stands_between() {
        let kept = "- one two three four five six\n- seven eight nine ten eleven";
        let text = "- one two three four five six\n- this is, wholly new!\n- seven eight nine ten eleven";
        assert_eq!(new_parts(text, kept), ["- this is, wholly new!"]);
        let text = "- one two three four five six more.\n- seven eight nine ten eleven";
        assert_eq!(new_parts(text, kept), ["more."]);
        let text = "- one two three four five six\n\n* * *\n(new) seven eight nine ten eleven";
        assert_eq!(new_parts(text, kept), ["(new"]);
    }

    #[test]
    fn text_in_a_script_without_spaces_is_new_by_the_character() {
        let kept = "春眠不覺曉，處處聞啼鳥。夜來風雨聲，花落知多少。";
        assert_eq!(new_parts("春眠不覺曉，處處聞啼鳥。昨日風雨聲，花落知多少。", kept), ["昨日"]);
        // What stands alone in its line reaches to the line's end.
        assert_eq!(new_parts("春眠不覺曉，處處聞啼鳥。夜來風雨聲，花落知ｶﾞ。", kept), ["ｶﾞ。"]);
    }

    #[test]
    fn short_text_is_new_as_a_whole_or_not_at_all() {
        assert_eq!(new_parts("a b", "A  B"), Vec::<&str>::new());
        assert_eq!(new_parts("a, c", KEPT), ["a, c"]);
        assert_eq!(new_parts("", KEPT), Vec::<&str>::new());
        assert_eq!(new_parts(KEPT, ""), [KEPT]);
    }

    #[test]
    fn enough_is_either_so_many_characters_or_so_large_a_share() {
        let new = |chars, of| NewText { spans: Vec::new(), chars, of };
        assert!(new(200, 1_000_000).is_at_least(200, 0.02));
        assert!(!new(199, 1_000_000).is_at_least(200, 0.02));
        assert!(new(2, 100).is_at_least(200, 0.02));
        assert!(!new(0, 0).is_at_least(0, 0.0));
        assert_eq!(new(0, 0).share(), 0.0);
    }

    #[test]
    fn class_of_every_character_is_what_its_folded_form_begins_with() {
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let folded = folded_form(c.encode_utf8(&mut [0; 4]));
            let kinds: Vec<Kind> = folded.chars().map(kind).collect();
            let first = kinds.iter().copied().find(|kind| *kind != Kind::Gap).unwrap_or(Kind::Gap);
            assert_eq!(class(c), first, "{c:?} folds to {folded:?}");
            // A cut before a letter that comes after such a character cuts no word.
            let last = kinds.iter().rev().find(|kind| !matches!(kind, Kind::Mark | Kind::Hidden));
            assert!(first != Kind::Alone || last != Some(&Kind::Letter), "{c:?} folds to {folded:?}");
        }
    }

    fn hashes_of_folded(text: &str) -> Vec<u8> {
        let mut hashes = Vec::new();
        let folded = folded_form(text);
        shingle::words(&folded, |word| hashes.extend_from_slice(&word.hash(&folded).to_le_bytes()));
        hashes
    }

    proptest! {
        #[test]
        fn words_in_their_places_are_those_of_the_folded_form(text in any_text()) {
            let mut reviser = Reviser::new();
            reviser.place_words(&text);
            prop_assert_eq!(&reviser.hashes, &hashes_of_folded(&text));
            prop_assert_eq!(reviser.words.len() * 8, reviser.hashes.len());
            for pair in reviser.words.windows(2) {
                prop_assert!(pair[0] == pair[1] || pair[0].end <= pair[1].start);
            }
        }

        #[test]
        fn spans_are_sound_and_cover_exactly_the_new_words(text in any_text(), kept in any_text()) {
            let kept = shingles(&kept);
            let mut reviser = Reviser::new();
            let new = reviser.new_text(&text, &kept);
            prop_assert_eq!(new.of, text.chars().count() as u64);
            let mut chars = 0;
            let mut end = 0;
            for (start, stop) in &new.spans {
                prop_assert!(*start >= end && stop > start, "{:?}", new.spans);
                end = *stop;
                chars += text[*start as usize..*stop as usize].chars().count() as u64;
            }
            prop_assert_eq!(chars, new.chars);
            if reviser.words.len() >= WORDS {
                for (word, old) in reviser.words.iter().zip(&reviser.old) {
                    let inside = |(start, end): &(u32, u32)| word.start >= *start as usize && word.end <= *end as usize;
                    prop_assert!(*old || new.spans.iter().any(inside));
                }
            }
        }

        #[test]
        fn text_has_nothing_new_against_itself_and_is_all_new_against_nothing(text in any_text()) {
            let mut reviser = Reviser::new();
            prop_assert_eq!(reviser.new_text(&text, &shingles(&text)).chars, 0);
            let new = reviser.new_text(&text, &[]);
            prop_assert_eq!(new.spans.len(), usize::from(!text.is_empty()));
        }
    }

    fn any_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "\\PC{0,8}",
            "[ \t\r\n]{0,3}",
            "[a-cé\u{301}\u{345}½⑴\u{ad} ]{0,16}",
            "[一-三あ-うｦ-ﾟก-ำ\u{e33}㍿㏢]{0,9}"
        ];
        proptest::collection::vec(piece, 0..10).prop_map(|parts| parts.concat())
    }
}
