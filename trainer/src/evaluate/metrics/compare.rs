//! Compares runs: intervals, differences, and the recovered share of the gap between floor and ceiling.
//!
//! Intervals are 95 % percentile intervals of a bootstrap over documents inside slices (Efron 1979). One
//! draw takes the same documents for every run and every evaluation, so the difficulty of a document, which
//! all runs share, cancels in differences. The intervals do not cover the variation between seeds.

use perennial_schemas::seed::{Seed, below};

use super::{Measures, Metric, PREQUENTIAL_SKIP, Times, mean, measure, prequential, quantile, slice_scores};
use crate::evaluate::matrix::{Block, Matrix, MatrixError, Track, check_slices, unique};
use crate::report::input::{Kind, Run, Slice};

/// The bootstrap's size and randomness.
#[derive(Debug, Clone, Copy)]
pub struct Bootstrap {
    /// Number of draws; 0 gives no intervals.
    pub draws: u32,
    /// The seed of the draws.
    pub seed: Seed,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { draws: 2000, seed: Seed::new(0).child("bootstrap") }
    }
}

impl Bootstrap {
    /// How often each document of each slice counts in draw number `draw`.
    fn times(&self, slices: &[SliceDocuments<'_>], draw: u32) -> Vec<Times> {
        slices.iter().map(|slice| self.times_of_slice(slice, draw)).collect()
    }

    fn times_of_slice(&self, slice: &SliceDocuments<'_>, draw: u32) -> Times {
        let seed = self.seed.child(slice.name);
        let last = resample(seed, slice.last.len(), draw);
        // The same set of documents gets the same draws; a smaller set has draws of its own.
        let along = if slice.along == slice.last {
            last.clone()
        } else {
            resample(seed.child("along"), slice.along.len(), draw)
        };
        Times { along, last }
    }
}

/// Draws `documents` documents with replacement; gives how often each was drawn.
fn resample(seed: Seed, documents: usize, draw: u32) -> Vec<u32> {
    let mut times = vec![0_u32; documents];
    for index in 0..documents as u64 {
        let drawn = below(seed.at(&[u64::from(draw), index]), documents as u64);
        if let Some(times) = usize::try_from(drawn).ok().and_then(|drawn| times.get_mut(drawn)) {
            *times += 1;
        }
    }
    times
}

/// The documents of a slice: the same ones in every run that scored it.
struct SliceDocuments<'a> {
    name: &'a str,
    /// Those that every evaluation scored.
    along: &'a [String],
    /// Those of the last evaluation.
    last: &'a [String],
}

fn slice_documents<'a>(matrices: &'a [Matrix], slices: &'a [Slice]) -> Vec<SliceDocuments<'a>> {
    let mut all = Vec::with_capacity(slices.len());
    for (index, slice) in slices.iter().enumerate() {
        let along = first_documents(matrices, index, |track| &track.along);
        let last = first_documents(matrices, index, |track| &track.last);
        all.push(SliceDocuments { name: &slice.name, along, last });
    }
    all
}

/// The documents of slice `index` in the first run that has any in this block.
fn first_documents(matrices: &[Matrix], index: usize, block: fn(&Track) -> &Block) -> &[String] {
    for matrix in matrices {
        let documents = matrix.tracks().get(index).map_or(&[][..], |track| block(track).documents());
        if !documents.is_empty() {
            return documents;
        }
    }
    &[]
}

/// A 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// A figure with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// On the documents as they are.
    pub value: f64,
    /// Over the draws; `None` without draws, or if a draw has no figure.
    pub interval: Option<Interval>,
}

/// A run's share of the way from the floor to the ceiling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Recovered {
    /// (floor - run) / (floor - ceiling), all three on the same draws: 0 is the floor, 1 is the ceiling.
    Share(Figure),
    /// The interval of floor - ceiling reaches 0: there is nothing to recover.
    NoRoom(Figure),
    /// Floor, ceiling or run is missing.
    Unmeasured,
}

/// The worst moment of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Worst {
    /// The slice.
    pub slice: String,
    /// Its best score since its text had arrived, bits per byte.
    pub best: f64,
    /// Its score at that moment, bits per byte.
    pub value: f64,
    /// The moment, as a share of the stream.
    pub fraction: f64,
}

