use std::path::Path;
use std::sync::LazyLock;

use perennial_program::error::{Kind, ProgramError as _};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::subword::SECTION;
use super::*;

/// A byte-level BPE of 384 tokens: 0 is `<|endoftext|>`, 1 `<|pad|>`, then the 256 bytes and 126
/// merges, trained by [`trained`].
pub(crate) const TINY: &[u8] = include_bytes!("tiny.json");

pub(crate) fn parse(file: &Value, boundary: Option<&str>) -> Result<Subword, LoadError> {
    Subword::parse(file.to_string().as_bytes(), Path::new("t.json"), boundary)
}

pub(crate) fn tiny() -> Tokenizer {
    static ONE: LazyLock<Arc<Subword>> =
        LazyLock::new(|| Arc::new(Subword::parse(TINY, Path::new("tiny.json"), None).unwrap()));
    Tokenizer::Subword(Arc::clone(&ONE))
}

fn tiny_with(change: impl FnOnce(&mut Value)) -> Value {
    let mut file: Value = serde_json::from_slice(TINY).unwrap();
    change(&mut file);
    file
}

/// Texts of the bundled stream.
fn bundled() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/stream.jsonl.zst");
    let lines = zstd::decode_all(&std::fs::read(path).unwrap()[..]).unwrap();
    // Some lines are no UTF-8 on purpose.
    let lines = String::from_utf8_lossy(&lines);
    let texts = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    texts.filter_map(|value| Some(value.get("text")?.as_str()?.to_owned())).collect()
}

/// A tokenizer trained on the first 1,000 bytes of every tenth of the first 600 bundled texts.
fn trained() -> String {
    let texts = bundled();
    let begin = |text: &String| text[..text.floor_char_boundary(1_000)].to_owned();
    let texts: Vec<String> = texts.iter().step_by(10).take(60).map(begin).collect();
    let mut tokenizer = Inner::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    let special = ["<|endoftext|>", "<|pad|>"].map(|content| AddedToken::from(content, true));
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(384)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.to_vec())
        .build();
    tokenizer.train(&mut TrainerWrapper::BpeTrainer(trainer), texts.iter()).unwrap();
    tokenizer.to_string(false).unwrap()
}

fn encode(tokenizer: &Tokenizer, text: &str, passages: &[u32]) -> Tokens {
    tokenizer.encode(text.into(), passages).unwrap()
}

fn subword(tokens: &Tokens) -> &Encoding {
    let Tokens::Subword(encoding) = tokens else { panic!("bytes") };
    encoding
}

fn all(tokens: &Tokens, first: u64, room: usize) -> (Vec<i32>, Vec<i32>) {
    let (mut inputs, mut targets) = (vec![-1], vec![-1]);
    tokens.append(first, room, &mut inputs, &mut targets);
    // What was there stays.
    assert_eq!((inputs.remove(0), targets.remove(0), inputs.len()), (-1, -1, targets.len()));
    (inputs, targets)
}

fn bytes(text: &str) -> Tokens {
    encode(&Tokenizer::Bytes, text, &[])
}

/// Ends of passages of these lengths, as many as `text` has, each at the end of a character.
fn passages(text: &str, lengths: &[usize]) -> Vec<u32> {
    let (mut ends, mut end) = (Vec::new(), 0);
    for length in lengths.iter().cycle() {
        end = text.ceil_char_boundary(end + length);
        ends.push(u32::try_from(end).unwrap());
        if end >= text.len() {
            break;
        }
    }
    ends
}

#[test]
fn record_begins_and_ends_at_a_boundary() {
    assert_eq!(all(&bytes("ab"), 0, 9), (vec![256, 97, 98], vec![97, 98, 256]));
    assert_eq!(all(&bytes(""), 0, 9), (vec![256], vec![256]));
    assert_eq!(all(&bytes("é"), 1, 9), (vec![0xC3, 0xA9], vec![0xA9, 256]));
    // ` in` is one token of the tiny file.
    let tokens = encode(&tiny(), "a in", &[4]);
    let (a, within) = (subword(&tokens).tokens()[0], subword(&tokens).tokens()[1]);
    assert_eq!(all(&tokens, 0, 9), (vec![0, a, within], vec![a, within, 0]));
    assert_eq!(all(&encode(&tiny(), "", &[0]), 0, 9), (vec![0], vec![0]));
}

