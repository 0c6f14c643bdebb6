"""Certified radii: brackets, certificates at the radii, attacks, exact distortions, refusals."""

import sys

import keras
import numpy as np
import pytest

import robustra_tf as rt
from robustra_tf.certificates import compiled
from robustra_tf.certificates.brackets import Brackets, Search
from tests import nets

TOLERANCE = 0.01


def searched(function, roots, search):
    """The brackets of functions that fall through 0 at their roots."""
    places = np.arange(len(roots))
    asked = []

    def evaluate(index, radii):
        asked.append(len(index))
        assert (radii == np.asarray(radii, search.dtype)).all()
        return radii, function(roots[index], radii)

    brackets = Brackets.of(np.zeros(len(roots)), function(roots, 0.0 * places))
    finished = []
    brackets.narrow(evaluate, search, finished.append)
    assert sum(finished) == len(roots)
    return brackets, sum(asked) / len(roots)


FALLING = {
    "a line": lambda root, r: 7 * (root - r),
    "ever faster": lambda root, r: np.exp(9 * root) - np.exp(9 * r),
    "a sign": lambda root, r: np.where(r < root, 1.0, -1.0),
    "nothing beyond": lambda root, r: np.where(r < root, root - r, np.nan),
    "nothing finite beyond": lambda root, r: np.where(r < root, root - r, -np.inf),
    "ever more slowly": lambda root, r: np.sqrt(root) - np.sqrt(r),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FALLING)
def test_brackets_close_about_the_root(name, dtype):
    roots = np.random.default_rng(0).uniform(1e-6, 1.2, 200)
    search = Search(1e-3, 1.0, dtype=dtype).at([0.1, 0.7])
    found, each = searched(FALLING[name], roots, search)
    inside = roots < 1
    assert (found.low <= roots).all()
    assert (roots <= found.high).all()
    assert (found.high - found.low)[inside].max() <= 1e-3
    assert (found.low[~inside] == 1).all()
    for radius in search.radii:
        assert not ((found.low < radius) & (radius < found.high)).any()
    assert each < (30 if name in ("a sign", "nothing beyond", "nothing finite beyond") else 14)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_upper_ends_that_are_found_points_close_from_above(share):
    """At a radius above the root a point is found, some of the way on to where the search was."""
    roots = np.random.default_rng(0).uniform(0.05, 0.9, 200)
    search, asked = Search(1e-3, 1.0), []

    def evaluate(index, radii):
        asked.append(len(index))
        hit = radii >= roots[index]
        found = roots[index] + share * (radii - roots[index])
        return np.where(hit, found, radii), np.where(hit, 0.0, roots[index] - radii)

    brackets = Brackets.of(0.5 * roots, 0.5 * roots)
    brackets.record(np.arange(200), np.minimum(1.0, 1.01 * roots), np.zeros(200))
    brackets.narrow(evaluate, search, lambda count: None)
    assert (brackets.low < roots).all()
    assert (roots <= brackets.high + 1e-12).all()
    assert (brackets.high - brackets.low).max() <= 1e-3
    assert sum(asked) / 200 < {0.0: 2.1, 0.3: 5, 0.9: 12}[share]


