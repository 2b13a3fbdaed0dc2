//! `buffers`: the changes of each replay buffer, in order. A buffer's members at change c are what
//! remains when its rows up to c are applied to the empty set.

use super::column::table;

table! { "buffers" {
    /// The buffer's name in the config. Partition column.
    buffer: Text,
    /// The number of the change, dense from 1.
    revision: Int,
    /// `admit`, `evict`, or `range` (the members are a range of the order), an [`Op`].
    op: Text,
    /// The shard of the record; empty for `range`.
    shard: Text,
    /// The seq of the record; 0 for `range`.
    seq: Int,
    /// The offset of the record in the order of the store; for `range` the first one of the range.
    offset: Int,
    /// `range`: the offset after the last one of the range.
    end_offset: OptInt,
    /// The id of the record.
    id: OptBlob,
    /// Bytes of the record's text: what its weight and its place are counted in until it is tokenised.
    bytes: OptInt,
    /// The policy's key: larger stays longer.
    key: OptDouble,
    /// Relative weight of each of its chunks in a draw; absent means 1.
    weight: OptReal,
    /// The group (class, cluster, source) the policy put it in.
    class: OptText,
    /// The policy that decided.
    policy: Text,
    /// How much the buffer may hold, in `capacity_unit`.
    capacity: OptInt,
    /// `records`, `tokens` or `bytes`.
    capacity_unit: OptText,
    /// Digest of the policy's config and seed, 32 hexadecimal digits.
    policy_digest: Text,
    /// How much of the order the policy had seen: the first offset that it had not.
    seen: Int,
} }

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// The record enters.
    Admit,
    /// The record leaves.
    Evict,
    /// The members are exactly the kept records from `offset` to before `end_offset`, without those that are
    /// larger than the whole capacity.
    Range,
}

impl Op {
    /// The word in the column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Evict => "evict",
            Self::Range => "range",
        }
    }

    /// The change that a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Admit, Self::Evict, Self::Range].into_iter().find(|op| op.as_str() == word)
    }
}
