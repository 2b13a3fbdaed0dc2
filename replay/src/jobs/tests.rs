use perennial_program::config::Share;
use perennial_program::error::{Kind, ProgramError as _};
use perennial_schemas::id::Offset;
use perennial_schemas::wire::WHOLE;

use super::*;
use crate::plan::{Plan, VisibleUntil};
use crate::testing::{World, plan};

/// A server without its doors.
struct Server {
    library: Library,
    jobs: Jobs,
}

impl World {
    async fn jobs(&self, plan: &Plan) -> Server {
        let library = self.library(plan).await;
        Server { library, jobs: Jobs::new(&self.store, Access::Follow) }
    }
}

impl Server {
    async fn ask(&mut self, request: &Request) -> Result<Issued> {
        self.jobs.issue_now(&mut self.library, request).await
    }

    async fn step(&mut self, job: &str, step: u64) -> Ticket {
        let request = Request::step(job, Step(step));
        let issued = self.ask(&request).await.unwrap();
        let Issued::Ticket(ticket) = issued else { panic!("step {step}: {issued:?}") };
        assert_eq!((ticket.job.as_str(), ticket.step), (job, Step(step)));
        ticket
    }

    /// The ticket of a step, whose batch must be there; its digest.
    async fn digest(&mut self, ticket: &Ticket) -> u128 {
        self.library.follow().await.unwrap();
        self.library.batch(ticket).await.unwrap().digest()
    }

    /// Waits for the rows on their way.
    async fn land(&mut self) {
        while let Some(landing) = self.jobs.landing().await {
            self.jobs.land(landing).await.unwrap();
        }
    }

    async fn change(&mut self, job: &str, change: Change) -> Result<Arc<Entry>> {
        self.jobs.change(&mut self.library, job, &change).await
    }

    async fn record(&mut self, job: &str) -> Vec<(Op, u64, u64)> {
        let rows = self.jobs.rows(job, 1, 1000).await.unwrap_or_default();
        rows.iter().map(|row| (row.op, row.first().0, row.end().0)).collect()
    }
}

fn all_visible(share: f64) -> Plan {
    Plan { visible_until: VisibleUntil::Store, drain: false, ..plan(share) }
}

/// The new text of these tickets, from the first token on, without a gap.
async fn is_whole(server: &mut Server, tickets: &[Ticket]) {
    let mut next = (Offset(0), 0);
    for ticket in tickets {
        let draws = server.library.draws(ticket).await.unwrap();
        for span in draws.spans.iter().filter(|span| span.buffer.is_none()) {
            if span.first_token == 0 {
                assert!(span.offset >= next.0, "{span:?} after {next:?}");
            } else {
                assert_eq!((span.offset, span.first_token), next, "{span:?}");
            }
            next = (span.offset, span.first_token + span.tokens);
        }
    }
}

#[tokio::test]
async fn step_has_one_ticket_from_any_server_in_any_order_of_asking_while_the_store_grows() {
    let mut world = World::new().await;
    world.write("a", 200).await;
    let plan = all_visible(0.3);
    let mut servers = [world.jobs(&plan).await, world.jobs(&plan).await, world.jobs(&plan).await];
    // Two in turn, prefetching workers, a step asked for again, one from far behind.
    let order = [0, 1, 2, 3, 11, 4, 9, 5, 10, 6, 8, 7, 3, 0, 14, 12, 13, 20, 17, 15, 16, 19, 18, 2];
    let mut tickets: BTreeMap<u64, Ticket> = BTreeMap::new();
    for (turn, step) in order.into_iter().enumerate() {
        if turn % 5 == 4 {
            world.write("a", 20).await;
            servers[turn % 3].library.follow().await.unwrap();
        }
        if turn == 9 {
            servers[1] = world.jobs(&plan).await;
        }
        let ticket = servers[turn % 3].step("demo", step).await;
        let first = tickets.entry(step).or_insert_with(|| ticket.clone());
        assert_eq!(*first, ticket, "step {step}");
    }
    let tickets: Vec<Ticket> = tickets.into_values().collect();
    assert_eq!(tickets.len(), 21);
    let mut digests = Vec::new();
    for server in &mut servers {
        let mut ours = Vec::new();
        for ticket in &tickets {
            ours.push(server.digest(ticket).await);
        }
        digests.push(ours);
    }
    assert!(digests.iter().all(|ours| *ours == digests[0]));
    let [mut first, ..] = servers;
    is_whole(&mut first, &tickets).await;
    assert!(tickets.last().unwrap().limit > tickets[0].limit, "later views see the store that has grown");
    assert_eq!(first.jobs.decided("demo").await.unwrap().start, Step(0));
    assert_eq!(first.jobs.tickets("demo", Step(0), Step(21)).await.unwrap(), tickets);
}

