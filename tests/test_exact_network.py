"""What is searched is the network: skips, ReLUs in odd places, shared layers, dead units.

Every kind of network here once crashed the search or let it prove what is false. The restricted
network is compared with dense matrices at points of the ball, the verdict with brute force.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L  # noqa: N812

from robustra_tf.exact import Status, Verifier, decision, matrices, probe, substitution
from robustra_tf.exact.matrices import affine_maps
from robustra_tf.exact.probe import probed
from robustra_tf.exact.substitution import restrict
from robustra_tf.exact.task import Inputs, Network
from robustra_tf.exact.tighten import enclosed
from robustra_tf.graph import build
from tests import nets, oracle_nets
from tests.oracle_exact import TooManyPiecesError, least_margin

IMAGE = np.array([0.1, -0.2], np.float32)
EPS = 0.4


@pytest.fixture(autouse=True, scope="module")
def eager():
    """Networks of many structures, each used once: tracing them would take all the time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def dense(units, relu=False):
    return L.Dense(units, activation="relu" if relu else None)


def skip_behind_relu(x):
    h = dense(4, relu=True)(x)
    return dense(3)(L.Add()([dense(4)(h), h]))


def relu_on_relu(x):
    return dense(3)(L.ReLU()(dense(5, relu=True)(x)))


def relu_behind_reshaped_relu(x):
    h = L.Reshape((2, 2))(dense(4, relu=True)(x))
    return dense(3)(L.Flatten()(L.ReLU()(h)))


def relu_at_the_end(x):
    return dense(3, relu=True)(dense(4, relu=True)(x))


def skip_at_the_end(x):
    h = dense(3, relu=True)(x)
    return L.ReLU()(L.Add()([dense(3)(h), h]))


def itself_twice(x):
    h = dense(4, relu=True)(x)
    return dense(3)(L.Add()([h, h, dense(4)(h)]))


def skip_to_a_relu(x):
    h = L.Add()([dense(4)(x), dense(4, relu=True)(x)])
    return dense(3)(L.Add()([L.ReLU()(h), h]))


def unequal_depth(x):
    h = dense(4, relu=True)(x)
    far = dense(4, relu=True)(dense(4, relu=True)(h))
    return dense(3)(L.ReLU()(L.Add()([far, dense(4)(h), h])))


def shared_layers(x):
    first, again = dense(4, relu=True), dense(4, relu=True)
    h = first(x)
    return dense(3)(L.Add()([again(again(h)), again(h), h]))


def shared_block(x):
    inputs = keras.Input((4,))
    block = keras.Model(inputs, L.Add()([dense(4, relu=True)(inputs), inputs]))
    return dense(3)(block(block(dense(4, relu=True)(x))))


def skip_of_the_input(x):
    return dense(3)(L.Add()([dense(2, relu=True)(dense(3, relu=True)(x)), x]))


KINDS = {
    kind.__name__: kind
    for kind in (
        skip_behind_relu,
        relu_on_relu,
        relu_behind_reshaped_relu,
        relu_at_the_end,
        skip_at_the_end,
        itself_twice,
        skip_to_a_relu,
        unequal_depth,
        shared_layers,
        shared_block,
        skip_of_the_input,
    )
}
#: Of the first layer's neurons: some dead, some always active, all dead, the layer constant.
UNITS = {
    "as drawn": lambda kernel, bias: (kernel, bias),
    "one dead": lambda kernel, bias: (kernel, bias - np.array([9.0, 0, 0, 0, 0])[: len(bias)]),
    "first and last": lambda kernel, bias: (
        kernel,
        bias + 9.0 * np.array([-1.0] + [0.0] * (len(bias) - 2) + [1.0]),
    ),
    "all dead": lambda kernel, bias: (kernel, bias - 9.0),
    "constant": lambda kernel, bias: (0 * kernel, bias),
}


