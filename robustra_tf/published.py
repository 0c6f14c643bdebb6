"""Published weights: MATLAB files and arrays in the authors' layout, into Keras models."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping

import keras
import numpy as np
import scipy.io
from keras import layers


def normalises(model: keras.Model) -> bool:
    """Whether the model normalises its inputs itself, and so takes pixels where others do not.

    Example:
      >>> rt.published.normalises(model)
      False
    """
    return any(isinstance(layer, layers.Normalization | layers.Rescaling) for layer in model.layers)


def load_mat(
    model: keras.Model, path: str | os.PathLike[str], normalised: bool = False
) -> keras.Model:
    """Read published weights (a MATLAB file of fields `<index>/weight`, `<index>/bias`).

    Args:
      model: the same architecture, as `models.build("mnist_small")`; its weights are replaced.
      path: the file.
      normalised: whether the network in the file works on normalised inputs rather than on pixels.
        Such weights belong behind the model's own normalisation layer; a radius that they were
        trained for, given in normalised units, is that times the standard deviation in pixels.

    Returns:
      `model`.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: where it is not a readable MATLAB file, a field is missing, has a wrong shape or
        values that are not finite, or `normalised` does not agree with the model.

    Example:
      >>> import scipy.io
      >>> arrays = {"0/weight": np.eye(2), "0/bias": np.zeros(2)}
      >>> arrays |= {"2/weight": np.eye(2), "2/bias": np.ones(2)}
      >>> scipy.io.savemat("network.mat", arrays)
      >>> rt.published.load_mat(model, "network.mat").predict(x, verbose=0).round(2).tolist()
      [[1.7999999523162842, 1.2000000476837158]]
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"path: expected a .mat file of weights, found none at {path}")
    _check_normalisation(model, normalised, path)
    declared = _declared(path)
    wanted = [
        field
        for layer, index in _fields(model, declared, "", path)
        for field, variable in _parts(layer, index)
        if _check_declared(declared, field, path, tuple(variable.shape))
    ]
    with _matlab(path):
        arrays = scipy.io.loadmat(path, variable_names=wanted)
    return load_arrays(model, arrays, normalised=normalised, source=path)


# What MATLAB calls arrays of plain numbers; others are structures, objects or code.
_NUMERIC = ("double", "single", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)))


