//! Text that a `tokenizer.json` loses: characters that its model does not know, and text that its normaliser
//! or pre-tokenizer removes or unifies.

use serde_json::Value;
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{Model as _, Tokenizer};

/// Normalisers that keep different texts different.
const KEEP: &[&str] = &["ByteLevel", "Prepend"];

/// Pre-tokenizers that remove characters.
const TAKE: &[&str] = &["Whitespace", "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit"];

/// The losses of a tokenizer.
#[derive(Debug)]
pub struct Losses {
    /// The token of unknown characters, if the model has one.
    pub unknown: Option<u32>,
    /// Whether the model drops unknown characters silently.
    pub drops: bool,
    /// The settings that lose text: `unk_token`, a normaliser's or a pre-tokenizer's type.
    pub settings: Vec<String>,
}

impl Losses {
    /// The losses of a file and the tokenizer that was read from it.
    pub fn of(file: &Value, inner: &Tokenizer) -> Self {
        let normalizers = steps(file.get("normalizer"), "normalizers");
        let splitters = steps(file.get("pre_tokenizer"), "pretokenizers");
        let model = file.get("model").unwrap_or(&Value::Null);
        let (named, drops) = match inner.get_model() {
            ModelWrapper::BPE(bpe) => (bpe.unk_token.as_deref(), bpe.unk_token.is_none()),
            ModelWrapper::WordPiece(words) => (Some(words.unk_token.as_str()), false),
            ModelWrapper::WordLevel(words) => (Some(words.unk_token.as_str()), false),
            // An unknown character is an error.
            ModelWrapper::Unigram(_) => (None, false),
        };
        let numbered = model.get("unk_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let unknown = named.and_then(|token| inner.get_model().token_to_id(token)).or(numbered);
        let leveled = normalizers.iter().chain(&splitters).any(|step| kind(step) == "ByteLevel");
        let whole = (leveled && has_alphabet(model, inner)) || has_bytes(model, inner);
        let mut settings = Vec::new();
        if unknown.is_some() && !whole {
            settings.push("unk_token".to_owned());
        }
        let keeps = |step: &Value| KEEP.contains(&kind(step)) || replaces_spaces(step);
        let takes = |step: &Value| TAKE.contains(&kind(step)) || text(step, "behavior") == "Removed";
        settings.extend(normalizers.iter().filter(|step| !keeps(step)).map(|step| kind(step).to_owned()));
        settings.extend(splitters.iter().filter(|step| takes(step)).map(|step| kind(step).to_owned()));
        Self { unknown, drops: drops && !whole, settings }
    }
}

/// The step, or the steps of a sequence, which its key `parts` lists.
fn steps<'a>(step: Option<&'a Value>, parts: &str) -> Vec<&'a Value> {
    let Some(step) = step.filter(|step| !step.is_null()) else { return Vec::new() };
    match step.get(parts).and_then(Value::as_array) {
        Some(all) => all.iter().flat_map(|step| steps(Some(step), parts)).collect(),
        None => vec![step],
    }
}

fn text<'a>(step: &'a Value, key: &str) -> &'a str {
    step.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn kind(step: &Value) -> &str {
    text(step, "type")
}

/// Whether the step replaces spaces as SentencePiece does.
fn replaces_spaces(step: &Value) -> bool {
    let pattern = step.get("pattern").map(|pattern| text(pattern, "String"));
    kind(step) == "Replace" && pattern == Some(" ") && text(step, "content") == "\u{2581}"
}

/// Whether a byte occurs in UTF-8.
const fn occurs(byte: u32) -> bool {
    !matches!(byte, 0xC0 | 0xC1 | 0xF5..)
}

/// Whether the model has the character of each byte at every position of a word.
fn has_alphabet(model: &Value, inner: &Tokenizer) -> bool {
    let (prefix, suffix) = (text(model, "continuing_subword_prefix"), text(model, "end_of_word_suffix"));
    let known = |piece: String| inner.get_model().token_to_id(&piece).is_some();
    ByteLevel::alphabet().into_iter().all(|c| {
        // Bytes that cannot occur are among those that are their own character; the others' characters are
        // above.
        let byte = u32::from(c);
        let forms = [("", ""), (prefix, ""), ("", suffix), (prefix, suffix)];
        (byte < 256 && !occurs(byte))
            || forms.into_iter().all(|(before, after)| known(format!("{before}{c}{after}")))
    })
}

/// Whether the model falls back to bytes and has them all.
fn has_bytes(model: &Value, inner: &Tokenizer) -> bool {
    let falls = model.get("byte_fallback").and_then(Value::as_bool).unwrap_or_default();
    let known = |byte: u32| inner.get_model().token_to_id(&format!("<{byte:#04X}>")).is_some();
    falls && (0..256).filter(|byte| occurs(*byte)).all(known)
}
