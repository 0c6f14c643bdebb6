"""Bounds of every pre-activation by CROWN's slopes, fixed or optimised: both sides of a neuron."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.chunks import map_recomputed
from robustra_tf.bounds.cost import COPIES, row_cost
from robustra_tf.bounds.dual import Visit, chosen_rows
from robustra_tf.bounds.frames import Chosen
from robustra_tf.bounds.interval import Interval, intersection, interval, past_relu
from robustra_tf.bounds.layer_rows import Below, LayerRows
from robustra_tf.bounds.lines import Strip, lines, strip
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.relu import known, unstable
from robustra_tf.bounds.runs import Passage
from robustra_tf.bounds.slopes import HELD, Descent, Free, free, lowest
from robustra_tf.graph.graph import Network, Structure
from robustra_tf.graph.ops import Relu

#: How the dual's bounds are refined, one pass after the other, by the kind of inner bounds.
REFINED: dict[str, tuple[Descent | None, ...]] = {"crown": (None,), "alpha": (None, Descent())}


def first_of(options: BoundOptions) -> BoundOptions:
    """The options of the dual's bounds that are refined.

    Rows are picked out wherever some may be left out, as in every pass that follows: a second way
    would take longer to trace than it saves.
    """
    rows = "every" if options.rows == "every" else "needed"
    return dataclasses.replace(options, inner="dual", rows=rows)


@functools.lru_cache(maxsize=64)
def behind_relus(structure: Structure) -> frozenset[int]:
    """The nodes that read a ReLU, directly or through others."""
    found: set[int] = set()
    for index, node in enumerate(structure.nodes):
        if any(i in found or isinstance(structure.nodes[i].op, Relu) for i in node.inputs):
            found.add(index)
    return frozenset(found)


def refined(
    network: Network,
    ball: Ball,
    bounds: Mapping[int, Interval],
    options: BoundOptions,
    descent: Descent | None = None,
) -> dict[int, Interval]:
    """Bounds of every ReLU's pre-activation, nowhere looser than `bounds`.

    Layer by layer each neuron that `bounds`, and intervals of what was found so far, leave unstable
    has two backward passes, one for either end: a coefficient's sign tells which line it takes, so
    that no row serves both. With a `descent` the slopes of either end are its own, and optimised
    while the bounds of the layers before are held fixed. Layers without a ReLU behind them have
    bounds that no slopes change.

    Args:
      network, ball: the network and the inputs.
      bounds: those to begin with, (lower, upper), [n, *shape] each.
      options: `rows="every"` refines stable neurons too; rows keep to the budget.
      descent: how slopes are optimised; None takes CROWN's own, `adaptive`.
    """
    structure, points = network.structure, network.inputs_of_relus(ball.centre)
    ends: list[Interval] = []
    found: dict[int, Interval] = {}
    relus: dict[int, Strip | Free] = {}
    for index, node in enumerate(structure.nodes):
        if not isinstance(node.op, Relu):
            ends.append(interval(network, index, ball, ends))
            continue
        below, point = node.inputs[0], points[index]
        found[index] = intersection(bounds[index], ends[below])
        if below in behind_relus(structure):
            sides = _Sides(network, ball, relus, below, options, descent)
            found[index] = sides.tightened(found[index], point)
        if descent is None:
            relu = lines(*found[index])
            low, high = found[index]
            relus[index] = strip(relu, point, tf.cast(high > -low, point.dtype))
        else:
            relus[index] = free(found[index], point)
        ends.append(past_relu(found[index]))
    return found


class _Sides:
    """Rows of some neurons of a node, for both ends of their bounds."""

    def __init__(
        self,
        network: Network,
        ball: Ball,
        relus: Mapping[int, Strip | Free],
        index: int,
        options: BoundOptions,
        descent: Descent | None,
    ):
        batch, itemsize = ball.centre.shape[0], ball.centre.dtype.size
        self._layer = LayerRows(
            network.structure, index, ball.norm, batch, options.budget, itemsize
        )
        self._below = Below(network, *ball[:2], ball.room, dict(relus))
        self._every, self._descent = options.rows == "every", descent

    def tightened(self, bounds: Interval, point: tf.Tensor) -> Interval:
        """The bounds of all neurons [n, *shape]; `point` has their values at the centre."""
        wanted = known(*bounds) if self._every else unstable(*bounds)
        needed = self._layer.listed(wanted)
        reach = tf.reshape(self._reach(needed), (-1, 2))[1:]
        at = tf.gather_nd(tf.reshape(point, (-1, self._layer.neurons)), needed)
        ends = []
        for bound, end in zip(bounds, (at - reach[:, 1], at + reach[:, 0]), strict=True):
            flat = tf.reshape(bound, (-1, self._layer.neurons))
            flat = tf.tensor_scatter_nd_update(flat, needed, end)
            ends.append(tf.reshape(flat, tf.shape(bound)))
        return intersection(bounds, tuple(ends))

    def _reach(self, needed: tf.Tensor) -> tf.Tensor:
        """How far any one neuron and those `needed` [k, 2] reach up and down: [2 + 2 k]."""
        layer = self._layer
        # Convolutions refuse an empty batch: one neuron is always looked at.
        both = tf.repeat(tf.concat([tf.zeros((1, 2), tf.int32), needed], 0), 2, axis=0)
        cost = row_cost(layer.structure, layer.index)
        held = COPIES * cost.widest if self._descent is None else HELD * cost.numbers
        size = 2 * max(1, int(layer.budget / max(2 * held * layer.itemsize, 1)))

        def some(i: tf.Tensor | int, below: Below) -> tf.Tensor:
            example, neuron = tf.unstack(both[i * size : (i + 1) * size], axis=-1)
            frame = Chosen(example, neuron // layer.shape[-1])
            start, rows = chosen_rows(below.network, layer.index, neuron)
            sign = tf.cast(1 - 2 * (tf.range(tf.shape(example)[0]) % 2), rows.values.dtype)
            rows = rows.with_values(
                rows.values * tf.reshape(sign, (-1, *[1] * (rows.values.shape.rank - 1)))
            )

            def reach(relus: Mapping[int, Passage], visit: Visit | None = None) -> tf.Tensor:
                return layer.reach(below._replace(relaxations=relus), start, rows, frame, visit)

            if self._descent is None:
                return reach(below.relaxations)
            return lowest(reach, below.relaxations, self._descent)

        if size > 2 * layer.total:
            return some(0, self._below)
        return map_recomputed(some, -(-tf.shape(both)[0] // size), self._below)