#[tokio::test]
async fn ticket_that_was_given_stands_though_no_batch_was_asked_for_and_the_store_has_grown() {
    let mut world = World::new().await;
    world.write("a", 40).await;
    let plan = all_visible(0.5);
    let mut server = world.jobs(&plan).await;
    let first = server.step("demo", 0).await;
    world.write("a", 40).await;
    server.library.follow().await.unwrap();
    assert_eq!(server.step("demo", 0).await, first);
    assert_eq!(world.jobs(&plan).await.step("demo", 0).await, first);
}

#[tokio::test]
async fn views_double_up_to_the_most_and_the_next_is_on_its_way_at_half_of_the_last() {
    let mut world = World::new().await;
    world.write("a", 2_000).await;
    let plan = Plan { drain: false, rows: 1, length: 16, ..plan(0.0) };
    let mut server = world.jobs(&plan).await;
    for step in 0..300 {
        let request = Request::step("demo", Step(step));
        let issued = server.jobs.issue(&mut server.library, &request).await.unwrap();
        assert_eq!(issued.is_none(), step == 0, "step {step}: waits for its view");
        server.step("demo", step).await;
        server.land().await;
    }
    let views = [0_u64, 1, 3, 7, 15, 31, 63, 127, 191, 255, 319, 383];
    let expected: Vec<_> = views.windows(2).map(|pair| (Op::View, pair[0], pair[1])).collect();
    assert_eq!(server.record("demo").await, expected);
}

#[tokio::test]
async fn view_ends_where_the_text_ends_and_a_partial_batch_is_served_only_to_the_one_who_asks_for_it() {
    let mut world = World::new().await;
    world.write("a", 20).await;
    let plan = Plan { drain: true, ..plan(0.0) };
    let mut server = world.jobs(&plan).await;
    let mut step = 0;
    while let Issued::Ticket(ticket) = server.ask(&Request::step("demo", Step(step))).await.unwrap() {
        server.land().await;
        // What lies behind the last whole batch is not decided ahead: text may come yet.
        let decided = server.jobs.decided("demo").await.unwrap().end;
        let rest = server.library.batch(&ticket).await.unwrap();
        let is_partial = rest.mask().iter().any(|bit| !bit);
        assert!(!is_partial || decided == ticket.step.next(), "{decided} {}", ticket.step);
        step += 1;
    }
    let issued = server.ask(&Request::step("demo", Step(step + 3))).await.unwrap();
    assert!(matches!(issued, Issued::NotYet { missing } if missing > 0), "{issued:?}");
    world.write("a", 40).await;
    server.library.follow().await.unwrap();
    server.step("demo", step + 3).await;
    let tickets = server.jobs.tickets("demo", Step(0), Step(step + 4)).await.unwrap();
    assert_eq!(tickets.len() as u64, step + 4);
    is_whole(&mut server, &tickets).await;
}

