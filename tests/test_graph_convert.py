"""Every supported Keras layer becomes operations that compute it; every other one is refused."""

import keras
import numpy as np
import pytest
from keras import layers

from robustra_tf import graph
from robustra_tf.graph import convert
from robustra_tf.graph.convert import supported
from robustra_tf.graph.ops import Scale
from robustra_tf.graph.spatial import Pool2D
from tests import nets

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
    "reshape": lambda: layers.Reshape((7, -1)),
    "reshape_to_the_same": lambda: layers.Reshape(IMAGE),
}


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
    expected = model(x, training=False)
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
    "dilation": (lambda: layers.Conv2D(2, 2, dilation_rate=2), "dilation_rate is (2, 2)"),
    "groups": (lambda: layers.Conv2D(2, 2, groups=2), "groups is 2"),
    "activation": (lambda: layers.Conv2D(2, 2, activation="tanh"), "activation is 'tanh'"),
    "relu6": (lambda: layers.Activation("relu6"), "activation is 'relu6'"),
    "softmax": (lambda: layers.Activation("softmax"), "activation is 'softmax'"),
    "softmax_layer": (lambda: layers.Softmax(), "type is not supported"),
    "max_value": (lambda: layers.ReLU(max_value=6.0), "max_value is 6.0"),
    "negative_slope": (lambda: layers.ReLU(negative_slope=0.1), "negative_slope is 0.1"),
    "threshold": (lambda: layers.ReLU(threshold=1.0), "threshold is 1.0"),
    "leaky_activation": (
        lambda: layers.Conv2D(2, 2, activation=layers.ReLU(negative_slope=0.1)),
        "negative_slope is 0.1",
    ),
    "leaky_relu": (lambda: layers.LeakyReLU(), "type is not supported"),
    "max_pooling": (lambda: layers.MaxPooling2D(), "type is not supported"),
    "lambda": (lambda: layers.Lambda(lambda x: 2 * x), "type is not supported"),
    "channels_first": (
        lambda: layers.ZeroPadding2D(1, data_format="channels_first"),
        "data_format is 'channels_first'",
    ),
    "flatten_channels_first": (
        lambda: layers.Flatten(data_format="channels_first"),
        "data_format is 'channels_first'",
    ),
    "dense_on_images": (lambda: layers.Dense(2), "Flatten first"),
    "subclass": (lambda: OwnDense(2), "type is not supported"),
    "batch_norm_axis": (lambda: layers.BatchNormalization(axis=1), "axis is 1"),
    "normalization_axis": (lambda: adapted(1), "axis is (1,)"),
    "normalization_inverted": (
        lambda: layers.Normalization(mean=0.0, variance=1.0, invert=True),
        "invert is True",
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
    if layer.name in message:
        assert f"of type {type(layer).__name__}" in message
    else:  # The activation that is a layer itself is the one to name.
        assert f"{layer.activation.name!r} of type ReLU" in message
    assert reason in message
    assert supported() in message


def test_refuses_lora_kernels():
    layer = layers.Dense(2, name="adapted")
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.enable_lora(1)
    with pytest.raises(graph.UnsupportedLayerError, match=r"'adapted'.*LoRA"):
        graph.build(model)


def test_the_list_of_what_is_supported_names_every_layer():
    names = (
        "Activation",
        "Add",
        "AveragePooling2D",
        "BatchNormalization",
        "Conv2D",
        "Dense",
        "Dropout",
        "Flatten",
        "InputLayer",
        "Normalization",
        "ReLU",
        "Rescaling",
        "Reshape",
        "ZeroPadding2D",
    )
    assert [name for name in names if name not in supported()] == []
