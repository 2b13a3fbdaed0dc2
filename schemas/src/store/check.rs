//! Checks every invariant of a store, as a command and in every crash test.
//!
//! It reads each table once, at one version each, and holds per reading 40 bytes or so: the text
//! itself is never read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use deltalake::DeltaTable;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::{Scan, Store, StoreError, file, transaction_of};
use crate::id::{RecordId, Version};
use crate::table::buffers::Op;
use crate::table::records::{Outcome, Reason, Row, View};
use crate::table::{Table, buffers, draws};

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
            Outcome::Kept => self.kept += readings,
            Outcome::Duplicate => self.duplicates += readings,
            Outcome::DeadLetter => self.dead_letters += readings,
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

/// Checks the newest version of every table. `held_out` are ids that must not be kept.
///
/// # Errors
/// Any [`StoreError`] where the store cannot be read: that is no verdict.
pub async fn check(store: &Store, held_out: &BTreeSet<RecordId>) -> Result<Report, StoreError> {
    let mut checker =
        Checker { store, report: Report::default(), counts: BTreeMap::new(), kept: BTreeMap::new() };
    checker.records(held_out).await?;
    checker.buffers().await?;
    checker.draws().await?;
    for table in [Table::Signals, Table::Evaluations] {
        let version = store.version(table).await?;
        checker.report.versions.insert(table, version);
        checker.files(table, &store.at(table, version).await?).await?;
    }
    Ok(checker.finish())
}

struct Checker<'a> {
    store: &'a Store,
    report: Report,
    counts: BTreeMap<(Table, &'static str), usize>,
    /// Kept records by (shard, seq): id and bytes of the text where known.
    kept: BTreeMap<(String, i64), (RecordId, i64)>,
}

/// What the walk over one shard's rows remembers.
#[derive(Default)]
struct Walk {
    next: i64,
    batch: i64,
    sums_of_batch: Sums,
    first_of_batch: i64,
}

/// How far each generation of each file of each source was read.
type Positions = BTreeMap<(String, String, i64), i64>;

