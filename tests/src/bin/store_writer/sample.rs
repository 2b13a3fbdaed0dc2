//! Some rows of every table, and beside the store what another program must find in it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::ipc::writer::FileWriter;
use perennial_program::clock::Clock;
use perennial_program::error::{Failure, Kind};
use perennial_program::stop::Stop;
use perennial_schemas::id::Version;
use perennial_schemas::table::buffers::Op;
use perennial_schemas::table::records::{MatchKind, Outcome, Reason, Row};
use perennial_schemas::table::{Table, buffers, evaluations, order, records, signals, views};
use perennial_store::Store;
use perennial_store::commit::Committer;
use perennial_store::maintain::{self, Options};
use serde_json::json;

use super::Refusal;

/// 2001-02-03 04:05:06.789012 UTC.
const TIME: i64 = 981_173_106_789_012;
/// 1969-12-31 23:59:59.999999 UTC.
const BEFORE_1970: i64 = -1;

/// Makes a store at `url`, and in `folder` per version of each table a file with all its rows, as Arrow
/// IPC, and `expected.json` with the names of those files and the transactions.
pub async fn write(url: &str, folder: &Path) -> Result<(), Failure> {
    let store = Store::create(&url.parse()?, &std::collections::HashMap::new(), Clock::manual(TIME)).await?;
    let mut tables = serde_json::Map::new();
    for table in Table::ALL {
        let mut sample = Sample { folder, table, rows: Vec::new(), versions: Vec::new() };
        let fence = format!("sample/{table}");
        let mut committer = Committer::open(&store, table, &fence).await?;
        for (batch, number) in batches(table)?.into_iter().zip(1..) {
            let transactions = vec![(fence.clone(), number), ("shared".to_owned(), -number)];
            let version = committer.commit(std::slice::from_ref(&batch), transactions).await?;
            sample.note(version, Some(batch))?;
        }
        if table == Table::Records {
            let options = Options { open_files: 1, ..Options::default() };
            let done = maintain::run(&store, table, &options, &Stop::new()).await?;
            if done.joined == 0 {
                return Err(Refusal(Kind::Bug, "nothing was compacted".to_owned()).into());
            }
            sample.note(store.version(table).await?, None)?;
        }
        let (fence_at, shared) =
            (store.transaction(table, &fence).await?, store.transaction(table, "shared").await?);
        let transactions =
            BTreeMap::from([(fence, fence_at), ("shared".to_owned(), shared), ("none".to_owned(), None)]);
        let key = key(table);
        let said = json!({ "key": key, "versions": sample.versions, "transactions": transactions });
        tables.insert(table.to_string(), said);
    }
    let text = serde_json::Value::Object(tables).to_string();
    Ok(fs::write(folder.join("expected.json"), text).map_err(failed)?)
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal(Kind::Unavailable, error.to_string())
}

/// The columns that tell a table's rows apart.
const fn key(table: Table) -> &'static [&'static str] {
    match table {
        Table::Records => &["shard", "seq"],
        Table::Signals => &["job", "step"],
        Table::Evaluations => &["job", "step", "slice"],
        Table::Buffers => &["buffer", "revision"],
        Table::Views => &["job", "number"],
        Table::Order => &["number"],
    }
}

struct Sample<'a> {
    folder: &'a Path,
    table: Table,
    rows: Vec<RecordBatch>,
    versions: Vec<serde_json::Value>,
}

impl Sample<'_> {
    /// Writes down what the table has at a version.
    fn note(&mut self, version: Version, more: Option<RecordBatch>) -> Result<(), Refusal> {
        self.rows.extend(more);
        let all = concat_batches(&self.table.schema(), &self.rows).map_err(failed)?;
        let name = format!("{}-{version}.arrow", self.table);
        let file = File::create(self.folder.join(&name)).map_err(failed)?;
        let mut writer = FileWriter::try_new(file, &self.table.schema()).map_err(failed)?;
        writer.write(&all).and_then(|()| writer.finish()).map_err(failed)?;
        self.versions.push(json!({ "version": version, "rows": all.num_rows(), "file": name }));
        Ok(())
    }
}

/// Two batches for each table.
fn batches(table: Table) -> Result<[RecordBatch; 2], Failure> {
    Ok(match table {
        Table::Records => [first_records()?, more_records()?],
        Table::Signals => [signal(0)?, signal(1)?],
        Table::Evaluations => [evaluation(0)?, evaluation(1)?],
        Table::Buffers => [change(1, Op::Admit)?, change(2, Op::Range)?],
        Table::Views => [view(1)?, view(2)?],
        Table::Order => [place(0)?, place(1)?],
    })
}

/// A record with every column that a kept one has.
fn full<'a>() -> Row<'a> {
    Row {
        day: records::day_of(TIME),
        seq: Some(0),
        commit: 1,
        path: Some("Straße/é .txt"),
        generation: 2,
        fingerprint: Some(i64::MIN),
        start: 0,
        end: 30,
        event_time: Some(BEFORE_1970),
        ingest_time: TIME,
        id: Some(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 254, 255]),
        length: Some(29),
        verify_hash: Some(i64::MAX),
        folded: Some(&[255; 16]),
        external_id: Some(""),
        url: Some("https://example.org/?q=%20"),
        meta: Some("{\"a\":[1,\"\u{1F331}\"]}"),
        text: Some("Zeile eins\r\n\u{1F331}\t\u{0301}e \"quoted\"\n"),
        language: Some("de-CH"),
        passages: Some(&[10, 0, 0, 0, 30, 0, 0, 0]),
        lineage: Some(&[9; 16]),
        revises: Some(&[8; 16]),
        new_spans: Some(&[0; 8]),
        signature: Some(&[7; 512]),
        signature_kind: Some("words-5/128/1"),
        embedding: Some(&[0, 60]),
        embedder: Some("hashed/0123456789abcdef"),
        embedder_period: Some(3),
        unseen: Some(0.25),
        surprisal: Some(f32::MIN_POSITIVE),
        distance: Some(2.0),
        importance: Some(0.0),
        unseen_percentile: Some(1.0),
        surprisal_percentile: Some(0.5),
        distance_percentile: Some(0.0),
        diversity: Some(3.5),
        drift: Some("[]"),
        ..Row::new(Outcome::Kept, "main", "files")
    }
}

