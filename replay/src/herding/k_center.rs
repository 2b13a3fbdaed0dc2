//! k-center: the next row is the farthest from all selected ones (Gonzalez 1985), a 2-approximation of the
//! smallest radius within which the selection covers all rows.
//!
//! A row's distance to the selection only falls, so an old value is an upper bound: it is brought up to date
//! only while the row may be the farthest. The selection is the same as of the direct method.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::{Rows, Scored, dot};

/// A row in the queue, by an upper bound of its distance.
#[derive(Debug, Clone, Copy)]
struct Entry {
    bound: Scored,
    /// The centres that the bound knows of.
    known: usize,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.bound.beats(other.bound), other.bound.beats(self.bound)) {
            (true, _) => Ordering::Greater,
            (_, true) => Ordering::Less,
            _ => Ordering::Equal,
        }
    }
}

/// Centres that are chosen one by one.
#[derive(Debug)]
pub struct Centres<'a> {
    rows: Rows<'a>,
    norms: Vec<f64>,
    queue: BinaryHeap<Entry>,
    chosen: Vec<usize>,
    /// Inner products that were computed.
    products: u64,
}

impl<'a> Centres<'a> {
    /// Of rows by their Euclidean distance, beginning with those that are chosen already.
    #[must_use]
    pub fn new(rows: Rows<'a>, chosen: &[usize]) -> Self {
        let norms: Vec<f64> = rows.iter().map(|row| dot(row, row)).collect();
        let is_chosen: std::collections::BTreeSet<usize> = chosen.iter().copied().collect();
        let far = |row| Entry { bound: Scored { score: f64::INFINITY, row }, known: 0 };
        let queue = (0..rows.len()).filter(|row| !is_chosen.contains(row)).map(far).collect();
        Self { rows, norms, queue, chosen: chosen.to_vec(), products: 0 }
    }

    /// Inner products that were computed so far.
    #[must_use]
    pub const fn products(&self) -> u64 {
        self.products
    }

    /// The squared distance of two rows; never below 0.
    fn distance(&mut self, one: usize, two: usize) -> f64 {
        self.products += 1;
        let norm = |row: usize| self.norms.get(row).copied().unwrap_or(0.0);
        (norm(one) + norm(two) - 2.0 * dot(self.rows.get(one), self.rows.get(two))).max(0.0)
    }
}

impl Iterator for Centres<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while let Some(Entry { bound: Scored { mut score, row }, known }) = self.queue.pop() {
            if known == self.chosen.len() {
                self.chosen.push(row);
                return Some(row);
            }
            // While it is brought up to date it may fall below the next one, and wait there.
            let next = self.queue.peek().map(|next| next.bound);
            let mut known = known;
            while let Some(centre) = self.chosen.get(known).copied() {
                score = score.min(self.distance(row, centre));
                known += 1;
                if next.is_some_and(|next| next.beats(Scored { score, row })) {
                    break;
                }
            }
            self.queue.push(Entry { bound: Scored { score, row }, known });
        }
        None
    }
}
