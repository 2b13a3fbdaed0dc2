use super::*;

use proptest::prelude::*;
use schemas::id::{Change, RecordId, Step, Version};
use schemas::program::config::{Share, Table};
use schemas::wire::{Place, Span, WIRE_FORMAT};
use xxhash_rust::xxh3::xxh3_128;

use crate::buffer::{Member, Spec};
use crate::draw;
use crate::index::Record;
use crate::mix::Mix;
use crate::plan::{Horizon, Order};
use crate::tokenise::Tokenizer;

mod subword;

/// A store in memory: kept records with their texts, and one buffer.
#[derive(Debug)]
struct World {
    index: Index,
    limits: Limits,
    texts: BTreeMap<(Shard, Seq), Arc<str>>,
    members: BTreeMap<String, Arc<Members>>,
}

fn shard(name: &str) -> Shard {
    name.parse().unwrap()
}

impl World {
    /// Records (shard, seq, text) with passages of `passage` bytes.
    fn new(records: &[(&str, u64, String)], passage: usize) -> Self {
        let mut index = Index::new();
        let mut texts = BTreeMap::new();
        for (name, seq, text) in records {
            let bytes = u32::try_from(text.len()).unwrap();
            let passages = (1..).map(|n| n * u32::try_from(passage).unwrap()).take_while(|end| *end < bytes);
            let record = Record {
                seq: Seq(*seq),
                id: RecordId::from_hash(xxh3_128(text.as_bytes())),
                bytes: bytes.into(),
                passages: passages.chain([bytes]).collect(),
                source: "files".into(),
                event_time: None,
            };
            index.push(&shard(name), record).unwrap();
            texts.insert((shard(name), Seq(*seq)), Arc::from(text.as_str()));
        }
        let limits = index.limits();
        Self { index, limits, texts, members: [("main".to_owned(), Arc::new(Members::none()))].into() }
    }

    /// Puts these records into the buffer `main`, at change 1.
    fn fill_buffer(&mut self, keep: impl Fn(&Record) -> bool) {
        let member = |shard: &Shard, record: &Record| Member {
            shard: shard.clone(),
            seq: record.seq,
            id: record.id,
            bytes: record.bytes,
            weight: None,
        };
        let list = self.index.shards().flat_map(|shard| {
            let records = self.index.visible(shard, Seq(0), &self.limits).iter();
            records.filter(|record| keep(record)).map(move |record| member(shard, record))
        });
        let members = Members::new(Change(1), list.collect());
        self.members.insert("main".into(), Arc::new(members));
    }

    fn view(&self) -> View<'_> {
        View { index: &self.index, limits: &self.limits, members: &self.members, permutation: None }
    }

    /// The tokens of the record at a place.
    fn tokens(&self, plan: &Plan, shard: &Shard, seq: Seq) -> Result<Option<Tokens>> {
        let Some(text) = self.texts.get(&(shard.clone(), seq)) else { return Ok(None) };
        let passages = &self.index.get(shard, seq).unwrap().passages;
        Ok(Some(plan.tokenizer.encode(Arc::clone(text), passages).unwrap()))
    }

    fn laid_out(&self, ticket: &Ticket, plan: &Plan) -> Result<(Outline, Contents)> {
        laid_out(ticket, plan, self.view(), |shard, seq| self.tokens(plan, shard, seq))
    }

    fn batch(&self, ticket: &Ticket, plan: &Plan) -> Result<Batch> {
        batch(ticket, plan, self.view(), |shard, seq| self.tokens(plan, shard, seq))
    }

    fn first(&self, plan: &Plan) -> Ticket {
        Ticket {
            format: WIRE_FORMAT,
            job: "demo".into(),
            step: Step(0),
            records: Version(1),
            buffers: plan.mix.buffers().map(|name| (name.to_owned(), self.members[name].change())).collect(),
            config: plan.digest(),
            seed: plan.job_seed("demo"),
            row: 0,
            fresh: Cursor::new(),
        }
    }

    /// Every batch until the new text ends.
    fn all(&self, plan: &Plan) -> Vec<Batch> {
        let mut ticket = self.first(plan);
        let mut batches = Vec::new();
        loop {
            let (outline, contents) = self.laid_out(&ticket, plan).unwrap();
            if outline.fresh == 0 && outline.missing > 0 {
                return batches;
            }
            batches.push(fill(&outline, plan, &contents).unwrap());
            ticket = following(&ticket, plan, outline.after);
        }
    }
}

