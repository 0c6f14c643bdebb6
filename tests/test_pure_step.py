"""The step as a pure function: compiled by XLA, it does what the ordinary step does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robustra_tf as rt
from robustra_tf.training import optimizers as rules
from robustra_tf.training.gradient import StepGradient
from robustra_tf.training.options import StepOptions
from robustra_tf.training.pure_step import PureStep
from robustra_tf.training.step import TrainStep
from tests import nets

pytestmark = pytest.mark.usefixtures("unoptimised")

# What the exported step must agree within.
AGREEMENT = {"rtol": 1e-4, "atol": 1e-4}
# Radius and learning rate of each step: both change on the way.
SCHEDULE = ((0.02, 0.01), (0.05, 0.005), (0.04, 0.002))

CASES = {
    "adam, clipped, decayed, against a reference": (
        nets.dense,
        lambda: keras.optimizers.Adam(0.5),
        "robustra",
        {"clip_norm": 0.5, "weight_decay": 0.05, "norm": "l1", "microbatch": 2},
    ),
    "momentum, alone": (
        nets.dense,
        lambda: keras.optimizers.SGD(0.5, momentum=0.9),
        "wong",
        {"weight_decay": 0.01},
    ),
}

#: Every kind of loss, norm and inner bounds that a step takes beside those above.
OTHERS = {
    "crown_ibp": {"regulariser": 0.5, "clean_share": 0.3, "eps_end": 0.1},
    "cc_ibp": {"share": 0.3, "eps_end": 0.1, "attack_steps": 2, "attack_ratio": 1.5, "l1": 0.01},
    "exp_ibp": {"share": 0.3, "eps_end": 0.1, "attack_steps": 2, "microbatch": 2},
    "sabr": {"regulariser": 0.5, "share": 0.3, "eps_end": 0.1, "attack_steps": 2, "microbatch": 2},
    "wong": {"inner": "mixed", "interval_share": 0.3, "attack_share": 0.3, "attack_steps": 2},
    # The radius is halfway: the threshold too.
    "robustra, ramp": {"threshold": "ramp", "eps_end": 0.1, "agreement_weight": 0.3},
    # Its vectors too are XLA's own: both are compiled by it.
    "wong, projected": {"norm": "l2", "projection": 3, "rows": "every"},
}


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def runs(request):
    """Both steps along one schedule: (pure step, its networks and metrics, the ordinary step's)."""
    make, optimizer, method, options = request.param
    f, g = make(seed=2), make(seed=5) if method == "robustra" else None
    rng = np.random.default_rng(0)
    x = tf.constant(rng.uniform(size=(5, *f.input_shape[1:])), tf.float32)
    y = tf.constant(rng.integers(0, nets.CLASSES, size=5), tf.int32)

    options = StepOptions.of(**options)
    pure = PureStep(f, g, optimizer(), method, options=options)
    begin, reference = pure.state(), pure.reference()
    state, metrics = begin, []
    for eps, lr in SCHEDULE:
        state, found = pure(state, x, y, reference, tf.constant(eps), tf.constant(lr))
        metrics.append({name: float(value) for name, value in found.items()})
    untouched = all(
        np.array_equal(a, b) for a, b in zip(begin.weights, pure.state().weights, strict=True)
    )

    ordinary_optimizer = optimizer()
    ordinary = TrainStep(f, g, ordinary_optimizer, method, options=options)
    expected = []
    for eps, lr in SCHEDULE:
        ordinary_optimizer.learning_rate.assign(lr)
        expected.append({k: float(v) for k, v in ordinary(x, y, tf.constant(eps)).items()})
    return {
        "pure": pure,
        "begin": begin,
        "untouched": untouched,
        "weights": state.weights,
        "state": state.optimizer,
        "metrics": metrics,
        "model": f,
        "optimizer": ordinary_optimizer,
        "expected": expected,
    }


# Slow: XLA compiles a step of each, some seconds.
@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_method_norm_and_option_has_a_pure_step(name):
    """Random starts are XLA's own: the ordinary gradient is given the same ones."""
    method, options = name.split(",")[0], StepOptions.of(**OTHERS[name])
    f, g = nets.dense(2), nets.dense(5) if method == "robustra" else None
    x = tf.constant(nets.images(f, 5, seed=4), tf.float32)
    y, eps, seed = tf.constant([0, 1, 2, 0, 1]), tf.constant(0.05), tf.constant([3, 4])
    pure = PureStep(f, g, keras.optimizers.SGD(0.5), method, options=options)
    begin, arguments = pure.state(), (x, y, pure.reference(), eps, tf.constant(0.5))
    state, metrics = pure(begin, *arguments, seed)
    other = pure(begin, *arguments, seed=(3, 5))[1]
    assert pure.traces == 1
    gradient = StepGradient(f, g, method, options)
    problem = gradient.problem
    random = problem.attacks or options.bounds.projection
    assert (float(other["loss"]) != float(metrics["loss"])) == bool(random)
    batch = problem.batch(x, y, eps, seed)
    if problem.attacks:
        draw = tf.function(lambda seed: problem.batch(x, y, eps, seed).draw, jit_compile=True)
        batch = batch._replace(draw=draw(seed))
    step = gradient
    if options.bounds.projection:
        step = tf.function(gradient, jit_compile=True, autograph=False)
    expected = step(*gradient.networks(), batch)
    assert metrics.keys() == expected.metrics.keys()
    for key, value in expected.metrics.items():
        np.testing.assert_allclose(metrics[key], value, err_msg=key, **AGREEMENT)
    for got, old, slope in zip(state.weights, begin.weights, expected.gradients, strict=True):
        np.testing.assert_allclose(got, old - 0.5 * slope, **AGREEMENT)


def test_a_pure_step_that_is_not_finite_leaves_the_state_as_it_was():
    f = nets.dense(2)
    pure = PureStep(f, None, keras.optimizers.Adam(0.5), "natural")
    x, y = nets.images(f, 2), tf.constant([0, 1])
    x[0] = np.nan
    begin = pure.state()
    numbers = tf.constant(0.05), tf.constant(0.5)
    state, metrics = pure(begin, tf.constant(x), y, pure.reference(), *numbers)
    assert not np.isfinite(metrics["loss"])
    for old, new in zip(tf.nest.flatten(begin), tf.nest.flatten(state), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_pure_step_agrees_with_the_ordinary_one(runs):
    expected = [variable.numpy() for variable in runs["model"].trainable_variables]
    for got, want, before in zip(runs["weights"], expected, runs["begin"].weights, strict=True):
        np.testing.assert_allclose(got, want, **AGREEMENT)
        # Were the steps too short to tell, agreement would mean nothing.
        assert np.abs(want - before).max() > 1e-3
    for got, want in zip(runs["metrics"], runs["expected"], strict=True):
        assert got.keys() == want.keys()
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, err_msg=name, **AGREEMENT)


def test_the_pure_state_is_the_optimizers(runs):
    expected = rules.state(runs["optimizer"])
    assert int(runs["state"][0]) == len(SCHEDULE)
    for got, want in zip(runs["state"], expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, **AGREEMENT)


def test_the_pure_step_is_traced_once_and_touches_no_variable(runs):
    assert runs["pure"].traces == 1
    assert runs["untouched"]


def test_the_pure_step_captures_nothing(runs):
    (traced,) = runs["pure"].function._list_all_concrete_functions()
    assert not traced.captured_inputs
    assert not list(traced.graph.variables)


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adam(0.1, beta_1=0.8, beta_2=0.95, epsilon=1e-3),
        keras.optimizers.SGD(0.1, momentum=0.7),
        keras.optimizers.SGD(0.1),
        keras.optimizers.AdamW(0.1, weight_decay=0.3),
        rt.RAdam(0.1, beta_2=0.7),
        keras.optimizers.SGD(0.1, momentum=0.7, use_ema=True, ema_momentum=0.8),
        rt.RAdam(0.1, use_ema=True, ema_momentum=0.8),
    ],
    ids=["adam", "momentum", "plain", "adamw", "radam", "averaged", "radam, averaged"],
)
def test_the_rules_update_as_keras_does(optimizer, rng):
    shapes = [(3, 2), (2,)]
    variables = [keras.Variable(rng.normal(size=shape), dtype="float32") for shape in shapes]
    optimizer.build(variables)
    rule = rules.rule(optimizer)
    weights, state = [tf.convert_to_tensor(v.value) for v in variables], rules.state(optimizer)
    for lr in (0.1, 0.02, 0.3, 0.1, 0.2, 0.1):
        gradients = [tf.constant(rng.normal(size=shape), tf.float32) for shape in shapes]
        optimizer.learning_rate.assign(lr)
        optimizer.apply(gradients, variables)
        weights, state = rules.updated(rule, gradients, weights, state, tf.constant(lr))
        for got, want in zip(
            [*weights, *state], [*variables, *rules.state(optimizer)], strict=True
        ):
            np.testing.assert_allclose(got, np.asarray(want), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (keras.optimizers.RMSprop(), "one of Adam, AdamW, RAdam, SGD, got RMSprop"),
        (keras.optimizers.Adam(amsgrad=True), "amsgrad"),
        (keras.optimizers.SGD(momentum=0.9, nesterov=True), "nesterov"),
        (keras.optimizers.SGD(clipnorm=1.0), "clipnorm"),
    ],
    ids=["another", "amsgrad", "nesterov", "clipnorm"],
)
def test_an_optimizer_without_a_pure_form_is_refused(optimizer, message):
    with pytest.raises(ValueError, match=message):
        rules.rule(optimizer)


def test_a_state_of_another_optimizer_is_refused():
    weights = [tf.zeros(3)]
    adam = rules.Rule(rules.Adam(0.9, 0.999, 1e-7))
    with pytest.raises(ValueError, match="state must hold 3 tensors"):
        rules.updated(adam, weights, weights, [tf.constant(0), *weights], 0.1)


@pytest.mark.parametrize(
    ("method", "reference", "message"),
    [
        ("robust", None, "method must be one of"),
        ("robustra", None, "reference must be a model"),
        ("wong", nets.dense, "reference must be None"),
    ],
)
def test_a_pure_step_without_sense_is_refused(method, reference, message):
    with pytest.raises(ValueError, match=message):
        PureStep(nets.dense(), reference and reference(), keras.optimizers.SGD(), method)
