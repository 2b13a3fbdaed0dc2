//! The near-duplicate stage: whether a text is new, a near-duplicate of a kept record or a revision of one.
//!
//! ```text
//! shingle ─> minhash ─> lsh ─> verify ─> revision
//! ```
//! [`Sketcher`] makes shingles and signature of a text, on any thread. [`NearDeduplicator`] decides, one
//! record at a time in the order of reading:
//!
//! 1. **Candidates** are the kept records of the window that share a band of the signature, at most
//!    [`MOST_VERIFIED`] of those that share most, and the [`MOST_NAMESAKES`] newest records of the same
//!    source with the same external id, and with the same url.
//! 2. Each is **verified** on its shingles, from the cache or made again from its text. The best one is
//!    that of the highest Jaccard similarity, among equals that of the lowest (shard, seq).
//! 3. The best one at or above the threshold: if the new text is later in event time and has enough new
//!    text, it is a **revision** of it and kept; else it is a **duplicate** of it.
//! 4. None at the threshold: the text is **kept**; and if a record of the same name is earlier in event
//!    time (the best such one), and there is enough new text, as a revision of that.
//!
//! The first of a group stays, and only kept records count as originals: a duplicate of a duplicate that
//! is not alike the original is kept. What becomes of a duplicate, [`Action`], changes no later verdict:
//! under `annotate` its row is in the store as a kept one with its evidence, and is no original either.
//!
//! # State
//! A function of the last `records` originals in order and of nothing else: [`NearDeduplicator::remember`]
//! them from the store in the order of their seq and decide on as if never interrupted. After rows were
//! taken out of the store (an erase), rebuild.
//!
//! Memory a record of the window: 252 bytes of [`super::lsh`], 96 bytes here for what it is, 24 for the
//! two names: 0.4 GB for the default of 1,000,000, and the cache.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::ControlFlow;

use perennial_program::config::{Bytes, Share};
use perennial_schemas::id::{RecordId, Seq, Shard};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::lsh::{Chains, Hit, Lsh};
use super::minhash::{MinHasher, Signature};
use super::revision::{NewText, Reviser};
use super::shingle::Shingler;
use super::verify::{Cache, Overlap};
use crate::block::Original;

/// Candidates by signature that are verified for one record: those that share most bands. A text shares
/// 8 of the 21 bands with one of similarity 0.85, and one with one of 0.6.
pub const MOST_VERIFIED: usize = 64;

/// Candidates by external id, and by url, for one record: the newest.
pub const MOST_NAMESAKES: usize = 8;

/// `[dedup.near]`: which texts are near-duplicates and what becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Near {
    /// What becomes of a near-duplicate.
    pub action: Action,
    /// A text is a near-duplicate from this Jaccard similarity on.
    pub threshold: Share,
    /// Kept records that a text is compared with: the newest.
    pub records: u32,
    /// A later text with at least this many new characters is a revision and kept.
    pub revision_chars: u64,
    /// A later text that is new by this share is a revision and kept.
    pub revision_share: Share,
    /// Memory for the shingles of recent records.
    pub cache: Bytes,
}

impl Default for Near {
    fn default() -> Self {
        let share = |value| Share::new(value).unwrap_or(Share::ONE);
        Self {
            action: Action::Drop,
            threshold: share(0.8),
            records: 1_000_000,
            revision_chars: 200,
            revision_share: share(0.02),
            cache: Bytes::mib(256),
        }
    }
}

/// What becomes of a near-duplicate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Its row says what it repeats, without its text.
    #[default]
    Drop,
    /// Its row says what it repeats, with its text.
    Divert,
    /// It is kept, with what it repeats.
    Annotate,
}

/// A text's shingles and signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch {
    /// Its distinct shingles, ascending.
    pub shingles: Vec<u64>,
    /// The hashes of its words, in their order.
    pub words: Vec<u64>,
    /// Its signature, of kind [`super::minhash::SIGNATURE_KIND`].
    pub signature: Signature,
}

impl Sketch {
    /// Bytes that it holds in memory, about.
    #[must_use]
    pub const fn weight(&self) -> usize {
        size_of::<Self>() + (self.shingles.len() + self.words.len()) * size_of::<u64>() + 512
    }
}

/// Makes sketches; any number of them make the same ones.
#[derive(Debug, Default)]
pub struct Sketcher {
    shingler: Shingler,
    hasher: MinHasher,
}

