"""The command that certifies the images of a file."""

import csv
from contextlib import nullcontext

import numpy as np
import pytest

import robustra_tf as rt
from eval import certify
from robustra_tf.export import save
from tests.evaluations import RADIUS, digits_network


@pytest.fixture
def images(tmp_path):
    """An archive of five test images."""
    x, y = rt.data.load("digits", "test", limit=5)
    np.savez(tmp_path / "images.npz", x=x, y=y)
    return tmp_path / "images.npz"


def test_what_is_proven_is_printed_and_kept_image_by_image(saved, images, tmp_path, capsys):
    """At the radius that the saved model was trained for."""
    out = tmp_path / "margins.csv"
    assert certify.main([str(images), f"--saved_model={saved}", f"--out={out}"]) == 0
    expected = rt.certify(rt.export.load(saved), *rt.data.load("digits", "test", limit=5), RADIUS)
    assert capsys.readouterr().out.strip() == expected.summary()
    rows = list(csv.DictReader(out.open()))
    assert tuple(rows[0]) == certify.COLUMNS
    assert [int(row["certified"]) for row in rows] == expected.certified.tolist()
    np.testing.assert_allclose([float(row["worst_margin"]) for row in rows], expected.worst_margin)
    for column in ("label", "predicted", "worst_target"):
        values = getattr(expected, "labels" if column == "label" else column)
        assert [int(row[column]) for row in rows] == values.tolist()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two networks as training leaves them."""
    folder = tmp_path_factory.mktemp("run")
    for name, seed, eps in (("f", 0, 0.02), ("g", 1, 0.02)):
        known = {"dataset": "digits", "eps": eps, "norm": "linf"}
        save(digits_network(seed), folder / name, known, certifies=False)
    return folder


def test_both_networks_of_a_run_are_certified_as_a_pair(run, images, tmp_path, capsys):
    """On the data and at the radius that both were trained for."""
    out = tmp_path / "margins.csv"
    assert certify.main([f"--pair={run}", "--limit=5", "--nobox", f"--out={out}"]) == 0
    pair = rt.Pair(*(rt.export.load(run / name) for name in ("f", "g")))
    expected = rt.certify(pair, *rt.data.load("digits", "test", limit=5), 0.02, box=None)
    assert capsys.readouterr().out.strip() == expected.summary()
    rows = list(csv.DictReader(out.open()))
    assert [int(row["certified"]) for row in rows] == expected.certified.tolist()
    assert [int(row["predicted"]) for row in rows] == expected.predicted.tolist()
    np.testing.assert_allclose([float(row["worst_margin"]) for row in rows], expected.worst_margin)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--pair={run}", "--saved_model={run}/f"], ["one of", "--pair"]),
        (["--pair={run}", "--report=r.html"], ["--report", "none with --pair"]),
        (["--pair={run}/f"], ["--pair", "there is no such SavedModel"]),
    ],
)
def test_a_pair_that_cannot_be_certified_is_one_line(run, flags, parts, capsys):
    with pytest.raises(SystemExit) if "no such" not in parts[-1] else nullcontext():
        assert certify.main([flag.format(run=run) for flag in flags]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"x": lambda x: (255 * x).astype(np.uint8)}, ["x", "uint8", "255"]),
        ({"x": lambda x: 255 * x}, ["x", "[0, 1]", "255"]),
        ({"x": lambda x: x[:, :4]}, ["--data", "(4, 8, 1)", "takes (8, 8, 1)"]),
        ({"x": lambda x: x[..., 0]}, ["--data", "(8, 8)", "(8, 8, 1)", "x[..., None]"]),
        ({"y": lambda y: y[:2]}, ["x has 5 images, y 2 labels"]),
        ({"y": lambda y: y + 100}, ["label 107", "0 to 9"]),
        ({"y": None}, ["fields x and y", "got x"]),
    ],
)
def test_a_file_of_other_content_is_refused_in_one_line(saved, images, change, parts, capsys):
    arrays = dict(np.load(images))
    for name, function in change.items():
        if function is None:
            del arrays[name]
        else:
            arrays[name] = function(arrays[name])
    np.savez(images, **arrays)
    assert certify.main([str(images), f"--saved_model={saved}"]) == 2
    *begun, line = capsys.readouterr().err.splitlines()
    assert all(one.endswith("; starting TensorFlow") for one in begun)
    assert line.startswith("eval.certify: ")
    assert all(part in line for part in parts), line
