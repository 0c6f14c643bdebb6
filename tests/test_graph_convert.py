"""Every supported Keras layer becomes operations that compute it; every other one is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from robustra_tf import graph
from robustra_tf.graph import convert
from robustra_tf.graph.convert import supported
from robustra_tf.graph.ops import Scale
from robustra_tf.graph.spatial import Pool2D
from tests import image_layers, nets

IMAGE = (6, 7, 2)


def adapted(axis):
    layer = layers.Normalization(axis=axis)
    layer.adapt(np.random.default_rng(0).normal(2.0, 3.0, size=(20, *IMAGE)).astype(np.float32))
    return layer


SUPPORTED = {
    **{
        f"conv_{kernel}_{strides}_{padding}": (
            lambda k=kernel, s=strides, p=padding: layers.Conv2D(3, k, strides=s, padding=p)
        )
        for kernel in (1, 3, (2, 4))
        for strides in (1, 2, (3, 2))
        for padding in ("same", "valid")
    },
    **{
        f"pool_{size}_{strides}_{padding}": (
            lambda k=size, s=strides, p=padding: layers.AveragePooling2D(k, strides=s, padding=p)
        )
        for size in (2, (3, 2), 5)
        for strides in (1, 2, None)
        for padding in ("same", "valid")
    },
    "conv_without_bias": lambda: layers.Conv2D(3, 2, use_bias=False),
    "conv_with_relu": lambda: layers.Conv2D(3, 2, activation="relu"),
    "conv_with_relu_layer": lambda: layers.Conv2D(3, 2, activation=layers.ReLU()),
    "zero_padding": lambda: layers.ZeroPadding2D(((1, 0), (2, 3))),
    "batch_norm": lambda: layers.BatchNormalization(),
    "batch_norm_positive_axis": lambda: layers.BatchNormalization(axis=3, center=False),
    "batch_norm_without_both": lambda: layers.BatchNormalization(scale=False, center=False),
    "rescaling": lambda: layers.Rescaling(0.5, offset=-1.0),
    "rescaling_per_channel": lambda: layers.Rescaling([2.0, 3.0], offset=np.array([0.1, -0.2])),
    "normalization": lambda: layers.Normalization(mean=[0.4, 0.5], variance=[0.1, 2.0]),
    "normalization_scalar": lambda: layers.Normalization(mean=0.4, variance=0.1),
    "normalization_adapted": lambda: adapted(-1),
    "normalization_adapted_everywhere": lambda: adapted((1, 2, 3)),
    "normalization_adapted_as_one": lambda: adapted(None),
    "relu": lambda: layers.ReLU(),
    "activation_relu": lambda: layers.Activation("relu"),
    "activation_linear": lambda: layers.Activation("linear"),
    **{
        name: (lambda n=name, a=options: getattr(layers, n)(*a))
        for name, options in (
            ("Identity", ()),
            ("ActivityRegularization", (0.1, 0.1)),
            *((name, (0.5,)) for name in ("Dropout", "SpatialDropout2D", "AlphaDropout")),
            *((name, (0.5,)) for name in ("GaussianDropout", "GaussianNoise")),
            *((f"Random{name}", ()) for name in ("Flip", "GaussianBlur", "Perspective", "Erasing")),
            *((name, ()) for name in ("RandAugment", "AugMix", "CutMix", "MixUp")),
            *((f"Random{name}", ()) for name in ("ColorJitter", "ElasticTransform")),
            *((f"Random{name}", (0.3,)) for name in ("Rotation", "Zoom", "Brightness", "Contrast")),
            *((f"Random{name}", (0.3,)) for name in ("Hue", "Saturation", "Grayscale", "Invert")),
            ("RandomSharpness", (0.3,)),
            *((f"Random{name}", (0.3, 0.3)) for name in ("Translation", "Shear")),
            ("RandomPosterization", (4,)),
        )
    },
    "random_color_degeneration": lambda: keras.Sequential(
        [layers.Reshape((4, 7, 3)), layers.RandomColorDegeneration(0.3)]
    ),
    "spatial_dropout_1d": lambda: keras.Sequential(
        [layers.Reshape((42, 2)), layers.SpatialDropout1D(0.5)]
    ),
    **{
        f"{name}_{number}": (lambda n=name, o=options: getattr(layers, n)(**o))
        for name, several in image_layers.MORE.items()
        for number, options in enumerate(several)
    },
    **{
        f"activation_{name}": (lambda n=name: layers.Activation(n))
        for name in ("relu6", "leaky_relu", "hard_tanh", "hard_sigmoid", "sparse_sigmoid")
    },
    **{
        f"rows_{name}_{number}": (lambda n=name, o=options: on_rows(getattr(layers, n)(**o)))
        for name, several in image_layers.ROWS.items()
        for number, options in enumerate(several)
    },
    "repeat": lambda: keras.Sequential([layers.Flatten(), layers.RepeatVector(2)]),
    "reshape": lambda: layers.Reshape((7, -1)),
    "reshape_to_the_same": lambda: layers.Reshape(IMAGE),
}


def on_rows(layer):
    """A layer of one dimension, on the pixels of an image one after another."""
    return keras.Sequential([layers.Reshape((IMAGE[0] * IMAGE[1], IMAGE[2])), layer])


def between_images_and_logits(layer):
    """A model of a random convolution, the layer, and random logits."""
    return nets.randomise(
        keras.Sequential(
            [
                keras.Input(IMAGE),
                layers.Conv2D(IMAGE[2], 1),
                layer,
                layers.Flatten(),
                layers.Dense(nets.CLASSES),
            ]
        ),
        seed=11,
    )


@pytest.mark.parametrize("make", SUPPORTED.values(), ids=SUPPORTED)
def test_computes_what_the_layer_computes(make):
    model = between_images_and_logits(make())
    # Beyond pixels too: nothing may be cut to a range.
    x = np.concatenate([nets.images(model, 3), 9.0 * nets.images(model, 1) - 4.0])
    try:
        expected = model(x, training=False)
    except tf.errors.OpError:
        if image_layers.channels_first_runs():
            raise
        pytest.skip("Keras itself does not run it on this processor")
    np.testing.assert_allclose(graph.build(model)(x), expected, rtol=1e-5, atol=1e-5)


def test_every_layer_of_training_alone_is_tried_above():
    tried = {name.lower().replace("_", "") for name in SUPPORTED}
    assert {name.lower() for name in convert._TRAINING_ONLY} <= tried


def test_same_pooling_divides_by_the_pixels_inside():
    same = graph.build(between_images_and_logits(layers.AveragePooling2D(3, 2, padding="same")))
    kinds = [type(node.op) for node in same.structure.nodes]
    assert kinds[kinds.index(Pool2D) + 1] is Scale
    # Where nothing is padded there is nothing to correct.
    exact = graph.build(between_images_and_logits(layers.AveragePooling2D((2, 1), padding="same")))
    assert Scale not in [type(node.op) for node in exact.structure.nodes]


def test_float64_models_convert_in_their_own_precision():
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="float64"),
            layers.Dense(5, activation="relu", dtype="float64"),
            layers.BatchNormalization(dtype="float64"),
            layers.Dense(2, dtype="float64"),
        ]
    )
    nets.randomise(model, 3)
    x = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_allclose(graph.build(model)(x), model(x), rtol=1e-7)


class OwnDense(layers.Dense):
    """A subclass: it might compute anything."""


REFUSED = {
    "activation": (lambda: layers.Conv2D(2, 2, activation="tanh"), "activation is 'tanh'"),
    "shrink": (lambda: layers.Activation("hard_shrink"), "activation is 'hard_shrink'"),
    "softmax": (lambda: layers.Activation("softmax"), "activation is 'softmax'"),
    "softmax_layer": (lambda: layers.Softmax(), "it is not the model's last layer"),
    "threshold": (lambda: layers.ReLU(threshold=1.0), "threshold is 1, where the function jumps"),
    "fused_threshold": (
        lambda: layers.Conv2D(2, 2, activation=layers.ReLU(threshold=0.5)),
        "threshold is 0.5",
    ),
    "elu": (lambda: layers.ELU(), "type is not supported"),
    "layer_normalization": (lambda: layers.LayerNormalization(), "Supported: Normalization"),
    "bilinear": (lambda: layers.UpSampling2D(2, interpolation="bilinear"), "is 'bilinear'"),
    "lambda": (lambda: layers.Lambda(lambda x: 2 * x), "type is not supported"),
    "dense_on_images": (lambda: layers.Dense(2), "Flatten first"),
    "subclass": (lambda: OwnDense(2), "type is not supported"),
    "normalization_axis": (lambda: adapted(1), "axis is (1,)"),
    "normalization_inverted": (
        lambda: layers.Normalization(mean=0.0, variance=1.0, invert=True),
        "invert is True",
    ),
    "pooling_3d": (
        lambda: keras.Sequential([layers.Reshape((6, 7, 2, 1)), layers.MaxPooling3D(2)]),
        "Supported: MaxPooling",
    ),
    "half_precision": (lambda: layers.Conv2D(2, 2, dtype="mixed_float16"), "computes in float16"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_refuses_by_name_type_and_reason(make, reason):
    layer = make()
    model = between_images_and_logits(layer)
    with pytest.raises(graph.UnsupportedLayerError) as error:
        graph.build(model)
    message = str(error.value)
    refused = layer.layers[-1] if isinstance(layer, keras.Sequential) else layer
    assert f"layer {refused.name!r} of type {type(refused).__name__}: " in message
    assert reason in message
    assert len(message) < 400
    assert message.endswith("print(robustra_tf.graph.supported()) lists all layers that are")


def test_refuses_lora_kernels():
    layer = layers.Dense(2, name="adapted")
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.enable_lora(1)
    with pytest.raises(graph.UnsupportedLayerError, match=r"'adapted'.*LoRA"):
        graph.build(model)


def together(kind, *branches, **options):
    """A model of a layer of several inputs, each a random convolution of one image."""
    inputs = keras.Input(IMAGE)
    values = [b if b is not None else layers.Conv2D(2, 1)(inputs) for b in branches]
    x = kind(**options)(values)
    return nets.randomise(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))), seed=5)


CONSTANT = np.linspace(-2.0, 3.0, 84, dtype=np.float32).reshape(1, *IMAGE)
MERGED = {
    **{
        f"{kind.__name__}_{count}": (lambda k=kind, n=count: together(k, *[None] * n))
        for kind in (layers.Add, layers.Average, layers.Maximum, layers.Minimum)
        for count in (2, 3)
    },
    "Subtract": lambda: together(layers.Subtract, None, None),
    **{
        f"{kind.__name__}_constant": (lambda k=kind: together(k, None, CONSTANT))
        for kind in (layers.Add, layers.Subtract, layers.Multiply)
    },
    **{
        f"Concatenate_{axis}": (lambda a=axis: together(layers.Concatenate, None, None, axis=a))
        for axis in (1, 2, 3, -1)
    },
}


@pytest.mark.parametrize("make", MERGED.values(), ids=MERGED)
def test_computes_what_a_layer_of_several_inputs_computes(make):
    model = make()
    x = 9.0 * nets.images(model, 4) - 4.0
    np.testing.assert_allclose(graph.build(model)(x), model(x), rtol=1e-5, atol=1e-4)


NOT_MERGED = {
    "product": (lambda: together(layers.Multiply, None, None), "both factors depend on the input"),
    "batch": (lambda: together(layers.Concatenate, None, None, axis=0), "axis is the batch's"),
    "maximum_constant": (lambda: together(layers.Maximum, None, CONSTANT), "given a constant"),
    "dot": (lambda: together(layers.Dot, None, None, axes=1), "type is not supported"),
    "infinite": (
        lambda: together(layers.Multiply, None, np.full_like(CONSTANT, np.inf)),
        "numbers that are not finite",
    ),
    "broadcast": (
        lambda: together(layers.Add, None, np.repeat(CONSTANT, 2, axis=0)),
        r"a constant has shape \(2, 6, 7, 2\), expected \(1, \*\(6, 7, 2\)\)",
    ),
}


@pytest.mark.parametrize(("make", "reason"), NOT_MERGED.values(), ids=NOT_MERGED)
def test_refuses_a_layer_of_several_inputs_by_name(make, reason):
    with pytest.raises(graph.UnsupportedLayerError, match=reason):
        graph.build(make())


def test_the_list_of_what_is_supported_names_every_layer_and_its_conditions():
    text = supported()
    for kind, known in convert.KNOWN.items():
        assert kind.__name__ in text
        assert known.condition in text
