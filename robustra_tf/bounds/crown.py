"""CROWN's bounds of the margins: a free lower line for every unstable ReLU, perhaps optimised.

WK's relaxation takes the same slope for both lines of a ReLU. CROWN (Zhang et al. 2018) keeps the
upper line, `v <= u (z - l) / (u - l)`, and takes any slope `a` in [0, 1] for the lower one,
`v >= a z`. Every choice is sound; the slopes can be optimised for each margin by gradient (alpha-
CROWN, Xu et al. 2021, here for the margins alone: bounds of inner layers are held fixed).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.dual import affine, differences, support
from robustra_tf.bounds.frames import Every, Frame
from robustra_tf.bounds.interval import Interval, lesser
from robustra_tf.bounds.passing import absolute_sum, added, through
from robustra_tf.bounds.relu import known, unstable
from robustra_tf.bounds.rows import Rows, WholeRows
from robustra_tf.graph.graph import Network
from robustra_tf.graph.ops import Add, Relu

#: For each ReLU node, slopes of the lower line: [n, 1 or k, *shape].
Slopes = dict[int, tf.Tensor]


class Lines(NamedTuple):
    """`lower z <= v <= upper z + intercept` for a ReLU between its bounds, [n, *shape] each.

    `lower` is 1 where the ReLU is active, 0 where it is dead, and free within [0, 1] elsewhere.
    `upper` is NaN where the bounds are not `known`, so that nothing follows from them.
    """

    upper: tf.Tensor
    intercept: tf.Tensor
    crossing: tf.Tensor
    active: tf.Tensor


def lines(lower: tf.Tensor, upper: tf.Tensor) -> Lines:
    """The lines for pre-activation bounds `lower`, `upper`, both [n, *shape]."""
    crossing = unstable(lower, upper)
    active = tf.cast(tf.logical_and(upper > 0, tf.logical_not(crossing)), upper.dtype)
    top = tf.where(crossing, upper, tf.ones_like(upper))
    bottom = tf.where(crossing, lower, tf.zeros_like(lower))
    slope = top / (top - bottom)
    line = tf.where(known(lower, upper), tf.where(crossing, slope, active), float("nan"))
    return Lines(line, -slope * bottom, crossing, active)


def adaptive(bounds: Mapping[int, Interval]) -> Slopes:
    """CROWN's lower slopes: 1 where `u > -l`, else 0, the smaller of the two areas."""
    return {
        index: tf.cast(upper > -lower, upper.dtype)[:, None]
        for index, (lower, upper) in bounds.items()
    }


def parallel(bounds: Mapping[int, Interval]) -> Slopes:
    """WK's lower slopes, those of the upper lines: `u / (u - l)` where the ReLU is unstable."""
    return {index: lines(*ends).upper[:, None] for index, ends in bounds.items()}


def crown_margins(
    network: Network,
    ball: Ball,
    y: tf.Tensor,
    bounds: Mapping[int, Interval],
    slopes: Slopes,
) -> tf.Tensor:
    """Upper bounds of `f_t - f_y` over the ball, or of any `c . f`, by one backward pass: [n, k].

    A positive coefficient of a ReLU's output takes its upper line, a negative one the lower line.

    Args:
      network, ball: the network and the inputs.
      y: labels, integers [n]; or rows `c` [n, k, classes].
      bounds: of every ReLU's pre-activation, (lower, upper), [n, *shape] each.
      slopes: of the lower lines, as `adaptive` gives them; used where a ReLU is unstable.
    """
    structure, weights = network.structure, network.weights
    classes, frame = structure.output_shape[0], Every()
    start = differences(y, classes, ball.centre.dtype)
    pending: dict[int, Rows] = {len(structure.nodes) - 1: WholeRows(start, (classes,))}
    total = tf.zeros_like(start[..., 0])
    for at in range(len(structure.nodes) - 1, 0, -1):
        if at not in pending:
            continue
        node, here = structure.nodes[at], pending.pop(at)
        if isinstance(node.op, Relu):
            here, charge = _past_relu(here, frame, lines(*bounds[at]), slopes[at])
            total += charge
        else:
            if not isinstance(node.op, Add):
                nothing = tf.zeros((1, *node.op.in_shape), total.dtype)
                total += _sum(here, frame, affine(node, weights, nothing))
            here = through(node.op, tuple(weights[i] for i in node.weights), here, frame)
        for source in node.inputs:
            pending[source] = added(pending.get(source), here, frame)
    rows = pending[0]
    return total + _sum(rows, frame, ball.centre) + support(rows, frame, ball)