def network(kind, units, seed=0):
    inputs = keras.Input((2,))
    model = nets.randomise(keras.Model(inputs, KINDS[kind](inputs)), seed)
    first = next(layer for layer in model.layers if isinstance(layer, L.Dense))
    first.set_weights(UNITS[units](*first.get_weights()))
    return model


class Case:
    """A network on a ball: its matrices and its restriction."""

    def __init__(self, model, norm="linf", eps=EPS):
        graph = build(model)
        weights = graph.weights(tf.float64)
        self.net = oracle_nets.of_graph(graph.structure, weights)
        self.maps = affine_maps(graph)
        self.inputs = Inputs(eps, norm, None)
        self.network = Network(model, graph.structure, self.maps, weights)
        self.x = IMAGE.astype(np.float64)
        self.low, self.high = self.inputs.intervals(self.x)
        bounds = enclosed(graph.structure, weights, self.x, 0, *self.inputs).bounds
        self.restriction = restrict(graph.structure, self.maps, self.low, self.high, bounds)
        self.probe = probed(self.network, self.inputs, IMAGE, probe.MANY)


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


@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_of_every_kind_equal_brute_force(kind, monkeypatch):
    """Margins are shifted to just above and just below zero, and points do not help the search."""
    monkeypatch.setattr(probe.Probe, "misclassified", lambda self, label: self.points[:0])
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


def damaged(r, name):
    """The restriction with one number changed, or one unit mistaken for another."""
    rng = np.random.default_rng(0)
    if name == "weights" or name == "logit_weights":
        matrix = getattr(r, name).copy()
        matrix.data[rng.integers(len(matrix.data))] += 1e-6
        return dataclasses.replace(r, **{name: matrix})
    if name == "swapped":
        return dataclasses.replace(r, neuron=r.neuron[::-1].copy())
    if name == "relu":
        return dataclasses.replace(r, relu=~r.relu)
    value = getattr(r, name).copy()
    value[0] += {"upper": -1.0, "lower": 1.0}.get(name, 1e-6)
    return dataclasses.replace(r, **{name: value})


def unable(*args):
    """Bounds that leave every margin to the search."""
    found = enclosed(*args)
    return found._replace(margin=found.margin - 1e3)


FAULTS = ("weights", "offset", "logit_weights", "logit_offset", "swapped", "relu", "lower", "upper")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_another_network_is_an_error_and_no_verdict(fault, norm, monkeypatch):
    case = Case(network("skip_behind_relu", "as drawn"), norm)
    assert case.restriction.units > 1
    case.probe.check_restriction(case.restriction)
    message = "a fault of the verifier, not a verdict"
    with pytest.raises(ValueError, match=message):
        case.probe.check_restriction(damaged(case.restriction, fault))
    monkeypatch.setattr(decision, "restrict", lambda *args: damaged(restrict(*args), fault))
    monkeypatch.setattr(probe.Probe, "misclassified", lambda self, label: self.points[:0])
    monkeypatch.setattr(decision, "enclosed", unable)
    label = int(case.probe.deployed[0].argmax())
    with pytest.raises(ValueError, match=message):
        Verifier(case.network.model, EPS, norm, None).verify(IMAGE, label)


def test_a_clean_image_alone_would_not_see_it():
    """The old fault: rows of live units looked up among all of them, equal at the image."""
    i = keras.Input((1,))
    model = keras.Model(i, dense(2)(L.ReLU()(dense(2, relu=True)(i))))
    model.layers[1].set_weights([np.array([[0.0, 1.0]]), np.array([-1.0, -0.1])])
    model.layers[3].set_weights([np.array([[3.0, 0.0], [0.0, 2.0]]), np.array([0.5, 0.0])])
    graph = build(model)
    weights, inputs = graph.weights(tf.float64), Inputs(0.5, "linf", None)
    found = Network(model, graph.structure, affine_maps(graph), weights)
    points = probed(found, inputs, np.zeros(1, np.float32), probe.MANY)
    bounds = enclosed(graph.structure, weights, np.zeros(1), 0, *inputs).bounds
    r = restrict(graph.structure, found.maps, *inputs.intervals(np.zeros(1)), bounds)
    wrong = dataclasses.replace(r, logit_weights=r.logit_weights[::-1].copy())
    clean = points._replace(points=points.points[:1], values=[value[:1] for value in points.values])
    clean.check_restriction(wrong)
    with pytest.raises(ValueError, match="encoding: expected the network's own values"):
        points.check_restriction(wrong)


