//! The figures of a run that follow from its matrix a\[i\]\[j\]: final quality, forgetting, learning, each
//! with its uncertainty.
//!
//! All figures are in bits per byte, lower is better, and signs are such that forgetting is positive.
//! i runs over evaluations, j over slices, T is the last evaluation, t_j the first one at which 95 % of
//! slice j's stream text was delivered.
//!
//! [`measure`] computes them for one run; [`summarise`] for several runs side by side, with intervals.

mod compare;

pub use compare::{
    Bootstrap, Figure, FinalWeights, Interval, Recovered, RunGroup, Summary, Worst, summarise,
};

use crate::evaluate::matrix::{Matrix, Track};
use crate::report::input::NewText;

/// Share of a run's tokens that the prequential loss leaves out: in the first quarter every run learns what
/// bytes look like.
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
    /// F: mean over j with t_j < T of a\[T\]\[j\] - min over t_j <= i < T of a\[i\]\[j\] (Chaudhry et al.
    /// 2018); negative where slices got better after their text had passed.
    Forgetting,
    /// F with the minimum over t_j <= i <= T: never negative.
    ForgettingClipped,
    /// BWT: mean over j with t_j < T of a\[t_j\]\[j\] - a\[T\]\[j\] (Lopez-Paz, Ranzato 2017); negative is
    /// forgotten.
    BackwardTransfer,
    /// FWT: mean_j a\[0\]\[j\] - a\[last evaluation before 5 % of j's text was delivered\]\[j\], over the
    /// slices with such an evaluation after the initial one.
    ForwardTransfer,
    /// mean_j a\[t_j\]\[j\].
    Plasticity,
    /// max over j and t_j <= i of a\[i\]\[j\] - min over t_j <= k <= i of a\[k\]\[j\] (after De Lange et al.
    /// 2023).
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

/// Every [`Metric`] of one run, bits per byte; absent if it was not measured.
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

/// The scores of one slice in one run.
struct SliceScores<'a> {
    track: &'a Track,
    /// Bits per byte at each evaluation, over the documents that every evaluation scored.
    along: Vec<Option<f64>>,
    /// Bits per byte at the last evaluation, over all documents that it scored.
    last: Option<f64>,
}

/// A rise of a slice's score above the best score since its text arrived.
struct Rise {
    /// Bits per byte, at least 0.
    amount: f64,
    /// The best score before it, bits per byte.
    best: f64,
    /// The evaluation that measured it.
    evaluation: usize,
}

impl SliceScores<'_> {
    /// t_j where t_j < T: the evaluation at which the slice's text had arrived, if that was before the last
    /// one.
    fn arrived_before_end(&self) -> Option<usize> {
        self.track.arrived.filter(|arrived| arrived + 1 < self.along.len())
    }

    fn at(&self, evaluation: usize) -> Option<f64> {
        self.along.get(evaluation).copied().flatten()
    }

    fn at_end(&self) -> Option<f64> {
        self.along.last().copied().flatten()
    }

    /// The last score minus the best one since `arrived`; the last one is among those if `clipped`.
    fn forgetting(&self, arrived: usize, clipped: bool) -> Option<f64> {
        let end = self.along.len() - usize::from(!clipped);
        let best = self.along.get(arrived..end)?.iter().flatten().copied().reduce(f64::min)?;
        Some(self.at_end()? - best)
    }

    /// The largest rise since `arrived`.
    fn largest_rise(&self, arrived: usize) -> Option<Rise> {
        let mut best = f64::INFINITY;
        let mut largest: Option<Rise> = None;
        for (evaluation, score) in self.along.iter().enumerate().skip(arrived) {
            let Some(score) = *score else { continue };
            best = best.min(score);
            let amount = score - best;
            if largest.as_ref().is_none_or(|largest| amount > largest.amount) {
                largest = Some(Rise { amount, best, evaluation });
            }
        }
        largest
    }
}

/// The scores of the slices named in `counted`, in the matrix's order.
fn slice_scores<'a>(matrix: &'a Matrix, counted: &[String], times: Option<&[Times]>) -> Vec<SliceScores<'a>> {
    let evaluations = matrix.evaluations().len();
    let mut all = Vec::new();
    for (index, track) in matrix.tracks().iter().enumerate() {
        if !counted.contains(&track.slice) {
            continue;
        }
        let times = times.and_then(|times| times.get(index));
        let along_times = times.map(|times| times.along.as_slice());
        let last_times = times.map(|times| times.last.as_slice());
        let along = (0..evaluations).map(|evaluation| track.along.bits_per_byte(evaluation, along_times));
        let last = track.last.bits_per_byte(0, last_times);
        all.push(SliceScores { track, along: along.collect(), last });
    }
    all
}