#[test]
fn nothing_is_appended_past_the_end() {
    for tokens in [bytes("ab"), encode(&tiny(), "ab", &[2])] {
        assert_eq!(all(&tokens, 3, 9), (vec![], vec![]));
        assert_eq!(all(&tokens, u64::MAX, 9), (vec![], vec![]));
    }
}

#[test]
fn hash_is_the_same_in_every_build() {
    assert_eq!(Tokenizer::Bytes.hash(), "2e06c65a4aff4a33f8e3426575419e61");
    assert_eq!(tiny().hash(), "588906c128c46e9e141eb93216214dfb");
}

#[test]
fn hash_names_the_file_and_the_boundary() {
    let file = tiny_with(|_| {});
    let hash = |file: &Value, boundary| parse(file, boundary).unwrap().hash().to_owned();
    let ours = hash(&file, None);
    assert_eq!(hash(&file, Some("<|endoftext|>")), ours);
    assert_ne!(hash(&file, Some("<|pad|>")), ours);
    let other = tiny_with(|file| file["pre_tokenizer"]["add_prefix_space"] = json!(true));
    assert_ne!(hash(&other, None), ours);
    assert_ne!(tiny(), Tokenizer::Bytes);
    assert_eq!(tiny(), tiny());
}

#[test]
fn committed_file_is_what_training_makes() {
    assert_eq!(trained().as_bytes(), TINY);
}

#[test]
fn vocabulary_holds_added_tokens_beyond_the_model() {
    assert_eq!((tiny().vocabulary(), tiny().boundary(), tiny().pad()), (384, 0, 0));
    let file = tiny_with(|file| {
        let mut token = file["added_tokens"][0].clone();
        (token["content"], token["id"]) = (json!("</s>"), json!(384));
        file["added_tokens"].as_array_mut().unwrap().push(token);
    });
    let subword = parse(&file, Some("</s>")).unwrap();
    assert_eq!((subword.vocabulary(), subword.boundary()), (385, 384));
}

#[test]
fn special_tokens_in_a_text_are_ordinary_text() {
    let text = "a <|endoftext|> and <|pad|><|endoftext|>";
    for boundary in [None, Some("<|pad|>")] {
        let tokenizer = Tokenizer::Subword(Arc::new(parse(&tiny_with(|_| {}), boundary).unwrap()));
        let tokens = encode(&tokenizer, text, &[u32::try_from(text.len()).unwrap()]);
        assert!(subword(&tokens).tokens().iter().all(|token| *token > 1));
        assert_eq!(tokenizer.decode(subword(&tokens).tokens()), text);
    }
}

/// A file of another model without pre-tokenizer whose pieces are single letters and `</s>`.
pub(crate) fn pieces(unknown: bool) -> Value {
    let mut vocab = vec![json!(["<unk>", 0.0]), json!(["</s>", 0.0])];
    vocab.extend("abcs</> ".chars().map(|c| json!([c.to_string(), -9.0])));
    let token = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "normalized": false,
               "single_word": false, "lstrip": false, "rstrip": false})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [token(0, "<unk>"), token(1, "</s>")],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "Unigram", "unk_id": unknown.then_some(0), "vocab": vocab, "byte_fallback": false},
    })
}

#[test]
fn boundary_that_the_model_has_for_a_piece_is_cut_where_a_text_spells_it() {
    let tokenizer = Tokenizer::Subword(Arc::new(parse(&pieces(true), None).unwrap()));
    assert_eq!(tokenizer.boundary(), 1);
    let text = "a</s>b</s>";
    let tokens = encode(&tokenizer, text, &[2, 6, 10]);
    let letters: Vec<i32> =
        text.chars().map(|c| 2 + i32::try_from("abcs</> ".find(c).unwrap()).unwrap()).collect();
    assert_eq!(subword(&tokens).tokens(), letters);
    let known = Known::Subword(subword(&tokens));
    assert_eq!([0, 3, 7].map(|place| known.token_from(&[2, 6, 10], place)), [0, 3, 7].map(Some));
}

