"""What can be asked of a saved model: its signatures as functions, which run without this package.

`robustra_tf.export` says what they take and give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from robustra_tf import counting, graph
from robustra_tf.bounds.balls import Box, ball, inside
from robustra_tf.bounds.joint import joint_margins
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.intake.subject import Subject
from robustra_tf.pair import Taken
from robustra_tf.storage import description

#: Of the images that a saved model certifies.
BOX: Box = (0.0, 1.0)


class Servable(tf.Module):
    """A model's weights, each under its position, and what can be asked of it as signatures."""

    def __init__(
        self,
        subject: Subject | Taken,
        settings: Mapping[str, description.Setting],
        certifies: bool,
    ):
        super().__init__()
        each = networks(subject)
        self.model_weights = [w.value for one in each for w in one.own.weights]
        shape = subject.structure.input_shape
        image = tf.TensorSpec([None, *shape], tf.float32, name="image")
        eps = tf.TensorSpec([], tf.float32, name="eps")
        both = isinstance(subject, Taken)
        serve: Callable[..., Any]
        certify: Callable[..., Any]
        serve, certify = (_serve_pair, _certify_pair) if both else (_serve, _certify)
        models, graphs = [one.own for one in each], [one.graph for one in each]
        self.serving_default = tf.function(
            lambda image: serve(*models, image), input_signature=[image], autograph=False
        )
        self.about = tf.function(lambda: _about(settings), input_signature=[], autograph=False)
        # Set or not: saving would trace it.
        if certifies:
            self.certify = tf.function(
                lambda image, eps: certify(*graphs, image, eps),
                input_signature=[image, eps],
                autograph=False,
            )

    def functions(self) -> dict[str, tf.types.experimental.GenericFunction]:
        """The signatures by name."""
        names = ("serving_default", "about", "certify")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}


def networks(subject: Subject | Taken) -> tuple[Subject, ...]:
    """The one network, or both of a pair."""
    return (subject.f, subject.g) if isinstance(subject, Taken) else (subject,)


def _serve(model: keras.Model, image: tf.Tensor) -> dict[str, tf.Tensor]:
    """The outputs of the signature `serving_default`."""
    return {"logits": tf.cast(graph.logits(model, image), tf.float32)}


def _serve_pair(f: keras.Model, g: keras.Model, image: tf.Tensor) -> dict[str, tf.Tensor]:
    """As `_serve`, of a pair."""
    both = [tf.cast(graph.logits(model, image), tf.float32) for model in (f, g)]
    return {"logits_f": both[0], "logits_g": both[1], "predicted": _agreed(image, *both)}


def _agreed(image: tf.Tensor, f: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """The class that both logits [n, classes] answer, -1 where there is none."""
    # On some processors a layer fused with its ReLU makes 0 of NaN: such an image has no logits.
    finite = tf.reshape(inside(image, None), (-1, 1))
    first, second = (counting.predicted_tensor(tf.where(finite, each, np.nan)) for each in (f, g))
    return tf.where(tf.equal(first, second), first, counting.NO_CLASS)


def _about(settings: Mapping[str, description.Setting]) -> dict[str, tf.Tensor]:
    """The outputs of the signature `about`."""
    return {
        "norm": tf.constant("linf"),
        "pixels": tf.constant(BOX),
        "trained_eps": tf.constant(settings.get("eps", np.nan), tf.float32),
        "trained_norm": tf.constant(settings.get("norm", "")),
    }


def _certify(network: graph.Graph, image: tf.Tensor, eps: tf.Tensor) -> dict[str, tf.Tensor]:
    """The outputs of the signature `certify`."""
    values, filled = network.network(), _filled(image)
    # On some processors a layer fused with its ReLU makes 0 of NaN: such an image has no logits.
    finite = tf.reshape(inside(filled, None), (-1, 1))
    predicted = counting.predicted_tensor(tf.where(finite, values(filled), np.nan))
    # Of a radius that makes no sense there is no ball.
    upper = margins(values, ball(filled, eps), predicted, BoundOptions("needed")).upper
    rival = _rival(filled, predicted, upper)
    found = {
        "predicted": predicted,
        "margin": _least(rival, predicted),
        "certified": counting.certified_tensor(rival, predicted),
    }
    return {name: value[: tf.shape(image)[0]] for name, value in found.items()}


def _certify_pair(
    f: graph.Graph, g: graph.Graph, image: tf.Tensor, eps: tf.Tensor
) -> dict[str, tf.Tensor]:
    """As `_certify`, of a pair."""
    both, filled = (f.network(), g.network()), _filled(image)
    predicted = _agreed(filled, both[0](filled), both[1](filled))
    options = BoundOptions("needed")
    uppers = joint_margins(*both, ball(filled, eps), predicted, "dual", options)[:3]
    rival, *alone = (_rival(filled, predicted, upper) for upper in uppers)
    first, second = (counting.certified_tensor(each, predicted) for each in alone)
    found = {
        "predicted": predicted,
        "margin": _least(rival, predicted),
        "certified": counting.certified_tensor(rival, predicted),
        "answered": tf.logical_and(first, second),
    }
    return {name: value[: tf.shape(image)[0]] for name, value in found.items()}


def _filled(image: tf.Tensor) -> tf.Tensor:
    """The images, one of zeros in place of none: rows of no image cannot be convolved."""
    empty = tf.cast(tf.shape(image)[0] < 1, tf.int32)
    return tf.pad(image, [[0, empty], *[[0, 0]] * (image.shape.rank - 1)])


def _rival(image: tf.Tensor, predicted: tf.Tensor, upper: tf.Tensor) -> tf.Tensor:
    """Lower bounds of the margins over each target, -inf where nothing is proven."""
    there = tf.logical_and(tf.reshape(inside(image, BOX), (-1,)), predicted >= 0)[:, None]
    # A maximum may pass over NaN: what is no number is told apart before.
    return tf.where(tf.logical_and(there, tf.math.is_finite(upper)), -upper, -np.inf)


def _least(rival: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """The least over the targets other than the class itself, [n]."""
    own = tf.one_hot(predicted, rival.shape[-1], on_value=True, off_value=False)
    # The gradient that bounds have in training is not saved with them, and no other one is right.
    return tf.stop_gradient(tf.reduce_min(tf.where(own, np.inf, rival), axis=-1))
