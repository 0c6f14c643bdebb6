"""Times the exact training step: `python -m benchmarks.step`.

Without `--method`, Robustra's step and WK's are measured one after the other, each in a process of
its own, so that memory and start-up are each one's.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from benchmarks import harness, subjects
from robustra_tf import vocabulary
from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range


@dataclasses.dataclass(frozen=True)
class Config:
    """One measurement of the step; `eps` in pixels."""

    method: str | None = command.setting(
        "robustra or wong",
        None,
        choices=subjects.METHODS,
        otherwise="both, each in its own process",
    )
    model: str = command.setting("the network", "mnist_small", choices=vocabulary.SIZED_MODELS)
    inner: str = command.setting("bounds of inner layers", "dual", choices=("dual", "interval"))
    weights: str = command.setting("random, published, or a .mat file", subjects.RANDOM)
    eps: float = command.setting("radius in pixels", 0.01)
    batch: int = command.setting("examples a step", 50, range=Range(1))
    memory_mb: int | None = command.setting(
        "MiB of working memory of a step's bounds",
        None,
        range=Range(16),
        otherwise="the step's own",
    )
    rounds: int = command.setting(
        "steps timed, each between two peaks", harness.ROUNDS, range=Range(1)
    )
    data_dir: str | None = command.setting("TensorFlow Datasets' folder", None)

    def __post_init__(self):
        command.check(self)
        settings.radius("eps", self.eps, "linf", vocabulary.MODEL_INPUTS[self.model])


def measure(config: Config) -> dict[str, Any]:
    """Time the step in this process, after one step that compiles it."""
    import tensorflow as tf

    step, flop = subjects.training_step(
        config.model, config.method, config.memory_mb, config.weights, inner=config.inner
    )
    found = subjects.images(config.model, config.batch, config.data_dir)
    x, y = map(tf.constant, subjects.batch(found, config.batch))
    eps = tf.constant(config.eps)
    measured: dict[str, float] = {}

    def work() -> None:
        metrics = step(x, y, eps)
        measured.update({name: float(value) for name, value in metrics.items()})

    work()
    startup, startup_cpu = harness.seconds_since_start(), time.process_time()
    (timing,) = harness.interleave([work], config.rounds)
    return {
        **dataclasses.asdict(config),
        "images": found.source,
        **timing.summary(config.batch, flop),
        "seconds_to_first_step": startup,
        "cpu_seconds_to_first_step": startup_cpu,
        "peak_memory_mb": harness.peak_memory_mb(),
        "traces": step.traces,
        "unstable": [measured[k] for k in sorted(measured) if k.startswith("unstable/")],
        "machine": harness.machine(),
    }


def main(config: Config) -> None:
    """Measure here, or both methods in processes of their own, and print."""
    if config.method is not None:
        harness.show(measure(config))
        return
    flags = dataclasses.asdict(config)
    harness.show(
        [harness.fresh("benchmarks.step", flags | {"method": m}) for m in subjects.METHODS]
    )


if __name__ == "__main__":
    main(command.read(Config, "benchmarks.step", __doc__))
