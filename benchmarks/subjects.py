"""What is measured: networks with random or published weights, and images for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from robustra_tf.data import INFO as DATASETS
from robustra_tf.data import load

if TYPE_CHECKING:
    import keras

    from robustra_tf.training.step import TrainStep

METHODS = ("robustra", "wong")
RANDOM, PUBLISHED = "random", "published"
#: Images of the first CIFAR-10 test images without a loss, in the shared folder.
LOSSLESS_CIFAR10 = "data/cifar10_test_first1017_lossless.npz"


class Published(NamedTuple):
    """Weights in the shared folder; `normalised` says that they expect normalised inputs."""

    file: str
    normalised: bool


WEIGHTS = {
    "mnist_small": Published("weights/robustra_mnist_small_eps0.1.mat", False),
    "cifar10_small": Published("weights/robustra_cifar10_small_eps0.0347_normalised.mat", True),
}


class Images(NamedTuple):
    """Images float32 [n, h, w, c] in [0, 1], labels int32 [n], and where they came from."""

    images: np.ndarray
    labels: np.ndarray
    source: str


def shared_folder() -> Path | None:
    """Published weights and datasets: ROBUSTRA_SHARED, or `shared` beside the project."""
    named = os.environ.get("ROBUSTRA_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    return folder if folder.is_dir() else None


def weights_for(model: str) -> str:
    """`PUBLISHED` where the shared folder has weights of the model, else `RANDOM`."""
    folder = shared_folder()
    there = folder is not None and model in WEIGHTS and (folder / WEIGHTS[model].file).is_file()
    return PUBLISHED if there else RANDOM


def network(model: str, weights: str = RANDOM, seed: int = 1, channels: int = 1) -> keras.Model:
    """A network of the library's, with weights.

    Args:
      model: one of `robustra_tf.models.NAMES`.
      weights: `RANDOM`, `PUBLISHED`, or a .mat file as `robustra_tf.published.load_mat` reads it.
      seed: of random weights.
      channels: how many times as many channels every convolution gets; random weights alone.

    Raises:
      FileNotFoundError: published weights without a shared folder, or a file that is not there.
      ValueError: published weights of a model that has none, or that do not fit.
    """
    from robustra_tf import models, published

    built = models.build(model, seed=seed)
    if weights == RANDOM:
        return built if channels == 1 else _widened(built, channels)
    if channels != 1:
        raise ValueError(f"channels must be 1 with the weights {weights!r}, got {channels}")
    if weights != PUBLISHED:
        return published.load_mat(built, weights, normalised=published.normalises(built))
    if model not in WEIGHTS:
        raise ValueError(f"model must be one of {', '.join(WEIGHTS)} for published weights")
    folder = shared_folder()
    if folder is None:
        raise FileNotFoundError("published weights: set ROBUSTRA_SHARED to the folder of them")
    return published.load_mat(built, folder / WEIGHTS[model].file, WEIGHTS[model].normalised)


def pair(model: str, weights: str = RANDOM, channels: int = 1) -> tuple[keras.Model, keras.Model]:
    """A network and its reference: two seeds, or given weights and the same with noise."""
    f = network(model, weights, 1, channels)
    g = network(model, weights, 2, channels)
    if weights != RANDOM:
        noise = np.random.default_rng(2)
        for variable in g.trainable_variables:
            value = variable.numpy()
            variable.assign(value + 0.3 * value.std() * noise.normal(size=value.shape))
    return f, g


def training_step(
    model: str,
    method: str,
    memory_mb: float | None,
    weights: str = RANDOM,
    channels: int = 1,
    inner: str = "dual",
) -> tuple[TrainStep, int]:
    """A step that can be repeated, and its counted operations per example.

    Its learning rate is 0: every repetition does the same work on the same weights.

    Args:
      model, weights, channels: as `pair` takes them.
      method: one of `METHODS`.
      memory_mb: working memory of the step's bounds; None for the step's own default.
      inner: where bounds of inner layers come from.
    """
    import keras

    from benchmarks import flops
    from robustra_tf.bounds.options import BoundOptions
    from robustra_tf.graph.build import build
    from robustra_tf.training.options import StepOptions
    from robustra_tf.training.step import TrainStep

    f, g = pair(model, weights, channels)
    reference = g if method == "robustra" else None
    given = {} if memory_mb is None else {"memory_mb": memory_mb}
    options = StepOptions(bounds=BoundOptions(inner=inner), **given)
    step = TrainStep(f, reference, keras.optimizers.Adam(0.0), method, options=options)
    return step, flops.step(build(f).structure, method, inner)


def _widened(model: keras.Model, factor: int) -> keras.Model:
    """The same architecture with `factor` times the filters, newly initialised.

    Initial weights shrink with the root of the number of inputs, as they do in the library's own
    models: a wider network of larger weights would have more unstable neurons, not only more.
    """
    import keras

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Conv2D):
            config["filters"] *= factor
        return type(layer).from_config(config)

    wide = keras.models.clone_model(model, clone_function=clone)
    for old, new in zip(model.layers, wide.layers, strict=True):
        if hasattr(old, "kernel"):
            inputs = [np.prod(layer.kernel.shape[:-1]) for layer in (old, new)]
            new.kernel.assign(new.kernel * np.sqrt(inputs[0] / inputs[1]))
    return wide


def images(model: str, count: int, data_dir: str | None = None) -> Images:
    """The first `count` test images that the model is for; fewer where there are fewer.

    MNIST or CIFAR-10 from `data_dir` (TensorFlow Datasets' folder) or the shared folder; where
    neither has them, the digits of scikit-learn, enlarged to the model's input.

    Raises:
      DataNotFoundError: `data_dir` is given and does not hold the dataset.
    """
    dataset = model.partition("_")[0]
    folder = shared_folder()
    if data_dir is None and folder is not None:
        lossless = folder / LOSSLESS_CIFAR10
        if dataset == "cifar10" and lossless.is_file():
            return _lossless(lossless, count)
        if (folder / "tfds" / dataset).is_dir():
            data_dir = str(folder / "tfds")
    if dataset == "digits" or data_dir is None:
        return _enlarged_digits(DATASETS[dataset].shape, count)
    found = load(dataset, "test", min(count, DATASETS[dataset].splits["test"]), data_dir)
    return Images(found.images, found.labels, f"{dataset} test")


def _lossless(file: Path, count: int) -> Images:
    with np.load(file) as stored:
        pixels, labels = stored["x"][:count], stored["y"][:count]
    unit = pixels.astype(np.float32) / np.float32(DATASETS["cifar10"].largest)
    return Images(unit, labels.astype(np.int32), "cifar10 test, lossless")


def _enlarged_digits(shape: tuple[int, int, int], count: int) -> Images:
    """Digits of 8x8 pixels, each pixel repeated, with a margin: strokes, unlike noise."""
    digits = load("digits", "test", min(count, DATASETS["digits"].splits["test"]))
    times = shape[0] // 8
    large = digits.images.repeat(times, 1).repeat(times, 2).repeat(shape[2], 3)
    margin = (shape[0] - 8 * times) // 2
    large = np.pad(large, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    source = "digits test" if times == 1 else "digits test, enlarged"
    return Images(large, digits.labels, source)


def batch(found: Images, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`size` images and labels, repeated where there are fewer."""
    index = np.arange(size) % len(found.images)
    return found.images[index], found.labels[index]
