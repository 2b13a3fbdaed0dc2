//! How alike two texts truly are: a candidate is only a candidate.
//!
//! Sets of shingles are compared whole; their signatures decide nothing.

use std::cmp::Ordering;

use lru::LruCache;

/// How many shingles two sets have, and have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// Shingles of the first set.
    pub left: usize,
    /// Shingles of the second set.
    pub right: usize,
    /// Shingles in both.
    pub shared: usize,
}

impl Overlap {
    /// That of two sets, each ascending and without repeats.
    #[must_use]
    pub fn of(left: &[u64], right: &[u64]) -> Self {
        let mut shared = 0;
        let (mut a, mut b) = (left.iter(), right.iter());
        let (mut x, mut y) = (a.next(), b.next());
        while let (Some(one), Some(other)) = (x, y) {
            match one.cmp(other) {
                Ordering::Less => x = a.next(),
                Ordering::Greater => y = b.next(),
                Ordering::Equal => {
                    shared += 1;
                    (x, y) = (a.next(), b.next());
                }
            }
        }
        Self { left: left.len(), right: right.len(), shared }
    }

    /// The largest Jaccard similarity that two sets of these sizes can have.
    #[must_use]
    pub fn ceiling(left: usize, right: usize) -> f64 {
        ratio(left.min(right), left.max(right))
    }

    /// Jaccard similarity: shared shingles over all shingles, 0 to 1; 1 for two empty sets.
    #[must_use]
    pub fn jaccard(self) -> f64 {
        ratio(self.shared, self.left + self.right - self.shared)
    }

    /// The share of the first set's shingles that the second has, 0 to 1; 1 for an empty first set.
    #[must_use]
    pub fn containment(self) -> f64 {
        ratio(self.shared, self.left)
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// Sets of shingles of kept records: those added or used last that fit into a number of bytes.
///
/// A cache: a set that is not here is computed again from the text. Strictly the least recently used set
/// leaves first: what a block needs can be fetched at once only if nothing that was just used can leave.
#[derive(Debug)]
pub(super) struct Cache {
    sets: LruCache<u64, Box<[u64]>>,
    bytes: usize,
    limit: usize,
}

impl Cache {
    /// An empty one of at most `limit` bytes of shingles.
    pub(super) fn new(limit: usize) -> Self {
        Self { sets: LruCache::unbounded(), bytes: 0, limit }
    }

    /// The set of the record with this number.
    pub(super) fn get(&self, number: u64) -> Option<&[u64]> {
        self.sets.peek(&number).map(|set| &**set)
    }

    /// Whether it has the set of the record with this number, which then is the one used last.
    pub(super) fn touch(&mut self, number: u64) -> bool {
        self.sets.get(&number).is_some()
    }

    /// Adds the set of a record, in place of those not used for longest; one that does not fit is not added.
    pub(super) fn put(&mut self, number: u64, shingles: &[u64]) {
        let size = size_of_val(shingles);
        if size > self.limit || self.touch(number) {
            return;
        }
        while self.bytes + size > self.limit {
            let Some((_, set)) = self.sets.pop_lru() else { break };
            self.bytes -= size_of_val(&*set);
        }
        self.bytes += size;
        self.sets.put(number, shingles.into());
    }

    /// Bytes of shingles that it holds.
    #[cfg(test)]
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set() -> impl Strategy<Value = BTreeSet<u64>> {
        proptest::collection::btree_set(0_u64..40, 0..30)
    }

    fn list(set: &BTreeSet<u64>) -> Vec<u64> {
        set.iter().copied().collect()
    }

    proptest! {
        #[test]
        fn overlap_is_that_of_the_sets(a in set(), b in set()) {
            let overlap = Overlap::of(&list(&a), &list(&b));
            prop_assert_eq!(overlap.shared, a.intersection(&b).count());
            let union = a.union(&b).count();
            let jaccard = if union == 0 { 1.0 } else { overlap.shared as f64 / union as f64 };
            prop_assert_eq!(overlap.jaccard(), jaccard);
            prop_assert!(overlap.jaccard() <= Overlap::ceiling(a.len(), b.len()));
            prop_assert!(overlap.jaccard() <= overlap.containment());
        }

        #[test]
        fn jaccard_does_not_depend_on_the_side(a in set(), b in set()) {
            let (a, b) = (list(&a), list(&b));
            prop_assert_eq!(Overlap::of(&a, &b).jaccard(), Overlap::of(&b, &a).jaccard());
            prop_assert_eq!(Overlap::of(&a, &a).jaccard(), 1.0);
            prop_assert_eq!(Overlap::of(&a, &a).containment(), 1.0);
        }

        #[test]
        fn cache_holds_the_sets_used_last_that_fit(uses in proptest::collection::vec((any::<bool>(), 0_u64..12), 0..90)) {
            let set = |number: u64| vec![number; number as usize];
            let mut cache = Cache::new(160);
            // The sets there are, from the one used last.
            let mut model: Vec<u64> = Vec::new();
            for (adds, number) in uses {
                let known = model.iter().position(|other| *other == number);
                if adds {
                    cache.put(number, &set(number));
                } else {
                    prop_assert_eq!(cache.touch(number), known.is_some());
                }
                if let Some(known) = known {
                    model.remove(known);
                }
                if adds || known.is_some() {
                    model.insert(0, number);
                }
                while model.iter().map(|number| number * 8).sum::<u64>() > 160 {
                    model.pop();
                }
                for number in 0..12 {
                    let expected = model.contains(&number).then(|| set(number));
                    prop_assert_eq!(cache.get(number), expected.as_deref());
                }
                prop_assert_eq!(cache.bytes() as u64, model.iter().map(|number| number * 8).sum::<u64>());
            }
        }
    }

    #[test]
    fn set_larger_than_the_cache_is_not_kept() {
        let mut cache = Cache::new(80);
        cache.put(0, &[1, 2]);
        cache.put(1, &[0; 11]);
        assert_eq!((cache.get(0), cache.get(1)), (Some(&[1, 2][..]), None));
    }

    #[test]
    fn containment_is_the_share_of_the_first_set() {
        let overlap = Overlap::of(&[1, 2], &[1, 2, 3, 4]);
        assert_eq!((overlap.containment(), overlap.jaccard()), (1.0, 0.5));
        assert_eq!(Overlap::of(&[1, 2, 3, 4], &[1, 2]).containment(), 0.5);
    }
}
