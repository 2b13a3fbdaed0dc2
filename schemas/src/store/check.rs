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
use crate::table::buffers::Op;
use crate::table::draws::PackedSpan;
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
        let columns = [
            "outcome",
            "day",
            "shard",
            "seq",
            "batch",
            "source",
            "path",
            "generation",
            "start",
            "end",
            "ingest_time",
            "id",
            "passages",
            "duplicate_of_shard",
            "duplicate_of_seq",
            "duplicate_of_id",
            "reason",
            "first_seq",
            "last_seq",
            "removed",
        ];
        let scan = Scan { columns: &columns, filter: None, order: &["shard", "seq", "batch"] };
        let batches = self.scan(table, &scan).await?;
        let failed = |source| StoreError::Rows { table, source };
        let views = batches.iter().map(View::new).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        views.iter().flat_map(|view| view.iter()).for_each(|row| self.expired_range(&row));

        let ahead = self.expired.clone();
        let mut walks = Walks { shards: BTreeMap::new(), positions: Positions::new(), ahead };
        for row in views.iter().flat_map(|view| view.iter()) {
            self.one_record(&row, held_out, &mut walks);
        }
        for (shard, ranges) in &mut walks.ahead {
            let walk = walks.shards.entry(shard.clone()).or_default();
            walk.skip(Some(&mut *ranges), i64::MAX);
            for (first, last) in ranges {
                let detail = format!("the expired range {first}..={last} of shard `{shard}` fits no gap");
                self.violation(table, DENSE, detail);
            }
        }
        walks.shards.iter().for_each(|(shard, walk)| self.close_batch(shard, walk));
        self.targets(views.iter().flat_map(|view| view.iter()));
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

    async fn buffers(&mut self, delta: &DeltaTable) -> Result<(), StoreError> {
        let table = Table::Buffers;
        let batches = self.scan(table, &Scan { order: &["buffer", "change"], ..Scan::default() }).await?;
        let mut all: BTreeMap<String, Members> = BTreeMap::new();
        for batch in &batches {
            let view = buffers::View::new(batch).map_err(|source| StoreError::Rows { table, source })?;
            for row in view.iter() {
                let mut members = all.remove(row.buffer).unwrap_or_default();
                let mut problems = members.apply(&row);
                if row.op == Op::Admit.as_str() {
                    problems.extend(self.not_kept(&row));
                }
                for (invariant, detail) in problems {
                    let detail = format!("buffer `{}` change {}: {detail}", row.buffer, row.change);
                    self.violation(table, invariant, detail);
                }
                all.insert(row.buffer.to_owned(), members);
            }
        }
        for (name, members) in &all {
            if let Some((invariant, detail)) = members.over_capacity(&self.kept) {
                self.violation(table, invariant, format!("buffer `{name}` at its newest change: {detail}"));
            }
            let committed = transaction_of(delta, table, &format!("buffer/{name}")).await?;
            if committed != Some(members.change) {
                let committed = or_none(committed);
                let detail =
                    format!("`buffer/{name}` stands at {committed}, the rows end at {}", members.change);
                self.violation(table, "change numbers agree with the log", detail);
            }
        }
        Ok(())
    }

    /// What is wrong with the record that a change admits.
    fn not_kept(&self, row: &buffers::Row<'_>) -> Option<Problem> {
        let wrong = |detail: &str| Some((MEMBERS, format!("seq {} of `{}` {detail}", row.seq, row.shard)));
        match self.standing(row.shard, row.seq) {
            Standing::Kept(kept) if row.id != Some(kept.id.as_bytes()) => wrong("is another text"),
            Standing::Kept(Kept { bytes: Some(bytes), .. })
                if row.bytes.and_then(|bytes| u64::try_from(bytes).ok()) != Some(bytes) =>
            {
                wrong("has another size")
            }
            Standing::Kept(_) | Standing::Removed => None,
            Standing::Never => wrong("was never kept"),
        }
    }

    async fn draws(&mut self) -> Result<(), StoreError> {
        let table = Table::Draws;
        let batches = self.scan(table, &Scan { order: &["job", "step"], ..Scan::default() }).await?;
        for batch in &batches {
            let view = draws::View::new(batch).map_err(|source| StoreError::Rows { table, source })?;
            for row in view.iter() {
                if let Err(detail) = self.spans_inside(&row) {
                    let detail = format!("job `{}` step {}: {detail}", row.job, row.step);
                    self.violation(table, "draws lie inside their records", detail);
                }
            }
        }
        Ok(())
    }

    fn spans_inside(&self, row: &draws::Row<'_>) -> Result<(), String> {
        let names = |json: &str| serde_json::from_str::<Vec<String>>(json).map_err(|error| error.to_string());
        let (shards, buffers) = (names(row.shards)?, names(row.buffers)?);
        if !row.spans.len().is_multiple_of(PackedSpan::SIZE) {
            return Err(format!("{} bytes are no whole number of spans", row.spans.len()));
        }
        for span in draws::unpack_spans(row.spans) {
            let shard = shards.get(usize::from(span.shard)).ok_or("a span names no shard")?;
            if span.buffer != PackedSpan::NEW_TEXT && usize::from(span.buffer) >= buffers.len() {
                return Err("a span names no buffer".to_owned());
            }
            let seq = i64::try_from(span.seq).unwrap_or(i64::MAX);
            let kept = match self.standing(shard, seq) {
                Standing::Kept(kept) => kept,
                // A ticket outlives the text that it drew.
                Standing::Removed => continue,
                Standing::Never => return Err(format!("seq {seq} of `{shard}` was never kept")),
            };
            if kept.id.as_bytes() != &span.id {
                return Err(format!("seq {seq} of `{shard}` is another text"));
            }
            // A text of n bytes has at most n + 1 tokens, its boundary included.
            let end = span.first_token.saturating_add(span.tokens.into());
            if kept.bytes.is_some_and(|bytes| end > bytes + 1) {
                return Err(format!("a span ends at token {end} of seq {seq} of `{shard}`"));
            }
        }
        Ok(())
    }
}

