//! Herding over a stream: the members are to have the mean of all text seen, in the space of ingest's embeddings,
//! and with `form = "stratified"` of each of its clusters, too.
//!
//! Text that comes is added, and what is above the capacity leaves one by one (backward greedy): of the cluster
//! whose part of the members is the farthest above its part of the stream, the member that the means need least,
//! argmax <s + lambda s_c, x>, with s the sum over the members of x - mu and s_c that over the members of the cluster
//! of x - mu_c. So an update looks at a few rows for each record that comes. `global` selects the whole buffer again
//! among the members and what came, as iCaRL does (Rebuffi et al. 2017, Algorithm 4): for comparison with the
//! literature, at a cost of capacity^2 for each block.
//!
//! mu is the mean of all text so far, or, with `half_life`, one in which older readings count less. Clusters are
//! fitted again each time twice as much text was seen ([`crate::herding::clusters`]).

use perennial_schemas::seed::Seed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::embedded::{Embedded, Reader, Usable, Writer};
use super::{Block, Candidate, Capacity, Change, Dependence, Needs, Policy, PolicySettings, StateError};
use crate::herding::clusters::Clusters;
use crate::herding::global::Herd;
use crate::herding::{Rows, dot};

/// What is matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The mean of all text and that of each cluster.
    #[default]
    Stratified,
    /// The mean of all text.
    Global,
}

/// Settings of a herd.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    /// Its capacity.
    pub capacity: Capacity,
    /// What is matched.
    pub form: Form,
    /// How much the mean of a cluster counts beside that of all text: less for the mean, more for the second
    /// moment.
    pub lambda: f64,
    /// Readings after which a reading counts half in the mean; 0: all count alike.
    pub half_life: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { capacity: Capacity::Records(10_000), form: Form::Stratified, lambda: 0.5, half_life: 0 }
    }
}

impl PolicySettings for Settings {
    fn canonical(&self) -> String {
        let Self { capacity, form, lambda, half_life } = self;
        serde_json::json!({ "capacity": capacity, "form": form, "lambda": lambda.to_bits(), "half_life": half_life })
            .to_string()
    }

    fn capacity(&self) -> Option<Capacity> {
        Some(self.capacity)
    }

    fn needs(&self) -> Needs {
        Needs { embeddings: true }
    }

    fn dependence(&self) -> Dependence {
        Dependence::History
    }

    fn policy(&self, _: Seed) -> Box<dyn Policy> {
        Box::new(Herding::new(self.clone()))
    }
}

/// Members to one cluster, about.
const MEMBERS: usize = 8;
/// The most clusters: each record that comes is compared with all centres.
const CLUSTERS: usize = 256;
/// Rounds of a fit.
const ROUNDS: usize = 4;

/// The herd and what it is to match.
#[derive(Debug)]
struct Herding {
    settings: Settings,
    buffer: Embedded,
    /// Of all text seen: the number of records, older ones counting less, and the sum of their vectors.
    all: Mass,
    clusters: Clusters,
    /// The same of each cluster.
    of_cluster: Vec<Mass>,
    /// Records seen, and the number at which the clusters are fitted again.
    seen: u64,
    next_fit: u64,
}

/// Weighted vectors.
#[derive(Debug, Clone, Default, PartialEq)]
struct Mass {
    count: f64,
    sum: Vec<f64>,
}

impl Mass {
    fn add(&mut self, vector: &[f32], weight: f64) {
        self.sum.resize(vector.len(), 0.0);
        self.count += weight;
        self.sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += weight * f64::from(*value));
    }

    fn scale(&mut self, factor: f64) {
        self.count *= factor;
        self.sum.iter_mut().for_each(|sum| *sum *= factor);
    }

    /// The mean, of this width; zeros without records.
    fn mean(&self, width: usize) -> Vec<f64> {
        let mut mean = self.sum.clone();
        mean.resize(width, 0.0);
        if self.count > 0.0 {
            mean.iter_mut().for_each(|value| *value /= self.count);
        }
        mean
    }
}

