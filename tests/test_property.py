"""Properties: what is asked is what is answered, by every door, against oracles of their own."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import robustra_tf as rt
from eval import check
from eval.checker import claim, derive
from eval.checker.rejection import RejectedError
from robustra_tf import attacks, counting
from robustra_tf.attacks import ascent
from robustra_tf.conditions import NO_GROUP
from robustra_tf.exact import Status
from tests import claims, nets, oracle_nets
from tests.oracle_exact import least_of_greatest

PIXELS = 3
ROUNDING, SOLVED = 1e-9, 1e-6


pytestmark = pytest.mark.usefixtures("eager")


def network(seed, outputs=2, units=4):
    model = keras.Sequential([keras.Input((PIXELS,))])
    for _ in range(2):
        model.add(layers.Dense(units, activation="relu"))
    model.add(layers.Dense(outputs))
    return nets.randomise(model, seed)


class Drawn:
    """A network, a set of inputs and polyhedra near what it reaches; with sampled points."""

    def __init__(self, seed, norm="linf", outputs=2):
        rng = self.rng = np.random.default_rng(seed)
        self.model, self.norm = network(seed, outputs), norm
        self.net = oracle_nets.of_model(self.model)
        self.x = rng.uniform(0.2, 0.8, (1, PIXELS)).astype(np.float32)
        width = rng.uniform(0.02, 0.3, (2, PIXELS)) * (rng.random((2, PIXELS)) < 0.8)
        self.low, self.high = self.x - width[0], self.x + width[1]
        self.eps = None if norm == "linf" else float(rng.uniform(0.05, 0.4))
        self.points = self._points(4000)
        self.values = self.net.logits(self.points)
        self.polyhedra = [self._polyhedron() for _ in range(int(rng.integers(1, 4)))]
        ball = {} if norm == "linf" else {"centre": self.x, "eps": self.eps, "norm": norm}
        output = rt.unreachable(*self.polyhedra)
        self.asked = rt.Property(self.low, self.high, output, **ball)

    def _points(self, count):
        found = self.rng.uniform(self.low, self.high, (count, PIXELS))
        found[: count // 4] = np.where(
            self.rng.random((count // 4, PIXELS)) < 0.5, self.low, self.high
        )
        if self.eps is None:
            return found
        size = np.linalg.norm(found - self.x, {"l2": 2, "l1": 1}[self.norm], 1, keepdims=True)
        return self.x + (found - self.x) * np.minimum(1, self.eps / np.maximum(size, 1e-300))

    def _polyhedron(self):
        """Of one to three conditions whose faces pass near the outputs of a point."""
        a = self.rng.normal(size=(int(self.rng.integers(1, 4)), self.values.shape[1]))
        here = self.values[self.rng.integers(len(self.values))]
        return a, a @ here + self.rng.normal(size=len(a)) * 0.2 - 0.1

    @property
    def greatest(self):
        """Of each polyhedron, at every point the greatest margin: [groups, points]."""
        return np.stack([(self.values @ a.T - b).max(1) for a, b in self.polyhedra])

    def exact(self):
        """The least greatest margin of each polyhedron over the inputs, by brute force."""
        radius = self.eps if self.norm == "l1" else None
        ends = self.low[0].astype(float), self.high[0].astype(float)
        x = self.x[0].astype(float)
        return [
            least_of_greatest(self.net, x, -a, b, *ends, radius, most=512)
            for a, b in self.polyhedra
        ]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("method", ["dual", "interval", "crown", "sound"])
def test_no_bound_is_above_the_margin_of_any_point(norm, method):
    how = {"sound": True} if method == "sound" else {"method": method, "dtype": "float64"}
    gaps = []
    for seed in range(4):
        drawn = Drawn(seed, norm)
        found = rt.certify(drawn.model, drawn.asked, **how)
        conditions = np.concatenate([a for a, _ in drawn.polyhedra])
        bounds = np.concatenate([b for _, b in drawn.polyhedra])
        margins = drawn.values @ conditions.T - bounds
        assert (found.margin_lower[0] <= margins.min(0) + ROUNDING).all()
        gaps.append(margins.min(0) - found.margin_lower[0])
        if found.verified[0]:
            assert (drawn.greatest > 0).all()
    # Not by being far below everything: some are about as large as what points show.
    assert np.concatenate(gaps).min() < 0.3


def test_a_box_beside_a_ball_is_used_and_never_loses():
    """Pixels that cannot move leave the others' ball, exactly as in the network without them."""
    model = network(3)
    x = np.full((1, PIXELS), 0.5, np.float32)
    low, high = x - 1.0, x + 1.0
    low[:, 1:] = high[:, 1:] = x[:, 1:]
    for norm in ("l2", "l1"):
        asked = rt.Property(low, high, rt.classified(0), centre=x, eps=0.2, norm=norm)
        segment = rt.Property(np.maximum(low, x - 0.2), np.minimum(high, x + 0.2), rt.classified(0))
        for sound in (False, True):
            ball, box = (rt.certify(model, p, sound=sound).margin_lower for p in (asked, segment))
            np.testing.assert_allclose(ball, box, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["dual", "interval", "crown"])
