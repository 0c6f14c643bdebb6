"""Certificates of robustness for a model and a set of images."""

from __future__ import annotations

import os
from typing import Any, TypedDict, Unpack, overload

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.bounds.balls import Box
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.certificates.arguments import (
    check_bound,
    check_sound,
    checked_pair_save,
    checked_save,
    default_inner,
)
from robustra_tf.certificates.certificate import Certificate, PropertyCertificate
from robustra_tf.certificates.compiled import layers_bound, margins_bound, sound_bound
from robustra_tf.certificates.pair_certificate import PairCertificate
from robustra_tf.certificates.pairs import How, PairQuestion, certify_pair
from robustra_tf.certificates.proving import prove
from robustra_tf.certificates.saving import write
from robustra_tf.certificates.work import Found, Work, batches
from robustra_tf.conditions import Output
from robustra_tf.graph.graph import Graph
from robustra_tf.graph.ops import Shape
from robustra_tf.intake import checks
from robustra_tf.intake.examples import arrays
from robustra_tf.intake.precision import full_precision
from robustra_tf.intake.subject import take
from robustra_tf.pair import Pair
from robustra_tf.property import Property, Query, asked
from robustra_tf.radii import chosen
from robustra_tf.vocabulary import INNER, NORMS

#: Images, or a data set of images and labels.
Images = np.ndarray | tf.data.Dataset | keras.utils.PyDataset


class CertifyOptions(TypedDict, total=False):
    """What `certify` takes by name alone."""

    norm: str
    box: Box | None
    method: str
    batch_size: int
    dtype: str | None
    rows: str
    inner: str | None
    sound: bool
    save: str | os.PathLike | None
    progress: bool


@overload
def certify(
    model: keras.Model | Graph, x: Property, **options: Unpack[CertifyOptions]
) -> PropertyCertificate: ...
@overload
def certify(
    model: keras.Model | Graph,
    x: np.ndarray,
    y: Output,
    eps: float | np.ndarray,
    **options: Unpack[CertifyOptions],
) -> PropertyCertificate: ...
@overload
def certify(
    model: Pair, x: Images, y: Any = None, eps: Any = None, **options: Unpack[CertifyOptions]
) -> PairCertificate: ...
@overload
def certify(
    model: keras.Model | Graph,
    x: Images,
    y: np.ndarray | None = None,
    eps: float | np.ndarray | None = None,
    **options: Unpack[CertifyOptions],
) -> Certificate: ...
@full_precision()
def certify(  # noqa: PLR0913, the door to all certificates
    model: keras.Model | Pair | Graph,
    x: Images | Property,
    y: np.ndarray | Output | None = None,
    eps: float | np.ndarray | None = None,
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
) -> Certificate | PropertyCertificate | PairCertificate:
    """Bound `min_{x' in B} f_y(x') - f_t(x')` from below for every image and target.

    `B` is the ball of radius `eps` about the image in `norm`, cut to `box` (for `linf`; for `l2`
    and `l1` the whole ball is taken, which contains the cut one). An image is certified when all
    these bounds are positive. Of a property, or of outputs in place of labels, the margins of all
    its conditions are bounded instead (`robustra_tf.conditions`). Of a `Pair` the best mix of the
    margins of both networks is bounded, of images with labels (`PairCertificate`).

    Args:
      model: a Keras model, image to logits, of supported layers; or its graph; or a `Pair`. It is
        run on the images and compared with the graph that bounds are computed of. Of one logit, for
        outputs.
      x: images [n, *shape] in pixels, within `box` where one is given; NumPy, tensors or lists,
        as `y` too; or a `tf.data.Dataset` or `keras.utils.PyDataset` of images and labels, without
        `y`. Or a `Property`, which has all that follows up to `box`.
      y: labels [n], integers; or what must not be reached: `binary`, `below`, ...
      eps: radius in pixels, at least 0; or an array that broadcasts to the images, such as
        [n, 1, 1, 1] for radii by image; for `l2` and `l1` one for each image.
      norm: `linf`, `l2` or `l1`.
      box: (lo, hi), or None for the plain bound of the paper's training.
      method: `dual` (Wong and Kolter 2018, layer by layer); `interval`; `crown`, the best of these
        two and of CROWN's lower slopes (Zhang et al. 2018); `alpha`, the best of these three and of
        slopes optimised for each margin, and, with `inner="alpha"`, for either end of the bounds of
        every neuron that `crown` leaves unstable (Xu et al. 2021).
      batch_size: images at a time; twenty or so keep the rows of small networks near the caches.
      dtype: `float32` (default) or `float64` (default where `sound`), of the whole computation.
      rows: `every` neuron's; `needed`: only those that intervals do not prove stable; `auto`: the
        faster of the two. The margins of `dual` are the same.
      inner: the bounds of inner layers that `dual`, `crown` and `alpha` rest on: by the `dual`
        (default for `dual`), by the `interval`, by the intersection of the two, `mixed`, or by that
        of both and of CROWN's rows for either end, `crown` (default for `crown`) or, with optimised
        slopes, `alpha` (default for `alpha`).
      sound: subtract rounding error: what is certified then holds for the model in real numbers,
        its weights and constants read as they are stored, and for its float32 forward pass, in
        whatever order that sums (`bounds.sound`). For the methods `dual` and `interval`.
      save: a file for `python -m eval.check` to check: of the method `dual`, and of a `Pair` of
        `interval` too, a certificate with every row's bounds, whatever `rows` says, and of a pair
        the best mixes; of `crown` and `alpha` proofs of the images that are certified. A warning
        names those that none was found of.
      progress: shows a bar on the error stream, for long work.

    Returns:
      A `Certificate` of labels, a `PairCertificate` of labels and a pair, a `PropertyCertificate`
      of anything else.

    Raises:
      ValueError: an argument out of its range, by name, or one that does not go with `sound` or
        `save`; a model that computes something else than its layers' weights and settings say.

    Example:
      The least margin of the ball is at its corner (0.7, 0.3):

      >>> print(rt.certify(model, x, y, eps=0.1).worst_margin.round(2))
      [0.4]
      >>> rt.certify(model, x, y, eps=0.4).certified
      array([False])
      >>> rt.certify(model, x, rt.above(0, 0.5), eps=[[0.2, 0.0]]).verified
      array([ True])
    """
    if inner is None:
        inner = default_inner(method)
    dtype = checks.dtype(("float64" if sound else "float32") if dtype is None else dtype)
    check_bound(method, rows, inner)
    batch_size = checks.whole("batch_size", batch_size)
    if isinstance(model, Pair):
        checks.member("norm", norm, NORMS)
        if save is not None:
            save, rows = checked_pair_save(save, method, inner), "every"
        options = BoundOptions(rows, inner=inner, norm=norm)
        how = How(method, options, dtype, sound, batch_size, progress, save)
        return certify_pair(model, PairQuestion(x, y, eps, norm, box), how)
    network = take(model, rival=False)
    if sound:
        check_sound(network.model, network.graph, method, dtype, inner)
    x, y = arrays(x, y, network.structure.input_shape)
    query = asked(network, x, y, eps, norm, box, dtype)
    if save is not None:
        save = checked_save(save, method, inner, len(query.x))
        rows = "every" if method == "dual" else rows
    options = BoundOptions(rows, inner=inner, norm=query.norm)
    bound = sound_bound if sound else margins_bound
    function = bound(network.structure, method, query.numbers, options)
    found = Work(network, query, function, dtype).run(
        batch_size, progress, save is not None and method == "dual"
    )
    certificate = _certificate(query, found, method, "sound" if sound else dtype)
    if save is not None and method == "dual":
        write(save, network.graph, certificate, query, found)
    elif save is not None:
        prove(save, network.graph, query, _proven(certificate), method)
    return certificate


