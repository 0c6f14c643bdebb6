"""The figures of a report show what they are given, in the units that they name."""

import subprocess
import sys

import numpy as np
import pytest

from eval import curves, figures, gallery, sweep
from eval.rows import Row, Status
from eval.witnesses import Witness
from tests.evaluations import (
    write_run,
)


def row(index, status, margin=None, stage="lp"):
    return Row(index, 1, 1, status, stage, margin, None, 0.0)


def test_the_gallery_shows_the_clearest_and_the_nearest():
    known = [
        row(0, Status.VERIFIED, 0.1),
        row(1, Status.VERIFIED, 0.7),
        row(2, Status.UNKNOWN, -0.2),
        row(3, Status.UNKNOWN, -0.1),
        row(4, Status.UNKNOWN),
        row(5, Status.VERIFIED, stage="milp"),
        row(6, Status.FALSIFIED, -0.5, "pgd"),
        row(7, Status.FALSIFIED, -0.5, "pgd"),
        row(8, Status.FALSIFIED, None, "milp"),
    ]
    assert [r.index for r in gallery.verified(known, 9)] == [1, 0, 5]
    assert [r.index for r in gallery.undecided(known, 2)] == [3, 2]
    image = np.zeros((2, 2, 1))
    kept = [
        Witness("pgd", 6, 1, 0, image, image),
        Witness("pgd", 7, 1, 0, image, image),
        Witness("milp", 8, 1, 0, image, image),
        Witness("pgd", 2, 1, 0, image, image),  # what the ledger does not call falsified
    ]
    stored = {r.index: r for r in known}
    assert [w.index for w in gallery.falsified(kept, stored, 9)] == [6, 8, 7]
    assert [w.index for w in gallery.falsified(kept, stored, 2)] == [6, 8]


def test_training_curves_are_those_of_the_history(tmp_path):
    run = curves.read(write_run(tmp_path / "run"))
    robust, clean = curves.errors(run).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in robust.lines}
    assert lines["f, training images"] == [[1, 90], [2, 70]]
    assert lines["g, test images, LP"] == [[1, 85], [2, 65]]
    assert len(clean.lines) == 4
    threshold, of_f, of_g = curves.reference(run).axes
    assert threshold.lines[1].get_xydata().tolist() == [[1, -2], [2, -4]]
    assert [line.get_label() for line in of_f.lines] == ["infeasible", "tight", "loose"]
    assert of_g.lines[0].get_ydata().tolist() == [50, 50]
    assert {axes.get_xlabel() for axes in (robust, clean, threshold, of_f, of_g)} == {"epoch"}


def test_a_comparison_of_runs_is_drawn_by_the_command(tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", "wong")]
    certified, threshold, _ = curves.compare([curves.read(run) for run in runs]).axes
    assert [line.get_label() for line in certified.lines] == [
        "robustra, f, LP",
        "robustra, g, LP",
        "wong, f, LP",
        "wong, g, LP",
    ]
    assert len(threshold.lines) == 2
    command = [sys.executable, "-m", "eval.curves", f"--out={tmp_path / 'x.png'}", *map(str, runs)]
    subprocess.run(command, check=True, timeout=60)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_one_run_alone_is_drawn_as_the_papers_two_figures(tmp_path, monkeypatch):
    pair, alone = (write_run(tmp_path / method, method) for method in ("robustra", "wong"))
    drawn = [axes.get_title() for axes in curves.single(curves.read(pair)).get_axes()]
    apart = [curves.errors(curves.read(pair)), curves.reference(curves.read(pair))]
    assert drawn == [axes.get_title() for figure in apart for axes in figure.axes]
    assert len(curves.single(curves.read(alone)).get_axes()) == 2
    monkeypatch.setattr(sys, "argv", ["eval.curves", f"--out={tmp_path / 'x.png'}", str(pair)])
    curves.main()
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_errors_are_drawn_against_the_radius_in_pixels():
    points = [sweep.Point(0.1, 9, 0.1, 0.2, 0.3, 1.0), sweep.Point(0.2, 9, 0.1, 0.4, 0.6, 1.0)]
    (axes,) = figures.sweep(points).axes
    assert axes.get_xlabel() == "epsilon in pixels of [0, 1]"
    assert axes.get_ylabel() == "error in %"
    upper, lower, clean = (line.get_xydata().tolist() for line in axes.lines)
    np.testing.assert_allclose(upper, [[0.1, 30], [0.2, 60]])
    np.testing.assert_allclose(lower, [[0.1, 20], [0.2, 40]])
    np.testing.assert_allclose(clean, [[0.1, 10], [0.2, 10]])


def test_bars_are_as_long_as_what_was_decided():
    known = [row(0, Status.MISCLASSIFIED, stage="clean"), row(1, Status.VERIFIED, 0.1)]
    known += [row(2, Status.VERIFIED, 0.2), row(3, Status.UNKNOWN, -1.0)]
    counts = figures.decided(["clean", "pgd", "lp"], known)
    assert {name: dict(count) for name, count in counts.items()} == {
        "clean": {Status.MISCLASSIFIED: 1},
        "pgd": {},
        "lp": {Status.VERIFIED: 2},
    }
    left, right = figures.stages(counts, {"clean": 1.0, "pgd": 2.0, "lp": 4.0}).axes
    widths = [bar.get_width() for bar in left.patches]
    assert widths == [1, 0, 0, 0, 0, 2, 1, 0, 2]  # misclassified, verified, and all for the labels
    assert [bar.get_width() for bar in right.patches] == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(("norm", "scale"), [("linf", 2.5), ("l2", 5.0)])
def test_perturbations_are_shown_about_grey(norm, scale):
    image = np.full((2, 2, 1), 0.3, np.float32)
    adversarial = image + np.array([[[0.1], [-0.1]], [[0.05], [0.0]]], np.float32)
    shown = [Witness("pgd", 4, 1, 7, image, adversarial)]
    found = figures.perturbation_scale(shown, 0.2, norm)
    assert found == pytest.approx(scale, rel=1e-5)
    grid = figures.falsified(shown, found).axes
    pictures = [axes.images[0].get_array() for axes in grid if axes.images]
    np.testing.assert_allclose(pictures[1], 0.5 + found * (adversarial - image)[..., 0], atol=1e-6)
    np.testing.assert_allclose(pictures[2], adversarial[..., 0])
    texts = [axes.get_title() for axes in grid]
    assert "no. 4 (pgd)\nlabel 1" in texts
    assert "classified as 7" in texts
    assert any(axes.get_ylabel() == f"perturbation × {found:.3g}" for axes in grid)
    assert figures.perturbation_scale(shown, 0.0, "linf") == 1.0


def test_colour_images_are_shown_in_colour():
    picture = np.random.default_rng(0).uniform(size=(4, 4, 3))
    axes = figures.images([row(0, Status.VERIFIED, 0.25)], [picture]).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), picture)
    assert axes.get_title() == "no. 0, label 1\nmargin ≥ 0.25"
