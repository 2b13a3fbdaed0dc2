use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::io::Read as _;

use perennial_schemas::seed::{Seed, below};
use proptest::prelude::*;

use super::*;

/// A document as the tests have it.
#[derive(Debug, Clone, Default)]
struct Doc {
    name: String,
    source: String,
    url: Option<String>,
    lineage: String,
    time: Option<i64>,
    text: String,
}

impl Doc {
    fn of(text: &str) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// A stage over documents, with what the store would hold.
struct World {
    shard: Shard,
    docs: Vec<Doc>,
    sketcher: Sketcher,
    sketches: Vec<Sketch>,
    stage: NearDeduplicator,
}

impl World {
    fn new(config: Near, docs: Vec<Doc>) -> Self {
        let mut sketcher = Sketcher::new();
        let sketches = docs.iter().map(|doc| sketcher.sketch(&doc.text)).collect();
        let shard = "main".parse().unwrap();
        Self { shard, docs, sketcher, sketches, stage: NearDeduplicator::new(config) }
    }

    fn record(&self, index: usize) -> Query<'_> {
        record(&self.shard, &self.docs, index)
    }

    fn decide(&mut self, index: usize) -> Verdict {
        let docs = &self.docs;
        let lookup = |original: &Original| Ok::<_, Infallible>(Some(Cow::Borrowed(text_of(docs, original))));
        let Ok(verdict) = self.stage.decide(&record(&self.shard, docs, index), &self.sketches[index], lookup);
        verdict
    }

    fn decide_all(&mut self) -> Vec<Verdict> {
        (0..self.docs.len()).map(|index| self.decide(index)).collect()
    }
}

fn record<'a>(shard: &'a Shard, docs: &'a [Doc], index: usize) -> Query<'a> {
    let doc = &docs[index];
    Query {
        shard,
        seq: Seq(index as u64),
        id: id_of(index),
        source: &doc.source,
        external_id: (!doc.name.is_empty()).then_some(&doc.name),
        url: doc.url.as_deref(),
        event_time: doc.time,
        text: &doc.text,
    }
}

fn id_of(index: usize) -> RecordId {
    RecordId::from_hash(index as u128 + 1)
}

fn text_of<'a>(docs: &'a [Doc], original: &Original) -> &'a str {
    &docs[original.seq.0 as usize].text
}

fn small(records: u32) -> Near {
    Near { records, cache: Bytes::kib(64), ..Near::default() }
}

/// The record a verdict names, and whether as that of a duplicate.
fn named(verdict: &Verdict) -> Option<(usize, bool)> {
    match verdict {
        Verdict::Kept { revises, .. } => revises.as_ref().map(|of| (of.original.seq.0 as usize, false)),
        Verdict::Duplicate { of } => Some((of.original.seq.0 as usize, true)),
    }
}

fn is_kept(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Kept { .. })
}

/// The stage without an index, a cache or a signature: every original of the window is compared.
struct Twin {
    config: Near,
    kept: Vec<usize>,
    /// Which documents have a shingle.
    holders: HashMap<u64, Vec<usize>>,
}

impl Twin {
    fn new(config: Near) -> Self {
        Self { config, kept: Vec::new(), holders: HashMap::new() }
    }

    fn keep(&mut self, index: usize, sketch: &Sketch) {
        self.kept.push(index);
        for shingle in &sketch.shingles {
            self.holders.entry(*shingle).or_default().push(index);
        }
    }

