use perennial_program::error::{Kind, ProgramError as _};
use perennial_schemas::id::{Offset, RecordId, Seq};
use perennial_schemas::seed::Seed;
use perennial_schemas::table::draws::{View, unpack_spans};
use perennial_schemas::wire::{BatchRow, Position, Span, WIRE_FORMAT};
use perennial_store::Scan;
use proptest::prelude::*;

use super::*;
use crate::testing::{World, store};

const WAIT: Duration = Duration::from_secs(10);

fn ticket(job: &str, step: u64) -> Ticket {
    Ticket {
        format: WIRE_FORMAT,
        job: job.into(),
        step: Step(step),
        limit: Offset(3),
        buffers: BTreeMap::new(),
        config: String::new(),
        seed: Seed::new(1),
        from: Position { row: step, ..Position::default() },
    }
}

fn span(start: u32, tokens: u32, shard: &str, seq: u64) -> Span {
    Span {
        start,
        tokens,
        shard: shard.parse().unwrap(),
        seq: Seq(seq),
        offset: Offset(seq),
        id: RecordId::from_hash(u128::from(seq) << 64),
        first_token: seq + 1,
        erased: false,
        probability: 1.0,
    }
}

fn batch(rows: &[(Option<&str>, Vec<Span>)]) -> Batch {
    let row = |(number, (buffer, spans)): (usize, &(Option<&str>, Vec<Span>))| BatchRow {
        row: number as u64,
        buffer: buffer.map(str::to_owned),
        tokens: vec![1; 8],
        targets: vec![2; 8],
        mask: vec![true; 8],
        spans: spans.clone(),
    };
    Batch::from_rows(8, &rows.iter().enumerate().map(row).collect::<Vec<_>>()).unwrap()
}

fn small() -> Batch {
    batch(&[(None, vec![span(0, 3, "a", 4)])])
}

/// Job, first and last step of the group, step, and version of the table, of every row.
async fn noted(store: &Store) -> Vec<(String, i64, i64, i64)> {
    let version = store.version(Table::Draws).await.unwrap();
    let scan = Scan { order: &["job", "step"], ..Scan::default() };
    let batches = store.scan(Table::Draws, version, &scan).await.unwrap();
    let rows = |batch| {
        let view = View::new(batch).unwrap();
        view.iter()
            .map(|row| (row.job.to_owned(), row.first_step, row.last_step, row.step))
            .collect::<Vec<_>>()
    };
    batches.iter().flat_map(rows).collect()
}

