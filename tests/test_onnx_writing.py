"""Networks written as ONNX: random ones there and back, how the files look, what is refused."""

import os

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers

import robustra_tf as rt
from robustra_tf import graph
from robustra_tf.onnx.replay import Runtime
from tests import onnx_models

FILES = int(os.environ.get("ROBUSTRA_FUZZ_FILES", "24"))
NIGHTLY = "ROBUSTRA_FUZZ_FILES" in os.environ
BLOCKS = 4
#: Of the largest number. Sums of float32 in another order are as far apart.
ROUNDING = 2e-6
#: Of the largest number, in float64.
EXACT = 1e-6


def inputs_of(model, rng):
    return rng.normal(size=(6, *model.input_shape[1:])).astype(np.float32)


def agree(found, expected, share=ROUNDING):
    apart = np.abs(np.reshape(found, np.shape(expected)) - expected).max()
    assert apart <= share * np.abs(expected).max() + 1e-7, apart


def in_float64(model, x):
    return graph.build(model).network(tf.float64)(tf.constant(x, tf.float64)).numpy()


def check_round_trip(model, path, rng, **options):
    """Keras, onnxruntime, Keras again, and the graph."""
    x = inputs_of(model, rng)
    expected = model(x, training=False).numpy()
    rt.onnx.save(model, path, **options)
    proto = onnx.load(path)
    sizes = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim][1:]
    again = rt.onnx.load(path)
    assert list(again.input_shape[1:]) == sizes
    turned = [x, np.moveaxis(x, -1, 1)]
    # A cube may be either.
    candidates = [each for each in turned if list(each.shape[1:]) == sizes]
    apart = [np.abs(again(each, training=False).numpy() - expected).max() for each in candidates]
    given = candidates[int(np.argmin(apart))]
    agree(Runtime(proto)(given)[0], expected)
    found = again(given, training=False).numpy()
    agree(found, expected)
    agree(graph.build(again)(given).numpy(), expected, 5 * ROUNDING)
    # Without the rounding of float32's sums they are one function, but for that of folded weights.
    agree(in_float64(again, given), in_float64(model, x), EXACT)
    return proto


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_networks_there_and_back(block, tmp_path):
    for number in range(-(-FILES // BLOCKS)):
        seed = [block, number, *([int.from_bytes(os.urandom(4))] if NIGHTLY else [])]
        rng = np.random.default_rng(seed)
        model = onnx_models.model(rng)
        try:
            check_round_trip(model, tmp_path / "net.onnx", rng, fold=bool(rng.integers(2)))
        except Exception as error:
            raise AssertionError(
                f"seed {seed}: {[type(x).__name__ for x in model.layers]}"
            ) from error


def types(proto):
    return [node.op_type for node in proto.graph.node]


def classifier(*before):
    model = keras.Sequential(
        [
            keras.Input((6, 5, 2)),
            *before,
            layers.Conv2D(3, 3, strides=2, padding="same", activation="relu"),
            layers.ZeroPadding2D(1),
            layers.Conv2D(2, 2),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    model.set_weights([np.random.default_rng(0).normal(size=w.shape) for w in model.get_weights()])
    return model


PLAIN = ["Conv", "Relu", "Conv", "Relu", "Flatten", "Gemm"]


def test_a_classifier_is_convolutions_and_gemm_with_channels_first(tmp_path, rng):
    proto = check_round_trip(classifier(), tmp_path / "net.onnx", rng, opset=15)
    assert types(proto) == PLAIN
    assert [each.version for each in proto.opset_import] == [15]
    sizes = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == [0, 2, 6, 5]
    # Read back, the input keeps the file's order, and written again the file is the same.
    again = rt.onnx.load(tmp_path / "net.onnx")
    assert again.input_shape == (None, 2, 6, 5)
    assert types(check_round_trip(again, tmp_path / "again.onnx", rng)) == PLAIN


def test_normalisation_is_kept_as_differences_and_quotients_or_folded(tmp_path, rng):
    model = classifier(layers.Normalization(mean=[0.2, -0.3], variance=[0.5, 2.0]))
    assert types(check_round_trip(model, tmp_path / "n.onnx", rng)) == ["Sub", "Div", *PLAIN]
    # Zeros of the padding are normalised pixels: only a scale can go behind them.
    folded = check_round_trip(model, tmp_path / "n.onnx", rng, fold=True)
    assert types(folded) == ["Sub", "Div", *PLAIN]
    model = classifier(layers.Rescaling(1 / 255))
    assert types(check_round_trip(model, tmp_path / "n.onnx", rng)) == ["Div", *PLAIN]
    assert types(check_round_trip(model, tmp_path / "n.onnx", rng, fold=True)) == PLAIN
    flat = keras.Sequential([keras.Input((3, 3, 2)), layers.Rescaling([2.0, 3.0], [1.0, -1.0])])
    flat.add(layers.Flatten())
    flat.add(layers.Dense(2))
    proto = check_round_trip(flat, tmp_path / "n.onnx", rng, fold=True)
    assert types(proto) == ["Flatten", "Gemm"]


def test_zeros_around_an_image_are_normalised_with_it(tmp_path, rng):
    model = keras.Sequential([keras.Input((2, 3, 2)), layers.ZeroPadding2D(((1, 0), (0, 2)))])
    for layer in (layers.Rescaling(2.0, [1.0, -1.0]), layers.Flatten(), layers.Dense(2)):
        model.add(layer)
    for fold in (False, True):
        proto = check_round_trip(model, tmp_path / "n.onnx", rng, fold=fold)
        assert ("Sub" in types(proto)) != fold


def test_a_certified_model_is_written_as_its_network(tmp_path):
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(3, activation="relu"), layers.Dense(2)]
    )
    rt.onnx.save(rt.CertifiedModel(model, "ibp", 0.1), tmp_path / "net.onnx")
    assert types(onnx.load(tmp_path / "net.onnx")) == ["Gemm", "Relu", "Gemm"]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.Softmax(name="odd"), "layer 'odd' of type Softmax: it is not written. Written are"),
        (layers.Dense(2, activation="tanh", name="odd"), "activation is 'tanh'"),
        (layers.ReLU(threshold=0.5, name="odd"), "layer 'odd' of type ReLU: expected threshold 0"),
    ],
)
def test_what_is_not_written_is_named_and_leaves_no_file(layer, message, tmp_path):
    model = keras.Sequential([keras.Input((2,)), layer, layers.Dense(2)])
    with pytest.raises(ValueError, match=message):
        rt.onnx.save(model, tmp_path / "net.onnx")
    assert not any(tmp_path.iterdir())


