"""CROWN's bounds of the margins: lower lines of any slopes, perhaps optimised for each margin."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.dual import Traced, differences, support, trace
from robustra_tf.bounds.frames import Every
from robustra_tf.bounds.interval import Interval, lesser
from robustra_tf.bounds.lines import Slopes, Strip, lines, parallel, strip
from robustra_tf.bounds.mix import Affine
from robustra_tf.bounds.passing import as_whole
from robustra_tf.bounds.rows import WholeRows
from robustra_tf.bounds.runs import Passage, Visit
from robustra_tf.bounds.slopes import Descent, Free, Lowest, Reach, free, lowest, lowest_at
from robustra_tf.graph.graph import Network


def crown_margins(
    network: Network,
    ball: Ball,
    y: tf.Tensor,
    bounds: Mapping[int, Interval],
    slopes: Slopes,
) -> tf.Tensor:
    """Upper bounds of `f_t - f_y` over the ball, or of any `c . f`, by one backward pass: [n, k].

    A positive coefficient of a ReLU's output takes its upper line, a negative one the lower line.

    Args:
      network, ball: the network and the inputs.
      y: labels, integers [n]; or rows `c` [n, k, classes].
      bounds: of every ReLU's pre-activation, (lower, upper), [n, *shape] each.
      slopes: of the lower lines, as `adaptive` gives them or for each row; used where a ReLU is
        unstable.
    """
    value, reach = _last_pass(network, ball, y)
    return value + reach(strips(network, ball, bounds, slopes))


def rival_margins(
    network: Network,
    ball: Ball,
    y: tf.Tensor,
    bounds: Mapping[int, Interval],
    slopes: Slopes,
) -> tf.Tensor:
    """`crown_margins` of labels `y` [n] without a row for the label's own margin, which is 0.

    Args: as `crown_margins` takes them, the slopes the same for all rows.
    """
    classes, own = network.structure.output_shape[0], y[:, None]
    # In order from the label on, so that class t is at (t - y) modulo the classes.
    others = tf.math.floormod(own + tf.range(1, classes, dtype=y.dtype), classes)
    one, other = (tf.one_hot(at, classes, dtype=ball.centre.dtype) for at in (own, others))
    found = crown_margins(network, ball, other - one, bounds, slopes)
    places = tf.math.floormod(tf.range(classes, dtype=y.dtype) - own, classes)
    return tf.gather(tf.pad(found, ((0, 0), (1, 0))), places, batch_dims=1)


def strips(
    network: Network, ball: Ball, bounds: Mapping[int, Interval], slopes: Slopes
) -> dict[int, Strip]:
    """The lines of every ReLU of these slopes, seen from the centre of the ball."""
    at = network.inputs_of_relus(ball.centre)
    return {k: strip(lines(*ends), at[k], slopes[k]) for k, ends in bounds.items()}


#: The affine upper bounds of margins that follow from the ways in which ReLUs are passed.
AffineMargins = Callable[[Mapping[int, Passage], Visit | None], Affine]


def affine_margins(network: Network, ball: Ball, y: tf.Tensor) -> AffineMargins:
    """The bounds of `crown_margins` as they are before the ball's worst input is taken.

    Args: as `crown_margins` takes them.
    """
    value, traced = _traced(network, ball, y)

    def affine(relus: Mapping[int, Passage], visit: Visit | None = None) -> Affine:
        found = traced(relus, visit)
        return Affine(value + found.error, as_whole(found.rows, Every()).flat)

    return affine


def optimised_margins(
    network: Network,
    ball: Ball,
    y: tf.Tensor,
    bounds: Mapping[int, Interval],
    descent: Descent = Descent(),
) -> tf.Tensor:
    """`crown_margins` with the lower slopes of every margin optimised: [n, k].

    From CROWN's own slopes; the best bound of all steps counts, and so does that of WK's slopes:
    none is looser than CROWN's or than WK's on the same bounds.

    Args:
      network, ball, y, bounds: as `crown_margins` takes them.
      descent: how.
    """
    value, reach = _last_pass(network, ball, y)
    found = value + lowest(reach, free_relus(network, ball, bounds), descent)
    return lesser(found, crown_margins(network, ball, y, bounds, parallel(bounds)))


def optimised_slopes(
    network: Network,
    ball: Ball,
    y: tf.Tensor,
    bounds: Mapping[int, Interval],
    descent: Descent = Descent(),
) -> Lowest:
    """As `optimised_margins` without WK's slopes, and the slopes that the bounds were found at."""
    value, reach = _last_pass(network, ball, y)
    found = lowest_at(reach, free_relus(network, ball, bounds), descent)
    return found._replace(least=value + found.least)


def free_relus(network: Network, ball: Ball, bounds: Mapping[int, Interval]) -> dict[int, Free]:
    """Every ReLU between its bounds, seen from the centre of the ball."""
    at = network.inputs_of_relus(ball.centre)
    return {k: free(ends, at[k]) for k, ends in bounds.items()}


def _last_pass(network: Network, ball: Ball, y: tf.Tensor) -> tuple[tf.Tensor, Reach]:
    """`c . f` at the centre of the ball, [n, k], and how far it reaches from there."""
    value, traced = _traced(network, ball, y)

    def reach(relus: Mapping[int, Passage], visit: Visit | None = None) -> tf.Tensor:
        found = traced(relus, visit)
        return found.error + support(found.rows, Every(), ball)

    return value, reach


def _traced(
    network: Network, ball: Ball, y: tf.Tensor
) -> tuple[tf.Tensor, Callable[[Mapping[int, Passage], Visit | None], Traced]]:
    """`c . f` at the centre of the ball, [n, k], and the rows' way from there to the input."""
    classes, last = network.structure.output_shape[0], len(network.structure.nodes) - 1
    rows = differences(y, classes, ball.centre.dtype)

    def traced(relus: Mapping[int, Passage], visit: Visit | None) -> Traced:
        return trace(network, relus, last, WholeRows(rows, (classes,)), Every(), visit)

    return tf.linalg.matvec(rows, network(ball.centre)), traced
