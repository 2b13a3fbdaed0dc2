//! The score `unseen`: the share of a record's shingles that no record of the window has, and its percentile.
//!
//! Exact, not a filter: a shingle is unseen or it is not. The window is the newest kept records that
//! together have at most a given number of distinct shingles (counted per record); the oldest leave whole
//! when another record is learnt.
//!
//! Memory: 8 bytes a shingle of the window, 8 bytes a slot of a table of twice as many slots, rounded up to
//! a power of two, and 4 bytes a record: 192 MiB for the default of 2^23 shingles, about 50 MB of English.
//!
//! Rebuilding: [`Unseen::add`] the shingles of the kept records in order, all or those of the last window.
//! Their texts are read until their shingles fill the window.

use std::collections::VecDeque;

use perennial_schemas::table::records::Row;

use super::super::percentile::Percentile;
use super::super::{Cell, Column, Entry, Older, Record, Score, Values, Want};

/// Shingles of the default window.
pub const WINDOW: u32 = 1 << 23;

/// Its line of the catalogue.
pub const ENTRY: Entry = Entry {
    name: "unseen",
    summary: "share of shingles that no recent record has",
    columns: &[
        Column { name: "unseen", range: Some((0.0, 1.0)), set: |row, cell| row.unseen = cell.real() },
        Column {
            name: "unseen_percentile",
            range: Some((0.0, 1.0)),
            set: |row, cell| row.unseen_percentile = cell.real(),
        },
    ],
    build: |_| Box::new(Scored::new(WINDOW, Percentile::default())),
    explain,
};

fn explain(row: &Row<'_>) -> Option<String> {
    let mut text = format!("{:.0} % of its shingles were never seen in the window", 100.0 * row.unseen?);
    if let Some(percentile) = row.unseen_percentile {
        text += &format!(": more novel than {:.0} % of the last records", 100.0 * percentile);
    }
    Some(text)
}

/// The score: the window, and the last values.
#[derive(Debug)]
pub struct Scored {
    window: Unseen,
    percentile: Percentile,
    /// What [`Score::recall`] collected, from the newest record to the oldest.
    recalled: Recalled,
}

#[derive(Debug, Default)]
struct Recalled {
    shingles: Vec<Vec<u64>>,
    held: usize,
    values: Vec<f32>,
}

impl Scored {
    /// Without memory, for a window of this number of shingles.
    #[must_use]
    pub fn new(window: u32, percentile: Percentile) -> Self {
        Self { window: Unseen::new(window), percentile, recalled: Recalled::default() }
    }
}

impl Score for Scored {
    fn score(&mut self, records: &[Record<'_>], values: &mut Values) {
        for record in records {
            let value = self.window.score(&record.sketch.shingles);
            self.window.add(&record.sketch.shingles);
            values.push(&[Cell::Real(value), Cell::Real(self.percentile.push(value))]);
        }
    }

    fn wants(&self) -> Want {
        // The record that overflows the window is read too: what is learnt after it makes room by itself.
        if self.recalled.held <= self.window.window() {
            Want::Texts(&["unseen"])
        } else if self.recalled.values.len() < self.percentile.window() {
            Want::Columns(&["unseen"])
        } else {
            Want::Nothing
        }
    }

    fn recall(&mut self, older: &Older<'_>) {
        let recalled = &mut self.recalled;
        let values: Vec<f32> = older.rows.iter().filter_map(|row| row.unseen).collect();
        recalled.values.extend(values.into_iter().rev());
        if recalled.held <= self.window.window() {
            for sketch in older.sketches.unwrap_or_default().iter().rev() {
                recalled.held += sketch.shingles.len();
                recalled.shingles.push(sketch.shingles.clone());
            }
        }
    }

    fn resume(&mut self) {
        let Recalled { shingles, values, .. } = std::mem::take(&mut self.recalled);
        shingles.iter().rev().for_each(|shingles| self.window.add(shingles));
        self.percentile.resume(&values);
    }
}

/// The shingles of the newest records.
#[derive(Debug)]
pub struct Unseen {
    /// Shingles of the records of the window, record after record, in a ring.
    ring: Vec<u64>,
    window: usize,
    /// Where the oldest begins, and how many there are.
    first: usize,
    held: usize,
    /// How many each record has, from the oldest.
    records: VecDeque<u32>,
    /// Open addressing, linear probing, at most half full, so that a probe ends.
    table: Vec<Slot>,
}

/// A slot of the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Slot {
    /// Place in the ring + 1 of a shingle's newest copy; 0 for an empty slot.
    link: u32,
    /// Low bits of that shingle: where it belongs, and what tells most others apart without the ring.
    low: u32,
}

