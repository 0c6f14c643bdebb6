"""What rounding does to certificates: `python -m benchmarks.rounding`.

`robustra_tf.certify` on the published networks in float32, in float64 and sound, image by image:
how often verdicts differ, how far margins are apart, and what soundness costs in certificates.
Without `--model`, each of the standing evaluations is run in a process of its own.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from benchmarks import harness, subjects
from benchmarks.lp import STANDING
from robustra_tf import vocabulary
from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range

MODES = {"float32": {"dtype": "float32"}, "float64": {"dtype": "float64"}, "sound": {"sound": True}}
#: Those of the LP benchmark whose weights are published.
MODELS = tuple(subjects.WEIGHTS)


@dataclasses.dataclass(frozen=True)
class Config:
    """One comparison; what is None becomes the model's default in `benchmarks.lp`."""

    model: str | None = command.setting(
        "the network", None, choices=MODELS, otherwise="all of them"
    )
    weights: str = command.setting("published, random or a .mat file", "published")
    eps: float | None = command.setting("radius in pixels", None, otherwise="the model's")
    limit: int | None = command.setting(
        "how many images", None, range=Range(1), otherwise="the model's"
    )
    batch: int = command.setting("images at a time", 20, range=Range(1))
    data_dir: str | None = command.setting("TensorFlow Datasets' folder", None)

    def __post_init__(self):
        command.check(self)
        if self.model is None:
            return
        for name in ("eps", "limit"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, STANDING[self.model][name])
        settings.radius("eps", self.eps, "linf", vocabulary.MODEL_INPUTS[self.model])


def measure(config: Config) -> dict[str, Any]:
    """Certify in every mode and compare, in this process."""
    from robustra_tf.certificates.certify import certify
    from robustra_tf.graph.build import build

    graph = build(subjects.network(config.model, config.weights))
    found = subjects.images(config.model, config.limit, config.data_dir)
    made, seconds = {}, {}
    for mode, how in MODES.items():
        options_ = {"box": None, "batch_size": config.batch, **how}
        certify(
            graph,
            found.images[: config.batch],
            found.labels[: config.batch],
            config.eps,
            **options_,
        )
        start = time.perf_counter()
        made[mode] = certify(graph, found.images, found.labels, config.eps, **options_)
        seconds[mode] = time.perf_counter() - start
    return {
        **dataclasses.asdict(config),
        "images": found.source,
        "count": len(found.images),
        "certified": {mode: int(one.certified.sum()) for mode, one in made.items()},
        **compared(*made.values()),
        "seconds": seconds,
        "machine": harness.machine(),
    }


def compared(plain, double, sound) -> dict[str, Any]:
    """Three certificates of the same images, in float32, in float64 and sound.

    Differences of margins are over all images and targets; `largest_float64_margin_lost` is how
    clear a certificate of float64 was whose image the sound mode does not certify, at most.
    """
    lost = double.certified & ~sound.certified
    apart = np.abs(plain.margin_lower - double.margin_lower)
    given = double.margin_lower - sound.margin_lower
    return {
        "verdicts_that_differ_float32_float64": int((plain.certified != double.certified).sum()),
        "largest_difference_float32_float64": float(apart.max()),
        "certified_by_float64_not_sound": int(lost.sum()),
        "certified_sound_not_by_float64": int((sound.certified & ~double.certified).sum()),
        "largest_margin_given_up": float(given.max()),
        "median_worst_margin_given_up": float(np.median(double.worst_margin - sound.worst_margin)),
        "largest_float64_margin_lost": float(double.worst_margin[lost].max(initial=0.0)),
    }


def main(config: Config) -> None:
    """Compare here, or the standing evaluations in processes of their own, and print."""
    if config.model is not None:
        harness.show(measure(config))
        return
    runs = [dataclasses.asdict(config) | {"model": model} for model in MODELS]
    harness.show([harness.fresh("benchmarks.rounding", flags) for flags in runs])


if __name__ == "__main__":
    main(command.read(Config, "benchmarks.rounding", __doc__))
