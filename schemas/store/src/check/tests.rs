use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::commit::Committer;
use crate::order::{Claim, OrderLog};
use perennial_program::clock::Clock;
use perennial_schemas::id::{Offset, Revision, Seq, Step};
use perennial_schemas::seed::Seed;
use perennial_schemas::table::buffers::Op;
use perennial_schemas::table::column::pack_u32;
use perennial_schemas::table::records::Row;
use perennial_schemas::table::views::Op as ViewOp;
use perennial_schemas::table::{buffers, records, views};
use perennial_schemas::wire::{Cursor, DrawnBuffer, Order, Position, Settings, Ticket, WIRE_FORMAT};

/// A row of `records`, of source `files` of shard `main`, as a test would have it.
#[derive(Debug, Clone)]
struct Reading {
    outcome: &'static str,
    seq: Option<i64>,
    batch: i64,
    path: &'static str,
    start: i64,
    end: i64,
    id: Option<Vec<u8>>,
    /// Bytes of its text.
    bytes: Option<u32>,
    /// Shard, seq and id.
    duplicate_of: Option<(&'static str, i64, Vec<u8>)>,
    reason: Option<&'static str>,
    /// First, last and number of an expired range.
    expired: Option<(i64, i64, i64)>,
}

/// A row of `buffers`, of buffer `main`.
#[derive(Debug, Clone)]
struct Move {
    change: i64,
    op: &'static str,
    seq: i64,
    end_offset: Option<i64>,
    id: Option<Vec<u8>>,
    bytes: Option<i64>,
    capacity: Option<(i64, &'static str)>,
}

/// A store to be made.
#[derive(Debug, Clone)]
struct Plan {
    records: Vec<Reading>,
    moves: Vec<Move>,
    views: Vec<ViewRow>,
    /// Transactions of `records` that differ from what the rows say; `None` leaves one out.
    transactions: HashMap<String, Option<i64>>,
    /// The number of the newest change, where it is not that of the last row.
    newest_change: Option<i64>,
}

fn id(seq: i64) -> Vec<u8> {
    (1_000 + seq as u128).to_be_bytes().to_vec()
}

fn bytes(seq: i64) -> u32 {
    100 + seq as u32
}

fn reading(seq: i64, batch: i64, outcome: Outcome) -> Reading {
    let kept = outcome == Outcome::Kept;
    Reading {
        outcome: outcome.as_str(),
        seq: Some(seq),
        batch,
        path: if seq % 2 == 0 { "a.txt" } else { "b.txt" },
        start: seq * 10,
        end: seq * 10 + 10,
        id: kept.then(|| id(seq)),
        bytes: kept.then(|| bytes(seq)),
        duplicate_of: None,
        reason: (outcome == Outcome::DeadLetter).then_some("nul"),
        expired: None,
    }
}

fn duplicate(seq: i64, batch: i64, of: i64) -> Reading {
    Reading { duplicate_of: Some(("main", of, id(of))), ..reading(seq, batch, Outcome::Duplicate) }
}

fn expired(first: i64, last: i64, batch: i64) -> Reading {
    let range = Some((first, last, last - first + 1));
    Reading { seq: None, reason: Some("expired"), expired: range, ..reading(0, batch, Outcome::DeadLetter) }
}

fn erased(seq: i64, batch: i64) -> Reading {
    Reading { reason: Some("erased"), ..reading(seq, batch, Outcome::DeadLetter) }
}

/// A row of the record of the job `job`.
#[derive(Debug, Clone)]
struct ViewRow {
    number: i64,
    op: ViewOp,
    end: i64,
    ticket: Ticket,
    positions: Vec<Position>,
}

/// Where the job stands after this many rows.
fn position(row: u64) -> Position {
    Position { row, new_text: Cursor { offset: Offset(row), token: 0 }, draws: BTreeMap::new() }
}

/// A row about these steps of two rows each.
fn view_row(number: i64, op: ViewOp, steps: std::ops::Range<u64>) -> ViewRow {
    let settings =
        Settings { rows: 2, order: Order::Stream, keep: 1_000_000_000, mix: [("main".to_owned(), 1)].into() };
    let ticket = Ticket {
        format: WIRE_FORMAT,
        job: "job".to_owned(),
        step: Step(steps.start),
        limit: Offset(0),
        settings,
        buffers: [("main".to_owned(), DrawnBuffer { revision: Revision(0), policy: "0".to_owned() })].into(),
        config: "0".to_owned(),
        seed: Seed::new(0),
        from: position(2 * steps.start),
    };
    let positions = steps.clone().map(|step| position(2 * step + 2)).collect();
    ViewRow { number, op, end: steps.end as i64, ticket, positions }
}

fn move_of(change: i64, op: Op, seq: i64) -> Move {
    let bytes = Some(bytes(seq).into());
    let capacity = Some((3, "records"));
    Move { change, op: op.as_str(), seq, end_offset: None, id: Some(id(seq)), bytes, capacity }
}

/// Kept 0, 1, 3, 4 and 6; duplicates 2 and 5; dead letter 7; two commits of four.
fn sound() -> Plan {
    let kept = |seq, batch| reading(seq, batch, Outcome::Kept);
    Plan {
        records: vec![
            kept(0, 1),
            kept(1, 1),
            duplicate(2, 1, 0),
            kept(3, 1),
            kept(4, 2),
            duplicate(5, 2, 4),
            kept(6, 2),
            reading(7, 2, Outcome::DeadLetter),
        ],
        moves: vec![
            move_of(1, Op::Admit, 0),
            move_of(2, Op::Admit, 1),
            move_of(3, Op::Admit, 3),
            move_of(4, Op::Evict, 1),
            move_of(5, Op::Admit, 4),
        ],
        views: vec![
            view_row(1, ViewOp::View, 0..2),
            view_row(2, ViewOp::Set, 2..2),
            view_row(3, ViewOp::View, 2..3),
        ],
        transactions: HashMap::new(),
        newest_change: None,
    }
}

fn first_entry(root: &Path, table: Table) -> PathBuf {
    root.join(table.name()).join("_delta_log").join(format!("{:020}.json", 0))
}

/// The logs of an empty store: made once, for making one costs more than all else that a test does.
static EMPTY: LazyLock<Vec<(Table, Vec<u8>)>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap().parse().unwrap();
    // The test that comes here first is inside a runtime of its own.
    let make = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Store::create(&url, &HashMap::new(), Clock::manual(0))).unwrap()
    };
    drop(std::thread::spawn(make).join().unwrap());
    Table::ALL.map(|table| (table, fs::read(first_entry(folder.path(), table)).unwrap())).into()
});

