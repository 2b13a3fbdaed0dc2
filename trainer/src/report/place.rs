//! How far into the stream a job had read, by the text that it was fed, from the store's `draws`.

use std::collections::BTreeMap;

use perennial_program::error::Failure;
use perennial_schemas::table::Table;
use perennial_schemas::table::draws::{PackedSpan, View, unpack_spans};
use perennial_store::{Scan, Store};

use super::collect::CollectError;

/// The kept records of the stream in its order: a place in it is the bytes of kept text before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruler {
    /// By shard, with ascending seq.
    records: BTreeMap<String, Vec<Mark>>,
    whole: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    seq: i64,
    before: u64,
    bytes: u64,
}

impl Ruler {
    /// Adds the next record of the stream; its place.
    pub fn add(&mut self, shard: &str, seq: i64, bytes: u64) -> u64 {
        let before = self.whole;
        self.whole = self.whole.saturating_add(bytes);
        let mark = Mark { seq, before, bytes };
        match self.records.get_mut(shard) {
            Some(marks) => marks.push(mark),
            None => drop(self.records.insert(shard.to_owned(), vec![mark])),
        }
        before
    }

    /// Bytes of all kept text.
    #[must_use]
    pub const fn whole(&self) -> u64 {
        self.whole
    }

    /// The place of a token of a record; a token counts as a byte, which is right for byte tokens, and never
    /// leads beyond the record. A record that was removed is where the one before it ends.
    fn place(&self, shard: &str, seq: i64, token: u64) -> Option<u64> {
        let marks = self.records.get(shard)?;
        let index = marks.partition_point(|mark| mark.seq < seq);
        match marks.get(index).filter(|mark| mark.seq == seq) {
            Some(mark) => Some(mark.before + token.min(mark.bytes)),
            None => Some(
                index
                    .checked_sub(1)
                    .and_then(|last| marks.get(last))
                    .map_or(0, |last| last.before + last.bytes),
            ),
        }
    }

    /// Where the new text of one step begins and ends; nothing where it has none.
    fn stretch(&self, spans: &[u8], shards: &[String]) -> Option<(u64, u64)> {
        let new = unpack_spans(spans).filter(|span| span.buffer == PackedSpan::NEW_TEXT);
        let ends = new.filter_map(|span| {
            let (shard, seq) = (shards.get(usize::from(span.shard))?, i64::try_from(span.seq).ok()?);
            let end = span.first_token.saturating_add(u64::from(span.tokens));
            Some((self.place(shard, seq, span.first_token)?, self.place(shard, seq, end)?))
        });
        ends.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
    }
}

/// The share of the stream's kept text that `job` had been fed, or had passed over, after each of these
/// ascending numbers of steps. It ends with the new text of the last step, or, for a branch before its first
/// step, where that of the next step begins. If the draws have neither, it is that of the number before.
///
/// # Errors
/// The store's, and invalid rows.
pub async fn delivered(store: &Store, job: &str, steps: &[i64], ruler: &Ruler) -> Result<Vec<f64>, Failure> {
    let asked: Vec<String> =
        steps.iter().flat_map(|step| [step - 1, *step]).map(|step| step.to_string()).collect();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    // A name has no quote in it.
    let filter = Some(format!("job = '{job}' and step in ({})", asked.join(", ")));
    let version = store.version(Table::Draws).await?;
    let mut stretches = BTreeMap::new();
    for batch in store.scan(Table::Draws, version, &Scan { filter, ..Scan::default() }).await? {
        for row in View::new(&batch).map_err(CollectError::from)?.iter() {
            let shards: Vec<String> = serde_json::from_str(row.shards)
                .map_err(|source| CollectError::Draws { job: job.to_owned(), step: row.step, source })?;
            stretches.extend(ruler.stretch(row.spans, &shards).map(|stretch| (row.step, stretch)));
        }
    }
    let mut reached = 0;
    let share = |step: &i64| {
        let last = stretches.get(&(step - 1)).map(|(_, end)| *end);
        let place = last.or_else(|| stretches.get(step).map(|(begin, _)| *begin));
        reached = reached.max(place.unwrap_or(0));
        reached as f64 / ruler.whole.max(1) as f64
    };
    Ok(steps.iter().map(share).collect())
}

