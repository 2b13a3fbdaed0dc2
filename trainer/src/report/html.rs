//! A writer of HTML and SVG in which every element is closed and every text escaped.

/// HTML being written.
#[derive(Debug, Default)]
pub struct Html(String);

/// Attributes: names are ours, values are escaped.
pub type Attributes<'a> = &'a [(&'static str, &'a str)];

impl Html {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }

    /// Text.
    pub fn text(&mut self, text: &str) {
        escape(&mut self.0, text);
    }

    /// An element and what is inside it.
    pub fn element(&mut self, tag: &'static str, attributes: Attributes<'_>, inside: impl FnOnce(&mut Self)) {
        self.open(tag, attributes);
        self.0.push('>');
        inside(self);
        self.0.push_str("</");
        self.0.push_str(tag);
        self.0.push('>');
    }

    /// An element that holds text alone.
    pub fn leaf(&mut self, tag: &'static str, attributes: Attributes<'_>, text: &str) {
        self.element(tag, attributes, |html| html.text(text));
    }

    /// An element that holds nothing: a void element of HTML, or a shape of SVG.
    pub fn empty(&mut self, tag: &'static str, attributes: Attributes<'_>) {
        self.open(tag, attributes);
        self.0.push_str("/>");
    }

    /// Our own style sheet.
    pub fn style(&mut self, css: &'static str) {
        self.element("style", &[], |html| html.0.push_str(css));
    }

    /// JSON to be read by programs. `<`, `>` and `&` occur in JSON inside strings alone, where they can
    /// be written as escapes, so that no text can end the element.
    pub fn data(&mut self, id: &'static str, json: &str) {
        self.element("script", &[("type", "application/json"), ("id", id)], |html| {
            for character in json.chars() {
                match character {
                    '<' => html.0.push_str("\\u003c"),
                    '>' => html.0.push_str("\\u003e"),
                    '&' => html.0.push_str("\\u0026"),
                    _ => html.0.push(character),
                }
            }
        });
    }

    /// Starts a whole page.
    pub fn doctype(&mut self) {
        self.0.push_str("<!DOCTYPE html>\n");
    }

    fn open(&mut self, tag: &'static str, attributes: Attributes<'_>) {
        self.0.push('<');
        self.0.push_str(tag);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            escape(&mut self.0, value);
            self.0.push('"');
        }
    }
}

/// Writes `text` so that it is text in an element and in a quoted attribute. Control characters and
/// those that turn the direction of what follows become U+FFFD: they could garble the page around them.
fn escape(to: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '<' => to.push_str("&lt;"),
            '>' => to.push_str("&gt;"),
            '&' => to.push_str("&amp;"),
            '"' => to.push_str("&quot;"),
            '\'' => to.push_str("&#39;"),
            '\n' | '\t' => to.push(character),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => to.push('\u{fffd}'),
            _ if character.is_control() => to.push('\u{fffd}'),
            _ => to.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_closed_and_every_text_escaped() {
        let mut html = Html::new();
        html.element("p", &[("title", "\"a\" & 'b'")], |html| {
            html.text("1 < 2\u{0}\u{202e}");
            html.empty("br", &[]);
        });
        let expected = "<p title=\"&quot;a&quot; &amp; &#39;b&#39;\">1 &lt; 2\u{fffd}\u{fffd}<br/></p>";
        assert_eq!(html.finish(), expected);
    }

    #[test]
    fn data_cannot_end_its_element() {
        let mut html = Html::new();
        html.data("input", "\"</script><!--&\"");
        let expected = "<script type=\"application/json\" id=\"input\">\
                        \"\\u003c/script\\u003e\\u003c!--\\u0026\"</script>";
        assert_eq!(html.finish(), expected);
    }
}
