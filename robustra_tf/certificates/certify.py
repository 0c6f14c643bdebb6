"""Certificates of robustness for a model and a set of images."""

from __future__ import annotations

import os

import keras
import numpy as np
import tensorflow as tf

from robustra_tf import counting
from robustra_tf.bounds.balls import Box
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.certificates import proofs
from robustra_tf.certificates.arguments import (
    check_bound,
    check_sound,
    checked_options,
    checked_save,
)
from robustra_tf.certificates.certificate import Certificate
from robustra_tf.certificates.compiled import layers_bound, margins_bound, sound_bound
from robustra_tf.cli.progress import follow
from robustra_tf.graph.graph import Graph
from robustra_tf.intake import checks
from robustra_tf.intake.precision import full_precision
from robustra_tf.intake.subject import take
from robustra_tf.vocabulary import INNER


@full_precision()
def certify(  # noqa: PLR0913, the door to all certificates
    model: keras.Model | Graph,
    x: np.ndarray,
    y: np.ndarray,
    eps: float,
    *,
    norm: str = "linf",
    box: Box | None = (0.0, 1.0),
    method: str = "dual",
    batch_size: int = 20,
    dtype: str | None = None,
    rows: str = "auto",
    inner: str | None = None,
    sound: bool = False,
    save: str | os.PathLike | None = None,
    progress: bool = False,
) -> Certificate:
    """Bound `min_{x' in B} f_y(x') - f_t(x')` from below for every image and target.

    `B` is the ball of radius `eps` about the image in `norm`, cut to `box` (for `linf`; for `l2`
    and `l1` the whole ball is taken, which contains the cut one). An image is certified when all
    these bounds are positive.

    Args:
      model: a Keras model, image to logits, of supported layers; or its graph. It is run on the
        images and compared with the graph that bounds are computed of.
      x: images [n, *shape] in pixels, within `box` where one is given; NumPy, tensors or lists,
        as `y` too.
      y: labels [n], integers.
      eps: radius in pixels, at least 0.
      norm: `linf`, `l2` or `l1`.
      box: (lo, hi), or None for the plain bound of the paper's training.
      method: `dual` (Wong and Kolter 2018, layer by layer); `interval`; `crown`, the margins with
        CROWN's lower slopes (Zhang et al. 2018); `alpha`, the same with slopes optimised.
      batch_size: images at a time; twenty or so keep the rows of small networks near the caches.
      dtype: `float32` (default) or `float64` (default where `sound`), of the whole computation.
      rows: `every` neuron's; `needed`: only those that intervals do not prove stable; `auto`: the
        faster of the two. The margins are the same.
      inner: the bounds of inner layers that `dual`, `crown` and `alpha` rest on: by the `dual`
        (default for `dual`), by the `interval`, or by the intersection of the two, `mixed` (default
        for `crown` and `alpha`).
      sound: subtract rounding error: what is certified then holds for the model in real numbers,
        its weights and constants read as they are stored, and for its float32 forward pass, in
        whatever order that sums (`bounds.sound`). For the methods `dual` and `interval`.
      save: a file to write the certificate to, for `python -m eval.check` to check; of the method
        `dual` with `inner="dual"`. It holds every row's bounds, whatever `rows` says.
      progress: shows a bar on the error stream, for long work.

    Returns:
      A `Certificate`.

    Raises:
      ValueError: an argument out of its range, by name, or one that does not go with `sound` or
        `save`; a model that computes something else than its layers' weights and settings say.

    Example:
      The least margin of the ball is at its corner (0.7, 0.3):

      >>> print(rt.certify(model, x, y, eps=0.1).worst_margin.round(2))
      [0.4]
      >>> rt.certify(model, x, y, eps=0.4).certified
      array([False])
    """
    network = take(model)
    graph, structure = network.graph, network.structure
    if inner is None:
        inner = "dual" if method in ("dual", "interval") else "mixed"
    if dtype is None:
        dtype = "float64" if sound else "float32"
    check_bound(method, rows, inner)
    given = (eps, norm, box, dtype, batch_size)
    eps, box, dtype, batch_size = checked_options(structure, *given)
    if sound:
        check_sound(network.model, graph, method, dtype, inner)
    x = checks.images(x, structure.input_shape, box, dtype)
    y = checks.labels(y, len(x), structure.output_shape[0])
    if save is not None:
        save, rows = checked_save(save, method, inner, len(y)), "every"
    found = network.compare(x, network.allowed)
    predicted = counting.predicted(found.logits)
    bound = sound_bound if sound else margins_bound
    function = bound(structure, method, box, BoundOptions(rows, inner=inner, norm=norm))
    weights = graph.weights(tf.as_dtype(dtype))
    margins, bands = [np.zeros((0, structure.output_shape[0]))], []
    batches = _batches(x, y, batch_size)
    if progress:
        batches = follow(batches, "certify", len(x), batch_size)
    for xs, ys in batches:
        bounded = function(weights, xs, ys, tf.constant(eps, dtype))
        margins.append(bounded.margin.numpy())
        if save is not None:
            bands.append([[end.numpy() for end in band] for band in bounded.bands])
    margin = np.concatenate(margins[len(margins) > 1 :])[: len(x)]
    # Of what cannot be compared with the model nothing is proven.
    margin = np.where(found.comparable[:, None], margin, margin.dtype.type(-np.inf))
    margin[np.arange(len(y)), y] = 0
    mode = "sound" if sound else dtype
    certificate = Certificate(margin, y, predicted, eps, norm, box, method, mode)
    if save is not None:
        _write(save, graph, certificate, x, bands)
    return certificate


