"""The training program's command line: what a wrong one says, and how soon."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from robustra_tf import data, models, vocabulary
from robustra_tf.cli import settings
from robustra_tf.training.methods import METHODS
from train import config as configs
from train import main, presets, workdir
from train.config import resolve

PROJECT = Path(__file__).resolve().parents[1]


def _run(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), **variables}
    command = [sys.executable, "-m", "train.main", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--eps=-0.1", ["--eps", "at least 0 and at most 1", "-0.1"]),
        ("--eps=1.5", ["--eps", "at least 0 and at most 1", "1.5"]),
        ("--eps=nan", ["--eps", "at least 0 and at most 1", "nan"]),
        ("--eps=big", ["--eps", "big"]),
        ("--eps=0.1 --eps_start=0.2", ["--eps_start", "at most 0.1", "0.2"]),
        ("--dataset=imagenet", ["--dataset", "imagenet", "there are digits"]),
        ("--model=vgg", ["--model", *models.NAMES, "vgg"]),
        (
            "--dataset=mnist --model=cifar10_small",
            ["--model", "mnist_small", "mnist_medium", "mnist_large"],
        ),
        ("--method=trades", ["--method", *METHODS, "trades"]),
        ("--schedule=both", ["--schedule", "alternating", "parallel", "both"]),
        ("--schedule=parallel", ["--devices_f", "devices with --schedule=parallel", "None"]),
        ("--schedule=parallel --devices_f=CPU:0", ["--devices_g", "devices with", "None"]),
        (
            "--schedule=parallel --devices_f=CPU:0,CPU:1 --devices_g=cpu:01",
            ["--devices_g", "others than f's", "CPU:1"],
        ),
        ("--devices_f=CPU:0,CPU", ["--devices_f", "as in GPU:0,GPU:1", "CPU:0,CPU"]),
        ("--devices_f=cpu:1,CPU:01", ["--devices_f", "CPU:1 twice"]),
        ("--devices_g=CPU:1", ["--devices_g", "none without a pair and --devices_f", "CPU:1"]),
        ("--devices_f=CPU:0 --devices_g=CPU:1 --method=ibp", ["--devices_g", "none", "CPU:1"]),
        (
            "--batch_size=1 --devices_f=CPU:0,CPU:1",
            ["--devices_f", "at most --batch_size=1 devices", "CPU:0,CPU:1"],
        ),
        ("--schedule=parallel --method=ibp", ["--schedule", "alternating", "parallel"]),
        ("--split_gpu_mb=9", ["--split_gpu_mb", "none without --devices_f", "9"]),
        ("--microbatch=-1", ["--microbatch", "at least 0", "-1"]),
        ("--norm=l7", ["--norm", "linf, l2, l1", "l7"]),
        ("--norm=l2 --method=ibp", ["--norm", "one of linf,", "l2"]),
        ("--norm=l2 --interval_share=0.1", ["--interval_share", "0 with --norm=l2", "0.1"]),
        ("--norm=l2 --attack_share=0.1", ["--attack_share", "0 with --norm=l2", "0.1"]),
        ("--projection=-1", ["--projection", "at least 0", "-1"]),
        ("--projection=50 --norm=l1", ["--projection", "0 with --norm=l1", "50"]),
        ("--projection=50 --method=natural", ["--projection", "0 with --method=natural", "50"]),
        ("--projection=50 --inner=mixed", ["--projection", "0 with --inner=mixed", "50"]),
        ("--optimizer=rmsprop", ["--optimizer", "adam", "adamw", "radam", "sgd", "rmsprop"]),
        ("--lr_drops=3,late", ["lr_drops", "late"]),
        ("--lr_drops=3,5", ["--lr_drops", "none with --lr_schedule=halving", "(3, 5)"]),
        ("--validation=1437", ["--validation", "at least 0 and at most 1436", "1437"]),
        ("--width=0", ["--width", "at least 0.01", "0"]),
        ("--epochs=5 --eps_warmup_epochs=6", ["--epochs", "at least 6", "eps_warmup_epochs", "5"]),
        ("--epochs=4", ["--epochs", "at least 6 (or lower --eps_warmup_epochs)", "4"]),
        ("--epochs=0 --eps_warmup_epochs=0", ["--epochs", "at least 1", "0"]),
        ("--eps_warmup_epochs=-1", ["--eps_warmup_epochs", "at least 0", "-1"]),
        ("--batch_size=0", ["--batch_size", "at least 1", "0"]),
        ("--batch_size=2.5", ["--batch_size", "2.5"]),
        ("--lr=0", ["--lr", "above 0", "0"]),
        ("--momentum=-1", ["--momentum", "at least 0 and at most 1", "-1"]),
        ("--weight_decay=-1", ["--weight_decay", "at least 0", "-1"]),
        ("--clip_norm=-1", ["--clip_norm", "at least 0", "-1"]),
        ("--memory_mb=1", ["--memory_mb", "at least 16", "1"]),
        ("--shift=8", ["--shift", "at least 0 and at most 7 pixels", "8"]),
        ("--limit_train=0", ["--limit_train", "at least 1 and at most 1437", "0"]),
        ("--limit_test=361", ["--limit_test", "at most 360", "361"]),
        ("--seed=-1", ["--seed", "at least 0", "-1"]),
        ("--workdir=missing/run", ["--workdir", "parent", "missing"]),
        ("--dataset=mnist --data_dir=nowhere", ["mnist", "nowhere", "--data_dir"]),
        ("--epsilon=0.1", ["epsilon"]),
        ("digits", ["digits", "--name=value"]),
    ],
)
def test_a_bad_flag_is_one_line_that_names_it_and_what_is_allowed(
    tmp_path, monkeypatch, capsys, arguments, parts
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "FLAGS", flags.FlagValues())
    main._define()
    line = ["train.main", *arguments.split()]
    with pytest.raises(SystemExit) as ended:
        sys.exit(main.main(main.PROGRAM.parse(main.FLAGS, main.COMMAND, main.__doc__, line)))
    told = capsys.readouterr()
    _check_refused(ended.value.code, told.out, told.err, parts)
    assert list(tmp_path.iterdir()) == []  # a refused command leaves nothing behind


def _check_refused(code, out, errors, parts):
    assert (code, out) == (2, "")
    assert errors.count("\n") == 1
    for part in parts:
        assert part in errors


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("--eps=-0.1", ["train.main: --eps", "at least 0 and at most 1", "-0.1"]),
        ("--epsilon=0.1", ["train.main: ", "epsilon"]),
        ("digits", ["train.main: ", "digits", "--name=value"]),
    ],
)
def test_a_process_of_its_own_says_so_and_ends(tmp_path, argument, parts):
    done = _run(argument, cwd=tmp_path)
    _check_refused(done.returncode, done.stdout, done.stderr, parts)
    assert list(tmp_path.iterdir()) == []


def test_flags_are_checked_without_tensorflow(tmp_path):
    code = (
        "import sys, train.main, train.workdir as w\n"
        "w.open_run({'workdir': sys.argv[1]}, False)\n"
        "print(sorted({'tensorflow', 'keras', 'sklearn', 'scipy'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_the_table_of_model_inputs_is_that_of_the_models():
    assert vocabulary.MODELS == models.NAMES
    for name in ("digits_small", "mnist_small", "mnist_medium", "cifar10_small"):
        assert models.build(name, seed=0).input_shape[1:] == vocabulary.MODEL_INPUTS[name]


@pytest.mark.parametrize("dataset", data.NAMES)
def test_each_preset_is_a_valid_configuration_with_the_papers_settings(dataset):
    config = resolve({"dataset": dataset})
    assert (config.method, config.batch_size) == ("robustra", 50)
    assert vocabulary.MODEL_INPUTS[config.model] == data.INFO[dataset].shape
    assert config.limit_train == data.INFO[dataset].splits["train"]
    if dataset == "digits":
        return
    assert (config.epochs, config.eps_warmup_epochs, config.lr) == (100, 20, 1e-3)
    sgd = (config.optimizer, config.momentum, config.weight_decay, config.clip_norm)
    augmentation = (config.shift, config.mirror)
    if dataset == "cifar10":
        assert (sgd, augmentation) == (("sgd", 0.9, 5e-4, 1.0), (4, True))
        assert config.eps_start < config.eps == 2 / 255
    else:
        assert (config.optimizer, augmentation) == ("adam", (0, False))
        assert (config.eps_start, config.eps) == (0.01, 0.1)


@pytest.mark.parametrize("name", presets.NAMED)
def test_a_recipe_is_a_valid_configuration_that_flags_go_before(name):
    recipe = presets.NAMED[name]
    config = resolve({"preset": name})
    assert {key: getattr(config, key) for key in recipe} == recipe
    assert config.workdir == f"runs/{name}"
    changed = resolve({"preset": name, "limit_train": 70, "lr": 0.5})
    assert (changed.limit_train, changed.lr, changed.epochs) == (70, 0.5, recipe["epochs"])


def test_the_recipes_have_every_row_of_table_2():
    """Five architectures at two radii each; the larger three with projections."""
    rows = {(recipe["model"], recipe["eps"]) for recipe in presets.PAPER.values()}
    mnist, cifar10 = (0.1, 0.3), (2 / 255, 8 / 255)
    assert rows == {(name, eps) for name in ("mnist_small", "mnist_large") for eps in mnist} | {
        (f"cifar10_{size}", eps) for size in ("small", "large", "resnet") for eps in cifar10
    }
    assert len(presets.PAPER) == 10
    assert {"mnist_small_0.1", "mnist_large_0.3", "cifar10_resnet_8_255"} < set(presets.PAPER)
    for name, recipe in presets.PAPER.items():
        config = resolve({"preset": name})
        small = config.model.endswith("small")
        assert config.projection == (0 if small else 50)
        assert config.limit_test == (1000 if small else 0)
        assert config == dataclasses.replace(
            resolve({"dataset": config.dataset, "model": config.model, "eps": config.eps}),
            preset=name,
            workdir=f"runs/{name}",
            projection=config.projection,
            limit_test=config.limit_test,
        )
        assert recipe["method"] == "robustra"


def test_a_recipes_values_are_all_in_the_configuration(tmp_path, shared):
    given = {"preset": "mnist_large_0.3", "workdir": str(tmp_path / "a")}
    _, folder = workdir.open_run(given | {"data_dir": str(shared / "tfds")}, False)
    written = json.loads(folder.config.read_text())
    recipe = presets.NAMED["mnist_large_0.3"]
    assert recipe.items() <= written.items()
    assert set(written) == set(configs.FIELDS)


def test_recipes_are_listed_as_flags(tmp_path):
    done = _run("--list_presets", cwd=tmp_path)
    assert done.returncode == 0
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert list(lines) == list(presets.NAMED)
    given = dict(flag.removeprefix("--").split("=") for flag in lines["mnist_0.3_best"].split())
    assert {key: str(value) for key, value in presets.NAMED["mnist_0.3_best"].items()} == given
    refused = _run("--preset=best", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--preset: expected one of mnist_small_0.1" in refused.stderr


def test_a_radius_below_the_presets_start_begins_at_itself():
    assert resolve({"eps": 0.005}).eps_start == 0.005


@pytest.mark.parametrize(("norm", "diameter"), [("linf", 1.0), ("l2", 8.0), ("l1", 64.0)])
def test_the_largest_radius_is_the_diameter_of_the_images(norm, diameter):
    shape = (8, 8, 1)
    farthest = np.linalg.norm(np.ones(shape).ravel(), {"linf": np.inf, "l2": 2, "l1": 1}[norm])
    assert farthest == diameter
    assert settings.radius("eps", diameter, norm, shape) == diameter
    with pytest.raises(settings.SettingError, match=f"--eps: .*at most {diameter:g}"):
        settings.radius("eps", diameter * 1.01, norm, shape)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve({}).eps = 0.2


def test_an_unknown_setting_is_not_ignored():
    with pytest.raises(TypeError, match="epsilon"):
        resolve({"epsilon": 0.1})


def test_a_run_writes_its_whole_configuration(tmp_path):
    config, folder = workdir.open_run({"workdir": str(tmp_path / "a"), "eps": 0.05}, False)
    # JSON has lists alone.
    there = json.loads(json.dumps(dataclasses.asdict(config)))
    assert json.loads(folder.config.read_text()) == there
    assert (config.eps, config.dataset) == (0.05, "digits")


def test_a_folder_with_a_run_is_refused_without_resume(tmp_path):
    given = {"workdir": str(tmp_path / "a")}
    workdir.open_run(given, False)
    with pytest.raises(settings.SettingError, match=r"--workdir: .*--resume") as caught:
        workdir.open_run(given, False)
    assert "\n" not in str(caught.value)


def test_resume_takes_the_stored_settings_and_refuses_others_by_name(tmp_path):
    given = {"workdir": str(tmp_path / "a"), "eps": 0.05, "seed": 3}
    config, _ = workdir.open_run(given, False)
    assert workdir.open_run({"workdir": given["workdir"]}, True)[0] == config
    assert workdir.open_run(given, True)[0] == config
    with pytest.raises(settings.SettingError, match=r"--resume: .*--eps 0\.05 there, 0\.1 here"):
        workdir.open_run(given | {"eps": 0.1}, True)


def test_more_epochs_prolong_a_run_where_its_schedules_allow_it(tmp_path):
    given = {"workdir": str(tmp_path / "a"), "epochs": 8, "seed": 3}
    _, folder = workdir.open_run(given, False)
    longer, _ = workdir.open_run(given | {"epochs": 9}, True)
    assert (longer.epochs, longer.seed) == (9, 3)
    assert json.loads(folder.config.read_text())["epochs"] == 9
    assert workdir.open_run({"workdir": given["workdir"]}, True)[0].epochs == 9
    with pytest.raises(settings.SettingError, match=r"--epochs: expected at least 9 .*got 8"):
        workdir.open_run(given, True)
    cosine = {"workdir": str(tmp_path / "b"), "epochs": 8, "lr_schedule": "cosine"}
    workdir.open_run(cosine, False)
    with pytest.raises(settings.SettingError, match=r"--epochs: expected 8.*cosine.*got 9"):
        workdir.open_run(cosine | {"epochs": 9}, True)


def test_a_workdir_that_cannot_be_made_is_refused_by_its_name(tmp_path, monkeypatch):
    """Here `runs`, which the default workdir lies in, is a file."""
    monkeypatch.chdir(tmp_path)
    Path("runs").write_text("mine")
    with pytest.raises(settings.SettingError, match=r"--workdir: .*made.*runs.*got 'runs/digits"):
        workdir.open_run({}, False)


def test_resume_may_find_the_data_and_the_run_elsewhere(tmp_path):
    workdir.open_run({"workdir": str(tmp_path / "a"), "data_dir": "old"}, False)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = {"workdir": str(tmp_path / "b"), "data_dir": "new"}
    config, folder = workdir.open_run(moved, True)
    assert (config.workdir, config.data_dir) == (moved["workdir"], "new")
    assert folder.root == tmp_path / "b"


def test_resume_begins_a_run_where_there_is_none(tmp_path):
    config, folder = workdir.open_run({"workdir": str(tmp_path / "a")}, True)
    assert folder.config.exists()
    assert config == resolve({"workdir": str(tmp_path / "a")})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"eps": 0.1}', '{"dataset": '])
def test_a_damaged_configuration_is_refused_by_its_name(tmp_path, text):
    _, folder = workdir.open_run({"workdir": str(tmp_path)}, False)
    folder.config.write_text(text)
    with pytest.raises(settings.SettingError, match=r"--workdir: .*config\.json"):
        workdir.open_run({"workdir": str(tmp_path)}, True)
