"""Splitting inputs: verdicts against brute force and the other search, and what is not said."""

import itertools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import robustra_tf as rt
from robustra_tf import attacks
from robustra_tf.exact import Decider, Status, Verifier, boxwork, splitting
from robustra_tf.exact.case import Case
from robustra_tf.graph import build
from tests import exact_networks, nets, oracle_nets
from tests.oracle_exact import TooManyPiecesError, least_of_greatest

CLEAR = 1e-3


def random_net(seed, hidden=(6, 5)):
    inputs = keras.Input((2,))
    h = inputs
    for units in hidden:
        h = keras.layers.Dense(units, "relu")(h)
    return nets.randomise(keras.Model(inputs, keras.layers.Dense(3)(h)), seed)


class Drawn:
    """A network, a box and unsafe outputs, with the exact least of the greatest margins."""

    def __init__(self, seed, model):
        rng = np.random.default_rng(seed)
        self.model = model
        self.net = oracle_nets.of_model(model)
        low = rng.uniform(-1, 0.5, 2)
        high = low + rng.uniform(0.2, 1.0, 2) * (rng.random(2) < 0.9)
        self.low, self.high = (end.astype("float32").astype(float) for end in (low, high))
        shift = np.abs(self.net.logits(self.low[None])).max()
        self.polyhedra = [
            (rng.normal(size=(size, 3)), rng.normal(size=size) * 0.3 - 0.3 * shift)
            for size in (1, 2)
        ]
        output = rt.unreachable(*self.polyhedra)
        self.asked = rt.Property(self.low[None], self.high[None], output)

    def exact(self):
        middle, ends = (self.low + self.high) / 2, (self.low, self.high)
        return min(
            least_of_greatest(self.net, middle, -a, b, *ends, most=512) for a, b in self.polyhedra
        )


def test_verdicts_are_those_of_brute_force_and_of_the_search_over_phases():
    statuses = []
    for seed in range(9):
        model = (
            random_net(seed)
            if seed % 4
            else exact_networks.network("unequal_depth", "as drawn", seed)
        )
        drawn = Drawn(seed, model)
        try:
            exact = drawn.exact()
        except TooManyPiecesError:
            continue
        verdict = Verifier(model, solver="split", time_limit=20.0).verify(drawn.asked)
        statuses.append(verdict.status)
        if abs(exact) > CLEAR:
            expected = Status.VERIFIED if exact > 0 else Status.FALSIFIED
            assert verdict.status is expected, (seed, exact, verdict)
            other = Verifier(model, solver="branch").verify(drawn.asked)
            assert other.status is expected
        if verdict.margin_lower is not None:
            assert verdict.margin_lower <= exact + 1e-7
        if verdict.status is Status.FALSIFIED:
            assert attacks.replay(model, drawn.asked, verdict.witness[None]).success.all()
    assert statuses.count(Status.VERIFIED) > 2
    assert statuses.count(Status.FALSIFIED) > 2


def test_no_unsafe_point_is_ever_closed_or_cut_away(monkeypatch):
    """Were none ever tried: each is in a box that waits, with its group open."""
    monkeypatch.setattr(splitting._Split, "_attacked", lambda *_: None)
    monkeypatch.setattr(Case, "replayed", lambda *_: None)
    monkeypatch.setattr(splitting, "_MOST", 16)
    held, told, begun, batch = [], [], [], splitting._Split._batch

    def checked(self):
        batch(self)
        rng, (low, high) = np.random.default_rng(len(held)), begun[-1]
        points = rng.uniform(low, high, (400, 2))[:, self.places]
        margins = self._margins(points)
        worst = self.conditions.groups.join(np.maximum, margins)
        waiting = self.pool._waiting
        inside = (points[:, None] >= waiting.low) & (points[:, None] <= waiting.high)
        found = inside.all(2)[..., None] & waiting.open
        assert (found.any(1) | (worst > 0)).all()
        # Where it says more than zeros, what is known of a box holds at each of them.
        known = points @ waiting.normal.T + waiting.offset
        unsafe = found & (worst <= 0)[:, None]
        assert (known[unsafe.any(2)] <= 1e-12).all()
        held.append((worst <= 0).sum())
        told.append((known[unsafe.any(2)] < 0).sum())

    monkeypatch.setattr(splitting._Split, "_batch", checked)
    for seed in range(6):
        drawn = Drawn(seed, random_net(seed))
        begun.append((drawn.low, drawn.high))
        Verifier(drawn.model, solver="split", time_limit=1.0).verify(drawn.asked)
    assert sum(count > 0 for count in held) > 20
    assert sum(count > 0 for count in told) > 20


