//! The changes of buffers: that they can be replayed.

use std::collections::BTreeMap;

use deltalake::DeltaTable;

use super::{Checker, Kept, MEMBERS, Standing, or_none};
use crate::{Scan, StoreError, transaction_of};
use perennial_schemas::id::{Offset, Seq};
use perennial_schemas::table::buffers::Op;
use perennial_schemas::table::{Table, buffers};

impl Checker<'_> {
    pub(super) async fn buffers(&mut self, delta: &DeltaTable) -> Result<(), StoreError> {
        let table = Table::Buffers;
        let columns = ["end_offset", "id", "bytes", "capacity", "capacity_unit"];
        let changes = Scan { columns: &columns, filter: None, order: &["buffer", "revision"] };
        let mut all: BTreeMap<String, Members> = BTreeMap::new();
        self.scan(table, &changes, |checker, batch| {
            for row in buffers::View::new(batch)?.iter() {
                let mut problems = all.entry(row.buffer.to_owned()).or_default().apply(&row);
                if row.op == Op::Admit.as_str() {
                    problems.extend(checker.not_kept(&row));
                }
                for (invariant, detail) in problems {
                    let detail = format!("buffer `{}` change {}: {detail}", row.buffer, row.revision);
                    checker.violation(table, invariant, detail);
                }
            }
            Ok(())
        })
        .await?;
        for (name, members) in &all {
            if let Some((invariant, detail)) = members.over_capacity(&self.sizes(members.range)) {
                self.violation(table, invariant, format!("buffer `{name}` at its newest change: {detail}"));
            }
            let committed = transaction_of(delta, table, &format!("buffer/{name}")).await?;
            if committed != Some(members.change) {
                let committed = or_none(committed);
                let detail =
                    format!("`buffer/{name}` stands at {committed}, the rows end at {}", members.change);
                self.violation(table, "change numbers agree with the log", detail);
            }
        }
        Ok(())
    }

    /// Bytes of the kept records of a range of the order.
    fn sizes(&self, range: Option<(i64, i64)>) -> Vec<i64> {
        let Some((from, end)) = range else { return Vec::new() };
        let runs = self.order.runs(Offset::from_i64(from), Offset::from_i64(end));
        let seq = |seq: u64| i64::try_from(seq).unwrap_or(i64::MAX);
        let kept = runs.flat_map(|run| {
            let kept = self.kept.get(run.shard.as_str());
            kept.into_iter().flat_map(move |kept| kept.range(seq(run.seqs.start)..seq(run.seqs.end)))
        });
        kept.map(|(_, one)| one.bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(0)).collect()
    }

    /// What is wrong with the record that a change admits.
    fn not_kept(&self, row: &buffers::Row<'_>) -> Option<Problem> {
        let wrong = |detail: &str| Some((MEMBERS, format!("seq {} of `{}` {detail}", row.seq, row.shard)));
        let place =
            row.shard.parse().ok().and_then(|shard| self.order.offset(&shard, Seq::from_i64(row.seq)));
        if place.is_some_and(|place| place.to_i64() != row.offset) {
            return wrong("has another offset in the order");
        }
        match self.standing(row.shard, row.seq) {
            Standing::Kept(kept) if row.id != Some(kept.id.as_bytes()) => wrong("is another text"),
            Standing::Kept(Kept { bytes: Some(bytes), .. })
                if row.bytes.and_then(|bytes| u64::try_from(bytes).ok()) != Some(bytes) =>
            {
                wrong("has another size")
            }
            Standing::Kept(_) | Standing::Removed => None,
            Standing::Never => wrong("was never kept"),
        }
    }
}

/// An invariant and how it is broken.
type Problem = (&'static str, String);

/// A buffer as its changes make it.
#[derive(Default)]
struct Members {
    change: i64,
    /// By (shard, seq): bytes and id.
    held: BTreeMap<(String, i64), (i64, Vec<u8>)>,
    /// How often an id is in it.
    ids: BTreeMap<Vec<u8>, u64>,
    bytes: i64,
    /// The range that the members are.
    range: Option<(i64, i64)>,
    capacity: Option<(i64, String)>,
}

impl Members {
    /// Applies the next change; says what is wrong with it.
    fn apply(&mut self, row: &buffers::Row<'_>) -> Vec<Problem> {
        let replayable = |detail: String| ("changes can be replayed", detail);
        let mut problems = Vec::new();
        let next = self.change.saturating_add(1);
        if row.revision != next {
            problems.push(("change numbers are dense", format!("{next} belongs here")));
        }
        self.change = row.revision;
        self.capacity = row.capacity.zip(row.capacity_unit).map(|(most, unit)| (most, unit.to_owned()));
        let key = (row.shard.to_owned(), row.seq);
        match (Op::parse(row.op), row.id.zip(row.bytes), row.end_offset) {
            (Some(Op::Admit), Some(_), _) if self.held.contains_key(&key) => {
                problems.push(replayable(format!("seq {} enters twice", row.seq)));
            }
            (Some(Op::Admit), Some((id, bytes)), _) => {
                self.held.insert(key, (bytes, id.to_vec()));
                self.bytes = self.bytes.saturating_add(bytes);
                let times = self.ids.entry(id.to_vec()).or_default();
                *times += 1;
                if *times > 1 {
                    let detail = format!("the text of seq {} is in it already", row.seq);
                    problems.push(("a buffer holds an id once", detail));
                }
                // While it shrinks to a smaller capacity it may be above that.
                problems.extend(self.over_capacity(&[]));
            }
            (Some(Op::Evict), ..) => match self.held.remove(&key) {
                Some((bytes, id)) => {
                    self.bytes = self.bytes.saturating_sub(bytes);
                    if let Some(times) = self.ids.get_mut(&id) {
                        *times -= 1;
                    }
                }
                None => problems.push(replayable(format!("seq {} leaves and was not in it", row.seq))),
            },
            (Some(Op::Range), _, Some(end)) if row.offset <= end && end <= row.seen => {
                self.range = Some((row.offset, end));
            }
            (op, ..) => {
                let lacks = op.map_or("is no change", |_| "lacks what it is about");
                problems.push(replayable(format!("`{}` {lacks}", row.op)));
            }
        }
        problems
    }

    /// Whether it holds more than it may; `sizes` are those of the records of its range.
    fn over_capacity(&self, sizes: &[i64]) -> Option<Problem> {
        let (most, unit) = self.capacity.as_ref()?;
        // No collection has more than `isize::MAX` elements.
        let mut records = self.held.len() as i64;
        let mut bytes = self.bytes;
        // What is larger than the whole is no member.
        let size = |bytes: i64| match unit.as_str() {
            "bytes" => bytes,
            "tokens" => bytes.saturating_add(1),
            _ => 1,
        };
        for one in sizes.iter().filter(|bytes| size(**bytes) <= *most) {
            records += 1;
            bytes = bytes.saturating_add(*one);
        }
        let held = match unit.as_str() {
            "records" => records,
            "bytes" => bytes,
            "tokens" => bytes.saturating_add(records),
            _ => return Some(("a buffer keeps its capacity", format!("`{unit}` is no unit"))),
        };
        (held > *most).then(|| ("a buffer keeps its capacity", format!("{held} of {most} {unit}")))
    }
}