#[tokio::test]
async fn row_says_every_span_its_shard_its_buffer_and_the_tokens_of_each_kind() {
    let (_folder, store) = store(7).await;
    let mut log = DrawLog::new(store.clone(), Groups { steps: 1, wait: WAIT });
    let spans = [
        (None, vec![span(0, 3, "b", 4), span(3, 5, "a", 9)]),
        (Some("old"), vec![span(2, 4, "b", 1)]),
        (Some("main"), vec![span(0, 1, "a", 2)]),
    ];
    let batch = batch(&spans);
    assert_eq!(log.append(&ticket("job", 5), &batch, batch.digest()).await.unwrap(), Noted::Written);
    let version = store.version(Table::Draws).await.unwrap();
    let rows = store.scan(Table::Draws, version, &Scan::default()).await.unwrap();
    let row = View::new(&rows[0]).unwrap().get(0).unwrap();
    assert_eq!((row.job, row.step, row.first_step, row.last_step, row.time), ("job", 5, 5, 5, 7));
    assert_eq!(Ticket::from_json(row.ticket.as_bytes()).unwrap(), ticket("job", 5));
    assert_eq!((row.shards, row.buffers), (r#"["b","a"]"#, r#"["old","main"]"#));
    assert_eq!(row.digest, format!("{:032x}", batch.digest()));
    assert_eq!((row.new_tokens, row.replayed_tokens), (8, 5));
    let packed: Vec<_> = unpack_spans(row.spans)
        .map(|span| {
            (span.row, span.start, span.tokens, span.shard, span.seq, span.buffer, span.first_token, span.id)
        })
        .collect();
    let id = |seq: u64| *RecordId::from_hash(u128::from(seq) << 64).as_bytes();
    let new = PackedSpan::NEW_TEXT;
    let expected = [
        (0, 0, 3, 0, 4, new, 5, id(4)),
        (0, 3, 5, 1, 9, new, 10, id(9)),
        (1, 2, 4, 0, 1, 0, 2, id(1)),
        (2, 0, 1, 1, 2, 1, 3, id(2)),
    ];
    assert_eq!(packed, expected);
}

#[tokio::test]
async fn groups_are_written_when_they_are_full_or_have_waited_and_at_the_end() {
    let (_folder, store) = store(7).await;
    let mut log = DrawLog::new(store.clone(), Groups { steps: 3, wait: WAIT });
    let batch = small();
    let mut said = Vec::new();
    // Clients that share a job need not come in order.
    for step in [1, 0, 2, 3] {
        said.push(log.append(&ticket("job", step), &batch, 1).await.unwrap());
    }
    assert_eq!(said, [Noted::Waiting, Noted::Waiting, Noted::Written, Noted::Waiting]);
    log.tick().await.unwrap();
    assert_eq!(log.waiting(), 1);
    store.clock().advance(WAIT);
    log.tick().await.unwrap();
    assert_eq!(log.waiting(), 0);
    log.append(&ticket("other", 9), &batch, 1).await.unwrap();
    log.flush().await.unwrap();
    let job = |first, last, step| ("job".to_owned(), first, last, step);
    let expected = [job(0, 2, 0), job(0, 2, 1), job(0, 2, 2), job(3, 3, 3), ("other".to_owned(), 9, 9, 9)];
    assert_eq!(noted(&store).await, expected);
}

#[tokio::test]
async fn step_that_no_column_can_hold_and_a_job_without_a_name_are_refused() {
    let (_folder, store) = store(7).await;
    let mut log = DrawLog::new(store.clone(), Groups { steps: 1, wait: WAIT });
    for (job, step) in [("job", u64::MAX), ("job", i64::MAX as u64), ("a/b", 0), ("", 0)] {
        let error = log.append(&ticket(job, step), &small(), 1).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{error}");
    }
    log.flush().await.unwrap();
    assert_eq!(noted(&store).await, []);
}

#[tokio::test]
async fn job_that_cannot_be_written_holds_up_no_other() {
    let world = World::new().await;
    let mut log = DrawLog::new(world.store.clone(), Groups { steps: 2, wait: WAIT });
    let blocked = world.block("draws/job=a");
    for job in ["a", "b"] {
        assert_eq!(log.append(&ticket(job, 0), &small(), 1).await.unwrap(), Noted::Waiting);
    }
    log.flush().await.unwrap_err();
    assert_eq!(noted(&world.store).await, [("b".to_owned(), 0, 0, 0)]);
    assert_eq!(log.append(&ticket("c", 0), &small(), 1).await.unwrap(), Noted::Waiting);
    world.store.clock().advance(WAIT);
    log.tick().await.unwrap_err();
    assert_eq!((noted(&world.store).await.len(), log.waiting()), (2, 1));
    drop(blocked);
    log.flush().await.unwrap();
    assert_eq!((noted(&world.store).await.len(), log.waiting()), (3, 0));
}

#[tokio::test]
async fn step_is_refused_once_too_many_wait_however_many_jobs_they_are_of() {
    let world = World::new().await;
    let mut log = DrawLog::new(world.store.clone(), Groups { steps: 2, wait: WAIT });
    let jobs: Vec<String> = (0..20).map(|number| format!("job{number}")).collect();
    let blocked: Vec<_> = jobs.iter().map(|job| world.block(&format!("draws/job={job}"))).collect();
    for (number, job) in (1..).zip(&jobs) {
        let result = log.append(&ticket(job, 0), &small(), 1).await;
        assert_eq!(result.is_ok(), number < 2 * WAITING, "{job}");
        assert_eq!(log.waiting(), number.min(2 * WAITING - 1));
    }
    assert_eq!(log.append(&ticket("other", 0), &small(), 1).await.unwrap(), Noted::Written);
    drop(blocked);
    log.flush().await.unwrap();
    assert_eq!(noted(&world.store).await.len(), 2 * WAITING);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Two servers, each served an increasing run of steps in any interleaving and flushed at any time.
    #[test]
    fn steps_are_noted_once_whoever_serves_them(turns in prop::collection::vec((0..2_usize, any::<bool>()), 1..14), steps in 1..4_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_folder, store) = store(7).await;
            let groups = Groups { steps, wait: WAIT };
            let mut servers = [DrawLog::new(store.clone(), groups), DrawLog::new(store.clone(), groups)];
            let mut next = [0, 0];
            for (server, flush) in turns {
                servers[server].append(&ticket("job", next[server]), &small(), 1).await.unwrap();
                next[server] += 1;
                if flush {
                    servers[server].flush().await.unwrap();
                }
            }
            for server in &mut servers {
                server.flush().await.unwrap();
                assert_eq!(server.waiting(), 0);
            }
            let steps: Vec<i64> = noted(&store).await.iter().map(|row| row.3).collect();
            assert_eq!(steps, (0..next[0].max(next[1]) as i64).collect::<Vec<_>>());
        });
    }
}
