//! Whether replay reads every token equally often: lays out rows from a synthetic buffer, without text, and
//! prints the exposure of groups of tokens, by the size of their record, their decile in it, and nearness to
//! its ends. 1 is exact: a group's exposure is its part of the tokens that were read over its part of the
//! buffer's tokens, each times the weight of its member.
//!
//! `cargo bench -p perennial-replay --bench exposure -- [TOKENS [BUFFER_BYTES]]`: tokens to lay out for each
//! configuration, by default 4e9, and the size of the buffer, by default 2e8. The exit status is 1 if an
//! exposure is further from 1 than 2 % and three standard errors.
//!
//! # Standard error
//! Tokens of a chunk are read together, so they are not independent; draws are. Let a draw read a chunk of L
//! tokens, a of them in the group, whose part of the buffer is r, so that E\[a\] = r E\[L\]. Rows of G tokens
//! take G / E\[L\] draws. By the central limit theorem for ratios (a sum of a over a sum of L, linearised at
//! its mean) the exposure has the standard error `sqrt(E[(a - r L)^2] / (G E[L])) / r`. The expectations are
//! over all chunks of the buffer, exactly: nothing is estimated from the sample that is tested.
#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark stops where it cannot go on")]
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::process::ExitCode;

use perennial_replay::buffer::{Member, Members};
use perennial_replay::draw::{Drawn, Draws, Source};
use perennial_replay::index::{Index, Record};
use perennial_replay::tokenise::{Contents, Tokenizer, byte_tokens};
use perennial_schemas::id::{Offset, RecordId, Revision, Seq};
use perennial_schemas::seed::{Seed, below};
use perennial_schemas::wire::DrawPlace;

/// Classes of record size: 32 B to 1 MB, each twice the one before.
const CLASSES: usize = 15;
const SMALLEST: u64 = 32;
/// Tokens near an end of a record that are a group, if the record has more than [`LARGE`] tokens.
const NEAR: u64 = 128;
const LARGE: u64 = 2048;
/// The draw weights of a weighted buffer.
const WEIGHTS: [f32; 5] = [1.0, 0.25, 0.5, 2.0, 4.0];

const DECILES: usize = CLASSES;
const FIRST: usize = DECILES + 10;
const LAST: usize = FIRST + 1;
const HEAD: usize = LAST + 1;
const TAIL: usize = HEAD + 1;
const WEIGHTED: usize = TAIL + 1;
const GROUPS: usize = WEIGHTED + WEIGHTS.len();

/// Row length and whether members have weights.
const CONFIGURATIONS: [(u64, bool); 4] = [(256, false), (1024, false), (4096, false), (1024, true)];

/// A buffer without texts: the offset of a member is its index.
struct Population {
    index: Index,
    members: Vec<Member>,
    /// For each member its class of size and its index in the draw weights.
    groups: Vec<(usize, usize)>,
}

impl Population {
    /// Records of about `bytes` bytes in all, with as many bytes in each class of size. Inside a class the
    /// logarithm of the size is uniform.
    fn new(bytes: u64, weighted: bool) -> Self {
        let seed = Seed::new(1).child("exposure");
        let (mut records, mut members, mut groups) = (Vec::new(), Vec::new(), Vec::new());
        for class in 0..CLASSES {
            let mut left = bytes / CLASSES as u64;
            while left > 0 {
                let number = members.len() as u64;
                let hash = |what| seed.at(&[number, what]);
                let part = below(hash(0), 1 << 30) as f64 / f64::from(1 << 30);
                let bytes = ((SMALLEST << class) as f64 * part.exp2()) as u64;
                let kind = if weighted { below(hash(1), WEIGHTS.len() as u64) as usize } else { 0 };
                let (offset, seq, id) = (Offset(number), Seq(number), RecordId::from_hash(number.into()));
                let shard: perennial_schemas::id::Shard = "main".parse().expect("a name");
                let weight = weighted.then(|| WEIGHTS[kind]);
                members.push(Member { offset, shard: shard.clone(), seq, id, bytes, weight });
                let passages = [u32::try_from(bytes).expect("below 2^20")].into();
                let (source, event_time, erased) = ("files".into(), None, false);
                records.push(Record { offset, shard, seq, id, bytes, passages, source, event_time, erased });
                groups.push((class, kind));
                left = left.saturating_sub(bytes);
            }
        }
        let mut index = Index::new();
        let limit = Offset(records.len() as u64);
        index.extend(records, limit).expect("in order");
        Self { index, members, groups }
    }

    fn tokens(&self, member: usize) -> u64 {
        byte_tokens(self.members[member].bytes)
    }

    fn weight(&self, member: usize) -> f64 {
        f64::from(self.members[member].weight.unwrap_or(1.0))
    }

    /// Calls `add` with each group that has tokens in `first .. first + tokens` of a member, and their number.
    fn groups(&self, member: usize, first: u64, tokens: u64, mut add: impl FnMut(usize, u64)) {
        let (class, weight) = self.groups[member];
        let (count, end) = (self.tokens(member), first + tokens);
        add(class, tokens);
        add(WEIGHTED + weight, tokens);
        let mut from = first;
        while from < end {
            // Token t is in decile floor(10 t / n), which ends before the first t >= (decile + 1) n / 10.
            let decile = from * 10 / count;
            let until = ((decile + 1) * count).div_ceil(10).min(end);
            add(DECILES + decile as usize, until - from);
            from = until;
        }
        let overlap = |low: u64, high: u64| high.min(end).saturating_sub(low.max(first));
        add(FIRST, overlap(0, 1));
        add(LAST, overlap(count - 1, count));
        if count > LARGE {
            add(HEAD, overlap(0, NEAR));
            add(TAIL, overlap(count - NEAR, count));
        }
    }
}

