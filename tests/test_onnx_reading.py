"""ONNX read node by node as onnxruntime computes it, and public networks."""

import keras
import numpy as np
import pytest
from onnx import helper

import robustra_tf as rt
from robustra_tf import graph
from robustra_tf.onnx import node as nodes
from robustra_tf.onnx.replay import Runtime
from tests.hostile import refused
from tests.onnx_models import graph as made
from tests.onnx_models import node, saved, uniform

RNG = np.random.default_rng(3)
W, C = uniform(RNG, 5, 4), uniform(RNG, 4)
K = uniform(RNG, 4, 3, 3, 2) / 4
IMAGE = (1, 3, 5, 6)
INTS = {name: np.array(v) for name, v in {"flat": [1, -1], "back": [1, 3, 2, 15]}.items()}

#: What a node or two do to an input: nodes, the input's shape, weights, opset.
READ = {
    "gemm": ([node("Gemm", "xwc", alpha=0.5, beta=2.0)], (1, 5), {"w": W, "c": C}, 13),
    "gemm turned": ([node("Gemm", "xwc", transB=1)], (1, 4), {"w": W, "c": W[:, 0]}, 13),
    "gemm of columns": ([node("Gemm", "wx", transA=1, transB=1)], (4, 5), {"w": W}, 13),
    "matmul from the left": ([node("MatMul", "wx")], (4, 3), {"w": W}, 13),
    "matmul of rows": ([node("MatMul", "xw")], (1, 3, 5), {"w": W}, 13),
    "matmul and add": (
        [node("MatMul", "xw", "z"), node("Add", "cz")],
        (1, 5),
        {"w": W, "c": C},
        13,
    ),
    "conv": ([node("Conv", "xkc", pads=[1, 0, 2, 1], strides=[2, 1])], IMAGE, {"k": K, "c": C}, 13),
    "conv same": ([node("Conv", "xk", auto_pad="SAME_LOWER", strides=[2, 2])], IMAGE, {"k": K}, 13),
    "conv dilated": ([node("Conv", "xk", dilations=[1, 2], strides=[2, 1])], IMAGE, {"k": K}, 13),
    "conv groups": (
        [node("Conv", "xk", group=2)],
        (1, 6, 5, 6),
        {"k": K},
        13,
    ),
    "conv depthwise": (
        [node("Conv", "xk", group=3, pads=[1, 1, 1, 1])],
        IMAGE,
        {"k": uniform(RNG, 6, 1, 2, 2)},
        13,
    ),
    "conv depthwise, strides": (
        [node("Conv", "xk", group=3, strides=[1, 2])],
        IMAGE,
        {"k": uniform(RNG, 6, 1, 2, 2)},
        13,
    ),
    "conv of a line": (
        [node("Conv", "xk", pads=[2, 0])],
        (1, 3, 7),
        {"k": K[:, :, :, 0]},
        13,
    ),
    "conv and add": (
        [node("Conv", "xk", "z"), node("Mul", "zs", "u"), node("Add", "us")],
        IMAGE,
        {"k": K, "s": C.reshape(1, 4, 1, 1)},
        13,
    ),
    "batch norm": (
        [node("BatchNormalization", ["x", "c", "d", "d", "v"], epsilon=0.1)],
        (1, 4, 2, 3),
        {"c": C, "d": C[::-1].copy(), "v": C**2},
        13,
    ),
    "batch norm of a vector": (
        [
            node("Conv", "xk", "z"),
            node("Relu", "z", "r"),
            node("Flatten", "r", "f"),
            node("BatchNormalization", ["f", "c", "c", "c", "v"]),
        ],
        (1, 3, 3, 3),
        {"k": K, "c": uniform(RNG, 8), "v": uniform(RNG, 8) ** 2},
        13,
    ),
    "normalised": (
        [node("Sub", "xm", "z"), node("Div", "zs", "u"), node("Conv", "uk")],
        IMAGE,
        {
            "m": C[:3].reshape(3, 1, 1),
            "s": np.float32(0.5) + C[:3].reshape(1, 3, 1, 1) ** 2,
            "k": K,
        },
        13,
    ),
    "constant minus": ([node("Sub", "cx")], (1, 4), {"c": C}, 13),
    "broadcast": (
        [node("Add", "xc", "z"), node("Mul", "zd")],
        (1, 3, 1),
        {"c": C, "d": W[:3, :1]},
        13,
    ),
    "leaky": ([node("LeakyRelu", "x", alpha=0.3)], (1, 4), {}, 13),
    "clip": ([node("Clip", "xlh")], (1, 9), {"l": np.float32(-0.5), "h": np.float32(0.75)}, 13),
    "clip below": ([node("Clip", "xl")], (1, 9), {"l": np.float32(0.25)}, 13),
    "clip above": ([node("Clip", ["x", "", "h"])], (1, 9), {"h": np.float32(0.25)}, 13),
    "clip of old": ([node("Clip", "x", min=0.0, max=6.0)], (1, 9), {}, 10),
    "max pool": ([node("MaxPool", "x", kernel_shape=[2, 3], strides=[2, 1])], IMAGE, {}, 13),
    "max pool padded": (
        [
            node("Relu", "x", "r"),
            node("MaxPool", "r", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        ],
        (1, 2, 6, 6),
        {},
        13,
    ),
    "max pool with pads of any kind": (
        [node("MaxPool", "x", kernel_shape=[3, 2], pads=[1, 0, 2, 1], strides=[2, 1])],
        IMAGE,
        {},
        13,
    ),
    "max pool of a line": (
        [node("MaxPool", "x", kernel_shape=[3], pads=[2, 0])],
        (1, 3, 7),
        {},
        13,
    ),
    "max pool same": (
        [node("MaxPool", "x", kernel_shape=[3, 3], auto_pad="SAME_UPPER")],
        IMAGE,
        {},
        13,
    ),
    "average": (
        [node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 0, 0, 1], strides=[1, 2])],
        IMAGE,
        {},
        13,
    ),
    "average counted": (
        [node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)],
        IMAGE,
        {},
        13,
    ),
    "average of a line": (
        [node("AveragePool", "x", kernel_shape=[3], pads=[0, 2])],
        (1, 2, 7),
        {},
        13,
    ),
    "global average": ([node("GlobalAveragePool", "x", "z"), node("Flatten", "z")], IMAGE, {}, 13),
    "flatten": ([node("Flatten", "x", axis=2)], IMAGE, {}, 13),
    "reshape": ([node("Reshape", ["x", "back"])], (1, 5, 6, 3), INTS, 13),
    "transposes": (
        [
            node("Transpose", "x", "z", perm=[0, 2, 3, 1]),
            node("Relu", "z", "r"),
            node("Reshape", ["r", "flat"], "f"),
            node("MatMul", "fw"),
        ],
        IMAGE,
        INTS | {"w": uniform(RNG, 90, 2)},
        13,
    ),
    "channels last, turned": (
        [node("Transpose", "x", "z", perm=[0, 3, 1, 2]), node("Conv", "zk")],
        (1, 5, 6, 3),
        {"k": K},
        13,
    ),
    "squeezed": (
        [node("Squeeze", "xa", "z"), node("Unsqueeze", "zb")],
        (1, 3, 1, 4),
        {"a": np.array([2]), "b": np.array([0, 3])},
        13,
    ),
    "squeezed of old": (
        [node("Squeeze", "x", "z", axes=[2]), node("Unsqueeze", "z", axes=[1])],
        (1, 3, 1, 4),
        {},
        11,
    ),
    "concatenated": (
        [node("Conv", "xk", "z", pads=[1, 1, 1, 0]), node("Concat", "xzx", axis=1)],
        IMAGE,
        {"k": K},
        13,
    ),
    "concatenated with constants": (
        [node("Concat", "cxd", "z", axis=-1), node("Relu", "z", "r"), node("MatMul", "rw")],
        (1, 1),
        {"c": C[None, :2], "d": -C[None, :2] - 1, "w": W},
        13,
    ),
    "concatenated with a constant channel": (
        [node("Concat", "xc", "z", axis=1), node("Conv", "zk", pads=[1, 1, 1, 0])],
        (1, 2, 5, 6),
        {"c": np.arange(30, dtype=np.float32).reshape(1, 1, 5, 6) / 9 - 1, "k": K},
        13,
    ),
    "concatenated rows": ([node("Relu", "x", "z"), node("Concat", "xz", axis=-1)], (1, 4), {}, 13),
    "padded": (
        [node("Pad", "xp")],
        IMAGE,
        {"p": np.array([0, 0, 1, 2, 0, 0, 0, -1])},
        13,
    ),
    "padded channels": ([node("Pad", "xp")], IMAGE, {"p": np.array([0, 1, 0, 0, 0, 2, 1, 0])}, 13),
    "padded by edges": (
        [node("Pad", "xp", mode="edge")],
        (1, 2, 3, 2),
        {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1])},
        13,
    ),
    "dropout": ([node("Dropout", "x", "z"), node("Identity", "z")], (1, 4), {}, 13),
    "sliced": (
        [node("Slice", "xsea")],
        IMAGE,
        {"s": np.array([1, -5]), "e": np.array([3, 9]), "a": np.array([1, 3])},
        13,
    ),
    "sliced back from before the first": (
        [node("Slice", "xseat", "z"), node("Relu", "z")],
        IMAGE,
        {
            "s": np.array([-9]),
            "e": np.array([-100]),
            "a": np.array([3]),
            "t": np.array([-1]),
        },
        13,
    ),
    "sliced by steps": (
        [node("Slice", "xseat", "z"), node("Relu", "z")],
        IMAGE,
        {
            "s": np.array([0, 4]),
            "e": np.array([9, -9]),
            "a": np.array([3, 2]),
            "t": np.array([2, -2]),
        },
        13,
    ),
    "split": (
        [
            helper.make_node("Split", ["x", "s"], ["u", "v"], axis=1),
            node("Relu", "u", "r"),
            node("Sub", "rv"),
        ],
        (1, 6),
        {"s": np.array([3, 3])},
        13,
    ),
    "split and joined": (
        [helper.make_node("Split", ["x"], ["u", "v"], axis=1), node("Concat", "vu", axis=1)],
        (1, 6, 2, 2),
        {},
        11,
    ),
    "residual": (
        [
            node("Conv", "xk", "z", pads=[1, 1, 1, 0]),
            node("Slice", "zsea", "c"),
            node("Add", "cx", "r"),
            node("Relu", "r", "u"),
            node("Sub", "ux"),
        ],
        IMAGE,
        {"k": K, "s": np.array([0]), "e": np.array([3]), "a": np.array([1])},
        13,
    ),
    "shape by hand": (
        [
            node("Shape", "x", "s"),
            node("Gather", "sg", "n"),
            node("Unsqueeze", "nz", "n1"),
            node("Concat", ["n1", "m"], "t", axis=0),
            node("Reshape", "xt"),
        ],
        IMAGE,
        {"g": np.array(0), "z": np.array([0]), "m": np.array([-1])},
        13,
    ),
    "no batch": ([node("MatMul", "wx", "z"), node("Relu", "z")], (4,), {"w": W}, 13),
    "nothing": ([node("Identity", "x")], (1, 3), {}, 13),
    "one number": (
        [node("Slice", "xse")],
        (2,),
        {"s": np.array([0]), "e": np.array([1])},
        13,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_node_is_read_as_onnxruntime_computes_it(name, tmp_path, rng):
    given, shape, weights, opset = READ[name]
    proto = made(given, shape, weights, opset)
    model = rt.onnx.load(saved(tmp_path / "net.onnx", proto))
    assert model.input_shape[1:] == (shape[1:] if len(shape) > 1 and shape[0] == 1 else shape)
    x = rng.normal(size=(4, *model.input_shape[1:])).astype(np.float32) * 3
    (expected,) = Runtime(proto)(x)
    found = model(x, training=False).numpy()
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5, atol=2e-5)
    assert all(len(layer.output.shape) > 1 for layer in model.layers)
    if found.ndim > 2:
        model = keras.Sequential([model, keras.layers.Flatten()])
    network = graph.build(model)
    np.testing.assert_allclose(network(x), model(x), rtol=1e-5, atol=2e-5)


