//! The contract tests that every policy of the catalogue must pass.

use std::collections::{BTreeMap, BTreeSet};

use perennial_program::config::{Loader, keys};
use perennial_schemas::id::{Offset, RecordId, Seq, Shard};
use perennial_schemas::seed::Seed;
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Block, Candidate, Capacity, Change, Dependence, Embedding, Policy, PolicyConfig, Spec};

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Config {
    buffer: BTreeMap<String, PolicyConfig>,
}

/// The names of all policies.
fn catalogue() -> Vec<String> {
    let keys = keys::<Config>();
    let policy = keys.iter().find(|key| key.name == "buffer.<name>.policy").unwrap();
    policy.kind.split(" or ").map(|name| name.trim_matches('`').to_owned()).collect()
}

/// A buffer of the policy `name`, with another capacity where one is given.
fn spec(name: &str, capacity: Option<Capacity>) -> Spec {
    let mut loader = Loader::new("replay").set("--policy", "buffer.main.policy", name);
    if let Some(capacity) = capacity {
        loader = loader.set("--capacity", "buffer.main.capacity", capacity.to_string());
    }
    let config = loader.load::<Config>().unwrap().value;
    Spec::new("main", &config.buffer["main"])
}

/// Vectors that follow from the record: some records have none, or one that cannot be used.
fn embeddings(block: &[Candidate]) -> Vec<Vec<f32>> {
    let vector = |one: &Candidate| {
        let number = u64::from_le_bytes(one.id.as_bytes()[8..].try_into().unwrap());
        let unit = |k: u64| (Seed::new(number).at(&[k]) >> 40) as f32 / 8_388_608.0 - 1.0;
        match number % 8 {
            6 => Vec::new(),
            7 => vec![[0.0, f32::NAN, f32::INFINITY][(number / 8 % 3) as usize]; 4],
            _ => (0..4).map(unit).collect(),
        }
    };
    block.iter().map(vector).collect()
}

fn offer(policy: &mut dyn Policy, blocks: &[Vec<Candidate>]) -> Vec<Change> {
    let mut changes = Vec::new();
    for block in blocks {
        let vectors = embeddings(block);
        let embeddings: Vec<_> = vectors
            .iter()
            .map(|values| (!values.is_empty()).then_some(Embedding { embedder: "test", values }))
            .collect();
        let end = block.last().map_or(Offset(0), |last| last.offset.next());
        policy.offer(&Block { candidates: block, embeddings: &embeddings, end }, &mut changes);
    }
    changes
}

/// Applies the changes one by one and checks each against the rules.
fn members(blocks: &[Vec<Candidate>], changes: &[Change], capacity: Capacity) -> BTreeMap<Offset, Candidate> {
    let mut members = BTreeMap::new();
    for change in changes {
        let judged = match change {
            Change::Admit(one) => {
                let before = members.insert(one.candidate.offset, one.candidate.clone());
                assert_eq!(before, None, "a member entered again");
                Some(one)
            }
            Change::Evict(one) => {
                let left = members.remove(&one.candidate.offset);
                assert_eq!(left.as_ref(), Some(&one.candidate), "no member left");
                Some(one)
            }
            Change::Range(range) => {
                let all = blocks.iter().flatten().filter(|one| range.contains(&one.offset));
                let fits = all.filter(|one| capacity.size(one) <= capacity.limit());
                members = fits.map(|one| (one.offset, one.clone())).collect();
                None
            }
        };
        let ids: BTreeSet<RecordId> = members.values().map(|member| member.id).collect();
        // A range has what is in it.
        assert!(judged.is_none() || ids.len() == members.len(), "an id is counted twice");
        let used: u128 = members.values().map(|member| u128::from(capacity.size(member))).sum();
        assert!(used <= u128::from(capacity.limit()), "{used} of {capacity}");
        assert!(judged.is_none_or(|one| one.key.is_finite()));
        let weight = judged.and_then(|one| one.weight);
        assert!(weight.is_none_or(|weight| weight.is_finite() && weight >= 0.0));
    }
    members
}

fn capacities() -> impl Strategy<Value = Capacity> {
    prop_oneof![
        (0_u64..12).prop_map(Capacity::Records),
        (0_u64..200).prop_map(|bytes| Capacity::Bytes(perennial_program::config::Bytes::new(bytes))),
        (0_u64..200).prop_map(Capacity::Tokens),
    ]
}