#[test]
fn boundary_that_a_normaliser_makes_is_cut_within_what_it_is_made_of() {
    let mut file = pieces(true);
    file["normalizer"] = json!({"type": "NFKC"});
    let tokenizer = Tokenizer::Subword(Arc::new(parse(&file, None).unwrap()));
    let plain = encode(&tokenizer, "a</s>b</s>", &[10]);
    // Fullwidth brackets, of three bytes each.
    let tokens = encode(&tokenizer, "a\u{ff1c}/s\u{ff1e}b</s>", &[10, 14]);
    assert_eq!(subword(&tokens).tokens(), subword(&plain).tokens());
    assert_eq!(Known::Subword(subword(&tokens)).token_from(&[10, 14], 11), Some(7));
}

#[test]
fn text_whose_characters_are_the_boundary_each_is_an_error_that_says_where() {
    let mut file = pieces(true);
    (file["model"]["vocab"][1][0], file["added_tokens"][1]["content"]) = (json!("\u{b6}"), json!("\u{b6}"));
    let subword = parse(&file, Some("\u{b6}")).unwrap();
    assert!(subword.encode("abc", &[3]).is_ok());
    let error = subword.encode("ab\u{b6}", &[4]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the tokenizer makes the boundary `\u{b6}` of the text's byte 2 and those after it"
    );
    assert!(error.hint().contains("`batch.boundary`"));
}

#[test]
fn boundary_that_is_the_unknown_token_is_refused() {
    let refused = |file: &Value, boundary| {
        let error = parse(file, boundary).unwrap_err();
        assert!(error.hint().contains("`batch.boundary`"));
        error.to_string()
    };
    assert!(refused(&pieces(true), Some("<unk>")).contains("`<unk>` is the model's unknown token too"));
    let named = tiny_with(|file| file["model"]["unk_token"] = json!("<|endoftext|>"));
    assert!(refused(&named, None).contains("`<|endoftext|>` is the model's unknown token too"));
    assert!(parse(&named, Some("<|pad|>")).is_ok());
}

#[test]
fn model_that_would_leave_characters_out_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let error = parse(&tiny_with(change), None).unwrap_err();
        assert!(matches!(error, LoadError::Drops { .. }), "{error}");
        assert!(error.to_string().starts_with("names `t.json`, whose model drops unknown characters"));
        assert!(error.hint().contains("`byte_fallback`"));
    };
    let whitespace = || json!({"type": "WhitespaceSplit"});
    refused(&|file| file["pre_tokenizer"] = json!(null));
    refused(&|file| file["pre_tokenizer"] = whitespace());
    // It has no token for any byte to fall back to.
    refused(&|file| {
        (file["pre_tokenizer"], file["model"]["byte_fallback"]) = (whitespace(), json!(true));
    });
    // Trained without the whole byte alphabet: the character of byte F0.
    refused(&|file| {
        let vocab = file["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove("\u{f0}").unwrap();
        vocab.insert("no byte".to_owned(), id);
    });
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let kept: [&dyn Fn(&mut Value); 4] = [
        &|file| {
            file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true}, level]});
        },
        &|file| {
            file["pre_tokenizer"] = json!(null);
            file["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "ByteLevel"}]});
        },
        &|file| {
            file["pre_tokenizer"] = whitespace();
            file["model"]["unk_token"] = json!("<|pad|>");
        },
        &|file| {
            (file["pre_tokenizer"], file["model"]["byte_fallback"]) = (json!(null), json!(true));
            let vocab = file["model"]["vocab"].as_object_mut().unwrap();
            vocab.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), json!(384 + byte))));
        },
    ];
    for change in kept {
        let subword = parse(&tiny_with(change), None).unwrap();
        assert!(!subword.encode("\u{1f980}", &[4]).unwrap().tokens().is_empty());
    }
}

