use perennial_store::commit::Committer;

use super::*;
use crate::buffer::fifo;
use crate::draws::DrawnSpan;
use crate::explain::{Asked, explain};
use crate::jobs::Jobs;

/// Adds a change to `main` that no policy makes: the member of the last admission leaves.
async fn tamper(world: &World) {
    let version = world.store.version(Table::Buffers).await.unwrap();
    let scan = Scan { columns: &[], filter: Some("op = 'admit'".to_owned()), order: &["revision"] };
    let batches = world.store.scan(Table::Buffers, version, &scan).await.unwrap();
    let last = batches.last().unwrap();
    let row = buffers::View::new(last).unwrap().iter().last().unwrap();
    let revision = changes(world).await.len() as i64 + 1;
    let mut builder = buffers::Builder::new();
    builder.push(buffers::Row { revision, op: "evict", ..row });
    let mut committer = Committer::open(&world.store, Table::Buffers, "buffer/main").await.unwrap();
    let transaction = vec![("buffer/main".to_owned(), revision)];
    committer.commit(&[builder.finish().unwrap()], transaction).await.unwrap();
}

#[tokio::test]
async fn buffer_is_made_again_change_by_change_and_what_its_policy_would_not_make_is_found() {
    let mut world = World::new().await;
    world.write("a", 100).await;
    let plan = plan(0.5);
    let mut library = world.library(&plan).await;
    let verified = library.verify("main").await.unwrap();
    assert_eq!((verified.members, verified.seen, verified.exact), (12, Offset(96), true));
    assert_eq!(verified.revision, library.buffers["main"].log().newest());
    let error = library.verify("other").await.unwrap_err();
    assert_eq!(error.to_string(), "the config has no buffer `other`: it has main");
    // It goes on as if it had not been looked at.
    world.write("a", 50).await;
    library.follow().await.unwrap();
    assert!(library.verify("main").await.unwrap().exact);
    // What was erased cannot be offered again; the members follow from the rest.
    world.erase(1).await;
    library.follow().await.unwrap();
    let verified = library.verify("main").await.unwrap();
    assert!(!verified.exact && verified.erased > 0, "{verified:?}");

    let mut world = World::new().await;
    world.write("a", 100).await;
    world.library(&plan).await;
    tamper(&world).await;
    for access in [Access::Read, Access::Follow] {
        let library = Library::open(world.store.clone(), plan.clone(), Bytes::new(2_000), access).await;
        let error = library.unwrap().verify("main").await.unwrap_err();
        let (kind, said) = (error.kind(), error.to_string());
        assert!(
            kind == Kind::Corrupt && said.contains("is `evict ") && said.ends_with("the policy says nothing"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn record_is_explained_by_the_buffers_that_held_it_and_the_steps_that_it_was_in() {
    let mut world = World::new().await;
    world.write("a", 100).await;
    let mut plan = plan(0.5);
    let fifo = PolicyConfig::Fifo(fifo::Settings { capacity: Capacity::Records(20) });
    plan.buffers.insert("late".to_owned(), Spec::new("late", &fifo));
    let mut library = world.library(&plan).await;
    let mut jobs = Jobs::new(&world.store, Access::Follow);
    for step in 0..20 {
        jobs.issue_now(&mut library, &Request::step("demo", Step(step))).await.unwrap();
    }
    let decided = jobs.decided("demo").await.unwrap();
    let tickets = jobs.tickets("demo", decided.start, decided.end).await.unwrap();
    let mut spans: BTreeMap<Offset, Vec<DrawnSpan>> = BTreeMap::new();
    for ticket in &tickets {
        for span in library.draws(ticket).await.unwrap().spans {
            spans.entry(span.offset).or_default().push(span);
        }
    }
    let records: Vec<_> = library.index().records().map(|record| record.to_record()).collect();
    let members = library.newest_members("main").unwrap();
    for record in records {
        let asked = Asked::Offset(record.offset);
        let found = explain(&mut library, &mut jobs, &asked, None).await.unwrap();
        for asked in [Asked::Id(record.id), Asked::Place(record.shard.clone(), record.seq)] {
            let again = explain(&mut library, &mut jobs, &asked, Some("demo")).await.unwrap();
            assert!(again == found || again.id == found.id && again.offset < found.offset, "{asked}");
        }
        assert_eq!(found.buffers["main"].member, members.holds(record.offset));
        assert_eq!(found.buffers["late"].stays.len(), usize::from(record.offset < Offset(96)));
        let why = &found.buffers["main"].why;
        assert_eq!(why.contains("its block is not whole"), record.offset >= Offset(96), "{why}");
        let ours = spans.remove(&record.offset).unwrap_or_default();
        let uses = found.jobs.get("demo").cloned().unwrap_or_default();
        let sum = |all: &mut dyn Iterator<Item = &DrawnSpan>| all.map(|span| span.tokens).sum::<u64>();
        let new_text = uses.new_text.map_or(0, |all| all.tokens);
        assert_eq!(new_text, sum(&mut ours.iter().filter(|span| span.buffer.is_none())));
        let drawn = uses.drawn.get("main").map_or(0, |all| all.tokens);
        assert_eq!(drawn, sum(&mut ours.iter().filter(|span| span.buffer.is_some())));
    }
    assert!(spans.is_empty());
    let error = explain(&mut library, &mut jobs, &Asked::Offset(Offset(4_000)), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}
