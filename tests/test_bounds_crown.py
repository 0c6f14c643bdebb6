"""CROWN's margins: against WK's, linear programmes with the same lines, and each other."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.bounds.balls import Ball, ball
from robustra_tf.bounds.crown import crown_margins, optimised_margins
from robustra_tf.bounds.enclosure import enclose
from robustra_tf.bounds.interval import interval_margins
from robustra_tf.bounds.lines import adaptive, parallel
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.slopes import Descent
from robustra_tf.graph import build
from robustra_tf.graph.graph import Network
from tests import nets, oracle_intervals, oracle_nets, oracles
from tests.oracle_lp import Programme
from tests.oracles import assert_close

COUNT = 4
REGIONS = {"linf": (0.08, "linf", None), "box": (0.2, "linf", (0.0, 1.0)), "l2": (0.4, "l2", None)}


@functools.cache
def compiled(structure, norm):
    """`optimised_margins` of a network, traced once for all of its tests: (weights, ..., steps)."""

    @tf.function(autograph=False)
    def run(weights, centre, radius, y, bounds, steps):
        network, region = Network(structure, weights), Ball(centre, radius, norm)
        return optimised_margins(network, region, y, bounds, Descent(steps))

    return run


class Case:
    """A tiny network, images, and their ball, in float64."""

    def __init__(self, name, region):
        self.model = nets.ALL[name]()
        graph = build(self.model)
        self.structure, self.weights = graph.structure, graph.weights(tf.float64)
        self.images = nets.images(self.model, COUNT, seed=5).astype(np.float64)
        self.y = tf.constant([0, 1, 2, 1])
        self.eps, self.norm, self.box = REGIONS[region]
        radius = tf.constant(self.eps, tf.float64)
        self.ball = ball(tf.constant(self.images), radius, self.norm, self.box)

    @property
    def network(self):
        return Network(self.structure, self.weights), self.ball

    def crown(self, bounds, slopes):
        return crown_margins(*self.network, self.y, bounds, slopes)

    def optimised(self, bounds, steps):
        # Half widths written out: with a box and without one it is the same function.
        radius = self.ball.half_widths if self.norm == "linf" else self.ball.radius
        arguments = (self.weights, self.ball.centre, radius, self.y, bounds, tf.constant(steps))
        return compiled(self.structure, self.norm)(*arguments).numpy()


#: Every network, and every region with dense layers and with convolutions.
CASES = [("dense", region) for region in REGIONS] + [
    ("two_conv", "linf"),
    ("two_conv", "l2"),
    ("residual", "box"),
    ("pooling", "l2"),
    ("batch_norm", "box"),
]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    return Case(*request.param)


def test_parallel_lines_give_wong_and_kolter(case):
    found = margins(*case.network, case.y, BoundOptions("every"))
    bounds = found.enclosure.bounds
    assert_close(case.crown(bounds, parallel(bounds)), found.upper, 1e-10)


def test_slopes_of_every_target_are_used_for_it(case):
    bounds = enclose(*case.network, BoundOptions("every")).bounds
    rng = np.random.default_rng(6)
    several = {
        k: tf.constant(rng.uniform(size=(COUNT, nets.CLASSES, *low.shape[1:])))
        for k, (low, _) in bounds.items()
    }
    found = case.crown(bounds, several)
    for target in range(nets.CLASSES):
        alone = {k: slope[:, target : target + 1] for k, slope in several.items()}
        assert_close(case.crown(bounds, alone)[:, target], found[:, target], 1e-10)


def sample(x, eps, norm, box, rng, count=200):
    """Points of the ball, most of them on its border."""
    shift = rng.normal(size=(count, *x.shape))
    if norm == "linf":
        shift = (
            eps * np.sign(shift) * rng.choice([1.0, rng.uniform()], size=shift.shape, p=[0.9, 0.1])
        )
    else:
        shift *= eps / np.linalg.norm(shift.reshape(count, -1), axis=1).reshape(-1, *[1] * x.ndim)
    return x + shift if box is None else np.clip(x + shift, *box)


@pytest.mark.parametrize("seed", [0, 1])
def test_any_slopes_are_sound(case, seed):
    """No sampled point of the ball beats the bound, whatever the slopes."""
    rng = np.random.default_rng(seed)
    bounds = enclose(*case.network, BoundOptions("every", inner="mixed")).bounds
    slopes = {
        k: tf.constant(rng.uniform(size=low.shape))[:, None] for k, (low, _) in bounds.items()
    }
    upper = case.crown(bounds, slopes).numpy()
    for k, x in enumerate(case.images):
        points = sample(x, case.eps, case.norm, case.box, rng)
        logits = case.structure.forward(case.weights, tf.constant(points)).numpy()
        gains = logits - logits[:, int(case.y[k])][:, None]
        assert np.all(gains.max(axis=0) <= upper[k] + 1e-9)


@pytest.mark.parametrize("name", ["conv", "dense", "two_conv", "residual"])
@pytest.mark.parametrize("region", ["linf", "box"])
def test_margins_against_a_programme_with_the_same_lines(name, region):
    """Equal where no relaxed neuron leaves its bounds: one hidden layer, or intervals and 0 slopes.

    Elsewhere the two lines of a neuron cross beyond its bounds; there the programme forbids what
    CROWN allows, and may be lower.
    """
    case = Case(name, region)
    net = oracle_nets.of_model(case.model)
    single = len(case.structure.relus) == 1
    bounds = enclose(*case.network, BoundOptions("every", inner="interval")).bounds
    choices = [(adaptive(bounds), single)]
    choices.append(({k: tf.zeros_like(slope) for k, slope in choices[0][0].items()}, True))
    for slopes, exact in choices:
        upper = case.crown(bounds, slopes).numpy()
        low, high, below = [], [], []
        for k in case.structure.relus:
            low.append(bounds[k][0][0].numpy().ravel())
            high.append(bounds[k][1][0].numpy().ravel())
            below.append(slopes[k][0].numpy().ravel())
        x = case.images[0].ravel()
        found = oracles.Enclosure(net, x, case.eps, case.norm, case.box, low, high)
        programme = Programme(found, lower_slopes=below)
        for target in (1, 2):
            optimum = programme.maximum(oracles.target_rows(0, nets.CLASSES)[target])
            assert optimum <= upper[0, target] + 1e-6
            if exact:
                np.testing.assert_allclose(upper[0, target], optimum, rtol=1e-6, atol=1e-6)


def test_optimised_slopes_are_never_looser_and_mostly_tighter(case):
    bounds = enclose(*case.network, BoundOptions("every", inner="mixed")).bounds
    plain = case.crown(bounds, adaptive(bounds)).numpy()
    start = np.minimum(plain, case.crown(bounds, parallel(bounds)).numpy())
    found = case.optimised(bounds, 10)
    assert np.all(found <= start + 1e-12)
    more = case.optimised(bounds, 40)
    assert np.all(more <= start + 1e-12)
    free = any(np.any((low < 0) & (high > 0)) for low, high in bounds.values())
    mixed = BoundOptions("every", inner="mixed")
    if free and not np.allclose(plain, margins(*case.network, case.y, mixed).upper):
        assert np.min(found - plain) < -1e-4


def test_mixed_bounds_lie_in_both(case):
    """In every layer within the intervals; in the first also within the dual's."""
    dual, interval, mixed = (
        enclose(*case.network, BoundOptions("every", inner=kind)).bounds
        for kind in ("dual", "interval", "mixed")
    )
    first = case.structure.relus[0]
    assert np.all(mixed[first][0] >= np.maximum(dual[first][0], interval[first][0]) - 1e-12)
    assert np.all(mixed[first][1] <= np.minimum(dual[first][1], interval[first][1]) + 1e-12)
    for k in case.structure.relus:
        assert np.all(mixed[k][0] >= interval[k][0] - 1e-9)
        assert np.all(mixed[k][1] <= interval[k][1] + 1e-9)


def test_interval_margins_are_the_formula(case):
    bounds, upper = interval_margins(*case.network, case.y)
    net = oracle_nets.of_model(case.model)
    for k, x in enumerate(case.images):
        expected = oracle_intervals.interval_margins(
            net, x, int(case.y[k]), case.eps, case.norm, case.box
        )
        assert_close(upper[k], expected, 1e-10)
    assert sorted(bounds) == sorted(case.structure.relus)


def test_the_adaptive_slope_is_that_of_the_smaller_triangle():
    """Between relu(z) >= s z and its chord lies u (-l) / 2 more than s = 1 or s = 0 leaves out."""
    low, high = tf.constant([-2.0, -1.0, -1.0, -3.0, 1.0]), tf.constant([1.0, 2.0, 1.0, -1.0, 3.0])
    np.testing.assert_array_equal(adaptive({4: (low, high)})[4], [0, 1, 0, 0, 1])