#[test]
fn settings_that_lose_text_are_named() {
    let losses = |file: &Value| parse(file, None).unwrap().losses().to_vec();
    let none: [&str; 0] = [];
    assert_eq!(losses(&tiny_with(|_| {})), none);
    assert_eq!(losses(&tiny_with(|file| file["model"]["unk_token"] = json!("<|pad|>"))), none);
    assert_eq!(losses(&pieces(true)), ["unk_token"]);
    assert_eq!(losses(&pieces(false)), none);
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let mut file = pieces(true);
    file["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "NFKC"}, {"type": "Lowercase"}, space]});
    file["pre_tokenizer"] = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "Removed",
                                   "invert": false});
    assert_eq!(losses(&file), ["unk_token", "NFKC", "Lowercase", "Split"]);
}

#[test]
fn text_without_tokens_is_an_error_not_a_shorter_text() {
    let tokenizer = Tokenizer::Subword(Arc::new(parse(&pieces(false), None).unwrap()));
    let source = tokenizer.encode("ab漢".into(), &[5]).unwrap_err();
    let error = crate::error::ReplayError::Text {
        shard: "a".parse().unwrap(),
        seq: perennial_schemas::id::Seq(7),
        source,
    };
    assert_eq!(error.kind(), Kind::Config);
    assert_eq!(error.to_string(), "record 7 of shard `a` cannot be tokenised");
}

#[test]
fn passages_begin_by_the_offsets_of_the_text_that_was_read_not_of_its_normal_form() {
    let file = tiny_with(|file| file["normalizer"] = json!({"type": "NFC"}));
    let tokenizer = Tokenizer::Subword(Arc::new(parse(&file, None).unwrap()));
    // Three bytes each that NFC makes two of, which are two tokens.
    let text = "e\u{301}".repeat(40);
    let ends: Vec<u32> = (1..=10).map(|n| n * 12).collect();
    let tokens = encode(&tokenizer, &text, &ends);
    assert_eq!(tokenizer.decode(subword(&tokens).tokens()), "é".repeat(40));
    let each = (tokens.count() - 1) / 40;
    assert_eq!((tokens.count() - 1) % 40, 0);
    let known = Known::Subword(subword(&tokens));
    for passage in 1..10 {
        assert_eq!(known.token_from(&ends, passage * 12 + 1), Some(1 + passage * 4 * each), "{passage}");
    }
}

#[test]
fn settings_of_the_file_that_are_not_for_records_are_ignored_and_named() {
    let file = tiny_with(|file| {
        file["truncation"] =
            json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
        file["padding"] = json!({"strategy": {"Fixed": 100}, "direction": "Right", "pad_to_multiple_of": null,
                                 "pad_id": 1, "pad_type_id": 0, "pad_token": "<|pad|>"});
        file["model"]["dropout"] = json!(0.5);
        file["post_processor"] =
            json!({"type": "BertProcessing", "sep": ["<|pad|>", 1], "cls": ["<|pad|>", 1]});
    });
    let changed = parse(&file, None).unwrap();
    assert_eq!(changed.ignored(), ["truncation", "padding", "dropout"]);
    let text = bundled()[1].clone();
    let ends = passages(&text, &[300]);
    assert_eq!(changed.encode(&text, &ends).unwrap(), *subword(&encode(&tiny(), &text, &ends)));
}

#[test]
fn long_text_is_tokenised_in_sections_that_begin_at_passages() {
    let texts = bundled().join("\n\n");
    let mut text = texts.repeat(1 + (2 * SECTION + 5_000) / texts.len());
    text.truncate(text.floor_char_boundary(2 * SECTION + 5_000));
    let ends = passages(&text, &[700, 1_000, 333]);
    let tokens = encode(&tiny(), &text, &ends);
    let mut expected = Vec::new();
    let mut start = 0;
    for end in ends.iter().map(|end| *end as usize) {
        if end == text.len() || end - start >= SECTION {
            expected.extend_from_slice(subword(&encode(&tiny(), &text[start..end], &[])).tokens());
            start = end;
        }
    }
    assert_eq!(subword(&tokens).tokens(), expected);
    let known = Known::Subword(subword(&tokens));
    let at = ends.partition_point(|end| (*end as usize) < SECTION);
    let before = subword(&encode(&tiny(), &text[..ends[at] as usize], &[])).count();
    assert_eq!(known.token_from(&ends, u64::from(ends[at]) + 1), Some(before));
    // Ordinary texts are not cut at all.
    let ordinary = &text[..text.floor_char_boundary(SECTION / 2)];
    let plain = Inner::from_bytes(TINY).unwrap().encode(ordinary, false).unwrap();
    let tokens = encode(&tiny(), ordinary, &passages(ordinary, &[700]));
    assert!(
        subword(&tokens)
            .tokens()
            .iter()
            .map(|token| token.cast_unsigned())
            .eq(plain.get_ids().iter().copied())
    );
}

