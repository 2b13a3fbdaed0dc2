//! Makes a document or a dead letter of each reading.
//!
//! ```text
//! decode (reading -> fields) ─> time (timestamp -> microseconds) ─> passage (text -> passages) ─> identity
//! ```
//!
//! A function of the reading alone: rows are computed on all cores, in any order, and put together in
//! the order of reading.

use perennial_schemas::table::records::{RAW_LIMIT, Reason};
use perennial_schemas::text::{Identity, folded_hash};
use rayon::prelude::*;

use crate::block::{Block, Content, Document, Place, Reading, Readings, Row, Rows, Verdict};

pub mod decode;
pub mod passage;
pub mod time;

use decode::Decoder;

/// Readings that one core takes at a time.
const PIECE: usize = 32;

/// Makes rows of readings.
#[derive(Debug, Clone, Copy)]
pub struct Normaliser {
    secret: u64,
}

impl Normaliser {
    /// For a store whose second hash is keyed by `secret`.
    #[must_use]
    pub const fn new(secret: u64) -> Self {
        Self { secret }
    }

    /// Gives every reading of `block` its row; documents are kept until `dedup` says otherwise.
    #[must_use]
    pub fn run(&self, mut block: Block) -> Block {
        let readings = &block.readings;
        let pieces: Vec<Rows> =
            readings.list.par_chunks(PIECE).map(|piece| self.rows(readings, piece)).collect();
        let mut rows = Rows::default();
        pieces.into_iter().for_each(|piece| rows.append(piece));
        for (index, row) in rows.list.iter().enumerate() {
            if matches!(row, Row::Dead { .. }) {
                block.tally.dead_letters += 1;
                keep_fields(&mut block.readings, index);
            }
        }
        block.rows = rows;
        block
    }

    fn rows(&self, readings: &Readings, piece: &[Reading]) -> Rows {
        let mut rows = Rows::default();
        let mut decoder = Decoder::default();
        for reading in piece {
            let Some(place) = readings.place(reading) else { continue };
            let row = match self.document(readings, reading, place, &mut decoder, &mut rows) {
                Ok(document) => Row::Document { document, verdict: Verdict::Kept, marks: None },
                Err(refused) => {
                    let detail = format!(
                        "{}, at {} {} of `{}`",
                        refused.detail,
                        place.unit(),
                        reading.start,
                        place.name()
                    );
                    Row::Dead { reason: refused.reason, detail: rows.push_text(&detail) }
                }
            };
            rows.list.push(row);
        }
        rows
    }

    fn document<'r>(
        &self,
        readings: &'r Readings,
        reading: &Reading,
        place: &'r Place,
        decoder: &mut Decoder<'r>,
        rows: &mut Rows,
    ) -> Result<Document, Refused> {
        if let Some(fault) = &reading.fault {
            return Err(Refused { reason: fault.reason, detail: fault.detail.clone() });
        }
        let decoded = decoder.decode(readings, reading, place)?;
        let passages = rows.ends.len();
        passage::cut(&decoded.text, &mut rows.ends);
        Ok(Document {
            identity: Identity::of(&decoded.text, self.secret),
            folded: folded_hash(&decoded.text),
            event_time: decoded.event_time,
            text: rows.push_text(&decoded.text),
            external_id: decoded.external_id.map(|id| rows.push_text(&id)),
            url: decoded.url.map(|url| rows.push_text(&url)),
            origin: decoded.origin.map(|origin| rows.push_text(&origin)),
            meta: decoded.meta.map(|meta| rows.push_text(&meta)),
            passages: passages..rows.ends.len(),
        })
    }
}

/// A reading that became a dead letter keeps what was read: of a row its fields as JSON, the text last, as it
/// may be long.
pub(crate) fn keep_fields(readings: &mut Readings, index: usize) {
    let Some(reading) = readings.list.get(index) else { return };
    let (Some((columns, row)), Some(place)) = (readings.row(reading), readings.place(reading)) else {
        return;
    };
    let json = decode::columns::json(columns, row, &place.fields);
    let start = readings.bytes.len();
    readings.bytes.extend_from_slice(json.get(..RAW_LIMIT).unwrap_or(&json));
    if let Some(reading) = readings.list.get_mut(index) {
        reading.content = Content::Bytes(start..readings.bytes.len());
        reading.length = json.len() as u64;
    }
}

/// Why a reading is no document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The reason.
    pub reason: Reason,
    /// The reason in words, without the place.
    pub detail: String,
}

impl Refused {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}