impl Checker<'_> {
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

    async fn records(&mut self, held_out: &BTreeSet<RecordId>) -> Result<(), StoreError> {
        let table = Table::Records;
        let version = self.store.version(table).await?;
        self.report.versions.insert(table, version);
        let columns = [
            "outcome",
            "day",
            "shard",
            "seq",
            "batch",
            "source",
            "path",
            "generation",
            "head",
            "start",
            "end",
            "ingest_time",
            "id",
            "length",
            "duplicate_of_shard",
            "duplicate_of_seq",
            "duplicate_of_id",
            "reason",
            "first_seq",
            "last_seq",
            "removed",
        ];
        let scan = Scan { columns: &columns, filter: None, order: &["shard", "seq", "batch"] };
        let batches = self.store.scan(table, version, &scan).await?;
        let failed = |source| StoreError::Rows { table, source };
        let views = batches.iter().map(View::new).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let expired = self.expired_ranges(&views);

        let mut walks: BTreeMap<String, Walk> = BTreeMap::new();
        let mut positions = Positions::new();
        for row in views.iter().flat_map(|view| view.iter()) {
            self.one_record(&row, held_out, &expired, &mut walks, &mut positions);
        }
        for (shard, walk) in &mut walks {
            self.close_batch(shard, walk);
            self.skip_expired(shard, walk, None, &expired);
        }
        self.targets(views.iter().flat_map(|view| view.iter()));

        let delta = self.store.at(table, version).await?;
        self.transactions(&delta, &walks, &positions).await?;
        self.files(table, &delta).await
    }

    /// Ranges that a retention rule removed, by shard: first seq -> (last seq, rows).
    fn expired_ranges(&mut self, views: &[View<'_>]) -> BTreeMap<String, BTreeMap<i64, i64>> {
        let mut ranges: BTreeMap<String, BTreeMap<i64, i64>> = BTreeMap::new();
        for row in views.iter().flat_map(|view| view.iter()).filter(|row| row.seq.is_none()) {
            match (row.reason, row.first_seq, row.last_seq, row.removed) {
                (Some(reason), Some(first), Some(last), Some(removed))
                    if reason == Reason::Expired.as_str() && first <= last && removed == last - first + 1 =>
                {
                    ranges.entry(row.shard.to_owned()).or_default().insert(first, last);
                    let key = (row.shard.to_owned(), row.source.to_owned());
                    let sums = self.report.sums.entry(key).or_default();
                    let removed = u64::try_from(removed).unwrap_or(0);
                    sums.read += removed;
                    sums.count(Outcome::DeadLetter, removed);
                }
                _ => self.violation(
                    Table::Records,
                    "a row has a seq or is a whole expired range",
                    describe(&row),
                ),
            }
        }
        ranges
    }

    fn one_record(
        &mut self,
        row: &Row<'_>,
        held_out: &BTreeSet<RecordId>,
        expired: &BTreeMap<String, BTreeMap<i64, i64>>,
        walks: &mut BTreeMap<String, Walk>,
        positions: &mut Positions,
    ) {
        let Some(seq) = row.seq else { return };
        let Ok(outcome) = row.outcome.parse::<Outcome>() else {
            self.violation(Table::Records, "an outcome is one of three", describe(row));
            return;
        };
        let mut walk = walks.remove(row.shard).unwrap_or_default();
        self.skip_expired(row.shard, &mut walk, Some(seq), expired);
        if seq != walk.next {
            let detail = format!("shard `{}` has seq {seq} where {} follows", row.shard, walk.next);
            self.violation(Table::Records, "seq is dense", detail);
        }
        if row.batch != walk.batch {
            self.close_batch(row.shard, &mut walk);
            if row.batch < walk.batch {
                self.violation(Table::Records, "batches follow the seq", describe(row));
            }
            walk = Walk {
                next: walk.next,
                batch: row.batch,
                first_of_batch: seq,
                sums_of_batch: Sums::default(),
            };
        }
        walk.next = seq + 1;
        walk.sums_of_batch.count(outcome, 1);
        walk.sums_of_batch.read = u64::try_from(walk.next - walk.first_of_batch).unwrap_or(0);
        walks.insert(row.shard.to_owned(), walk);

        let sums = self.report.sums.entry((row.shard.to_owned(), row.source.to_owned())).or_default();
        sums.read += 1;
        sums.count(outcome, 1);
        self.position(row, positions);
        if outcome == Outcome::Kept {
            match row.id.and_then(RecordId::from_bytes) {
                Some(id) => {
                    if held_out.contains(&id) {
                        self.violation(Table::Records, "no held-out text is kept", describe(row));
                    }
                    self.kept.insert((row.shard.to_owned(), seq), (id, row.length.unwrap_or(i64::MAX)));
                }
                None => self.violation(Table::Records, "a kept record has an id of 16 bytes", describe(row)),
            }
        }
        if outcome == Outcome::DeadLetter && row.reason.is_none_or(|reason| reason.parse::<Reason>().is_err())
        {
            self.violation(Table::Records, "a dead letter has a reason", describe(row));
        }
    }

    fn skip_expired(
        &mut self,
        shard: &str,
        walk: &mut Walk,
        before: Option<i64>,
        expired: &BTreeMap<String, BTreeMap<i64, i64>>,
    ) {
        let Some(ranges) = expired.get(shard) else { return };
        while let Some(last) = ranges.get(&walk.next).filter(|_| before.is_none_or(|seq| walk.next < seq)) {
            walk.next = last + 1;
        }
    }

    fn close_batch(&mut self, shard: &str, walk: &mut Walk) {
        if !walk.sums_of_batch.balanced() {
            let detail = format!("shard `{shard}` batch {}: {:?}", walk.batch, walk.sums_of_batch);
            self.violation(
                Table::Records,
                "kept, duplicates and dead letters add up to what was read",
                detail,
            );
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
            let target =
                row.duplicate_of_shard.zip(row.duplicate_of_seq).map(|(shard, seq)| (shard.to_owned(), seq));
            let id = row.duplicate_of_id.and_then(RecordId::from_bytes);
            // A target that was erased or has expired keeps its row; only its text is gone.
            let found = target.as_ref().is_some_and(|target| match self.kept.get(target) {
                Some((kept, _)) => Some(*kept) == id,
                None => false,
            });
            if !found {
                self.violation(Table::Records, "a duplicate's target is kept", describe(&row));
            }
        }
    }

    /// The committed positions are those of the rows.
    async fn transactions(
        &mut self,
        delta: &DeltaTable,
        walks: &BTreeMap<String, Walk>,
        positions: &Positions,
    ) -> Result<(), StoreError> {
        let table = Table::Records;
        for (shard, walk) in walks {
            for (app_id, expected) in
                [(format!("seq/{shard}"), walk.next), (format!("ingest/{shard}"), walk.batch)]
            {
                let found = transaction_of(delta, table, &app_id).await?;
                // A commit of positions alone raises the batch without adding a row.
                let holds = if app_id.starts_with("ingest/") {
                    found >= Some(expected)
                } else {
                    found == Some(expected)
                };
                if !holds {
                    let detail = format!("`{app_id}` stands at {found:?}, the rows end at {expected}");
                    self.violation(table, "positions agree with rows", detail);
                }
            }
        }
        for ((source, path, generation), end) in positions {
            let app_id = position_app_id(source, path, u64::try_from(*generation).unwrap_or(0));
            let found = transaction_of(delta, table, &app_id).await?;
            // Blank lines move a position past the last row.
            if found.is_none_or(|position| position < *end) {
                let detail = format!("`{app_id}` ({path}) stands at {found:?}, the rows end at {end}");
                self.violation(table, "positions agree with rows", detail);
            }
        }
        Ok(())
    }

    async fn files(&mut self, table: Table, delta: &DeltaTable) -> Result<(), StoreError> {
        let objects = delta.log_store().object_store(None);
        for data in file::live(delta, table).await? {
            match objects.head(&Path::from(data.path.as_str())).await {
                Ok(meta) if meta.size == data.size => {}
                Ok(meta) => {
                    let detail =
                        format!("`{}` has {} bytes, the log says {}", data.path, meta.size, data.size);
                    self.violation(table, "files are as the log says", detail);
                }
                Err(object_store::Error::NotFound { .. }) => {
                    self.violation(table, "files are as the log says", format!("`{}` is missing", data.path));
                }
                Err(source) => {
                    return Err(StoreError::File { table, file: data.path, source: Box::new(source) });
                }
            }
        }
        Ok(())
    }

    async fn buffers(&mut self) -> Result<(), StoreError> {
        let table = Table::Buffers;
        let version = self.store.version(table).await?;
        self.report.versions.insert(table, version);
        let scan = Scan { order: &["buffer", "change"], ..Scan::default() };
        let batches = self.store.scan(table, version, &scan).await?;
        let mut members: BTreeMap<String, Members> = BTreeMap::new();
        for batch in &batches {
            let view = buffers::View::new(batch).map_err(|source| StoreError::Rows { table, source })?;
            for row in view.iter() {
                let mut buffer = members.remove(row.buffer).unwrap_or_default();
                if let Err((invariant, detail)) = buffer.apply(&row) {
                    self.violation(
                        table,
                        invariant,
                        format!("buffer `{}` change {}: {detail}", row.buffer, row.change),
                    );
                }
                if row.op == Op::Admit.as_str() && !self.kept.contains_key(&(row.shard.to_owned(), row.seq)) {
                    let detail = format!("buffer `{}` holds seq {} of `{}`", row.buffer, row.seq, row.shard);
                    self.violation(table, "members are kept records", detail);
                }
                members.insert(row.buffer.to_owned(), buffer);
            }
        }
        let delta = self.store.at(table, version).await?;
        for (name, buffer) in &members {
            let committed = transaction_of(&delta, table, &format!("buffer/{name}")).await?;
            if committed != Some(buffer.change) {
                let detail =
                    format!("`buffer/{name}` stands at {committed:?}, the rows end at {}", buffer.change);
                self.violation(table, "change numbers agree with the log", detail);
            }
        }
        self.files(table, &delta).await
    }

    async fn draws(&mut self) -> Result<(), StoreError> {
        let table = Table::Draws;
        let version = self.store.version(table).await?;
        self.report.versions.insert(table, version);
        let batches =
            self.store.scan(table, version, &Scan { order: &["job", "step"], ..Scan::default() }).await?;
        for batch in &batches {
            let view = draws::View::new(batch).map_err(|source| StoreError::Rows { table, source })?;
            for row in view.iter() {
                if let Err(detail) = self.spans_inside(&row) {
                    self.violation(
                        table,
                        "draws lie inside their records",
                        format!("job `{}` step {}: {detail}", row.job, row.step),
                    );
                }
            }
        }
        let delta = self.store.at(table, version).await?;
        self.files(table, &delta).await
    }

    fn spans_inside(&self, row: &draws::Row<'_>) -> Result<(), String> {
        let shards: Vec<String> = serde_json::from_str(row.shards).map_err(|error| error.to_string())?;
        for span in draws::unpack_spans(row.spans) {
            let shard = shards.get(usize::from(span.shard)).ok_or("a span names no shard")?;
            let seq = i64::try_from(span.seq).unwrap_or(i64::MAX);
            let Some((id, _)) = self.kept.get(&(shard.clone(), seq)) else {
                return Err(format!("seq {seq} of `{shard}` is not kept"));
            };
            if id.as_bytes() != &span.id {
                return Err(format!("seq {seq} of `{shard}` is another text"));
            }
        }
        Ok(())
    }
}

