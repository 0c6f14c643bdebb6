"""What is wrong with a property is one line: the argument, what was expected, what came."""

import keras
import numpy as np
import pytest
from keras import layers

import robustra_tf as rt
from tests import nets

X, ONE = np.full((2, 2), 0.5, np.float32), np.ones((2, 2))
WRONG = {
    "nan": (lambda: rt.Property(np.nan * ONE, ONE, rt.classified(0)), "lower must be numbers, got"),
    "order": (lambda: rt.Property(ONE, 0 * ONE, rt.classified(0)), r"lower must be .*1 > 0 at \(0"),
    "shapes": (
        lambda: rt.Property(ONE, np.ones((3, 2)), rt.classified(0)),
        "lower, upper must fit",
    ),
    "one axis": (
        lambda: rt.Property([0, 0], [1, 1], rt.classified(0)),
        r"shape \[n, \*shape\], got",
    ),
    "open box": (lambda: rt.Property(-np.inf, ONE, rt.classified(0)), "lower must be finite where"),
    "text": (lambda: rt.Property("a", ONE, rt.classified(0)), "lower must be numbers, got <U1"),
    "output": (lambda: rt.Property(0 * ONE, ONE, [0]), "output must be made by .*, got list"),
    "count": (lambda: rt.Property(0 * ONE, ONE, rt.classified([0] * 3)), "for 2 examples, got 3"),
    "eps alone": (lambda: rt.Property(0, ONE, rt.below(0, 1), eps=1), "centre must be given with"),
    "outside": (
        lambda: rt.Property(0 * ONE, ONE, rt.below(0, 1), centre=2 * ONE, eps=1),
        "centre must lie between lower and upper",
    ),
    "l2 radii": (
        lambda: rt.Property.around(X, ONE, rt.below(0, 1), norm="l2"),
        r"eps must be one number for each l2 ball, got shape \(2, 2\)",
    ),
    "norm": (lambda: rt.Property(0, ONE, rt.below(0, 1), norm="l2"), "norm must be linf where"),
    "no polyhedron": (rt.unreachable, r"polyhedra: expected at least one pair \(A, b\), got none"),
    "no condition": (lambda: rt.unreachable((np.zeros((0, 2)), [])), r"m >= 1, got \(0, 2\)"),
    "bounds": (lambda: rt.unreachable((ONE, [1])), r"expected b of shape \(2,\), got \(1,\)"),
    "zeros": (lambda: rt.unreachable((0 * ONE, [1, 1])), "got a row of zeros"),
    "infinite": (lambda: rt.unreachable((ONE, [1, np.inf])), "expected finite numbers, got NaN or"),
    "widths": (
        lambda: rt.unreachable((ONE, [1, 1]), ([[1]], [1])),
        r"as many coefficients in each, got \[1, 2\]",
    ),
    "label": (lambda: rt.binary(2), "label must be 0 or 1, got 2"),
    "probability": (lambda: rt.binary(1, probability=1.0), "must lie between 0 and 1, got 1.0"),
    "target": (lambda: rt.targeted([0, 1], [0]), r"targets must be other classes .*got \[0\]"),
    "value": (lambda: rt.below(0, np.nan), "value must be finite, got NaN"),
    "outputs": (lambda: asked().to_vnnlib("none", -3), "outputs must be at least 1, got -3"),
    "outputs true": (lambda: asked().to_vnnlib("none", True), "outputs must be a whole number"),
    "no examples": (
        lambda: rt.Property(ONE[:0], ONE[:0], rt.below(0, 1)).to_vnnlib("none", 2),
        "lower must have one example or more for VNN-LIB, got none",
    ),
    "k": (lambda: rt.above(-1, 0), "k must be at least 0, got -1"),
}
#: Of a network of two pixels and two logits.
REFUSED = {
    "coefficients": (
        lambda m: rt.certify(m, X, rt.unreachable(([[1]], [0])), 0.1),
        "expected 2 co",
    ),
    "one logit": (lambda m: rt.certify(m, X, rt.binary(1), 0.1), "one logit for rt.binary, got 2"),
    "class": (lambda m: rt.attack(m, X, rt.classified(2), 0.1), r"y must lie in 0\.\.1, got 2"),
    "output k": (lambda m: rt.certify(m, X, rt.below(2, 0), 0.1), r"k must lie in 0\.\.1, got 2"),
    "inputs": (
        lambda m: rt.certify(m, rt.Property(0, np.ones((1, 3)), rt.below(0, 1))),
        "lower must",
    ),
    "eps twice": (lambda m: rt.certify(m, asked(), eps=0.1), "eps must be left out beside a prop"),
    "y twice": (lambda m: rt.attack(m, asked(), [0, 1]), "y must be left out beside a property"),
    "no eps": (lambda m: rt.certify(m, X, [0, 1]), "eps must be given beside images, got None"),
    "no y": (lambda m: rt.certify(m, X, eps=0.1), "y must be given beside images, got None"),
    "radii": (lambda m: rt.certify(m, X, [0, 1], np.ones(3)), r"eps must be .*\(2, 2\), got shape"),
    "radii < 0": (lambda m: rt.certify(m, X, [0, 1], [[-1], [0]]), "eps must be finite numbers"),
    "float32": (
        lambda m: rt.attack(m, X, [0, 1], 1e39, box=None),
        r"eps must be at most 3.40282e\+38 in float32, got 1e\+39",
    ),
    "float32 of outputs": (
        lambda m: rt.attack(m, X, rt.below(0, 1), [[1.0], [1e39]], box=None),
        "eps must be at most 3.4",
    ),
    "loss": (lambda m: rt.attack(m, asked(), loss="cross_entropy"), "loss must be 'margin' of out"),
    "several": (lambda m: rt.Verifier(m).verify(asked()), "property of one example, got 2"),
    "l2": (
        lambda m: rt.Verifier(m).verify(rt.Property.around(X[:1], 0.1, rt.below(0, 1), norm="l2")),
        "norm must be one of linf, l1, got 'l2'",
    ),
    "verifier's eps": (lambda m: rt.Verifier(m).verify(X[0], 0), "eps must be given to the verif"),
}


