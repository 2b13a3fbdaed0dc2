//! Exact duplicates: the texts that are kept, by their identity and by their folded form.
//!
//! A text is an exact duplicate when id, length and second hash of its normal form are those of a kept
//! record: the id alone does not protect against a source that makes collisions on purpose. The folded form, looser by
//! design, compares the xxh3-128 of the folded form.
//!
//! The state is a function of the kept rows of the store: for each identity, and for each folded form,
//! the first of them in the order of (shard, seq) at the time of opening, then in the order of reading.
//! It costs about 120 bytes of memory a kept record.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow::array::RecordBatch;
use perennial_schemas::id::{RecordId, Seq, Shard};
use perennial_schemas::table::TableError;
use perennial_schemas::table::records::{MatchKind, Outcome, View};
use perennial_schemas::text::Identity;

use crate::block::{Original, Verdict};
use crate::config::Folded;

/// A kept record: its shard's index in the list of shards, and its seq.
#[derive(Debug, Clone, Copy)]
struct Kept {
    shard: u32,
    seq: Seq,
}

/// The texts that are kept.
#[derive(Debug)]
pub struct Exact {
    shards: Vec<Shard>,
    // Only ever looked up, never walked: the order of the maps reaches nothing.
    identities: HashMap<Identity, Kept>,
    foldings: HashMap<u128, (Kept, RecordId)>,
    folded: Folded,
}

impl Exact {
    /// Of a store without records, for the daemon of `shard`.
    #[must_use]
    pub fn new(shard: Shard, folded: Folded) -> Self {
        Self { shards: vec![shard], identities: HashMap::new(), foldings: HashMap::new(), folded }
    }

