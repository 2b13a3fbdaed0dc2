//! Checks every invariant of a store, as a command and in every crash test.
//!
//! Each table is read at one version. The versions of tables that refer to records are fixed before that
//! of `records`, so that a store that grows during the check passes. Of a record only its place, its id
//! and its size are read, never the text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use arrow::array::RecordBatch;
use deltalake::DeltaTable;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;

use crate::cause::is_damage;
use crate::order::Order;
use crate::{Scan, Store, StoreError, file, open};
use perennial_program::error::{Kind, ProgramError as _};
use perennial_schemas::id::{RecordId, Version};
use perennial_schemas::table::order::Kind as Placed;
use perennial_schemas::table::records::Outcome;
use perennial_schemas::table::{Table, TableError};

mod buffers;
mod order;
mod records;
mod views;

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

/// The outcomes of a number of readings. The three add up to `read`.
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

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The version of each table that was checked.
    pub versions: BTreeMap<Table, Version>,
    /// Sums by (shard, source).
    pub sums: BTreeMap<(String, String), Sums>,
    /// The invariants that do not hold; empty for a sound store.
    pub violations: Vec<Violation>,
}

/// The most violations of one invariant that are listed; the last one says how many more there are.
const LISTED: usize = 10;

/// Files that are checked at once.
const AT_ONCE: usize = 16;

/// Checks the newest version of every table. `held_out` are ids that must not be kept.
///
/// The rows of a table with a missing or truncated file are not checked, nor are rows that refer to
/// `records` if `records` is such a table. A file that does not decode ends the check of rows. A file that
/// decodes to values other than those written is not found: Parquet's pages carry no checksum here.
///
/// # Errors
/// Any [`StoreError`] if the store cannot be read: then the check has no result.
pub async fn check(store: &Store, held_out: &BTreeSet<RecordId>) -> Result<Report, StoreError> {
    let mut checker = Checker::new(store);
    let mut pinned = BTreeMap::new();
    // `records` last: by then it has every record that the other tables name.
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
    let judged = checker.rows(&readable, held_out).await;
    let is_corrupt = judged.as_ref().is_err_and(|error| error.kind() == Kind::Corrupt);
    if !(is_corrupt && checker.damage(&readable).await?) {
        judged?;
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

/// The state of a record that another row names.
enum Standing {
    Kept(Kept),
    /// It was kept, and was erased or has expired since.
    Removed,
    Never,
}

/// Ranges of seq by shard: first -> last.
type Ranges = BTreeMap<String, BTreeMap<i64, i64>>;

struct Checker<'a> {
    store: &'a Store,
    report: Report,
    counts: BTreeMap<(Table, &'static str), usize>,
    kept: BTreeMap<String, BTreeMap<i64, Kept>>,
    erased: BTreeMap<String, BTreeSet<i64>>,
    expired: Ranges,
    order: Order,
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
            order: Order::default(),
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

    /// Hands the rows of the table, at the version that is checked, to `take`, batch by batch.
    async fn scan(
        &mut self,
        table: Table,
        scan: &Scan<'_>,
        mut take: impl FnMut(&mut Self, &RecordBatch) -> Result<(), TableError>,
    ) -> Result<(), StoreError> {
        let (store, version) = (self.store, self.report.versions.get(&table).copied().unwrap_or_default());
        let rows = |source| StoreError::Rows { table, source };
        store.scan_each(table, version, scan, |batch| take(self, batch).map_err(rows)).await
    }

    /// Whether the table is one that this program can read.
    fn format(&mut self, table: Table, delta: &DeltaTable) -> Result<bool, StoreError> {
        match open::check_properties(self.store.url(), table, delta) {
            Ok(_) => Ok(true),
            Err(
                error @ (StoreError::Newer { .. } | StoreError::Older { .. } | StoreError::Foreign { .. }),
            ) => {
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

    /// Judges the rows of the tables that can be read.
    async fn rows(
        &mut self,
        readable: &BTreeMap<Table, DeltaTable>,
        held_out: &BTreeSet<RecordId>,
    ) -> Result<(), StoreError> {
        if let Some(delta) = readable.get(&Table::Order) {
            let records = (Placed::Reading, readable.get(&Table::Records));
            let evaluations = (Placed::Evaluation, readable.get(&Table::Evaluations));
            self.order(delta, [records, evaluations]).await?;
        }
        if let Some(delta) = readable.get(&Table::Views) {
            self.views(delta, readable.get(&Table::Buffers)).await?;
        }
        let Some(delta) = readable.get(&Table::Records) else { return Ok(()) };
        self.records(delta, held_out).await?;
        if let Some(delta) = readable.get(&Table::Buffers) {
            self.buffers(delta).await?;
        }
        Ok(())
    }

    /// Lists the files that do not decode, which the engine's error does not name; whether there are any.
    async fn damage(&mut self, readable: &BTreeMap<Table, DeltaTable>) -> Result<bool, StoreError> {
        let mut found = false;
        for (table, delta) in readable {
            for data in file::live(delta, *table).await? {
                match file::read(self.store, delta, *table, &data, None, None).await {
                    Err(StoreError::File { file, source, .. }) if is_damage(source.as_ref()) => {
                        self.violation(*table, FILES, format!("`{file}` does not decode: {source}"));
                        found = true;
                    }
                    read => drop(read?),
                }
            }
        }
        Ok(found)
    }
}

/// The application transaction that holds the position of one generation of one file of a source.
#[must_use]
pub fn position_app_id(source: &str, path: &str, generation: u64) -> String {
    format!("src/{source}/{:016x}.{generation}", xxhash_rust::xxh3::xxh3_64(path.as_bytes()))
}

fn or_none(number: Option<i64>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests;
