"""Measures complete verification: `python -m benchmarks.complete --network=cifar`.

The networks CNN-A-Adv (`benchmarks.cnn_a`), image by image, by each of several searches: how many
images are decided, in what time, and how many domains a second. `--figure` draws how many are
decided within so many seconds each; `--table` keeps a row for every image and search.
"""

from __future__ import annotations

import csv
import dataclasses
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import cnn_a, harness
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured."""

    network: str = command.setting("which one", "cifar", choices=tuple(cnn_a.NETWORKS))
    folder: str = command.setting("where the weights and images are", "../shared/cnn_a")
    solvers: str = command.setting("searches, with commas between", "auto,branch")
    time_limit: float = command.setting("for an image", 60.0, range=Range(0.0, unit="seconds"))
    first: int = command.setting("number of the first image", 0, range=Range(0))
    limit: int = command.setting("how many images", 200, range=Range(1))
    figure: str | None = command.setting("PNG to write", None)
    table: str | None = command.setting("CSV to write", None)

    def __post_init__(self):
        command.check(self)


@dataclasses.dataclass(frozen=True)
class Row:
    """One image by one search."""

    solver: str
    image: int
    status: str
    seconds: float
    nodes: int
    search: str


def rows(config: Config) -> Iterator[Row]:
    """Every image that is classified rightly, by one search after the other."""
    import robustra_tf as rt

    model, x, y, eps = cnn_a.read(config.folder, config.network)
    right = model.predict(x, verbose=0).argmax(1) == y
    for solver in config.solvers.split(","):
        verifier = rt.Verifier(model, eps, time_limit=config.time_limit, solver=solver)
        for k in range(config.first, min(config.first + config.limit, len(y))):
            if not right[k]:
                yield Row(solver, k, "misclassified", 0.0, 0, "")
                continue
            start = time.perf_counter()
            found = verifier.verify(x[k], int(y[k]))
            seconds = time.perf_counter() - start
            yield Row(solver, k, found.status.value, seconds, found.nodes, found.search)


def summary(found: list[Row]) -> dict[str, Any]:
    """What one search came to."""
    tried = [row for row in found if row.status != "misclassified"]
    seconds = [row.seconds for row in tried] or [0.0]
    searched = [row for row in tried if row.nodes]
    spent = sum(row.seconds for row in searched)
    return {
        **Counter(row.status for row in found),
        "seconds": sum(seconds),
        "seconds_mean": statistics.mean(seconds),
        "seconds_median": statistics.median(seconds),
        "domains_per_second": sum(row.nodes for row in searched) / spent if spent else 0.0,
    }


def draw(found: list[Row], path: str) -> None:
    """How many images each search decides within so many seconds each, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for solver in dict.fromkeys(row.solver for row in found):
        times = sorted(
            row.seconds
            for row in found
            if row.solver == solver and row.status in ("verified", "falsified")
        )
        axes.step(times, range(1, len(times) + 1), where="post", label=solver)
    axes.set(xscale="log", xlabel="seconds for an image", ylabel="images decided", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def measure(config: Config) -> dict[str, Any]:
    """The summaries; a line for each image goes to standard error as it is decided."""
    found = []
    for row in rows(config):
        found.append(row)
        print(*dataclasses.astuple(row), file=sys.stderr, flush=True)
    if config.table:
        with Path(config.table).open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(field.name for field in dataclasses.fields(Row))
            table.writerows(dataclasses.astuple(row) for row in found)
    if config.figure:
        draw(found, config.figure)
    by_solver = {
        solver: summary([row for row in found if row.solver == solver])
        for solver in dict.fromkeys(row.solver for row in found)
    }
    return {**dataclasses.asdict(config), **by_solver, "machine": harness.machine()}


if __name__ == "__main__":
    harness.show(measure(command.read(Config, "benchmarks.complete", __doc__)))
