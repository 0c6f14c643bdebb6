"""The bounds behind certificates as compiled functions, each traced once for its options."""

from __future__ import annotations

import functools
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Box, boxed
from robustra_tf.bounds.best import best_margins
from robustra_tf.bounds.enclosure import enclose
from robustra_tf.bounds.interval import interval_margins
from robustra_tf.bounds.joint import joint_margins
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.sound import (
    outward_ball,
    outward_boxed,
    outward_margin,
    sound_interval_margins,
    sound_margins,
)
from robustra_tf.bounds.sound_joint import sound_joint_margins
from robustra_tf.graph.graph import Network, Structure


class Inputs(NamedTuple):
    """The inputs of a batch: balls of radius `eps` about `x`, as `balls.ball` takes them.

    Attributes:
      x, eps: the balls.
      intervals: of every pixel, [n, *shape] each; None where there are none, or a box of numbers.
    """

    x: tf.Tensor
    eps: tf.Tensor
    intervals: tuple[tf.Tensor, tf.Tensor] | None


class Bounded(NamedTuple):
    """What is bounded of a batch.

    Attributes:
      margin: lower bounds of `-(c . f + d)`, [n, k].
      bands: those that the margins of the dual rest on, of each ReLU as `proofs.BAND` lists them.
    """

    margin: tf.Tensor
    bands: list[tuple[tf.Tensor, ...]]


@functools.lru_cache(maxsize=32)
def margins_bound(structure: Structure, method: str, box: Box | None, options: BoundOptions):
    """(weights, inputs, c, d) -> `Bounded`, traced once per batch size and dtype.

    Intervals cut `l2` and `l1` balls too; a box of numbers does not.
    """

    @tf.function(autograph=False)
    def bound(weights, inputs, rows, offset):
        region = options.ball(inputs.x, inputs.eps, inputs.intervals or box)
        if inputs.intervals and options.norm != "linf":
            region = boxed(region, inputs.intervals)
        network, bands = Network(structure, weights), []
        if method == "dual":
            found = margins(network, region, rows, options)
            upper = found.upper
            for index in structure.relus:
                slope, error, _ = found.enclosure.relaxations[index]
                bands.append((*found.enclosure.bounds[index], slope, 2 * error))
        elif method == "interval":
            upper = interval_margins(network, region, rows).upper
        else:
            upper = best_margins(network, region, rows, options, optimise=method == "alpha")
        return Bounded(-upper - offset, bands)

    return bound


@functools.lru_cache(maxsize=32)
def sound_bound(structure: Structure, method: str, box: Box | None, options: BoundOptions):
    """As `margins_bound`, with every rounding subtracted."""

    @tf.function(autograph=False)
    def bound(weights, inputs, rows, offset):
        network = Network(structure, weights)
        region = outward_ball(inputs.x, inputs.eps, options.norm, inputs.intervals or box)
        if inputs.intervals and options.norm != "linf":
            region = outward_boxed(region, inputs.intervals)
        if method == "dual":
            proof = sound_margins(network, region, rows, options)
        else:
            proof = sound_interval_margins(network, region, rows)
        bands = [tuple(proof.bands[index]) for index in structure.relus]
        return Bounded(outward_margin(proof.lower, offset), bands)

    def on_cpu(*arguments):
        # Elsewhere a library may take convolutions by a transform, which rounds otherwise.
        with tf.device("/CPU:0"):
            return bound(*arguments)

    return on_cpu


@functools.lru_cache(maxsize=32)
def joint_bound(
    structures: tuple[Structure, Structure],
    method: str,
    box: Box | None,
    options: BoundOptions,
    sound: bool,
    keep: bool,
):
    """(weights of f, of g, x, eps, y) -> `JointMargins`; of a sound one in float64.

    Its `share` and `bands` are there where they are to be kept.
    """

    @tf.function(autograph=False)
    def bound(weights_f, weights_g, x, eps, y):
        f, g = map(Network, structures, (weights_f, weights_g))
        if sound:
            region = outward_ball(x, eps, options.norm, box)
            found = sound_joint_margins(f, g, region, y, method, options)
        else:
            found = joint_margins(f, g, options.ball(x, eps, box), y, method, options)
        return found if keep else found._replace(share=None, bands=None)

    def on_cpu(*arguments):
        with tf.device("/CPU:0"):
            return bound(*arguments)

    return on_cpu if sound else bound


@functools.lru_cache(maxsize=32)
def layers_bound(structure: Structure, box: Box | None, options: BoundOptions):
    """(weights, x, eps) -> (lower, upper) of every ReLU's input, in order, as `enclose` does it."""

    @tf.function(autograph=False)
    def bound(weights, x, eps):
        region = options.ball(x, eps, box)
        found = enclose(Network(structure, weights), region, options).bounds
        return [found[i] for i in structure.relus]

    return bound