/// Blocks in the order of a store, whose shards take turns; some texts are repeated.
fn blocks() -> impl Strategy<Value = Vec<Vec<Candidate>>> {
    let size = prop_oneof![20 => 0_u64..50, 1 => Just(u64::MAX)];
    let record = (0_u128..40, size);
    let block = (0_usize..2, proptest::collection::vec(record, 0..9));
    proptest::collection::vec(block, 0..12).prop_map(|blocks| {
        let shards: [Shard; 2] = ["a".parse().unwrap(), "b".parse().unwrap()];
        let mut next = [Seq(0); 2];
        let mut offsets = (0..).map(Offset);
        let mut sizes = BTreeMap::new();
        let mut candidate = |shard: usize, (id, bytes): (u128, u64)| {
            let seq = next[shard];
            next[shard] = seq.next();
            // A repeated text has the same size.
            let bytes = *sizes.entry(id).or_insert(bytes);
            let offset = offsets.next().unwrap();
            Candidate { offset, shard: shards[shard].clone(), seq, id: RecordId::from_hash(id), bytes }
        };
        let block = |(shard, records): (usize, Vec<_>)| {
            records.into_iter().map(|one| candidate(shard, one)).collect()
        };
        blocks.into_iter().map(block).collect()
    })
}

#[test]
fn name_of_a_policy_is_the_word_that_chooses_it() {
    assert!(catalogue().len() >= 3);
    for name in catalogue() {
        assert_eq!(spec(&name, None).policy_name, name);
    }
}

#[test]
fn digest_distinguishes_settings_seeds_names_and_blocks() {
    for name in &catalogue() {
        let one = spec(name, Some(Capacity::Records(1)));
        let two = spec(name, Some(Capacity::Records(2)));
        let named = Spec { name: "other".into(), ..one.clone() };
        let seed = Seed::new(1);
        let digests = [
            one.digest(seed, 8),
            one.digest(seed, 9),
            one.digest(Seed::new(2), 8),
            two.digest(seed, 8),
            named.digest(seed, 8),
        ];
        assert_eq!(BTreeSet::from(digests).len(), 5);
        assert_eq!(one.digest(seed, 8), spec(name, Some(Capacity::Records(1))).digest(seed, 8));
    }
}

proptest! {
    #[test]
    fn changes_keep_the_capacity_and_evict_only_members(blocks in blocks(), capacity in capacities(), seed: u64) {
        for name in &catalogue() {
            let mut policy = spec(name, Some(capacity)).policy(Seed::new(seed));
            members(&blocks, &offer(&mut *policy, &blocks), capacity);
        }
    }

    #[test]
    fn changes_are_the_same_for_the_same_seed(blocks in blocks(), capacity in capacities(), seed: u64) {
        for name in &catalogue() {
            let spec = spec(name, Some(capacity));
            let run = || offer(&mut *spec.policy(Seed::new(seed)), &blocks);
            prop_assert_eq!(run(), run());
        }
    }

    #[test]
    fn policy_goes_on_from_a_saved_state_as_if_it_had_not_stopped(
        blocks in blocks(), capacity in capacities(), seed: u64, cut in 0_usize..12,
    ) {
        let (before, after) = blocks.split_at(cut.min(blocks.len()));
        for name in &catalogue() {
            let spec = spec(name, Some(capacity));
            let mut whole = spec.policy(Seed::new(seed));
            let first = offer(&mut *whole, before);
            let then: Vec<Candidate> = members(&blocks, &first, capacity).into_values().collect();
            let mut resumed = spec.policy(Seed::new(seed));
            resumed.load(&whole.save(), &then).unwrap();
            prop_assert_eq!(resumed.save(), whole.save());
            prop_assert_eq!(offer(&mut *resumed, after), offer(&mut *whole, after), "{}", name);
        }
    }

    #[test]
    fn members_of_a_policy_that_depends_on_the_set_are_the_same_however_the_stream_is_split(
        blocks in blocks(), capacity in capacities(), seed: u64,
    ) {
        for name in &catalogue() {
            let spec = spec(name, Some(capacity));
            if spec.settings.dependence() != Dependence::Set {
                continue;
            }
            let run = |blocks: &[Vec<Candidate>]| {
                members(blocks, &offer(&mut *spec.policy(Seed::new(seed)), blocks), capacity)
            };
            let singles: Vec<Vec<Candidate>> = blocks.concat().into_iter().map(|one| vec![one]).collect();
            let whole = run(&[blocks.concat()]);
            prop_assert_eq!(&whole, &run(&blocks));
            prop_assert_eq!(&whole, &run(&singles));
        }
    }
}
