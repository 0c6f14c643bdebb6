"""Evaluations that are killed, cut short or given nonsense: nothing is lost or invented."""

import csv
import json
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from eval import run
from robustra_tf import data
from tests.evaluations import digits_network, evaluate, resolve, save, without_seconds

pytestmark = pytest.mark.usefixtures("without_pages")
OPTIONS = {
    "stages": ["clean", "pgd", "lp"],
    "attack_steps": 10,
    "limit": 120,
    "batch_size": 3,
    "eps_sweep": ["0.02"],
}
SWEPT = "sweep/eps_0.02"

# A process that has imported everything forks one evaluation after another, and kills each as soon
# as its ledgers have grown by a random number of bytes, or after a random time.
KILLER = textwrap.dedent(
    """
    import os, signal, sys, time
    from pathlib import Path
    import numpy as np
    from tests.evaluations import evaluate
    from tests.test_eval_resume import OPTIONS

    saved, out = sys.argv[1], Path(sys.argv[2])
    size = lambda: sum(p.stat().st_size for p in out.rglob("ledger.csv"))
    rng = np.random.default_rng(int(sys.argv[3]))
    kills = []
    while len(kills) < 10:
        before, growth = size(), rng.integers(1, 600)
        patience = rng.uniform(0.2, 2.0) if len(kills) % 4 == 3 else 60
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.dup2(2, 1)
            evaluate(saved, out, resume=True, **OPTIONS)
            os._exit(0)
        start = time.monotonic()
        while size() < before + growth and time.monotonic() < start + patience:
            if os.waitpid(child, os.WNOHANG)[0]:
                sys.exit(f"ended by itself after {len(kills)} kills")
            time.sleep(0.0005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills.append(size())
    print(*kills)
    """
)


@pytest.fixture(scope="module")
def uninterrupted(saved, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    evaluate(saved, out, **OPTIONS)
    return out


def outcome(out):
    """All that an evaluation leaves behind, but for times."""
    figures = json.loads((out / "results.json").read_text())
    with (out / "sweep.csv").open(newline="") as file:
        points = [
            {k: v for k, v in point.items() if k != "seconds"} for point in csv.DictReader(file)
        ]
    with np.load(out / "witnesses.npz") as file:
        kept = {name: file[name].tolist() for name in file.files}
    return {
        "ledger": without_seconds(out),
        "sweep": without_seconds(out / SWEPT),
        "results": {k: v for k, v in figures.items() if k not in ("seconds", "date")},
        "points": points,
        "witnesses": kept,
    }


# Importing TensorFlow once and ten evaluations that are begun again: some fifteen seconds.
@pytest.mark.slow
def test_killed_ten_times_it_ends_the_same(saved, uninterrupted, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("COVERAGE_PROCESS_CONFIG", None)  # what is killed leaves no figures of it
    command = [sys.executable, "-c", KILLER, str(saved), str(tmp_path), "5"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sizes = [int(size) for size in done.stdout.split()]
    assert len(sizes) == 10
    # Killed at different points of the way.
    assert len(set(sizes)) >= 5
    evaluate(saved, tmp_path, resume=True, **OPTIONS)
    assert outcome(tmp_path) == outcome(uninterrupted)


@pytest.mark.parametrize("where", [".", SWEPT])
@pytest.mark.parametrize("cut", [0.0, 0.35, 0.8])
def test_a_ledger_cut_in_the_middle_of_a_line_goes_on(saved, uninterrupted, tmp_path, where, cut):
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    path = tmp_path / where / "ledger.csv"
    content = path.read_bytes()
    line_end = content.index(b"\n", int(cut * len(content)))
    path.write_bytes(content[: line_end - 4])
    about = json.loads(path.with_name("ledger.json").read_text())
    path.with_name("ledger.json").write_text(json.dumps(about | {"finished": False}))
    kept = content[:line_end].count(b"\n") - 1
    evaluation = run.prepare(resolve(saved, tmp_path, resume=True, **OPTIONS))
    evaluation.ledger.close()
    if where == ".":
        assert len(evaluation.ledger.rows) == max(kept, 0)
        # The part of a line is gone from the file too: what is added begins a line of its own.
        header = content[: content.index(b"\n") + 1]
        assert path.read_bytes() == (content[: content.rfind(b"\n", 0, line_end) + 1] or header)
    evaluate(saved, tmp_path, resume=True, **OPTIONS)
    assert outcome(tmp_path) == outcome(uninterrupted)


def test_radius_zero_is_the_clean_answer_at_every_stage(saved, tmp_path):
    options = OPTIONS | {"eps": 0.0, "eps_sweep": ["0"], "limit": 60}
    figures = evaluate(saved, tmp_path, **options)
    assert figures["lp_error"] == figures["pgd_error"] == figures["clean_error"] > 0
    assert figures["undecided"] == 0
    assert {row["status"] for row in without_seconds(tmp_path)} == {"misclassified", "verified"}
    assert not (tmp_path / "witnesses.npz").exists()


def wrong_images(images, labels):
    images[7, 3, 3] = 1.001
    return images, labels


def wrong_labels(images, labels):
    labels[2] = 10
    return images, labels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrong_images, r"digits test: image 7 has pixels outside \[0, 1\]"),
        (wrong_labels, "digits test: label 10 of image 2 is not a class from 0 to 9"),
        (lambda x, y: (x[:0], y[:0]), "digits test: expected at least one example, got none"),
    ],
)
def test_data_that_mean_nothing_leave_no_trace(saved, tmp_path, monkeypatch, change, message):
    load = data.Origin.load

    def broken(*args):
        return data.Dataset(*change(*(array.copy() for array in load(*args))))

    monkeypatch.setattr(data.Origin, "load", broken)
    with pytest.raises(ValueError, match=message) as raised:
        run.prepare(resolve(saved, tmp_path / "out"))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def refused(*flags):
    """The error of a command that must be refused, one line."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "eval.main", *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return one_line(done.stderr)


def one_line(errors):
    """The line that a refused command says."""
    lines = [line for line in errors.splitlines() if line.startswith("eval.main: ")]
    # Seconds of import are announced.
    *before, line = lines
    assert not before or before[0].endswith("; starting TensorFlow")
    assert len(before) < 2
    return line


def test_nothing_can_be_written_below_a_file(saved, tmp_path):
    (tmp_path / "file").write_text("mine")
    line = refused(f"--saved_model={saved}", f"--out={tmp_path / 'file' / 'out'}")
    assert line.startswith("eval.main: --out: expected a directory whose parent exists")
    line = refused(f"--saved_model={saved}", f"--out={tmp_path / 'file'}")
    assert line.startswith("eval.main: --out: expected a directory, not a file")
    assert (tmp_path / "file").read_text() == "mine"


def test_no_examples_are_refused_by_the_flag(saved, tmp_path):
    line = refused(f"--saved_model={saved}", f"--out={tmp_path / 'out'}", "--limit=0")
    assert line == "eval.main: --limit: expected at least 1 and at most 360, got 0"
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_numbers_are_refused_in_one_line(nursery, tmp_path):
    model = digits_network()
    kernel, *rest = model.get_weights()
    kernel[3, 4] = np.nan
    model.set_weights([kernel, *rest])
    saved = save(model, tmp_path / "f")
    life = nursery.run("eval", "plain", saved_model=saved, out=tmp_path / "out")
    assert (life.wait(), life.printed()) == (2, "")
    assert "Traceback" not in life.told()
    line = one_line(life.told())
    assert f"{saved}: weight " in line
    assert line.endswith("holds values that are not finite")
    assert not (tmp_path / "out").exists()
