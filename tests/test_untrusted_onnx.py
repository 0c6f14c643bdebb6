"""Files of ONNX that are not what they say: each is refused in one line, none reads elsewhere."""

import gzip
import re
import sys

import numpy as np
import pytest
from onnx import helper

import robustra_tf as rt
from tests.hostile import refused
from tests.onnx_models import graph as made
from tests.onnx_models import node, saved, uniform

RNG = np.random.default_rng(3)
W, K = uniform(RNG, 5, 4), uniform(RNG, 4, 3, 3, 2)
IMAGE = (1, 3, 5, 6)


def changed(change, given=None, shape=(1, 4), weights=None):
    """The bytes of a small network after a change of its `ModelProto`."""
    given = given or [node("Gemm", "xwc")]
    proto = made(given, shape, weights or {"w": W.T.copy(), "c": W[:, 0]})
    change(proto)
    return proto.SerializeToString()


def tensor(proto, **fields):
    first = proto.graph.initializer[0]
    for name, value in fields.items():
        if name == "dims":
            del first.dims[:]
            first.dims.extend(value)
        else:
            setattr(first, name, value)


def outside(location, **entries):
    def change(proto):
        first = proto.graph.initializer[0]
        first.ClearField("raw_data")
        first.data_location = 1
        for key, value in {"location": location, **entries}.items():
            first.external_data.add(key=key, value=str(value))

    return change


def only(*given, shape=(1, 4), weights=None):
    return changed(lambda proto: None, list(given), shape, weights or {"w": W.T.copy()})


NAN = np.full((4, 5), np.nan, np.float32)
BRANCH = made([], (1,)).graph


def end(name, *shape):
    return helper.make_tensor_value_info(name, 1, shape)


def of_integers(proto):
    proto.graph.input[0].type.tensor_type.elem_type = 7


def foreign(proto):
    proto.opset_import.add(domain="com.example", version=1)
    proto.graph.node[0].domain = "com.example"


def many_axes():
    """An exchange of thirteen axes: its kind is not looked for among 13! orders."""
    given = [
        node("Reshape", "xs", "z"),
        node("Transpose", "z", "t", perm=[0, *range(13, 0, -1)]),
        node("Reshape", "tf"),
    ]
    weights = {"s": np.array([1, *[2] * 13]), "f": np.array([1, -1])}
    return only(*given, shape=(1, 2**13), weights=weights)


