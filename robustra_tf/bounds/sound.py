"""Wong and Kolter's bounds, and intervals, with every rounding error bounded and subtracted.

What is bounded is a family of networks: each affine node may be off its real value by anything up
to its `rounding.deviation`. The real network is one of them, its float32 forward pass another:
ReLUs round nothing, and two float32 logits compare as they are. A bound over the family holds
for both.

Let `c` be the centres that the forward pass of `bounds.enclosure` computes, whatever numbers they
are, and `w = v - c` what a member of the family is off them. Then `w_k = A w_in + e` with `|e|` at
most the deviation plus the rounding of `c_k` itself, and past a ReLU `w = d w_in + e` with `|e|`
the error of its relaxation. So a backward pass that charges `|nu| . |e|` bounds any `nu . w`.
Its own rounding is of the same form: a row that comes out as `A^T nu + r` with
`|r| <= gamma |A|^T |nu|` misses `r . w_in`, which is at most `|nu| . (gamma |A| |w_in|)` and part
of the deviation too.

Between two ReLUs deviations are pushed forward, `E_k = D_k + |A_k| E_in`, and charged where
the next ReLU is: the backward pass stays the plain one, with larger errors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball, Cut, as_scalar, ball, boxed
from robustra_tf.bounds.dual import affine, differences, half_widths, support, trace
from robustra_tf.bounds.frames import Every
from robustra_tf.bounds.interval import Interval, larger
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.passing import as_whole
from robustra_tf.bounds.radius import Known, interval_exact, row_radius
from robustra_tf.bounds.relu import Relaxation, unstable
from robustra_tf.bounds.rounding import SLACK, SMALLEST, TINY, UNIT64, bounded, deviation
from robustra_tf.bounds.rows import WholeRows
from robustra_tf.graph.graph import Network, Structure
from robustra_tf.graph.ops import Dense, Input, Relu

#: Relative, of a handful of float64 roundings.
_FEW = 16 * UNIT64


class Band(NamedTuple):
    """`slope z <= relu(z) <= slope z + intercept` for every `lower <= z <= upper`, [n, *shape]."""

    lower: tf.Tensor
    upper: tf.Tensor
    slope: tf.Tensor
    intercept: tf.Tensor


class SoundRows(NamedTuple):
    """`c . f(x') <= base + rows . (x' - centre)` on the ball, for every member of the family.

    In real numbers, of the float64 numbers as they are.

    Attributes:
      base: [n, k].
      rows: [n, k, pixels].
      share: by how much a sum over the pixels, and no more than that, has to be larger than it
        comes out in float64.
    """

    base: tf.Tensor
    rows: tf.Tensor
    share: float


class Proof(NamedTuple):
    """Lower bounds of margins, and the bands that they rest on.

    Attributes:
      lower: of `-c . f`, for labels `f_y - f_t`, [n, k], float64; 0 where `c` is, as of a label
        over itself. -inf where nothing is proven.
      bands: for each ReLU node.
      rows: what they follow from; None of intervals.
    """

    lower: tf.Tensor
    bands: dict[int, Band]
    rows: SoundRows | None = None


class _State(NamedTuple):
    """What is known of a node: `|v - centre| <= width`; `pushed`, the `E` since the last ReLU."""

    centre: tf.Tensor
    width: tf.Tensor
    pushed: tf.Tensor

    @property
    def magnitude(self) -> tf.Tensor:
        return tf.abs(self.centre) + self.width

    @property
    def ends(self) -> Interval:
        width = self.width + _FEW * self.magnitude
        return self.centre - width, self.centre + width


def outward_ball(x: tf.Tensor, eps: tf.Tensor, norm: str, box: Cut | None) -> Ball:
    """A ball that contains the real one of radius `eps` about `x`, cut to `box` for `linf`."""
    region = ball(x, eps, norm, box)
    if norm != "linf" or not region.radius.shape.rank:
        return region  # the numbers are x and eps themselves
    room = _FEW * (tf.abs(region.centre) + region.radius + as_scalar(eps, x.dtype))
    return region._replace(radius=region.radius + room)


def outward_boxed(region: Ball, box: tuple[tf.Tensor, tf.Tensor]) -> Ball:
    """As `boxed`, rounded outward: a difference of two numbers rounds relative to itself."""
    return boxed(region, box, 1 + _FEW)


def band(lower: tf.Tensor, upper: tf.Tensor) -> Band:
    """Wong and Kolter's band, its intercept rounded upward.

    For any slope in [0, 1] the convex `relu(z) - slope z` is at least 0, and largest at an end.
    """
    crossing = unstable(lower, upper)
    one, nothing = tf.ones_like(upper), tf.zeros_like(upper)
    top, bottom = tf.where(crossing, upper, one), tf.where(crossing, lower, nothing)
    slope = tf.clip_by_value(top / (top - bottom), 0.0, 1.0)
    slope = tf.where(upper <= 0, nothing, slope)
    highest = tf.maximum(-slope * bottom, (1.0 - slope) * top) * (1 + SLACK**2) + TINY
    return Band(lower, upper, slope, tf.where(crossing, highest, nothing))


def sound_margins(
    network: Network, region: Ball, y: tf.Tensor, options: BoundOptions = BoundOptions()
) -> Proof:
    """Bound `-c . f` by the dual, as `f_y - f_t`: in real numbers and in the float32 forward pass.

    Args:
      network: with float64 tensors of its float32 weights.
      region: as `outward_ball` gives it.
      y: labels, integers [n]; or rows [n, k, classes] whose `-c . f` is bounded.
      options: how rows are computed; inner bounds are always the dual's and intervals'.
    """
    structure = network.structure
    share = 1 + _FEW * _numbers(structure)
    exact = interval_exact(structure) if region.norm == "linf" else frozenset()
    bands: dict[int, Band] = {}
    charges: dict[int, Relaxation] = {}

    def past_relu(index: int, below: int, state: _State) -> _State:
        radius = state.width
        if below not in exact:
            known = Known(state.centre, state.width)
            reach = row_radius(network, region, charges, below, known, options)
            radius = tf.minimum(radius, reach * share + state.pushed + TINY)
        found = bands[index] = _outward(state.centre, radius)
        slope, half = found.slope, 0.5 * found.intercept
        lost = slope * (tf.abs(state.centre) + radius) + found.intercept
        own = half + _FEW * (_readers(structure, index) + 2) * lost
        own += tf.where(found.upper > 0, as_scalar(SMALLEST, own.dtype), 0.0)
        charges[index] = Relaxation(slope, own + slope * state.pushed)
        centre = slope * state.centre + half
        return _State(centre, slope * radius + own, tf.zeros_like(centre))

    states, safe = _forward(network, region, past_relu, recentred=False)
    last, classes = len(structure.nodes) - 1, structure.output_shape[0]
    c = differences(y, classes, region.centre.dtype)
    traced = trace(network, charges, last, WholeRows(c, (classes,)), Every())
    whole = as_whole(traced.rows, Every())
    reach = support(whole, Every(), region)
    upper = tf.linalg.matvec(c, states[last].centre)
    pushed = tf.linalg.matvec(tf.abs(c), states[last].pushed)
    base = upper + traced.error * share + pushed
    base += _rounded(tf.abs(base) + reach, c, states[last])
    upper += (traced.error + reach) * share + pushed
    lower = _proven(upper, c, states[last], safe)
    return Proof(lower, bands, SoundRows(base, whole.flat, share))


def sound_interval_margins(network: Network, region: Ball, y: tf.Tensor) -> Proof:
    """Bound `f_y - f_t` by intervals, last layer elided: for real numbers and in float32.

    Args: as `sound_margins` takes them.
    """
    structure, weights = network.structure, network.weights
    bands: dict[int, Band] = {}

    def past_relu(index: int, below: int, state: _State) -> _State:
        del below
        found = bands[index] = _outward(state.centre, state.width)
        low, high = tf.nn.relu(found.lower), tf.nn.relu(found.upper)
        width = 0.5 * (high - low) + _FEW * high
        width += tf.where(found.upper > 0, as_scalar(SMALLEST, width.dtype), 0.0)
        return _State(0.5 * (low + high), width, tf.zeros_like(width))

    states, safe = _forward(network, region, past_relu, recentred=True)
    node, last = structure.nodes[-1], states[-1]
    c = differences(y, structure.output_shape[0], region.centre.dtype)
    upper = tf.linalg.matvec(c, last.centre)
    if isinstance(node.op, Dense):
        before = states[node.inputs[0]]
        reach = tf.abs(tf.matmul(c, weights[node.weights[0]], transpose_b=True))
        upper += tf.linalg.matvec(reach, before.width)
        # What the last layer itself adds, without what came into it.
        magnitude = before.magnitude
        own = deviation(node, weights, 0, magnitude).each
    else:
        own = last.width
    upper += tf.linalg.matvec(tf.abs(c), own)
    return Proof(_proven(upper, c, last, safe), bands)


def _readers(structure: Structure, index: int) -> int:
    """Of how many rows a node's are the sum, and at most those of an input, which may cancel."""
    sources = structure.nodes[index].inputs
    return len(structure.consumers[index]) + max(len(structure.consumers[i]) for i in sources)