/// A buffer as its changes make it.
#[derive(Default)]
struct Members {
    change: i64,
    sizes: BTreeMap<(String, i64), i64>,
    ids: BTreeSet<Vec<u8>>,
    bytes: i64,
}

impl Members {
    fn apply(&mut self, row: &buffers::Row<'_>) -> Result<(), (&'static str, String)> {
        // Several rows may share a change (an admission and what it pushed out).
        if row.change != self.change && row.change != self.change + 1 {
            let expected = self.change + 1;
            self.change = row.change;
            return Err(("change numbers are dense", format!("{expected} is missing")));
        }
        let closes = row.change != self.change;
        self.change = row.change;
        let key = (row.shard.to_owned(), row.seq);
        let replayable = "changes can be replayed";
        match Op::parse(row.op) {
            Some(Op::Admit) => {
                let size = row.bytes.unwrap_or(0);
                if self.sizes.insert(key, size).is_some() {
                    return Err((replayable, format!("seq {} enters twice", row.seq)));
                }
                self.bytes += size;
                if row.id.is_some_and(|id| !self.ids.insert(id.to_vec())) {
                    return Err((
                        "a buffer holds an id once",
                        format!("the text of seq {} is in it already", row.seq),
                    ));
                }
            }
            Some(Op::Evict) => {
                let Some(size) = self.sizes.remove(&key) else {
                    return Err((replayable, format!("seq {} leaves and was not in it", row.seq)));
                };
                self.bytes -= size;
                if let Some(id) = row.id {
                    self.ids.remove(id);
                }
            }
            Some(Op::Range) => {}
            None => return Err((replayable, format!("`{}` is no change", row.op))),
        }
        if closes { self.within(row) } else { Ok(()) }
    }

