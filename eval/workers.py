"""What shares work out among workers, and the processes of this machine that do.

Results come as they are ready. What a worker was at when the program ends is not recorded.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol, TypeVar, cast

Job = TypeVar("Job")


class StageError(RuntimeError):
    """Work that could not go on; what was recorded before stays."""


class OverrunError(StageError):
    """A job whose worker was ended, for it took longer than it may; others are not lost."""


class LostError(StageError):
    """A job that workers died of, one after the other; others are not lost."""


class RefusedError(StageError):
    """What a worker cannot do, for it has not the files that are meant; others may have them."""


class Orders(NamedTuple):
    """What workers are told before their first job.

    Attributes:
      begin: a function of a module that each begins with, and its arguments.
      limit: seconds that a job may take; a worker that is still at it then is ended, and another
        one begun in its place.
    """

    begin: tuple[Callable[..., None], tuple] | None = None
    limit: Callable[[Any], float] = lambda job: math.inf


class Result(NamedTuple):
    """What came of a job: a value, or the kind of error and what it says."""

    value: Any
    error: type[StageError] | None = None
    text: str = ""

    def __call__(self, name: str) -> Any:
        """The value; or raises the error, with the job's name for people."""
        if self.error is not None:
            raise self.error(f"{name}: {self.text}")
        return self.value


class Pool(Protocol):
    """Workers, wherever they are."""

    def share_out(
        self,
        jobs: Iterable[Job],
        orders: Orders,
        work: Callable[..., Any],
        arguments: Callable[[Job], tuple],
    ) -> Iterator[tuple[Job, Result]]:
        """Does jobs in several processes, in any order.

        Args:
          jobs: taken as workers become free.
          orders: what each worker begins with.
          work: a function of a module, called in a worker.
          arguments: of a job, what `work` is called with; to be pickled.

        Yields:
          A job and what came of it: `StageError` where the worker failed, and says what it said;
          `OverrunError` where it was ended; `LostError` where a job is set aside.
        """
        ...


class Processes:
    """A pool of processes of this machine, each with one thread, gone with the program."""

    def __init__(self, workers: int):
        """Starts none where there is no job."""
        self._workers = workers

    def share_out(
        self,
        jobs: Iterable[Job],
        orders: Orders,
        work: Callable[..., Any],
        arguments: Callable[[Job], tuple],
    ) -> Iterator[tuple[Job, Result]]:
        """As `Pool` says; a worker that dies is a `StageError`."""
        jobs, busy = iter(jobs), dict[Connection, _Worker]()
        free: list[_Worker] = []
        try:
            while True:
                for job in itertools.islice(jobs, self._workers - len(busy)):
                    worker = free.pop() if free else _Worker(work, orders.begin)
                    busy[worker.pipe] = worker
                    worker.take(job, arguments(job), orders.limit(job))
                if not busy:
                    return
                for worker, result in _next(busy):
                    del busy[worker.pipe]
                    free += [worker] if worker.there else []
                    yield worker.job, result
        finally:
            # Nobody waits for what they are at: of a worker, nothing is recorded in any case.
            for worker in [*free, *busy.values()]:
                worker.end()


def one_thread() -> None:
    """Leaves TensorFlow one thread in this process, so that workers do not share cores."""
    import tensorflow as tf

    numbers = tf.config.threading
    # Not again in a process that has computed with one thread already, which refuses it.
    if numbers.get_intra_op_parallelism_threads() != 1:
        numbers.set_intra_op_parallelism_threads(1)
    if numbers.get_inter_op_parallelism_threads() != 1:
        numbers.set_inter_op_parallelism_threads(1)


def _next(busy: Mapping[Connection, _Worker]) -> list[tuple[_Worker, Result]]:
    """Waits for something to happen; who of the busy workers is done by that, well or not."""
    seconds = min(worker.deadline for worker in busy.values()) - time.monotonic()
    ready = wait(list(busy), None if math.isinf(seconds) else max(seconds, 0.0))
    # Of connections alone it gives connections.
    ready = cast(list[Connection], ready)
    if ready:
        heard = ((busy[pipe], busy[pipe].heard()) for pipe in ready)
        return [(worker, result) for worker, result in heard if result is not None]
    now = time.monotonic()
    return [(worker, worker.ended()) for worker in busy.values() if worker.deadline <= now]


class _Worker:
    """A process that does one job after the other.

    Attributes:
      pipe: this end of what it is told and answers by.
      job: that it is at.
      deadline: of `time.monotonic`, when it has to be done.
      there: whether it can do another one.
    """

    def __init__(self, work: Callable[..., Any], begin: tuple[Callable[..., None], tuple] | None):
        """Starts it.

        It is no fork of this process, whose threads of TensorFlow's it would not have, but of one
        that has imported all and computed nothing.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tensorflow", "keras", work.__module__])
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, work, begin), daemon=True)
        self._process.start()
        other.close()
        self.job: Any = None
        self.deadline, self.there = math.inf, True
        self._limit, self._given, self._ready = math.inf, (), False

    def take(self, job: Any, given: tuple, limit: float) -> None:
        """Begins a job, whose time counts from when the process is ready for it."""
        self.job, self._given, self._limit = job, given, limit
        if self._ready:
            self._begin()

    def _begin(self) -> None:
        self.deadline = time.monotonic() + self._limit
        with contextlib.suppress(OSError):  # of one that has died, which is heard
            self.pipe.send(self._given)

    def heard(self) -> Result | None:
        """What it says of its job; None where it only says that it is ready for one."""
        try:
            said = self.pipe.recv()
        except (EOFError, OSError):
            self.end()
            return Result(None, StageError, "its worker died; --resume goes on")
        if self._ready:
            self.deadline = math.inf
            return Result(*said)
        self._ready = True
        self._begin()
        return None

    def ended(self) -> Result:
        """Ends it in the middle of its job."""
        self.end()
        return Result(None, OverrunError, f"its worker was ended after {self._limit:g} seconds")

    def end(self) -> None:
        """Ends it, whatever it does."""
        self.there = False
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(
    pipe: Connection, work: Callable[..., Any], begin: tuple[Callable[..., None], tuple] | None
) -> None:
    """What a worker does: it says that it is ready, and answers what it is asked."""
    _begin(*(begin or (None, ())))
    pipe.send(None)
    while True:
        try:
            given = pipe.recv()
        except EOFError:
            return
        try:
            said: tuple = (work(*given),)
        except Exception as error:
            said = (None, StageError, f"{type(error).__name__}: {error}")
        pipe.send(said)


def _begin(function: Callable[..., None] | None, arguments: tuple) -> None:
    """Begins a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the program's to answer
    threading.Thread(target=_end_with, args=[multiprocessing.parent_process()], daemon=True).start()
    one_thread()
    if function is not None:
        function(*arguments)


def _end_with(program: BaseProcess) -> None:
    """Ends this process as soon as the program's has ended, however it did."""
    program.join()
    os._exit(1)
