//! The embeddings of records, read in stretches of the order as policies ask for them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use perennial_schemas::id::{Offset, Seq, Shard, Version};
use perennial_schemas::table::Table;
use perennial_schemas::table::column::unpack_f16;
use perennial_schemas::table::records::{Outcome, View};
use perennial_store::{Scan, Store};

use crate::buffer::Embedding;
use crate::error::Result;
use crate::index::Index;

/// Offsets that are read at once.
const STRETCH: u64 = 1 << 14;

/// The embeddings of one stretch.
#[derive(Debug)]
pub struct Embeddings {
    store: Store,
    version: Version,
    /// The offsets that were read.
    stretch: Range<Offset>,
    found: BTreeMap<Offset, Found>,
}

#[derive(Debug)]
struct Found {
    embedder: Arc<str>,
    values: Vec<f32>,
}

impl Embeddings {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        let stretch = Offset(0)..Offset(0);
        Self { store: store.clone(), version: Version(0), stretch, found: BTreeMap::new() }
    }

    /// From now on reads this version of `records`.
    pub fn at(&mut self, version: Version) {
        if self.version != version {
            (self.version, self.stretch) = (version, Offset(0)..Offset(0));
        }
    }

    /// Reads what is needed to get those of `from .. to`.
    ///
    /// # Errors
    /// The store's.
    pub async fn read(&mut self, index: &Index, from: Offset, to: Offset) -> Result<()> {
        if self.stretch.start <= from && to <= self.stretch.end {
            return Ok(());
        }
        let end = Offset(from.0.saturating_add(STRETCH)).max(to).min(index.limit().max(to));
        let mut seqs: BTreeMap<&Shard, Range<Seq>> = BTreeMap::new();
        let mut offsets: BTreeMap<(&str, i64), Offset> = BTreeMap::new();
        for record in index.range(from, end).filter(|record| !record.erased) {
            let range = seqs.entry(record.shard).or_insert(record.seq..record.seq);
            *range = range.start.min(record.seq)..range.end.max(record.seq.next());
            offsets.insert((record.shard.as_str(), record.seq.to_i64()), record.offset);
        }
        self.found.clear();
        if !seqs.is_empty() {
            let one = |(shard, seqs): (&&Shard, &Range<Seq>)| {
                format!("(shard = '{shard}' and seq >= {} and seq < {})", seqs.start, seqs.end)
            };
            let ranges: Vec<String> = seqs.iter().map(one).collect();
            let filter = Some(format!("outcome = '{}' and ({})", Outcome::Kept, ranges.join(" or ")));
            let scan = Scan { columns: &["seq", "embedding", "embedder"], filter, order: &[] };
            let mut embedders: BTreeMap<String, Arc<str>> = BTreeMap::new();
            for batch in self.store.scan(Table::Records, self.version, &scan).await? {
                for row in View::new(&batch)?.iter() {
                    let offset = row.seq.and_then(|seq| offsets.get(&(row.shard, seq)));
                    let (Some(offset), Some(blob), Some(embedder)) = (offset, row.embedding, row.embedder)
                    else {
                        continue;
                    };
                    let name = embedders.entry(embedder.to_owned()).or_insert_with(|| embedder.into());
                    let values = unpack_f16(blob).collect();
                    self.found.insert(*offset, Found { embedder: Arc::clone(name), values });
                }
            }
        }
        self.stretch = from..end;
        Ok(())
    }

    /// The embedding of the record at an offset, if it has one.
    #[must_use]
    pub fn get(&self, offset: Offset) -> Option<Embedding<'_>> {
        let found = self.found.get(&offset)?;
        Some(Embedding { embedder: &found.embedder, values: &found.values })
    }
}
