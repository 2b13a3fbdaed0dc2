//! Reads the standard input.
//!
//! A pipe cannot be read again: after a restart its first byte must be the one that the store's
//! position names, which is logged here and part of the run's summary.

use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::thread;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::blocks::Blocks;
use super::cut::{Cutter, Last};
use super::{End, SourceError, record};
use crate::block::Place;
use crate::config;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Pieces that wait to be cut into records.
const AHEAD: usize = 8;

type Piece = std::io::Result<Vec<u8>>;

pub(super) fn read(source: &config::Source, blocks: &mut Blocks) -> Result<(), End> {
    read_from(std::io::stdin(), source, blocks)
}

/// Reads `input` to its end. A thread of its own does, because nothing can wake a thread that waits
/// for a pipe: at a stop it is left behind, and ends with the process.
pub(super) fn read_from(
    input: impl Read + Send + 'static,
    source: &config::Source,
    blocks: &mut Blocks,
) -> Result<(), End> {
    let failed = |error| SourceError::Io {
        name: source.name.clone(),
        act: "read",
        path: "standard input".into(),
        source: error,
    };
    let fields = Arc::new(source.fields.clone());
    let place = Place {
        source: source.name.as_str().into(),
        path: None,
        generation: 0,
        fingerprint: None,
        format: source.format,
        record: source.record,
        fields,
    };
    let at = blocks.position(&(place.source.clone(), None)).map_or(0, |position| position.end);
    tracing::info!(
        source = source.name,
        at,
        "reading the standard input: its first byte is taken for this one"
    );
    blocks.begin(place);
    let mut cutter = Cutter::new(record(source), at);
    let (sender, mut queue) = mpsc::channel(AHEAD);
    thread::Builder::new().name("stdin".to_owned()).spawn(move || pump(input, &sender)).map_err(failed)?;
    loop {
        blocks.outlet.go_on()?;
        let piece = match queue.try_recv() {
            Ok(piece) => Some(piece),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => {
                // Whoever writes line by line sees its lines go on.
                blocks.flush()?;
                blocks.outlet.next(&mut queue)?
            }
        };
        match piece {
            Some(piece) => cutter.feed(blocks, &piece.map_err(failed)?)?,
            None => return cutter.finish(blocks, Last::Whole),
        }
    }
}

fn pump(mut input: impl Read, pieces: &mpsc::Sender<Piece>) {
    loop {
        let mut piece = vec![0; CHUNK];
        let read = input.read(&mut piece);
        let read = match read {
            Ok(0) => return,
            Ok(count) => {
                piece.truncate(count);
                Ok(piece)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = read.is_err();
        if pieces.blocking_send(read).is_err() || failed {
            return;
        }
    }
}
