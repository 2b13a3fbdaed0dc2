use std::collections::BTreeSet;

use perennial_program::error::{Kind, ProgramError as _};
use perennial_program::stop::Stop;
use perennial_schemas::id::{RecordId, Step};
use perennial_schemas::seed::Seed;
use perennial_schemas::table::records::{Builder, Outcome, Row};
use perennial_schemas::table::{Table, buffers};
use perennial_schemas::wire::{Cursor, Position};
use perennial_store::Scan;
use perennial_store::maintain::{self, Retention};

use super::*;
use crate::buffer::{Block, Candidate, Capacity, Change, PolicyConfig, Spec, reservoir};
use crate::inspect::inspect;
use crate::plan::VisibleUntil;
use crate::testing::{World, main_of, outcome, plan, shard, text};
use crate::tokenise::tests::tiny;

mod back_fill;
mod explain;
mod subword;

/// The tokens of new text in a batch, by their place.
fn new_text(batch: &Batch) -> Vec<(Shard, Seq, u64)> {
    let rows = (0..batch.rows()).filter(|row| !batch.is_replayed(*row));
    let spans = rows.flat_map(|row| batch.spans(row).unwrap());
    let places = spans.flat_map(|span| {
        (0..u64::from(span.tokens)).map(move |token| (span.shard.clone(), span.seq, span.first_token + token))
    });
    places.collect()
}

/// The tokens of the kept records among the first `count` readings of a shard, by their place.
fn kept_text(plan: &Plan, name: &str, count: i64) -> Vec<(Shard, Seq, u64)> {
    let tokens = |seq| {
        let count = plan.tokenizer.encode(text(name, seq).into(), &[]).unwrap().count();
        (0..count).map(move |token| (shard(name), Seq::from_i64(seq), token))
    };
    (0..count).filter(|seq| outcome(*seq) == Outcome::Kept).flat_map(tokens).collect()
}

/// All changes of all buffers, as text.
async fn changes(world: &World) -> Vec<String> {
    let version = world.store.version(Table::Buffers).await.unwrap();
    let scan = Scan { columns: &[], filter: None, order: &["buffer", "revision"] };
    let batches = world.store.scan(Table::Buffers, version, &scan).await.unwrap();
    let rows = |batch| {
        buffers::View::new(batch)
            .unwrap()
            .iter()
            .map(|row| {
                format!("{} {} {} {} {} {}", row.buffer, row.revision, row.op, row.shard, row.seq, row.seen)
            })
            .collect::<Vec<_>>()
    };
    batches.iter().flat_map(rows).collect()
}

/// The tickets and digests of a job from where it stands until it must wait.
async fn serve(library: &mut Library, request: &mut Request) -> Vec<(Ticket, u128)> {
    let mut served = Vec::new();
    while let Issued::Ticket(ticket) = library.ticket(request).await.unwrap() {
        served.push((ticket.clone(), library.batch(&ticket).await.unwrap().digest()));
        *request = library.after(&ticket).await.unwrap();
    }
    served
}

#[tokio::test]
async fn tickets_give_the_same_bytes_after_everything_is_rebuilt() {
    let mut world = World::new().await;
    let plan = plan(0.4);
    world.write("a", 30).await;
    let mut library = world.library(&plan).await;
    let mut request = Request::first("demo");
    let mut served = serve(&mut library, &mut request).await;
    for (name, count) in [("b", 50), ("a", 1), ("a", 60), ("b", 5)] {
        world.write(name, count).await;
        library.follow().await.unwrap();
        served.extend(serve(&mut library, &mut request).await);
    }
    assert!(served.iter().map(|(ticket, _)| ticket.limit).collect::<BTreeSet<_>>().len() > 3);
    assert!(served.iter().any(|(ticket, _)| ticket.buffers["main"].revision > Revision(0)));
    drop(library);
    // Backwards, so that nothing is warm.
    let mut rebuilt = world.library(&plan).await;
    for (ticket, digest) in served.iter().rev() {
        let ticket = Ticket::from_json(ticket.to_json().as_bytes()).unwrap();
        assert_eq!(rebuilt.batch(&ticket).await.unwrap().digest(), *digest, "step {}", ticket.step);
    }
}