def _forward(
    network: Network,
    region: Ball,
    past_relu: Callable[[int, int, _State], _State],
    *,
    recentred: bool,
) -> tuple[list[_State], tf.Tensor]:
    """The state of every node, and for which examples nothing overflows, [n].

    The centre of a maximum stays that of the sum, as rows need it, unless it is `recentred`.
    """
    structure, weights = network.structure, network.weights
    states: list[_State] = []
    offs: dict[int, tf.Tensor] = {}
    safe = tf.fill((tf.shape(region.centre)[0],), True)
    for index, node in enumerate(structure.nodes):
        if isinstance(node.op, Input):
            state = _State(region.centre, region.half_widths, tf.zeros_like(region.centre))
        elif isinstance(node.op, Relu):
            state = past_relu(index, node.inputs[0], states[node.inputs[0]])
        else:
            below = [states[i] for i in node.inputs]
            consumers = _readers(structure, index)
            before = [structure.nodes[i] for i in node.inputs]
            off = deviation(node, weights, consumers, *(s.magnitude for s in below), before=before)
            width = half_widths(node, weights, *(s.width for s in below)) + off.each
            pushed = half_widths(node, weights, *(s.pushed for s in below)) + off.each
            centre = affine(node, weights, *(s.centre for s in below))
            state, offs[index] = _State(centre, width, pushed * (1 + SLACK)), off.each
            maximum = structure.maxima.get(index)
            if maximum is not None:
                room = tf.add_n([offs[i] for i in (index, *maximum.within)])
                state = _cut(state, larger(maximum, [s.ends for s in states]), room, recentred)
            safe &= off.safe
        safe &= bounded(state.magnitude)
        states.append(state)
    return states, safe


