//! Tokens of records that were read recently, up to a number of bytes. With bytes they are the texts.

use perennial_program::config::Bytes;
use perennial_schemas::id::Offset;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use crate::tokenise::Tokens;

/// About how many bytes an entry takes besides its tokens: its key and its share of the cache's tables.
const ENTRY: usize = 200;

/// A cache of records' tokens. Records that are read again stay longest.
#[derive(Debug)]
pub struct Texts(Cache<Offset, Tokens, ByBytes>);

#[derive(Debug, Clone, Copy)]
struct ByBytes;

impl Weighter<Offset, Tokens> for ByBytes {
    fn weight(&self, _: &Offset, tokens: &Tokens) -> u64 {
        ENTRY.saturating_add(tokens.memory()) as u64
    }
}

impl Texts {
    /// An empty cache of at most about `limit` bytes of memory: of each record its tokens and 200.
    #[must_use]
    pub fn new(limit: Bytes) -> Self {
        let limit = limit.as_usize();
        // Counts keys only that are remembered after their tokens left.
        let records = limit / (8 * ENTRY);
        Self(Cache::with_weighter(records, limit as u64, ByBytes))
    }

    /// The tokens of the record at an offset, if they are in the cache.
    pub fn get(&self, offset: &Offset) -> Option<Tokens> {
        self.0.get(offset).cloned()
    }

    /// Keeps a record's tokens, if they fit into the cache at all.
    pub fn insert(&mut self, offset: Offset, tokens: Tokens) {
        self.0.insert(offset, tokens);
    }

    /// Forgets everything: the store was rewritten.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use proptest::prelude::*;

    fn text(of: &Tokens) -> &str {
        let Tokens::Bytes(text) = of else { panic!("no bytes") };
        text
    }

    /// Room for about ten entries and their texts.
    const LIMIT: usize = 10 * 220;

    proptest! {
        #[test]
        fn cache_keeps_within_its_bytes_and_gives_only_what_was_kept_last(
            uses in proptest::collection::vec((0_u64..30, 0_usize..40), 0..200),
        ) {
            let mut texts = Texts::new(Bytes::new(LIMIT as u64));
            // What was inserted last at each place.
            let mut twin: std::collections::BTreeMap<Offset, Arc<str>> = Default::default();
            for (seq, length) in uses {
                let place = Offset(seq);
                if let Some(found) = texts.get(&place) {
                    prop_assert_eq!(Some(text(&found)), twin.get(&place).map(|text| &**text));
                }
                let new: Arc<str> = "x".repeat(length).into();
                texts.insert(place, Tokens::Bytes(Arc::clone(&new)));
                let found = texts.get(&place);
                prop_assert_eq!(found.as_ref().map(text), Some(&*new), "what was kept last is there");
                twin.insert(place, new);
                prop_assert!(texts.0.weight() <= LIMIT as u64);
                let held: usize = texts.0.iter().map(|(_, tokens)| 200 + text(tokens).len()).sum();
                prop_assert_eq!(texts.0.weight(), held as u64);
            }
        }
    }

    /// Records of a working set that fits stay, whatever else is read once in between.
    #[test]
    fn records_read_again_and_again_stay_while_others_are_read_once() {
        let mut texts = Texts::new(Bytes::new(LIMIT as u64));
        let place = Offset;
        let mut hits = 0;
        for round in 0..100 {
            for seq in (0..4).chain([1_000 + 2 * round, 1_001 + 2 * round]) {
                match texts.get(&place(seq)) {
                    Some(_) => hits += 1,
                    None => texts.insert(place(seq), Tokens::Bytes("".into())),
                }
            }
        }
        assert_eq!(hits, 4 * 99);
    }

    #[test]
    fn records_without_text_fill_the_cache_too() {
        let mut texts = Texts::new(Bytes::new(1_000));
        for seq in 0..100 {
            texts.insert(Offset(seq), Tokens::Bytes("".into()));
        }
        assert_eq!((texts.0.len(), texts.0.weight()), (5, 1_000));
    }

    #[test]
    fn text_larger_than_the_cache_is_not_kept() {
        let mut texts = Texts::new(Bytes::new(1_000));
        let place = Offset(1);
        texts.insert(place, Tokens::Bytes("x".repeat(801).into()));
        assert_eq!((texts.get(&place).is_none(), texts.0.weight()), (true, 0));
        texts.insert(place, Tokens::Bytes("abc".into()));
        assert_eq!((texts.get(&place).as_ref().map(text), texts.0.weight()), (Some("abc"), 203));
        texts.clear();
        assert_eq!((texts.get(&place).is_none(), texts.0.weight()), (true, 0));
    }
}
