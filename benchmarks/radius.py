"""Times certified radii: `python -m benchmarks.radius`.

`robustra_tf.certified_radius` by the dual on the published mnist_small, over the plain ball as LP
evaluations are, in units of one LP evaluation of the same images at `--eps`; and its attacks.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from benchmarks import harness, subjects
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured."""

    model: str = command.setting("the network", "mnist_small", choices=("mnist_small",))
    eps: float = command.setting("radius of the LP evaluation, in pixels", 0.1)
    tolerance: float = command.setting("of the radii, in pixels", 1e-3)
    limit: int = command.setting("how many images", 1000, range=Range(1))
    repeats: int = command.setting("of every measurement", 3, range=Range(1))
    attack_steps: int = command.setting("of the attacks; 0: none", 20, range=Range(0))
    data_dir: str | None = command.setting("TensorFlow Datasets' folder", None)

    def __post_init__(self):
        command.check(self)


def measure(config: Config) -> dict[str, Any]:
    """The times, and the curve at `eps` beside the LP error."""
    import robustra_tf as rt

    network = subjects.network(config.model, subjects.weights_for(config.model))
    found = subjects.images(config.model, config.limit, config.data_dir)
    x, y = found.images, found.labels

    def search(**options: Any) -> Any:
        settings = {"box": None, "tolerance": config.tolerance, "radii": (config.eps,)}
        return rt.certified_radius(network, x, y, **settings | options)

    work = {
        "lp": lambda: rt.certify(network, x, y, config.eps, box=None),
        "radius": lambda: search(attack_steps=0),
        "radius_without_radii": lambda: search(attack_steps=0, radii=()),
        "with_attacks": lambda: search(attack_steps=config.attack_steps),
    }
    results = {name: call() for name, call in work.items()}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(config.repeats):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    least = {name: min(times) for name, times in seconds.items()}
    curve = results["with_attacks"].curve([config.eps])
    return {
        **dataclasses.asdict(config),
        "images": found.source,
        "count": len(x),
        "seconds": least,
        "lp_evaluations": {name: took / least["lp"] for name, took in least.items()},
        "lp_error": float(1 - results["lp"].certified.mean()),
        "error_of_the_curve": float(1 - curve.certified[0]),
        "attacked_error_of_the_curve": float(1 - curve.attacked[0]),
        "median_certified": float(np.median(results["with_attacks"].certified)),
        "median_attacked": float(np.median(results["with_attacks"].attacked)),
        "machine": harness.machine(),
    }


if __name__ == "__main__":
    harness.show(measure(command.read(Config, "benchmarks.radius", __doc__)))
