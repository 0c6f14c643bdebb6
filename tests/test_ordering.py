"""How far theory orders the bounds of a margin: interval, WK, CROWN, alpha, exact, attack.

With one set of inner bounds for all of them, lower bounds of the margin `f_y - f_t` satisfy

    CROWN, WK <= alpha <= triangle <= exact <= attacked <= clean    and    interval <= triangle

where the triangle is the linear programme over the least convex set of every ReLU: each of the
others relaxes it. Alpha begins at CROWN's slopes and counts WK's. Tighter inner bounds tighten the
triangle. Nothing orders intervals, WK and CROWN among each other: for each pair there are margins
where either is the better one, and the last test shows such margins. That is why `best_margins`,
which is what `certify` has of the methods `crown` and `alpha`, takes the least of them:

    interval, WK <= crown <= alpha <= exact

with the inner bounds that each of them has by default.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.attacks import Attack
from robustra_tf.bounds.balls import Ball, ball
from robustra_tf.bounds.best import best_margins
from robustra_tf.bounds.crown import crown_margins, optimised_margins
from robustra_tf.bounds.enclosure import enclose
from robustra_tf.bounds.interval import interval_margins
from robustra_tf.bounds.lines import adaptive
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.graph import Network, build
from tests import nets, oracle_nets, oracles
from tests.oracle_exact import TooManyPiecesError, least_margin
from tests.oracle_lp import Programme

pytestmark = pytest.mark.usefixtures("unoptimised")

NAMES = {"dense": 9, "residual": 6, "branches": 2, "maxima": 3}
INNER = ("interval", "mixed")
BEST = ("dense",)
BOX = (0.0, 1.0)
CLOSE = 1e-6  # of HiGHS and of the float32 attack


class Found(NamedTuple):
    """Lower bounds of all margins of all networks, [margins] each, and the margins themselves."""

    interval: np.ndarray
    wk: np.ndarray
    crown: np.ndarray
    alpha: np.ndarray
    triangle: np.ndarray
    exact: np.ndarray
    attacked: np.ndarray
    clean: np.ndarray


@functools.cache
def compiled(structure, inner):
    """(weights, centre, radius, y) -> upper bounds by intervals, WK, CROWN and alpha; inner bounds.

    Traced once for all networks of a kind.
    """
    options = BoundOptions("every", inner=inner)

    @tf.function(autograph=False)
    def run(weights, centre, radius, y):
        network, region = Network(structure, weights), Ball(centre, radius, "linf")
        bounds = enclose(network, region, options).bounds
        upper = (
            interval_margins(network, region, y).upper,
            margins(network, region, y, options).upper,
            crown_margins(network, region, y, bounds, adaptive(bounds)),
            optimised_margins(network, region, y, bounds),
        )
        return upper, [bounds[k] for k in structure.relus]

    return run


@functools.cache
def compiled_best(structure):
    """(weights, centre, radius, y) -> upper bounds by `interval`, `dual`, `crown` and `alpha`."""

    @tf.function(autograph=False)
    def run(weights, centre, radius, y):
        graph = Network(structure, weights), Ball(centre, radius, "linf"), y
        return (
            interval_margins(*graph).upper,
            margins(*graph).upper,
            best_margins(*graph, BoundOptions(inner="crown")),
            best_margins(*graph, BoundOptions(inner="alpha"), optimise=True),
        )

    return run


class Drawn:
    """A model with random weights, an image, and a ball small enough for the exact margin."""

    def __init__(self, model, seed):
        self.model = nets.randomise(model, seed)
        self.net, self.graph = oracle_nets.of_model(self.model), build(self.model)
        self.x = nets.images(self.model, 1, seed=seed)
        self.flat = self.x.astype(np.float64).ravel()
        self.y = int(self.net.logits(self.flat).argmax())
        self.others = [t for t in range(nets.CLASSES) if t != self.y]
        self.eps = 0.2
        while True:
            self.low = np.maximum(self.flat - self.eps, 0)
            self.high = np.minimum(self.flat + self.eps, 1)
            try:
                self.exact = [self._exact(t) for t in self.others]
                break
            except TooManyPiecesError:
                self.eps *= 0.7

    def _exact(self, target):
        ends = self.low, self.high
        return least_margin(self.net, self.flat, self.y, *ends, targets=[target])

    def margin(self, point):
        logits = self.net.logits(np.asarray(point, np.float64).ravel())
        return logits[self.y] - logits[self.others]

    @property
    def _asked(self):
        eps = tf.constant(self.eps, tf.float64)
        region = ball(tf.constant(self.x, tf.float64), eps, box=BOX)
        label = tf.constant([self.y])
        return self.graph.weights(tf.float64), region.centre, region.radius, label

    def best(self):
        """interval, dual, crown and alpha, each on its own inner bounds."""
        upper = compiled_best(self.graph.structure)(*self._asked)
        return [-part.numpy()[0, self.others] for part in upper]

    def bounds(self, inner):
        """interval, WK, CROWN, alpha and the triangle, with the same inner bounds."""
        upper, bounds = compiled(self.graph.structure, inner)(*self._asked)
        ends = [[bound[side].numpy().ravel() for bound in bounds] for side in (0, 1)]
        enclosed = oracles.Enclosure(self.net, self.flat, self.eps, "linf", BOX, *ends)
        programme = Programme(enclosed, triangle=True)
        rows = oracles.target_rows(self.y, nets.CLASSES)
        triangle = [-programme.maximum(rows[t]) for t in self.others]
        return [*(-part.numpy()[0, self.others] for part in upper), np.array(triangle)]


@pytest.fixture(scope="module")
def found():
    """For each kind of inner bounds, and for the best of all, everything about every margin."""
    parts = {inner: [] for inner in (*INNER, "best")}
    for name in NAMES:
        model = nets.ALL[name]()
        attack = Attack(model, restarts=1, steps=20, early_stop=False)
        for seed in range(NAMES[name]):
            drawn = Drawn(model, seed)
            point = attack(drawn.x, np.array([drawn.y]), drawn.eps).adversarial
            clean, attacked = drawn.margin(drawn.flat), drawn.margin(point)
            for inner in INNER:
                known = (np.array(drawn.exact), attacked, clean)
                parts[inner].append([*drawn.bounds(inner), *known])
            if name in BEST:
                # Of the best there is no triangle: the exact margin stands in its place.
                parts["best"].append([*drawn.best(), known[0], *known])
    return {
        inner: Found(*(np.concatenate(column) for column in zip(*rows, strict=True)))
        for inner, rows in parts.items()
    }


@pytest.mark.parametrize("inner", INNER)
def test_what_theory_orders_is_ordered(found, inner):
    here = found[inner]
    chain = [
        (here.crown, here.alpha),
        (here.wk, here.alpha),
        (here.alpha, here.triangle),
        (here.interval, here.triangle),
        (here.triangle, here.exact),
        (here.exact, here.attacked),
    ]
    for k, (below, above) in enumerate(chain):
        assert np.all(below <= above + CLOSE), k


def test_the_best_of_all_bounds_is_ordered(found):
    here = found["best"]
    chain = (here.interval, here.crown), (here.wk, here.crown), (here.crown, here.alpha)
    for k, (below, above) in enumerate((*chain, (here.alpha, here.exact))):
        assert np.all(below <= above + CLOSE), k
        assert np.max(above - below) > 1e-3, k


def test_an_attack_lowers_the_least_margin_of_an_image(found):
    """Not that of every target: it works on the worst one."""
    here = found["mixed"]
    images = (-1, nets.CLASSES - 1)
    clean, attacked = here.clean.reshape(images).min(1), here.attacked.reshape(images).min(1)
    assert np.all(attacked <= clean + 1e-6)


def test_tighter_inner_bounds_tighten_the_triangle(found):
    gain = found["mixed"].triangle - found["interval"].triangle
    assert np.all(gain >= -CLOSE)
    assert gain.max() > 1e-3


def test_no_step_of_the_chain_is_an_equality(found):
    """Each bound is beaten by the next one somewhere: none of the stages is idle."""
    here = found["mixed"]
    for below, above in itertools.pairwise(here[3:7]):
        assert np.max(above - below) > 1e-3


@pytest.mark.parametrize("pair", [("interval", "wk"), ("interval", "crown"), ("wk", "crown")])
def test_what_theory_does_not_order_is_found_both_ways(found, pair):
    one, other = (getattr(found["interval"], name) for name in pair)
    assert np.max(one - other) > 1e-3
    assert np.max(other - one) > 1e-3