def _past_relu(
    rows: WholeRows, frame: Frame, relu: Lines, slope: tf.Tensor
) -> tuple[WholeRows, tf.Tensor]:
    """The rows on a ReLU's input, and what its upper lines' intercepts add to each row."""
    free = tf.where(relu.crossing[:, None], slope, relu.active[:, None])
    positive = tf.nn.relu(rows.values)
    passed = positive * frame.align(rows, relu.upper)[0]
    passed += (rows.values - positive) * _aligned(free, rows)
    charge = absolute_sum(rows.with_values(positive), frame, *frame.align(rows, relu.intercept))
    return rows.with_values(passed, clean=True), charge


def _aligned(images: tf.Tensor, rows: WholeRows) -> tf.Tensor:
    """`images` [n, k, *shape] laid out as the rows are."""
    if rows.tiling is None:
        return images
    count = images.shape[1]
    tiles = rows.tiling.cut(tf.reshape(images, (-1, *images.shape[2:])))
    return tf.reshape(tiles, (-1, count, *tiles.shape[1:]))


def _sum(rows: WholeRows, frame: Frame, images: tf.Tensor) -> tf.Tensor:
    """`sum_j row_j image_j` for every row: [n, rows]."""
    aligned = frame.align(rows, images)[0]
    axes = list(range(2, aligned.shape.rank))
    return tf.reduce_sum(rows.values * aligned, axes)


def optimised_margins(
    network: Network,
    ball: Ball,
    y: tf.Tensor,
    bounds: Mapping[int, Interval],
    *,
    steps: int | tf.Tensor = 20,
    rate: float = 0.2,
) -> tf.Tensor:
    """`crown_margins` with the lower slopes of every margin optimised: [n, k].

    Adam on the slopes, kept within [0, 1], from CROWN's own; the best bound of all steps counts,
    and so does that of WK's slopes: none is looser than CROWN's or than WK's on the same bounds.

    Args:
      network, ball, y, bounds: as `crown_margins` takes them.
      steps: of the descent; a tensor serves any number without retracing.
      rate: Adam's, falling to a tenth along the steps.
    """
    order, count = sorted(bounds), network.structure.output_shape[0]
    if y.dtype.is_floating:
        count = y.shape[1]
    first = [tf.repeat(adaptive(bounds)[k], count, axis=1) for k in order]
    nothing = [tf.zeros_like(slope) for slope in first]

    def bound(slopes: list[tf.Tensor]) -> tf.Tensor:
        named = dict(zip(order, slopes, strict=True))
        return crown_margins(network, ball, y, bounds, named)

    wk = crown_margins(network, ball, y, bounds, parallel(bounds))

    def descend(k, best, slopes, mean, square):
        with tf.GradientTape() as tape:
            tape.watch(slopes)
            upper = bound(slopes)
        found = tape.gradient(upper, slopes, unconnected_gradients="zero")
        count = tf.cast(k, upper.dtype)
        scale = rate * 0.1 ** (count / tf.cast(steps, upper.dtype))
        mean = [0.9 * m + 0.1 * g for m, g in zip(mean, found, strict=True)]
        square = [0.99 * s + 0.01 * tf.square(g) for s, g in zip(square, found, strict=True)]
        moved = []
        for slope, m, s in zip(slopes, mean, square, strict=True):
            m, s = m / (1 - 0.9 ** (count + 1)), s / (1 - 0.99 ** (count + 1))
            moved.append(tf.clip_by_value(slope - scale * m / (tf.sqrt(s) + 1e-12), 0.0, 1.0))
        return k + 1, lesser(best, upper), moved, mean, square

    start = (tf.constant(0), lesser(bound(first), wk), first, nothing, nothing)
    _, best, last, _, _ = tf.while_loop(
        lambda k, *_: k < steps, descend, start, parallel_iterations=1, maximum_iterations=steps
    )
    return lesser(best, bound(last))
