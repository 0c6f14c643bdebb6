"""Verdicts of random networks against everything else that knows something of them.

What is verified is attacked and sampled; what is falsified is replayed; where there are few pieces,
linear programmes on each of them know the least margin. Solvers and certificates must agree. A
hundred and fifty networks are drawn here; `make fuzz` draws three thousand, other ones each time.
Radii are near the attacked one, where neither side is easy. TensorFlow's functions run eagerly:
every network is another one, and tracing it would take longer than everything else.
"""

import contextlib
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import robustra_tf as rt
from robustra_tf.attacks import contained
from robustra_tf.attacks.replay import replay, settle
from robustra_tf.exact import Status, Verifier
from robustra_tf.graph import build
from robustra_tf.vocabulary import largest_radius
from tests import oracle_nets, oracles, random_models
from tests.impatience import impatient
from tests.oracle_exact import TooManyPiecesError, least_margin
from tests.points import ascend, corners

BLOCKS = 5
NETWORKS = int(os.environ.get("ROBUSTRA_FUZZ_VERDICTS", "150"))
NIGHTLY = "ROBUSTRA_FUZZ_VERDICTS" in os.environ
#: Weights drawn for one Keras model: building it takes longer than most of what follows.
DRAWS = 3
MANY = settings(
    max_examples=-(-NETWORKS // (BLOCKS * DRAWS)),
    deadline=None,
    derandomize=not NIGHTLY,
    # Networks are small already, and to find smaller ones takes minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

STARTS = 200
PIECES = 12
SECONDS = 5.0
#: Shares of the sum of absolute values that rounding may take; HiGHS knows margins to 1e-6.
FLOAT32, FLOAT64, SOLVED = 1e-5, 1e-9, 1e-6
#: What float32 loses where it flushes 1e-38 to zero, and later weights enlarge.
FLUSHED = 1e-30
#: Of the logits, twice what the verifier may leave open around zero.
OPEN = 4e-5

SHAPES = ((1,), (1,), (2,), (2,), (3,), (2, 2, 1), (3, 2, 1))
INPUTS = st.sampled_from(
    [("linf", None), ("linf", (0.0, 1.0)), ("linf", (-0.5, 2.0)), ("l1", None), ("l1", (0.0, 1.0))]
)
#: The last one takes many steps, so it is drawn seldom.
METHODS = ("dual", "interval", "crown") * 5 + ("alpha",)


pytestmark = pytest.mark.usefixtures("eager")


class Subject:
    """A network, an image and a set of inputs, with what points know of it."""

    def __init__(self, model, inputs, rng):
        self.model, (self.norm, self.box), self.rng = model, inputs, rng
        graph = build(model)
        weights = graph.weights(tf.float64)
        self.net = oracle_nets.of_graph(graph.structure, weights)
        low, high = self.box or (0.0, 1.0)
        self.shape = graph.structure.input_shape
        x = rng.uniform(low, high, self.shape)
        self.image = np.where(rng.random(self.shape) < 0.2, low, x).astype(np.float32)
        self.x = self.image.astype(np.float64).ravel()
        self.logits = self.deployed(self.image[None])[0]
        self.label = int(self.logits.argmax())
        self.classes = len(self.logits)
        self.others = [t for t in range(self.classes) if t != self.label]
        self.eps = self._radius()
        if self.box is not None:
            # No larger ball is taken.
            width = self.box[1] - self.box[0]
            self.eps = min(self.eps, width * largest_radius(self.norm, self.shape))
        self.ball = (self.eps, self.norm, self.box)
        self.points = self._explored(self.eps, STARTS, steps=8)
        self.points = np.concatenate([self.points, self._grid()])
        values = self.net.logits(self.points)
        margins = values[:, [self.label]] - values[:, self.others]
        self.least = margins.min()
        self.worst = self.points[np.argsort(margins.min(axis=1))[:16]]
        self.size = np.max(np.abs(values))
        self.rounding = 2 * self.net.magnitudes(np.abs(self.x) + self.eps)[-1].max()
        self.lost = np.abs(
            self.deployed(self._settled(self.worst))
            - self.net.logits(
                self._settled(self.worst).reshape(len(self.worst), -1).astype(np.float64)
            )
        ).max()

    @property
    def _replayed(self):
        """By how much a margin in float32 may be off."""
        return FLOAT32 * self.rounding + FLUSHED

    def deployed(self, images):
        return self.model(images, training=False).numpy().astype(np.float64)

    def _settled(self, points):
        candidates = points.reshape(-1, *self.shape).astype(np.float32)
        images = np.broadcast_to(self.image, candidates.shape)
        return settle(images, candidates, self.eps, self.norm, self.box)

    def _explored(self, eps, starts, steps):
        points = corners(self.rng, self.x, eps, self.norm, self.box, starts)
        rows = oracles.target_rows(self.label, self.classes)[self.others]
        rows = np.resize(rows, (starts, self.classes))
        ball = (eps, self.norm, self.box)
        return ascend(self.net, rows, self.x, *ball, points, steps=steps)

    def _radius(self):
        """A radius just below, at, or above the smallest where a quick attack succeeds."""
        factor = self.rng.choice([0.3, 0.7, 0.9, 0.98, 1.02, 1.5])
        low, high = 0.0, None
        for eps in (0.01, 0.05, 0.2, 0.6, 2.0):
            if self._falls(eps):
                high = eps
                break
            low = eps
        if high is None:
            return float(self.rng.choice([0.1, 0.6, 2.0]))
        for _ in range(4):
            middle = 0.5 * (low + high)
            low, high = (low, middle) if self._falls(middle) else (middle, high)
        return float(factor * high)

    def _falls(self, eps):
        values = self.net.logits(self._explored(eps, 30, steps=3))
        return bool((values[:, [self.label]] < values[:, self.others]).any())

    def _grid(self):
        """Points of a grid over the ball where pixels are few."""
        sides = {1: 2001, 2: 45, 3: 13}.get(len(self.x))
        if sides is None:
            return self.x[None]
        axes = [np.linspace(*ends, sides) for ends in zip(*self._ends(), strict=True)]
        points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, len(self.x))
        order = np.inf if self.norm == "linf" else 1
        return points[np.linalg.norm(points - self.x, order, axis=1) <= self.eps]

    def _ends(self):
        low, high = self.x - self.eps, self.x + self.eps
        if self.box is not None:
            low, high = np.maximum(low, self.box[0]), np.minimum(high, self.box[1])
        return low, high

    def exact(self):
        """The least margin by brute force, or None where that is too much."""
        radius = self.eps if self.norm == "l1" else None
        try:
            return least_margin(self.net, self.x, self.label, *self._ends(), radius, PIECES)
        except (TooManyPiecesError, RuntimeError):
            return None

    def check(self, verdict, exact):
        """The verdict contradicts no point, no replay and no brute force."""
        context = (verdict, self.least, exact, self.eps, self.norm, self.box)
        slack = FLOAT64 * self.rounding
        solved = slack + SOLVED * max(1.0, self.size)
        if verdict.margin_lower is not None:
            assert verdict.margin_lower <= self.least + slack, context
            assert exact is None or verdict.margin_lower <= exact + solved, context
        if verdict.status is Status.VERIFIED:
            assert self.least > 0, context
            assert exact is None or exact > -solved, context
            assert verdict.margin_lower > 0, context
            images = self._settled(self.worst)
            assert (self.deployed(images).argmax(axis=1) == self.label).all(), context
            assert verdict.witness is None
        elif verdict.status is Status.FALSIFIED:
            self.check_witness(verdict, context)
            assert exact is None or exact <= self._replayed + solved, context
        else:
            # What is left open is open: within the tolerance of zero, or out of time.
            least = min(self.least, self.least if exact is None else exact)
            open_ = OPEN * self.size + 40 * self.lost + solved
            assert least > -open_ or verdict.seconds >= SECONDS, context
            assert exact is None or exact < open_ or verdict.seconds >= SECONDS, context

    def check_witness(self, verdict, context):
        witness = verdict.witness[None]
        assert contained(self.image[None], witness, *self.ball).all(), context
        predicted = int(self.deployed(witness)[0].argmax())
        assert predicted == verdict.target != self.label, context
        logits = self.net.logits(witness.astype(np.float64).ravel())
        assert logits[self.label] - logits[predicted] <= self._replayed, context


@pytest.mark.parametrize("block", range(BLOCKS))
@MANY
@given(data=st.data(), seed=random_models.SEEDS, inputs=INPUTS)
def test_no_verdict_is_contradicted(block, data, seed, inputs):
    rng = np.random.default_rng([seed, block])
    model = random_models.model(data.draw, SHAPES, depth=3, named=random_models.name(rng))
    for draw in range(DRAWS):
        if draw:
            random_models.randomise(model, data.draw)
        subject = Subject(model, inputs, rng)
        if not np.isfinite(subject.logits).all():
            continue
        solvers = ["batched"] if rng.random() < 0.5 else ["auto"]
        if rng.random() < 0.25:
            solvers += ["branch", "highs"]
        exact = subject.exact()
        statuses = set()
        for solver in solvers:
            hasty = impatient() if rng.random() < 0.5 else contextlib.nullcontext()
            try:
                verifier = Verifier(model, *subject.ball, time_limit=SECONDS, solver=solver)
            except ValueError as refused:
                # Random weights may be none that are taken, which is said of a layer by its name.
                if "must have slopes of at most" not in str(refused):
                    raise
                continue
            with hasty:
                verdict = verifier.verify(subject.image, subject.label)
            subject.check(verdict, exact)
            statuses.add(verdict.status)
        assert not statuses >= {Status.VERIFIED, Status.FALSIFIED}
        if rng.random() < 0.5:
            continue
        method = METHODS[rng.integers(len(METHODS))]
        found = rt.certify(
            model,
            subject.image[None],
            np.array([subject.label]),
            subject.eps,
            norm=subject.norm,
            box=subject.box,
            method=method,
            dtype="float64",
        )
        bound = float(found.worst_margin[0])
        assert bound <= subject.least + FLOAT64 * subject.rounding, method
        # Margins that float32 flushes are none of the model's.
        certified = found.certified[0] and bound > FLUSHED
        assert not (certified and Status.FALSIFIED in statuses), method


class Asked:
    """A random property of a network, with points that know something of it."""

    def __init__(self, model, rng):
        graph = build(model)
        self.model, self.shape = model, graph.structure.input_shape
        self.net = oracle_nets.of_graph(graph.structure, graph.weights(tf.float64))
        self.x = rng.uniform(0, 1, (1, *self.shape)).astype(np.float32)
        width = rng.choice([0.01, 0.1, 0.5]) * rng.uniform(0.2, 1, (2, *self.x.shape))
        width *= rng.random(width.shape) < 0.9
        self.low, self.high = self.x - width[0], self.x + width[1]
        eps = float(rng.choice([0.05, 0.3])) if rng.random() < 0.4 else None
        self.points = self._points(rng, eps)
        self.values = self.net.logits(self.points)
        self.polyhedra = [self._polyhedron(rng) for _ in range(int(rng.integers(1, 4)))]
        ball = {} if eps is None else {"centre": self.x, "eps": eps, "norm": "l1"}
        self.property = rt.Property(self.low, self.high, rt.unreachable(*self.polyhedra), **ball)
        self.margins = [self.values @ a.T - b for a, b in self.polyhedra]
        size = max(np.abs(a).sum(1).max() for a, _ in self.polyhedra)
        largest = np.maximum(np.abs(self.low), np.abs(self.high)).ravel()
        self.slack = FLOAT64 * size * max(self.net.magnitudes(largest)[-1].max(), 1e-30)

    def _points(self, rng, eps):
        ends = (end.reshape(1, -1).astype(np.float64) for end in (self.x, self.low, self.high))
        x, low, high = ends
        points = rng.uniform(low, high, (STARTS, x.size))
        points[::2] = np.where(rng.random(points[::2].shape) < 0.5, low, high)
        if eps is None:
            return points
        size = np.abs(points - x).sum(1, keepdims=True)
        return x + (points - x) * np.minimum(1, eps / np.maximum(size, 1e-300))

    def _polyhedron(self, rng):
        spread = self.values.std(0).max() or 1.0
        a = rng.normal(size=(int(rng.integers(1, 4)), self.values.shape[1]))
        here = self.values[rng.integers(len(self.values))]
        return a, a @ here + spread * (0.5 * rng.normal(size=len(a)) - rng.choice([0.0, 0.5, 2.0]))

    def check(self, verdict, found):
        """Neither verdict nor certificate contradicts a point, a replay or the other."""
        greatest = np.stack([margins.max(1) for margins in self.margins]).min()
        context = (verdict, found, greatest)
        if verdict.margin_lower is not None:
            assert verdict.margin_lower <= greatest + self.slack, context
        if verdict.status is Status.VERIFIED:
            assert greatest > 0 < verdict.margin_lower, context
        elif verdict.status is Status.FALSIFIED:
            assert replay(self.model, self.property, verdict.witness[None]).success.all(), context
            assert not found.verified[0], context
        lower = found.margin_lower[0]
        assert (lower <= np.concatenate(self.margins, 1).min(0) + self.slack).all(), context
        assert not found.verified[0] or greatest > 0, context


@settings(MANY, max_examples=-(-NETWORKS // 25))
@given(data=st.data(), seed=random_models.SEEDS)
def test_no_verdict_of_a_property_is_contradicted(data, seed):
    rng = np.random.default_rng(seed)
    named = random_models.name(rng)
    asked = Asked(random_models.model(data.draw, SHAPES, depth=3, named=named), rng)
    if not np.isfinite(asked.values).all() or np.abs(asked.values).max() > 1e30:
        return
    how = {"sound": True} if rng.random() < 0.3 else {"method": "crown", "dtype": "float64"}
    found = rt.certify(asked.model, asked.property, **how)
    asked.check(Verifier(asked.model, time_limit=SECONDS).verify(asked.property), found)


def test_the_norm_that_is_not_searched_is_refused_by_name():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="norm must be one of linf, l1, got 'l2'"):
        Verifier(model, 0.1, norm="l2")
