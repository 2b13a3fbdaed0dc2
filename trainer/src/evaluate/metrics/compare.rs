//! Runs beside each other: intervals, differences, and the share of the way from floor to ceiling.
//!
//! Intervals are 95 % percentile intervals of a bootstrap over documents inside slices (Efron 1979). One
//! draw takes the same documents for every run and every evaluation, so that what all runs share,
//! the difficulty of a document, cancels in differences. They do not cover the luck of a seed.

use perennial_schemas::seed::{Seed, below};

use super::{Measures, Metric, PREQUENTIAL_SKIP, Times, mean, measure, prequential, quantile, rows};
use crate::evaluate::matrix::{Block, Matrix, MatrixError, Track, check_slices, unique};
use crate::report::input::{Kind, Run, Slice};

/// The bootstrap's size and randomness.
#[derive(Debug, Clone, Copy)]
pub struct Bootstrap {
    /// Draws; without any there are no intervals.
    pub draws: u32,
    /// What the draws are a function of.
    pub seed: Seed,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { draws: 2000, seed: Seed::new(0).child("bootstrap") }
    }
}

impl Bootstrap {
    /// How often each document counts in draw number `draw`.
    fn times(&self, shapes: &[Shape<'_>], draw: u32) -> Vec<Times> {
        let count = |seed: Seed, documents: usize| {
            let mut times = vec![0_u32; documents];
            for place in 0..documents as u64 {
                let hit = below(seed.at(&[u64::from(draw), place]), documents as u64);
                if let Some(times) = usize::try_from(hit).ok().and_then(|hit| times.get_mut(hit)) {
                    *times += 1;
                }
            }
            times
        };
        let of = |shape: &Shape<'_>| {
            let seed = self.seed.child(shape.slice);
            let last = count(seed, shape.last.len());
            // The same documents are drawn alike; a smaller set of them has draws of its own.
            let same = shape.along == shape.last;
            let along = if same { last.clone() } else { count(seed.child("along"), shape.along.len()) };
            Times { along, last }
        };
        shapes.iter().map(of).collect()
    }
}

/// The documents of a slice, which are those of every run that scored it.
struct Shape<'a> {
    slice: &'a str,
    along: &'a [String],
    last: &'a [String],
}

fn shapes<'a>(matrices: &'a [Matrix], slices: &'a [Slice]) -> Vec<Shape<'a>> {
    let of = |(index, slice): (usize, &'a Slice)| {
        let any = |block: fn(&'a Track) -> &'a Block| {
            let tracks = matrices.iter().filter_map(|matrix| matrix.tracks().get(index));
            tracks
                .map(|track| block(track).documents())
                .find(|documents| !documents.is_empty())
                .unwrap_or_default()
        };
        Shape { slice: &slice.name, along: any(|track| &track.along), last: any(|track| &track.last) }
    };
    slices.iter().enumerate().map(of).collect()
}

/// A 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// A figure and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// Of the documents as they are.
    pub value: f64,
    /// Over the draws; `None` without draws, or where a draw had no figure.
    pub interval: Option<Interval>,
}

/// A run's share of the way from the floor to the ceiling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Recovered {
    /// (floor - run) / (floor - ceiling), all three drawn together: 0 as the floor, 1 as the ceiling.
    Share(Figure),
    /// floor - ceiling is not above 0 with certainty: there is nothing to recover.
    NoRoom(Figure),
    /// Floor, ceiling or run is missing.
    Unmeasured,
}

/// The worst moment of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Worst {
    /// The slice.
    pub slice: String,
    /// The best it had been after its text had arrived, bits per byte.
    pub best: f64,
    /// What it was then.
    pub value: f64,
    /// When: share of the stream.
    pub fraction: f64,
}

/// Runs that differ in their seed alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// What the reader sees.
    pub label: String,
    /// What it is compared as.
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

impl Arm {
    /// A figure, the mean over its runs. For a ceiling, transfer and plasticity are absent: its text
    /// arrives mixed, so that no slice has a time of its own.
    #[must_use]
    pub const fn get(&self, metric: Metric) -> Option<Figure> {
        self.figures[metric as usize]
    }
}

/// What runs say together.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// One matrix per run.
    pub matrices: Vec<Matrix>,
    /// Groups of runs, in the order of their first run.
    pub arms: Vec<Arm>,
    /// The slices that figures are over: those that at least one run measured at its end.
    pub counted: Vec<String>,
    /// The other slices.
    pub unmeasured: Vec<String>,
    /// What each run left beside the weights it was scored with, in the order of the runs.
    pub left: Vec<Vec<Left>>,
}