impl Sketcher {
    /// One without buffers yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The sketch of `text`.
    pub fn sketch(&mut self, text: &str) -> Sketch {
        let mut shingles = Vec::new();
        self.shingler.shingle(text, &mut shingles);
        let words = self.shingler.words().collect();
        Sketch { signature: self.hasher.sign(&shingles), words, shingles }
    }
}

/// A record to decide on, which is compared with originals.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Its shard.
    pub shard: &'a Shard,
    /// Its seq.
    pub seq: Seq,
    /// The id of its text.
    pub id: RecordId,
    /// The source it is from.
    pub source: &'a str,
    /// The source's own name of it.
    pub external_id: Option<&'a str>,
    /// Where it was published.
    pub url: Option<&'a str>,
    /// When the source says it happened: microseconds since 1970, UTC.
    pub event_time: Option<i64>,
    /// Its text.
    pub text: &'a str,
}

/// A kept record that another resembles, and how much.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// The kept record.
    pub original: Original,
    /// Jaccard similarity of the two sets of shingles, 0 to 1.
    pub jaccard: f64,
    /// The share of the new record's shingles that the kept one has, 0 to 1.
    pub containment: f64,
}

/// What a text is to the kept ones.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is kept.
    Kept {
        /// What it is a revision of.
        revises: Option<Match>,
        /// What a revision has and the revised record does not have: (start, end) in bytes of its text.
        new_spans: Vec<(u32, u32)>,
        /// The id of the first record of its chain of revisions; its own if it revises nothing.
        lineage: RecordId,
    },
    /// It is a near-duplicate.
    Duplicate {
        /// Of what.
        of: Match,
    },
}

/// What the stage did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records decided on.
    pub decided: u64,
    /// Candidates of them.
    pub candidates: u64,
    /// Candidates compared on their shingles.
    pub verified: u64,
    /// Cache misses: candidates whose shingles were computed again from their text.
    pub looked_up: u64,
    /// Candidates whose text is no longer in the store.
    pub lost: u64,
    /// Records with more candidates than are verified.
    pub cut: u64,
}

/// Decides which texts are near-duplicates. See the module's text.
#[derive(Debug)]
pub struct NearDeduplicator {
    config: Near,
    lsh: Lsh,
    namesakes: Chains<2>,
    entries: Vec<Entry>,
    shards: Vec<Shard>,
    cache: Cache,
    shingler: Shingler,
    reviser: Reviser,
    hits: Vec<Hit>,
    looked_up: Vec<u64>,
    counts: Counts,
}

/// What is known of an original.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Hashes of source and external id, and of source and url; 0 for none.
    names: [u128; 2],
    id: RecordId,
    lineage: RecordId,
    seq: Seq,
    event_time: Option<i64>,
    shard: u32,
}

/// An original that is to be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    number: u64,
    /// Whether source and external id or url are those of the new record.
    namesake: bool,
}

/// What verification found: the best candidates, if any.
#[derive(Debug, Default)]
struct Verified {
    /// At the threshold or above.
    alike: Option<Best>,
    /// Of the same name and earlier in event time.
    earlier: Option<Best>,
}

/// The best of some candidates, with its shingles.
#[derive(Debug)]
struct Best {
    number: u64,
    overlap: Overlap,
    shingles: Vec<u64>,
}

impl NearDeduplicator {
    /// One that knows no record.
    #[must_use]
    pub fn new(config: Near) -> Self {
        Self {
            config,
            lsh: Lsh::new(config.records),
            namesakes: Chains::new(config.records),
            entries: Vec::new(),
            shards: Vec::new(),
            cache: Cache::new(config.cache.as_usize()),
            shingler: Shingler::new(),
            reviser: Reviser::new(),
            hits: Vec::new(),
            looked_up: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// How many originals it compares with.
    #[cfg(test)]
    pub(crate) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many originals it compares with at most: the newest.
    #[must_use]
    pub fn window(&self) -> usize {
        usize::try_from(self.config.records).unwrap_or(usize::MAX)
    }

    /// What becomes of the duplicates it finds.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.config.action
    }

    /// What it did so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Decides on the next record, and remembers it if it is kept. `sketch` is that of its text; `lookup`
    /// gives the text of a kept record; one that returns `None`, because it was removed, is not compared.
    ///
    /// # Errors
    /// That of `lookup`; nothing is remembered then, and the record can be decided on again.
    pub fn decide<'t, E>(
        &mut self,
        record: &Query<'_>,
        sketch: &Sketch,
        lookup: impl FnMut(&Original) -> Result<Option<Cow<'t, str>>, E>,
    ) -> Result<Verdict, E> {
        let names = names(record);
        let candidates = self.candidates(names, &sketch.signature);
        let verified = self.verify(record, sketch, &candidates, lookup)?;
        self.counts.decided += 1;
        let verdict = self.judge(record, verified);
        if let Verdict::Kept { lineage, .. } = &verdict {
            let number = self.insert(record, names, *lineage, &sketch.signature);
            self.cache.put(number, &sketch.shingles);
        }
        Ok(verdict)
    }