def _cut(state: _State, ends: Interval, room: tf.Tensor, recentred: bool) -> _State:
    """The state of a maximum within `room`, the rounding, of the interval that it is in."""
    centre, width = state.centre, state.width
    room += as_scalar(SMALLEST, width.dtype)
    low, high = ends[0] - room, ends[1] + room
    if recentred:
        low, high = tf.maximum(low, centre - width), tf.minimum(high, centre + width)
        room = _FEW * (tf.abs(centre) + width + tf.abs(low) + tf.abs(high)) + TINY
        return _State(0.5 * (low + high), 0.5 * (high - low) + room, state.pushed)
    reach = tf.maximum(high - centre, centre - low)
    reach += _FEW * (tf.abs(centre) + tf.abs(reach)) + TINY
    return state._replace(width=tf.minimum(width, reach))


def _outward(centre: tf.Tensor, radius: tf.Tensor) -> Band:
    """The band of `centre -+ radius`, both ends rounded outward."""
    radius = radius + _FEW * (radius + tf.abs(centre)) + TINY
    return band(centre - radius, centre + radius)


def _proven(upper: tf.Tensor, c: tf.Tensor, last: _State, safe: tf.Tensor) -> tf.Tensor:
    """Lower bounds of `-c . f` from upper bounds of `c . f`, the last sums rounded outward."""
    upper += _rounded(tf.abs(upper), c, last)
    proven = tf.where(safe[:, None] & tf.math.is_finite(upper), -upper, -math.inf)
    return tf.where(tf.reduce_any(c != 0, -1), proven, tf.zeros_like(upper))


def _rounded(size: tf.Tensor, c: tf.Tensor, last: _State) -> tf.Tensor:
    """What the last sums of a margin of such a size may be off."""
    terms = tf.math.count_nonzero(c, -1, dtype=c.dtype)
    sizes = tf.maximum(terms, 2.0) * tf.linalg.matvec(tf.abs(c), last.magnitude)
    return _FEW * (size + sizes) + TINY


def outward_margin(lower: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """`lower - offset`, rounded downward where it rounds at all."""
    rounded = _FEW * (tf.abs(lower) + tf.abs(offset)) + TINY
    return tf.where(tf.equal(offset, 0.0), lower, lower - offset - rounded)


@functools.lru_cache(maxsize=64)
def _numbers(structure: Structure) -> int:
    """More than the terms of any sum over neurons and pixels."""
    return 100 + sum(math.prod(node.op.out_shape) for node in structure.nodes)