def test_a_disjunction_of_input_boxes_is_one_case_each(wedge, tmp_path, monkeypatch):
    """As property 6 of ACAS Xu: every box against the same outputs, or against its own."""
    monkeypatch.setattr(splitting, "FEW_RELUS", 0)
    monkeypatch.setattr(Decider, "_attacked", lambda *_: None)
    names = [f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1")]
    box = "(and (>= X_0 {}) (<= X_0 {}) (>= X_1 0) (<= X_1 1){})"
    same = f"(assert (or {box.format(0, 0.25, '')} {box.format(0.5, 1, '')}))"
    own = "(assert (or {} {}))".format(
        box.format(0, 0.25, " (>= Y_0 {0})"), box.format(0.5, 1, " (>= Y_1 {1})")
    )
    # Of the first box the outputs are at most 1.25 and 0.25, of the second at most 2 and 1.
    for text, status in (
        (same + "(assert (or (>= Y_0 2.05) (>= Y_1 1.05)))", Status.VERIFIED),
        (same + "(assert (or (>= Y_0 2.05) (>= Y_1 0.95)))", Status.FALSIFIED),
        (same + "(assert (or (>= Y_0 1.95) (>= Y_1 1.05)))", Status.FALSIFIED),
        (own.format(1.3, 1.05), Status.VERIFIED),
        (own.format(1.2, 1.05), Status.FALSIFIED),
        (own.format(1.3, 0.95), Status.FALSIFIED),
    ):
        path = tmp_path / "prop.vnnlib"
        path.write_text("".join(names) + text)
        verdict = Decider(wedge).decide(rt.Property.from_vnnlib(path), 20)
        assert verdict.status is status, text
        if status is Status.VERIFIED:
            assert verdict.search == "split"
        else:
            first = "1.2 " in text.replace(")", " ")
            assert (verdict.witness[0] <= 0.25) == first


#: `y = relu(x0 + x1)`, on the unit box at most 2, and `relu(x0 - x1)`, at most 1.
KERNEL = np.array([[1.0, 1.0], [1.0, -1.0]], np.float32)


@pytest.fixture(scope="module")
def wedge():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(2, "relu")(inputs))
    model.layers[-1].set_weights([KERNEL, np.zeros(2, np.float32)])
    return model


def key(model):
    return build(model).structure, 2


def unit(output, low=(0, 0), high=(1, 1)):
    return rt.Property(np.array([low], float), np.array([high], float), output)


def test_a_margin_that_is_not_above_the_tolerance_closes_nothing(wedge):
    row = np.array([[-1.0, -1.0]])  # f0 + f1 = relu(x0 + x1) + relu(x0 - x1) <= 2
    for over, status in ((1e-2, Status.VERIFIED), (-1e-6, Status.FALSIFIED)):
        asked = unit(rt.unreachable((row, np.array([-2.0 - over]))))
        assert Verifier(wedge, solver="split", time_limit=5.0).verify(asked).status is status
    # Reached by no float32 number, proven by no bound: open.
    for over in (1e-9, 1e-7):
        asked = unit(rt.unreachable((row, np.array([-2.0 - over]))))
        verdict = Verifier(wedge, solver="split", time_limit=0.5).verify(asked)
        assert verdict.status in (Status.TIMEOUT, Status.UNKNOWN), (over, verdict)


