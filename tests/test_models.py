"""The architectures of Table 1, their initial weights, and the published weights."""

import math

import keras
import numpy as np
import pytest
import scipy.io
from keras import layers

from robustra_tf import graph, models
from tests import nets

# Hidden units and parameters, as Table 1 prints them but for mnist_large's hidden units: the table
# says 28,064, its own layers have 25,088 + 6,272 + 12,544 + 3,136 + 512 + 512 = 48,064.
TABLE_1 = {
    "mnist_small": (4_804, 166_406),
    "mnist_large": (48_064, 1_974_762),
    "cifar10_small": (6_244, 214_918),
    "cifar10_large": (62_464, 2_466_858),
    "cifar10_resnet": (107_496, 4_214_850),
}


@pytest.fixture(scope="module")
def built():
    """Every model once, by name."""
    return {name: models.build(name, seed=1) for name in models.NAMES}


@pytest.mark.parametrize("name", TABLE_1)
def test_sizes_are_those_of_table_1(built, name):
    model = built[name]
    structure = graph.build(model).structure
    hidden = sum(math.prod(structure.nodes[i].op.out_shape) for i in structure.relus)
    assert (hidden, model.count_params()) == TABLE_1[name]
    assert structure.input_shape == ((28, 28, 1) if name.startswith("mnist") else (32, 32, 3))


def test_every_model_gives_ten_logits(built):
    assert set(models.NAMES) == {"digits_small", *TABLE_1}
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
        assert models.normalises(model) == name.startswith("cifar10")
    x = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    actual = built["cifar10_small"].get_layer("normalise")(x)
    np.testing.assert_allclose(actual, (x - [0.485, 0.456, 0.406]) / 0.225, rtol=1e-4, atol=1e-5)


@pytest.mark.oracle
def test_published_mnist_pair_gives_the_authors_logits(shared):
    values = np.load(shared / "oracle/mnist_small_pair_eps0.1.npz")
    x = values["x"].astype(np.float32)
    model = models.build("mnist_small")
    models.load_mat(model, shared / "weights/robustra_mnist_small_eps0.1.mat")
    np.testing.assert_allclose(model(x), values["logits_f"], rtol=1e-4, atol=1e-4)
    models.load_arrays(model, values, prefix="g/")
    np.testing.assert_allclose(model(x), values["logits_g"], rtol=1e-4, atol=1e-4)
    exact = graph.build(model)(values["x"])
    np.testing.assert_allclose(exact, values["logits_g"], rtol=1e-9, atol=1e-9)


@pytest.mark.oracle
def test_published_cifar10_network_gives_the_authors_logits_from_pixels(shared):
    values = np.load(shared / "oracle/cifar10_small_eps0.0347_normalised.npz")
    pixels = values["x"] * models.CIFAR10_STD + np.array(models.CIFAR10_MEAN)
    assert pixels.min() > -1e-6
    assert pixels.max() < 1 + 1e-6
    model = models.build("cifar10_small")
    path = shared / "weights/robustra_cifar10_small_eps0.0347_normalised.mat"
    models.load_mat(model, path, normalised=True)
    np.testing.assert_allclose(model(pixels), values["logits_f"], rtol=1e-4, atol=1e-4)
    exact = graph.build(model)(pixels)
    np.testing.assert_allclose(exact, values["logits_f"], rtol=1e-9, atol=1e-9)


def tiny(normalise=False):
    inputs = keras.Input((2, 3, 2))
    x = layers.Rescaling(2.0)(inputs) if normalise else inputs
    x = layers.Conv2D(2, 1, activation="relu", name="conv")(x)
    x = layers.Dense(3, activation="relu", name="first")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(2, name="last")(x), name="tiny")


def tiny_fields(rng):
    shapes = {"0": (1, 1, 2, 2), "3": (12, 3), "10": (3, 2)}
    fields = {f"{i}/weight": rng.normal(size=shape) for i, shape in shapes.items()}
    return fields | {f"{i}/bias": rng.normal(size=(1, s[-1])) for i, s in shapes.items()}


def test_files_hold_dense_rows_by_channel_first(rng, tmp_path):
    """Against a NumPy network that flattens channel, row, column as the published ones do."""
    fields = tiny_fields(rng)
    scipy.io.savemat(tmp_path / "net.mat", fields)
    model = models.load_mat(tiny(), tmp_path / "net.mat")
    x = rng.uniform(size=(4, 2, 3, 2)).astype(np.float32)
    z = np.maximum(x @ fields["0/weight"][0, 0] + fields["0/bias"][0], 0)
    z = z.transpose(0, 3, 1, 2).reshape(4, -1)
    z = np.maximum(z @ fields["3/weight"] + fields["3/bias"], 0)
    expected = z @ fields["10/weight"] + fields["10/bias"]
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)


def changed(fields, field, value):
    return {k: v for k, v in (fields | {field: value}).items() if v is not None}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("3/weight", None, "the field '3/weight' is missing"),
        ("3/bias", None, "the field '3/bias' is missing"),
        ("3/weight", np.zeros((3, 12)), r"'3/weight' has shape \(3, 12\), expected \(12, 3\)"),
        ("10/bias", np.zeros((2, 1)), r"'10/bias' has shape \(2, 1\), expected \(2,\)"),
        ("10/bias", np.array([[0.0, np.nan]]), "'10/bias' holds values that are not finite"),
        ("0/weight", np.full((1, 1, 2, 2), np.inf), "'0/weight' holds values that are not finite"),
        ("12/weight", np.zeros((2, 2)), r"3 layers \['conv', 'first', 'last'\].*'12'\]"),
    ],
)
def test_bad_fields_are_named_and_change_nothing(rng, tmp_path, field, value, message):
    path = tmp_path / "net.mat"
    scipy.io.savemat(path, changed(tiny_fields(rng), field, value))
    model = tiny()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message) as error:
        models.load_mat(model, path)
    assert str(path) in str(error.value)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_files_that_are_absent_or_no_matlab_are_named(tmp_path):
    path = tmp_path / "net.mat"
    with pytest.raises(FileNotFoundError, match=r"net\.mat"):
        models.load_mat(tiny(), path)
    path.write_bytes(b"not a MATLAB file" * 20)
    with pytest.raises(ValueError, match=r"net\.mat: expected a MATLAB file"):
        models.load_mat(tiny(), path)


def test_normalisation_must_agree_with_the_file(rng):
    fields = tiny_fields(rng)
    with pytest.raises(ValueError, match="normalised: got False for arrays, but 'tiny' normalises"):
        models.load_arrays(tiny(normalise=True), fields)
    with pytest.raises(ValueError, match="normalised: got True for arrays, but 'tiny' has no"):
        models.load_arrays(tiny(), fields, normalised=True)
    models.load_arrays(tiny(normalise=True), fields, normalised=True)


@pytest.mark.oracle
def test_residual_fields_are_read_in_their_order(shared):
    values = np.load(shared / "oracle/residual_net_eps0.02.npz")
    model = nets.published_residual()
    models.load_arrays(model, values, prefix="w/")
    np.testing.assert_allclose(model(values["x"]), values["logits"], rtol=1e-4, atol=1e-5)
