"""The command that finds certified and attacked radii, and the page that `certify` writes."""

import csv

import numpy as np
import pytest

import robustra_tf as rt
from eval import certify, radius
from tests.evaluations import RADIUS


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An archive of five test images."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    x, y = rt.data.load("digits", "test", limit=5)
    np.savez(path, x=x, y=y)
    return path


def test_radii_are_printed_by_class_and_kept_with_their_curve(saved, images, tmp_path, capsys):
    given = [f"--saved_model={saved}", "--tolerance=0.01", "--attack_steps=5"]
    assert radius.main([str(images), *given, f"--out={tmp_path / 'radii'}"]) == 0
    printed = capsys.readouterr().out.splitlines()
    found = rt.certified_radius(
        rt.export.load(saved),
        *rt.data.load("digits", "test", limit=5),
        tolerance=0.01,
        radii=(RADIUS,),
        attack_steps=5,
    )
    assert printed[: len(found.summary().splitlines())] == found.summary().splitlines()
    assert len(printed) == 4 + 1 + len({*found.labels}) + 1
    tables = {
        name: list(csv.DictReader((tmp_path / "radii" / f"{name}.csv").open()))
        for name in ("radii", "classes", "curve")
    }
    np.testing.assert_array_equal(
        [float(row["certified"]) for row in tables["radii"]], found.certified
    )
    np.testing.assert_array_equal(
        [float(row["attacked"]) for row in tables["curve"]], found.curve().attacked
    )
    assert sum(int(row["images"]) for row in tables["classes"]) == 5
    assert (tmp_path / "radii" / radius.FIGURE).read_bytes().startswith(b"\x89PNG")


def test_certify_writes_a_page_of_its_certificate(saved, images, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert certify.main([str(images), f"--saved_model={saved}", f"--report={page}"]) == 0
    text = page.read_text(encoding="utf-8")
    assert str(saved) in text
    assert text.count("<figcaption>no. ") == 5
    certified = int(capsys.readouterr().out.split(" certified")[0].split()[-3])
    assert f'certified</th><td class="number">{certified}</td>' in text


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--tolerance=0", "--tolerance: expected above 0 pixels, got 0.0"),
        ("--tolerance=-1", "--tolerance: expected above 0 pixels, got -1.0"),
        ("--method=exact", "--method: expected one of dual, interval, crown, alpha, got 'exact'"),
        ("--attack_steps=-1", "--attack_steps: expected at least 0, got -1"),
        ("--norm=l2", "--norm: expected linf or l1 with --complete, got 'l2'"),
        ("--sound", "--sound: expected not with --complete, whose search rounds, got True"),
        ("--out=nowhere/there", "--out: expected a directory whose parent exists"),
    ],
)
def test_bad_flags_are_one_line(saved, images, flag, told, capsys):
    with pytest.raises(SystemExit):
        radius.main([str(images), f"--saved_model={saved}", "--complete", flag])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"eval.radius: {told}")
