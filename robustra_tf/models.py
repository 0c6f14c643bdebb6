"""The published architectures, a small one for 8x8 digits, and the published weights.

Every model takes pixels in [0, 1], channels last, and returns logits. The CIFAR-10 models normalise
their inputs in their first layer, so that a perturbation's radius is in pixels for every model.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import keras
import numpy as np
import scipy.io
from keras import initializers, layers

from robustra_tf.settings import INITS

CIFAR10_MEAN = (0.485, 0.456, 0.406)
CIFAR10_STD = 0.225
CLASSES = 10


class _Conv(NamedTuple):
    """A convolution with padding 1 and a ReLU."""

    filters: int
    kernel: int
    stride: int


class _Block(NamedTuple):
    """A residual block: two convolutions, and a convolution that skips them."""

    filters: int
    down: bool = False


class _Architecture(NamedTuple):
    shape: tuple[int, int, int]
    body: tuple[_Conv | _Block, ...]
    hidden: tuple[int, ...]
    cifar10: bool = False


_SMALL = (_Conv(16, 4, 2), _Conv(32, 4, 2))
_LARGE = (_Conv(32, 3, 1), _Conv(32, 4, 2), _Conv(64, 3, 1), _Conv(64, 4, 2))
_RESNET = (_Conv(16, 3, 1), _Block(16), _Block(16), _Block(32, True), _Block(64, True))

_ARCHITECTURES = {
    "digits_small": _Architecture((8, 8, 1), _SMALL, (64,)),
    "mnist_small": _Architecture((28, 28, 1), _SMALL, (100,)),
    "mnist_large": _Architecture((28, 28, 1), _LARGE, (512, 512)),
    "cifar10_small": _Architecture((32, 32, 3), _SMALL, (100,), cifar10=True),
    "cifar10_large": _Architecture((32, 32, 3), _LARGE, (512, 512), cifar10=True),
    "cifar10_resnet": _Architecture((32, 32, 3), _RESNET, (1000,), cifar10=True),
}

NAMES = tuple(_ARCHITECTURES)


def build(
    name: str, seed: int | None = None, init: str = "fan_in", batch_norm: bool = False
) -> keras.Model:
    """A freshly initialised model of Table 1 (Li et al., IJCAI 2019), or `digits_small`.

    Convolutions of the CIFAR-10 models start from N(0, 2 / (kh kw filters)) with zero biases;
    everything else, biases too, is uniform in +-1 / sqrt(fan_in). With `init="interval"` all
    weights are drawn from N(0, 2 pi / fan_in^2) and biases are 0: interval bounds then keep their
    width from layer to layer (Shi et al. 2021).

    Args:
      name: one of `NAMES`.
      seed: of the initial weights; two networks of a pair need two seeds. None draws one from
        Python's random numbers, which `keras.utils.set_random_seed` fixes.
      init: `fan_in` or `interval`.
      batch_norm: a batch normalisation behind every layer but the logits, before its ReLU, as Shi
        et al. 2021 have it (running statistics keep 0.9 of themselves, epsilon 1e-5); their
        variables follow no seed.

    Returns:
      A functional model: pixels [n, h, w, c] in [0, 1] to logits [n, 10].

    Raises:
      ValueError: for a name that is not in `NAMES`, or an init that is neither.
    """
    if init not in INITS:
        raise ValueError(f"init: expected one of {', '.join(INITS)}; got {init!r}")
    if name not in _ARCHITECTURES:
        raise ValueError(f"name: expected one of {', '.join(NAMES)}; got {name!r}")
    shape, body, hidden, cifar10 = _ARCHITECTURES[name]
    seed = random.getrandbits(32) if seed is None else seed
    make = _Layers(seed, normal=cifar10, init=init, batch_norm=batch_norm)
    inputs = keras.Input(shape)
    x = inputs
    if cifar10:
        variance = (CIFAR10_STD**2,) * len(CIFAR10_MEAN)
        x = layers.Normalization(mean=CIFAR10_MEAN, variance=variance, name="normalise")(x)
    for index, part in enumerate(body, start=1):
        if isinstance(part, _Conv):
            x = make.conv(x, *part, padding=1, relu=True, name=f"conv{index}")
        else:
            x = make.block(x, part, name=f"block{index}")
    x = layers.Flatten(name="flatten")(x)
    for index, units in enumerate(hidden, start=1):
        x = make.dense(x, units, name=f"dense{index}")
    return keras.Model(inputs, make.logits(x, CLASSES, name="logits"), name=name)


class _Layers:
    """Makes layers whose initial weights follow from one seed."""

    def __init__(self, seed: int, normal: bool, init: str, batch_norm: bool):
        self._seeds = _seeds(seed)
        self._normal, self._init, self._batch_norm = normal, init, batch_norm

    def _initial(self, fan_in: int) -> dict[str, initializers.Initializer]:
        if self._init == "interval":
            return self._gaussian(math.sqrt(2.0 * math.pi) / fan_in)
        bound = 1.0 / math.sqrt(fan_in)
        kernel, bias = (
            initializers.RandomUniform(-bound, bound, seed=next(self._seeds)) for _ in range(2)
        )
        return {"kernel_initializer": kernel, "bias_initializer": bias}

    def _gaussian(self, deviation: float) -> dict[str, initializers.Initializer]:
        kernel = initializers.RandomNormal(0.0, deviation, seed=next(self._seeds))
        return {"kernel_initializer": kernel, "bias_initializer": initializers.Zeros()}

    def conv(self, x, filters, kernel, stride, *, padding, name, relu=False):
        if padding:
            # Not padding="same": with stride 2 that would put its zeros at the bottom and right.
            x = layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)
        size = kernel * kernel
        if self._normal and self._init == "fan_in":
            deviation = math.sqrt(2.0 / (size * filters))
            start = self._gaussian(deviation)
        else:
            start = self._initial(size * x.shape[-1])
        return self._hidden(x, layers.Conv2D, (filters, kernel, stride), start, name, relu)

    def block(self, x, block: _Block, *, name):
        n, size, stride = block.filters, *((4, 2) if block.down else (3, 1))
        skip = (2, 2) if block.down else (1, 1)
        branch = self.conv(x, n, size, stride, padding=1, relu=True, name=f"{name}_conv1")
        skipped = self.conv(x, n, *skip, padding=0, name=f"{name}_skip")
        branch = self.conv(branch, n, 3, 1, padding=1, name=f"{name}_conv2")
        return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([skipped, branch]))

    def dense(self, x, units, *, name):
        start = self._initial(x.shape[-1])
        return self._hidden(x, layers.Dense, (units,), start, name, relu=True)

    def logits(self, x, units, *, name):
        return layers.Dense(units, **self._initial(x.shape[-1]), name=name)(x)

    def _hidden(self, x, kind, sizes, start, name, relu):
        fused = relu and not self._batch_norm
        x = kind(*sizes, activation="relu" if fused else None, **start, name=name)(x)
        if self._batch_norm:
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)
        if relu and not fused:
            x = layers.ReLU(name=f"{name}_relu")(x)
        return x


def _seeds(seed: int) -> Iterator[int]:
    """Independent seeds, one for each weight."""
    generator = np.random.default_rng(seed)
    while True:
        yield int(generator.integers(2**31))


def normalises(model: keras.Model) -> bool:
    """Whether the model normalises its inputs itself, and so takes pixels where others do not."""
    return any(isinstance(layer, layers.Normalization | layers.Rescaling) for layer in model.layers)


def load_mat(
    model: keras.Model, path: str | os.PathLike[str], normalised: bool = False
) -> keras.Model:
    """Read published weights (a MATLAB file of fields `<index>/weight`, `<index>/bias`).

    Args:
      model: the same architecture, for example `build("mnist_small")`; its weights are replaced.
      path: the file.
      normalised: whether the network in the file works on normalised inputs rather than on pixels.
        Such weights belong behind the model's own normalisation layer; a radius that they were
        trained for, given in normalised units, is that times the standard deviation in pixels.

    Returns:
      `model`.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: where it is not a readable MATLAB file, a field is missing, has a wrong shape or
        values that are not finite, or `normalised` does not agree with the model.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"path: expected a .mat file of weights, found none at {path}")
    _check_normalisation(model, normalised, path)
    declared = _declared(path)
    wanted = [
        field
        for layer, index in _fields(model, declared, "", path)
        for field, variable in _parts(layer, index)
        if _check_declared(declared, field, path, tuple(variable.shape))
    ]
    with _matlab(path):
        arrays = scipy.io.loadmat(path, variable_names=wanted)
    return load_arrays(model, arrays, normalised=normalised, source=path)


