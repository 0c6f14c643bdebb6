"""Checks of a program's settings, shared by training and evaluation.

A wrong flag costs its user one line and a fraction of a second: nothing here imports TensorFlow,
so that every setting can be checked before the seconds of that import are spent.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from robustra_tf.vocabulary import largest_radius

_Value = TypeVar("_Value")


class FlagError(ValueError):
    """What a flag names cannot be used; its text is one line that begins with the flag."""


class SettingError(FlagError):
    """A setting outside its allowed values; its text is one line that names the flag."""

    def __init__(self, flag: str, expected: str, got: object):
        super().__init__(f"--{flag}: expected {expected}, got {got!r}")
        self.flag = flag


@contextlib.contextmanager
def naming(flag: str) -> Iterator[None]:
    """What reading the file or folder of a flag raises, as one line that begins with the flag.

    Raises:
      FlagError: a `ValueError` or `OSError` was raised.
    """
    try:
        yield
    except FlagError:
        raise
    except (ValueError, OSError) as error:
        raise FlagError(f"--{flag}: {' '.join(str(error).split())}") from error


def known(flag: str, value: _Value | None) -> _Value:
    """The value of a setting that may be left out, where it is filled in by now.

    Raises:
      TypeError: it is not.
    """
    if value is None:
        raise TypeError(f"{flag}: expected a setting that is filled in, got None")
    return value


def one_of(flag: str, value: str | None, allowed: Iterable[str]) -> str:
    """`value` where it is one of `allowed`.

    Raises:
      SettingError: it is not; the text lists what is allowed.
    """
    names = tuple(allowed)
    if value is None or value not in names:
        raise SettingError(flag, f"one of {', '.join(names)}", value)
    return value


class Range(NamedTuple):
    """Numbers from `low` (with `open_low`: above it) to `high`, both finite or `high` infinite."""

    low: float
    high: float = math.inf
    unit: str = ""  # words that follow the range, such as "pixels"
    open_low: bool = False

    def __contains__(self, value: Any) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and value <= self.high and math.isfinite(value)

    def __str__(self) -> str:
        words = f"{'above' if self.open_low else 'at least'} {_written(self.low)}"
        if math.isfinite(self.high):
            words += f" and at most {_written(self.high)}"
        return f"{words} {self.unit}".rstrip()


def _written(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def within(flag: str, value: float, range: Range) -> float:
    """`value` where it is in `range`.

    Args:
      flag: the flag's name, without dashes.
      value: the number given.
      range: what it may be.

    Raises:
      SettingError: outside the range, or not a number.
    """
    if value not in range:
        raise SettingError(flag, str(range), value)
    return value


def radius(flag: str, eps: float, norm: str, shape: Sequence[int]) -> float:
    """A radius in pixels (images lie in [0, 1]) where it is in range; `SettingError` otherwise."""
    limits = Range(0.0, largest_radius(norm, shape), "in pixels of [0, 1]")
    return within(flag, eps, limits)


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
