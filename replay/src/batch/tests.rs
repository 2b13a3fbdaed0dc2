use super::*;

use perennial_program::config::Share;
use perennial_schemas::id::{RecordId, Revision, Seq, Shard, Step};
use perennial_schemas::wire::{Cursor, DrawPlace, DrawRest, DrawnBuffer, Odds, Span, WIRE_FORMAT};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use crate::buffer::{Member, MemberChunk, PolicyConfig, Spec, reservoir};
use crate::index::{Record, RecordRef};
use crate::mix::Mix;
use crate::plan::{Order, VisibleUntil};
use crate::tokenise::{Tokenizer, Tokens};

mod subword;

/// A store in memory: kept records with their texts, and one buffer.
#[derive(Debug)]
struct World {
    index: Index,
    limit: Offset,
    texts: BTreeMap<Offset, Arc<str>>,
    members: BTreeMap<String, Arc<Members>>,
}

fn shard(name: &str) -> Shard {
    name.parse().unwrap()
}

impl World {
    /// Records (shard, seq, text) with passages of `passage` bytes, in the order of seq and shard. Between two
    /// offsets of records lies one of another reading.
    fn new(records: &[(&str, u64, String)], passage: usize) -> Self {
        let mut index = Index::new();
        let mut texts = BTreeMap::new();
        let mut records: Vec<_> = records.iter().collect();
        records.sort_by_key(|(name, seq, _)| (*seq, *name));
        for (offset, (name, seq, text)) in (1..).step_by(2).map(Offset).zip(records) {
            let bytes = u32::try_from(text.len()).unwrap();
            let passages = (1..).map(|n| n * u32::try_from(passage).unwrap()).take_while(|end| *end < bytes);
            let record = Record {
                offset,
                shard: shard(name),
                seq: Seq(*seq),
                id: RecordId::from_hash(xxh3_128(text.as_bytes())),
                bytes: bytes.into(),
                passages: passages.chain([bytes]).collect(),
                source: "files".into(),
                event_time: None,
                erased: false,
            };
            index.extend([record], offset.next()).unwrap();
            texts.insert(offset, Arc::from(text.as_str()));
        }
        let limit = index.limit();
        Self { index, limit, texts, members: [("main".to_owned(), Arc::new(Members::none(1)))].into() }
    }

    /// Puts these records into the buffer `main`, at change 1.
    fn fill_buffer(&mut self, plan: &Plan, keep: impl Fn(&RecordRef<'_>) -> bool) {
        let chunk = plan.chunk();
        let member = |record: RecordRef<'_>| Member {
            offset: record.offset,
            shard: record.shard.clone(),
            seq: record.seq,
            id: record.id,
            bytes: record.bytes,
            weight: None,
        };
        let list = self.index.records().filter(|record| keep(record)).map(member);
        let members = Members::new(Revision(1), list.collect(), chunk);
        self.members.insert("main".into(), Arc::new(members));
    }

