"""robustra_tf: provably robust pairs of ReLU networks in TensorFlow/Keras.

    import robustra_tf as rt

    model = rt.models.build("mnist_small")
    certificate = rt.certify(model, x, y, eps=0.1)

The names below load on first use, so that `import robustra_tf` alone costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

#: Public name -> the module that defines it; None where the name is the module itself.
_HOMES = {
    "Attack": "robustra_tf.attacks",
    "Certificate": "robustra_tf.certificates",
    "CertifiedModel": "robustra_tf.certified",
    "DualObjective": "robustra_tf.objective.robustra",
    "EpsilonSchedule": "robustra_tf.certified",
    "Verifier": "robustra_tf.exact",
    "attack": "robustra_tf.attacks",
    "attacks": None,
    "batches": None,
    "certify": "robustra_tf.certificates",
    "data": None,
    "description": None,
    "export": None,
    "layer_bounds": "robustra_tf.certificates",
    "margin_bounds": "robustra_tf.certificates",
    "metrics": None,
    "models": None,
    "published": None,
}
#: Modules that load without TensorFlow, so that a bad flag is refused at once.
_LIGHT = ("batches", "data", "description")

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'robustra_tf' has no attribute {name!r}")
    if name not in _LIGHT:
        importlib.import_module("robustra_tf.backend").require_tensorflow_backend()
    home = _HOMES[name]
    if home is None:
        return importlib.import_module(f"robustra_tf.{name}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
