use super::*;
use crate::id::{RecordId, Seq};

fn rows() -> Vec<BatchRow> {
    let span = |start, tokens, seq, first_token| Span {
        start,
        tokens,
        shard: "main".parse().unwrap(),
        seq: Seq(seq),
        id: RecordId::from_hash(u128::from(seq) << 64),
        first_token,
        offset: Offset(seq),
        erased: false,
        probability: 0.25,
    };
    vec![
        BatchRow {
            row: 0,
            buffer: None,
            tokens: vec![256, 1, 2, 3],
            targets: vec![1, 2, 3, 256],
            mask: vec![true; 4],
            spans: vec![span(0, 4, 9, 0)],
        },
        BatchRow {
            row: 1,
            buffer: Some("main".into()),
            tokens: vec![5, 6, 256, 257],
            targets: vec![6, 7, 8, 257],
            mask: vec![true, true, true, false],
            spans: vec![span(0, 2, 4, 3), span(2, 1, 5, 0)],
        },
    ]
}

fn ticket() -> Ticket {
    let odds = Odds { weight: 1 << 20, total: (1 << 53) - 1 };
    let rest = DrawRest { offset: Offset(2), first: 40, tokens: 7, odds };
    Ticket {
        format: WIRE_FORMAT,
        job: "demo".into(),
        step: Step(3),
        limit: Offset(12),
        settings: Settings {
            rows: 4,
            order: Order::Stream,
            keep: 750_000_000,
            mix: [("main".to_owned(), 250_000_000)].into(),
        },
        buffers: [("main".to_owned(), DrawnBuffer { revision: Revision(40), policy: "1".repeat(32) })].into(),
        config: "0".repeat(32),
        seed: Seed::new(1),
        from: Position {
            row: 12,
            new_text: Cursor { offset: Offset(7), token: 20 },
            draws: [
                ("main".to_owned(), DrawPlace { draw: 3, rest: Some(rest) }),
                ("other".to_owned(), DrawPlace { draw: 9, rest: None }),
            ]
            .into(),
        },
    }
}

#[test]
fn ticket_survives_json_and_refuses_what_it_does_not_know() {
    let json = ticket().to_json();
    assert_eq!(Ticket::from_json(json.as_bytes()).unwrap(), ticket());
    let other = json.replace(&format!("\"format\":{WIRE_FORMAT}"), "\"format\":9");
    assert!(matches!(Ticket::from_json(other.as_bytes()), Err(WireError::Format { found: 9 })));
    let extra = json.replacen('{', "{\"extra\":1,", 1);
    assert!(matches!(Ticket::from_json(extra.as_bytes()), Err(WireError::Ticket(_))));
    // A later release is named as that, whatever else its tickets have.
    let later = other.replacen('{', "{\"extra\":1,", 1);
    assert!(matches!(Ticket::from_json(later.as_bytes()), Err(WireError::Format { found: 9 })));
}

#[test]
fn batch_gives_back_its_rows() {
    let batch = Batch::from_rows(4, &rows()).unwrap();
    assert_eq!((batch.rows(), batch.length()), (2, 4));
    assert_eq!(batch.tokens(), [256, 1, 2, 3, 5, 6, 256, 257]);
    assert_eq!(batch.targets(), [1, 2, 3, 256, 6, 7, 8, 257]);
    assert_eq!(batch.mask(), [true, true, true, true, true, true, true, false]);
    for (index, row) in rows().iter().enumerate() {
        assert_eq!(batch.spans(index).unwrap(), row.spans);
        assert_eq!(batch.buffer(index), row.buffer.as_deref());
        assert_eq!(batch.row_number(index), Some(row.row));
    }
    assert!(batch.spans(2).is_err());
}

/// Adds a row as a builder does: its spans, with their cells.
fn build(builder: &mut BatchBuilder, row: &BatchRow) -> Result<(), WireError> {
    builder.row(row.row, row.buffer.as_deref());
    for span in &row.spans {
        let Span { ref shard, seq, offset, id, first_token, probability, .. } = *span;
        let piece = Piece { shard, seq, offset, id, first_token, probability };
        let cells = span.start as usize..(span.start + span.tokens) as usize;
        let write = |inputs: &mut Vec<i32>, targets: &mut Vec<i32>| {
            inputs.extend(&row.tokens[cells.clone()]);
            targets.extend(&row.targets[cells]);
        };
        builder.span(piece, span.tokens as usize, (!span.erased).then_some(write))?;
    }
    Ok(())
}

