"""A network's own values at points of a ball: what everything that is proven must agree with."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.attacks.replay import settle, within
from robustra_tf.conditions import Conditions
from robustra_tf.exact.restriction import Restriction
from robustra_tf.exact.solver import TOLERANCE
from robustra_tf.exact.substitution import Bounds
from robustra_tf.exact.task import Inputs, Network
from robustra_tf.graph.graph import Structure
from robustra_tf.graph.ops import Add, AffineOp

# Random points of a ball, beside the image: to measure margins by, and to compare a search with.
FEW, MANY = 3, 32
# How far two ways to compute a value may be apart: a share of the sum of absolute values.
_ROUNDING = 1e-9
# How much larger float32's rounding may be anywhere than at the points.
_SAFETY = 8.0


class Scale(NamedTuple):
    """How a margin is measured.

    Attributes:
      unit: a power of two; the margin's logits at the points are of about ten such units.
      tolerance: what a margin must be above to count as positive, in such units.
    """

    unit: float
    tolerance: float

    @property
    def least(self) -> float:
        """What a margin must be above to count as positive."""
        return self.unit * self.tolerance


class Probe(NamedTuple):
    """The values at an image and at random points about it.

    Attributes:
      structure: the network.
      points: [k, n], the image first; numbers that float32 holds, inside ball and box.
      values: [k, size] of each node, by the graph's operations in float64.
      sizes: of each node, the largest sum of absolute values that a neuron adds up.
      deployed: [k, classes], the logits as the model computes them, in float32.
    """

    structure: Structure
    points: np.ndarray
    values: list[np.ndarray]
    sizes: list[float]
    deployed: np.ndarray

    @property
    def finite(self) -> bool:
        """Whether all logits are numbers."""
        return bool(np.isfinite(self.values[-1]).all() and np.isfinite(self.deployed).all())

    def unsafe(self, conditions: Conditions) -> np.ndarray:
        """The points [j, n] whose outputs the model makes unsafe, the image first."""
        return self.points[conditions.reached(self.deployed)]

    def scale(self, c: np.ndarray, d: float = 0.0) -> Scale:
        """How `c . f + d` is measured.

        The tolerance is never below what float32 was seen to lose at the points.
        """
        logits, deployed = self.values[-1], self.deployed
        # Logits that are zero at every point are of the size of what they add up.
        size = max(np.abs(c * logits).max(), abs(d)) or self.sizes[-1] * np.abs(c).max()
        # At most 2^300, so that products with it stay numbers.
        exponent = math.frexp(size)[1] - 4
        unit = math.ldexp(1.0, min(max(exponent, -300), 300))
        lost = np.abs(deployed @ c - logits @ c).max()
        return Scale(unit, max(TOLERANCE, _SAFETY * float(lost) / unit))

    def check_bounds(self, bounds: Bounds) -> None:
        """Refuses bounds of pre-activations that a point is outside of.

        Raises:
          ValueError: with the layer and by how much.
        """
        for index, (lower, upper) in bounds.items():
            source = self.structure.nodes[index].inputs[0]
            z = self.values[source]
            self._compare("bounds", source, np.maximum(lower - z, z - upper))

    def check_margins(self, rows: np.ndarray, margin: np.ndarray) -> None:
        """Refuses lower bounds [k] of `-c . f`, `c` the rows [k, classes], that a point is below.

        Raises:
          ValueError: with by how much.
        """
        size = np.maximum(np.abs(rows).sum(1) / 2, 1.0)
        self._compare("margins", -1, (margin + self.values[-1] @ rows.T) / size)

    def check_restriction(self, r: Restriction) -> None:
        """Refuses a restricted network that is not this network at the points, unit by unit.

        Raises:
          ValueError: with the layer and by how much.
        """
        u, z = r.values(self.points)
        h, z = u[:, r.pixels :] * r.scale, z * r.scale
        outside = np.maximum(r.lower * r.scale - z, z - r.upper * r.scale)
        for index in np.unique(r.node):
            units = np.flatnonzero(r.node == index)
            neurons, relu = r.neuron[units], r.relu[units]
            after = self.values[index][:, neurons]
            self._compare("encoding", index, np.abs(h[:, units] - after))
            source = self.structure.nodes[index].inputs[0] if relu.any() else index
            before = np.where(relu, self.values[source][:, neurons], after)
            self._compare("encoding", index, np.abs(z[:, units] - before))
            self._compare("bounds", index, outside[:, units])
        logits = (r.logit_weights @ u.T).T + r.logit_offset
        self._compare("encoding", -1, np.abs(logits - self.values[-1]))

    def _compare(self, what: str, index: int, difference: np.ndarray) -> None:
        # A number that is NaN is refused as well.
        if not (difference <= _ROUNDING * self.sizes[index]).all():
            raise ValueError(
                f"{what}: expected the network's own values at points of the ball, got a "
                f"difference of {difference.max():.3g} in layer "
                f"{self.structure.nodes[index].name!r}: a fault of the verifier, not a verdict"
            )


def probed(network: Network, inputs: Inputs, image: np.ndarray, count: int) -> Probe:
    """The network's values at the image [*input_shape] and at `count` points about it."""
    points = _sampled(inputs, image, count)
    flat = points.astype(np.float64).reshape(len(points), -1)
    deployed = np.asarray(network.model(tf.constant(points))).astype(np.float64)
    structure, weights = network.structure, network.weights
    values = [tf.constant(points, tf.float64)]
    sizes = [np.abs(flat).max(initial=0.0)]
    for node in structure.nodes[1:]:
        sources = [values[i] for i in node.inputs]
        values.append(node.compute(values, weights))
        if isinstance(node.op, AffineOp):
            largest = [tf.reduce_max(tf.abs(value), axis=0, keepdims=True) for value in sources]
            if isinstance(node.op, Add):
                reach = tf.add_n(largest)
            else:
                reach = node.op.absolute(*largest, *(weights[i] for i in node.weights))
            # The offset too: it is at most what is left of the value.
            sizes.append(float(tf.reduce_max(reach) + tf.reduce_max(tf.abs(values[-1]))))
        else:
            sizes.append(sizes[node.inputs[0]])
    found = [value.numpy().reshape(len(points), -1) for value in values]
    return Probe(structure, flat, found, sizes, deployed)