impl Plan {
    fn at(&mut self, seq: i64) -> &mut Reading {
        self.records.iter_mut().find(|reading| reading.seq == Some(seq)).unwrap()
    }

    /// Commits batch by batch, so that rows and positions differ where the plan says, and nowhere else.
    async fn make(&self) -> (TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        for (table, log) in EMPTY.iter() {
            let path = first_entry(folder.path(), *table);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, log).unwrap();
        }
        let url = folder.path().to_str().unwrap().parse().unwrap();
        let store = Store::open(&url, &HashMap::new(), Clock::manual(0)).await.unwrap();
        let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
        let batches: BTreeSet<i64> = self.records.iter().map(|reading| reading.batch).collect();
        for batch in batches {
            self.commit(&mut committer, batch).await;
        }
        self.commit_moves(&store).await;
        self.commit_views(&store).await;
        (folder, store)
    }

    async fn commit(&self, committer: &mut Committer, batch: i64) {
        let rows: Vec<&Reading> = self.records.iter().filter(|reading| reading.batch == batch).collect();
        let mut builder = records::Builder::new();
        let mut positions = BTreeMap::from([("ingest/main".to_owned(), batch)]);
        let mut raise = |app_id: String, to: i64| {
            let number = positions.entry(app_id).or_insert(to);
            *number = to.max(*number);
        };
        for reading in rows {
            builder.push(reading.row(&reading.passages()));
            if let Some((_, last, _)) = reading.expired {
                raise("seq/main".to_owned(), last.saturating_add(1));
            }
            if let Some(seq) = reading.seq {
                raise("seq/main".to_owned(), seq + 1);
                raise(position_app_id("files", reading.path, 0), reading.end);
            }
        }
        for (app_id, number) in &self.transactions {
            match number {
                Some(number) => positions.insert(app_id.clone(), *number),
                None => positions.remove(app_id),
            };
        }
        committer.commit(&[builder.finish().unwrap()], positions.into_iter().collect()).await.unwrap();
    }

    async fn commit_moves(&self, store: &Store) {
        if !self.moves.is_empty() {
            let mut committer = Committer::open(store, Table::Buffers, "buffer/main").await.unwrap();
            self.commit_moves_by(&mut committer).await;
        }
    }

    async fn commit_moves_by(&self, committer: &mut Committer) {
        let mut builder = buffers::Builder::new();
        for one in &self.moves {
            builder.push(buffers::Row {
                buffer: "main",
                revision: one.change,
                op: one.op,
                shard: "main",
                seq: one.seq,
                offset: one.seq,
                end_offset: one.end_offset,
                id: one.id.as_deref(),
                bytes: one.bytes,
                key: None,
                weight: None,
                class: None,
                policy: "reservoir",
                capacity: one.capacity.map(|(most, _)| most),
                capacity_unit: one.capacity.map(|(_, unit)| unit),
                policy_digest: "0",
                seen: one.end_offset.map_or(one.seq + 1, |_| 8),
            });
        }
        let last = self.moves.last().map(|one| one.change);
        let newest = self.newest_change.or(last).unwrap();
        let rows = builder.finish().unwrap();
        committer.commit(&[rows], vec![("buffer/main".to_owned(), newest)]).await.unwrap();
    }

    async fn commit_views(&self, store: &Store) {
        let mut builder = views::Builder::new();
        for row in &self.views {
            builder.push(views::Row {
                job: "job",
                number: row.number,
                op: row.op.as_str(),
                first_step: row.ticket.step.to_i64(),
                end_step: row.end,
                ticket: &row.ticket.to_json(),
                positions: &serde_json::to_string(&row.positions).unwrap(),
                skipped: None,
                forked_from: None,
                time: 0,
            });
        }
        let Some(last) = self.views.last() else { return };
        let mut committer = Committer::open(store, Table::Views, "views/job").await.unwrap();
        let transactions = vec![("views/job".to_owned(), last.number)];
        committer.commit(&[builder.finish().unwrap()], transactions).await.unwrap();
    }
}