    /// What the document is: the number of the original it names and whether as a duplicate; and its
    /// best match at the threshold.
    fn judge(&self, world: &World, index: usize) -> (Option<(usize, bool)>, Option<usize>) {
        let (doc, sketch) = (&world.docs[index], &world.sketches[index]);
        let mut shared: BTreeMap<usize, usize> = BTreeMap::new();
        for holder in sketch.shingles.iter().filter_map(|shingle| self.holders.get(shingle)).flatten() {
            *shared.entry(*holder).or_default() += 1;
        }
        let live = &self.kept[self.kept.len().saturating_sub(self.config.records as usize)..];
        let jaccard = |other: usize| {
            let both = shared.get(&other).copied().unwrap_or(0);
            let all = sketch.shingles.len() + world.sketches[other].shingles.len() - both;
            both as f64 / all as f64
        };
        // The first of the highest.
        let best = |some: Vec<usize>| {
            some.into_iter().map(|other| (jaccard(other), other)).reduce(|a, b| if b.0 > a.0 { b } else { a })
        };
        let alike = live.iter().copied().filter(|other| jaccard(*other) >= self.config.threshold.get());
        let alike = best(alike.collect());
        let is_later =
            |other: usize| matches!((doc.time, world.docs[other].time), (Some(a), Some(b)) if a > b);
        let enough = |other: usize| {
            let new = Reviser::new().new_text(&doc.text, &world.sketches[other].shingles);
            is_later(other) && new.is_at_least(self.config.revision_chars, self.config.revision_share.get())
        };
        let verdict = if let Some((_, other)) = alike {
            Some((other, !enough(other)))
        } else {
            let mut namesakes = BTreeSet::new();
            for same in [same_name as fn(&Doc, &Doc) -> bool, same_url] {
                let all = live.iter().rev().copied().filter(|other| same(doc, &world.docs[*other]));
                namesakes.extend(all.take(MOST_NAMESAKES));
            }
            let earlier = best(namesakes.into_iter().filter(|other| is_later(*other)).collect());
            earlier.filter(|(_, other)| enough(*other)).map(|(_, other)| (other, false))
        };
        (verdict, alike.map(|(_, other)| other))
    }
}

fn same_name(a: &Doc, b: &Doc) -> bool {
    a.source == b.source && a.name == b.name && !a.name.is_empty()
}

fn same_url(a: &Doc, b: &Doc) -> bool {
    a.source == b.source && a.url == b.url && a.url.is_some()
}

/// Runs stage and twin side by side, the twin on what the stage kept. They differ only where the index
/// missed the best match. Returns the verdicts on texts that are not those of a kept document byte for
/// byte, how many had a match at the threshold, how many it missed.
fn side_by_side(world: &mut World) -> (BTreeMap<usize, Verdict>, usize, usize) {
    let mut twin = Twin::new(world.stage.config);
    let mut texts = BTreeSet::new();
    let (mut verdicts, mut matches, mut missed) = (BTreeMap::new(), 0, 0);
    for index in 0..world.docs.len() {
        if texts.contains(&world.docs[index].text) {
            continue;
        }
        let (expected, alike) = twin.judge(world, index);
        let counts = world.stage.counts;
        let names = names(&record(&world.shard, &world.docs, index));
        let candidates = world.stage.candidates(names, &world.sketches[index].signature);
        world.stage.counts = counts;
        let verdict = world.decide(index);
        let seen = |seq: usize| {
            candidates.iter().any(|candidate| twin.kept.get(candidate.number as usize) == Some(&seq))
        };
        matches += usize::from(alike.is_some());
        if alike.is_some_and(|best| !seen(best)) {
            missed += 1;
        } else {
            assert_eq!(named(&verdict), expected, "document {index}: {:?}", world.docs[index].text);
        }
        if let Verdict::Duplicate { of } | Verdict::Kept { revises: Some(of), .. } = &verdict {
            let (one, other) = (&world.sketches[index].shingles, of.original.seq.0 as usize);
            let overlap = Overlap::of(one, &world.sketches[other].shingles);
            assert_eq!((of.jaccard, of.containment), (overlap.jaccard(), overlap.containment()));
            assert_eq!(
                of.original,
                Original { shard: world.shard.clone(), seq: Seq(other as u64), id: id_of(other) }
            );
        }
        if is_kept(&verdict) {
            twin.keep(index, &world.sketches[index]);
            texts.insert(world.docs[index].text.clone());
        }
        verdicts.insert(index, verdict);
    }
    (verdicts, matches, missed)
}

