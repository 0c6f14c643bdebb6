"""Losses of certified training by intervals: plain, with CROWN, and mixed with attacks.

Every loss is a function `(network, batch, options) -> Loss`; all share the bounds of
`robustra_tf.bounds`. The set of inputs is the ball cut to the pixel box.

* `ibp`: Gowal et al. 2018, "On the effectiveness of interval bound propagation".
* `crown_ibp`: Zhang et al. 2020, "Towards stable and efficient training of verifiably robust
  neural networks": one CROWN pass for the margins over interval bounds, faded out along the ramp.
* `mtl_ibp`, `cc_ibp`, `exp_ibp`: De Palma et al. 2024, "Expressive losses for verified robustness
  via convex combinations", between what is lost at an attack and over the ball: an arithmetic mean
  of both losses, the loss of a mean of both margins, a geometric mean of both losses.
* `sabr`: Müller et al. 2023, "Certified training: small boxes are all you need": intervals over a
  small box about an attack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball, Box, ball
from robustra_tf.bounds.crown import rival_margins
from robustra_tf.bounds.interval import Interval, interval_margins
from robustra_tf.bounds.lines import adaptive
from robustra_tf.graph.graph import Network
from robustra_tf.objective.batch import Batch, Loss, LossOptions
from robustra_tf.objective.losses import robust_cross_entropy

BOX: Box = (0.0, 1.0)
#: Of the regularisers of `regulariser`: what is better than this needs none.
_TOLERANCE = 0.5
_TINY = 1e-12
#: A loss below this counts as this in a geometric mean, whose slope at 0 is infinite.
_LEAST_LOSS = 1e-12


def ibp(network: Network, batch: Batch, options: LossOptions) -> Loss:
    """Cross-entropy of the margins' interval bounds."""
    region = whole_ball(batch)
    bounds, upper = interval_margins(network, region, batch.y)
    loss = _mixed(network, batch, options, upper)
    return Loss(loss, upper, **_regularised(batch, options, region, bounds))


def crown_ibp(network: Network, batch: Batch, options: LossOptions) -> Loss:
    """Cross-entropy of `(1 - progress)` CROWN's bounds plus `progress` the intervals'."""
    region = whole_ball(batch)
    bounds, upper = interval_margins(network, region, batch.y)
    beta = 1.0 - batch.progress

    def blended() -> tf.Tensor:
        tighter = rival_margins(network, region, batch.y, bounds, adaptive(bounds))
        return beta * tighter + (1.0 - beta) * upper

    used = tf.cond(beta > 0, blended, lambda: upper)
    loss = _mixed(network, batch, options, used)
    return Loss(loss, upper, **_regularised(batch, options, region, bounds))


def mtl_ibp(network: Network, batch: Batch, options: LossOptions) -> Loss:
    """`(1 - share)` cross-entropy at an attacked image plus `share` that of the intervals."""

    def mean(attack: tf.Tensor, upper: tf.Tensor) -> tf.Tensor:
        mixed = _mixed(network, batch, options, upper)
        return (1.0 - options.share) * robust_cross_entropy(attack, batch.y) + options.share * mixed

    return _expressive(network, batch, options, mean)


def cc_ibp(network: Network, batch: Batch, options: LossOptions) -> Loss:
    """Cross-entropy of `(1 - share)` the margins at an attacked image plus `share` their bounds."""

    def mean(attack: tf.Tensor, upper: tf.Tensor) -> tf.Tensor:
        combined = (1.0 - options.share) * attack + options.share * upper
        return _mixed(network, batch, options, combined)

    return _expressive(network, batch, options, mean)


def exp_ibp(network: Network, batch: Batch, options: LossOptions) -> Loss:
    """`L_attack^(1 - share) L_intervals^share` of the two cross-entropies of `mtl_ibp`."""

    def mean(attack: tf.Tensor, upper: tf.Tensor) -> tf.Tensor:
        losses = robust_cross_entropy(attack, batch.y), _mixed(network, batch, options, upper)
        logs = [tf.math.log(tf.maximum(loss, _LEAST_LOSS)) for loss in losses]
        return tf.exp((1.0 - options.share) * logs[0] + options.share * logs[1])

    return _expressive(network, batch, options, mean)