/// Weights that a run left.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    /// Their name.
    pub weights: String,
    /// The run's measures as if it had ended with these weights: the way there is that of the weights it
    /// was scored with.
    pub measures: Measures,
}

/// An arm's figures on the documents as they are and on every draw of them.
struct Sampled {
    point: Measures,
    draws: Vec<Measures>,
}

/// Computes every figure of `runs` over `slices`.
///
/// # Errors
/// [`MatrixError`] where names come twice, evaluations are out of order, or two runs were not scored
/// on the same documents.
pub fn summarise(slices: &[Slice], runs: &[Run], bootstrap: &Bootstrap) -> Result<Summary, MatrixError> {
    check_slices(slices)?;
    unique("run", runs.iter().map(|run| run.name.as_str()), "")?;
    let matrices: Vec<Matrix> = runs.iter().map(|run| Matrix::of(run, slices)).collect::<Result<_, _>>()?;
    for (index, left) in matrices.iter().enumerate() {
        for right in matrices.iter().skip(index + 1) {
            left.comparable(right)?;
        }
    }
    let measured = |slice: &&Slice| {
        let mut tracks = matrices.iter().flat_map(Matrix::tracks).filter(|track| track.slice == slice.name);
        tracks.any(|track| track.last.bits_per_byte(0, None).is_some())
    };
    let (counted, unmeasured): (Vec<&Slice>, Vec<&Slice>) = slices.iter().partition(measured);
    let names = |slices: Vec<&Slice>| slices.into_iter().map(|slice| slice.name.clone()).collect::<Vec<_>>();
    let (counted, unmeasured) = (names(counted), names(unmeasured));
    let groups = groups(runs);
    let sampled = sample(&matrices, &groups, slices, &counted, bootstrap);
    let parts = Parts { groups: &groups, sampled: &sampled, matrices: &matrices, counted: &counted };
    let arms = groups.iter().zip(&sampled).filter_map(|(group, own)| parts.arm(group, own)).collect();
    let left = runs.iter().map(|run| left(run, slices, &counted)).collect::<Result<_, _>>()?;
    Ok(Summary { matrices, arms, counted, unmeasured, left })
}

fn left(run: &Run, slices: &[Slice], counted: &[String]) -> Result<Vec<Left>, MatrixError> {
    unique("weights", run.left.iter().map(|left| left.weights.as_str()), &format!(" in run `{}`", run.name))?;
    let ended = |left: &crate::report::input::Left| {
        let mut ended = Run { left: Vec::new(), ..run.clone() };
        if let Some(last) = ended.points.last_mut() {
            last.scores.clone_from(&left.scores);
        }
        let measures = measure(&Matrix::of(&ended, slices)?, counted, None);
        Ok(Left { weights: left.weights.clone(), measures })
    };
    run.left.iter().map(ended).collect()
}

fn groups(runs: &[Run]) -> Vec<Vec<(usize, &Run)>> {
    let mut groups: Vec<Vec<(usize, &Run)>> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let alike = |group: &&mut Vec<(usize, &Run)>| {
            let key = |run: &Run| (run.label.clone(), run.kind, run.replay.to_bits(), run.weights.clone());
            group.first().is_some_and(|(_, first)| key(first) == key(run))
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.push((index, run)),
            None => groups.push(vec![(index, run)]),
        }
    }
    groups
}

fn sample(
    matrices: &[Matrix],
    groups: &[Vec<(usize, &Run)>],
    slices: &[Slice],
    counted: &[String],
    bootstrap: &Bootstrap,
) -> Vec<Sampled> {
    let shapes = shapes(matrices, slices);
    let together = |times: Option<&[Times]>| -> Vec<Measures> {
        let each: Vec<Measures> = matrices.iter().map(|matrix| measure(matrix, counted, times)).collect();
        groups.iter().map(|group| average(group, &each)).collect()
    };
    let mut sampled: Vec<Sampled> =
        together(None).into_iter().map(|point| Sampled { point, draws: Vec::new() }).collect();
    for draw in 0..bootstrap.draws {
        let times = bootstrap.times(&shapes, draw);
        for (to, measures) in sampled.iter_mut().zip(together(Some(&times))) {
            to.draws.push(measures);
        }
    }
    sampled
}

fn average(group: &[(usize, &Run)], each: &[Measures]) -> Measures {
    let mut result = Measures::default();
    for metric in Metric::ALL {
        let of = |(index, _): &(usize, &Run)| each.get(*index).and_then(|measures| measures.get(metric));
        result.set(metric, mean(group.iter().map(of)));
    }
    result
}