#[tokio::test]
async fn stream_is_delivered_once_however_it_grows() {
    for (tokenizer, length) in [(Tokenizer::Bytes, 96), (tiny(), 48)] {
        let plan = Plan { tokenizer, length, ..plan(0.3) };
        let mut world = World::new().await;
        let mut library = world.library(&plan).await;
        let mut request = Request::first("demo");
        let mut read = Vec::new();
        for (name, count) in [("b", 20), ("a", 30), ("b", 30), ("a", 20)] {
            world.write(name, count).await;
            library.follow().await.unwrap();
            for (ticket, _) in serve(&mut library, &mut request).await {
                read.extend(new_text(&library.batch(&ticket).await.unwrap()));
            }
        }
        // The tokens of a record stay in the order in which they came.
        read.sort_by_key(|(shard, seq, _)| (shard.clone(), *seq));
        assert_eq!(read, [kept_text(&plan, "a", 50), kept_text(&plan, "b", 50)].concat());
    }
}

#[tokio::test]
async fn nothing_beyond_the_cursor_is_drawn_from_a_complete_store() {
    let mut world = World::new().await;
    for name in ["a", "b", "a", "b"] {
        world.write(name, 60).await;
    }
    let plan = plan(0.5);
    let mut library = world.library(&plan).await;
    let mut request = Request::first("demo");
    let mut drawn = 0;
    while let Issued::Ticket(ticket) = library.ticket(&request).await.unwrap() {
        let batch = library.batch(&ticket).await.unwrap();
        for row in (0..batch.rows()).filter(|row| batch.is_replayed(*row)) {
            for span in batch.spans(row).unwrap() {
                let offset = library.records.order().offset(&span.shard, span.seq).unwrap();
                assert!(offset < ticket.from.new_text.offset, "{span:?} at {:?}", ticket.from.new_text);
                drawn += 1;
            }
        }
        request = library.after(&ticket).await.unwrap();
    }
    assert!(drawn > 20, "{drawn}");
}

#[tokio::test]
async fn buffer_at_the_cursor_is_what_the_policy_kept_of_the_whole_blocks_before_it() {
    let mut world = World::new().await;
    world.write("a", 150).await;
    let plan = plan(0.2);
    let mut library = world.library(&plan).await;
    let index = Arc::clone(library.records.index());
    for next in 0..160 {
        let new_text = Cursor { offset: Offset(next), token: 0 };
        let from = Position { new_text, ..Position::default() };
        let (job, settings) = ("demo".to_owned(), plan.settings());
        let ticket = library.next_ticket(Standing { job, step: Step(0), position: from, settings });
        let whole = next.min(150) / plan.block * plan.block;
        let seen = index.range(Offset(0), Offset(whole)).map(|record| Candidate {
            offset: record.offset,
            shard: shard("a"),
            seq: record.seq,
            id: record.id,
            bytes: record.bytes,
        });
        let mut changes = Vec::new();
        let block = Block { candidates: &seen.collect::<Vec<_>>(), embeddings: &[], end: Offset(whole) };
        plan.buffers["main"].policy(plan.seed).offer(&block, &mut changes);
        let admitted = |change: &Change| match change {
            Change::Admit(one) => one.candidate.seq,
            other => panic!("{other:?}"),
        };
        let expected: BTreeSet<Seq> = changes.iter().map(admitted).collect();
        let members = library.members("main", ticket.buffers["main"].revision).unwrap();
        assert_eq!(
            members.list().iter().map(|member| member.seq).collect::<BTreeSet<_>>(),
            expected,
            "{next}"
        );
    }
}

#[tokio::test]
async fn horizon_of_the_store_draws_from_all_that_is_there() {
    let mut world = World::new().await;
    world.write("a", 64).await;
    let plan = Plan { visible_until: VisibleUntil::Store, ..plan(0.5) };
    let mut library = world.library(&plan).await;
    let Issued::Ticket(ticket) = library.ticket(&Request::first("demo")).await.unwrap() else {
        panic!("no ticket")
    };
    assert_eq!(ticket.buffers["main"].revision, library.buffers()["main"].log().newest());
    assert!(ticket.buffers["main"].revision > Revision(12));
}