def test_bounds_that_do_not_hold_are_an_error(monkeypatch):
    case = Case(network("unequal_depth", "as drawn"))
    label = int(case.probe.deployed[0].argmax())

    def narrow(*args):
        found = enclosed(*args)
        index = min(found.bounds)
        low, high = found.bounds[index]
        found.bounds[index] = (low, low + 0.3 * (high - low))
        return found

    monkeypatch.setattr(decision, "enclosed", narrow)
    monkeypatch.setattr(probe.Probe, "misclassified", lambda self, label: self.points[:0])
    with pytest.raises(ValueError, match="bounds: expected the network's own values"):
        Verifier(case.network.model, EPS, box=None).verify(IMAGE, label)


def test_a_margin_that_the_bound_promises_and_points_refute_is_an_error(monkeypatch):
    case = Case(network("unequal_depth", "as drawn"))
    label = int(case.probe.deployed[0].argmax())

    def promising(*args):
        found = enclosed(*args)
        return found._replace(margin=found.margin + 100.0)

    monkeypatch.setattr(decision, "enclosed", promising)
    monkeypatch.setattr(probe.Probe, "misclassified", lambda self, label: self.points[:0])
    with pytest.raises(ValueError, match="margins: expected the network's own values"):
        Verifier(case.network.model, EPS, box=None).verify(IMAGE, label)


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


@pytest.mark.parametrize("name", ["_windowed", "_padding"])
def test_matrices_that_are_not_the_operations_are_refused(name, monkeypatch):
    model = nets.pooling()
    if name == "_padding":
        inputs = keras.Input((2, 2, 1))
        padded = L.ZeroPadding2D(1)(inputs)
        total = L.Add()([padded, padded])
        model = keras.Model(inputs, dense(2)(L.Flatten()(total)))
    original = getattr(matrices, name)

    def wrong(*args):
        matrix = original(*args)
        return matrix[::-1]

    affine_maps(build(model))
    monkeypatch.setattr(matrices, name, wrong)
    with pytest.raises(ValueError, match=r"matrices: expected what layer .* computes at random"):
        Verifier(model, 0.1)


def test_a_row_that_nothing_reads_cannot_be_read(monkeypatch):
    """Were a needed row forgotten, its value would be no number, and no verdict would follow."""
    original = substitution.needed_rows

    def forgetful(*args):
        masks = original(*args)
        masks[-2][np.flatnonzero(masks[-2])[:1]] = False
        return masks

    monkeypatch.setattr(substitution, "needed_rows", forgetful)
    case = Case(network("skip_behind_relu", "as drawn"))
    with pytest.raises(ValueError, match="encoding: expected the network's own values"):
        case.probe.check_restriction(case.restriction)


def test_one_logit_is_refused():
    model = keras.Sequential([keras.Input((1,)), dense(1)])
    with pytest.raises(ValueError, match="model: expected at least two logits"):
        Verifier(model, 0.5)


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


def test_the_tolerance_covers_what_float32_loses():
    """1e6 is added and taken away again: float32 keeps five digits less, and a proof must too."""
    model = keras.Sequential([keras.Input((1,)), dense(2, relu=True), dense(2)])
    model.layers[0].set_weights([np.array([[1.0, 0.0]]), np.array([2e6, 2e6])])
    model.layers[1].set_weights([np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([0.01, 0.0])])
    x = np.full(1, 0.3, np.float32)
    # In real numbers the margin is x + 0.01; float32 knows x to 0.125.
    found = Verifier(model, 0.2).verify(x, 0)
    assert found.status is not Status.VERIFIED