fn plan(rows: u32, length: usize, share: f64) -> Plan {
    let spec = Spec::read("main", &mut Table::of("policy", "reservoir")).unwrap();
    Plan {
        seed: schemas::seed::Seed::new(3),
        rows,
        length,
        tokenizer: Tokenizer::Bytes,
        order: Order::Stream,
        keep: Share::ONE,
        mix: Mix::new([("main".to_owned(), Share::new(share).unwrap())]).unwrap(),
        buffers: [("main".to_owned(), spec)].into(),
        block: 4,
        horizon: Horizon::Cursor,
        drain: true,
    }
}

fn corpus() -> Vec<(&'static str, u64, String)> {
    let text =
        |n: u64| format!("Record {n}: {}", "the quick brown fox; ".repeat(usize::try_from(n % 5).unwrap()));
    (0..20).map(|n| (if n % 3 == 0 { "b" } else { "a" }, n, text(n))).collect()
}

/// The tokens of all rows of new text (or of all replayed rows), as (shard, seq, token) places.
fn places(batches: &[Batch], replayed: bool) -> Vec<(Shard, Seq, u64)> {
    let mut places = Vec::new();
    for batch in batches {
        for row in (0..batch.rows()).filter(|row| batch.is_replayed(*row) == replayed) {
            for span in batch.spans(row).unwrap() {
                let tokens = (0..u64::from(span.tokens)).map(|token| span.first_token + token);
                places.extend(tokens.map(|token| (span.shard.clone(), span.seq, token)));
            }
        }
    }
    places
}

/// Every token of a world in stream order.
fn stream(world: &World) -> Vec<(Shard, Seq, u64)> {
    let mut records: Vec<(Seq, Shard, u64)> =
        world.texts.iter().map(|((shard, seq), text)| (*seq, shard.clone(), text.len() as u64)).collect();
    records.sort();
    let tokens =
        |(seq, shard, bytes): (Seq, Shard, u64)| (0..=bytes).map(move |token| (shard.clone(), seq, token));
    records.into_iter().flat_map(tokens).collect()
}

/// What a span's tokens, targets and mask must be, from the text alone.
fn expected(text: &str, span: &Span) -> (Vec<i32>, Vec<i32>) {
    let mut tokens = vec![256];
    tokens.extend(text.bytes().map(i32::from));
    tokens.push(256);
    let first = usize::try_from(span.first_token).unwrap();
    let count = span.tokens as usize;
    (tokens[first..first + count].to_vec(), tokens[first + 1..first + 1 + count].to_vec())
}

fn check_bytes(world: &World, batch: &Batch) {
    let (tokens, targets, mask) = (batch.tokens(), batch.targets(), batch.mask());
    for row in 0..batch.rows() {
        let at = row * batch.length();
        let mut held = vec![false; batch.length()];
        for span in batch.spans(row).unwrap() {
            let text = &world.texts[&(span.shard.clone(), span.seq)];
            let (inputs, nexts) = expected(text, &span);
            let range = at + span.start as usize..at + (span.start + span.tokens) as usize;
            assert_eq!(tokens[range.clone()], inputs);
            assert_eq!(targets[range.clone()], nexts);
            assert!(mask[range].iter().all(|counts| *counts));
            held[span.start as usize..(span.start + span.tokens) as usize].fill(true);
        }
        for (place, _) in held.iter().enumerate().filter(|(_, held)| !**held) {
            assert_eq!((tokens[at + place], targets[at + place], mask[at + place]), (257, 257, false));
        }
    }
}