#: What `replay` is called with after a model and images.
REPLAYED = {
    "no y": ((X, None, 0.1), "y must be given beside images, got None"),
    "no eps": ((X, [0, 1]), "eps must be given beside images, got None"),
    "eps < 0": ((X, [0, 1], -1), "eps must be one finite number of pixels >= 0, got -1"),
    "eps nan": ((X, [0, 1], np.nan), "eps must be one finite number of pixels >= 0, got nan"),
    "shape": ((X[:, :1], [0, 1], 0.1), r"candidates: expected the images' shape \(2, 2\)"),
    "candidates": (("a", [0, 1], 0.1), "candidates must be numbers, got <U1"),
    "part labels": ((X, [0.5, 1], 0.1), "y must be one axis of integers, got float64"),
    "labels": ((X, [0, 2], 0.1), r"y must lie in 0\.\.1, got 0\.\.2"),
    "few labels": ((X, [0], 0.1), "y must have a label for each of the 2 images, got 1"),
    "norm": ((X, [0, 1], 0.1, {"norm": "foo"}), "norm must be one of linf, l2, l1, got 'foo'"),
    "box": ((X, [0, 1], 0.1, {"box": (1, 0)}), r"box must be \(lo, hi\), .*, got \(1, 0\)"),
    "batch": ((X, [0, 1], 0.1, {"batch_size": 0}), "batch_size must be at least 1, got 0"),
}


def asked():
    return rt.Property(0 * ONE, ONE, rt.classified([0, 1]))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_property_is_one_line_that_names_the_argument(wrong):
    call, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def plain():
    return nets.randomise(keras.Sequential([keras.Input((2,)), layers.Dense(2)]), 0)


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_question_that_does_not_fit_is_one_line(wrong, plain):
    call, message = REFUSED[wrong]
    with pytest.raises(ValueError, match=message) as raised:
        call(plain)
    assert "\n" not in str(raised.value)


def stepped(kind, model, *arguments):
    return kind(model, None, keras.optimizers.SGD(), "ibp")(*arguments)


#: Doors that take images and labels alone, by the name that their error has for them.
ALONE = {
    "layer_bounds": lambda m, x, y: rt.layer_bounds(m, x, 0.1),
    "certified_radius": lambda m, x, y: rt.certified_radius(m, x, y),
    "TrainStep": lambda m, x, y: stepped(rt.TrainStep, m, x, y, 0.1),
    "PureStep": lambda m, x, y: stepped(rt.PureStep, m, None, x, y, [], 0.1, 0.1),
    "DualObjective": lambda m, x, y: rt.DualObjective(m)(x, y, eps=0.1),
    "CertifiedModel.fit": lambda m, x, y: rt.CertifiedModel(m).fit(x, y),
    "CertifiedModel.evaluate": lambda m, x, y: rt.CertifiedModel(m).evaluate(x, y),
}


@pytest.mark.parametrize("door", ALONE)
def test_doors_without_properties_refuse_them_by_name(door, plain):
    end = f"for {door}, got a %s: certify, margin_bounds, attack and Verifier take those$"
    with pytest.raises(ValueError, match="^x must be images " + end % "Property"):
        ALONE[door](plain, asked(), None)
    if door != "layer_bounds":
        with pytest.raises(ValueError, match="^y must be labels " + end % "Output"):
            ALONE[door](plain, X, rt.classified(0))


@pytest.mark.parametrize("wrong", REPLAYED)
def test_what_does_not_fit_a_replay_is_one_line(wrong, plain):
    (*given, last), message = REPLAYED[wrong]
    options = last if isinstance(last, dict) else {}
    given = given if options else (*given, last)
    with pytest.raises(ValueError, match=message) as raised:
        rt.attacks.replay(plain, X, *given, **options)
    assert "\n" not in str(raised.value)


def test_a_replay_of_a_property_takes_nothing_beside_it(plain):
    with pytest.raises(ValueError, match="eps must be left out beside a property"):
        rt.attacks.replay(plain, asked(), X, eps=0.1)
    with pytest.raises(ValueError, match=r"box must be \(lo, hi\)"):
        rt.attacks.replay(plain, asked(), X, box=3)


def test_labels_are_not_replayed_on_one_logit():
    with pytest.raises(ValueError, match=r"y must be rt\.binary, below or above"):
        rt.attacks.replay(lambda x: x[:, :1], X, X, [0, 0], 0.1)
    with pytest.raises(ValueError, match=r"model must give logits \[n, outputs\], got shape"):
        rt.attacks.replay(lambda x: x[:, 0], X, X, [0, 0], 0.1)


def test_outputs_are_joined_with_outputs_alone():
    with pytest.raises(TypeError, match="unsupported operand"):
        rt.below(0, 1) & 3