def test_what_is_left_open_goes_to_the_other_search(wedge, monkeypatch):
    """Between the tolerance and 0 no box is closed, however small; phases are few."""
    monkeypatch.setattr(splitting, "FEW_RELUS", 0)
    monkeypatch.setattr(splitting._Split, "_batch", lambda self: setattr(self, "atoms", 1))
    asked = unit(rt.unreachable((np.array([[-1.0, -1.0]]), np.array([-2.01]))))
    assert Verifier(wedge, solver="auto").verify(asked).status is Status.VERIFIED
    verdict = Verifier(wedge, solver="split", time_limit=0.2).verify(asked)
    assert verdict.status is Status.TIMEOUT


def test_conditions_that_hold_one_by_one_but_never_together(wedge):
    """`f0 >= 0.9` and `f1 >= 0.9` are each reached; together `2 x0 >= 1.8`, and `x0 <= 0.8`."""
    asked = unit(rt.above(0, 0.9) & rt.above(1, 0.9), high=(0.8, 1))
    one_by_one = Verifier(wedge, solver="split").verify(asked)
    both = rt.unreachable((-np.eye(2), np.array([-0.9, -0.9])))
    assert one_by_one.status is Status.FALSIFIED
    verdict = Verifier(wedge, solver="split").verify(unit(both, high=(0.8, 1)))
    assert verdict.status is Status.VERIFIED
    assert 0 < verdict.margin_lower <= 0.1


def test_inputs_without_width_and_a_box_without_any(wedge):
    verifier = Verifier(wedge, solver="split")
    for low, high, top in (((0.5, 0), (0.5, 1), 1.5), ((0.5, 0.25), (0.5, 0.25), 0.75)):
        for over, status in ((1e-2, Status.VERIFIED), (-1e-2, Status.FALSIFIED)):
            verdict = verifier.verify(unit(rt.below(0, top + over), low, high))
            assert verdict.status is status, (low, over, verdict)
            if status is Status.FALSIFIED:
                assert verdict.witness[0] == 0.5


def test_images_and_labels_are_split_too():
    model = random_net(5, (4,))
    x = np.array([0.3, -0.2], np.float32)
    label = int(model(x[None]).numpy().argmax())
    for eps in (0.01, 0.3, 3.0):
        found = {
            solver: Verifier(model, eps, box=None, solver=solver).verify(x, label)
            for solver in ("branch", "split")
        }
        assert found["branch"].status is found["split"].status, (eps, found)


def test_no_time_is_a_timeout_and_decides_nothing(wedge):
    asked = unit(rt.below(0, 2.5))
    verdict = Verifier(wedge, solver="split", time_limit=0.0).verify(asked)
    assert verdict.status is Status.TIMEOUT
    assert (verdict.margin_lower, verdict.nodes) == (None, 0)


def test_balls_that_are_no_boxes_are_refused_by_name(wedge):
    asked = rt.Property.around(np.zeros((1, 2)), 0.1, rt.below(0, 5.0), "l1", (-1, 1))
    with pytest.raises(ValueError, match="solver: split needs norm linf, got 'l1'"):
        Verifier(wedge, solver="split").verify(asked)
    assert Verifier(wedge, solver="auto").verify(asked).status is Status.VERIFIED