impl Herding {
    fn new(settings: Settings) -> Self {
        let buffer = Embedded::new(settings.capacity);
        let (all, clusters) = (Mass::default(), Clusters::default());
        Self { settings, buffer, all, clusters, of_cluster: Vec::new(), seen: 0, next_fit: 0 }
    }

    /// Counts a block: readings since the last one make what was before count less.
    fn count(&mut self, usable: &Usable, readings: u64) {
        if self.settings.half_life > 0 {
            let factor = (-std::f64::consts::LN_2 * readings as f64 / self.settings.half_life as f64).exp();
            self.all.scale(factor);
            self.of_cluster.iter_mut().for_each(|mass| mass.scale(factor));
        }
        for vector in Rows::new(&usable.vectors, self.buffer.width()).iter() {
            self.all.add(vector, 1.0);
            if let Some(mass) = self.clusters.nearest(vector).and_then(|at| self.of_cluster.get_mut(at)) {
                mass.add(vector, 1.0);
            }
        }
        self.seen += usable.candidates.len() as u64;
    }

    /// Fits the clusters to the members, which stand for all text seen: a member for as much as its cluster has
    /// for each of its members.
    fn fit(&mut self) {
        let rows = self.buffer.rows();
        let old: Vec<Option<usize>> = rows.iter().map(|row| self.clusters.nearest(row)).collect();
        let mut members = vec![0_u64; self.of_cluster.len()];
        old.iter().flatten().for_each(|at| members[*at] += 1);
        let count = (rows.len() / MEMBERS).clamp(1, CLUSTERS);
        let clusters = Clusters::fit(rows, count, ROUNDS);
        let mut masses = vec![Mass::default(); clusters.len()];
        for (row, old) in rows.iter().zip(&old) {
            let stands_for = old.map_or(1.0, |at| self.of_cluster[at].count / members[at].max(1) as f64);
            if let Some(mass) = clusters.nearest(row).and_then(|at| masses.get_mut(at)) {
                mass.add(row, stands_for);
            }
        }
        (self.clusters, self.of_cluster) = (clusters, masses);
        self.next_fit = self.seen.saturating_mul(2);
    }

    /// Which members stay.
    fn stay(&self) -> Vec<bool> {
        match self.settings.form {
            Form::Global => self.select(),
            Form::Stratified => self.remove(),
        }
    }

    /// The first of the herd of all that fit together.
    fn select(&self) -> Vec<bool> {
        let rows = self.buffer.rows();
        let mut keep = vec![false; rows.len()];
        let most = (0..rows.len()).map(|row| self.buffer.size(row)).sum::<u128>() - self.buffer.excess();
        let mut used = 0;
        for row in Herd::new(rows, &self.all.mean(rows.width())) {
            used += self.buffer.size(row);
            if used > most {
                break;
            }
            keep[row] = true;
        }
        keep
    }

    /// All but those that are needed least.
    fn remove(&self) -> Vec<bool> {
        let rows = self.buffer.rows();
        let mean = self.all.mean(rows.width());
        let mut strata: Vec<Stratum> =
            self.of_cluster.iter().map(|mass| Stratum::new(mass, &self.all, &mean)).collect();
        let mut sum = vec![0.0; rows.width()];
        for (at, row) in rows.iter().enumerate() {
            add_centred(&mut sum, row, &mean, 1.0);
            if let Some(stratum) = self.clusters.nearest(row).and_then(|cluster| strata.get_mut(cluster)) {
                stratum.members.push(at);
                add_centred(&mut stratum.sum, row, &stratum.mean, 1.0);
            }
        }
        let mut keep = vec![true; rows.len()];
        let (mut excess, mut left) = (self.buffer.excess(), rows.len());
        let mut query: Vec<f32> = Vec::new();
        while excess > 0 {
            let surplus = |stratum: &Stratum| stratum.members.len() as f64 - stratum.share * left as f64;
            let candidates = strata.iter_mut().filter(|stratum| !stratum.members.is_empty());
            let fullest =
                candidates.reduce(|best, next| if surplus(next) > surplus(best) { next } else { best });
            let Some(stratum) = fullest else { break };
            query.clear();
            let both = sum.iter().zip(&stratum.sum);
            query.extend(both.map(|(all, own)| (all + self.settings.lambda * own) as f32));
            let Some(at) = least_needed(&query, rows, &stratum.members) else { break };
            let row = stratum.members.swap_remove(at);
            add_centred(&mut sum, rows.get(row), &mean, -1.0);
            add_centred(&mut stratum.sum, rows.get(row), &stratum.mean, -1.0);
            keep[row] = false;
            left -= 1;
            excess = excess.saturating_sub(self.buffer.size(row));
        }
        keep
    }
}

