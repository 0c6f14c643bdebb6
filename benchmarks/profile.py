"""Where the time of a step goes, operation by operation: `python -m benchmarks.profile`.

TensorFlow's profiler over a few steps, as a table of text: milliseconds per example and calls per
step of each kind of operation. Operations run beside each other on several cores, so the times add
up to more than the step's own.
"""

from __future__ import annotations

import collections
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import harness, subjects
from robustra_tf import vocabulary
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range


@dataclasses.dataclass(frozen=True)
class Config:
    """What is profiled."""

    model: str = command.setting("the network", "mnist_small", choices=vocabulary.SIZED_MODELS)
    method: str = command.setting("robustra or wong", "robustra", choices=subjects.METHODS)
    weights: str = command.setting("random, published, or a .mat file", subjects.RANDOM)
    eps: float = command.setting("radius in pixels", 0.01)
    batch: int = command.setting("examples a step", 50, range=Range(1))
    memory_mb: int | None = command.setting(
        "MiB of working memory of a step's bounds",
        None,
        range=Range(16),
        otherwise="the step's own",
    )
    steps: int = command.setting("steps profiled", 5, range=Range(1))
    top: int = command.setting("kinds of operation listed", 25, range=Range(1))

    def __post_init__(self):
        command.check(self)


def times(work: Callable[[], None], repeats: int) -> dict[str, tuple[float, float]]:
    """Milliseconds and calls per repeat of each kind of operation on the CPU.

    Args:
      work: returns when its results are there; already compiled.
      repeats: how often it is run.

    Raises:
      RuntimeError: the profiler left nothing.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(repeats):
            work()
        tf.profiler.experimental.stop()
        traces = list(Path(folder).rglob("*.xplane.pb"))
        if not traces:
            raise RuntimeError(f"TensorFlow's profiler left no trace in {folder}")
        space = xplane_pb2.XSpace.FromString(traces[0].read_bytes())
    spent: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    for plane in space.planes:
        if "CPU" not in plane.name:
            continue
        for line in plane.lines:
            for event in line.events:
                # Operations are named "node:Kind"; calls of C++ methods have "::".
                name = plane.event_metadata[event.metadata_id].name
                if ":" in name and "::" not in name:
                    kind = name.rpartition(":")[2]
                    spent[kind] += event.duration_ps / 1e9
                    calls[kind] += 1
    return {kind: (spent[kind] / repeats, calls[kind] / repeats) for kind, _ in spent.most_common()}


def main(config: Config) -> None:
    """Profile the step and print the table."""
    import tensorflow as tf

    step, flop = subjects.training_step(
        config.model, config.method, config.memory_mb, config.weights
    )
    found = subjects.images(config.model, config.batch)
    x, y = map(tf.constant, subjects.batch(found, config.batch))
    eps = tf.constant(config.eps)

    def work() -> None:
        float(step(x, y, eps)["loss"])

    work()
    (timing,) = harness.interleave([work], config.steps)
    clock = timing.summary(config.batch, flop)
    table = times(work, config.steps)
    print(f"{config.model}, {config.method}, batch {config.batch}, eps {config.eps:g}")
    print(
        f"{clock['ms_per_example']:.3f} ms per example by the clock, without the profiler: "
        f"{clock['ratio']:.2f} times the floor"
    )
    print(f"{'ms/example':>10} {'calls/step':>10}  operation")
    for kind, (milliseconds, calls) in list(table.items())[: config.top]:
        print(f"{milliseconds / config.batch:10.3f} {calls:10.1f}  {kind}")


if __name__ == "__main__":
    main(command.read(Config, "benchmarks.profile", __doc__))