@pytest.mark.parametrize(("off", "root"), [(1e-3, True), (10.0, True), (1e-6, True), (1e-6, False)])
def test_bounds_that_are_none_are_a_fault_of_the_verifier(wedge, monkeypatch, off, root):
    """Of the whole box, and by a hair too; and of every other box."""
    work = boxwork.box_work(*key(wedge))

    def wrong(*arguments):
        found = work.bound(*arguments)
        return found._replace(constant=found.constant - off)

    monkeypatch.setattr(splitting, "box_work", lambda *_: work._replace(bound=wrong))
    if not root:
        monkeypatch.setattr(splitting._Split, "_check_root", lambda *_: None)
    with pytest.raises(ValueError, match="a fault of the verifier, not a verdict"):
        Verifier(wedge, solver="split").verify(unit(rt.below(0, 2.005)))


def test_numbers_that_are_none_close_nothing(wedge, monkeypatch):
    work = boxwork.box_work(*key(wedge))

    def none(*arguments):
        found = work.bound(*arguments)
        bad = tf.constant([np.nan, np.inf, -np.inf], tf.float64)
        index = tf.range(tf.shape(found.constant)[0]) % 3
        return found._replace(constant=found.constant * 0 - tf.gather(bad, index)[:, None])

    monkeypatch.setattr(splitting, "box_work", lambda *_: work._replace(bound=none))
    monkeypatch.setattr(splitting._Split, "_check", lambda *_: None)
    monkeypatch.setattr(splitting._Split, "_check_root", lambda *_: None)
    verdict = Verifier(wedge, solver="split", time_limit=0.3).verify(unit(rt.below(0, 2.5)))
    assert verdict.status is Status.TIMEOUT


def test_descent_goes_to_the_corner_of_the_least_margin(wedge):
    """Of a box about 0, where `-(f0 - 2 f1)` has its least at `(1, 1)` and at no other corner."""
    work = boxwork.box_work(*key(wedge))
    network = (build(wedge).weights(tf.float64), tf.zeros(2, tf.float64), tf.constant([0, 1]))
    start = tf.constant([[0.5, 0.4], [0.9, 0.1], [-0.1, 0.3]], tf.float64)
    ends = tf.fill((3, 2), tf.constant(-1.0, tf.float64)), tf.ones((3, 2), tf.float64)
    asked = (tf.constant([[1.0, -2.0]], tf.float64), tf.zeros(1, tf.float64))
    found = work.descend(*network, start, ends, (*asked, tf.zeros(1, tf.float64)))
    np.testing.assert_allclose(found[:, 0], 1.0)
    np.testing.assert_allclose(wedge(found) @ [[1.0], [-2.0]], np.full((3, 1), 2.0), atol=1e-6)


def test_one_trace_serves_boxes_properties_and_weights():
    boxwork.box_work.cache_clear()
    first, second = random_net(1), random_net(2)
    for model, shift in itertools.product((first, second), (0.0, 0.1)):
        asked = unit(rt.below(0, 1e3 + shift), (shift, 0), (1, 1))
        assert Verifier(model, solver="split").verify(asked).nodes > 0
    work = boxwork.box_work(*key(first))
    assert work.bound.experimental_get_tracing_count() == 1
    assert work.descend.experimental_get_tracing_count() == 1


def test_a_convolution_is_split():
    model = nets.randomise(nets.conv(), 1)
    x = nets.images(model, 1)
    low, high = x.copy().astype(np.float64), x.copy().astype(np.float64)
    low[0, 2, 2], high[0, 2, 2] = 0.0, 1.0
    label = int(model(x).numpy().argmax())
    asked = rt.Property(low, high, rt.classified(label))
    found = {s: Verifier(model, solver=s).verify(asked).status for s in ("branch", "split")}
    assert found["branch"] is found["split"]


def test_what_is_no_number_has_no_say_in_where_to_split():
    groups = types.SimpleNamespace(each=lambda open_: open_)
    search = types.SimpleNamespace(conditions=types.SimpleNamespace(groups=groups))
    values = np.array([[[1.0, np.inf, 2.0], [3.0, 1.0, np.nan]]])
    found = splitting._Split._score(search, np.array([[True, True]]), values)
    np.testing.assert_array_equal(found, [[4.0, 0.0, 0.0]])
