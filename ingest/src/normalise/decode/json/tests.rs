use super::*;
use proptest::prelude::*;

/// Text, time, and id, url, meta.
type Decoded = (String, Option<i64>, [Option<String>; 3]);

fn decode(line: &[u8]) -> Result<Decoded, Refused> {
    let mut decoder = Decoder::default();
    let line = decoder.line(line, &Fields::default())?;
    let owned = |value: Option<Cow<'_, str>>| value.map(Cow::into_owned);
    let rest = [owned(line.external_id), owned(line.url), owned(line.meta)];
    Ok((line.text.into_owned(), line.event_time, rest))
}

#[test]
fn line_with_all_fields_is_decoded() {
    let line = r#" {"id":"a\u00e9","text":"x\ny","timestamp":"1970-01-01T00:00:01Z","url":null,"meta":{"k": [1.50]}} "#;
    let (text, time, [id, url, meta]) = decode(line.as_bytes()).unwrap();
    assert_eq!((text.as_str(), time), ("x\ny", Some(1_000_000)));
    assert_eq!((id.as_deref(), url, meta.as_deref()), (Some("aé"), None, Some(r#"{"k": [1.50]}"#)));
}

#[test]
fn line_with_only_a_text_is_decoded_and_nulls_are_absent() {
    let bare = decode(br#"{"text":"t"}"#).unwrap();
    let nulls = decode(br#"{"text":"t","id":null,"timestamp":null,"url":null,"meta":null}"#).unwrap();
    assert_eq!(bare, nulls);
    assert_eq!(bare, ("t".to_owned(), None, [None, None, None]));
}

#[test]
fn numbers_are_names_and_times() {
    let (_, time, [id, ..]) = decode(br#"{"text":"t","id":1.0e2,"timestamp":1.5}"#).unwrap();
    assert_eq!((id.as_deref(), time), (Some("1.0e2"), Some(1_500_000)));
}

#[test]
fn last_of_two_equal_keys_counts() {
    assert_eq!(decode(br#"{"text":1,"text":"second"}"#).unwrap().0, "second");
}

#[test]
fn keys_without_a_column_become_entries_of_meta() {
    let meta = |line: &str| decode(line.as_bytes()).unwrap().2[2].clone().unwrap();
    assert_eq!(meta(r#"{"part":"s","text":"t"}"#), r#"{"part":"s"}"#);
    let both = r#"{"part":"s","text":"t","k\n":{"a": 1},"same":1,"meta":{"same":2, "b":[ ]}}"#;
    assert_eq!(meta(both), r#"{"part":"s","k\n":{"a": 1},"same":2,"b":[ ]}"#);
}

#[test]
fn keys_are_those_of_the_configuration() {
    let fields = Fields { text: "body".into(), timestamp: "when".into(), ..Fields::default() };
    let line = br#"{"text":"no","body":"yes","when":0}"#;
    let mut decoder = Decoder::default();
    let line = decoder.line(line, &fields).unwrap();
    assert_eq!(
        (line.text.as_ref(), line.event_time, line.meta.as_deref()),
        ("yes", Some(0), Some(r#"{"text":"no"}"#))
    );
}

/// Every line has this reason and says this.
fn refused_with(reason: Reason, cases: &[(&[u8], &str)]) {
    for (line, detail) in cases {
        let refused = decode(line).unwrap_err();
        assert_eq!((refused.reason, refused.detail.as_str()), (reason, *detail), "{}", line.escape_ascii());
    }
}

#[test]
fn bytes_that_are_not_utf8_are_named() {
    refused_with(
        Reason::InvalidUtf8,
        &[
            (b"{\"text\":\"caf\xE9\"}", "byte 12 of the line, 0xE9, is not UTF-8"),
            (b"{\"text\":\"\xC0\xAF\"}", "byte 9 of the line, 0xC0, is not UTF-8"),
            (b"{\"text\":\"\xED\xA0\xBD\xED\xB8\x80\"}", "byte 9 of the line, 0xED, is not UTF-8"),
        ],
    );
}

#[test]
fn lines_that_are_not_json_say_where() {
    let control = "control character (\\u0000-\\u001F) found while parsing a string, near byte 9 of the line";
    let half = "a surrogate escape without its other half";
    refused_with(
        Reason::InvalidJson,
        &[
            (br#"{"text":"torn"#, "EOF while parsing a string, near byte 13 of the line"),
            (br#"{"text":"torn","#, "EOF while parsing a value, near byte 15 of the line"),
            (b"{\"text\":\"\0\"}", control),
            (br#"{"text":"a"}{"text":"b"}"#, "trailing characters, near byte 13 of the line"),
            (b"2024-01-01 log line", "trailing characters, near byte 5 of the line"),
            (b"not json", "expected ident, near byte 2 of the line"),
            (br#"{"text":"\ud83d"}"#, &format!("{half}, near byte 16 of the line")),
            (br#"{"text":"\udc00 x"}"#, &format!("{half}, near byte 15 of the line")),
            (br#"{"text":"t","id":"\ud83d"}"#, &format!("{half}, near byte 25 of the line")),
            (
                br#"{"text":"t","meta":{"a":"\ud83d"}}"#,
                &format!("{half} in `meta` or a key without a column"),
            ),
            (
                br#"{"text":"t","meta":{"a":1e999}}"#,
                "number out of range in `meta` or a key without a column",
            ),
            (
                br#"{"text":"t","meta":{"a":1e999,"b":"\u00e9"}}"#,
                "number out of range in `meta` or a key without a column",
            ),
            (br#"{"text":"t","a":"\ud83d"}"#, &format!("{half} in `meta` or a key without a column")),
        ],
    );
    let deep = format!(r#"{{"text":"t","meta":{{"a":{}1{}}}}}"#, "[".repeat(100), "]".repeat(100));
    refused_with(Reason::InvalidJson, &[(deep.as_bytes(), "`meta` is nested 101 deep, more than 100")]);
}

#[test]
fn values_that_are_no_objects_are_named() {
    refused_with(
        Reason::NotAnObject,
        &[
            (br#"["text"]"#, "the line is an array, not an object"),
            (b"null", "the line is null, not an object"),
            (b"12", "the line is a number, not an object"),
            (b"true", "the line is true or false, not an object"),
            (br#""{\"text\":1}""#, "the line is a string, not an object"),
        ],
    );
}

#[test]
fn texts_that_are_none_say_why() {
    refused_with(Reason::MissingText, &[(br#"{"txet":"t"}"#, "there is no key `text`")]);
    refused_with(
        Reason::EmptyText,
        &[(br#"{"text":""}"#, "`text` is empty"), (br#"{"text":" \n\u2003"}"#, "`text` is white space only")],
    );
    refused_with(Reason::Nul, &[(br#"{"text":"a\u0000b"}"#, "byte 1 of `text` is NUL")]);
}

#[test]
fn values_of_the_wrong_type_name_both_types() {
    refused_with(
        Reason::WrongType,
        &[
            (br#"{"text":null}"#, "`text` is null, not a string"),
            (br#"{"text":["a"]}"#, "`text` is an array, not a string"),
            (br#"{"text":{"a":1}}"#, "`text` is an object, not a string"),
            (br#"{"text":-1}"#, "`text` is a number, not a string"),
            (br#"{"text":"t","timestamp":true}"#, "`timestamp` is true or false, not a string or a number"),
            (br#"{"text":"t","id":[1]}"#, "`id` is an array, not a string"),
            (br#"{"text":"t","url":1}"#, "`url` is a number, not a string"),
            (br#"{"text":"t","meta":"m"}"#, "`meta` is a string, not an object"),
        ],
    );
}

#[test]
fn timestamps_that_are_none_are_quoted() {
    let long = format!("`\"{}...`, no time in the years 0001 to 9999", "9".repeat(39));
    refused_with(
        Reason::InvalidTimestamp,
        &[
            (
                br#"{"text":"t","timestamp":"yesterday"}"#,
                "`timestamp` is `\"yesterday\"`, no time in the years 0001 to 9999",
            ),
            (
                br#"{"text":"t","timestamp":1e300}"#,
                "`timestamp` is `1e300`, no time in the years 0001 to 9999",
            ),
            (
                format!(r#"{{"text":"t","timestamp":"{}"}}"#, "9".repeat(99)).as_bytes(),
                &format!("`timestamp` is {long}"),
            ),
        ],
    );
}

#[test]
fn first_fault_in_the_order_of_looking_is_the_reason() {
    let reason = |line: &[u8]| decode(line).unwrap_err().reason;
    assert_eq!(reason(b"[\xFF"), Reason::InvalidUtf8);
    assert_eq!(reason(br#"{"text":null,"timestamp":"x""#), Reason::InvalidJson);
    assert_eq!(reason(br#"{"timestamp":"x"}"#), Reason::MissingText);
    assert_eq!(reason(br#"{"text":"","timestamp":"x"}"#), Reason::EmptyText);
    assert_eq!(reason(br#"{"id":[],"text":"t","timestamp":"x"}"#), Reason::InvalidTimestamp);
}

proptest! {
    #[test]
    fn any_text_survives_the_way_through_json(text in "\\PC{0,30}[\n\t\"\\\\é]{0,5}") {
        let line = serde_json::json!({ "text": text, "id": text, "meta": { "k": text } }).to_string();
        match decode(line.as_bytes()) {
            Ok((decoded, _, [id, _, meta])) => {
                prop_assert_eq!(&decoded, &text);
                prop_assert_eq!(id.as_deref(), Some(text.as_str()));
                let meta: serde_json::Value = serde_json::from_str(&meta.unwrap()).unwrap();
                prop_assert_eq!(meta["k"].as_str(), Some(text.as_str()));
            }
            Err(refused) => {
                prop_assert_eq!(refused.reason, Reason::EmptyText);
                prop_assert!(text.trim().is_empty());
            }
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused_but_never_fatal(
        bytes in proptest::collection::vec(any::<u8>(), 0..40),
        cut in 0..60_usize,
    ) {
        let _ = decode(&bytes);
        let sound = br#"{"text":"a \ud83d\ude00 b","timestamp":1,"meta":{"x":[null,true,"\u00e9"]}}"#;
        prop_assert!(decode(sound).is_ok());
        let torn = [&sound[..cut], bytes.as_slice()].concat();
        let _ = decode(&torn);
    }

    #[test]
    fn meta_of_unmapped_keys_is_an_object_with_all_of_them(
        keys in proptest::collection::btree_set("[a-z\"\\\\é]{1,4}", 0..5),
        inner in proptest::collection::btree_set("[a-z\"]{1,2}", 0..5),
    ) {
        let mut line = serde_json::json!({ "text": "t" });
        for key in keys.iter().filter(|key| !Fields::default().list().contains(&key.as_str())) {
            line[key] = 1.into();
        }
        for key in &inner {
            line["meta"][key] = 2.into();
        }
        let meta = decode(line.to_string().as_bytes()).unwrap().2[2].clone();
        let expected: std::collections::BTreeMap<String, i32> = keys
            .into_iter()
            .filter(|key| !Fields::default().list().contains(&key.as_str()))
            .map(|key| (key, 1))
            .chain(inner.into_iter().map(|key| (key, 2)))
            .collect();
        match meta {
            None => prop_assert!(expected.is_empty()),
            Some(meta) => prop_assert_eq!(serde_json::from_str::<std::collections::BTreeMap<String, i32>>(&meta).unwrap(), expected),
        }
    }
}
