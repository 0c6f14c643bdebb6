"""The bounds behind certificates as compiled functions, each traced once for its options."""

from __future__ import annotations

import functools

import tensorflow as tf

from robustra_tf.bounds.balls import Box, ball
from robustra_tf.bounds.crown import adaptive, crown_margins, optimised_margins
from robustra_tf.bounds.enclosure import enclose
from robustra_tf.bounds.interval import interval_margins, propagate
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.sound import outward_ball, sound_interval_margins, sound_margins
from robustra_tf.graph.graph import Structure


@functools.lru_cache(maxsize=32)
def margins_bound(
    structure: Structure, norm: str, box: Box | None, method: str, rows: str, inner: str
):
    """(weights, x, y, eps) -> (margins, predicted, bands), traced once per batch size and dtype.

    `bands` are those that the margins of the dual rest on, as `proofs.BAND` lists them.
    """

    @tf.function(autograph=False)
    def bound(weights, x, y, eps):
        region = ball(x, eps, norm, box)
        network = (structure, weights, region)
        bands = []
        if method == "interval":
            margin = -interval_margins(*network, y)[1]
        elif method == "dual":
            found = margins(*network, y, rows, inner=inner)
            margin = -found.upper
            for index in structure.relus:
                slope, error, _ = found.enclosure.relaxations[index]
                bands.append((*found.enclosure.bounds[index], slope, 2 * error))
        else:
            bounds = enclose(*network, rows, inner=inner).bounds
            if method == "crown":
                margin = -crown_margins(*network, y, bounds, adaptive(bounds))
            else:
                margin = -optimised_margins(*network, y, bounds)
        return margin, _classes(structure, weights, x), bands

    return bound


@functools.lru_cache(maxsize=32)
def sound_bound(structure: Structure, norm: str, box: Box | None, method: str, rows: str):
    """As `margins_bound`, with every rounding subtracted."""

    @tf.function(autograph=False)
    def bound(weights, x, y, eps):
        network = (structure, weights, outward_ball(x, eps, norm, box), y)
        dual = method == "dual"
        proof = sound_margins(*network, rows) if dual else sound_interval_margins(*network)
        bands = [tuple(proof.bands[index]) for index in structure.relus]
        return proof.lower, _classes(structure, weights, x), bands

    def on_cpu(*arguments):
        # Elsewhere a library may take convolutions by a transform, which rounds otherwise.
        with tf.device("/CPU:0"):
            return bound(*arguments)

    return on_cpu


def _classes(structure: Structure, weights: list[tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    return tf.argmax(structure.forward(weights, x), -1, output_type=tf.int32)


@functools.lru_cache(maxsize=32)
def layers_bound(structure: Structure, norm: str, box: Box | None, method: str):
    """(weights, x, eps) -> (lower, upper) of every ReLU's input, in order."""

    @tf.function(autograph=False)
    def bound(weights, x, eps):
        region = ball(x, eps, norm, box)
        if method == "interval":
            found = propagate(structure, weights, region)[0]
        else:
            found = enclose(structure, weights, region).bounds
        return [found[i] for i in structure.relus]

    return bound
