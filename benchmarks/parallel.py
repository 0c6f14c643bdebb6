"""Steps of a pair, one after the other against both at once: `python -m benchmarks.parallel`.

Alternating leaves both networks where TensorFlow puts them; parallel has one on each device. Two
halves of one processor share its cores: what overlaps there is what one step leaves idle.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import harness, subjects
from robustra_tf import vocabulary
from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range
from train import devices

if TYPE_CHECKING:
    from robustra_tf.training.mutual import Learner


@dataclasses.dataclass(frozen=True)
class Config:
    """One measurement of a pair at its initial weights; `eps` in pixels."""

    devices_f: str = command.setting("f's, as in GPU:0 or GPU:0,GPU:1", "CPU:0")
    devices_g: str = command.setting("g's", "CPU:1")
    split_gpu_mb: int = command.setting(
        "two devices of so many MiB from one GPU; 0: whole GPUs", 0, range=Range(0)
    )
    model: str = command.setting("both networks", "mnist_small", choices=vocabulary.SIZED_MODELS)
    method: str = command.setting("robustra or wong", "robustra", choices=subjects.METHODS)
    inner: str = command.setting("bounds of inner layers", "dual", choices=vocabulary.TRAINED_INNER)
    eps: float = command.setting("radius in pixels", 0.01)
    batch: int = command.setting("examples a step", 50, range=Range(1))
    memory_mb: int = command.setting(
        "MiB of working memory of a step's bounds", vocabulary.DEFAULT_MEMORY_MB, range=Range(16)
    )
    rounds: int = command.setting(
        "steps of each network timed, by each schedule", harness.ROUNDS, range=Range(1)
    )
    data_dir: str | None = command.setting("TensorFlow Datasets' folder", None)

    def __post_init__(self):
        command.check(self)
        for name in ("devices_f", "devices_g"):
            devices.names(name, getattr(self, name))
        settings.radius("eps", self.eps, "linf", vocabulary.MODEL_INPUTS[self.model])


def networks(config: Config, schedule: str) -> Sequence[Learner]:
    """A pair as a run of the schedule has it, but for a learning rate of 0.

    Every round then does the same work on the same weights.
    """
    from train import run
    from train.config import resolve

    given: dict[str, Any] = {"dataset": config.model.partition("_")[0], "schedule": schedule}
    if schedule == "parallel":
        given |= {n: getattr(config, n) for n in ("devices_f", "devices_g", "split_gpu_mb")}
    same = ("model", "method", "inner", "eps", "memory_mb")
    pair = run.make_networks(resolve(given | {name: getattr(config, name) for name in same}))
    for network in pair:
        network.optimizer.learning_rate = 0.0
    return pair


def measure(config: Config) -> dict[str, Any]:
    """Time both schedules, turn by turn, after steps that compile them."""
    from concurrent.futures import ThreadPoolExecutor

    import tensorflow as tf

    from benchmarks import flops
    from robustra_tf.graph.build import build
    from robustra_tf.training.mutual import in_turn
    from robustra_tf.training.parallel import AtOnce

    wanted = [devices.names(n, getattr(config, n)) for n in ("devices_f", "devices_g")]
    devices.require(wanted, config.split_gpu_mb)
    found = subjects.images(config.model, 2 * config.batch, config.data_dir)
    x, y = subjects.batch(found, 2 * config.batch)
    with tf.device("CPU:0"):  # where batches come from
        halves = [slice(0, config.batch), slice(config.batch, None)]
        feeds = [(tf.constant(x[half]), tf.constant(y[half])) for half in halves]

    def steps(pair: Sequence[Learner]) -> list[Callable[[], None]]:
        def step(network: Learner, feed) -> None:
            with tf.device(network.device):
                metrics = network.step(*feed, tf.constant(config.eps))
            float(metrics["loss"])

        return [functools.partial(step, n, feed) for n, feed in zip(pair, feeds, strict=True)]

    pairs = {name: networks(config, name) for name in ("alternating", "parallel")}
    counted = flops.step(build(pairs["parallel"][0].model).structure, config.method, config.inner)
    with ThreadPoolExecutor(2) as pool:
        drives = {"alternating": in_turn, "parallel": AtOnce(pool)}
        works = [functools.partial(drives[name], steps(pair)) for name, pair in pairs.items()]
        for work in 2 * works:  # at once from the second time on
            work()
        timings = harness.interleave(works, config.rounds)
    alternating, parallel = (
        timing.summary(2 * config.batch, counted)
        | {"pairs_of_steps_per_second": 1.0 / statistics.median(timing.seconds)}
        for timing in timings
    )
    # Of rounds beside each other: a machine's speed drifts.
    rounds = zip(*(timing.seconds for timing in timings), strict=True)
    return {
        **dataclasses.asdict(config),
        "images": found.source,
        "alternating": alternating,
        "parallel": parallel,
        "speedup": statistics.median(a / b for a, b in rounds),
        "speedup_against_the_peak": alternating["ratio"] / parallel["ratio"],
        "peak_memory_mb": harness.peak_memory_mb(),
        "traces": [network.step.traces for pair in pairs.values() for network in pair],
        "machine": harness.machine(),
    }


def main(config: Config) -> None:
    """Measure and print; one line and exit code 2 where a device is not there."""
    try:
        found = measure(config)
    except settings.SettingError as error:
        print(f"benchmarks.parallel: {error}", file=sys.stderr)
        sys.exit(2)
    harness.show(found)


if __name__ == "__main__":
    main(command.read(Config, "benchmarks.parallel", __doc__))