    /// How many texts are known.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.identities.len()
    }

    /// What a text repeats, if it is known.
    #[must_use]
    pub fn look(&self, identity: Identity, folded: u128) -> Option<Verdict> {
        if let Some(kept) = self.identities.get(&identity) {
            return self.duplicate(*kept, identity.id, MatchKind::Exact);
        }
        let (kept, id) = self.foldings.get(&folded).filter(|_| self.folded == Folded::Duplicate)?;
        self.duplicate(*kept, *id, MatchKind::Folded)
    }

    /// Learns a text that this daemon reads as `seq` and keeps.
    pub fn learn(&mut self, identity: Identity, folded: u128, seq: Seq) {
        self.keep(identity, folded, Kept { shard: 0, seq });
    }

    /// Learns the kept rows of `batch`, in any order; other rows are passed over. Reads the columns `seq`,
    /// `id`, `length`, `verify_hash` and `folded`.
    ///
    /// # Errors
    /// [`TableError`] where the batch is not one of `records`, or a kept row lacks one of them.
    pub fn restore(&mut self, batch: &RecordBatch) -> Result<(), TableError> {
        for (row, record) in View::new(batch)?.iter().enumerate() {
            if record.outcome != Outcome::Kept.as_str() {
                continue;
            }
            let lacks = |column| TableError::Value {
                table: "records",
                column,
                value: record
                    .seq
                    .map_or("null".to_owned(), |seq| format!("shard {} seq {seq}", record.shard)),
                row,
                why: "a kept record must have a shard, seq, id, length, verify_hash and folded form",
            };
            let seq = Seq::from_i64(record.seq.ok_or_else(|| lacks("seq"))?);
            let shard = self.shard(record.shard).ok_or_else(|| lacks("shard"))?;
            let id = record.id.and_then(RecordId::from_bytes).ok_or_else(|| lacks("id"))?;
            let length =
                record.length.and_then(|length| u64::try_from(length).ok()).ok_or_else(|| lacks("length"))?;
            let verify_hash = record.verify_hash.ok_or_else(|| lacks("verify_hash"))?.cast_unsigned();
            let folded: [u8; 16] =
                record.folded.and_then(|hash| hash.try_into().ok()).ok_or_else(|| lacks("folded"))?;
            self.keep_first(
                Identity { id, length, verify_hash },
                u128::from_be_bytes(folded),
                Kept { shard, seq },
            );
        }
        Ok(())
    }

    /// As [`Exact::keep`], whatever the order of the calls: the lowest (shard, seq) stays.
    fn keep_first(&mut self, identity: Identity, folded: u128, kept: Kept) {
        let place = |kept: Kept| (self.shards.get(kept.shard as usize), kept.seq);
        let later = |known: Kept| place(kept) < place(known);
        let same = self.identities.get(&identity).is_some_and(|known| later(*known));
        let alike = self.foldings.get(&folded).is_some_and(|(known, _)| later(*known));
        if same {
            self.identities.insert(identity, kept);
        }
        if alike {
            self.foldings.insert(folded, (kept, identity.id));
        }
        self.keep(identity, folded, kept);
    }

    /// The index of a shard's name; `None` where it is no name.
    fn shard(&mut self, name: &str) -> Option<u32> {
        let index = match self.shards.iter().position(|shard| shard.as_str() == name) {
            Some(index) => index,
            None => {
                self.shards.push(name.parse().ok()?);
                self.shards.len() - 1
            }
        };
        u32::try_from(index).ok()
    }

    fn keep(&mut self, identity: Identity, folded: u128, kept: Kept) {
        self.identities.entry(identity).or_insert(kept);
        if self.folded == Folded::Duplicate
            && let Entry::Vacant(place) = self.foldings.entry(folded)
        {
            place.insert((kept, identity.id));
        }
    }

    fn duplicate(&self, kept: Kept, id: RecordId, match_kind: MatchKind) -> Option<Verdict> {
        let shard = self.shards.get(kept.shard as usize)?.clone();
        Some(Verdict::Duplicate { of: Original { shard, seq: kept.seq, id }, match_kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perennial_schemas::table::records::{Builder, Row};
    use perennial_schemas::text::{folded_form, folded_hash, normal_form};
    use proptest::prelude::*;

    const SECRET: u64 = 7;

    fn shard(name: &str) -> Shard {
        name.parse().unwrap()
    }

    fn judge(exact: &mut Exact, text: &str, seq: u64) -> Verdict {
        decide(exact, Identity::of(text, SECRET), folded_hash(text), seq)
    }

    fn decide(exact: &mut Exact, identity: Identity, folded: u128, seq: u64) -> Verdict {
        exact.look(identity, folded).unwrap_or_else(|| {
            exact.learn(identity, folded, Seq(seq));
            Verdict::Kept
        })
    }

    fn duplicate(seq: u64, of: &str, match_kind: MatchKind) -> Verdict {
        let of = Original { shard: shard("main"), seq: Seq(seq), id: Identity::of(of, SECRET).id };
        Verdict::Duplicate { of, match_kind }
    }

    #[test]
    fn text_is_a_duplicate_of_the_first_like_it_by_the_closest_rung() {
        let mut exact = Exact::new(shard("main"), Folded::Duplicate);
        assert_eq!(judge(&mut exact, "One text", 0), Verdict::Kept);
        assert_eq!(judge(&mut exact, "One text \r\n", 1), duplicate(0, "One text", MatchKind::Exact));
        assert_eq!(judge(&mut exact, "one  TEXT", 2), duplicate(0, "One text", MatchKind::Folded));
        assert_eq!(judge(&mut exact, "one  TEXT", 3), duplicate(0, "One text", MatchKind::Folded));
        assert_eq!(judge(&mut exact, "another", 4), Verdict::Kept);
        assert_eq!(exact.len(), 2);
    }

    #[test]
    fn folded_rung_is_silent_when_it_is_off() {
        let mut exact = Exact::new(shard("main"), Folded::Off);
        assert_eq!(judge(&mut exact, "One", 0), Verdict::Kept);
        assert_eq!(judge(&mut exact, "one", 1), Verdict::Kept);
        assert_eq!(judge(&mut exact, "one\n", 2), duplicate(1, "one", MatchKind::Exact));
    }

    #[test]
    fn colliding_id_is_no_duplicate_unless_length_and_check_agree() {
        let mut exact = Exact::new(shard("main"), Folded::Off);
        let true_one = Identity::of("a text", SECRET);
        assert_eq!(decide(&mut exact, true_one, 0, 0), Verdict::Kept);
        for forged in [
            Identity { length: true_one.length + 1, ..true_one },
            Identity { verify_hash: true_one.verify_hash ^ 1, ..true_one },
        ] {
            assert_eq!(decide(&mut exact, forged, 0, 1), Verdict::Kept);
        }
    }

    fn kept_row(builder: &mut Builder, shard: &str, seq: u64, text: &str) {
        let identity = Identity::of(text, SECRET);
        builder.push(Row {
            seq: Some(seq as i64),
            id: Some(identity.id.as_bytes()),
            length: Some(identity.length as i64),
            verify_hash: Some(identity.verify_hash.cast_signed()),
            folded: Some(&folded_hash(text).to_be_bytes()),
            ..Row::new(Outcome::Kept, shard, "files")
        });
    }

    #[test]
    fn restore_refuses_a_kept_row_without_its_id_and_passes_over_other_rows() {
        let mut builder = Builder::new();
        builder.push(Row::new(Outcome::DeadLetter, "main", "files"));
        let mut exact = Exact::new(shard("main"), Folded::Off);
        exact.restore(&builder.finish().unwrap()).unwrap();
        assert_eq!(exact.len(), 0);
        builder.push(Row { seq: Some(1), ..Row::new(Outcome::Kept, "main", "files") });
        assert!(exact.restore(&builder.finish().unwrap()).is_err());
    }

    #[test]
    fn restore_knows_the_records_of_other_shards() {
        let mut builder = Builder::new();
        kept_row(&mut builder, "other", 9, "text");
        let mut exact = Exact::new(shard("main"), Folded::Duplicate);
        exact.restore(&builder.finish().unwrap()).unwrap();
        let Verdict::Duplicate { of, .. } = judge(&mut exact, "text", 0) else { panic!("not found") };
        assert_eq!((of.shard.as_str(), of.seq), ("other", Seq(9)));
    }

    #[test]
    fn restore_finds_the_first_of_its_kind_whatever_the_order_of_the_rows() {
        let rows = [("b", 1, "One"), ("a", 7, "one"), ("a", 5, "One"), ("c", 0, "ONE"), ("a", 6, "One ")];
        for turn in 0..rows.len() {
            let mut rows = rows;
            rows.rotate_left(turn);
            let mut exact = Exact::new(shard("main"), Folded::Duplicate);
            for (shard, seq, text) in rows {
                let mut builder = Builder::new();
                kept_row(&mut builder, shard, seq, text);
                exact.restore(&builder.finish().unwrap()).unwrap();
            }
            for (text, match_kind) in [("One", MatchKind::Exact), ("oNe", MatchKind::Folded)] {
                let Verdict::Duplicate { of, match_kind: found } = judge(&mut exact, text, 9) else {
                    panic!()
                };
                assert_eq!((of.shard.as_str(), of.seq, found), ("a", Seq(5), match_kind), "turned by {turn}");
            }
        }
    }

    /// Compares every text with every kept one before it.
    fn twin(texts: &[String], folded: Folded) -> Vec<Verdict> {
        let mut kept: Vec<usize> = Vec::new();
        let mut verdicts = Vec::new();
        for (seq, text) in texts.iter().enumerate() {
            let same = kept.iter().find(|k| normal_form(&texts[**k]) == normal_form(text));
            let alike = kept.iter().find(|k| folded_form(&texts[**k]) == folded_form(text));
            verdicts.push(match (same, alike) {
                (Some(k), _) => duplicate(*k as u64, &texts[*k], MatchKind::Exact),
                (None, Some(k)) if folded == Folded::Duplicate => {
                    duplicate(*k as u64, &texts[*k], MatchKind::Folded)
                }
                _ => {
                    kept.push(seq);
                    Verdict::Kept
                }
            });
        }
        verdicts
    }

    proptest! {
        #[test]
        fn verdicts_are_those_of_comparing_all_texts_and_survive_a_restore_anywhere(
            texts in proptest::collection::vec("[aAbB \n]{1,3}", 0..30),
            off: bool,
            cut in 0..30_usize,
        ) {
            let folded = if off { Folded::Off } else { Folded::Duplicate };
            let expected = twin(&texts, folded);
            let mut exact = Exact::new(shard("main"), folded);
            let mut builder = Builder::new();
            for (seq, text) in texts.iter().enumerate() {
                if seq == cut {
                    exact = Exact::new(shard("main"), folded);
                    exact.restore(&builder.finish().unwrap()).unwrap();
                }
                let verdict = judge(&mut exact, text, seq as u64);
                if verdict == Verdict::Kept {
                    kept_row(&mut builder, "main", seq as u64, text);
                }
                prop_assert_eq!(verdict, expected[seq].clone());
            }
        }
    }
}
