use std::sync::Arc;

use arrow::array::{
    Array as _, BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Date64Array, Float64Array,
    Int32Array, Int64Array, LargeStringArray, ListBuilder, MapBuilder, NullArray, StringArray, StringBuilder,
    StringDictionaryBuilder, StringViewArray, StructArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt8Array, UInt64Array,
};
use proptest::prelude::*;

use super::*;

/// What `meta` may have.
const MOST: u64 = 1 << 20;

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// The columns of a batch, as a reader of it would give them.
fn columns(entries: &[(&str, ArrayRef)], fields: &Fields) -> Result<Columns, Refused> {
    let batch = RecordBatch::try_from_iter(entries.iter().cloned()).unwrap();
    let shape = Shape::of(&batch.schema(), fields)?;
    let viewed = batch.columns().iter().zip(shape.schema.fields());
    let viewed = viewed.map(|(column, field)| cast(column, field.data_type()).unwrap()).collect();
    let batch = RecordBatch::try_new(Arc::clone(&shape.schema), viewed).unwrap();
    Ok(shape.columns(&batch.project(&shape.used()).unwrap()).unwrap())
}

/// What one row with the text `t` and another column is decoded to.
fn with(key: &str, column: ArrayRef) -> Result<Decoded<'static>, Refused> {
    let fields = Fields::default();
    let columns = columns(&[(key, column), ("text", texts(&["t"]))], &fields)?;
    let Decoded { text, event_time, external_id, url, origin, meta } = row(&columns, 0, &fields, MOST)?;
    let owned = |value: Option<Cow<'_, str>>| value.map(|value| Cow::Owned(value.into_owned()));
    let [external_id, url, origin, meta] = [external_id, url, origin, meta].map(owned);
    Ok(Decoded { text: Cow::Owned(text.into_owned()), event_time, external_id, url, origin, meta })
}

fn dictionary(value: &str) -> ArrayRef {
    let mut builder = StringDictionaryBuilder::<Int32Type>::new();
    builder.append_value(value);
    Arc::new(builder.finish())
}

#[test]
fn text_is_text_of_any_type() {
    for column in [
        texts(&["x"]),
        Arc::new(LargeStringArray::from_iter_values(["x"])),
        Arc::new(StringViewArray::from_iter_values(["x"])),
        dictionary("x"),
    ] {
        let fields = Fields { text: "body".into(), ..Fields::default() };
        let columns = columns(&[("body", Arc::clone(&column))], &fields).unwrap();
        assert_eq!(row(&columns, 0, &fields, MOST).unwrap().text, "x");
        assert_eq!(with("url", Arc::clone(&column)).unwrap().url.as_deref(), Some("x"));
        assert_eq!(with("source", Arc::clone(&column)).unwrap().origin.as_deref(), Some("x"));
        assert_eq!(with("id", column).unwrap().external_id.as_deref(), Some("x"));
    }
}

#[test]
fn integers_are_names() {
    let id = |column: ArrayRef| with("id", column).unwrap().external_id.map(Cow::into_owned);
    assert_eq!(id(Arc::new(Int64Array::from(vec![i64::MIN]))).as_deref(), Some("-9223372036854775808"));
    assert_eq!(id(Arc::new(UInt64Array::from(vec![u64::MAX]))).as_deref(), Some("18446744073709551615"));
    assert_eq!(id(Arc::new(UInt8Array::from(vec![7]))).as_deref(), Some("7"));
    assert_eq!(id(Arc::new(Int32Array::from(vec![None::<i32>]))), None);
}