/// An invariant and how it is broken.
type Problem = (&'static str, String);

/// A buffer as its changes make it.
#[derive(Default)]
struct Members {
    change: i64,
    /// By (shard, seq): bytes and id.
    held: BTreeMap<(String, i64), (i64, Vec<u8>)>,
    /// How often an id is in it.
    ids: BTreeMap<Vec<u8>, u64>,
    bytes: i64,
    ranges: BTreeMap<String, (i64, i64)>,
    capacity: Option<(i64, String)>,
}

impl Members {
    /// Applies the next change; says what is wrong with it.
    fn apply(&mut self, row: &buffers::Row<'_>) -> Vec<Problem> {
        let replayable = |detail: String| ("changes can be replayed", detail);
        let mut problems = Vec::new();
        let next = self.change.saturating_add(1);
        if row.change != next {
            problems.push(("change numbers are dense", format!("{next} belongs here")));
        }
        self.change = row.change;
        self.capacity = row.capacity.zip(row.capacity_unit).map(|(most, unit)| (most, unit.to_owned()));
        let key = (row.shard.to_owned(), row.seq);
        match (Op::parse(row.op), row.id.zip(row.bytes), row.last_seq) {
            (Some(Op::Admit), Some(_), _) if self.held.contains_key(&key) => {
                problems.push(replayable(format!("seq {} enters twice", row.seq)));
            }
            (Some(Op::Admit), Some((id, bytes)), _) => {
                self.held.insert(key, (bytes, id.to_vec()));
                self.bytes = self.bytes.saturating_add(bytes);
                let times = self.ids.entry(id.to_vec()).or_default();
                *times += 1;
                if *times > 1 {
                    let detail = format!("the text of seq {} is in it already", row.seq);
                    problems.push(("a buffer holds an id once", detail));
                }
                // While it shrinks to a smaller capacity it may be above that.
                problems.extend(self.over_capacity(&BTreeMap::new()));
            }
            (Some(Op::Evict), ..) => match self.held.remove(&key) {
                Some((bytes, id)) => {
                    self.bytes = self.bytes.saturating_sub(bytes);
                    if let Some(times) = self.ids.get_mut(&id) {
                        *times -= 1;
                    }
                }
                None => problems.push(replayable(format!("seq {} leaves and was not in it", row.seq))),
            },
            (Some(Op::Range), _, Some(last)) => {
                self.ranges.insert(row.shard.to_owned(), (row.seq, last));
            }
            (op, ..) => {
                let lacks = op.map_or("is no change", |_| "lacks what it is about");
                problems.push(replayable(format!("`{}` {lacks}", row.op)));
            }
        }
        problems
    }

    /// Whether it holds more than it may; of ranges, what they have of `kept` counts.
    fn over_capacity(&self, kept: &BTreeMap<String, BTreeMap<i64, Kept>>) -> Option<Problem> {
        let (most, unit) = self.capacity.as_ref()?;
        let mut records = i64::try_from(self.held.len()).unwrap_or(i64::MAX);
        let mut bytes = self.bytes;
        for (shard, (first, last)) in self.ranges.iter().filter(|(_, (first, last))| first <= last) {
            for (_, one) in kept.get(shard).into_iter().flat_map(|kept| kept.range(first..=last)) {
                records += 1;
                bytes =
                    bytes.saturating_add(one.bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(0));
            }
        }
        let held = match unit.as_str() {
            "records" => records,
            "bytes" => bytes,
            "tokens" => bytes.saturating_add(records),
            _ => return Some(("a buffer keeps its capacity", format!("`{unit}` is no unit"))),
        };
        (held > *most).then(|| ("a buffer keeps its capacity", format!("{held} of {most} {unit}")))
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