def test_a_classification_asked_as_a_property_has_the_same_margins(method):
    model = nets.dense()
    x, y = nets.images(model, 3), np.array([0, 1, 2])
    for norm, box in (("linf", (0, 1)), ("linf", None), ("l2", None), ("l1", None)):
        how = {"norm": norm, "box": box}
        labels = rt.certify(model, x, y, 0.05, **how, method=method)
        outputs = rt.certify(model, x, rt.classified(y), 0.05, **how, method=method)
        np.testing.assert_array_equal(labels.margin_lower, outputs.margin_lower)
        np.testing.assert_array_equal(labels.worst_margin, outputs.worst_margin)
        others = np.array([[1, 2], [0, 2], [0, 1]])
        targets = rt.certify(model, x, rt.targeted(y, others), 0.05, **how, method=method)
        expected = np.take_along_axis(labels.margin_lower, others, 1)
        np.testing.assert_allclose(targets.margin_lower, expected, rtol=1e-4, atol=1e-6)


def test_radii_by_image_and_by_pixel_are_as_one_by_one():
    model, rng = nets.conv(), np.random.default_rng(0)
    x, y = nets.images(model, 3), np.array([0, 1, 2])
    for norm in ("linf", "l2", "l1"):
        radii = np.array([0.01, 0.02, 0.03]).reshape(3, 1, 1, 1)
        every = rt.certify(model, x, y, radii, norm=norm, batch_size=2, rows="needed")
        for k in range(3):
            alone = rt.certify(
                model, x[k : k + 1], y[k : k + 1], float(radii[k, 0, 0, 0]), norm=norm
            )
            np.testing.assert_allclose(
                every.margin_lower[k], alone.margin_lower[0], rtol=1e-4, atol=1e-5
            )
    pixels = rng.uniform(0, 0.02, x.shape[1:])
    moved = rt.certify(model, x, y, pixels)
    box = rt.Property(np.maximum(x - pixels, 0), np.minimum(x + pixels, 1), rt.classified(y))
    np.testing.assert_allclose(
        moved.margin_lower, rt.certify(model, box).margin_lower, rtol=1e-3, atol=1e-5
    )
    assert f" to {pixels.max():g} in pixels" in moved.summary()