    fn view(&self) -> View<'_> {
        View { index: &self.index, members: &self.members, permutation: None }
    }

    /// The tokens of a record.
    fn tokens(&self, plan: &Plan, offset: Offset) -> Option<Tokens> {
        let text = self.texts.get(&offset)?;
        let passages = &self.index.get(offset).unwrap().passages;
        Some(plan.tokenizer.encode(Arc::clone(text), passages).unwrap())
    }

    /// The layout of a ticket's batch, and the tokens that it asked for or holds.
    fn laid_out(&self, ticket: &Ticket, plan: &Plan) -> Result<(BatchLayout, Contents)> {
        let mut contents = Contents::new();
        let read = |offset: Offset| (offset, self.tokens(plan, offset));
        loop {
            match layout(ticket, plan, self.view(), &contents)? {
                LayoutOutcome::Whole(layout) => {
                    contents.extend(layout.records().into_iter().map(read));
                    return Ok((layout, contents));
                }
                LayoutOutcome::Unread(offsets) => contents.extend(offsets.into_iter().map(read)),
            }
        }
    }

    fn batch(&self, ticket: &Ticket, plan: &Plan) -> Result<Batch> {
        let (layout, contents) = self.laid_out(ticket, plan)?;
        fill(&layout, plan, &contents)
    }

    /// Without a record, of which not even the shape is left.
    fn without(&self, gone: Offset) -> Self {
        let mut index = Index::new();
        let left =
            self.index.records().filter(|record| record.offset != gone).map(|record| record.to_record());
        index.extend(left, self.index.limit()).unwrap();
        let (members, mut texts) = (self.members.clone(), self.texts.clone());
        texts.remove(&gone);
        Self { index, limit: self.limit, texts, members }
    }

    fn offset(&self, shard: &Shard, seq: Seq) -> Offset {
        let record = self.index.records().find(|record| (record.shard, record.seq) == (shard, seq));
        record.unwrap().offset
    }

    fn drawn(&self, plan: &Plan, buffer: &str) -> DrawnBuffer {
        DrawnBuffer { revision: self.members[buffer].revision(), policy: plan.policy_digest(buffer).unwrap() }
    }

    fn first(&self, plan: &Plan) -> Ticket {
        Ticket {
            format: WIRE_FORMAT,
            job: "demo".into(),
            step: Step(0),
            limit: self.limit,
            settings: plan.settings(),
            buffers: plan.mix.buffers().map(|name| (name.to_owned(), self.drawn(plan, name))).collect(),
            config: plan.digest(),
            seed: plan.job_seed("demo"),
            from: Position::default(),
        }
    }

    /// Every batch until the new text ends.
    fn all(&self, plan: &Plan) -> Vec<Batch> {
        self.walk(self.first(plan), plan).into_iter().map(|(_, batch)| batch).collect()
    }

    /// Every batch from that of `ticket` on, with its ticket.
    fn walk(&self, mut ticket: Ticket, plan: &Plan) -> Vec<(Ticket, Batch)> {
        let mut walked = Vec::new();
        loop {
            let (layout, contents) = self.laid_out(&ticket, plan).unwrap();
            if layout.new_text == 0 && layout.missing > 0 {
                return walked;
            }
            let next = following(&ticket, layout.after.clone());
            walked.push((ticket, fill(&layout, plan, &contents).unwrap()));
            ticket = next;
        }
    }

    /// Each record's tokens between its boundaries, by the definition.
    fn records(&self, plan: &Plan) -> BTreeMap<(Shard, Seq), Vec<i32>> {
        let boundary = plan.tokenizer.boundary();
        let record = |(offset, text): (&Offset, &Arc<str>)| {
            let mut tokens = vec![boundary];
            match self.tokens(plan, *offset).unwrap() {
                Tokens::Bytes(_) => tokens.extend(text.bytes().map(i32::from)),
                Tokens::Subword(encoding) => tokens.extend(encoding.tokens()),
            }
            tokens.push(boundary);
            let record = self.index.get(*offset).unwrap();
            ((record.shard.clone(), record.seq), tokens)
        };
        self.texts.iter().map(record).collect()
    }

    /// Every token in stream order.
    fn stream(&self, plan: &Plan) -> Vec<(Shard, Seq, u64)> {
        let mut records: Vec<_> = self.records(plan).into_iter().collect();
        records.sort_by_key(|((shard, seq), _)| (*seq, shard.clone()));
        let places = |((shard, seq), tokens): ((Shard, Seq), Vec<i32>)| {
            (0..tokens.len() as u64 - 1).map(move |at| (shard.clone(), seq, at))
        };
        records.into_iter().flat_map(places).collect()
    }

    /// Holds every span of a batch to its record's tokens, and the rest to padding.
    fn check(&self, plan: &Plan, batch: &Batch) {
        check_tokens(&self.records(plan), plan.tokenizer.pad(), batch);
    }
}

