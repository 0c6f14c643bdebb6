"""The networks that a run begins with: of an architecture by name, or of a Keras model's file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from robustra_tf import export, models
from robustra_tf.cli import settings
from robustra_tf.intake.subject import take
from robustra_tf.storage import keras_files

from .config import Config


def make(config: Config, name: str, seed: int) -> keras.Model:
    """The network `name` as it begins; weights that are drawn anew follow from `seed`."""
    if config.model_file is None:
        name = settings.known("model", config.model)
        shape, width = config.info().shape, config.width
        return models.build(name, seed, config.init, config.batch_norm, shape=shape, width=width)
    model = read(config)
    return model if config.from_file(name) else drawn_anew(model, seed)


def read(config: Config) -> keras.Model:
    """The model in `config.model_file`.

    Raises:
      FlagError: it cannot be read, is not supported, or is for other images or fewer classes.
    """
    info = config.info()
    with settings.naming("model_file"):
        model = export.load(Path(settings.known("model_file", config.model_file)).expanduser())
        structure = take(model).structure
        if structure.input_shape != info.shape:
            raise ValueError(
                f"{config.model_file}: it takes {structure.input_shape}, but the images of "
                f"{config.dataset} are {info.shape}"
            )
        (logits,) = structure.output_shape
        if logits < info.classes:
            raise ValueError(
                f"{config.model_file}: it has {logits} logits, but {config.dataset} "
                f"{info.classes} classes"
            )
    return model


def drawn_anew(model: keras.Model, seed: int) -> keras.Model:
    """The same layers with new weights, as their own initialisers draw them.

    Layers that are not trained, and what `Normalization` has learnt of the data, stay as they are.
    """
    architecture = keras.saving.serialize_keras_object(model)
    generator = np.random.default_rng(seed)
    for settings_of in _initializers(architecture):
        settings_of["seed"] = int(generator.integers(2**31))
    fresh = keras.saving.deserialize_keras_object(architecture, safe_mode=True)
    pairs = zip(model._flatten_layers(), fresh._flatten_layers(), strict=True)
    for old, new in pairs:
        if isinstance(old, keras.layers.Normalization) or not old.trainable:
            new.set_weights(old.get_weights())
    keras_files.finish(fresh)
    return fresh


def origins(config: Config) -> list[str]:
    """Where the weights of each network come from, in words; nothing for architectures by name."""
    if config.model_file is None:
        return []
    texts = {True: f"the weights in {Path(config.model_file).name}", False: "weights drawn anew"}
    return [f"{name} starts from {texts[config.from_file(name)]}" for name in config.networks]


def _initializers(item: Any) -> Iterator[dict[str, Any]]:
    """The settings of all random initialisers in a configuration."""
    if isinstance(item, list | tuple):
        for part in item:
            yield from _initializers(part)
    elif isinstance(item, dict):
        own = item.get("config") or {}
        if item.get("module") == "keras.initializers" and "seed" in own:
            yield own
        else:
            yield from _initializers(list(item.values()))