def _expressive(
    network: Network,
    batch: Batch,
    options: LossOptions,
    mean: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> Loss:
    """The loss `mean(attack, upper)` of the margins `f_t - f_y` [n, classes] and their bounds.

    The regulariser counts as far as intervals do.
    """
    region = whole_ball(batch)
    bounds, upper = interval_margins(network, region, batch.y)
    there = attacked(network, batch, options.attack_steps, options.attack_ratio)
    attack = _margins(network, there, batch.y)
    found = Loss(mean(attack, upper), upper, **_regularised(batch, options, region, bounds))
    return found._replace(weight=options.share * found.weight)


def _margins(network: Network, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """`f_t - f_y` at images `x` for every class t: [n, classes]."""
    logits = network(x)
    return logits - tf.gather(logits, y, batch_dims=1)[:, None]


def sabr(network: Network, batch: Batch, options: LossOptions) -> Loss:
    """Cross-entropy of the intervals over a box of radius `share eps` about an attacked image."""
    radius = options.share * batch.eps
    far = batch.eps - radius
    moved = attacked(network, batch, options.attack_steps, options.attack_ratio) - batch.x
    # Rounding may leave the box: of a centre outside there is no ball.
    centre = tf.clip_by_value(batch.x + tf.clip_by_value(moved, -far, far), *BOX)
    region = ball(centre, radius, box=BOX)
    bounds, upper = interval_margins(network, region, batch.y)
    _, whole = interval_margins(network, whole_ball(batch), batch.y)
    loss = _mixed(network, batch, options, upper)
    return Loss(loss, tf.stop_gradient(whole), **_regularised(batch, options, region, bounds))


#: The losses by the names of their methods.
INTERVAL_LOSSES: dict[str, Callable[[Network, Batch, LossOptions], Loss]] = {
    "ibp": ibp,
    "crown_ibp": crown_ibp,
    "mtl_ibp": mtl_ibp,
    "cc_ibp": cc_ibp,
    "exp_ibp": exp_ibp,
    "sabr": sabr,
}


def whole_ball(batch: Batch) -> Ball:
    """The `linf` ball about each image, cut to the pixel box."""
    return ball(batch.x, batch.eps, box=BOX)


def clean_cross_entropy(network: Network, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of the logits at images `x` against labels `y`: [n]."""
    return robust_cross_entropy(network(x), y)


def _mixed(network: Network, batch: Batch, options: LossOptions, upper: tf.Tensor) -> tf.Tensor:
    """The loss on bounds, with as much of the clean loss as the options say."""
    loss = robust_cross_entropy(upper, batch.y)
    if options.clean_share:
        clean = clean_cross_entropy(network, batch.x, batch.y)
        kappa = 1.0 - batch.progress * (1.0 - options.clean_share)
        loss = kappa * clean + (1.0 - kappa) * loss
    return loss


def _regularised(
    batch: Batch, options: LossOptions, region: Ball, bounds: Mapping[int, Interval]
) -> dict[str, tf.Tensor]:
    """`Loss.spread` and `Loss.weight` of the regulariser, if any, which fades along the ramp."""
    if not options.regulariser:
        return {}
    weight = options.regulariser * (1.0 - batch.progress)
    return {"spread": spread(region, bounds), "weight": weight}


def attacked(network: Network, batch: Batch, steps: int, ratio: float = 1.0) -> tf.Tensor:
    """Images moved by sign gradient ascent on the cross-entropy within the cut ball: [n, *shape].

    The ball's radius r is `ratio` times the batch's. From a random start, the batch's draw; steps
    of r / 2, after three quarters of them r / 10. A constant for the gradient.
    """
    eps = ratio * batch.eps
    low = tf.maximum(batch.x - eps, BOX[0])
    high = tf.minimum(batch.x + eps, BOX[1])
    fixed = network.with_weights([tf.stop_gradient(w) for w in network.weights])

    def climb(k, point):
        with tf.GradientTape() as tape:
            tape.watch(point)
            loss = clean_cross_entropy(fixed, point, batch.y)
        share = tf.cast(tf.where(4 * k < 3 * steps, 0.5, 0.1), point.dtype)
        point += share * eps * tf.sign(tape.gradient(loss, point))
        return k + 1, tf.clip_by_value(point, low, high)

    start = low + (high - low) * batch.draw
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