impl Reading {
    fn passages(&self) -> Option<Vec<u8>> {
        self.bytes.map(|bytes| pack_u32(&[bytes / 2, bytes]))
    }

    fn row<'a>(&'a self, passages: &'a Option<Vec<u8>>) -> Row<'a> {
        let duplicate_of = self.duplicate_of.as_ref();
        Row {
            outcome: self.outcome,
            seq: self.seq,
            commit: self.batch,
            path: Some(self.path),
            start: self.start,
            end: self.end,
            id: self.id.as_deref(),
            // The normal form's: shorter than the text, as where white space was cut.
            length: self.bytes.map(|bytes| i64::from(bytes) - 20),
            passages: passages.as_deref(),
            duplicate_of_shard: duplicate_of.map(|(shard, ..)| *shard),
            duplicate_of_seq: duplicate_of.map(|(_, seq, _)| *seq),
            duplicate_of_id: duplicate_of.map(|(.., id)| id.as_slice()),
            reason: self.reason,
            first_seq: self.expired.map(|(first, ..)| first),
            last_seq: self.expired.map(|(_, last, _)| last),
            removed: self.expired.map(|(.., removed)| removed),
            ..Row::new(Outcome::Kept, "main", "files")
        }
    }
}

async fn violations(store: &Store) -> Vec<Violation> {
    check(store, &BTreeSet::new()).await.unwrap().violations
}

/// The invariants that break where the sound plan is changed so.
async fn broken(change: impl FnOnce(&mut Plan)) -> Vec<&'static str> {
    let mut plan = sound();
    change(&mut plan);
    let (_folder, store) = plan.make().await;
    let found = violations(&store).await;
    let invariants: BTreeSet<&'static str> = found.iter().map(|violation| violation.invariant).collect();
    invariants.into_iter().collect()
}

const SUMS: &str = "kept, duplicates and dead letters add up to what was read";
const TWICE: &str = "no place of a source is read twice";
const TARGET: &str = "a duplicate's target is kept";
const FOLLOW: &str = "the rows of a job follow each other";
const NAMED: &str = "a view names what the store has";
const REPLAY: &str = "changes can be replayed";
const CAPACITY: &str = "a buffer keeps its capacity";

#[tokio::test]
async fn sound_store_has_no_violation_and_its_sums() {
    let (_folder, store) = sound().make().await;
    let report = check(&store, &BTreeSet::new()).await.unwrap();
    assert_eq!(report.violations, []);
    let sums = Sums { read: 8, kept: 5, duplicates: 2, dead_letters: 1 };
    assert_eq!(report.sums, BTreeMap::from([(("main".to_owned(), "files".to_owned()), sums)]));
    assert!(sums.balanced());
    let versions: Vec<u64> = Table::ALL.iter().map(|table| report.versions[table].0).collect();
    assert_eq!(versions, [2, 0, 0, 0, 1, 1]);
}

#[tokio::test]
async fn empty_store_has_no_violation() {
    let mut plan = sound();
    plan.records.clear();
    plan.moves.clear();
    plan.views.clear();
    let (_folder, store) = plan.make().await;
    assert_eq!(violations(&store).await, []);
}

#[tokio::test]
async fn what_was_erased_or_has_expired_may_still_be_named() {
    let mut plan = sound();
    // 0 and 1 expire, 4 is erased: 0 and 4 are targets, members and drawn.
    plan.records.retain(|reading| !matches!(reading.seq, Some(0 | 1)));
    plan.records.insert(0, expired(0, 1, 1));
    *plan.at(4) = erased(4, 2);
    let (_folder, store) = plan.make().await;
    let report = check(&store, &BTreeSet::new()).await.unwrap();
    assert_eq!(report.violations, []);
    let sums = Sums { read: 8, kept: 2, duplicates: 2, dead_letters: 4 };
    assert_eq!(report.sums.values().collect::<Vec<_>>(), [&sums]);
}

#[tokio::test]
async fn range_that_expired_in_the_middle_of_a_batch_or_as_the_whole_of_a_shard_is_sound() {
    assert_eq!(
        broken(|plan| {
            plan.records.retain(|reading| !matches!(reading.seq, Some(5 | 6)));
            plan.records.insert(5, expired(5, 6, 2));
        })
        .await,
        [""; 0]
    );
    assert_eq!(broken(|plan| plan.records = vec![expired(0, 3, 1), expired(4, 7, 2)]).await, [""; 0]);
}

#[tokio::test]
async fn positions_alone_and_blank_lines_are_sound() {
    let past = |plan: &mut Plan| {
        plan.transactions.insert(position_app_id("files", "a.txt", 0), Some(5_000));
        plan.transactions.insert("seq/other".to_owned(), Some(0));
    };
    assert_eq!(broken(past).await, [""; 0]);
    let (_folder, store) = sound().make().await;
    let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    committer.commit(&[], vec![("ingest/main".to_owned(), 3)]).await.unwrap();
    assert_eq!(violations(&store).await, []);
}

#[tokio::test]
async fn gap_between_two_batches_breaks_the_density_of_seq() {
    let gap = |plan: &mut Plan| {
        plan.moves.truncate(4);
        for reading in plan.records.iter_mut().skip(4) {
            reading.seq = reading.seq.map(|seq| seq + 1);
        }
        plan.at(6).duplicate_of = Some(("main", 5, id(4)));
    };
    assert_eq!(broken(gap).await, [DENSE]);
}

