"""The published weights: the authors' logits, and files that are not what they should be."""

import keras
import numpy as np
import pytest
import scipy.io
from keras import layers

from robustra_tf import graph, models, published
from tests import nets


@pytest.mark.oracle
def test_published_mnist_pair_gives_the_authors_logits(shared):
    values = np.load(shared / "oracle/mnist_small_pair_eps0.1.npz")
    x = values["x"].astype(np.float32)
    model = models.build("mnist_small")
    published.load_mat(model, shared / "weights/robustra_mnist_small_eps0.1.mat")
    np.testing.assert_allclose(model(x), values["logits_f"], rtol=1e-4, atol=1e-4)
    published.load_arrays(model, values, prefix="g/")
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
    published.load_mat(model, path, normalised=True)
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
    model = published.load_mat(tiny(), tmp_path / "net.mat")
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
        published.load_mat(model, path)
    assert str(path) in str(error.value)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_files_that_are_absent_or_no_matlab_are_named(tmp_path):
    path = tmp_path / "net.mat"
    with pytest.raises(FileNotFoundError, match=r"net\.mat"):
        published.load_mat(tiny(), path)
    path.write_bytes(b"not a MATLAB file" * 20)
    with pytest.raises(ValueError, match=r"net\.mat: expected a MATLAB file"):
        published.load_mat(tiny(), path)


def test_normalisation_must_agree_with_the_file(rng):
    fields = tiny_fields(rng)
    with pytest.raises(ValueError, match="normalised: got False for arrays, but 'tiny' normalises"):
        published.load_arrays(tiny(normalise=True), fields)
    with pytest.raises(ValueError, match="normalised: got True for arrays, but 'tiny' has no"):
        published.load_arrays(tiny(), fields, normalised=True)
    published.load_arrays(tiny(normalise=True), fields, normalised=True)


@pytest.mark.oracle
def test_residual_fields_are_read_in_their_order(shared):
    values = np.load(shared / "oracle/residual_net_eps0.02.npz")
    model = nets.published_residual()
    published.load_arrays(model, values, prefix="w/")
    np.testing.assert_allclose(model(values["x"]), values["logits"], rtol=1e-4, atol=1e-5)