/// The members of a cluster while some are removed.
#[derive(Debug)]
struct Stratum {
    /// Its part of the stream.
    share: f64,
    mean: Vec<f64>,
    members: Vec<usize>,
    /// s_c.
    sum: Vec<f64>,
}

impl Stratum {
    fn new(mass: &Mass, all: &Mass, mean: &[f64]) -> Self {
        let share = if all.count > 0.0 { mass.count / all.count } else { 0.0 };
        // A cluster that has seen nothing yet is to be like all.
        let own = if mass.count > 0.0 { mass.mean(mean.len()) } else { mean.to_vec() };
        Self { share, sum: vec![0.0; mean.len()], mean: own, members: Vec::new() }
    }
}

fn add_centred(sum: &mut [f64], row: &[f32], mean: &[f64], times: f64) {
    for ((sum, value), mean) in sum.iter_mut().zip(row).zip(mean) {
        *sum += times * (f64::from(*value) - mean);
    }
}

/// Where the member with the largest product is; of equal ones the newest.
fn least_needed(query: &[f32], rows: Rows<'_>, members: &[usize]) -> Option<usize> {
    let scored = members.iter().enumerate().map(|(at, row)| (dot(query, rows.get(*row)), *row, at));
    scored.max_by(|one, two| one.0.total_cmp(&two.0).then(one.1.cmp(&two.1))).map(|(.., at)| at)
}

impl Policy for Herding {
    fn offer(&mut self, block: &Block<'_>, changes: &mut Vec<Change>) {
        let usable = self.buffer.usable(block);
        self.count(&usable, block.candidates.len() as u64);
        let before = self.buffer.add(&usable);
        if self.buffer.excess() > 0 && (self.clusters.is_empty() || self.seen >= self.next_fit) {
            self.fit();
        }
        let keep =
            if self.buffer.excess() > 0 { self.stay() } else { vec![true; self.buffer.members().len()] };
        self.buffer.retain(&keep, before, changes);
    }

    fn save(&self) -> Vec<u8> {
        let mut state = Writer::default();
        self.buffer.save(&mut state);
        state.number(self.seen);
        state.number(self.next_fit);
        state.singles(self.clusters.rows().values());
        for mass in std::iter::once(&self.all).chain(&self.of_cluster) {
            state.doubles(&[mass.count]);
            state.doubles(&mass.sum);
        }
        state.0
    }

    fn load(&mut self, state: &[u8], members: &[Candidate]) -> Result<(), StateError> {
        let mut state = Reader(state);
        *self = Self::new(self.settings.clone());
        self.buffer.load(&mut state, members)?;
        (self.seen, self.next_fit) = (state.number()?, state.number()?);
        self.clusters = Clusters::of(state.singles()?, self.buffer.width());
        let mut mass = || -> Result<Mass, StateError> {
            let count = state.doubles()?.first().copied().unwrap_or(0.0);
            Ok(Mass { count, sum: state.doubles()? })
        };
        self.all = mass()?;
        self.of_cluster = (0..self.clusters.len()).map(|_| mass()).collect::<Result<_, _>>()?;
        Ok(())
    }
}
