"""Networks that are hard to encode: skips, ReLUs in odd places, shared layers, dead units."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L  # noqa: N812

from robustra_tf.exact import probe
from robustra_tf.exact.matrices import affine_maps
from robustra_tf.exact.probe import probed
from robustra_tf.exact.substitution import restrict
from robustra_tf.exact.task import Inputs, Network
from robustra_tf.exact.tighten import enclosed
from robustra_tf.graph import build
from tests import nets, oracle_nets, oracles

IMAGE = np.array([0.1, -0.2], np.float32)
EPS = 0.4


def dense(units, relu=False):
    return L.Dense(units, activation="relu" if relu else None)


def skip_behind_relu(x):
    h = dense(4, relu=True)(x)
    return dense(3)(L.Add()([dense(4)(h), h]))


def relu_on_relu(x):
    return dense(3)(L.ReLU()(dense(5, relu=True)(x)))


def relu_behind_reshaped_relu(x):
    h = L.Reshape((2, 2))(dense(4, relu=True)(x))
    return dense(3)(L.Flatten()(L.ReLU()(h)))


def relu_at_the_end(x):
    return dense(3, relu=True)(dense(4, relu=True)(x))


def skip_at_the_end(x):
    h = dense(3, relu=True)(x)
    return L.ReLU()(L.Add()([dense(3)(h), h]))


def itself_twice(x):
    h = dense(4, relu=True)(x)
    return dense(3)(L.Add()([h, h, dense(4)(h)]))


def skip_to_a_relu(x):
    h = L.Add()([dense(4)(x), dense(4, relu=True)(x)])
    return dense(3)(L.Add()([L.ReLU()(h), h]))


def unequal_depth(x):
    h = dense(4, relu=True)(x)
    far = dense(4, relu=True)(dense(4, relu=True)(h))
    return dense(3)(L.ReLU()(L.Add()([far, dense(4)(h), h])))


def shared_layers(x):
    first, again = dense(4, relu=True), dense(4, relu=True)
    h = first(x)
    return dense(3)(L.Add()([again(again(h)), again(h), h]))


def shared_block(x):
    inputs = keras.Input((4,))
    block = keras.Model(inputs, L.Add()([dense(4, relu=True)(inputs), inputs]))
    return dense(3)(block(block(dense(4, relu=True)(x))))


def skip_of_the_input(x):
    return dense(3)(L.Add()([dense(2, relu=True)(dense(3, relu=True)(x)), x]))


KINDS = {
    kind.__name__: kind
    for kind in (
        skip_behind_relu,
        relu_on_relu,
        relu_behind_reshaped_relu,
        relu_at_the_end,
        skip_at_the_end,
        itself_twice,
        skip_to_a_relu,
        unequal_depth,
        shared_layers,
        shared_block,
        skip_of_the_input,
    )
}
#: Of the first layer's neurons: some dead, some always active, all dead, the layer constant.
UNITS = {
    "as drawn": lambda kernel, bias: (kernel, bias),
    "one dead": lambda kernel, bias: (kernel, bias - np.array([9.0, 0, 0, 0, 0])[: len(bias)]),
    "first and last": lambda kernel, bias: (
        kernel,
        bias + 9.0 * np.array([-1.0] + [0.0] * (len(bias) - 2) + [1.0]),
    ),
    "all dead": lambda kernel, bias: (kernel, bias - 9.0),
    "constant": lambda kernel, bias: (0 * kernel, bias),
}


def network(kind, units, seed=0):
    inputs = keras.Input((2,))
    model = nets.randomise(keras.Model(inputs, KINDS[kind](inputs)), seed)
    first = next(layer for layer in model.layers if isinstance(layer, L.Dense))
    first.set_weights(UNITS[units](*first.get_weights()))
    return model


class Case:
    """A network on a ball: its matrices and its restriction."""

    def __init__(self, model, norm="linf", eps=EPS):
        graph = build(model)
        weights = graph.weights(tf.float64)
        self.net = oracle_nets.of_graph(graph.structure, weights)
        self.maps = affine_maps(graph)
        self.inputs = Inputs(eps, norm, None)
        self.network = Network(model, graph.structure, self.maps, weights)
        self.x = IMAGE.astype(np.float64)
        self.low, self.high = self.inputs.intervals(self.x)
        rows = oracles.target_rows(0, *graph.structure.output_shape)
        bounds = enclosed(graph.structure, weights, self.x, rows, *self.inputs).bounds
        self.restriction = restrict(graph.structure, self.maps, self.low, self.high, bounds)
        self.probe = probed(self.network, self.inputs, IMAGE, probe.MANY)