#[test]
fn file_that_is_no_tokenizer_is_refused_with_its_place_and_what_is_there() {
    let refused = |content: &[u8], boundary| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.json");
        std::fs::write(&path, content).unwrap();
        Subword::load(&path, boundary).unwrap_err().to_string()
    };
    let missing = Subword::load(Path::new("no/such.json"), None).unwrap_err().to_string();
    assert!(missing.contains("names `no/such.json`, which cannot be read"), "{missing}");
    assert!(refused(b"{", None).contains("t.json`, which is not a `tokenizer.json`"));
    assert!(refused(b"{}", None).contains("it lists no `added_tokens`"));
    assert!(refused(b"{\"added_tokens\": []}", None).contains("which is not a `tokenizer.json`"));
    let boundary = refused(TINY, Some("</s>"));
    assert!(boundary.contains("`</s>` is not a special token; the special tokens of"), "{boundary}");
    assert!(boundary.ends_with("are `<|endoftext|>`, `<|pad|>`"), "{boundary}");
    let renamed = |from: &str, to: &str| String::from_utf8_lossy(TINY).replace(from, to);
    let none = refused(renamed("<|endoftext|>", "<|start|>").as_bytes(), None);
    assert!(none.contains("it has no special token whose name means the end of a text"), "{none}");
    let two = refused(renamed("<|pad|>", "</s>").as_bytes(), None);
    assert!(two.contains("more than one special token whose name means the end of a text"), "{two}");
    let moved = tiny_with(|file| file["added_tokens"][1]["id"] = json!(7)).to_string();
    assert!(refused(moved.as_bytes(), None).contains("gives `<|pad|>` the id 7, its vocabulary id 1"));
}

#[test]
fn tokens_of_gpt_2_are_those_that_everybody_has() {
    #[expect(clippy::disallowed_methods, reason = "a test finds its data by the environment")]
    let Some(folder) = std::env::var_os("PERENNIAL_DATA") else {
        eprintln!("not run: PERENNIAL_DATA is not set");
        return;
    };
    let tokenizer = gpt_2(Path::new(&folder));
    assert_eq!((tokenizer.boundary(), tokenizer.vocabulary()), (50_256, 50_257));
    let ids = |text: &str| subword(&encode(&tokenizer, text, &[])).tokens().to_vec();
    assert_eq!(ids("Hello world"), [15_496, 995]);
    assert_eq!(ids("<|endoftext|>"), [27, 91, 437, 1_659, 5_239, 91, 29]);
    let lines = std::fs::read(Path::new(&folder).join("stream-small.jsonl.zst")).unwrap();
    let lines = String::from_utf8(zstd::decode_all(&lines[..]).unwrap()).unwrap();
    let (mut bytes, mut tokens) = (0, 0);
    for line in lines.lines().step_by(20) {
        let value: Value = serde_json::from_str(line).unwrap();
        let text = value["text"].as_str().unwrap();
        let ids = ids(text);
        assert_eq!(tokenizer.decode(&ids), text);
        (bytes, tokens) = (bytes + text.len(), tokens + ids.len());
    }
    // Of all of it, 2.68 bytes a token.
    assert!(bytes > 2 * tokens && bytes < 4 * tokens, "{bytes} bytes in {tokens} tokens");
}