#[tokio::test]
async fn ticket_waits_until_the_stream_fills_a_batch_unless_it_drains() {
    let mut world = World::new().await;
    world.write("a", 3).await;
    let waiting = Plan { drain: false, ..plan(0.0) };
    let mut library = world.library(&waiting).await;
    let there: u64 = (0..3).map(|seq| text("a", seq).len() as u64 + 1).sum();
    let request = Request::first("demo");
    assert_eq!(library.ticket(&request).await.unwrap(), Issued::NotYet { missing: 3 * 96 - there });
    let mut draining = world.library(&Plan { drain: true, ..waiting }).await;
    let Issued::Ticket(ticket) = draining.ticket(&request).await.unwrap() else { panic!("no ticket") };
    let last = draining.batch(&ticket).await.unwrap();
    assert_eq!(last.mask().iter().filter(|counts| **counts).count() as u64, there);
    let end = draining.after(&ticket).await.unwrap();
    assert_eq!(draining.ticket(&end).await.unwrap(), Issued::NotYet { missing: 3 * 96 });
    world.write("a", 40).await;
    library.follow().await.unwrap();
    assert_eq!(library.version(), Version(2));
    assert!(matches!(library.ticket(&request).await.unwrap(), Issued::Ticket(_)));
}

/// The changes of `main` and its last members: one library follows, or two in turns, or a new one each time.
async fn followed(plan: &Plan, writes: &[(&'static str, i64)], way: u32) -> (Vec<String>, Arc<Members>) {
    let mut world = World::new().await;
    let mut libraries = vec![world.library(plan).await, world.library(plan).await];
    for (turn, (name, count)) in writes.iter().enumerate() {
        world.write(name, *count).await;
        match way {
            0 => libraries[0].follow().await.unwrap(),
            // The second meets what the first has committed.
            1 => {
                libraries.rotate_left(turn % 2);
                for _ in 0..2 {
                    for library in &mut libraries {
                        library.follow().await.unwrap();
                    }
                    world.store.clock().advance(crate::records::PATIENCE);
                }
                libraries[0].follow().await.unwrap();
                let [one, two] = &libraries[..] else { panic!("two libraries") };
                assert_eq!(one.buffers["main"].log().newest(), two.buffers["main"].log().newest());
            }
            _ => libraries[0] = world.library(plan).await,
        }
    }
    (changes(&world).await, libraries[0].newest_members("main").unwrap())
}

#[tokio::test]
async fn changes_are_the_same_whoever_follows_and_however_often_it_restarts() {
    let plan = plan(0.1);
    for writes in [
        [("a", 20), ("a", 40), ("a", 7), ("a", 50), ("a", 30)],
        [("a", 20), ("b", 40), ("a", 7), ("a", 50), ("b", 30)],
    ] {
        let (changes, members) = followed(&plan, &writes, 0).await;
        assert!(changes.len() > 20);
        for way in 1..3 {
            let found = followed(&plan, &writes, way).await;
            assert_eq!(found, (changes.clone(), Arc::clone(&members)), "{writes:?}, way {way}");
        }
    }
}

#[tokio::test]
async fn commit_of_unknown_fate_is_settled_by_reading_before_anything_is_written() {
    let mut world = World::new().await;
    let plan = plan(0.1);
    world.write("a", 40).await;
    let mut ours = world.library(&plan).await;
    world.write("a", 60).await;
    let theirs = world.library(&plan).await;
    // Meanwhile the other follower went further than what we have read.
    ours.buffers.get_mut("main").unwrap().doubt();
    let (index, version) = (Arc::clone(ours.records.index()), ours.version());
    let main = ours.buffers.get_mut("main").unwrap();
    assert_eq!(main.advance(&index, version).await.unwrap(), Progress::Overtaken);
    ours.follow().await.unwrap();
    assert_eq!(ours.buffers["main"].log().newest(), theirs.buffers["main"].log().newest());
    assert_eq!(changes(&world).await.len() as u64, theirs.buffers["main"].log().newest().0);
}

#[tokio::test]
async fn shard_that_has_ended_does_not_hold_the_buffer_back() {
    let mut world = World::new().await;
    let plan = plan(0.5);
    world.write("a", 20).await;
    for _ in 0..5 {
        world.write("b", 40).await;
    }
    let mut library = world.library(&plan).await;
    let mut request = Request::first("demo");
    let mut last = None;
    while let Issued::Ticket(ticket) = library.ticket(&request).await.unwrap() {
        request = library.after(&ticket).await.unwrap();
        last = Some(ticket);
    }
    let (last, log) = (last.unwrap(), library.buffers()["main"].log());
    assert_eq!(last.buffers["main"].revision, log.newest_within(last.from.new_text.offset));
    assert!(last.buffers["main"].revision.0 > log.newest().0 / 2, "{last:?} of {}", log.newest());
}

/// Compacts `records`, deletes every file that its newest version does not need, and every entry of its
/// log that a checkpoint covers.
async fn compact(world: &World) {
    let retention = Retention::forced(std::time::Duration::ZERO);
    let options = maintain::Options { open_files: 1, retention, ..maintain::Options::default() };
    let run = async || {
        // Long after all files were written, whose times are the machine's.
        world.store.clock().advance(std::time::Duration::from_secs(1 << 33));
        maintain::run(&world.store, Table::Records, &options, &Stop::new()).await.unwrap()
    };
    let (done, again) = (run().await, run().await);
    assert!(done.joined > 0 && done.deleted + again.deleted > 0, "{done:?}, {again:?}");
    let log = world.store.url().local_path().unwrap().join("records/_delta_log");
    for version in 0..done.checkpoint.unwrap().0 {
        std::fs::remove_file(log.join(format!("{version:020}.json"))).unwrap();
    }
}

#[tokio::test]
async fn tickets_outlive_compaction_vacuum_and_the_clean_up_of_the_log() {
    let mut world = World::new().await;
    let plan = plan(0.4);
    let mut library = world.library(&plan).await;
    let mut request = Request::first("demo");
    let mut served = Vec::new();
    for name in ["a", "b", "a", "b"] {
        world.write(name, 30).await;
        library.follow().await.unwrap();
        served.extend(serve(&mut library, &mut request).await);
    }
    compact(&world).await;
    library.follow().await.unwrap();
    let mut rebuilt = world.library(&plan).await;
    for library in [&mut library, &mut rebuilt] {
        for (ticket, digest) in &served {
            assert_eq!(library.batch(ticket).await.unwrap().digest(), *digest, "step {}", ticket.step);
        }
    }
}

#[tokio::test]
async fn follower_that_comes_after_an_erase_and_its_vacuum_goes_on() {
    let mut world = World::new().await;
    let plan = plan(0.4);
    world.write("a", 30).await;
    world.write("a", 30).await;
    let mut library = world.library(&plan).await;
    world.erase(2).await;
    world.write("a", 30).await;
    compact(&world).await;
    library.follow().await.unwrap();
    assert!(library.index().records().eq(world.library(&plan).await.index().records()));
    assert_eq!(library.index().limit(), Offset(90));
    assert!(library.newest_members("main").unwrap().list().iter().all(|m| !(30..60).contains(&m.seq.0)));
}

#[tokio::test]
async fn readings_that_a_killed_ingest_left_without_a_place_get_one_and_are_read() {
    let mut world = World::new().await;
    let plan = plan(0.0);
    world.write("a", 20).await;
    let mut library = world.library(&plan).await;
    world.write_unplaced("b", 20).await;
    library.follow().await.unwrap();
    assert_eq!(library.index().limit(), Offset(20), "another may place them first");
    world.store.clock().advance(crate::records::PATIENCE);
    library.follow().await.unwrap();
    assert_eq!(library.index().limit(), Offset(40));
    world.write_unplaced("a", 5).await;
    assert_eq!(
        world.library(&plan).await.index().limit(),
        Offset(45),
        "at the start there is nobody to wait for"
    );
}

#[tokio::test]
async fn what_several_commits_have_added_is_read_in_one_look() {
    let mut world = World::new().await;
    world.write("a", 20).await;
    let plan = plan(0.1);
    let mut library = world.library(&plan).await;
    for shard in ["a", "b", "a"] {
        world.write(shard, 20).await;
    }
    library.follow().await.unwrap();
    assert_eq!(library.index().limit(), Offset(80));
    assert!(library.index().records().eq(world.library(&plan).await.index().records()));
}

/// What the cache folder makes of an open of this library: how many versions it had to follow, and its
/// records.
async fn opened(world: &World, plan: &Plan, folder: &std::path::Path) -> Library {
    let caches = Caches { tokens: Bytes::new(2_000), folder: Some(folder.to_owned()) };
    Library::open(world.store.clone(), plan.clone(), caches, Access::Follow).await.unwrap()
}

#[tokio::test]
async fn index_in_the_cache_folder_is_that_of_the_store_through_growth_erasure_and_damage() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new().await;
    let plan = plan(0.2);
    // As often as it takes for the index to be kept.
    for turn in 0..70 {
        world.write(["a", "b", "c"][turn % 3], 3).await;
    }
    let first = opened(&world, &plan, folder.path()).await;
    assert_eq!((first.index().segments().len(), first.index().tail().len()), (1, 0));
    for turn in 0..5 {
        world.write(["a", "b"][turn % 2], 6).await;
    }
    world.write_unplaced("c", 4).await;
    let same = async |what: &str| {
        let (kept, made) = (opened(&world, &plan, folder.path()).await, world.library(&plan).await);
        assert!(kept.index().records().eq(made.index().records()), "{what}");
        assert_eq!(kept.index().limit(), made.index().limit(), "{what}");
        kept
    };
    let kept = same("it has grown").await;
    assert_eq!(kept.index().segments().len(), 1, "only what has come since was read");
    assert!(!kept.index().tail().is_empty());
    world.erase(5).await;
    let kept = same("a text was erased").await;
    assert!(kept.index().records().any(|record| record.erased));
    for file in
        std::fs::read_dir(std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path()).unwrap()
    {
        let file = file.unwrap().path();
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        same("a file is torn").await;
    }
    // Another store at the same place, with the secret of the first: as from a copy.
    let manifest =
        std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path().join("manifest.json");
    if let Ok(text) = std::fs::read_to_string(&manifest) {
        std::fs::write(&manifest, text.replace("\"entry\":\"", "\"entry\":\"0")).unwrap();
    }
    same("the entry of the log is another one").await;
}

#[tokio::test]
async fn policy_goes_on_from_its_kept_state_which_is_ignored_when_it_does_not_agree() {
    for policy in [
        PolicyConfig::Reservoir(reservoir::Settings { capacity: Capacity::Records(12) }),
        PolicyConfig::Fifo(reservoir::Settings { capacity: Capacity::Records(12) }),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut world = World::new().await;
        let buffers = [("main".to_owned(), Spec::new("main", &policy))].into();
        let plan = Plan { buffers, ..plan(0.2) };
        world.write("a", 100).await;
        assert_eq!(opened(&world, &plan, folder.path()).await.buffers["main"].saved(), 12);
        world.write("b", 20).await;
        let same = async |world: &World, saved: u64, what: &str| {
            let (mut kept, mut made) =
                (opened(world, &plan, folder.path()).await, world.library(&plan).await);
            assert_eq!(kept.buffers["main"].saved(), saved, "{what}");
            let list = |library: &mut Library| library.newest_members("main").unwrap().list().to_vec();
            assert_eq!(list(&mut kept), list(&mut made), "{what}");
            assert_eq!(kept.buffers["main"].log().newest(), made.buffers["main"].log().newest(), "{what}");
        };
        // Two blocks came since: too few to keep the state again.
        same(&world, 12, "it has grown").await;
        world.write("a", 60).await;
        same(&world, 22, "it has grown more").await;
        let inner = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let state = inner.join("buffer-main.state");
        let whole = std::fs::read(&state).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"", b"{}\n", b"\xff"] {
            std::fs::write(&state, damaged).unwrap();
            same(&world, 22, "it is made again").await;
            assert_eq!(std::fs::read(&state).unwrap(), whole);
        }
        world.erase(1).await;
        same(&world, 22, "texts were erased").await;
        assert_ne!(std::fs::read(&state).unwrap(), whole);
    }
}

