use proptest::prelude::*;

use super::clusters::Clusters;
use super::global::Herd;
use super::k_center::Centres;
use super::scan::{Quantised, Scratch};
use super::stratified::{StratifiedHerd, Target};
use super::*;
use perennial_schemas::seed::Seed;

/// Numbers that follow from a seed, about normal.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let unit = |k: u64| (Seed::new(seed).at(&[k]) >> 11) as f64 / (1_u64 << 53) as f64;
    (0..count as u64).map(|k| ((0..4).map(|part| unit(4 * k + part)).sum::<f64>() - 2.0) as f32).collect()
}

fn unit(mut values: Vec<f32>, width: usize) -> Vec<f32> {
    for row in values.chunks_exact_mut(width) {
        let norm = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
        }
    }
    values
}

/// Rows with duplicates, rows of zeros, rows of other sizes, and numbers that are far apart.
fn adversarial() -> impl Strategy<Value = (Vec<f32>, usize)> {
    let value = prop_oneof![
        4 => -1.0_f32..1.0,
        2 => Just(0.0),
        1 => prop_oneof![Just(1e-30_f32), Just(-1e20), Just(3.5), Just(f32::MIN_POSITIVE)],
    ];
    (1_usize..20, 1_usize..40).prop_flat_map(move |(width, rows)| {
        let row = proptest::collection::vec(value.clone(), width);
        let copies = proptest::collection::vec(0_usize..rows, rows);
        (proptest::collection::vec(row, rows), copies, Just(width)).prop_map(|(rows, copies, width)| {
            // Every second row is a copy of another one.
            let pick = |(at, copy): (usize, usize)| rows[if at % 2 == 0 { at } else { copy }].clone();
            (copies.into_iter().enumerate().flat_map(pick).collect(), width)
        })
    })
}

/// The definition, with the same scores.
fn herd_by_definition(rows: Rows<'_>, mean: &[f64], count: usize) -> Vec<usize> {
    let (mut weights, mut taken, mut query) = (mean.to_vec(), Vec::new(), Vec::new());
    while taken.len() < count.min(rows.len()) {
        rounded(&weights, &mut query);
        let open = (0..rows.len()).filter(|row| !taken.contains(row));
        let scored = open.map(|row| Scored { score: dot(&query, rows.get(row)), row });
        let best = scored.reduce(|best, next| if next.beats(best) { next } else { best }).unwrap();
        weights.iter_mut().zip(mean).for_each(|(weight, mean)| *weight += mean);
        add(&mut weights, rows.get(best.row), -1.0);
        taken.push(best.row);
    }
    taken
}

fn centres_by_definition(rows: Rows<'_>, count: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < count.min(rows.len()) {
        let distance = |row: usize| {
            let to = |centre: &usize| {
                let (one, two) = (rows.get(row), rows.get(*centre));
                (dot(one, one) + dot(two, two) - 2.0 * dot(one, two)).max(0.0)
            };
            chosen.iter().map(to).fold(f64::INFINITY, f64::min)
        };
        let open = (0..rows.len()).filter(|row| !chosen.contains(row));
        let scored = open.map(|row| Scored { score: distance(row), row });
        let best = scored.reduce(|best, next| if next.beats(best) { next } else { best }).unwrap();
        chosen.push(best.row);
    }
    chosen
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn herd_is_that_of_the_definition((values, width) in adversarial()) {
        let rows = Rows::new(&values, width);
        let mean = rows.mean();
        let herd: Vec<usize> = Herd::new(rows, &mean).take(12).collect();
        prop_assert_eq!(herd, herd_by_definition(rows, &mean, 12));
    }

    #[test]
    fn scan_finds_the_row_of_the_largest_product((values, width) in adversarial(), at: prop::sample::Index, seed: u64) {
        let rows = Rows::new(&values, width);
        // A row of the matrix, so that scores are close, or noise.
        let weights = if seed % 2 == 0 { rows.get(at.index(rows.len())).to_vec() } else { noise(seed, width) };
        let best = Quantised::new(rows).best(rows, &weights, |row| row % 3 > 0, &mut Scratch::default());
        let scored = (0..rows.len()).filter(|row| row % 3 > 0).map(|row| Scored { score: dot(&weights, rows.get(row)), row });
        let expected = scored.reduce(|best, next| if next.beats(best) { next } else { best });
        prop_assert_eq!(best, expected.map(|best| best.row));
    }

    #[test]
    fn centres_are_those_of_the_direct_method((values, width) in adversarial()) {
        let rows = Rows::new(&values, width);
        let centres: Vec<usize> = Centres::new(rows, &[]).take(12).collect();
        prop_assert_eq!(centres, centres_by_definition(rows, 12));
    }

    #[test]
    fn stratified_herd_has_each_row_once_and_keeps_the_quotas(seed: u64, count in 1_usize..80, clusters in 1_usize..9) {
        let values = unit(noise(seed, 8 * count), 8);
        let rows = Rows::new(&values, 8);
        let of = Clusters::fit(rows, clusters, 3);
        let cluster_of: Vec<usize> = rows.iter().map(|row| of.nearest(row).unwrap()).collect();
        let target = Target::of(rows, &cluster_of, of.len(), 1.0);
        let herd: Vec<usize> = StratifiedHerd::new(rows, &cluster_of, target.clone()).collect();
        let mut sorted = herd.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..count).collect::<Vec<_>>());
        for m in 1..count {
            for (cluster, target) in target.clusters.iter().enumerate() {
                let selected = herd[..m].iter().filter(|row| cluster_of[**row] == cluster).count() as f64;
                prop_assert!((selected - target.share * m as f64).abs() < of.len() as f64);
            }
        }
    }
}

