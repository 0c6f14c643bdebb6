"""CROWN's bounds on many boxes of few inputs, as affine functions of these inputs.

Every neuron first gets two affine functions of the inputs that move, pushed forward layer by layer:
that costs as much as `k + 2` inputs a box, however many neurons there are. Only where these leave a
ReLU on either side do backward rows follow, each with the lines of its own box (Zhang et al.,
*Efficient neural network robustness certification with general activation functions*, NeurIPS
2018), and their bounds serve the layers behind. The margins have a backward row each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.box_lines import Lines, counted, lines_of, ties, where_open, wider
from robustra_tf.bounds.clips import Clip, greatest
from robustra_tf.bounds.dual import affine, half_widths
from robustra_tf.bounds.forward import Between, boxed
from robustra_tf.bounds.interval import Interval
from robustra_tf.bounds.relu import unstable
from robustra_tf.graph.graph import Network, Structure
from robustra_tf.graph.ops import Add, Dense, Input, Relu


class Boxes(NamedTuple):
    """Inputs of which some move, each in an interval, and the others do not.

    Attributes:
      still: one input [*shape], 0 in what moves.
      places: [k] of the flattened input, what moves.
      low, high: [n, k].
      clip: what counts of each box; all of it by default.
    """

    still: tf.Tensor
    places: tf.Tensor
    low: tf.Tensor
    high: tf.Tensor
    clip: Clip | None = None

    @property
    def middle(self) -> tf.Tensor:
        """The middle of each box, [n, k]."""
        return 0.5 * (self.low + self.high)

    @property
    def radius(self) -> tf.Tensor:
        """Half of each width, [n, k]."""
        return 0.5 * (self.high - self.low)

    def inputs(self, values: tf.Tensor) -> tf.Tensor:
        """Whole inputs [n, *shape] of the values [n, k] of what moves."""
        size = self.still.shape.num_elements()
        moved = values @ tf.one_hot(self.places, size, dtype=values.dtype)
        return tf.reshape(moved, (-1, *self.still.shape)) + self.still


class Bounded(NamedTuple):
    """What is bounded on n boxes.

    Attributes:
      constant, slope: `c . f <= constant + slope . (x - middle)` on a box, [n, r] and [n, r, k].
      loose: [n, r, k], how much of what the ReLUs' lines may be off in that bound is due to each
        input's width.
      crossing: [n], ReLUs on either side of 0.
      ends: of every ReLU's pre-activation, in order.
      ties: [n], ReLUs whose lower line hangs on how numbers round; none where no rules are named.
    """

    constant: tf.Tensor
    slope: tf.Tensor
    loose: tf.Tensor
    crossing: tf.Tensor
    ends: list[Interval]
    ties: tf.Tensor


def bound_boxes(
    network: Network,
    boxes: Boxes,
    rows: tf.Tensor,
    most: int,
    ruled: frozenset[int] | None = None,
) -> Bounded:
    """Bound `c . f` from above on every box.

    Args:
      network: f.
      boxes: the inputs.
      rows: `c` [r, outputs].
      most: backward rows of one layer at once; neurons beyond keep their forward bounds.
      ruled: the ReLUs' nodes that have backward rows, where bounds are to be those of rules that
        anyone can follow: intervals, then these rows for what is on either side, each a hair wider
        than computed. By default bounds are the best that there are.
    """
    structure = network.structure
    deep = _behind_relus(structure)
    lined: dict[int, Lines] = {}
    ends: list[Interval] = []
    shares: dict[int, tf.Tensor] = {}
    values: list[Between] = []
    tied: list[tf.Tensor] = []
    for index, node in enumerate(structure.nodes):
        inputs = [values[i] for i in node.inputs]
        if isinstance(node.op, Input):
            values.append(boxed(boxes.still, boxes.places, boxes.middle, boxes.radius))
        elif isinstance(node.op, Relu):
            (given,) = inputs
            rowed = deep[node.inputs[0]] if ruled is None else index in ruled
            if ruled is None:
                # Rows do better with the clip than these functions do.
                found = given.ends if rowed else given.within(boxes.clip)
            else:
                found = wider(given.interval)
            if rowed:
                finer = _refined(network, lined, node.inputs[0], found, (boxes, most))
                found = finer if ruled is None else where_open(found, wider(finer))
            ends.append(found)
            if ruled is not None:
                tied.append(ties(*found))
            lined[index], shares[index] = lines_of(*found), given.shares
            values.append(given.past_relu(*found))
        else:
            values.append(_past(network, index, inputs))
    none = [tf.zeros(tf.shape(boxes.low)[:1])]
    return _margins(network, boxes, rows, lined, shares)._replace(
        crossing=tf.add_n([_count(*both) for both in ends] or none),
        ends=ends,
        ties=tf.add_n(tied or none),
    )


def _behind_relus(structure: Structure) -> list[bool]:
    """Of every node whether two ReLUs or more lie behind each other on the way to it.

    Behind one the functions pushed forward take the lines that backward rows would take.
    """
    depth: list[int] = []
    for node in structure.nodes:
        before = max((depth[i] for i in node.inputs), default=0)
        depth.append(before + isinstance(node.op, Relu))
    return [count > 1 for count in depth]


def _past(network: Network, index: int, inputs: Sequence[Between]) -> Between:
    """Between which two functions an affine operation's output is."""
    node, weights = network.structure.nodes[index], network.weights
    nothing = tf.zeros((1, *node.op.in_shape), inputs[0].middle.dtype)
    if isinstance(node.op, Add):
        return Between(*(tf.add_n(parts) for parts in zip(*inputs, strict=True)))
    own = tuple(weights[i] for i in node.weights)
    (given,) = inputs
    return given.mapped(
        node.op.out_shape,
        lambda middle: node.affine.linear(middle, *own),
        lambda gap: half_widths(node, weights, gap),
        affine(node, weights, nothing),
    )