/// The sound lines of a stream file.
fn read_stream(bytes: &[u8]) -> Vec<Doc> {
    let mut decoder = zstd::stream::read::Decoder::new(bytes).unwrap();
    decoder.window_log_max(27).unwrap();
    let mut lines = Vec::new();
    decoder.read_to_end(&mut lines).unwrap();
    let mut docs = Vec::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(line) else { continue };
        let field = |key: &str| value.get(key).and_then(|field| field.as_str()).map(str::to_owned);
        let sound = |text: &String| !text.trim().is_empty() && !text.contains('\0');
        let (Some(name), Some(text), Some(time)) =
            (field("id"), field("text").filter(sound), field("timestamp"))
        else {
            continue;
        };
        let Some(time) = order_of(&time) else { continue };
        let lineage = value["meta"]["lineage"].as_str().unwrap_or_default().to_owned();
        let source = field("source").unwrap_or_default();
        docs.push(Doc { name, source, url: field("url"), lineage, time: Some(time), text });
    }
    docs
}

/// A number that orders RFC 3339 times of UTC to the second; `None` for anything else.
fn order_of(time: &str) -> Option<i64> {
    let digits: String = time.chars().filter(char::is_ascii_digit).take(14).collect();
    let month: u32 = time.get(5..7)?.parse().ok()?;
    (time.len() == 20 && (1..=12).contains(&month)).then(|| digits.parse().ok())?
}

fn bundled() -> Vec<Doc> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/stream.jsonl.zst");
    read_stream(&std::fs::read(path).unwrap())
}

/// The documents without times and names: nothing is a revision.
fn timeless(docs: Vec<Doc>) -> Vec<Doc> {
    let bare = |doc: Doc| Doc { time: None, name: String::new(), url: None, ..doc };
    docs.into_iter().map(bare).collect()
}

#[test]
fn stream_has_the_near_duplicates_that_brute_force_counts() {
    // The figures of data/README.md, which were counted by another program.
    let docs = bundled();
    assert_eq!(docs.len(), 985);
    let mut world = World::new(Near::default(), timeless(docs));
    let (verdicts, matches, missed) = side_by_side(&mut world);
    let lineage = |index: usize| world.docs[index].lineage.as_str();
    let pairs: Vec<(usize, usize)> =
        verdicts.iter().filter_map(|(index, verdict)| Some((*index, named(verdict)?.0))).collect();
    let same = pairs.iter().filter(|(a, b)| lineage(*a) == lineage(*b)).count();
    assert_eq!((985 - verdicts.len(), matches, missed), (30, 30, 0));
    assert_eq!((pairs.len(), same, verdicts.len() - pairs.len()), (30, 15, 925));
}

#[test]
fn stream_with_its_times_keeps_revisions_with_their_new_text() {
    let mut world = World::new(Near::default(), bundled());
    let (verdicts, matches, missed) = side_by_side(&mut world);
    let duplicates = verdicts.values().filter(|verdict| !is_kept(verdict)).count();
    let mut revisions = 0;
    for (index, verdict) in &verdicts {
        let Verdict::Kept { revises: Some(of), new_spans, lineage } = verdict else { continue };
        revisions += 1;
        assert!(!new_spans.is_empty());
        let other = of.original.seq.0 as usize;
        assert!(world.docs[other].time < world.docs[*index].time);
        let Verdict::Kept { lineage: before, .. } = &verdicts[&other] else {
            panic!("{other} is no original")
        };
        assert_eq!(lineage, before);
    }
    assert_eq!((matches, missed, duplicates, revisions), (31, 0, 18, 14));
    assert_eq!(world.stage.counts().cut + world.stage.counts().lost, 0);
}

/// `text` with `edits` of its words replaced, left out or doubled.
fn edited(text: &str, edits: usize, seed: Seed) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    for edit in 0..edits as u64 {
        let at = below(seed.at(&[edit, 0]), words.len() as u64) as usize;
        match below(seed.at(&[edit, 1]), 3) {
            0 => words[at] = "replaced",
            1 => words.insert(at, "inserted"),
            _ => drop(words.remove(at)),
        }
    }
    words.join(" ")
}

