use super::*;
use perennial_schemas::id::{Offset, Seq};
use proptest::prelude::*;

fn candidate(seq: u64, bytes: u64) -> Candidate {
    let (shard, id) = ("main".parse().unwrap(), RecordId::from_hash(seq.into()));
    Candidate { offset: Offset(seq), shard, seq: Seq(seq), id, bytes }
}

fn block(candidates: &[Candidate]) -> Block<'_> {
    let end = candidates.last().map_or(Offset(0), |last| last.offset.next());
    Block { candidates, embeddings: &[], end }
}

fn members(capacity: Capacity, seed: Seed, seen: &[Candidate]) -> BTreeSet<RecordId> {
    let mut reservoir = Keyed::new(capacity, Keys::Uniform(seed));
    reservoir.offer(&block(seen), &mut Vec::new());
    reservoir.members.values().map(|member| member.id).collect()
}

/// The definition: sort all that fit by themselves, take while they fit together.
fn twin(capacity: Capacity, seed: Seed, seen: &[Candidate]) -> BTreeSet<RecordId> {
    let fits = |one: &&Candidate| capacity.size(one) <= capacity.limit();
    let mut all: Vec<&Candidate> = seen.iter().filter(fits).collect();
    all.sort_by_key(|one| std::cmp::Reverse((seed.hash(one.id.as_bytes()), one.id)));
    let mut used = 0;
    let fits = |one: &&&Candidate| {
        used += capacity.size(one);
        used <= capacity.limit()
    };
    all.iter().take_while(fits).map(|one| one.id).collect()
}

proptest! {
    #[test]
    fn members_are_those_of_the_definition(
        sizes in proptest::collection::vec(0_u64..40, 0..60),
        limit in 0_u64..300,
        unit in 0..3,
        seed: u64,
    ) {
        let capacity = match unit {
            0 => Capacity::Records(limit / 8),
            1 => Capacity::Bytes(perennial_program::config::Bytes::new(limit)),
            _ => Capacity::Tokens(limit),
        };
        let seed = Seed::new(seed);
        let seen: Vec<Candidate> = (0..).zip(&sizes).map(|(seq, bytes)| candidate(seq, *bytes)).collect();
        let expected = twin(capacity, seed, &seen);
        prop_assert_eq!(&members(capacity, seed, &seen), &expected);
        let backwards: Vec<Candidate> = seen.into_iter().rev().collect();
        prop_assert_eq!(&members(capacity, seed, &backwards), &expected);
    }
}

#[test]
fn every_record_is_equally_likely_to_be_a_member() {
    let (n, m, runs) = (40_u64, 10_u64, 4_000_u64);
    let seen: Vec<Candidate> = (0..n).map(|seq| candidate(seq, 1)).collect();
    let mut counts = vec![0_u64; usize::try_from(n).unwrap()];
    for run in 0..runs {
        for id in members(Capacity::Records(m), Seed::new(run), &seen) {
            counts[usize::try_from(id.as_hash()).unwrap()] += 1;
        }
    }
    let expected = (runs * m / n) as f64;
    let variance = expected * (1.0 - m as f64 / n as f64);
    let chi: f64 = counts.iter().map(|count| (*count as f64 - expected).powi(2) / variance).sum();
    // Scaled by (n-1)/n it is chi-square with 39 degrees of freedom: 72.1 is the 0.1 % point.
    assert!(chi * (n as f64 - 1.0) / (n as f64) < 72.1, "{chi}");
}

#[test]
fn ranks_order_numbers_and_give_them_back() {
    let numbers = [f64::MIN, -2.5, -0.0, 0.0, 1e-300, 1.0, 7.25, f64::MAX];
    assert!(numbers.windows(2).all(|pair| rank_of(pair[0]) < rank_of(pair[1])));
    assert!(numbers.iter().all(|number| value_of(rank_of(*number)).to_bits() == number.to_bits()));
}

fn seqs(keyed: &Keyed) -> Vec<u64> {
    let mut seqs: Vec<u64> = keyed.members.values().map(|member| member.seq.0).collect();
    seqs.sort_unstable();
    seqs
}

#[test]
fn decay_keeps_records_half_as_likely_for_each_half_life_of_age() {
    // With a capacity small against the half-life, membership is proportional to 2^(-age / half-life).
    let (n, half_life, runs) = (1_200_u64, 200.0, 1_500_u64);
    let seen: Vec<Candidate> = (0..n).map(|seq| candidate(seq, 1)).collect();
    let mut by_age = [0_u64; 4];
    for run in 0..runs {
        let keys = Keys::Decay { seed: Seed::new(run), rate: std::f64::consts::LN_2 / half_life };
        let mut keyed = Keyed::new(Capacity::Records(6), keys);
        keyed.offer(&block(&seen), &mut Vec::new());
        for seq in seqs(&keyed) {
            if let Some(count) = by_age.get_mut(((n - 1 - seq) / 200) as usize) {
                *count += 1;
            }
        }
    }
    for pair in by_age.windows(2) {
        let ratio = pair[1] as f64 / pair[0] as f64;
        assert!((0.42..0.60).contains(&ratio), "{by_age:?}");
    }
}

#[test]
fn decay_goes_by_the_order_of_the_store_whatever_the_shard() {
    // Shard `b` began late: its seqs are small, its text is new.
    let of = |name: &str, seq: u64, offset: u64| {
        let id = RecordId::from_hash(u128::from(offset));
        Candidate { offset: Offset(offset), shard: name.parse().unwrap(), seq: Seq(seq), id, bytes: 1 }
    };
    let seen: Vec<Candidate> =
        (0..1_000).map(|n| of("a", n, n)).chain((0..700).map(|n| of("b", n, 1_000 + n))).collect();
    let rate = std::f64::consts::LN_2 / 100.0;
    let mut keyed = Keyed::new(Capacity::Records(300), Keys::Decay { seed: Seed::new(1), rate });
    keyed.offer(&block(&seen), &mut Vec::new());
    let late = keyed.members.values().filter(|member| member.shard.as_str() == "b").count();
    assert!(late >= 290, "{late} of 300");
}
