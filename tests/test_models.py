"""The architectures of Table 1 and their initial weights."""

import math

import keras
import numpy as np
import pytest
from keras import layers

from robustra_tf import graph, models, published
from robustra_tf.vocabulary import MODEL_INPUTS

# Hidden units and parameters, as Table 1 prints them but for mnist_large's hidden units: the table
# says 28,064, its own layers have 25,088 + 6,272 + 12,544 + 3,136 + 512 + 512 = 48,064.
TABLE_1 = {
    "mnist_small": (4_804, 166_406),
    "mnist_large": (48_064, 1_974_762),
    "cifar10_small": (6_244, 214_918),
    "cifar10_large": (62_464, 2_466_858),
    "cifar10_resnet": (107_496, 4_214_850),
}
# 14 14 32 + 7 7 64 + 512 units; weights (16 + 1) 32 + (16 32 + 1) 64 + (3,136 + 1) 512 + 513 10.
SIZES = TABLE_1 | {"mnist_medium": (9_920, 1_644_650)}


@pytest.fixture(scope="module")
def built():
    """Every model for images of one shape once, by name."""
    return {name: models.build(name, seed=1) for name in MODEL_INPUTS}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_table_1_and_of_our_own(built, name):
    model = built[name]
    structure = graph.build(model).structure
    hidden = sum(math.prod(structure.nodes[i].op.out_shape) for i in structure.relus)
    assert (hidden, model.count_params()) == SIZES[name]
    assert structure.input_shape == ((28, 28, 1) if name.startswith("mnist") else (32, 32, 3))


def test_every_model_gives_ten_logits(built):
    assert set(built) == {"digits_small", *SIZES}
    for model in built.values():
        assert model.output_shape == (None, 10)
    assert built["digits_small"].input_shape == (None, 8, 8, 1)


@pytest.mark.parametrize("name", ["digits_small", "cifar10_resnet"])
def test_the_graph_computes_the_model(built, name):
    x = np.random.default_rng(0).uniform(size=(2, *built[name].input_shape[1:]))
    x = x.astype(np.float32)
    expected = built[name](x, training=False)
    np.testing.assert_allclose(graph.build(built[name])(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["digits_small", "cifar10_resnet"])
def test_batch_normalisation_stands_before_every_relu(name):
    """And behind every weighted layer but the logits; the weights are those without it."""
    plain, model = (models.build(name, seed=1, batch_norm=given) for given in (False, True))
    weighted = [x for x in model.layers if isinstance(x, layers.Conv2D | layers.Dense)]
    normalising = [x for x in model.layers if isinstance(x, layers.BatchNormalization)]
    for layer, norm in zip(weighted[:-1], normalising, strict=True):
        assert norm.input is layer.output
        assert layer.activation is keras.activations.linear
    theirs = [x for x in plain.layers if isinstance(x, layers.Conv2D | layers.Dense)]
    for mine, other in zip(weighted, theirs, strict=True):
        np.testing.assert_array_equal(mine.kernel, other.kernel)
    relus = [len(graph.build(m).structure.relus) for m in (plain, model)]
    assert relus[0] == relus[1]
    x = np.random.default_rng(0).uniform(size=(2, *model.input_shape[1:])).astype(np.float32)
    found, expected = graph.build(model)(x), model(x, training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(
        ValueError, match=r"name: expected one of digits_small, mnist_small.*'mnist'"
    ):
        models.build("mnist")


def test_seeds_make_weights_repeatable_and_independent():
    first, again, other = (models.build("digits_small", seed) for seed in (1, 1, 2))
    for a, b, c in zip(first.get_weights(), again.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
        assert abs(np.corrcoef(a.ravel(), c.ravel())[0, 1]) < 4 / math.sqrt(a.size)
        assert not np.any(a == c)
    keras.utils.set_random_seed(3)
    unseeded = models.build("digits_small").get_weights()[0]
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(unseeded, models.build("digits_small").get_weights()[0])
    assert not np.array_equal(unseeded, models.build("digits_small").get_weights()[0])


def standardised_uniform(values, bound):
    """Uniform in +-bound: inside, and with the standard deviation bound / sqrt(3)."""
    assert np.abs(values).max() <= bound
    np.testing.assert_allclose(values.std(), bound / math.sqrt(3), rtol=4 / math.sqrt(values.size))


def test_mnist_models_start_uniform(built):
    for layer in built["mnist_large"].layers:
        if isinstance(layer, layers.Conv2D | layers.Dense):
            bound = 1 / math.sqrt(math.prod(layer.kernel.shape[:-1]))
            standardised_uniform(layer.kernel.numpy(), bound)
            standardised_uniform(layer.bias.numpy(), bound)


@pytest.mark.parametrize("name", ["cifar10_large", "cifar10_resnet"])
def test_cifar10_convolutions_start_normal_without_bias(built, name):
    for layer in built[name].layers:
        if isinstance(layer, layers.Conv2D):
            kernel = layer.kernel.numpy()
            deviation = math.sqrt(2 / (math.prod(layer.kernel_size) * layer.filters))
            assert kernel.std() == pytest.approx(deviation, rel=4 / math.sqrt(kernel.size))
            assert np.abs(kernel).max() > 1.8 * deviation  # beyond a uniform distribution
            np.testing.assert_array_equal(layer.bias, 0.0)
        if isinstance(layer, layers.Dense):
            standardised_uniform(layer.kernel.numpy(), 1 / math.sqrt(layer.kernel.shape[0]))


def test_only_cifar10_models_normalise(built):
    for name, model in built.items():
        assert published.normalises(model) == name.startswith("cifar10")
    x = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    actual = built["cifar10_small"].get_layer("normalise")(x)
    np.testing.assert_allclose(actual, (x - [0.485, 0.456, 0.406]) / 0.225, rtol=1e-4, atol=1e-5)
