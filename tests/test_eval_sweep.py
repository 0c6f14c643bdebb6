"""Errors against the radius: what evaluations at each radius give, with less work."""

import csv
import subprocess
import sys

import numpy as np
import pytest

from eval import run, sweep
from eval.cascade import Decisions, Examples
from eval.ledger import Ledger, LedgerError
from eval.rows import Row, Status
from robustra_tf.cli.settings import SettingError
from tests.evaluations import COUNT, RADIUS, evaluate, resolve

RADII = ["0.06", "0", "0.01"]
pytestmark = pytest.mark.usefixtures("without_pages")
OPTIONS = {"stages": ["clean", "pgd", "lp"], "attack_steps": 10}


@pytest.fixture(scope="module")
def swept(saved, tmp_path_factory):
    """The figures and the directory of an evaluation with a sweep."""
    out = tmp_path_factory.mktemp("swept")
    return evaluate(saved, out, eps_sweep=RADII, **OPTIONS), out


def points(out):
    with (out / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_radius_gives_what_an_evaluation_at_it_gives(swept, saved, tmp_path):
    found = points(swept[1])
    assert [float(point["eps"]) for point in found] == [0.0, 0.01, 0.06]
    for point in found:
        own = evaluate(saved, tmp_path / point["eps"], eps=float(point["eps"]), **OPTIONS)
        assert int(point["n"]) == own["n"] == COUNT
        for name in ("clean_error", "pgd_error", "lp_error"):
            assert float(point[name]) == own[name]
    lp = [float(point["lp_error"]) for point in found]
    assert lp[0] == float(found[0]["clean_error"]) < lp[1] < lp[2]


def test_it_runs_what_it_needs_without_the_evaluations_own_stages(saved, tmp_path, swept):
    evaluate(saved, tmp_path, stages=["clean"], attack_steps=10, eps_sweep=["0.06"])
    (point,) = points(tmp_path)
    expected = points(swept[1])[-1]
    for name in ("eps", "n", "clean_error", "pgd_error", "lp_error"):
        assert point[name] == expected[name]


class Recorder:
    """A stage that decides nothing and remembers what it was given."""

    batch_size = 7

    def __init__(self, name, seen):
        self.name, self.seen = name, seen

    def run(self, batches):
        for batch in batches:
            self.seen += batch.indices.tolist()
            yield Decisions(batch, [Status.UNKNOWN] * len(batch), None, None, None, 0.0)


def test_verdicts_carry_to_the_radii_that_they_hold_for(tmp_path):
    kinds = [
        (Status.MISCLASSIFIED, "clean"),
        (Status.FALSIFIED, "pgd"),
        (Status.VERIFIED, "lp"),
        (Status.UNKNOWN, "lp"),
        # Of a stage that is no part of a sweep, whose errors it would improve.
        (Status.VERIFIED, "milp"),
        (Status.FALSIFIED, "milp"),
    ]
    rows = {i: Row(i, 3, 3, s, stage, None, None, 0.0) for i, (s, stage) in enumerate(kinds)}
    examples = Examples(np.arange(len(kinds)), np.zeros((len(kinds), 2)), np.full(len(kinds), 3))
    seen = {}

    def stages_at(eps):
        seen[eps] = []
        return [Recorder("pgd", seen[eps])]

    found = sweep.run(
        [0.05, 0.1, 0.2],
        stages_at,
        examples,
        (0.1, rows),
        (tmp_path, {"eps": 0.1}, False),
        lambda eps, ledger: lambda *args: None,
    )
    assert seen == {0.05: [1, 3, 4, 5], 0.1: [3, 4, 5], 0.2: [2, 3, 4, 5]}
    errors = [(p.eps, p.clean_error * 6, p.pgd_error * 6, p.lp_error * 6) for p in found]
    expected = [(0.05, 1, 1, 5), (0.1, 1, 2, 5), (0.2, 1, 2, 6)]
    np.testing.assert_allclose(errors, expected, rtol=1e-12)


def test_a_resumed_sweep_adds_radii_and_repeats_nothing(swept, saved, tmp_path, monkeypatch):
    evaluate(saved, tmp_path, eps_sweep=["0.06"], **OPTIONS)
    before = (tmp_path / "sweep" / "eps_0.06" / "ledger.csv").read_bytes()
    seconds = points(tmp_path)[0]["seconds"]
    asked = []
    at = run.stages.Bound.at
    monkeypatch.setattr(
        run.stages.Bound, "at", lambda self, eps: asked.append(eps) or at(self, eps)
    )
    evaluate(saved, tmp_path, eps_sweep=["0.01"], resume=True, **OPTIONS)
    assert asked == [0.01]
    assert [p["eps"] for p in points(tmp_path)] == ["0.01", "0.06"]
    assert points(tmp_path)[1]["seconds"] == seconds
    assert (tmp_path / "sweep" / "eps_0.06" / "ledger.csv").read_bytes() == before
    # A new evaluation in the same place leaves none of another's radii.
    evaluate(saved, tmp_path, seed=1, overwrite=True, **OPTIONS)
    assert not (tmp_path / "sweep.csv").exists()


def test_an_unfinished_sweep_is_refused_before_anything_is_begun_anew(saved, tmp_path):
    configuration = resolve(saved, tmp_path, eps_sweep=["0.06"], **OPTIONS)
    run.evaluate(run.prepare(configuration))
    before = (tmp_path / "ledger.csv").read_bytes()
    identity = run.prepare(
        resolve(saved, tmp_path, eps_sweep=["0.06"], resume=True, **OPTIONS)
    ).identity
    folder = sweep.directory(tmp_path, 0.06)
    Ledger(folder, sweep.identity_at(identity, 0.06), resume=False).close()
    with pytest.raises(LedgerError, match=r"eps_0.06.*unfinished evaluation; --resume goes on"):
        run.prepare(configuration)
    assert (tmp_path / "ledger.csv").read_bytes() == before


def test_points_of_another_evaluation_or_damaged_ones_are_not_taken(swept, tmp_path):
    one = sweep.Point(0.1, 10, 0.1, 0.2, 0.3, 1.5)
    sweep.write(tmp_path, {"eps": 0.1}, [one])
    assert sweep.read(tmp_path, {"eps": 0.1}) == [one]
    assert sweep.read(tmp_path, {"eps": 0.2}) == []
    path = tmp_path / "sweep.csv"
    path.write_text(path.read_text().replace("0.3", "most"))
    with pytest.raises(ValueError, match=r"sweep\.csv: damaged: .*most"):
        sweep.read(tmp_path, {"eps": 0.1})


@pytest.mark.parametrize(
    ("radii", "message"),
    [
        (["0.1", "1.5"], "--eps_sweep: expected at least 0 and at most 1 in pixels.*got 1.5"),
        (["-0.1"], "--eps_sweep: expected at least 0"),
        (["nan"], "--eps_sweep: expected at least 0"),
        (["small"], "--eps_sweep: expected radii in pixels, such as 0.05,0.1, got 'small'"),
    ],
)
def test_radii_out_of_range_are_named(saved, tmp_path, radii, message):
    with pytest.raises(SettingError, match=message):
        resolve(saved, tmp_path, eps_sweep=radii)


def test_the_flag_reads_a_list(saved, tmp_path):
    # A wrong radius is refused before TensorFlow is imported.
    command = [sys.executable, "-m", "eval.main", f"--saved_model={saved}", f"--out={tmp_path}"]
    done = subprocess.run(
        [*command, "--eps_sweep=0.05,2"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "eval.main: --eps_sweep: expected at least 0 and at most 1 in pixels of [0, 1], got 2.0"
    ]
    assert resolve(saved, tmp_path, eps_sweep=["0.2", "0.1", "0.2"]).eps_sweep == (0.1, 0.2)
    assert resolve(saved, tmp_path).eps == RADIUS
