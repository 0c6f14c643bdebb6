"""A model around a network in a file of Keras's: what makes it anew, and what it knows itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import keras

from robustra_tf.bounds.options import BoundOptions
from robustra_tf.intake.subject import Wrapper
from robustra_tf.objective.batch import LossOptions
from robustra_tf.training.options import StepOptions


class SavedWhole(Wrapper):
    """A wrapper that Keras saves whole: its network by itself, the rest as said here."""

    method: str
    eps: float
    eps_train_ratio: float
    radius: keras.Variable
    #: Gives the reference, which an attribute of its own would have Keras train and average.
    _reference: Callable[[], keras.Model | None]
    _options: StepOptions
    _jit: bool

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes the same model of, but for its weights."""
        reference = self._reference()
        return {
            "model": keras.saving.serialize_keras_object(self.network),
            "method": self.method,
            "eps": self.eps,
            "reference": reference and keras.saving.serialize_keras_object(reference),
            "options": dataclasses.asdict(self._options),
            "eps_train_ratio": self.eps_train_ratio,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> Self:
        """The model of a configuration, as Keras calls it to load one.

        Raises:
          ValueError: a configuration of something else, or settings out of their ranges.
        """
        given = dict(config)
        for name in ("model", "reference"):
            if given.get(name) is not None:
                given[name] = keras.saving.deserialize_keras_object(given[name], custom_objects)
        try:
            parts = dict(given.pop("options"))
            bounds, losses = BoundOptions(**parts.pop("bounds")), LossOptions(**parts.pop("losses"))
            options = StepOptions(bounds=bounds, losses=losses, **parts)
            return cls(options=options, **given)
        except (KeyError, TypeError) as error:
            raise ValueError(f"config: no CertifiedModel's: {error}") from error

    def get_compile_config(self) -> dict[str, Any]:
        """Optimizer, metrics and the rest, as Keras saves them."""
        return super().get_compile_config() | {"jit_compile": self._jit}

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Compiles a model that is loaded."""
        self.compile(**keras.saving.deserialize_keras_object(dict(config)))

    def save_own_variables(self, store: Any) -> None:
        """The radius, and the reference's weights, which are not Keras's to find."""
        store["radius"] = self.radius.numpy()
        for number, weight in enumerate(self._reference_weights):
            store[f"reference_{number}"] = weight.numpy()

    def load_own_variables(self, store: Any) -> None:
        """What `save_own_variables` has put there.

        Raises:
          ValueError: weights of a model with another reference, or with none.
        """
        names = [f"reference_{number}" for number in range(len(self._reference_weights))]
        if {*store.keys()} != {"radius", *names}:
            raise ValueError(
                f"{self.name}: expected a radius and {len(names)} weights of a reference, got "
                f"{len(store.keys())} arrays"
            )
        self.radius.assign(store["radius"])
        for name, weight in zip(names, self._reference_weights, strict=True):
            weight.assign(store[name])

    @property
    def _reference_weights(self) -> list[Any]:
        reference = self._reference()
        return [] if reference is None else reference.weights
