"""A verifier that searches another network, or bounds that do not hold: an error, no verdict."""

import dataclasses
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L  # noqa: N812

from robustra_tf.exact import Verifier, decision, ground, matrices, probe, substitution
from robustra_tf.exact.encoding import encode
from robustra_tf.exact.highs import LinearProgrammes
from robustra_tf.exact.matrices import affine_maps
from robustra_tf.exact.probe import probed
from robustra_tf.exact.substitution import restrict
from robustra_tf.exact.task import Inputs, Network
from robustra_tf.exact.tighten import enclosed
from robustra_tf.graph import build
from tests import nets, oracles
from tests.exact_networks import EPS, IMAGE, Case, dense, network

pytestmark = pytest.mark.usefixtures("eager")


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
    monkeypatch.setattr(ground, "restrict", lambda *a, **b: damaged(restrict(*a, **b), fault))
    monkeypatch.setattr(probe.Probe, "unsafe", lambda self, conditions: self.points[:0])
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
    bounds = enclosed(
        graph.structure, weights, np.zeros(1), oracles.target_rows(0, 2), *inputs
    ).bounds
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
    monkeypatch.setattr(probe.Probe, "unsafe", lambda self, conditions: self.points[:0])
    with pytest.raises(ValueError, match="bounds: expected the network's own values"):
        Verifier(case.network.model, EPS, box=None).verify(IMAGE, label)


def test_a_margin_that_the_bound_promises_and_points_refute_is_an_error(monkeypatch):
    case = Case(network("unequal_depth", "as drawn"))
    label = int(case.probe.deployed[0].argmax())

    def promising(*args):
        found = enclosed(*args)
        return found._replace(margin=found.margin + 100.0)

    monkeypatch.setattr(decision, "enclosed", promising)
    monkeypatch.setattr(probe.Probe, "unsafe", lambda self, conditions: self.points[:0])
    with pytest.raises(ValueError, match="margins: expected the network's own values"):
        Verifier(case.network.model, EPS, box=None).verify(IMAGE, label)


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


@pytest.mark.parametrize("missing", ["col_value", "row_dual"])
def test_a_solution_with_parts_missing_is_none(missing, monkeypatch):
    case = Case(network("skip_behind_relu", "as drawn"))
    programme = encode(case.restriction, case.x).relaxed
    solver = LinearProgrammes(programme)
    lower, upper = programme.lower, programme.upper
    whole = solver.solve(lower, upper, 10.0)
    assert whole.values is not None
    solver_highs = solver._highs
    solution = solver_highs.getSolution()
    parts = {name: list(getattr(solution, name)) for name in ("col_value", "row_dual")}
    parts[missing] = parts[missing][:-1]
    fake = types.SimpleNamespace(**parts)
    lying = types.SimpleNamespace(
        **{
            name: getattr(solver._highs, name)
            for name in ("changeColsBounds", "clearSolver", "run", "getRunTime", "getModelStatus")
        },
        getSolution=lambda: fake,
        setOptionValue=solver._highs.setOptionValue,
    )
    runs = []
    lying.run = lambda: runs.append(solver_highs.run())
    monkeypatch.setattr(solver, "_highs", lying)
    assert solver.solve(lower, upper, 10.0).values is None
    assert len(runs) == 2  # once more from the start, and no more


def test_logits_that_are_no_numbers_in_either_arithmetic_are_seen():
    probe = Case(network("unequal_depth", "as drawn")).probe
    assert probe.finite
    deployed, values = probe.deployed.copy(), probe.values[-1].copy()
    deployed.flat[1] = values.flat[1] = np.inf
    assert not probe._replace(deployed=deployed).finite
    assert not probe._replace(values=[*probe.values[:-1], values]).finite
