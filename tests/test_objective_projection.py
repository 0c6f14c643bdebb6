"""Projections in the objective and the step: gradients, seeds, and what estimates are called."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from robustra_tf import certify
from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.enclosure import Enclosure
from robustra_tf.bounds.margins import Margins
from robustra_tf.bounds.projection import Estimate, Projection, estimate, margin_estimates
from robustra_tf.certificates.certificate import Certificate
from robustra_tf.graph import build
from robustra_tf.objective.layer import DualObjective
from robustra_tf.objective.robustra import Objective, ObjectiveEstimate, ball_margins, objective
from robustra_tf.training.gradient import StepGradient
from robustra_tf.training.options import StepOptions
from robustra_tf.training.problem import solve
from robustra_tf.training.step import TrainStep
from tests import nets
from tests.oracles import assert_close

EPS = 0.1
SEED = tf.constant([3, 5])
ROOT = Path(__file__).resolve().parents[1]


class Posed:
    """A problem with projections in float64, its weights and a batch."""

    def __init__(self, name="two_conv", norm="linf", method="robustra"):
        builder = nets.ALL[name]
        self.models = builder(2), builder(12)
        reference = self.models[1] if method == "robustra" else None
        options = StepOptions.of(norm=norm, projection=5)
        posed = StepGradient(self.models[0], reference, method, options)
        self.problem, self.other = posed.problem, posed.reference
        self.network = posed.graph.network(tf.float64)
        self.weights = self.network.weights
        self.x = tf.constant(nets.images(self.models[0], 3, seed=5), tf.float64)
        self.y = tf.constant([0, 1, 2])
        self.eps = tf.constant(0.05, tf.float64)

    def solved(self, weights, seed=SEED):
        reference, batch = None, self.problem.batch(self.x, self.y, self.eps, seed)
        if self.other is not None:
            reference = self.problem.dual(self.other.network(tf.float64), batch, 1)
        return solve(self.problem, self.network.with_weights(weights), reference, batch)


@pytest.mark.parametrize(("name", "norm"), [("two_conv", "linf"), ("residual", "l2")])
def test_gradient_with_projections_is_the_slope(rng, name, norm):
    """Central differences of WK's loss; for Robustra's the slack variable would have to be held."""
    posed = Posed(name, norm, "wong")
    direction = [rng.normal(size=w.shape) for w in posed.weights]
    with tf.GradientTape() as tape:
        tape.watch(posed.weights)
        loss = tf.reduce_sum(posed.solved(posed.weights).each)
    gradient = tape.gradient(loss, posed.weights)
    found = sum(float(tf.reduce_sum(a * b)) for a, b in zip(gradient, direction, strict=True))
    step, ends = 1e-7, []
    for move in (step, -step):
        moved = [w + move * d for w, d in zip(posed.weights, direction, strict=True)]
        ends.append(float(tf.reduce_sum(posed.solved(moved).each)))
    assert found == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("projection", [0, 5])
def test_a_model_with_skip_connections_learns(projection):
    model, reference = nets.residual(2), nets.residual(12)
    optimizer = keras.optimizers.Adam(0.01)
    options = StepOptions.of(projection=projection)
    step = TrainStep(model, reference, optimizer, options=options)
    x, y = nets.images(model, 6), np.array([0, 1, 2, 0, 1, 2])
    eps = tf.constant(0.01)
    losses = [float(step(x, y, eps, tf.constant([0, k]))["loss"]) for k in range(15)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert step.traces == 1


@pytest.fixture(scope="module")
def resting():
    """Metrics of three steps that change nothing, and of the same in pieces."""
    found = []
    for memory in (768, 1e-3):
        model, reference = nets.dense(2), nets.dense(12)
        optimizer = keras.optimizers.SGD(0.0)
        options = StepOptions.of(projection=4, memory_mb=memory)
        step = TrainStep(model, reference, optimizer, options=options)
        x, y = nets.images(model, 5), np.array([0, 1, 2, 0, 1])
        taken = [step(x, y, tf.constant(0.1), tf.constant([9, k])) for k in (0, 1, 1)]
        found.append([{k: float(v) for k, v in one.items()} for one in taken])
        assert step.traces == 1
    return found


def test_every_seed_draws_its_own_vectors_and_pieces_share_them(resting):
    whole, pieces = resting
    losses = [one["loss"] for one in whole]
    assert losses[0] != losses[1] == losses[2], "equal seeds, equal vectors"
    for one, other in zip(whole, pieces, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_the_two_networks_have_vectors_of_their_own():
    posed = Posed()
    batch = posed.problem.batch(posed.x, posed.y, posed.eps, SEED)
    one, two = (posed.problem.dual(posed.network, batch, k) for k in (0, 1))
    assert (one.value != two.value).numpy().any()


# Names and types


def test_metrics_of_a_step_are_called_estimates(resting):
    names = set(resting[0][0])
    plain = {"loss", "clean_error", "grad_norm", "eta", "t0"}
    assert plain <= names
    assert all("_estimate" in name for name in names - plain)
    assert {"robust_error_estimate", "wk_error_estimate", "unstable_estimate/1"} <= names


def test_what_is_projected_is_of_no_bounds_type():
    posed = Posed()
    solved = posed.solved(posed.weights)
    assert solved.upper is None, "a step that projects has bounded nothing"
    batch = posed.problem.batch(posed.x, posed.y, posed.eps, SEED)
    f = posed.problem.dual(posed.network, batch, 0)
    assert not isinstance(f, Margins)
    assert not isinstance(f.inner, Enclosure)
    assert not {"upper", "enclosure", "bounds"} & {*dir(f), *dir(Estimate)}
    exact = ball_margins(posed.network, posed.x, posed.y, posed.eps)
    kinds = {
        (one is exact, other is exact): type(objective(one, other, posed.eps))
        for one in (f, exact)
        for other in (f, exact)
    }
    assert {kind for both, kind in kinds.items() if all(both)} == {Objective}
    assert {kind for both, kind in kinds.items() if not all(both)} == {ObjectiveEstimate}
    assert not issubclass(ObjectiveEstimate, Objective)


def test_layer_with_projections_gives_an_estimate_by_steps():
    layer = DualObjective(nets.dense(2), nets.dense(12), eps=EPS, projection=4)
    x, y = nets.images(layer.f, 2), np.array([0, 1])
    for seed in (0, 1):  # 0 is that of a layer that is not told any
        same = DualObjective(layer.f, layer.g, eps=EPS, projection=4, seed=seed)
        assert (same(x, y, step=0).h == layer(x, y, step=0).h).numpy().all() == (seed == 0)
    found, again, other = (layer(x, y, step=k) for k in (0, 0, 1))
    assert isinstance(found, ObjectiveEstimate)
    np.testing.assert_array_equal(found.h, again.h)
    assert (found.h != other.h).numpy().any()
    assert layer._compiled.experimental_get_tracing_count() == 1
    terms = layer.diagnostics(x, y, step=0)
    assert all(name.endswith("_estimate") for name in terms)
    assert_close(terms["literal_estimate"], terms["h_estimate"], 1e-4)
    with pytest.raises(ValueError, match="step must be a number with projection=4, got None"):
        layer(x, y)
    with pytest.raises(ValueError, match="step must be None with projection=0, got 3"):
        DualObjective(layer.f, eps=EPS)(x, y, step=3)


def test_nothing_that_certifies_can_project():
    """No module of certificates, evaluation, export or exact verification knows of projections."""
    allowed = {
        "bounds/projection.py",
        "objective/layer.py",
        "objective/robustra.py",
        "training/batch_pieces.py",
        "training/problem.py",
        "training/microbatches.py",
    }
    users = set()
    for path in sorted((ROOT / "robustra_tf").rglob("*.py")) + sorted((ROOT / "eval").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.keyword) and node.arg == "projection":
                names.append("projection")
            if any("projection" in name for name in names):
                users.add(path.relative_to(ROOT / "robustra_tf").as_posix())
    assert users - allowed == set()
    model = nets.dense()
    x = nets.images(model, 1)
    with pytest.raises(TypeError, match="projection"):
        certify(model, x, [0], EPS, projection=50)
    network = build(model).network()
    region, vectors = ball(tf.constant(x), EPS), Projection(4, SEED)
    found = margin_estimates(network, region, tf.constant([0]), vectors)
    with pytest.raises(TypeError, match="array of lower bounds, got MarginEstimate"):
        Certificate(found, np.array([0]), np.array([0]), EPS, "linf", None, "dual", "float32")


def test_what_cannot_be_projected_is_refused():
    model = nets.dense()
    network = build(model).network()
    region = ball(tf.constant(nets.images(model, 1)), EPS, "l1")
    with pytest.raises(ValueError, match=r"projection must be 0 for norm 'l1'.* got 5"):
        estimate(network, region, Projection(5, SEED))
    with pytest.raises(ValueError, match="projection must be at least 1, got 0"):
        estimate(network, region, Projection(0, SEED))
    with pytest.raises(ValueError, match="projection must be at least 0, got -1"):
        DualObjective(model, projection=-1)
    optimizer = keras.optimizers.SGD(0.1)
    with pytest.raises(ValueError, match="projection must be 0 for method 'ibp'"):
        TrainStep(model, None, optimizer, "ibp", options=StepOptions.of(projection=5))
    with pytest.raises(ValueError, match=r"projection must be 0 .* by 'interval', got 5"):
        TrainStep(
            model, None, optimizer, "wong", options=StepOptions.of(projection=5, inner="interval")
        )
    with pytest.raises(ValueError, match="norm must be one of linf, got 'l2'"):
        TrainStep(model, None, optimizer, "ibp", options=StepOptions.of(norm="l2"))
