"""The text that stands beside a saved model: architecture, what it was made for, checksums.

It is one JSON object in the SavedModel's folder for extra files. Reading it builds nothing and
imports neither Keras nor TensorFlow, so that a wrong directory or an unsupported layer is known at
once, before any of the file is acted on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robustra_tf.storage.layers import LAYERS
from robustra_tf.storage.reading import read_json

FILE = Path("assets.extra") / "keras.json"
FORMAT = "robustra_tf"
VERSION = 1
MODELS = ("Sequential", "Functional")
#: Two models as one, and the settings that they are under.
PAIR, PARTS = "Pair", ("f", "g")
_LAYER_MODULES = ("keras", "keras.layers", "keras.src.models.functional")
# What Keras writes for functions: code that would run.
_CODE = ("Lambda", "__lambda__", "function")
# Markers that Keras writes for plain values, and settings that hold numbers only.
_VALUES = ("__keras_tensor__", "__tuple__")
_VALUE_MODULES = ("keras.initializers", "keras.regularizers", "keras.constraints")

Setting = str | int | float | bool | None


def write(
    directory: str | os.PathLike, architecture: dict[str, Any], settings: Mapping[str, Setting]
) -> None:
    """Adds the description to a SavedModel's directory.

    Args:
      directory: of the SavedModel.
      architecture: the Keras configuration, which must pass `check_supported`.
      settings: plain values to keep with the model.

    Example:
      >>> import pathlib
      >>> pathlib.Path("described").mkdir()
      >>> architecture = {"class_name": "Sequential", "module": "keras"}
      >>> rt.description.write("described", architecture, {"eps": 0.1})
      >>> sorted(path.name for path in pathlib.Path("described").rglob("*"))
      ['assets.extra', 'keras.json']
    """
    description = {
        "format": FORMAT,
        "version": VERSION,
        "settings": dict(settings),
        "files": _sums(Path(directory)),
        "architecture": architecture,
    }
    path = Path(directory) / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(description, indent=1), encoding="utf-8")


def read_architecture(directory: str | os.PathLike) -> dict[str, Any]:
    """The Keras configuration of a saved model, of supported layers only.

    Raises:
      FileNotFoundError: there is no such SavedModel, or it has no description.
      NotADirectoryError: it is a file, such as a .keras one.
      ValueError: the description is damaged or holds something that is not supported.

    Example:
      >>> directory = rt.export.save(model, "saved", certifies=False)
      >>> rt.description.read_architecture(directory)["class_name"]
      'Sequential'
    """
    architecture = _read(Path(directory)).get("architecture")
    where = str(Path(directory) / FILE)
    if not isinstance(architecture, dict):
        raise ValueError(f"{where}: expected a model under 'architecture'")
    for part in parts(architecture, where):
        if not isinstance(part, dict) or part.get("class_name") not in MODELS:
            raise ValueError(f"{where}: expected a model under 'architecture'")
        check_supported(part, where)
    return architecture


def parts(architecture: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The models that a configuration is of: both of a pair, else itself.

    Raises:
      ValueError: a pair without two models, or with something beside them; `where` begins the text.

    Example:
      >>> model = {"class_name": "Sequential", "module": "keras"}
      >>> len(rt.description.parts({"class_name": "Pair", "config": {"f": model, "g": model}}, ""))
      2
    """
    if architecture.get("class_name") != PAIR:
        return [architecture]
    config = architecture.get("config")
    if set(architecture) != {"class_name", "config"} or not isinstance(config, dict):
        raise ValueError(f"{where}: expected a pair of class_name and config")
    if set(config) != set(PARTS):
        raise ValueError(f"{where}: expected a pair of {' and '.join(PARTS)}, got {sorted(config)}")
    return [config[name] for name in PARTS]


def read_settings(directory: str | os.PathLike) -> dict[str, Setting]:
    """The plain values that were saved with a model; raises as `read_architecture`.

    Example:
      >>> directory = rt.export.save(model, "saved", {"eps": 0.1}, certifies=False)
      >>> rt.description.read_settings(directory)
      {'eps': 0.1}
    """
    settings = _read(Path(directory)).get("settings")
    if not isinstance(settings, dict):
        raise ValueError(f"{Path(directory) / FILE}: expected an object under 'settings'")
    return settings


