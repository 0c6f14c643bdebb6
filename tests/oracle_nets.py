"""Networks as matrices for the oracles: random, the published, and those of Keras models."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
import tensorflow as tf

from robustra_tf.graph import build, ops
from tests.oracles import Net, convolution, flattened

MNIST_WEIGHTS = "weights/robustra_mnist_small_eps0.1.mat"
CIFAR10_WEIGHTS = "weights/robustra_cifar10_small_eps0.0347_normalised.mat"
CIFAR10_MEAN, CIFAR10_STD = np.array([0.485, 0.456, 0.406]), 0.225


def random_net(rng, residual=False, sizes=(4, 6, 5, 3), scale=1.5) -> Net:
    """A dense random network; `residual` adds a skip around the second layer."""
    net = Net(sizes[0])
    for k, (before, after) in enumerate(itertools.pairwise(sizes)):
        source = len(net.nodes) - 1
        matrix = rng.normal(size=(after, before)) * scale / np.sqrt(before)
        node = net.affine(matrix, rng.normal(size=after) * 0.3)
        if residual and k == 1:
            skip = net.affine(rng.normal(size=(after, before)), rng.normal(size=after), source)
            net.add(node, skip)
        if k < len(sizes) - 2:
            net.relu()
    return net


@dataclass
class Published:
    """A file of reference values, its networks as matrices, and `x` flattened."""

    values: dict
    f: Net
    g: Net | None = None

    @property
    def images(self) -> np.ndarray:
        return self.values["x"].reshape(len(self.values["x"]), -1)


def _small(weights, shape) -> Net:
    """Two 4x4 convolutions of stride 2 with 16 and 32 filters, dense 100, dense 10."""
    net, side = Net(int(np.prod(shape))), shape[0]
    net.affine(*convolution(weights["0/weight"], weights["0/bias"], shape, 2, 1))
    net.relu()
    shape = (side // 2, side // 2, 16)
    net.affine(*convolution(weights["2/weight"], weights["2/bias"], shape, 2, 1))
    net.relu()
    hidden = flattened(weights["5/weight"], (side // 4, side // 4, 32))
    net.affine(hidden, np.ravel(weights["5/bias"]).astype(np.float64))
    net.relu()
    last = weights["7/weight"].T.astype(np.float64)
    net.affine(last, np.ravel(weights["7/bias"]).astype(np.float64))
    return net


def _values(path: Path) -> dict:
    with np.load(path) as file:
        return dict(file)


def mnist_pair(shared: Path) -> Published:
    """The published MNIST network and its reference."""
    values = _values(shared / "oracle" / "mnist_small_pair_eps0.1.npz")
    f = _small(scipy.io.loadmat(shared / MNIST_WEIGHTS), (28, 28, 1))
    return Published(values, f, _small(reference_weights(values), (28, 28, 1)))


def reference_weights(values) -> dict:
    """The reference's weights, named as in a `.mat` file."""
    return {name[2:]: array for name, array in values.items() if name.startswith("g/")}


def cifar10(shared: Path) -> Published:
    """The published CIFAR-10 network, which takes normalised images."""
    values = _values(shared / "oracle" / "cifar10_small_eps0.0347_normalised.npz")
    return Published(values, _small(scipy.io.loadmat(shared / CIFAR10_WEIGHTS), (32, 32, 3)))


def residual(shared: Path) -> Published:
    """The random residual network."""
    values = _values(shared / "oracle" / "residual_net_eps0.02.npz")

    def layer(name):
        return values[f"w/{name}/weight"], values[f"w/{name}/bias"]

    net = Net(64)
    net.affine(*convolution(*layer("0"), (8, 8, 1), 1, 1))
    stem = net.relu()
    net.affine(*convolution(*layer("2/Ws/0"), (8, 8, 4), 2, 1))
    net.relu()
    branch = net.affine(*convolution(*layer("4/Ws/2"), (4, 4, 6), 1, 1))
    skip = net.affine(*convolution(*layer("4/Ws/0"), (8, 8, 4), 2, 0), source=stem)
    net.add(branch, skip)
    net.relu()
    kernel, bias = layer("7")
    net.affine(flattened(kernel, (4, 4, 6)), bias)
    net.relu()
    kernel, bias = layer("9")
    net.affine(kernel.T, bias)
    return Published(values, net)


def of_model(model) -> Net:
    """A Keras model as matrices.

    A caller that compares `net.logits` with the model itself also tests this reading.
    """
    graph = build(model)
    return of_graph(graph.structure, graph.weights(tf.float64))


def of_graph(structure, weights) -> Net:
    """A graph with `weights`: each operation by its columns and its value at 0."""
    net = Net(int(np.prod(structure.input_shape)))
    weights = [tf.cast(weight, tf.float64) for weight in weights]
    for node in structure.nodes[1:]:
        if isinstance(node.op, ops.Relu):
            net.relu(node.inputs[0])
        elif isinstance(node.op, ops.Add):
            net.add(*node.inputs)
        else:
            taken = [weights[k] for k in node.weights]
            matrix = node.op.as_matrix(*taken, dtype=tf.float64).numpy()
            zero = tf.zeros((1, *node.op.in_shape), tf.float64)
            net.affine(matrix, node.op.forward(zero, *taken).numpy().ravel(), node.inputs[0])
    return net
