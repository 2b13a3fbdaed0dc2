//! Text of a new kind ranks above the rest: the small form of the benchmark `score`, on the bundled stream.

use std::collections::BTreeMap;
use std::path::Path;

use perennial_schemas::id::Seq;
use perennial_schemas::seed::Seed;

use super::{CATALOGUE, Cell, Context, Record, Values};
use crate::dedup::near::{Sketch, Sketcher};

#[path = "../../benches/detect/mod.rs"]
mod detect;

use detect::{Sizes, Thinning};

/// The mean area under the ROC curve by score and kind of injection.
fn areas() -> BTreeMap<(&'static str, &'static str), f64> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/stream.jsonl.zst");
    let lines = zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap();
    let documents = detect::documents(&lines, Thinning { poems: 1, all: 1 });
    let mut sketcher = Sketcher::new();
    let sketches: Vec<Sketch> = documents.iter().map(|document| sketcher.sketch(&document.text)).collect();
    let mut areas: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for injection in detect::injections(&documents, Sizes { others: 1_000, group: 20, least: 15 }) {
        let record = |(seq, (index, _)): (u64, &(usize, bool))| Record {
            seq: Seq(seq),
            length: documents[*index].text.len() as u64,
            text: &documents[*index].text,
            sketch: &sketches[*index],
        };
        let records: Vec<Record<'_>> = (0..).zip(&injection.stream).map(record).collect();
        for entry in CATALOGUE {
            let mut score = (entry.build)(&Context { shard: "main".parse().unwrap(), seed: Seed::new(0) });
            let mut values = Values::new(entry.columns.len());
            score.score(&records, &mut values);
            let column = entry.columns.iter().position(|column| column.name == entry.name).unwrap();
            let values: Vec<f32> = (0..values.len())
                .map(|row| values.row(row).nth(column).and_then(Cell::real).unwrap())
                .collect();
            let area = injection.auc(&values);
            assert!(area.is_finite(), "{} of a new {}, {}", entry.name, injection.kind, injection.group);
            areas.entry((entry.name, injection.kind)).or_default().push(area);
        }
    }
    areas.into_iter().map(|(key, areas)| (key, areas.iter().sum::<f64>() / areas.len() as f64)).collect()
}

#[test]
fn text_of_a_new_domain_or_language_ranks_above_the_rest() {
    let areas = areas();
    for (score, kind, least) in
        [("unseen", "domain", 0.53), ("distance", "domain", 0.57), ("distance", "language", 0.75)]
    {
        let area = areas.get(&(score, kind)).copied().unwrap_or_default();
        assert!(area > least, "{score} of a new {kind}: {area:.3} in {areas:?}");
    }
    assert!(areas[&("distance", "language")] > areas[&("unseen", "language")], "{areas:?}");
}
