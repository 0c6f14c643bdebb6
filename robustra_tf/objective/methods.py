"""Losses of certified training by intervals: plain, with CROWN, and mixed with attacks.

Every loss is a function `(task, options) -> Trained` of one batch; all share the bounds of
`robustra_tf.bounds`. The set of inputs is the ball cut to the pixel box.

* `ibp`: Gowal et al. 2018, "On the effectiveness of interval bound propagation".
* `crown_ibp`: Zhang et al. 2020, "Towards stable and efficient training of verifiably robust
  neural networks": one CROWN pass for the margins over interval bounds, faded out along the ramp.
* `mtl_ibp`: De Palma et al. 2024, "Expressive losses for verified robustness via convex
  combinations": losses at an attack and over the ball, added with fixed shares.
* `sabr`: Müller et al. 2023, "Certified training: small boxes are all you need": intervals over a
  small box about an attack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball, Box, ball
from robustra_tf.bounds.crown import adaptive, crown_margins
from robustra_tf.bounds.interval import Interval, interval_margins
from robustra_tf.graph.graph import Structure
from robustra_tf.objective.losses import robust_cross_entropy

BOX: Box = (0.0, 1.0)
#: Of the regularisers of `regulariser`: what is better than this needs none.
_TOLERANCE = 0.5
_TINY = 1e-12


class Task(NamedTuple):
    """A network and a batch: what a loss is a function of.

    Attributes:
      structure, weights: the network.
      x: images [n, *shape] in pixels of [0, 1].
      y: labels [n], int32.
      eps: radius in pixels, a scalar tensor.
      progress: how far the radius has come on its ramp, 0 to 1, a scalar tensor.
      draw: of the attacks' random starts, uniform in [0, 1), [n, *shape]; None where none attacks.
    """

    structure: Structure
    weights: Sequence[tf.Tensor]
    x: tf.Tensor
    y: tf.Tensor
    eps: tf.Tensor
    progress: tf.Tensor
    draw: tf.Tensor | None = None


class Options(NamedTuple):
    """What a loss is tuned by.

    Attributes:
      share: of `mtl_ibp`, the weight of the interval loss beside the attack's; of `sabr`, the
        radius of the small box as a share of the ball's.
      clean_share: the weight of the clean loss once the ramp is over; it begins at 1 (Gowal et
        al.'s kappa).
      attack_steps: of the attacks.
      regulariser: the weight at the beginning of the ramp, falling to 0 (Shi et al. 2021).
      interval_share: of `robustra` and `wong`, the weight of the loss on the margins' intervals
        over the ball cut to the box, beside that on the dual's bounds.
      attack_share: of `robustra` and `wong`, the weight of the loss at an attacked image, beside
        that on bounds.
    """

    share: float = 0.05
    clean_share: float = 0.0
    attack_steps: int = 8
    regulariser: float = 0.0
    interval_share: float = 0.0
    attack_share: float = 0.0


DEFAULTS = Options()


class Trained(NamedTuple):
    """What a loss gives: `mean(loss) + weight * regulariser(mean(spread))` is to be minimised.

    The second term is no mean over the examples: a batch that is worked on in pieces needs the
    mean of `spread` over all of them.

    Attributes:
      loss: [n].
      upper: bounds of `f_t - f_y` over the whole cut ball, by intervals, [n, classes].
      spread: of `Spread`'s numbers, [n, ReLU layers, numbers]; None without a regulariser.
      weight: of the regulariser, a scalar.
    """

    loss: tf.Tensor
    upper: tf.Tensor
    spread: tf.Tensor | None = None
    weight: tf.Tensor | float = 0.0


def ibp(task: Task, options: Options) -> Trained:
    """Cross-entropy of the margins' interval bounds."""
    region = _region(task)
    bounds, upper = _intervals(task, region)
    loss = _mixed(task, options, upper)
    return Trained(loss, upper, *_regularised(task, options, region, bounds))


def crown_ibp(task: Task, options: Options) -> Trained:
    """Cross-entropy of `(1 - progress)` CROWN's bounds plus `progress` the intervals'."""
    region = _region(task)
    bounds, upper = _intervals(task, region)
    beta = 1.0 - task.progress

    def blended() -> tf.Tensor:
        network = (task.structure, task.weights)
        tighter = crown_margins(*network, region, task.y, bounds, adaptive(bounds))
        return beta * tighter + (1.0 - beta) * upper

    used = tf.cond(beta > 0, blended, lambda: upper)
    loss = _mixed(task, options, used)
    return Trained(loss, upper, *_regularised(task, options, region, bounds))


def mtl_ibp(task: Task, options: Options) -> Trained:
    """`(1 - share)` cross-entropy at an attacked image plus `share` that of the intervals."""
    region = _region(task)
    bounds, upper = _intervals(task, region)
    logits = task.structure.forward(task.weights, attacked(task, options.attack_steps))
    attack = tf.nn.sparse_softmax_cross_entropy_with_logits(task.y, logits)
    loss = (1.0 - options.share) * attack + options.share * _mixed(task, options, upper)
    spread, weight = _regularised(task, options, region, bounds)
    return Trained(loss, upper, spread, options.share * weight)


def sabr(task: Task, options: Options) -> Trained:
    """Cross-entropy of the intervals over a box of radius `share eps` about an attacked image."""
    radius = options.share * task.eps
    far = task.eps - radius
    centre = task.x + tf.clip_by_value(attacked(task, options.attack_steps) - task.x, -far, far)
    region = ball(centre, radius, box=BOX)
    bounds, upper = _intervals(task, region)
    _, whole = _intervals(task, _region(task))
    loss = _mixed(task, options, upper)
    spread, weight = _regularised(task, options, region, bounds)
    return Trained(loss, tf.stop_gradient(whole), spread, weight)


#: Those that attack, from random starts.
ATTACKING = ("mtl_ibp", "sabr")
#: The losses by name.
LOSSES: dict[str, Callable[[Task, Options], Trained]] = {
    "ibp": ibp,
    "crown_ibp": crown_ibp,
    "mtl_ibp": mtl_ibp,
    "sabr": sabr,
}


def _region(task: Task) -> Ball:
    return ball(task.x, task.eps, box=BOX)


def _intervals(task: Task, region: Ball) -> tuple[dict[int, Interval], tf.Tensor]:
    return interval_margins(task.structure, task.weights, region, task.y)


def _mixed(task: Task, options: Options, upper: tf.Tensor) -> tf.Tensor:
    """The loss on bounds, with as much of the clean loss as the options say."""
    loss = robust_cross_entropy(upper, task.y)
    if options.clean_share:
        logits = task.structure.forward(task.weights, task.x)
        clean = tf.nn.sparse_softmax_cross_entropy_with_logits(task.y, logits)
        kappa = 1.0 - task.progress * (1.0 - options.clean_share)
        loss = kappa * clean + (1.0 - kappa) * loss
    return loss


def _regularised(
    task: Task, options: Options, region: Ball, bounds: Mapping[int, Interval]
) -> tuple[tf.Tensor | None, tf.Tensor | float]:
    """The spread of the bounds and the weight of their regulariser, which fades along the ramp."""
    if not options.regulariser:
        return None, 0.0
    return spread(region, bounds), options.regulariser * (1.0 - task.progress)


def attacked(task: Task, steps: int) -> tf.Tensor:
    """Images moved by sign gradient ascent on the cross-entropy within the cut ball: [n, *shape].

    From a random start, the task's draw; steps of eps / 2, after three quarters of them eps / 10. A
    constant for the gradient.
    """
    low = tf.maximum(task.x - task.eps, BOX[0])
    high = tf.minimum(task.x + task.eps, BOX[1])
    weights = [tf.stop_gradient(w) for w in task.weights]

    def climb(k, point):
        with tf.GradientTape() as tape:
            tape.watch(point)
            logits = task.structure.forward(weights, point)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(task.y, logits)
        share = tf.cast(tf.where(4 * k < 3 * steps, 0.5, 0.1), point.dtype)
        point += share * task.eps * tf.sign(tape.gradient(loss, point))
        return k + 1, tf.clip_by_value(point, low, high)

    start = low + (high - low) * task.draw
    _, point = tf.while_loop(
        lambda k, _: k < steps, climb, (tf.constant(0), start), maximum_iterations=steps
    )
    return tf.stop_gradient(point)


class Spread(NamedTuple):
    """What the regulariser knows of a layer's pre-activations, with centres c and half widths w.

    Means over the units of a layer and, after that, over examples. Active units have c > 0 and dead
    ones c < 0, so that `|c|` over the two gives the sums of c as well.
    """

    source: tf.Tensor  # half widths of the region itself
    width: tf.Tensor  # w
    centre: tf.Tensor  # c
    active: tf.Tensor  # 1 where the lower bound is above 0
    dead: tf.Tensor  # 1 where the upper bound is below 0
    size_active: tf.Tensor  # |c| of the active units, 0 for others; and so on
    size_dead: tf.Tensor
    square_active: tf.Tensor
    square_dead: tf.Tensor


def spread(region: Ball, bounds: Mapping[int, Interval]) -> tf.Tensor:
    """The `Spread` of every example and ReLU, [n, ReLU layers, numbers]."""

    def mean(values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(values, tf.range(1, tf.rank(values)))

    layers = []
    for low, high in bounds.values():
        centre = 0.5 * (low + high)
        active, dead = (tf.cast(kind, low.dtype) for kind in (low > 0, high < 0))
        size, square = tf.abs(centre), tf.square(centre)
        values = (region.half_widths, 0.5 * (high - low), centre, active, dead)
        values += tuple(v * kind for v in (size, square) for kind in (active, dead))
        layers.append(tf.stack(Spread(*map(mean, values)), -1))
    if not layers:
        return tf.zeros((tf.shape(region.centre)[0], 0, len(Spread._fields)), region.centre.dtype)
    return tf.stack(layers, 1)


def regulariser(mean: tf.Tensor) -> tf.Tensor:
    """Shi et al. 2021, "Fast certified robust training with short warmup": a scalar.

    For every ReLU, with c the centres and w the half widths of its pre-activations,
    `max(0, tau - mean(w_input) / mean(w)) / tau` against exploding bounds, and
    `max(0, tau - min(r, 1 / r)) / tau` for r the ratio of the sums of |c| over active and over dead
    units, and for r that of their squared deviations, against ReLUs all of one kind. As there, tau
    is 0.5; the three are means over the layers. 0 for a network without ReLUs.

    Args:
      mean: of `spread` over the examples of the batch, [ReLU layers, numbers].
    """
    if not mean.shape[0]:
        return tf.zeros((), mean.dtype)
    found = Spread(*tf.unstack(mean, axis=-1))
    # (c - m)^2 summed over one kind of units, m the mean over all; rounding may leave less than 0.
    middle = found.centre
    varied = [
        tf.nn.relu(square - 2.0 * middle * total + tf.square(middle) * count)
        for square, total, count in (
            (found.square_active, found.size_active, found.active),
            (found.square_dead, -found.size_dead, found.dead),
        )
    ]
    terms = [found.source / tf.maximum(found.width, _TINY)]
    for one, other in ((found.size_active, found.size_dead), varied):
        terms.append(tf.minimum(one, other) / tf.maximum(tf.maximum(one, other), _TINY))
    return tf.reduce_sum(tf.nn.relu(1.0 - tf.stack(terms) / _TOLERANCE)) / mean.shape[0]
