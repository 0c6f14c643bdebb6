"""Sweeps: what is varied, which trials are ended, gone on with and best; and one for certain."""

import csv
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import robustra_tf as rt
from robustra_tf.cli.settings import SettingError
from robustra_tf.cli.stopping import Stop, Stopped
from robustra_tf.data import DataNotFoundError
from robustra_tf.training.history import Row
from robustra_tf.training.means import NotFiniteError
from train.sweep import page, settings, space, study
from train.sweep import trial as trials

pytestmark = pytest.mark.usefixtures("eager")
RUNS = {"method": "ibp", "epochs": 4, "eps_warmup_epochs": 1, "limit_train": 80, "eps": 0.02}
SEARCH = ("lr=1e-4:1e-2:log", "width=0.1|0.2")
PROJECT = Path(__file__).resolve().parents[1]


def sweep(folder, **changed):
    own = {"out": str(folder), "search": SEARCH, "trials": 8, "judged": 10} | changed
    return settings.task(own, RUNS)


def quiet():
    return Stop(lambda text: None)


def test_what_is_varied_is_read_and_drawn():
    found = space.read(["lr=1e-4:1e-2:log", "share=0:1", "shift=0:3", "ramp=epoch|step"])
    assert found[0] == space.Dimension("lr", (1e-4, 1e-2), between=True, log=True)
    assert found[2].values == (0, 3)
    assert found[3] == space.Dimension("ramp", ("epoch", "step"))
    assert space.read(["batch_norm=true|no"])[0].values == (True, False)

    class Drawn:
        def suggest_float(self, name, low, high, *, log=False):
            return name, low, high, log

        suggest_int = suggest_float

        def suggest_categorical(self, name, choices):
            return name, choices

    assert found[0].draw(Drawn()) == ("lr", 1e-4, 1e-2, True)
    assert found[2].draw(Drawn()) == ("shift", 0, 3, False)
    assert found[3].draw(Drawn()) == ("ramp", ("epoch", "step"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"search": ()}, "--search: expected settings to vary, each NAME=LOW:HIGH"),
        ({"search": ("speed=1:2",)}, "--search: expected one of model, width"),
        ({"search": ("eps=0.1:0.2",)}, "--search: expected one of model, width"),
        ({"search": ("lr=1",) * 2}, "--search: expected every setting once, got 'lr'"),
        ({"search": ("lr=2:1",)}, "--search: expected NAME=LOW:HIGH, "),
        ({"search": ("lr=0:1:log",)}, "--search: expected NAME=LOW:HIGH, "),
        ({"search": ("lr=nan:1",)}, "--search: expected NAME=LOW:HIGH, "),
        ({"search": ("shift=0:1.5",)}, "of type int, got 'shift=0:1.5'"),
        ({"search": ("batch_norm=maybe",)}, "of type bool, got 'batch_norm=maybe'"),
        ({"search": ("share=0.5:1.5",)}, "--share: expected at least 0 and at most 1, got 1.5"),
        ({"search": ("epochs=2:9",)}, "--search: expected no --epochs beside it, got 'epochs'"),
        ({"search": ("ramp=step|day",)}, "--ramp: expected one of epoch, step, got 'day'"),
        ({"out": None}, "--out: expected one, for there is no default, got None"),
        ({"trials": 0}, "--trials: expected at least 1, got 0"),
        ({"processes": 0}, "--processes: expected at least 1, got 0"),
        ({"judged": 17}, r"--judged: expected at least 1 and at most 16 \(--validation\), got 17"),
        ({"prune_at": 0.0}, "--prune_at: expected above 0 and at most 1"),
        ({"keep": 1.5}, "--keep: expected at least 0 and at most 1, got 1.5"),
        ({"unstable_by": "best"}, "--unstable_by: expected one of dual, interval"),
    ],
)
def test_bad_settings_are_named(tmp_path, changed, message):
    with pytest.raises(SettingError, match=message) as error:
        sweep(tmp_path, **changed)
    assert "\n" not in str(error.value)


def test_images_are_held_out_of_training_without_being_asked_for(tmp_path):
    config = sweep(tmp_path).config(3, {"lr": 0.5, "width": 0.1})
    assert (config.validation, config.lr) == (16, 0.5)
    assert config.workdir == str(tmp_path / "trials" / "0003")
    own = {"out": str(tmp_path), "search": SEARCH}
    assert settings.task(own, RUNS).sweep.judged == 16
    assert settings.task(own, RUNS | {"validation": 30}).given["validation"] == 30
    with pytest.raises(DataNotFoundError):
        settings.task(own, RUNS | {"dataset": "mnist", "data_dir": str(tmp_path), "eps": 0.1})


