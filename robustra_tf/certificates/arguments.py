"""What `certify` and its relatives are called with, checked: one error that names the argument."""

from __future__ import annotations

import keras

from robustra_tf.bounds.options import ROWS
from robustra_tf.certificates import proofs
from robustra_tf.graph.graph import Graph
from robustra_tf.intake import checks
from robustra_tf.vocabulary import BOUNDS, INNER

SOUND_BOUNDS = ("dual", "interval")
#: Bounds of which files are written: certificates of the first, proofs of the others.
SAVED = ("dual", "crown", "alpha")


def default_inner(method: str) -> str:
    """Where bounds of inner layers come from where nobody says it: what margins are bounded by."""
    return method if method in ("crown", "alpha") else "dual"


def check_bound(method: str, rows: str = "every", inner: str = "dual") -> None:
    """Refuses (`ValueError`) the name of a bound that there is none of."""
    checks.member("method", method, BOUNDS)
    checks.member("rows", rows, ROWS)
    checks.member("inner", inner, INNER)


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


def checked_pair_save(path, method: str, inner: str):
    """As `checked_save`, of a pair: intervals have a file too."""
    checks.member("method", method, SOUND_BOUNDS)
    if inner != "dual":
        raise ValueError(f"inner must be dual where save is given, got {inner!r}")
    return proofs.checked_path(path)


def checked_save(path, method: str, inner: str, count: int):
    """The path of a certificate's file, where one can be written of these options."""
    if count == 0:
        raise ValueError("save: expected at least one image to certify, got none")
    checks.member("method", method, SAVED)
    if inner != default_inner(method):
        raise ValueError(
            f"inner must be {default_inner(method)} where save is given, got {inner!r}"
        )
    return proofs.checked_path(path)
