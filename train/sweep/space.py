"""Which settings a sweep varies, read from texts such as `lr=1e-4:1e-2:log` or `width=0.25|0.5`."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from robustra_tf.cli.settings import SettingError

from ..config import Config

#: What stays as it is, for trials would not be compared by the same examples or at the same ball.
_FIXED = {
    *("preset", "dataset", "data", "scale", "data_dir", "model_file", "start", "workdir"),
    *(
        "norm",
        "eps",
        "limit_train",
        "limit_test",
        "validation",
        "pair",
        "schedule",
        "devices_f",
        "devices_g",
    ),
    *("split_gpu_mb", "checkpoint_minutes", "deterministic", "memory_mb", "microbatch", "lr_drops"),
}
_FORM = "NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A|B|..."


class Draws(Protocol):
    """What a trial of Optuna's gives."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number between two."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number between two."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of several values."""
        ...


class Dimension(NamedTuple):
    """A setting that is varied.

    Attributes:
      name: of the setting.
      values: those that it may have, or the two ends of what it may have.
      between: whether the values are ends.
      log: whether numbers between them are drawn by their logarithms.
    """

    name: str
    values: tuple
    between: bool = False
    log: bool = False

    def draw(self, trial: Draws) -> Any:
        """A value for a trial."""
        if not self.between:
            return trial.suggest_categorical(self.name, self.values)
        low, high = self.values
        if isinstance(low, int):
            return trial.suggest_int(self.name, low, high, log=self.log)
        return trial.suggest_float(self.name, low, high, log=self.log)


def read(texts: Iterable[str]) -> tuple[Dimension, ...]:
    """The settings that are varied.

    Args:
      texts: each `NAME=LOW:HIGH`, `NAME=LOW:HIGH:log` or `NAME=A|B|...`, of flags of
        `robustra train`.

    Raises:
      SettingError: another form, a name that cannot be varied, or values of another type.
    """
    found = tuple(map(_dimension, texts))
    names = [one.name for one in found]
    if not found:
        raise SettingError("search", f"settings to vary, each {_FORM}", ())
    if twice := [name for name in names if names.count(name) > 1]:
        raise SettingError("search", "every setting once", twice[0])
    return found


def _dimension(text: str) -> Dimension:
    name, _, values = text.partition("=")
    kinds = _kinds()
    if name not in kinds:
        raise SettingError("search", f"one of {', '.join(kinds)} before '='", name)
    kind, parts = kinds[name], values.split(":")
    try:
        if len(parts) == 1:
            return Dimension(name, tuple(_value(kind, word) for word in values.split("|")))
        low, high, *scale = parts
        ends, log = (_value(kind, low), _value(kind, high)), scale == ["log"]
        ordered = kind in (int, float) and ends[0] < ends[1] and all(map(math.isfinite, ends))
        if not ordered or (scale and not log) or (log and not ends[0] > 0):
            raise ValueError(text)
    except (ValueError, KeyError) as error:
        raise SettingError("search", f"{_FORM}, of type {kind.__name__}", text) from error
    return Dimension(name, ends, between=True, log=log)


def _kinds() -> Mapping[str, type]:
    """The types of the settings that can be varied."""
    found = {}
    for name, hint in typing.get_type_hints(Config).items():
        kind = next((k for k in typing.get_args(hint) if k is not type(None)), hint)
        if name not in _FIXED and kind in (int, float, str, bool):
            found[name] = kind
    return found


def _value(kind: type, word: str) -> Any:
    if kind is bool:
        return {"true": True, "false": False, "yes": True, "no": False}[word]
    return kind(word)