def check_whole(directory: str | os.PathLike) -> None:
    """Refuses a saved model of which a file is missing or is not as it was saved.

    Models of earlier versions do not say what their files were.

    Raises:
      ValueError: names the directory and the file.

    Example:
      >>> directory = rt.export.save(model, "saved", certifies=False)
      >>> (directory / "variables" / "variables.index").unlink()
      >>> rt.description.check_whole(directory)
      Traceback (most recent call last):
      ValueError: saved: not whole: variables/variables.index is missing
    """
    directory = Path(directory)
    files = _read(directory).get("files", {})
    if not isinstance(files, dict):
        raise ValueError(f"{directory / FILE}: expected an object under 'files'")
    there = _sums(directory) if files else {}
    for name, sha256 in files.items():
        if there.get(name) != sha256:
            what = "is not as it was saved" if name in there else "is missing"
            raise ValueError(f"{directory}: not whole: {name} {what}")


def _sums(directory: Path) -> dict[str, str]:
    """The SHA-256 of every file of a SavedModel but this text."""
    sums = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if name != FILE and path.is_file():
            with path.open("rb") as file:
                sums[name.as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def check_supported(architecture: dict[str, Any], where: str) -> None:
    """Refuses a Keras configuration that names a class outside the lists above.

    Custom objects and layers that carry code, such as Lambda, are outside: they would run when the
    model is built from the text.

    Raises:
      ValueError: names the first such object and its layer; `where` begins the text.

    Example:
      >>> layer = {"class_name": "Lambda", "module": "keras.layers", "config": {"name": "mine"}}
      >>> rt.description.check_supported(layer, "network")
      Traceback (most recent call last):
      ValueError: network: layer 'mine' of type 'Lambda' is not supported (it carries code...
    """
    for item, name in _objects(architecture):
        kind, module = item["class_name"], item.get("module")
        if item.get("registered_name") not in (None, kind):
            allowed = False
        elif module in _LAYER_MODULES:
            allowed = kind in (*LAYERS, *MODELS, "DTypePolicy")
        else:
            allowed = module in _VALUE_MODULES or (module is None and kind in _VALUES)
        if not allowed:
            code = " (it carries code, which is never run from a file)" if kind in _CODE else ""
            raise ValueError(
                f"{where}: layer {name!r} of type {kind!r} is not supported{code}; supported are "
                f"Keras's {', '.join(LAYERS)}"
            )


def _read(directory: Path) -> dict[str, Any]:
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(
            f"{directory}: expected a SavedModel directory, got a file (.keras and .h5 files are "
            "read by robustra_tf.export.load and --model_file)"
        )
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: there is no such SavedModel directory")
    if not (directory / "saved_model.pb").is_file():
        there = sorted(str(file.parent) for file in directory.glob("*/saved_model.pb"))
        rather = f"; {' and '.join(there)} are" if there else ""
        raise FileNotFoundError(f"{directory}: not a SavedModel (it has no saved_model.pb){rather}")
    path = directory / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory}: the SavedModel has no {FILE}, which robustra_tf.export.save writes: its "
            "layers cannot be read back; save the model as .keras (model.save('net.keras'))"
        )
    description = read_json(path)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError(f"{path}: expected an object with format {FORMAT!r}")
    if description.get("version") != VERSION:
        raise ValueError(f"{path}: expected version {VERSION}, got {description.get('version')!r}")
    return description


def _objects(value: Any) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Every object of a Keras configuration that names a class, whichever way it is nested.

    With the name of the layer that it is, or of the innermost one that it is a part of.
    """
    pending: list[tuple[Any, str | None]] = [(value, None)]
    while pending:
        item, name = pending.pop()
        if isinstance(item, dict):
            if "class_name" in item:
                config = item.get("config")
                own = config.get("name") if isinstance(config, dict) else None
                name = own if isinstance(own, str) else name
                yield item, name
            pending.extend((part, name) for part in item.values())
        elif isinstance(item, list):
            pending.extend((part, name) for part in item)