def _write(path, graph: Graph, certificate: Certificate, x: np.ndarray, parts: list) -> None:
    """Writes a certificate and what it rests on, the bands of each batch."""
    bands = [
        [np.concatenate(ends)[: len(x)] for ends in zip(*relu, strict=True)]
        for relu in zip(*parts, strict=True)
    ]
    for values in (certificate.margin_lower, *(ends for relu in bands for ends in relu)):
        lost = ~np.isfinite(values.reshape(len(x), -1)).all(1)
        if lost.any():
            raise ValueError(f"save: nothing is proven of image {lost.argmax()}: leave it out")
    claim = {name: getattr(certificate, name) for name in ("eps", "norm", "box", "method", "mode")}
    arrays = {
        "x": x,
        "labels": certificate.labels,
        "predicted": certificate.predicted,
        "margin_lower": certificate.margin_lower,
    }
    proofs.write(path, graph, claim, arrays, bands)


def margin_bounds(model: keras.Model | Graph, x: np.ndarray, y: np.ndarray, eps: float, **options):
    """`certify(...).margin_lower`: lower bounds of `f_y - f_t`, [n, classes].

    Example:
      >>> print(rt.margin_bounds(model, x, y, eps=0.1)[:, 1].round(2))
      [0.4]
    """
    return certify(model, x, y, eps, **options).margin_lower


@full_precision()
def layer_bounds(  # noqa: PLR0913, public
    model: keras.Model | Graph,
    x: np.ndarray,
    eps: float,
    *,
    norm: str = "linf",
    box: Box | None = None,
    method: str = "dual",
    dtype: str = "float32",
    batch_size: int = 50,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Bound every ReLU's pre-activation over the ball about each image.

    Args:
      model, x, eps, norm, box, dtype, batch_size: as `certify` takes them.
      method: `dual` (Wong and Kolter 2018); `interval`; `mixed`, the intersection of the two, which
        `certify(method="crown")` and `"alpha"` rest on. These two bound margins alone.

    Returns:
      For each ReLU in order, (lower, upper), [n, *shape] each, channels last.

    Raises:
      ValueError: an argument out of its range, by name.

    Example:
      >>> [(lower, upper)] = rt.layer_bounds(model, x, eps=0.1)
      >>> print(lower.round(2), upper.round(2))
      [[0.7 0.1]] [[0.9 0.3]]
    """
    network = take(model)
    graph = network.graph
    if method not in INNER:
        raise ValueError(
            f"method must be one of {', '.join(INNER)}, got {method!r}: 'crown' and 'alpha' bound "
            "margins alone, by inner bounds of 'mixed'"
        )
    given = (eps, norm, box, dtype, batch_size)
    eps, box, dtype, batch_size = checked_options(graph.structure, *given)
    x = checks.images(x, graph.structure.input_shape, box, dtype)
    network.compare(x, network.allowed)
    options = BoundOptions("every", inner=method, norm=norm)
    function = layers_bound(graph.structure, box, options)
    weights = graph.weights(tf.as_dtype(dtype))
    parts = [
        function(weights, xs, tf.constant(eps, dtype))
        for xs, _ in _batches(x, np.zeros(len(x), np.int32), batch_size)
    ]
    shapes = [graph.structure.nodes[k].op.out_shape for k in graph.structure.relus]
    return [
        tuple(
            np.concatenate([part[k][end].numpy() for part in parts] or [np.zeros((0, *shape))])[
                : len(x)
            ]
            for end in (0, 1)
        )
        for k, shape in enumerate(shapes)
    ]


def _batches(x: np.ndarray, y: np.ndarray, batch_size: int):
    """Equal batches, the last one filled up by repetition: one trace serves them all."""
    size = min(batch_size, len(x))
    for start in range(0, len(x), max(size, 1)):
        index = np.arange(start, start + size) % len(x)
        yield tf.constant(x[index]), tf.constant(y[index])
