"""A pool of workers of Dask's (`distributed`), on this machine or on many."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import dask.config
import distributed
from distributed.utils import get_mp_context

from . import cluster_tasks, clustered
from .cluster_run import Run
from .clustered import Place
from .workers import Job, Orders, Pool, Result, StageError

#: Messages that Dask remembers, on each way: those that hand out tasks have images in them.
_REMEMBERED = {"distributed.admin.low-level-log-length": 4}
#: Of a cluster that this program begins: three workers lost on one task are enough, a worker that
#: is not heard of is replaced, and none is paused for its memory, which would leave it so. Memory
#: that is freed is kept, as in any process: given back at once, each of a bound's arrays is made of
#: new pages, which costs a worker a tenth of its time. Nor does it stop computing fifty times a
#: second to see whether Dask's own thread is late.
_LOCAL = {
    "distributed.scheduler.allowed-failures": 2,
    "distributed.scheduler.worker-ttl": "120s",
    "distributed.worker.multiprocessing-method": "forkserver",
    "distributed.worker.preload": [cluster_tasks.__name__],
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
}

#: A cluster that this program has begun, and its client.
_Local = tuple[distributed.Client, distributed.LocalCluster]


@contextlib.contextmanager
def opened(place: Place, insecure: bool, say: Callable[[str], None]) -> Iterator[Pool]:
    """A pool for as long as it is entered; workers of `local:N` end with it.

    These are begun while whoever has entered does other things; the first jobs wait for them.

    Args:
      place: where.
      insecure: whether a scheduler that others can reach is spoken to without TLS.
      say: is told of what happens to workers.

    Raises:
      SettingError: a scheduler that others can reach without TLS.
      StageError: there is none.
    """
    # What happens to workers is told here.
    for name in ("distributed", "tornado", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(_REMEMBERED))
        if place.workers:
            stack.enter_context(dask.config.set(_LOCAL))
            yield _Beginning(stack.enter_context(_local(place.workers)), say)
            return
        client = stack.enter_context(_reached(place))
        # A loopback address may be one door of several.
        clustered.require_private(client.scheduler_info()["address"], insecure)
        yield Cluster(client, say)


@contextlib.contextmanager
def _local(workers: int) -> Iterator[Future[_Local]]:
    get_mp_context()  # which has its own idea of what is imported beforehand
    # Workers are forks of a process that has imported all and computed nothing.
    package = __name__.rpartition(".")[0]
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["tensorflow", "keras", "distributed", f"{package}.shared"]
    )
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
        ThreadPoolExecutor(1) as thread,
    ):
        begun = thread.submit(_begun, workers, home)
        try:
            yield begun
        finally:
            if begun.exception() is None:  # else whoever asked has been told
                client, cluster = begun.result()
                client.close()
                # All is recorded; a worker whose end is not seen in time ends with this program.
                with contextlib.suppress(TimeoutError):
                    cluster.close()


def _begun(workers: int, home: str) -> _Local:
    cluster = distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,  # pyright: ignore[reportArgumentType] - documented for none
        local_directory=home,
        silence_logs=logging.CRITICAL,
    )
    return distributed.Client(cluster, set_as_default=False), cluster


def _reached(place: Place) -> distributed.Client:
    security = distributed.Security(**place.tls, require_encryption=True) if place.tls else None
    try:
        return distributed.Client(
            place.address, security=security, timeout=10, set_as_default=False, name="robustra"
        )
    except (OSError, TimeoutError) as error:
        raise StageError(f"--cluster: no scheduler answers at {place.address}: {error}") from error


class _Beginning:
    """A `Pool` whose workers are on their way; who has jobs for them waits for them."""

    def __init__(self, begun: Future[_Local], say: Callable[[str], None]):
        self._begun, self._say = begun, say

    @functools.cached_property
    def _cluster(self) -> Cluster:
        return Cluster(self._begun.result()[0], self._say)

    def share_out(
        self,
        jobs: Iterable[Job],
        orders: Orders,
        work: Callable[..., Any],
        arguments: Callable[[Job], tuple],
    ) -> Iterator[tuple[Job, Result]]:
        """As `Cluster` says."""
        yield from self._cluster.share_out(jobs, orders, work, arguments)


class Cluster:
    """A `Pool` of the workers that a client's scheduler has."""

    def __init__(self, client: Any, say: Callable[[str], None]):
        """Takes a `distributed.Client`, and what is told of workers that are refused."""
        self._client, self._say = client, say
        self._runs: list[Run] = []
        # What is told under a client's name its scheduler forgets, once the client has left it.
        client.subscribe_topic(client.id, self._told)

    def share_out(
        self,
        jobs: Iterable[Job],
        orders: Orders,
        work: Callable[..., Any],
        arguments: Callable[[Job], tuple],
    ) -> Iterator[tuple[Job, Result]]:
        """As `Pool` says.

        What a worker was at when it died or was ended is done anew by others, and once more alone:
        then a job is `LostError` or `OverrunError`. A lost scheduler is a `StageError`.
        """
        run = Run(self._client, self._say, orders, lambda one: (work, arguments(one)))
        self._runs.append(run)
        try:
            yield from run.through(iter(jobs))
        finally:
            self._runs.remove(run)
            run.close()

    def _told(self, event: tuple[float, Any]) -> None:
        for run in tuple(self._runs):
            run.hear(event[1])
