//! `records`: one row for each thing that was read, saying what became of it.
//!
//! Kept, a duplicate or a dead letter: the three add up to what was read, at every version, because
//! they are one table and one commit. Columns that an outcome does not use are null and cost
//! nothing in Parquet.

use std::fmt;
use std::str::FromStr;

use super::column::table;
use crate::id::IdError;

table! { "records" {
    /// What became of it: an [`Outcome`]. First partition column.
    outcome: Text,
    /// The day of ingest (UTC). Second partition column.
    day: Day,
    /// The ingest daemon that read it.
    shard: Text,
    /// Its number in the shard, dense from 0. Null in an `expired` row, which stands for many.
    seq: OptInt,
    /// The commit of the shard that wrote it, dense from 1.
    commit: Int,
    /// The configured source it came from.
    source: Text,
    /// The file or partition inside the source, relative to the source's root.
    path: OptText,
    /// How often the file had been replaced or had shrunk before this reading.
    generation: Int,
    /// xxh3-64 of the first bytes of this generation of the file: how it is recognised.
    fingerprint: OptInt,
    /// Where it began in the source: decoded bytes, or rows for formats that have rows.
    start: Int,
    /// Where it ended in the source: the position that the commit records.
    end: Int,
    /// When the source says it happened.
    event_time: OptTime,
    /// When it was read.
    ingest_time: Time,

    /// Kept and duplicate: the id of the text.
    id: OptBlob,
    /// Kept and duplicate: bytes of the normal form.
    length: OptInt,
    /// Kept and duplicate: the store's second hash of the normal form.
    verify_hash: OptInt,
    /// Kept and duplicate: xxh3-128 of the folded form.
    folded: OptBlob,
    /// The source's own name of the document.
    external_id: OptText,
    /// Where the source says it is from, as a corpus says which of its parts a document is of.
    origin: OptText,
    /// Where it was published.
    url: OptText,
    /// What else the source said, as a JSON object.
    meta: OptText,
    /// Kept: the text exactly as decoded.
    text: OptText,
    /// BCP 47 tag of its main language.
    language: OptText,
    /// Kept and erased: ends of its passages in bytes of `text`, little-endian u32, the last is its length.
    passages: OptBlob,
    /// Kept: the lineage it belongs to, the id of the first record of a chain of revisions.
    lineage: OptBlob,
    /// Kept revision: the id of the record it revises.
    revises: OptBlob,
    /// Kept: spans not in the record it revises, pairs of little-endian u32 (start, end) in bytes of `text`.
    new_spans: OptBlob,
    /// `MinHash` signature, little-endian u32.
    signature: OptBlob,
    /// Which signature that is: shingles, slots and seed version.
    signature_kind: OptText,
    /// Unit vector, little-endian f16.
    embedding: OptBlob,
    /// Which embedder made it: its name and a hash of its configuration. Vectors of one embedder compare.
    embedder: OptText,
    /// Which of its weights made it: rows of a shard with equal numbers were embedded with equal weights.
    embedder_period: OptInt,
    /// Share of its shingles never seen in the window, 0 to 1.
    unseen: OptReal,
    /// The percentile of `unseen` among the last scores, 0 to 1.
    unseen_percentile: OptReal,
    /// Bits a byte under the stream's own decayed model.
    surprisal: OptReal,
    /// The percentile of `surprisal` among the last scores, 0 to 1.
    surprisal_percentile: OptReal,
    /// 1 - the largest cosine to the stream's prototypes, 0 to 2.
    distance: OptReal,
    /// The percentile of `distance` among the last scores, 0 to 1.
    distance_percentile: OptReal,
    /// Importance for the domain, rank-normalised, 0 to 1.
    importance: OptReal,
    /// Entropy of its tokens' types, in nats.
    diversity: OptReal,
    /// Drift events that fired at this record, as a JSON array.
    drift: OptText,

    /// Duplicate: the shard of the kept record it repeats.
    duplicate_of_shard: OptText,
    /// Duplicate: the seq of the kept record it repeats.
    duplicate_of_seq: OptInt,
    /// Duplicate: the id of the kept record it repeats.
    duplicate_of_id: OptBlob,
    /// Duplicate: how it was found, a [`MatchKind`].
    match_kind: OptText,
    /// Duplicate: Jaccard similarity of the shingle sets, 0 to 1; 1 for an exact one.
    jaccard: OptReal,
    /// Duplicate: share of its shingles that the kept record has, 0 to 1.
    containment: OptReal,

    /// Dead letter: its bytes as read, at most the first 64 KiB.
    raw: OptBlob,
    /// Dead letter: how many bytes it had.
    raw_length: OptInt,
    /// Dead letter: a [`Reason`].
    reason: OptText,
    /// Dead letter: the reason in words, with the place.
    detail: OptText,
    /// Expired: first seq of the range that a retention rule removed.
    first_seq: OptInt,
    /// Expired: last seq of that range.
    last_seq: OptInt,
    /// Expired: how many rows it had.
    removed: OptInt,
} }

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word in the column.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(IdError { what: $what, value: text.into(), why: "no such word" }),
                }
            }
        }
    };
}

words! {
    /// What became of a thing that was read.
    Outcome, "known outcome" {
        /// Its text is in the store.
        Kept = "kept",
        /// Its text is, or nearly is, that of a kept record.
        Duplicate = "duplicate",
        /// It could not become a record; its bytes and the reason are in the store.
        DeadLetter = "dead_letter",
    }
}