fn check_tokens(records: &BTreeMap<(Shard, Seq), Vec<i32>>, pad: i32, batch: &Batch) {
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
        assert_eq!((tokens[place], targets[place]), (pad, pad));
    }
}

fn plan(rows: u32, length: usize, share: f64) -> Plan {
    let spec = Spec::new("main", &PolicyConfig::Reservoir(reservoir::Settings::default()));
    Plan {
        seed: perennial_schemas::seed::Seed::new(3),
        rows,
        length,
        tokenizer: Tokenizer::Bytes,
        order: Order::Stream,
        keep: Share::ONE,
        mix: Mix::new([("main".to_owned(), Share::new(share).unwrap())]).unwrap(),
        buffers: [("main".to_owned(), spec)].into(),
        block: 4,
        visible_until: VisibleUntil::Cursor,
        drain: true,
    }
}

fn corpus() -> Vec<(&'static str, u64, String)> {
    let text =
        |n: u64| format!("Record {n}: {}", "the quick brown fox; ".repeat(usize::try_from(n % 5).unwrap()));
    (0..20).map(|n| (if n % 3 == 0 { "b" } else { "a" }, n, text(n))).collect()
}

/// The tokens of all rows of new text, as (shard, seq, token) places, but for removed ones.
fn new_text(batches: &[Batch]) -> Vec<(Shard, Seq, u64)> {
    let mut places = Vec::new();
    for batch in batches {
        for row in (0..batch.rows()).filter(|row| !batch.is_replayed(*row)) {
            for span in batch.spans(row).unwrap().into_iter().filter(|span| !span.erased) {
                let tokens = (0..u64::from(span.tokens)).map(|token| span.first_token + token);
                places.extend(tokens.map(|token| (span.shard.clone(), span.seq, token)));
            }
        }
    }
    places
}

fn sorted(mut places: Vec<(Shard, Seq, u64)>) -> Vec<(Shard, Seq, u64)> {
    places.sort_by_key(|(shard, seq, token)| (*seq, shard.clone(), *token));
    places
}

#[test]
fn batch_has_the_same_digest_in_every_build() {
    // Another digest means other bytes for tickets that were issued: raise the wire's format with it.
    let mut world = World::new(&corpus(), 24);
    let plan = plan(4, 64, 0.5);
    world.fill_buffer(&plan, |record| record.seq.0 % 2 == 0);
    let batch = world.batch(&world.first(&plan), &plan).unwrap();
    assert_eq!(format!("{:032x}", batch.digest()), "375cb30a601d486e17eee0d125df0be7");
    assert_eq!(plan.digest(), "fa7abb0fd510582e6b31575cd90ebdd4");
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
    world.fill_buffer(&plan, |_| true);
    assert_eq!(rows(&world), [3, 7]);
}