/// `of` the arms' measures, on the documents as they are and on each draw.
fn figure(arms: &[&Sampled], of: impl Fn(&[&Measures]) -> Option<f64>) -> Option<Figure> {
    let points: Vec<&Measures> = arms.iter().map(|arm| &arm.point).collect();
    let value = of(&points)?;
    let draws = arms.first().map_or(0, |arm| arm.draws.len());
    let draw = |index: usize| -> Option<f64> {
        let drawn: Option<Vec<&Measures>> = arms.iter().map(|arm| arm.draws.get(index)).collect();
        of(&drawn?).filter(|value| value.is_finite())
    };
    let drawn: Option<Vec<f64>> = (0..draws).map(draw).collect();
    let interval = drawn.and_then(|mut drawn| {
        drawn.sort_by(f64::total_cmp);
        Some(Interval { low: quantile(&drawn, 0.025)?, high: quantile(&drawn, 0.975)? })
    });
    Some(Figure { value, interval })
}

fn difference(left: &Sampled, right: &Sampled, metric: Metric) -> Option<Figure> {
    figure(&[left, right], |both| match both {
        [left, right] => Some(left.get(metric)? - right.get(metric)?),
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

/// Everything that arms are made of.
struct Parts<'a> {
    groups: &'a [Vec<(usize, &'a Run)>],
    sampled: &'a [Sampled],
    matrices: &'a [Matrix],
    counted: &'a [String],
}

impl Parts<'_> {
    /// The first arm of this kind with these weights: floor, method and ceiling are compared alike.
    fn find(&self, kind: Kind, weights: &str) -> Option<&Sampled> {
        let is = |group: &Vec<(usize, &Run)>| {
            group.first().is_some_and(|(_, run)| run.kind == kind && run.weights == weights)
        };
        self.sampled.get(self.groups.iter().position(is)?)
    }

    fn arm(&self, group: &[(usize, &Run)], own: &Sampled) -> Option<Arm> {
        let (_, first) = group.first()?;
        let (floor, ceiling) =
            (self.find(Kind::Floor, &first.weights), self.find(Kind::Ceiling, &first.weights));
        let mixed = first.kind == Kind::Ceiling;
        let timed = [Metric::BackwardTransfer, Metric::ForwardTransfer, Metric::Plasticity];
        let figures = Metric::ALL.map(|metric| {
            let absent = mixed && timed.contains(&metric);
            if absent { None } else { figure(&[own], |one| one.first()?.get(metric)) }
        });
        let against = |metric| floor.and_then(|floor| difference(own, floor, metric));
        let matrices = || group.iter().filter_map(|(index, _)| self.matrices.get(*index));
        let seed = |matrix: &Matrix| measure(matrix, self.counted, None).get(Metric::Mean);
        let worst = matrices().filter_map(|matrix| worst(matrix, self.counted));
        let worst = worst.filter(|_| own.point.get(Metric::StabilityGap).is_some());
        let slice = |index: usize| {
            let end = |matrix: &Matrix| matrix.tracks().get(index)?.last.bits_per_byte(0, None);
            mean(matrices().map(end))
        };
        let slices = self.matrices.first().map_or(0, |matrix| matrix.tracks().len());
        Some(Arm {
            label: first.label.clone(),
            kind: first.kind,
            replay: first.replay,
            weights: first.weights.clone(),
            runs: group.iter().map(|(index, _)| *index).collect(),
            figures,
            seeds: matrices().map(seed).collect(),
            prequential: mean(group.iter().map(|(_, run)| prequential(&run.prequential, PREQUENTIAL_SKIP))),
            against_floor: against(Metric::Mean),
            forgetting_against_floor: against(Metric::Forgetting),
            recovered: recovered(floor, own, ceiling, Metric::Mean),
            recovered_latin: recovered(floor, own, ceiling, Metric::LatinMean),
            worst: worst.reduce(|a, b| if b.value - b.best > a.value - a.best { b } else { a }),
            slices: (0..slices).map(slice).collect(),
        })
    }
}

/// Where the stability gap of a run is.
fn worst(matrix: &Matrix, counted: &[String]) -> Option<Worst> {
    let mut found: Option<(f64, Worst)> = None;
    for row in rows(matrix, counted, None) {
        let Some((rise, best, index)) = row.settled().and_then(|arrived| row.worst(arrived)) else {
            continue;
        };
        if found.as_ref().is_none_or(|(largest, _)| rise > *largest) {
            let fraction = matrix.evaluations().get(index)?.fraction;
            found =
                Some((rise, Worst { slice: row.track.slice.clone(), best, value: best + rise, fraction }));
        }
    }
    found.map(|(_, worst)| worst)
}

#[cfg(test)]
mod tests;