#[tokio::test]
async fn stray_requests_are_refused_and_decide_nothing() {
    let mut world = World::new().await;
    world.write("a", 200).await;
    let plan = all_visible(0.1);
    let mut server = world.jobs(&plan).await;
    server.step("demo", 0).await;
    server.land().await;
    let decided = server.jobs.decided("demo").await.unwrap();
    for (request, kind, why) in [
        (Request::step("demo", Step(1_000_000)), Kind::Input, "step 1000000 of job `demo` is too far ahead"),
        (Request::step("de/mo", Step(0)), Kind::Input, "is not a job"),
        (
            Request { from: Some(Position { row: 3, ..Position::default() }), ..Request::first("demo") },
            Kind::Conflict,
            "job `demo` was served step 0 before, from another position",
        ),
    ] {
        let error = server.ask(&request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let settings = Settings { rows: 0, ..plan.settings() };
    let error = server.ask(&Request { settings: Some(settings), ..Request::first("new") }).await.unwrap_err();
    assert!(error.to_string().contains("the job's `rows` is 0"), "{error}");
    assert_eq!(server.jobs.decided("demo").await.unwrap(), decided);
    assert!(matches!(server.jobs.newest("new").await, Err(ReplayError::NoJob { .. })));
}

#[tokio::test]
async fn job_begins_where_and_how_its_first_request_says() {
    let mut world = World::new().await;
    world.write("a", 200).await;
    let plan = all_visible(0.1);
    let mut server = world.jobs(&plan).await;
    let from = Position {
        row: 30,
        new_text: perennial_schemas::wire::Cursor { offset: Offset(50), token: 2 },
        ..Position::default()
    };
    let settings = Settings { rows: 5, mix: BTreeMap::new(), ..plan.settings() };
    let request = Request {
        from: Some(from.clone()),
        settings: Some(settings.clone()),
        ..Request::step("late", Step(10))
    };
    let Issued::Ticket(ticket) = server.ask(&request).await.unwrap() else { panic!("no ticket") };
    assert_eq!((ticket.step, &ticket.from, &ticket.settings), (Step(10), &from, &settings));
    assert_eq!(server.step("late", 11).await.from.row, 35);
    let error = server.ask(&Request::step("late", Step(9))).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::NotFound, "job `late` began after step 9"));
    // A job keeps its settings whatever later requests say.
    let other = Request { settings: Some(plan.settings()), ..Request::step("late", Step(12)) };
    let Issued::Ticket(ticket) = server.ask(&other).await.unwrap() else { panic!("no ticket") };
    assert_eq!(ticket.settings, settings);
}

fn share(value: f64) -> Share {
    Share::new(value).unwrap()
}