#[test]
fn ticket_of_another_config_or_format_is_refused_by_name() {
    let world = World::new(&corpus(), 24);
    let ours = plan(4, 64, 0.5);
    let ticket = world.first(&ours);
    let under = |change: fn(&mut Plan)| {
        let mut other = ours.clone();
        change(&mut other);
        world.batch(&ticket, &other)
    };
    for change in [
        |plan: &mut Plan| plan.length = 65,
        |plan: &mut Plan| plan.seed = perennial_schemas::seed::Seed::new(4),
    ] {
        assert!(matches!(under(change).unwrap_err(), ReplayError::OtherConfig { .. }));
    }
    assert!(matches!(under(|plan| plan.block = 5).unwrap_err(), ReplayError::Drawn { .. }));
    assert!(matches!(under(|plan| plan.buffers.clear()).unwrap_err(), ReplayError::Ticket { .. }));
    // What may change in a job is in the ticket, and what chooses tickets is no part of them.
    let whole = world.batch(&ticket, &ours).unwrap().digest();
    for change in [
        |plan: &mut Plan| plan.rows = 5,
        |plan: &mut Plan| plan.keep = Share::new(0.5).unwrap(),
        |plan: &mut Plan| plan.order = Order::Permuted,
        |plan: &mut Plan| plan.mix = Mix::new([("main".to_owned(), Share::new(0.25).unwrap())]).unwrap(),
        |plan: &mut Plan| (plan.drain, plan.visible_until) = (false, VisibleUntil::Store),
    ] {
        assert_eq!(under(change).unwrap().digest(), whole);
    }
    let with = |change: fn(&mut Ticket)| {
        let mut other = ticket.clone();
        change(&mut other);
        world.batch(&other, &ours).unwrap_err().to_string()
    };
    for (change, why) in [
        ((|t| t.settings.rows = 0) as fn(&mut Ticket), "`settings.rows` is 0"),
        (|t| t.settings.keep = 1 << 40, "`settings.keep` is"),
        (|t| t.settings.mix = [("main".to_owned(), 2_000_000_000)].into(), "add up to 2"),
        (|t| t.settings.mix = [("main".to_owned(), 0)].into(), "a share of 0"),
        (|t| t.settings.mix = [("else".to_owned(), 1)].into(), "names `else`: the config has `main`"),
        (|t| t.settings.mix.clear(), "its mix draws from []"),
    ] {
        assert!(with(change).contains(why), "{}", with(change));
    }
    assert!(world.batch(&Ticket { format: 9, ..ticket.clone() }, &ours).is_err());
    assert!(world.batch(&Ticket { buffers: BTreeMap::new(), ..ticket.clone() }, &ours).is_err());
    let drawn = DrawnBuffer { revision: Revision(7), ..world.drawn(&ours, "main") };
    let unknown = [("main".to_owned(), drawn)].into();
    let error = world.batch(&Ticket { buffers: unknown, ..ticket }, &ours).unwrap_err();
    assert!(matches!(error, ReplayError::NoRevision { asked: Revision(7), .. }));
}

#[test]
fn removed_text_is_padding_of_the_same_shape() {
    let world = World::new(&corpus(), 24);
    let plan = plan(4, 64, 0.0);
    let ticket = world.first(&plan);
    let whole = world.batch(&ticket, &plan).unwrap();
    let gone = whole.spans(1).unwrap()[0].clone();
    let (layout, mut contents) = world.laid_out(&ticket, &plan).unwrap();
    contents.insert(world.offset(&gone.shard, gone.seq), None);
    let erased = fill(&layout, &plan, &contents).unwrap();
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
    let (layout, mut contents) = world.laid_out(&world.first(&plan), &plan).unwrap();
    contents.values_mut().for_each(|tokens| *tokens = Some(Tokens::Bytes("short".into())));
    let error = fill(&layout, &plan, &contents).unwrap_err();
    assert!(matches!(error, ReplayError::Inconsistent { table: "records", .. }));
}

#[test]
fn limit_hides_what_came_later() {
    let mut world = World::new(&corpus(), 24);
    let plan = plan(4, 512, 0.0);
    world.limit = world.offset(&shard("a"), Seq(5));
    let seen: BTreeSet<(Shard, Seq)> =
        new_text(&world.all(&plan)).into_iter().map(|(shard, seq, _)| (shard, seq)).collect();
    let expected = [("a", 1), ("a", 2), ("a", 4), ("b", 0), ("b", 3)];
    assert_eq!(seen, expected.map(|(name, seq)| (shard(name), Seq(seq))).into());
}

#[test]
fn cursor_beyond_all_text_gives_an_empty_batch() {
    let world = World::new(&corpus(), 24);
    let plan = plan(2, 64, 0.0);
    let new_text = Cursor { offset: Offset(u64::MAX), token: u64::MAX };
    let from = Position { row: u64::MAX, new_text, draws: BTreeMap::new() };
    assert_eq!(world.batch(&Ticket { from, ..world.first(&plan) }, &plan).unwrap().rows(), 0);
}

