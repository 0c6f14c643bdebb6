"""A step whose batch several devices share, against one device: `python -m benchmarks.sharing`.

Three steps turn by turn: the batch on one device, a share of it on one device, and the batch on all
of them; and the averaging alone, weights out and as many numbers back. The model that
`docs/scaling.md` plans with says that the third takes what the second takes and the averaging. Two
parts of one processor need a core each: TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=2.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import harness, subjects
from robustra_tf import vocabulary
from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range
from train import devices


@dataclasses.dataclass(frozen=True)
class Config:
    """One measurement at initial weights; `eps` in pixels."""

    devices: str = command.setting("that share the batch", "CPU:0,CPU:1")
    model: str = command.setting("the network", "mnist_small", choices=vocabulary.MODELS)
    method: str = command.setting("robustra or wong", "wong", choices=subjects.METHODS)
    inner: str = command.setting("bounds of inner layers", "dual", choices=vocabulary.TRAINED_INNER)
    eps: float = command.setting("radius in pixels", 0.01)
    batch: int = command.setting("examples a step", 48, range=Range(1))
    rounds: int = command.setting("of each step", harness.ROUNDS, range=Range(1))
    data_dir: str | None = command.setting("TensorFlow Datasets' folder", None)

    def __post_init__(self):
        command.check(self)
        devices.names("devices", self.devices)
        settings.radius("eps", self.eps, "linf", vocabulary.MODEL_INPUTS[self.model])


def averaging(weights: Sequence[Any], names: Sequence[str]) -> Callable[[], None]:
    """Weights to all devices, as many numbers back, and their sum."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def averaged():
        total = [tf.identity(weight) for weight in weights]
        for name in names[1:]:
            with tf.device(name):
                back = [-tf.identity(weight) for weight in weights]
            total = [a + b for a, b in zip(total, back, strict=True)]
        return tf.add_n([tf.reduce_sum(each) for each in total])

    def work() -> None:
        with tf.device(names[0]):
            averaged().numpy()

    return work


def steps(config: Config, names: Sequence[str]) -> list[tuple[Callable[[], None], Any]]:
    """The batch on one device, a share of it, and the batch on all: what to time, and the step."""
    import keras
    import tensorflow as tf

    from robustra_tf.bounds.options import BoundOptions
    from robustra_tf.training.options import StepOptions
    from robustra_tf.training.step import TrainStep

    x, y = subjects.batch(
        subjects.images(config.model, config.batch, config.data_dir), config.batch
    )
    options = StepOptions(bounds=BoundOptions(inner=config.inner))

    def one(count: int, given: Sequence[str]) -> tuple[Callable[[], None], Any]:
        with tf.device(names[0]):
            f, g = subjects.pair(config.model, subjects.RANDOM)
            reference = g if config.method == "robustra" else None
            adam = keras.optimizers.Adam(0.0)  # every step does the same work
            step = TrainStep(f, reference, adam, config.method, options=options, devices=given)
            feed = tf.constant(x[:count]), tf.constant(y[:count]), tf.constant(config.eps)

        def work() -> None:
            with tf.device(names[0]):
                float(step(*feed)["loss"])

        return work, f

    share = -(-config.batch // len(names))
    return [one(config.batch, names[:1]), one(share, names[:1]), one(config.batch, names)]


def measure(config: Config) -> dict[str, Any]:
    """Times all of them in turn, after steps that compile them."""
    names = devices.names("devices", config.devices)
    devices.require([names])
    made = steps(config, names)
    weights = [variable.value for variable in made[0][1].trainable_variables]
    works = {
        name: work
        for name, (work, _) in zip(("one_device", "a_share", "shared"), made, strict=True)
    }
    works["averaging"] = averaging(weights, names)
    for work in 2 * list(works.values()):
        work()
    wall: dict[str, list[float]] = {name: [] for name in works}
    processor: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(config.rounds):
        for name, work in works.items():
            start, used = time.perf_counter(), time.process_time()
            work()
            wall[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - used)
    seconds = {name: statistics.median(found) for name, found in wall.items()}
    parameters = sum(int(weight.shape.num_elements() or 0) for weight in weights)
    return {
        **dataclasses.asdict(config),
        "parameters": parameters,
        "bytes_a_step": 8 * parameters * (len(names) - 1),
        "seconds": seconds,
        "processor_seconds": {name: statistics.median(one) for name, one in processor.items()},
        "predicted": seconds["a_share"] + seconds["averaging"],
        "measured_over_predicted": statistics.median(
            shared / (share + average)
            for shared, share, average in zip(
                wall["shared"], wall["a_share"], wall["averaging"], strict=True
            )
        ),
        "speedup": statistics.median(
            one / shared for one, shared in zip(wall["one_device"], wall["shared"], strict=True)
        ),
        "machine": harness.machine(),
    }


def main(config: Config) -> int:
    """Measures and prints; one line and exit code 2 where a device is not there."""
    try:
        found = measure(config)
    except settings.SettingError as error:
        sys.stderr.write(f"benchmarks.sharing: {error}\n")
        return 2
    harness.show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(command.read(Config, "benchmarks.sharing", __doc__)))
