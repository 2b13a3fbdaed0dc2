//! Decodes plain text: a file, a paragraph or a line is the text, and there is nothing else.

use std::borrow::Cow;

use super::{Decoded, Refused, check_text, utf8};
use crate::block::Place;
use crate::config::Record;

/// The document that a record of a text file is. A carriage return at the end of a line or paragraph is
/// part of the line end. The path names a file that is one document.
///
/// # Errors
/// Why it is not a document.
pub fn decode<'a>(record: &'a [u8], place: &'a Place) -> Result<Decoded<'a>, Refused> {
    let what = match place.record {
        Record::File => "file",
        Record::Paragraph => "paragraph",
        Record::Line => "line",
    };
    let text = utf8(record, what)?;
    let text = match place.record {
        Record::File => text,
        Record::Paragraph | Record::Line => text.strip_suffix('\r').unwrap_or(text),
    };
    check_text(text, &format!("the {what}"))?;
    let name = place.path.as_deref().filter(|_| place.record == Record::File);
    Ok(Decoded {
        text: Cow::Borrowed(text),
        event_time: None,
        external_id: name.map(Cow::Borrowed),
        url: None,
        origin: None,
        meta: None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use perennial_schemas::table::records::Reason;

    use super::*;
    use crate::config::{Fields, Format};

    fn place(record: Record, path: Option<&str>) -> Place {
        Place {
            source: "s".into(),
            path: path.map(Arc::from),
            generation: 0,
            fingerprint: None,
            format: Format::Text,
            record,
            fields: Arc::new(Fields::default()),
        }
    }

    #[test]
    fn file_is_named_by_its_path_and_parts_of_one_are_not() {
        let external = |record, path| {
            let place = place(record, path);
            let decoded = decode(b"text\r", &place).unwrap();
            (decoded.text.into_owned(), decoded.external_id.map(Cow::into_owned))
        };
        assert_eq!(external(Record::File, Some("a/b.txt")), ("text\r".into(), Some("a/b.txt".into())));
        assert_eq!(external(Record::File, None), ("text\r".into(), None));
        assert_eq!(external(Record::Paragraph, Some("a/b.txt")), ("text".into(), None));
        assert_eq!(external(Record::Line, Some("a/b.txt")), ("text".into(), None));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_with_the_place() {
        let cases: [(&[u8], Reason, &str); 4] = [
            (b"caf\xE9", Reason::InvalidUtf8, "byte 3 of the paragraph, 0xE9, is not UTF-8"),
            (b"a\0b", Reason::Nul, "byte 1 of the paragraph is NUL"),
            (b" \n", Reason::EmptyText, "the paragraph is white space only"),
            (b"", Reason::EmptyText, "the paragraph is empty"),
        ];
        for (bytes, reason, detail) in cases {
            let refused = decode(bytes, &place(Record::Paragraph, None)).unwrap_err();
            assert_eq!((refused.reason, refused.detail.as_str()), (reason, detail));
        }
    }
}
