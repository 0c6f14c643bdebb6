"""Jobs on their way through a cluster of Dask's.

They go out as tasks, one a worker at a time, so that a worker that dies takes with it what it was
at and no other. A task has as many jobs as took `SECONDS` so far. Dask gives a task whose worker
has died to another one; what several died of is set aside, and done alone at the end, so that a job
is blamed for nothing but its own.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import math
import pickle
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import distributed

from . import cluster_tasks
from .cluster_tasks import Handed, Reply, Task
from .workers import LostError, Orders, OverrunError, RefusedError, Result, StageError

#: Seconds of work that a task is meant to have: sending one takes some milliseconds.
SECONDS = 0.5
#: Jobs that one task has at most.
MOST = 1000
#: Seconds between two looks at which workers there are.
_LOOK = 2.0
#: Jobs that are lost before any is done, after which it is not the jobs' fault.
_HOPELESS = 3
_GONE = "lost the scheduler at {}; --resume goes on"


@dataclasses.dataclass
class _Sent:
    """A task that is under way.

    Attributes:
      jobs: its jobs.
      future: Dask's.
      worker: that it was meant for; empty where none was there.
      alone: whether nothing else is under way.
      late: whether its one job was ended before.
      at: position of the job that its worker is at, the worker's address, and when it has to be
        done, of `time.monotonic`; None where that is not known.
    """

    jobs: Sequence[Any]
    future: Any
    worker: str
    alone: bool
    late: bool
    at: tuple[int, str, float] | None = None


class Run:
    """Jobs on their way through a cluster."""

    def __init__(
        self,
        client: Any,
        say: Callable[[str], None],
        orders: Orders,
        asked: Callable[[Any], tuple[Callable[..., Any], tuple]],
    ):
        self._client, self._say, self._orders, self._asked = client, say, orders, asked
        self._key = f"robustra-{uuid.uuid4().hex[:12]}"
        self._news: queue.SimpleQueue = queue.SimpleQueue()
        self._sent: dict[int, _Sent] = {}
        self._again = collections.deque[Any]()
        self._aside = collections.deque[tuple[Any, bool]]()
        self._numbers = itertools.count()
        self._size, self._cost = 1, math.inf
        self._workers: list[str] = []
        self._looked = -math.inf
        self._done = self._lost = 0
        self._refused: dict[str, str] = {}
        self._handed: Any = None
        self._topic = ""

    def through(self, jobs: Iterator[Any]) -> Iterator[tuple[Any, Result]]:
        """Sends jobs out as there is room for them, and gives what came of them."""
        while True:
            self._fill(jobs)
            if not self._sent:
                return
            yield from self._heard()
            yield from self._overdue()

    def close(self) -> None:
        """Takes back what is under way."""
        with contextlib.suppress(Exception):  # of a scheduler that is gone
            if self._topic:
                self._client.unsubscribe_topic(self._topic)
            self._client.cancel([sent.future for sent in self._sent.values()], force=True)
        self._sent.clear()

    # What goes out.

    def _fill(self, jobs: Iterator[Any]) -> None:
        if time.monotonic() >= self._looked + _LOOK:
            self._look()
        busy = {sent.worker for sent in self._sent.values()}
        free = collections.deque(worker for worker in self._workers if worker not in busy)
        # Without workers a task waits for the first one.
        while len(self._sent) < max(len(self._workers), 1):
            worker = free.popleft() if free else ""
            if self._again:
                self._send([self._again.popleft()], worker)
            elif chosen := list(itertools.islice(jobs, self._size)):
                self._send(chosen, worker)
            else:
                break
        if not self._sent and self._aside:
            job, late = self._aside.popleft()
            self._send([job], "", alone=True, late=late)

    def _look(self) -> None:
        """Counts the workers."""
        if self._client.status != "running":
            raise self._gone()
        try:
            self._workers = list(self._client.nthreads())
        except Exception as error:
            raise self._gone() from error
        self._looked = time.monotonic()

    def _gone(self) -> StageError:
        scheduler = self._client.scheduler
        return StageError(_GONE.format(getattr(scheduler, "address", "its address")))

    def _send(
        self, jobs: Sequence[Any], worker: str, alone: bool = False, late: bool = False
    ) -> None:
        if self._handed is None:
            self._hand()
        number = next(self._numbers)
        timed = any(self._orders.limit(job) < math.inf for job in jobs)
        if timed and not self._topic:
            self._topic = self._key
            self._client.subscribe_topic(self._topic, self._told)
        asked = [self._asked(job) for job in jobs]
        content = pickle.dumps((asked[0][0], [one for _, one in asked]))
        task = Task(number, content, self._topic if timed else "")
        # Dask's own choice goes by what tasks took before, and lets some wait for others.
        place = {"workers": [worker], "allow_other_workers": True} if worker else {}
        key = f"{self._key}-{number}"
        future = self._client.submit(
            cluster_tasks.do, self._handed, task, key=key, pure=False, **place
        )
        self._sent[number] = _Sent(jobs, future, worker, alone, late)
        future.add_done_callback(lambda _: self._news.put(number))

    def _hand(self) -> None:
        begin = pickle.dumps(self._orders.begin)
        handed = Handed(self._key, begin, cluster_tasks.versions())
        self._handed = self._client.submit(
            cluster_tasks.hand, handed, key=f"{self._key}-orders", pure=False
        )

    def _told(self, event: tuple[Any, Sequence[Any]]) -> None:
        """Hears from a worker, in a thread of Dask's, that it has begun a job."""
        self._news.put(tuple(event[1]))

    # What comes back.

    def _heard(self) -> Iterator[tuple[Any, Result]]:
        """Waits for something to happen; what is done by that."""
        ended = []
        for news in self._waited():
            if isinstance(news, int):
                ended.append(news)
                continue
            number, position, worker = news
            if (sent := self._sent.get(number)) is not None:
                limit = self._orders.limit(sent.jobs[position])
                sent.at = position, worker, time.monotonic() + limit
        tasks = [self._sent.pop(number) for number in ended if number in self._sent]
        for sent, reply in zip(tasks, self._replies(tasks), strict=True):
            # Of many results, none is kept after its turn.
            sent.future.release()
            yield from self._lose(sent, "") if reply is None else self._taken(sent, reply)

    def _waited(self) -> list[Any]:
        ends = [sent.at[2] for sent in self._sent.values() if sent.at]
        until = min([*ends, time.monotonic() + 1.0])
        try:
            news = [self._news.get(timeout=max(until - time.monotonic(), 0.001))]
        except queue.Empty:
            return []
        with contextlib.suppress(queue.Empty):
            while True:
                news.append(self._news.get_nowait())
        return news

    def _replies(self, tasks: Sequence[_Sent]) -> list[Reply | None]:
        """What workers said of tasks that have ended, None where they were lost on it."""
        finished = [sent.future for sent in tasks if sent.future.status == "finished"]
        try:
            said = iter(self._client.gather(finished))
        except Exception as error:
            raise self._gone() from error
        return [
            next(said) if sent.future.status == "finished" else self._failed(sent.future)
            for sent in tasks
        ]

    def _failed(self, future: Any) -> None:
        if future.status != "error":  # nobody has cancelled it
            raise self._gone()
        error = future.exception()
        if not isinstance(error, distributed.KilledWorker):
            raise StageError(f"{type(error).__name__}: {error}")

    def _taken(self, sent: _Sent, reply: Reply) -> Iterator[tuple[Any, Result]]:
        if reply.refused:
            self._refuse(reply.worker, reply.refused)
            self._put_back(sent, sent.jobs)
            return
        self._measure(reply.seconds / len(sent.jobs))
        for job, result in zip(sent.jobs, reply.results, strict=True):
            if result.error is RefusedError:
                self._refuse(reply.worker, result.text)
                self._put_back(sent, [job])
            elif result.error is LostError:
                yield from self._lose(dataclasses.replace(sent, jobs=[job]), result.text)
            else:
                self._done += 1
                yield job, result

    def _put_back(self, sent: _Sent, jobs: Iterable[Any]) -> None:
        if sent.alone:
            self._aside.extend((job, sent.late) for job in jobs)
        else:
            self._again.extend(jobs)

    def _measure(self, seconds: float) -> None:
        """Chooses how many jobs a task has, at most twice as many as the ones before."""
        known = self._cost < math.inf
        self._cost = 0.7 * self._cost + 0.3 * seconds if known else seconds
        fitting = int(SECONDS / max(self._cost, SECONDS / MOST))
        self._size = max(1, min(fitting, 2 * self._size))

    def _lose(self, sent: _Sent, why: str) -> Iterator[tuple[Any, Result]]:
        """Sets jobs aside whose workers died; those that were alone are given up."""
        self._lost += 1
        if self._lost >= _HOPELESS and not self._done:
            raise StageError(f"workers die of every task: {why or 'out of memory?'}")
        if not sent.alone:
            self._aside.extend((job, False) for job in sent.jobs)
            return
        (job,) = sent.jobs
        self._done += 1
        yield job, Result(None, LostError, why or "its workers died, one after the other")

    def _refuse(self, worker: str, why: str) -> None:
        """Sends a worker away that would do something else."""
        if worker in self._refused:
            return
        self._refused[worker] = why
        self._say(f"worker {worker} is refused: {why}")
        with contextlib.suppress(Exception):
            self._client.retire_workers([worker])
        self._look()
        if not self._workers:
            raise StageError(f"no worker is left; the last one was refused: {why}")

    def _overdue(self) -> Iterator[tuple[Any, Result]]:
        """Ends workers that are at a job for longer than it may take."""
        now = time.monotonic()
        late = [n for n, sent in self._sent.items() if sent.at and sent.at[2] <= now]
        for number in late:
            sent = self._sent[number]
            position, worker, _ = sent.at or (0, "", 0.0)
            if not self._is_at(worker, sent.future.key):
                sent.at = None  # it was lost meanwhile, and waits for another one
                continue
            del self._sent[number]
            limit = self._orders.limit(sent.jobs[position])
            self._client.cancel([sent.future], force=True)
            self._say(f"worker {worker} is ended: it was at a job for more than {limit:g} seconds")
            self._client.restart_workers([worker], timeout=30, raise_for_error=False)
            self._again.extend(job for n, job in enumerate(sent.jobs) if n != position)
            if not sent.late:
                self._aside.append((sent.jobs[position], True))
                continue
            text = f"its worker was ended after {limit:g} seconds"
            yield sent.jobs[position], Result(None, OverrunError, text)

    def _is_at(self, worker: str, key: str) -> bool:
        try:
            return key in self._client.processing([worker]).get(worker, ())
        except Exception as error:
            raise self._gone() from error
