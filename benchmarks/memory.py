"""What the step holds in memory: `python -m benchmarks.memory`.

Each combination of `--memory_mb` and batch size is a process of its own, whose peak is the whole
process's, TensorFlow included.
"""

from __future__ import annotations

import dataclasses

from benchmarks import harness, options, subjects
from robustra_tf import settings

KEPT = ("memory_mb", "batch", "peak_memory_mb", "ms_per_example", "ratio")


@dataclasses.dataclass(frozen=True)
class Config:
    """The combinations to measure."""

    model: str = options.option("mnist_small", "the network", tuple(settings.MODEL_INPUTS))
    method: str = options.option("robustra", "robustra or wong", subjects.METHODS)
    eps: float = options.option(0.01, "radius in pixels")
    memory_mb: tuple[int, ...] = options.option((128, 768), "working memory of a step's bounds")
    batch: tuple[int, ...] = options.option((50, 200), "examples a step")
    rounds: int = options.option(3, "steps timed in each process")


def main(config: Config) -> None:
    """Measure every combination and print the table."""
    table = []
    for memory_mb in config.memory_mb:
        for batch in config.batch:
            flags = dataclasses.asdict(config) | {"memory_mb": memory_mb, "batch": batch}
            found = harness.fresh("benchmarks.step", flags)
            table.append({name: found[name] for name in KEPT})
    harness.show({"model": config.model, "method": config.method, "table": table})


if __name__ == "__main__":
    main(options.parse(Config, __doc__))
