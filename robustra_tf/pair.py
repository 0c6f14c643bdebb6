"""Two networks as one classifier, which answers where both answer the same and else abstains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import keras
import numpy as np
import tensorflow as tf

from robustra_tf import counting
from robustra_tf.graph import build, logits
from robustra_tf.graph.build import head_of
from robustra_tf.graph.graph import Structure
from robustra_tf.intake.agreement import Agreement
from robustra_tf.intake.subject import Couple, Subject, Wrapper, take

#: Images of a forward pass.
_BATCH = 500


@keras.saving.register_keras_serializable(package="robustra_tf")
class Pair(Couple):
    """Two networks as one classifier: the class that both answer, or none.

    The pair answers `t` where `argmax f = argmax g = t`, and abstains elsewhere. A *silent error*
    is an input for which both answer the same wrong class: `certify` proves that a ball has
    none, `attack` looks for one, `Verifier` decides. A call gives the logits of both,
    (float32 [n, classes], [n, classes]), at inference; networks are trained by themselves or by
    `train_pair`.

    `save` keeps both in one `.keras` file for `keras.models.load_model`, which knows this class
    once it was named; `export.save` writes a SavedModel that runs without this package.

    Attributes:
      f, g: the two Keras models.

    Args:
      f, g: built Keras models of supported layers, of the same inputs and the same classes, image
        to logits; or a `CertifiedModel` for its network.
      name: of the model.

    Raises:
      TypeError: something else than Keras models.
      UnsupportedLayerError: a layer that is no affine map or ReLU, by name.
      ValueError: models that are not built, end in a softmax or sigmoid, have one logit, share
        weights, or differ in their inputs or classes.

    Example:
      >>> pair = rt.Pair(f, g)
      >>> pair.predict_classes([[0.8, 0.2]])
      array([0])
      >>> print(rt.certify(pair, x, y, eps=0.1).summary())
      1 images, linf balls of radius 0.1 in pixels cut to [0, 1], dual bound of a pair, float32
        1 of 1 answered rightly; clean error 0.00%, clean abstention 0.00%
        1 of 1 certified (100.00%): no input of the ball makes both networks answer one wrong class
          silent error at most 0.00%
        1 of 1 certified to be answered (100.00%): both networks answer the label on the whole ball
          forced abstention at most 0.00%
        lower bounds of the margins: least 0.4, median 0.4
    """

    def __init__(self, f: keras.Model, g: keras.Model, name: str | None = None):
        super().__init__(name=name)
        self.f, self.g = _network(f, "f"), _network(g, "g")
        found = [(s.input_shape, s.output_shape) for s in map(_structure, (self.f, self.g))]
        if found[0] != found[1]:
            raise ValueError(f"f and g must map the same inputs to the same classes, got {found}")
        if {id(weight) for weight in self.f.weights} & {id(weight) for weight in self.g.weights}:
            raise ValueError("f and g must be two networks, got two that share weights")
        if found[0][1] == (1,):
            raise ValueError("f and g must have at least two logits each, got one")
        self.built = True

    def call(self, x: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """The logits of f and of g at inference, [n, classes] each."""
        del training
        return logits(self.f, x), logits(self.g, x)

    def predict_classes(self, x: Any) -> np.ndarray:
        """The class that both networks answer, or -1 where the pair abstains: integers [n].

        It abstains too where a logit is not a finite number.

        Args:
          x: images [n, *shape].
        """
        x = np.asarray(x, np.float32)
        parts = [self(tf.constant(x[at : at + _BATCH])) for at in range(0, len(x), _BATCH)]
        found = [agreed(*map(np.asarray, both)) for both in parts]
        # On some processors a layer fused with its ReLU makes 0 of NaN.
        finite = np.isfinite(x).all(tuple(range(1, x.ndim)))
        return np.where(finite, np.concatenate([np.zeros(0, int), *found]), counting.NO_CLASS)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes the same pair of, but for its weights."""
        parts = {"f": self.f, "g": self.g}
        config = {key: keras.saving.serialize_keras_object(part) for key, part in parts.items()}
        return config | {"name": self.name}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> Self:
        """The pair of a configuration, as Keras calls it to load one.

        Raises:
          ValueError: a configuration of something else.
        """
        given = dict(config)
        if not {"f", "g"} <= set(given) <= {"f", "g", "name"}:
            raise ValueError(f"config: no Pair's: it has {', '.join(sorted(given))}")
        for key in ("f", "g"):
            given[key] = keras.saving.deserialize_keras_object(given[key], custom_objects)
        return cls(**given)

    def get_compile_config(self) -> None:
        """Nothing: a pair is not trained by `fit`."""


