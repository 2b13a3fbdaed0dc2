"""A batch as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Batch:
    """Rows of T tokens with their targets, and where each token is from.

    A row holds pieces of documents, each a span. A model must not attend across spans: use `positions` and
    `cu_seqlens`, or `spans`.

    Attributes:
        step: the step.
        ticket: what the batch was made from; the same ticket gives the same batch for ever.
        tokens: int32, (rows, T): inputs.
        targets: int32, (rows, T): the token after each input in its document.
        mask: bool, (rows, T): whether the target counts. False is padding.
        positions: int32, (rows, T): the place of each token in its span; padding counts on from 0.
        cu_seqlens: int32, (sequences + 1): where the spans, and the padding after them, begin in the flattened
            rows, for attention over sequences of different lengths. The last one is rows * T.
        max_seqlen: the longest of them.
        rows: int64, (rows): the number of each row in the job.
        replayed: bool, (rows): whether the row is replayed.
        spans: one row for each span: `row` (0 to rows - 1), `buffer`, and the columns of the store: `start`, `tokens`,
            `shard`, `seq`, `offset`, `id`, `first_token`, `erased`, `probability`.
    """

    step: int
    ticket: dict[str, Any]
    tokens: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    positions: np.ndarray
    cu_seqlens: np.ndarray
    max_seqlen: int
    rows: np.ndarray
    replayed: np.ndarray
    spans: pa.Table

    @staticmethod
    def of(columns: pa.Table, ticket: dict[str, Any]) -> Batch:
        """The batch of the columns that a server sends."""
        columns = columns.combine_chunks()
        count = columns.num_rows
        length = columns.schema.field("tokens").type.list_size

        def cells(name: str) -> np.ndarray:
            column = columns.column(name)
            if column.num_chunks == 0:
                return np.empty((0, length), dtype=column.type.value_type.to_pandas_dtype())
            return column.chunk(0).flatten().to_numpy(zero_copy_only=False).reshape(count, length)

        spans = span_table(columns)
        positions, starts = places(spans, count, length)
        longest = int(np.diff(starts).max()) if len(starts) > 1 else 0
        return Batch(
            step=int(ticket["step"]),
            ticket=ticket,
            tokens=cells("tokens"),
            targets=cells("targets"),
            mask=cells("mask"),
            positions=positions,
            cu_seqlens=starts,
            max_seqlen=longest,
            rows=columns.column("row").to_numpy(),
            replayed=columns.column("replayed").to_numpy(),
            spans=spans,
        )


def span_table(columns: pa.Table) -> pa.Table:
    """One row for each span, with the row of the batch that it is in."""
    lists = columns.column("spans").combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    values = lists.flatten()
    rows = np.repeat(np.arange(len(lists), dtype=np.int32), lists.value_lengths().to_numpy(zero_copy_only=False))
    buffer = columns.column("buffer").take(pa.array(rows))
    table = pa.Table.from_arrays(values.flatten(), names=[field.name for field in values.type])
    return table.add_column(0, "row", pa.array(rows)).add_column(1, "buffer", buffer)


def places(spans: pa.Table, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The place of each token in its span, and where each span and each stretch of padding begins."""
    begin = spans.column("row").to_numpy().astype(np.int64) * length + spans.column("start").to_numpy()
    end = begin + spans.column("tokens").to_numpy()
    # Padding begins where a span or a row begins or ends, and no span does.
    edges = np.concatenate([begin, end, np.arange(count + 1, dtype=np.int64) * length])
    starts = np.unique(edges).astype(np.int32)
    lengths = np.diff(starts)
    positions = np.arange(count * length, dtype=np.int32) - np.repeat(starts[:-1], lengths)
    return positions.reshape(count, length), starts
