"""Robustra's bound at a threshold that is given: the best eta, exclusion, gradients, the ramp."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize_scalar

import robustra_tf as rt
from robustra_tf.graph import Network, build
from robustra_tf.objective.robustra import EXCLUDED, ball_margins, literal, objective
from robustra_tf.objective.threshold import best
from robustra_tf.training import schedules
from robustra_tf.training.gradient import StepGradient
from robustra_tf.training.options import StepOptions
from tests import nets
from tests.test_objective_norms import ORDERS, RADII, cases
from train import run, workdir

Y = np.array([0, 1, 2], np.int32)
every_norm = pytest.mark.parametrize("norm", ORDERS)


@pytest.fixture(autouse=True, scope="module")
def eager():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@every_norm
@pytest.mark.parametrize("share", [-1.0, -0.4, 0.0, 0.3, 0.9, 1.0])
def test_the_best_point_has_the_level_and_is_worst_for_its_combination(rng, norm, share):
    nuhat, qhat = cases(rng)
    dual = np.linalg.norm(qhat, ORDERS[norm], axis=1)
    level = share * dual
    eta, worst = map(np.array, best(*map(tf.constant, (nuhat, qhat, level)), norm))
    assert (eta >= 0).all()
    assert np.isfinite(eta).all()
    primal = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    assert (np.linalg.norm(worst, primal, axis=1) <= 1 + 1e-12).all()
    reached = (worst * qhat).sum(1)
    scale = 1e-9 * (1 + dual)
    moved = np.abs(nuhat).max(1) > 0  # f's row is 0: any point is best
    assert (reached >= level - scale)[moved].all()
    np.testing.assert_allclose(reached[eta > 0], level[eta > 0], atol=1e-9 * (1 + dual.max()))
    if share < 1:  # where the level is only just reached, eta is as large as the type has it
        row = nuhat + eta[:, None] * qhat
        size = np.linalg.norm(row, ORDERS[norm], axis=1)
        np.testing.assert_allclose((worst * row).sum(1), size, atol=1e-9 * (1 + size.max()))


def test_many_pixels_in_float32(rng):
    for norm in ORDERS:
        nuhat, qhat = rng.normal(size=(2, 2, 10, 784))
        dual = np.linalg.norm(qhat, ORDERS[norm], axis=-1)
        parts = nuhat, qhat, 0.9 * dual
        exact = best(*(tf.constant(part) for part in parts), norm)
        found = best(*(tf.constant(part, tf.float32) for part in parts), norm)
        ours, theirs = ((e.worst.numpy() * nuhat).sum(-1) for e in (found, exact))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


class Sides:
    """Both duals of two tiny networks in float64, of which the classes may be moved."""

    def __init__(self, seed, norm="linf", raised=0.0, eps=None):
        self.graphs = [build(nets.dense(seed + k)) for k in (0, 40)]
        self.weights = [graph.weights(tf.float64) for graph in self.graphs]
        # A raised label of g: it excludes the other classes.
        bias = self.weights[1][-1]
        self.weights[1][-1] = bias + raised * tf.one_hot(0, nets.CLASSES, dtype=bias.dtype)
        self.x = tf.constant(nets.images(nets.dense(), 3, seed=seed), tf.float64)
        self.y, self.norm = tf.constant(Y * 0), norm
        self.eps = tf.constant(RADII[norm] if eps is None else eps, tf.float64)

    def duals(self, weights=None):
        options = rt.StepOptions.of(norm=self.norm).bounds
        ours = [weights or self.weights[0], self.weights[1]]
        return [
            ball_margins(Network(graph.structure, w), self.x, self.y, self.eps, options)
            for graph, w in zip(self.graphs, ours, strict=True)
        ]

    def found(self, lowered, weights=None):
        return objective(*self.duals(weights), self.eps, self.norm, lowered)


@functools.cache
def tightest(norm):
    """A reference raised so that for many targets the constraint cuts the ball."""
    every = (Sides(seed, norm, raised) for seed in (1, 2, 3) for raised in (-0.5, 0.0, 0.4, 0.8))
    return max(every, key=lambda sides: int((sides.found(1.0).eta > 0).numpy().sum()))


@every_norm
@pytest.mark.parametrize("lowered", [0.5, 1.0])
def test_the_bound_is_the_least_over_eta(norm, lowered):
    """Equation 8 as it stands, minimised by SciPy; without a minimum where it is excluded."""
    seen = set()
    for sides in (tightest(norm), Sides(3, norm, 2.0), Sides(3, norm, -2.0)):
        f, g = sides.duals()
        found = sides.found(lowered)
        t = ((1 - lowered) * found.t0).numpy()
        base, offset, nuhat, qhat = (p.numpy() for p in (f.base, g.base, f.rows, g.rows))
        own = literal(f, g, sides.eps, found.eta, tf.constant(t), norm).numpy()
        for i, k in np.ndindex(*t.shape):

            def h(eta, at=(i, k), parts=(base, offset, nuhat, qhat, t), eps=float(sides.eps)):
                """Equation 8 of one target."""
                base, offset, nu, q, t = (part[at] for part in parts)
                return base + eps * np.linalg.norm(nu + eta * q, ORDERS[norm]) + eta * (offset - t)

            assert bool(found.excluded[i, k]) == (h(1e6) < -1e4)
            if k == 0:
                assert found.h[i, k] == 0
            elif found.excluded[i, k]:
                assert found.h[i, k] == EXCLUDED
                assert found.eta[i, k] == 0
                seen.add("excluded")
            else:
                least = min(
                    minimize_scalar(
                        h, bounds=(0, end), method="bounded", options={"xatol": 1e-10}
                    ).fun
                    for end in (0.01, 1.0, 30.0)
                )
                assert found.h[i, k] <= least + 1e-9
                assert float(found.h[i, k]) == pytest.approx(own[i, k], abs=1e-9)
                seen.add("tight" if found.eta[i, k] > 0 else "free")
    assert seen == {"excluded", "tight", "free"}


def test_it_is_the_linear_programme_over_both_relaxations():
    """`max nuhat . d` under `qhat . d + offset >= 0` in the ball, by HiGHS."""
    sides = Sides(2, raised=0.7)
    f, g = sides.duals()
    found, bound = sides.found(1.0), [(-float(sides.eps), float(sides.eps))] * 5
    for i, k in np.ndindex(3, nets.CLASSES):
        solved = linprog(
            -f.rows[i, k].numpy(), [-g.rows[i, k].numpy()], [float(g.base[i, k])], bounds=bound
        )
        assert bool(found.excluded[i, k]) == (solved.status == 2)
        if solved.status == 0:
            assert float(found.h[i, k]) == pytest.approx(float(f.base[i, k]) - solved.fun, abs=1e-9)


@every_norm
def test_at_t0_the_middle_eta_is_the_best_one(norm):
    """The ramp begins where the paper's choice is."""
    sides = Sides(4, norm)
    middle, ramp = sides.found(0.0), sides.found(tf.constant(0.0))
    assert not ramp.excluded.numpy().any()
    np.testing.assert_allclose(ramp.h, middle.h, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ramp.eta, middle.eta, rtol=1e-9, atol=1e-9)


