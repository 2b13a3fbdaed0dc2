//! Texts that must never enter the stream: the held-out slices that models are scored on.
//!
//! A reading that equals one of them, or nearly does, becomes a dead letter `held_out`: a score on text
//! that was learnt would measure memory. Equal means the same id or folded form; nearly means a Jaccard
//! similarity of the shingles at the threshold of `[dedup.near]` or above, found by the same index.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use perennial_program::error::{Kind, ProgramError};
use perennial_schemas::id::RecordId;
use perennial_schemas::text::{Identity, folded_hash};

use super::lsh::{Hit, Lsh};
use super::near::{Sketch, Sketcher};
use super::verify::Overlap;
use crate::block::Document;

/// A file of held-out texts that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HeldOutError {
    /// It cannot be read.
    #[error("cannot read the held-out texts in `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A line has no text.
    #[error("line {line} of `{path}` has no text under the key `text`")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

impl ProgramError for HeldOutError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read { source, .. } if source.kind() == ErrorKind::NotFound => Kind::NotFound,
            Self::Read { source, .. } if source.raw_os_error().is_some() => Kind::Unavailable,
            // It does not decompress, or is not UTF-8.
            Self::Read { .. } => Kind::Input,
            Self::Line { .. } => Kind::Input,
        }
    }
    fn hint(&self) -> Option<String> {
        Some("`holdout.files` names files of JSON Lines with the key `text`, plain or `.zst`".into())
    }
}

/// The held-out texts.
#[derive(Debug)]
pub struct HeldOut {
    threshold: f64,
    ids: BTreeMap<RecordId, usize>,
    foldings: BTreeMap<u128, usize>,
    shingles: Vec<Vec<u64>>,
    places: Vec<String>,
    lsh: Lsh,
    hits: Vec<Hit>,
}

impl HeldOut {
    /// The texts of these files; `threshold` is the similarity from which a text nearly equals one.
    ///
    /// # Errors
    /// [`HeldOutError`] where a file cannot be read or a line has no text.
    pub fn load(files: &[PathBuf], threshold: f64) -> Result<Self, HeldOutError> {
        let mut texts = Vec::new();
        for path in files {
            for (index, line) in read(path)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
                let Some(text) = value.get("text").and_then(serde_json::Value::as_str) else {
                    return Err(HeldOutError::Line { path: path.clone(), line: index + 1 });
                };
                texts.push((text.to_owned(), format!("line {} of `{}`", index + 1, path.display())));
            }
        }
        Ok(Self::new(texts, threshold))
    }

    /// These texts, each with where it stands.
    #[must_use]
    pub fn new(texts: Vec<(String, String)>, threshold: f64) -> Self {
        let mut held_out = Self {
            threshold,
            ids: BTreeMap::new(),
            foldings: BTreeMap::new(),
            shingles: Vec::new(),
            places: Vec::new(),
            lsh: Lsh::new(u32::try_from(texts.len().max(1)).unwrap_or(u32::MAX)),
            hits: Vec::new(),
        };
        let mut sketcher = Sketcher::new();
        for (number, (text, place)) in texts.into_iter().enumerate() {
            let sketch = sketcher.sketch(&text);
            // Only the id is compared: here a false match costs one text, a miss the measurement.
            held_out.ids.entry(Identity::of(&text, 0).id).or_insert(number);
            held_out.foldings.entry(folded_hash(&text)).or_insert(number);
            held_out.lsh.insert(&sketch.signature);
            held_out.shingles.push(sketch.shingles);
            held_out.places.push(place);
        }
        held_out
    }

    /// The ids of the texts, for a check of the store.
    pub fn ids(&self) -> impl Iterator<Item = RecordId> + '_ {
        self.ids.keys().copied()
    }

    /// Why a document must not enter the stream, in words; `None` where it may.
    pub fn refuses(&mut self, document: &Document, sketch: &Sketch) -> Option<String> {
        let equal = self.ids.get(&document.identity.id).or_else(|| self.foldings.get(&document.folded));
        if let Some(place) = equal.and_then(|number| self.places.get(*number)) {
            return Some(format!("the text of {place}"));
        }
        self.hits.clear();
        self.lsh.find(&sketch.signature, &mut self.hits);
        let alike = |hit: &Hit| {
            let number = usize::try_from(hit.number).ok()?;
            let jaccard = Overlap::of(&sketch.shingles, self.shingles.get(number)?).jaccard();
            (jaccard >= self.threshold).then_some((number, jaccard))
        };
        let (number, jaccard) = self.hits.iter().filter_map(alike).max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(format!("nearly the text of {} (Jaccard {jaccard:.3})", self.places.get(number)?))
    }
}

fn read(path: &Path) -> Result<String, HeldOutError> {
    let failed = |source| HeldOutError::Read { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    if path.extension().is_some_and(|extension| extension == "zst") {
        zstd::Decoder::new(file).and_then(|mut decoder| decoder.read_to_string(&mut text)).map_err(failed)?;
    } else {
        file.read_to_string(&mut text).map_err(failed)?;
    }
    Ok(text)
}
