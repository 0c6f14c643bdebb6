"""What is searched is the network: skips, ReLUs in odd places, shared layers, dead units.

Every kind of network here once crashed the search or let it prove what is false. The restricted
network is compared with dense matrices at points of the ball, the verdict with brute force.
"""

import math

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812

from robustra_tf.exact import Status, Verifier, probe
from robustra_tf.exact.solver import TOLERANCE
from robustra_tf.exact.task import Inputs
from tests import oracle_nets
from tests.exact_networks import EPS, IMAGE, KINDS, UNITS, Case, dense, network
from tests.oracle_exact import TooManyPiecesError, least_margin

pytestmark = pytest.mark.usefixtures("eager")


@pytest.mark.no_cover
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_restriction_is_the_network_neuron_by_neuron(kind, units):
    case = Case(network(kind, units))
    points = np.random.default_rng(0).uniform(case.low, case.high, (50, 2))
    values, r = case.net.values(points), case.restriction
    np.testing.assert_allclose(r.logits(points), values[-1], rtol=1e-12, atol=1e-12)
    u, z = r.values(points)
    for unit in range(r.units):
        node, neuron = r.node[unit], r.neuron[unit]
        h = values[node][:, neuron]
        np.testing.assert_allclose(u[:, 2 + unit] * r.scale[unit], h, rtol=1e-12, atol=1e-12)
        before = values[case.net.nodes[node][1][0]][:, neuron] if r.relu[unit] else h
        np.testing.assert_allclose(z[:, unit] * r.scale[unit], before, rtol=1e-12, atol=1e-12)
    assert ((z >= r.lower) & (z <= r.upper)).all()
    assert not r.relu.any() or np.abs([r.lower[r.relu], r.upper[r.relu]]).max() <= 1


@pytest.mark.no_cover
@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_of_every_kind_equal_brute_force(kind, monkeypatch):
    """Margins are shifted to just above and just below zero, and points do not help the search."""
    monkeypatch.setattr(probe.Probe, "unsafe", lambda self, conditions: self.points[:0])
    for seed, units in enumerate(["as drawn", "one dead"]):
        model = network(kind, units, seed)
        last = [layer for layer in model.layers if isinstance(layer, L.Dense)][-1]
        net = oracle_nets.of_model(model)
        label = int(net.logits(IMAGE).argmax())
        x, eps = IMAGE.astype(float), EPS
        while True:
            try:
                exact = least_margin(net, x, label, x - eps, x + eps, most=128)
                break
            except TooManyPiecesError:
                eps *= 0.7
        verdict = Verifier(model, eps, box=None).verify(IMAGE, label)
        expected = Status.VERIFIED if exact > 0 else Status.FALSIFIED
        assert abs(exact) < 1e-4 or verdict.status is expected, (units, exact, verdict)
        if kind not in ("relu_at_the_end", "skip_at_the_end"):
            for shift in (0.003, -0.003):
                weights = last.get_weights()
                moved = np.eye(3)[label] * (shift - exact)
                last.set_weights([weights[0], weights[1] + moved])
                verdict = Verifier(model, eps, box=None).verify(IMAGE, label)
                expected = Status.VERIFIED if shift > 0 else Status.FALSIFIED
                assert verdict.status is expected, (units, shift, verdict)
                last.set_weights(weights)


def test_a_skip_of_a_dead_unit_is_not_another_unit():
    """The network whose false proof was reported: at 0.5 its logits are 0.5, 0.8."""
    i = keras.Input((1,))
    d, a, o = dense(2, relu=True), dense(2), dense(2)
    h = d(i)
    for model in (
        keras.Model(i, o(L.Add()([a(h), h]))),
        keras.Model(i, o(L.ReLU()(h))),
    ):
        d.set_weights([np.array([[0.0, 1.0]]), np.array([-1.0, -0.1])])
        if a in model.layers:
            a.set_weights([np.zeros((2, 2)), np.zeros(2)])
        o.set_weights([np.array([[3.0, 0.0], [0.0, 2.0]]), np.array([0.5, 0.0])])
        x = np.zeros(1, np.float32)
        for solver in ("branch", "highs"):
            for norm in ("linf", "l1"):
                found = Verifier(model, 0.5, norm=norm, box=None, solver=solver).verify(x, 0)
                assert found.status is Status.FALSIFIED
                assert model(found.witness[None]).numpy().argmax() == 1
        assert Verifier(model, 0.3, box=None).verify(x, 0).status is Status.VERIFIED


def test_relus_at_the_end_keep_dead_logits():
    model = keras.Sequential([keras.Input((1,)), dense(3, relu=True)])
    model.layers[0].set_weights([np.array([[1.0, -1.0, 0.0]]), np.array([1.0, 0.6, -1.0])])
    x = np.zeros(1, np.float32)
    assert Verifier(model, 0.5, box=None).verify(x, 0).status is Status.FALSIFIED
    found = Verifier(model, 0.19, box=None).verify(x, 0)
    assert found.status is Status.VERIFIED
    assert found.margin_lower == pytest.approx(0.02, abs=1e-4)


def test_points_fill_the_ball_and_stay_in_it():
    image = np.random.default_rng(0).uniform(size=(3, 3, 1)).astype(np.float32)
    for inputs in (Inputs(0.2, "linf", (0.0, 1.0)), Inputs(0.7, "l1", (0.0, 1.0))):
        found = probe._sampled(inputs, image, probe.MANY)
        assert found.dtype == np.float32
        assert len(found) == 33
        shift = found.astype(float).reshape(33, -1) - image.astype(float).ravel()
        size = np.linalg.norm(shift, np.inf if inputs.norm == "linf" else 1, axis=1)
        assert size.max() <= inputs.eps
        assert size.max() > 0.9 * inputs.eps
        assert ((found >= 0) & (found <= 1)).all()
        assert np.linalg.matrix_rank(shift) == 9


