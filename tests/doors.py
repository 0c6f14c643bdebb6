"""Every way into the library, of a model that takes two pixels."""

import keras
import numpy as np
from keras import layers

import robustra_tf as rt
from robustra_tf import export
from tests import nets

X, Y, EPS = np.array([[0.9, 0.5], [0.2, 0.7]], np.float32), np.array([1, 0]), 0.05


def sgd():
    return keras.optimizers.SGD(0.01)


#: Every way in: of a model that takes two pixels, and a folder to write to.
DOORS = {
    "certify": lambda model, _: rt.certify(model, X, Y, EPS, method="interval"),
    "margin_bounds": lambda model, _: rt.margin_bounds(model, X, Y, EPS, method="interval"),
    "layer_bounds": lambda model, _: rt.layer_bounds(model, X, EPS, method="interval"),
    "attack": lambda model, _: rt.attack(model, X, Y, EPS, steps=1, restarts=1),
    "Verifier": lambda model, _: rt.Verifier(model, EPS).verify(X[0], 1),
    "DualObjective": lambda model, _: rt.DualObjective(model),
    "DualObjective's g": lambda model, _: rt.DualObjective(plain(), model),
    "TrainStep": lambda model, _: rt.TrainStep(model, None, sgd(), "ibp"),
    "TrainStep's reference": lambda model, _: rt.TrainStep(plain(), model, sgd()),
    "PureStep": lambda model, _: rt.PureStep(model, None, sgd(), "wong"),
    "CertifiedModel": lambda model, _: rt.CertifiedModel(model),
    "export.save": lambda model, folder: export.save(model, folder / "f", certifies=False),
}


def plain(*more, dtype=None, seed=3):
    """Two pixels, a hidden layer, two logits."""
    parts = [*more, layers.Dense(4, "relu", dtype=dtype), layers.Dense(2, dtype=dtype)]
    return nets.randomise(keras.Sequential([keras.Input((2,)), *parts]), seed)
