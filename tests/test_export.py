"""SavedModels: what is read back is what was saved, and nothing else is accepted."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from robustra_tf import export
from robustra_tf.certificates.certify import certify
from robustra_tf.graph import convert
from robustra_tf.storage import description
from tests import nets


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved network that tests may read, not change."""
    return export.save(nets.dense(), tmp_path_factory.mktemp("saved") / "f", {"eps": 0.1})


@pytest.mark.parametrize("name", nets.ALL)
def test_round_trip_gives_identical_logits(name, tmp_path):
    model = nets.ALL[name]()
    export.save(model, tmp_path / "f", certifies=False)
    images = nets.images(model, 5)
    expected = model(images).numpy()
    np.testing.assert_array_equal(export.load(tmp_path / "f")(images).numpy(), expected)
    signature = tf.saved_model.load(str(tmp_path / "f")).signatures["serving_default"]
    np.testing.assert_array_equal(signature(image=tf.constant(images))["logits"], expected)


def test_logits_of_a_saved_model_are_differentiated_as_the_models(tmp_path):
    """Attacks need it; the bounds of the other signature have no gradient."""
    model = nets.two_conv()
    export.save(model, tmp_path / "f")
    loaded = tf.saved_model.load(str(tmp_path / "f"))  # its functions do not keep its variables
    signature = loaded.signatures["serving_default"]
    images = tf.constant(nets.images(model, 3))
    found = []
    for logits in (lambda: signature(image=images)["logits"], lambda: model(images)):
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(logits()[:, 0])
        found.append(tape.gradient(total, images))
    assert np.abs(found[1]).max() > 0
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-7)


def test_adapted_normalisation_and_nested_models_survive(tmp_path, rng):
    normalisation = layers.Normalization()
    normalisation.adapt(rng.normal(3.0, 2.0, size=(50, 4)))
    inner = keras.Sequential([keras.Input((4,)), normalisation, layers.Dense(3)], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner, layers.ReLU(), layers.Dense(2)])
    export.save(model, tmp_path / "f", certifies=False)
    images = nets.images(model, 6)
    np.testing.assert_array_equal(export.load(tmp_path / "f")(images), model(images))