#[tokio::test]
async fn lost_row_breaks_the_density_of_seq_and_the_sums_of_its_batch() {
    assert_eq!(broken(|plan| plan.records.retain(|reading| reading.seq != Some(6))).await, [SUMS, DENSE]);
}

#[tokio::test]
async fn seq_in_two_batches_breaks_the_density_of_seq() {
    let again = |plan: &mut Plan| {
        let again = Reading { batch: 2, start: 31, end: 32, path: "c.txt", ..plan.at(3).clone() };
        plan.records.insert(4, again);
    };
    assert_eq!(broken(again).await, [DENSE]);
}

#[tokio::test]
async fn row_twice_in_a_batch_breaks_the_sums_too() {
    let twice = |plan: &mut Plan| {
        let again = Reading { path: "c.txt", ..plan.at(6).clone() };
        plan.records.push(again);
    };
    assert_eq!(broken(twice).await, [SUMS, DENSE]);
}

#[tokio::test]
async fn seq_at_the_ends_of_the_numbers_is_a_violation_and_no_panic() {
    let far = |seq: i64| {
        move |plan: &mut Plan| {
            plan.at(7).seq = Some(seq);
            plan.transactions.insert("seq/main".to_owned(), Some(seq.saturating_add(1)));
            plan.at(6).start = 0;
        }
    };
    assert!(broken(far(i64::MAX - 1)).await.contains(&DENSE));
    assert!(broken(far(i64::MIN)).await.contains(&DENSE));
}

#[tokio::test]
async fn unknown_outcome_breaks_the_sums() {
    let unknown = |plan: &mut Plan| plan.at(7).outcome = "eaten";
    assert_eq!(broken(unknown).await, ["an outcome is one of three", SUMS]);
}

#[tokio::test]
async fn batch_number_that_falls_is_reported() {
    let falls = |plan: &mut Plan| {
        plan.records.iter_mut().for_each(|reading| reading.batch = 3 - reading.batch);
        plan.transactions.insert("seq/main".to_owned(), Some(8));
        for (path, end) in [("a.txt", 70), ("b.txt", 80)] {
            plan.transactions.insert(position_app_id("files", path, 0), Some(end));
        }
    };
    assert_eq!(broken(falls).await, ["commits follow the seq"]);
}

#[tokio::test]
async fn position_that_is_not_the_rows_one_is_reported() {
    let source = position_app_id("files", "b.txt", 0);
    for (app_id, number) in [
        ("seq/main", Some(99)),
        ("seq/main", Some(7)),
        ("seq/main", None),
        (source.as_str(), Some(79)),
        (source.as_str(), None),
    ] {
        let wrong = |plan: &mut Plan| {
            plan.transactions.insert(app_id.to_owned(), number);
        };
        assert_eq!(broken(wrong).await, [AGREE], "{app_id} {number:?}");
    }
    // The batch of the rows is above that of the fence.
    let (_folder, store) = sound().make().await;
    let late = Plan { records: vec![Reading { batch: 9, ..reading(8, 9, Outcome::Kept) }], ..sound() };
    let mut committer = Committer::open(&store, Table::Records, "other").await.unwrap();
    let mut builder = records::Builder::new();
    late.records.iter().for_each(|reading| builder.push(reading.row(&reading.passages())));
    let path = position_app_id("files", "a.txt", 0);
    let transactions = vec![("other".to_owned(), 1), ("seq/main".to_owned(), 9), (path, 90)];
    committer.commit(&[builder.finish().unwrap()], transactions).await.unwrap();
    let found = violations(&store).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].to_string().contains("`ingest/main` stands at 2, the rows end at 9"), "{}", found[0]);
}

#[tokio::test]
async fn readings_that_overlap_are_reported() {
    let overlap = |plan: &mut Plan| plan.at(6).start = 49;
    assert_eq!(broken(overlap).await, [TWICE]);
    let backwards = |plan: &mut Plan| (plan.at(6).start, plan.at(6).end) = (62, 61);
    assert_eq!(broken(backwards).await, [TWICE]);
    // Another generation of the file starts at 0, and another file has its own places.
    assert_eq!(
        broken(|plan| (plan.at(6).path, plan.at(6).start, plan.at(6).end) = ("c.txt", 0, 5)).await,
        [""; 0]
    );
}

#[tokio::test]
async fn duplicate_of_what_is_not_kept_is_reported() {
    let of = |shard: &'static str, seq: i64, of: i64| {
        move |plan: &mut Plan| plan.at(5).duplicate_of = Some((shard, seq, id(of)))
    };
    assert_eq!(broken(of("main", 4, 4)).await, [""; 0]);
    assert_eq!(broken(of("main", 99, 99)).await, [TARGET], "no such row");
    assert_eq!(broken(of("main", 2, 2)).await, [TARGET], "a duplicate itself");
    assert_eq!(broken(of("main", 7, 7)).await, [TARGET], "a dead letter");
    assert_eq!(broken(of("other", 4, 4)).await, [TARGET], "another shard");
    assert_eq!(broken(of("main", 4, 3)).await, [TARGET], "another id");
    assert_eq!(broken(|plan| plan.at(5).duplicate_of = None).await, [TARGET], "none");
}