def test_other_arguments_are_refused(tmp_path):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="opset must be from 11 to 21, got 10"):
        rt.onnx.save(model, tmp_path / "net.onnx", opset=10)
    with pytest.raises(ValueError, match="expected a built keras"):
        rt.onnx.save(keras.Sequential([layers.Dense(2)]), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"expected a known input shape, .* has \(None, 2\)"):
        rt.onnx.save(keras.Sequential([keras.Input((None, 2)), layers.Dense(2)]), tmp_path / "n")


def test_a_model_that_computes_something_else_is_refused(tmp_path):
    class Odd(keras.Sequential):
        def call(self, x, training=None, mask=None):
            return super().call(x) + 1.0

    model = Odd([keras.Input((2,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="computes something else than its layers"):
        rt.onnx.save(model, tmp_path / "net.onnx")


@pytest.mark.parametrize("pads", [((0, 1), (2, 1)), ((3, 0), (0, 0))])
def test_more_zeros_than_a_window_has_stand_by_themselves(pads, tmp_path, rng):
    stack = [layers.ZeroPadding2D(pads), layers.AveragePooling2D((1, 2), strides=2)]
    model = keras.Sequential([keras.Input((4, 5, 2)), *stack, layers.Flatten(), layers.Dense(3)])
    proto = check_round_trip(model, tmp_path / "net.onnx", rng)
    assert types(proto)[:2] == ["Pad", "AveragePool"]
