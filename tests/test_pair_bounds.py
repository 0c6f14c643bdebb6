"""Joint bounds of two networks: the best mix against HiGHS, and against points of the ball.

The linear programme holds both relaxed networks on one input and asks how far both can prefer the
target at once: by duality the least bound over all mixes. It knows nothing of mixes, tangents or
backward passes.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import robustra_tf as rt
from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.crown import affine_margins, strips
from robustra_tf.bounds.joint import joint_margins
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.mix import Affine, least_mixed
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.graph import build
from tests import nets, oracle_nets, oracles
from tests.oracle_lp import Programme
from tests.points import corners, project
from tests.test_bounds_lp import BALLS, EXACT, OTHERS, ROWS, Y, relaxed

MODEST = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True, scope="module")
def eager():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


OPTIONS, LABEL = BoundOptions("every"), tf.constant([Y])


def even(model, rival, x, y, eps, norm="linf", box=None):
    """Moves the biases of `model` so that both networks' margins are alike: a mix pays there."""
    ours, theirs = (
        rt.margin_bounds(each, x, y, eps, norm=norm, box=box)[0] for each in (model, rival)
    )
    bias = model.layers[-1].bias
    bias.assign_add(ours - theirs)


@pytest.mark.parametrize("name", ["dense", "conv"])
@pytest.mark.parametrize("region", BALLS)
def test_the_best_mix_is_the_optimum_over_both_relaxations(name, region):
    eps, norm, box = BALLS[region]
    models = [nets.ALL[name](seed) for seed in (20, 21)]
    x = nets.images(models[0], 1, seed=3)
    even(*models, x, [Y], eps, norm, box)
    f, g = (build(model).network(tf.float64) for model in models)
    x = x.astype(np.float64)
    around = ball(tf.constant(x), tf.constant(eps, tf.float64), norm, box)
    found = joint_margins(f, g, around, LABEL, "dual", OPTIONS)
    programme = Programme(
        *(
            relaxed(model, x, eps, norm, box, margins(network, around, LABEL, OPTIONS))
            for model, network in zip(models, (f, g), strict=True)
        )
    )
    for target in OTHERS:
        optimum = programme.agreement(ROWS[target])
        np.testing.assert_allclose(found.upper[0, target], optimum, **EXACT)
        assert optimum < float(min(found.f[0, target], found.g[0, target])) - 1e-3


def test_the_best_mix_of_lines_of_any_slopes_is_the_optimum():
    """CROWN's relaxation, here of random lower slopes, which the two networks have in common."""
    rng = np.random.default_rng(0)
    models = [nets.dense(seed) for seed in (20, 21)]
    x = nets.images(models[0], 1, seed=3)
    even(*models, x, [Y], 0.15)
    x = x.astype(np.float64)
    around = ball(tf.constant(x), tf.constant(0.15, tf.float64))
    slopes = [rng.uniform(size=size) for size in (7, 6)]
    affine, enclosed = [], []
    for model in models:
        network = build(model).network(tf.float64)
        dual = margins(network, around, LABEL, OPTIONS)
        relus = network.structure.relus
        given = {k: tf.constant(s[None]) for k, s in zip(relus, slopes, strict=True)}
        through = strips(network, around, dual.enclosure.bounds, given)
        affine.append(affine_margins(network, around, LABEL)(through, None))
        enclosed.append(relaxed(model, x, 0.15, "linf", None, dual))
    upper = least_mixed(*affine, around)
    programme = Programme(*enclosed, lower_slopes=slopes)
    for target in OTHERS:
        np.testing.assert_allclose(upper[0, target], programme.agreement(ROWS[target]), **EXACT)
        assert float(upper[0, target]) < min(
            float(each.upper(around)[0, target]) for each in affine
        )


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_no_share_is_better_than_the_best(norm):
    """On a fine grid of shares, of rows with zeros, of equal and of opposite ones."""
    rng = np.random.default_rng(1)
    nu, q = rng.normal(size=(2, 40, 3, 5))
    nu[:5, :, :2], q[3:8, :, 1:3] = 0.0, 0.0
    q[10], q[11], nu[12], nu[13], q[13] = nu[10], -nu[11], 0.0, 0.0, 0.0
    base_f, base_g = rng.normal(size=(2, 40, 3))
    around = ball(tf.zeros((40, 5), tf.float64), tf.constant(0.7, tf.float64), norm)
    f, g = (Affine(*map(tf.constant, pair)) for pair in ((base_f, nu), (base_g, q)))
    least = least_mixed(f, g, around).numpy()
    order = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    shares = np.linspace(0.0, 1.0, 2001)
    values = [
        a * base_f
        + (1 - a) * base_g
        + 0.7 * np.linalg.norm(a * nu + (1 - a) * q, ord=order, axis=-1)
        for a in shares
    ]
    grid = np.min(values, axis=0)
    assert (least <= grid + 1e-12).all()
    # Between two shares of the grid the function falls by no more than its steepest slope.
    steepest = np.abs(base_f - base_g) + 0.7 * np.linalg.norm(nu - q, ord=order, axis=-1)
    assert (least >= grid - steepest / 2000).all()
    assert (least < np.minimum(values[0], values[-1]) - 1e-3).mean() > 0.2