#[test]
fn edited_copies_of_real_text_are_found_at_the_rate_that_was_promised() {
    let seed = Seed::new(11);
    let long: Vec<Doc> =
        timeless(bundled()).into_iter().filter(|doc| doc.text.split(' ').count() > 40).collect();
    let mut docs = long.clone();
    for (index, doc) in long.iter().enumerate() {
        let words = doc.text.split(' ').count();
        for copy in 0..3 {
            // Up to one edit in forty words: the similarity goes down to about 0.75.
            let edits = below(seed.at(&[index as u64, copy]), words as u64 / 40 + 1) as usize;
            docs.push(Doc::of(&edited(&doc.text, edits, seed.child(&format!("{index} {copy}")))));
        }
    }
    let mut world = World::new(Near::default(), docs);
    let (_, matches, missed) = side_by_side(&mut world);
    assert!(matches > 800, "{matches}");
    assert!(missed * 200 <= matches, "{missed} of {matches} missed: recall below 0.995");
}

#[test]
fn labelled_pairs_of_articles_are_found() {
    #[expect(clippy::disallowed_methods, reason = "a test finds its data by the environment")]
    let Some(folder) = std::env::var_os("PERENNIAL_DATA") else {
        eprintln!("not run: PERENNIAL_DATA is not set");
        return;
    };
    let folder = std::path::Path::new(&folder).join("near-duplicates");
    let pairs: Vec<[String; 2]> =
        serde_json::from_slice(&std::fs::read(folder.join("minhash-articles-1000.pairs.json")).unwrap())
            .unwrap();
    let lines = zstd::decode_all(&std::fs::read(folder.join("minhash-articles-1000.jsonl.zst")).unwrap()[..])
        .unwrap();
    let mut names = Vec::new();
    let mut docs = Vec::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let value: serde_json::Value = serde_json::from_slice(line).unwrap();
        names.push(value["id"].as_str().unwrap().to_owned());
        docs.push(Doc::of(value["text"].as_str().unwrap()));
    }
    let mut world = World::new(Near::default(), docs);
    let (verdicts, _, missed) = side_by_side(&mut world);
    let found = verdicts.iter().filter_map(|(index, verdict)| {
        let mut pair = [names[*index].clone(), names[named(verdict)?.0].clone()];
        pair.sort_unstable();
        Some(pair)
    });
    let labelled = pairs.into_iter().map(|mut pair| {
        pair.sort_unstable();
        pair
    });
    assert_eq!(found.collect::<BTreeSet<_>>(), labelled.collect::<BTreeSet<_>>());
    assert_eq!(missed, 0);
}

#[test]
fn stage_rebuilt_from_the_store_decides_as_the_one_never_interrupted() {
    let config = small(150);
    let mut whole = World::new(config, bundled());
    let verdicts = whole.decide_all();
    assert!(whole.stage.len() <= 150 && whole.stage.cache.bytes() <= 64 << 10);
    assert!(whole.stage.counts().looked_up > 0, "the cache is to be too small");
    for cut in [0, 1, 149, 400, 700, whole.docs.len() - 1] {
        let kept: Vec<usize> = (0..cut).filter(|index| is_kept(&verdicts[*index])).collect();
        // All rows, and those of the window alone.
        for first in [0, kept.len().saturating_sub(150)] {
            let mut world = World::new(config, whole.docs.clone());
            for index in &kept[first..] {
                let Verdict::Kept { lineage, .. } = &verdicts[*index] else { panic!("only kept ones") };
                let signature = Signature::from_bytes(&world.sketches[*index].signature.to_bytes()).unwrap();
                world.stage.remember(&record(&world.shard, &world.docs, *index), *lineage, &signature);
            }
            for (index, verdict) in verdicts.iter().enumerate().skip(cut) {
                assert_eq!(&world.decide(index), verdict, "from {cut} on, document {index}");
            }
        }
    }
}

