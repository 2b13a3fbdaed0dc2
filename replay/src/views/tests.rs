use perennial_schemas::id::{Offset, Revision};
use perennial_schemas::seed::Seed;
use perennial_schemas::wire::{Cursor, DrawnBuffer, Order, Settings, WIRE_FORMAT};

use super::*;
use crate::testing::store;

fn position(row: u64) -> Position {
    Position { row, new_text: Cursor { offset: Offset(row), token: 7 }, ..Position::default() }
}

fn entry(number: u64, op: Op, first: u64, positions: Vec<Position>) -> Entry {
    let mix = [("main".to_owned(), 100_000_000)].into();
    let drawn = DrawnBuffer { revision: Revision(3), policy: "p".to_owned() };
    let ticket = Ticket {
        format: WIRE_FORMAT,
        job: "demo".to_owned(),
        step: Step(first),
        limit: Offset(90),
        settings: Settings { rows: 2, order: Order::Stream, keep: 1_000_000_000, mix },
        buffers: [("main".to_owned(), drawn)].into(),
        config: "c".to_owned(),
        seed: Seed::new(1),
        from: position(2 * first),
    };
    Entry { number, op, ticket, positions, skipped: None, forked_from: None, time: 5 }
}

fn view(number: u64, first: u64, steps: u64) -> Entry {
    entry(number, Op::View, first, (first..first + steps).map(|step| position(2 * step + 2)).collect())
}

#[test]
fn view_gives_each_of_its_steps_the_ticket_that_begins_where_the_step_before_ended() {
    let view = view(1, 4, 3);
    assert_eq!((view.first(), view.end()), (Step(4), Step(7)));
    assert_eq!(view.ticket_of(Step(4)).unwrap(), view.ticket);
    for step in 4..7 {
        let ticket = view.ticket_of(Step(step)).unwrap();
        assert_eq!((ticket.step, &ticket.from), (Step(step), &position(2 * step)));
        assert_eq!((ticket.limit, &ticket.buffers), (view.ticket.limit, &view.ticket.buffers));
    }
    assert_eq!([3, 7, u64::MAX].map(|step| view.ticket_of(Step(step))), [None, None, None]);
    assert_eq!((view.standing().step, view.standing().position), (Step(7), position(14)));
    assert_eq!(entry(1, Op::Set, 4, Vec::new()).ticket_of(Step(4)), None);
}

#[tokio::test]
async fn rows_come_back_as_they_were_written_and_a_number_is_written_once() {
    let (_folder, store) = store(5).await;
    let skip = Entry { skipped: Some(9), ..entry(3, Op::Skip, 3, vec![position(40)]) };
    let fork = Entry { forked_from: Some("other@3".to_owned()), ..entry(4, Op::Begin, 3, Vec::new()) };
    let rows = [view(1, 0, 1), view(2, 1, 2), skip, fork, entry(5, Op::End, 3, Vec::new())];
    for row in &rows {
        assert_eq!(write(&store, row).await.unwrap(), Written::Landed);
    }
    assert_eq!(write(&store, &view(5, 3, 1)).await.unwrap(), Written::Lost);
    let mut log = ViewLog::open(&store, "demo").await.unwrap();
    assert_eq!(log.newest().unwrap().as_ref(), &rows[4]);
    assert_eq!(log.rows(1, 9).await.unwrap(), rows);
    assert_eq!(log.rows(2, 2).await.unwrap(), rows[1..2]);
    for (step, row) in [(2, 1), (0, 0), (1, 1), (2, 1)] {
        assert_eq!(log.find(Step(step)).await.unwrap().unwrap().as_ref(), &rows[row]);
    }
    assert_eq!(log.find(Step(3)).await.unwrap(), None);
    assert_eq!(log.views(Step(0), Step(1)).await.unwrap(), rows[..1]);
    assert_eq!(log.views(Step(0), Step(9)).await.unwrap(), rows[..2]);
    assert_eq!(ViewLog::open(&store, "else").await.unwrap().newest(), None);
    assert_eq!(store.distinct(Table::Views, "job").await.unwrap(), ["demo"]);
}

#[tokio::test]
async fn log_reads_what_another_process_has_written_when_it_is_asked_to() {
    let (_folder, store) = store(5).await;
    write(&store, &view(1, 0, 1)).await.unwrap();
    let mut log = ViewLog::open(&store, "demo").await.unwrap();
    assert!(!log.refresh().await.unwrap());
    write(&store, &view(2, 1, 2)).await.unwrap();
    write(&store, &view(3, 3, 4)).await.unwrap();
    assert_eq!(log.newest().unwrap().end(), Step(1));
    assert!(log.refresh().await.unwrap());
    assert_eq!(log.newest().unwrap().end(), Step(7));
    assert_eq!(log.find(Step(2)).await.unwrap().unwrap().number, 2);
}

#[tokio::test]
async fn row_that_no_release_writes_is_refused_by_name() {
    let (_folder, store) = store(5).await;
    let rows = |op: &str, positions: &str| {
        let ticket = view(1, 0, 1).ticket.to_json();
        let mut builder = Builder::new();
        builder.push(Row {
            job: "demo",
            number: 1,
            op,
            first_step: 0,
            end_step: 1,
            ticket: &ticket,
            positions,
            skipped: None,
            forked_from: None,
            time: 0,
        });
        builder.finish().unwrap()
    };
    for (op, positions, why) in [
        ("look", "[]", "row 1 of job `demo` is a `look`"),
        ("view", "{", "has no positions"),
        ("view", "[]", "says steps 0..1, and has (0, 0)"),
    ] {
        let batch = rows(op, positions);
        let row = View::new(&batch).unwrap().iter().next().map(|row| Entry::read(&row)).unwrap();
        let error = row.unwrap_err();
        assert!(matches!(error, ReplayError::Inconsistent { table: "views", .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    // The log of the table counts a row that is not there.
    let mut committer = Committer::open(&store, Table::Views, "views/lost").await.unwrap();
    committer.commit(&[], vec![("views/lost".to_owned(), 4)]).await.unwrap();
    let error = ViewLog::open(&store, "lost").await.unwrap_err();
    assert!(error.to_string().contains("the log says 4 rows of job `lost`"), "{error}");
}
