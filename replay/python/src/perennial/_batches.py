"""The batches of a job, one after the other."""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Iterator

from ._batch import Batch
from ._client import Client, JobEnded

log = logging.getLogger("perennial")

REPORT = 30.0


@dataclass(frozen=True)
class Share:
    """The part of each batch that one of several ranks reads: rows `first` to the one before `end` of `rows`.

    Any number of ranks will do: the parts differ by at most one row.
    """

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not one of a world of {self.world_size}")

    def of(self, rows: int) -> tuple[int, int]:
        """The first row, and the one after the last."""
        return rows * self.rank // self.world_size, rows * (self.rank + 1) // self.world_size


class Batches:
    """Iterates over the batches of a job, in order, the next ones read ahead.

    The steps of a job and their batches are decided by the server, for ever: it does not matter how many ranks and
    workers read them, or when. So the whole state is the number of the next step.

    Args:
        url: the server's HTTP address, such as `http://127.0.0.1:7400`.
        job: the name of the job, which seeds its draws. It begins with its first ticket.
        rank: this reader's number among `world_size` ranks, each of which gets a share of the rows of each batch.
        world_size: the number of ranks.
        start: the first step.
        stop: the step to end before; default: never.
        every: read each `every`-th step only, as one of several workers does.
        settings: `rows`, `order`, `keep` and `mix` of a job that does not exist yet; default: the server's.
        at_end: what to do where the stream has no more text: `"wait"` for more, or `"stop"`.
        prefetch: the number of batches that are read ahead.
        wait: seconds for which a server that does not answer is waited for.
        deadline: seconds for which an answer may stand still.
    """

    def __init__(
        self,
        url: str,
        job: str,
        *,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        stop: int | None = None,
        every: int = 1,
        settings: dict[str, Any] | None = None,
        at_end: str = "wait",
        prefetch: int = 4,
        wait: float = 600.0,
        deadline: float = 120.0,
    ) -> None:
        if at_end not in ("wait", "stop"):
            raise ValueError(f"`at_end` is {at_end!r}: it is 'wait' or 'stop'")
        if start < 0 or every < 1 or prefetch < 1:
            raise ValueError("`start` is at least 0; `every` and `prefetch` are at least 1")
        self.client = Client(url, wait=wait, deadline=deadline)
        self.job = job
        self.share = Share(rank, world_size)
        self.step = start
        self.stop = stop
        self.every = every
        self.settings = settings
        self.at_end = at_end
        self.prefetch = prefetch

    def state_dict(self) -> dict[str, Any]:
        """Where to go on: after the last batch that the loop has got. It holds for any number of ranks."""
        return {"job": self.job, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another reader stood.

        Raises:
            ValueError: the state is of another job.
        """
        if state["job"] != self.job:
            raise ValueError(f"the state is of job {state['job']!r}, not {self.job!r}")
        self.step = int(state["step"])

    def __iter__(self) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(self.prefetch, thread_name_prefix="perennial")
        ahead: deque[Future[Batch | None]] = deque()
        stopped: list[bool] = []
        next_step = self.step
        try:
            while True:
                while len(ahead) < self.prefetch and (self.stop is None or next_step < self.stop):
                    ahead.append(pool.submit(self._read, next_step, stopped))
                    next_step += self.every
                if not ahead:
                    return
                batch = ahead.popleft().result()
                if batch is None:
                    return
                self.step = batch.step + self.every
                yield batch
        finally:
            stopped.append(True)
            pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, step: int, stopped: list[bool]) -> Batch | None:
        """The share of a step; nothing where the job or the stream ends."""
        pause, said = 0.05, time.monotonic()
        while not stopped:
            try:
                ticket = self.client.ticket(self.job, step, self.settings)
            except JobEnded:
                return None
            if isinstance(ticket, dict):
                first, end = self.share.of(ticket["settings"]["rows"])
                return self.client.batch(ticket, None if self.share.world_size == 1 else (first, end))
            if self.at_end == "stop":
                return None
            if time.monotonic() - said >= REPORT:
                log.warning("step %d of job %s waits for %d tokens of new text", step, self.job, ticket)
                said = time.monotonic()
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
        return None