MALFORMED = {
    "axes": (many_axes(), "numbers in a value, got 67108864"),
    "empty": (b"", "net.onnx"),
    "text": (b"no network at all", "damaged, no ONNX"),
    "cut": (changed(lambda p: None)[:-40], "net.onnx"),
    "sizes": (changed(lambda p: tensor(p, dims=[2**40, 2**20])), "do not fit"),
    "negative": (changed(lambda p: tensor(p, dims=[-4, 5])), "sizes from 0"),
    "short": (
        changed(lambda p: tensor(p, raw_data=b"1234")),
        "4 bytes or numbers do not fit [4, 5]",
    ),
    "type": (changed(lambda p: tensor(p, data_type=8)), "float32 or integers, got STRING"),
    "strange type": (changed(lambda p: tensor(p, data_type=99)), "got 99"),
    "nan": (only(node("Gemm", "xw"), weights={"w": NAN}), "finite numbers"),
    "above": (changed(outside("../secret")), "own folder, got '../secret'"),
    "absolute": (changed(outside("/etc/passwd")), "own folder, got '/etc/passwd'"),
    "link": (changed(outside("link")), "own folder, got 'link'"),
    "missing": (changed(outside("nothing")), "got no file"),
    "offset": (changed(outside("weights", offset=2**50)), "do not fit"),
    "length": (changed(outside("weights", length=2**50)), "do not fit"),
    "opset": (changed(lambda p: setattr(p.opset_import[0], "version", 5)), "an opset from 7"),
    "inputs": (changed(lambda p: p.graph.input.append(end("z", 1))), "one input, got 2"),
    "outputs": (changed(lambda p: p.graph.output.append(end("x", 1, 4))), "one output, got 2"),
    "input type": (changed(of_integers), "of float32"),
    "huge input": (only(node("Relu", "x"), shape=(1, 2**40)), "expected 1 to"),
    "open input": (only(node("Relu", "x"), shape=(1, 3, "h", 4)), "known sizes"),
    "undefined": (only(node("Gemm", "xq")), "net.onnx"),
    "twice": (only(node("Relu", "x"), node("Relu", "x")), "net.onnx"),
    "domain": (changed(foreign), "'the_Gemm' of type Gemm"),
    "operator": (
        only(node("Sigmoid", "x")),
        "'the_Sigmoid' of type Sigmoid: it is not read. Read are",
    ),
    "branches": (only(node("If", "x", then_branch=BRANCH, else_branch=BRANCH)), "net.onnx"),
    "matrix": (
        only(node("MatMul", "xw"), shape=(1, 3)),
        "of type MatMul: expected a matrix of (3,) rows",
    ),
    "product": (only(node("Mul", "xx")), "of type Mul: expected a constant side"),
    "divisor": (
        only(node("Div", "xw"), weights={"w": np.zeros(4, "f4")}),
        "of type Div: expected a divisor without",
    ),
    "huge pads": (
        only(node("Pad", "xp"), weights={"p": np.array([0, 0, 0, 2**40])}),
        "of type Pad: expected 1 to",
    ),
    "huge window": (
        only(node("Conv", "xk", pads=[2**30] * 4), shape=IMAGE, weights={"k": K}),
        "of type Conv: expected 1 to",
    ),
    "window": (
        only(node("Conv", "xk", dilations=[9, 9]), shape=IMAGE, weights={"k": K}),
        "does not fit",
    ),
    "nothing left": (
        only(
            node("Slice", "xsea"),
            weights={"s": np.array([2]), "e": np.array([2]), "a": np.array([1])},
        ),
        "of type Slice: expected entries to be left",
    ),
    "a far end": (
        only(helper.make_node("Clip", ["x", "", "m"], ["y"]), weights={"m": np.float32(1e6)}),
        "differ in the output of Clip",
    ),
    "groups": (
        only(node("Conv", "xk", group=3), shape=IMAGE, weights={"k": K}),
        "does not fit 3 channels",
    ),
    "reshape": (only(node("Reshape", "xs"), weights={"s": np.array([7])}), "of type Reshape: "),
    "pool": (
        only(node("MaxPool", "x", kernel_shape=[3, 3], pads=[3, 0, 0, 0]), shape=IMAGE),
        "of type MaxPool: expected windows that hold a pixel each",
    ),
    "overflow": (
        only(
            node("Gemm", "xw", "z"),
            node("Mul", "zs"),
            weights={"w": W.T.copy() * 1e30, "s": np.float32(1e30)},
        ),
        "range of float32",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused_in_one_line(name, tmp_path):
    content, words = MALFORMED[name]
    (tmp_path / "weights").write_bytes(W.tobytes())
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret").write_bytes(W.tobytes())
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "folder" / "weights").write_bytes(W.tobytes())
    path = tmp_path / "folder" / "net.onnx"
    path.write_bytes(content)
    text = refused(lambda: rt.onnx.load(path), path, words)
    assert "\n" not in text
    assert len(text) < 700


def test_weights_beside_the_file_and_packed_files_are_read(tmp_path):
    content = changed(outside("weights", offset=8))
    (tmp_path / "weights").write_bytes(b"12345678" + W.T.tobytes())
    (tmp_path / "net.onnx.gz").write_bytes(gzip.compress(content))
    model = rt.onnx.load(tmp_path / "net.onnx.gz")
    np.testing.assert_array_equal(model.weights[0], W.T)
    np.testing.assert_array_equal(model.weights[1], W[:, 0])


def test_without_its_packages_the_extra_is_named(tmp_path, monkeypatch):
    path = saved(tmp_path / "net.onnx", made([node("Relu", "x")], (1, 3)))
    for name in ("onnx", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            message = rf"needs the package {name}: pip install 'robustra-tf\[onnx\]'"
            with pytest.raises(ImportError, match=message):
                rt.onnx.load(path)


def test_packed_files_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("robustra_tf.onnx.files.LARGEST", 2000)
    path = tmp_path / "net.onnx.gz"
    path.write_bytes(gzip.compress(b" " * 2001))
    with pytest.raises(ValueError, match=re.escape(f"{path}: expected at most 2000 bytes")):
        rt.onnx.load(path)
