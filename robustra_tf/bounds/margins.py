"""The last backward pass: bounds on differences of logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.dual import differences, support, trace
from robustra_tf.bounds.enclosure import Enclosure, enclose
from robustra_tf.bounds.frames import Every
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.passing import as_whole
from robustra_tf.bounds.relu import Relaxation
from robustra_tf.bounds.rows import Rows, WholeRows
from robustra_tf.graph.graph import Network


class Margins(NamedTuple):
    """WK's bound of `c . f`, for labels `c = e_t - e_y` of all targets `t`, split into its terms.

    `U_f(c) = base + support`: without a box, `base = x . nuhat_1 + R_f` and
    `support = eps ||nuhat_1||_*`. Entry `y` is 0 throughout.

    Attributes:
      base: [n, classes]; for k rows [n, k].
      support: [n, classes].
      rows: `nuhat_1` [n, classes, pixels].
      enclosure: the pre-activation bounds that it rests on.
    """

    base: tf.Tensor
    support: tf.Tensor
    rows: tf.Tensor
    enclosure: Enclosure

    @property
    def upper(self) -> tf.Tensor:
        """`U_f(c)`, the upper bound of `f_t - f_y` over the ball: [n, classes]."""
        return self.base + self.support


def margins(
    network: Network, ball: Ball, y: tf.Tensor, options: BoundOptions = BoundOptions()
) -> Margins:
    """Bound `f_t - f_y` over the ball for all targets of a batch at once, or any `c . f`.

    Args:
      network: f.
      ball: the inputs of the batch.
      y: labels, integers [n]; or rows `c` [n, k, classes].
      options: how, as `enclose` takes them.
    """
    enclosure = enclose(network, ball, options)
    last = last_pass(network, ball, y, enclosure.relaxations, enclosure.centre)
    return Margins(*last, enclosure)


class LastPass(NamedTuple):
    """`base`, `support` and `rows` of `Margins`, whatever the relaxations were made of."""

    base: tf.Tensor
    support: tf.Tensor
    rows: tf.Tensor


def last_pass(
    network: Network,
    ball: Ball,
    y: tf.Tensor,
    relaxations: Mapping[int, Relaxation],
    centre: tf.Tensor,
) -> LastPass:
    """The backward pass of the margins, from the relaxations of every ReLU.

    Args:
      network, ball, y: as `margins` takes them.
      relaxations: of every ReLU node.
      centre: the relaxed network's output at the centre of the ball, [n, classes].
    """
    classes = network.structure.output_shape[0]
    c = differences(y, classes, ball.centre.dtype)
    last = len(network.structure.nodes) - 1
    start: Rows = WholeRows(c, (classes,))
    traced = trace(network, relaxations, last, start, Every())
    base = tf.linalg.matvec(c, centre) + traced.error
    whole = as_whole(traced.rows, Every())
    return LastPass(base, support(whole, Every(), ball), whole.flat)
