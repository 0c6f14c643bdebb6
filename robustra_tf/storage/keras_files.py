"""Keras's own files, `.keras` and `.h5`: read without running anything that they bring along.

A `.keras` file is a zip archive of the layers as JSON and of the weights as HDF5, an `.h5` file
HDF5 with the layers as a text in it. What may be built is decided from the text alone, by the rules
of `description`, and how much memory it takes from symbols, before any weight is made. Importing
this module imports neither Keras nor TensorFlow.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustra_tf.storage import description
from robustra_tf.storage.layers import LAYERS
from robustra_tf.storage.reading import LARGEST_JSON

if TYPE_CHECKING:
    import h5py
    import keras

SUFFIXES = (".keras", ".h5")
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
#: What is said of a model that is neither, by its class.
_INSTEAD = {
    "CertifiedModel": "save its network, by certified.network.save('net.keras')",
    "Pair": "keras.models.load_model reads it once rt.Pair was named; rt.export.save writes one "
    "that is read here",
}
#: What Keras's older files leave out of each object: where its class lives.
_HOMES = {"Sequential": "keras", "Functional": "keras.src.models.functional"}
_HOMES |= dict.fromkeys(LAYERS, "keras.layers")
_VALUE_HOMES = {name: f"keras.{name}s" for name in ("initializer", "regularizer", "constraint")}


def read_architecture(path: str | os.PathLike) -> dict[str, Any]:
    """The Keras configuration in a `.keras` or `.h5` file, of supported layers only.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: another suffix, a damaged file, or something that is not supported; one line.
    """
    path = _checked(Path(path))
    with _damage(path):
        text = _archived(path) if path.suffix == ".keras" else _attached(path)
        architecture = _without_training(json.loads(text))
        if path.suffix == ".h5":
            architecture = _located(architecture)
        kind = architecture.get("class_name") if isinstance(architecture, dict) else None
        if kind not in description.MODELS:
            way = _INSTEAD.get(str(kind), "build it as keras.Model(inputs, outputs) and save that")
            raise ValueError(f"expected a Sequential or functional model, got {kind!r}: {way}")
    description.check_supported(architecture, str(path))
    return architecture


def load(path: str | os.PathLike) -> keras.Model:
    """The model in a `.keras` or `.h5` file; raises as `read_architecture`, or for its weights."""
    import keras
    import numpy as np
    import tensorflow as tf

    path = Path(path)
    architecture = read_architecture(path)
    with _damage(path):
        stored = _stored_bytes(path)
        # In a graph weights are symbols, and take no memory.
        with tf.Graph().as_default():
            wanted = _bytes_of(_built(architecture))
        if wanted > stored:
            raise ValueError(f"its layers have {wanted} bytes of weights, the file {stored}")
        model = _built(architecture)
        if not model.built:
            raise ValueError("the model is not built: begin it with keras.Input(shape)")
        # What the file leaves out stays no number.
        for weight in model.weights:
            if keras.backend.is_float_dtype(weight.dtype):
                weight.assign(np.full(weight.shape, np.nan))
        model.load_weights(str(path))
    finish(model)
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise ValueError(f"{path}: weight {weight.path} is missing, or has values not finite")
    return model


def finish(model: keras.Model) -> None:
    """Lets adapted Normalization layers derive what they multiply by from their new weights."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            finish(layer)
        elif isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.finalize_state()


def _checked(path: Path) -> Path:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a file {' or '.join(SUFFIXES)}, got {path.suffix!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    return path


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Whatever a damaged file leads to, as one line that names it."""
    try:
        yield
    except MemoryError:
        raise
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: damaged, no zip archive: {error}") from error
    except Exception as error:  # Keras and HDF5 raise whatever the damaged part leads to.
        first = " ".join(str(error).strip().partition("\n\n")[0].split())
        raise ValueError(f"{path}: cannot be read: {first or type(error).__name__}") from error


def _archived(path: Path) -> bytes:
    """The text of a `.keras` file."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for name in (_CONFIG, _WEIGHTS):
            if names.count(name) != 1:
                raise ValueError(f"expected one {name}, got {', '.join(names) or 'nothing'}")
            # As Keras writes it: what it unpacks to is as large as it is here.
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"expected {name} as it is, got it compressed")
        if (size := archive.getinfo(_CONFIG).file_size) > LARGEST_JSON:
            raise ValueError(f"expected {_CONFIG} of at most {LARGEST_JSON} bytes, got {size}")
        return archive.read(_CONFIG)