#[test]
fn batch_has_the_same_digest_in_every_build() {
    // Another digest means other bytes for tickets that were issued: raise the wire's format with it.
    let mut world = World::new(&corpus(), 24);
    world.fill_buffer(|record| record.seq.0 % 2 == 0);
    let plan = plan(4, 64, 0.5);
    let batch = world.batch(&world.first(&plan), &plan).unwrap();
    assert_eq!(format!("{:032x}", batch.digest()), "7ad11ad0159754b7c98167b028dac933");
    assert_eq!(plan.digest(), "017d2d91dbe8e0ecfa24cb1708f411a1");
}

#[test]
fn rows_are_replayed_where_the_mix_says_and_new_where_the_buffer_is_empty() {
    let mut world = World::new(&corpus(), 24);
    let plan = plan(8, 32, 0.25);
    let rows = |world: &World| {
        let batch = world.batch(&world.first(&plan), &plan).unwrap();
        (0..8).filter(|row| batch.buffer(*row) == Some("main")).collect::<Vec<_>>()
    };
    assert_eq!(rows(&world), Vec::<usize>::new());
    world.fill_buffer(|_| true);
    assert_eq!(rows(&world), [3, 7]);
}

#[test]
fn ticket_of_another_config_or_format_is_refused_by_name() {
    let world = World::new(&corpus(), 24);
    let ours = plan(4, 64, 0.5);
    let ticket = world.first(&ours);
    let changes: [fn(&mut Plan); 7] = [
        |plan| plan.rows = 5,
        |plan| plan.length = 65,
        |plan| plan.seed = schemas::seed::Seed::new(4),
        |plan| plan.keep = Share::new(0.5).unwrap(),
        |plan| plan.order = Order::Permuted,
        |plan| plan.block = 5,
        |plan| plan.mix = Mix::new([("main".to_owned(), Share::new(0.25).unwrap())]).unwrap(),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut other = ours.clone();
        change(&mut other);
        let error = world.batch(&ticket, &other).unwrap_err();
        assert!(matches!(error, ReplayError::OtherConfig { .. }), "{index}: {error}");
    }
    let mut issuing = ours.clone();
    (issuing.drain, issuing.horizon) = (false, Horizon::Store);
    assert!(world.batch(&ticket, &issuing).is_ok(), "what chooses tickets is no part of them");
    assert!(world.batch(&Ticket { format: 9, ..ticket.clone() }, &ours).is_err());
    assert!(world.batch(&Ticket { buffers: BTreeMap::new(), ..ticket.clone() }, &ours).is_err());
    let unknown = [("main".to_owned(), Change(7))].into();
    let error = world.batch(&Ticket { buffers: unknown, ..ticket }, &ours).unwrap_err();
    assert!(matches!(error, ReplayError::NoChange { asked: Change(7), .. }));
}

#[test]
fn removed_text_is_padding_of_the_same_shape() {
    let world = World::new(&corpus(), 24);
    let plan = plan(4, 64, 0.0);
    let ticket = world.first(&plan);
    let whole = world.batch(&ticket, &plan).unwrap();
    let gone = whole.spans(1).unwrap()[0].clone();
    let without = |shard: &Shard, seq| {
        let tokens = world.tokens(&plan, shard, seq)?;
        Ok(tokens.filter(|_| (shard, seq) != (&gone.shard, gone.seq)))
    };
    let erased = batch(&ticket, &plan, world.view(), without).unwrap();
    let (mut places, mut count) = (vec![true; 4 * 64], 0);
    for row in 0..4 {
        for (before, after) in whole.spans(row).unwrap().into_iter().zip(erased.spans(row).unwrap()) {
            let is_gone = (&before.shard, before.seq) == (&gone.shard, gone.seq);
            assert_eq!(after, Span { erased: is_gone, ..before.clone() });
            if is_gone {
                let start = row * 64 + before.start as usize;
                places[start..start + before.tokens as usize].fill(false);
                count += before.tokens;
            }
        }
    }
    assert!(count > 0);
    assert_eq!(erased.mask(), places);
    let padded = places.iter().zip(whole.tokens()).map(|(kept, token)| if *kept { *token } else { 257 });
    assert!(padded.eq(erased.tokens().iter().copied()));
}

