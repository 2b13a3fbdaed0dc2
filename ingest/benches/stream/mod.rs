//! What the benchmarks of ingest read: the bundled stream, or with `PERENNIAL_DATA` the first 60 MB of
//! `stream.jsonl.zst` in that folder.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Bytes of lines that are read of the large stream.
const MOST: u64 = 60_000_000;

/// Whole lines of JSON, and the words for where they are from.
pub fn lines() -> (Vec<u8>, &'static str) {
    #[expect(clippy::disallowed_methods, reason = "a benchmark finds its data by the environment")]
    let large = std::env::var_os("PERENNIAL_DATA").map(|root| Path::new(&root).join("stream.jsonl.zst"));
    let from = if large.is_some() { "the first 60 MB of the large stream" } else { "the bundled stream" };
    let bundled = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/stream.jsonl.zst");
    let file = File::open(large.unwrap_or_else(bundled)).expect("the stream is there");
    let mut decoder = zstd::stream::read::Decoder::new(file).expect("it is zstd");
    decoder.window_log_max(27).expect("a window of 128 MiB");
    let mut lines = Vec::new();
    decoder.take(MOST).read_to_end(&mut lines).expect("it decodes");
    let end = memchr::memrchr(b'\n', &lines).map_or(0, |at| at + 1);
    lines.truncate(end);
    (lines, from)
}