#[tokio::test]
async fn cache_folder_that_cannot_be_written_costs_nothing_but_its_use() {
    let mut world = World::new().await;
    let plan = plan(0.2);
    for _ in 0..66 {
        world.write("a", 2).await;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut library = opened(&world, &plan, &file.path().join("below")).await;
    world.write("a", 40).await;
    library.follow().await.unwrap();
    assert!(library.index().records().eq(world.library(&plan).await.index().records()));
}

#[tokio::test]
async fn follower_waits_for_the_one_that_leads_and_takes_over_when_it_is_gone() {
    let mut world = World::new().await;
    let plan = plan(0.1);
    world.write("a", 40).await;
    let mut leader = world.library(&plan).await;
    let mut other = world.library(&plan).await;
    world.write("a", 40).await;
    leader.follow().await.unwrap();
    other.follow().await.unwrap();
    let newest = |library: &Library| library.buffers["main"].log().newest();
    assert_eq!(newest(&other), newest(&leader));
    let before = newest(&other);
    world.write("a", 40).await;
    other.follow().await.unwrap();
    assert_eq!(newest(&other), before, "the leader is expected to go on");
    world.store.clock().advance(crate::records::PATIENCE);
    other.follow().await.unwrap();
    assert!(newest(&other) > before);
    leader.follow().await.unwrap();
    assert_eq!(newest(&other), newest(&leader));
}

#[tokio::test]
async fn library_that_only_reads_computes_the_buffers_and_writes_nothing() {
    let mut world = World::new().await;
    world.write("a", 64).await;
    world.write_unplaced("a", 8).await;
    let plan = plan(0.5);
    let versions = async || {
        let mut versions = Vec::new();
        for table in Table::ALL {
            versions.push(world.store.version(table).await.unwrap());
        }
        versions
    };
    let before = versions().await;
    let open = |plan, access| Library::open(world.store.clone(), plan, Bytes::new(2_000), access);
    let mut looks = open(plan.clone(), Access::Read).await.unwrap();
    looks.follow().await.unwrap();
    assert_eq!(versions().await, before);
    assert_eq!(looks.index().limit(), Offset(64));
    // Its name is not taken by a look.
    let other = Plan { seed: Seed::new(10), ..plan.clone() };
    open(other, Access::Read).await.unwrap();
    let mut follows = open(plan.clone(), Access::Follow).await.unwrap();
    assert!(versions().await > before);
    let seen = looks.buffers["main"].log().newest();
    assert!(seen > Revision(0));
    assert_eq!(looks.newest_members("main").unwrap().list(), follows.members("main", seen).unwrap().list());
    let Issued::Ticket(ticket) = looks.ticket(&Request::first("demo")).await.unwrap() else { panic!("none") };
    let (one, two) = (looks.batch(&ticket).await.unwrap(), follows.batch(&ticket).await.unwrap());
    assert_eq!(one.digest(), two.digest());
}

#[tokio::test]
async fn buffer_of_other_settings_is_refused_with_the_mend() {
    let mut world = World::new().await;
    world.write("a", 64).await;
    let ours = plan(0.5);
    drop(world.library(&ours).await);
    let others = [
        Plan { seed: Seed::new(10), ..ours.clone() },
        Plan { block: 16, ..ours.clone() },
        Plan { buffers: [("main".to_owned(), main_of(Capacity::Records(13)))].into(), ..ours.clone() },
    ];
    for other in others {
        let error =
            Library::open(world.store.clone(), other, Bytes::default(), Access::Follow).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{error}");
        assert!(error.hint().unwrap().contains("rename `buffer.main`"));
    }
}

#[tokio::test]
async fn ticket_of_what_the_store_does_not_have_is_refused() {
    let mut world = World::new().await;
    world.write("a", 64).await;
    let mut library = world.library(&plan(0.5)).await;
    let Issued::Ticket(ticket) = library.ticket(&Request::first("demo")).await.unwrap() else {
        panic!("no ticket")
    };
    let future = Ticket { limit: Offset(999), ..ticket.clone() };
    assert!(matches!(library.batch(&future).await, Err(ReplayError::NoOffset { asked: Offset(999), .. })));
    let mut change = ticket.clone();
    change.buffers.get_mut("main").unwrap().revision = Revision(9_999);
    assert!(matches!(library.batch(&change).await, Err(ReplayError::NoRevision { .. })));
    let other = Ticket { config: "0".repeat(32), step: Step(4), ..ticket };
    let error = library.batch(&other).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.to_string().contains("step 4 of job `demo` was issued under config `0000"), "{error}");
}