#[test]
fn builder_makes_the_batch_of_the_rows() {
    let mut all = rows();
    let mut erased = all[1].clone();
    (erased.row, erased.spans[0].erased) = (2, true);
    (erased.tokens, erased.targets) = (vec![257, 257, 256, 257], vec![257, 257, 8, 257]);
    erased.mask = vec![false, false, true, false];
    let empty = BatchRow {
        row: 3,
        mask: vec![false; 4],
        tokens: vec![257; 4],
        targets: vec![257; 4],
        spans: vec![],
        buffer: None,
    };
    all.extend([erased, empty]);
    let mut builder = BatchBuilder::new(4, 4, 257);
    all.iter().for_each(|row| build(&mut builder, row).unwrap());
    let built = builder.finish().unwrap();
    assert_eq!(built, Batch::from_rows(4, &all).unwrap());
    assert_eq!(Batch::new(built.columns().clone()).unwrap(), built, "it keeps every rule");
    assert_eq!(BatchBuilder::new(4, 0, 257).finish().unwrap().rows(), 0);
}

#[test]
fn builder_refuses_spans_that_a_row_has_no_room_for_or_that_have_other_tokens() {
    let shard = "main".parse().unwrap();
    let (seq, offset, id) = (Seq(0), Offset(0), RecordId::from_hash(0));
    let piece = Piece { shard: &shard, seq, offset, id, first_token: 0, probability: 1.0 };
    type Write = fn(&mut Vec<i32>, &mut Vec<i32>);
    let one: Write = |inputs, targets| {
        inputs.push(1);
        targets.push(1);
    };
    let uneven: Write = |inputs, _| inputs.push(1);
    let begun = || {
        let mut builder = BatchBuilder::new(2, 1, 0);
        builder.row(0, None);
        builder
    };
    assert!(begun().span(piece, 1, Some(one)).is_ok());
    for (tokens, write) in [(0, one), (3, one), (2, one), (1, uneven)] {
        assert!(begun().span(piece, tokens, Some(write)).is_err(), "{tokens}");
    }
    assert!(BatchBuilder::new(2, 1, 0).span(piece, 1, Some(one)).is_err(), "no row was begun");
}

#[test]
fn digest_sees_every_cell_and_not_the_layout() {
    let batch = Batch::from_rows(4, &rows()).unwrap();
    let twice: Vec<BatchRow> = rows().into_iter().chain(rows()).collect();
    let slice = Batch::from_rows(4, &twice).unwrap().columns().slice(2, 2);
    assert_eq!(Batch::new(slice).unwrap().digest(), batch.digest());
    let changes: [fn(&mut BatchRow); 8] = [
        |row| row.tokens[0] += 1,
        |row| row.targets[3] += 1,
        |row| row.mask[1] ^= true,
        |row| row.row += 5,
        |row| row.buffer = Some("other".into()),
        |row| row.spans[0].first_token += 1,
        |row| row.spans[0].id = RecordId::from_hash(1),
        |row| row.spans[0].erased = true,
    ];
    for change in changes {
        let mut other = rows();
        change(&mut other[1]);
        assert_ne!(Batch::from_rows(4, &other).unwrap().digest(), batch.digest());
    }
}

#[test]
fn digest_is_the_same_in_every_build() {
    let batch = Batch::from_rows(4, &rows()).unwrap();
    assert_eq!(format!("{:032x}", batch.digest()), "b4935f942cd1ea07f13946c3bab89ec8");
}

#[test]
fn batch_of_no_rows_is_a_batch() {
    assert_eq!(Batch::from_rows(4, &[]).unwrap().rows(), 0);
}

#[test]
fn batch_refuses_rows_that_break_its_rules() {
    let breaks: [fn(&mut BatchRow); 5] = [
        |row| row.tokens[0] = -1,
        |row| row.tokens.truncate(3),
        |row| row.spans[1].start = 1,
        |row| row.spans[1].tokens = 3,
        |row| row.spans[1].tokens = 0,
    ];
    for (index, change) in breaks.into_iter().enumerate() {
        let mut other = rows();
        change(&mut other[1]);
        assert!(Batch::from_rows(4, &other).is_err(), "{index}");
    }
    // As many tokens as two rows have, and yet in the wrong ones.
    let mut shifted = rows();
    let token = shifted[1].tokens.remove(0);
    shifted[0].tokens.push(token);
    assert!(matches!(Batch::from_rows(4, &shifted), Err(WireError::Batch { .. })));
}
