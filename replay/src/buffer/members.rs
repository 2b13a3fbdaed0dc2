//! The members of a buffer at one revision, prepared for draws.

use perennial_schemas::id::{Offset, RecordId, Revision, Seq, Shard};
use perennial_schemas::seed::{Seed, below};
use perennial_schemas::wire::Odds;

use crate::tokenise::byte_tokens;

/// A record in a buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its place in the order of the store.
    pub offset: Offset,
    /// Its shard.
    pub shard: Shard,
    /// Its seq in the shard.
    pub seq: Seq,
    /// The id of its text.
    pub id: RecordId,
    /// Bytes of its text.
    pub bytes: u64,
    /// Relative weight of each of its chunks; `None`: 1.
    pub weight: Option<f32>,
}

/// A chunk of a member that was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberChunk {
    /// The record.
    pub offset: Offset,
    /// Its first byte token in the record.
    pub first: u64,
    /// Its number of byte tokens, at least 1.
    pub tokens: u64,
    /// The odds of the draw.
    pub odds: Odds,
}

/// The members of a buffer at one revision, in the order of the store, prepared for draws of chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct Members {
    revision: Revision,
    list: Vec<Member>,
    chunk: u64,
    /// Cumulative masses, each including its member: weight times number of chunks.
    ends: Vec<u64>,
}

/// Weights are in these parts of 1, so that their sums are exact.
const PARTS: u64 = 1 << 20;

/// The weight of a member, in parts: NaN and negative weights become zero.
fn weight(member: &Member) -> u64 {
    member.weight.map_or(PARTS, |weight| (f64::from(weight) * PARTS as f64) as u64)
}

impl Members {
    /// The members at `revision`, each once, in the order of the store; a chunk has at most `chunk` byte
    /// tokens.
    #[must_use]
    pub fn new(revision: Revision, list: Vec<Member>, chunk: u64) -> Self {
        let mut members = Self { revision, list, chunk: chunk.max(1), ends: Vec::new() };
        let mut end = 0_u64;
        let sum = |member: &Member| {
            end = end.saturating_add(weight(member).saturating_mul(members.chunks(member)));
            end
        };
        members.ends = members.list.iter().map(sum).collect();
        members
    }

    /// The empty buffer: revision 0.
    #[must_use]
    pub fn none(chunk: u64) -> Self {
        Self::new(Revision(0), Vec::new(), chunk)
    }

    /// Their revision.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The members in the order of the store.
    #[must_use]
    pub fn list(&self) -> &[Member] {
        &self.list
    }

    /// Byte tokens of all members.
    #[must_use]
    pub fn byte_tokens(&self) -> u64 {
        self.list.iter().map(|member| byte_tokens(member.bytes)).sum()
    }