    /// Learns an original from its row in the store, whose `text` need not be read. Rows come in the order
    /// in which they were decided on; of them those that are kept and not annotated as duplicates. Those
    /// before the last `records` may be left out.
    pub fn remember(&mut self, record: &Query<'_>, lineage: RecordId, signature: &Signature) {
        self.insert(record, names(record), lineage, signature);
    }

    /// Puts the originals whose text [`NearDeduplicator::decide`] would look up for this record into
    /// `texts`, so that those of a whole block can be fetched at once.
    ///
    /// What the cache has of the others stays there until as many bytes of shingles as it may hold have
    /// been used after it: for a block with fewer, nothing else is looked up, whatever was kept before.
    pub fn missing(&mut self, record: &Query<'_>, signature: &Signature, texts: &mut Vec<Original>) {
        let before = self.counts;
        let candidates = self.candidates(names(record), signature);
        self.counts = before;
        for candidate in candidates {
            if !self.cache.touch(candidate.number) {
                texts.extend(self.entry(candidate.number).and_then(|entry| self.original(entry)));
            }
        }
    }

    fn insert(
        &mut self,
        record: &Query<'_>,
        names: [u128; 2],
        lineage: RecordId,
        signature: &Signature,
    ) -> u64 {
        let shard = match self.shards.iter().position(|shard| shard == record.shard) {
            Some(index) => index,
            None => {
                self.shards.push(record.shard.clone());
                self.shards.len() - 1
            }
        };
        let entry = Entry {
            names,
            id: record.id,
            lineage,
            seq: record.seq,
            event_time: record.event_time,
            shard: shard as u32,
        };
        let number = self.lsh.insert(signature);
        self.namesakes.insert(names.map(name_key));
        let place = self.namesakes.place(number);
        match self.entries.get_mut(place) {
            Some(oldest) => *oldest = entry,
            None => self.entries.push(entry),
        }
        number
    }