def _sampled(inputs: Inputs, image: np.ndarray, count: int) -> np.ndarray:
    """The image and random points of the ball and the box: float32 [1 + count, *input_shape]."""
    x, candidates = image.astype(np.float64).ravel(), image[None].astype(np.float32)
    if not inputs.single(x):
        points = _drawn(inputs, x, count).reshape(count, *image.shape)
        candidates = np.concatenate([candidates, points.astype(np.float32)])
    images = np.broadcast_to(image, candidates.shape)
    settled = settle(images, candidates, *inputs)
    return settled[within(images, settled, *inputs)]


def _drawn(inputs: Inputs, x: np.ndarray, count: int) -> np.ndarray:
    """Random points [count, n] of the set about `x` [n]."""
    rng = np.random.default_rng(0)
    low, high = inputs.intervals(x)
    shape = (count, len(x))
    half = np.arange(count)[:, None] % 2 == 0
    if inputs.norm == "l1":
        # Few pixels moved by much, or all of them by little; what float32 may add is left free.
        moved = rng.exponential(size=shape) * (half | (rng.random(shape) < 3.0 / len(x)))
        total = np.maximum(moved.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        shift = inputs.reach(x) * moved / total * rng.choice([-1.0, 1.0], shape)
        return np.clip(x + shift, low, high)
    inner, corner = rng.random(shape), rng.random(shape) < 0.5
    return np.where(half, low + (high - low) * inner, np.where(corner, low, high))