words! {
    /// How a duplicate was found.
    MatchKind, "known match kind" {
        /// Same normal form: id, length and second hash agree.
        Exact = "exact",
        /// Same folded form.
        Folded = "folded",
        /// Jaccard similarity above the threshold.
        Near = "near",
    }
}

words! {
    /// Why something is a dead letter.
    Reason, "known reason" {
        /// Bytes that are not UTF-8.
        InvalidUtf8 = "invalid_utf8",
        /// A line that is not JSON, a lone surrogate escape included.
        InvalidJson = "invalid_json",
        /// JSON that is not an object.
        NotAnObject = "not_an_object",
        /// No text field.
        MissingText = "missing_text",
        /// A mapped field of the wrong type.
        WrongType = "wrong_type",
        /// A text without a visible character.
        EmptyText = "empty_text",
        /// A text with a NUL character: binary data, by experience.
        Nul = "nul",
        /// A timestamp that is not one, or outside the years 0001 to 9999.
        InvalidTimestamp = "invalid_timestamp",
        /// More bytes than a record may have.
        TooLarge = "too_large",
        /// The source ended in the middle of it.
        Truncated = "truncated",
        /// A compressed or columnar file whose bytes do not decode.
        CorruptSource = "corrupt_source",
        /// Equal or nearly equal to a held-out text.
        HeldOut = "held_out",
        /// Removed from the store on demand.
        Erased = "erased",
        /// Removed by a retention rule; the row stands for a range.
        Expired = "expired",
    }
}

/// The most bytes of a dead letter that are stored.
pub const RAW_LIMIT: usize = 64 * 1024;

impl<'a> Row<'a> {
    /// A row with the columns that every outcome has, everything else null.
    #[must_use]
    pub const fn new(outcome: Outcome, shard: &'a str, source: &'a str) -> Self {
        Self {
            outcome: outcome.as_str(),
            day: 0,
            shard,
            seq: None,
            commit: 0,
            source,
            path: None,
            generation: 0,
            fingerprint: None,
            start: 0,
            end: 0,
            event_time: None,
            ingest_time: 0,
            id: None,
            length: None,
            verify_hash: None,
            folded: None,
            external_id: None,
            origin: None,
            url: None,
            meta: None,
            text: None,
            language: None,
            passages: None,
            lineage: None,
            revises: None,
            new_spans: None,
            signature: None,
            signature_kind: None,
            embedding: None,
            embedder: None,
            embedder_period: None,
            unseen: None,
            unseen_percentile: None,
            surprisal: None,
            surprisal_percentile: None,
            distance: None,
            distance_percentile: None,
            importance: None,
            diversity: None,
            drift: None,
            duplicate_of_shard: None,
            duplicate_of_seq: None,
            duplicate_of_id: None,
            match_kind: None,
            jaccard: None,
            containment: None,
            raw: None,
            raw_length: None,
            reason: None,
            detail: None,
            first_seq: None,
            last_seq: None,
            removed: None,
        }
    }
}

/// The (UTC) day, as the `day` column has it, of a time in microseconds since 1970.
#[must_use]
pub fn day_of(time_us: i64) -> i32 {
    i32::try_from(time_us.div_euclid(86_400_000_000)).unwrap_or(if time_us < 0 { i32::MIN } else { i32::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_went_in() {
        let mut builder = Builder::new();
        let first = Row {
            seq: Some(7),
            id: Some(&[1; 16]),
            text: Some("añb"),
            event_time: Some(-1),
            unseen: Some(0.5),
            ..Row::new(Outcome::Kept, "main", "files")
        };
        let second =
            Row { reason: Some("nul"), raw: Some(b"\0"), ..Row::new(Outcome::DeadLetter, "main", "files") };
        builder.push(first);
        builder.push(second);
        assert_eq!(builder.len(), 2);
        let batch = builder.finish().unwrap();
        assert!(builder.is_empty());
        let view = View::new(&batch).unwrap();
        assert_eq!(view.iter().collect::<Vec<_>>(), [first, second]);
        assert_eq!(view.get(2), None);
    }

    #[test]
    fn view_of_a_projection_has_nulls_for_what_was_not_read_and_refuses_a_missing_required_column() {
        let mut builder = Builder::new();
        builder.push(Row { text: Some("t"), ..Row::new(Outcome::Kept, "main", "files") });
        let batch = builder.finish().unwrap();
        let without = |name: &str| {
            let keep: Vec<usize> =
                (0..batch.num_columns()).filter(|i| batch.schema().field(*i).name() != name).collect();
            batch.project(&keep).unwrap()
        };
        let no_text = without("text");
        assert_eq!(View::new(&no_text).unwrap().get(0).unwrap().text, None);
        assert!(View::new(&without("shard")).is_err());
    }

    #[test]
    fn words_read_back() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse::<Reason>(), Ok(*reason));
        }
        let error = "keept".parse::<Outcome>().unwrap_err();
        assert_eq!(error.to_string(), "`keept` is not a known outcome: no such word");
    }

    #[test]
    fn day_of_a_time_before_1970_is_the_day_it_lies_in() {
        assert_eq!((day_of(-1), day_of(0), day_of(86_399_999_999), day_of(86_400_000_000)), (-1, 0, 0, 1));
    }
}
