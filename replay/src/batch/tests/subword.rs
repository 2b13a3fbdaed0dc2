//! The same rules under a tokenizer whose counts only the texts tell.

use super::*;
use crate::tokenise::Known;
use crate::tokenise::tests::tiny;

fn subword(rows: u32, length: usize, share: f64) -> Plan {
    Plan { tokenizer: tiny(), ..plan(rows, length, share) }
}

/// Each record's tokens between its boundaries.
fn records(world: &World) -> BTreeMap<(Shard, Seq), Vec<i32>> {
    let record = |((shard, seq), text): (&(Shard, Seq), &Arc<str>)| {
        let passages = &world.index.get(shard, *seq).unwrap().passages;
        let Tokens::Subword(encoding) = tiny().encode(Arc::clone(text), passages).unwrap() else {
            panic!("bytes")
        };
        let tokens = [&[0][..], encoding.tokens(), &[0]].concat();
        ((shard.clone(), *seq), tokens)
    };
    world.texts.iter().map(record).collect()
}

/// Every token of every record in stream order.
fn stream(world: &World) -> Vec<(Shard, Seq, u64)> {
    let records = records(world);
    let mut places: Vec<&(Shard, Seq)> = records.keys().collect();
    places.sort_by_key(|(shard, seq)| (*seq, shard.clone()));
    let tokens = |place: &&(Shard, Seq)| records[*place].len() as u64 - 1;
    places.iter().flat_map(|place| (0..tokens(place)).map(|at| (place.0.clone(), place.1, at))).collect()
}

/// Holds every span of a batch to its record's tokens, and the rest to padding.
fn check_tokens(records: &BTreeMap<(Shard, Seq), Vec<i32>>, batch: &Batch) {
    let (tokens, targets, mask) = (batch.tokens(), batch.targets(), batch.mask());
    let mut held = vec![false; tokens.len()];
    for row in 0..batch.rows() {
        for span in batch.spans(row).unwrap().into_iter().filter(|span| !span.erased) {
            let record = &records[&(span.shard.clone(), span.seq)];
            let (first, count) = (usize::try_from(span.first_token).unwrap(), span.tokens as usize);
            let start = row * batch.length() + span.start as usize;
            assert_eq!(tokens[start..start + count], record[first..first + count]);
            assert_eq!(targets[start..start + count], record[first + 1..first + 1 + count]);
            held[start..start + count].fill(true);
        }
    }
    assert_eq!(mask, held);
    for place in (0..held.len()).filter(|place| !held[*place]) {
        assert_eq!((tokens[place], targets[place]), (0, 0));
    }
}

#[test]
fn batch_of_subwords_has_the_same_digest_in_every_build() {
    let mut world = World::new(&corpus(), 24);
    world.fill_buffer(|record| record.seq.0 % 2 == 0);
    let plan = subword(4, 64, 0.5);
    let batch = world.batch(&world.first(&plan), &plan).unwrap();
    assert_eq!(format!("{:032x}", batch.digest()), "fd95c89c43d1e4be9d493f2e4a266865");
    assert_eq!(plan.digest(), "b3d6783d31f10e87924fc03dc43f1a42");
}

#[test]
fn ticket_of_another_tokenizer_is_refused_by_name() {
    let world = World::new(&corpus(), 24);
    let (bytes, ours) = (plan(4, 64, 0.5), subword(4, 64, 0.5));
    let error = world.batch(&world.first(&bytes), &ours).unwrap_err();
    assert!(matches!(error, ReplayError::OtherConfig { .. }));
    assert!(schemas::program::error::Fault::hint(&error).unwrap().contains("tokenizer"));
}