#[tokio::test]
async fn permuted_order_reads_the_complete_store_once() {
    let mut world = World::new().await;
    world.write("b", 30).await;
    world.write("a", 30).await;
    let plan = Plan { order: Order::Permuted, visible_until: VisibleUntil::Store, ..plan(0.2) };
    let mut library = world.library(&plan).await;
    let mut request = Request::first("demo");
    let mut read = Vec::new();
    for (ticket, _) in serve(&mut library, &mut request).await {
        let batch = library.batch(&ticket).await.unwrap();
        for row in (0..batch.rows()).filter(|row| !batch.is_replayed(*row)) {
            let spans = batch.spans(row).unwrap().into_iter().filter(|span| span.first_token == 0);
            read.extend(spans.map(|span| (span.shard, span.seq)));
        }
    }
    let mut all: Vec<(Shard, Seq)> =
        library.index().records().map(|record| (record.shard.clone(), record.seq)).collect();
    assert_ne!(read, all);
    read.sort();
    all.sort();
    assert_eq!(read, all);
}

#[tokio::test]
async fn changes_after_a_rewrite_take_out_what_was_removed() {
    let mut world = World::new().await;
    world.write("a", 100).await;
    let plan = plan(0.5);
    let mut library = world.library(&plan).await;
    let before = library.newest_members("main").unwrap();
    let gone = before.list()[0].seq;
    let mut index = Index::new();
    let left = library.index().records().filter(|record| record.seq != gone).map(|record| record.to_record());
    index.extend(left, library.index().limit()).unwrap();
    let follow = library.buffers.get_mut("main").unwrap();
    follow.rewritten();
    assert_eq!(follow.advance(&index, Version(0)).await.unwrap(), Progress::UpToDate);
    let after = library.newest_members("main").unwrap();
    assert!(after.list().iter().all(|member| member.seq != gone));
    assert_eq!(after.list().len(), 12, "the next key takes its place");
    let mut candidates: Vec<(u64, RecordId)> = Vec::new();
    let seed = plan.buffers["main"].seed(plan.seed);
    for record in index.records().filter(|record| record.seq.0 < 96) {
        candidates.push((seed.hash(record.id.as_bytes()), record.id));
    }
    candidates.sort_unstable();
    candidates.dedup();
    let largest: BTreeSet<RecordId> = candidates.iter().rev().take(12).map(|(_, id)| *id).collect();
    assert_eq!(after.list().iter().map(|member| member.id).collect::<BTreeSet<_>>(), largest);
    // The change before is what it was.
    assert_eq!(library.members("main", before.revision()).unwrap().list(), before.list());
}