#[test]
fn times_are_those_of_the_table() {
    let second = 1_473_054_186_i64;
    let micros = second * 1_000_000;
    let cases: Vec<(ArrayRef, Option<i64>)> = vec![
        (Arc::new(TimestampSecondArray::from(vec![second])), Some(micros)),
        (Arc::new(TimestampMillisecondArray::from(vec![second * 1000 + 1])), Some(micros + 1000)),
        (Arc::new(TimestampMicrosecondArray::from(vec![micros]).with_timezone("+02:00")), Some(micros)),
        (Arc::new(TimestampNanosecondArray::from(vec![-1])), Some(-1)),
        (Arc::new(Date32Array::from(vec![1])), Some(86_400_000_000)),
        (Arc::new(Date64Array::from(vec![1])), Some(1000)),
        (texts(&["1970-01-01T00:00:01Z"]), Some(1_000_000)),
        (dictionary("1970-01-02"), Some(86_400_000_000)),
        (Arc::new(Int64Array::from(vec![second])), Some(micros)),
        (Arc::new(Int64Array::from(vec![second * 1000])), Some(micros)),
        (Arc::new(Float64Array::from(vec![1.5])), Some(1_500_000)),
        (Arc::new(TimestampSecondArray::from(vec![None::<i64>])), None),
    ];
    for (column, time) in cases {
        let kind = column.data_type().clone();
        assert_eq!(with("timestamp", column).unwrap().event_time, time, "{kind}");
    }
    let wrong: Vec<ArrayRef> = vec![
        Arc::new(TimestampSecondArray::from(vec![i64::MAX])),
        Arc::new(TimestampMillisecondArray::from(vec![i64::MIN])),
        Arc::new(TimestampMicrosecondArray::from(vec![i64::MAX])),
        Arc::new(Date32Array::from(vec![i32::MIN])),
        Arc::new(Date64Array::from(vec![i64::MAX])),
        Arc::new(Int64Array::from(vec![i64::MAX])),
        Arc::new(Float64Array::from(vec![f64::NAN])),
        texts(&["yesterday"]),
    ];
    for column in wrong {
        let refused = with("timestamp", column).unwrap_err();
        assert_eq!(refused.reason, Reason::InvalidTimestamp, "{}", refused.detail);
        assert!(refused.detail.ends_with("no time in the years 0001 to 9999"), "{}", refused.detail);
    }
}

fn list(items: &[&str]) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new());
    builder.append_value(items.iter().map(|item| Some(*item)));
    Arc::new(builder.finish())
}