def _count(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """ReLUs on either side, of each box [n]."""
    return counted(unstable(low, high))


def _refined(
    network: Network,
    lined: Mapping[int, Lines],
    index: int,
    ends: Interval,
    where: tuple[Boxes, int],
) -> Interval:
    """The bounds `ends` of a node, those on either side of 0 by a backward row for each end."""
    (boxes, most), (low, high) = where, ends
    chosen = tf.cast(tf.where(unstable(low, high))[: most // 2], tf.int32)
    # Convolutions refuse an empty batch: one neuron is always bounded.
    chosen = tf.concat([tf.zeros((1, low.shape.rank), tf.int32), chosen], 0)
    count = tf.shape(chosen)[0]
    box = tf.concat([chosen[:, 0]] * 2, 0)
    sign = tf.concat([tf.ones(count, low.dtype), -tf.ones(count, low.dtype)], 0)
    start = _units(network, index, tf.concat([chosen[:, 1:]] * 2, 0), sign)
    constant, slope = _backward(network, lined, start, box, lambda *_: None)
    fixed, slope = _on_boxes(boxes, constant, slope, box)
    found = greatest(boxes.clip, fixed, slope * tf.gather(boxes.radius, box), box)
    # What is no number leaves NaN, of which nothing follows.
    return (
        tf.tensor_scatter_nd_max(low, chosen, -found[count:]),
        tf.tensor_scatter_nd_min(high, chosen, found[:count]),
    )


class _Start(NamedTuple):
    """Rows [R, *shape] on a node's output, and what is added to each of them, [R]."""

    node: int
    rows: tf.Tensor
    constant: tf.Tensor


def _units(network: Network, index: int, place: tf.Tensor, sign: tf.Tensor) -> _Start:
    """`sign` times the neuron at each `place` [R, rank] of a node's output."""
    node = network.structure.nodes[index]
    if isinstance(node.op, Dense):
        kernel = network.weights[node.weights[0]]
        rows = tf.gather(tf.transpose(kernel), place[:, 0]) * sign[:, None]
        constant = tf.zeros_like(sign)
        if node.op.use_bias:
            constant = sign * tf.gather(network.weights[node.weights[1]], place[:, 0])
        return _Start(node.inputs[0], rows, constant)
    count = tf.shape(place)[0]
    at = tf.concat([tf.range(count)[:, None], place], 1)
    shape = tf.concat([[count], node.op.out_shape], 0)
    rows = tf.ensure_shape(tf.scatter_nd(at, sign, shape), (None, *node.op.out_shape))
    return _Start(index, rows, tf.zeros_like(sign))


#: Called with a ReLU's node, the rows behind it and the positive part of these.
_Visit = Callable[[int, tf.Tensor, tf.Tensor], None]


def _backward(
    network: Network,
    lined: Mapping[int, Lines],
    start: _Start,
    box: tf.Tensor,
    visit: _Visit,
) -> tuple[tf.Tensor, tf.Tensor]:
    """`row . v <= constant + slope . input`, [R] and [R, inputs], with the lines of each one's box.

    Args:
      network: the network.
      lined: the lines of all ReLUs before.
      start: the rows.
      box: [R], the box that each row belongs to.
      visit: sees what happens at each ReLU.
    """
    structure, weights = network.structure, network.weights
    constant, pending = start.constant, {start.node: start.rows}
    for index in range(start.node, 0, -1):
        if index not in pending:
            continue
        node, here = structure.nodes[index], pending.pop(index)
        axes = list(range(1, here.shape.rank))
        if isinstance(node.op, Relu):
            own = lined[index]
            positive = tf.nn.relu(here)
            visit(index, here, positive)
            constant += tf.reduce_sum(positive * tf.gather(own.intercept, box), axes)
            passed = positive * tf.gather(own.upper, box)
            here = passed + (here - positive) * tf.gather(own.lower, box)
        elif not isinstance(node.op, Add):
            nothing = tf.zeros((1, *node.op.in_shape), here.dtype)
            constant += tf.reduce_sum(here * affine(node, weights, nothing), axes)
            here = node.affine.transpose(here, *(weights[i] for i in node.weights))
        for source in node.inputs:
            pending[source] = pending[source] + here if source in pending else here
    size = structure.nodes[0].op.out_shape
    return constant, tf.reshape(pending[0], (-1, tf.TensorShape(size).num_elements()))


def _on_boxes(
    boxes: Boxes, constant: tf.Tensor, slope: tf.Tensor, box: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The value in the middle of each row's box, [R], and the slopes of what moves, [R, k]."""
    still = tf.reshape(boxes.still, (-1,))
    moving = tf.gather(slope, boxes.places, axis=1)
    value = constant + tf.linalg.matvec(slope, still)
    return value + tf.reduce_sum(moving * tf.gather(boxes.middle, box), 1), moving


def _margins(
    network: Network,
    boxes: Boxes,
    rows: tf.Tensor,
    lined: Mapping[int, Lines],
    shares: Mapping[int, tf.Tensor],
) -> Bounded:
    """The rows of the outputs on every box; what else there is, is left to the caller."""
    n, k, r = tf.shape(boxes.low)[0], boxes.low.shape[1], rows.shape[0]
    box = tf.repeat(tf.range(n), tf.shape(rows)[0])
    loose: list[tf.Tensor] = []

    def visit(index: int, here: tf.Tensor, positive: tf.Tensor) -> None:
        own = lined[index]
        off = positive * tf.gather(own.intercept, box)
        off += (positive - here) * tf.gather(own.slack, box)
        size = tf.TensorShape(off.shape[1:]).num_elements()
        off = tf.reshape(off, tf.concat([tf.stack([n, tf.shape(rows)[0]]), [size]], 0))
        loose.append(tf.matmul(off, tf.reshape(shares[index], (-1, k, size)), transpose_b=True))

    last = len(network.structure.nodes) - 1
    start = _Start(last, tf.tile(rows, (n, 1)), tf.zeros(n * tf.shape(rows)[0], rows.dtype))
    constant, slope = _on_boxes(boxes, *_backward(network, lined, start, box, visit), box)
    shape = tf.stack([n, tf.shape(rows)[0]])
    slope = tf.reshape(slope, tf.concat([shape, [k]], 0))
    off = tf.add_n(loose) if loose else tf.zeros_like(slope)
    constant = tf.ensure_shape(tf.reshape(constant, shape), (None, r))
    return Bounded(constant, slope, off, tf.zeros(0), [], tf.zeros(0))
