"""Tiny networks for the tests: each small enough for dense float64 matrices of every layer.

Biases, batch-norm statistics and normalisations are random instead of zeros and ones, so that a
dropped bias or a forgotten shift shows. Every builder takes a seed and returns a built Keras model
with inputs in [0, 1].
"""

import keras
import numpy as np
from keras import layers

CLASSES = 3


def randomise(model: keras.Model, seed: int) -> keras.Model:
    """Fill the model's weights with normal numbers that keep pre-activations around one."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if isinstance(layer, layers.BatchNormalization):
            _randomise_batch_norm(layer, rng)
        elif isinstance(layer, layers.Dense | layers.Conv2D):
            fan_in = int(np.prod(layer.kernel.shape[:-1]))
            layer.kernel.assign(rng.normal(size=layer.kernel.shape) * 1.5 / np.sqrt(fan_in))
            if layer.use_bias:
                layer.bias.assign(rng.normal(size=layer.bias.shape) * 0.3)
        elif not isinstance(layer, layers.Normalization):
            for weight in layer.trainable_weights:
                fan_in = max(1, int(np.prod(weight.shape[:-1])))
                weight.assign(rng.normal(size=weight.shape) * 1.5 / np.sqrt(fan_in))
    return model


def _randomise_batch_norm(layer: layers.BatchNormalization, rng: np.random.Generator) -> None:
    size = layer.moving_mean.shape
    layer.moving_mean.assign(rng.normal(size=size) * 0.3)
    layer.moving_variance.assign(rng.uniform(0.5, 2.0, size=size))
    if layer.scale:
        # Both signs: a negative scale turns a lower bound into an upper one.
        layer.gamma.assign(rng.uniform(0.5, 1.5, size=size) * rng.choice([-1.0, 1.0], size=size))
    if layer.center:
        layer.beta.assign(rng.normal(size=size) * 0.3)


def dense(seed: int = 0) -> keras.Model:
    """Two hidden dense layers on five inputs."""
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(7, activation="relu"),
            layers.Dense(6),
            layers.ReLU(),
            layers.Dense(CLASSES),
        ],
        name="tiny_dense",
    )
    return randomise(model, seed)


def conv(seed: int = 1) -> keras.Model:
    """One strided convolution with padding 1, and a dense head."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.ZeroPadding2D(1),
            layers.Conv2D(3, 4, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(CLASSES),
        ],
        name="tiny_conv",
    )
    return randomise(model, seed)


def shallow(seed: int = 0) -> keras.Model:
    """One hidden dense layer, for what takes long to compile."""
    hidden = layers.Dense(6, activation="relu")
    model = keras.Sequential([keras.Input((5,)), hidden, layers.Dense(CLASSES)])
    return randomise(model, seed)


def two_conv(seed: int = 2) -> keras.Model:
    """The layout of mnist_small in little: two strided convolutions, a hidden dense layer."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.ZeroPadding2D(1),
            layers.Conv2D(3, 4, strides=2, activation="relu"),
            layers.ZeroPadding2D(1),
            layers.Conv2D(4, 4, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(6, activation="relu"),
            layers.Dense(CLASSES),
        ],
        name="tiny_two_conv",
    )
    return randomise(model, seed)


def residual(seed: int = 3) -> keras.Model:
    """A convolution, a residual block with a strided skip convolution, a dense head."""
    inputs = keras.Input((6, 6, 2))
    stem = layers.Conv2D(3, 3, padding="same", activation="relu")(inputs)
    branch = layers.ZeroPadding2D(1)(stem)
    branch = layers.Conv2D(4, 4, strides=2, activation="relu")(branch)
    branch = layers.Conv2D(4, 3, padding="same")(branch)
    skip = layers.Conv2D(4, 2, strides=2)(stem)
    joined = layers.ReLU()(layers.Add()([branch, skip]))
    logits = layers.Dense(CLASSES)(layers.Flatten()(joined))
    return randomise(keras.Model(inputs, logits, name="tiny_residual"), seed)


def pooling(seed: int = 4) -> keras.Model:
    """Average pooling, `valid` and `same` (whose border windows hold fewer pixels)."""
    model = keras.Sequential(
        [
            keras.Input((7, 7, 2)),
            layers.Conv2D(3, 2, activation="relu"),
            layers.AveragePooling2D(2, strides=1),
            layers.AveragePooling2D(3, strides=2, padding="same"),
            layers.Conv2D(3, 2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(CLASSES),
        ],
        name="tiny_pooling",
    )
    return randomise(model, seed)


def batch_norm(seed: int = 5) -> keras.Model:
    """Batch normalisation after a convolution and after a dense layer."""
    model = keras.Sequential(
        [
            keras.Input((5, 5, 1)),
            layers.Conv2D(3, 3, strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(5),
            layers.BatchNormalization(scale=False),
            layers.Activation("relu"),
            layers.Dropout(0.5),
            layers.Dense(CLASSES),
        ],
        name="tiny_batch_norm",
    )
    return randomise(model, seed)


def normalised(seed: int = 6) -> keras.Model:
    """Pixels normalised inside the model, then a padded convolution: as the CIFAR-10 models."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Normalization(mean=(0.485, 0.456, 0.406), variance=(0.05, 0.06, 0.07)),
            layers.ZeroPadding2D(1),
            layers.Conv2D(3, 4, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(5, activation="relu"),
            layers.Dense(CLASSES),
        ],
        name="tiny_normalised",
    )
    return randomise(model, seed)