def _proven(certificate: Certificate | PropertyCertificate) -> np.ndarray:
    if isinstance(certificate, Certificate):
        return certificate.certified
    return certificate.verified


def _certificate(
    query: Query, found: Found, method: str, mode: str
) -> Certificate | PropertyCertificate:
    if query.given is not None:
        return PropertyCertificate(found.margin, found.group, found.safe, query.given, method, mode)
    ball = (query.eps, query.norm, query.numbers)
    return Certificate(found.margin, query.classes, found.predicted, *ball, method, mode)


def margin_bounds(
    model: keras.Model | Pair | Graph,
    x: np.ndarray | Property,
    y: np.ndarray | Output | None = None,
    eps: float | np.ndarray | None = None,
    **options,
):
    """`certify(...).margin_lower`: lower bounds of `f_y - f_t`, [n, classes].

    Of a pair those of the best mix; of a property or outputs, lower bounds of the margins of its
    conditions, [n, k].

    Example:
      >>> print(rt.margin_bounds(model, x, y, eps=0.1)[:, 1].round(2))
      [0.4]
    """
    return certify(model, x, y, eps, **options).margin_lower


@full_precision()
def layer_bounds(  # noqa: PLR0913, public
    model: keras.Model | Graph,
    x: np.ndarray,
    eps: float | np.ndarray,
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
      method: `dual` (Wong and Kolter 2018); `interval`; `mixed`, the intersection of the two;
        `crown`, that of both and of CROWN's bounds; `alpha`, that of all and of CROWN's with
        slopes optimised for either end of every neuron's bounds.

    Returns:
      For each ReLU in order, (lower, upper), [n, *shape] each, channels last.

    Raises:
      ValueError: an argument out of its range, by name.

    Example:
      >>> [(lower, upper)] = rt.layer_bounds(model, x, eps=0.1)
      >>> print(lower.round(2), upper.round(2))
      [[0.7 0.1]] [[0.9 0.3]]
    """
    checks.plain("layer_bounds", x)
    network = take(model, rival=False, door="layer_bounds")
    graph = network.graph
    checks.member("method", method, INNER)
    checks.member("norm", norm, NORMS)
    box, dtype = checks.box(box), checks.dtype(dtype)
    batch_size, shape = checks.whole("batch_size", batch_size), graph.structure.input_shape
    x = checks.images(x, shape, box, dtype)
    eps = checks.radius(eps, norm, box, shape, len(x))
    network.compare(x, network.allowed)
    options = BoundOptions("every", inner=method, norm=norm)
    function = layers_bound(graph.structure, box, options)
    weights = graph.weights(tf.as_dtype(dtype))
    parts = [
        function(weights, tf.constant(x[index]), tf.constant(chosen(eps, index), dtype))
        for index in batches(len(x), batch_size)
    ]
    shapes = [graph.structure.nodes[k].op.out_shape for k in graph.structure.relus]

    def joined(k: int, end: int, shape: Shape) -> np.ndarray:
        ends = [part[k][end].numpy() for part in parts] or [np.zeros((0, *shape))]
        return np.concatenate(ends)[: len(x)]

    return [(joined(k, 0, shape), joined(k, 1, shape)) for k, shape in enumerate(shapes)]
