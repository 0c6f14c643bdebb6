"""Joint bounds of two networks: whether both can prefer the same target to the label at once."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.best import inner_bounds
from robustra_tf.bounds.crown import affine_margins, free_relus, optimised_slopes, strips
from robustra_tf.bounds.interval import Interval, interval_margins, lesser
from robustra_tf.bounds.lines import adaptive, parallel
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.mix import Affine, best_share, known_lesser, least_mixed
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.refine import REFINED
from robustra_tf.bounds.runs import Passage, Visit
from robustra_tf.bounds.slopes import Begin, Descent, Free, lowest
from robustra_tf.graph.graph import Network

#: How slopes are optimised for a mix, from those that are best for either network.
_TOGETHER = Descent(steps=4, rate=0.1)


class JointMargins(NamedTuple):
    """Upper bounds over the ball, [n, classes]; entry `y` of each is 0.

    Attributes:
      upper: the least over mixes `a (f_t - f_y) + (1 - a) (g_t - g_y)`, `a` in [0, 1]: where it is
        negative no input has `f_t >= f_y` and `g_t >= g_y`. No greater than either that follows.
      f, g: of `f_t - f_y` and of `g_t - g_y` alone.
      share: the mix `a` that `upper` is of; None where other bounds than Wong and Kolter's and
        intervals take part.
      bands: of the ReLUs of f and of g, what these rest on, as `certificates.proofs.BAND` has it;
        of intervals lower and upper alone. None where `share` is.
    """

    upper: tf.Tensor
    f: tf.Tensor
    g: tf.Tensor
    share: tf.Tensor | None = None
    bands: tuple[list, list] | None = None


def chosen(
    f: tf.Tensor,
    g: tf.Tensor,
    bands: Sequence[list],
    mixed: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> JointMargins:
    """The least of the bounds of f, of g [n, classes] and of a mix, with the share that it has.

    Args:
      f, g: alone.
      bands: of their ReLUs.
      mixed: the bound of a mix and its share, if there is one: it counts where both networks'
        bounds are finite, for of a network of which nothing is known no mix says anything.
    """
    upper = known_lesser(f, g)
    share = tf.where(tf.equal(upper, f), tf.ones_like(f), tf.zeros_like(f))
    if mixed is not None:
        known = tf.logical_and(tf.math.is_finite(f), tf.math.is_finite(g))
        better = tf.logical_and(known, mixed[0] < upper)
        upper, share = tf.where(better, mixed[0], upper), tf.where(better, mixed[1], share)
    return JointMargins(upper, f, g, share, (bands[0], bands[1]))


class _Bounds(NamedTuple):
    """What is known of one network.

    Attributes:
      affine: upper bounds of the margins, affine in the input, in an order of kinds.
      upper: the least of all that bound the margins, [n, classes].
      inner: of every ReLU, the best bounds of its input.
      slopes: of the lower lines that are best for each margin, as `Lowest` has them; empty where
        none were optimised.
    """

    affine: list[Affine]
    upper: tf.Tensor
    inner: Mapping[int, Interval]
    slopes: Mapping[int, Begin]


def joint_margins(
    f: Network, g: Network, ball: Ball, y: tf.Tensor, method: str, options: BoundOptions
) -> JointMargins:
    """Bound the margins of both networks and of their mixes.

    The mix that is best is found for every target, of each kind of bound: Wong and Kolter's,
    CROWN's on every set of inner bounds, and, for `alpha`, along with the slopes that are
    optimised. Of intervals alone the best mix is one network or the other.

    Args:
      f, g: the networks.
      ball: the inputs of the batch, without intervals beside an `l2` or `l1` ball.
      y: labels, integers [n].
      method: `dual`, `interval`, `crown` or `alpha`.
      options: how inner layers are bounded.
    """
    if method == "interval":
        found = [interval_margins(network, ball, y) for network in (f, g)]
        bands = [list(each.bounds.values()) for each in found]
        return chosen(found[0].upper, found[1].upper, bands)
    if method == "dual":
        return _dual((f, g), ball, y, options)
    found = [_bounds(network, ball, y, method, options) for network in (f, g)]
    alone = [each.upper for each in found]
    mixed = _best_mix(found[0].affine, found[1].affine, ball)
    if method == "alpha":
        mixed = lesser(mixed, _optimised((f, g), ball, y, (found[0], found[1])))
    # Of a network of which nothing is known no mix says anything.
    known = tf.logical_and(*map(tf.math.is_finite, alone))
    mixed = tf.where(known, mixed, tf.constant(float("inf"), mixed.dtype))
    return JointMargins(known_lesser(known_lesser(*alone), mixed), *alone)


def _best_mix(f: Sequence[Affine], g: Sequence[Affine], ball: Ball) -> tf.Tensor:
    """The least mix of bounds of one kind, over all kinds: one search for all of them."""
    first, second = (
        Affine(tf.concat([each.base for each in kinds], 1), tf.concat([e.rows for e in kinds], 1))
        for kinds in (f, g)
    )
    found = tf.split(least_mixed(first, second, ball), len(f), axis=1)
    return functools.reduce(lesser, found)


def _dual(
    networks: tuple[Network, Network], ball: Ball, y: tf.Tensor, options: BoundOptions
) -> JointMargins:
    """Wong and Kolter's bounds and the best mix of both."""
    found = [margins(network, ball, y, options) for network in networks]
    f, g = (Affine(each.base, each.rows) for each in found)
    share = best_share(f, g, ball)
    bands = [
        [
            (*ends, each.enclosure.relaxations[k].slope, 2 * each.enclosure.relaxations[k].error)
            for k, ends in each.enclosure.bounds.items()
        ]
        for each in found
    ]
    mixed = f.mixed(g, share).upper(ball), share
    return chosen(found[0].upper, found[1].upper, bands, mixed)