@every_norm
def test_along_the_ramp_the_bound_and_eta_go_one_way(norm):
    """The space grows where t0 is above 0 and shrinks where it is below."""
    signs = set()
    for sides in (tightest(norm), Sides(3, norm, -2.0)):
        parts = [sides.found(tf.constant(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
        sign = np.sign(parts[0].t0.numpy())
        signs |= set(sign.ravel())
        for one, other in itertools.pairwise(parts):
            assert ((other.h - one.h).numpy() * sign >= -1e-9).all()
            both = ~(one.excluded | other.excluded).numpy()
            assert ((other.eta - one.eta).numpy() * sign <= 1e-9)[both].all()
    assert signs == {-1, 0, 1}


@every_norm
@pytest.mark.parametrize("eps", [0.0, None])
def test_a_point_and_equal_networks_have_values_and_gradients(norm, eps):
    sides = Sides(1, norm, eps=eps)
    sides.weights[1] = sides.weights[0]
    with tf.GradientTape() as tape:
        tape.watch(sides.weights[0])
        found = sides.found(1.0)
        loss = tf.reduce_sum(tf.nn.softmax(found.h))
    for part in (*tf.nest.flatten(found), *tape.gradient(loss, sides.weights[0])):
        assert np.isfinite(part.numpy().astype(float)).all()
    # f itself cannot prefer the target where g does not.
    assert (found.excluded.numpy() == (found.wk < 0).numpy()).all()
    if eps == 0.0:
        np.testing.assert_allclose(found.h.numpy()[~found.excluded], found.wk[~found.excluded])


@every_norm
@pytest.mark.parametrize("lowered", [0.4, 1.0])
def test_the_gradient_is_the_slope_of_the_minimum(norm, lowered):
    """Central differences of the loss itself, whose `eta` is chosen anew at each point.

    Fixed are g, the threshold, and what is excluded.
    """
    sides = tightest(norm)
    rng = np.random.default_rng(0)
    weights = sides.weights[0]
    mixture = tf.constant(rng.normal(size=(3, nets.CLASSES)))
    direction = [tf.constant(rng.normal(size=w.shape)) for w in weights]
    fixed = sides.found(lowered)
    t = (1 - lowered) * fixed.t0

    def total(at):
        f, g = sides.duals(at)
        worst = best(f.rows, g.rows, (t - g.base) / sides.eps, norm).worst
        h = f.base + sides.eps * tf.reduce_sum(worst * f.rows, -1)
        return tf.reduce_sum(mixture * tf.where(fixed.excluded, tf.zeros_like(h), h))

    with tf.GradientTape() as tape:
        tape.watch(weights)
        found = sides.found(lowered, weights)
        value = tf.reduce_sum(mixture * tf.where(found.excluded, tf.zeros_like(mixture), found.h))
    gradient = tape.gradient(value, weights)
    assert ((found.eta > 0) & ~found.excluded).numpy().sum() >= 2
    step = 1e-6
    ends = [
        [w + sign * step * d for w, d in zip(weights, direction, strict=True)] for sign in (1, -1)
    ]
    slope = float(total(ends[0]) - total(ends[1])) / (2 * step)
    ours = sum(float(tf.reduce_sum(a * b)) for a, b in zip(gradient, direction, strict=True))
    assert ours == pytest.approx(slope, rel=1e-5)


def step(threshold, raised=0.0, **options):
    f, g = nets.dense(1), nets.dense(41)
    bias = g.layers[-1].bias
    bias.assign_add(raised * np.eye(nets.CLASSES)[0])
    options = StepOptions.of(threshold=threshold, **options)
    gradient = StepGradient(f, g, "robustra", options)
    x = tf.constant(nets.images(f, 4, seed=3))
    batch = gradient.problem.batch(x, tf.constant([0] * 4), tf.constant(0.05), (1, 2))
    return gradient, batch


SHARES = {"interval_share": 0.3, "attack_share": 0.3, "attack_steps": 2}


@pytest.mark.parametrize("options", [{}, {"inner": "mixed", **SHARES}, {"projection": 3}])
def test_what_the_reference_excludes_costs_nothing(options):
    """A reference that excludes every wrong class leaves no loss and no gradient."""
    gradient, batch = step("zero", 50.0, **options)
    found = gradient(*gradient.networks(), batch)
    ending = "_estimate" * bool(options.get("projection"))
    assert float(found.metrics[f"excluded{ending}"]) == 1.0
    assert float(found.metrics["loss"]) == 0.0
    for part in found.gradients:
        assert not part.numpy().any()
    gradient, batch = step("t0", 50.0, **options)
    found = gradient(*gradient.networks(), batch)
    assert float(found.metrics[f"excluded{ending}"]) == 0.0
    assert float(found.metrics["loss"]) > 0.01


@pytest.mark.parametrize("inner", ["dual", "interval", "mixed"])
def test_a_ramp_goes_from_the_one_to_the_other(inner):
    ends = {}
    for name in ("t0", "zero", "ramp"):
        gradient, batch = step(name, 0.3, inner=inner)
        for lowered in (0.0, 1.0):
            there = batch._replace(lowered=tf.constant(lowered))
            found = gradient(*gradient.networks(), there)
            ends[name, lowered] = [float(found.metrics["loss"]), float(found.metrics["excluded"])]
    assert ends["t0", 0.0] == ends["t0", 1.0]
    assert ends["ramp", 0.0] == pytest.approx(ends["t0", 0.0], rel=1e-5)
    assert ends["ramp", 1.0] == pytest.approx(ends["zero", 1.0], rel=1e-6)
    assert ends["zero", 0.0] == ends["zero", 1.0] != ends["t0", 0.0]


def test_the_weight_of_agreement_is_that_of_the_clean_loss():
    gradient, batch = step("zero", 50.0, agreement_weight=0.25)
    found = gradient(*gradient.networks(), batch)
    logits = gradient.model(batch.x)
    clean = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(batch.y, logits)
    assert float(found.metrics["loss"]) == pytest.approx(0.25 * float(clean), rel=1e-5)
    assert any(part.numpy().any() for part in found.gradients)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 20), st.integers(1, 40), st.floats(0, 60))
def test_the_ramp_lies_between_the_warm_up_and_the_middle_of_the_rest(warmup, rest, epochs):
    found = schedules.lowered(epochs, warmup, warmup + rest)
    assert 0 <= found <= 1
    assert (found == 0) == (epochs <= warmup)
    assert (found == 1) == (epochs >= warmup + 0.5 * rest) or np.isclose(found, 1)


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="threshold must be one of t0, zero, ramp, got 'one'"):
        rt.LossOptions(threshold="one")
    with pytest.raises(ValueError, match="agreement_weight must be at least 0"):
        rt.LossOptions(agreement_weight=-0.1)
    for name, value in (("threshold", "zero"), ("agreement_weight", 0.5)):
        with pytest.raises(ValueError, match=f"{name} must be .* for method 'wong'"):
            StepGradient(nets.dense(1), None, "wong", StepOptions.of(**{name: value}))
        with pytest.raises(ValueError, match=f"--{name}: expected .* with --method=wong"):
            workdir.open_run({"method": "wong", name: value}, False)


