//! The rows of `records`: that they are dense, add up, and agree with the committed positions.

use std::collections::{BTreeMap, BTreeSet};

use deltalake::DeltaTable;

use super::{AGREE, Checker, DENSE, Kept, Ranges, Standing, Sums, WHOLE, or_none, position_app_id};
use crate::{Scan, StoreError, transaction_of};
use perennial_schemas::id::RecordId;
use perennial_schemas::table::Table;
use perennial_schemas::table::records::{Outcome, Reason, Row, View};

/// How far each generation of each file of each source was read.
type Positions = BTreeMap<(String, String, i64), i64>;

/// What the walk over the rows of `records` remembers.
struct Walks {
    shards: BTreeMap<String, Walk>,
    positions: Positions,
    /// Expired ranges that the walk has not come to.
    ahead: Ranges,
}

/// What the walk over one shard's rows remembers.
#[derive(Default)]
struct Walk {
    next: i64,
    commit: i64,
    sums_of_commit: Sums,
}

impl Walk {
    /// Steps over the expired ranges that follow, up to `before`.
    fn skip(&mut self, ahead: Option<&mut BTreeMap<i64, i64>>, before: i64) {
        let Some(ahead) = ahead else { return };
        while self.next < before
            && let Some(last) = ahead.remove(&self.next)
        {
            self.next = last.saturating_add(1);
        }
    }
}