/// Runs that differ in their seed alone.
#[derive(Debug, Clone, PartialEq)]
pub struct RunGroup {
    /// Its name in the report.
    pub label: String,
    /// Its role in the comparison.
    pub kind: Kind,
    /// Share of replayed tokens.
    pub replay: f64,
    /// The weights scored.
    pub weights: String,
    /// Its runs: indices into the runs given.
    pub runs: Vec<usize>,
    /// Means over its runs.
    figures: [Option<Figure>; Metric::ALL.len()],
    /// The final mean of each run.
    pub seeds: Vec<Option<f64>>,
    /// [`prequential`] after [`PREQUENTIAL_SKIP`], bits per token.
    pub prequential: Option<f64>,
    /// Final mean minus the floor's, on the same documents: negative is better than the floor.
    pub against_floor: Option<Figure>,
    /// Forgetting minus the floor's.
    pub forgetting_against_floor: Option<Figure>,
    /// On the mean over all slices.
    pub recovered: Recovered,
    /// On the mean over slices in Latin script.
    pub recovered_latin: Recovered,
    /// The worst moment of its runs.
    pub worst: Option<Worst>,
    /// Final bits per byte of each slice, in the order of the slices.
    pub slices: Vec<Option<f64>>,
}

impl RunGroup {
    /// A figure, the mean over its runs. A ceiling has no transfer and no plasticity: its text arrives mixed,
    /// so no slice has an arrival time.
    #[must_use]
    pub const fn get(&self, metric: Metric) -> Option<Figure> {
        self.figures[metric as usize]
    }
}

/// The comparison of several runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// One matrix per run.
    pub matrices: Vec<Matrix>,
    /// Groups of runs, in the order of their first run.
    pub groups: Vec<RunGroup>,
    /// The slices that the figures cover: those that at least one run measured at its end.
    pub counted: Vec<String>,
    /// The other slices.
    pub unmeasured: Vec<String>,
    /// The other weights that each run ended with, in the order of the runs.
    pub final_weights: Vec<Vec<FinalWeights>>,
}

/// Other weights that a run ended with.
#[derive(Debug, Clone, PartialEq)]
pub struct FinalWeights {
    /// Their name.
    pub weights: String,
    /// The run's measures if it had ended with these weights; the evaluations before the last one are those
    /// of the weights that were scored along the way.
    pub measures: Measures,
}

/// The measures of one group.
struct Sampled {
    /// On the documents as they are.
    point: Measures,
    /// On each draw of them.
    draws: Vec<Measures>,
}

/// Computes every figure of `runs` over `slices`.
///
/// # Errors
/// [`MatrixError`] if a name comes twice, evaluations are out of order, or two runs were not scored on the
/// same documents.
pub fn summarise(slices: &[Slice], runs: &[Run], bootstrap: &Bootstrap) -> Result<Summary, MatrixError> {
    check_slices(slices)?;
    unique("run", runs.iter().map(|run| run.name.as_str()), "")?;
    let matrices: Vec<Matrix> = runs.iter().map(|run| Matrix::of(run, slices)).collect::<Result<_, _>>()?;
    for (index, matrix) in matrices.iter().enumerate() {
        for other in matrices.iter().skip(index + 1) {
            matrix.comparable(other)?;
        }
    }
    let (mut counted, mut unmeasured) = (Vec::new(), Vec::new());
    for slice in slices {
        let names = if is_measured(&matrices, slice) { &mut counted } else { &mut unmeasured };
        names.push(slice.name.clone());
    }
    let groups = groups(runs);
    let sampled = sample(&matrices, &groups, slices, &counted, bootstrap);
    let comparison =
        Comparison { groups: &groups, sampled: &sampled, matrices: &matrices, counted: &counted };
    let run_groups = groups.iter().zip(&sampled);
    let run_groups = run_groups.filter_map(|(group, sampled)| comparison.run_group(group, sampled)).collect();
    let final_weights =
        runs.iter().map(|run| final_weights(run, slices, &counted)).collect::<Result<_, _>>()?;
    Ok(Summary { matrices, groups: run_groups, counted, unmeasured, final_weights })
}

/// Whether a run has a score on the slice at its last evaluation.
fn is_measured(matrices: &[Matrix], slice: &Slice) -> bool {
    let mut tracks = matrices.iter().flat_map(Matrix::tracks);
    tracks.any(|track| track.slice == slice.name && track.last.bits_per_byte(0, None).is_some())
}

