"""The published architectures, a small one for 8x8 digits and one between two of MNIST's.

Every model takes pixels in [0, 1], channels last, and returns logits. Models of images of three
channels normalise them in their first layer, by the numbers of CIFAR-10, so that a perturbation's
radius is in pixels for every model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import initializers, layers

from robustra_tf.vocabulary import CLASSES, INITS, LEAST_SIDE, models_for

CIFAR10_MEAN = (0.485, 0.456, 0.406)
CIFAR10_STD = 0.225


class _Conv(NamedTuple):
    """A convolution and a ReLU."""

    filters: int
    kernel: int
    stride: int
    padding: int = 1

    def scaled(self, width: float) -> _Conv:
        """With so many times the filters."""
        return self._replace(filters=_scaled(self.filters, width))


class _Block(NamedTuple):
    """A residual block: two convolutions, and a convolution that skips them."""

    filters: int
    down: bool = False

    def scaled(self, width: float) -> _Block:
        """With so many times the filters."""
        return self._replace(filters=_scaled(self.filters, width))


def _scaled(count: int, width: float) -> int:
    return max(1, round(count * width))


class _Architecture(NamedTuple):
    """Layers; `shape` is None for images of any size, and convolutions then start as dense layers.

    Convolutions of `normal` ones start from normal numbers instead.
    """

    shape: tuple[int, int, int] | None
    body: tuple[_Conv | _Block, ...]
    hidden: tuple[int, ...]
    normal: bool = False


_SMALL = (_Conv(16, 4, 2), _Conv(32, 4, 2))
_MEDIUM = (_Conv(32, 4, 2), _Conv(64, 4, 2))
_LARGE = (_Conv(32, 3, 1), _Conv(32, 4, 2), _Conv(64, 3, 1), _Conv(64, 4, 2))
_CNN3 = (_Conv(16, 5, 2, 2), _Conv(32, 4, 2))
_CNN5 = (_Conv(16, 3, 1), _Conv(16, 4, 2), _Conv(32, 4, 2))
_CNN7 = (
    *(_Conv(64, 3, 1), _Conv(64, 3, 1), _Conv(128, 3, 2)),
    *(_Conv(128, 3, 1), _Conv(128, 3, 1)),
)
_RESNET = (_Conv(16, 3, 1), _Block(16), _Block(16), _Block(32, True), _Block(64, True))

_ARCHITECTURES = {
    "digits_small": _Architecture((8, 8, 1), _SMALL, (64,)),
    "mnist_small": _Architecture((28, 28, 1), _SMALL, (100,)),
    "mnist_medium": _Architecture((28, 28, 1), _MEDIUM, (512,)),
    "mnist_large": _Architecture((28, 28, 1), _LARGE, (512, 512)),
    "cifar10_small": _Architecture((32, 32, 3), _SMALL, (100,), normal=True),
    "cifar10_large": _Architecture((32, 32, 3), _LARGE, (512, 512), normal=True),
    "cifar10_resnet": _Architecture((32, 32, 3), _RESNET, (1000,), normal=True),
    "cnn3": _Architecture(None, _CNN3, ()),
    "cnn5": _Architecture(None, _CNN5, (512,)),
    "cnn7": _Architecture(None, _CNN7, (512,)),
}

NAMES = tuple(_ARCHITECTURES)


def build(
    name: str,
    seed: int | None = None,
    init: str = "fan_in",
    batch_norm: bool = False,
    *,
    shape: Sequence[int] | None = None,
    width: float = 1.0,
) -> keras.Model:
    """A freshly initialised model.

    `digits_small` and `mnist_medium` (strided as `mnist_small`, with two to five times its units a
    layer) are ours, the others those of Table 1 (Li et al., IJCAI 2019), but for `cnn7`, the
    network of Shi et al. 2021 and of most work on certified training after it, and `cnn3` and
    `cnn5`, the smaller ones beside it in Mao et al. 2024, "Understanding certified training with
    interval bound propagation": these take images of any `shape`.

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
      shape: of the images, (h, w, c); None for the one that the name has.
      width: the factor of all filters and hidden units, above 0, rounded.

    Returns:
      A functional model: pixels [n, h, w, c] in [0, 1] to logits [n, 10].

    Raises:
      ValueError: for a name that is not in `NAMES`, an init that is neither, a shape that the name
        does not take, or a width that is not above 0.

    Example:
      >>> rt.models.build("digits_small", seed=0).output_shape
      (None, 10)
      >>> rt.models.build("cnn7", seed=0, shape=(8, 8, 1), width=0.25).count_params()
      92570
    """
    if init not in INITS:
        raise ValueError(f"init: expected one of {', '.join(INITS)}; got {init!r}")
    if name not in _ARCHITECTURES:
        raise ValueError(f"name: expected one of {', '.join(NAMES)}; got {name!r}")
    if not 0 < width < math.inf:
        raise ValueError(f"width: expected a factor above 0; got {width!r}")
    _, body, hidden, normal = _ARCHITECTURES[name]
    shape = _shape(name, shape)
    seed = random.getrandbits(32) if seed is None else seed
    make = _Layers(seed, normal=normal, init=init, batch_norm=batch_norm)
    inputs = keras.Input(shape)
    x = inputs
    if shape[-1] == len(CIFAR10_MEAN):
        variance = (CIFAR10_STD**2,) * len(CIFAR10_MEAN)
        x = layers.Normalization(mean=CIFAR10_MEAN, variance=variance, name="normalise")(x)
    for index, part in enumerate((part.scaled(width) for part in body), start=1):
        if isinstance(part, _Conv):
            x = make.conv(x, *part[:3], padding=part.padding, relu=True, name=f"conv{index}")
        else:
            x = make.block(x, part, name=f"block{index}")
    x = layers.Flatten(name="flatten")(x)
    for index, units in enumerate(hidden, start=1):
        x = make.dense(x, _scaled(units, width), name=f"dense{index}")
    return keras.Model(inputs, make.logits(x, CLASSES, name="logits"), name=name)


def _shape(name: str, given: Sequence[int] | None) -> tuple[int, ...]:
    """The shape of an architecture's images."""
    own = _ARCHITECTURES[name].shape
    if own is None:
        if given is None or name not in models_for(given):
            wanted = f"(h, w, c) of {LEAST_SIDE} pixels a side or more"
            raise ValueError(f"shape: expected {wanted} for {name}; got {given!r}")
        return tuple(given)
    if given is not None and tuple(given) != own:
        raise ValueError(f"shape: expected {own} for {name}; got {given!r}")
    return own


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
