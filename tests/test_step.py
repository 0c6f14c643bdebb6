"""The training step: gradient and update against a plain computation, traces, metrics."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.bounds.cost import example_bytes
from robustra_tf.graph import Network, build
from robustra_tf.objective.losses import robust_cross_entropy, robust_error
from robustra_tf.objective.robustra import ball_margins, objective
from robustra_tf.training import methods
from robustra_tf.training.batch_pieces import examples_together
from robustra_tf.training.gradient import StepGradient
from robustra_tf.training.microbatches import gradients
from robustra_tf.training.options import StepOptions
from robustra_tf.training.step import TrainStep
from tests import nets, oracle_nets, oracles
from tests.oracles import assert_close

pytestmark = pytest.mark.usefixtures("eagerly")

COUNT, EPS, LR = 5, 0.05, 0.1
Y = np.array([0, 1, 2, 0, 1])
TINY = 1e-3  # MiB: less than one example needs
METHODS = ("natural", "wong", "robustra")


# A trace of the convolutional pair takes seconds: one method has it, the others the dense pair.
BUILDERS = {"natural": nets.dense, "wong": nets.dense, "robustra": nets.two_conv}


def networks(builder):
    return builder(2), builder(12)


def images(model):
    return nets.images(model, COUNT, seed=4)


def make(method, builder=None, **options):
    """A step by plain gradient descent, its model and its reference."""
    model, reference = networks(builder or BUILDERS[method])
    optimizer = keras.optimizers.SGD(LR)
    other = reference if method == "robustra" else None
    step = TrainStep(model, other, optimizer, method, options=StepOptions.of(**options))
    return step, model, reference


def plain(method, model, reference):
    """The mean loss over the batch, its gradient, and the objective, without any splitting."""
    graph, eps = build(model), tf.constant(EPS)
    weights, x, y = graph.weights(), tf.constant(images(model)), tf.constant(Y, tf.int32)
    found = None
    with tf.GradientTape() as tape:
        tape.watch(weights)
        h = graph.structure.forward(weights, x)
        if method != "natural":
            f = ball_margins(Network(graph.structure, weights), x, y, eps)
            g = None
            if method == "robustra":
                g = ball_margins(build(reference).network(), x, y, eps)
            found = objective(f, g, eps)
            h = found.h
        loss = tf.reduce_mean(robust_cross_entropy(h, y))
    return loss, tape.gradient(loss, weights), found


@pytest.fixture(scope="module", params=METHODS)
def taken(request):
    """One step of each method: what it started from, what came of it, what it reported."""
    step, model, reference = make(request.param)
    expected = plain(request.param, model, reference)
    before = [model.get_weights(), reference.get_weights()]
    found = step(images(model), Y, tf.constant(EPS))
    metrics = {name: float(value) for name, value in found.items()}
    after = [model.get_weights(), reference.get_weights()]
    return request.param, expected, before, after, metrics


def test_step_descends_the_gradient(taken):
    _, (_, gradient, _), before, after, _ = taken
    for old, new, slope in zip(before[0], after[0], gradient, strict=True):
        assert_close((old - new) / LR, slope, 1e-3)
    for old, new in zip(before[1], after[1], strict=True):
        np.testing.assert_array_equal(old, new)


def test_step_reports_the_batch(taken):
    method, (loss, gradient, found), _, _, metrics = taken
    expected = {"loss": loss, "grad_norm": tf.linalg.global_norm(gradient)}
    model, _ = networks(BUILDERS[method])
    predicted = model(images(model)).numpy().argmax(1)
    expected["clean_error"] = np.mean(predicted != Y)
    others = np.arange(nets.CLASSES) != Y[:, None]

    def mean(value):
        return np.asarray(value, float)[others].mean()

    if method != "natural":
        expected["robust_error"] = np.mean(robust_error(found.h, Y))
        expected["wk_error"] = np.mean(robust_error(found.wk, Y))
        assert metrics["robust_error"] <= metrics["wk_error"]
    if method == "robustra":
        expected |= {"eta": mean(found.eta), "t0": mean(found.t0), "excluded": 0.0}
        for name in ("infeasible", "tight", "loose"):
            expected[name] = mean(getattr(found.tightness, name))
        assert metrics["infeasible"] + metrics["tight"] + metrics["loose"] == pytest.approx(1.0)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-3, abs=1e-5), name
    assert {name for name in metrics if "unstable" not in name} == set(expected)


def test_unstable_fractions_are_those_of_the_oracle(taken):
    """A layer's fraction is the mean over images; plain training bounds nothing, so has none."""
    method, _, _, _, metrics = taken
    model, _ = networks(BUILDERS[method])
    net, expected = oracle_nets.of_model(model), {}
    found = [oracles.enclose(net, x, EPS) for x in images(model)]
    for k in range(0 if method == "natural" else len(net.relus)):
        shares = [((one.lower[k] < 0) & (one.upper[k] > 0)).mean() for one in found]
        expected[f"unstable/{k + 1}"] = np.mean(shares)
    reported = {name: value for name, value in metrics.items() if name.startswith("unstable/")}
    assert reported == pytest.approx(expected, abs=1e-6)
    assert method == "natural" or sum(reported.values()) > 0