@contextlib.contextmanager
def _matlab(path: str) -> Iterator[None]:
    """Says of whatever a damaged MATLAB file leads to which file it was."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise ValueError(
            f"{path}: expected a MATLAB file (version 7.2 or less): {error}"
        ) from error


def _declared(path: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """The shape and class that a MATLAB file gives each field; no values are read."""
    with _matlab(path):
        listed = scipy.io.whosmat(path)
    names = [name for name, *_ in listed]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: the field {twice[0]!r} is there more than once")
    return {name: (tuple(shape), kind) for name, shape, kind in listed}


def _check_declared(
    declared: Mapping[str, tuple[tuple[int, ...], str]],
    field: str,
    source: str,
    shape: tuple[int, ...],
) -> bool:
    """Refuses a field by what the file says of it; true otherwise."""
    if field not in declared:
        raise ValueError(f"{source}: the field {field!r} is missing")
    found, kind = declared[field]
    if kind not in _NUMERIC:
        raise ValueError(f"{source}: {field!r} is of class {kind!r}, expected an array of numbers")
    return _check_shape(field, source, found, shape)


def _check_shape(field: str, source: str, found: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    # MATLAB has no vectors: a bias comes as one row.
    expected = [shape, (1, *shape)] if len(shape) == 1 else [shape]
    if found not in expected:
        raise ValueError(f"{source}: {field!r} has shape {found}, expected {shape}")
    return True


def load_arrays(
    model: keras.Model,
    arrays: Mapping[str, np.ndarray],
    prefix: str = "",
    normalised: bool = False,
    source: str = "arrays",
) -> keras.Model:
    """Assign weights in the published layout to the model's convolutions and dense layers.

    Fields are taken in the order of the numbers in their names, the model's layers in the order of
    `model.layers`. Convolutions are [kh, kw, in, out], dense layers [in, out], biases [1, out] or
    [out]. The rows of the first dense layer count channel, row, column; Keras flattens row, column,
    channel, so they are permuted.

    Args:
      model: the model; nothing of it changes unless everything fits.
      arrays: `<prefix><index>/weight` and `<prefix><index>/bias` for every layer, `<index>` a
        number, or `<number>/Ws/<number>` in a residual block.
      prefix: what stands before the index.
      normalised: as for `load_mat`.
      source: what error messages call the arrays.

    Returns:
      `model`.

    Raises:
      ValueError: as for `load_mat`.

    Example:
      >>> arrays = {"0/weight": np.eye(2), "0/bias": np.zeros(2)}
      >>> arrays |= {"2/weight": np.eye(2), "2/bias": np.ones(2)}
      >>> print(rt.published.load_arrays(model, arrays)(x).numpy().round(2))
      [[1.8 1.2]]
    """
    _check_normalisation(model, normalised, source)
    indices = dict(_fields(model, arrays, prefix, source))
    values = {}
    flattened = None
    for layer in model.layers:
        if isinstance(layer, layers.Flatten):
            flattened = layer.input.shape[1:]
        if layer in indices:
            kernel, bias = (
                _read(arrays, field, source, tuple(variable.shape))
                for field, variable in _parts(layer, indices[layer])
            )
            if isinstance(layer, layers.Dense) and flattened is not None:
                kernel = _rows_to_channels_last(kernel, flattened)
                flattened = None
            values[layer] = (kernel, bias)
    for layer, (kernel, bias) in values.items():
        layer.kernel.assign(kernel)
        layer.bias.assign(bias)
    return model


def _fields(
    model: keras.Model, names: Iterable[str], prefix: str, source: str
) -> list[tuple[layers.Layer, str]]:
    """Each layer with weights, and the prefix and index of its fields among `names`."""
    indices = _indices(names, prefix)
    weighted = [x for x in model.layers if isinstance(x, layers.Conv2D | layers.Dense)]
    if len(indices) != len(weighted):
        raise ValueError(
            f"{source}: expected fields '{prefix}<index>/weight' and '/bias' for the "
            f"{len(weighted)} layers {[layer.name for layer in weighted]} of {model.name!r}, "
            f"got the indices {indices}"
        )
    return [(layer, prefix + index) for layer, index in zip(weighted, indices, strict=True)]


def _parts(layer: layers.Layer, index: str) -> tuple[tuple[str, keras.Variable], ...]:
    """The fields of a layer, and the variables that they are read into."""
    return ((f"{index}/weight", layer.kernel), (f"{index}/bias", layer.bias))


def _check_normalisation(model: keras.Model, normalised: bool, source: str) -> None:
    if normalises(model) and not normalised:
        raise ValueError(
            f"normalised: got False for {source}, but {model.name!r} normalises its inputs: "
            "weights trained on plain pixels would see other numbers. If the file was"
            " trained on normalised inputs, pass normalised=True"
        )
    if normalised and not normalises(model):
        raise ValueError(
            f"normalised: got True for {source}, but {model.name!r} has no normalisation layer: it "
            "would feed pixels to weights that expect normalised inputs. Begin the model with "
            "Normalization or Rescaling"
        )


def _indices(arrays: Iterable[str], prefix: str) -> list[str]:
    """The layers' indices among the field names, in numerical order."""
    pattern = re.compile(re.escape(prefix) + r"(\d+(?:/Ws/\d+)?)/(?:weight|bias)")
    found = {match[1] for match in map(pattern.fullmatch, arrays) if match}
    return sorted(found, key=lambda index: [int(part) for part in index.split("/Ws/")])


def _read(
    arrays: Mapping[str, np.ndarray], field: str, source: str, shape: tuple[int, ...]
) -> np.ndarray:
    if field not in arrays:
        raise ValueError(f"{source}: the field {field!r} is missing")
    value = np.asarray(arrays[field])
    _check_shape(field, source, value.shape, shape)
    if value.dtype.kind not in "iuf" or not np.all(np.isfinite(value)):
        raise ValueError(f"{source}: {field!r} holds values that are not finite numbers")
    return value.reshape(shape)


def _rows_to_channels_last(kernel: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    """Rows from channel, row, column order into row, column, channel order."""
    height, width, channels = image
    rows = kernel.reshape(channels, height, width, -1)
    return rows.transpose(1, 2, 0, 3).reshape(kernel.shape)
