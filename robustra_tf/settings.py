"""Checks of a program's settings, shared by training and evaluation.

A wrong flag costs its user one line and a fraction of a second: nothing here imports TensorFlow,
so that every setting can be checked before the seconds of that import are spent.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

NORMS = ("linf", "l2", "l1")
# Those whose dual norms random projections estimate.
PROJECTED_NORMS = ("linf", "l2")
# Methods of training: on WK's dual, on interval bounds, and without any bound.
DUAL_METHODS = ("robustra", "wong")
INTERVAL_METHODS = ("ibp", "crown_ibp", "mtl_ibp", "sabr")
METHODS = (*DUAL_METHODS, *INTERVAL_METHODS, "natural")
# Where bounds of inner layers come from: the dual; intervals; or whichever is tighter.
INNER = ("dual", "interval", "mixed")
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


class SettingError(ValueError):
    """A setting outside its allowed values; its text is one line that names the flag."""

    def __init__(self, flag: str, expected: str, got: object):
        super().__init__(f"--{flag}: expected {expected}, got {got!r}")
        self.flag = flag


def one_of(flag: str, value: str, allowed: Iterable[str]) -> str:
    """`value` where it is one of `allowed`.

    Raises:
      SettingError: it is not; the text lists what is allowed.
    """
    names = tuple(allowed)
    if value not in names:
        raise SettingError(flag, f"one of {', '.join(names)}", value)
    return value


def within(
    flag: str,
    value: float,
    low: float,
    high: float = math.inf,
    *,
    unit: str = "",
    open_low: bool = False,
) -> float:
    """`value` where `low <= value <= high` (`low < value` with `open_low`).

    Args:
      flag: the flag's name, without dashes.
      value: the number given.
      low, high: its range; `high` may be infinite.
      unit: words that follow the range in the message, such as "pixels".
      open_low: leaves `low` itself out.

    Raises:
      SettingError: outside the range, or not a number.
    """
    above = value > low if open_low else value >= low
    if not (above and value <= high and math.isfinite(value)):
        words = f"{'above' if open_low else 'at least'} {low:g}"
        if math.isfinite(high):
            words += f" and at most {high:g}"
        raise SettingError(flag, f"{words} {unit}".rstrip(), value)
    return value


def largest_radius(norm: str, shape: Sequence[int]) -> float:
    """The diameter of the images in [0, 1] in the given norm: no ball need be larger.

    Args:
      norm: one of `NORMS`.
      shape: of one image, `(h, w, c)`.
    """
    size = math.prod(shape)
    return {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size)}[norm]


def radius(flag: str, eps: float, norm: str, shape: Sequence[int]) -> float:
    """A radius in pixels (images lie in [0, 1]) where it is in range; `SettingError` otherwise."""
    return within(flag, eps, 0.0, largest_radius(norm, shape), unit="in pixels of [0, 1]")


def output_directory(flag: str, path: str | Path) -> Path:
    """`path` where it is a directory, or can become one because its parent is there.

    Raises:
      SettingError: it is a file, its parent is missing, or nothing can be written there.
    """
    directory = Path(path).expanduser()
    if directory.exists() and not directory.is_dir():
        raise SettingError(flag, "a directory, not a file", str(path))
    home = directory if directory.exists() else directory.absolute().parent
    if not home.is_dir():
        raise SettingError(flag, f"a directory whose parent exists (there is no {home})", str(path))
    if not os.access(home, os.W_OK):
        raise SettingError(flag, f"a directory that can be written ({home} cannot)", str(path))
    return directory


def parse(flag_values, argv: Sequence[str]) -> list[str]:
    """Reads a command line into absl's `flag_values`.

    Args:
      flag_values: the `absl.flags.FlagValues` that the program declared.
      argv: the command line, the program's name first.

    Returns:
      The program's name alone: positional arguments are refused.

    Raises:
      ValueError: one line: an unknown flag, a value of the wrong type, or a positional argument.
    """
    from absl import flags

    try:
        rest = flag_values(list(argv))
    except flags.Error as error:
        raise ValueError(" ".join(str(error).split())) from error
    if len(rest) > 1:
        raise ValueError(f"expected only flags (--name=value), got {rest[1]!r}")
    return rest