impl Unseen {
    /// An empty window of this number of shingles, at least one and at most 2^30.
    #[must_use]
    pub fn new(window: u32) -> Self {
        let window = window.clamp(1, 1 << 30) as usize;
        let table = vec![Slot::default(); (2 * window).next_power_of_two()];
        Self { ring: Vec::new(), window, first: 0, held: 0, records: VecDeque::new(), table }
    }

    /// Shingles in the window, those of several records once for each.
    #[cfg(test)]
    pub(crate) const fn len(&self) -> usize {
        self.held
    }

    /// Shingles that the window may hold.
    #[must_use]
    pub const fn window(&self) -> usize {
        self.window
    }

    /// Bytes of memory when the window is full, except for 4 per record.
    #[cfg(test)]
    const fn memory(&self) -> usize {
        self.window * size_of::<u64>() + self.table.len() * size_of::<Slot>()
    }

    /// The share of `shingles` (distinct) that no record of the window has, 0 to 1, as the column holds
    /// it; 0 for none.
    #[must_use]
    pub fn score(&self, shingles: &[u64]) -> f32 {
        let unseen = shingles.iter().filter(|shingle| !self.has(**shingle)).count();
        if shingles.is_empty() { 0.0 } else { (unseen as f64 / shingles.len() as f64) as f32 }
    }

    /// Learns the shingles of the next kept record (distinct, ascending). Of a record that has more than
    /// the window only the lowest are learnt.
    pub fn add(&mut self, shingles: &[u64]) {
        let shingles = shingles.get(..self.window).unwrap_or(shingles);
        while self.held + shingles.len() > self.window {
            self.forget_oldest();
        }
        for shingle in shingles {
            let place = (self.first + self.held) % self.window;
            match self.ring.get_mut(place) {
                Some(old) => *old = *shingle,
                None => self.ring.push(*shingle),
            }
            self.held += 1;
            let slot = self.slot(*shingle);
            if let Some(slot) = self.table.get_mut(slot) {
                *slot = Slot { link: place as u32 + 1, low: *shingle as u32 };
            }
        }
        if !shingles.is_empty() {
            self.records.push_back(shingles.len() as u32);
        }
    }

    fn forget_oldest(&mut self) {
        let Some(count) = self.records.pop_front() else { return };
        for _ in 0..count {
            if let Some(shingle) = self.ring.get(self.first) {
                let link = self.first as u32 + 1;
                let slot = self.probe(*shingle as u32, |slot| slot.link == link);
                // If a newer copy took its slot, the probe ended at an empty one.
                self.empty(slot);
            }
            self.first = (self.first + 1) % self.window;
            self.held -= 1;
        }
    }

    fn has(&self, shingle: u64) -> bool {
        self.table.get(self.slot(shingle)).is_some_and(|slot| slot.link != 0)
    }

    /// The slot of a shingle, or the empty one where it would be.
    fn slot(&self, shingle: u64) -> usize {
        let low = shingle as u32;
        self.probe(low, |slot| slot.low == low && self.ring.get(slot.link as usize - 1) == Some(&shingle))
    }

    /// The first slot, from where shingles with these low bits belong, that is wanted or empty.
    fn probe(&self, low: u32, wanted: impl Fn(&Slot) -> bool) -> usize {
        let mut at = self.home(low);
        while let Some(slot) = self.table.get(at)
            && slot.link != 0
            && !wanted(slot)
        {
            at = self.after(at);
        }
        at
    }

