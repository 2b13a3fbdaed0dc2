//! What selections by embeddings cost and how good they are, on passages of real text.
//!
//! `cargo bench -p perennial-replay --bench herding -- [ROWS [PICKS]]`: rows of the cost part, by default 100,000
//! of 384 numbers, and picks, by default 200. The text is that of the bundled stream, or of the large one where
//! `PERENNIAL_DATA` names its folder; where there is less of it, passages are cut at other places. Vectors are
//! hashed 3-grams of bytes, weighted by 1 / sqrt(count), unit length. numpy is measured on the same matrix where
//! `PYTHON` names an interpreter that has it.
#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark stops where it cannot go on")]
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time, and reads its settings")]
#![allow(clippy::indexing_slicing, reason = "a benchmark stops where it cannot go on")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use perennial_replay::herding::clusters::Clusters;
use perennial_replay::herding::global::Herd;
use perennial_replay::herding::k_center::Centres;
use perennial_replay::herding::stratified::{StratifiedHerd, Target};
use perennial_replay::herding::{Rows, dot};
use perennial_schemas::seed::Seed;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

const WIDTH: usize = 384;
/// Bytes of a passage.
const PASSAGE: usize = 600;

#[derive(Deserialize)]
struct Line {
    text: String,
    #[serde(default)]
    source: String,
}

/// The texts by source.
fn texts() -> BTreeMap<String, Vec<String>> {
    let folder = std::env::var_os("PERENNIAL_DATA").map(PathBuf::from);
    let bundled = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../data");
    let path = folder.unwrap_or_else(bundled).join("stream.jsonl.zst");
    let mut decoder = zstd::stream::read::Decoder::new(File::open(path).expect("the stream")).expect("zstd");
    decoder.window_log_max(27).expect("a window of 128 MiB");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in BufReader::new(decoder).split(b'\n').take(30_000) {
        if let Ok(line) = serde_json::from_slice::<Line>(&line.expect("it decodes")) {
            texts.entry(line.source).or_default().push(line.text);
        }
    }
    texts
}

/// The vector of a passage.
fn embed(passage: &[u8], into: &mut Vec<f32>) {
    let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
    passage.windows(3).for_each(|gram| *counts.entry(xxh3_64(gram)).or_default() += 1);
    let mut vector = [0.0_f32; WIDTH];
    for (hash, count) in counts {
        let sign = if hash >> 63 == 0 { 1.0 } else { -1.0 };
        vector[(hash % WIDTH as u64) as usize] += sign * (count as f32).sqrt();
    }
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-20);
    into.extend(vector.iter().map(|value| value / norm));
}

/// `count` vectors of passages of these texts.
fn matrix<'a>(texts: impl Iterator<Item = &'a String> + Clone, count: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(count * WIDTH);
    for shift in (0..PASSAGE).step_by(97) {
        for text in texts.clone() {
            for passage in text.as_bytes().get(shift..).unwrap_or_default().chunks(PASSAGE) {
                if passage.len() < PASSAGE / 2 {
                    continue;
                }
                if values.len() == count * WIDTH {
                    return values;
                }
                embed(passage, &mut values);
            }
        }
    }
    values
}

/// Prints what `picks` picks of `rows` cost, as a ratio to a pass.
fn cost(name: &str, picks: usize, pass: f64, run: impl FnOnce() -> Vec<usize>) -> Vec<usize> {
    let start = Instant::now();
    let picked = run();
    let each = start.elapsed().as_secs_f64() / picks as f64;
    println!("| {name} | {:.2} ms | {:.3} |", 1e3 * each, each / pass);
    picked
}

/// The floor: one look at every number of a matrix in f32.
#[cfg_attr(target_arch = "x86_64", inline(never))]
fn direct(rows: Rows<'_>, query: &[f32], scores: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { direct_avx2(rows, query, scores) };
    }
    direct_of_any(rows, query, scores);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn direct_avx2(rows: Rows<'_>, query: &[f32], scores: &mut [f32]) {
    direct_of_any(rows, query, scores);
}

