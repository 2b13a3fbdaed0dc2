//! The frame of a page.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The style sheet of every page.
pub const STYLE: &str = include_str!("style.css");

/// A whole page: `body` is what the reader sees, `json` what it was computed from, embedded as the data
/// block `input`.
#[must_use]
pub fn page(title: &str, body: &Markup, json: &str) -> String {
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(policy);
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { (body) }
                script type="application/json" id="input" { (PreEscaped(data(json))) }
            }
        }
    };
    page.into_string().replace(garbles, "\u{fffd}") + "\n"
}

/// Whether a character could garble the page around it: control characters, and those that turn the
/// direction of the text that follows.
fn garbles(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        _ => character.is_control(),
    }
}

/// JSON inside a script element. `<`, `>`, `&` and what garbles a page occur in JSON inside strings alone,
/// where they can be written as escapes, so that no text can end the element.
fn data(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if matches!(character, '<' | '>' | '&') || garbles(character) {
            text.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_cannot_garble_the_page() {
        let body = html! { p title="\"a\" & b" { "1 < 2\u{0}\u{202e}" } };
        let page = page("<b>", &body, "{}");
        assert!(
            page.starts_with("<!DOCTYPE html><html lang=\"en\">")
                && page.contains("<title>&lt;b&gt;</title>")
        );
        assert!(page.contains("<p title=\"&quot;a&quot; &amp; b\">1 &lt; 2\u{fffd}\u{fffd}</p>"), "{page}");
    }

    #[test]
    fn data_cannot_end_its_element() {
        let expected = "\"\\u003c/script\\u003e\\u003c!--\\u0026\\u202e\"";
        assert_eq!(data("\"</script><!--&\u{202e}\""), expected);
        assert!(
            page("", &html! {}, "\"</script>\"").contains("id=\"input\">\"\\u003c/script\\u003e\"</script>")
        );
    }

    #[test]
    fn style_sheet_asks_for_nothing_and_knows_both_schemes() {
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import") && !STYLE.contains('<'));
        assert!(STYLE.contains("prefers-color-scheme: dark"));
    }
}
