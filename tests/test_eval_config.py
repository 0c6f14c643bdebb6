"""The evaluation's settings: each one out of range costs one line that names it."""

import subprocess
import sys

import pytest

from eval import config
from robustra_tf.cli.settings import FlagError


@pytest.fixture
def given(tmp_path):
    """Settings of a valid evaluation of published weights."""
    weights = tmp_path / "w.mat"
    weights.write_bytes(b"")
    return {
        "weights": str(weights),
        "model": "digits_small",
        "dataset": "digits",
        "eps": 0.1,
        "out": str(tmp_path / "out"),
    }


def test_defaults_are_the_papers_evaluation(given, tmp_path):
    resolved = config.resolve(given | {"split": None, "norm": None})
    assert resolved.stages == ("clean", "lp")
    assert (resolved.split, resolved.norm, resolved.limit) == ("test", "linf", None)
    # The LP bound is over the plain ball, as in the paper; attacked pixels keep to [0, 1].
    assert (resolved.box, resolved.lp_box) == ((0.0, 1.0), False)
    assert resolved.out == tmp_path / "out"


def test_stages_run_in_their_order_and_begin_with_clean(given):
    assert config.resolve(given | {"stages": ["lp", "pgd"]}).stages == ("clean", "pgd", "lp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -0.1}, "--eps: expected at least 0 and at most 1 in pixels.*got -0.1"),
        ({"eps": 1.1}, "--eps: expected at least 0 and at most 1"),
        ({"eps": float("nan")}, "--eps: expected"),
        ({"eps": None}, "--eps: expected a radius"),
        ({"dataset": None}, "--dataset: expected --data, or --dataset"),
        ({"data_dir": "/nowhere", "dataset": "svhn"}, "--dataset: svhn: no prepared dataset in"),
        ({"dataset": "../digits"}, "--dataset: name: expected that of a data set"),
        ({"data": "x.npz"}, "--dataset: expected one of --dataset and --data, got 'digits'"),
        ({"scale": 255.0}, "--scale: expected none but with --data"),
        ({"data": "x.npz", "dataset": None, "scale": 0.0}, "--scale: expected above 0"),
        ({"model": None}, "--model: expected one of"),
        ({"model": "vgg"}, "--model: expected one of"),
        ({"model": "mnist_small"}, "--model: expected one of digits_small, got"),
        ({"split": "val"}, "--split: expected one of train, test"),
        ({"limit": 0}, "--limit: expected at least 1 and at most 360"),
        ({"limit": 361}, "--limit: expected at least 1 and at most 360"),
        ({"norm": "l3"}, "--norm: expected one of linf, l2, l1"),
        (
            {"stages": ["clean", "ilp"]},
            "--stages: expected one of clean, pgd, ibp, lp, crown, alpha, milp, got 'ilp'",
        ),
        ({"box": "0.2,1"}, "--box: expected none, or low,high that contains 0,1"),
        ({"box": "wide"}, "--box: expected none"),
        ({"lp_box": True, "box": "none"}, "--lp_box: expected false with --box=none"),
        ({"lp_box": True, "norm": "l2"}, "--lp_box: expected false with --norm=l2"),
        ({"batch_size": 0}, "--batch_size: expected"),
        ({"dtype": "float16"}, "--dtype: expected one of float32, float64"),
        ({"sound": True, "dtype": "float32"}, "--dtype: expected float64 with --sound"),
        (
            {"sound": True, "stages": ["lp", "crown"]},
            "--stages: expected no crown, alpha, milp with",
        ),
        ({"attack_loss": "hinge"}, "--attack_loss: expected one of margin, cross_entropy"),
        ({"attack_steps": 0}, "--attack_steps: expected"),
        ({"attack_restarts": 0}, "--attack_restarts: expected"),
        ({"seed": -1}, "--seed: expected"),
        ({"weights": "/nowhere/w.mat"}, "--weights: expected an existing .mat file"),
        ({"weights": None}, "--saved_model: expected one of --saved_model, --model_file and"),
        ({"saved_model": "somewhere"}, "--saved_model: expected one of"),
        ({"model_file": "net.keras"}, "got 'model_file, weights'"),
        ({"out": None}, "--out: expected a directory"),
        ({"out": "/nowhere/there/out"}, "--out: expected a directory whose parent exists"),
        ({"out": __file__}, "--out: expected a directory, not a file"),
    ],
)
def test_a_setting_out_of_range_is_named_in_one_line(given, change, message):
    with pytest.raises(FlagError, match=message) as raised:
        config.resolve(given | change)
    assert "\n" not in str(raised.value)


def test_the_folder_of_a_run_names_the_networks_in_it(given, tmp_path):
    for name in "fg":
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "saved_model.pb").touch()
    given |= {"weights": None, "model": None, "saved_model": str(tmp_path / "run")}
    with pytest.raises(FlagError, match=r"run: not a SavedModel .*run/f and .*run/g are"):
        config.resolve(given)


def test_a_saved_model_that_is_not_there_is_named(given, tmp_path):
    given |= {"weights": None, "model": None, "saved_model": str(tmp_path / "nowhere")}
    with pytest.raises(FlagError, match="nowhere: there is no such SavedModel"):
        config.resolve(given)


def test_the_program_refuses_in_one_line_before_importing_tensorflow(given, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").touch()
    # Importing TensorFlow would fail here: an empty name in sys.modules stops its import.
    program = (
        "import sys, runpy; sys.modules['tensorflow'] = sys.modules['keras'] = None;"
        "runpy.run_module('eval.main', run_name='__main__', alter_sys=True)"
    )
    lines = {
        (
            "--saved_model: expected one of --saved_model, --model_file and --weights with "
            "--model, and --pair, got 'none'"
        ): [
            "--eps=2",
            "--dataset=digits",
        ],
        (
            "--out: expected a folder without results (there is a results.json); --overwrite "
            f"replaces them, got '{given['out']}'"
        ): [f"--{name}={value}" for name, value in given.items()],
    }
    for line, flags in lines.items():
        command = [sys.executable, "-c", program, *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert done.stderr.splitlines() == [f"eval.main: {line}"]
        assert done.stdout == ""
