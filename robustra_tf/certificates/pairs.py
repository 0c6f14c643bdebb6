"""Certificates of a pair: the joint bounds of both networks over a set of images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf import counting
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.certificates import pair_files
from robustra_tf.certificates.arguments import check_sound
from robustra_tf.certificates.compiled import joint_bound
from robustra_tf.certificates.pair_certificate import PairCertificate
from robustra_tf.certificates.work import batches
from robustra_tf.cli.progress import follow
from robustra_tf.conditions import Output
from robustra_tf.intake.examples import arrays
from robustra_tf.pair import Pair, Taken, agreed, take_pair
from robustra_tf.property import Property, Query, asked


class PairQuestion(NamedTuple):
    """Images, labels and balls about them, as `certify` takes them."""

    x: Any
    y: Any
    eps: Any
    norm: str
    box: Any


@dataclasses.dataclass(frozen=True)
class How:
    """How a pair is bounded, as `certify` takes it, every option checked.

    Attributes:
      method: `dual`, `interval`, `crown` or `alpha`.
      options: how rows and inner layers are bounded.
      dtype: of the computation.
      sound: whether rounding is subtracted.
      batch_size: images at a time.
      progress: shows a bar.
      save: where a certificate is written to, if anywhere.
    """

    method: str
    options: BoundOptions
    dtype: str
    sound: bool
    batch_size: int
    progress: bool
    save: Path | None = None


def certify_pair(pair: Pair, given: PairQuestion, how: How) -> PairCertificate:
    """The joint bounds of both networks, of every image and target.

    Raises:
      ValueError: a property or outputs in place of images and labels, an argument out of its range
        by name, or a model that computes something else than its layers' weights and settings say.
    """
    if isinstance(given.x, Property) or isinstance(given.y, Output):
        raise ValueError("model must be one network for a property or outputs, got a Pair")
    taken = take_pair(pair)
    if how.sound:
        for part in (taken.f, taken.g):
            inner = how.options.inner
            check_sound(part.model, part.graph, how.method, how.dtype, inner)
    x, y = arrays(given.x, given.y, taken.structure.input_shape)
    query = asked(taken.f, x, y, given.eps, given.norm, given.box, how.dtype)
    own = taken.compare(query.x)
    margins, kept = _bounds(taken, query, how)
    comparable = [each.comparable[:, None] for each in own]
    # Of what cannot be compared with its model nothing is proven.
    f, g = (
        _known(margin, query.classes, where)
        for margin, where in zip(margins[1:], comparable, strict=True)
    )
    joint = _known(margins[0], query.classes, comparable[0] & comparable[1])
    certificate = PairCertificate(
        # Either network excludes a target by itself.
        margin_lower=np.maximum(joint, np.maximum(f, g)),
        f_margin=f,
        g_margin=g,
        labels=query.classes,
        predicted=agreed(own[0].logits, own[1].logits),
        f_predicted=counting.predicted(own[0].logits),
        g_predicted=counting.predicted(own[1].logits),
        eps=query.eps,
        norm=query.norm,
        box=query.numbers,
        method=how.method,
        mode="sound" if how.sound else how.dtype,
    )
    if how.save is not None:
        pair_files.write(how.save, (taken.f.graph, taken.g.graph), certificate, query.x, kept)
    return certificate


def _bounds(taken: Taken, query: Query, how: How) -> tuple[list[np.ndarray], pair_files.Kept]:
    """Lower bounds of the margins of the best mix, of f's and of g's: [n, classes] each.

    And what a file has of them beside, empty where none is written.
    """
    count = len(query.x)
    structures = (taken.f.structure, taken.g.structure)
    asked = structures, how.method, query.numbers, how.options, how.sound
    bound = joint_bound(*asked, keep=how.save is not None)
    kind = tf.as_dtype(how.dtype)
    weights = [part.graph.weights(kind) for part in (taken.f, taken.g)]
    batched = batches(count, how.batch_size)
    if how.progress:
        batched = follow(batched, "certify", count, how.batch_size)
    parts = [[np.zeros((0, *taken.structure.output_shape), how.dtype)] * 3]
    shares, bands = [], []
    for index in batched:
        part = query.take(index)
        eps, labels = tf.constant(part.eps, kind), tf.constant(part.labels)
        found = bound(*weights, tf.constant(part.x), eps, labels)
        parts.append([-upper.numpy() for upper in found[:3]])
        if how.save is not None:
            shares.append(found.share.numpy())
            bands.append(tf.nest.map_structure(lambda end: end.numpy(), found.bands))
    margins = [np.concatenate(each)[:count] for each in zip(*parts, strict=True)]
    return margins, pair_files.Kept.of(shares, bands, count)


def _known(margin: np.ndarray, labels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The margins, -inf where nothing is known of them, and 0 at the labels."""
    known = np.where(where & np.isfinite(margin), margin, margin.dtype.type(-np.inf))
    known[np.arange(len(labels)), labels] = 0
    return known