#[tokio::test]
async fn held_out_text_that_is_kept_is_reported() {
    let (_folder, store) = sound().make().await;
    let held_out = |seq| BTreeSet::from([RecordId::from_bytes(&id(seq)).unwrap()]);
    let found = check(&store, &held_out(3)).await.unwrap().violations;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].invariant, "no held-out text is kept");
    assert_eq!(check(&store, &held_out(77)).await.unwrap().violations, []);
}

#[tokio::test]
async fn kept_record_without_an_id_is_reported() {
    for wrong in [None, Some(vec![1; 15])] {
        let lacks = |plan: &mut Plan| plan.at(6).id = wrong;
        assert_eq!(broken(lacks).await, ["a kept record has an id of 16 bytes"]);
    }
}

#[tokio::test]
async fn dead_letter_without_a_known_reason_is_reported() {
    for reason in [None, Some("boredom")] {
        let wrong = |plan: &mut Plan| plan.at(7).reason = reason;
        assert_eq!(broken(wrong).await, ["a dead letter has a reason"]);
    }
}

#[tokio::test]
async fn expired_range_that_is_not_whole_is_reported() {
    let with = |range: Option<(i64, i64, i64)>| {
        move |plan: &mut Plan| plan.records.push(Reading { expired: range, ..expired(8, 9, 2) })
    };
    for range in [None, Some((8, 9, 1)), Some((9, 8, 0)), Some((-2, -1, 2)), Some((0, i64::MAX, 3))] {
        // The range does not count, so neither may its seq.
        let wrong = |plan: &mut Plan| {
            with(range)(plan);
            plan.transactions.insert("seq/main".to_owned(), Some(8));
        };
        assert_eq!(broken(wrong).await, [WHOLE], "{range:?}");
    }
    let nameless = |plan: &mut Plan| {
        with(Some((8, 9, 2)))(plan);
        plan.records.last_mut().unwrap().reason = Some("nul");
        plan.transactions.insert("seq/main".to_owned(), Some(8));
    };
    assert_eq!(broken(nameless).await, [WHOLE]);
    let kept = |plan: &mut Plan| {
        with(Some((8, 9, 2)))(plan);
        plan.records.last_mut().unwrap().outcome = "kept";
        plan.transactions.insert("seq/main".to_owned(), Some(8));
    };
    assert_eq!(broken(kept).await, [WHOLE]);
    assert_eq!(broken(|plan| plan.at(7).reason = Some("expired")).await, [WHOLE]);
}

#[tokio::test]
async fn expired_range_over_rows_that_are_there_breaks_the_density_of_seq() {
    for (first, last) in [(4, 5), (7, 7), (0, 7)] {
        let over = |plan: &mut Plan| plan.records.push(expired(first, last, 2));
        assert_eq!(broken(over).await, [DENSE], "{first}..={last}");
    }
    let twice = |plan: &mut Plan| plan.records.extend([expired(8, 9, 2), expired(8, 9, 2)]);
    assert_eq!(broken(twice).await, [DENSE]);
    let beyond = |plan: &mut Plan| {
        plan.records.push(expired(9, 9, 2));
        plan.transactions.insert("seq/main".to_owned(), Some(8));
    };
    assert_eq!(broken(beyond).await, [DENSE], "a gap before it");
}

#[tokio::test]
async fn change_number_that_is_missing_or_repeated_is_reported() {
    let gap = |plan: &mut Plan| plan.moves.iter_mut().skip(2).for_each(|one| one.change += 1);
    assert_eq!(broken(gap).await, ["change numbers are dense"]);
    let from_zero = |plan: &mut Plan| plan.moves.iter_mut().for_each(|one| one.change -= 1);
    assert_eq!(broken(from_zero).await, ["change numbers are dense"]);
    let repeated = |plan: &mut Plan| {
        plan.moves.push(move_of(5, Op::Evict, 0));
    };
    assert_eq!(broken(repeated).await, ["change numbers are dense"]);
}

#[tokio::test]
async fn change_number_of_the_log_that_is_not_the_rows_one_is_reported() {
    assert_eq!(broken(|plan| plan.newest_change = Some(6)).await, ["change numbers agree with the log"]);
}

#[tokio::test]
async fn change_that_cannot_be_applied_is_reported() {
    let last = |one: Move| move |plan: &mut Plan| plan.moves[4] = one;
    assert_eq!(broken(last(move_of(5, Op::Evict, 1))).await, [REPLAY], "left before");
    assert_eq!(broken(last(move_of(5, Op::Evict, 6))).await, [REPLAY], "never entered");
    assert_eq!(broken(last(move_of(5, Op::Admit, 0))).await, [REPLAY], "is in it");
    assert_eq!(broken(last(Move { op: "swap", ..move_of(5, Op::Admit, 4) })).await, [REPLAY], "no change");
    assert_eq!(broken(last(Move { op: "range", ..move_of(5, Op::Admit, 4) })).await, [REPLAY], "no end");
}

