"""Bounds of a restricted network's units from multipliers, each unit's own."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import tensorflow as tf

from robustra_tf.exact.ascent import Pace, engine
from robustra_tf.exact.dense import Columns, Dense, Lines, dense
from robustra_tf.exact.multipliers import Kind, Multipliers, Problem
from robustra_tf.exact.restriction import SLACK, Restriction

#: Steps for every unit's bounds.
STEPS = 20
# Adam's rate.
_RATE = 0.3
# Rows at a time.
_ROWS = 512


def improved(
    restriction: Restriction,
    centre: np.ndarray,
    l1_radius: float | None,
    deadline: float,
    steps: int = STEPS,
) -> Restriction:
    """The restriction with better bounds of its unstable units, group by group.

    Each end of a pre-activation is bounded over the relaxation of what it reads, with slopes of its
    own, found in float32; what they prove in float64 counts.

    Args:
      restriction, centre, l1_radius: as `encode` takes them.
      deadline: of `time.monotonic`; what is done by then is kept.
      steps: of the ascent.
    """
    r, norm = restriction, "linf" if l1_radius is None else "l1"
    for number, group in enumerate(restriction.groups):
        if time.monotonic() >= deadline:
            break
        units = np.arange(group.start, group.stop)
        chosen = units[r.relu[units] & (r.lower[units] < 0) & (r.upper[units] > 0)]
        if not len(chosen) or (number == 0 and l1_radius is None):
            continue
        columns, before = Columns.of(r), slice(None, group.start)
        lines = Lines.of(r.relu[before], r.lower[None, before], r.upper[None, before])
        networks = [
            dense(columns, centre, l1_radius, dtype).before(number, group.start)
            for dtype in (tf.float32, tf.float64)
        ]
        rows, constants = columns.rows(r.weights[chosen].toarray(), r.offset[chosen])
        rows = rows[:, : len(columns.moving) + group.start]
        rows, constants = np.concatenate([rows, -rows]), np.concatenate([constants, -constants])
        found = np.full(len(rows), -np.inf)
        for start in range(0, len(rows), _ROWS):
            if time.monotonic() >= deadline:
                break
            part = slice(start, start + _ROWS)
            both = rows[part], constants[part]
            found[part] = _bounds(networks, lines, *both, norm, steps, deadline)
        found -= SLACK * (1.0 + np.abs(found))
        low, high = found[: len(chosen)], -found[len(chosen) :]
        lower, upper = r.lower.copy(), r.upper.copy()
        lower[chosen], upper[chosen] = (
            np.maximum(low, lower[chosen]),
            np.minimum(high, upper[chosen]),
        )
        r = dataclasses.replace(r, lower=lower, upper=upper)
    return r


def first_slopes(lines: Lines) -> np.ndarray:
    """CROWN's lower slopes, 1 where `u > -l`: [k, m]."""
    return (lines.slope > 0.5).astype(np.float32)


def _bounds(
    networks: list[Dense],
    lines: Lines,
    rows: np.ndarray,
    constants: np.ndarray,
    norm: str,
    steps: int,
    deadline: float,
) -> np.ndarray:
    """Lower bounds [k] of `rows u + constants` over the ball; -inf where the deadline passed."""
    single, double = networks
    functions = engine(single.layout, Kind(norm), 1)
    count = len(rows)
    alpha = tf.constant(np.repeat(first_slopes(lines), count, axis=0))
    given = Multipliers(alpha, tf.ones((count, 1)))
    phases = tf.zeros_like(alpha, tf.float64)
    parts = tf.constant(rows[:, None]), tf.constant(constants[:, None]), phases
    problem = Problem(*parts, lines.tensors(tf.float64))
    pace = Pace.of(steps, _RATE, deadline)
    _, best = functions.climbed(single, as_type(problem, tf.float32), given, pace)
    if time.monotonic() >= deadline:
        return np.full(count, -np.inf)
    return functions.certified(double, problem, as_type(best, tf.float64)).numpy()


def as_type(nest, dtype: tf.DType):
    """The same tensors in another type."""
    return tf.nest.map_structure(lambda tensor: tf.cast(tensor, dtype), nest)