#[test]
fn members_without_a_shape_are_drawn_again_and_none_of_many_is_new_text() {
    let mut world = World::new(&corpus(), 24);
    let plan = plan(8, 64, 0.5);
    world.fill_buffer(&plan, |_| true);
    let drawn = |world: &World| {
        let batch = world.batch(&world.first(&plan), &plan).unwrap();
        world.check(&plan, &batch);
        let rows = (0..batch.rows()).filter(|row| batch.is_replayed(*row));
        let spans: Vec<Span> = rows.flat_map(|row| batch.spans(row).unwrap()).collect();
        assert!(spans.iter().all(|span| !span.erased));
        spans.into_iter().map(|span| (span.shard, span.seq)).collect::<BTreeSet<_>>()
    };
    let all = drawn(&world);
    let gone: Vec<_> = all.iter().take(3).cloned().collect();
    let mut left = world.without(Offset(0));
    for (shard, seq) in &gone {
        left = left.without(left.offset(shard, *seq));
    }
    let again = drawn(&left);
    assert!(gone.iter().all(|gone| !again.contains(gone)));
    assert!(all.iter().filter(|place| !gone.contains(place)).all(|place| again.contains(place)));
    // What lies beyond the ticket's limit is not there either, though the index holds it.
    world.limit = world.offset(&shard("b"), Seq(3));
    assert!(drawn(&world).iter().all(|(_, seq)| *seq < Seq(3)));
    let none = World { limit: Offset(1), ..world.without(Offset(0)) };
    assert_eq!(drawn(&none), BTreeSet::new());
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

/// What new text must be under any tokenizer, in a world whose even records are in the buffer.
fn new_text_comes_once_in_order(mut world: World, plan: &Plan) -> Result<(), TestCaseError> {
    world.fill_buffer(plan, |record| record.seq.0 % 2 == 0);
    let batches = world.all(plan);
    prop_assert_eq!(new_text(&batches), world.stream(plan));
    batches.iter().for_each(|batch| world.check(plan, batch));
    Ok(())
}

/// What permuted text must be under any tokenizer.
fn permuted_text_comes_once(world: &World, plan: Plan) -> Result<(), TestCaseError> {
    let plan = Plan { order: Order::Permuted, ..plan };
    let ours = new_text(&world.all(&plan));
    // A record is read as a whole: its tokens follow each other.
    prop_assert_eq!(ours.iter().filter(|(_, _, token)| *token == 0).count(), world.texts.len());
    prop_assert!(ours.windows(2).all(|pair| pair[1].2 == 0 || pair[0].2 + 1 == pair[1].2));
    prop_assert_eq!(&new_text(&world.all(&Plan { rows: 1, length: 7, ..plan.clone() })), &ours);
    prop_assert_eq!(sorted(ours), world.stream(&plan));
    Ok(())
}

/// What a job that stands at a record must read where it goes on at a version without it.
fn job_goes_on_though_a_record_was_removed(
    world: &World,
    plan: &Plan,
    gone: Offset,
) -> Result<(), TestCaseError> {
    let left = world.without(gone);
    let stands = |ticket: &Ticket| ticket.from.new_text.offset == gone;
    let walked = world.walk(world.first(plan), plan);
    let Some(at) = walked.iter().position(|(ticket, _)| stands(ticket)) else { return Ok(()) };
    let before = walked[..at].iter().map(|(_, batch)| batch.clone());
    let after = left.walk(walked[at].0.clone(), plan).into_iter().map(|(_, batch)| batch);
    let mut read = new_text(&before.chain(after).collect::<Vec<_>>());
    read.retain(|(shard, seq, _)| world.offset(shard, *seq) != gone);
    prop_assert_eq!(sorted(read), left.stream(plan));
    Ok(())
}

/// The tokens of a chunk, one by one: those of the passages that begin in it, or with bytes its own.
fn tokens_of(world: &World, plan: &Plan, chunk: &MemberChunk) -> Vec<u64> {
    let inside = |place: &u64| (chunk.first..chunk.first + chunk.tokens).contains(place);
    let passages = &world.index.get(chunk.offset).unwrap().passages;
    match world.tokens(plan, chunk.offset).unwrap() {
        Tokens::Bytes(text) => (0..=text.len() as u64).filter(inside).collect(),
        Tokens::Subword(encoding) => {
            let begins = |passage: usize| crate::tokenise::byte_start(passages, passage);
            let of = |token: u64| {
                (0..passages.len()).rev().find(|passage| encoding.passage_start(*passage) <= token).unwrap()
            };
            (0..encoding.count()).filter(|token| inside(&begins(of(*token)))).collect()
        }
    }
}

/// What draws must be under any tokenizer: one sequence, each draw delivered whole, whatever the batches.
fn draws_are_one_sequence(mut world: World, all: &Plan, chunk: u64) -> Result<(), TestCaseError> {
    world.fill_buffer(all, |record| record.seq.0 % 2 == 0);
    let list = world.members["main"].list().to_vec();
    let members = Arc::new(Members::new(Revision(1), list, chunk));
    world.members.insert("main".into(), Arc::clone(&members));
    if members.is_empty() {
        return Ok(());
    }
    let seed = all.job_seed("demo").child("draw/main");
    let mut expected = Vec::new();
    let mut draws = 0;
    // Of records of which no passage has a token there may be nothing at all.
    while expected.len() < 12 * all.length && draws < 10_000 {
        let chunk = members.draw(seed, draws).unwrap();
        let tokens = tokens_of(&world, all, &chunk).into_iter();
        expected.extend(tokens.map(|token| (chunk.offset, token, chunk.odds.probability())));
        draws += 1;
    }
    for rows in [1, 3, 4] {
        let plan = Plan { rows, ..all.clone() };
        let mut ticket = world.first(&plan);
        let mut delivered = Vec::new();
        for _ in 0..12 / rows {
            let (layout, _) = world.laid_out(&ticket, &plan).unwrap();
            for row in &layout.rows {
                prop_assert_eq!(
                    row.segments.iter().map(|segment| segment.tokens).sum::<u64>(),
                    plan.length as u64
                );
                for segment in &row.segments {
                    let tokens = segment.first..segment.first + segment.tokens;
                    delivered.extend(tokens.map(|token| (segment.offset, token, segment.probability)));
                }
            }
            ticket = following(&ticket, layout.after);
            ticket = Ticket::from_json(ticket.to_json().as_bytes()).unwrap();
        }
        prop_assert_eq!(delivered.len(), 12 * plan.length);
        prop_assert_eq!(&delivered[..], &expected[..delivered.len()]);
    }
    Ok(())
}

#[test]
fn rest_of_a_draw_is_delivered_though_the_buffer_has_changed() {
    let mut world = World::new(&corpus(), 24);
    let plan = plan(1, 10, 1.0);
    world.fill_buffer(&plan, |_| true);
    let mut ticket = world.first(&plan);
    let rest = loop {
        let (layout, _) = world.laid_out(&ticket, &plan).unwrap();
        ticket = following(&ticket, layout.after);
        if let Some(rest) = ticket.from.draws["main"].rest {
            break rest;
        }
    };
    world.members.insert("main".into(), Arc::new(Members::new(Revision(1), Vec::new(), plan.chunk())));
    let (layout, _) = world.laid_out(&ticket, &plan).unwrap();
    let first = &layout.rows[0].segments[0];
    assert_eq!((first.offset, first.first, first.tokens), (rest.offset, rest.first, rest.tokens));
    assert_eq!(first.probability, rest.odds.probability());
    assert_eq!(layout.after.draws["main"].rest, None);
}

#[test]
fn place_in_the_draws_that_cannot_be_is_refused() {
    let mut world = World::new(&corpus(), 24);
    let plan = plan(2, 10, 1.0);
    world.fill_buffer(&plan, |_| true);
    let record = world.index.records().next().unwrap();
    let odds = Odds { weight: 1, total: 2 };
    let good = DrawRest { offset: record.offset, first: 1, tokens: record.bytes, odds };
    let with = |name: &str, rest: DrawRest| {
        let draws = [(name.to_owned(), DrawPlace { draw: 1, rest: Some(rest) })].into();
        let from = Position { draws, ..Position::default() };
        world.batch(&Ticket { from, ..world.first(&plan) }, &plan)
    };
    assert!(with("main", good).is_ok());
    // A buffer that has left the mix keeps its place: it may come back.
    let place = DrawPlace { draw: 9, rest: Some(good) };
    let from = Position { draws: [("other".to_owned(), place)].into(), ..Position::default() };
    let (layout, _) = world.laid_out(&Ticket { from, ..world.first(&plan) }, &plan).unwrap();
    assert_eq!(layout.after.draws["other"], place);
    for (name, bad, why) in [
        ("main", DrawRest { tokens: 0, ..good }, "no token"),
        ("main", DrawRest { tokens: record.bytes + 1, ..good }, "beyond its record"),
        ("main", DrawRest { first: u64::MAX, ..good }, "beyond every record"),
        ("main", DrawRest { odds: Odds { weight: 3, total: 2 }, ..good }, "impossible odds"),
        ("main", DrawRest { odds: Odds { weight: 0, total: 0 }, ..good }, "impossible odds"),
    ] {
        let error = with(name, bad).unwrap_err();
        assert!(matches!(error, ReplayError::Ticket { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn every_token_of_a_buffer_is_replayed_as_often_as_any_other() {
    // Records of 2 to 600 bytes in rows of 32 tokens.
    let text = |n: u64| "x".repeat(2_usize << (n % 9));
    let records: Vec<(&str, u64, String)> = (0..36).map(|n| ("a", n, format!("{n:02}{}", text(n)))).collect();
    let mut world = World::new(&records, 40);
    let plan = plan(64, 32, 1.0);
    world.fill_buffer(&plan, |_| true);
    let mut counts: BTreeMap<Offset, Vec<f64>> = BTreeMap::new();
    for record in world.index.records() {
        counts.insert(record.offset, vec![0.0; usize::try_from(record.bytes).unwrap() + 1]);
    }
    let mut ticket = world.first(&plan);
    let (mut tokens, mut draws) = (0.0, 0);
    for _ in 0..150 {
        let LayoutOutcome::Whole(layout) = layout(&ticket, &plan, world.view(), &Contents::new()).unwrap()
        else {
            panic!("bytes need no text")
        };
        for segment in layout.rows.iter().flat_map(|row| &row.segments) {
            for token in segment.first..segment.first + segment.tokens {
                counts.get_mut(&segment.offset).unwrap()[usize::try_from(token).unwrap()] += 1.0;
                tokens += 1.0;
            }
        }
        draws = layout.after.draws["main"].draw;
        ticket = following(&ticket, layout.after);
    }
    let all: f64 = counts.values().map(|record| record.len() as f64).sum();
    let chunks: f64 = counts.values().map(|record| record.len().div_ceil(32) as f64).sum();
    let expected = tokens / all;
    // A class of k tokens that no chunk mixes has c chunks, each drawn a binomial number of times.
    let check = |what: &str, exposure: f64, chunks_of: f64| {
        let p = chunks_of / chunks;
        let error = ((1.0 - p) / (draws as f64 * p)).sqrt();
        assert!((exposure / expected - 1.0).abs() < 0.02 + 3.0 * error, "{what}: {exposure} of {expected}");
    };
    for size in 0..9 {
        let of: Vec<&Vec<f64>> = counts.values().skip(size).step_by(9).collect();
        let sum: f64 = of.iter().flat_map(|record| record.iter()).sum();
        let (tokens, chunks_of) = of.iter().fold((0, 0), |(tokens, chunks), record| {
            (tokens + record.len(), chunks + record.len().div_ceil(32))
        });
        check(&format!("records of size {size}"), sum / tokens as f64, chunks_of as f64);
    }
    let mean = |get: fn(&Vec<f64>) -> f64| counts.values().map(get).sum::<f64>() / counts.len() as f64;
    check("first tokens", mean(|record| record[0]), counts.len() as f64);
    check("last tokens", mean(|record| record[record.len() - 1]), counts.len() as f64);
    check("middles", mean(|record| record[record.len() / 2]), counts.len() as f64);
}

proptest! {
    #[test]
    fn new_text_comes_once_in_order_to_the_token(
        world in worlds(), rows in 1_u32..5, length in 1_usize..40, share in 0..3,
    ) {
        let share = [0.0, 0.3, 0.7][usize::try_from(share).unwrap()];
        new_text_comes_once_in_order(world, &plan(rows, length, share))?;
    }

    #[test]
    fn permuted_text_comes_once_whatever_the_size_of_a_batch(world in worlds(), rows in 1_u32..5, length in 1_usize..40) {
        permuted_text_comes_once(&world, plan(rows, length, 0.0))?;
    }

    #[test]
    fn job_goes_on_at_a_version_without_a_record_it_may_stand_at(
        world in worlds(), rows in 1_u32..3, length in 1_usize..40, gone in 0_usize..30, permuted in any::<bool>(),
    ) {
        let Some(gone) = world.texts.keys().nth(gone % world.texts.len().max(1)).copied() else { return Ok(()) };
        let order = if permuted { Order::Permuted } else { Order::Stream };
        job_goes_on_though_a_record_was_removed(&world, &Plan { order, ..plan(rows, length, 0.0) }, gone)?;
    }

    #[test]
    fn thinning_uses_the_records_of_the_share_alone(world in worlds(), keep in 0_u32..5) {
        let kept = |keep: u32| {
            let keep = Share::new(f64::from(keep) / 4.0).unwrap();
            let plan = Plan { keep, ..plan(2, 16, 0.0) };
            new_text(&world.all(&plan))
        };
        let (part, whole) = (kept(keep), world.stream(&plan(1, 1, 0.0)));
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
    fn draws_are_one_sequence_of_whole_chunks_whatever_the_batches(world in worlds(), length in 1_usize..60, chunk in 1_u64..60) {
        draws_are_one_sequence(world, &plan(8, length, 1.0), chunk)?;
    }

    #[test]
    fn same_ticket_gives_the_same_bytes_though_the_store_grew(world in worlds(), rows in 1_u32..5, length in 8_usize..40) {
        let plan = plan(rows, length, 0.3);
        let mut grown = World::new(&[], 1);
        grown.index = world.index.clone();
        grown.texts = world.texts.clone();
        grown.limit = world.limit;
        let late = |offset: Offset, name: &str| Record {
            offset,
            shard: shard(name),
            seq: Seq(1000),
            id: RecordId::from_hash(1),
            bytes: 3,
            passages: [3].into(),
            source: "files".into(),
            event_time: None,
            erased: false,
        };
        let (one, two) = (grown.limit, grown.limit.next());
        grown.index.extend([late(one, "a"), late(two, "c")], two.next()).unwrap();
        for plan in [Plan { order: Order::Permuted, ..plan.clone() }, plan] {
            let digests = |world: &World| world.all(&plan).iter().map(Batch::digest).collect::<Vec<_>>();
            prop_assert_eq!(digests(&world), digests(&grown));
        }
    }
}
