//! The cost of a subword tokenizer: GPT-2's over real text, compared with the library that reads its file,
//! and over one record that is longer and longer, for how time grows with it.
//!
//! It reads `tokenizers/gpt2` and the first documents of `stream.jsonl.zst` in the folder that
//! `PERENNIAL_DATA` names; without it nothing is measured.
#![expect(clippy::expect_used, reason = "a benchmark without its data has nothing to do but fail")]

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use criterion::Criterion;
use perennial_replay::tokenise::Subword;
use serde::Deserialize;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

#[path = "../../ingest/benches/table/mod.rs"]
mod table;

use table::{Case, Table, time};

/// Bytes of text that are read.
const MOST: usize = 4_000_000;
/// Bytes of the long records.
const LONG: [usize; 2] = [1 << 20, 4 << 20];
const FLOOR: &str = "floor: the library, one thread";

#[derive(Deserialize)]
struct Line {
    text: String,
}

fn main() {
    #[expect(clippy::disallowed_methods, reason = "a benchmark finds its data by the environment")]
    let Some(folder) = std::env::var_os("PERENNIAL_DATA").map(PathBuf::from) else {
        println!("PERENNIAL_DATA names no folder with a tokenizer: nothing is measured");
        return;
    };
    let mut criterion = Criterion::default().configure_from_args();
    let mut table = Table::new();
    measure(&mut criterion, &mut table, &folder);
    criterion.final_summary();
    table.print("subword tokens");
}

fn measure(criterion: &mut Criterion, table: &mut Table, folder: &Path) {
    let library = gpt_2(folder);
    let file = library.to_string(false).expect("it is written");
    let subword = Subword::parse(file.as_bytes(), Path::new("gpt2.json"), None).expect("it is read");
    let texts = texts(folder);
    let bytes: usize = texts.iter().map(String::len).sum();
    let tokens: usize = texts.iter().map(|text| encode(&subword, text)).sum();
    println!("{} documents of {bytes} bytes: {:.3} tokens a byte", texts.len(), tokens as f64 / bytes as f64);

    let mut group = criterion.benchmark_group("tokenise");
    group.sample_size(10);
    let case = |name: &str, floor, bytes: usize| {
        let size = bytes as f64 / 1e6;
        Case { name: name.to_owned(), floor, size, unit: "MB" }
    };
    let clock = table.clock.clone();
    table.case(&mut group, case(FLOOR, "", bytes), || {
        let count = |text: &String| library.encode(text.as_str(), false).expect("it has tokens").len();
        time(&clock, || texts.iter().map(count).sum::<usize>())
    });
    table.case(&mut group, case("records, one by one", FLOOR, bytes), || {
        time(&clock, || texts.iter().map(|text| encode(&subword, text)).sum::<usize>())
    });
    let all = texts.concat();
    for long in LONG {
        let text = all.get(..all.floor_char_boundary(long)).unwrap_or_default();
        let name = format!("one record of {} MiB, all cores", long >> 20);
        table.case(&mut group, case(&name, FLOOR, text.len()), || time(&clock, || encode(&subword, text)));
    }
    group.finish();
}

/// How many tokens a text has that ingest would cut at its line ends.
fn encode(subword: &Subword, text: &str) -> usize {
    let ends = text.match_indices('\n').map(|(at, _)| at + 1).chain([text.len()]);
    let ends: Vec<u32> = ends.map(|end| u32::try_from(end).expect("a text is small")).collect();
    subword.encode(text, &ends).expect("it has tokens").tokens().len()
}

fn texts(folder: &Path) -> Vec<String> {
    let file = File::open(folder.join("stream.jsonl.zst")).expect("the stream is there");
    let mut decoder = zstd::stream::read::Decoder::new(file).expect("it is zstd");
    decoder.window_log_max(27).expect("a window of 128 MiB");
    let (mut texts, mut bytes) = (Vec::new(), 0);
    for line in BufReader::new(decoder).split(b'\n') {
        let line: Line = serde_json::from_slice(&line.expect("it decodes")).expect("a document");
        bytes += line.text.len();
        texts.push(line.text);
        if bytes >= MOST {
            break;
        }
    }
    texts
}

/// GPT-2's tokenizer, of the files that it came in.
fn gpt_2(folder: &Path) -> Tokenizer {
    let file = |name: &str| folder.join("tokenizers/gpt2").join(name).display().to_string();
    let model =
        BPE::from_file(&file("encoder.json"), &file("vocab.bpe")).build().expect("its files are there");
    let mut inner = Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    inner.with_decoder(Some(ByteLevel::new(false, true, true)));
    inner.add_special_tokens([AddedToken::from("<|endoftext|>", true)]).expect("a token");
    inner
}