#[test]
fn first_outline_asks_for_about_what_the_batch_needs() {
    let records: Vec<(&str, u64, String)> =
        (0..400).map(|n| ("a", n, format!("{n} {}", "x".repeat(98)))).collect();
    let mut world = World::new(&records, 24);
    world.fill_buffer(|_| true);
    let plan = subword(2, 64, 0.5);
    let Outlined::Unread(places) =
        outline(&world.first(&plan), &plan, world.view(), &Contents::new()).unwrap()
    else {
        panic!("no text was needed")
    };
    // 8 bytes of new text for each of 64 tokens, and 4 of each row's draws, in records of about 100.
    assert!((6..=6 + 5).contains(&places.len()), "{}", places.len());
    assert!((0..6).all(|seq| places.contains(&(shard("a"), Seq(seq)))));
}

proptest! {
    // Tokens are made anew for every batch: fewer cases, in more batches each.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn new_text_comes_once_in_order_to_the_token(
        world in worlds(), rows in 1_u32..5, length in 1_usize..40, share in 0..3,
    ) {
        let mut world = world;
        world.fill_buffer(|record| record.seq.0 % 2 == 0);
        let plan = subword(rows, length, [0.0, 0.3, 0.7][usize::try_from(share).unwrap()]);
        let (batches, records) = (world.all(&plan), records(&world));
        prop_assert_eq!(places(&batches, false), stream(&world));
        for batch in &batches {
            check_tokens(&records, batch);
        }
    }

    #[test]
    fn permuted_text_comes_once_whatever_the_size_of_a_batch(world in worlds(), rows in 1_u32..5, length in 1_usize..40) {
        let permuted = |rows, length| Plan { order: Order::Permuted, ..subword(rows, length, 0.0) };
        let ours = places(&world.all(&permuted(rows, length)), false);
        prop_assert_eq!(&places(&world.all(&permuted(1, 7)), false), &ours);
        let mut sorted = ours;
        sorted.sort_by_key(|(shard, seq, token)| (*seq, shard.clone(), *token));
        prop_assert_eq!(sorted, stream(&world));
    }

    #[test]
    fn outline_is_the_same_whatever_was_read_before(
        world in worlds(), rows in 1_u32..5, length in 1_usize..40,
        before in proptest::collection::vec(any::<bool>(), 30), permuted in any::<bool>(),
    ) {
        let mut world = world;
        world.fill_buffer(|record| record.seq.0 % 2 == 0);
        let order = if permuted { Order::Permuted } else { Order::Stream };
        let plan = Plan { order, ..subword(rows, length, 0.4) };
        let read = |place: &(Shard, Seq)| world.tokens(&plan, &place.0, place.1).unwrap();
        let mut ticket = world.first(&plan);
        for _ in 0..4 {
            let (lazy, _) = world.laid_out(&ticket, &plan).unwrap();
            let some = world.texts.keys().zip(&before).filter(|(_, before)| **before);
            let mut contents: Contents = some.map(|(place, _)| (place.clone(), read(place))).collect();
            let outlined = loop {
                match outline(&ticket, &plan, world.view(), &contents).unwrap() {
                    Outlined::Whole(outline) => break outline,
                    Outlined::Unread(places) => {
                        prop_assert!(!places.is_empty());
                        // One at a time, the last first: neither order nor number matters.
                        let place = places.last().unwrap();
                        prop_assert!(contents.insert(place.clone(), read(place)).is_none());
                    }
                }
            };
            prop_assert_eq!(&outlined, &lazy);
            ticket = following(&ticket, &plan, lazy.after);
        }
    }

    #[test]
    fn draws_depend_on_the_row_alone_and_begin_at_passages(world in worlds(), length in 1_usize..60, from in 0_u64..50) {
        let mut world = world;
        world.fill_buffer(|record| record.seq.0 % 2 == 0);
        let all = subword(8, length, 1.0);
        let row = |rows: u32, at: u64| {
            let plan = Plan { rows, ..all.clone() };
            let ticket = Ticket { row: at, ..world.first(&plan) };
            let (outline, _) = world.laid_out(&ticket, &plan).unwrap();
            outline.rows.into_iter().find(|planned| planned.row == from + 5 && planned.buffer.is_some())
        };
        let drawn = row(8, from);
        prop_assert_eq!(&drawn, &row(1, from + 5));
        let mut room = length as u64;
        for (index, piece) in drawn.iter().flat_map(|row| &row.pieces).enumerate() {
            prop_assert!(index == 0 || room >= draw::LEAST);
            let record = world.index.get(&piece.shard, piece.seq).unwrap();
            let tokens = world.tokens(&all, &piece.shard, piece.seq).unwrap().unwrap();
            let Tokens::Subword(encoding) = &tokens else { panic!("bytes") };
            let known = Known::Subword(encoding);
            prop_assert!((0..=record.bytes).any(|place| known.passage_start(&record.passages, place) == piece.first));
            prop_assert_eq!(piece.tokens, (tokens.count() - piece.first).min(room));
            prop_assert!(piece.tokens > 0);
            room -= piece.tokens;
        }
    }

    #[test]
    fn what_a_removal_leaves_stands_where_it_stood_and_the_rest_still_comes_once(
        world in worlds(), rows in 1_u32..5, length in 8_usize..40, gone in 0_usize..30, permuted in any::<bool>(),
    ) {
        let mut world = world;
        world.fill_buffer(|record| record.seq.0 % 2 == 0);
        let order = if permuted { Order::Permuted } else { Order::Stream };
        let plan = Plan { order, ..subword(rows, length, 0.4) };
        let records = records(&world);
        let Some(gone) = world.texts.keys().nth(gone % world.texts.len().max(1)).cloned() else { return Ok(()) };
        let tickets: Vec<(Ticket, Batch)> = {
            let mut ticket = world.first(&plan);
            let next = |batch: Batch| {
                let (outline, _) = world.laid_out(&ticket, &plan).unwrap();
                let following = following(&ticket, &plan, outline.after);
                (std::mem::replace(&mut ticket, following), batch)
            };
            world.all(&plan).into_iter().map(next).collect()
        };
        let whole = stream(&world);
        world.texts.remove(&gone);
        for (ticket, before) in &tickets {
            let after = world.batch(ticket, &plan).unwrap();
            check_tokens(&records, &after);
            prop_assert!(after.rows() >= before.rows());
            let kept = after.mask();
            for place in (0..kept.len()).filter(|place| kept[*place]) {
                // A row that had no text at all is padding now, if nobody can say that it had none.
                let number = after.row_number(place / length);
                let row = (0..before.rows()).find(|row| before.row_number(*row) == number).unwrap();
                let there = row * length + place % length;
                prop_assert_eq!(
                    (after.tokens()[place], after.targets()[place], true),
                    (before.tokens()[there], before.targets()[there], before.mask()[there])
                );
            }
            let holds = (0..before.rows()).any(|row| {
                before.spans(row).unwrap().iter().any(|span| (&span.shard, span.seq) == (&gone.0, gone.1))
            });
            prop_assert_eq!(holds, after != *before);
        }
        // A job that goes on from such a batch reads all other text, once.
        let mut read: Vec<(Shard, Seq, u64)> = Vec::new();
        for batch in world.all(&plan) {
            for row in (0..batch.rows()).filter(|row| batch.buffer(*row).is_none()) {
                let spans = batch.spans(row).unwrap().into_iter().filter(|span| !span.erased);
                read.extend(spans.flat_map(|span| {
                    (0..u64::from(span.tokens)).map(move |at| (span.shard.clone(), span.seq, span.first_token + at))
                }));
            }
        }
        if permuted {
            read.sort_by_key(|(shard, seq, token)| (*seq, shard.clone(), *token));
        }
        let others: Vec<_> = whole.into_iter().filter(|(shard, seq, _)| (shard, seq) != (&gone.0, &gone.1)).collect();
        prop_assert_eq!(read, others);
    }
}
