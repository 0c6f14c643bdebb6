"""What is certified is what the model computes: one gate for every door of the library."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import robustra_tf as rt
from robustra_tf import export, graph
from robustra_tf.graph.build import read
from robustra_tf.graph.ops import Scale
from robustra_tf.intake import agreement
from robustra_tf.intake.agreement import compare
from robustra_tf.intake.precision import full_precision
from robustra_tf.intake.subject import take
from tests import nets, random_models
from tests.doors import DOORS, EPS, X, Y, plain

SWITCH = tf.config.experimental


def stale():
    """A copy of an adapted model: Keras copies the statistics, not what the layer computes with."""
    adapted = layers.Normalization(name="standard")
    adapted.adapt(np.random.default_rng(0).uniform(0.4, 0.6, (99, 2)))
    model = plain(adapted)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def patched():
    model = plain()
    model.layers[1].name = "bent"
    changed(model.layers[1], lambda y: y * 1.001)
    return model


def changed(layer, change):
    """Has a layer compute something else than its type says."""
    call = layer.call
    layer.call = lambda x, **_: change(call(x))


def cast_inside():
    """A model within the model, whose input is of eleven bits."""
    inner = keras.Sequential([keras.Input((4,), dtype="float16"), layers.Dense(2)])
    return keras.Sequential([keras.Input((2,)), layers.Dense(4, "relu"), inner])


def integers(dtype="uint8"):
    inputs = keras.Input((2,), dtype=dtype, name="pixels")
    hidden = layers.Dense(4, "relu")(layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, layers.Dense(2)(hidden), name="bytes")


FAULTS = {
    "stale": (stale, r"layer 'standard' of type Normalization computes .*finalize_state\(\)"),
    "patched": (patched, r"layer 'bent' of type Dense computes something else than was read"),
    "uint8": (integers, "expected inputs of float32 or float64, 'bytes' casts its own to uint8"),
    "int32": (lambda: integers("int32"), "'bytes' casts its own to int32"),
    "bfloat16": (lambda: integers("bfloat16"), "'bytes' casts its own to bfloat16"),
    "float16 inside": (cast_inside, "casts its own to float16"),
    "mixed": (lambda: plain(dtype="mixed_bfloat16"), "it computes in bfloat16, not float32"),
    "two outputs": (
        lambda: keras.Model(i := keras.Input((2,)), {"a": layers.Dense(2)(i), "b": i}),
        "expected one output, got 2",
    ),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("make", "message"), FAULTS.values(), ids=FAULTS)
def test_a_model_that_computes_something_else_is_refused_at_every_door(
    door, make, message, tmp_path
):
    SWITCH.enable_tensor_float_32_execution(True)
    with pytest.raises(ValueError, match=message) as raised:
        DOORS[door](make(), tmp_path)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())
    assert SWITCH.tensor_float_32_execution_enabled()


def test_a_clone_whose_normalisation_is_finalised_is_certified_as_it_computes():
    """The stale copy certifies another class than it predicts."""
    n = layers.Normalization()
    n.adapt(np.random.default_rng(0).uniform(0.4, 0.6, (99, 1)))
    model = keras.Sequential([keras.Input((1,)), n, layers.Dense(2)])
    model.layers[1].set_weights([np.array([[1.0, -1.0]]), np.zeros(2)])
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    z = np.full((1, 1), 0.45, np.float32)
    with pytest.raises(ValueError, match=r"layer 'normalization.*computes something else"):
        rt.certify(clone, z, [1], 0.01, sound=True)
    clone.layers[0].finalize_state()
    assert clone(z).numpy().argmax() == 1
    assert rt.certify(clone, z, [1], 0.01, sound=True).certified.tolist() == [True]


def odd():
    """Float64, in and out of dictionaries, with layers that draw unless they are told not to."""
    inputs = keras.Input((2,), dtype="float64", name="pixels")
    x = layers.GaussianNoise(0.9, dtype="float64")(inputs)
    image = layers.Reshape((1, 1, 2), dtype="float64")(x)
    image = layers.RandomBrightness(1.0, dtype="float64")(image)
    x = layers.Flatten(dtype="float64")(image)
    x = layers.Dense(4, "relu", dtype="float64")(x)
    logits = layers.Dense(2, dtype="float64")(x)
    return keras.Model({"pixels": inputs}, {"logits": logits})


@pytest.fixture(scope="module")
def taken():
    """The same network as an odd model, wrapped, and plain."""
    simple, strange = plain(), odd()
    strange.set_weights(simple.get_weights())
    return simple, {"odd": strange, "wrapped": rt.CertifiedModel(simple), "plain": simple}


@pytest.mark.parametrize("kind", ["odd", "wrapped", "plain"])
def test_every_door_takes_the_same_models(taken, kind, tmp_path):
    simple, models = taken
    model = models[kind]
    found = {name: door(model, tmp_path) for name, door in DOORS.items()}
    logits = simple(X).numpy()
    np.testing.assert_array_equal(found["certify"].predicted, logits.argmax(1))
    np.testing.assert_allclose(found["margin_bounds"], found["certify"].margin_lower, rtol=1e-6)
    plainly = rt.certify(simple, X, Y, EPS, method="interval")
    np.testing.assert_allclose(found["certify"].margin_lower, plainly.margin_lower, rtol=1e-5)
    point = found["attack"].adversarial
    np.testing.assert_array_equal(found["attack"].predicted, simple(point).numpy().argmax(1))
    assert found["Verifier"].status.value in ("verified", "falsified")
    h = found["DualObjective"](X, Y, eps=EPS)
    np.testing.assert_allclose(h, rt.DualObjective(simple)(X, Y, eps=EPS), rtol=1e-5)
    read_back = export.load(found["export.save"])
    np.testing.assert_allclose(take(read_back)(tf.constant(X)), logits, rtol=1e-5)
    if kind == "odd":
        before = model.get_weights()
        loss = found["TrainStep"](tf.constant(X), tf.constant(Y), tf.constant(EPS))["loss"]
        assert np.isfinite(loss)
        assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
        model.set_weights(before)


def test_the_images_of_a_call_are_compared_too():
    """What differs near one image alone, no random point need find."""
    model = plain()
    near = 0.123
    changed(model.layers[0], lambda y: tf.where(abs(y[:, :1] - near) < 1e-4, y + 1.0, y))
    kernel, bias = model.layers[0].get_weights()
    y, x = [0], np.array([[0.5, 0.5]], np.float32)
    for call in (
        lambda: rt.certify(model, x, y, EPS, method="interval"),
        lambda: rt.layer_bounds(model, x, EPS, method="interval"),
        lambda: rt.attack(model, x, y, EPS, steps=1, restarts=1),
        lambda: rt.Verifier(model, EPS).verify(x[0], 0),
    ):
        model.layers[0].set_weights([kernel, bias])
        call()  # as long as the image is another one
        here = (x @ kernel + bias)[0, 0]
        model.layers[0].set_weights([kernel, bias + (near - here) * np.eye(4)[0]])
        with pytest.raises(ValueError, match="of type Dense computes something else"):
            call()


@pytest.mark.parametrize("taken_as", [lambda model: model, graph.build], ids=["model", "graph"])
def test_a_verifier_whose_model_has_learnt_since_is_refused(taken_as):
    model = plain()
    verifier = rt.Verifier(taken_as(model), EPS)
    model.layers[1].kernel.assign(model.layers[1].kernel * 1.01)
    with pytest.raises(ValueError, match="model: its weights have changed since the verifier"):
        verifier.verify(X[0], 1)


def in_digits(weights, bits):
    """Weights rounded to so many bits."""
    fraction, exponent = np.frexp(weights)
    return np.ldexp(np.round(fraction * 2**bits) / 2**bits, exponent).astype(np.float32)


@pytest.mark.parametrize("name", ["residual", "pooling", "batch_norm"])
def test_products_in_fewer_digits_would_be_seen(name):
    """TensorFloat-32 keeps eleven bits of a factor: a layer of such weights is named, the first."""
    model, other = nets.ALL[name](), nets.ALL[name]()
    affine = [layer for layer in model.layers if isinstance(layer, layers.Conv2D | layers.Dense)]
    for layer in affine[1:]:
        kernel, *rest = layer.get_weights()
        layer.set_weights([in_digits(kernel, 11), *rest])
    own, calls = read(model)
    compare(model, own, calls, nets.images(model, 3))
    with pytest.raises(ValueError, match=f"layer '{affine[1].name}' of type"):
        compare(model, read(other)[0], calls, nets.images(model, 3))


@settings(max_examples=8, deadline=None, database=None)
@given(data=st.data())
def test_random_networks_agree_with_their_graphs(data):
    model = random_models.model(data.draw)
    x = nets.images(model, 3, seed=1)
    taken, patch = take(model), pytest.MonkeyPatch()
    with patch.context() as numbers:
        for equal in (np.array_equal, lambda *_: False):
            numbers.setattr(agreement.np, "array_equal", equal)
            found = taken.compare(x)
            assert found.comparable.all()
            expected = model(x, training=False).numpy()
            assert (found.logits == expected).all()


@pytest.mark.parametrize("name", ["residual", "batch_norm", "normalised"])
def test_rounding_is_bounded_where_numbers_differ_or_may_overflow_alone(name, monkeypatch):
    """A layer that gives its graph's very numbers takes no more than to run both."""
    model, asked, original = nets.ALL[name](), [], agreement.Tolerances.of

    def of(self, index):
        asked.append(index)
        return original(self, index)

    monkeypatch.setattr(agreement.Tolerances, "of", of)
    x, taken = nets.images(model, 3), take(model)
    scales = {k for k, node in enumerate(taken.structure.nodes) if isinstance(node.op, Scale)}
    affine = range(1, len(taken.structure.nodes))
    affine = {k for k in affine if k not in taken.structure.relus}

    def tolerances_of(x):
        asked.clear()
        assert taken.compare(x).comparable.all()
        return set(asked)

    assert tolerances_of(x) == scales
    assert tolerances_of(2.0**41 * x) == affine
    changed(model.layers[-1], lambda y: y * (1 + 2.0**-23))
    assert tolerances_of(x) >= {max(affine)}
    changed(model.layers[-1], lambda y: y * (1 + 2.0**-10))
    with pytest.raises(ValueError, match="computes something else"):
        taken.compare(x)