def branches(seed: int = 7) -> keras.Model:
    """Slopes, moved entries and every other convolution, in two branches that are put together."""
    inputs = keras.Input((4, 5, 2))
    x = layers.PReLU(shared_axes=[1, 2])(layers.DepthwiseConv2D(2, depth_multiplier=2)(inputs))
    large = layers.UpSampling2D(2)(layers.Cropping2D(((1, 0), (0, 2)))(x))
    large = layers.Conv2DTranspose(2, 2, strides=(1, 2), activation="relu")(large)
    small = layers.Conv2D(2, 2, groups=2, dilation_rate=(2, 1), activation="leaky_relu")(inputs)
    small = layers.Permute((2, 1, 3))(layers.Subtract()([small, layers.ReLU(0.5)(small)]))
    flat = [layers.Flatten()(large), layers.Flatten()(small)]
    logits = layers.Dense(CLASSES)(layers.Concatenate()(flat))
    return randomise(keras.Model(inputs, logits, name="tiny_branches"), seed)


def maxima(seed: int = 8) -> keras.Model:
    """Maxima of windows and of branches, means of images."""
    inputs = keras.Input((5, 5, 1))
    x = layers.Conv2D(2, 2, activation="relu")(inputs)
    x = layers.Maximum()([layers.MaxPooling2D(2)(x), layers.Conv2D(2, 3, strides=2)(inputs)])
    x = layers.MaxPooling2D((1, 2), strides=1, padding="same")(layers.Conv2D(2, 1)(x))
    flat = [layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)]
    logits = layers.Dense(CLASSES)(layers.Concatenate()(flat))
    return randomise(keras.Model(inputs, logits, name="tiny_maxima"), seed)


ALL = {
    "dense": dense,
    "conv": conv,
    "two_conv": two_conv,
    "residual": residual,
    "pooling": pooling,
    "batch_norm": batch_norm,
    "normalised": normalised,
    "branches": branches,
    "maxima": maxima,
}


def published_residual() -> keras.Model:
    """The residual net of the shared reference values, whose weights `load_arrays` reads."""
    pad, convolution = layers.ZeroPadding2D, layers.Conv2D
    inputs = keras.Input((8, 8, 1))
    stem = convolution(4, 3, activation="relu")(pad(1)(inputs))
    branch = convolution(6, 4, strides=2, activation="relu")(pad(1)(stem))
    # The order in which the file lists them: the skip before the branch's second convolution.
    skip = convolution(6, 2, strides=2)(stem)
    joined = layers.Add()([skip, convolution(6, 3)(pad(1)(branch))])
    x = layers.Dense(12, activation="relu")(layers.Flatten()(layers.ReLU()(joined)))
    return keras.Model(inputs, layers.Dense(10)(x), name="published_residual")


def images(model: keras.Model, count: int, seed: int = 0) -> np.ndarray:
    """Random inputs in [0, 1] for the model: float32 [count, *input_shape]."""
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(count, *model.input_shape[1:])).astype(np.float32)


def random_sequential(rng: np.random.Generator) -> keras.Model:
    """A random small convolutional or dense network, for property tests."""
    side = int(rng.integers(4, 7))
    model = keras.Sequential([keras.Input((side, side, int(rng.integers(1, 3))))])
    for _ in range(int(rng.integers(0, 3))):
        kernel = int(rng.integers(1, 4))
        stride = int(rng.integers(1, 3))
        if rng.random() < 0.3:
            model.add(layers.ZeroPadding2D(((1, 0), (0, 1))))
        model.add(layers.Conv2D(int(rng.integers(1, 4)), kernel, strides=stride, padding="same"))
        if rng.random() < 0.3:
            model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model.add(layers.Flatten())
    for _ in range(int(rng.integers(0, 3))):
        model.add(layers.Dense(int(rng.integers(2, 6)), activation="relu"))
    model.add(layers.Dense(CLASSES))
    return randomise(model, int(rng.integers(2**31)))