#[cfg(test)]
mod tests {
    use perennial_program::clock::Clock;
    use perennial_schemas::table::draws::{Builder, Row};
    use perennial_store::StoreUrl;
    use perennial_store::commit::Committer;
    use tokio::runtime::Runtime;

    use super::*;

    /// Ten records of 100 bytes, one of two shards at a time, every second seq of its shard.
    fn ruler() -> Ruler {
        let mut ruler = Ruler::default();
        for turn in 0..5 {
            ruler.add("a", 2 * turn, 100);
            ruler.add("b", 2 * turn, 100);
        }
        ruler
    }

    #[test]
    fn places_are_bytes_of_kept_text() {
        let ruler = ruler();
        assert_eq!(ruler.whole(), 1_000);
        assert_eq!([0, 40, 500].map(|token| ruler.place("b", 2, token)), [300, 340, 400].map(Some));
        // What was removed is where its neighbour ends.
        assert_eq!(ruler.place("a", 3, 9), Some(300));
        assert_eq!(ruler.place("c", 0, 9), None);
        let mut later = Ruler::default();
        later.add("a", 5, 100);
        assert_eq!(later.place("a", 3, 9), Some(0));
    }

    /// Spans of shard, seq, first token and tokens; the second list is replayed.
    fn spans(new: &[(u16, u64, u64, u32)], replayed: &[(u16, u64, u64, u32)]) -> Vec<u8> {
        let mut blob = Vec::new();
        for (buffer, spans) in [(PackedSpan::NEW_TEXT, new), (0, replayed)] {
            for (shard, seq, first_token, tokens) in spans.iter().copied() {
                let (row, start, reserved, id) = (0, 0, 0, [0; 16]);
                PackedSpan { row, first_token, tokens, seq, shard, buffer, start, reserved, id }
                    .pack(&mut blob);
            }
        }
        blob
    }

    #[test]
    fn a_job_stands_where_the_new_text_that_it_was_fed_ends() {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
        let url: StoreUrl = folder.path().to_str().unwrap().parse().unwrap();
        let shares = runtime.block_on(async {
            let store = Store::create(&url, &Default::default(), Clock::manual(0)).await.unwrap();
            for (job, first, steps) in [
                (
                    "whole",
                    0,
                    vec![
                        spans(&[(0, 0, 0, 101), (1, 0, 0, 50)], &[]),
                        spans(&[(1, 0, 50, 51), (0, 2, 0, 20)], &[(0, 8, 0, 101)]),
                        spans(&[], &[(0, 8, 0, 101)]),
                    ],
                ),
                ("branch", 7, vec![spans(&[(0, 2, 20, 81)], &[])]),
            ] {
                let mut rows = Builder::new();
                for (step, spans) in (first..).zip(&steps) {
                    let (ticket, shards, buffers, digest) = ("{}", r#"["a", "b"]"#, r#"["main"]"#, "");
                    let (first_step, last_step, new_tokens, replayed_tokens, time) = (first, first, 0, 0, 0);
                    rows.push(Row {
                        job,
                        first_step,
                        last_step,
                        step,
                        ticket,
                        spans,
                        shards,
                        buffers,
                        digest,
                        new_tokens,
                        replayed_tokens,
                        time,
                    });
                }
                let fence = format!("draws/{job}");
                let mut committer = Committer::open(&store, Table::Draws, &fence).await.unwrap();
                committer.commit(&[rows.finish().unwrap()], vec![(fence, 9)]).await.unwrap();
            }
            let ruler = ruler();
            let mut shares = Vec::new();
            for (job, steps) in [("whole", &[0, 1, 2, 3, 9][..]), ("branch", &[7, 8]), ("none", &[0, 5])] {
                shares.push(delivered(&store, job, steps, &ruler).await.unwrap());
            }
            shares
        });
        // Not by its own length: half a stream that was read is half a stream.
        assert_eq!(shares, [vec![0.0, 0.15, 0.22, 0.22, 0.22], vec![0.22, 0.3], vec![0.0, 0.0]]);
    }
}
