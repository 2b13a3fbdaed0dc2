//! The order: that its rows follow each other, and place only what is committed.

use deltalake::DeltaTable;

use super::{Checker, or_none};
use crate::order::{FENCE, Order};
use crate::{Scan, StoreError, transaction_of};
use perennial_schemas::table::Table;
use perennial_schemas::table::order::{Kind, View};

const DENSE: &str = "the order is dense, and each source follows itself";
const PLACED: &str = "what has a place is committed";

impl Checker<'_> {
    /// `tables` are the tables that the order places, at the versions that are checked. Readings without a
    /// place are no violation: the next reader of the store places them.
    pub(super) async fn order(
        &mut self,
        delta: &DeltaTable,
        tables: [(Kind, Option<&DeltaTable>); 2],
    ) -> Result<(), StoreError> {
        let table = Table::Order;
        let mut order = Order::default();
        let mut sources: Vec<(Kind, String)> = Vec::new();
        let mut broken = None;
        let scan = Scan { columns: &[], filter: None, order: &["number"] };
        self.scan(table, &scan, |_, batch| {
            for row in View::new(batch)?.iter() {
                if broken.is_some() {
                    break;
                }
                match order.push(&row) {
                    Ok(()) => sources.extend(Kind::parse(row.kind).map(|kind| (kind, row.source.to_owned()))),
                    Err(error) => broken = Some(error),
                }
            }
            Ok(())
        })
        .await?;
        if let Some(error) = broken {
            self.violation(table, DENSE, error.to_string());
            return Ok(());
        }
        let committed = transaction_of(delta, table, FENCE).await?;
        if committed.unwrap_or(0) != i64::try_from(order.rows()).unwrap_or(i64::MAX) {
            let detail =
                format!("`{FENCE}` stands at {}, there are {} rows", or_none(committed), order.rows());
            self.violation(table, DENSE, detail);
        }
        sources.sort();
        sources.dedup();
        self.order = order.clone();
        for (kind, source) in sources {
            let place =
                tables.iter().find(|(of, _)| *of == kind).and_then(|(_, delta)| delta.zip(Some(kind)));
            let Some((delta, kind)) = place else { continue };
            let name = kind.transaction(&source);
            let of = match kind {
                Kind::Reading => Table::Records,
                Kind::Evaluation => Table::Evaluations,
            };
            let found = transaction_of(delta, of, &name).await?;
            let next = order.next(kind, &source);
            if found.and_then(|found| u64::try_from(found).ok()).is_none_or(|found| found < next) {
                let detail = format!("`{name}` stands at {}, the order goes on at {next}", or_none(found));
                self.violation(table, PLACED, detail);
            }
        }
        Ok(())
    }
}
