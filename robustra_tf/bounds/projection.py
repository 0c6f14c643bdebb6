"""Estimates of the inner layers by random projections (section 5.5): they bound nothing.

A relaxed ReLU is a line give or take an error, so the radius of a neuron is one l1 norm,
`sum_i |nuhat_i| . error_i + eps ||nuhat_1||_1`, of its row over all errors and the image. For a
standard Cauchy vector `R`, `v . R` has the distribution of `||v||_1` times a Cauchy number, and
|Cauchy| has the median 1. Pushed forward through the relaxed network, `error_i R_i` added at every
ReLU, `k` such vectors give `v . R` of all neurons of all layers: `k` forward passes, where the dual
needs a backward pass for each neuron.

The paper estimates the terms of the sum one by one. One joint projection serves better: estimating
`L` terms by `k` vectors each takes as much work as `L k` vectors for their sum, whose relative
standard error, `pi / (2 sqrt(L k))`, is never larger (Cauchy-Schwarz).

For `l2` the image's term is `eps ||nuhat_1||_2`, estimated by Gaussian vectors of their own as
`||v^T R||_2 / sqrt(k)`. The dual norm of `l1`, the largest entry, has no such estimate: refused.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.dual import affine, root
from robustra_tf.bounds.margins import last_pass
from robustra_tf.bounds.median import absolute_median
from robustra_tf.bounds.options import BoundOptions, check_projection
from robustra_tf.bounds.radius import exact_radius, interval_exact
from robustra_tf.bounds.relu import Relaxation, relax
from robustra_tf.graph.graph import Network, Structure
from robustra_tf.graph.ops import Add, Input, Relu

#: Copies of every random vector that are alive at once in a gradient.
_KEPT = 3


class Projection(NamedTuple):
    """How many random vectors, and which.

    Attributes:
      size: k, at least 1.
      seed: int32 [2]; equal seeds give equal vectors.
    """

    size: int
    seed: tf.Tensor

    def fold(self, number: int) -> Projection:
        """Vectors of the same number that are independent of these and of other `number`s."""
        return Projection(self.size, tf.random.experimental.stateless_fold_in(self.seed, number))


class Estimate(NamedTuple):
    """Estimated pre-activation ranges of a batch and what follows from them. Nothing is bounded.

    Attributes:
      ranges: for each ReLU node, estimates of Wong and Kolter's (lower, upper), [n, *shape] each.
      relaxations: for each ReLU node, its relaxation between the two.
      centre: the relaxed network's output at the centre of the ball, [n, classes].
    """

    ranges: dict[int, tuple[tf.Tensor, tf.Tensor]]
    relaxations: dict[int, Relaxation]
    centre: tf.Tensor


class MarginEstimate(NamedTuple):
    """What `Margins` is, but resting on estimated ranges: no bound of anything.

    Attributes:
      base, support: the terms of the estimate, [n, classes]; entry `y` is 0.
      rows: `nuhat_1` [n, classes, pixels], exact for the relaxations that were estimated.
      inner: the estimated ranges.
    """

    base: tf.Tensor
    support: tf.Tensor
    rows: tf.Tensor
    inner: Estimate

    @property
    def value(self) -> tf.Tensor:
        """An estimate of `U_f(c)`: [n, classes]."""
        return self.base + self.support


def estimate(
    network: Network,
    ball: Ball,
    projection: Projection,
    options: BoundOptions = BoundOptions(),
) -> Estimate:
    """Estimate what `enclose` computes: every pre-activation's range over the ball.

    A layer with fewer neurons than there are projections is computed exactly, and so are layers
    with one matrix between them and the image, which cost no more than projections. All examples
    share their random vectors: each one's estimate has the distribution that it would have alone,
    and does not depend on how a batch is split.

    Args:
      network: the one whose pre-activations are estimated.
      ball: the inputs, of `linf` or `l2`.
      projection: the random vectors.
      options: how the exact layers' rows are computed: the budget of a slice.

    Raises:
      ValueError: the `l1` ball, or no projections.
    """
    if projection.size < 1:
        raise ValueError(f"projection must be at least 1, got {projection.size}")
    check_projection(projection.size, ball.norm)
    structure, weights = network.structure, network.weights
    projected = _projected(structure, projection.size)
    passed = _passed(structure, projection.size)
    values: list[tf.Tensor] = []
    noise: dict[int, tf.Tensor] = {}
    ranges: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}
    relaxations: dict[int, Relaxation] = {}
    for index, node in enumerate(structure.nodes):
        if isinstance(node.op, Input):
            values.append(ball.centre)
        elif isinstance(node.op, Relu):
            below = node.inputs[0]
            if below in projected:
                radius = _size(noise[below], ball.norm, projection.size)
            else:
                radius = exact_radius(network, ball, relaxations, below, options)
            ranges[index] = (values[below] - radius, values[below] + radius)
            relaxation = relaxations[index] = relax(*ranges[index])
            values.append(relaxation.forward(values[below]))
        else:
            values.append(affine(node, weights, *(values[i] for i in node.inputs)))
        if index in passed:
            noise[index] = _noise(network, index, ball, projection, relaxations, noise)
    return Estimate(ranges, relaxations, values[-1])


def margin_estimates(
    network: Network,
    ball: Ball,
    y: tf.Tensor,
    projection: Projection,
    options: BoundOptions = BoundOptions(),
) -> MarginEstimate:
    """Estimate what `margins` bounds: exact rows from the logits down, over estimated relaxations.

    Args:
      network: f.
      ball: the inputs of the batch.
      y: labels, integers [n].
      projection, options: as `estimate` takes them.
    """
    inner = estimate(network, ball, projection, options)
    terms = last_pass(network, ball, y, inner.relaxations, inner.centre)
    return MarginEstimate(*terms, inner)


@functools.lru_cache(maxsize=64)
def _projected(structure: Structure, size: int) -> frozenset[int]:
    """The pre-activations that are estimated."""
    below = {structure.nodes[i].inputs[0] for i in structure.relus} - interval_exact(structure)
    return frozenset(i for i in below if math.prod(structure.nodes[i].op.out_shape) >= size)


@functools.lru_cache(maxsize=64)
def _passed(structure: Structure, size: int) -> frozenset[int]:
    """The nodes that `size` random vectors pass on their way to what is estimated."""
    found = set(_projected(structure, size))
    for index in range(len(structure.nodes) - 1, -1, -1):
        if index in found:
            found |= set(structure.nodes[index].inputs)
    return frozenset(found)


def vector_bytes(structure: Structure, size: int, itemsize: int = 4) -> int:
    """Bytes that the random vectors of one example take in a gradient."""
    passed = sum(math.prod(structure.nodes[i].op.out_shape) for i in _passed(structure, size))
    return _KEPT * itemsize * size * passed


def _noise(
    network: Network,
    index: int,
    ball: Ball,
    projection: Projection,
    relaxations: Mapping[int, Relaxation],
    noise: Mapping[int, tf.Tensor],
) -> tf.Tensor:
    """The random vectors on a node, [n or 1, vectors, *shape]: from the image, added at ReLUs."""
    node, weights = network.structure.nodes[index], network.weights
    inputs = [noise[i] for i in node.inputs]
    if isinstance(node.op, Input):
        drawn = _drawn(node.op.shape, ball, projection.fold(index), at_image=True)
        return (ball.radius[:, None] if ball.radius.shape.rank else ball.radius) * drawn
    if isinstance(node.op, Relu):
        slope, error = relaxations[index].slope[:, None], relaxations[index].error[:, None]
        drawn = _drawn(node.op.shape, ball, projection.fold(index), at_image=False)
        return slope * inputs[0] + error * drawn
    if isinstance(node.op, Add):
        return functools.reduce(tf.add, inputs)
    (vectors,) = inputs
    joint = tf.reshape(vectors, (-1, *node.op.in_shape))
    passed = node.affine.linear(joint, *(weights[i] for i in node.weights))
    return tf.reshape(passed, (-1, vectors.shape[1], *node.op.out_shape))


def _drawn(shape: tuple[int, ...], ball: Ball, projection: Projection, at_image: bool) -> tf.Tensor:
    """Random vectors [1, vectors, *shape]: k Cauchy ones; for `l2`, k Gaussian and k Cauchy ones.

    The Gaussian ones stem from the image alone, the Cauchy ones from the ReLUs alone.
    """
    size, dtype = (projection.size, *shape), ball.centre.dtype
    gaussian = ball.norm == "l2" and at_image
    if gaussian:
        drawn = tf.random.stateless_normal(size, projection.seed, dtype=dtype)
    else:
        uniform = tf.random.stateless_uniform(size, projection.seed, dtype=dtype)
        drawn = tf.tan(np.pi * (uniform - 0.5))
    if ball.norm == "l2":
        none = tf.zeros_like(drawn)
        drawn = tf.concat([drawn, none] if gaussian else [none, drawn], 0)
    return drawn[None]


def _size(noise: tf.Tensor, norm: str, size: int) -> tf.Tensor:
    """The estimated radii [n, *shape] from the random vectors [n, vectors, *shape]."""
    if norm == "linf":
        return absolute_median(noise)
    gaussian, cauchy = noise[:, :size], noise[:, size:]
    return root(tf.reduce_mean(tf.square(gaussian), 1)) + absolute_median(cauchy)