def test_a_run_trains_for_the_pair(tmp_path):
    """The share that is excluded is in the history, and 0 until the ramp begins."""
    flags = {"threshold": "ramp", "agreement_weight": 0.2, "inner": "interval", "epochs": 3}
    flags |= {"eps": 0.02, "eps_warmup_epochs": 1, "batch_size": 8, "lr": 0.02}
    config, _ = workdir.open_run(flags | {"workdir": str(tmp_path / "run")}, False)
    plan = run.training_plan(config)
    assert plan.options.losses.threshold == "ramp"
    assert plan.options.losses.agreement_weight == 0.2
    with pytest.raises(ValueError, match=r"--epochs: expected 3.*a threshold on a ramp"):
        workdir.open_run({"workdir": str(tmp_path / "run"), "epochs": 4}, True)
    f, g = nets.shallow(1), nets.shallow(2)
    x = nets.images(f, 24)
    examples = rt.data.Dataset(x, (x[:, 0] > x[:, 1]).astype(np.int32))
    history = rt.train_pair(f, g, examples, plan, workdir=tmp_path / "pair")
    for name in "fg":
        assert history.series("excluded", name)[0] == 0
        assert history.series("excluded", name)[-1] > 0
    header = (tmp_path / "pair" / "history.csv").read_text().splitlines()[0]
    assert "excluded" in header.split(",")
    assert not plan.prolongs(2)