#[test]
fn block_needs_no_text_but_those_that_were_missing_when_it_began() {
    let config = Near { cache: Bytes::kib(128), ..small(500) };
    let mut world = World::new(config, bundled());
    let verdicts = World::new(config, bundled()).decide_all();
    let mut fetched = 0;
    let all: Vec<usize> = (0..world.docs.len()).collect();
    for block in all.chunks(8) {
        let mut missing = Vec::new();
        for index in block {
            let record = record(&world.shard, &world.docs, *index);
            world.stage.missing(&record, &world.sketches[*index].signature, &mut missing);
        }
        fetched += missing.len();
        for index in block {
            let lookup = |of: &Original| {
                let found = missing.contains(of).then(|| Cow::Borrowed(text_of(&world.docs, of)));
                found.map(Some).ok_or_else(|| of.clone())
            };
            let record = record(&world.shard, &world.docs, *index);
            let verdict = world.stage.decide(&record, &world.sketches[*index], lookup);
            assert_eq!(verdict.as_ref(), Ok(&verdicts[*index]));
        }
    }
    assert!(fetched > 0, "the cache is to be too small");
}

const TEXT: &str = "The quick brown fox jumps over the lazy dog while seven other animals of the wood \
    look on and wonder whether it will ever learn to walk around it like everybody else does on a \
    warm evening in the late summer when no one is in a hurry and the light is long";

fn timed(text: &str, name: &str, time: i64) -> Doc {
    Doc { name: name.into(), source: "s".into(), time: Some(time), ..Doc::of(text) }
}

#[test]
fn first_of_a_group_stays_and_a_duplicate_is_never_an_original() {
    let words: Vec<&str> = TEXT.split(' ').collect();
    let without_start = words[5..].join(" ");
    let without_ends = words[5..words.len() - 5].join(" ");
    let mut world = World::new(small(100), [TEXT, &without_start, &without_ends].map(Doc::of).to_vec());
    let verdicts = world.decide_all();
    assert_eq!(named(&verdicts[1]), Some((0, true)));
    let chain = Overlap::of(&world.sketches[2].shingles, &world.sketches[1].shingles).jaccard();
    assert!(chain > 0.8, "the third is alike to the dropped one, {chain}, and not to the first");
    assert_eq!(named(&verdicts[2]), None);
}

#[test]
fn best_match_is_the_most_alike_and_the_lowest_among_equals() {
    let other = TEXT.replace("seven", "eight").replace("warm", "cool");
    let config = Near { threshold: Share::new(0.7).unwrap(), ..small(100) };
    let (a, b) = (TEXT.replace("fox", "hen"), TEXT.replace("fox", "cat"));
    let docs = [&a, &other, &b, TEXT].map(Doc::of);
    let mut world = World::new(config, docs.to_vec());
    for index in [2, 1, 0] {
        // Inserted from the highest seq to the lowest, whatever they are to each other.
        let record = record(&world.shard, &world.docs, index);
        world.stage.remember(&record, id_of(index), &world.sketches[index].signature);
    }
    assert_eq!(named(&world.decide(3)), Some((0, true)));
}

#[test]
fn later_text_with_enough_that_is_new_is_a_revision_and_others_are_duplicates() {
    let added = format!("{TEXT}. And one more sentence.");
    let case = |second: Doc, config: Near| {
        let mut world = World::new(config, vec![timed(TEXT, "a", 10), second]);
        let verdict = world.decide_all().pop().unwrap();
        (named(&verdict), verdict)
    };
    let (name, verdict) = case(timed(&added, "b", 11), small(9));
    assert_eq!(name, Some((0, false)));
    let Verdict::Kept { new_spans, lineage, .. } = verdict else { panic!("kept") };
    assert_eq!((new_spans, lineage), (vec![(TEXT.len() as u32 + 2, added.len() as u32)], id_of(0)));
    for other in [timed(&added, "b", 10), timed(&added, "b", 9), Doc { time: None, ..timed(&added, "b", 0) }]
    {
        assert_eq!(case(other, small(9)).0, Some((0, true)), "not later");
    }
    assert_eq!(case(timed(&TEXT[..TEXT.len() - 9], "a", 11), small(9)).0, Some((0, true)), "nothing new");
    let strict = Near { revision_share: Share::new(0.5).unwrap(), ..small(9) };
    assert_eq!(case(timed(&added, "b", 11), strict).0, Some((0, true)), "too little new");
    let by_chars = Near { revision_chars: 20, ..strict };
    assert_eq!(case(timed(&added, "b", 11), by_chars).0, Some((0, false)));
}