def test_what_is_not_known_of_one_network_leaves_the_other():
    nan, rows = np.full((1, 1), np.nan), np.ones((1, 1, 2))
    around = ball(tf.zeros((1, 2), tf.float64), tf.constant(0.5, tf.float64))
    known, lost = Affine(tf.constant([[-3.0]], tf.float64), tf.constant(rows)), None
    for lost in (Affine(tf.constant(nan), tf.constant(rows)), Affine(known.base, known.rows * nan)):
        for pair in ((known, lost), (lost, known)):
            assert least_mixed(*pair, around).numpy() == -2.0
        assert np.isinf(least_mixed(lost, lost, around)).all()


def climbed(pair, rows, x, eps, norm, box, starts):
    """Points that climb the smaller one of both margins, all of those on the way."""
    found = [starts]
    for k in range(6):
        values = [(net.logits(found[-1]) * rows).sum(1) for net in pair]
        slopes = [net.gradient(found[-1], rows, -1) for net in pair]
        slope = np.where((values[0] < values[1])[:, None], *slopes)
        size = np.abs(slope).max(-1, keepdims=True)
        step = np.sign(slope) if norm == "linf" else slope / np.maximum(size, 1e-300)
        found.append(project(found[-1] + 2.0 * eps * step / (k + 1), x, eps, norm, box))
    return np.concatenate(found)


@MODEST
@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(["dense", "conv"]),
    inputs=st.sampled_from(
        [("linf", None), ("linf", (0.0, 1.0)), ("l2", None), ("l1", None), ("l1", (0.0, 1.0))]
    ),
    method=st.sampled_from(["dual", "dual", "interval", "crown"]),
    sound=st.booleans(),
)
def test_no_point_is_beyond_the_joint_bound(seed, name, inputs, method, sound):
    """Neither sampled points nor climbing ones; and joint margins are nowhere the looser ones."""
    no_point_is_beyond(seed, name, inputs, method, sound)


def test_no_point_is_beyond_the_joint_bound_of_optimised_slopes():
    found = no_point_is_beyond(5, "dense", ("linf", None), "alpha", False)
    alone = np.maximum(found.f_margin, found.g_margin)
    assert (found.margin_lower > alone + 1e-3).any()


def test_networks_of_a_pair_may_differ_in_depth():
    """Which of both is the deeper one does not matter."""
    deep = nets.dense(3)
    flat = keras.Sequential([keras.Input(deep.input_shape[1:]), keras.layers.Flatten()])
    for units in (6, nets.CLASSES):
        flat.add(keras.layers.Dense(units, "relu" if units == 6 else None))
    nets.randomise(flat, 4)
    x = nets.images(deep, 4, seed=1)
    y = np.zeros(4, int)
    even(deep, flat, x[:1], y[:1], 0.05, "linf", (0.0, 1.0))
    one, other = (
        rt.certify(rt.Pair(*pair), x, y, 0.05, method="alpha", inner="crown", batch_size=4)
        for pair in ((deep, flat), (flat, deep))
    )
    np.testing.assert_allclose(one.margin_lower, other.margin_lower, atol=1e-4)
    assert (one.margin_lower > np.maximum(one.f_margin, one.g_margin) + 1e-3).any()


def no_point_is_beyond(seed, name, inputs, method, sound):
    (norm, box), rng = inputs, np.random.default_rng(seed)
    pair = rt.Pair(*(nets.ALL[name](int(s)) for s in rng.integers(2**31, size=2)))
    sound &= method in ("dual", "interval")
    x = nets.images(pair.f, 2, seed=int(rng.integers(2**31)))
    y, eps = rng.integers(nets.CLASSES, size=2), float(rng.choice([0.03, 0.1, 0.3]))
    if rng.random() < 0.7:
        even(pair.f, pair.g, x[:1], y[:1], eps, norm, box)
    # Inner bounds by optimised slopes take long, and are not what is new here.
    inner = "crown" if method == "alpha" else None
    ball_of = {
        "inner": inner,
        "norm": norm,
        "box": box,
        "method": method,
        "sound": sound,
        "dtype": "float64",
    }
    found = rt.certify(pair, x, y, eps, **ball_of)
    # One of the two alone: which, by the draw.
    part, alone = (pair.f, found.f_margin) if seed % 2 else (pair.g, found.g_margin)
    expected = rt.certify(part, x, y, eps, **ball_of).margin_lower
    np.testing.assert_allclose(alone, expected, rtol=1e-9, atol=1e-9)
    assert (found.margin_lower >= np.maximum(found.f_margin, found.g_margin)).all()
    both = [oracle_nets.of_model(model) for model in (pair.f, pair.g)]
    for at in range(2):
        image = x[at].astype(np.float64).ravel()
        rows = oracles.target_rows(y[at], nets.CLASSES)
        starts = corners(rng, image, eps, norm, box, 60)
        every = np.resize(rows[np.arange(nets.CLASSES) != y[at]], (60, nets.CLASSES))
        points = climbed(both, every, image, eps, norm, box, starts)
        least = np.minimum(*(net.logits(points) @ rows.T for net in both)).max(0)
        assert (least <= -found.margin_lower[at] + 1e-9).all()
        if found.certified[at]:
            answers = [net.logits(points).argmax(1) for net in both]
            assert not ((answers[0] == answers[1]) & (answers[0] != y[at])).any()
    return found
