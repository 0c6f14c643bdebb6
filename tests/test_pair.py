"""A pair of networks as one classifier: what it answers, how it is kept, what is said of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import robustra_tf as rt
from robustra_tf import export
from robustra_tf.pair import merged
from robustra_tf.storage import description
from tests import nets
from tests.doors import DOORS, plain

TAKEN = {"certify", "margin_bounds", "attack", "Verifier", "export.save"}


@pytest.fixture(autouse=True, scope="module")
def eager():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def pair():
    """Two networks that agree often, not always."""
    f, g = nets.dense(5), nets.dense(6)
    rng = np.random.default_rng(0)
    g.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in f.get_weights()])
    return rt.Pair(f, g)


def by_hand():
    """Logits: of f the pixels, of g the pixels too, the second one raised by a half."""
    found = []
    for shift in (0.0, 0.5):
        logits = layers.Dense(2)
        model = keras.Sequential([keras.Input((2,)), layers.Dense(2, "relu"), logits])
        model.set_weights([np.eye(2), np.zeros(2), np.eye(2), np.array([0.0, shift])])
        found.append(model)
    return rt.Pair(*found)


def test_the_pair_answers_where_both_do():
    pair = by_hand()
    x = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.6], [np.nan, 0.1], [0.1, np.inf]], np.float32)
    np.testing.assert_array_equal(pair.predict_classes(x), [0, -1, 1, -1, -1])
    np.testing.assert_array_equal(pair.predict_classes(x[:0]), [])
    f, g = pair(x[:3])
    np.testing.assert_allclose(f, x[:3])
    np.testing.assert_allclose(g - f, np.tile([[0.0, 0.5]], (3, 1)), rtol=1e-6)


def test_what_is_certified_by_hand():
    """f is wrong nowhere within 0.3 of the first image, g is from a distance of 0.15 on."""
    pair, y = by_hand(), np.zeros(3, int)
    x = np.array([[0.8, 0.1], [0.6, 0.4], [0.1, 0.8]], np.float32)
    found = rt.certify(pair, x, y, 0.12)
    np.testing.assert_allclose(found.f_margin[:, 1], [0.46, -0.04, -0.92], atol=1e-6)
    np.testing.assert_allclose(found.g_margin[:, 1], [-0.04, -0.54, -1.42], atol=1e-6)
    # f is the better one for this target everywhere.
    np.testing.assert_allclose(found.margin_lower, found.f_margin, atol=1e-6)
    assert found.certified.tolist() == [True, False, False]
    assert found.answered.tolist() == [False, False, False]
    found = rt.certify(pair, x, y, 0.08)
    assert found.certified.tolist() == [True, True, False]
    assert found.answered.tolist() == [True, False, False]
    assert found.predicted.tolist() == [0, -1, 1]
    assert found.worst_target.tolist() == [1, 1, 1]
    lines = found.summary().splitlines()
    assert lines[1] == "  1 of 3 answered rightly; clean error 33.33%, clean abstention 33.33%"
    assert lines[2].startswith("  2 of 3 certified (66.67%)")
    assert lines[3] == "    silent error at most 33.33%"
    assert lines[4].startswith("  1 of 3 certified to be answered (33.33%)")
    assert lines[5] == "    forced abstention at most 66.67%"
    assert "right=1, wrong=1, abstained=1, certified=2, answered=1" in repr(found)


def test_margins_without_a_right_answer_certify_nothing():
    """What the networks answer at the image itself counts beside the margins."""
    pair, x = by_hand(), np.array([[0.8, 0.1]], np.float32)
    found = rt.certify(pair, x, [0], 0.01)
    for wrong in (1, 0, -1):
        changed = type(found)(**{**vars(found), "predicted": np.array([wrong])})
        assert changed.certified.tolist() == [wrong != 1]
    for name in ("f_predicted", "g_predicted"):
        changed = type(found)(**{**vars(found), name: np.array([1])})
        assert not changed.answered.any()
    for margin in (np.nan, np.inf, 0.0, -1.0):
        bounds = np.array([[0.0, margin]])
        assert not type(found)(**{**vars(found), "margin_lower": bounds}).certified.any()
        assert not type(found)(**{**vars(found), "f_margin": bounds}).answered.any()
    assert not type(found)(**{**vars(found), "eps": -0.1}).certified.any()


def test_a_network_that_overflows_leaves_what_the_other_proves():
    pair, x = by_hand(), np.array([[0.8, 0.1]], np.float32)
    weights = pair.g.get_weights()
    pair.g.set_weights([1e30 * weights[0], weights[1], 1e30 * weights[2], weights[3]])
    for options in ({}, {"sound": True}, {"method": "crown"}):
        found = rt.certify(pair, x, [0], 0.1, **options)
        assert found.predicted.tolist() == [-1]
        assert not np.isfinite(found.g_margin[0, 1])
        assert found.certified.all()
        assert not found.answered.any()
    pair.f.set_weights(pair.g.get_weights())
    assert not rt.certify(pair, x, [0], 0.1).certified.any()


@pytest.mark.parametrize("sound", [False, True])
def test_batches_change_nothing(pair, sound):
    x, y = nets.images(pair.f, 5), np.array([0, 1, 2, 0, 1])
    found = rt.certify(pair, x, y, 0.1, sound=sound)
    split = rt.certify(pair, x, y, 0.1, sound=sound, batch_size=2)
    np.testing.assert_allclose(found.margin_lower, split.margin_lower, rtol=1e-5, atol=1e-6)
    assert rt.certify(pair, x[:0], y[:0], 0.1).certified.shape == (0,)
    by_image = np.full((5, 1), 0.1)
    spread = rt.certify(pair, x, y, by_image, sound=sound)
    np.testing.assert_allclose(found.margin_lower, spread.margin_lower, rtol=1e-5, atol=1e-6)


def test_sound_margins_are_a_little_below_the_plain_ones(pair):
    x, y = nets.images(pair.f, 3), np.array([0, 1, 2])
    plain_ = rt.certify(pair, x, y, 0.1, dtype="float64")
    sound = rt.certify(pair, x, y, 0.1, sound=True)
    lost = plain_.margin_lower - sound.margin_lower
    assert (lost[np.arange(3), y] == 0).all()
    others = np.arange(nets.CLASSES) != y[:, None]
    assert (lost[others] > 0).all()
    assert (lost < 1e-3).all()
    assert sound.mode == "sound"


def test_a_keras_file_keeps_both(pair, tmp_path):
    pair.save(tmp_path / "pair.keras")
    loaded = keras.models.load_model(tmp_path / "pair.keras")
    x = nets.images(pair.f, 4)
    assert isinstance(loaded, rt.Pair)
    for ours, theirs in zip(loaded(x), pair(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(loaded.predict(x, verbose=0), pair(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="save writes one that is read here"):
        export.load(tmp_path / "pair.keras")


def test_a_saved_model_answers_and_certifies_by_its_signatures(tmp_path):
    """They are graphs of TensorFlow's own operations, as those of one network: `test_export`."""
    f, g = plain(seed=1), plain(seed=2)
    pairs = zip(f.get_weights(), g.get_weights(), strict=True)
    g.set_weights([0.9 * ours + 0.3 * theirs for ours, theirs in pairs])
    x = nets.images(f, 40)
    for model in (f, g):  # either class for half of the images
        logits = model(x).numpy()
        model.layers[-1].bias.assign_add([np.median(logits[:, 1] - logits[:, 0]), 0.0])
    pair = rt.Pair(f, g)
    tf.config.run_functions_eagerly(False)
    try:
        export.save(pair, tmp_path / "pair", {"eps": 0.1})
    finally:
        tf.config.run_functions_eagerly(True)
    loaded = export.load(tmp_path / "pair")
    x[0, 0] = np.nan
    x[1, 0] = 1.5
    for ours, theirs in zip(loaded(x), pair(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    signatures = tf.saved_model.load(str(tmp_path / "pair")).signatures
    images = tf.constant(x)
    found = dict(signatures["serving_default"](image=images))
    found |= signatures["certify"](image=images, eps=tf.constant(0.05))
    found = {name: value.numpy() for name, value in found.items()}
    answers = pair.predict_classes(x)
    np.testing.assert_array_equal(found["predicted"], answers)
    np.testing.assert_allclose(found["logits_f"][1:], pair(x)[0][1:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["logits_g"][1:], pair(x)[1][1:], rtol=1e-4, atol=1e-5)
    asked = answers >= 0
    asked[1] = False
    assert 3 < asked.sum() < 38
    assert not found["certified"][~asked].any()
    assert (found["margin"][~asked] == -np.inf).all()
    expected = rt.certify(pair, x[asked], answers[asked], 0.05, box=None)
    margin = found["margin"][asked]
    np.testing.assert_allclose(margin, expected.worst_margin, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["certified"][asked], expected.certified)
    np.testing.assert_array_equal(found["answered"][asked], expected.answered)
    assert expected.certified.sum() > expected.answered.sum() > 0


def test_a_saved_pair_with_something_else_inside_is_refused(pair, tmp_path):
    export.save(pair, tmp_path / "pair", certifies=False)
    architecture = description.read_architecture(tmp_path / "pair")
    part = architecture["config"]["f"]
    code = {"class_name": "Lambda", "module": "keras.layers", "config": {"name": "mine"}}
    for changed, error in (
        ({"f": part}, "expected a pair of f and g"),
        ({"f": part, "g": part, "h": part}, "expected a pair of f and g"),
        ({"f": part, "g": code}, "expected a model"),
        ({"f": part, "g": {**part, "config": {"layers": [code]}}}, "Lambda"),
        ({"f": part, "g": architecture}, "expected a model"),
    ):
        description.write(tmp_path / "pair", {**architecture, "config": changed}, {})
        with pytest.raises(ValueError, match=error):
            export.load(tmp_path / "pair")
    description.write(tmp_path / "pair", {**architecture, "module": "os"}, {})
    with pytest.raises(ValueError, match="expected a pair of class_name and config"):
        export.load(tmp_path / "pair")


@pytest.mark.parametrize("door", sorted(set(DOORS) - TAKEN))
def test_other_doors_refuse_a_pair_by_their_name(door, tmp_path):
    name = {
        "attack": "an attack",
        "TrainStep": "training",
        "PureStep": "training",
        "CertifiedModel": "training",
    }
    wanted = name.get(door.partition("'")[0], door.partition("'")[0])
    with pytest.raises(ValueError, match=f"must be one network for {wanted}, got a Pair") as error:
        DOORS[door](rt.Pair(plain(seed=1), plain(seed=2)), tmp_path)
    assert "\n" not in str(error.value)


def test_radii_and_onnx_refuse_a_pair_by_their_name(tmp_path):
    pair = by_hand()
    with pytest.raises(ValueError, match="one network for certified_radius"):
        rt.certified_radius(pair, [[0.5, 0.5]], [0])
    with pytest.raises(ValueError, match="one network for onnx"):
        rt.onnx.save(pair, tmp_path / "pair.onnx")


def test_certify_refuses_what_a_pair_has_not():
    with pytest.raises(ValueError, match="method"):
        rt.certify(by_hand(), [[0.5, 0.5]], [0], 0.1, method="crown", sound=True)


def test_certify_refuses_properties_of_a_pair():
    pair, x = by_hand(), np.array([[0.5, 0.5]])
    with pytest.raises(ValueError, match="one network for a property or outputs, got a Pair"):
        rt.certify(pair, x, rt.below(0, 3.0), 0.1)
    with pytest.raises(ValueError, match="one network for a property or outputs, got a Pair"):
        rt.certify(pair, rt.Property.around(x, 0.1, rt.below(0, 3.0)))


def softmax():
    return keras.Sequential([keras.Input((2,)), layers.Dense(2), layers.Softmax()])


@pytest.mark.parametrize(
    ("f", "g", "error", "text"),
    [
        (plain, 3, TypeError, "g: expected a keras.Model, got int"),
        (plain, by_hand, ValueError, "g must be one network, got a Pair"),
        (softmax, plain, ValueError, "f: expected logits, .* ends in a softmax"),
        (plain, nets.dense, ValueError, "the same inputs to the same classes"),
        (plain, lambda: keras.Sequential([layers.Dense(2)]), ValueError, "not built"),
    ],
)
def test_a_pair_is_of_two_networks_alike(f, g, error, text):
    parts = [part() if callable(part) else part for part in (f, g)]
    with pytest.raises(error, match=text):
        rt.Pair(*parts)


def test_a_pair_refuses_shared_weights_and_one_logit():
    model = plain()
    with pytest.raises(ValueError, match="share weights"):
        rt.Pair(model, model)
    one = [keras.Sequential([keras.Input((2,)), layers.Dense(1)]) for _ in range(2)]
    with pytest.raises(ValueError, match="at least two logits"):
        rt.Pair(*one)


def test_a_certified_model_is_its_network():
    f, g = plain(seed=1), plain(seed=2)
    pair = rt.Pair(rt.CertifiedModel(f), g)
    assert pair.f is f


def test_the_merged_model_is_both(pair):
    x = nets.images(pair.f, 3)
    np.testing.assert_allclose(merged(pair)(x), np.concatenate(pair(x), 1), rtol=1e-6)