/// Relative error of the mean and of the second moment of some rows.
fn errors(rows: Rows<'_>, selected: &[usize]) -> (f64, f64) {
    let width = rows.width();
    let moment = |of: &mut dyn Iterator<Item = usize>| {
        let (mut sum, mut count) = (vec![0.0; width * width], 0.0);
        for row in of.map(|row| rows.get(row)) {
            count += 1.0;
            for (at, one) in row.iter().enumerate() {
                add(&mut sum[at * width..(at + 1) * width], row, f64::from(*one));
            }
        }
        sum.iter_mut().for_each(|value| *value /= count);
        sum
    };
    let distance =
        |one: &[f64], two: &[f64]| one.iter().zip(two).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let mut mean = vec![0.0; width];
    selected.iter().for_each(|row| add(&mut mean, rows.get(*row), 1.0 / selected.len() as f64));
    let all = moment(&mut (0..rows.len()));
    let second =
        distance(&moment(&mut selected.iter().copied()), &all) / distance(&all, &vec![0.0; all.len()]);
    (distance(&mean, &rows.mean()), second)
}

#[test]
fn herd_matches_the_mean_and_a_stratified_one_the_second_moment_too() {
    // Clusters of unequal mass, as text has.
    let width = 16;
    let centres = noise(1, 12 * width);
    let rows: Vec<f32> = (0..3_000_u64)
        .flat_map(|row| {
            let cluster = (Seed::new(2).at(&[row]) % 78) as usize;
            let cluster = (0..12).find(|k| cluster < (k + 1) * (k + 2) / 2).unwrap();
            let noise = noise(1_000 + row, width);
            let centre = centres[cluster * width..(cluster + 1) * width].to_vec();
            centre.into_iter().zip(noise).map(|(centre, noise)| centre + 0.6 * noise).collect::<Vec<_>>()
        })
        .collect();
    let values = unit(rows, width);
    let rows = Rows::new(&values, width);
    let m = 150;
    let random: Vec<(f64, f64)> = (0..8_u64)
        .map(|seed| {
            let mut order: Vec<usize> = (0..rows.len()).collect();
            order.sort_by_key(|row| Seed::new(seed).at(&[*row as u64]));
            errors(rows, &order[..m])
        })
        .collect();
    let mean = |get: fn(&(f64, f64)) -> f64| random.iter().map(get).sum::<f64>() / random.len() as f64;
    let random = (mean(|pair| pair.0), mean(|pair| pair.1));
    let herd: Vec<usize> = Herd::new(rows, &rows.mean()).take(m).collect();
    let global = errors(rows, &herd);
    let clusters = Clusters::fit(rows, 32, 5);
    let cluster_of: Vec<usize> = rows.iter().map(|row| clusters.nearest(row).unwrap()).collect();
    let target = Target::of(rows, &cluster_of, clusters.len(), 1.0);
    let stratified: Vec<usize> = StratifiedHerd::new(rows, &cluster_of, target).take(m).collect();
    let stratified = errors(rows, &stratified);
    assert!(global.0 < random.0 / 8.0, "{global:?} of {random:?}");
    assert!(stratified.0 < random.0 / 4.0, "{stratified:?} of {random:?}");
    assert!(
        stratified.1 < 0.8 * random.1 && stratified.1 < global.1,
        "{stratified:?}, {global:?}, {random:?}"
    );
}

#[test]
fn health_of_a_herd_stays_bounded() {
    let values = unit(noise(7, 2_000 * 12), 12);
    let rows = Rows::new(&values, 12);
    let mut herd = Herd::new(rows, &rows.mean());
    let mut worst = 0.0_f64;
    for _ in 0..400 {
        herd.next().unwrap();
        worst = worst.max(herd.health());
    }
    assert!(worst < 3.0, "{worst}");
}

#[test]
fn rows_that_are_not_numbers_come_last() {
    let values = [f32::NAN, 0.0, 1.0, 0.5, f32::INFINITY, 0.0, 0.2, 0.9];
    let rows = Rows::new(&values, 2);
    let herd: Vec<usize> = Herd::new(rows, &[0.6, 0.4]).collect();
    assert_eq!(herd.len(), 4);
    assert_eq!(herd_by_definition(rows, &[0.6, 0.4], 4), herd);
}