impl Checker<'_> {
    pub(super) async fn records(
        &mut self,
        delta: &DeltaTable,
        held_out: &BTreeSet<RecordId>,
    ) -> Result<(), StoreError> {
        let table = Table::Records;
        let columns = ["seq", "reason", "first_seq", "last_seq", "removed"];
        let expired = Scan {
            columns: &columns,
            filter: Some("seq is null".to_owned()),
            order: &["shard", "first_seq"],
        };
        self.scan(table, &expired, |checker, batch| {
            View::new(batch)?.iter().for_each(|row| checker.expired_range(&row));
            Ok(())
        })
        .await?;

        let ahead = self.expired.clone();
        let mut walks = Walks { shards: BTreeMap::new(), positions: Positions::new(), ahead };
        let columns = ["seq", "path", "id", "passages", "reason"];
        let all = Scan { columns: &columns, filter: None, order: &["shard", "seq", "commit"] };
        self.scan(table, &all, |checker, batch| {
            View::new(batch)?.iter().for_each(|row| checker.one_record(&row, held_out, &mut walks));
            Ok(())
        })
        .await?;
        for (shard, ranges) in &mut walks.ahead {
            let walk = walks.shards.entry(shard.clone()).or_default();
            walk.skip(Some(&mut *ranges), i64::MAX);
            for (first, last) in ranges {
                let detail = format!("the expired range {first}..={last} of shard `{shard}` fits no gap");
                self.violation(table, DENSE, detail);
            }
        }
        walks.shards.iter().for_each(|(shard, walk)| self.close_commit(shard, walk));

        let columns = ["seq", "duplicate_of_shard", "duplicate_of_seq", "duplicate_of_id"];
        let filter = Some(format!("outcome = '{}'", Outcome::Duplicate));
        let duplicates = Scan { columns: &columns, filter, order: &["shard", "seq"] };
        self.scan(table, &duplicates, |checker, batch| {
            View::new(batch)?.iter().for_each(|row| checker.target(&row));
            Ok(())
        })
        .await?;
        self.transactions(delta, &walks).await
    }

    /// Notes a range that a retention rule removed.
    fn expired_range(&mut self, row: &Row<'_>) {
        let named =
            row.reason == Some(Reason::Expired.as_str()) && row.outcome == Outcome::DeadLetter.as_str();
        match (row.first_seq, row.last_seq, row.removed) {
            (Some(first), Some(last), Some(removed))
                if named && 0 <= first && first <= last && removed == (last - first).saturating_add(1) =>
            {
                let key = (row.shard.to_owned(), row.source.to_owned());
                let sums = self.report.sums.entry(key).or_default();
                let removed = u64::try_from(removed).unwrap_or(0);
                sums.read = sums.read.saturating_add(removed);
                sums.count(Outcome::DeadLetter, removed);
                let ranges = self.expired.entry(row.shard.to_owned()).or_default();
                if ranges.insert(first, last).is_some() {
                    let detail = format!("two expired ranges of shard `{}` begin at {first}", row.shard);
                    self.violation(Table::Records, DENSE, detail);
                }
            }
            _ => self.violation(Table::Records, WHOLE, describe(row)),
        }
    }

    fn one_record(&mut self, row: &Row<'_>, held_out: &BTreeSet<RecordId>, walks: &mut Walks) {
        let table = Table::Records;
        let Some(seq) = row.seq else { return };
        let outcome = row.outcome.parse::<Outcome>().ok();
        self.step(row, seq, outcome, walks);
        self.position(row, &mut walks.positions);
        let sums = self.report.sums.entry((row.shard.to_owned(), row.source.to_owned())).or_default();
        sums.read += 1;
        match outcome {
            None => self.violation(table, "an outcome is one of three", describe(row)),
            Some(outcome) => sums.count(outcome, 1),
        }
        match (outcome, row.id.and_then(RecordId::from_bytes)) {
            (Some(Outcome::Kept), Some(id)) => {
                if held_out.contains(&id) {
                    self.violation(table, "no held-out text is kept", describe(row));
                }
                let last = row.passages.and_then(|passages| passages.last_chunk::<4>());
                let bytes = last.map(|bytes| u64::from(u32::from_le_bytes(*bytes)));
                self.kept.entry(row.shard.to_owned()).or_default().insert(seq, Kept { id, bytes });
            }
            (Some(Outcome::Kept), None) => {
                self.violation(table, "a kept record has an id of 16 bytes", describe(row));
            }
            (Some(Outcome::DeadLetter), _) => match row.reason.map(str::parse::<Reason>) {
                Some(Ok(Reason::Erased)) => {
                    self.erased.entry(row.shard.to_owned()).or_default().insert(seq);
                }
                Some(Ok(Reason::Expired)) => self.violation(table, WHOLE, describe(row)),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => self.violation(table, "a dead letter has a reason", describe(row)),
            },
            (Some(Outcome::Duplicate) | None, _) => {}
        }
    }

    /// One row onward in its shard.
    fn step(&mut self, row: &Row<'_>, seq: i64, outcome: Option<Outcome>, walks: &mut Walks) {
        let walk = walks.shards.entry(row.shard.to_owned()).or_default();
        walk.skip(walks.ahead.get_mut(row.shard), seq);
        let ahead = seq.saturating_sub(walk.next);
        if ahead != 0 {
            let detail = format!("shard `{}` has seq {seq} where {} follows", row.shard, walk.next);
            self.violation(Table::Records, DENSE, detail);
        }
        // What a commit read is the span of its seq, what became of it its rows.
        let mut read = u64::try_from(ahead.saturating_add(1)).unwrap_or(0);
        if row.commit != walk.commit {
            self.close_commit(row.shard, walk);
            if row.commit < walk.commit {
                self.violation(Table::Records, "commits follow the seq", describe(row));
            }
            walk.commit = row.commit;
            walk.sums_of_commit = Sums::default();
            read = 1;
        }
        walk.next = seq.saturating_add(1);
        walk.sums_of_commit.read = walk.sums_of_commit.read.saturating_add(read);
        if let Some(outcome) = outcome {
            walk.sums_of_commit.count(outcome, 1);
        }
    }

    fn close_commit(&mut self, shard: &str, walk: &Walk) {
        if !walk.sums_of_commit.balanced() {
            let detail = format!("shard `{shard}` commit {}: {:?}", walk.commit, walk.sums_of_commit);
            let invariant = "kept, duplicates and dead letters add up to what was read";
            self.violation(Table::Records, invariant, detail);
        }
    }

    /// No reading covers a place of its file twice.
    fn position(&mut self, row: &Row<'_>, positions: &mut Positions) {
        let key = (row.source.to_owned(), row.path.unwrap_or_default().to_owned(), row.generation);
        let until = positions.entry(key).or_insert(0);
        if row.start < *until || row.end < row.start {
            let detail = format!("{} covers {}..{} after {until}", describe(row), row.start, row.end);
            *until = (*until).max(row.end);
            self.violation(Table::Records, "no place of a source is read twice", detail);
        } else {
            *until = row.end;
        }
    }

    /// What a duplicate repeats is kept.
    fn target(&mut self, row: &Row<'_>) {
        let id = row.duplicate_of_id.and_then(RecordId::from_bytes);
        let target = row.duplicate_of_shard.zip(row.duplicate_of_seq);
        let found = target.is_some_and(|(shard, seq)| match self.standing(shard, seq) {
            Standing::Kept(kept) => Some(kept.id) == id,
            // Only its count is left; the duplicate still says of what it was one.
            Standing::Removed => true,
            Standing::Never => false,
        });
        if !found {
            self.violation(Table::Records, "a duplicate's target is kept", describe(row));
        }
    }

    /// The committed positions are those of the rows.
    async fn transactions(&mut self, delta: &DeltaTable, walks: &Walks) -> Result<(), StoreError> {
        let table = Table::Records;
        for (shard, walk) in &walks.shards {
            for (app_id, expected) in
                [(format!("seq/{shard}"), walk.next), (format!("ingest/{shard}"), walk.commit)]
            {
                let found = transaction_of(delta, table, &app_id).await?;
                // A commit of positions alone raises the number without adding a row.
                let raised = app_id.starts_with("ingest/") && found >= Some(expected);
                if !raised && found != Some(expected) {
                    let detail =
                        format!("`{app_id}` stands at {}, the rows end at {expected}", or_none(found));
                    self.violation(table, AGREE, detail);
                }
            }
        }
        for ((source, path, generation), end) in &walks.positions {
            let app_id = position_app_id(source, path, u64::try_from(*generation).unwrap_or(0));
            let found = transaction_of(delta, table, &app_id).await?;
            // Blank lines move a position past the last row.
            if found.is_none_or(|position| position < *end) {
                let found = or_none(found);
                let detail = format!("`{app_id}` ({path}) stands at {found}, the rows end at {end}");
                self.violation(table, AGREE, detail);
            }
        }
        Ok(())
    }
}

fn describe(row: &Row<'_>) -> String {
    let seq = or_none(row.seq);
    format!("shard `{}` seq {seq} (source `{}`, `{}`)", row.shard, row.source, row.path.unwrap_or("-"))
}