def test_layout_and_constants_are_folded(tmp_path):
    given, shape, weights, opset = READ["transposes"]
    model = rt.onnx.load(saved(tmp_path / "net.onnx", made(given, shape, weights, opset)))
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["InputLayer", "ReLU", "Flatten", "Dense"]
    for name, expected in {
        "conv and add": ["InputLayer", "Permute", "Conv2D", "Permute"],
        "channels last, turned": ["InputLayer", "Conv2D", "Permute"],
        "normalised": ["InputLayer", "Permute", "Rescaling", "Conv2D", "Permute"],
        "split and joined": ["InputLayer", "Dense", "Reshape"],
    }.items():
        given, shape, weights, opset = READ[name]
        model = rt.onnx.load(saved(tmp_path / "net.onnx", made(given, shape, weights, opset)))
        kinds = [
            type(layer).__name__ for layer in model.layers if "Flatten" not in str(type(layer))
        ]
        assert kinds == expected, name


@pytest.mark.oracle
def test_the_public_networks_are_read_and_taken_by_the_graph(shared):
    names = ("acasxu/onnx/*run2a_1_1*", "collins_rul_cnn/onnx/*small*", "mnist_fc/onnx/*256x2*")
    names += (
        "oval21/onnx/*deep*",
        "rl_benchmarks/onnx/*",
        "test/test_small.onnx",
        "test/test_nano*x",
    )
    for name in names:
        for path in sorted(shared.glob(f"vnncomp/{name}")):
            model = rt.onnx.load(path)
            x = RNG.uniform(size=(3, *model.input_shape[1:])).astype(np.float32)
            network = graph.build(model)
            np.testing.assert_allclose(network(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_node_that_is_read_wrongly_is_named(tmp_path, monkeypatch):
    def wrong(given):
        return nodes.HANDLERS["Identity"](given)

    monkeypatch.setitem(nodes.HANDLERS, "LeakyRelu", wrong)
    given = [node("Relu", "x", "z"), node("Neg", "z"), node("LeakyRelu", "x")]
    proto = made([given[2]], (1, 4))
    path = saved(tmp_path / "net.onnx", proto)
    refused(lambda: rt.onnx.load(path), path, "'the_LeakyRelu' of type LeakyRelu", "differ")
    path = saved(path, made(given[:2], (1, 4)))
    refused(lambda: rt.onnx.load(path), path, "node 'the_Neg' of type Neg: it is not read")