@pytest.fixture
def fake(monkeypatch):
    """Networks that are not trained: by the number of the trial, what each comes to.

    Early certified errors are given; the end is as `outcomes` has it.
    """
    found = {"early": {}, "outcomes": {}, "judged": [], "fails": {}}

    def trained(config, judge):
        number = int(Path(config.workdir).name)
        for epoch in range(1, config.epochs + 1):
            if isinstance(problem := found["fails"].get(number), Exception):
                raise problem
            error = found["early"].get(number, 0.5)
            judge(Row(epoch, "f", {"validation_interval_error": error}))
        return number

    def judged(model, held, unstable_by, **ball):
        found["judged"].append(model)
        assert ball == {"eps": 0.02, "norm": "linf"}
        return trials.Outcome(*found["outcomes"].get(model, (0.1, 0.5, 0.1, 9.0, 1.0)))

    monkeypatch.setattr(trials, "trained", trained)
    monkeypatch.setattr(trials, "judged", judged)
    monkeypatch.setattr(trials, "held_out", lambda config, count: count)
    return found


def test_trials_end_early_whose_certified_error_is_not_among_the_lowest(tmp_path, fake):
    """The first ones have nothing to be compared with; then half of all before are the measure."""
    early = [0.4, 0.8, 0.6, 0.9, 0.7, 0.71, 0.3, 0.65]
    fake["early"] = dict(enumerate(early))
    task = sweep(tmp_path)
    with quiet() as stop:
        study.work(task, len(early), 0, stop)
    ended = [k for k, error in enumerate(early) if k >= 4 and error > np.quantile(early[:k], 0.5)]
    assert ended == [5]
    opened = study.opened(task)
    rows = study.rows(task, opened)
    assert [row["trial"] for row in rows if row["state"] == "pruned"] == ended
    assert fake["judged"] == [k for k in range(len(early)) if k not in ended]
    assert rows[5]["ended"].startswith("certified error 0.7100 early, others 0.7")
    assert study.made(opened) == len(early)
    assert all(1e-4 <= row["lr"] <= 1e-2 and row["width"] in (0.1, 0.2) for row in rows)


def test_none_ends_early_where_all_epochs_are_waited_for(tmp_path, fake):
    fake["early"] = {k: k / 10 for k in range(7)}
    with quiet() as stop:
        study.work(sweep(tmp_path, prune_at=1.0), 7, 0, stop)
    assert fake["judged"] == list(range(7))


def test_the_best_are_those_that_none_beats(tmp_path, fake):
    """Against a comparison of all with all, in three numbers and, on request, in two."""
    rng = np.random.default_rng(4)
    values = rng.integers(1, 6, (9, 5)) / 10
    fake["outcomes"] = dict(enumerate(values))
    for cost, columns in ((True, [0, 1, 4]), (False, [0, 1])):
        folder = tmp_path / str(cost)
        folder.mkdir()
        task = sweep(folder, cost=cost)
        with quiet() as stop:
            study.work(task, 9, 0, stop)
        compared = values[:, columns]
        best = [
            k
            for k, mine in enumerate(compared)
            if not any((other <= mine).all() and (other < mine).any() for other in compared)
        ]
        rows = study.rows(task, study.opened(task))
        assert [row["trial"] for row in rows if row["best"]] == best
        assert 0 < len(best) < 9


def test_a_trial_that_breaks_off_is_made_again_and_one_that_fails_is_not(tmp_path, fake):
    task = sweep(tmp_path)
    fake["fails"] = {1: NotFiniteError("a loss"), 2: Stopped(), 4: KeyboardInterrupt()}
    with quiet() as stop:
        with pytest.raises(Stopped):
            study.work(task, 4, 0, stop)
        opened = study.opened(task)
        assert study.made(opened) == 2
        assert fake["judged"] == [0]
        # What is killed is left as if it still ran.
        lost = opened.ask()
        drawn = {dimension.name: dimension.draw(lost) for dimension in task.sweep.space}
        assert study.take_up(opened) == 1
        assert study.take_up(opened) == 0
        study.work(task, 2, 0, stop)
    rows = {row["trial"]: row for row in study.rows(task, opened)}
    assert {k: row["state"] for k, row in rows.items()} == {
        0: "complete",
        1: "fail",
        max(rows) - 1: "complete",
        max(rows): "complete",
    }
    assert rows[1]["ended"] == "a loss"
    # The stopped one was drawn again, lost, and made at last.
    assert {name: rows[max(rows) - 1][name] for name in drawn} == drawn
    assert study.made(opened) == 4


def test_draws_that_do_not_go_together_are_no_run(tmp_path, fake):
    own = {"out": str(tmp_path), "search": ("epochs=1|2", "eps_warmup_epochs=1|2")}
    runs = {k: v for k, v in RUNS.items() if k not in ("epochs", "eps_warmup_epochs")}
    with pytest.raises(SettingError, match="--epochs: expected at least 2"):
        settings.task(own, runs)
    task = settings.Task(settings.Sweep(**own, judged=4), runs | {"validation": 16})
    with quiet() as stop:
        study.work(task, 8, 0, stop)
    rows = study.rows(task, study.opened(task))
    for row in rows:
        refused = row["epochs"] < row["eps_warmup_epochs"]
        assert (row["state"] == "pruned") == refused
        assert refused == bool(row["ended"] and row["ended"].startswith("--epochs: expected"))
    assert {row["state"] for row in rows} == {"pruned", "complete"}
    del fake


