"""Certifies networks of others: `python -m benchmarks.cnn_a --folder=DIR`.

The two networks CNN-A-Adv of the beta-CROWN comparisons with their 200 images each, read from a
folder that has their PyTorch weights (`mnist_cnn_a_adv.npz`, `cifar_cnn_a_adv.npz`) and images
(`mnist_200_images.npz`, `cifar_200_images.npz`). With `--proofs=DIR` they are evaluated instead, by
attack, CROWN, its optimised slopes and the complete search, with a proof of every verdict, and all
proofs are checked.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range

#: Mean and deviation of CIFAR-10's channels, in units of 1/255.
MEAN, DEVIATION = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
#: By the name of the data: the shape of an image, and the radius in pixels.
NETWORKS = {"mnist": ((28, 28, 1), 0.3), "cifar": ((32, 32, 3), 2 / 255)}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured."""

    folder: str = command.setting("where the weights and images are", "../shared/cnn_a")
    method: str = command.setting("of rt.certify", "crown")
    networks: tuple[str, ...] = command.setting(
        "which of the two", tuple(NETWORKS), choices=tuple(NETWORKS)
    )

    proofs: str | None = command.setting("evaluate with proofs, and keep them there", None)
    images: int = command.setting("of each network that are proven", 50, range=Range(1, 200))
    time_limit: float = command.setting(
        "of the complete search for an image", 60.0, range=Range(0.0, unit="seconds")
    )

    def __post_init__(self):
        command.check(self)


def network(shape: tuple[int, ...], weights: dict[str, np.ndarray]) -> Any:
    """The Keras model with PyTorch's weights, whose first dense layer reads channels first."""
    import keras
    from keras import layers

    scaled = [] if shape[2] == 1 else [layers.Rescaling(*_scaling())]
    model = keras.Sequential(
        [
            keras.Input(shape),
            *scaled,
            layers.ZeroPadding2D(1),
            layers.Conv2D(16, 4, 2, activation="relu", name="0"),
            layers.ZeroPadding2D(1),
            layers.Conv2D(32, 4, 2, activation="relu", name="2"),
            layers.Permute((3, 1, 2)),
            layers.Flatten(),
            layers.Dense(100, activation="relu", name="5"),
            layers.Dense(10, name="7"),
        ]
    )
    for name in ("0", "2", "5", "7"):
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        order = (2, 3, 1, 0) if kernel.ndim == 4 else (1, 0)
        model.get_layer(name).set_weights([kernel.transpose(order), bias])
    return model


def _scaling() -> tuple[list[float], list[float]]:
    """Of each channel the factor and what is added, as lists, which files may hold."""
    factor, shift = 255 / np.array(DEVIATION), -np.array(MEAN) / np.array(DEVIATION)
    return factor.tolist(), shift.tolist()


def read(folder: str | Path, name: str) -> tuple[Any, np.ndarray, np.ndarray, float]:
    """A network with its images, their labels and the radius; `name` one of `NETWORKS`."""
    shape, eps = NETWORKS[name]
    with np.load(Path(folder) / f"{name}_cnn_a_adv.npz") as weights:
        model = network(shape, dict(weights))
    with np.load(Path(folder) / f"{name}_200_images.npz") as images:
        x, y = np.float32(images["x"] / 255).reshape(-1, *shape), images["y"].astype(int)
    return model, x, y, eps


def measure(config: Config) -> dict[str, Any]:
    """Of each network how many images are misclassified and certified, and in what time."""
    import robustra_tf as rt

    found = {}
    for name in config.networks:
        model, x, y, eps = read(config.folder, name)
        start = time.perf_counter()
        certificate = rt.certify(model, x, y, eps, method=config.method)
        found[name] = {
            "eps": eps,
            "images": len(y),
            "misclassified": int((certificate.predicted != y).sum()),
            "certified": int(certificate.certified.sum()),
            "seconds": round(time.perf_counter() - start, 1),
        }
    return {**dataclasses.asdict(config), **found, "machine": harness.machine()}


def prove(config: Config, folder: Path) -> dict[str, Any]:
    """Of each network what an evaluation with proofs finds, and what checking them does."""
    from eval import check, run
    from eval import config as evaluations

    found = {}
    for name in config.networks:
        model, x, y, eps = read(config.folder, name)
        home = folder / name
        home.mkdir(parents=True, exist_ok=True)
        model.save(home / "net.keras")
        np.savez(home / "images.npz", x=x[: config.images], y=y[: config.images])
        given = {
            "model_file": str(home / "net.keras"),
            "data": str(home / "images.npz"),
            "eps": eps,
            "stages": ["clean", "pgd", "crown", "alpha", "milp"],
            "time_limit": config.time_limit,
            "out": str(home / "out"),
            "proofs": str(home / "out" / "proofs"),
            "resume": True,
        }
        start = time.process_time()
        figures = run.evaluate(run.prepare(evaluations.resolve(given)))
        made = time.process_time() - start
        code = check.main([f"--run={home / 'out'}", "--processes=1"])
        checked = json.loads((home / "out" / check.CHECKED).read_text())
        names = ("verified", "accepted", "falsified", "replayed", "open", "exported", "stages")
        found[name] = {
            "eps": eps,
            "decided": figures["decided"],
            "accepted": code == check.ACCEPTED,
            "processor_seconds": {
                "making": round(made, 1),
                "checking": round(sum(each["seconds"] for each in checked["stages"].values()), 1),
            },
            **{each: checked[each] for each in names if each != "accepted"},
            "proofs_accepted": checked["accepted"],
        }
    return {**dataclasses.asdict(config), **found, "machine": harness.machine()}


def main() -> None:
    """Measures what the command line asks for."""
    config = command.read(Config, "benchmarks.cnn_a", __doc__)
    harness.show(measure(config) if config.proofs is None else prove(config, Path(config.proofs)))


if __name__ == "__main__":
    main()