    /// Empties a slot and moves up what stands behind it only because it was taken (Knuth, algorithm 6.4 R).
    fn empty(&mut self, slot: usize) {
        let mask = self.table.len() - 1;
        let mut gap = slot;
        let mut at = slot;
        while self.table.get(at).is_some_and(|slot| slot.link != 0) {
            at = self.after(at);
            let Some(next) = self.table.get(at).filter(|slot| slot.link != 0) else { break };
            let from_home = at.wrapping_sub(self.home(next.low)) & mask;
            let from_gap = at.wrapping_sub(gap) & mask;
            if from_home >= from_gap {
                self.table.swap(gap, at);
                gap = at;
            }
        }
        if let Some(slot) = self.table.get_mut(gap) {
            *slot = Slot::default();
        }
    }

    const fn home(&self, low: u32) -> usize {
        low as usize & (self.table.len() - 1)
    }

    const fn after(&self, slot: usize) -> usize {
        (slot + 1) & (self.table.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Sets of shingles that meet in the low bits too, so that probes run into each other and over the end.
    fn records() -> impl Strategy<Value = Vec<Vec<u64>>> {
        let shingle =
            prop_oneof![0_u64..12, (0_u64..6).prop_map(|k| u64::from(u32::MAX) + (k << 40)), any::<u64>()];
        proptest::collection::vec(proptest::collection::btree_set(shingle, 0..14), 0..40)
            .prop_map(|records| records.into_iter().map(|set| set.into_iter().collect()).collect())
    }

    /// The window by its definition.
    fn window(records: &[Vec<u64>], window: usize) -> BTreeSet<u64> {
        let (mut held, mut seen) = (0, BTreeSet::new());
        for record in records.iter().rev() {
            let record = &record[..record.len().min(window)];
            held += record.len();
            if held > window {
                break;
            }
            seen.extend(record.iter().copied());
        }
        seen
    }

    #[test]
    fn score_is_the_share_never_seen_before_the_record_is_learnt() {
        let mut unseen = Unseen::new(100);
        assert_eq!(unseen.score(&[1, 2, 3, 4]), 1.0);
        unseen.add(&[1, 2, 3]);
        assert_eq!(unseen.score(&[1, 2, 3, 4]), 0.25);
        assert_eq!(unseen.score(&[1]), 0.0);
        assert_eq!(unseen.score(&[]), 0.0);
    }

    #[test]
    fn memory_is_what_the_text_says() {
        assert_eq!(Unseen::new(WINDOW).memory(), 192 << 20);
    }

    proptest! {
        #[test]
        fn window_holds_the_newest_records_and_nothing_else(records in records(), size in 1_u32..40) {
            let mut unseen = Unseen::new(size);
            for count in 0..=records.len() {
                let seen = window(&records[..count], size as usize);
                for shingle in records.iter().flatten() {
                    prop_assert_eq!(unseen.has(*shingle), seen.contains(shingle));
                }
                prop_assert!(unseen.len() <= size as usize);
                prop_assert!(unseen.ring.len() <= size as usize);
                prop_assert_eq!(unseen.table.iter().filter(|slot| slot.link != 0).count(), seen.len());
                if let Some(record) = records.get(count) {
                    unseen.add(record);
                }
            }
        }

        #[test]
        fn window_rebuilt_from_its_records_is_that_never_interrupted(records in records(), size in 1_u32..40, cut in 0_usize..40) {
            let cut = cut.min(records.len());
            let mut whole = Unseen::new(size);
            records.iter().for_each(|record| whole.add(record));
            // From any record on from which the rest fills the window.
            let rest: usize = records[cut..].iter().map(|record| record.len().min(size as usize)).sum();
            let start = if rest >= size as usize { cut } else { 0 };
            let mut rebuilt = Unseen::new(size);
            records[start..].iter().for_each(|record| rebuilt.add(record));
            for record in &records {
                prop_assert_eq!(rebuilt.score(record), whole.score(record));
            }
        }
    }
}
