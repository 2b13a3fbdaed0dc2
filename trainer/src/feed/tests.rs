use perennial_schemas::wire::{BatchRow, Span};
use proptest::prelude::*;

use super::*;
use crate::testing::{TEXT, delivery, row, rows_of, tiny};

fn batch(length: usize, rows: &[BatchRow]) -> Batch {
    Batch::from_rows(length, rows).unwrap()
}

#[test]
fn sheet_lays_documents_of_equal_length_side_by_side_and_drops_padding() {
    let rows = [row(0, 12, &[4, 2], 0, b"abcdef", false), row(1, 12, &[2, 4], 3, b"ABCDEFGHIJKL", true)];
    let packed = PackedBatch::of_batch(&batch(12, &rows), &tiny(), 0.5).unwrap();
    let text: String = packed.tokens.iter().map(|token| u8::try_from(*token).unwrap() as char).collect();
    assert_eq!(text, "efDEabcdFGHI");
    assert_eq!(packed.targets[..4], [102, 256, 69, 256]);
    assert_eq!(packed.weights, [1.0, 1.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]);
    assert_eq!(packed.documents, Documents::of_lengths([2, 2, 4, 4]));
    assert_eq!(packed.rows, 2);
    let segments: Vec<(usize, bool, usize)> =
        packed.segments.iter().map(|segment| (segment.row, segment.replayed, segment.counted)).collect();
    assert_eq!(segments, [(0, false, 2), (1, true, 2), (0, false, 4), (1, true, 4)]);
}

#[test]
fn erased_text_is_padding() {
    let mut rows = [row(0, 12, &[4, 2], 0, TEXT, false)];
    rows[0].spans[0].erased = true;
    rows[0].mask[..4].fill(false);
    let packed = PackedBatch::of_batch(&batch(12, &rows), &tiny(), 1.0).unwrap();
    assert_eq!((packed.tokens.len(), packed.segments.len()), (2, 1));
    rows[0].mask[1] = true;
    let error = PackedBatch::of_batch(&batch(12, &rows), &tiny(), 1.0).unwrap_err();
    assert!(matches!(error, FeedError::Mask { row: 0, .. }), "{error}");
}

#[test]
fn batches_that_do_not_fit_the_model_are_refused() {
    let long = batch(33, &[row(0, 33, &[33], 0, TEXT, false)]);
    assert!(matches!(
        PackedBatch::of_batch(&long, &tiny(), 1.0),
        Err(FeedError::Length { length: 33, context: 32 })
    ));

    let mut rows = [row(0, 12, &[12], 0, TEXT, false), row(1, 12, &[12], 0, TEXT, false)];
    rows[1].targets[3] = 258;
    let error = PackedBatch::of_batch(&batch(12, &rows), &tiny(), 1.0).unwrap_err();
    assert!(matches!(error, FeedError::Token { row: 1, place: 3, token: 258, last: 257 }), "{error}");

    for place in [0, 8, 11] {
        let mut rows = [row(0, 12, &[3, 4], 1, TEXT, false)];
        rows[0].mask[place] = true;
        let error = PackedBatch::of_batch(&batch(12, &rows), &tiny(), 1.0).unwrap_err();
        assert!(matches!(error, FeedError::Mask { row: 0, place: at } if at == place), "{error}");
    }
}

#[test]
fn a_batch_without_text_weighs_nothing() {
    let packed = PackedBatch::of_batch(&batch(8, &[row(0, 8, &[], 0, TEXT, false)]), &tiny(), 1.0).unwrap();
    assert!(packed.weight() <= 0.0 && packed.tokens.is_empty());
}

#[test]
fn documents_keep_their_numbers_when_sorted_by_length() {
    let document = |tokens: &[i64]| (tokens.to_vec(), tokens.to_vec());
    let packed = PackedBatch::of_documents(&[
        document(&[1, 2, 3]),
        document(&[]),
        document(&[4]),
        document(&[5, 6, 7]),
    ]);
    assert_eq!(packed.tokens, [4, 1, 2, 3, 5, 6, 7]);
    assert_eq!(packed.segments.iter().map(|segment| segment.row).collect::<Vec<_>>(), [2, 0, 3]);
}

