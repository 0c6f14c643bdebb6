"""The network and the examples of an evaluation, checked before anything is computed."""

from __future__ import annotations

import keras
import numpy as np

from robustra_tf import data, export, models, published
from robustra_tf.cli import settings
from robustra_tf.intake.subject import take
from robustra_tf.pair import Pair, take_pair
from robustra_tf.storage import fingerprint

from .subject import Examined, Source


def load_network(source: Source) -> keras.Model:
    """The network that a command line names.

    Raises:
      FlagError: it is not there, cannot be read, has weights that are not finite numbers, or
        computes something else than they say.
    """
    with settings.naming(source.flag):
        return _network(source)


def _network(source: Source) -> keras.Model:
    if source.flag == "pair":
        model = Pair(*(export.load(source.place / name) for name in ("f", "g")))
    elif source.weights is None:
        model = export.load(source.place)
    else:
        model = models.build(settings.known("model", source.model), seed=0)
        published.load_mat(model, source.weights, normalised=source.normalised)
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise ValueError(
                f"{source.place}: weight {weight.path} holds values that are not finite"
            )
    if isinstance(model, Pair):
        take_pair(model)
    else:
        take(model)
    return model


def load_examples(examined: Examined, split: str) -> data.Dataset:
    """The examples that a command line names.

    Raises:
      FlagError: they are not there or damaged, or have pixels or labels of another kind.
    """
    with settings.naming("dataset" if examined.data is None else "data"):
        return load_range(examined.origin, split, examined.first, examined.limit)


def load_range(origin: data.Origin, split: str, first: int, limit: int | None) -> data.Dataset:
    """The examples from `first` on, `limit` of them or all; raises as `Origin.load` does."""
    images, labels = origin.load(split, None if limit is None else first + limit)
    return data.Dataset(images[first:], labels[first:])


def split_sha256(origin: data.Origin, split: str) -> str:
    """Hash of a whole split, whichever part of it is evaluated; raises as `Origin.load` does.

    Of the files as they lie, so that no image need be decoded; of the arrays where there are none.
    """
    return origin.sha256(split) or fingerprint.arrays_sha256(origin.load(split))


def check_examples(examples: data.Dataset, model: keras.Model, where: str) -> None:
    """Refuses examples on which an evaluation of `model` would mean nothing.

    Args:
      examples: images [n, h, w, c] and labels [n].
      model: image in, logits [n, classes] out.
      where: begins the text of an error.

    Raises:
      ValueError: no examples, another shape than the model's, pixels outside [0, 1], or labels that
        are not classes.
    """
    images, labels = examples
    one = model.f if isinstance(model, Pair) else model
    shape, classes = tuple(one.input_shape[1:]), one.output_shape[-1]
    if len(images) == 0:
        raise ValueError(f"{where}: expected at least one example, got none")
    if len(labels) != len(images):
        raise ValueError(f"{where}: {len(images)} images, but {len(labels)} labels")
    if images.shape[1:] != shape:
        axis = "; x[..., None] has the axis of channels" * (images.shape[1:] == shape[:-1])
        raise ValueError(
            f"{where}: images of shape {images.shape[1:]}, but {model.name!r} takes {shape}{axis}"
        )
    # Written so that a pixel that is not a number is found too.
    wrong = ~((images >= 0) & (images <= 1)).reshape(len(images), -1).all(axis=1)
    if wrong.any():
        raise ValueError(f"{where}: image {wrong.argmax()} has pixels outside [0, 1]")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        first = wrong.argmax()
        raise ValueError(
            f"{where}: label {labels[first]} of image {first} is not a class from 0 to "
            f"{classes - 1} of {model.name!r}"
        )