@pytest.mark.parametrize("name", ["dense", "two_conv", "residual"])
def test_a_saved_model_certifies_as_the_library_does(name, tmp_path):
    model = nets.ALL[name]()
    export.save(model, tmp_path / "f")
    signature = tf.saved_model.load(str(tmp_path / "f")).signatures["certify"]
    images = nets.images(model, 7)
    predicted = model(images).numpy().argmax(axis=1)
    for eps, count in ((0.05, 7), (0.01, 1), (0.0, 3)):
        given = {"image": tf.constant(images[:count]), "eps": tf.constant(eps)}
        answer = {key: value.numpy() for key, value in signature(**given).items()}
        # One image at a time: of whatever number of them, it is one trace.
        expected = certify(model, images[:count], predicted[:count], eps, box=None, batch_size=1)
        np.testing.assert_array_equal(answer["predicted"], predicted[:count])
        np.testing.assert_allclose(answer["margin"], expected.worst_margin, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(answer["certified"], answer["margin"] > 0)
    for eps in (-0.01, np.nan, np.inf):
        answer = signature(image=tf.constant(images), eps=tf.constant(eps, tf.float32))
        assert not answer["certified"].numpy().any()
        assert (answer["margin"].numpy() == -np.inf).all()
    broken = signature(image=tf.constant(images * np.nan), eps=tf.constant(0.01))
    assert not broken["certified"].numpy().any()


def test_a_saved_model_says_what_it_certifies_and_was_trained_for(saved, tmp_path):
    about = tf.saved_model.load(str(saved)).signatures["about"]()
    found = {name: np.asarray(value).tolist() for name, value in about.items()}
    assert found == {
        "norm": b"linf",
        "pixels": [0.0, 1.0],
        "trained_eps": pytest.approx(0.1),
        "trained_norm": b"",
    }
    export.save(nets.dense(), tmp_path / "f", {"norm": "l2"}, certifies=False)
    about = tf.saved_model.load(str(tmp_path / "f")).signatures["about"]()
    assert np.isnan(about["trained_eps"].numpy())
    assert about["trained_norm"].numpy() == b"l2"


def test_a_saved_model_is_loaded_without_a_warning_and_certify_has_no_gradient(saved, caplog):
    tf.get_logger().addHandler(caplog.handler)
    try:
        loaded = tf.saved_model.load(str(saved))
    finally:
        tf.get_logger().removeHandler(caplog.handler)
    assert caplog.messages == []
    image = tf.constant(nets.images(nets.dense(), 2), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(image)
        margin = loaded.signatures["certify"](image=image, eps=tf.constant(0.01))["margin"]
    assert tape.gradient(margin, image) is None


# A process of its own imports TensorFlow: some ten seconds.
@pytest.mark.slow
def test_a_saved_model_certifies_where_this_package_is_not_installed(saved, tmp_path):
    model = nets.dense()
    np.save(tmp_path / "x.npy", nets.images(model, 4))
    program = (
        "import sys; sys.modules['robustra_tf'] = sys.modules['keras'] = None\n"
        "import numpy as np, tensorflow as tf\n"
        f"loaded = tf.saved_model.load({str(saved)!r})\n"
        f"x = tf.constant(np.load({str(tmp_path / 'x.npy')!r}))\n"
        "out = loaded.signatures['certify'](image=x, eps=tf.constant(0.02))\n"
        f"np.savez({str(tmp_path / 'out.npz')!r}, **{{k: v.numpy() for k, v in out.items()}})\n"
    )
    left_out = ("PYTHONPATH", "COVERAGE_PROCESS_CONFIG")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    command = [sys.executable, "-c", program]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=120)
    answer = np.load(tmp_path / "out.npz")
    images = nets.images(model, 4)
    predicted = model(images).numpy().argmax(axis=1)
    expected = certify(model, images, predicted, 0.02, box=None)
    np.testing.assert_array_equal(answer["predicted"], predicted)
    np.testing.assert_allclose(answer["margin"], expected.worst_margin, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(answer["certified"], expected.certified)


def test_what_can_be_read_back_is_what_graphs_are_built_from():
    names = re.sub(r" \([^)]*\)", "", convert.supported()).split(", ")
    assert sorted(names) == sorted(description.LAYERS)


def test_layers_of_training_alone_are_saved_and_read_back(tmp_path):
    shape, kinds = (4, 4, 3), keras.layers
    model = keras.Sequential(
        [
            keras.Input(shape),
            kinds.GaussianNoise(0.3),
            kinds.RandomFlip(),
            kinds.RandomBrightness(0.3),
            kinds.RandAugment(),
            kinds.Flatten(),
            kinds.ActivityRegularization(0.1),
            kinds.Dense(3),
        ]
    )
    loaded = export.load(export.save(model, tmp_path / "f", certifies=False))
    x = nets.images(model, 3)
    expected = model(x, training=False).numpy()
    np.testing.assert_array_equal(loaded(x, training=False), expected)
    serve = tf.saved_model.load(tmp_path / "f").signatures["serving_default"]
    np.testing.assert_allclose(serve(image=tf.constant(x))["logits"], expected, rtol=1e-5)


def test_settings_are_given_back(saved):
    assert description.read_settings(saved) == {"eps": 0.1}


def test_a_compiled_model_keeps_only_what_bounds_need(tmp_path):
    model = nets.dense()
    model.compile("adam", "mse")
    assert not export.load(export.save(model, tmp_path / "f", certifies=False)).compiled


def test_saving_replaces_a_saved_model_and_nothing_else(tmp_path):
    first, second = nets.dense(1), nets.dense(2)
    export.save(first, tmp_path / "f", certifies=False)
    export.save(second, tmp_path / "f", certifies=False)
    images = nets.images(first, 3)
    np.testing.assert_array_equal(export.load(tmp_path / "f")(images), second(images))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "text").write_text("mine")
    with pytest.raises(ValueError, match=r"directory: .*notes.*something else"):
        export.save(first, tmp_path / "notes")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["text"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "notes"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "a model", "expected a built keras.Model"),
        (lambda: keras.Sequential([layers.Dense(2)]), "expected a built keras.Model"),
        (
            lambda: keras.Sequential([keras.Input((3,)), layers.Lambda(abs, (3,), name="code")]),
            "'code' of type Lambda",
        ),
        (
            lambda: keras.Sequential([keras.Input((3,)), layers.Dense(2, "tanh", name="bent")]),
            "'bent' of type Dense",
        ),
    ],
)
def test_a_model_that_could_not_be_read_back_is_not_saved(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export.save(make(), tmp_path / "f")
    assert not (tmp_path / "f").exists()
