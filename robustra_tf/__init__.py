"""robustra_tf: provably robust pairs of ReLU networks in TensorFlow/Keras.

    import robustra_tf as rt

    model = rt.models.build("mnist_small")
    certificate = rt.certify(model, x, y, eps=0.1)

The names below load on first use, so that `import robustra_tf` alone costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names, for type checkers and editors
    from robustra_tf import attacks, batches, data, export, metrics, models, onnx, published
    from robustra_tf.attacks import Attack, attack
    from robustra_tf.bounds.options import BoundOptions
    from robustra_tf.certificates.certificate import Certificate, PropertyCertificate
    from robustra_tf.certificates.certify import certify, layer_bounds, margin_bounds
    from robustra_tf.certificates.pair_certificate import PairCertificate
    from robustra_tf.certificates.radii import Radii
    from robustra_tf.certificates.radius import certified_radius
    from robustra_tf.conditions import Output
    from robustra_tf.exact import Verifier
    from robustra_tf.objective.batch import LossOptions
    from robustra_tf.objective.layer import DualObjective
    from robustra_tf.outputs import above, below, binary, classified, targeted, unreachable
    from robustra_tf.pair import Pair
    from robustra_tf.property import Property
    from robustra_tf.storage import description
    from robustra_tf.training.epsilon_schedule import EpsilonSchedule
    from robustra_tf.training.keras_fit import CertifiedModel
    from robustra_tf.training.options import StepOptions
    from robustra_tf.training.plan import TrainingPlan
    from robustra_tf.training.pure_step import PureStep
    from robustra_tf.training.radam import RAdam
    from robustra_tf.training.run import train, train_pair
    from robustra_tf.training.step import TrainStep

__version__ = "0.2.0"

#: Public name -> the module that defines it, or the package whose module it is; None where that is
#: `robustra_tf` itself.
_HOMES = {
    "Attack": "robustra_tf.attacks",
    "BoundOptions": "robustra_tf.bounds.options",
    "Certificate": "robustra_tf.certificates.certificate",
    "CertifiedModel": "robustra_tf.training.keras_fit",
    "DualObjective": "robustra_tf.objective.layer",
    "EpsilonSchedule": "robustra_tf.training.epsilon_schedule",
    "LossOptions": "robustra_tf.objective.batch",
    "Output": "robustra_tf.conditions",
    "Pair": "robustra_tf.pair",
    "PairCertificate": "robustra_tf.certificates.pair_certificate",
    "Property": "robustra_tf.property",
    "PropertyCertificate": "robustra_tf.certificates.certificate",
    "PureStep": "robustra_tf.training.pure_step",
    "RAdam": "robustra_tf.training.radam",
    "Radii": "robustra_tf.certificates.radii",
    "StepOptions": "robustra_tf.training.options",
    "TrainStep": "robustra_tf.training.step",
    "TrainingPlan": "robustra_tf.training.plan",
    "Verifier": "robustra_tf.exact",
    "above": "robustra_tf.outputs",
    "attack": "robustra_tf.attacks",
    "attacks": None,
    "batches": None,
    "below": "robustra_tf.outputs",
    "binary": "robustra_tf.outputs",
    "certified_radius": "robustra_tf.certificates.radius",
    "certify": "robustra_tf.certificates.certify",
    "classified": "robustra_tf.outputs",
    "data": None,
    "description": "robustra_tf.storage",
    "export": None,
    "layer_bounds": "robustra_tf.certificates.certify",
    "margin_bounds": "robustra_tf.certificates.certify",
    "metrics": None,
    "models": None,
    "onnx": None,
    "published": None,
    "targeted": "robustra_tf.outputs",
    "train": "robustra_tf.training.run",
    "train_pair": "robustra_tf.training.run",
    "unreachable": "robustra_tf.outputs",
}
#: Modules that load without TensorFlow, so that a bad flag is refused at once.
_LIGHT = ("batches", "data", "description")

# Written out, for type checkers do not compute it.
__all__ = [
    "Attack",
    "BoundOptions",
    "Certificate",
    "CertifiedModel",
    "DualObjective",
    "EpsilonSchedule",
    "LossOptions",
    "Output",
    "Pair",
    "PairCertificate",
    "Property",
    "PropertyCertificate",
    "PureStep",
    "RAdam",
    "Radii",
    "StepOptions",
    "TrainStep",
    "TrainingPlan",
    "Verifier",
    "above",
    "attack",
    "attacks",
    "batches",
    "below",
    "binary",
    "certified_radius",
    "certify",
    "classified",
    "data",
    "description",
    "export",
    "layer_bounds",
    "margin_bounds",
    "metrics",
    "models",
    "onnx",
    "published",
    "targeted",
    "train",
    "train_pair",
    "unreachable",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'robustra_tf' has no attribute {name!r}")
    if name not in _LIGHT:
        importlib.import_module("robustra_tf.backend").require_tensorflow_backend()
    home = importlib.import_module(_HOMES[name] or "robustra_tf")
    if _HOMES[name] is None or not hasattr(home, name):
        return importlib.import_module(f"{home.__name__}.{name}")
    return getattr(home, name)


def __dir__() -> list[str]:
    return __all__
