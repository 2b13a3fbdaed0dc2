//! The same rules under a tokenizer whose counts only the texts tell.

use super::*;
use crate::tokenise::tests::tiny;

fn subword(rows: u32, length: usize, share: f64) -> Plan {
    Plan { tokenizer: tiny(), ..plan(rows, length, share) }
}

#[test]
fn batch_of_subwords_has_the_same_digest_in_every_build() {
    let mut world = World::new(&corpus(), 24);
    let plan = subword(4, 64, 0.5);
    world.fill_buffer(&plan, |record| record.seq.0 % 2 == 0);
    let batch = world.batch(&world.first(&plan), &plan).unwrap();
    assert_eq!(format!("{:032x}", batch.digest()), "377c087698c534ec75eb15d08765f048");
    assert_eq!(plan.digest(), "bfe1519bf96d0cb9b6e694f3bec3ceaa");
}

#[test]
fn ticket_of_another_tokenizer_is_refused_by_name() {
    let world = World::new(&corpus(), 24);
    let (bytes, ours) = (plan(4, 64, 0.5), subword(4, 64, 0.5));
    let error = world.batch(&world.first(&bytes), &ours).unwrap_err();
    assert!(matches!(error, ReplayError::OtherConfig { .. }));
    assert!(perennial_program::error::ProgramError::hint(&error).unwrap().contains("tokenizer"));
}

#[test]
fn first_outline_asks_for_about_what_the_batch_needs() {
    let records: Vec<(&str, u64, String)> =
        (0..400).map(|n| ("a", n, format!("{n} {}", "x".repeat(98)))).collect();
    let mut world = World::new(&records, 24);
    let plan = subword(2, 64, 0.5);
    world.fill_buffer(&plan, |_| true);
    let LayoutOutcome::Unread(offsets) =
        layout(&world.first(&plan), &plan, world.view(), &Contents::new()).unwrap()
    else {
        panic!("no text was needed")
    };
    // 8 bytes of new text for each of 64 tokens, and 4 of each row's draws, in records of about 100.
    assert!((6..=6 + 5).contains(&offsets.len()), "{}", offsets.len());
    assert!((0..6).all(|seq| offsets.contains(&world.offset(&shard("a"), Seq(seq)))));
}

proptest! {
    // Tokens are made anew for every batch: fewer cases, in more batches each.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn new_text_comes_once_in_order_to_the_token(
        world in worlds(), rows in 1_u32..5, length in 1_usize..40, share in 0..3,
    ) {
        let share = [0.0, 0.3, 0.7][usize::try_from(share).unwrap()];
        new_text_comes_once_in_order(world, &subword(rows, length, share))?;
    }

    #[test]
    fn permuted_text_comes_once_whatever_the_size_of_a_batch(world in worlds(), rows in 1_u32..5, length in 1_usize..40) {
        permuted_text_comes_once(&world, subword(rows, length, 0.0))?;
    }

    #[test]
    fn job_goes_on_at_a_version_without_a_record_it_may_stand_at(
        world in worlds(), length in 8_usize..40, gone in 0_usize..30, permuted in any::<bool>(),
    ) {
        let Some(gone) = world.texts.keys().nth(gone % world.texts.len().max(1)).copied() else { return Ok(()) };
        let order = if permuted { Order::Permuted } else { Order::Stream };
        job_goes_on_though_a_record_was_removed(&world, &Plan { order, ..subword(2, length, 0.0) }, gone)?;
    }

    #[test]
    fn outline_is_the_same_whatever_was_read_before(
        world in worlds(), rows in 1_u32..5, length in 1_usize..40,
        before in proptest::collection::vec(any::<bool>(), 30), permuted in any::<bool>(),
    ) {
        let mut world = world;
        let order = if permuted { Order::Permuted } else { Order::Stream };
        let plan = Plan { order, ..subword(rows, length, 0.4) };
        world.fill_buffer(&plan, |record| record.seq.0 % 2 == 0);
        let read = |offset: Offset| world.tokens(&plan, offset);
        let mut ticket = world.first(&plan);
        for _ in 0..4 {
            let (lazy, _) = world.laid_out(&ticket, &plan).unwrap();
            let some = world.texts.keys().zip(&before).filter(|(_, before)| **before);
            let mut contents: Contents = some.map(|(offset, _)| (*offset, read(*offset))).collect();
            let outlined = loop {
                match layout(&ticket, &plan, world.view(), &contents).unwrap() {
                    LayoutOutcome::Whole(layout) => break layout,
                    LayoutOutcome::Unread(offsets) => {
                        // One at a time, the last first: neither order nor number matters.
                        let offset = *offsets.last().unwrap();
                        prop_assert!(contents.insert(offset, read(offset)).is_none());
                    }
                }
            };
            prop_assert_eq!(&outlined, &lazy);
            ticket = following(&ticket, lazy.after);
        }
    }

    #[test]
    fn draws_are_one_sequence_of_whole_chunks_whatever_the_batches(world in worlds(), length in 1_usize..60, chunk in 1_u64..60) {
        draws_are_one_sequence(world, &subword(8, length, 1.0), chunk)?;
    }

    #[test]
    fn what_a_removal_leaves_stands_where_it_stood_and_the_rest_still_comes_once(
        world in worlds(), rows in 1_u32..5, length in 8_usize..40, gone in 0_usize..30, permuted in any::<bool>(),
    ) {
        let mut world = world;
        let order = if permuted { Order::Permuted } else { Order::Stream };
        let plan = Plan { order, ..subword(rows, length, 0.4) };
        world.fill_buffer(&plan, |record| record.seq.0 % 2 == 0);
        let (records, whole) = (world.records(&plan), world.stream(&plan));
        let Some(gone) = world.texts.keys().nth(gone % world.texts.len().max(1)).copied() else { return Ok(()) };
        let tickets = world.walk(world.first(&plan), &plan);
        world.texts.remove(&gone);
        for (ticket, before) in &tickets {
            let after = world.batch(ticket, &plan).unwrap();
            check_tokens(&records, plan.tokenizer.pad(), &after);
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
                before.spans(row).unwrap().iter().any(|span| world.offset(&span.shard, span.seq) == gone)
            });
            prop_assert_eq!(holds, after != *before);
        }
        // A job that goes on from such a batch reads all other text, once.
        let read = new_text(&world.all(&plan));
        let read = if permuted { sorted(read) } else { read };
        let others: Vec<_> = whole.into_iter().filter(|(shard, seq, _)| world.offset(shard, *seq) != gone).collect();
        prop_assert_eq!(read, others);
    }
}
