//! Whether a score ranks text of a new kind above the rest: real text of one domain, language or time is left
//! out of a stream and put back, thinly, near its end.
//!
//! A stream is the documents of all other groups in a shuffled order, so that it has no drift of its own; among
//! the last quarter stand, evenly spaced, a few of the group. For a new year the stream is the older documents
//! of one source, and the others are its newer ones. Every document is scored before it is learnt, and all are
//! learnt. The figure is the area under the ROC curve over the last quarter: the probability that a document of
//! the group has a higher score than another one, ties half; 0.5 is chance.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

/// A document with what it is grouped by.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its text.
    pub text: String,
    order: u64,
    source: String,
    domain: String,
    language: String,
    year: i32,
}

/// Which documents are taken: the first of each lineage, and of those one in `all`; of poems, which are short and
/// more than half of the large stream, one in `all * poems`.
#[derive(Debug, Clone, Copy)]
pub struct Thinning {
    /// Of poems.
    pub poems: u64,
    /// Of all.
    pub all: u64,
}

/// The documents of some lines of JSON.
pub fn documents(lines: &[u8], thinning: Thinning) -> Vec<Document> {
    let mut lineages = BTreeSet::new();
    let mut documents = Vec::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Ok(line) = serde_json::from_slice::<Value>(line) else { continue };
        let word = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let meta = |key: &str| word(line.get("meta").and_then(|meta| meta.get(key)));
        let order = xxh3_64(word(line.get("id")).as_bytes());
        let domain = meta("domain");
        let one_in = thinning.all * if domain == "poetry" { thinning.poems } else { 1 };
        let text = word(line.get("text"));
        if !order.is_multiple_of(one_in) || text.is_empty() || !lineages.insert(meta("lineage")) {
            continue;
        }
        let year = word(line.get("timestamp")).get(..4).and_then(|year| year.parse().ok()).unwrap_or(0);
        let (source, language) = (word(line.get("source")), meta("lang"));
        documents.push(Document { text, order: order.rotate_left(32), source, domain, language, year });
    }
    documents.sort_by_key(|document| document.order);
    documents
}

/// A group that is put back: the documents by their index, and which of them are of the group.
#[derive(Debug, Clone)]
pub struct Injection {
    /// `domain`, `language` or `year`.
    pub kind: &'static str,
    /// The domain, the language, or the source whose newer documents they are.
    pub group: String,
    /// The stream.
    pub stream: Vec<(usize, bool)>,
    /// From where on it is judged.
    judged: usize,
}

/// How large the streams are.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Most documents of others.
    pub others: usize,
    /// Most documents of the group.
    pub group: usize,
    /// Minimum documents of a group; the others must be four times as many.
    pub least: usize,
}

/// Every group that is large enough, in a fixed order.
pub fn injections(documents: &[Document], sizes: Sizes) -> Vec<Injection> {
    let mut found = Vec::new();
    type Key = fn(&Document) -> &str;
    let kinds: [(&'static str, Key); 2] =
        [("domain", |document| &document.domain), ("language", |document| &document.language)];
    for (kind, key) in kinds {
        for group in documents.iter().map(key).collect::<BTreeSet<_>>() {
            let of_group: Vec<bool> = documents.iter().map(|document| key(document) == group).collect();
            let (new, others) = (0..documents.len()).partition(|index| of_group[*index]);
            found.extend(injection(kind, group, others, new, sizes));
        }
    }
    let mut sources: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, document) in documents.iter().enumerate() {
        sources.entry(&document.source).or_default().push(index);
    }
    for (source, indices) in sources {
        let mut years: Vec<i32> = indices.iter().map(|index| documents[*index].year).collect();
        years.sort_unstable();
        let split = years[years.len() * 3 / 5];
        let (new, old): (Vec<_>, Vec<_>) =
            indices.into_iter().partition(|index| documents[*index].year > split);
        // A year between the old and the new.
        let new = new.into_iter().filter(|index| documents[*index].year > split + 1).collect();
        found.extend(injection("year", source, old, new, sizes));
    }
    found
}

fn injection(
    kind: &'static str,
    group: &str,
    mut others: Vec<usize>,
    mut new: Vec<usize>,
    sizes: Sizes,
) -> Option<Injection> {
    others.truncate(sizes.others);
    new.truncate(sizes.group);
    if new.len() < sizes.least || others.len() < 4 * sizes.least {
        return None;
    }
    let judged = others.len() * 3 / 4;
    let step = ((others.len() - judged) / (new.len() + 1)).max(1);
    let mut stream: Vec<(usize, bool)> = others.iter().take(judged).map(|index| (*index, false)).collect();
    let mut new = new.into_iter();
    for (place, index) in others.iter().skip(judged).enumerate() {
        stream.push((*index, false));
        if place % step == step - 1 {
            stream.extend(new.next().map(|index| (index, true)));
        }
    }
    Some(Injection { kind, group: group.to_owned(), stream, judged })
}

impl Injection {
    /// The area under the ROC curve of the values of the stream's documents.
    pub fn auc(&self, values: &[f32]) -> f64 {
        let mut judged: Vec<(f32, bool)> = self
            .stream
            .iter()
            .zip(values)
            .skip(self.judged)
            .map(|((_, new), value)| (*value, *new))
            .collect();
        judged.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut below, mut area) = (0.0, 0.0);
        let mut positives = 0.0;
        for equal in judged.chunk_by(|a, b| a.0 == b.0) {
            let new = equal.iter().filter(|(_, new)| *new).count() as f64;
            let others = equal.len() as f64 - new;
            area += new * (below + others / 2.0);
            below += others;
            positives += new;
        }
        area / (positives * below)
    }
}