def test_lowest_points_against_all_pairs(rng):
    points = [tuple(p) for p in rng.integers(0, 9, (40, 2))]
    wanted = {
        p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)
    }
    found = page.lowest(points)
    assert set(found) == wanted
    assert found == sorted(found)


def test_the_table_and_the_figure(tmp_path):
    names = ("clean_error", "certified_error", "open", "unstable", "cost")
    rows = [
        {"trial": k, "state": state, "best": k == 0, **dict(zip(names, values, strict=True))}
        for k, (state, values) in enumerate(
            [
                ("complete", (0.1, 0.4, 0.1, 30.0, 2.0)),
                ("pruned", (None,) * 5),
                ("complete", (0.2, 0.5, 0.0, 10.0, 0.0)),
            ]
        )
    ]
    page.write(tmp_path, rows)
    with (tmp_path / "trials.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["certified_error"] for row in table] == ["0.4", "", "0.5"]
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "pareto.svg").read_bytes()
    axes = page.front(rows).axes[0]
    assert {text.get_text() for text in axes.texts} == {"0", "2"}
    assert page.front(rows[1:2]) is None
    page.write(tmp_path / ".", [])


def test_a_network_is_trained_and_judged_on_held_out_images(tmp_path):
    """Costs and errors against certificates, attacks and bounds of every image by itself."""
    task = sweep(tmp_path)
    config = task.config(0, {"lr": 2e-3, "width": 0.2})
    seen = []
    model = trials.trained(config, seen.append)
    assert [row.epoch for row in seen] == [1, 2, 3, 4]
    assert "validation_interval_error" in seen[-1].values
    exported = rt.export.load(tmp_path / "trials" / "0000" / "f")
    for mine, other in zip(model.get_weights(), exported.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
    held = trials.held_out(config, 6)
    train = rt.data.load("digits", "train", 80)
    np.testing.assert_array_equal(held.labels, rt.data.held_out(train, 16)[1].labels[:6])
    found = trials.judged(model, held, "interval", eps=0.02, norm="linf")
    counts = dict.fromkeys(trials.Outcome._fields, 0.0)
    certificate = rt.certify(model, *held, eps=0.02, method="alpha")
    attacked = rt.attack(model, *held, eps=0.02).success
    bounds = rt.layer_bounds(model, held.images, 0.02, method="interval")
    for k, label in enumerate(held.labels):
        wrong = certificate.predicted[k] != label
        proven = bool(certificate.certified[k]) and not wrong
        waits = not (wrong or proven or attacked[k])
        unstable = sum(
            low < 0 < high
            for lower, upper in bounds
            for low, high in zip(lower[k].ravel(), upper[k].ravel(), strict=True)
        )
        counts["clean_error"] += wrong
        counts["certified_error"] += not proven
        counts["open"] += waits
        counts["unstable"] += unstable
        counts["cost"] += waits * unstable
    for name, total in counts.items():
        assert getattr(found, name) == pytest.approx(total / 6), name


def _run(*arguments, cwd, measured=True):
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    if not measured:
        environment.pop("COVERAGE_PROCESS_CONFIG", None)
    command = [sys.executable, "-m", "train.sweep", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


def test_nothing_of_optuna_is_imported_before_settings_are_checked(tmp_path):
    code = (
        "import sys, train.sweep.__main__ as m, robustra_tf.programs.console\n"
        "m.task({'out': sys.argv[1], 'search': ('lr=1e-4:1e-2',)}, {'method': 'ibp'})\n"
        "print(sorted({'optuna', 'tensorflow', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "sweep")],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "[]\n"


# Four processes import TensorFlow, and train and judge a network each.
@pytest.mark.slow
def test_a_sweep_in_two_processes_goes_on_where_it_was(tmp_path):
    flags = [f"--{name}={value}" for name, value in RUNS.items()]
    flags += ["--out=sweep", f"--search={','.join(SEARCH)}", "--judged=4", "--processes=2"]
    flags += ["--unstable_by=interval"]
    # What they cover, the one that goes on covers too.
    done = _run(*flags, "--trials=2", cwd=tmp_path, measured=False)
    assert done.returncode == 0, done.stderr
    assert "trial " in done.stdout
    refused = _run(*flags, "--trials=3", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--out: expected a folder without a sweep (--resume goes on with it)" in refused.stderr
    other = _run(*flags, "--trials=3", "--resume", "--keep=0.25", cwd=tmp_path)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    done = _run(*flags, "--trials=3", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "sweep" / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert {row["state"] for row in rows} == {"complete"}
    for row, name in itertools.product(rows, ("clean_error", "certified_error", "cost")):
        assert float(row[name]) >= 0
    assert (tmp_path / "sweep" / "pareto.svg").exists()
    assert (tmp_path / "sweep" / "trials" / "0002" / "f").is_dir()
