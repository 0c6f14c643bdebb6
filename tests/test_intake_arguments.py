"""Arguments that are none, named the same way at every door; and others that are taken."""

import numpy as np
import pytest
import tensorflow as tf

import robustra_tf as rt
from robustra_tf import graph
from robustra_tf.intake.subject import take
from tests.doors import EPS, X, Y, plain


@pytest.fixture(scope="module")
def simple():
    return plain()


WRONG = {
    "box of arrays": ({"box": (X, X)}, r"box must be \(lo, hi\), two numbers with lo < hi"),
    "box of three": ({"box": (0, 1, 2)}, r"box must be \(lo, hi\).* got \(0, 1, 2\)"),
    "box, a number": ({"box": 1}, "box must be .* got 1"),
    "box of None": ({"box": (None, None)}, r"box must be .* got \(None, None\)"),
    "box, infinite": ({"box": (-np.inf, np.inf)}, "box must be"),
    "eps None": (
        {"eps": None},
        "eps must be (one finite number of pixels >= 0|given (beside|to the verifier for) images),"
        " got None",
    ),
    "eps, text": ({"eps": "0.1"}, "eps must be one finite number of pixels >= 0, got '0.1'"),
    "eps of bytes": ({"eps": 8}, r"eps must be at most 1.*got 8: did you mean 8/255 = 0\.0314\?"),
    "eps in another box": ({"eps": 2.5, "box": (-1, 1)}, r"eps must be at most 2, .* got 2\.5$"),
    "batch_size": ({"batch_size": 1.5}, "batch_size must be a whole number .* got 1.5"),
    "dtype": ({"dtype": tf.float16}, "dtype must be one of float32, float64, got"),
    "dtype, a number": ({"dtype": 1}, "dtype must be one of float32, float64, got 1"),
    "label": ({"y": [0, 2]}, r"y must lie in 0\.\.1, got 0\.\.2"),
    "no numbers": ({"x": "images"}, "x must be an array of numbers, got str"),
    "shape": ({"x": np.zeros((2, 3))}, r"x must have shape \[n, \*\(2,\)\], got \(2, 3\)"),
}


def verify(model, **options):
    return rt.Verifier(model, **options).verify(X[0], int(Y[0]))


#: What of the arguments above each door takes.
CALLS = {
    "certify": (rt.certify, ("x", "y", "eps"), ("box", "batch_size", "dtype")),
    "layer_bounds": (rt.layer_bounds, ("x", "eps"), ("box", "batch_size", "dtype")),
    "attack": (rt.attack, ("x", "y", "eps"), ("box", "batch_size")),
    "Verifier": (verify, ("eps",), ("box",)),
}


@pytest.mark.parametrize(
    ("door", "wrong"),
    [
        (door, wrong)
        for door, (_, needed, options) in CALLS.items()
        for wrong, (change, _) in WRONG.items()
        if set(change) <= {*needed, *options}
    ],
)
def test_a_wrong_argument_is_named_the_same_way_everywhere(simple, door, wrong):
    call, needed, _ = CALLS[door]
    change, message = WRONG[wrong]
    arguments = {name: {"x": X, "y": Y, "eps": EPS}[name] for name in needed}
    if door == "layer_bounds":
        arguments["box"] = (0, 1)
    with pytest.raises(ValueError, match=message) as raised:
        call(simple, **(arguments | change))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("norm", "largest"), [("l2", 2**0.5), ("l1", 2.0)])
def test_the_largest_radius_is_the_diameter_of_the_box(simple, norm, largest):
    for box, width in (((0, 1), 1), ((-1, 2), 3)):
        how = {"norm": norm, "box": box, "method": "interval"}
        rt.certify(simple, X, Y, largest * width, **how)
        with pytest.raises(ValueError, match=rf"eps must be at most .* the {norm} diameter"):
            rt.certify(simple, X, Y, largest * width * 1.01, **how)
    rt.certify(simple, X, Y, 100.0, norm=norm, box=None, method="interval")


@pytest.mark.parametrize("dtype", [tf.float64, np.float64, np.dtype("float64")])
def test_a_type_may_be_given_as_one(simple, dtype):
    found = rt.certify(simple, X, Y, EPS, dtype=dtype, method="interval")
    assert found.mode == "float64"
    assert found.margin_lower.dtype == np.float64


def test_a_file_is_no_saved_model_directory_and_what_to_do_is_said(tmp_path):
    path = tmp_path / "net.keras"
    path.write_bytes(b"weights")
    with pytest.raises(NotADirectoryError, match=r"net\.keras: expected a SavedModel directory"):
        rt.description.read_settings(path)


def test_graphs_are_networks_themselves(simple):
    own = graph.build(simple)
    assert take(own).model is None
    found = rt.certify(own, X, Y, EPS, method="interval")
    np.testing.assert_array_equal(found.predicted, simple(X).numpy().argmax(1))
    assert (
        rt.Verifier(own, EPS).verify(X[0], 1).status
        is rt.Verifier(simple, EPS).verify(X[0], 1).status
    )
