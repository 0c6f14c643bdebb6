"""The processes that make a sweep's trials."""

from __future__ import annotations

import multiprocessing
import time

from robustra_tf.cli.stopping import Exit, Stop, Stopped

from .. import environment
from .settings import Task

#: Seconds between two looks at them.
_SECONDS = 0.5


def make(task: Task, count: int, stop: Stop) -> Exit:
    """Makes `count` trials: in this process, or in several where there are to be.

    Raises:
      Stopped: it was asked to; trials under way are queued again.
    """
    from . import study

    if task.sweep.processes == 1:
        study.work(task, count, count, stop)
        return Exit.DONE
    spawning, processes = multiprocessing.get_context("spawn"), []
    width = min(task.sweep.processes, count)
    for k in range(width):
        # Seeds that no earlier part of the sweep had.
        share, seed = len(range(k, count, width)), count * width + k
        processes.append(spawning.Process(target=_work, args=(task, share, seed)))
        processes[-1].start()
    told = False
    while any(one.is_alive() for one in processes):
        if stop.requested and not told:
            told = True
            for one in processes:
                one.terminate()
        time.sleep(_SECONDS)
    if told:
        raise Stopped
    return Exit.DONE if all(one.exitcode == 0 for one in processes) else Exit.FAILED


def _work(task: Task, count: int, seed: int) -> None:
    """What each process does."""
    environment.prepare(deterministic=False)
    from . import study

    # A signal to all of them is told once, by the process that began them.
    with Stop(lambda text: None) as stop:
        try:
            study.work(task, count, seed, stop)
        except Stopped:
            raise SystemExit(Exit.STOPPED) from None