#[inline(always)]
fn direct_of_any(rows: Rows<'_>, query: &[f32], scores: &mut [f32]) {
    for (row, score) in rows.values().chunks_exact(rows.width()).zip(scores) {
        let mut lanes = [0.0_f32; 32];
        for (row, query) in row.as_chunks::<32>().0.iter().zip(query.as_chunks::<32>().0) {
            for lane in 0..32 {
                lanes[lane] = row[lane].mul_add(query[lane], lanes[lane]);
            }
        }
        *score = lanes.iter().sum();
    }
}

/// Herding by one pass in f32 for each pick.
fn herd_directly(rows: Rows<'_>, picks: usize) -> Vec<usize> {
    let mean = rows.mean();
    let (mut weights, mut scores) = (mean.clone(), vec![0.0; rows.len()]);
    let (mut taken, mut picked) = (vec![false; rows.len()], Vec::new());
    for _ in 0..picks {
        let query: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
        direct(rows, &query, &mut scores);
        let open = scores.iter().enumerate().filter(|(row, _)| !taken[*row]);
        let best =
            open.fold(
                (usize::MAX, f32::NEG_INFINITY),
                |best, (row, score)| if *score > best.1 { (row, *score) } else { best },
            );
        taken[best.0] = true;
        picked.push(best.0);
        for ((weight, mean), value) in weights.iter_mut().zip(&mean).zip(rows.get(best.0)) {
            *weight += mean - f64::from(*value);
        }
    }
    picked
}

/// The distance of the mean and the relative one of the second moment of some rows from those of all.
fn errors(rows: Rows<'_>, selected: &[usize]) -> (f64, f64) {
    let width = rows.width();
    let moments = |of: &mut dyn Iterator<Item = usize>| {
        let (mut mean, mut second, mut count) = (vec![0.0_f64; width], vec![0.0_f64; width * width], 0.0);
        for row in of.map(|row| rows.get(row)) {
            count += 1.0;
            for (at, one) in row.iter().enumerate() {
                mean[at] += f64::from(*one);
                for (sum, two) in second[at * width..(at + 1) * width].iter_mut().zip(row) {
                    *sum += f64::from(one * two);
                }
            }
        }
        mean.iter_mut().chain(&mut second).for_each(|value| *value /= count);
        (mean, second)
    };
    let distance =
        |one: &[f64], two: &[f64]| one.iter().zip(two).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let (some, all) = (moments(&mut selected.iter().copied()), moments(&mut (0..rows.len())));
    let norm = all.1.iter().map(|value| value * value).sum::<f64>().sqrt();
    (distance(&some.0, &all.0), distance(&some.1, &all.1) / norm)
}

fn stratified(rows: Rows<'_>, clusters: usize, lambda: f64, picks: usize) -> (Vec<usize>, f64) {
    // Centres are fitted to a sample; every row is assigned.
    let step = (rows.len() / (20 * clusters)).max(1);
    let sample: Vec<f32> =
        (0..rows.len()).step_by(step).flat_map(|row| rows.get(row).iter().copied()).collect();
    let fitted = Clusters::fit(Rows::new(&sample, rows.width()), clusters, 3);
    let cluster_of: Vec<usize> = rows.iter().map(|row| fitted.nearest(row).expect("a centre")).collect();
    let target = Target::of(rows, &cluster_of, fitted.len(), lambda);
    let mut herd = StratifiedHerd::new(rows, &cluster_of, target);
    let picked: Vec<usize> = herd.by_ref().take(picks).collect();
    (picked, herd.products() as f64 / rows.len() as f64)
}

fn quality(name: &str, values: &[f32]) {
    let rows = Rows::new(values, WIDTH);
    let m = rows.len() / 20;
    let random: Vec<(f64, f64)> = (0..3_u64)
        .map(|seed| {
            let mut order: Vec<usize> = (0..rows.len()).collect();
            order.sort_by_key(|row| Seed::new(seed).at(&[*row as u64]));
            errors(rows, &order[..m])
        })
        .collect();
    let mean = |get: fn(&(f64, f64)) -> f64| random.iter().map(get).sum::<f64>() / random.len() as f64;
    let random = (mean(|pair| pair.0), mean(|pair| pair.1));
    println!(
        "\n{name}: {m} of {} rows\n\n| selection | mean error, random / it | second moment, it / random | passes |\n|---|---|---|---|",
        rows.len()
    );
    let print = |what: &str, picked: &[usize], passes: f64| {
        let (first, second) = errors(rows, picked);
        println!("| {what} | {:.1} | {:.3} | {passes:.1} |", random.0 / first, second / random.1);
    };
    print("global", &Herd::new(rows, &rows.mean()).take(m).collect::<Vec<_>>(), m as f64);
    for lambda in [0.3, 0.5, 1.0] {
        let (picked, passes) = stratified(rows, (m / 7).max(1), lambda, m);
        print(&format!("stratified, {} clusters, lambda {lambda}", m / 7), &picked, passes);
    }
}

