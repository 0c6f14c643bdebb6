"""Bounds of a restricted network's units from multipliers, each unit's own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from robustra_tf.exact.ascent import Pace, engine
from robustra_tf.exact.dense import Columns, Dense, Lines, dense
from robustra_tf.exact.leaves import End
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
    keep: Callable[[Restriction, list[End]], None] | None = None,
) -> Restriction:
    """The restriction with better bounds of its unstable units, group by group.

    Each end of a pre-activation is bounded over the relaxation of what it reads, with slopes of its
    own, found in float32; what they prove in float64 counts.

    Args:
      restriction, centre, l1_radius: as `encode` takes them.
      deadline: of `time.monotonic`; what is done by then is kept.
      steps: of the ascent.
      keep: is given every group's ends as they are found, to be proven; their slopes are then
        those of float16.
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
        found, slopes = np.full(len(rows), -np.inf), np.zeros((len(rows), r.units))
        for start in range(0, len(rows), _ROWS):
            if time.monotonic() >= deadline:
                break
            part = slice(start, start + _ROWS)
            problem = _problem(lines, rows[part], constants[part])
            pace = Pace.of(steps, _RATE, deadline)
            half = keep is not None
            found[part], slopes[part, before] = _bounds(networks, problem, norm, pace, half)
        found -= SLACK * (1.0 + np.abs(found))
        low, high = found[: len(chosen)], -found[len(chosen) :]
        lower, upper = r.lower.copy(), r.upper.copy()
        lower[chosen], upper[chosen] = (
            np.maximum(low, lower[chosen]),
            np.minimum(high, upper[chosen]),
        )
        if keep is not None:
            ends = zip([*chosen, *chosen], [1] * len(chosen) + [-1] * len(chosen), strict=True)
            known = np.flatnonzero(np.isfinite(found))
            made = [End(*end, slope) for end, slope in zip(ends, slopes, strict=True)]
            if len(known):
                keep(r, [made[place] for place in known])
        r = dataclasses.replace(r, lower=lower, upper=upper)
    return r


def first_slopes(lines: Lines) -> np.ndarray:
    """CROWN's lower slopes, 1 where `u > -l`: [k, m]."""
    return (np.asarray(lines.slope) > 0.5).astype(np.float32)


def _problem(lines: Lines, rows: np.ndarray, constants: np.ndarray) -> Problem:
    """That of rows without phases, in float64."""
    phases = tf.zeros((len(rows), lines.slope.shape[1]), tf.float64)
    parts = tf.constant(rows[:, None]), tf.constant(constants[:, None]), phases
    return Problem(*parts, lines.tensors(tf.float64))


def _bounds(
    networks: list[Dense], problem: Problem, norm: str, pace: Pace, half: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Lower bounds [k] over the ball, -inf where time was up; and slopes [k, m], perhaps halves."""
    single, double = networks
    functions = engine(single.layout, Kind(norm), 1)
    count = len(problem.rows)
    alpha = tf.constant(np.repeat(first_slopes(problem.lines), count, axis=0))
    given = Multipliers(alpha, tf.ones((count, 1)))
    _, best = functions.climbed(single, as_type(problem, tf.float32), given, pace)
    if half:
        best = best._replace(unit=tf.cast(tf.cast(best.unit, tf.float16), tf.float32))
    if tf.timestamp() >= pace.until:
        return np.full(count, -np.inf), best.unit.numpy()
    found = functions.certified(double, problem, as_type(best, tf.float64)).numpy()
    return found, best.unit.numpy()


def as_type(nest, dtype: tf.DType):
    """The same tensors in another type."""
    return tf.nest.map_structure(lambda tensor: tf.cast(tensor, dtype), nest)
