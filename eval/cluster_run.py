"""Jobs on their way through a cluster of Dask's.

They go out as tasks, one a worker at a time, so that a worker that dies takes with it what it was
at and no other. A worker that is done has its next task while its answer is on the way. Dask gives
a task whose worker has died to another one; what several died of is set aside, and done alone at
the end, so that a job is blamed for nothing but its own.
"""

from __future__ import annotations

import asyncio
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
from .cluster_news import Begun, Brought, Ended, News, Sent
from .cluster_tasks import Handed, Reply, Task
from .portions import Portions
from .workers import LostError, Orders, OverrunError, RefusedError, Result, StageError

#: Seconds between two looks at which workers there are.
_LOOK = 2.0
#: Jobs that are lost before any is done, after which it is not the jobs' fault.
_HOPELESS = 3
_GONE = "lost the scheduler at {}; --resume goes on"


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
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._sent: dict[int, Sent] = {}
        self._again = collections.deque[Any]()
        self._aside = collections.deque[tuple[Any, bool]]()
        self._numbers = itertools.count()
        self._portions = Portions(iter(()))
        self._workers: list[str] = []
        self._looked = -math.inf
        self._done = self._lost = 0
        self._refused: dict[str, str] = {}
        self._handed: Any = None

    def through(self, jobs: Iterator[Any]) -> Iterator[tuple[Any, Result]]:
        """Sends jobs out as there is room for them, and gives what came of them."""
        self._portions = Portions(jobs)
        while True:
            self._fill()
            self._fill_alone()
            if not self._sent:
                return
            yield from self._heard()
            yield from self._overdue()

    def close(self) -> None:
        """Takes back what is under way."""
        with contextlib.suppress(Exception):  # of a scheduler that is gone
            self._client.cancel([sent.future for sent in self._sent.values()], force=True)
        self._sent.clear()

    # What goes out.

    def _fill(self) -> None:
        if time.monotonic() >= self._looked + _LOOK:
            self._look()
        under_way = [sent for sent in self._sent.values() if not sent.done]
        busy = {sent.worker for sent in under_way}
        free = collections.deque(worker for worker in self._workers if worker not in busy)
        # Without workers a task waits for the first one.
        workers = max(len(self._workers), 1)
        for _ in range(workers - len(under_way)):
            worker = free.popleft() if free else ""
            if self._again:
                self._send([self._again.popleft()], worker)
            elif chosen := self._portions.next(workers):
                self._send(chosen, worker)
            else:
                break

    def _fill_alone(self) -> None:
        """Sends what was set aside, once nothing else is under way."""
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
        asked = [self._asked(job) for job in jobs]
        content = pickle.dumps((asked[0][0], [one for _, one in asked]))
        task = Task(number, content, self._client.id, timed)
        # Dask's own choice goes by what tasks took before, and lets some wait for others.
        place = {"workers": [worker], "allow_other_workers": True} if worker else {}
        key = f"{self._key}-{number}"
        future = self._client.submit(
            cluster_tasks.do, self._handed, task, key=key, pure=False, **place
        )
        self._sent[number] = Sent(jobs, future, worker, alone, late)
        future.add_done_callback(lambda _: self._news.put(Ended(number)))

    def _hand(self) -> None:
        begin = pickle.dumps(self._orders.begin)
        handed = Handed(self._key, begin, cluster_tasks.versions())
        self._handed = self._client.submit(
            cluster_tasks.hand, handed, key=f"{self._key}-orders", pure=False
        )

    def hear(self, message: Any) -> None:
        """Takes, in a thread of Dask's, an answer or word of a job that takes long."""
        match message:
            case (self._key, int(number), bytes(answer)):
                self._news.put(Brought(number, answer))
            case (self._key, int(number), int(position), str(worker)):
                self._news.put(Begun(number, position, worker))

    # What comes back.

    def _heard(self) -> Iterator[tuple[Any, Result]]:
        """Waits for something to happen; what is done by that."""
        answered: list[tuple[Sent, Reply | None]] = []
        for news in self._waited():
            if (sent := self._sent.get(news.number)) is None:
                continue
            if isinstance(news, Begun):
                limit = self._orders.limit(sent.jobs[news.position])
                sent.at = news.position, news.worker, time.monotonic() + limit
            elif isinstance(news, Ended) and sent.future.status == "finished":
                sent.at, sent.done = None, True
                self._bring(news.number, sent.future)
            else:
                del self._sent[news.number]
                pickled = getattr(news, "pickled", None)
                answered.append((sent, None if pickled is None else self._measured(sent, pickled)))
        if answered:
            self._fill()  # before what was answered is recorded
        for sent, reply in answered:
            yield from self._answered(sent, reply)

    def _measured(self, sent: Sent, pickled: bytes) -> Reply:
        reply: Reply = pickle.loads(pickled)
        if not reply.refused:
            self._portions.measure(reply.seconds, len(sent.jobs), len(self._workers))
        return reply

    def _bring(self, number: int, future: Any) -> None:
        """Asks for an answer that was not told; others are sent out meanwhile."""

        async def brought() -> None:
            pickled = None
            # What went wrong is seen at the future.
            with contextlib.suppress(Exception, asyncio.CancelledError):
                pickled = await self._client.gather(future, asynchronous=True)
            self._news.put(Brought(number, pickled))

        self._client.loop.add_callback(brought)

    def _answered(self, sent: Sent, reply: Reply | None) -> Iterator[tuple[Any, Result]]:
        """Takes what came of a task; without an answer, its workers were lost on it."""
        if reply is None:
            self._failed(sent.future)
        # Of many results, none is kept after its turn.
        sent.future.release()
        yield from self._lose(sent, "") if reply is None else self._taken(sent, reply)

    def _waited(self) -> list[News]:
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

    def _failed(self, future: Any) -> None:
        if future.status != "error":  # nobody has cancelled it
            raise self._gone()
        error = future.exception()
        if not isinstance(error, distributed.KilledWorker):
            raise StageError(f"{type(error).__name__}: {error}")

    def _taken(self, sent: Sent, reply: Reply) -> Iterator[tuple[Any, Result]]:
        if reply.refused:
            self._refuse(reply.worker, reply.refused)
            self._put_back(sent, sent.jobs)
            return
        for job, result in zip(sent.jobs, reply.results, strict=True):
            if result.error is RefusedError:
                self._refuse(reply.worker, result.text)
                self._put_back(sent, [job])
            elif result.error is LostError:
                yield from self._lose(dataclasses.replace(sent, jobs=[job]), result.text)
            else:
                self._done += 1
                yield job, result

    def _put_back(self, sent: Sent, jobs: Iterable[Any]) -> None:
        if sent.alone:
            self._aside.extend((job, sent.late) for job in jobs)
        else:
            self._again.extend(jobs)

    def _lose(self, sent: Sent, why: str) -> Iterator[tuple[Any, Result]]:
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