#[test]
fn text_of_another_length_is_refused() {
    let world = World::new(&corpus(), 24);
    let plan = plan(2, 64, 0.0);
    let short = |shard: &Shard, seq| {
        let text = world.texts.get(&(shard.clone(), seq));
        Ok(text.map(|text| Tokens::Bytes(text[1..].into())))
    };
    let error = batch(&world.first(&plan), &plan, world.view(), short).unwrap_err();
    assert!(matches!(error, ReplayError::Inconsistent { table: "records", .. }));
}

#[test]
fn limits_hide_what_a_later_version_brought() {
    let mut world = World::new(&corpus(), 24);
    let plan = plan(4, 512, 0.0);
    world.limits = [(shard("a"), Seq(5))].into();
    let seen: BTreeSet<(Shard, Seq)> =
        places(&world.all(&plan), false).into_iter().map(|(shard, seq, _)| (shard, seq)).collect();
    assert_eq!(seen, [1, 2, 4].map(|seq| (shard("a"), Seq(seq))).into());
}

#[test]
fn cursor_beyond_all_text_gives_an_empty_batch() {
    let world = World::new(&corpus(), 24);
    let plan = plan(2, 64, 0.0);
    let far = Place { seq: Seq(u64::MAX), token: u64::MAX };
    let fresh = [(shard("a"), far), (shard("b"), far), (shard("c"), far)].into();
    assert_eq!(world.batch(&Ticket { fresh, row: u64::MAX, ..world.first(&plan) }, &plan).unwrap().rows(), 0);
}

#[test]
fn permuted_order_refuses_a_cursor_that_stands_nowhere() {
    let world = World::new(&corpus(), 24);
    let plan = Plan { order: Order::Permuted, ..plan(2, 64, 0.0) };
    for seq in [3, 99, u64::MAX] {
        let fresh = [(shard("a"), Place { seq: Seq(seq), token: 0 })].into();
        let error = world.batch(&Ticket { fresh, ..world.first(&plan) }, &plan).unwrap_err();
        assert!(matches!(error, ReplayError::Ticket { .. }), "{seq}: {error}");
    }
}

/// Texts of two shards whose seqs have gaps.
fn worlds() -> impl Strategy<Value = World> {
    let record = (0_usize..2, 1_u64..4, "[a-zé ]{0,30}");
    (proptest::collection::vec(record, 0..30), 1_usize..20).prop_map(|(records, passage)| {
        let mut next = [0_u64; 2];
        let mut place = |index: usize, gap: u64| {
            next[index] += gap;
            (["a", "b"][index], next[index])
        };
        let records: Vec<(&str, u64, String)> = records
            .into_iter()
            .map(|(index, gap, text)| {
                let (name, seq) = place(index, gap);
                (name, seq, text)
            })
            .collect();
        World::new(&records, passage)
    })
}