/// GPT-2's tokenizer, of the files that it came in.
pub(crate) fn gpt_2(folder: &Path) -> Tokenizer {
    let file = |name: &str| folder.join("tokenizers/gpt2").join(name).to_str().unwrap().to_owned();
    let model = BPE::from_file(&file("encoder.json"), &file("vocab.bpe")).build().unwrap();
    let mut inner = Inner::new(model);
    inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    inner.with_decoder(Some(ByteLevel::new(false, true, true)));
    inner.add_special_tokens([AddedToken::from("<|endoftext|>", true)]).unwrap();
    let json = inner.to_string(false).unwrap();
    Tokenizer::Subword(Arc::new(Subword::parse(json.as_bytes(), Path::new("gpt2.json"), None).unwrap()))
}

/// Texts that are difficult for a tokenizer.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,60}",
        "[ a-e\\n]{0,200}",
        "( in|the |\\n\\n|é|漢|<\\|endoftext\\|>|\u{301}|\r\n){0,40}"
    ]
}

proptest! {
    #[test]
    fn pieces_of_a_record_are_the_whole(text in texts(), cuts in proptest::collection::vec(1_usize..9, 1..60)) {
        for tokens in [bytes(&text), encode(&tiny(), &text, &passages(&text, &[7]))] {
            let whole = all(&tokens, 0, usize::from(u16::MAX));
            prop_assert_eq!(whole.0.len() as u64, tokens.count());
            prop_assert_eq!(&whole.0[1..], &whole.1[..whole.1.len() - 1]);
            let mut pieces = (Vec::new(), Vec::new());
            for cut in cuts.iter().cycle() {
                let (inputs, targets) = all(&tokens, pieces.0.len() as u64, *cut);
                if inputs.is_empty() {
                    break;
                }
                pieces.0.extend(inputs);
                pieces.1.extend(targets);
            }
            prop_assert_eq!(pieces, whole);
        }
    }

    #[test]
    fn tokens_of_a_text_are_the_text(text in texts()) {
        let tokens = encode(&tiny(), &text, &passages(&text, &[7]));
        prop_assert_eq!(tiny().decode(&all(&tokens, 0, usize::from(u16::MAX)).0), text.clone());
        prop_assert_eq!(Tokenizer::Bytes.decode(&all(&bytes(&text), 0, usize::from(u16::MAX)).0), text.clone());
        prop_assert_eq!(tokens.text_bytes(), text.len() as u64);
    }

    #[test]
    fn token_from_is_that_of_a_scan(lengths in proptest::collection::vec(1_u32..9, 1..9)) {
        let mut starts = vec![0_u64];
        let mut ends = Vec::new();
        for length in &lengths {
            ends.push(ends.last().copied().unwrap_or(0) + length);
            starts.push(u64::from(*ends.last().unwrap()) + 1);
        }
        let known = Known::Bytes(u64::from(*ends.last().unwrap()));
        for token in 0..=u64::from(*ends.last().unwrap()) {
            let slow = starts.iter().find(|start| **start >= token);
            prop_assert_eq!(known.token_from(&ends, token), slow.copied());
        }
    }

    #[test]
    fn passage_of_subwords_starts_at_its_first_token(text in texts(), lengths in proptest::collection::vec(1_usize..30, 1..6)) {
        let ends = passages(&text, &lengths);
        let tokens = encode(&tiny(), &text, &ends);
        let mut plain = Inner::from_bytes(TINY).unwrap();
        plain.set_encode_special_tokens(true);
        let plain = plain.encode(text.as_str(), false).unwrap();
        prop_assert_eq!(plain.len() as u64 + 1, tokens.count());
        let known = Known::Subword(subword(&tokens));
        let mut last = 0;
        for place in 0..=text.len() as u64 + 1 {
            let (_, begins) = ends.split_last().unwrap();
            let slow = match begins.iter().find(|end| u64::from(**end) + 1 >= place) {
                _ if place == 0 => 0,
                None => tokens.count(),
                Some(begin) => {
                    let first = plain.get_offsets().iter().position(|(start, _)| start >= &(*begin as usize));
                    first.map_or(plain.len() as u64, |first| first as u64 + 1)
                }
            };
            let start = known.token_from(&ends, place).unwrap();
            prop_assert_eq!(start, slow);
            prop_assert!(start >= last && start <= tokens.count());
            last = start;
        }
    }
}
