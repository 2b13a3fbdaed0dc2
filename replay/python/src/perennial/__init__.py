"""Batches that mix new and replayed text, from a Perennial replay server.

    import perennial

    for batch in perennial.Batches("http://127.0.0.1:7400", job="a"):
        train(batch.tokens, batch.targets, batch.mask)

`perennial.torch` has the same for PyTorch.
"""

from ._batch import Batch
from ._batches import Batches, Share
from ._client import (
    Client,
    ConflictError,
    JobEnded,
    PerennialError,
    RequestError,
    ServerError,
)

__all__ = [
    "Batch",
    "Batches",
    "Client",
    "ConflictError",
    "JobEnded",
    "PerennialError",
    "RequestError",
    "ServerError",
    "Share",
]
__version__ = "0.1.0"