/// The measures of the other weights that a run ended with.
fn final_weights(run: &Run, slices: &[Slice], counted: &[String]) -> Result<Vec<FinalWeights>, MatrixError> {
    unique(
        "weights",
        run.final_weights.iter().map(|other| other.weights.as_str()),
        &format!(" in run `{}`", run.name),
    )?;
    let mut all = Vec::with_capacity(run.final_weights.len());
    for other in &run.final_weights {
        let mut ended = Run { final_weights: Vec::new(), ..run.clone() };
        if let Some(last) = ended.points.last_mut() {
            last.scores.clone_from(&other.scores);
        }
        let measures = measure(&Matrix::of(&ended, slices)?, counted, None);
        all.push(FinalWeights { weights: other.weights.clone(), measures });
    }
    Ok(all)
}

/// Runs that differ in their seed alone, each with its index.
type Group<'a> = Vec<(usize, &'a Run)>;

fn groups(runs: &[Run]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let same =
            |group: &&mut Group<'_>| group.first().is_some_and(|(_, first)| differ_in_seed(first, run));
        match groups.iter_mut().find(same) {
            Some(group) => group.push((index, run)),
            None => groups.push(vec![(index, run)]),
        }
    }
    groups
}

/// Whether two runs can differ in nothing but their seed.
fn differ_in_seed(run: &Run, other: &Run) -> bool {
    run.label == other.label
        && run.kind == other.kind
        && run.replay.to_bits() == other.replay.to_bits()
        && run.weights == other.weights
}

fn sample(
    matrices: &[Matrix],
    groups: &[Group<'_>],
    slices: &[Slice],
    counted: &[String],
    bootstrap: &Bootstrap,
) -> Vec<Sampled> {
    let documents = slice_documents(matrices, slices);
    let measure_groups = |times: Option<&[Times]>| -> Vec<Measures> {
        let runs: Vec<Measures> = matrices.iter().map(|matrix| measure(matrix, counted, times)).collect();
        groups.iter().map(|group| average(group, &runs)).collect()
    };
    let points = measure_groups(None).into_iter();
    let mut sampled: Vec<Sampled> = points.map(|point| Sampled { point, draws: Vec::new() }).collect();
    for draw in 0..bootstrap.draws {
        let times = bootstrap.times(&documents, draw);
        for (sampled, measures) in sampled.iter_mut().zip(measure_groups(Some(&times))) {
            sampled.draws.push(measures);
        }
    }
    sampled
}

/// The mean of each metric over the runs of a group; `measures` has one entry per run.
fn average(group: &Group<'_>, measures: &[Measures]) -> Measures {
    let mut result = Measures::default();
    for metric in Metric::ALL {
        let values = group.iter().map(|(run, _)| measures.get(*run).and_then(|run| run.get(metric)));
        result.set(metric, mean(values));
    }
    result
}

/// `compute` over the groups' measures: its value on the documents as they are, its interval over the draws.
fn figure(groups: &[&Sampled], compute: impl Fn(&[&Measures]) -> Option<f64>) -> Option<Figure> {
    let points: Vec<&Measures> = groups.iter().map(|group| &group.point).collect();
    let value = compute(&points)?;
    let draws = groups.first().map_or(0, |group| group.draws.len());
    let mut values = Vec::with_capacity(draws);
    for draw in 0..draws {
        let drawn: Option<Vec<&Measures>> = groups.iter().map(|group| group.draws.get(draw)).collect();
        let drawn = drawn.and_then(|drawn| compute(&drawn));
        let Some(drawn) = drawn.filter(|drawn| drawn.is_finite()) else {
            return Some(Figure { value, interval: None });
        };
        values.push(drawn);
    }
    values.sort_by(f64::total_cmp);
    Some(Figure { value, interval: interval(&values) })
}

/// The 95 % percentile interval of ascending values.
fn interval(ascending: &[f64]) -> Option<Interval> {
    Some(Interval { low: quantile(ascending, 0.025)?, high: quantile(ascending, 0.975)? })
}

/// The metric of `group` minus that of `reference`.
fn difference(group: &Sampled, reference: &Sampled, metric: Metric) -> Option<Figure> {
    figure(&[group, reference], |both| match both {
        [group, reference] => Some(group.get(metric)? - reference.get(metric)?),
        _ => None,
    })
}

fn recovered(floor: Option<&Sampled>, run: &Sampled, ceiling: Option<&Sampled>, metric: Metric) -> Recovered {
    let (Some(floor), Some(ceiling)) = (floor, ceiling) else { return Recovered::Unmeasured };
    let Some(room) = difference(floor, ceiling, metric) else { return Recovered::Unmeasured };
    if room.interval.map_or(room.value, |interval| interval.low) <= 0.0 {
        return Recovered::NoRoom(room);
    }
    let share = figure(&[floor, run, ceiling], |three| match three {
        [floor, run, ceiling] => {
            let floor = floor.get(metric)?;
            Some((floor - run.get(metric)?) / (floor - ceiling.get(metric)?))
        }
        _ => None,
    });
    share.map_or(Recovered::Unmeasured, Recovered::Share)
}

/// All that the groups are computed from.
struct Comparison<'a> {
    groups: &'a [Group<'a>],
    sampled: &'a [Sampled],
    matrices: &'a [Matrix],
    counted: &'a [String],
}

