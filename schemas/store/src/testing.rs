//! Another engine at work on a table: it deletes rows and compacts files as Delta's protocol has it, without
//! the fence of our own rewrites.

use arrow::array::{BooleanArray, RecordBatch};
use deltalake::kernel::Action;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::protocol::DeltaOperation;
use deltalake::writer::DeltaWriter as _;
use futures::TryStreamExt as _;

use crate::commit::Committer;
use crate::{Store, file};
use perennial_schemas::table::Table;
use perennial_schemas::table::records::{Row, View};

/// Rewrites the files of `records` that hold rows for which `is_deleted` holds, and says how many they were.
pub(crate) async fn delete(store: &Store, is_deleted: impl Fn(&Row<'_>) -> bool) -> usize {
    let operation = DeltaOperation::Delete { predicate: None };
    rewrite(store, operation, true, |batch| {
        let rows = View::new(batch).unwrap();
        BooleanArray::from_iter(rows.iter().map(|row| Some(!is_deleted(&row))))
    })
    .await
}

/// Joins all files of `records`, one for each partition.
pub(crate) async fn optimize(store: &Store) {
    let operation = DeltaOperation::Optimize { predicate: None, target_size: 1 << 30 };
    rewrite(store, operation, false, |batch| BooleanArray::from(vec![true; batch.num_rows()])).await;
}

/// Replaces files by one that has their rows where `keep` is true, and says how many rows are gone. A change
/// of the data leaves files alone that keep all their rows.
async fn rewrite(
    store: &Store,
    operation: DeltaOperation,
    data_change: bool,
    keep: impl Fn(&RecordBatch) -> BooleanArray,
) -> usize {
    let table = Table::Records;
    let committer = Committer::open(store, table, "another-engine").await.unwrap();
    let delta = committer.delta();
    let mut writer = committer.writer().unwrap();
    let mut actions = Vec::new();
    let mut gone = 0;
    let views: Vec<_> = delta.get_active_add_actions_by_partitions(&[]).try_collect().await.unwrap();
    for view in views {
        let batches = file::read(store, delta, table, &file::DataFile::of(&view), None, None).await.unwrap();
        let kept: Vec<RecordBatch> = batches
            .iter()
            .map(|batch| arrow::compute::filter_record_batch(batch, &keep(batch)).unwrap())
            .collect();
        let rows = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        let deleted = rows(&batches) - rows(&kept);
        if data_change && deleted == 0 {
            continue;
        }
        gone += deleted;
        actions.push(Action::Remove(view.remove_action(data_change)));
        for batch in kept.into_iter().filter(|batch| batch.num_rows() > 0) {
            writer.write(batch).await.unwrap();
        }
    }
    for mut add in writer.flush().await.unwrap() {
        add.data_change = data_change;
        actions.push(Action::Add(add));
    }
    CommitBuilder::from(CommitProperties::default())
        .with_actions(actions)
        .build(Some(delta.snapshot().unwrap()), delta.log_store(), operation)
        .await
        .unwrap();
    gone
}