fn numpy(values: &[f32], picks: usize) {
    let Some(python) = std::env::var_os("PYTHON") else { return };
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    values.iter().for_each(|value| file.write_all(&value.to_le_bytes()).expect("room"));
    let code = "import sys,time,numpy as n\n\
        x=n.fromfile(sys.argv[1],dtype='<f4').reshape(-1,int(sys.argv[2]));m=int(sys.argv[3])\n\
        mu=x.mean(0,dtype='f8');w=mu.copy();open_=n.ones(len(x),bool);p=[]\n\
        t=time.process_time()\n\
        for _ in range(m):\n \
        s=x@w.astype('f4');s[~open_]=-n.inf;i=int(s.argmax());open_[i]=False;w+=mu-x[i];p.append(i)\n\
        t=(time.process_time()-t)/m*1e3\n\
        print('| numpy, herding | %.2f ms | |'%t)\n\
        q=(x*x).sum(1);d=n.full(len(x),n.inf);c=0;t=time.process_time()\n\
        for _ in range(m):\n \
        d=n.minimum(d,q+q[c]-2*(x@x[c]));c=int(d.argmax())\n\
        print('| numpy, k-center | %.2f ms | |'%((time.process_time()-t)/m*1e3))\n";
    let mut command = std::process::Command::new(python);
    command.env("OPENBLAS_NUM_THREADS", "1").args(["-c", code]).arg(file.path());
    let status = command.args([WIDTH.to_string(), picks.to_string()]).status().expect("it starts");
    assert!(status.success(), "numpy has failed");
}

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let (count, picks) =
        (numbers.first().copied().unwrap_or(100_000), numbers.get(1).copied().unwrap_or(200));
    let texts = texts();
    let values = matrix(texts.values().flatten(), count);
    let rows = Rows::new(&values, WIDTH);
    println!("{} rows of {WIDTH}, {picks} picks, one thread\n", rows.len());
    let (mut scores, query) = (vec![0.0; rows.len()], rows.get(7).to_vec());
    direct(rows, &query, &mut scores);
    let start = Instant::now();
    (0..20).for_each(|_| direct(rows, &query, &mut scores));
    let pass = start.elapsed().as_secs_f64() / 20.0;
    println!("| selection | for each pick | of a pass in f32 |\n|---|---|---|");
    println!(
        "| a pass in f32 | {:.2} ms ({:.1} GB/s) | 1 |",
        1e3 * pass,
        4.0 * values.len() as f64 / pass / 1e9
    );
    let plain = cost("herding, a pass in f32 for each pick", picks, pass, || herd_directly(rows, picks));
    let mean = rows.mean();
    let exact = cost("herding, global (with its quantisation)", picks, pass, || {
        Herd::new(rows, &mean).take(picks).collect()
    });
    let same = plain.iter().zip(&exact).filter(|(one, two)| one == two).count();
    let mut herd = Herd::new(rows, &mean);
    herd.next();
    cost("herding, global, the rows in 8 bits already", picks, pass, || herd.by_ref().take(picks).collect());
    let mut centres = Centres::new(rows, &[]);
    let chosen = cost("k-center", picks, pass, || centres.by_ref().take(picks).collect());
    let products = centres.products() as f64 / (chosen.len() * rows.len()) as f64;
    numpy(&values, picks);
    println!(
        "\nThe pass in f32 picks the same row as the exact scores in {same} of {picks} cases. k-center: {products:.3} of all inner products."
    );
    assert!(dot(rows.get(0), rows.get(0)) > 0.9, "unit rows");
    let mut largest: Vec<(&String, &Vec<String>)> = texts.iter().collect();
    largest.sort_by_key(|(_, texts)| std::cmp::Reverse(texts.iter().map(String::len).sum::<usize>()));
    for (name, texts) in largest.into_iter().take(3) {
        quality(name, &matrix(texts.iter(), 20_000));
    }
}
