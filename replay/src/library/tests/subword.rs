//! The same library under a tokenizer whose counts only the texts tell.

use super::*;
use crate::tokenise::tests::{gpt_2, parse, pieces};

fn subword(share: f64) -> Plan {
    Plan { tokenizer: tiny(), length: 48, ..plan(share) }
}

async fn open(world: &World, plan: &Plan, cache: u64) -> Library {
    Library::open(world.store.clone(), plan.clone(), Bytes::new(cache), Access::Follow).await.unwrap()
}

#[tokio::test]
async fn tickets_give_the_same_bytes_whatever_is_cached_and_in_any_order() {
    let mut world = World::new().await;
    for plan in
        [subword(0.4), Plan { order: Order::Permuted, visible_until: VisibleUntil::Store, ..subword(0.4) }]
    {
        world.write("a", 30).await;
        let mut library = open(&world, &plan, 1 << 20).await;
        let mut request = Request::first("demo");
        let mut served = serve(&mut library, &mut request).await;
        if plan.order == Order::Stream {
            for (name, count) in [("b", 30), ("a", 21)] {
                world.write(name, count).await;
                library.follow().await.unwrap();
                served.extend(serve(&mut library, &mut request).await);
            }
        }
        assert!(served.len() > 10, "{}", served.len());
        // Warm, then cold and backwards, then with room for nothing or for one record, by strides.
        for (ticket, digest) in &served {
            assert_eq!(library.batch(ticket).await.unwrap().digest(), *digest, "step {}", ticket.step);
        }
        for (cache, stride) in [(1 << 20, served.len() - 1), (0, 1), (500, 7)] {
            let mut other = open(&world, &plan, cache).await;
            for turn in 0..served.len() {
                let (ticket, digest) = &served[turn * stride % served.len()];
                assert_eq!(other.batch(ticket).await.unwrap().digest(), *digest, "step {}", ticket.step);
            }
        }
    }
}

#[tokio::test]
async fn ticket_that_is_evaluated_and_followed_is_laid_out_once_until_the_store_is_rewritten() {
    let mut world = World::new().await;
    for plan in [plan(0.4), subword(0.4)] {
        world.write("a", 40).await;
        let mut library = open(&world, &plan, 0).await;
        let Issued::Ticket(ticket) = library.ticket(&Request::first("demo")).await.unwrap() else {
            panic!("no ticket")
        };
        let first = Arc::clone(&library.laid.as_ref().unwrap().layout);
        let digest = library.batch(&ticket).await.unwrap().digest();
        let after = library.after(&ticket).await.unwrap();
        assert!(Arc::ptr_eq(&first, &library.laid.as_ref().unwrap().layout));
        assert_eq!(library.after(&ticket).await.unwrap(), after);
        library.laid = None;
        assert_eq!(library.batch(&ticket).await.unwrap().digest(), digest);
        assert_eq!(library.after(&ticket).await.unwrap(), after);
    }
    let mut library = open(&world, &plan(0.4), 0).await;
    library.ticket(&Request::first("demo")).await.unwrap();
    world.erase(1).await;
    library.follow().await.unwrap();
    assert!(library.laid.is_none(), "a removed text is held");
}

#[tokio::test]
async fn what_a_removal_leaves_of_old_tickets_stands_where_it_stood() {
    let mut world = World::new().await;
    let plan = subword(0.4);
    let mut library = open(&world, &plan, 1 << 20).await;
    let mut request = Request::first("demo");
    let mut served = Vec::new();
    for _ in 0..3 {
        world.write("a", 20).await;
        library.follow().await.unwrap();
        for (ticket, _) in serve(&mut library, &mut request).await {
            let batch = library.batch(&ticket).await.unwrap();
            served.push((ticket, batch));
        }
    }
    world.erase(2).await;
    library.follow().await.unwrap();
    let mut rebuilt = open(&world, &plan, 0).await;
    let gone = |span: &perennial_schemas::wire::Span| (20..40).contains(&span.seq.0);
    let (mut erased, mut kept) = (0, 0);
    for (ticket, before) in served.iter().rev() {
        let after = library.batch(ticket).await.unwrap();
        assert_eq!(rebuilt.batch(ticket).await.unwrap(), after, "step {}", ticket.step);
        assert_eq!(rebuilt.after(ticket).await.unwrap(), library.after(ticket).await.unwrap());
        let spans =
            |batch: &Batch| (0..batch.rows()).flat_map(|row| batch.spans(row).unwrap()).collect::<Vec<_>>();
        assert!(spans(&after).iter().all(|span| span.erased == gone(span)));
        if spans(before).iter().any(gone) {
            erased += 1;
        } else {
            assert_eq!(&after, before, "step {}", ticket.step);
            kept += 1;
        }
    }
    assert!(erased > 3 && kept > 3, "{erased} and {kept}");
}