#[test]
fn record_of_the_same_name_is_revised_however_much_changed() {
    let rewritten = "Nothing of the text before is left in this one which is about the sea";
    let docs = |name: &str, url: Option<&str>| {
        let url = url.map(str::to_owned);
        vec![
            Doc { url: Some("u".into()), ..timed(TEXT, "a", 10) },
            Doc { url: url.clone(), ..timed(rewritten, name, 20) },
            Doc {
                url,
                ..timed(&rewritten.replace("sea", "sea and the land and what lives there"), name, 30)
            },
        ]
    };
    for (name, url) in [("a", None), ("", Some("u")), ("a", Some("u"))] {
        let mut world = World::new(small(9), docs(name, url));
        let verdicts = world.decide_all();
        assert_eq!(
            verdicts.iter().map(named).collect::<Vec<_>>(),
            [None, Some((0, false)), Some((1, false))]
        );
        let lineages = verdicts.iter().map(|verdict| match verdict {
            Verdict::Kept { lineage, .. } => *lineage,
            Verdict::Duplicate { .. } => panic!("none"),
        });
        assert_eq!(lineages.collect::<Vec<_>>(), [id_of(0); 3]);
    }
    let mut other_source = docs("a", Some("u"));
    other_source[1].source = "t".into();
    assert_eq!(named(&World::new(small(9), other_source).decide_all()[1]), None);
    // An older version that comes late revises what is older still, never the younger one.
    let mut late = docs("a", None);
    (late[1].time, late[2].time) = (Some(30), Some(20));
    assert_eq!(named(&World::new(small(9), late).decide_all()[2]), Some((0, false)));
}

#[test]
fn original_leaves_with_the_window() {
    let filler = |k: usize| Doc::of(&format!("{k} ").repeat(k % 7 + 1).replace(' ', &format!(" w{k} ")));
    for (between, expected) in [(3, Some((0, true))), (4, None)] {
        let mut docs = vec![Doc::of(TEXT)];
        docs.extend((0..between).map(filler));
        docs.push(Doc::of(&TEXT.replace("seven", "eight")));
        let mut world = World::new(small(4), docs);
        assert_eq!(named(world.decide_all().last().unwrap()), expected);
        assert_eq!(world.stage.len(), 4);
    }
}