def test_nothing_is_proven_where_float32_overflows():
    model = plain()
    model.layers[0].kernel.assign(np.full((2, 4), 3e38))
    found = rt.certify(model, X, Y, EPS, method="interval", dtype="float64")
    assert not found.certified.any()
    assert (found.margin_lower[[0, 1], 1 - Y] == -np.inf).all()
    assert np.isfinite(rt.certify(plain(), X, Y, EPS, method="interval").margin_lower).all()


# TensorFloat-32


@pytest.mark.parametrize("enabled", [True, False])
def test_tensor_float_32_is_off_while_anything_is_certified(enabled, tmp_path):
    model, seen = plain(), []
    before = SWITCH.tensor_float_32_execution_enabled()

    def look(y):
        seen.append(SWITCH.tensor_float_32_execution_enabled())
        return y

    changed(model.layers[0], look)
    try:
        SWITCH.enable_tensor_float_32_execution(enabled)
        for name in ("certify", "layer_bounds", "attack", "Verifier", "export.save"):
            seen.clear()
            DOORS[name](model, tmp_path)
            assert seen[:1] == [False]
            assert SWITCH.tensor_float_32_execution_enabled() is enabled
        certified = rt.CertifiedModel(plain())
        certified.compile(run_eagerly=True)
        run, seen[:] = certified.test_step, []
        certified.test_step = lambda data: look(run(data))
        certified.evaluate(X, Y, verbose=0)
        assert seen == [False]
        assert SWITCH.tensor_float_32_execution_enabled() is enabled
    finally:
        SWITCH.enable_tensor_float_32_execution(before)


def test_full_precision_lasts_until_the_last_thread_leaves():
    SWITCH.enable_tensor_float_32_execution(True)
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with full_precision():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=hold)
    with full_precision():
        other.start()
        assert inside.wait(10)
    assert not SWITCH.tensor_float_32_execution_enabled()
    leave.set()
    other.join()
    assert SWITCH.tensor_float_32_execution_enabled()
    with pytest.raises(KeyError), full_precision():
        raise KeyError
    assert SWITCH.tensor_float_32_execution_enabled()


def test_other_switches_to_fewer_digits_are_refused(monkeypatch):
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    with pytest.raises(ValueError, match="ONEDNN_DEFAULT_FPMATH_MODE must be STRICT or unset"):
        rt.certify(plain(), X, Y, EPS)
    monkeypatch.delenv("ONEDNN_DEFAULT_FPMATH_MODE")
    options = tf.config.optimizer.get_experimental_options()
    try:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision": True})
        with pytest.raises(ValueError, match="the option auto_mixed_precision must be off"):
            rt.certify(plain(), X, Y, EPS)
    finally:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision": False} | options)