# What MATLAB calls arrays of plain numbers; others are structures, objects or code.
_NUMERIC = ("double", "single", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)))


@contextlib.contextmanager
def _matlab(path: str) -> Iterator[None]:
    """Says of whatever a damaged MATLAB file leads to which file it was."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise ValueError(
            f"{path}: expected a MATLAB file (version 7.2 or less): {error}"
        ) from error


def _declared(path: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """The shape and class that a MATLAB file gives each field; no values are read."""
    with _matlab(path):
        listed = scipy.io.whosmat(path)
    names = [name for name, *_ in listed]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: the field {twice[0]!r} is there more than once")
    return {name: (tuple(shape), kind) for name, shape, kind in listed}


def _check_declared(
    declared: Mapping[str, tuple[tuple[int, ...], str]],
    field: str,
    source: str,
    shape: tuple[int, ...],
) -> bool:
    """Refuses a field by what the file says of it; true otherwise."""
    if field not in declared:
        raise ValueError(f"{source}: the field {field!r} is missing")
    found, kind = declared[field]
    if kind not in _NUMERIC:
        raise ValueError(f"{source}: {field!r} is of class {kind!r}, expected an array of numbers")
    return _check_shape(field, source, found, shape)


def _check_shape(field: str, source: str, found: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    # MATLAB has no vectors: a bias comes as one row.
    expected = [shape, (1, *shape)] if len(shape) == 1 else [shape]
    if found not in expected:
        raise ValueError(f"{source}: {field!r} has shape {found}, expected {shape}")
    return True


def load_arrays(
    model: keras.Model,
    arrays: Mapping[str, np.ndarray],
    prefix: str = "",
    normalised: bool = False,
    source: str = "arrays",
) -> keras.Model:
    """Assign weights in the published layout to the model's convolutions and dense layers.

    Fields are taken in the order of the numbers in their names, the model's layers in the order of
    `model.layers`. Convolutions are [kh, kw, in, out], dense layers [in, out], biases [1, out] or
    [out]. The rows of the first dense layer count channel, row, column; Keras flattens row, column,
    channel, so they are permuted.

    Args:
      model: the model; nothing of it changes unless everything fits.
      arrays: `<prefix><index>/weight` and `<prefix><index>/bias` for every layer, `<index>` a
        number, or `<number>/Ws/<number>` in a residual block.
      prefix: what stands before the index.
      normalised: as for `load_mat`.
      source: what error messages call the arrays.

    Returns:
      `model`.

    Raises:
      ValueError: as for `load_mat`.
    """
    _check_normalisation(model, normalised, source)
    indices = dict(_fields(model, arrays, prefix, source))
    values = {}
    flattened = None
    for layer in model.layers:
        if isinstance(layer, layers.Flatten):
            flattened = layer.input.shape[1:]
        if layer in indices:
            kernel, bias = (
                _read(arrays, field, source, tuple(variable.shape))
                for field, variable in _parts(layer, indices[layer])
            )
            if isinstance(layer, layers.Dense) and flattened is not None:
                kernel = _rows_to_channels_last(kernel, flattened)
                flattened = None
            values[layer] = (kernel, bias)
    for layer, (kernel, bias) in values.items():
        layer.kernel.assign(kernel)
        layer.bias.assign(bias)
    return model


def _fields(
    model: keras.Model, names: Iterable[str], prefix: str, source: str
) -> list[tuple[layers.Layer, str]]:
    """Each layer with weights, and the prefix and index of its fields among `names`."""
    indices = _indices(names, prefix)
    weighted = [x for x in model.layers if isinstance(x, layers.Conv2D | layers.Dense)]
    if len(indices) != len(weighted):
        raise ValueError(
            f"{source}: expected fields '{prefix}<index>/weight' and '/bias' for the "
            f"{len(weighted)} layers {[layer.name for layer in weighted]} of {model.name!r}, "
            f"got the indices {indices}"
        )
    return [(layer, prefix + index) for layer, index in zip(weighted, indices, strict=True)]


def _parts(layer: layers.Layer, index: str) -> tuple[tuple[str, keras.Variable], ...]:
    """The fields of a layer, and the variables that they are read into."""
    return ((f"{index}/weight", layer.kernel), (f"{index}/bias", layer.bias))


def _check_normalisation(model: keras.Model, normalised: bool, source: str) -> None:
    if normalises(model) and not normalised:
        raise ValueError(
            f"normalised: got False for {source}, but {model.name!r} normalises its inputs: "
            "weights trained on plain pixels would see other numbers. If the file was"
            " trained on normalised inputs, pass normalised=True"
        )
    if normalised and not normalises(model):
        raise ValueError(
            f"normalised: got True for {source}, but {model.name!r} has no normalisation layer: it "
            "would feed pixels to weights that expect normalised inputs. Begin the model with "
            "Normalization or Rescaling"
        )


def _indices(arrays: Iterable[str], prefix: str) -> list[str]:
    """The layers' indices among the field names, in numerical order."""
    pattern = re.compile(re.escape(prefix) + r"(\d+(?:/Ws/\d+)?)/(?:weight|bias)")
    found = {match[1] for match in map(pattern.fullmatch, arrays) if match}
    return sorted(found, key=lambda index: [int(part) for part in index.split("/Ws/")])


def _read(
    arrays: Mapping[str, np.ndarray], field: str, source: str, shape: tuple[int, ...]
) -> np.ndarray:
    if field not in arrays:
        raise ValueError(f"{source}: the field {field!r} is missing")
    value = np.asarray(arrays[field])
    _check_shape(field, source, value.shape, shape)
    if value.dtype.kind not in "iuf" or not np.all(np.isfinite(value)):
        raise ValueError(f"{source}: {field!r} holds values that are not finite numbers")
    return value.reshape(shape)


def _rows_to_channels_last(kernel: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    """Rows from channel, row, column order into row, column, channel order."""
    height, width, channels = image
    rows = kernel.reshape(channels, height, width, -1)
    return rows.transpose(1, 2, 0, 3).reshape(kernel.shape)