/// A batch without what was removed, and the seqs that were.
fn erased(batch: &Batch, gone: std::ops::Range<u64>) -> (Batch, BTreeSet<u64>) {
    let (mut tokens, mut targets, mut mask) =
        (batch.tokens().to_vec(), batch.targets().to_vec(), batch.mask());
    let mut seqs = BTreeSet::new();
    let mut rows = Vec::new();
    for row in 0..batch.rows() {
        let at = row * batch.length();
        let mut spans = batch.spans(row).unwrap();
        for span in spans.iter_mut().filter(|span| gone.contains(&span.seq.0)) {
            let places = at + span.start as usize..at + (span.start + span.tokens) as usize;
            tokens[places.clone()].fill(257);
            targets[places.clone()].fill(257);
            mask[places].fill(false);
            (span.erased, span.id) = (true, RecordId::from_hash(0));
            seqs.insert(span.seq.0);
        }
        rows.push(perennial_schemas::wire::BatchRow {
            row: batch.row_number(row).unwrap(),
            buffer: batch.buffer(row).map(str::to_owned),
            tokens: tokens[at..at + batch.length()].to_vec(),
            targets: targets[at..at + batch.length()].to_vec(),
            mask: mask[at..at + batch.length()].to_vec(),
            spans,
        });
    }
    (Batch::from_rows(batch.length(), &rows).unwrap(), seqs)
}

