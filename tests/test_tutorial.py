"""The tutorial's blocks run in their order and show what the text says."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_command(text, folder):
    """Runs `python -m ...` lines with this interpreter."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for line in text.strip().splitlines():
        python, *arguments = shlex.split(line)
        assert python == "python"
        subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            check=True,
            capture_output=True,
            timeout=120,
        )


# Two training steps are traced, and a process of its own imports TensorFlow: some twenty seconds.
@pytest.mark.slow
def test_the_blocks_run_in_their_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))
    assert {language for language, _ in blocks} == {"python", "sh"}
    assert len(blocks) >= 10
    names = {}
    for language, text in blocks:
        if language == "python":
            exec(compile(text, str(TUTORIAL), "exec"), names)
        else:
            run_command(text, tmp_path)

    # What the text says of them, checked apart from what the blocks themselves check.
    h, y = names["h"].numpy(), names["y"].numpy()
    np.testing.assert_array_equal(h[np.arange(20), y], 0)
    assert (h.max(axis=1) > 0).mean() > 0.5
    certificate, attack = names["certificate"], names["attack"]
    # It was trained for more than show.
    assert 0 < certificate.certified.sum() < 40
    assert names["lower"] <= names["upper"] + 1e-9
    assert (names["plain"].worst_margin <= certificate.worst_margin + 1e-5)[
        certificate.predicted == certificate.labels
    ].all()
    assert "robust error between" in capsys.readouterr().out
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert (results["n"], results["eps"], results["dataset"]) == (40, 0.05, "digits")
    # The evaluation bounds over the plain ball: no more is certified than in the box.
    assert results["lp_error"] >= names["upper"] - 1e-9
    assert results["pgd_error"] == pytest.approx(attack.success.mean())
    for name in ("ledger.csv", "sweep.csv", "report.html"):
        assert (tmp_path / "evaluation" / name).is_file()
    proven, found = names["proven"], names["found"]
    assert proven.safe.mean() > 0.9
    assert 20 < proven.verified.sum() <= proven.safe.sum()
    assert (found.success >= ~proven.safe).all()
    assert names["verdict"].status == "verified"


# Twenty epochs of training by Keras: some ten seconds.
@pytest.mark.slow
def test_the_block_of_the_readme_runs(capsys):
    (block,) = [t for language, t in BLOCK.findall((ROOT / "README.md").read_text()) if language]
    exec(compile(block, "README.md", "exec"), {})
    told = capsys.readouterr().out
    certified, attacked = (
        int(re.search(rf"(\d+) of 100 {word}", told)[1])
        for word in ("certified", "images attacked successfully")
    )
    # It was trained, and no image is both.
    assert certified > 80
    assert certified + attacked <= 100
    assert re.search(r"Verdict\(status=<Status\.\w+", told)
