//! The members of a buffer at one revision, prepared for draws.

use perennial_schemas::id::{Offset, RecordId, Revision, Seq, Shard};
use perennial_schemas::seed::{Seed, below};

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
    /// Relative draw weight; `None`: its number of byte tokens.
    pub weight: Option<f32>,
}

/// The members of a buffer at one revision, in the order of the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Members {
    revision: Revision,
    list: Vec<Member>,
    /// Cumulative weights, each including its member.
    ends: Vec<u64>,
}

/// Weights of a policy are rounded to this fraction of 1, so that their sums are exact.
const PARTS: f64 = (1_u64 << 20) as f64;

impl Members {
    /// The members at `revision`, each once, in the order of the store.
    #[must_use]
    pub fn new(revision: Revision, list: Vec<Member>) -> Self {
        let mut end = 0_u64;
        let weigh = |member: &Member| match member.weight {
            // NaN and negative weights become zero.
            Some(weight) => (f64::from(weight) * PARTS) as u64,
            None => byte_tokens(member.bytes),
        };
        let sum = |member: &Member| {
            end = end.saturating_add(weigh(member));
            end
        };
        let ends = list.iter().map(sum).collect();
        Self { revision, list, ends }
    }

    /// The empty buffer: revision 0.
    #[must_use]
    pub fn none() -> Self {
        Self::new(Revision(0), Vec::new())
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

    /// Draw `j` of row `row`: a member with probability proportional to its weight, and one of its byte
    /// tokens, drawn uniformly. `seed` is the job's child for this buffer.
    #[must_use]
    pub fn draw(&self, seed: Seed, row: u64, j: u64) -> Option<(&Member, u64)> {
        let total = self.ends.last().copied()?;
        let at = below(seed.at(&[row, j]), total);
        let index = self.ends.partition_point(|end| *end <= at);
        let member = self.list.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let token = match member.weight {
            // With byte tokens as weight, the offset within the weight is the token.
            None => at - start,
            Some(_) => below(seed.at(&[row, j, 1]), byte_tokens(member.bytes)),
        };
        Some((member, token))
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

    fn counts(list: Vec<Member>, draws: u64) -> Vec<Vec<f64>> {
        let sizes: Vec<u64> = list.iter().map(|member| member.bytes + 1).collect();
        let members = Members::new(Revision(1), list);
        let mut counts: Vec<Vec<f64>> =
            sizes.iter().map(|size| vec![0.0; usize::try_from(*size).unwrap()]).collect();
        for j in 0..draws {
            let (member, token) = members.draw(Seed::new(5), 9, j).unwrap();
            counts[usize::try_from(member.seq.0).unwrap()][usize::try_from(token).unwrap()] += 1.0;
        }
        counts
    }

    #[test]
    fn draw_is_uniform_over_all_tokens_when_the_policy_sets_no_weights() {
        let counts = counts(vec![member(0, 3, None), member(1, 0, None), member(2, 14, None)], 20_000);
        let expected = 20_000.0 / 20.0;
        let chi: f64 =
            counts.concat().iter().map(|count| (count - expected) * (count - expected) / expected).sum();
        // 19 degrees of freedom, 0.1 % point.
        assert!(chi < 43.8, "{chi}");
    }

    #[test]
    fn draw_follows_the_weights_that_the_policy_sets() {
        let list = vec![
            member(0, 9, Some(1.0)),
            member(1, 0, Some(f32::NAN)),
            member(2, 4, Some(3.0)),
            member(3, 4, Some(-1.0)),
        ];
        let counts = counts(list, 20_000);
        let sums: Vec<f64> = counts.iter().map(|tokens| tokens.iter().sum()).collect();
        assert!((sums[0] - 5_000.0).abs() < 300.0 && sums[1] == 0.0 && sums[3] == 0.0, "{sums:?}");
        assert!(counts[2].iter().all(|count| (count - 3_000.0).abs() < 250.0), "{counts:?}");
    }

    #[test]
    fn members_of_weight_zero_cannot_be_drawn() {
        for list in [vec![], vec![member(0, 5, Some(0.0))]] {
            let members = Members::new(Revision(1), list);
            assert!(members.is_empty());
            assert_eq!(members.draw(Seed::new(1), 0, 0), None);
        }
    }
}
