"""The best of the bounds of the margins: intervals, WK's, CROWN's, and CROWN's optimised."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.crown import crown_margins, optimised_margins
from robustra_tf.bounds.enclosure import enclose
from robustra_tf.bounds.interval import Interval, interval_margins, lesser
from robustra_tf.bounds.lines import adaptive
from robustra_tf.bounds.margins import LastPass, last_pass
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.refine import REFINED, first_of, refined
from robustra_tf.graph.graph import Network


def best_margins(
    network: Network,
    ball: Ball,
    y: tf.Tensor,
    options: BoundOptions,
    *,
    optimise: bool = False,
) -> tf.Tensor:
    """Upper bounds of `f_t - f_y` over the ball, or of any `c . f`: the least of several, [n, k].

    Nothing orders intervals, WK's bound and CROWN's, so that each of them counts: intervals alone,
    WK's on its own inner bounds (those of `options`, or the dual's where these are refined), and
    CROWN's on the inner bounds of `options`. Inner bounds `alpha` count CROWN's on those of `crown`
    too: what is optimised is never the looser one.

    Args:
      network, ball, y: as `margins` takes them.
      options: how inner layers are bounded.
      optimise: CROWN's lower slopes for each margin, too.
    """
    wk, inner = inner_bounds(network, ball, y, options)
    upper = lesser(wk.base + wk.support, interval_margins(network, ball, y).upper)
    for bounds in inner:
        upper = lesser(upper, crown_margins(network, ball, y, bounds, adaptive(bounds)))
    return lesser(upper, optimised_margins(network, ball, y, inner[-1])) if optimise else upper


def inner_bounds(
    network: Network, ball: Ball, y: tf.Tensor, options: BoundOptions
) -> tuple[LastPass, list[Mapping[int, Interval]]]:
    """WK's last pass on its own inner bounds, and every set of those that CROWN's count on.

    Args: as `best_margins` takes them.
    """
    passes = REFINED.get(options.inner)
    first = enclose(network, ball, options if passes is None else first_of(options))
    wk = last_pass(network, ball, y, first.relaxations, first.centre)
    found: list[Mapping[int, Interval]] = [first.bounds]
    for descent in passes or ():
        found.append(refined(network, ball, found[-1], options, descent))
    return wk, found[passes is not None :]