def test_the_search_equals_brute_force():
    """Conjunctions whose conditions hold one by one but never together are told apart too."""
    statuses, joint = [], 0
    for seed, norm in itertools.product(range(100, 107), ("linf", "l1")):
        drawn = Drawn(seed, norm)
        exact = drawn.exact()
        solver = ("highs", "branch", "batched", "auto")[seed % 4]
        verdict = rt.Verifier(drawn.model, solver=solver).verify(drawn.asked)
        statuses.append(verdict.status)
        if abs(min(exact)) > 1e-3:
            expected = Status.VERIFIED if min(exact) > 0 else Status.FALSIFIED
            assert verdict.status is expected, (seed, norm, exact, verdict)
        if verdict.status is Status.VERIFIED:
            assert 0 < verdict.margin_lower <= min(exact) + SOLVED
            assert verdict.target in range(len(exact))
            joint += not rt.certify(drawn.model, drawn.asked, dtype="float64").verified[0]
        if verdict.status is Status.FALSIFIED:
            found = attacks.replay(drawn.model, drawn.asked, verdict.witness[None])
            assert found.success.all()
    assert statuses.count(Status.VERIFIED) > 3
    assert statuses.count(Status.FALSIFIED) > 3
    assert joint > 0


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_attacks_stay_inside_and_say_the_truth(norm):
    successes = 0
    for seed in range(20, 23):
        drawn = Drawn(seed, norm)
        found = rt.attack(drawn.model, drawn.asked, steps=10)
        point = found.adversarial.astype(np.float64)
        assert ((drawn.low <= point) & (point <= drawn.high)).all()
        if norm != "linf":
            size = np.linalg.norm(point - drawn.x, {"l2": 2, "l1": 1}[norm])
            assert size <= drawn.eps
        outputs = drawn.model(found.adversarial).numpy()[0].astype(np.float64)
        unsafe = any((a @ outputs <= b).all() for a, b in drawn.polyhedra)
        assert found.success[0] == unsafe
        successes += unsafe
        # As far as points alone get, it gets.
        assert found.success[0] or (drawn.greatest > -1e-3).all()
        if found.success[0]:
            assert not rt.certify(drawn.model, drawn.asked).verified[0]
    assert successes > 0


