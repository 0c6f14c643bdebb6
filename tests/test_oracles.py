"""The oracles themselves, against the authors' values, a linear programme and sampled points."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from tests import oracle_intervals, oracle_nets, oracles
from tests.oracle_lp import Programme
from tests.oracles import assert_close

EXACT = {"rtol": 1e-9, "atol": 1e-9}  # float64 on both sides


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["mnist_pair", "cifar10", "residual"])
def test_bounds_are_the_authors(shared, name):
    published = getattr(oracle_nets, name)(shared)
    values = published.values
    count = len(values["y"]) if name == "residual" else 1
    for k, (image, y) in enumerate(zip(published.images[:count], values["y"], strict=False)):
        found = oracles.enclose(published.f, image, values["eps"])
        for layer, (lower, upper) in enumerate(zip(found.lower, found.upper, strict=True)):
            digits = 1e-6 if values["lower_0"].dtype == np.float32 else 1e-12
            assert_close(lower, values[f"lower_{layer}"][k], digits)
            assert_close(upper, values[f"upper_{layer}"][k], digits)
        assert_close(-found.upper_bound(oracles.target_rows(y)), values["margin_lb"][k], 1e-9)


@pytest.mark.oracle
def test_box_and_l2_margins_are_the_authors(shared):
    published = oracle_nets.mnist_pair(shared)
    values, x, y = published.values, published.images[0], published.values["y"][0]
    boxed = oracles.margins(published.f, x, y, values["eps"], box=(0.0, 1.0))
    assert_close(boxed, values["margin_lb_box01"][0], 1e-9)
    assert_close(
        oracles.margins(published.f, x, y, values["eps_l2"], "l2"), values["margin_lb_l2"][0], 1e-9
    )


@pytest.mark.oracle
def test_pair_is_the_authors(shared):
    published = oracle_nets.mnist_pair(shared)
    values = published.values
    names = {
        "eta": "eta_med",
        "t0": "t0",
        "h": "h",
        "positive": "n_positive",
        "grad_left": "grad_left_t0",
        "grad_right": "grad_right_t0",
    }
    k = 5
    x, y = published.images[k], values["y"][k]
    found = oracles.pair(published.f, published.g, x, y, float(values["eps"]))
    for ours, theirs in names.items():
        assert_close(getattr(found, ours), values[theirs][k], 1e-9)


BALLS = [("linf", None), ("linf", (0.0, 1.0)), ("l1", None)]


@pytest.mark.parametrize(("norm", "box"), BALLS)
@pytest.mark.parametrize("residual", [False, True])
def test_bound_is_the_optimum_of_the_programme(rng, norm, box, residual):
    for _ in range(3):
        net = oracle_nets.random_net(rng, residual)
        found = oracles.enclose(net, rng.uniform(size=4), 0.3, norm, box)
        programme = Programme(found)
        rows = oracles.target_rows(1, 3)
        best = [programme.maximum(row) for row in rows]
        np.testing.assert_allclose(found.upper_bound(rows), best, **EXACT)


@pytest.mark.parametrize(("norm", "box"), BALLS)
def test_best_multiplier_is_the_optimum_over_the_reference_space(rng, norm, box):
    """The programme with `c.g' >= t` has the value of the best `eta` of Equation 8."""
    x, row = rng.uniform(size=4), oracles.target_rows(1, 3)[2]
    bounds = {"bounds": (0.0, 1e3), "method": "bounded", "options": {"xatol": 1e-11}}
    multipliers = []
    for _ in range(6):
        f, g = (oracles.enclose(oracle_nets.random_net(rng), x, 0.3, norm, box) for _ in "fg")
        programme = Programme(f, g)
        (nuhat, R_f), (qhat, R_g) = (net.backward(row[None]) for net in (f, g))
        top = programme.maximum(row, network=1)
        np.testing.assert_allclose(top, g.upper_bound(row[None])[0], **EXACT)
        for t in (top - 0.05, top - 0.5):
            terms = (nuhat[0], qhat[0], R_f[0], R_g[0], x, 0.3)

            def h(eta, t=t, terms=terms):
                return oracles.literal(*terms, eta, t, norm, box)

            optimum = programme.maximum(row, reference=(row, t))
            found = minimize_scalar(h, **bounds)  # h is convex in eta
            np.testing.assert_allclose(min(found.fun, h(0.0)), optimum, rtol=1e-6, atol=1e-6)
            assert all(h(eta) >= optimum - 1e-9 for eta in (0.0, 0.1, 1.0, 10.0))
            multipliers.append(found.x)
        assert programme.maximum(row, reference=(row, top + 1e-3)) == -np.inf
    assert max(multipliers) > 0.1, "the reference never mattered"


def test_median_eta_leaves_as_many_transitions_below_as_above(rng):
    for size in (1, 2, 9, 30):
        nuhat, qhat = rng.normal(size=(2, size))
        nuhat[0] = -qhat[0]  # one positive transition at least
        eta = oracles.median_eta(nuhat, qhat)
        row = nuhat + eta * qhat
        flipped_before = ((nuhat * row < 0) & (np.abs(row) > 1e-12)).sum()
        flip_later = ((nuhat * qhat < 0) & (nuhat * row > 0) & (np.abs(row) > 1e-12)).sum()
        assert 0 <= flip_later - flipped_before <= 1
    assert oracles.median_eta(np.ones(3), np.array([1.0, 0.0, -1e-8])) == 0.0


def test_intervals_hold_sampled_points(rng):
    net = oracle_nets.random_net(rng, residual=True)
    x = rng.uniform(size=4)
    values = net.values(x + rng.uniform(-0.2, 0.2, size=(500, 4)))
    for value, (lower, upper) in zip(values, oracle_intervals.intervals(net, x, 0.2), strict=True):
        assert (value >= lower - 1e-12).all()
        assert (value <= upper + 1e-12).all()


def test_convolution_matrix_is_the_loop(rng):
    kernel, bias = rng.normal(size=(3, 2, 2, 4)), rng.normal(size=4)
    image = rng.normal(size=(5, 6, 2))
    matrix, shift = oracles.convolution(kernel, bias, image.shape, stride=2, padding=1)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    expected = np.stack(
        [
            np.einsum("abc,abcd->d", padded[i : i + 3, j : j + 2], kernel) + bias
            for i in range(0, 5, 2)
            for j in range(0, 7, 2)
        ]
    )
    np.testing.assert_allclose(matrix @ image.ravel() + shift, expected.ravel(), **EXACT)
