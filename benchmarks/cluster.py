"""What a pool of Dask's workers costs: `python -m benchmarks.cluster --ledger=DIR/ledger.csv`.

Workers that sleep for as long as examples of a ledger took stand in for machines that there are
not: so many in this process, by TCP. The efficiency is the sum of what was slept over what the
workers had; the overhead is what a task takes beyond its sleep, at its sender and at a worker.
`--memory` sends many tasks without sleep instead and gives the memory that this process holds.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import logging
import math
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range


@dataclasses.dataclass(frozen=True)
class Config:
    """The cases."""

    ledger: Path | None = command.setting("ledger whose durations are drawn", None)
    stage: str = command.setting("of the ledger", "milp")
    workers: tuple[int, ...] = command.setting("cases", (10, 50, 100, 200), range=Range(1))
    seconds: float = command.setting("of work for each worker", 20.0)
    scale: tuple[float, ...] = command.setting("cases: what durations are multiplied by", (1.0,))
    memory: tuple[int, ...] = command.setting("cases: jobs without sleep, instead", ())
    figure: Path | None = command.setting("file for the figure", None)

    def __post_init__(self):
        command.check(self)


def durations(path: Path, stage: str) -> list[float]:
    """Seconds of the examples that a stage looked at last."""
    with path.open(newline="") as file:
        return [float(row["seconds"]) for row in csv.DictReader(file) if row["stage"] == stage]


def asleep(seconds: float) -> float:
    """A job."""
    time.sleep(seconds)
    return seconds


def through(pool: Any, jobs: Iterator[tuple[float]]) -> tuple[int, float, float]:
    """Jobs done, seconds that they slept, and seconds that passed."""
    # By its name in this package, which workers know it by too.
    from benchmarks.cluster import asleep as work
    from eval.workers import Orders

    start, count, slept = time.perf_counter(), 0, 0.0
    for _, result in pool.share_out(jobs, Orders(), work, lambda job: job):
        count += 1
        slept += result("a job")
    return count, slept, time.perf_counter() - start


def cluster(workers: int) -> Any:
    """Workers of one thread each in this process, that are spoken to by TCP."""
    import dask.config
    import distributed

    dask.config.set({"distributed.worker.profile.enabled": False})
    return distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address=None,
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    )


def simulate(config: Config, drawn: Sequence[float], workers: int, scale: float) -> dict[str, Any]:
    """One case: so many workers, each with its share of the same work."""
    import distributed

    from eval.cluster import Cluster

    rng = random.Random(workers)
    mean = scale * sum(drawn) / len(drawn)
    count = math.ceil(workers * config.seconds / mean)
    jobs = [(scale * rng.choice(drawn),) for _ in range(count)]
    with cluster(workers) as there, distributed.Client(there, set_as_default=False) as client:
        pool = Cluster(client, print)
        through(pool, iter([(0.0,)] * workers))
        done, slept, passed = through(pool, iter(jobs))
    longest = max(job[0] for job in jobs)
    return {
        "workers": workers,
        "scale": scale,
        "jobs": done,
        "mean_seconds": mean,
        "longest_seconds": longest,
        "seconds": passed,
        "efficiency": slept / (workers * passed),
        # No order of the jobs takes less than this.
        "bound": slept / (workers * max(longest, slept / workers)),
        "overhead_ms_a_job": 1e3 * (workers * passed - slept) / done,
        "jobs_a_second": done / passed,
    }


def memory(jobs: int) -> dict[str, Any]:
    """What this process holds while and after so many jobs that do nothing are done."""
    import distributed

    from eval.cluster import Cluster

    held: list[float] = []

    def asked() -> Iterator[tuple[float]]:
        for i in range(jobs):
            if i % max(jobs // 50, 1) == 0:
                held.append(_mib())
            yield (0.0,)

    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as there,
        distributed.Client(there, set_as_default=False) as client,
    ):
        pool = Cluster(client, print)
        through(pool, itertools.repeat((0.0,), 1000))
        before = _mib()
        done, _, passed = through(pool, asked())
    return {
        "jobs": done,
        "seconds": passed,
        "mib_before": before,
        "mib_most": max(held),
        "mib_after": _mib(),
    }


def _mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def draw(found: Sequence[dict[str, Any]], path: Path) -> None:
    """The efficiency against the number of workers, a curve for each scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for k, scale in enumerate(sorted({one["scale"] for one in found})):
        rows = [one for one in found if one["scale"] == scale]
        x = [one["workers"] for one in rows]
        label = f"jobs of {rows[0]['mean_seconds']:.2g} s in the mean"
        axes.plot(x, [100 * one["efficiency"] for one in rows], f"C{k}o-", label=label)
        axes.plot(x, [100 * one["bound"] for one in rows], f"C{k}:", linewidth=1)
    axes.set(xlabel="workers", ylabel="efficiency in %", ylim=(0, 102))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figure.savefig(path)


def main(config: Config) -> int:
    """Measures and prints."""
    if config.memory:
        harness.show([memory(jobs) for jobs in config.memory])
        return 0
    if config.ledger is None:
        sys.stderr.write("benchmarks.cluster: --ledger: expected a ledger, got None\n")
        return 2
    drawn = durations(config.ledger, config.stage)
    found = [
        simulate(config, drawn, workers, scale)
        for scale in config.scale
        for workers in config.workers
    ]
    if config.figure is not None:
        draw(found, config.figure)
    harness.show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(command.read(Config, "benchmarks.cluster", __doc__)))
