"""Training that is stopped, finds no room, damaged checkpoints or numbers that are not finite."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest

from robustra_tf import data, export
from robustra_tf.batches import TrainingBatches
from robustra_tf.cli.stopping import Exit
from robustra_tf.training import checkpoint
from tests.outcomes import outcome, variables
from train.workdir import Workdir

# A process imports TensorFlow; some twenty short runs begin in it, each of which traces a step.
pytestmark = pytest.mark.slow

FLAGS = {"epochs": 3}


@pytest.fixture(scope="module")
def whole(nursery, tmp_path_factory):
    """What an uninterrupted run leaves."""
    folder = Workdir(tmp_path_factory.mktemp("whole") / "run")
    life = nursery.start(folder.root, **FLAGS)
    assert life.wait() == Exit.DONE, life.said()
    return outcome(folder)


@pytest.fixture
def folder(tmp_path):
    return Workdir(tmp_path / "run")


def saved(folder):
    return checkpoint.found(folder.checkpoints)


def last_line(life):
    """Its one line of error, the last thing it said."""
    # Where there is no terminal, a bar and what is said next share a line.
    lines = life.said().replace("]train.main: ", "]\ntrain.main: ").splitlines()
    assert "Traceback" not in life.said()
    assert [line.startswith("train.main: ") for line in lines].count(True) >= 1
    assert lines[-1].startswith("train.main: ")
    return lines[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_between_two_steps_and_the_run_goes_on(nursery, whole, folder, number):
    flags = FLAGS | {"checkpoint_minutes": 0}
    life = nursery.start(folder.root, "slow", **flags)
    life.until(lambda: "stepped" in life.said())
    time.sleep(0.5)
    life.kill(number)
    assert life.wait() == Exit.STOPPED == 3
    # Nothing but the signal had it saved within a pass.
    (newest,) = saved(folder)
    assert not newest.name.endswith("-00000000")
    assert f"{number.name}: stopping" in life.said()
    assert last_line(life) == (
        f"train.main: stopped; saved in {newest}; --resume goes on from there"
    )
    life = nursery.start(folder.root, resume=True, **flags)
    assert life.wait() == Exit.DONE, life.said()
    assert f"step {int(newest.name[-8:])}" in life.said()
    assert outcome(folder) == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once_within_a_computation(nursery, folder, number):
    life = nursery.start(folder.root, "stuck", **FLAGS)
    life.until(lambda: "endless" in life.said())
    life.kill(number)
    life.until(lambda: "a second one stops at once" in life.said())
    time.sleep(0.5)
    assert not life.ended()
    life.kill(number)
    start = time.monotonic()
    assert life.wait() == 128 + number
    assert time.monotonic() < start + 5
    (kept,) = saved(folder)
    assert kept.name == "000000-00000001"
    assert last_line(life) == (
        f"train.main: {number.name}: stopped at once; --resume goes on from {kept}"
    )


def test_before_the_first_step_a_signal_stops_at_once(nursery, whole, folder):
    """Such as while it is compiled: nothing can be lost."""
    life = nursery.start(folder.root, "stuck_at_once", **FLAGS)
    life.until(lambda: "endless" in life.said())
    assert "compiling" in life.said()
    life.kill(signal.SIGINT)
    start = time.monotonic()
    assert life.wait() == Exit.STOPPED
    assert time.monotonic() < start + 2
    assert last_line(life) == "train.main: SIGINT: stopped; no step was taken yet"
    assert not saved(folder)
    # One that goes on has a checkpoint to go on from.
    life = nursery.start(folder.root, "slow", resume=True, **FLAGS)
    life.until(lambda: saved(folder))
    life.kill(signal.SIGKILL)
    life.wait()
    kept = saved(folder)[0]
    life = nursery.start(folder.root, "stuck_at_once", resume=True, **FLAGS)
    life.until(lambda: "endless" in life.said())
    life.kill(signal.SIGINT)
    assert life.wait() == Exit.STOPPED
    assert last_line(life) == (
        f"train.main: SIGINT: stopped; --resume goes on from {kept}, as before"
    )
    life = nursery.start(folder.root, resume=True, **FLAGS)
    assert life.wait() == Exit.DONE, life.said()
    assert outcome(folder) == whole


def test_a_signal_stops_an_evaluation_too(nursery, folder):
    """The pass before it is saved, its row is not written yet."""
    flags = FLAGS | {"checkpoint_minutes": 0, "limit_test": 360}
    life = nursery.start(folder.root, "slow_evaluation", **flags)
    life.until(lambda: "evaluating" in life.said())
    life.kill(signal.SIGTERM)
    assert life.wait() == Exit.STOPPED
    assert [path.name for path in saved(folder)] == ["000000-00000004"]
    assert len(folder.history.read_text().splitlines()) == 1
    for place, interrupted in ((folder, True), (Workdir(folder.root.with_name("other")), False)):
        life = nursery.start(place.root, resume=interrupted, **flags)
        assert life.wait() == Exit.DONE, life.said()
    assert outcome(folder) == outcome(place)


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, for whoever may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_ends_a_run_that_goes_on_when_there_is_room(nursery, whole, disk):
    folder, filler = Workdir(disk / "run"), disk / "filler"
    life = nursery.start(folder.root, **FLAGS)
    life.until(lambda: saved(folder))
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(2**20))
    assert life.wait() == Exit.FAILED
    line = last_line(life)
    assert "No space left on device" in line
    assert str(folder.root) in line
    assert "--resume goes on from the last checkpoint" in line
    # As long as there is none, nothing is lost either.
    life = nursery.start(folder.root, resume=True, **FLAGS)
    assert life.wait() == Exit.FAILED
    assert "No space left on device" in last_line(life)
    filler.unlink()
    life = nursery.start(folder.root, resume=True, **FLAGS)
    assert life.wait() == Exit.DONE, life.said()
    assert outcome(folder) == whole


def test_a_workdir_that_cannot_be_written_is_refused(nursery, disk):
    folder = Workdir(disk / "run")
    life = nursery.start(folder.root, **FLAGS)
    assert life.wait() == Exit.DONE, life.said()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for root, options in ((folder.root, {"resume": True}), (disk / "new", {})):
        life = nursery.start(root, **options, **FLAGS)
        assert life.wait() == Exit.BAD_USAGE
        assert life.said().count("\n") == 1
        assert "--workdir: expected a directory that can be written" in last_line(life)


def test_a_damaged_checkpoint_is_told_and_the_run_ends_the_same(nursery, whole, folder):
    life = nursery.start(folder.root, **FLAGS)
    life.until(lambda: len(saved(folder)) > 1 and saved(folder)[0].name > "000002")
    life.kill(signal.SIGKILL)
    life.wait()
    newest, before = saved(folder)[:2]
    os.truncate(newest / "state.data-00000-of-00001", 100)
    life = nursery.start(folder.root, resume=True, **FLAGS)
    assert life.wait() == Exit.DONE, life.said()
    assert f"{newest / 'state.data-00000-of-00001'}: damaged" in life.said()
    passes, step = (int(number) for number in before.name.split("-"))
    assert f"pass {passes}, step {step}" in life.said()
    assert outcome(folder) == whole


def test_a_run_that_is_killed_while_it_exports_leaves_whole_networks(nursery, whole, folder):
    life = nursery.start(folder.root, **FLAGS)
    scratch = lambda: list(folder.root.glob(".g.*"))  # noqa: E731
    life.until(scratch)
    life.kill(signal.SIGKILL)
    life.wait()
    assert scratch()
    assert not folder.model("g").exists()
    life = nursery.start(folder.root, resume=True, **FLAGS)
    assert life.wait() == Exit.DONE, life.said()
    assert not list(folder.root.glob(".*"))
    assert outcome(folder) == whole
    stored = {name: export.load(folder.model(name)).get_weights() for name in "fg"}
    for name, weights in stored.items():
        bits = [variables(folder)[f"{name}/model/{k}/.ATTRIBUTES/VARIABLE_VALUE"] for k in range(4)]
        assert [weight.tobytes() for weight in weights] == bits


def test_nothing_but_damaged_checkpoints_is_refused(nursery, folder):
    life = nursery.start(folder.root, **FLAGS)
    life.until(lambda: len(saved(folder)) > 1)
    life.kill(signal.SIGKILL)
    life.wait()
    for path in saved(folder):
        os.truncate(path / "about.json", 10)
    before = folder.history.read_text()
    life = nursery.start(folder.root, resume=True, **FLAGS)
    assert life.wait() == Exit.BAD_USAGE
    assert "no checkpoint can be used" in last_line(life)
    assert folder.history.read_text() == before


def test_a_second_process_is_refused_while_the_first_goes_on(nursery, whole, folder):
    first = nursery.start(folder.root, "slow", **FLAGS)
    first.until(lambda: saved(folder))
    second = Workdir(folder.root.with_name("second"))
    second.root.symlink_to(folder.root)
    life = nursery.start(second.root, resume=True, **FLAGS)
    assert life.wait() == Exit.BAD_USAGE
    assert life.said().count("\n") == 1
    assert "--workdir: expected a folder that no other process works in" in last_line(life)
    assert f"process {first.pid} is working there" in last_line(life)
    assert not first.ended()
    first.kill(signal.SIGKILL)
    first.wait()
    # The lock ends with the process.
    life = nursery.start(folder.root, resume=True, **FLAGS)
    assert life.wait() == Exit.DONE, life.said()
    assert outcome(folder) == whole


def test_a_finished_run_says_so_and_may_be_prolonged(nursery, whole, folder):
    """To what it would have been with so many epochs from the start."""
    flags = FLAGS | {"epochs": FLAGS["epochs"] - 1}
    life = nursery.start(folder.root, resume=True, **flags)
    assert life.wait() == Exit.DONE, life.said()
    assert life.told().startswith(
        f"train.main: nothing to resume in {folder.root}: a new run begins there; starting"
    )
    before = outcome(folder)
    life = nursery.start(folder.root, resume=True, **flags)
    assert life.wait() == Exit.DONE
    assert life.said() == (
        f"train.main: already finished, {flags['epochs']} epochs: {folder.model('f')} and "
        f"{folder.model('g')}; --epochs=MORE prolongs it\n"
    )
    assert outcome(folder) == before
    life = nursery.start(folder.root, resume=True, **FLAGS)
    assert life.wait() == Exit.DONE, life.said()
    assert f"going on with the run in {folder.root}" in life.told().splitlines()[0]
    assert outcome(folder) == whole
    life = nursery.start(folder.root, resume=True)
    assert life.wait() == Exit.DONE
    assert life.said().startswith(f"train.main: already finished, {FLAGS['epochs']} epochs")


def test_another_configuration_is_refused_by_what_differs(nursery, folder):
    life = nursery.start(folder.root, **FLAGS)
    assert life.wait() == Exit.DONE, life.said()
    before = outcome(folder)
    life = nursery.start(folder.root, resume=True, **FLAGS | {"eps": 0.05, "seed": 4})
    assert life.wait() == Exit.BAD_USAGE
    assert "--eps 0.04 there, 0.05 here; --seed 3 there, 4 here" in last_line(life)
    # How often it is saved is no part of it.
    life = nursery.start(folder.root, resume=True, **FLAGS | {"checkpoint_minutes": 5})
    assert life.wait() == Exit.DONE, life.said()
    assert outcome(folder) == before


def finite(folder):
    """Whether the newest checkpoint is whole, and every number of its networks finite."""
    reader = checkpoint.variables(saved(folder)[0])
    kinds = reader.get_variable_to_dtype_map()
    keys = [key for key, kind in kinds.items() if kind.is_floating]
    assert len(keys) == len(variables(folder)) - 2  # but for the counts of steps
    return all(np.isfinite(reader.get_tensor(key)).all() for key in keys)


@pytest.mark.parametrize("minutes", [0, 1e-9])
def test_a_poisoned_example_ends_the_run_and_is_named(nursery, folder, minutes):
    flags = FLAGS | {"checkpoint_minutes": minutes}
    life = nursery.start(folder.root, "poisoned", **flags)
    assert life.wait() == Exit.NOT_FINITE == 4, life.said()
    line = last_line(life)
    batches = TrainingBatches(data.load("digits", "train", 64), 16, flags.get("seed", 3))
    step = int(np.argwhere(batches.order(0) == 41)[0, 0])
    assert f"epoch 1 of f, step {step + 1} of 4: " in line
    assert "loss nan" in line
    listed = line.partition("the training examples ")[2].partition(";")[0]
    assert json.loads(listed) == batches.order(0)[step].tolist()
    if minutes:
        assert f"last good checkpoint: {saved(folder)[0]}" in line
        assert saved(folder)[0].name == f"000000-{step:08d}"
        assert finite(folder)
    else:
        assert "last good checkpoint: none" in line
        assert not saved(folder)


def test_a_learning_rate_that_is_far_too_large_leaves_the_last_good_checkpoint(nursery, folder):
    flags = FLAGS | {"optimizer": "sgd", "lr": 1e25, "method": "natural"}
    life = nursery.start(folder.root, **flags)
    assert life.wait() == Exit.NOT_FINITE, life.said()
    line = last_line(life)
    assert f"last good checkpoint: {saved(folder)[0]}" in line
    assert finite(folder)
    # It ends in the same way when it goes on.
    life = nursery.start(folder.root, resume=True, **flags)
    assert life.wait() == Exit.NOT_FINITE
    assert last_line(life) == line