def test_splitting_the_batch_changes_nothing(taken):
    """Some examples at a time, in slices of rows, their gradients added up.

    The convolutional pair goes by single examples; the dense one by two, which leaves the last of
    the five alone.
    """
    method, _, _, after, metrics = taken
    if method == "wong":
        structure = build(networks(nets.dense)[0]).structure
        memory = 2.5 * example_bytes(structure) / 2**20
        assert COUNT % 2
    else:
        memory = TINY
    step, model, _ = make(method, memory_mb=memory)
    start = model.get_weights()
    split = step(images(model), Y, tf.constant(EPS))
    assert set(split) == set(metrics)
    for name, value in split.items():
        assert float(value) == pytest.approx(metrics[name], rel=1e-3, abs=1e-5), name
    for ours, whole, old in zip(model.get_weights(), after[0], start, strict=True):
        assert_close(ours - old, whole - old, 1e-3)


@pytest.mark.parametrize("method", methods.METHODS)
def test_microbatches_have_the_gradient_of_the_whole_batch(method):
    """Every method in float64: of the mean loss and, midway along the ramp, of its regulariser."""
    model, reference = networks(nets.dense)
    other = reference if method == "robustra" else None
    shares = {"share": 0.3, "clean_share": 0.4, "interval_share": 0.2, "attack_share": 0.2}
    options = StepOptions.of(regulariser=0.5, eps_end=2 * EPS, **shares)
    posed = StepGradient(model, other, method, options)
    problem, network = posed.problem, posed.graph.network(tf.float64)
    against = None if other is None else posed.reference.network(tf.float64)
    x, y = tf.constant(images(model), tf.float64), tf.constant(Y, tf.int32)

    def taken(together):
        eps = tf.constant(EPS, tf.float64)
        batch = problem.batch(x, y, eps, (3, 4))
        return gradients(problem, network, against, batch, together)

    whole, measured = taken(COUNT)
    assert float(tf.linalg.global_norm(whole)) > 0.1
    # Pieces of two, of which the last is filled up; in a graph, where a loop goes over them.
    found, numbers = tf.function(taken, autograph=False)(examples_together(problem, 1e3, 2))
    for ours, expected in zip(found, whole, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)
    for name, value in measured.items():
        np.testing.assert_allclose(numbers[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_microbatch_is_a_limit_beside_the_memorys():
    model, _ = networks(nets.dense)
    for method in ("wong", "ibp", "natural"):
        problem = StepGradient(model, None, method).problem
        free = examples_together(problem, 1000.0)
        assert examples_together(problem, 1000.0, 3) == 3
        assert examples_together(problem, 1000.0, 10**6) == min(free, 10**6)
    assert examples_together(StepGradient(model, None, "wong").problem, TINY, 3) == 1
    assert make("natural", nets.dense, microbatch=2)[0]._gradient.together == 2


@pytest.mark.traced
def test_one_trace_serves_a_schedule_and_lowers_the_loss():
    """Radius and learning rate change from step to step, the weights of both networks too."""
    step, model, reference = make("robustra", nets.dense)
    x = images(model)
    first = float(step(x, Y, tf.constant(0.02))["loss"])
    weights = model.get_weights()
    step._optimizer.learning_rate = 0.0
    step(x, Y, tf.constant(0.1))
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)  # the learning rate was read
    step._optimizer.learning_rate = 0.05
    reference.set_weights([1.1 * w for w in reference.get_weights()])
    losses = [float(step(x, Y, tf.constant(0.02))["loss"]) for _ in range(15)]
    assert step.traces == 1
    assert min(losses[-3:]) < first
    larger = float(step(x, Y, tf.constant(0.2))["loss"])
    assert larger > losses[-1]  # the radius was read
    assert step.traces == 1


def test_clipping_and_decay():
    model, _ = networks(nets.dense)
    _, gradient, _ = plain("natural", model, None)
    norm = float(tf.linalg.global_norm(gradient))
    step, model, _ = make("natural", clip_norm=norm / 4, weight_decay=0.01)
    before = model.get_weights()
    metrics = step(images(model), Y, tf.constant(EPS))
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-4)
    for old, new, slope in zip(before, model.get_weights(), gradient, strict=True):
        np.testing.assert_allclose(
            (old - new) / LR, slope / 4 + 0.01 * old, rtol=1e-3, atol=1e-4 * norm
        )


