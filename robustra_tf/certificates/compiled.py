"""The bounds behind certificates as compiled functions, each traced once for its options."""

from __future__ import annotations

import functools
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Box
from robustra_tf.bounds.crown import adaptive, crown_margins, optimised_margins
from robustra_tf.bounds.enclosure import enclose
from robustra_tf.bounds.interval import interval_margins
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.sound import outward_ball, sound_interval_margins, sound_margins
from robustra_tf.graph.graph import Network, Structure


class Bounded(NamedTuple):
    """What is bounded of a batch.

    Attributes:
      margin: lower bounds of `f_y - f_t`, [n, classes].
      bands: those that the margins of the dual rest on, of each ReLU as `proofs.BAND` lists them.
    """

    margin: tf.Tensor
    bands: list[tuple[tf.Tensor, ...]]


@functools.lru_cache(maxsize=32)
def margins_bound(structure: Structure, method: str, box: Box | None, options: BoundOptions):
    """(weights, x, y, eps) -> `Bounded`, traced once per batch size and dtype."""

    @tf.function(autograph=False)
    def bound(weights, x, y, eps):
        region = options.ball(x, eps, box)
        network, bands = Network(structure, weights), []
        if method == "interval":
            margin = -interval_margins(network, region, y).upper
        elif method == "dual":
            found = margins(network, region, y, options)
            margin = -found.upper
            for index in structure.relus:
                slope, error, _ = found.enclosure.relaxations[index]
                bands.append((*found.enclosure.bounds[index], slope, 2 * error))
        else:
            bounds = enclose(network, region, options).bounds
            if method == "crown":
                margin = -crown_margins(network, region, y, bounds, adaptive(bounds))
            else:
                margin = -optimised_margins(network, region, y, bounds)
        return Bounded(margin, bands)

    return bound


@functools.lru_cache(maxsize=32)
def sound_bound(structure: Structure, method: str, box: Box | None, options: BoundOptions):
    """As `margins_bound`, with every rounding subtracted."""

    @tf.function(autograph=False)
    def bound(weights, x, y, eps):
        network, region = Network(structure, weights), outward_ball(x, eps, options.norm, box)
        if method == "dual":
            proof = sound_margins(network, region, y, options)
        else:
            proof = sound_interval_margins(network, region, y)
        bands = [tuple(proof.bands[index]) for index in structure.relus]
        return Bounded(proof.lower, bands)

    def on_cpu(*arguments):
        # Elsewhere a library may take convolutions by a transform, which rounds otherwise.
        with tf.device("/CPU:0"):
            return bound(*arguments)

    return on_cpu


@functools.lru_cache(maxsize=32)
def layers_bound(structure: Structure, box: Box | None, options: BoundOptions):
    """(weights, x, eps) -> (lower, upper) of every ReLU's input, in order, as `enclose` does it."""

    @tf.function(autograph=False)
    def bound(weights, x, eps):
        region = options.ball(x, eps, box)
        found = enclose(Network(structure, weights), region, options).bounds
        return [found[i] for i in structure.relus]

    return bound
