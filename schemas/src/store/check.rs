//! Checks every invariant of a store, as a command and in every crash test.
//!
//! Each table is read once, at one version. What refers to records is pinned before `records` is, so
//! that a store which grows meanwhile is not taken for a broken one. Of a record only its place, its
//! id and its size are read, never the text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use arrow::array::RecordBatch;
use deltalake::DeltaTable;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;

use super::{Scan, Store, StoreError, file, open, transaction_of};
use crate::id::{RecordId, Version};
use crate::table::Table;
use crate::table::records::{Outcome, Reason, Row, View};

mod buffers;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The table.
    pub table: Table,
    /// The invariant in a few words, the same for every violation of it.
    pub invariant: &'static str,
    /// Where and how it is broken.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.table, self.invariant, self.detail)
    }
}

/// What became of a number of readings. The three add up to `read`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Readings.
    pub read: u64,
    /// Kept records.
    pub kept: u64,
    /// Duplicates.
    pub duplicates: u64,
    /// Dead letters, those of removed records included.
    pub dead_letters: u64,
}

impl Sums {
    /// Whether they add up.
    #[must_use]
    pub const fn balanced(&self) -> bool {
        self.read == self.kept + self.duplicates + self.dead_letters
    }

    fn count(&mut self, outcome: Outcome, readings: u64) {
        match outcome {
            Outcome::Kept => self.kept = self.kept.saturating_add(readings),
            Outcome::Duplicate => self.duplicates = self.duplicates.saturating_add(readings),
            Outcome::DeadLetter => self.dead_letters = self.dead_letters.saturating_add(readings),
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The version of each table that was checked.
    pub versions: BTreeMap<Table, Version>,
    /// Sums by (shard, source).
    pub sums: BTreeMap<(String, String), Sums>,
    /// What does not hold; empty for a sound store.
    pub violations: Vec<Violation>,
}

/// The most violations of one invariant that are listed; the last one says how many more there are.
const LISTED: usize = 10;

/// Files that are looked at at once.
const AT_ONCE: usize = 16;

/// Checks the newest version of every table. `held_out` are ids that must not be kept.
///
/// The rows of a table with a damaged file are not judged, nor is what refers to `records` where
/// `records` is such a table.
///
/// # Errors
/// Any [`StoreError`] where the store cannot be read: that is no verdict.
pub async fn check(store: &Store, held_out: &BTreeSet<RecordId>) -> Result<Report, StoreError> {
    let mut checker = Checker::new(store);
    let mut pinned = BTreeMap::new();
    // `records` last: what the other tables name is in it by then.
    for table in Table::ALL.into_iter().rev() {
        let version = store.version(table).await?;
        checker.report.versions.insert(table, version);
        pinned.insert(table, store.at(table, version).await?);
    }
    let mut readable = BTreeMap::new();
    for (table, delta) in pinned {
        if checker.format(table, &delta)? && checker.files(table, &delta).await? {
            readable.insert(table, delta);
        }
    }
    if let Some(delta) = readable.get(&Table::Records) {
        checker.records(delta, held_out).await?;
        if let Some(delta) = readable.get(&Table::Buffers) {
            checker.buffers(delta).await?;
        }
        if readable.contains_key(&Table::Draws) {
            checker.draws().await?;
        }
    }
    Ok(checker.finish())
}

/// A kept record.
#[derive(Debug, Clone, Copy)]
struct Kept {
    id: RecordId,
    /// Bytes of its text, where its passages say so. Its `length` does not: that is the normal form's,
    /// which may be shorter or longer.
    bytes: Option<u64>,
}

/// What became of a record that another row names.
enum Standing {
    Kept(Kept),
    /// It was kept, and was erased or has expired since.
    Removed,
    Never,
}

/// Ranges of seq by shard: first -> last.
type Ranges = BTreeMap<String, BTreeMap<i64, i64>>;

/// How far each generation of each file of each source was read.
type Positions = BTreeMap<(String, String, i64), i64>;

struct Checker<'a> {
    store: &'a Store,
    report: Report,
    counts: BTreeMap<(Table, &'static str), usize>,
    kept: BTreeMap<String, BTreeMap<i64, Kept>>,
    erased: BTreeMap<String, BTreeSet<i64>>,
    expired: Ranges,
}

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
    batch: i64,
    sums_of_batch: Sums,
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

const DENSE: &str = "seq is dense";
const WHOLE: &str = "a row has a seq or is a whole expired range";
const AGREE: &str = "positions agree with rows";
const FILES: &str = "files are as the log says";
const MEMBERS: &str = "members are kept records";

impl<'a> Checker<'a> {
    fn new(store: &'a Store) -> Self {
        Self {
            store,
            report: Report::default(),
            counts: BTreeMap::new(),
            kept: BTreeMap::new(),
            erased: BTreeMap::new(),
            expired: Ranges::new(),
        }
    }

    fn violation(&mut self, table: Table, invariant: &'static str, detail: String) {
        let count = self.counts.entry((table, invariant)).or_default();
        *count += 1;
        if *count <= LISTED {
            self.report.violations.push(Violation { table, invariant, detail });
        }
    }

    fn finish(mut self) -> Report {
        for ((table, invariant), count) in self.counts {
            if count > LISTED {
                let detail = format!("and {} more", count - LISTED);
                self.report.violations.push(Violation { table, invariant, detail });
            }
        }
        self.report
    }

    fn standing(&self, shard: &str, seq: i64) -> Standing {
        if let Some(kept) = self.kept.get(shard).and_then(|kept| kept.get(&seq)) {
            return Standing::Kept(*kept);
        }
        let range = self.expired.get(shard).and_then(|ranges| ranges.range(..=seq).next_back());
        let expired = range.is_some_and(|(_, last)| seq <= *last);
        let erased = self.erased.get(shard).is_some_and(|erased| erased.contains(&seq));
        if expired || erased { Standing::Removed } else { Standing::Never }
    }

    async fn scan(&self, table: Table, scan: &Scan<'_>) -> Result<Vec<RecordBatch>, StoreError> {
        let version = self.report.versions.get(&table).copied().unwrap_or_default();
        self.store.scan(table, version, scan).await
    }

    /// Whether the table is one that this program can read.
    fn format(&mut self, table: Table, delta: &DeltaTable) -> Result<bool, StoreError> {
        match open::check_properties(self.store.url(), table, delta) {
            Ok(_) => Ok(true),
            Err(error @ (StoreError::Newer { .. } | StoreError::Foreign { .. })) => {
                self.violation(table, "the format is known", error.to_string());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether every file of the table is there, with its size.
    async fn files(&mut self, table: Table, delta: &DeltaTable) -> Result<bool, StoreError> {
        let objects = delta.log_store().object_store(None);
        let found: Vec<Option<String>> = futures::stream::iter(file::live(delta, table).await?)
            .map(|data| {
                let objects = &objects;
                async move {
                    match objects.head(&data.object()).await {
                        Ok(meta) if meta.size == data.size => Ok(None),
                        Ok(meta) => {
                            let said = data.size;
                            Ok(Some(format!("`{}` has {} bytes, the log says {said}", data.path, meta.size)))
                        }
                        Err(object_store::Error::NotFound { .. }) => {
                            Ok(Some(format!("`{}` is missing", data.path)))
                        }
                        Err(source) => {
                            Err(StoreError::File { table, file: data.path, source: Box::new(source) })
                        }
                    }
                }
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let whole = found.iter().all(Option::is_none);
        found.into_iter().flatten().for_each(|detail| self.violation(table, FILES, detail));
        Ok(whole)
    }

    async fn records(&mut self, delta: &DeltaTable, held_out: &BTreeSet<RecordId>) -> Result<(), StoreError> {
        let table = Table::Records;
        let (store, version) = (self.store, self.report.versions.get(&table).copied().unwrap_or_default());
        let failed = |source| StoreError::Rows { table, source };

        let columns = ["seq", "reason", "first_seq", "last_seq", "removed"];
        let expired = Scan { columns: &columns, filter: Some("seq is null".to_owned()), order: &[] };
        store
            .scan_each(table, version, &expired, |batch| {
                View::new(batch).map_err(failed)?.iter().for_each(|row| self.expired_range(&row));
                Ok::<_, StoreError>(())
            })
            .await?;

        let ahead = self.expired.clone();
        let mut walks = Walks { shards: BTreeMap::new(), positions: Positions::new(), ahead };
        let columns = ["seq", "path", "id", "passages", "reason"];
        let all = Scan { columns: &columns, filter: None, order: &["shard", "seq", "batch"] };
        store
            .scan_each(table, version, &all, |batch| {
                let rows = View::new(batch).map_err(failed)?.iter();
                rows.for_each(|row| self.one_record(&row, held_out, &mut walks));
                Ok::<_, StoreError>(())
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
        walks.shards.iter().for_each(|(shard, walk)| self.close_batch(shard, walk));

        let columns = ["seq", "duplicate_of_shard", "duplicate_of_seq", "duplicate_of_id"];
        let filter = Some(format!("outcome = '{}'", Outcome::Duplicate));
        let duplicates = Scan { columns: &columns, filter, order: &["shard", "seq"] };
        store
            .scan_each(table, version, &duplicates, |batch| {
                self.targets(View::new(batch).map_err(failed)?.iter());
                Ok::<_, StoreError>(())
            })
            .await?;
        self.transactions(delta, &walks).await
    }

    /// Notes a range that a retention rule removed.
    fn expired_range(&mut self, row: &Row<'_>) {
        if row.seq.is_some() {
            return;
        }
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
        let mut walk = walks.shards.remove(row.shard).unwrap_or_default();
        walk.skip(walks.ahead.get_mut(row.shard), seq);
        let ahead = seq.saturating_sub(walk.next);
        if ahead != 0 {
            let detail = format!("shard `{}` has seq {seq} where {} follows", row.shard, walk.next);
            self.violation(Table::Records, DENSE, detail);
        }
        // What a batch read is the span of its seq, what became of it its rows.
        let mut read = u64::try_from(ahead.saturating_add(1)).unwrap_or(0);
        if row.batch != walk.batch {
            self.close_batch(row.shard, &walk);
            if row.batch < walk.batch {
                self.violation(Table::Records, "batches follow the seq", describe(row));
            }
            walk.batch = row.batch;
            walk.sums_of_batch = Sums::default();
            read = 1;
        }
        walk.next = seq.saturating_add(1);
        walk.sums_of_batch.read = walk.sums_of_batch.read.saturating_add(read);
        if let Some(outcome) = outcome {
            walk.sums_of_batch.count(outcome, 1);
        }
        walks.shards.insert(row.shard.to_owned(), walk);
    }

    fn close_batch(&mut self, shard: &str, walk: &Walk) {
        if !walk.sums_of_batch.balanced() {
            let detail = format!("shard `{shard}` batch {}: {:?}", walk.batch, walk.sums_of_batch);
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

    fn targets<'r>(&mut self, rows: impl Iterator<Item = Row<'r>>) {
        for row in rows.filter(|row| row.outcome == Outcome::Duplicate.as_str()) {
            let id = row.duplicate_of_id.and_then(RecordId::from_bytes);
            let target = row.duplicate_of_shard.zip(row.duplicate_of_seq);
            let found = target.is_some_and(|(shard, seq)| match self.standing(shard, seq) {
                Standing::Kept(kept) => Some(kept.id) == id,
                // Only its count is left; the duplicate still says of what it was one.
                Standing::Removed => true,
                Standing::Never => false,
            });
            if !found {
                self.violation(Table::Records, "a duplicate's target is kept", describe(&row));
            }
        }
    }

    /// The committed positions are those of the rows.
    async fn transactions(&mut self, delta: &DeltaTable, walks: &Walks) -> Result<(), StoreError> {
        let table = Table::Records;
        for (shard, walk) in &walks.shards {
            for (app_id, expected) in
                [(format!("seq/{shard}"), walk.next), (format!("ingest/{shard}"), walk.batch)]
            {
                let found = transaction_of(delta, table, &app_id).await?;
                // A commit of positions alone raises the batch without adding a row.
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

/// The application transaction that holds the position of one generation of one file of a source.
#[must_use]
pub fn position_app_id(source: &str, path: &str, generation: u64) -> String {
    format!("src/{source}/{:016x}.{generation}", xxhash_rust::xxh3::xxh3_64(path.as_bytes()))
}

fn describe(row: &Row<'_>) -> String {
    let seq = or_none(row.seq);
    format!("shard `{}` seq {seq} (source `{}`, `{}`)", row.shard, row.source, row.path.unwrap_or("-"))
}

fn or_none(number: Option<i64>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests;