@pytest.mark.parametrize("where", ["image", "radius"])
@pytest.mark.traced
def test_what_is_not_finite_changes_neither_weights_nor_optimizer(where):
    """Whether the loss or only the gradient is poisoned; the next good step is as if without."""
    model, _ = networks(nets.dense)
    optimizer = keras.optimizers.Adam(0.01)
    step = TrainStep(model, None, optimizer, "wong", options=StepOptions(clip_norm=1.0))
    x = images(model)
    step(x, Y, tf.constant(EPS))
    before = [v.numpy() for v in (*model.variables, *optimizer.variables)]
    poisoned = x.copy()
    if where == "image":
        poisoned.flat[3] = np.nan
    metrics = step(poisoned, Y, tf.constant(np.inf if where == "radius" else EPS))
    assert not (np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"]))
    after = [v.numpy() for v in (*model.variables, *optimizer.variables)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    good = step(x, Y, tf.constant(EPS))
    assert np.isfinite(good["loss"])
    assert any((v.numpy() != old).any() for v, old in zip(model.variables, before, strict=False))
    assert step.traces == 1


def test_frozen_layers_stay():
    model, reference = networks(nets.dense)
    frozen = model.layers[1]
    frozen.trainable = False
    before = [w.numpy() for w in frozen.weights]
    step = TrainStep(model, reference, keras.optimizers.Adam(0.01), "robustra")
    start = model.get_weights()
    step(images(model), Y, tf.constant(EPS))
    for old, new in zip(before, frozen.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    assert any((a != b).any() for a, b in zip(start, model.get_weights(), strict=True))


def test_bad_arguments_are_named():
    model, reference = networks(nets.dense)
    optimizer = keras.optimizers.SGD(LR)
    with pytest.raises(ValueError, match=r"method must be one of robustra, wong, .*, got 'x'"):
        TrainStep(model, None, optimizer, "x")
    with pytest.raises(ValueError, match="reference must be a model for method 'robustra'"):
        TrainStep(model, None, optimizer, "robustra")
    with pytest.raises(ValueError, match="reference must be None for method 'wong'"):
        TrainStep(model, reference, optimizer, "wong")