#[tokio::test]
async fn settings_change_from_the_next_view_on_and_nothing_is_lost_or_repeated() {
    let mut world = World::new().await;
    world.write("a", 400).await;
    let plan = all_visible(0.25);
    let mut server = world.jobs(&plan).await;
    for step in 0..5 {
        server.step("demo", step).await;
    }
    server.land().await;
    let end = server.jobs.decided("demo").await.unwrap().end;
    let set =
        SettingsChange { rows: Some(2), mix: Some([("main".to_owned(), share(0.5))].into()), keep: None };
    let row = server.change("demo", Change::Set(set)).await.unwrap();
    assert_eq!((row.op, row.end()), (Op::Set, end));
    assert_eq!((row.ticket.settings.rows, row.ticket.settings.mix["main"]), (2, WHOLE / 2));
    let mut tickets = Vec::new();
    for step in 0..end.0 + 6 {
        let ticket = world.jobs(&plan).await.step("demo", step).await;
        let rows = server.library.batch(&ticket).await.unwrap().rows();
        assert_eq!(rows, if step < end.0 { 3 } else { 2 }, "step {step}");
        tickets.push(ticket);
    }
    is_whole(&mut server, &tickets).await;
    let replayed: usize = {
        let mut count = 0;
        for ticket in &tickets[usize::try_from(end.0).unwrap()..] {
            let batch = server.library.batch(ticket).await.unwrap();
            count += (0..batch.rows()).filter(|row| batch.is_replayed(*row)).count();
        }
        count
    };
    assert_eq!(replayed, 6, "half of 12 rows");
    for (set, why) in [
        (SettingsChange { rows: Some(0), ..SettingsChange::default() }, "`rows` is 0"),
        (
            SettingsChange { mix: Some([("no".to_owned(), share(0.1))].into()), ..SettingsChange::default() },
            "names `no`: the config has `main`",
        ),
    ] {
        let error = server.change("demo", Change::Set(set)).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    let error = server.change("else", Change::End).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn skipped_text_is_left_out_and_the_job_that_stood_before_it_goes_on_behind_it() {
    let mut world = World::new().await;
    world.write("a", 400).await;
    let plan = all_visible(0.0);
    let mut server = world.jobs(&plan).await;
    server.step("demo", 0).await;
    server.land().await;
    let newest = server.jobs.newest("demo").await.unwrap();
    let (end, before) = (newest.end(), newest.standing().position);
    let row = server.change("demo", Change::Skip(4)).await.unwrap();
    assert_eq!((row.op, row.skipped, row.end()), (Op::Skip, Some(4), end));
    assert_eq!(row.standing().position.row, before.row + 12);
    // The job's checkpoint knows of no skip.
    let request = Request { from: Some(before.clone()), ..Request::step("demo", end) };
    for _ in 0..2 {
        let Issued::Ticket(ticket) = server.ask(&request).await.unwrap() else { panic!("no ticket") };
        assert_eq!(ticket.from, row.standing().position);
    }
    let error = server.change("demo", Change::Skip(1 << 40)).await.unwrap_err();
    assert!(matches!(error, ReplayError::TooShort { .. }), "{error}");
}

#[tokio::test]
async fn fork_goes_on_where_the_other_job_stood_and_an_ended_job_does_not_go_on() {
    let mut world = World::new().await;
    world.write("a", 400).await;
    let plan = all_visible(0.3);
    let mut server = world.jobs(&plan).await;
    for step in 0..6 {
        server.step("demo", step).await;
    }
    let of = server.step("demo", 4).await;
    let row = server.jobs.fork(&mut server.library, "demo", Step(4), "other").await.unwrap();
    assert_eq!((row.op, row.forked_from.as_deref()), (Op::Begin, Some("demo@4")));
    let ticket = server.step("other", 4).await;
    assert_eq!((&ticket.from, &ticket.settings), (&of.from, &of.settings));
    assert_ne!(ticket.seed, of.seed);
    let forks = [("demo", 4, "other"), ("demo", 4_000, "third"), ("none", 0, "third")];
    let kinds = [Kind::Conflict, Kind::Input, Kind::NotFound];
    for ((of, step, name), kind) in forks.into_iter().zip(kinds) {
        let error = server.jobs.fork(&mut server.library, of, Step(step), name).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    server.land().await;
    let end = server.change("demo", Change::End).await.unwrap().end();
    assert_eq!(server.step("demo", end.0 - 1).await.step.next(), end);
    let error = world.jobs(&plan).await.ask(&Request::step("demo", end)).await.unwrap_err();
    assert!(matches!(error, ReplayError::Ended { .. }), "{error}");
    assert!(matches!(server.change("demo", Change::End).await, Err(ReplayError::Ended { .. })));
    server.jobs.fork(&mut server.library, "demo", end, "goes-on").await.unwrap();
    server.step("goes-on", end.0).await;
    let names: Vec<_> = server.jobs.list().await.unwrap().iter().map(|row| row.ticket.job.clone()).collect();
    assert_eq!(names, ["demo", "goes-on", "other"]);
}

#[tokio::test]
async fn look_at_a_job_shows_what_is_decided_and_then_what_would_be_and_writes_nothing() {
    let mut world = World::new().await;
    world.write("a", 100).await;
    let plan = plan(0.2);
    let mut server = world.jobs(&plan).await;
    server.step("demo", 0).await;
    server.land().await;
    let decided = server.jobs.decided("demo").await.unwrap().end;
    world.write("a", 100).await;
    let before = world.store.version(Table::Views).await.unwrap();
    let mut looks =
        Server { library: world.library(&plan).await, jobs: Jobs::new(&world.store, Access::Read) };
    let mut seen = Vec::new();
    for step in 0..decided.0 + 20 {
        seen.push(looks.step("demo", step).await);
    }
    assert_eq!(world.store.version(Table::Views).await.unwrap(), before);
    is_whole(&mut looks, &seen).await;
    server.library.follow().await.unwrap();
    for (step, ticket) in (0..).zip(&seen[..usize::try_from(decided.0).unwrap()]) {
        assert_eq!(server.step("demo", step).await, *ticket);
    }
}

#[tokio::test]
async fn view_that_could_not_be_written_is_decided_when_the_store_can_be_written_again() {
    let mut world = World::new().await;
    world.write("a", 100).await;
    let plan = all_visible(0.2);
    let mut server = world.jobs(&plan).await;
    let blocked = world.block("views/job=demo");
    let error = server.ask(&Request::first("demo")).await.unwrap_err();
    assert!(matches!(error, ReplayError::Store(_)), "{error}");
    drop(blocked);
    let ticket = server.step("demo", 0).await;
    assert_eq!(world.jobs(&plan).await.step("demo", 0).await, ticket);
}
