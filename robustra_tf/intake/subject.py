"""The one way in: whatever is certified, attacked, verified, trained or saved is taken in here.

A Keras model becomes a graph, and the two are compared: on random points when it is taken in, and
on the images of every call that gives verdicts (`agreement`). What they are classified as is what
the model's own layers say as they run.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.graph.activations import LARGEST
from robustra_tf.graph.build import Call, head_of, logits, read
from robustra_tf.graph.graph import Graph, Structure
from robustra_tf.graph.ops import Scale
from robustra_tf.intake.agreement import Agreement, Tolerances, compare
from robustra_tf.intake.precision import full_precision

#: Random points: so many among pixels in [0, 1], and so many far beyond at each scale.
_INSIDE, _BEYOND, _SCALES = 3, 1, (3.0, 300.0)


class Wrapper(keras.Model):
    """A model that computes what its `network` computes, and adds ways of training it."""

    network: keras.Model

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The network's logits, [n, classes]."""
        return self.network(x, training=training)


class Couple(keras.Model):
    """A model of two networks, which few doors take."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network that was taken in.

    Attributes:
      model: the Keras model; None where a graph was given, which is then the network itself.
      graph: its graph.
      calls: of its layers, as `graph.build.read` lists them.
      allowed: its tolerances for the weights as they were when it was taken in.
      what: what errors call it.
    """

    model: keras.Model | None
    graph: Graph
    calls: tuple[Call, ...] = ()
    allowed: Tolerances | None = None
    what: str = "model"

    @property
    def structure(self) -> Structure:
        """The graph's."""
        return self.graph.structure

    @property
    def own(self) -> keras.Model:
        """The Keras model; a `TypeError` of a graph, which has none."""
        if self.model is None:
            raise TypeError(f"{self.what}: expected a Keras model, got its graph alone")
        return self.model

    def check_rival(self) -> None:
        """Refuses (`ValueError`) a network of one logit: no label has a rival there."""
        self.structure.check_rival(self.what if self.model is None else self.model.name)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """The logits [n, classes] at inference, of images [n, *shape]; differentiable."""
        return self.graph(x) if self.model is None else logits(self.model, x)

    def bent(self, x: tf.Tensor, relu: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """The graph's logits with another function in the place of every ReLU."""
        weights = self.graph.weights(x.dtype)
        return self.structure.values(weights, x, relu)[-1]

    def compare(self, x: np.ndarray, allowed: Tolerances | None = None) -> Agreement:
        """The logits of images, after comparing model and graph on them.

        Args:
          x: images [n, *shape].
          allowed: the attribute, where no weight has changed since; None where some may have.

        Raises:
          ValueError: the two compute different things; names the first layer that does.
        """
        with full_precision():
            if self.model is not None:
                return compare(self.model, self.graph, self.calls, x, allowed, self.what)
            found = self.graph(tf.constant(x)).numpy()
        return Agreement(found, np.ones(len(x), bool))


def _unwrapped(model: keras.Model) -> keras.Model:
    """The network of a wrapper, however often it is wrapped."""
    # Whose own `call` is another may compute something else.
    while getattr(type(model), "call", None) is Wrapper.call:
        model = model.network
    return model


def take(
    model: keras.Model | Graph, what: str = "model", rival: bool = True, door: str = "this"
) -> Subject:
    """Takes a network in, and compares it with its graph on random points.

    Args:
      model: a built Sequential or functional model of supported layers, image to logits, in float32
        or float64; a `CertifiedModel`, for its network; or a graph.
      what: what errors call it.
      rival: whether a network of one logit is refused, as where labels are meant.
      door: what errors call the one who asks.

    Raises:
      TypeError: something else.
      UnsupportedLayerError: a layer that is no affine map or ReLU, by name.
      ValueError: a pair; a model that is not built, takes other inputs than floating-point numbers,
        has fewer than two logits, or computes something else than its layers' weights and settings
        say.
    """
    if isinstance(model, Couple):
        raise ValueError(f"{what} must be one network for {door}, got a Pair: give its f or its g")
    if isinstance(model, Graph):
        _check_slopes(model, what)
        subject = Subject(None, model, what=what)
        if rival:
            subject.check_rival()
        return subject
    own = _unwrapped(model)
    graph, calls = read(own)
    _check_slopes(graph, what)
    with tf.init_scope():
        subject = Subject(own, graph, calls, Tolerances(graph), what)
        if rival:
            subject.check_rival()
        points = _points(subject.structure.input_shape)
        try:
            found = subject.compare(points, subject.allowed)
        except tf.errors.OpError as error:
            reason = error.message.strip().partition("\n")[0]
            raise ValueError(f"{what}: {own.name!r} cannot be run here: {reason}") from error
        whole = subject(tf.constant(points)).numpy()[found.comparable]
    # The same operations in the same order: nothing may come between the model and its layers.
    apart = np.abs(whole - found.logits[found.comparable])
    if not (apart <= 1e-3 * np.abs(whole).max(initial=0.0)).all():
        raise ValueError(f"{what}: {own.name!r} gives other logits than its layers one by one")
    _check_head(own, points[found.comparable], whole, what)
    return subject


def _check_slopes(graph: Graph, what: str) -> None:
    """Refuses slopes that are weights and so large that `slope z + (1 - slope) z` loses `z`."""
    for node in graph.structure.nodes:
        if isinstance(node.op, Scale) and node.op.kind == "slope":
            with tf.init_scope():
                found = float(tf.reduce_max(tf.abs(graph.variables[node.weights[0]])))
            if not found <= LARGEST:
                raise ValueError(
                    f"{what}: layer {node.name!r} must have slopes of at most {LARGEST:g} in size, "
                    f"got {found:g}"
                )


def _check_head(model: keras.Model, points: np.ndarray, logits: np.ndarray, what: str) -> None:
    """Says that a softmax or sigmoid at the end is left out, and that nothing else is."""
    end = head_of(model)
    if end is None:
        return
    expected = np.asarray(end.function(tf.constant(logits)))
    given = np.asarray(model(points, training=False)) if len(points) else expected
    if not (np.abs(given - expected) <= 1e-3).all():
        raise ValueError(
            f"{what}: {model.name!r} gives something else than the {end.function.__name__} "
            "of its logits"
        )
    warnings.warn(
        f"{what}: the {end.function.__name__} at the end of {model.name!r} (layer "
        f"{end.layer.name!r}) is taken off: margins, bounds, attacks and losses are of the logits "
        "before it",
        stacklevel=3,
    )


@functools.lru_cache(maxsize=16)
def _points(shape: tuple[int, ...]) -> np.ndarray:
    """Random inputs [n, *shape], float32: pixels, and numbers that clipping would change."""
    rng = np.random.default_rng(0)
    parts = [rng.uniform(size=(_INSIDE, *shape))]
    parts += [rng.normal(size=(_BEYOND, *shape)) * scale for scale in _SCALES]
    return np.concatenate(parts).astype(np.float32)