#[test]
fn meta_is_an_object_whatever_column_it_is() {
    let meta = |column: ArrayRef| with("meta", column).map(|decoded| decoded.meta.map(Cow::into_owned));
    let field = |name: &str, column: &ArrayRef| Arc::new(Field::new(name, column.data_type().clone(), true));
    let (text, null, tags) = (texts(&["a\"b"]), Arc::new(Int64Array::new_null(1)) as ArrayRef, list(&["x"]));
    let entries = [("k", text), ("gone", null), ("tags", tags)];
    let entries =
        entries.into_iter().map(|(name, column)| (field(name, &column), column)).collect::<Vec<_>>();
    let object: ArrayRef = Arc::new(StructArray::from(entries));
    assert_eq!(meta(object).unwrap().unwrap(), r#"{"k":"a\"b","tags":["x"]}"#);
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    map.keys().append_value("k");
    map.values().append_value("v");
    map.append(true).unwrap();
    assert_eq!(meta(Arc::new(map.finish())).unwrap().unwrap(), r#"{"k":"v"}"#);
    assert_eq!(meta(list(&["x", "y"])).unwrap().unwrap(), r#"{"meta":["x","y"]}"#);
    assert_eq!(meta(texts(&[r#" {"a": 1} "#])).unwrap().unwrap().trim(), r#"{"a": 1}"#);
    assert_eq!(meta(texts(&["null"])).unwrap(), None);
    for (text, reason) in [
        ("[1]", Reason::WrongType),
        ("7", Reason::WrongType),
        ("", Reason::InvalidJson),
        ("{", Reason::InvalidJson),
        (r#"{"a":"\ud83d"}"#, Reason::InvalidJson),
    ] {
        assert_eq!(meta(texts(&[text])).unwrap_err().reason, reason, "{text}");
    }
}

#[test]
fn bytes_in_a_struct_are_read_as_views_and_become_digits() {
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values([[7_u8, 255]]));
    let field = Arc::new(Field::new("k", DataType::Binary, true));
    let column: ArrayRef = Arc::new(StructArray::from(vec![(field, bytes)]));
    let schema = Schema::new(vec![
        Field::new("text", DataType::Utf8, true),
        Field::new("meta", column.data_type().clone(), true),
    ]);
    let shape = Shape::of(&schema, &Fields::default()).unwrap();
    let DataType::Struct(inner) = shape.schema.field(1).data_type() else { panic!("a struct") };
    assert_eq!(inner[0].data_type(), &DataType::BinaryView);
    assert_eq!(with("meta", column).unwrap().meta.as_deref(), Some(r#"{"k":"07ff"}"#));
}

#[test]
fn columns_that_are_not_there_or_have_nulls_only_are_null() {
    let bare = with("other", texts(&["x"])).unwrap();
    let rest = (bare.event_time, bare.external_id, bare.url, bare.origin, bare.meta);
    assert_eq!(rest, (None, None, None, None, None));
    assert_eq!(with("url", Arc::new(NullArray::new(1))).unwrap().url, None);
    assert_eq!(with("meta", Arc::new(NullArray::new(1))).unwrap().meta, None);
}

#[test]
fn columns_that_cannot_hold_their_field_are_refused_by_name_and_type() {
    let truth: ArrayRef = Arc::new(BooleanArray::from(vec![true]));
    for key in ["id", "timestamp", "url", "source", "meta"] {
        let refused = with(key, Arc::clone(&truth)).unwrap_err();
        assert_eq!(refused.reason, Reason::WrongType);
        assert!(refused.detail.contains(&format!("column `{key}` is Boolean, not ")), "{}", refused.detail);
    }
    let refused = |entries: &[(&str, ArrayRef)]| columns(entries, &Fields::default()).unwrap_err();
    let wrong = refused(&[("text", Arc::new(Int64Array::from(vec![1])))]);
    assert_eq!(
        (wrong.reason, wrong.detail.as_str()),
        (Reason::WrongType, "column `text` is Int64, not text")
    );
    assert_eq!(refused(&[("text", Arc::new(NullArray::new(1)))]).reason, Reason::WrongType);
    let missing = refused(&[("body", texts(&["x"])), ("id", texts(&["x"]))]);
    assert_eq!(missing.reason, Reason::MissingText);
    assert_eq!(missing.detail, "there is no column `text` among `body`, `id`");
}

#[test]
fn texts_that_are_none_are_refused_as_those_of_lines_are() {
    let fields = Fields::default();
    let text: ArrayRef =
        Arc::new(StringArray::from(vec![None, Some(""), Some(" \n"), Some("a\0b"), Some("t")]));
    let columns = columns(&[("text", text)], &fields).unwrap();
    let said = [
        (Reason::WrongType, "`text` is null, not a string"),
        (Reason::EmptyText, "`text` is empty"),
        (Reason::EmptyText, "`text` is white space only"),
        (Reason::Nul, "byte 1 of `text` is NUL"),
    ];
    for (index, said) in said.into_iter().enumerate() {
        let refused = row(&columns, index, &fields, MOST).unwrap_err();
        assert_eq!((refused.reason, refused.detail.as_str()), said);
    }
    assert!(row(&columns, 4, &fields, MOST).is_ok());
}

#[test]
fn meta_of_a_type_without_a_bound_is_refused() {
    let field = |kind: DataType| DataType::Struct(vec![Field::new("k", kind, true)].into());
    let boxed = |kind| Box::new(kind);
    let bytes = DataType::Dictionary(boxed(DataType::Int32), boxed(DataType::Binary));
    let runs = DataType::RunEndEncoded(
        Arc::new(Field::new("run_ends", DataType::Int32, false)),
        Arc::new(Field::new("values", DataType::Utf8, true)),
    );
    for kind in [bytes, runs] {
        assert!(!is_meta(&field(kind.clone())), "{kind}");
        assert!(!is_meta(&kind), "{kind}");
    }
    let words = DataType::Dictionary(boxed(DataType::Int32), boxed(DataType::Utf8));
    for kind in [words, DataType::Binary, DataType::Float64, DataType::Boolean, DataType::Utf8] {
        assert!(is_meta(&field(kind.clone())), "{kind}");
    }
}

#[test]
fn meta_that_is_longer_as_json_than_a_line_may_be_is_refused_and_bytes_weigh_their_digits() {
    let fields = Fields::default();
    let columns = columns(&[("text", texts(&["t"])), ("meta", list(&["\u{1}\u{1}"]))], &fields).unwrap();
    let whole = r#"{"meta":["\u0001\u0001"]}"#;
    let meta = |most| row(&columns, 0, &fields, most).map(|decoded| decoded.meta.map(Cow::into_owned));
    assert_eq!(meta(whole.len() as u64).unwrap().as_deref(), Some(whole));
    let refused = meta(whole.len() as u64 - 1).unwrap_err();
    assert_eq!(refused.reason, Reason::TooLarge);
    assert_eq!(refused.detail, "`meta` has 25 bytes as JSON, more than 24");
    let bytes = BinaryViewArray::from_iter_values([[7_u8; 5]]);
    assert_eq!(weight(&bytes, 0, 100), 10);
}

#[test]
fn row_as_json_has_every_field_that_has_a_column() {
    let fields = Fields::default();
    let text: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
    let entries =
        [("id", Arc::new(Int64Array::from(vec![7])) as ArrayRef), ("text", text), ("meta", list(&["x"]))];
    let columns = columns(&entries, &fields).unwrap();
    let json = String::from_utf8(json(&columns, 0, &fields)).unwrap();
    assert_eq!(json, r#"{"id":7,"meta":["x"],"text":null}"#);
}

proptest! {
    #[test]
    fn rows_and_lines_of_the_same_values_are_the_same_documents(
        text in "[a-z\u{e9}\"\\\\ \u{0}]{0,12}",
        id in proptest::option::of("[a-z]{0,4}"),
        time in proptest::option::of(-100_000_000_000_000_i64..400_000_000_000_000),
        url in proptest::option::of("[a-z/]{0,6}"),
        key in "[a-z]{1,4}",
    ) {
        let fields = Fields::default();
        let line = serde_json::json!({"text": text, "id": id, "timestamp": time, "url": url, "meta": {key.clone(): 1}});
        let line = line.to_string();
        let mut decoder = super::super::json::Decoder::default();
        let of_line = decoder.line(line.as_bytes(), &fields);
        let number: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let field = Arc::new(Field::new(key, DataType::Int64, true));
        let entries: [(&str, ArrayRef); 5] = [
            ("url", Arc::new(StringArray::from(vec![url.as_deref()]))),
            ("timestamp", Arc::new(Int64Array::from(vec![time]))),
            ("meta", Arc::new(StructArray::from(vec![(field, number)]))),
            ("text", texts(&[&text])),
            ("id", Arc::new(StringArray::from(vec![id.as_deref()]))),
        ];
        let columns = columns(&entries, &fields).unwrap();
        prop_assert_eq!(row(&columns, 0, &fields, MOST), of_line);
    }

    #[test]
    fn weight_is_that_of_all_bytes_until_it_is_too_much(
        items in proptest::collection::vec("[a-z]{0,9}", 0..20),
        most in 0..200_u64,
    ) {
        let items: Vec<&str> = items.iter().map(String::as_str).collect();
        let column = cast(&list(&items), &held(list(&items).data_type(), Memory::Shared)).unwrap();
        let whole = 1 + items.iter().map(|item| item.len() as u64).sum::<u64>();
        let counted = weight(&column, 0, most);
        prop_assert_eq!(weight(&column, 0, u64::MAX), whole);
        prop_assert_eq!(counted > most, whole > most);
        prop_assert!(counted <= whole);
    }
}