proptest! {
    #[test]
    fn every_token_of_text_is_in_the_sheet_once(cuts in prop::collection::vec((prop::collection::vec(1_usize..6, 0..5), 0_usize..3), 1..5)) {
        let rows: Vec<BatchRow> = cuts.iter().enumerate()
            .map(|(number, (lengths, gap))| row(number as u64, 28, lengths, *gap, TEXT, number % 2 == 1))
            .collect();
        let packed = PackedBatch::of_batch(&batch(28, &rows), &tiny(), 1.0).unwrap();
        let wanted: usize = cuts.iter().flat_map(|(lengths, _)| lengths).sum();
        prop_assert_eq!(packed.tokens.len(), wanted);
        prop_assert_eq!(packed.documents.tokens(), wanted as i64);
        let mut end = 0;
        let mut found: Vec<Vec<Vec<i64>>> = vec![Vec::new(); rows.len()];
        for segment in &packed.segments {
            prop_assert_eq!(segment.start, end);
            end += segment.tokens;
            found[segment.row].push(packed.tokens[segment.start..end].to_vec());
        }
        prop_assert_eq!(end, wanted);
        for (row, found) in rows.iter().zip(found) {
            let span = |span: &Span| {
                let tokens = &row.tokens[span.start as usize..][..span.tokens as usize];
                tokens.iter().map(|token| i64::from(*token)).collect::<Vec<_>>()
            };
            let mut wanted: Vec<Vec<i64>> = row.spans.iter().map(span).collect();
            wanted.sort_by_key(Vec::len);
            prop_assert_eq!(found, wanted);
        }
    }
}

#[test]
fn a_sheet_is_not_split_where_all_its_rows_fit() {
    let packed = rows_of(&[vec![3, 4], vec![2], vec![]], 0b10, 0.5);
    for rows in [0, 3, 4, u64::MAX] {
        assert!(matches!(packed.split(rows)[..], [Cow::Borrowed(same)] if *same == packed));
    }
    // Two rows have text, in one of them it counts.
    assert_eq!(packed.split(1).len(), 1);
}

proptest! {
    #[test]
    fn parts_of_a_sheet_hold_each_row_that_counts_once_and_in_order(
        cuts in prop::collection::vec(prop::collection::vec(1_usize..6, 0..5), 1..8),
        masked in 0_u32..256,
        rows in 1_u64..9,
    ) {
        let packed = rows_of(&cuts, masked, 0.5);
        let counting: Vec<usize> =
            (0..cuts.len()).filter(|row| (masked >> row) & 1 == 0 && !cuts[*row].is_empty()).collect();
        let parts = packed.split(rows);
        let whole = rows >= cuts.len() as u64;
        let mut seen = Vec::new();
        for part in &parts {
            prop_assert!(part.rows <= rows || whole);
            prop_assert_eq!(part.documents.tokens(), part.tokens.len() as i64);
            let mut of_part: Vec<usize> = part.segments.iter().map(|segment| segment.row).collect();
            of_part.sort_unstable();
            of_part.dedup();
            seen.extend(of_part);
        }
        if !whole {
            prop_assert_eq!(&seen, &counting);
            prop_assert_eq!(parts.len(), counting.len().div_ceil(rows as usize));
        }
        prop_assert!((parts.iter().map(|part| part.weight()).sum::<f64>() - packed.weight()).abs() < 1e-9);
        // What the parts hold of a row is what the packed batch holds of it.
        let content = |packed: &PackedBatch, row: usize| -> Vec<_> {
            let segments = packed.segments.iter().filter(|segment| segment.row == row);
            let cut = |segment: &Segment| {
                let at = segment.start..segment.start + segment.tokens;
                let numbers = (packed.tokens[at.clone()].to_vec(), packed.targets[at.clone()].to_vec());
                (numbers, packed.counts[at.clone()].to_vec(), packed.weights[at].to_vec(), segment.counted)
            };
            segments.map(cut).collect()
        };
        for row in counting {
            let found: Vec<_> = parts.iter().flat_map(|part| content(part, row)).collect();
            prop_assert_eq!(found, content(&packed, row));
        }
    }
}

fn counting(until: u64) -> Feed {
    let mut step = 0;
    Box::new(move || {
        step += 1;
        Ok((step <= until).then(|| delivery(step - 1, &tiny())))
    })
}

#[test]
fn prefetched_deliveries_are_those_made_on_demand() {
    let steps = |mut feed: Feed| {
        let mut steps = Vec::new();
        while let Some(delivery) = feed().ok().flatten() {
            steps.push((delivery.ticket, delivery.packed));
        }
        assert!(feed().is_ok_and(|more| more.is_none()), "an ended stream stays ended");
        steps
    };
    let direct = steps(counting(7));
    assert_eq!(direct.len(), 7);
    assert_eq!(direct, steps(prefetch(counting(7), 2).unwrap()));
}

#[test]
fn a_feed_that_is_dropped_lets_its_thread_go() {
    let (sender, ended) = sync_channel::<()>(1);
    let mut endless = counting(u64::MAX);
    let source: Feed = Box::new(move || {
        let _held = &sender;
        endless()
    });
    drop(prefetch(source, 1).unwrap());
    // The source is dropped with its thread: then the channel closes.
    assert!(ended.recv().is_err());
}

#[test]
fn what_the_source_fails_with_reaches_the_loop() {
    let mut feed = prefetch(Box::new(|| Err(FeedError::Gone.into())), 2).unwrap();
    assert!(feed().is_err());
    assert!(feed().is_ok_and(|more| more.is_none()));
}
