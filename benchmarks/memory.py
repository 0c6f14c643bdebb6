"""What the step holds in memory: `python -m benchmarks.memory`.

Each combination of `--memory_mb` and batch size is a process of its own, whose peak is the whole
process's, TensorFlow included.
"""

from __future__ import annotations

import dataclasses

from benchmarks import harness, subjects
from robustra_tf import vocabulary
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range

KEPT = ("memory_mb", "batch", "peak_memory_mb", "ms_per_example", "ratio")


@dataclasses.dataclass(frozen=True)
class Config:
    """The combinations to measure."""

    model: str = command.setting("the network", "mnist_small", choices=vocabulary.SIZED_MODELS)
    method: str = command.setting("robustra or wong", "robustra", choices=subjects.METHODS)
    eps: float = command.setting("radius in pixels", 0.01)
    memory_mb: tuple[int, ...] = command.setting(
        "MiB of working memory of a step's bounds", (128, 768), range=Range(16)
    )
    batch: tuple[int, ...] = command.setting("examples a step", (50, 200), range=Range(1))
    rounds: int = command.setting("steps timed in each process", 3, range=Range(1))

    def __post_init__(self):
        command.check(self)


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
    main(command.read(Config, "benchmarks.memory", __doc__))
