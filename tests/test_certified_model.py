"""`CertifiedModel`: the programs' own step, the certificates of `evaluate`, refusals."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import robustra_tf as rt
from robustra_tf.bounds.cost import example_bytes
from robustra_tf.graph import build
from robustra_tf.training.options import StepOptions
from robustra_tf.training.step import TrainStep
from tests import nets

pytestmark = pytest.mark.usefixtures("unoptimised")

COUNT, EPS, RADIUS = 5, 0.08, 0.05
Y = np.array([0, 1, 2, 0, 1])


def pair(method):
    """Twice the same fresh network, and the reference where the method takes one."""
    models = nets.dense(2), nets.dense(2)
    return *models, nets.dense(12) if method == "robustra" else None


def two_together(model):
    """MiB for two examples at a time, so that a batch goes in pieces."""
    return 2.5 * example_bytes(build(model).structure) / 2**20


@pytest.mark.parametrize("method", ["ibp", "robustra", "natural"])
def test_fit_takes_the_steps_of_the_programs(method):
    """Batches of three and two examples, the second left over: the batch size is not static."""
    ours, theirs, reference = pair(method)
    x, memory = nets.images(ours, COUNT, seed=4), two_together(ours)
    options = StepOptions.of(memory_mb=memory, clean_share=0.3, regulariser=0.2)
    certified = rt.CertifiedModel(ours, method, EPS, reference=reference, options=options)
    certified.compile(keras.optimizers.Adam(0.01))
    certified.radius.assign(RADIUS)
    logs = certified.fit(x, Y, batch_size=3, shuffle=False, verbose=0).history

    options = options.with_losses(eps_end=EPS)
    step = TrainStep(theirs, reference, keras.optimizers.Adam(0.01), method, options=options)
    first, second = (step(x[k], Y[k], tf.constant(RADIUS)) for k in (slice(3), slice(3, None)))
    mean = {name: 0.6 * float(first[name]) + 0.4 * float(second[name]) for name in first}
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)
    assert logs["loss"] == [pytest.approx(mean["loss"], rel=1e-4)]
    assert logs["accuracy"] == [pytest.approx(1 - mean["clean_error"], abs=1e-6)]
    if method == "natural":
        assert "certified_accuracy" not in logs
    else:
        error = mean["robust_error" if method == "ibp" else "wk_error"]
        assert logs["certified_accuracy"] == [pytest.approx(1 - error, abs=1e-6)]


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_other_norms_are_certified_as_certify_does(norm):
    model, x = nets.dense(2), nets.images(nets.dense(), COUNT, seed=4)
    certified = rt.CertifiedModel(model, "wong", RADIUS, options=StepOptions.of(norm=norm))
    certified.compile(keras.optimizers.Adam(0.01))
    found = certified.evaluate(x, Y, verbose=0, return_dict=True)
    expected = rt.certify(model, x, Y, RADIUS, norm=norm, box=None).certified.mean()
    assert found["certified_accuracy"] == pytest.approx(expected)


@pytest.fixture(scope="module")
def judged():
    """A network, images of two classes, the network's own labels for them, and a radius."""
    model = nets.dense(35)
    x = nets.images(model, 60, seed=5)
    return model, x, model.predict(x, verbose=0).argmax(1), 0.1


@pytest.mark.parametrize(
    ("method", "inner", "bound"),
    [
        ("wong", "dual", {"box": None}),
        ("wong", "interval", {"box": None, "inner": "interval"}),
        ("robustra", "dual", {"box": None}),
        ("sabr", "dual", {"method": "interval"}),
        ("natural", "dual", {"method": "interval"}),
    ],
)
def test_evaluate_certifies_by_the_bound_that_was_trained_on(judged, method, inner, bound):
    model, x, y, eps = judged
    reference = nets.dense(12) if method == "robustra" else None
    memory = two_together(model)
    options = StepOptions.of(inner=inner, memory_mb=memory)
    certified = rt.CertifiedModel(model, method, eps, reference=reference, options=options)
    certified.compile()
    certified.radius.assign(0.01)  # evaluation is at the full radius all the same
    found = certified.evaluate(x, y, batch_size=7, verbose=0, return_dict=True)
    certificate = rt.certify(model, x, y, eps, **bound)
    # The bounds tell themselves apart by how many of these images they certify.
    assert found["certified_accuracy"] == pytest.approx(certificate.certified.mean(), abs=1e-6)
    assert found["accuracy"] == 1.0
    if method != "sabr":
        h = -certificate.margin_lower
        if method == "robustra":
            h = rt.DualObjective(model, reference)(x, y, eps=eps).numpy()
        elif method == "natural":
            h = model.predict(x, verbose=0)
            h -= h[np.arange(len(y)), y][:, None]
        assert found["loss"] == pytest.approx(np.log(np.exp(h).sum(1)).mean(), rel=1e-4)


def test_the_bounds_above_differ(judged):
    model, x, y, eps = judged
    bounds = {"box": None}, {"box": None, "inner": "interval"}, {"method": "interval"}, {}
    counts = {rt.certify(model, x, y, eps, **bound).certified.sum() for bound in bounds}
    assert len(counts) == 4