    /// Whether nothing can be drawn.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.last().is_none_or(|total| *total == 0)
    }

    /// Whether the record is a member.
    #[must_use]
    pub fn holds(&self, offset: Offset) -> bool {
        self.list.binary_search_by_key(&offset, |member| member.offset).is_ok()
    }

    fn chunks(&self, member: &Member) -> u64 {
        byte_tokens(member.bytes).div_ceil(self.chunk)
    }

    /// Draw number `k`: a chunk, with a probability proportional to the weight of its member. `seed` is the job's
    /// child for this buffer. O(log members).
    #[must_use]
    pub fn draw(&self, seed: Seed, k: u64) -> Option<MemberChunk> {
        let total = self.ends.last().copied()?;
        let at = below(seed.at(&[k]), total);
        let index = self.ends.partition_point(|end| *end <= at);
        let member = self.list.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let weight = weight(member);
        let (which, chunks) = ((at - start).checked_div(weight)?, self.chunks(member));
        // Near-equal parts: the products need more than 64 bits, the quotients are at most the tokens.
        let cut = |which: u64| {
            (u128::from(which) * u128::from(byte_tokens(member.bytes)) / u128::from(chunks)) as u64
        };
        let (first, end) = (cut(which), cut(which + 1));
        let odds = Odds { weight, total };
        Some(MemberChunk { offset: member.offset, first, tokens: end - first, odds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(seq: u64, bytes: u64, weight: Option<f32>) -> Member {
        let shard = "main".parse().unwrap();
        Member {
            offset: Offset(seq),
            shard,
            seq: Seq(seq),
            id: RecordId::from_hash(seq.into()),
            bytes,
            weight,
        }
    }

    /// How often each byte token of each member is in a drawn chunk of at most `chunk`.
    fn counts(list: Vec<Member>, chunk: u64, draws: u64) -> Vec<Vec<f64>> {
        let sizes: Vec<u64> = list.iter().map(|member| member.bytes + 1).collect();
        let members = Members::new(Revision(1), list, chunk);
        let mut counts: Vec<Vec<f64>> =
            sizes.iter().map(|size| vec![0.0; usize::try_from(*size).unwrap()]).collect();
        for k in 0..draws {
            let drawn = members.draw(Seed::new(5), k).unwrap();
            assert!((1..=chunk).contains(&drawn.tokens));
            for token in drawn.first..drawn.first + drawn.tokens {
                counts[usize::try_from(drawn.offset.0).unwrap()][usize::try_from(token).unwrap()] += 1.0;
            }
        }
        counts
    }

    #[test]
    fn every_token_is_equally_likely_when_the_policy_sets_no_weights() {
        let counts = counts(vec![member(0, 3, None), member(1, 0, None), member(2, 14, None)], 4, 60_000);
        // 4, 1 and 15 tokens in 1, 1 and 4 chunks.
        let expected = 60_000.0 / 6.0;
        let deviation = (60_000.0 * (1.0 / 6.0) * (5.0 / 6.0_f64)).sqrt();
        for count in counts.concat() {
            assert!((count - expected).abs() < 4.5 * deviation, "{count} of {expected}");
        }
    }

    #[test]
    fn a_chunk_is_as_likely_as_its_weight_says() {
        let list = vec![
            member(0, 9, Some(1.0)),
            member(1, 0, Some(f32::NAN)),
            member(2, 3, Some(3.0)),
            member(3, 4, Some(-1.0)),
        ];
        let counts = counts(list, 5, 50_000);
        // Two chunks of weight 1 and one of 3.
        for (tokens, share) in [(&counts[0], 0.2), (&counts[1], 0.0), (&counts[2], 0.6), (&counts[3], 0.0)] {
            assert!(tokens.iter().all(|count| (count / 50_000.0 - share).abs() < 0.01), "{counts:?}");
        }
        let members = Members::new(Revision(1), vec![member(0, 9, Some(1.0)), member(2, 3, Some(3.0))], 5);
        for k in 0..100 {
            let drawn = members.draw(Seed::new(1), k).unwrap();
            let expected = if drawn.offset == Offset(2) { 0.6 } else { 0.2 };
            assert!((drawn.odds.probability() - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn chunks_partition_a_record_into_near_equal_parts() {
        for (bytes, chunk) in [(0, 1), (9, 4), (99, 7), (1_000, 1_000), (1_000, 64)] {
            let members = Members::new(Revision(1), vec![member(0, bytes, None)], chunk);
            let mut chunks: Vec<(u64, u64)> = (0..20_000)
                .map(|k| members.draw(Seed::new(3), k).unwrap())
                .map(|c| (c.first, c.tokens))
                .collect();
            chunks.sort_unstable();
            chunks.dedup();
            let mut end = 0;
            for (first, tokens) in &chunks {
                assert_eq!(*first, end);
                end += tokens;
            }
            assert_eq!((end, chunks.len() as u64), (bytes + 1, (bytes + 1).div_ceil(chunk)));
            let sizes = || chunks.iter().map(|(_, tokens)| *tokens);
            assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1);
        }
    }

    #[test]
    fn members_of_weight_zero_cannot_be_drawn() {
        for list in [vec![], vec![member(0, 5, Some(0.0))]] {
            let members = Members::new(Revision(1), list, 4);
            assert!(members.is_empty());
            assert_eq!(members.draw(Seed::new(1), 0), None);
        }
    }
}
