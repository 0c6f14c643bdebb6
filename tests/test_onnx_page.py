"""The blocks of `docs/onnx.md` run, and properties go to files and come back."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import robustra_tf as rt

PAGE = Path(__file__).resolve().parents[1] / "docs" / "onnx.md"
BOX = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)\n"
BOX += "(declare-const Y_1 Real)(assert (and (>= X_0 0.6) (<= X_0 0.9) (>= X_1 0) (<= X_1 0.3)))\n"


def logits_are_pixels():
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(2, activation="relu"), layers.Dense(2)]
    )
    model.set_weights([np.eye(2), np.zeros(2), np.eye(2), np.zeros(2)])
    return model


def test_the_blocks_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rt.onnx.save(logits_are_pixels(), "network.onnx")
    rt.Property([[0.7, 0.0]], [[0.9, 0.3]], rt.classified(0)).to_vnnlib("prop.vnnlib.gz", 2)
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert names["verified"] is True or names["verified"] == np.True_
    (ball,) = rt.Property.from_vnnlib("ball.vnnlib")
    np.testing.assert_allclose([ball.lower, ball.upper], [[[0.4] * 2], [[0.6] * 2]], rtol=1e-15)


@pytest.mark.parametrize(
    ("unsafe", "count", "verified"),
    [
        ("(assert (<= Y_0 Y_1))", 1, True),
        ("(assert (<= Y_0 0.65))", 1, False),
        ("(assert (and (<= Y_0 0.65) (<= Y_1 -0.1)))", 1, True),
        ("(assert (or (<= Y_0 0.5) (>= Y_1 0.2)))", 1, False),
        # Of two alternatives of inputs each has its own outputs.
        ("(assert (or (and (<= X_0 0.7) (<= Y_0 0.5)) (and (>= X_0 0.7) (<= Y_0 0.65))))", 2, True),
        ("(assert (or (<= X_0 0.7) (>= X_0 0.8)))(assert (<= Y_0 Y_1))", 1, True),
    ],
)
def test_a_file_is_verified_as_its_boxes_are(unsafe, count, verified, tmp_path):
    path = tmp_path / "prop.vnnlib"
    path.write_text(BOX + unsafe)
    properties = rt.Property.from_vnnlib(path)
    assert len(properties) == count
    model = logits_are_pixels()
    assert all(rt.certify(model, each).verified.all() for each in properties) == verified
    # Written and read again they ask the same.
    for each in properties:
        (again,) = rt.Property.from_vnnlib(each.to_vnnlib(tmp_path / "again.vnnlib", 2))
        np.testing.assert_array_equal([again.lower, again.upper], [each.lower, each.upper])
        found, expected = (p.output.conditions(2) for p in (again, each))
        for part, own in zip(found[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(part, own)


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "prop.vnnlib"
    path.write_text(BOX + "(assert (<= Y_0 Y_1))")
    with pytest.raises(ValueError, match=r"shape must be of 2 numbers for .*, got \(3,\)"):
        rt.Property.from_vnnlib(path, (3,))
    ball = rt.Property.around([[0.5, 0.5]], 0.1, rt.classified(0), "l2")
    with pytest.raises(ValueError, match="norm must be linf for VNN-LIB, got 'l2'"):
        ball.to_vnnlib(path, 2)
    (row,) = rt.Property.from_vnnlib(path, (1, 2))
    assert row.lower.shape == (1, 1, 2)


def test_every_example_of_a_property_is_in_its_file(tmp_path):
    """Labels of their own: as many properties come back, each with its own unsafe outputs."""
    both = rt.Property([[0, 0], [1, 1]], [[0.5, 0], [2, 1]], rt.classified([0, 1]))
    found = rt.Property.from_vnnlib(both.to_vnnlib(tmp_path / "p.vnnlib.gz", 2))
    assert [len(each) for each in found] == [1, 1]
    np.testing.assert_array_equal(np.concatenate([each.lower for each in found]), both.lower)
    rows = [each.output.conditions(2).rows.ravel().tolist() for each in found]
    assert rows == [[-1, 1], [1, -1]]
