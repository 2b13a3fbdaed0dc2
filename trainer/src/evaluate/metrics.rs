//! What a matrix a\[i\]\[j\] says of a run: how good it ended, what it forgot, how well it learnt; and how
//! sure that is.
//!
//! All figures are in bits per byte, lower is better, and signs are such that forgetting is positive.
//! i runs over evaluations, j over slices, T is the last evaluation, t_j the first one at which 95 % of
//! slice j's stream text was delivered.
//!
//! [`measure`] computes them for one run; [`summarise`] for all, beside each other, with intervals.

mod compare;

pub use compare::{Arm, Bootstrap, Figure, Interval, Left, Recovered, Summary, Worst, summarise};

use crate::evaluate::matrix::{Block, Matrix, Track};
use crate::report::input::NewText;

/// What is left out of the prequential loss: the first quarter of a run, in which every run learns
/// what bytes look like.
pub const PREQUENTIAL_SKIP: f64 = 0.25;

/// A figure of one run that follows from its matrix alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// mean_j a\[T\]\[j\].
    Mean,
    /// median_j a\[T\]\[j\].
    Median,
    /// [`Metric::Mean`] over the slices in Latin script.
    LatinMean,
    /// [`Metric::Median`] over the slices in Latin script.
    LatinMedian,
    /// F: mean over j with t_j < T of a\[T\]\[j\] - min over t_j <= i < T of a\[i\]\[j\] (Chaudhry et al. 2018);
    /// negative where slices got better after their text had passed.
    Forgetting,
    /// F with the minimum over t_j <= i <= T: never negative.
    ForgettingClipped,
    /// BWT: mean over j with t_j < T of a\[t_j\]\[j\] - a\[T\]\[j\] (Lopez-Paz, Ranzato 2017); negative is forgotten.
    BackwardTransfer,
    /// FWT: mean_j a\[0\]\[j\] - a\[last evaluation before 5 % of j's text was delivered\]\[j\], over the slices
    /// that have such an evaluation after the initial one.
    ForwardTransfer,
    /// mean_j a\[t_j\]\[j\].
    Plasticity,
    /// max over j and t_j <= i of a\[i\]\[j\] - min over t_j <= k <= i of a\[k\]\[j\] (after De Lange et al. 2023).
    StabilityGap,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Mean,
        Self::Median,
        Self::LatinMean,
        Self::LatinMedian,
        Self::Forgetting,
        Self::ForgettingClipped,
        Self::BackwardTransfer,
        Self::ForwardTransfer,
        Self::Plasticity,
        Self::StabilityGap,
    ];
}

/// Every [`Metric`] of one run, bits per byte; absent where it was not measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measures([Option<f64>; Metric::ALL.len()]);

impl Measures {
    /// One of them.
    #[must_use]
    pub const fn get(&self, metric: Metric) -> Option<f64> {
        self.0[metric as usize]
    }

    const fn set(&mut self, metric: Metric, value: Option<f64>) {
        self.0[metric as usize] = value;
    }
}

/// How often each document of a slice counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Times {
    /// Of the documents of [`Track::along`].
    pub along: Vec<u32>,
    /// Of the documents of [`Track::last`].
    pub last: Vec<u32>,
}

/// One slice of one run, measured once.
struct Row<'a> {
    track: &'a Track,
    along: Vec<Option<f64>>,
    last: Option<f64>,
}

impl Row<'_> {
    /// Where its text had arrived before the end: t_j where t_j < T.
    fn settled(&self) -> Option<usize> {
        self.track.arrived.filter(|arrived| arrived + 1 < self.along.len())
    }

    fn at(&self, evaluation: usize) -> Option<f64> {
        self.along.get(evaluation).copied().flatten()
    }

    fn end(&self) -> Option<f64> {
        self.along.last().copied().flatten()
    }

    fn forgetting(&self, arrived: usize, clipped: bool) -> Option<f64> {
        let upto = self.along.len() - usize::from(!clipped);
        let best = self.along.get(arrived..upto)?.iter().flatten().copied().reduce(f64::min)?;
        Some(self.end()? - best)
    }

    /// The largest rise above the best so far: (rise, best, evaluation).
    fn worst(&self, arrived: usize) -> Option<(f64, f64, usize)> {
        let mut best = f64::INFINITY;
        let mut worst: Option<(f64, f64, usize)> = None;
        for (index, value) in self.along.iter().enumerate().skip(arrived) {
            let Some(value) = *value else { continue };
            best = best.min(value);
            if worst.is_none_or(|(rise, ..)| value - best > rise) {
                worst = Some((value - best, best, index));
            }
        }
        worst
    }
}

