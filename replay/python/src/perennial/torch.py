"""Batches for PyTorch.

    from perennial.torch import ReplayDataset, ReplayLoader

    loader = ReplayLoader(ReplayDataset("http://127.0.0.1:7400", job="a"), num_workers=2)
    for batch in loader:
        loss = model(batch["tokens"], batch["positions"]) ..
        checkpoint["data"] = loader.state_dict()
"""

from __future__ import annotations

from typing import Any, Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ._batch import Batch
from ._batches import Batches

__all__ = ["ReplayDataset", "ReplayLoader", "tensors"]


def tensors(batch: Batch) -> dict[str, Any]:
    """The arrays of a batch as tensors: `tokens` and `targets` as int64, `mask` as bool, `positions` as int64,
    `cu_seqlens` as int32; `step`, `max_seqlen`, `rows`, `replayed`, `spans` and `ticket` as they are."""
    return {
        "step": batch.step,
        "tokens": torch.from_numpy(batch.tokens.astype("int64")),
        "targets": torch.from_numpy(batch.targets.astype("int64")),
        "mask": torch.from_numpy(batch.mask.copy()),
        "positions": torch.from_numpy(batch.positions.astype("int64")),
        "cu_seqlens": torch.from_numpy(batch.cu_seqlens),
        "max_seqlen": batch.max_seqlen,
        "rows": torch.from_numpy(batch.rows.copy()),
        "replayed": torch.from_numpy(batch.replayed.copy()),
        "spans": batch.spans,
        "ticket": batch.ticket,
    }


class ReplayDataset(IterableDataset):  # type: ignore[misc]
    """The batches of a job as tensors. Takes the arguments of `perennial.Batches`.

    Without `rank` and `world_size` they are those of `torch.distributed`, where that is in use. Of the workers of a
    DataLoader each reads every n-th step, so that the loader gives the steps in order.
    """

    def __init__(self, url: str, job: str, *, rank: int | None = None, world_size: int | None = None, **more: Any) -> None:
        if rank is None and world_size is None and torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._arguments = {"url": url, "job": job, "rank": rank or 0, "world_size": world_size or 1, **more}
        # Wrong arguments are reported here, not in a worker.
        self._next = Batches(**self._arguments).state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Where to go on. With workers ask the `ReplayLoader`: this object does not see what they read."""
        return dict(self._next)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another reader stood, whatever the numbers of its ranks and workers."""
        reader = Batches(**self._arguments)
        reader.load_state_dict(state)
        self._next = reader.state_dict()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        count, number = (worker.num_workers, worker.id) if worker else (1, 0)
        reader = Batches(**{**self._arguments, "start": self._next["step"] + number, "every": count})
        for batch in reader:
            if worker is None:
                self._next = reader.state_dict()
            yield tensors(batch)


class ReplayLoader:
    """A `torch.utils.data.DataLoader` over a `ReplayDataset` that knows where to go on.

    Takes the further arguments of the DataLoader, as `num_workers` and `pin_memory`.
    """

    def __init__(self, dataset: ReplayDataset, **more: Any) -> None:
        self.dataset = dataset
        self._more = more

    def __iter__(self) -> Iterator[dict[str, Any]]:
        step = self.state_dict()["step"]
        for batch in DataLoader(self.dataset, batch_size=None, **self._more):
            # Where one worker has met the end of the stream, another may have met text that came a moment later.
            if batch["step"] != step:
                return
            step += 1
            self.dataset.load_state_dict({**self.state_dict(), "step": step})
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where to go on: after the last batch that the loop has got."""
        return self.dataset.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another loader stood, whatever the numbers of its ranks and workers."""
        self.dataset.load_state_dict(state)
