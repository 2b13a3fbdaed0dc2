//! Just enough of Rust's lexing to tell code from comments and literals.

/// What a stretch of source is.
enum Kind {
    Code,
    Comment,
    Literal,
}

/// The source with every comment blanked and every literal filled with `_`: lines and byte offsets stay.
pub fn code(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while !rest.is_empty() {
        let (length, kind) = next(rest);
        let (stretch, after) = rest.split_at(length);
        for character in stretch.chars() {
            match kind {
                _ if character == '\n' => out.push('\n'),
                Kind::Code => out.push(character),
                Kind::Comment => out.extend(std::iter::repeat_n(' ', character.len_utf8())),
                Kind::Literal => out.extend(std::iter::repeat_n('_', character.len_utf8())),
            }
        }
        rest = after;
    }
    out
}

/// The same without the items that are compiled for tests only: those under `#[cfg(test)]`.
pub fn code_without_tests(source: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut code = code(source);
    while let Some(start) = code.find(MARK) {
        let item = &code[start..];
        let end = match item.find(['{', ';']) {
            Some(at) if item[at..].starts_with('{') => at + closing_brace(&item[at..]) + 1,
            Some(at) => at + 1,
            None => item.len(),
        };
        let blank: String = item[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(start..start + end, &blank);
    }
    code
}

/// The words and marks of what [`code`] returned, each with its offset.
pub fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = code[at..].chars().next() {
        let word = code[at..].find(|c| !is_word(c)).unwrap_or(code.len() - at);
        let length = word.max(first.len_utf8());
        if !first.is_whitespace() {
            tokens.push((at, &code[at..at + length]));
        }
        at += length;
    }
    tokens
}

/// The offset of the brace that closes the one at offset 0; the last offset if it is missing.
fn closing_brace(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    code.len().saturating_sub(1)
}

pub fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Length and kind of the first token, or of one character that begins none.
fn next(rest: &str) -> (usize, Kind) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), Kind::Comment);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), Kind::Comment);
    }
    let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
    let (prefix, after) = rest.split_at(word);
    if matches!(prefix, "" | "b" | "c") && after.starts_with('"') {
        return (word + quoted(after, '"'), Kind::Literal);
    }
    if matches!(prefix, "r" | "br" | "cr") {
        let hashes = after.len() - after.trim_start_matches('#').len();
        if after[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = word + hashes + 1;
            let length = rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len());
            return (length, Kind::Literal);
        }
    }
    if matches!(prefix, "" | "b") && after.starts_with('\'') {
        let mut characters = after.chars().skip(1);
        let first = characters.next();
        // Otherwise it is a lifetime.
        if first == Some('\\') || characters.next() == Some('\'') {
            return (word + quoted(after, '\''), Kind::Literal);
        }
    }
    (word.max(rest.chars().next().map_or(1, char::len_utf8)), Kind::Code)
}

/// Length of the literal that begins with the quote at offset 0.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Length of the block comment at offset 0; they nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest[at..];
        let step = if here.starts_with("/*") {
            depth += 1;
            2
        } else if here.starts_with("*/") {
            depth -= 1;
            2
        } else {
            here.chars().next().map_or(1, char::len_utf8)
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

#[test]
fn comments_are_blanked_and_literals_filled_when_code_is_kept() {
    assert_eq!(code("a // b\n/* c /* d */ e */f"), "a     \n                 f");
    assert_eq!(code(r#"f("x\"y", 'z', b'\'', '\\')"#), r"f(______, ___, _____, ____)");
    assert_eq!(code("r#\"a\"b\"# + br\"c\" + r#type"), "________ + _____ + r#type");
    assert_eq!(code("fn f<'a>(x: &'a str, y: &'static str)"), "fn f<'a>(x: &'a str, y: &'static str)");
    assert_eq!(code("let bar = \"// no\"; // yes"), "let bar = _______;       ");
    assert_eq!(code("\"open"), "_____");
}

#[test]
fn offsets_stay_when_characters_are_wide() {
    let source = "\"éü\" /* → */ x";
    assert_eq!(code(source).len(), source.len());
    assert_eq!(code(source).find('x'), source.find('x'));
}

#[test]
fn test_items_are_blanked_to_their_closing_brace() {
    let source = "a\n#[cfg(test)]\nmod tests {\n fn f() { \"}\" }\n}\nb\n#[cfg(test)]\nmod more;\nc";
    let kept: Vec<String> = code_without_tests(source).lines().map(|line| line.trim().to_owned()).collect();
    assert_eq!(kept, ["a", "", "", "", "", "b", "", "", "c"]);
}

#[test]
fn tokens_are_words_and_single_marks() {
    assert_eq!(tokens("mod a_1; {é}"), [(0, "mod"), (4, "a_1"), (7, ";"), (9, "{"), (10, "é"), (12, "}")]);
}
