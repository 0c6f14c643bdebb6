"""The benchmark of pairs: which programs it runs, and what it makes of what they leave."""

import json
import subprocess

import pytest
import tensorflow as tf

from benchmarks import pairs, study
from eval import pair_study
from robustra_tf.cli.settings import SettingError
from train import config as train_config


def finished(config, pair, silent):
    """What a pair leaves behind: its networks, their speeds and its table."""
    for folder, flags in pair.runs(config):
        for name in train_config.resolve(flags).networks:
            (folder / name).mkdir(parents=True)
            (folder / name / "saved_model.pb").touch()
            with tf.summary.create_file_writer(str(folder / "events" / name)).as_default():
                tf.summary.scalar("speed/examples_per_second", 1000.0, step=1)
    out = pair.table(config)
    out.parent.mkdir(parents=True)
    shares = dict.fromkeys(pair_study.COLUMNS, 0.5) | {"silent_error": silent}
    named = out.parent / f"{pair.variant}-abc.json"
    named.write_text(json.dumps({"rows": {"pair": shares, "f": shares}}))
    out.touch()


def test_what_is_finished_becomes_a_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study.subprocess, "run", None)
    config = pairs.Config(out=str(tmp_path), seeds=2)
    for seed in range(2):
        for name in pairs.STUDIES[config.study].variants:
            finished(config, pairs.Pair(name, seed), 0.1 + 0.1 * seed * (name == "zero"))
    pairs.main(config)
    lines = capsys.readouterr().out.splitlines()
    # Two networks, an epoch of 10,000 examples each, 1,000 a second.
    cells = "50.00 ± 0.00 | 50.00 ± 0.00 | 15.00 ± 7.07 | 50.00 ± 0.00 | 0.3 |"
    assert f"| zero | pair | {cells}" in lines
    assert len(lines) == 2 + 2 * len(pairs.STUDIES[config.study].variants)


@pytest.mark.parametrize("name", pairs.STUDIES)
def test_every_run_is_one_of_the_programs(name, tmp_path):
    config = pairs.Config(study=name, out=str(tmp_path), data_dir="DIR")
    chosen = pairs.STUDIES[name]
    for variant in chosen.variants:
        pair = pairs.Pair(variant, 1)
        networks = 0
        for _, flags in pair.runs(config):
            settled = train_config.resolve(flags)
            assert settled.eps == chosen.certified["eps"]
            networks += len(settled.networks)
        assert networks == 2
        *_, last = pair.tasks(config)
        given = dict(flag.removeprefix("--").split("=") for flag in last.command[2:])
        assert given.pop("data_dir") == "DIR"
        methods = tuple(given.pop("methods").split(","))
        numbers = {key: given.pop(key) for key in ("eps", "limit")}
        typed = {"eps": float(numbers["eps"]), "limit": int(numbers["limit"])}
        asked = pair_study.Study(pairs=(last.command[1],), methods=methods, **typed, **given)
        assert asked.eps == chosen.certified["eps"]


def test_a_pair_of_two_runs_has_two_seeds(tmp_path):
    config = pairs.Config(out=str(tmp_path))
    first, second, last = pairs.Pair("ibp", 2).tasks(config)
    assert {"--seed=2", "--method=ibp"} <= set(first.command)
    assert {"--seed=1002", "--method=ibp"} <= set(second.command)
    assert last.command[1] == f"ibp={tmp_path}/ibp_2/f,{tmp_path}/ibp_1002/f"


def test_a_folder_is_needed_and_failures_are_named(tmp_path, monkeypatch):
    with pytest.raises(SettingError, match="--out: expected a folder"):
        pairs.Config()
    failed = subprocess.CompletedProcess([], 2, stderr="train.main: --eps: expected less")
    monkeypatch.setattr(study.subprocess, "run", lambda line, **options: failed)
    with pytest.raises(RuntimeError, match=r"train\.main.*--eps: expected less"):
        pairs.main(pairs.Config(out=str(tmp_path), seeds=1))