impl Comparison<'_> {
    /// The first group of this kind with these weights: floor, method and ceiling are compared with the same
    /// ones.
    fn find(&self, kind: Kind, weights: &str) -> Option<&Sampled> {
        for (group, sampled) in self.groups.iter().zip(self.sampled) {
            if group.first().is_some_and(|(_, run)| run.kind == kind && run.weights == weights) {
                return Some(sampled);
            }
        }
        None
    }

    fn run_group(&self, group: &Group<'_>, sampled: &Sampled) -> Option<RunGroup> {
        let (_, first) = group.first()?;
        let floor = self.find(Kind::Floor, &first.weights);
        let ceiling = self.find(Kind::Ceiling, &first.weights);
        let against_floor = |metric| floor.and_then(|floor| difference(sampled, floor, metric));
        let matrices: Vec<&Matrix> =
            group.iter().filter_map(|(index, _)| self.matrices.get(*index)).collect();
        let slices = matrices.first().map_or(0, |matrix| matrix.tracks().len());
        Some(RunGroup {
            label: first.label.clone(),
            kind: first.kind,
            replay: first.replay,
            weights: first.weights.clone(),
            runs: group.iter().map(|(index, _)| *index).collect(),
            figures: Metric::ALL.map(|metric| arm_figure(first.kind, sampled, metric)),
            seeds: matrices.iter().map(|matrix| self.final_mean(matrix)).collect(),
            prequential: mean(group.iter().map(|(_, run)| prequential(&run.prequential, PREQUENTIAL_SKIP))),
            against_floor: against_floor(Metric::Mean),
            forgetting_against_floor: against_floor(Metric::Forgetting),
            recovered: recovered(floor, sampled, ceiling, Metric::Mean),
            recovered_latin: recovered(floor, sampled, ceiling, Metric::LatinMean),
            worst: self.worst(&matrices, sampled),
            slices: (0..slices).map(|slice| final_score(&matrices, slice)).collect(),
        })
    }

    fn final_mean(&self, matrix: &Matrix) -> Option<f64> {
        measure(matrix, self.counted, None).get(Metric::Mean)
    }

    /// The worst moment of a group's runs; absent if its stability gap is.
    fn worst(&self, matrices: &[&Matrix], sampled: &Sampled) -> Option<Worst> {
        sampled.point.get(Metric::StabilityGap)?;
        let moments = matrices.iter().filter_map(|matrix| worst(matrix, self.counted));
        moments.reduce(|a, b| if b.value - b.best > a.value - a.best { b } else { a })
    }
}

/// A metric of one group. A ceiling has no transfer and no plasticity: its text arrives mixed.
fn arm_figure(kind: Kind, sampled: &Sampled, metric: Metric) -> Option<Figure> {
    let needs_order =
        matches!(metric, Metric::BackwardTransfer | Metric::ForwardTransfer | Metric::Plasticity);
    if kind == Kind::Ceiling && needs_order {
        return None;
    }
    figure(&[sampled], |one| one.first()?.get(metric))
}

/// The mean over the runs of the last score on a slice, bits per byte.
fn final_score(matrices: &[&Matrix], slice: usize) -> Option<f64> {
    mean(matrices.iter().map(|matrix| matrix.tracks().get(slice)?.last.bits_per_byte(0, None)))
}

/// The moment of a run's stability gap.
fn worst(matrix: &Matrix, counted: &[String]) -> Option<Worst> {
    let mut largest: Option<(f64, Worst)> = None;
    for slice in slice_scores(matrix, counted, None) {
        let Some(rise) = slice.arrived_before_end().and_then(|arrived| slice.largest_rise(arrived)) else {
            continue;
        };
        if largest.as_ref().is_none_or(|(amount, _)| rise.amount > *amount) {
            let worst = Worst {
                slice: slice.track.slice.clone(),
                best: rise.best,
                value: rise.best + rise.amount,
                fraction: matrix.evaluations().get(rise.evaluation)?.fraction,
            };
            largest = Some((rise.amount, worst));
        }
    }
    largest.map(|(_, worst)| worst)
}

#[cfg(test)]
mod tests;