#[tokio::test]
async fn tickets_keep_their_shape_after_an_erase_and_buffers_let_go_of_it() {
    let mut world = World::new().await;
    let plan = plan(0.4);
    let mut library = world.library(&plan).await;
    let mut request = Request::first("demo");
    let mut served = Vec::new();
    for _ in 0..3 {
        world.write("a", 30).await;
        library.follow().await.unwrap();
        for (ticket, _) in serve(&mut library, &mut request).await {
            let batch = library.batch(&ticket).await.unwrap();
            served.push((ticket, batch));
        }
    }
    let before = library.newest_members("main").unwrap();
    world.erase(2).await;
    library.follow().await.unwrap();
    let mut rebuilt = world.library(&plan).await;
    let mut gone = BTreeSet::new();
    for (ticket, batch) in &served {
        let (expected, seqs) = erased(batch, 30..60);
        assert_eq!(library.batch(ticket).await.unwrap(), expected, "step {}", ticket.step);
        gone.extend(seqs);
        assert_eq!(rebuilt.batch(ticket).await.unwrap(), expected, "step {}", ticket.step);
    }
    assert!(gone.len() > 10);
    assert!(before.list().iter().any(|member| gone.contains(&member.seq.0)));
    for library in [&mut library, &mut rebuilt] {
        let mut replayed = 0;
        let members = library.newest_members("main").unwrap();
        assert!(members.list().iter().all(|member| !(30..60).contains(&member.seq.0)));
        for (ticket, _) in serve(library, &mut Request::first("late")).await {
            let batch = library.batch(&ticket).await.unwrap();
            for row in 0..batch.rows() {
                // A job that reads the past draws from the buffer as it was then.
                let mut spans = batch.spans(row).unwrap().into_iter();
                assert!(spans.all(|span| span.erased == (30..60).contains(&span.seq.0)), "{ticket:?}");
            }
            replayed += (0..batch.rows()).filter(|row| batch.is_replayed(*row)).count();
        }
        assert!(replayed > 10, "{replayed}");
    }
}