def test_predict_gives_the_networks_logits(judged):
    model, x, *_ = judged
    certified = rt.CertifiedModel(model)
    expected = model.predict(x, verbose=0)
    np.testing.assert_array_equal(certified.predict(x, verbose=0), expected)


def test_metric_counts_strict_bounds_of_other_classes():
    metric = rt.metrics.CertifiedAccuracy()
    assert float(metric.result()) == 0.0
    upper = np.array([[0, -1, -2], [-1, 0, 3], [0, -1, -1], [np.nan, -1, 0], [7, -1, -1]], "f")
    metric.update_state([0, 1, 2, 2, 0], upper)
    assert float(metric.result()) == pytest.approx(2 / 5)
    metric.update_state(tf.constant([1]), tf.constant([[-1.0, 0.0]]))
    assert float(metric.result()) == pytest.approx(3 / 6)
    metric.reset_state()
    assert float(metric.result()) == 0.0
    with pytest.raises(ValueError, match=r"upper must be \[n, classes\]"):
        metric.update_state([0, 1], upper)


def test_frozen_layers_and_their_places():
    model = nets.dense(2)
    model.layers[1].trainable = False
    before = [layer.get_weights() for layer in model.layers]
    certified = rt.CertifiedModel(model, "ibp", EPS)
    certified.compile(keras.optimizers.SGD(0.1))
    certified.fit(nets.images(model, COUNT), Y, verbose=0)
    changed = [
        any((a != b).any() for a, b in zip(old, layer.get_weights(), strict=True))
        for old, layer in zip(before, model.layers, strict=True)
    ]
    assert changed == [True, False, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "best"}, "method must be one of robustra, wong, .*, natural, got 'best'"),
        ({"method": "robustra"}, "reference must be a model for method 'robustra'"),
        ({"reference": "model"}, "reference must be None for method 'ibp'"),
        ({"eps": 0.0}, "eps must be above 0 and at most 1, in pixels, got 0.0"),
        ({"eps": 8}, "eps must be above 0 and at most 1, in pixels, got 8"),
        ({"eps_train_ratio": 0.0}, "eps_train_ratio must be above 0, got 0.0"),
        ({"eps_train_ratio": 12.0}, "eps_train_ratio must lead to at most 1, in pixels, got 12.0"),
        ({"options": {"norm": "l2"}}, "norm must be one of linf, got 'l2'"),
        (
            {"options": {"norm": "l2"}, "method": "wong", "eps": 8},
            "at most 2.23607, in pixels, got 8",
        ),
        ({"options": {"inner": "best"}}, "inner must be one of dual, interval, mixed, crown"),
        ({"options": {"memory_mb": 0}}, "memory_mb must be above 0, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    def make(options=None, **others):
        return rt.CertifiedModel(nets.dense(2), options=StepOptions.of(**(options or {})), **others)

    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_what_compile_and_fit_cannot_do_is_named():
    certified = rt.CertifiedModel(nets.dense(2), "ibp", EPS)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    for arguments, message in (
        ({"loss": "mse"}, "loss must be left out: method 'ibp' brings its own"),
        ({"optimizer": scaled}, "optimizer must not scale the loss"),
    ):
        with pytest.raises(ValueError, match=message):
            certified.compile(**arguments)
    certified.compile("sgd")
    x = nets.images(certified.network, COUNT)
    for arguments, message in (
        ({"y": np.eye(2)[Y % 2]}, r"y must be one integer label per image"),
        ({"x": (255 * x).astype("uint8")}, r"x must be one tensor of floating-point pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            certified.fit(**{"x": x, "y": Y, "verbose": 0} | arguments)


def test_the_schedule_says_what_it_lacks():
    for arguments, message in (
        ({"warmup_epochs": -1}, "warmup_epochs must be at least 0, got -1"),
        ({"warmup_epochs": 1, "start": -0.1}, "start must be at least 0, in pixels, got -0.1"),
    ):
        with pytest.raises(ValueError, match=message):
            rt.EpsilonSchedule(**arguments)
    certified = rt.CertifiedModel(nets.dense(2), "natural", EPS)
    certified.compile("sgd")
    x = nets.images(certified.network, COUNT)
    plain = nets.dense(2)
    plain.compile("sgd", "mse")
    endless = tf.data.Dataset.from_generator(
        lambda: itertools.repeat((x, Y)),
        output_signature=(tf.TensorSpec((None, 5)), tf.TensorSpec((None,), tf.int64)),
    )
    for model, data, start, message in (
        (certified, (x, Y), 2 * EPS, "start must be at most eps_end 0.08, got 0.16"),
        (certified, (endless,), 0.0, "steps_per_epoch must be given to fit"),
        (plain, (x, Y), 0.0, "model must be a CertifiedModel, got Sequential"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(*data, callbacks=[rt.EpsilonSchedule(1, start)], verbose=0)
