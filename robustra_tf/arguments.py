"""What `certify` and its relatives are called with, checked: one error that names the argument."""

from __future__ import annotations

import keras
import numpy as np

from robustra_tf import proofs
from robustra_tf.bounds.balls import NORMS, Box
from robustra_tf.bounds.options import ROWS
from robustra_tf.graph.graph import Graph, Structure
from robustra_tf.settings import BOUNDS, INNER

SOUND_BOUNDS = ("dual", "interval")
DTYPES = ("float32", "float64")


def check_options(
    eps: float,
    norm: str,
    method: str,
    dtype: str,
    batch_size: int,
    rows: str = "every",
    inner: str = "dual",
) -> None:
    """Refuses (`ValueError`) an option outside its range."""
    if not (np.isscalar(eps) or np.ndim(eps) == 0) or not 0 <= float(eps) < float("inf"):
        raise ValueError(f"eps must be one finite number of pixels >= 0, got {eps!r}")
    for name, value, allowed in (
        ("norm", norm, NORMS),
        ("method", method, BOUNDS),
        ("dtype", dtype, DTYPES),
        ("rows", rows, ROWS),
        ("inner", inner, INNER),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


def check_sound(model, graph: Graph, method: str, dtype: str, inner: str) -> None:
    """Refuses (`ValueError`) what no bound with all rounding subtracted is there for."""
    for name, value, allowed in (
        ("method", method, SOUND_BOUNDS),
        ("dtype", dtype, ("float64",)),
        ("inner", inner, ("dual",)),
    ):
        if value not in allowed:
            raise ValueError(
                f"{name} must be {' or '.join(allowed)} where sound is true, got {value!r}"
            )
    kinds = {variable.name: variable.dtype.name for variable in graph.variables}
    if isinstance(model, keras.Model):
        layers = model._flatten_layers(include_self=False)
        kinds |= {layer.name: layer.compute_dtype for layer in layers}
    for name, kind in kinds.items():
        if kind != "float32":
            raise ValueError(
                f"sound: expected a model that computes in float32, {name!r} is of {kind}"
            )


def checked_save(path, method: str, inner: str, count: int):
    """The path of a certificate's file, where one can be written of these options."""
    if count == 0:
        raise ValueError("save: expected at least one image to certify, got none")
    for name, value in (("method", method), ("inner", inner)):
        if value != "dual":
            raise ValueError(f"{name} must be dual where save is given, got {value!r}")
    return proofs.checked_path(path)


def checked_images(structure: Structure, x, box: Box | None, dtype: str) -> np.ndarray:
    """Images [n, *shape] of `dtype`: finite, within the box, of the network's input shape."""
    x = np.asarray(x, dtype)
    if x.shape[1:] != structure.input_shape:
        raise ValueError(f"x must have shape [n, *{structure.input_shape}], got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("x must be finite, got NaN or infinity")
    if box is not None:
        low, high = box
        if not low < high:
            raise ValueError(f"box must be (lo, hi) with lo < hi, got {box!r}")
        if x.size and not (x.min() >= low and x.max() <= high):
            raise ValueError(
                f"x must lie in the box [{low:g}, {high:g}], got values in "
                f"[{x.min():g}, {x.max():g}]"
            )
    return x


def checked_labels(structure: Structure, y) -> np.ndarray:
    """Labels [n], int32, each one of the network's classes."""
    y = np.asarray(y)
    classes = structure.output_shape[0]
    if y.ndim != 1 or not (np.issubdtype(y.dtype, np.integer)):
        raise ValueError(f"y must be one axis of integers, got {y.dtype} of shape {y.shape}")
    if y.size and not (y.min() >= 0 and y.max() < classes):
        raise ValueError(f"y must lie in 0..{classes - 1}, got {y.min()}..{y.max()}")
    return y.astype(np.int32)