def test_points_of_an_l1_ball_move_all_pixels_or_few():
    image = np.full((10, 10, 1), 0.5, np.float32)
    found = probe._sampled(Inputs(0.7, "l1", (0.0, 1.0)), image, probe.MANY)
    moved = np.sort((found != image).reshape(len(found), -1).sum(1))[1:]
    few, all_ = np.split(moved, 2)
    assert 0 < few.max() < 15
    assert all_.min() > 85


def test_one_logit_is_refused():
    model = keras.Sequential([keras.Input((1,)), dense(1)])
    with pytest.raises(ValueError, match="model: expected at least two logits"):
        Verifier(model, 0.5).verify(np.zeros(1), 0)


def test_numbers_too_large_for_float32_prove_nothing():
    model = keras.Sequential([keras.Input((1,)), dense(2, relu=True), dense(2)])
    model.layers[0].set_weights([np.full((1, 2), 3e38), np.full(2, 1.0)])
    model.layers[1].set_weights([np.full((2, 2), 1e20), np.array([1.0, 0.0])])
    found = Verifier(model, 0.1).verify(np.full(1, 0.5, np.float32), 0)
    assert found.status is Status.UNKNOWN
    assert found.reason == "logits that are not finite numbers"


def scaled(first, last):
    """`f_0 = relu(x - y) - relu(x + y) + bias`, in units of `last`, behind units of `first`."""
    model = keras.Sequential([keras.Input((2,)), dense(2, relu=True), dense(2)])
    model.layers[0].set_weights([first * np.array([[1.0, 1.0], [-1.0, 1.0]]), np.zeros(2)])
    head = np.array([[1.0, 0.0], [-1.0, 0.0]]) * last / first
    model.layers[1].set_weights([head, np.zeros(2)])
    return model


@pytest.mark.parametrize("first", [1.0, 1e-8, 1e6])
@pytest.mark.parametrize("last", [1e-8, 1e-4, 1.0, 1e4])
def test_the_tolerance_follows_the_logits(first, last):
    """Decided alike at every scale, down to a margin of a thousandth."""
    model = scaled(first, last)
    x = np.zeros(2, np.float32)
    for margin in (0.9, 1e-3, -1e-3):
        bias = model.layers[1].get_weights()
        bias[1][0] = (2.0 + margin) * last
        model.layers[1].set_weights(bias)
        found = Verifier(model, 1.0, box=None).verify(x, 0)
        if margin > 0:
            assert found.status is Status.VERIFIED, (margin, found)
            exact = least_margin(oracle_nets.of_model(model), x, 0, x - 1.0, x + 1.0)
            assert 0 < found.margin_lower <= exact * (1 + 1e-6)
        else:
            assert found.status is Status.FALSIFIED, (margin, found)


def test_logits_that_are_zero_everywhere_are_of_the_size_of_what_they_add_up():
    """And no tolerance is below what float32 was seen to lose, in the margin's own unit."""
    zeros, points = np.zeros((2, 3)), np.zeros((2, 1))
    seen = probe.Probe(None, points, [points, zeros], [1.0, 4.0, 40.0], zeros)
    c = np.array([1.0, -2.0, 0.0])
    assert seen.scale(c) == probe.Scale(math.ldexp(1.0, 7 - 4), TOLERANCE)  # of 80
    assert seen.scale(c, -5.0).unit == math.ldexp(1.0, 3 - 4)
    lossy = seen._replace(deployed=np.array([[0.5, 0.0, 9.0]]))
    assert lossy.scale(c).tolerance == 8 * 0.5 / 8
    spread = seen._replace(values=[points, np.array([[1.0, -3.0, 99.0]])])
    assert spread.scale(c).unit == math.ldexp(1.0, 3 - 4)  # of 6, the larger of 1 and 6


@pytest.mark.parametrize("bias", [0.0, 1e3])
def test_sizes_of_layers_are_those_of_what_their_neurons_add_up(bias):
    model = keras.Sequential([keras.Input((2,)), dense(2, relu=True), dense(2)])
    kernels = np.array([[1.0, -2.0], [3.0, 1.0]]), np.array([[1.0, 4.0], [-1.0, 0.5]])
    model.set_weights([kernels[0], np.full(2, bias), kernels[1], np.zeros(2)])
    case = Case(model)
    found, values = case.probe, case.probe.points
    for index, node in enumerate(found.structure.nodes[1:], start=1):
        if index in case.maps:
            matrix, offset = case.maps[index]
            reach = (abs(matrix) @ np.abs(values).max(0) + np.abs(offset)).max()
            values = (matrix @ values.T).T + offset
            assert reach * (1 - 1e-12) <= found.sizes[index] <= 2 * reach
        else:
            values = np.maximum(values, 0)
            assert found.sizes[index] == found.sizes[node.inputs[0]]


def test_the_tolerance_covers_what_float32_loses():
    """1e6 is added and taken away again: float32 keeps five digits less, and a proof must too."""
    model = keras.Sequential([keras.Input((1,)), dense(2, relu=True), dense(2)])
    model.layers[0].set_weights([np.array([[1.0, 0.0]]), np.array([2e6, 2e6])])
    model.layers[1].set_weights([np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([0.01, 0.0])])
    x = np.full(1, 0.3, np.float32)
    # In real numbers the margin is x + 0.01; float32 knows x to 0.125.
    found = Verifier(model, 0.2).verify(x, 0)
    assert found.status is not Status.VERIFIED
