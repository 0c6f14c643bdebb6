"""The pool that settings ask for: this process alone, others beside it, or a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from .clustered import Given, Place
from .workers import Pool, Processes


def opened(
    given: Given, say: Callable[[str], None] = lambda line: None
) -> AbstractContextManager[Pool | None]:
    """The pool to be entered; None where this process decides alone.

    Args:
      given: the settings, checked.
      say: is told of what happens to workers.

    Raises:
      SettingError, StageError: on entering: a cluster that is refused, or that does not answer.
    """
    if given.cluster is not None:
        return _cluster(Place.of(given), given.insecure, say)
    return contextlib.nullcontext(None if given.workers == 1 else Processes(given.workers))


@contextlib.contextmanager
def _cluster(place: Place, insecure: bool, say: Callable[[str], None]) -> Iterator[Pool]:
    # Only here: who asks for none need not have it installed.
    from . import cluster

    with cluster.opened(place, insecure, say) as pool:
        yield pool
