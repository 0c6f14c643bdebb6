"""Processes that share work out: each with one thread of its own, gone with the program.

Results come as they are ready. What a worker was at when the program ends is not recorded.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

Job = TypeVar("Job")

# Jobs handed out ahead of each worker: none waits, and few are lost when one dies.
_AHEAD = 2


class StageError(RuntimeError):
    """Work that could not go on; what was recorded before stays."""


def share_out(
    jobs: Iterable[Job],
    workers: int,
    work: Callable[..., Any],
    arguments: Callable[[Job], tuple],
    begin: tuple[Callable[..., None], tuple] | None = None,
) -> Iterator[tuple[Job, Callable[[str], Any]]]:
    """Does jobs in several processes, in any order; starts none where there is no job.

    Args:
      jobs: taken one by one as workers become free.
      workers: how many processes.
      work: a function of a module, called in a worker.
      arguments: of a job, what `work` is called with; to be pickled.
      begin: a function that each worker begins with, and its arguments.

    Yields:
      A job, and what gives its result when it is called with the job's name for people; that raises
      `StageError` where the worker failed or died, and says what it said.
    """
    jobs = iter(jobs)
    first = next(jobs, None)
    if first is None:
        return
    jobs = itertools.chain([first], jobs)
    # Not forks of this process, whose threads of TensorFlow's they would not have, but of one that
    # has imported all and computed nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorflow", "keras", work.__module__])
    pool = ProcessPoolExecutor(workers, context, _begin, begin or (None, ()))
    waiting: dict[Future, Job] = {}
    try:
        while True:
            for job in itertools.islice(jobs, _AHEAD * workers - len(waiting)):
                waiting[pool.submit(work, *arguments(job))] = job
            if not waiting:
                return
            for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(done), _Result(done)
    except BaseException:
        # Nobody waits for what they are at: of a worker, nothing is recorded in any case.
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Result:
    """A job that is done, well or not."""

    def __init__(self, job: Future):
        self._job = job

    def __call__(self, name: str) -> Any:
        try:
            return self._job.result()
        except BrokenExecutor as error:
            raise StageError(f"a worker died, on {name} or beside it; --resume goes on") from error
        except Exception as error:
            raise StageError(f"{name}: {type(error).__name__}: {error}") from error


def _begin(function: Callable[..., None] | None, arguments: tuple) -> None:
    """Begins a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the program's to answer
    threading.Thread(target=_end_with, args=[multiprocessing.parent_process()], daemon=True).start()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if function is not None:
        function(*arguments)


def _end_with(program: multiprocessing.process.BaseProcess) -> None:
    """Ends this process as soon as the program's has ended, however it did."""
    program.join()
    os._exit(1)