#[tokio::test]
async fn job_in_permuted_order_goes_on_though_the_record_it_stood_at_was_removed() {
    for tokenizer in [Tokenizer::Bytes, tiny()] {
        let plan = Plan { order: Order::Permuted, tokenizer, ..plan(0.0) };
        let mut world = World::new().await;
        world.write("a", 40).await;
        world.write("b", 40).await;
        let mut library = world.library(&plan).await;
        let (mut request, mut read) = (Request::first("demo"), Vec::new());
        while request.from.as_ref().is_none_or(|from| from.new_text.offset < Offset(40)) {
            let Issued::Ticket(ticket) = library.ticket(&request).await.unwrap() else { panic!("no ticket") };
            read.extend(new_text(&library.batch(&ticket).await.unwrap()));
            request = library.after(&ticket).await.unwrap();
        }
        world.erase(2).await;
        library.follow().await.unwrap();
        let mut rebuilt = world.library(&plan).await;
        let left = serve(&mut library, &mut request).await;
        assert!(!left.is_empty());
        for (ticket, digest) in &left {
            let batch = rebuilt.batch(ticket).await.unwrap();
            assert_eq!(batch.digest(), *digest, "step {}", ticket.step);
            read.extend(new_text(&batch));
        }
        read.retain(|(name, ..)| *name == shard("a"));
        read.sort();
        assert_eq!(read, kept_text(&plan, "a", 40));
    }
}

#[tokio::test]
async fn version_whose_rows_contradict_each_other_is_never_passed_over() {
    let mut world = World::new().await;
    let plan = plan(0.0);
    world.write("a", 20).await;
    let mut library = world.library(&plan).await;
    let mut builder = Builder::new();
    // Kept, but without id or passages.
    builder.push(Row { seq: Some(20), start: 20, end: 21, ..Row::new(Outcome::Kept, "a", "files") });
    world.commit("a", 1, builder).await;
    world.write("a", 20).await;
    for _ in 0..3 {
        let error = library.follow().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert_eq!(library.version(), Version(1));
    }
}

#[tokio::test]
async fn inspection_counts_what_buffer_and_stream_hold() {
    let mut world = World::new().await;
    world.write("a", 100).await;
    let mut library = world.library(&plan(0.5)).await;
    let members = library.newest_members("main").unwrap();
    let inspection = inspect(&mut library).unwrap();
    let kept: Vec<i64> = (0..100).filter(|seq| outcome(*seq) == Outcome::Kept).collect();
    let tokens: u64 = kept.iter().map(|seq| text("a", *seq).len() as u64 + 1).sum();
    assert_eq!(
        (inspection.stream.total.records, inspection.stream.total.tokens),
        (kept.len() as u64, tokens)
    );
    let web = kept.iter().filter(|seq| *seq % 3 == 0).count() as u64;
    assert_eq!(inspection.stream.by_source["web"].records, web);
    assert_eq!(inspection.stream.undated.records, kept.iter().filter(|seq| *seq % 2 == 1).count() as u64);
    // Dated records are 60 days apart from 1970 on.
    assert_eq!(
        inspection.stream.by_year[&1970].records,
        kept.iter().filter(|seq| *seq % 2 == 0 && **seq <= 12).count() as u64
    );
    let main = &inspection.buffers["main"];
    assert_eq!(
        (main.policy, main.capacity.as_deref(), main.revision),
        ("reservoir", Some("12 records"), members.revision())
    );
    assert_eq!((main.members.total.records, main.members.total.tokens), (12, members.byte_tokens()));
    assert_eq!(main.members.by_source.values().map(|count| count.records).sum::<u64>(), 12);
    assert_eq!(main.seen, Offset(96));
}

#[tokio::test]
async fn empty_store_has_nothing_to_serve_and_nothing_breaks() {
    let world = World::new().await;
    let mut library = world.library(&plan(0.5)).await;
    assert_eq!(library.ticket(&Request::first("demo")).await.unwrap(), Issued::NotYet { missing: 3 * 96 });
    assert!(library.index().is_empty());
    assert_eq!(inspect(&mut library).unwrap().buffers["main"].revision, Revision(0));
}