    /// The originals that are to be verified, each once.
    fn candidates(&mut self, names: [u128; 2], signature: &Signature) -> Vec<Candidate> {
        let cut = self.lsh.find(signature, &mut self.hits);
        self.counts.cut += u64::from(cut || self.hits.len() > MOST_VERIFIED);
        let mut candidates = Vec::new();
        for (table, name) in names.into_iter().enumerate() {
            let Some(key) = name_key(name) else { continue };
            let mut left = MOST_NAMESAKES;
            self.namesakes.walk(table, key, |number| {
                let entry = self.entries.get(self.namesakes.place(number));
                if entry.and_then(|entry| entry.names.get(table)) == Some(&name) {
                    candidates.push(Candidate { number, namesake: true });
                    left -= 1;
                }
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        }
        let alike = self.hits.iter().take(MOST_VERIFIED);
        candidates.extend(alike.map(|hit| Candidate { number: hit.number, namesake: false }));
        candidates.sort_by_key(|candidate| (candidate.number, !candidate.namesake));
        candidates.dedup_by_key(|candidate| candidate.number);
        self.counts.candidates += candidates.len() as u64;
        candidates
    }

    /// Compares the candidates with the record.
    fn verify<'t, E>(
        &mut self,
        record: &Query<'_>,
        sketch: &Sketch,
        candidates: &[Candidate],
        mut lookup: impl FnMut(&Original) -> Result<Option<Cow<'t, str>>, E>,
    ) -> Result<Verified, E> {
        let mut verified = Verified::default();
        for candidate in candidates {
            let Some(entry) = self.entry(candidate.number).copied() else { continue };
            let cached = self.cache.touch(candidate.number);
            if !cached {
                let Some(original) = self.original(&entry) else { continue };
                let Some(text) = lookup(&original)? else {
                    self.counts.lost += 1;
                    continue;
                };
                self.shingler.shingle(&text, &mut self.looked_up);
                self.counts.looked_up += 1;
                self.cache.put(candidate.number, &self.looked_up);
            }
            let shingles = match self.cache.get(candidate.number) {
                Some(shingles) if cached => shingles,
                _ => &self.looked_up,
            };
            let earlier = candidate.namesake && later(record.event_time, entry.event_time);
            let threshold = self.config.threshold.get();
            if !earlier && Overlap::ceiling(sketch.shingles.len(), shingles.len()) < threshold {
                continue;
            }
            self.counts.verified += 1;
            let overlap = Overlap::of(&sketch.shingles, shingles);
            if overlap.jaccard() >= threshold
                && self.beats(candidate.number, overlap, verified.alike.as_ref())
            {
                verified.alike = Some(Best::new(candidate.number, overlap, shingles));
            }
            if earlier && self.beats(candidate.number, overlap, verified.earlier.as_ref()) {
                verified.earlier = Some(Best::new(candidate.number, overlap, shingles));
            }
        }
        Ok(verified)
    }

    /// Whether this is the better match: more alike, or as alike and of the lower (shard, seq).
    fn beats(&self, number: u64, overlap: Overlap, other: Option<&Best>) -> bool {
        let Some(other) = other else { return true };
        let place = |number| self.entry(number).map(|entry| (self.shard(entry), entry.seq));
        match overlap.jaccard().total_cmp(&other.overlap.jaccard()) {
            Ordering::Equal => place(number) < place(other.number),
            order => order.is_gt(),
        }
    }

    fn judge(&mut self, record: &Query<'_>, verified: Verified) -> Verdict {
        if let Some(best) = verified.alike {
            let kept = self.entry(best.number).copied();
            let earlier = kept.is_some_and(|entry| later(record.event_time, entry.event_time));
            let new = earlier.then(|| self.reviser.new_text(record.text, &best.shingles));
            if let Some(of) = self.matched(&best) {
                return match new.filter(|new| self.is_enough(new)) {
                    Some(new) => self.revision(&best, of, new),
                    None => Verdict::Duplicate { of },
                };
            }
        } else if let Some(best) = verified.earlier {
            let new = self.reviser.new_text(record.text, &best.shingles);
            if let (true, Some(of)) = (self.is_enough(&new), self.matched(&best)) {
                return self.revision(&best, of, new);
            }
        }
        Verdict::Kept { revises: None, new_spans: Vec::new(), lineage: record.id }
    }

    fn is_enough(&self, new: &NewText) -> bool {
        new.is_at_least(self.config.revision_chars, self.config.revision_share.get())
    }

    fn revision(&self, best: &Best, of: Match, new: NewText) -> Verdict {
        let lineage = self.entry(best.number).map_or(of.original.id, |entry| entry.lineage);
        Verdict::Kept { revises: Some(of), new_spans: new.spans, lineage }
    }

    fn matched(&self, best: &Best) -> Option<Match> {
        let original = self.original(self.entry(best.number)?)?;
        let Best { overlap, .. } = best;
        Some(Match { original, jaccard: overlap.jaccard(), containment: overlap.containment() })
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        self.entries.get(self.namesakes.place(number))
    }

    fn shard(&self, entry: &Entry) -> Option<&Shard> {
        self.shards.get(entry.shard as usize)
    }

    fn original(&self, entry: &Entry) -> Option<Original> {
        Some(Original { shard: self.shard(entry)?.clone(), seq: entry.seq, id: entry.id })
    }
}

impl Best {
    fn new(number: u64, overlap: Overlap, shingles: &[u64]) -> Self {
        Self { number, overlap, shingles: shingles.to_vec() }
    }
}

/// Whether the first time is known to be after the second.
fn later(new: Option<i64>, kept: Option<i64>) -> bool {
    matches!((new, kept), (Some(new), Some(kept)) if new > kept)
}

/// Hashes of source and external id, and of source and url; 0 for an absent name.
fn names(record: &Query<'_>) -> [u128; 2] {
    [record.external_id, record.url].map(|name| {
        name.map_or(0, |name| {
            let bytes =
                [&(record.source.len() as u64).to_le_bytes(), record.source.as_bytes(), name.as_bytes()];
            xxh3_128(&bytes.concat())
        })
    })
}

fn name_key(name: u128) -> Option<u32> {
    (name != 0).then_some((name >> 96) as u32)
}

#[cfg(test)]
mod tests;