#[test]
fn failed_look_up_leaves_nothing_behind_and_a_lost_text_is_no_candidate() {
    let no_cache = Near { cache: Bytes::new(0), ..small(9) };
    let mut world = World::new(no_cache, vec![Doc::of(TEXT), Doc::of(&TEXT.replace("seven", "eight"))]);
    assert!(is_kept(&world.decide(0)));
    let mut missing = Vec::new();
    let record = record(&world.shard, &world.docs, 1);
    world.stage.missing(&record, &world.sketches[1].signature, &mut missing);
    assert_eq!(missing.iter().map(|original| original.seq).collect::<Vec<_>>(), [Seq(0)]);
    assert_eq!(
        world.stage.decide(&record, &world.sketches[1], |_| Err::<Option<Cow<'_, str>>, _>("down")),
        Err("down")
    );
    assert_eq!((world.stage.len(), world.stage.counts().decided), (1, 1));
    let lost = world.stage.decide(&record, &world.sketches[1], |_| Ok::<_, Infallible>(None)).unwrap();
    assert!(is_kept(&lost));
    assert_eq!((world.stage.len(), world.stage.counts().lost), (2, 1));
}

#[test]
fn record_of_the_window_costs_what_the_text_says() {
    assert_eq!(size_of::<Entry>(), 96);
    assert_eq!(Lsh::new(1 << 20).memory() >> 20, 252);
    assert_eq!(Chains::<2>::new(1 << 20).memory() >> 20, 24);
}

#[test]
fn action_changes_no_verdict() {
    let docs = bundled();
    let all: Vec<Vec<Verdict>> = [Action::Drop, Action::Divert, Action::Annotate]
        .map(|action| World::new(Near { action, ..Near::default() }, docs.clone()).decide_all())
        .into();
    assert!(all.iter().all(|verdicts| verdicts == &all[0]));
}

#[test]
fn odd_texts_are_decided_on() {
    let huge = (0..200_000_u64).map(|k| format!("{} ", Seed::new(k).at(&[1]) % 9973)).collect::<String>();
    let joined = "\u{200d}\u{feff}\u{301}\u{345}".repeat(50);
    let long_word = "x".repeat(1 << 20);
    let mut texts = vec!["", "a", "\0", "\u{10ffff}", "👩‍👩‍👧‍👦 🏳️‍🌈", "ﷺﷺﷺﷺﷺﷺ", "Z̸̢̛̥͓a̶l̴g̵o̷", &huge, &joined, &long_word];
    texts.extend([
        "½⅓⅔ ⑴⑵⑶ ㍿㌀ ㈱",
        "\u{202e}right to left\u{202c} שלום",
        "\r\n\r\n\t",
        "¹²³ ǆ ß ﬃ İ ſ",
        "ｶﾞｷﾞｸﾞｹﾞｺﾞ",
    ]);
    let docs: Vec<Doc> = texts.iter().chain(&texts).map(|text| timed(text, text, 0)).collect();
    let mut world = World::new(small(100), docs);
    let verdicts = world.decide_all();
    for index in 0..texts.len() {
        let Verdict::Duplicate { of } = &verdicts[index + texts.len()] else { panic!("{:?}", texts[index]) };
        assert_eq!((of.jaccard, of.containment), (1.0, 1.0), "{:?}", texts[index]);
    }
    assert_eq!(world.sketcher.sketch(""), world.sketches[0]);
    assert_eq!(world.record(1).text, "a");
}

#[test]
fn band_that_many_share_costs_a_bounded_number_of_comparisons() {
    // One template, with enough words of their own that no text is a duplicate of another.
    let page = |k: usize| {
        let own: String = (0..14).map(|word| format!("p{k}w{word} ")).collect();
        Doc::of(&format!("{TEXT} {own}"))
    };
    let mut world = World::new(small(1000), (0..300).map(page).collect());
    assert!(world.decide_all().iter().all(is_kept));
    let counts = world.stage.counts();
    assert!(counts.cut > 100, "{counts:?}");
    assert!(counts.candidates <= 300 * MOST_VERIFIED as u64, "{counts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn stage_decides_as_its_twin_but_for_what_the_index_missed(
        recipe in proptest::collection::vec((0_u64..6, 0_usize..8, any::<u64>(), 0_i64..4, 0_usize..4), 1..40),
        window in 2_u32..30,
    ) {
        let docs = recipe.iter().map(|(base, edits, seed, time, name)| {
            let words = (0..50_u64).map(|k| format!("w{} ", Seed::new(*base).at(&[k]) % 500)).collect::<String>();
            let doc = timed(&edited(words.trim(), *edits, Seed::new(*seed)), ["", "a", "b", "c"][*name], *time);
            Doc { time: (*time > 0).then_some(*time), ..doc }
        });
        let mut world = World::new(small(window), docs.collect());
        let (verdicts, matches, missed) = side_by_side(&mut world);
        prop_assert!(missed <= matches.div_ceil(20), "{} of {}", missed, matches);
        prop_assert!(world.stage.len() <= window as usize);
        // The cache has no say.
        let mut uncached = World::new(Near { cache: Bytes::new(0), ..small(window) }, world.docs.clone());
        prop_assert_eq!(side_by_side(&mut uncached).0, verdicts);
    }
}
