"""What it costs to compare a model with its graph: `python -m benchmarks.intake`.

`robustra_tf.certify` takes a model in by reading its layers, compares the graph it made of them
with the model on random points, and then on the images of every call. A graph that is given instead
is compared with nothing. Both are timed in turn, in processor seconds of this process, on the same
images in one call each; `share` is what the model takes more.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks import harness, subjects
from robustra_tf import vocabulary
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range


@dataclasses.dataclass(frozen=True)
class Config:
    """One comparison."""

    model: str = command.setting("the network", "mnist_small", choices=vocabulary.MODELS)
    method: str = command.setting(
        "the bound", "dual", choices=("dual", "interval", "crown", "alpha")
    )
    eps: float = command.setting("radius in pixels", 0.1)
    limit: int = command.setting("how many images a call has", 1000, range=Range(1))
    rounds: int = command.setting("how often both are timed", 5, range=Range(1))
    data_dir: str | None = command.setting("TensorFlow Datasets' folder", None)

    def __post_init__(self):
        command.check(self)


def measure(config: Config) -> dict[str, Any]:
    """Time `certify` of the graph and of the model in turn, after a call each that compiles."""
    from robustra_tf.certificates.certify import certify
    from robustra_tf.graph.build import build

    model = subjects.network(config.model, subjects.weights_for(config.model))
    found = subjects.images(config.model, config.limit, config.data_dir)
    ask = functools.partial(
        certify, x=found.images, y=found.labels, eps=config.eps, method=config.method
    )
    graph = build(model)
    ways = {"graph": lambda: ask(graph), "model": lambda: ask(model)}
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(config.rounds):
        for name, way in ways.items():
            seconds[name].append(_processor_seconds(way))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        **dataclasses.asdict(config),
        "images": found.source,
        "cpu_seconds": seconds,
        "share": medians["model"] / medians["graph"] - 1,
        "machine": harness.machine(),
    }


def _processor_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main(config: Config) -> None:
    """Measure and print."""
    harness.show(measure(config))


if __name__ == "__main__":
    main(command.read(Config, "benchmarks.intake", __doc__))