ENDLESS = {
    "for ever": lambda root, r: np.where(np.isinf(root), 1.0, root - r),
    "ever less": lambda root, r: np.where(np.isinf(root), np.exp(-r / 1e4), root - r),
    "nearly flat": lambda root, r: np.where(r < root, 1 - 1e-9 * r, -1.0),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_without_a_largest_radius_brackets_grow_by_doubling(name):
    roots = np.append(10 ** np.random.default_rng(0).uniform(-3, 5, 99), np.inf)
    search, low = Search(1e-3, 2.0**20, 1.0).at([50.0]), np.zeros(len(roots))

    def evaluate(index, radii):
        assert (radii <= np.maximum(1, 2 * low[index])).all()
        values = ENDLESS[name](roots[index], radii)
        low[index] = np.where(values > 0, radii, low[index])
        asked.append(len(index))
        return radii, values

    asked, found = [], Brackets.of(low, ENDLESS[name](roots, low))
    found.narrow(evaluate, search, lambda count: None)
    assert (found.low <= roots).all()
    assert (roots <= found.high).all()
    assert (found.high - found.low)[:-1].max() <= 1e-3
    assert found.low[-1] == 2.0**20
    assert not ((found.low < 50) & (found.high > 50)).any()
    assert sum(asked) / len(roots) < 60
    assert len(asked) < 120


def test_without_a_box_images_may_be_in_any_unit():
    """The margin of the ball is that of (200 - r, 50 + r): 0 at 75. A constant has none."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.set_weights([np.eye(2), np.zeros(2)])
    x, y = np.array([[200.0, 50.0], [50.0, 200.0]]), np.zeros(2, int)
    given = {"box": None, "tolerance": TOLERANCE}
    found = rt.certified_radius(model, x, y, **given)
    decided = rt.certified_radius(model, x, y, complete=True, attack_steps=0, **given)
    for radii in (found, decided):
        assert 75 - TOLERANCE <= radii.certified[0] <= 75 <= radii.attacked[0] <= 75 + TOLERANCE
        assert radii.certified[1] == radii.attacked[1] == 0
    parted = rt.certified_radius(model, x, y, radii=(74.999, 3e6), attack_steps=0, **given)
    assert parted.curve([0.0, 74.999, 3e6]).certified.tolist() == [0.5, 0.5, 0.0]
    model.set_weights([np.zeros((2, 2)), np.array([1.0, 0.0])])
    constant = rt.certified_radius(model, x, y, attack_steps=2, **given)
    assert constant.certified.tolist() == [2.0**20] * 2
    assert np.isinf(constant.attacked).all()
    assert constant.curve().certified.tolist() == constant.curve([1e9]).attacked.tolist() * 2
    assert "certified radii: median 1.049e+06" in constant.summary()


def test_a_tolerance_below_rounding_ends():
    found, _ = searched(FALLING["a line"], np.array([0.3]), Search(1e-30, 1.0, dtype="float32"))
    assert np.nextafter(np.float32(found.low[0]), np.float32(1)) >= np.float32(0.3)


@pytest.fixture(scope="module")
def judged():
    """A network, images, labels of which some are wrong, and what is found of them."""
    model = nets.dense(35)
    x = nets.images(model, 24, seed=5)
    y = model.predict(x, verbose=0).argmax(1)
    y[:3] = (y[:3] + 1) % nets.CLASSES
    return model, x, y


@pytest.fixture(scope="module")
def found(judged):
    model, x, y = judged
    options = {"tolerance": TOLERANCE, "radii": (0.1,), "dtype": "float64", "batch_size": 7}
    return rt.certified_radius(model, x, y, box=None, **options)


def test_what_is_certified_is_certified_at_that_very_radius(judged, found):
    model, x, y = judged
    some = found.certified > 0
    assert some.sum() > 10
    for beyond in (0.0, TOLERANCE):
        eps = (found.certified + beyond)[:, None]
        proof = rt.certify(model, x, y, eps, box=None, dtype="float64")
        assert (proof.certified == some if not beyond else ~proof.certified).all()


def test_what_is_attacked_is_classified_wrongly_and_beyond_every_certificate(judged, found):
    model, x, y = judged
    assert (found.certified[:3] == 0).all()
    assert (found.attacked[:3] == 0).all()
    assert not found.correct[:3].any()
    assert found.correct[3:].all()
    assert (found.certified[3:] < found.attacked[3:]).all()
    hit = np.flatnonzero(np.isfinite(found.attacked) & found.correct)
    assert len(hit) > 5
    # A complete search knows of a wrong point there too, and of none at the certified radius.
    verifier = rt.Verifier(model, 0.0, box=None)
    for one in hit[:4]:
        # The point found is on the border: its margin is 0 but for rounding.
        beyond = found.attacked[one] + 1e-4
        assert verifier.verify(x[one], y[one], beyond).status.value == "falsified"
        assert verifier.verify(x[one], y[one], found.certified[one]).status.value == "verified"


def test_the_curve_is_the_certified_accuracy(judged, found):
    model, x, y = judged
    curve = found.curve([0.0, 0.1])
    proof = rt.certify(model, x, y, 0.1, box=None, dtype="float64")
    assert 0 < proof.certified.sum() < len(y)
    np.testing.assert_array_equal(curve.certified, [21 / 24, proof.certified.mean()])
    assert curve.attacked[0] == 21 / 24
    whole = found.curve()
    assert (whole.certified <= whole.attacked).all()
    for shares in (whole.certified, whole.attacked):
        assert (np.diff(shares) <= 0).all()
    assert whole.attacked[-1] == np.isinf(found.attacked).mean()


def test_one_compiled_function_serves_all_radii(judged, monkeypatch):
    model, x, y = judged
    traced = []
    original = compiled.margins

    def counted(*arguments):
        traced.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(compiled, "margins", counted)
    compiled.margins_bound.cache_clear()
    rt.certified_radius(model, x, y, batch_size=5, attack_steps=0)
    assert len(traced) == 1
    compiled.margins_bound.cache_clear()


@pytest.mark.parametrize(
    ("norm", "options"),
    [
        ("l2", {"dtype": "float64"}),
        ("l1", {"method": "crown", "dtype": "float64"}),
        ("linf", {"method": "interval", "sound": True}),
        ("l2", {"sound": True}),
    ],
)
def test_other_norms_and_bounds_are_certified_as_certify_does(judged, norm, options):
    model, x, y = judged
    radii = rt.certified_radius(
        model, x[:9], y[:9], norm=norm, tolerance=0.02, attack_steps=0, **options
    )
    assert np.isinf(radii.attacked[3:]).all()
    assert (radii.certified[3:] > 0).any()
    eps = np.unique(radii.certified[3:].round(3))[::4]
    # At every radius, those whose own is larger by more than the tolerance are certified there.
    for radius in eps[eps > 0]:
        proof = rt.certify(model, x[:9], y[:9], radius, norm=norm, **options).certified
        assert proof[radii.certified >= radius].all()
        assert not proof[radii.certified < radius - 0.02].any()


def test_complete_search_finds_the_exact_distortion(judged):
    """Of a network of two pixels whose nearest wrong point is known, and of a random one."""
    model, x, y = judged
    one = [3, 6, 7]
    plain = rt.certified_radius(model, x[one], y[one], tolerance=0.02)
    exact = rt.certified_radius(model, x[one], y[one], tolerance=0.02, complete=True)
    assert exact.method == "complete"
    assert (exact.certified >= plain.certified).all()
    assert (exact.attacked <= plain.attacked).all()
    found = np.isfinite(exact.attacked)
    assert found.any()
    assert (exact.attacked - exact.certified <= 0.02)[found].all()
    assert (exact.certified > plain.certified).any()
    verifier = rt.Verifier(model, 0.0)
    for k, low, high in zip(one, exact.certified, exact.attacked, strict=True):
        assert verifier.verify(x[k], y[k], low).status.value == "verified"
        if np.isfinite(high):
            assert verifier.verify(x[k], y[k], high).status.value == "falsified"


def test_nothing_is_found_of_no_images(judged):
    model, x, y = judged
    radii = rt.certified_radius(model, x[:0], y[:0])
    assert radii.certified.shape == radii.attacked.shape == (0,)
    assert radii.summary().startswith("0 images")
    assert radii.curve().radius.tolist() == [0.0]


def test_the_tables_hold_what_was_found(found, judged, monkeypatch):
    columns = found.columns()
    np.testing.assert_array_equal(columns["certified"], found.certified)
    classes = found.by_class()
    assert classes["images"].sum() == len(found.labels)
    for k, label in enumerate(classes["label"]):
        here = found.labels == label
        assert classes["median_certified"][k] == np.median(found.certified[here])
        assert classes["correct"][k] == found.correct[here].mean()

    class Frames:
        DataFrame = staticmethod(dict)

    monkeypatch.setitem(sys.modules, "pandas", Frames)
    np.testing.assert_array_equal(found.to_pandas()["attacked"], found.attacked)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"^to_pandas: needs pandas, which pip install pandas"):
        found.to_pandas()


def test_what_was_found_is_told(found, capsys):
    assert "24 images, linf balls in pixels, dual bound, float64, to 0.01" in found.summary()
    assert "21 of 24 correct" in found.summary()
    assert repr(found).startswith("Radii(n=24, correct=21, norm='linf'")


BAD = {
    "tolerance 0": (
        {"tolerance": 0.0},
        "tolerance must be above 0 and at most 1, .*, got 0.0",
    ),
    "tolerance below 0": ({"tolerance": -1e-3}, "tolerance must be above 0 .*, got -0.001"),
    "tolerance of NaN": ({"tolerance": float("nan")}, "tolerance must be above 0 .*, got nan"),
    "tolerance beyond": ({"tolerance": 2}, "tolerance must be above 0 and at most 1"),
    "tolerance of text": ({"tolerance": "fine"}, "tolerance must be above 0 .*, got 'fine'"),
    "radius below 0": ({"radii": (0.1, -0.1)}, r"radii must be above 0 .*, got \(0.1, -0.1\)"),
    "an infinite radius": ({"radii": (np.inf,), "box": None}, "radii must be above 0 and at most"),
    "radius beyond": ({"radii": (8,)}, "radii must be above 0 and at most 1, in pixels"),
    "norm": ({"norm": "l0"}, "norm must be one of linf, l2, l1, got 'l0'"),
    "method": ({"method": "complete"}, "method must be one of dual, interval, crown, alpha, got"),
    "complete in l2": (
        {"norm": "l2", "complete": True},
        "norm must be linf or l1 where complete is true, got 'l2'",
    ),
    "complete and sound": (
        {"sound": True, "complete": True},
        "sound must be False where complete is true",
    ),
    "sound crown": ({"sound": True, "method": "crown"}, "method must be dual or interval where"),
    "steps": ({"attack_steps": -1}, "attack_steps must be at least 0, got -1"),
    "steps that are none": ({"attack_steps": 1.5}, "attack_steps must be a whole number"),
    "batch": ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    "box": ({"box": (1, 0)}, r"box must be \(lo, hi\)"),
    "labels": ({"y": np.zeros(5, int)}, "y must have a label for each of the 24 images, got 5"),
    "images": ({"x": np.full((24, 5), 7.0)}, r"x must lie in the box \[0, 1\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named_in_one_line(judged, name):
    model, x, y = judged
    change, told = BAD[name]
    with pytest.raises(ValueError, match=told) as raised:
        rt.certified_radius(model, **{"x": x, "y": y} | change)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("radii", [[-0.1], [[0.1]], [np.nan]])
def test_a_curve_at_no_radii_is_refused(found, radii):
    with pytest.raises(ValueError, match="radii must be one axis of numbers of at least 0"):
        found.curve(radii)


def test_a_radius_for_each_image_is_the_radius_of_each(judged):
    """Attacks of one call at several radii are those of several calls."""
    model, x, y = judged
    x, y, eps = x[3:9], y[3:9], np.linspace(0.001, 0.4, 6)
    attack = rt.Attack(model, steps=10)
    several = attack(x, y, eps[:, None])
    for k in range(6):
        alone = attack(x, y, float(eps[k]))
        np.testing.assert_allclose(several.adversarial[k], alone.adversarial[k], atol=1e-6)
    assert len(set(map(bool, several.success))) == 2
