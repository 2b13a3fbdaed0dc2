//! Cuts a text into passages: what spans, signals and draws refer to.
//!
//! Passages cover the text without a gap. They end where paragraphs end, and paragraphs are merged
//! until a passage has 256 bytes. A paragraph ends behind the blank lines that follow it; in a text
//! without any blank line, every line is one. Where no paragraph ends within 1,024 bytes, a passage
//! ends at the last line end within them, else behind the last white space, else before the character
//! that would not fit. What remains at the end and is shorter than 256 bytes joins the passage before
//! it when both fit into 1,024 bytes.
//!
//! So every passage but the last has 256 to 1,024 bytes, and the last at most 1,024.

/// A passage but the last has at least as many bytes.
pub const LEAST: usize = 256;
/// A passage has at most as many bytes.
pub const MOST: usize = 1024;

/// Appends the ends of the passages of `text`, in bytes, to `ends`; the last is its length. An empty
/// text has none.
pub fn cut(text: &str, ends: &mut Vec<u32>) {
    let mut paragraphs = paragraph_ends(text).peekable();
    let mut start = 0;
    while start < text.len() {
        while paragraphs.next_if(|end| *end < start + LEAST).is_some() {}
        let paragraph = paragraphs.peek().copied().filter(|end| *end <= start + MOST);
        let end = match paragraph {
            Some(end) => end,
            None if text.len() - start <= MOST => text.len(),
            None => forced_end(text, start),
        };
        let end = if text.len() - end < LEAST && text.len() - start <= MOST { text.len() } else { end };
        ends.push(u32::try_from(end).unwrap_or(u32::MAX));
        start = end;
    }
}

/// Where paragraphs end, in order; the last is the text's length.
fn paragraph_ends(text: &str) -> impl Iterator<Item = usize> {
    let has_blank_line = blank_line_ends(text).next().is_some();
    let lines = text.split_inclusive('\n').scan(0, |end, line| {
        *end += line.len();
        Some(*end)
    });
    let by_line = (!has_blank_line).then_some(lines).into_iter().flatten();
    let by_blank = has_blank_line.then(|| blank_line_ends(text)).into_iter().flatten();
    by_line.chain(by_blank).chain([text.len()])
}

/// Where runs of blank lines end that follow a line of text.
fn blank_line_ends(text: &str) -> impl Iterator<Item = usize> {
    let mut lines = text.split_inclusive('\n').peekable();
    let mut end = 0;
    let mut in_text = false;
    std::iter::from_fn(move || {
        loop {
            let line = lines.next()?;
            end += line.len();
            let blank = line.trim().is_empty();
            let ends = blank && in_text && lines.peek().is_some_and(|next| !next.trim().is_empty());
            in_text = !blank || (in_text && !ends);
            if ends {
                return Some(end);
            }
        }
    })
}

