"""The last backward pass: bounds on differences of logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.dual import Weights, differences, support, trace
from robustra_tf.bounds.enclosure import Enclosure, enclose
from robustra_tf.bounds.frames import Every
from robustra_tf.bounds.passing import as_whole
from robustra_tf.bounds.radius import DEFAULT_BUDGET
from robustra_tf.bounds.relu import Relaxation
from robustra_tf.bounds.rows import Rows, WholeRows
from robustra_tf.graph.graph import Structure


class Margins(NamedTuple):
    """WK's bound of `c . f` for `c = e_t - e_y`, all targets `t`, split into its terms.

    `U_f(c) = base + support`: without a box, `base = x . nuhat_1 + R_f` and
    `support = eps ||nuhat_1||_*`. Entry `y` is 0 throughout.

    Attributes:
      base: [n, classes].
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
    structure: Structure,
    weights: Weights,
    ball: Ball,
    y: tf.Tensor,
    rows: str = "every",
    budget: float = DEFAULT_BUDGET,
    inner: str = "dual",
) -> Margins:
    """Bound `f_t - f_y` over the ball for all targets of a batch at once.

    Args:
      structure, weights: the network f.
      ball: the inputs of the batch.
      y: labels, integers [n].
      rows, budget, inner: as `enclose` takes them.
    """
    enclosure = enclose(structure, weights, ball, rows, budget, inner)
    terms = last_pass(structure, weights, ball, y, enclosure.relaxations, enclosure.centre)
    return Margins(*terms, enclosure)


def last_pass(
    structure: Structure,
    weights: Weights,
    ball: Ball,
    y: tf.Tensor,
    relaxations: Mapping[int, Relaxation],
    centre: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`base`, `support` and `rows` of `Margins`, from the relaxations of every ReLU.

    Args:
      structure, weights, ball, y: as `margins` takes them.
      relaxations: of every ReLU node.
      centre: the relaxed network's output at the centre of the ball, [n, classes].
    """
    classes = structure.output_shape[0]
    c = differences(y, classes, ball.centre.dtype)
    last = len(structure.nodes) - 1
    start: Rows = WholeRows(c, (classes,))
    traced = trace(structure, weights, relaxations, last, start, Every())
    base = tf.linalg.matvec(c, centre) + traced.error
    whole = as_whole(traced.rows, Every())
    return base, support(whole, Every(), ball), whole.flat
