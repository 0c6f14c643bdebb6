"""Running means of a step's metrics, and the guard against numbers that are not finite.

Both are kept on the device, so that no step waits for them; whoever reads them does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.training.gradient import finite


class NotFiniteError(ArithmeticError):
    """Training met a loss, a gradient or a weight that is no finite number; the text says where."""


class Bad(NamedTuple):
    """The first step whose loss or gradient was not finite, and its metrics."""

    step: int
    metrics: dict[str, float]


class Means:
    """Sums of the metrics of a pass's steps, which are scalars of the same names in every step."""

    def __init__(self):
        self._names: list[str] = []
        self._totals: tf.Variable | None = None
        self._steps = 0
        self._add = tf.function(self._accumulate, autograph=False)

    def reset(self, steps: int = 0, totals: Mapping[str, float] | None = None) -> None:
        """Begins again, or goes on with the `totals` of the first `steps` steps of a pass."""
        self._steps = steps
        if totals and self._totals is None:
            self._make(totals)
        if self._totals is not None:
            values = totals or dict.fromkeys(self._names, 0.0)
            self._totals.assign([values[name] for name in self._names])
            self._count.assign(steps)
            self._bad.assign(-1)

    def add(self, metrics: dict[str, tf.Tensor]) -> None:
        """Adds a step's metrics."""
        if self._totals is None:
            self._make(metrics)
        self._add(metrics)
        self._steps += 1

    def totals(self) -> dict[str, float]:
        """The sums so far, which `reset` takes; waits for the device."""
        totals = self._totals if self._steps else None
        return {} if totals is None else self._named(totals.numpy())

    def read(self) -> dict[str, float]:
        """The means so far; waits for the device."""
        totals = self._totals if self._steps else None
        return {} if totals is None else self._named(totals.numpy() / self._steps)

    def bad(self) -> Bad | None:
        """The first step of the pass that was not finite, if any; waits for the device."""
        step = -1 if self._totals is None else int(self._bad.numpy())
        return None if step < 0 else Bad(step, self._named(self._found.numpy()))

    def _make(self, names: Sequence[str] | Mapping[str, tf.Tensor]) -> None:
        self._names = sorted(names)
        self._totals = tf.Variable(tf.zeros(len(self._names)))
        self._found = tf.Variable(tf.zeros(len(self._names)))
        self._count = tf.Variable(self._steps, dtype=tf.int64)
        self._bad = tf.Variable(-1, dtype=tf.int64)

    def _named(self, values: np.ndarray) -> dict[str, float]:
        return dict(zip(self._names, values.tolist(), strict=True))

    def _accumulate(self, metrics):
        values = tf.stack([tf.cast(metrics[name], tf.float32) for name in self._names])
        good = finite(metrics["loss"], metrics.get("grad_norm", 0.0))
        first = tf.logical_and(tf.logical_not(good), self._bad < 0)
        self._bad.assign(tf.where(first, self._count, self._bad))
        self._found.assign(tf.where(first, values, self._found))
        self._count.assign_add(1)
        if self._totals is not None:  # as whoever adds has seen to
            self._totals.assign_add(values)