proptest! {
    #[test]
    fn new_text_comes_once_in_order_to_the_token(
        world in worlds(), rows in 1_u32..5, length in 1_usize..40, share in 0..3,
    ) {
        let mut world = world;
        world.fill_buffer(|record| record.seq.0 % 2 == 0);
        let plan = plan(rows, length, [0.0, 0.3, 0.7][usize::try_from(share).unwrap()]);
        let batches = world.all(&plan);
        prop_assert_eq!(places(&batches, false), stream(&world));
        for batch in &batches {
            check_bytes(&world, batch);
        }
    }

    #[test]
    fn permuted_text_comes_once_whatever_the_size_of_a_batch(world in worlds(), rows in 1_u32..5, length in 1_usize..40) {
        let order = |rows, length| places(&world.all(&Plan { order: Order::Permuted, rows, length, ..plan(1, 1, 0.0) }), false);
        let ours = order(rows, length);
        let mut sorted = ours.clone();
        sorted.sort_by_key(|(shard, seq, token)| (*seq, shard.clone(), *token));
        prop_assert_eq!(sorted, stream(&world));
        // A record is read as a whole: its tokens follow each other.
        prop_assert_eq!(ours.iter().filter(|(_, _, token)| *token == 0).count(), world.texts.len());
        prop_assert!(ours.windows(2).all(|pair| pair[1].2 == 0 || pair[0].2 + 1 == pair[1].2));
        prop_assert_eq!(order(1, 7), ours);
    }

    #[test]
    fn thinning_uses_the_records_of_the_share_alone(world in worlds(), keep in 0_u32..5) {
        let kept = |keep: u32| {
            let keep = Share::new(f64::from(keep) / 4.0).unwrap();
            let plan = Plan { keep, ..plan(2, 16, 0.0) };
            places(&world.all(&plan), false)
        };
        let (part, whole) = (kept(keep), stream(&world));
        let chosen: BTreeSet<(Shard, Seq)> = part.iter().map(|(shard, seq, _)| (shard.clone(), *seq)).collect();
        let filtered: Vec<_> =
            whole.iter().filter(|(shard, seq, _)| chosen.contains(&(shard.clone(), *seq))).cloned().collect();
        prop_assert_eq!(&part, &filtered);
        prop_assert_eq!(part.is_empty(), keep == 0 || chosen.is_empty());
        let wider: BTreeSet<_> = kept((keep + 1).min(4)).into_iter().collect();
        prop_assert!(part.iter().all(|place| wider.contains(place)));
        prop_assert_eq!(kept(4), whole);
    }

    #[test]
    fn draws_depend_on_the_row_alone_and_hold_members_from_passages_on(world in worlds(), length in 1_usize..60, from in 0_u64..50) {
        let mut world = world;
        world.fill_buffer(|record| record.seq.0 % 2 == 0);
        let all = plan(8, length, 1.0);
        let row = |rows: u32, at: u64| {
            let plan = Plan { rows, ..all.clone() };
            let ticket = Ticket { row: at, ..world.first(&plan) };
            let (outline, _) = world.laid_out(&ticket, &plan).unwrap();
            outline.rows.into_iter().find(|planned| planned.row == from + 5 && planned.buffer.is_some())
        };
        let drawn = row(8, from);
        prop_assert_eq!(&drawn, &row(1, from + 5));
        prop_assert_eq!(&drawn, &row(3, from + 4));
        let Some(drawn) = drawn else {
            prop_assert!(world.members["main"].is_empty());
            return Ok(());
        };
        let mut room = length as u64;
        for (index, piece) in drawn.pieces.iter().enumerate() {
            prop_assert!(index == 0 || room >= draw::LEAST);
            let record = world.index.get(&piece.shard, piece.seq).unwrap();
            prop_assert_eq!(record.seq.0 % 2, 0);
            let starts = record.passages.iter().map(|end| u64::from(*end) + 1);
            prop_assert!(piece.first == 0 || starts.into_iter().any(|start| start == piece.first));
            prop_assert_eq!(piece.tokens, (record.bytes + 1 - piece.first).min(room));
            room -= piece.tokens;
        }
        prop_assert!(room < draw::LEAST);
    }

    #[test]
    fn same_ticket_gives_the_same_bytes_though_the_store_grew(world in worlds(), rows in 1_u32..5, length in 8_usize..40) {
        let plan = plan(rows, length, 0.3);
        let mut grown = World::new(&[], 1);
        grown.index = world.index.clone();
        grown.texts = world.texts.clone();
        grown.limits = world.limits.clone();
        let late = Record {
            seq: Seq(1000),
            id: RecordId::from_hash(1),
            bytes: 3,
            passages: [3].into(),
            source: "files".into(),
            event_time: None,
        };
        grown.index.push(&shard("a"), late.clone()).unwrap();
        grown.index.push(&shard("c"), late).unwrap();
        for plan in [Plan { order: Order::Permuted, ..plan.clone() }, plan] {
            let digests = |world: &World| world.all(&plan).iter().map(Batch::digest).collect::<Vec<_>>();
            prop_assert_eq!(digests(&world), digests(&grown));
        }
    }
}