fn label(group: usize) -> String {
    match group {
        DECILES..FIRST => format!("decile {}", group - DECILES + 1),
        FIRST => "record starts (first token)".to_owned(),
        LAST => "last token".to_owned(),
        HEAD => format!("first {NEAR} of > {LARGE} tokens"),
        TAIL => format!("last {NEAR} of > {LARGE} tokens"),
        WEIGHTED..GROUPS => format!("weight {}", WEIGHTS[group - WEIGHTED]),
        _ => format!("{} - {} B", SMALLEST << group, SMALLEST << (group + 1)),
    }
}

/// The part of each group, and the moments of a draw, over all chunks.
struct Moments {
    parts: Vec<f64>,
    /// E[(a - r L)^2] for each group.
    squares: Vec<f64>,
    /// E[L].
    mean: f64,
}

impl Moments {
    fn new(population: &Population, chunk: u64) -> Self {
        let (mut parts, mut all) = (vec![0.0; GROUPS], 0.0);
        let (mut aa, mut al) = (vec![0.0; GROUPS], vec![0.0; GROUPS]);
        let (mut chunks, mut l, mut ll) = (0.0, 0.0, 0.0);
        for member in 0..population.members.len() {
            let (weight, tokens) = (population.weight(member), population.tokens(member));
            all += weight * tokens as f64;
            population.groups(member, 0, tokens, |group, tokens| parts[group] += weight * tokens as f64);
            let count = tokens.div_ceil(chunk);
            for which in 0..count {
                let (first, end) = (which * tokens / count, (which + 1) * tokens / count);
                let size = (end - first) as f64;
                chunks += weight;
                l += weight * size;
                ll += weight * size * size;
                population.groups(member, first, end - first, |group, tokens| {
                    let a = tokens as f64;
                    aa[group] += weight * a * a;
                    al[group] += weight * a * size;
                });
            }
        }
        parts.iter_mut().for_each(|part| *part /= all);
        let square = |(group, r): (usize, &f64)| (aa[group] - 2.0 * r * al[group] + r * r * ll) / chunks;
        let squares = parts.iter().enumerate().map(square).collect();
        Self { parts, squares, mean: l / chunks }
    }
}

/// Tokens read of each group while at least `tokens` are laid out in rows of `length`; all tokens, and draws.
fn lay_out(population: &Population, length: u64, tokens: u64) -> (Vec<u64>, u64, u64) {
    let members = Members::new(Revision(1), population.members.clone(), length);
    let (tokenizer, contents, limit) = (Tokenizer::Bytes, Contents::new(), population.index.limit());
    let source = Source {
        members: &members,
        index: &population.index,
        limit,
        tokenizer: &tokenizer,
        contents: &contents,
    };
    let mut draws = Draws::new(Seed::new(2), "main", source, DrawPlace::default());
    let (mut counts, mut total) = (vec![0; GROUPS], 0);
    while total < tokens {
        let Drawn::Row(segments) = draws.row(length) else { panic!("bytes need no text") };
        for segment in segments {
            total += segment.tokens;
            let member = usize::try_from(segment.offset.0).expect("an index");
            population.groups(member, segment.first, segment.tokens, |group, tokens| counts[group] += tokens);
        }
    }
    (counts, total, draws.place().draw)
}

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).filter_map(|text| text.parse::<f64>().ok());
    let (tokens, bytes) = (numbers.next().unwrap_or(4e9) as u64, numbers.next().unwrap_or(2e8) as u64);
    let (mut passed, mut furthest) = (true, 0.0_f64);
    for (length, weighted) in CONFIGURATIONS {
        let population = Population::new(bytes, weighted);
        let (counts, total, draws) = lay_out(&population, length, tokens);
        let moments = Moments::new(&population, length);
        let weights = if weighted { ", weights 0.25 to 4" } else { "" };
        println!(
            "\nT {length}{weights}: {} records, {draws} draws, {total} tokens",
            population.members.len()
        );
        println!("{:<32} {:>9} {:>9} {:>9}", "group", "part", "exposure", "std error");
        for (group, part) in moments.parts.iter().enumerate().filter(|(_, part)| **part > 0.0 && **part < 1.0)
        {
            let exposure = counts[group] as f64 / (total as f64 * part);
            let error = (moments.squares[group].max(0.0) / (total as f64 * moments.mean)).sqrt() / part;
            let passes = (exposure - 1.0).abs() <= 0.02 + 3.0 * error;
            passed &= passes;
            furthest = furthest.max((exposure - 1.0).abs());
            let verdict = if passes { "pass" } else { "FAIL" };
            println!("{:<32} {part:>9.6} {exposure:>9.4} {error:>9.5}  {verdict}", label(group));
        }
    }
    println!(
        "\n{}; the furthest exposure is off by {furthest:.4}",
        if passed { "all pass" } else { "some FAIL" }
    );
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