/// The mean; `None` for no values, or if one is missing.
fn mean(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.into_iter().collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The median; `None` for no values, or if one is missing.
fn median(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect::<Option<_>>()?;
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

/// The quantile at `share` of ascending numbers, linear between neighbours (Hyndman, Fan 1996, type 7).
fn quantile(ascending: &[f64], share: f64) -> Option<f64> {
    let position = share * ascending.len().checked_sub(1)? as f64;
    let low = *ascending.get(position.floor() as usize)?;
    let high = *ascending.get(position.ceil() as usize)?;
    Some(low + (high - low) * position.fract())
}

/// The slices whose text had arrived before the last evaluation, each with t_j.
fn arrived<'a, 'm>(
    slices: &'a [SliceScores<'m>],
) -> impl Iterator<Item = (&'a SliceScores<'m>, usize)> + use<'a, 'm> {
    slices.iter().filter_map(|slice| Some((slice, slice.arrived_before_end()?)))
}

/// [`Metric::Forgetting`], or [`Metric::ForgettingClipped`].
fn forgetting(slices: &[SliceScores<'_>], clipped: bool) -> Option<f64> {
    mean(arrived(slices).map(|(slice, arrived)| slice.forgetting(arrived, clipped)))
}

/// [`Metric::BackwardTransfer`].
fn backward_transfer(slices: &[SliceScores<'_>]) -> Option<f64> {
    mean(arrived(slices).map(|(slice, arrived)| Some(slice.at(arrived)? - slice.at_end()?)))
}

/// [`Metric::ForwardTransfer`]; `start` is the evaluation of the initial model.
fn forward_transfer(slices: &[SliceScores<'_>], start: Option<usize>) -> Option<f64> {
    let start = start?;
    let mut gains = Vec::new();
    for slice in slices {
        if let Some(before) = slice.track.before.filter(|before| *before > start) {
            gains.push(slice.at(start).zip(slice.at(before)).map(|(first, later)| first - later));
        }
    }
    mean(gains)
}

/// [`Metric::Plasticity`].
fn plasticity(slices: &[SliceScores<'_>]) -> Option<f64> {
    mean(slices.iter().filter_map(|slice| slice.track.arrived.map(|arrived| slice.at(arrived))))
}

/// [`Metric::StabilityGap`].
fn stability_gap(slices: &[SliceScores<'_>]) -> Option<f64> {
    let mut largest: Option<f64> = None;
    for (slice, arrived) in arrived(slices) {
        let rise = slice.largest_rise(arrived)?.amount;
        largest = Some(largest.map_or(rise, |largest| largest.max(rise)));
    }
    largest
}

/// Every metric of one run over the slices named in `counted`. `times` has one entry per slice of the matrix:
/// how often each document counts; without it each counts once.
///
/// A figure is absent if one of the slices that it needs was not measured: a run that diverged on a slice, or
/// was not scored on it, must not look better for that.
#[must_use]
pub fn measure(matrix: &Matrix, counted: &[String], times: Option<&[Times]>) -> Measures {
    let slices = slice_scores(matrix, counted, times);
    let latin: Vec<Option<f64>> =
        slices.iter().filter(|slice| slice.track.latin).map(|slice| slice.last).collect();
    let mut measures = Measures::default();
    measures.set(Metric::LatinMean, mean(latin.iter().copied()));
    measures.set(Metric::LatinMedian, median(latin));
    let last: Vec<Option<f64>> = slices.iter().map(|slice| slice.last).collect();
    if last.iter().any(Option::is_none) {
        return measures;
    }
    measures.set(Metric::Mean, mean(last.iter().copied()));
    measures.set(Metric::Median, median(last));
    measures.set(Metric::Forgetting, forgetting(&slices, false));
    measures.set(Metric::ForgettingClipped, forgetting(&slices, true));
    measures.set(Metric::BackwardTransfer, backward_transfer(&slices));
    measures.set(Metric::ForwardTransfer, forward_transfer(&slices, matrix.start()));
    measures.set(Metric::Plasticity, plasticity(&slices));
    measures.set(Metric::StabilityGap, stability_gap(&slices));
    measures
}

/// The prequential loss in bits per token: the mean over new text before it was learnt, weighted by the
/// tokens of each stretch, without stretches that end in the first `skip` of all tokens (0 to 1).
/// `None` if no stretch remains or a loss is not a number.
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