#[tokio::test]
async fn buffer_that_holds_more_than_it_may_is_reported() {
    let full = |plan: &mut Plan| plan.moves.push(move_of(6, Op::Admit, 6));
    assert_eq!(broken(full).await, [CAPACITY]);
    // For a moment is too much too: what leaves goes first.
    let for_a_moment = |plan: &mut Plan| {
        plan.moves.swap(3, 4);
        (plan.moves[3].change, plan.moves[4].change) = (4, 5);
    };
    assert_eq!(broken(for_a_moment).await, [CAPACITY]);
    let unit = |most: i64, unit: &'static str| {
        move |plan: &mut Plan| plan.moves.iter_mut().for_each(|one| one.capacity = Some((most, unit)))
    };
    // The members are at most 0, 1 and 3, then 0, 3 and 4: texts of 100, 101, 103 and 104 bytes.
    assert_eq!(broken(unit(307, "bytes")).await, [""; 0]);
    assert_eq!(broken(unit(306, "bytes")).await, [CAPACITY]);
    assert_eq!(broken(unit(310, "tokens")).await, [""; 0]);
    assert_eq!(broken(unit(309, "tokens")).await, [CAPACITY]);
    assert_eq!(broken(unit(3, "barrels")).await, [CAPACITY]);
    assert_eq!(broken(|plan| plan.moves.iter_mut().for_each(|one| one.capacity = None)).await, [""; 0]);
}

#[tokio::test]
async fn buffer_may_be_above_a_smaller_capacity_only_while_it_shrinks() {
    let shrinks = |down_to: usize| {
        move |plan: &mut Plan| {
            let evict = [0, 3, 4].into_iter().zip(6..);
            let evict = evict.map(|(seq, change)| move_of(change, Op::Evict, seq));
            plan.moves
                .extend(evict.take(3 - down_to).map(|one| Move { capacity: Some((1, "records")), ..one }));
        }
    };
    assert_eq!(broken(shrinks(1)).await, [""; 0]);
    assert_eq!(broken(shrinks(2)).await, [CAPACITY]);
}

#[tokio::test]
async fn range_that_holds_more_than_it_may_or_was_not_seen_is_reported() {
    let of = async |from: i64, end: i64, most: i64| {
        let range =
            Move { end_offset: Some(end), capacity: Some((most, "records")), ..move_of(1, Op::Range, from) };
        let plan = Plan { moves: vec![range], ..sound() };
        let (_folder, store) = plan.make().await;
        let claim = Claim::readings(&"main".parse().unwrap(), Seq(8));
        OrderLog::open(&store).await.unwrap().append(&[claim]).await.unwrap();
        violations(&store).await.into_iter().map(|violation| violation.invariant).collect::<Vec<_>>()
    };
    // Kept are 1, 3, 4 and 6.
    assert_eq!(of(1, 7, 4).await, [""; 0]);
    assert_eq!(of(1, 7, 3).await, [CAPACITY]);
    assert_eq!(of(6, 6, 0).await, [""; 0], "an empty one");
    assert_eq!(of(6, 5, 9).await, [REPLAY], "it ends before it begins");
    assert_eq!(of(1, 99, 9).await, [REPLAY], "beyond what was seen");
}

#[tokio::test]
async fn id_twice_in_a_buffer_is_reported() {
    // 4 repeats the text of 3, and both were kept, as `annotate` does.
    let twice = |plan: &mut Plan| {
        plan.at(4).id = Some(id(3));
        plan.at(5).duplicate_of = Some(("main", 4, id(3)));
        plan.moves[4].id = Some(id(3));
    };
    assert_eq!(broken(twice).await, ["a buffer holds an id once"]);
    // Once the first has left, the second may enter.
    let in_turn = |plan: &mut Plan| {
        twice(plan);
        plan.moves[3] = move_of(4, Op::Evict, 3);
    };
    assert_eq!(broken(in_turn).await, [""; 0]);
}

#[tokio::test]
async fn member_whose_offset_is_not_its_place_in_the_order_is_reported() {
    let (_folder, store) = sound().make().await;
    let shard: perennial_schemas::id::Shard = "main".parse().unwrap();
    let mut order = OrderLog::open(&store).await.unwrap();
    let first = Claim { source: "other".into(), ..Claim::readings(&shard, Seq(2)) };
    let then = Claim::readings(&shard, Seq(8));
    order.append(&[then]).await.unwrap();
    // The members of the plan have their seq for an offset.
    assert_eq!(violations(&store).await, []);

    let (_folder, store) = sound().make().await;
    let mut order = OrderLog::open(&store).await.unwrap();
    order.append(&[first, Claim::readings(&shard, Seq(8))]).await.unwrap();
    let found = violations(&store).await;
    let members = found.iter().filter(|violation| violation.invariant == MEMBERS).count();
    assert_eq!(members, 4, "{found:?}");
    assert!(found.iter().any(|violation| violation.detail.contains("has another offset in the order")));
}

#[tokio::test]
async fn member_that_is_no_kept_record_is_reported() {
    let last = |one: Move| move |plan: &mut Plan| plan.moves[4] = one;
    assert_eq!(broken(last(move_of(5, Op::Admit, 2))).await, [MEMBERS], "a duplicate");
    assert_eq!(broken(last(move_of(5, Op::Admit, 70))).await, [MEMBERS], "nothing");
    assert_eq!(
        broken(last(Move { id: Some(id(6)), ..move_of(5, Op::Admit, 4) })).await,
        [MEMBERS],
        "another id"
    );
    assert_eq!(
        broken(last(Move { bytes: Some(1), ..move_of(5, Op::Admit, 4) })).await,
        [MEMBERS],
        "another size"
    );
}