/// Where to end a passage inside of a paragraph that goes on beyond `start` + [`MOST`].
fn forced_end(text: &str, start: usize) -> usize {
    let most = text.floor_char_boundary(start + MOST);
    let least = text.ceil_char_boundary(start + LEAST);
    let window = text.get(least..most).unwrap_or_default();
    if let Some(line) = window.rfind('\n') {
        return least + line + 1;
    }
    match window.char_indices().rev().find(|(_, next)| next.is_whitespace()) {
        Some((at, blank)) => least + at + blank.len_utf8(),
        None => most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sizes(text: &str) -> Vec<usize> {
        let mut ends = Vec::new();
        cut(text, &mut ends);
        let mut start = 0;
        ends.iter()
            .map(|end| {
                let size = *end as usize - start;
                start = *end as usize;
                size
            })
            .collect()
    }

    fn words(bytes: usize) -> String {
        "word ".repeat(bytes.div_ceil(5))[..bytes].to_owned()
    }

    #[test]
    fn passages_end_at_blank_lines_once_they_are_long_enough() {
        let text = format!("{}\n\n{}\n \r\n\n{}\n\n{}", words(98), words(198), words(298), words(400));
        assert_eq!(sizes(&text), [100 + 203, 300, 400]);
    }

    #[test]
    fn passages_end_at_lines_when_no_line_is_blank() {
        let text = format!("{}\n", words(149)).repeat(5);
        assert_eq!(sizes(&text), [300, 450], "the last 150 bytes join the passage before");
        let text = format!("\n\n{text}\n\n");
        assert_eq!(sizes(&text).iter().sum::<usize>(), text.len());
    }

    #[test]
    fn wrapped_lines_of_a_long_paragraph_stay_together_as_far_as_they_fit() {
        let text = format!("{}\n\n{}", words(300), format!("{}\n", words(99)).repeat(13));
        assert_eq!(sizes(&text), [302, 1000, 300]);
    }

    #[test]
    fn long_run_is_cut_behind_white_space_else_before_a_character() {
        let text = format!("{} {}", "a".repeat(599), "b".repeat(1100));
        assert_eq!(sizes(&text), [600, 1024, 76]);
        let text = "汉".repeat(1000);
        assert_eq!(sizes(&text), [1023, 1023, 954]);
    }

    #[test]
    fn short_texts_are_one_passage() {
        assert_eq!(sizes(""), Vec::<usize>::new());
        assert_eq!(sizes("a\n\nb"), [4]);
        assert_eq!(sizes(&words(1024)), [1024]);
    }

    fn any_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "\\PC{0,40}",
            "[ \t\r\n]{0,4}",
            "\n\n",
            (0..900_usize).prop_map(words),
            (0..400_usize).prop_map(|count| "é".repeat(count)),
            (0..700_usize).prop_map(|count| "x".repeat(count)),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    /// The rules read literally, one paragraph end at a time, without a shared scan.
    fn twin(text: &str) -> Vec<u32> {
        let blank = |line: &str| line.trim().is_empty();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let mut all = Vec::new();
        let mut at = 0;
        for (index, line) in lines.iter().enumerate() {
            at += line.len();
            let text_before = lines[..index].iter().any(|line| !blank(line));
            let text_next = lines.get(index + 1).is_some_and(|line| !blank(line));
            if blank(line) && text_before && text_next {
                all.push(at);
            }
        }
        if all.is_empty() {
            all = (1..=text.len()).filter(|end| text.as_bytes()[end - 1] == b'\n').collect();
        }
        all.push(text.len());
        let mut ends = Vec::new();
        let mut start = 0;
        while start < text.len() {
            let fits = |end: usize| (start + LEAST..=start + MOST).contains(&end);
            let rest = text.len() - start;
            let mut end = match all.iter().copied().find(|end| fits(*end)) {
                Some(end) => end,
                None if rest <= MOST => text.len(),
                None => {
                    let places: Vec<usize> = (start..=text.len())
                        .filter(|end| fits(*end) && text.is_char_boundary(*end))
                        .collect();
                    let before = |end: &usize| text[..*end].chars().next_back().unwrap();
                    // A character that straddles the least size ends a passage too, but none is cut behind it.
                    let inside = |end: &usize| *end - before(end).len_utf8() >= start + LEAST;
                    let of = |is: &dyn Fn(char) -> bool| {
                        places.iter().rev().find(|end| inside(end) && is(before(end))).copied()
                    };
                    of(&|c| c == '\n')
                        .or_else(|| of(&char::is_whitespace))
                        .unwrap_or(places[places.len() - 1])
                }
            };
            if text.len() - end < LEAST && rest <= MOST {
                end = text.len();
            }
            ends.push(end as u32);
            start = end;
        }
        ends
    }

    proptest! {
        #[test]
        fn passages_cover_the_text_within_their_bounds(text in any_text()) {
            let mut ends = Vec::new();
            cut(&text, &mut ends);
            let mut start = 0;
            for end in &ends {
                prop_assert!(text.get(start..*end as usize).is_some_and(|passage| !passage.is_empty()));
                start = *end as usize;
            }
            prop_assert_eq!(start, text.len());
            let sizes = sizes(&text);
            prop_assert!(sizes.iter().all(|size| *size <= MOST));
            prop_assert!(sizes.iter().rev().skip(1).all(|size| *size >= LEAST));
            prop_assert_eq!(ends, twin(&text));
        }

        #[test]
        fn passages_are_appended_to_what_is_there(text in any_text()) {
            let mut alone = Vec::new();
            cut(&text, &mut alone);
            let mut after = vec![7];
            cut(&text, &mut after);
            prop_assert_eq!(&after[1..], &alone[..]);
        }
    }
}