    fn within(&self, row: &buffers::Row<'_>) -> Result<(), (&'static str, String)> {
        let records = i64::try_from(self.sizes.len()).unwrap_or(i64::MAX);
        let held = match row.capacity_unit {
            Some("records") => records,
            Some("bytes") => self.bytes,
            // A record of n bytes has n + 1 byte tokens, its boundary included.
            Some("tokens") => self.bytes + records,
            _ => return Ok(()),
        };
        match row.capacity {
            // The change that admits may stand before the one that evicts: one record over is its room.
            Some(capacity) if held > capacity + row.bytes.unwrap_or(0) + 1 => {
                Err(("a buffer keeps its capacity", format!("{held} of {capacity}")))
            }
            _ => Ok(()),
        }
    }
}

/// The application transaction that holds the position of one generation of one file of a source.
#[must_use]
pub fn position_app_id(source: &str, path: &str, generation: u64) -> String {
    format!("src/{source}/{:016x}.{generation}", xxhash_rust::xxh3::xxh3_64(path.as_bytes()))
}

fn describe(row: &Row<'_>) -> String {
    let seq = row.seq.map_or_else(|| "none".to_owned(), |seq| seq.to_string());
    format!("shard `{}` seq {seq} (source `{}`, `{}`)", row.shard, row.source, row.path.unwrap_or("-"))
}
