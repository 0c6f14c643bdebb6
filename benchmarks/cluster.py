"""What a cluster of many workers costs: `python -m benchmarks.cluster --ledger=DIR/ledger.csv`.

Workers that sleep for as long as examples of a ledger took stand in for machines that there are
not; `benchmarks.asleep` has some in each of a few processes, the scheduler is a process too. The
efficiency is the sum of what was slept over what the workers had; the overhead is what a job takes
beyond its sleep of a worker's time, and what a task takes of the processor, in the program and in
the scheduler.
Beside it stands what is computed of the same jobs in the same portions, where handing a task out
takes `--handing_ms` of one thread and its way there and back `--way_ms`: what machines would do
that have nothing else to do. `--computed` leaves the sleeping out.
`--memory` sends jobs without a ledger instead, and gives the memory that the program holds.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import heapq
import itertools
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness, processes
from benchmarks.clusters import Cluster
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range

#: Workers that one process has.
_TOGETHER = 20
#: Who hands tasks out.
_HANDING = ("program", "scheduler")
#: Seconds that a job of `--memory` sleeps.
_INSTANT = 1e-5


@dataclasses.dataclass(frozen=True)
class Config:
    """The cases."""

    ledger: Path | None = command.setting("ledger whose durations are drawn", None)
    stage: str = command.setting("of the ledger", "milp")
    workers: tuple[int, ...] = command.setting("cases", (10, 50, 100, 200), range=Range(1))
    seconds: float = command.setting("of work for each worker", 20.0)
    scale: tuple[float, ...] = command.setting("cases: what durations are multiplied by", (1.0,))
    handing_ms: float = command.setting("of a task, of one thread", 3.0, range=Range(0))
    way_ms: float = command.setting("of a task and its answer", 10.0, range=Range(0))
    computed: bool = command.setting("nothing sleeps", False)
    memory: tuple[int, ...] = command.setting("cases: jobs that take no time, instead", ())
    figure: Path | None = command.setting("file for the figure", None)

    def __post_init__(self):
        command.check(self)


def durations(path: Path, stage: str) -> list[float]:
    """Seconds of the examples that a stage looked at last."""
    with path.open(newline="") as file:
        return [float(row["seconds"]) for row in csv.DictReader(file) if row["stage"] == stage]


@dataclasses.dataclass(frozen=True)
class Sleepers:
    """A scheduler, workers that sleep, and the pool of them."""

    pool: Any
    scheduler: int
    processes: Sequence[int]

    def through(self, jobs: Iterator[tuple[float]]) -> dict[str, Any]:
        """Jobs and tasks done, seconds that were slept and that passed, those of a processor."""
        from benchmarks.asleep import asleep
        from eval.workers import Orders

        used = self._used()
        start, count, slept, tasks = time.perf_counter(), 0, 0.0, set[str]()
        # With a limit, as an evaluation has, so that what lasts is told.
        orders = Orders(limit=lambda job: 1e6)
        for _, result in self.pool.share_out(jobs, orders, asleep, lambda job: job):
            seconds, task = result("a job")
            count += 1
            slept += seconds
            tasks.add(task)
        passed = time.perf_counter() - start
        found = {"jobs": count, "tasks": len(tasks), "slept": slept, "seconds": passed}
        return found | {name: seconds - used[name] for name, seconds in self._used().items()}

    def _used(self) -> dict[str, float]:
        """Seconds of a processor; of workers, which would have processors of their own, too."""
        return {
            "program": processes.seconds(os.getpid()),
            "scheduler": processes.seconds(self.scheduler),
            "workers": sum(map(processes.seconds, self.processes)),
        }


@contextlib.contextmanager
def sleepers(workers: int) -> Iterator[Sleepers]:
    """So many workers for as long as they are entered."""
    import distributed

    from eval import cluster
    from eval.clustered import Place

    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        there = Cluster(Path(home), 0)
        stack.callback(there.close)
        address, pids = there.address, list[int]()
        for first in range(0, workers, _TOGETHER):
            given = [f"--scheduler={address}", f"--workers={min(_TOGETHER, workers - first)}"]
            begun = processes.run("benchmarks.asleep", *given, log=Path(home) / "log")
            stack.callback(_end, begun)
            pids.append(begun.pid)
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=processes.PATIENCE)
        assert there.scheduler is not None
        pool = stack.enter_context(cluster.opened(Place(0, address, {}), False, print))
        found = Sleepers(pool, there.scheduler.pid, pids)
        found.through(iter([(0.0,)] * workers))
        yield found


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def jobs_of(config: Config, drawn: Sequence[float], workers: int, scale: float) -> list[float]:
    """What each job of a case sleeps: so many that each worker has its share of the same work."""
    rng = random.Random(workers)
    count = math.ceil(workers * config.seconds * len(drawn) / (scale * sum(drawn)))
    return [scale * rng.choice(drawn) for _ in range(count)]


def computed(config: Config, drawn: Sequence[float], workers: int, scale: float) -> dict[str, Any]:
    """One case by a clock that is only counted: no machine takes part in it."""
    from eval.portions import Portions

    jobs = jobs_of(config, drawn, workers, scale)
    source, free, tasks = Portions(iter(jobs)), 0.0, 0
    # When each worker can be given a task, and the seconds and the jobs of the one before.
    ready = [(0.0, number, 0.0, 0) for number in range(workers)]
    ended = 0.0
    while ready:
        now, number, slept, done = heapq.heappop(ready)
        ended = max(ended, now)
        if done:
            source.measure(slept, done, workers)
        if portion := source.next(workers):
            free = max(free, now) + config.handing_ms / 1e3
            tasks += 1
            back = free + config.way_ms / 1e3 + sum(portion)
            heapq.heappush(ready, (back, number, sum(portion), len(portion)))
    return {
        "workers": workers,
        "scale": scale,
        "jobs": len(jobs),
        "tasks": tasks,
        "mean_seconds": sum(jobs) / len(jobs),
        "seconds": ended,
        "efficiency": sum(jobs) / (workers * ended),
        "overhead_ms_a_job": 1e3 * (workers * ended - sum(jobs)) / len(jobs),
        "tasks_a_second": tasks / ended,
    }


def simulate(config: Config, drawn: Sequence[float], workers: int, scale: float) -> dict[str, Any]:
    """One case by workers that sleep."""
    jobs = [(seconds,) for seconds in jobs_of(config, drawn, workers, scale)]
    with sleepers(workers) as there:
        found = there.through(iter(jobs))
    longest, had = max(job[0] for job in jobs), workers * found["seconds"]
    return {
        "workers": workers,
        "scale": scale,
        "jobs": found["jobs"],
        "tasks": found["tasks"],
        "mean_seconds": sum(job[0] for job in jobs) / len(jobs),
        "longest_seconds": longest,
        "seconds": found["seconds"],
        "efficiency": found["slept"] / had,
        "overhead_ms_a_job": 1e3 * (had - found["slept"]) / found["jobs"],
        "tasks_a_second": found["tasks"] / found["seconds"],
        **{f"{who}_ms_a_task": 1e3 * found[who] / found["tasks"] for who in (*_HANDING, "workers")},
        "load": os.getloadavg()[0],
    }


def memory(jobs: int) -> dict[str, Any]:
    """What this process holds while and after so many jobs are done."""
    held: list[float] = []

    def asked() -> Iterator[tuple[float]]:
        for i in range(jobs):
            if i % max(jobs // 50, 1) == 0:
                held.append(_mib())
            yield (_INSTANT,)

    with sleepers(2) as there:
        # As many as a long run has on its way and remembers at any time.
        there.through(itertools.repeat((_INSTANT,), 50_000))
        before = _mib()
        found = there.through(asked())
    return {
        "jobs": found["jobs"],
        "seconds": found["seconds"],
        "mib_before": before,
        "mib_most": max(held),
        "mib_after": _mib(),
    }


def _mib() -> float:
    return processes.usage(os.getpid())["mib"]


def draw(slept: Sequence[dict[str, Any]], counted: Sequence[dict[str, Any]], path: Path) -> None:
    """Against the number of workers, points slept and lines computed: efficiency; handing out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for k, scale in enumerate(sorted({one["scale"] for one in counted})):
        lines, points = ([o for o in f if o["scale"] == scale] for f in (counted, slept))
        mean = f"jobs of {lines[0]['mean_seconds']:.2g} s in the mean"
        for found, style, label in ((lines, "-", mean), (points, "o", None)):
            x, y = [o["workers"] for o in found], [100.0 * o["efficiency"] for o in found]
            left.plot(x, y, f"C{k}{style}", label=label)
        for who, style in zip(_HANDING, "o^", strict=True):
            x, y = [o["workers"] for o in points], [o[f"{who}_ms_a_task"] for o in points]
            right.plot(x, y, f"C{k}{style}", label=f"{who}, {mean}" if points else None)
    left.set(ylabel="efficiency in %", ylim=(0, 102))
    right.set(ylabel="processor, ms a task", ylim=(0, None))
    for axes in (left, right) if slept else (left,):
        axes.set(xlabel="workers")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path)


def main(config: Config) -> int:
    """Measures and prints."""
    if len(config.memory) > 1:  # each in a process that holds nothing of another one
        harness.show([harness.fresh("benchmarks.cluster", {"memory": n}) for n in config.memory])
        return 0
    if config.memory:
        harness.show(memory(*config.memory))
        return 0
    if config.ledger is None:
        sys.stderr.write("benchmarks.cluster: --ledger: expected a ledger, got None\n")
        return 2
    drawn = durations(config.ledger, config.stage)
    cases = [(workers, scale) for scale in config.scale for workers in config.workers]
    found = {
        "computed": [computed(config, drawn, *case) for case in cases],
        "slept": [] if config.computed else [simulate(config, drawn, *case) for case in cases],
    }
    if config.figure is not None:
        draw(found["slept"], found["computed"], config.figure)
    harness.show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(command.read(Config, "benchmarks.cluster", __doc__)))