fn rows<'a>(matrix: &'a Matrix, counted: &[String], times: Option<&[Times]>) -> Vec<Row<'a>> {
    let row = |(index, track): (usize, &'a Track)| {
        let times = times.and_then(|times| times.get(index));
        let all = |block: &Block, times: Option<&[u32]>, evaluations: usize| -> Vec<Option<f64>> {
            (0..evaluations).map(|evaluation| block.bits_per_byte(evaluation, times)).collect()
        };
        let along = all(&track.along, times.map(|times| &times.along[..]), matrix.evaluations().len());
        let last = track.last.bits_per_byte(0, times.map(|times| &times.last[..]));
        Row { track, along, last }
    };
    let tracks = matrix.tracks().iter().enumerate();
    tracks.filter(|(_, track)| counted.contains(&track.slice)).map(row).collect()
}

/// The mean; `None` of nothing, or where one is missing.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn median(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect::<Option<_>>()?;
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

/// The quantile at `share` of ascending numbers, linear between neighbours (Hyndman, Fan 1996, type 7).
fn quantile(ascending: &[f64], share: f64) -> Option<f64> {
    let place = share * ascending.len().checked_sub(1)? as f64;
    let low = *ascending.get(place.floor() as usize)?;
    let high = *ascending.get(place.ceil() as usize)?;
    Some(low + (high - low) * place.fract())
}

/// Every metric of one run over the slices named in `counted`, documents counted as `times` says, one
/// entry per slice of the matrix (each once without it).
///
/// A figure is absent where one of its slices was not measured at the end, or where it needs it: a run
/// that diverged on a slice, or was not scored on it, must not look better for that.
#[must_use]
pub fn measure(matrix: &Matrix, counted: &[String], times: Option<&[Times]>) -> Measures {
    let rows = rows(matrix, counted, times);
    let latin = || rows.iter().filter(|row| row.track.latin);
    let settled = || rows.iter().filter_map(|row| row.settled().map(|arrived| (row, arrived)));
    let start = matrix.start();
    let ahead = |row: &&Row<'_>| row.track.before.filter(|before| start.is_some_and(|start| *before > start));
    let mut measures = Measures::default();
    measures.set(Metric::LatinMean, mean(latin().map(|row| row.last)));
    measures.set(Metric::LatinMedian, median(latin().map(|row| row.last)));
    if rows.iter().any(|row| row.last.is_none()) {
        return measures;
    }
    measures.set(Metric::Mean, mean(rows.iter().map(|row| row.last)));
    measures.set(Metric::Median, median(rows.iter().map(|row| row.last)));
    measures.set(Metric::Forgetting, mean(settled().map(|(row, arrived)| row.forgetting(arrived, false))));
    measures
        .set(Metric::ForgettingClipped, mean(settled().map(|(row, arrived)| row.forgetting(arrived, true))));
    let back = settled().map(|(row, arrived)| Some(row.at(arrived)? - row.end()?));
    measures.set(Metric::BackwardTransfer, mean(back));
    let forward = rows.iter().filter_map(|row| ahead(&row).map(|before| (row, before)));
    let forward = forward.map(|(row, before)| Some(row.at(start?)? - row.at(before)?));
    measures.set(Metric::ForwardTransfer, mean(forward));
    let learnt = rows.iter().filter_map(|row| row.track.arrived.map(|arrived| row.at(arrived)));
    measures.set(Metric::Plasticity, mean(learnt));
    let gaps: Option<Vec<f64>> =
        settled().map(|(row, arrived)| row.worst(arrived).map(|worst| worst.0)).collect();
    measures.set(Metric::StabilityGap, gaps.and_then(|gaps| gaps.into_iter().reduce(f64::max)));
    measures
}

/// The prequential loss in bits per token: the mean over new text before it was learnt, weighted by the
/// tokens of each stretch, without stretches that end in the first `skip` of all tokens (0 to 1).
/// `None` where nothing is left or a loss is not a number.
#[must_use]
pub fn prequential(series: &[NewText], skip: f64) -> Option<f64> {
    let end = series.last()?.tokens as f64;
    let (mut sum, mut tokens, mut begin) = (0.0, 0.0, 0_u64);
    for stretch in series {
        let length = stretch.tokens.saturating_sub(begin) as f64;
        begin = stretch.tokens;
        if stretch.tokens as f64 > skip * end {
            sum += length * stretch.nats_per_token;
            tokens += length;
        }
    }
    let bits = sum / tokens / std::f64::consts::LN_2;
    bits.is_finite().then_some(bits)
}

#[cfg(test)]
mod tests;
