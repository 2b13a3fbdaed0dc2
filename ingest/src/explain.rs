//! What became of one reading, and why, in words.

use std::fmt::Write as _;

use perennial_schemas::id::{Seq, Shard};
use perennial_schemas::table::Table;
use perennial_schemas::table::records::{MatchKind, Outcome, Row, View};
use perennial_store::{Scan, Store};

use crate::error::IngestError;
use crate::score::CATALOGUE;

/// Explains the reading `seq` of `shard`; `None` if it does not exist.
///
/// # Errors
/// Where the store cannot be read.
pub async fn explain(store: &Store, shard: &Shard, seq: Seq) -> Result<Option<String>, IngestError> {
    let version = store.version(Table::Records).await?;
    // The name of a shard has no character that SQL knows.
    let filter = Some(format!("shard = '{shard}' and seq = {}", seq.to_i64()));
    let batches = store.scan(Table::Records, version, &Scan { filter, ..Scan::default() }).await?;
    for batch in &batches {
        if let Some(row) = View::new(batch)?.get(0) {
            return Ok(Some(describe(&row)));
        }
    }
    Ok(None)
}

fn describe(row: &Row<'_>) -> String {
    let mut text = String::new();
    let seq = row.seq.unwrap_or_default();
    let path = row.path.unwrap_or("the standard input");
    let _ = writeln!(text, "{}/{seq}: {}", row.shard, row.outcome);
    let _ = writeln!(
        text,
        "  read from `{path}` of source `{}`, positions {} to {}",
        row.source, row.start, row.end
    );
    for (what, value) in
        [("document", row.external_id), ("from", row.origin), ("url", row.url), ("drift", row.drift)]
    {
        let _ = value.map(|value| writeln!(text, "  {what}: {value}"));
    }
    match row.outcome.parse() {
        Ok(Outcome::Kept) => kept(&mut text, row),
        Ok(Outcome::Duplicate) => duplicate(&mut text, row),
        _ => {
            let _ = writeln!(text, "  reason: {}", row.reason.unwrap_or("unknown"));
            let _ = row.detail.map(|detail| writeln!(text, "  {detail}"));
            let stored = row.raw.map_or(0, <[u8]>::len);
            let _ =
                writeln!(text, "  {stored} of its {} bytes are stored", row.raw_length.unwrap_or_default());
        }
    }
    text
}

fn kept(text: &mut String, row: &Row<'_>) {
    let _ = writeln!(text, "  id {}", hex(row.id));
    for score in CATALOGUE.iter().filter_map(|entry| (entry.explain)(row)) {
        let _ = writeln!(text, "  {score}");
    }
    if row.duplicate_of_seq.is_some() {
        duplicate(text, row);
    }
    if row.revises.is_some() {
        let spans = row.new_spans.map_or(0, |spans| spans.len() / 8);
        let _ = writeln!(text, "  a revision of {}, with {spans} new spans", hex(row.revises));
    }
}

fn duplicate(text: &mut String, row: &Row<'_>) {
    let of = format!(
        "{}/{} (id {})",
        row.duplicate_of_shard.unwrap_or("?"),
        row.duplicate_of_seq.unwrap_or_default(),
        hex(row.duplicate_of_id)
    );
    let _ = match row.match_kind.and_then(|kind| kind.parse().ok()) {
        Some(MatchKind::Exact) => writeln!(text, "  the text of {of}: same normal form"),
        Some(MatchKind::Folded) => writeln!(text, "  the text of {of}, except for case, width and spacing"),
        _ => writeln!(
            text,
            "  nearly the text of {of}: Jaccard {:.3}, containment {:.3}",
            row.jaccard.unwrap_or_default(),
            row.containment.unwrap_or_default()
        ),
    };
}

fn hex(id: Option<&[u8]>) -> String {
    id.map_or_else(|| "?".to_owned(), |id| id.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use perennial_schemas::table::records::Reason;

    #[test]
    fn each_outcome_is_explained_with_its_evidence() {
        let new = |outcome| Row { seq: Some(4), path: Some("a.jsonl"), ..Row::new(outcome, "main", "s") };
        let scores = Row {
            unseen: Some(0.25),
            unseen_percentile: Some(0.5),
            distance: Some(0.75),
            ..new(Outcome::Kept)
        };
        let kept = describe(&scores);
        assert!(kept.contains("25 % of its shingles") && kept.contains("than 50 %"), "{kept}");
        assert!(kept.contains("is 0.75\n"), "{kept}");
        let of =
            Row { duplicate_of_shard: Some("main"), duplicate_of_seq: Some(1), ..new(Outcome::Duplicate) };
        let near = describe(&Row { match_kind: Some("near"), jaccard: Some(0.875), ..of });
        assert!(near.contains("main/1") && near.contains("Jaccard 0.875"), "{near}");
        let annotated = Row { jaccard: Some(0.75), duplicate_of_seq: Some(2), ..new(Outcome::Kept) };
        let annotated = describe(&annotated);
        assert!(annotated.contains("main/4: kept") && annotated.contains("Jaccard 0.750"), "{annotated}");
        let reason = Some(Reason::Nul.as_str());
        let dead = describe(&Row {
            reason,
            detail: Some("byte 3"),
            raw_length: Some(9),
            ..new(Outcome::DeadLetter)
        });
        assert!(
            dead.contains("reason: nul") && dead.contains("byte 3") && dead.contains("of its 9 bytes"),
            "{dead}"
        );
    }
}
