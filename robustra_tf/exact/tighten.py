"""Bounds of pre-activations that a search rests on: the dual's, then linear programmes'."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.bounds.balls import Box, ball, boxed
from robustra_tf.bounds.interval import intersection, propagate
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.exact.encoding import certified_bound, encode
from robustra_tf.exact.highs import LinearProgrammes
from robustra_tf.exact.leaves import Duals, End, long_rows
from robustra_tf.exact.restriction import SLACK, Restriction
from robustra_tf.graph.graph import Network, Structure
from robustra_tf.property import Interval


class Enclosed(NamedTuple):
    """What WK's dual proves of one image, in float64.

    Attributes:
      bounds: for each ReLU node (lower, upper), flattened.
      margin: [k] lower bounds of `-c . f`, for a label `f_y - f_t`; 0 for `y`.
    """

    bounds: dict[int, tuple[np.ndarray, np.ndarray]]
    margin: np.ndarray


def enclosed(
    structure: Structure,
    weights,
    x: np.ndarray,
    rows: np.ndarray,
    eps: float | np.ndarray,
    norm: str,
    box: Interval | None,
) -> Enclosed:
    """Bounds by intervals and by WK's dual, the better of the two, a hair widened.

    Args:
      structure, weights: the network, float64.
      x: one image, float64 [*input_shape].
      rows: `c` [k, classes].
      eps, norm, box: the inputs.
    """
    intervals = None
    if box is not None and np.ndim(box[0]):
        box, intervals = None, tuple(tf.constant(end, tf.float64) for end in box)
    function = _compiled(structure, norm, box)
    given = (tf.constant(part, tf.float64) for part in (x[None], rows[None], eps))
    found, upper = function(weights, *given, intervals)
    bounds = {}
    for index, ends in zip(structure.relus, found, strict=True):
        bounds[index] = _widened(*(end.numpy().ravel() for end in ends))
    return Enclosed(bounds, -upper.numpy()[0])


def _widened(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A layer's bounds by a hair wider, for the rounding in them; not a number is no bound."""
    low = np.where(np.isnan(low), -np.inf, low)
    high = np.where(np.isnan(high), np.inf, high)
    size = np.maximum(np.abs(low), np.abs(high))
    hair = SLACK * (size + np.max(size[np.isfinite(size)], initial=0.0))
    return low - hair, high + hair


@functools.lru_cache(maxsize=8)
def _compiled(structure: Structure, norm: str, box: Box | None):
    """(weights, image, rows, eps, intervals) -> (bounds of each ReLU, margins), for one image."""

    @tf.function(autograph=False)
    def bound(weights, x, rows, eps, intervals):
        region = ball(x, eps, norm, intervals or box)
        if intervals and norm != "linf":
            region = boxed(region, intervals)
        network = Network(structure, weights)
        dual = margins(network, region, rows, BoundOptions("needed"))
        between = propagate(network, region).bounds
        both = [intersection(dual.enclosure.bounds[i], between[i]) for i in structure.relus]
        return both, dual.upper

    return bound


class Kept(NamedTuple):
    """Where bounds are proven: what derives them from duals, and what keeps a group's."""

    duals: Callable[[Restriction], Duals]
    keep: Callable[[Restriction, list[End]], None]


def tightened(
    restriction: Restriction,
    centre: np.ndarray,
    l1_radius: float | None,
    deadline: float,
    kept: Kept | None = None,
) -> tuple[Restriction, int]:
    """The restriction with the bounds of its unstable units by linear programmes.

    Group by group, each pre-activation is minimised and maximised over the relaxation of what it
    reads, with the bounds found so far; the certified value counts. The first group reads pixels
    alone, where intervals are exact for l_inf.

    Args:
      restriction, centre, l1_radius: as `encode` takes them.
      deadline: of `time.monotonic`; what is done by then is kept.
      kept: where the bounds are to be proven.

    Returns:
      The restriction and the number of programmes solved.
    """
    r, solves = restriction, 0
    for group in restriction.groups:
        units = np.arange(group.start, group.stop)
        chosen = units[r.relu[units] & (r.lower[units] < 0) & (r.upper[units] > 0)]
        reads = _cone(r, chosen)
        if not len(reads) and l1_radius is None:
            continue
        encoding = encode(r, centre, reads, l1_radius, r.weights[chosen].indices)
        session = LinearProgrammes(encoding.relaxed)
        lower, upper = r.lower.copy(), r.upper.copy()
        low, high = encoding.relaxed.lower, encoding.relaxed.upper
        derived, ends = (None if kept is None else kept.duals(r)), []
        for unit in chosen:
            cost = encoding.cost(r.weights[[unit]].toarray()[0])
            for sign, end in ((1.0, lower), (-1.0, upper)):
                left = deadline - time.monotonic()
                if left <= 0:
                    _keep(kept, r, ends)
                    return dataclasses.replace(r, lower=lower, upper=upper), solves
                session.aim(sign * cost)
                solved = session.solve(low, high, left)
                solves += 1
                if solved.duals is None:
                    continue
                if derived is None:
                    value = certified_bound(encoding.relaxed, sign * cost, low, high, solved.duals)
                    value = sign * value + r.offset[unit]
                else:
                    row = sign * r.weights[[unit]].toarray()[0]
                    nu = long_rows(encoding, solved.duals)
                    found = derived.bound(row, sign * float(r.offset[unit]), np.zeros(r.units), nu)
                    value = sign * found.bound
                    if sign * value > sign * end[unit]:
                        ends.append(End(unit, int(sign), found.alpha))
                value -= sign * SLACK * (1.0 + abs(value))
                end[unit] = sign * max(sign * end[unit], sign * value)
        _keep(kept, r, ends)
        r = dataclasses.replace(r, lower=lower, upper=upper)
    return r, solves


def _keep(kept: Kept | None, r: Restriction, ends: list[End]) -> None:
    if kept is not None and ends:
        kept.keep(r, ends)


def _cone(r: Restriction, units: np.ndarray) -> np.ndarray:
    """The units that `units` read, directly or through others."""
    needed = np.zeros(r.units, bool)
    needed[r.weights[units].indices[r.weights[units].indices >= r.pixels] - r.pixels] = True
    for group in reversed(r.groups):
        rows = np.flatnonzero(needed[group]) + group.start
        columns = r.weights[rows].indices
        needed[columns[columns >= r.pixels] - r.pixels] = True
    return np.flatnonzero(needed)
