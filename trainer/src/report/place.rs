//! How far into the stream a job had read, by the positions that the store's `views` give its steps.

use perennial_program::error::Failure;
use perennial_replay::views::ViewLog;
use perennial_schemas::id::{Offset, Step};
use perennial_schemas::wire::{Cursor, Position};
use perennial_store::Store;

/// The kept records of the stream in its order: a place in it is the bytes of kept text before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruler {
    /// With ascending offset.
    marks: Vec<Mark>,
    whole: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    offset: Offset,
    before: u64,
    bytes: u64,
}

impl Ruler {
    /// Adds the next record of the stream; its place.
    pub fn add(&mut self, offset: Offset, bytes: u64) -> u64 {
        let before = self.whole;
        self.whole = self.whole.saturating_add(bytes);
        self.marks.push(Mark { offset, before, bytes });
        before
    }

    /// Bytes of all kept text.
    #[must_use]
    pub const fn whole(&self) -> u64 {
        self.whole
    }

    /// The place of a cursor; a token counts as a byte, which is right for byte tokens, and never leads beyond
    /// the record.
    fn place(&self, cursor: Cursor) -> u64 {
        let next = self.marks.partition_point(|mark| mark.offset < cursor.offset);
        match self.marks.get(next) {
            Some(mark) if mark.offset == cursor.offset => mark.before + cursor.token.min(mark.bytes),
            Some(mark) => mark.before,
            None => self.whole,
        }
    }
}

/// The share of the stream's kept text that `job` had been fed, or had passed over, after each of these
/// ascending numbers of steps. Of steps that are not decided it is that of the number before.
///
/// # Errors
/// The store's, and invalid rows.
pub async fn delivered(store: &Store, job: &str, steps: &[i64], ruler: &Ruler) -> Result<Vec<f64>, Failure> {
    let mut log = ViewLog::open(store, job).await?;
    let (mut reached, mut shares) = (0, Vec::with_capacity(steps.len()));
    for step in steps.iter().map(|step| Step::from_i64(*step)) {
        if let Some(position) = position(&mut log, step).await? {
            reached = reached.max(ruler.place(position.new_text));
        }
        shares.push(reached as f64 / ruler.whole.max(1) as f64);
    }
    Ok(shares)
}

/// Where a job stood before a step.
async fn position(log: &mut ViewLog, step: Step) -> Result<Option<Position>, Failure> {
    if let Some(ticket) = log.find(step).await?.and_then(|view| view.ticket_of(step)) {
        return Ok(Some(ticket.from));
    }
    let newest = log.newest().filter(|newest| newest.end() == step);
    Ok(newest.map(|newest| newest.standing().position))
}

#[cfg(test)]
mod tests {
    use perennial_program::clock::Clock;
    use perennial_replay::views::{self, Entry};
    use perennial_schemas::seed::Seed;
    use perennial_schemas::table::views::Op;
    use perennial_schemas::wire::{Order, Settings, Ticket, WIRE_FORMAT};
    use perennial_store::StoreUrl;
    use tokio::runtime::Runtime;

    use super::*;

    /// Ten records of 100 bytes, at every second offset.
    fn ruler() -> Ruler {
        let mut ruler = Ruler::default();
        for record in 0..10 {
            ruler.add(Offset(2 * record), 100);
        }
        ruler
    }

    fn at(offset: u64, token: u64) -> Position {
        Position { new_text: Cursor { offset: Offset(offset), token }, ..Position::default() }
    }

    #[test]
    fn places_are_bytes_of_kept_text() {
        let ruler = ruler();
        assert_eq!(ruler.whole(), 1_000);
        let places = [(0, 0), (4, 40), (4, 500), (5, 9), (18, 100), (19, 0), (99, 0)];
        let places = places.map(|(offset, token)| ruler.place(at(offset, token).new_text));
        assert_eq!(places, [0, 240, 300, 300, 1_000, 1_000, 1_000]);
    }

    fn view(job: &str, first: u64, from: Position, positions: Vec<Position>) -> Entry {
        let settings =
            Settings { rows: 1, order: Order::Stream, keep: 1_000_000_000, mix: Default::default() };
        let ticket = Ticket {
            format: WIRE_FORMAT,
            job: job.to_owned(),
            step: Step(first),
            limit: Offset(20),
            settings,
            buffers: Default::default(),
            config: String::new(),
            seed: Seed::new(0),
            from,
        };
        Entry { number: 1, op: Op::View, ticket, positions, skipped: None, forked_from: None, time: 0 }
    }

    #[test]
    fn a_job_stands_where_its_next_step_begins() {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
        let url: StoreUrl = folder.path().to_str().unwrap().parse().unwrap();
        let shares = runtime.block_on(async {
            let store = Store::create(&url, &Default::default(), Clock::manual(0)).await.unwrap();
            let whole = view("whole", 0, at(0, 0), vec![at(2, 50), at(4, 20), at(4, 20)]);
            let branch = view("branch", 7, at(4, 20), vec![at(6, 0)]);
            for entry in [whole, branch] {
                views::write(&store, &entry).await.unwrap();
            }
            let mut shares = Vec::new();
            for (job, steps) in [("whole", &[0, 1, 2, 3, 9][..]), ("branch", &[7, 8]), ("none", &[0, 5])] {
                shares.push(delivered(&store, job, steps, &ruler()).await.unwrap());
            }
            shares
        });
        // Not by its own length: half a stream that was read is half a stream.
        assert_eq!(shares, [vec![0.0, 0.15, 0.22, 0.22, 0.22], vec![0.22, 0.3], vec![0.0, 0.0]]);
    }
}