def test_a_network_of_one_logit():
    """Affine: the least margin is known. Labels are refused, and told what to ask."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.set_weights([np.array([[2.0], [-1.0]]), np.array([0.25])])
    x = np.array([[0.5, 0.5], [0.1, 0.9]], np.float32)  # logits 0.75 and -0.45
    for y, expected in (([1, 0], [0.45, 0.15]), ([0, 1], [-1.05, -0.75])):
        found = rt.certify(model, x, rt.binary(y), 0.1)
        np.testing.assert_allclose(found.margin_lower[:, 0], expected, atol=1e-6)
        np.testing.assert_array_equal(found.verified, np.array(expected) > 0)
        np.testing.assert_array_equal(found.safe, np.array(expected) > 0)
        for k in range(2):
            verdict = rt.Verifier(model, 0.1).verify(x[k], rt.binary(y[k]))
            assert (verdict.status is Status.VERIFIED) == (expected[k] > 0)
    at = rt.binary(1, probability=0.6)
    threshold = np.log(0.6 / 0.4)
    margin = rt.certify(model, x[:1], at, 0.0).margin_lower
    np.testing.assert_allclose(margin, [[0.75 - threshold]], atol=1e-6)
    band = rt.below(0, 1.1) & rt.above(0, [0.5, -0.8])
    np.testing.assert_array_equal(rt.certify(model, x, band, 0.1).verified, [False, True])
    with pytest.raises(ValueError, match=r"expected at least two logits.*rt\.binary"):
        rt.certify(model, x, [1, 0], 0.1)


SUGAR = {
    "classified": (rt.classified(1), lambda f: max(f[0], f[2]) >= f[1]),
    "targeted": (rt.targeted(1, [2]), lambda f: f[2] >= f[1]),
    "targets": (rt.targeted(0, [1, 2]), lambda f: max(f[1], f[2]) >= f[0]),
    "below": (rt.below(2, 0.5), lambda f: f[2] >= 0.5),
    "above": (rt.above(0, -0.5), lambda f: f[0] <= -0.5),
    "both": (rt.below(1, 0.5) & rt.targeted(0, 1), lambda f: f[1] >= 0.5 or f[1] >= f[0]),
    "polyhedra": (
        rt.unreachable(([[1, 0, 0], [0, 1, 0]], [0, 0]), ([[0, 0, -1]], [-1])),
        lambda f: (f[0] <= 0 and f[1] <= 0) or f[2] >= 1,
    ),
}


@pytest.mark.parametrize("name", SUGAR)
def test_the_sugar_means_what_it_says(name):
    output, unsafe = SUGAR[name]
    conditions = output.conditions(3)
    # Halves make ties, which are unsafe, frequent.
    outputs = np.random.default_rng(0).integers(-3, 4, (300, 3)).astype(np.float32) / 2
    expected = [bool(unsafe(f)) for f in outputs]
    np.testing.assert_array_equal(conditions.reached(outputs), expected)
    np.testing.assert_array_equal(conditions.violation(outputs) >= 0, expected)
    assert 0 < np.mean(expected) < 1
    assert not conditions.reached(np.full((1, 3), np.nan)).any()
    tensors = [tf.constant(np.repeat(part, 300, 0)) for part in conditions[:3]]
    wide = ascent.Unsafe(tensors[0], tensors[1], tf.cast(tensors[2], tf.int32))
    climbed = ascent.violation(tf.constant(outputs, tf.float64), wide)
    np.testing.assert_allclose(climbed, conditions.violation(outputs))


def test_what_is_reached_is_computed_without_rounding():
    """In float64 the two sides are equal; in real numbers one is a hair larger."""
    row, f = np.array([[1.0, 1.0]]), np.array([[1.0, 2.0**-60]], np.float32)
    for bound, expected in ((1.0, False), (1.0 + 2.0**-52, True)):
        assert rt.unreachable((row, [bound])).conditions(2).reached(f)[0] == expected


def test_groups_are_counted_one_by_one():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(1, 6))
        lower = rng.choice([-1.0, 0.0, 1.0, np.nan, np.inf, 1e-300], (4, count))
        group = rng.integers(-1, 3, (int(rng.choice([1, 4])), count))
        for k, found in enumerate(counting.verified(lower, group)):
            own = group[k % len(group)]
            proven = (lower[k] > 0) & np.isfinite(lower[k])
            named = set(own[own != NO_GROUP].tolist())
            assert found == (bool(named) and all(proven[own == g].any() for g in named))
    assert not counting.verified(np.ones((2, 0)), np.zeros((1, 0), int)).any()


@pytest.mark.parametrize("mode", ["sound", "float64"])
def test_the_checker_accepts_what_is_written_and_nothing_else(mode, tmp_path, capsys):
    how = {"sound": True} if mode == "sound" else {"dtype": mode}
    for norm in ("linf", "l2", "l1"):
        drawn, path = Drawn(20, norm), tmp_path / "certificate.npz"
        x = np.concatenate([drawn.x, drawn.x + np.float32(0.01)])
        ball = {} if norm == "linf" else {"centre": x, "eps": [[0.2], [0.03]], "norm": norm}
        output = rt.unreachable(*((a, b - 5.0) for a, b in drawn.polyhedra))
        asked = rt.Property(x - 0.05, x + 0.05, output, **ball)
        found = rt.certify(drawn.model, asked, **how, save=path)
        derived = derive.check(claim.read(path))
        np.testing.assert_array_equal(derived.certified, found.verified)
        np.testing.assert_allclose(derived.margin_lower, found.margin_lower, atol=1e-8)
        if mode == "sound":
            assert (found.margin_lower <= derived.margin_lower).all()
        assert check.main([str(path)]) == check.ACCEPTED
        kind = "boxes" if norm == "linf" else f"{norm} balls of radius 0.03 to 0.2 within boxes"
        told = capsys.readouterr().out
        assert f"property: {kind}" in told
        assert "2 verified, 2 safe in the middle" in told
        arrays, header = claims.members(path)
        # A box alone is what its ends say; a ball is cut to the farther end on either side.
        walls = {"low": 0.01, "high": -0.01} if norm == "linf" else {"low": -0.05, "radius": 0.01}
        for name, change in (
            {"rows": 0.01, "offset": 0.01, "x": 0.02, "margin_lower": 0.01} | walls
        ).items():
            changed = {key: value.copy() for key, value in arrays.items()}
            changed[name].reshape(-1)[-1 if name == "radius" else 0] += change
            with pytest.raises(RejectedError):
                derive.check(claim.read(claims.written(path, changed, header)))
        unsafe = arrays | {"safe": 0 * arrays["safe"]}
        assert not derive.check(claim.read(claims.written(path, unsafe, header))).certified.any()
        last = arrays | {"group": 0 * arrays["group"] + arrays["group"].shape[1] - 1}
        assert claim.read(claims.written(path, last, header)).inputs.endswith("in 1 groups")
        nothing = arrays | {"group": 0 * arrays["group"] - 1}
        with pytest.raises((RejectedError, claim.UnreadableError)):
            derive.check(claim.read(claims.written(path, nothing, header)))
