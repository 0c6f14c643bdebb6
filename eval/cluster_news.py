"""Tasks that are under way in a cluster, and the news that come of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple


@dataclasses.dataclass
class Sent:
    """A task that is under way.

    Attributes:
      jobs: its jobs.
      future: Dask's.
      worker: that it was meant for; empty where none was there.
      alone: whether nothing else is under way.
      late: whether its one job was ended before.
      at: position of the job that its worker is at, the worker's address, and when it has to be
        done, of `time.monotonic`; None where that is not known.
      done: whether its worker has done it, and its answer is on the way.
    """

    jobs: Sequence[Any]
    future: Any
    worker: str
    alone: bool
    late: bool
    at: tuple[int, str, float] | None = None
    done: bool = False


class Begun(NamedTuple):
    """News: a worker is at a job of a task."""

    number: int
    position: int
    worker: str


class Ended(NamedTuple):
    """News: a task has come to an end, good or bad."""

    number: int


class Brought(NamedTuple):
    """News: the answer of a task is here, a `Reply`; None where it could not be brought."""

    number: int
    pickled: bytes | None


#: What the thread that hands tasks out is told by those of Dask's.
News = Begun | Ended | Brought
