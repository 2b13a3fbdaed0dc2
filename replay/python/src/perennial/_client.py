"""Connections to a replay server."""

from __future__ import annotations

import http.client
import json
import logging
import os
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from ._batch import Batch

log = logging.getLogger("perennial")

FIRST_WAIT = 0.1
MOST_WAIT = 5.0
REPORT = 30.0
ARROW = "application/vnd.apache.arrow.stream"


class PerennialError(Exception):
    """An error of a replay server or of the connection to it."""


class RequestError(PerennialError):
    """The server refused a request: its message says why."""


class ConflictError(PerennialError):
    """The job stands elsewhere, or was begun with another configuration."""


class JobEnded(ConflictError):
    """The job has ended (`perennial-replay jobs end`): it has no such step."""


class ServerError(PerennialError):
    """No server has answered for as long as `wait` says, or it failed."""


class Client:
    """Tickets and batches of one server.

    It may be used from several threads and after a fork: each thread of each process has a connection of its own.

    Args:
        url: the server's HTTP address, such as `http://127.0.0.1:7400`.
        wait: seconds for which a server that does not answer is waited for.
        deadline: seconds for which an answer may stand still.
    """

    def __init__(self, url: str, *, wait: float = 600.0, deadline: float = 120.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"`{url}` is not the HTTP address of a replay server, such as `http://127.0.0.1:7400`")
        self.url = url
        self.wait = wait
        self.deadline = deadline
        self._place = (parts.hostname, parts.port or 80)
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "wait": self.wait, "deadline": self.deadline}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def ticket(self, job: str, step: int, settings: dict[str, Any] | None = None) -> dict[str, Any] | int:
        """The ticket of a step, or the number of tokens of new text that are missing for it.

        Args:
            job: the job; it begins with its first ticket.
            step: the step, from 0.
            settings: `rows`, `order`, `keep` and `mix` of a job that does not exist yet; default: the server's.
        """
        asked: dict[str, Any] = {"job": job, "step": step}
        if settings is not None:
            asked["settings"] = settings
        issued = json.loads(self._post(f"issue the ticket of step {step} of job `{job}`", "/v1/tickets", asked))
        return issued["ticket"] if "ticket" in issued else issued["not_yet"]["missing"]

    def batch(self, ticket: dict[str, Any], rows: tuple[int, int] | None = None) -> Batch:
        """The batch of a ticket, or its rows `rows[0]` to the one before `rows[1]`."""
        asked = ticket if rows is None else {"ticket": ticket, "rows": rows}
        act = f"send the batch of step {ticket['step']} of job `{ticket['job']}`"
        with pa.ipc.open_stream(pa.py_buffer(self._post(act, "/v1/batches", asked))) as stream:
            return Batch.of(stream.read_all(), ticket)

    def _post(self, act: str, path: str, asked: dict[str, Any]) -> bytes:
        """The body of an answer; asks again and again for `wait` seconds while the server cannot be reached."""
        body = json.dumps(asked).encode()
        pause, since, said, failures = FIRST_WAIT, None, None, 0
        while True:
            try:
                status, answer = self._ask(path, body)
                if status == 200:
                    return answer
                if status != 503:
                    raise refused(act, status, answer)
                why = answer.decode(errors="replace")
            except (OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
            now = time.monotonic()
            since = now if since is None else since
            if now - since >= self.wait:
                raise ServerError(f"the server at {self.url} did not {act} within {self.wait:g} s: {why}")
            # A server may have closed a connection that was idle: the first failure says little.
            failures += 1
            if failures > 1 and (said is None or now - said >= REPORT):
                log.warning("the server at %s does not answer: waiting up to %g s (%s)", self.url, self.wait, why)
                said = now
            time.sleep(min(pause, max(0.0, self.wait - (now - since))))
            pause = min(2 * pause, MOST_WAIT)

    def _ask(self, path: str, body: bytes) -> tuple[int, bytes]:
        """One request over the connection of this thread, which is made where it has none."""
        kept = getattr(self._local, "kept", None)
        # A connection is of the process that made it.
        if kept is None or kept[0] != os.getpid():
            kept = (os.getpid(), http.client.HTTPConnection(*self._place, timeout=self.deadline))
            self._local.kept = kept
        connection = kept[1]
        try:
            connection.request("POST", path, body, {"accept": ARROW})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except BaseException:
            connection.close()
            raise


def refused(act: str, status: int, answer: bytes) -> PerennialError:
    """What the server said, as an exception."""
    try:
        said = json.loads(answer)
        text = said["message"] + (f"\n  hint: {said['hint']}" if said.get("hint") else "")
    except (ValueError, KeyError, TypeError):
        text = answer[:200].decode(errors="replace")
    message = f"the server refused to {act}: {text}"
    if status == 409:
        return JobEnded(message) if "has ended: step" in text else ConflictError(message)
    return RequestError(message) if status < 500 else ServerError(message)
