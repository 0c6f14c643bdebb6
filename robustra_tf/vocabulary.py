"""The words of the field that everything here shares, and numbers known without TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Sequence

NORMS = ("linf", "l2", "l1")
# Those whose dual norms random projections estimate.
PROJECTED_NORMS = ("linf", "l2")
# How certificates bound margins: by the dual, intervals, or CROWN with fixed or optimised slopes.
BOUNDS = ("dual", "interval", "crown", "alpha")
# Where bounds of inner layers come from: the dual; intervals; whichever is tighter; or all of these
# and CROWN's, with fixed or optimised slopes.
INNER = ("dual", "interval", "mixed", "crown", "alpha")
# Those that training differentiates.
TRAINED_INNER = INNER[:3]
# Of robustra's reference space: the paper's threshold, the one that a pair is certified by, or a
# ramp from the one to the other.
THRESHOLDS = ("t0", "zero", "ramp")
# How initial weights are drawn.
INITS = ("fan_in", "interval")
# MiB that the rows of one piece of a batch may take: 55 examples of mnist_small.
DEFAULT_MEMORY_MB = 768

# The names of `robustra_tf.models` and the shape of an image of each, known without Keras.
MODEL_INPUTS = {
    "digits_small": (8, 8, 1),
    "mnist_small": (28, 28, 1),
    "mnist_medium": (28, 28, 1),
    "mnist_large": (28, 28, 1),
    "cifar10_small": (32, 32, 3),
    "cifar10_large": (32, 32, 3),
    "cifar10_resnet": (32, 32, 3),
}
# Those for images of any size, at least so many pixels a side.
SIZED_BY_IMAGE, LEAST_SIDE = ("cnn3", "cnn5", "cnn7"), 4
#: The names of the models, of those for images of one shape, and how many classes each tells apart.
MODELS, SIZED_MODELS, CLASSES = (*MODEL_INPUTS, *SIZED_BY_IMAGE), tuple(MODEL_INPUTS), 10


class Question:
    """What a property and unsafe outputs are: a question in one object, which few doors take."""


def models_for(shape: Sequence[int]) -> list[str]:
    """The names of the models for images `(h, w, c)`, those for this very shape first."""
    named = [name for name, other in MODEL_INPUTS.items() if other == tuple(shape)]
    sized = len(shape) == 3 and min(shape[:2]) >= LEAST_SIDE
    return [*named, *(SIZED_BY_IMAGE if sized else ())]


def largest_radius(norm: str, shape: Sequence[int]) -> float:
    """The diameter of the images in [0, 1] in the given norm: no ball need be larger.

    Args:
      norm: one of `NORMS`.
      shape: of one image, `(h, w, c)`.
    """
    size = math.prod(shape)
    return {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size)}[norm]