#[tokio::test]
async fn record_of_a_job_with_a_gap_or_a_jump_is_reported() {
    let with = |change: fn(&mut Vec<ViewRow>)| move |plan: &mut Plan| change(&mut plan.views);
    assert_eq!(broken(with(|rows| drop(rows.remove(1)))).await, [FOLLOW], "a row is missing");
    assert_eq!(
        broken(with(|rows| rows[2] = view_row(3, ViewOp::View, 3..4))).await,
        [FOLLOW],
        "a step is missing"
    );
    assert_eq!(broken(with(|rows| rows[2].ticket.from = position(3))).await, [FOLLOW], "it jumps");
    assert_eq!(broken(with(|rows| drop(rows[2].positions.pop()))).await, [FOLLOW], "a position is missing");
    assert_eq!(broken(with(|rows| rows[0].positions.reverse())).await, [FOLLOW], "it goes back");
    assert_eq!(
        broken(with(|rows| rows[2].ticket.job = "other".into())).await,
        [FOLLOW],
        "another job's ticket"
    );
    assert_eq!(broken(with(|rows| rows[1].op = ViewOp::View)).await, [FOLLOW], "a view without a step");
    assert_eq!(broken(with(|rows| rows[1].op = ViewOp::End)).await, [FOLLOW], "it goes on after its end");
    assert_eq!(broken(with(|rows| rows[2].ticket.format = 1)).await, [FOLLOW], "a ticket of another format");
    let skip = |rows: &mut Vec<ViewRow>| {
        rows[1].op = ViewOp::Skip;
        rows[1].positions = vec![position(8)];
        rows[2].ticket.from = position(8);
        rows[2].positions = vec![position(10)];
    };
    assert_eq!(broken(with(skip)).await, [""; 0], "text is left out");
    assert_eq!(broken(with(|rows| rows[1].op = ViewOp::Skip)).await, [FOLLOW], "a skip to nowhere");
}

#[tokio::test]
async fn view_that_names_what_is_not_there_is_reported() {
    let revision = |revision: u64| {
        move |plan: &mut Plan| {
            plan.views[0].ticket.buffers.get_mut("main").unwrap().revision = Revision(revision);
        }
    };
    assert_eq!(broken(revision(5)).await, [""; 0], "the newest");
    assert_eq!(broken(revision(6)).await, [NAMED], "a later one");
    assert_eq!(broken(|plan| plan.views[0].ticket.limit = Offset(1)).await, [NAMED], "beyond the order");
}

/// The first data file of a table.
fn data_file(root: &Path, table: Table) -> PathBuf {
    let mut open = vec![root.join(table.name())];
    let mut files = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("_delta_log") {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "parquet") {
                files.push(path);
            }
        }
    }
    files.into_iter().min().unwrap()
}

#[tokio::test]
async fn data_file_that_is_missing_or_cut_short_is_reported() {
    for table in [Table::Records, Table::Buffers, Table::Views] {
        let (folder, store) = sound().make().await;
        let file = data_file(folder.path(), table);
        let size = fs::metadata(&file).unwrap().len();
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(size - 1).unwrap();
        let found = violations(&store).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].table, found[0].invariant), (table, FILES));
        assert!(found[0].detail.ends_with(&format!("has {} bytes, the log says {size}", size - 1)));
        fs::remove_file(&file).unwrap();
        let found = violations(&store).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].detail.ends_with("is missing"), "{}", found[0]);
    }
}

#[tokio::test]
async fn data_file_of_the_right_size_that_does_not_decode_is_named() {
    for table in [Table::Records, Table::Buffers, Table::Views] {
        let (folder, store) = sound().make().await;
        let path = data_file(folder.path(), table);
        let mut bytes = fs::read(&path).unwrap();
        // Behind the magic number lies the header of the first page.
        bytes[4..68].fill(0xff);
        fs::write(&path, bytes).unwrap();
        let found = violations(&store).await;
        let damaged: Vec<_> = found.iter().filter(|violation| violation.invariant == FILES).collect();
        assert_eq!(damaged.len(), 1, "{found:?}");
        assert_eq!(damaged[0].table, table);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            damaged[0].detail.contains(name) && damaged[0].detail.contains("does not decode"),
            "{found:?}"
        );
        let scan = store.scan(table, store.version(table).await.unwrap(), &Scan::default()).await;
        assert_eq!(scan.unwrap_err().kind(), Kind::Corrupt);
    }
}

/// Appends a version whose metadata is the first one's with `from` replaced by `to`.
fn change_metadata(root: &Path, table: Table, from: &str, to: &str) {
    let log = root.join(table.name()).join("_delta_log");
    let first = fs::read_to_string(first_entry(root, table)).unwrap();
    let metadata = first.lines().find(|line| line.contains("metaData")).unwrap();
    assert!(metadata.contains(from), "{metadata}");
    let next = fs::read_dir(&log)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "json"));
    fs::write(log.join(format!("{:020}.json", next.count())), metadata.replace(from, to)).unwrap();
}

#[tokio::test]
async fn table_of_a_later_or_no_format_is_reported_and_its_rows_are_not_judged() {
    for (from, to) in
        [("perennial.format\":\"4", "perennial.format\":\"5"), ("perennial.secret", "somebody.else")]
    {
        for table in Table::ALL {
            let mut plan = sound();
            plan.at(7).reason = None;
            let (folder, store) = plan.make().await;
            change_metadata(folder.path(), table, from, to);
            let found = violations(&store).await;
            assert_eq!(found[0].invariant, "the format is known");
            assert_eq!(found[0].table, table);
            assert_eq!(found.len(), if table == Table::Records { 1 } else { 2 }, "{found:?}");
        }
    }
}

