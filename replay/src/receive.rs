//! Receives the trainers' evaluations and writes them once per step and job.
//!
//! After the commit they get their place in the order of the store.
//!
//! A trainer that was killed and resumed sends the same evaluations again; the fence
//! `evaluations/<job>/<series>`, which holds the last received step plus one, makes that a no-op.

use perennial_schemas::id::{Step, Version, check_name};
use perennial_schemas::table::evaluations::{Builder, Row};
use perennial_schemas::table::order::Kind;
use perennial_schemas::table::{Table, TableError};
use perennial_store::commit::Committer;
use perennial_store::order::{Claim, OrderLog};
use perennial_store::{Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// A model's score on one document of a slice.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Which weights were scored: `live`, `average`, ...
    pub weights: String,
    /// The slice.
    pub slice: String,
    /// The document in it.
    pub document: String,
    /// Sum of the next-token losses, in nats.
    pub nats: f64,
    /// Tokens predicted.
    pub predicted: u64,
    /// Bytes of their text.
    pub bytes: u64,
}

/// The result of receiving evaluations. Over the wire `{"written": version}` or `"before"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Received {
    /// They were written as this version of `evaluations`.
    Written(Version),
    /// This step or a later one was already received.
    Before,
}

/// Writes the evaluations of `job` at `step`, after `tokens` trained tokens, and their place in the order. Steps ascend within a `series`:
/// the evaluations during a job are one series, those of averaged weights at its end another.
///
/// # Errors
/// An invalid name ([`perennial_schemas::id::IdError`]); a store that cannot be written; a conflict with
/// another process that receives for the same job.
pub async fn evaluations(
    store: &Store,
    order: &mut OrderLog,
    job: &str,
    series: &str,
    step: Step,
    tokens: u64,
    scores: &[Evaluation],
) -> Result<Received> {
    check_name("job", job)?;
    check_name("series", series)?;
    let source = format!("{job}/{series}");
    let fence = Kind::Evaluation.transaction(&source);
    let mut committer = Committer::open(store, Table::Evaluations, &fence).await?;
    let number = step.next().to_i64();
    let mut claim = Claim { kind: Kind::Evaluation, source: source.into(), next: step.next().0 };
    if let Some(last) = committer.last(&fence).await?.filter(|last| *last >= number) {
        // A trainer that was killed in between left them without a place.
        claim.next = last.unsigned_abs();
        order.append(&[claim]).await?;
        return Ok(Received::Before);
    }
    let mut rows = Builder::new();
    let time = store.clock().now_us();
    for score in scores {
        rows.push(Row {
            job,
            series,
            weights: &score.weights,
            step: step.to_i64(),
            tokens: long(tokens),
            slice: &score.slice,
            document: Some(&score.document),
            nats: score.nats,
            predicted: long(score.predicted),
            bytes: long(score.bytes),
            time,
        });
    }
    let wrong = |source: TableError| StoreError::Rows { table: Table::Evaluations, source };
    let batch = rows.finish().map_err(wrong)?;
    let version = committer.commit(&[batch], vec![(fence, number)]).await?;
    order.append(&[claim]).await?;
    Ok(Received::Written(version))
}

fn long(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use perennial_schemas::table::evaluations::View;
    use perennial_store::Scan;

    use crate::testing::store;

    fn score(slice: &str, nats: f64) -> Evaluation {
        Evaluation {
            weights: "live".into(),
            slice: slice.into(),
            document: "a".into(),
            nats,
            predicted: 10,
            bytes: 9,
        }
    }

    #[tokio::test]
    async fn evaluations_are_written_once_per_step_however_often_they_are_sent() {
        let (_folder, store) = store(5).await;
        let mut order = OrderLog::open(&store).await.unwrap();
        let first = [score("law", 1.0), score("speech", 2.0)];
        assert_eq!(
            evaluations(&store, &mut order, "job", "live", Step(0), 0, &first).await.unwrap(),
            Received::Written(Version(1))
        );
        assert_eq!(
            evaluations(&store, &mut order, "job", "live", Step(0), 0, &first).await.unwrap(),
            Received::Before
        );
        assert_eq!(
            evaluations(&store, &mut order, "job", "live", Step(9), 90, &first).await.unwrap(),
            Received::Written(Version(2))
        );
        assert_eq!(
            evaluations(&store, &mut order, "job", "live", Step(4), 40, &first).await.unwrap(),
            Received::Before
        );
        assert_eq!(
            evaluations(&store, &mut order, "other", "live", Step(4), 40, &first).await.unwrap(),
            Received::Written(Version(3))
        );
        assert!(evaluations(&store, &mut order, "a/b", "live", Step(4), 40, &first).await.is_err());
        let events = order.order().events();
        let placed: Vec<_> = events.iter().map(|event| (&*event.source, event.steps.clone())).collect();
        assert_eq!(placed, [("job/live", 0..1), ("job/live", 1..10), ("other/live", 0..5)]);

        let scan = Scan { order: &["job", "step", "slice"], ..Scan::default() };
        let batches = store.scan(Table::Evaluations, Version(3), &scan).await.unwrap();
        let rows: Vec<(String, i64, String, f64)> = batches
            .iter()
            .flat_map(|batch| {
                View::new(batch)
                    .unwrap()
                    .iter()
                    .map(|r| (r.job.into(), r.step, r.slice.into(), r.nats))
                    .collect::<Vec<_>>()
            })
            .collect();
        let expected = [("job", 0), ("job", 9), ("other", 4)]
            .iter()
            .flat_map(|(job, step)| {
                [("law", 1.0), ("speech", 2.0)]
                    .map(|(slice, nats)| ((*job).into(), *step, slice.into(), nats))
            })
            .collect::<Vec<(String, i64, String, f64)>>();
        assert_eq!(rows, expected);
    }
}
