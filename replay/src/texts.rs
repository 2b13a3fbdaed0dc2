//! Tokens of records that were read lately, up to a number of bytes. With bytes they are the texts.

use std::collections::BTreeMap;

use perennial_program::config::Bytes;
use perennial_schemas::id::{Seq, Shard};

use crate::tokenise::Tokens;

type RecordKey = (Shard, Seq);

/// About how many bytes an entry takes beside its tokens: its place, twice, and its nodes' share.
const ENTRY: usize = 200;

/// A cache of records' tokens: those asked for longest ago leave first.
#[derive(Debug)]
pub struct Texts {
    limit: usize,
    used: usize,
    /// Counts the uses.
    now: u64,
    texts: BTreeMap<RecordKey, (u64, Tokens)>,
    /// Places by their last use.
    uses: BTreeMap<u64, RecordKey>,
}

impl Texts {
    /// An empty cache of at most about `limit` bytes of memory: of each record its tokens and 200.
    #[must_use]
    pub fn new(limit: Bytes) -> Self {
        Self { limit: limit.as_usize(), used: 0, now: 0, texts: BTreeMap::new(), uses: BTreeMap::new() }
    }

    /// The tokens of the record at a place, if they are here.
    pub fn get(&mut self, place: &RecordKey) -> Option<Tokens> {
        let (used, text) = self.texts.get_mut(place)?;
        self.now += 1;
        self.uses.remove(used);
        self.uses.insert(self.now, place.clone());
        *used = self.now;
        Some(text.clone())
    }

    /// Keeps a record's tokens, if they fit at all.
    pub fn insert(&mut self, place: RecordKey, text: Tokens) {
        if size(&text) > self.limit {
            return;
        }
        self.now += 1;
        self.used += size(&text);
        self.uses.insert(self.now, place.clone());
        if let Some((used, old)) = self.texts.insert(place, (self.now, text)) {
            self.used -= size(&old);
            self.uses.remove(&used);
        }
        while self.used > self.limit {
            let Some((_, place)) = self.uses.pop_first() else { break };
            self.used -= self.texts.remove(&place).map_or(0, |(_, text)| size(&text));
        }
    }

    /// Forgets everything: the store was rewritten.
    pub fn clear(&mut self) {
        self.used = 0;
        self.texts.clear();
        self.uses.clear();
    }
}

/// Bytes that a record's entry takes.
fn size(text: &Tokens) -> usize {
    ENTRY.saturating_add(text.memory())
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

    /// Room for three entries and the text of about as many.
    const LIMIT: usize = 3 * 200 + 64;

    proptest! {
        #[test]
        fn cache_keeps_within_its_bytes_and_holds_what_was_used_last(
            uses in proptest::collection::vec((0_u64..8, 0_usize..40), 0..80),
        ) {
            let mut texts = Texts::new(Bytes::new(LIMIT as u64));
            // The twin: places and texts from the least to the most recently used.
            let mut twin: Vec<(RecordKey, Arc<str>)> = Vec::new();
            for (seq, length) in uses {
                let place = ("main".parse().unwrap(), Seq(seq));
                let at = twin.iter().position(|(known, _)| *known == place);
                let found = texts.get(&place);
                prop_assert_eq!(found.as_ref().map(text), at.map(|at| &*twin[at].1));
                let old = at.map(|at| twin.remove(at));
                let text: Arc<str> = old.map_or_else(|| "x".repeat(length).into(), |(_, text)| text);
                texts.insert(place.clone(), Tokens::Bytes(Arc::clone(&text)));
                twin.push((place, text));
                while twin.iter().map(|(_, text)| 200 + text.len()).sum::<usize>() > LIMIT {
                    twin.remove(0);
                }
                prop_assert_eq!(texts.used, twin.iter().map(|(_, text)| 200 + text.len()).sum::<usize>());
            }
            prop_assert_eq!(texts.texts.len(), twin.len());
        }
    }

    #[test]
    fn records_without_text_fill_the_cache_too() {
        let mut texts = Texts::new(Bytes::new(1_000));
        for seq in 0..100 {
            texts.insert(("main".parse().unwrap(), Seq(seq)), Tokens::Bytes("".into()));
        }
        assert_eq!((texts.texts.len(), texts.uses.len(), texts.used), (5, 5, 1_000));
    }

    #[test]
    fn text_larger_than_the_cache_is_not_kept() {
        let mut texts = Texts::new(Bytes::new(203));
        let place: RecordKey = ("main".parse().unwrap(), Seq(1));
        texts.insert(place.clone(), Tokens::Bytes("abcd".into()));
        assert_eq!((texts.get(&place).is_none(), texts.used), (true, 0));
        texts.insert(place.clone(), Tokens::Bytes("abc".into()));
        assert_eq!((texts.get(&place).as_ref().map(text), texts.used), (Some("abc"), 203));
        texts.clear();
        assert_eq!((texts.get(&place).is_none(), texts.used), (true, 0));
    }
}