#[tokio::test]
async fn eleventh_violation_of_an_invariant_is_counted_and_not_listed() {
    let many = |number: i64| {
        let mut plan = sound();
        for seq in 8..8 + number {
            plan.records.push(Reading { reason: None, ..reading(seq, 2, Outcome::DeadLetter) });
        }
        plan
    };
    let (_folder, store) = many(10).make().await;
    assert_eq!(violations(&store).await.len(), 10);
    let (_folder, store) = many(25).make().await;
    let found = violations(&store).await;
    assert_eq!(found.len(), 11);
    assert_eq!(found[10].detail, "and 15 more");
}

/// What follows a store is behind it, never before: a check of a store that grows must see it so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_that_grows_while_it_is_checked_is_sound() {
    let mut plan = sound();
    plan.records.truncate(1);
    plan.moves.clear();
    let (_folder, store) = plan.make().await;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut records = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
            let mut buffers = Committer::open(&store, Table::Buffers, "buffer/main").await.unwrap();
            for seq in 1..40_i64 {
                let one = Plan {
                    records: vec![reading(seq, seq + 1, Outcome::Kept)],
                    moves: vec![Move { capacity: None, ..move_of(seq, Op::Admit, seq) }],
                    views: Vec::new(),
                    transactions: HashMap::new(),
                    newest_change: None,
                };
                one.commit(&mut records, seq + 1).await;
                one.commit_moves_by(&mut buffers).await;
            }
        })
    };
    let mut checks = 0;
    while !writer.is_finished() {
        assert_eq!(violations(&store).await, [], "check {checks}");
        checks += 1;
    }
    writer.await.unwrap();
    assert!(checks > 0);
    let report = check(&store, &BTreeSet::new()).await.unwrap();
    assert_eq!(report.versions[&Table::Buffers], Version(39));
    assert_eq!(report.violations, []);
}

/// Batches of outcomes (0 kept, 1 a duplicate, 2 a dead letter, 3 erased), and which seq expire.
fn stores() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<bool>)> {
    let batches = prop::collection::vec(prop::collection::vec(0_u8..4, 1..12), 1..5);
    (batches, prop::collection::vec(any::<bool>(), 60))
}

/// The plan of such a store: whatever was read, a sound one.
fn planned(batches: &[Vec<u8>], expires: &[bool]) -> Plan {
    let mut plan = Plan { records: Vec::new(), moves: Vec::new(), views: Vec::new(), ..sound() };
    let mut kept = Vec::new();
    let mut seq = 0;
    for (outcomes, batch) in batches.iter().zip(1..) {
        for outcome in outcomes {
            plan.records.push(match (outcome, kept.last()) {
                (0, _) => {
                    kept.push(seq);
                    reading(seq, batch, Outcome::Kept)
                }
                (1, Some(of)) => duplicate(seq, batch, *of),
                (3, _) => erased(seq, batch),
                _ => reading(seq, batch, Outcome::DeadLetter),
            });
            seq += 1;
        }
    }
    for (change, seq) in (1..).zip(&kept) {
        let capacity = Some((kept.len() as i64, "records"));
        plan.moves.push(Move { capacity, ..move_of(change, Op::Admit, *seq) });
    }
    // A rule removes whole runs, each of one batch.
    let gone = |reading: &Reading| expires[reading.seq.unwrap_or(0) as usize];
    let runs = plan.records.chunk_by(|a, b| gone(a) == gone(b) && a.batch == b.batch);
    plan.records = runs
        .flat_map(|run| match (gone(&run[0]), run[0].seq, run[run.len() - 1].seq) {
            (true, Some(first), Some(last)) => vec![expired(first, last, run[0].batch)],
            _ => run.to_vec(),
        })
        .collect();
    plan
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn store_that_was_written_by_the_rules_has_no_violation((batches, expires) in stores()) {
        let plan = planned(&batches, &expires);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(async {
            let (_folder, store) = plan.make().await;
            check(&store, &BTreeSet::new()).await.unwrap()
        });
        prop_assert_eq!(&report.violations, &[]);
        let read: usize = batches.iter().map(Vec::len).sum();
        let sums = report.sums.values().next().copied().unwrap_or_default();
        prop_assert_eq!(sums.read, read as u64);
        prop_assert!(sums.balanced());
    }

    /// Whichever row of whichever store is lost, it is missed.
    #[test]
    fn store_that_lost_any_row_has_a_violation((batches, expires) in stores(), lost: prop::sample::Index) {
        let mut plan = planned(&batches, &expires);
        let committed = plan.records.iter().filter_map(|row| row.seq.or(row.expired.map(|(_, last, _)| last))).max();
        let lost = lost.index(plan.records.len());
        plan.records.remove(lost);
        plan.transactions.insert("seq/main".to_owned(), committed.map(|last| last + 1));
        // Where no row is left, nothing says which shard there was.
        prop_assume!(!plan.records.is_empty());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(async {
            let (_folder, store) = plan.make().await;
            check(&store, &BTreeSet::new()).await.unwrap()
        });
        prop_assert!(!report.violations.is_empty());
    }
}