#[tokio::test]
async fn text_that_cannot_be_tokenised_fails_the_batches_that_hold_it_and_no_other() {
    let tokenizer = Tokenizer::Subword(Arc::new(parse(&pieces(false), None).unwrap()));
    // Of single letters: a token a byte.
    let letters = |seq: usize| (0..31).map(move |n| if (seq >> (n % 6)) & 1 == 1 { 'a' } else { 'b' });
    let mut texts: Vec<String> = (0..40).map(|seq| letters(seq).collect()).collect();
    texts[20].push('漢');
    let mut world = World::new().await;
    world.write_texts("a", &texts).await;
    for (share, cache) in [(0.0, 1 << 20), (0.4, 1 << 20), (0.4, 0)] {
        let plan = Plan { tokenizer: tokenizer.clone(), length: 48, ..plan(share) };
        let mut library = open(&world, &plan, cache).await;
        let mut request = Request::first("demo");
        let mut served = Vec::new();
        let error = loop {
            let ticket = match library.ticket(&request).await {
                Ok(Issued::Ticket(ticket)) => ticket,
                Ok(Issued::NotYet { .. }) => panic!("the record was passed over"),
                Err(error) => break error,
            };
            let batch = library.batch(&ticket).await.unwrap();
            let held = (0..batch.rows()).flat_map(|row| batch.spans(row).unwrap());
            assert!(held.into_iter().all(|span| span.seq != Seq(20) && !span.erased));
            served.push((ticket.clone(), batch.digest()));
            request = library.after(&ticket).await.unwrap();
        };
        assert!(matches!(&error, ReplayError::Text { seq: Seq(20), .. }), "{error}");
        // All that lies before it in the stream, to the batch.
        let new_text = request.from.as_ref().unwrap().new_text.offset;
        assert!(served.len() > 2 && new_text > Offset(13), "{} batches, {new_text}", served.len());
        for (ticket, digest) in served.iter().rev() {
            assert_eq!(library.batch(ticket).await.unwrap().digest(), *digest, "step {}", ticket.step);
            let known = library.laid.as_ref().unwrap().contents.values();
            assert!(known.into_iter().all(Option::is_some), "a text that is there is held to be removed");
        }
    }
}

#[tokio::test]
async fn batch_of_real_text_is_what_gpt_2_makes_of_it() {
    #[expect(clippy::disallowed_methods, reason = "a test finds its data by the environment")]
    let Some(folder) = std::env::var_os("PERENNIAL_DATA") else {
        eprintln!("not run: PERENNIAL_DATA is not set");
        return;
    };
    let folder = std::path::Path::new(&folder);
    let lines = std::fs::read(folder.join("stream-small.jsonl.zst")).unwrap();
    let lines = String::from_utf8(zstd::decode_all(&lines[..]).unwrap()).unwrap();
    let value = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let texts: Vec<String> =
        lines.lines().take(40).map(|line| value(line)["text"].as_str().unwrap().to_owned()).collect();
    let mut world = World::new().await;
    world.write_texts("a", &texts).await;
    let plan = Plan { tokenizer: gpt_2(folder), length: 512, drain: false, ..plan(0.0) };
    let mut library = open(&world, &plan, 1 << 20).await;
    let Issued::Ticket(ticket) = library.ticket(&Request::first("demo")).await.unwrap() else {
        panic!("no ticket")
    };
    let batch = library.batch(&ticket).await.unwrap();
    let mut expected = Vec::new();
    for text in &texts {
        let tokens = plan.tokenizer.encode(text.as_str().into(), &[]).unwrap();
        tokens.append(0, usize::MAX, &mut expected, &mut Vec::new());
    }
    assert_eq!(batch.tokens(), &expected[..3 * 512]);
    assert_eq!((batch.tokens()[0], batch.mask().iter().all(|counts| *counts)), (50_256, true));
}
