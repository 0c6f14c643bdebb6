"""Cost against work: `python -m benchmarks.scaling`.

The same step at several batch sizes and numbers of channels, all in one process and turn by turn.
`growth` is how much more time a case takes than another with less work, each against the machine's
peak of its moment; `growth_over_work` is that over how many more operations are counted: 1 where
the cost follows the work.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import harness, subjects
from robustra_tf import vocabulary
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range


@dataclasses.dataclass(frozen=True)
class Config:
    """The cases: every batch size with the plain channels, every multiple at the middle batch."""

    model: str = command.setting("the network", "mnist_small", choices=vocabulary.SIZED_MODELS)
    method: str = command.setting("robustra or wong", "robustra", choices=subjects.METHODS)
    eps: float = command.setting("radius in pixels", 0.01)
    batch: tuple[int, ...] = command.setting(
        "examples a step, ascending", (25, 50, 100), range=Range(1)
    )
    channels: tuple[int, ...] = command.setting(
        "multiples of the channels, besides 1", (2,), range=Range(1)
    )
    memory_mb: int | None = command.setting(
        "MiB of working memory of a step's bounds",
        None,
        range=Range(16),
        otherwise="the step's own",
    )
    rounds: int = command.setting("rounds, each with all cases", harness.ROUNDS, range=Range(1))

    def __post_init__(self):
        command.check(self)


@dataclasses.dataclass(frozen=True)
class Case:
    """One step: its examples, its channels, and the place of the case that it is compared with."""

    batch: int
    channels: int
    smaller: int | None


def cases(batches: Sequence[int], channels: Sequence[int]) -> list[Case]:
    """Each batch size beside the one before it, each multiple beside the plain channels."""
    middle = len(batches) // 2
    plain = [Case(batch, 1, k - 1 if k else None) for k, batch in enumerate(batches)]
    return plain + [Case(batches[middle], multiple, middle) for multiple in channels]


def measure(config: Config) -> dict[str, Any]:
    """Time all cases, and compare each with its smaller one."""
    found = subjects.images(config.model, max(config.batch))
    steps = {
        channels: subjects.training_step(
            config.model, config.method, config.memory_mb, channels=channels
        )
        for channels in (1, *config.channels)
    }
    listed = cases(config.batch, config.channels)
    works, flops = [], []
    for case in listed:
        step, flop = steps[case.channels]
        works.append(_work(step, subjects.batch(found, case.batch), config.eps))
        flops.append(float(flop * case.batch))
    for work in works:
        work()
    timings = harness.interleave(works, config.rounds)
    table = [
        dataclasses.asdict(case)
        | {"ms": 1e3 * statistics.median(timing.seconds), "gflop": flop / 1e9}
        | {"ratio": statistics.median(timing.ratios(flop))}
        | (_growth(timings, flops, k, case.smaller) if case.smaller is not None else {})
        for k, (case, timing, flop) in enumerate(zip(listed, timings, flops, strict=True))
    ]
    return {"model": config.model, "method": config.method, "images": found.source, "table": table}


def _growth(
    timings: Sequence[harness.Timing], flops: Sequence[float], k: int, smaller: int
) -> dict[str, float]:
    """How much more case `k` takes than `smaller`, round by round at the machine's peak."""
    pairs = zip(timings[k].ratios(1.0), timings[smaller].ratios(1.0), strict=True)
    growth = statistics.median(more / less for more, less in pairs)
    work = flops[k] / flops[smaller]
    return {"growth": growth, "growth_of_work": work, "growth_over_work": growth / work}


def _work(step: Callable[..., Any], examples: Any, eps: float) -> Callable[[], None]:
    import tensorflow as tf

    x, y = map(tf.constant, examples)
    radius = tf.constant(eps)

    def work() -> None:
        float(step(x, y, radius)["loss"])

    return work


def main(config: Config) -> None:
    """Measure and print the table."""
    harness.show({**measure(config), "machine": harness.machine()})


if __name__ == "__main__":
    main(command.read(Config, "benchmarks.scaling", __doc__))
