"""Bounds and objective of tiny networks against a linear programme solved by HiGHS.

Wong and Kolter's relaxation with the same slopes has the same optimum: the programme knows the
pre-activation bounds, the ball and the network, and nothing of backward passes.
"""

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.graph import build
from robustra_tf.objective.breakpoints import tightness
from robustra_tf.objective.robustra import ball_margins, literal, objective
from tests import nets, oracle_nets, oracles
from tests.oracle_lp import Programme

Y = 1
ROWS = oracles.target_rows(Y, nets.CLASSES)
OTHERS = [t for t in range(nets.CLASSES) if t != Y]
EXACT = {"rtol": 1e-7, "atol": 1e-7}  # HiGHS keeps its constraints to 1e-7


def relaxed(model, x, eps, norm, box, found):
    """The library's pre-activation bounds of the first image, as the programme reads them."""
    relus = build(model).structure.relus
    ends = [[end[0].numpy().ravel() for end in found.enclosure.bounds[k]] for k in relus]
    lower, upper = zip(*ends, strict=True)
    net = oracle_nets.of_model(model)
    return oracles.Enclosure(net, x.ravel(), eps, norm, box, list(lower), list(upper))


BALLS = {"linf": (0.08, "linf", None), "box": (0.15, "linf", (0.0, 1.0)), "l1": (0.5, "l1", None)}


@pytest.mark.parametrize("name", ["dense", "two_conv", "residual", "pooling"])
@pytest.mark.parametrize("region", BALLS)
def test_margins_are_the_optimum_of_the_relaxation(name, region):
    eps, norm, box = BALLS[region]
    model = nets.ALL[name]()
    graph, x = build(model), nets.images(model, 1, seed=3).astype(np.float64)
    around = ball(tf.constant(x), tf.constant(eps, tf.float64), norm, box)
    found = margins(graph.network(tf.float64), around, tf.constant([Y]), BoundOptions("every"))
    programme = Programme(relaxed(model, x, eps, norm, box, found))
    for target in OTHERS:
        optimum = programme.maximum(ROWS[target])
        np.testing.assert_allclose(found.upper[0, target], optimum, **EXACT)


@pytest.fixture(scope="module", params=["dense", "two_conv"])
def pair(request):
    """Both duals of a random pair, the objective, and the programme of both networks."""
    models = [nets.ALL[request.param](seed) for seed in (20, 21)]
    x, eps = nets.images(models[0], 1, seed=3).astype(np.float64), 0.1
    graphs = [build(model) for model in models]
    radius = tf.constant(eps, tf.float64)
    f, g = (
        ball_margins(graph.network(tf.float64), tf.constant(x), tf.constant([Y]), radius)
        for graph in graphs
    )
    both = [relaxed(m, x, eps, "linf", None, s) for m, s in zip(models, (f, g), strict=True)]
    return f, g, radius, Programme(*both)


def equation_8(pair, target, eta, t):
    """The library's `h_c(eta)` at `t`."""
    f, g, radius, _ = pair
    eta, t = (np.full((1, nets.CLASSES), value) for value in (eta, t))
    return float(literal(f, g, radius, tf.constant(eta), tf.constant(t))[0, target])


def test_best_eta_has_the_optimum_over_the_reference_space(pair):
    """`min over eta of h_c(eta)` is the programme with `c.g' >= t`; every other eta is above it."""
    f, g, _, programme = pair
    mattered = 0
    for target in OTHERS:
        row, top = ROWS[target], float(g.upper[0, target])
        found = oracles.transitions(f.rows[0, target].numpy(), g.rows[0, target].numpy())
        for t in (top - 0.05, top - 0.3, top - 2.0):
            optimum = programme.maximum(row, reference=(row, t))
            # h_c is convex and piecewise linear in eta: its least value is at 0 or a transition.
            values = [equation_8(pair, target, eta, t) for eta in (0.0, *found)]
            np.testing.assert_allclose(min(values), optimum, **EXACT)
            for eta in (0.01, 0.1, 1.0, 10.0):
                assert equation_8(pair, target, eta, t) >= optimum - 1e-7
            mattered += optimum < float(f.upper[0, target]) - 1e-3
    assert mattered, "the reference never mattered"


def test_h_lies_between_the_optimum_and_the_plain_bound(pair):
    f, g, radius, programme = pair
    found = objective(f, g, radius)
    for target in OTHERS:
        t0 = float(found.t0[0, target])
        optimum = programme.maximum(ROWS[target], reference=(ROWS[target], t0))
        assert optimum - 1e-7 <= found.h[0, target] <= found.wk[0, target] + 1e-12
        if found.positive[0, target]:
            # t0 is chosen so that eta_med is the best multiplier.
            np.testing.assert_allclose(found.h[0, target], optimum, **EXACT)


def test_tightness_tells_the_references_apart(pair):
    """Infeasible: no relaxed g reaches t. Loose: the best attack on f satisfies the constraint.

    `tightness` stands for t = 0; another t is an offset of g.
    """
    f, g, radius, programme = pair
    seen = set()
    for target in OTHERS:
        row, top, plain = ROWS[target], float(g.upper[0, target]), float(f.upper[0, target])
        for t in (0.0, top + 0.01, top - 0.01, top - 0.3, top - 100.0):
            optimum = programme.maximum(row, reference=(row, t))
            found = tightness(f.rows, g.rows, radius, g.base - t)
            state = "tight"
            if optimum == -np.inf:
                state = "infeasible"
            elif np.isclose(optimum, plain, **EXACT):
                state = "loose"
            assert bool(getattr(found, state)[0, target]), (state, t)
            seen.add(state)
    assert seen == {"infeasible", "tight", "loose"}
