"""Bounds on every pre-activation, layer by layer: Wong and Kolter's, and what refines them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.dual import affine, half_widths
from robustra_tf.bounds.interval import Interval, intersection, interval, past_relu, propagate
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.radius import Known, interval_exact, row_radius
from robustra_tf.bounds.refine import REFINED, first_of, refined
from robustra_tf.bounds.relu import Relaxation, relax
from robustra_tf.graph.graph import Network
from robustra_tf.graph.ops import Input, Relu


class Enclosure(NamedTuple):
    """Pre-activation bounds of a batch and what follows from them.

    Attributes:
      bounds: for each ReLU node, (lower, upper), [n, *shape] each.
      relaxations: for each ReLU node, its relaxation between those bounds.
      centre: the relaxed network's output at the centre of the ball, [n, classes].
    """

    bounds: dict[int, tuple[tf.Tensor, tf.Tensor]]
    relaxations: dict[int, Relaxation]
    centre: tf.Tensor


def enclose(network: Network, ball: Ball, options: BoundOptions = BoundOptions()) -> Enclosure:
    """Bound every pre-activation over the ball, layer by layer: by the dual network, as published.

    The bounds of a neuron are `centre -+ radius`: the centre is the relaxed network's value at the
    centre of the ball, and the radius `sum_i |nuhat_i| . error_i + support(nuhat_1)` is the same
    for both signs of the neuron, so one backward row serves both (equal to Eqn 8 without `g` for
    `c = +-e_j`).

    With `rows="needed"` or `"auto"`, a neuron that interval arithmetic on the same relaxation
    proves stable gets no row. Its interval contains the dual's, so the dual would call it stable
    too, and a stable ReLU's slope and error do not depend on its bounds: every other bound and the
    margins stay exactly Wong and Kolter's. Only that neuron's reported bounds are the intervals'.

    With `inner="interval"` no rows are computed at all: bounds are those of interval arithmetic, a
    forward pass. With `"mixed"` they are the intersection of the two. With `"crown"` and `"alpha"`
    the dual's are `refined`, and relaxations and centre follow from what that gives.

    Args:
      network: the one whose pre-activations are bounded.
      ball: the inputs; a static batch size lets slices be planned.
      options: how; the norm is the ball's.

    Raises:
      ValueError: options that ask for projections, which bound nothing.
    """
    if options.projection:
        raise ValueError(f"projection must be 0 for bounds, got {options.projection}")
    rows, inner = options.rows, options.inner
    if inner == "interval":
        return relaxed(network, ball, propagate(network, ball).bounds)
    if inner in REFINED:
        bounds = enclose(network, ball, first_of(options)).bounds
        for descent in REFINED[inner]:
            bounds = refined(network, ball, bounds, options, descent)
        return relaxed(network, ball, bounds)
    structure, weights = network.structure, network.weights
    values: list[tf.Tensor] = []
    widths: list[tf.Tensor | None] = []
    ends: list[Interval] = []
    bounds: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}
    relaxations: dict[int, Relaxation] = {}
    exact = interval_exact(structure) if ball.norm == "linf" else frozenset()
    for index, node in enumerate(structure.nodes):
        if isinstance(node.op, Input):
            values.append(ball.centre)
            widths.append(ball.half_widths)
        elif isinstance(node.op, Relu):
            below = node.inputs[0]
            if below in exact:
                radius = widths[below]
            else:
                known = None if rows == "every" else Known(values[below], widths[below])
                radius = row_radius(network, ball, relaxations, below, known, options)
            bounds[index] = (values[below] - radius, values[below] + radius)
            if inner == "mixed":
                bounds[index] = intersection(bounds[index], ends[below])
            relaxation = relaxations[index] = relax(*bounds[index])
            values.append(relaxation.forward(values[below]))
            widths.append(relaxation.slope * radius + relaxation.error)
        else:
            values.append(affine(node, weights, *(values[i] for i in node.inputs)))
            wanted = rows != "every" or index in exact
            widths.append(
                half_widths(node, weights, *(widths[i] for i in node.inputs)) if wanted else None
            )
        if inner == "mixed":
            known = bounds.get(index)
            ends.append(interval(network, index, ball, ends) if known is None else past_relu(known))
    return Enclosure(bounds, relaxations, values[-1])


def relaxed(
    network: Network, ball: Ball, bounds: Mapping[int, tuple[tf.Tensor, tf.Tensor]]
) -> Enclosure:
    """The enclosure that follows from given pre-activation bounds of every ReLU."""
    relaxations = {index: relax(*ends) for index, ends in bounds.items()}
    values = [ball.centre]
    for index, node in enumerate(network.structure.nodes[1:], start=1):
        inputs = [values[i] for i in node.inputs]
        if isinstance(node.op, Relu):
            values.append(relaxations[index].forward(*inputs))
        else:
            values.append(affine(node, network.weights, *inputs))
    return Enclosure(dict(bounds), relaxations, values[-1])