def _attached(path: Path) -> str | bytes:
    """The text of an `.h5` file."""
    import h5py

    with h5py.File(path) as file:
        text = file.attrs.get("model_config")
        if not isinstance(text, str | bytes):
            raise ValueError("it has weights alone: expected a whole model, as model.save writes")
        return text


def _stored_bytes(path: Path) -> int:
    """The bytes of all weights in the file, which holds them itself."""
    import h5py

    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return _declared(file, path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        content = archive.read(_WEIGHTS)
    with h5py.File(io.BytesIO(content)) as file:
        return _declared(file, len(content))


def _declared(file: h5py.File, most: int) -> int:
    """The bytes that the arrays of an HDF5 file declare: plain ones, no more than it has."""
    import h5py

    total, pending, seen = 0, [file["/"]], set()
    while pending:
        group = pending.pop()
        for name in group:
            if not isinstance(link := group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name!r} is a {type(link).__name__} to another place")
            part = group[name]
            if (address := h5py.h5o.get_info(part.id).addr) in seen:
                continue
            seen.add(address)
            if isinstance(part, h5py.Group):
                pending.append(part)
                continue
            if part.dtype.kind not in "fiub" or part.external or part.is_virtual:
                raise ValueError(f"{part.name!r} is no array of numbers that lies in the file")
            total += math.prod(part.shape) * part.dtype.itemsize
    if total > most:
        raise ValueError(f"its weights declare {total} bytes, the file has {most}")
    return total


def _built(architecture: dict[str, Any]) -> keras.Model:
    import copy

    import keras

    # A copy: Keras changes what it reads.
    return keras.saving.deserialize_keras_object(copy.deepcopy(architecture), safe_mode=True)


def _bytes_of(model: keras.Model) -> int:
    import tensorflow as tf

    return sum(math.prod(w.shape) * tf.as_dtype(w.dtype).size for w in model.weights)


def _without_training(item: Any) -> Any:
    """A configuration without the losses and optimizers that models were compiled with."""
    if isinstance(item, dict):
        kept = {name: value for name, value in item.items() if name != "compile_config"}
        return {name: _without_training(value) for name, value in kept.items()}
    return [_without_training(part) for part in item] if isinstance(item, list) else item


def _located(item: Any, name: str = "") -> Any:
    """The configuration of an `.h5` file with what newer ones say: where each class lives.

    Args:
      item: the configuration, or a part of it.
      name: of the setting that the part is.
    """
    if isinstance(item, list):
        return [_located(part, name) for part in item]
    if not isinstance(item, dict):
        return item
    item = {key: _located(part, key) for key, part in item.items()}
    kind, config = item.get("class_name"), item.get("config")
    if not isinstance(kind, str) or not isinstance(config, dict):
        return item
    if kind == "Model":
        item["class_name"] = kind = "Functional"
    home = _HOMES.get(kind) or _VALUE_HOMES.get(name.rpartition("_")[2])
    if home is not None and "module" not in item:
        item |= {"module": home, "registered_name": None}
    if kind in _HOMES:
        item["config"] = _renamed(kind, config)
    return item


def _renamed(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """A layer's settings in today's names."""
    config = dict(config)
    shape = config.pop("batch_input_shape", None)
    if kind == "InputLayer" and shape is not None:
        config["batch_shape"] = shape
    axis = config.get("axis")
    if kind == "BatchNormalization" and isinstance(axis, list) and len(axis) == 1:
        config["axis"] = axis[0]
    return config