def agreed(f: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The class that both logits [n, classes] answer, -1 where there is none: integers [n]."""
    first, second = counting.predicted(f), counting.predicted(g)
    return np.where(first == second, first, counting.NO_CLASS)


def merged(pair: Pair) -> keras.Model:
    """One Keras model over the layers of both networks: image to [n, 2 classes], f's logits first.

    Args:
      pair: its networks keep their weights: they are the model's own.
    """
    return _joined(pair, keras.layers.Concatenate(name="both"), "both_networks")


def averaged(pair: Pair) -> keras.Model:
    """One Keras model over the layers of both networks: the mean of their logits, [n, classes].

    Args:
      pair: as `merged` takes it.
    """
    return _joined(pair, keras.layers.Average(name="average"), "averaged_logits")


def _joined(pair: Pair, end: keras.layers.Layer, name: str) -> keras.Model:
    image = keras.Input(_structure(pair.f).input_shape, name="image")
    # Of names of their own: two networks may have the same one.
    parts = {"f": pair.f, "g": pair.g}
    named = [keras.Model(part.inputs[0], part.outputs[0], name=key) for key, part in parts.items()]
    return keras.Model(image, end([part(image) for part in named]), name=name)


class Taken(NamedTuple):
    """A pair that was taken in: both networks, each compared with its graph.

    Attributes:
      pair: the Keras model.
      f, g: its networks.
    """

    pair: Pair
    f: Subject
    g: Subject

    @property
    def structure(self) -> Structure:
        """The structure of f, of the inputs and the outputs of both."""
        return self.f.structure

    def check_rival(self) -> None:
        """Nothing: a pair has rivals."""

    def compare(self, x: np.ndarray) -> tuple[Agreement, Agreement]:
        """The logits of images of both, after comparing models and graphs on them.

        Raises:
          ValueError: as `Subject.compare`.
        """
        return self.f.compare(x, self.f.allowed), self.g.compare(x, self.g.allowed)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """The logits of both [n, 2 classes], f's first; differentiable."""
        return tf.concat([self.f(x), self.g(x)], -1)

    def bent(self, x: tf.Tensor, relu: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """As a call, with another function in the place of every ReLU."""
        return tf.concat([self.f.bent(x, relu), self.g.bent(x, relu)], -1)


def take_pair(pair: Pair) -> Taken:
    """Takes both networks in, as `take` does.

    Raises:
      ValueError: a model that computes something else than its layers' weights and settings say.
    """
    return Taken(pair, take(pair.f, "f"), take(pair.g, "g"))


def _network(model: Any, name: str) -> keras.Model:
    while getattr(type(model), "call", None) is Wrapper.call:
        model = model.network
    if not isinstance(model, keras.Model):
        raise TypeError(f"{name}: expected a keras.Model, got {type(model).__name__}")
    if isinstance(model, Couple):
        raise ValueError(f"{name} must be one network, got a Pair")
    if (end := head_of(model)) is not None:
        raise ValueError(
            f"{name}: expected logits, {model.name!r} ends in a {end.function.__name__} (layer "
            f"{end.layer.name!r}): build it without"
        )
    return model


def _structure(model: keras.Model) -> Structure:
    return build(model).structure