fn first_records() -> Result<RecordBatch, Failure> {
    let mut builder = records::Builder::new();
    builder.push(full());
    builder.push(Row {
        seq: Some(1),
        commit: 1,
        day: records::day_of(TIME),
        start: 30,
        end: 31,
        ingest_time: TIME,
        id: Some(&[1; 16]),
        text: Some(""),
        ..Row::new(Outcome::Kept, "main", "files")
    });
    builder.push(Row {
        seq: Some(2),
        commit: 1,
        // Another day, so another partition.
        day: records::day_of(TIME) - 12_000,
        start: 31,
        end: 60,
        ingest_time: TIME,
        id: Some(&[2; 16]),
        duplicate_of_shard: Some("main"),
        duplicate_of_seq: Some(0),
        duplicate_of_id: full().id,
        match_kind: Some(MatchKind::Near.as_str()),
        jaccard: Some(0.875),
        containment: Some(1.0),
        ..Row::new(Outcome::Duplicate, "main", "files")
    });
    Ok(builder.finish()?)
}

fn more_records() -> Result<RecordBatch, Failure> {
    let mut builder = records::Builder::new();
    for seq in 3..40_i64 {
        let letter = Row {
            seq: Some(seq),
            commit: 2,
            day: records::day_of(TIME),
            start: 60 + seq,
            end: 61 + seq,
            ingest_time: TIME + seq,
            raw: Some(b"\xff\x00{"),
            raw_length: Some(3),
            reason: Some(Reason::InvalidUtf8.as_str()),
            detail: Some("byte 0"),
            ..Row::new(Outcome::DeadLetter, "main", "files")
        };
        let kept = Row { seq: Some(seq), commit: 2, start: 60 + seq, end: 61 + seq, ..full() };
        builder.push(if seq % 3 == 0 { letter } else { kept });
    }
    builder.push(Row {
        seq: None,
        commit: 2,
        day: records::day_of(TIME),
        reason: Some(Reason::Expired.as_str()),
        first_seq: Some(40),
        last_seq: Some(41),
        removed: Some(2),
        ..Row::new(Outcome::DeadLetter, "main", "files")
    });
    Ok(builder.finish()?)
}

fn signal(step: i64) -> Result<RecordBatch, Failure> {
    let mut builder = signals::Builder::new();
    builder.push(signals::Row {
        job: "walk-1",
        model: "small",
        step,
        shard: "main",
        seq: 0,
        id: &[3; 16],
        first_token: 0,
        tokens: 30,
        loss: 5.5,
        passage_losses: Some(&[0, 0, 128, 63]),
        entropy: (step == 0).then_some(0.5),
        gradient_sketch: Some(&[0, 60]),
        top_ids: Some(&[1, 0, 0, 0]),
        top_log_probs: Some(&[0, 188]),
        top_k: Some(1),
        tokenizer: (step == 0).then_some("bytes"),
        time: TIME,
    });
    Ok(builder.finish()?)
}

fn evaluation(step: i64) -> Result<RecordBatch, Failure> {
    let mut builder = evaluations::Builder::new();
    builder.push(evaluations::Row {
        job: "walk-1",
        series: "live",
        weights: "live",
        step,
        tokens: 1 << 40,
        slice: "poems-1850",
        document: (step == 1).then_some("a poem"),
        nats: 0.1 + 0.2,
        predicted: 3,
        bytes: 4,
        time: BEFORE_1970,
    });
    Ok(builder.finish()?)
}

fn place(number: i64) -> Result<RecordBatch, Failure> {
    let mut builder = order::Builder::new();
    builder.push(order::Row {
        number,
        offset: 3 * number,
        kind: order::Kind::Reading.as_str(),
        source: "main",
        first: 3 * number,
        last: 3 * number + 2,
        time: TIME,
    });
    Ok(builder.finish()?)
}

fn change(change: i64, op: Op) -> Result<RecordBatch, Failure> {
    let mut builder = buffers::Builder::new();
    builder.push(buffers::Row {
        buffer: "main",
        revision: change,
        op: op.as_str(),
        shard: "main",
        seq: 0,
        offset: 0,
        end_offset: (op == Op::Range).then_some(39),
        id: full().id,
        bytes: Some(30),
        key: Some(f64::MIN_POSITIVE),
        weight: (op == Op::Admit).then_some(2.0),
        class: Some("files"),
        policy: "reservoir",
        capacity: Some(1 << 30),
        capacity_unit: Some("bytes"),
        policy_digest: "00112233445566778899aabbccddeeff",
        seen: 39,
    });
    Ok(builder.finish()?)
}

fn view(number: i64) -> Result<RecordBatch, Failure> {
    let mut builder = views::Builder::new();
    builder.push(views::Row {
        job: "walk-1",
        number,
        op: if number == 1 { "view" } else { "skip" },
        first_step: 2 * number - 2,
        end_step: 2,
        ticket: "{}",
        positions: "[]",
        skipped: (number == 2).then_some(7),
        forked_from: (number == 1).then_some("walk-0@3"),
        time: TIME,
    });
    Ok(builder.finish()?)
}
