"""Studies: which runs they take, and what they make of them."""

import json
import subprocess

import pytest
import tensorflow as tf

from benchmarks import study
from robustra_tf.cli.settings import SettingError
from train import config as train_config


def finished(folder, networks, clean, lp, speed=100.0, epochs=2):
    """What a run leaves behind that is of account to a study."""
    for name in networks:
        (folder / f"eval_{name}").mkdir(parents=True)
        (folder / name).mkdir()
        (folder / name / "saved_model.pb").touch()
        figures = {"n": 100, "clean_error": clean, "lp_error": lp, "undecided": 3}
        figures |= {"milp_error_lower": 0.1, "milp_error_upper": 0.15}
        (folder / f"eval_{name}" / "results.json").write_text(json.dumps(figures))
        with tf.summary.create_file_writer(str(folder / "events" / name)).as_default():
            for epoch in range(epochs):
                tf.summary.scalar("speed/examples_per_second", speed, step=epoch + 1)


def test_a_finished_study_is_a_table_of_means_and_deviations(tmp_path, capsys, monkeypatch):
    def refused(*arguments, **options):
        raise AssertionError(arguments)

    monkeypatch.setattr(study.subprocess, "run", refused)
    for variant in ("robustra", "wong"):
        for radius in ("0.1", "0.3"):
            for seed in range(3):
                values = (0.01 * seed, 0.2 + 0.1 * seed * (variant == "wong"))
                finished(tmp_path / f"{variant}_{radius}_{seed}", "fg", *values)
    study.main(study.Config(out=str(tmp_path)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| variant | radius | network | clean | lp | milp | minutes |"
    # Two networks, two epochs each, 2,000 examples an epoch, 100 a second.
    assert "| robustra | 0.1 | f | 1.00 ± 1.00 | 20.00 ± 0.00 | 15.00 ± 0.00 | 1.3 |" in lines
    assert "| wong | 0.3 | g | 1.00 ± 1.00 | 30.00 ± 10.00 | 15.00 ± 0.00 | 1.3 |" in lines
    assert len(lines) == 2 + 8
    assert len(json.loads((tmp_path / "study.json").read_text())) == 24


def test_a_study_of_recipes_and_single_networks(tmp_path):
    chosen, config = study.STUDIES["cifar10"], study.Config(study="cifar10", out=str(tmp_path))
    assert study.Run("wong", "2", 0).resolved(chosen).networks == ("f",)
    assert study.Run("robustra", "2", 0).resolved(chosen).networks == ("f", "g")
    train, judged = study.tasks(config, study.Run("best", "8", 1))
    assert "--preset=cifar10_8_best" in train.command
    assert train.folder.name == "best_8_1"
    assert {"--lp_box=True", f"--saved_model={train.folder / 'f'}"} <= set(judged.command)


@pytest.mark.parametrize("name", study.STUDIES)
def test_every_run_of_a_study_is_one_of_the_training_program(name):
    chosen = study.STUDIES[name]
    for variant in chosen.variants:
        for radius, eps in chosen.radii.items():
            run = study.Run(variant, radius, 1).resolved(chosen)
            assert (run.eps, run.seed) == (eps, 1)


def test_a_study_does_what_is_missing_and_goes_on_where_it_was(tmp_path, monkeypatch):
    """Its commands are read by the programs themselves; no process is started."""
    lines = []

    def ran(line, env, **options):
        lines.append(line[2:])
        assert env["TF_NUM_INTRAOP_THREADS"].isdigit()
        values = dict(flag.removeprefix("--").split("=") for flag in line[3:] if "=" in flag)
        if line[2] == "train.main":
            given = {k: float(v) if v[0].isdigit() else v for k, v in values.items()}
            assert train_config.resolve(given).method == "wong"
            for name in "fg":
                (tmp_path / "wong_0.1_0" / name).mkdir()
                (tmp_path / "wong_0.1_0" / name / "saved_model.pb").touch()
        return subprocess.CompletedProcess(line, 0)

    (tmp_path / "wong_0.1_0" / "eval_f").mkdir(parents=True)
    (tmp_path / "wong_0.1_0" / "config.json").touch()
    monkeypatch.setattr(study.subprocess, "run", ran)
    config = study.Config(out=str(tmp_path), data_dir="DIR")
    study.perform(study.tasks(config, study.Run("wong", "0.1", 0)), 1)
    assert [line[0] for line in lines] == ["train.main", "eval.main", "eval.main"]
    assert lines[0][-1] == "--resume"
    assert "--resume" not in lines[1]
    assert {"--eps=0.1", "--seed=0", "--method=wong", "--data_dir=DIR"} <= set(lines[0])
    assert "--stages=clean,lp" in lines[1]


def test_a_study_that_fails_says_which_command_and_why(tmp_path, monkeypatch):
    def ran(line, **options):
        return subprocess.CompletedProcess(line, 2, stderr="train.main: --eps: expected less")

    monkeypatch.setattr(study.subprocess, "run", ran)
    with pytest.raises(RuntimeError, match=r"train\.main.*exit 2: train\.main: --eps: expected"):
        study.perform(study.tasks(study.Config(out=str(tmp_path)), study.Run("wong", "0.1", 0)), 1)
    with pytest.raises(SettingError, match="--out: expected a folder"):
        study.Config()
