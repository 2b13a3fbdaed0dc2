//! Statistics of buffers and of the stream: records and tokens by source and by year of the event.

use std::collections::BTreeMap;

use perennial_schemas::id::{Offset, Revision, Version};
use serde::Serialize;

use crate::error::Result;
use crate::index::RecordRef;
use crate::library::Library;
use crate::tokenise::byte_tokens;

/// Records and their byte tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Number of records.
    pub records: u64,
    /// Number of byte tokens, with any tokenizer: bytes of text, and one for the boundary of each record.
    pub tokens: u64,
}

/// Statistics of a set of records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Census {
    /// All.
    pub total: Count,
    /// By source.
    pub by_source: BTreeMap<String, Count>,
    /// By the year (UTC) of the event, if the source gives one.
    pub by_year: BTreeMap<i64, Count>,
    /// Records without an event time.
    pub undated: Count,
}

/// One buffer at its newest revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BufferCensus {
    /// The policy.
    pub policy: &'static str,
    /// Its capacity, if it has one.
    pub capacity: Option<String>,
    /// Its newest revision.
    pub revision: Revision,
    /// How much of the order its policy had seen: the first offset that it had not.
    pub seen: Offset,
    /// Its members.
    pub members: Census,
    /// Members whose text is no longer in the store.
    pub removed: Count,
}

/// Statistics of a library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The version of `records`.
    pub records: Version,
    /// The digest of the config that tickets name.
    pub config: String,
    /// All kept records.
    pub stream: Census,
    /// The buffers, by name.
    pub buffers: BTreeMap<String, BufferCensus>,
}

impl Count {
    fn add(&mut self, tokens: u64) {
        self.records += 1;
        self.tokens += tokens;
    }
}

impl Census {
    fn add(&mut self, record: &RecordRef<'_>) {
        let tokens = byte_tokens(record.bytes);
        self.total.add(tokens);
        match self.by_source.get_mut(&**record.source) {
            Some(count) => count.add(tokens),
            None => self.by_source.entry(record.source.to_string()).or_default().add(tokens),
        }
        match record.event_time {
            Some(time) => self.by_year.entry(year_of(time)).or_default().add(tokens),
            None => self.undated.add(tokens),
        }
    }
}

/// Computes the statistics.
///
/// # Errors
/// A buffer's changes are inconsistent.
pub fn inspect(library: &mut Library) -> Result<Inspection> {
    let mut buffers = BTreeMap::new();
    for name in library.buffers().keys().cloned().collect::<Vec<_>>() {
        let members = library.newest_members(&name)?;
        let Some(follow) = library.buffers().get(&name) else { continue };
        let mut census = BufferCensus {
            policy: follow.spec().policy_name,
            capacity: follow.spec().settings.capacity().map(|capacity| capacity.to_string()),
            revision: members.revision(),
            seen: follow.log().seen(),
            members: Census::default(),
            removed: Count::default(),
        };
        for member in members.list() {
            match library.index().get(member.offset).filter(|record| !record.erased) {
                Some(record) => census.members.add(&record),
                None => census.removed.add(byte_tokens(member.bytes)),
            }
        }
        buffers.insert(name, census);
    }
    let mut stream = Census::default();
    library.index().records().filter(|record| !record.erased).for_each(|record| stream.add(&record));
    Ok(Inspection { records: library.version(), config: library.plan().digest(), stream, buffers })
}

/// The year (UTC, proleptic Gregorian) of a time in microseconds since 1970.
///
/// The computation uses years that start in March, so that the leap day is a year's last day: Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn year_of(time: i64) -> i64 {
    let days = time.div_euclid(86_400_000_000) + 719_468;
    let era = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    // January and February are days 306 and later of the year before.
    era * 400 + year + i64::from(day_of_year >= 306)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn year_of_a_time_changes_at_new_year() {
        const DAY: i64 = 86_400_000_000;
        for (days, year) in [
            (0, 1970),
            (-1, 1969),
            (365, 1971),
            (10_957, 2000),
            (10_956, 1999),
            (11_323, 2001),
            (11_322, 2000),
        ] {
            assert_eq!(year_of(days * DAY), year, "{days}");
        }
        // 29 February and 1 March 2000, 31 December 1899, 1 January 1900.
        for (days, year) in [(11_016, 2000), (11_017, 2000), (-25_568, 1899), (-25_567, 1900)] {
            assert_eq!(year_of(days * DAY), year, "{days}");
        }
        assert_eq!(year_of(-1), 1969);
        assert_eq!((year_of(i64::MIN) < -290_000, year_of(i64::MAX) > 290_000), (true, true));
    }
}