def _bounds(
    network: Network, ball: Ball, y: tf.Tensor, method: str, options: BoundOptions
) -> _Bounds:
    first, inner = inner_bounds(network, ball, y, options)
    affine = [Affine(first.base, first.rows)]
    slopes = [adaptive(bounds) for bounds in inner]
    if method == "alpha" and options.inner in REFINED:
        # On the dual's own bounds WK's slopes are the first kind.
        inner, slopes = [*inner, inner[-1]], [*slopes, parallel(inner[-1])]
    crown = affine_margins(network, ball, y)
    for bounds, slope in zip(inner, slopes, strict=True):
        affine.append(crown(strips(network, ball, bounds, slope), None))
    upper = interval_margins(network, ball, y).upper
    for each in affine:
        upper = lesser(upper, each.upper(ball))
    if method != "alpha":
        return _Bounds(affine, upper, inner[-1], {})
    least, slopes = optimised_slopes(network, ball, y, inner[-1])
    return _Bounds(affine, lesser(upper, least), inner[-1], slopes)


def _optimised(
    networks: tuple[Network, Network],
    ball: Ball,
    y: tf.Tensor,
    found: tuple[_Bounds, _Bounds],
    descent: Descent = _TOGETHER,
) -> tf.Tensor:
    """The least mix with the lower slopes of both networks optimised for it, [n, classes].

    From the slopes that are best for either network alone, a few steps away from which those lie
    that are best for both. The best mix of the rows is found anew at every step, so that a step
    follows the gradient of the minimum.
    """
    # ReLUs of g are counted on behind the nodes of f.
    split = len(networks[0].structure.nodes)
    relus: dict[int, Free] = {}
    start: dict[int, Begin] = {}
    for network, known, at in zip(networks, found, (0, split), strict=True):
        relus |= {at + k: e for k, e in free_relus(network, ball, known.inner).items()}
        start |= {at + k: slope for k, slope in known.slopes.items()}
    f, g = (affine_margins(network, ball, y) for network in networks)

    def mixed(given: Mapping[int, Passage], visit: Visit | None = None) -> tf.Tensor:
        of_f = {k: each for k, each in given.items() if k < split}
        of_g = {k - split: each for k, each in given.items() if k >= split}
        return least_mixed(f(of_f, visit), g(of_g, visit), ball)

    return lowest(mixed, relus, descent, start)
