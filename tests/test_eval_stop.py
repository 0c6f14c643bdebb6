"""Evaluations that are stopped by signals, or find another one at work in their folder."""

import os
import signal
import time
from pathlib import Path

import pytest

from robustra_tf.cli.stopping import Exit
from tests.evaluations import rows, without_seconds

# A process imports TensorFlow, and two workers of another one do.
pytestmark = pytest.mark.slow

FLAGS = {"limit": 60, "batch_size": 10, "eps": 0.04, "stages": "clean,lp"}


@pytest.fixture(scope="module")
def whole(nursery, saved, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    life = nursery.run("eval", "plain", saved_model=saved, out=out, **FLAGS)
    assert life.wait() == Exit.DONE, life.said()
    return without_seconds(out)


def decided(out, stage):
    path = out / "ledger.csv"
    return [row for row in rows(out) if row["stage"] == stage] if path.exists() else []


def last_line(life):
    assert "Traceback" not in life.said()
    return life.said().splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_between_batches_and_the_evaluation_goes_on(
    nursery, saved, whole, tmp_path, number
):
    out = tmp_path / "out"
    life = nursery.run("eval", "slow_bounds", saved_model=saved, out=out, **FLAGS)
    life.until(lambda: decided(out, "lp"))
    life.kill(number)
    assert life.wait() == Exit.STOPPED
    assert f"{number.name}: stopping" in life.said()
    assert last_line(life) == "eval.main: stopped; --resume goes on from here"
    # Whole batches: what was begun was brought to its end.
    done = decided(out, "lp")
    assert 0 < len(done) < FLAGS["limit"]
    assert len(done) % FLAGS["batch_size"] == 0
    life = nursery.run("eval", "plain", saved_model=saved, out=out, resume=True, **FLAGS)
    assert life.wait() == Exit.DONE, life.said()
    assert without_seconds(out) == whole


def test_a_second_signal_stops_at_once(nursery, saved, tmp_path):
    out = tmp_path / "out"
    flags = FLAGS | {"batch_size": 60}
    life = nursery.run("eval", "endless_bound", saved_model=saved, out=out, **flags)
    life.until(lambda: "endless" in life.said())
    life.kill(signal.SIGTERM)
    life.until(lambda: "a second one stops at once" in life.said())
    time.sleep(0.5)
    assert not life.ended()
    life.kill(signal.SIGTERM)
    assert life.wait() == 128 + signal.SIGTERM


def test_a_second_evaluation_in_the_same_folder_is_refused(nursery, saved, whole, tmp_path):
    out = tmp_path / "out"
    first = nursery.run("eval", "slow_bounds", saved_model=saved, out=out, **FLAGS)
    first.until(lambda: decided(out, "lp"))
    life = nursery.run("eval", "plain", saved_model=saved, out=out, resume=True, **FLAGS)
    assert life.wait() == Exit.BAD_USAGE
    assert last_line(life) == f"eval.main: {out}: process {first.pid} is working there"
    first.kill(signal.SIGKILL)
    first.wait()
    life = nursery.run("eval", "plain", saved_model=saved, out=out, resume=True, **FLAGS)
    assert life.wait() == Exit.DONE, life.said()
    assert without_seconds(out) == whole


def children(pid):
    """The processes that another one has started: {pid: command line}."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(p): Path(f"/proc/{p}/cmdline").read_bytes() for p in listed}


def workers(pid):
    """The processes that compute for another one, and the one that forks them: (them, it)."""
    (server,) = [p for p, command in children(pid).items() if b"forkserver" in command]
    return list(children(server)), server


def gone(pid):
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_its_evaluation(nursery, saved, tmp_path, number):
    out = tmp_path / "out"
    flags = {"limit": 300, "eps": 0.12, "stages": "clean,milp", "workers": 2, "time_limit": 20}
    life = nursery.run("eval", "plain", saved_model=saved, out=out, **flags)
    life.until(lambda: len(decided(out, "milp")) > 1)
    found, server = workers(life.pid)
    assert len(found) == 2
    life.kill(number)
    assert life.wait() == (-number if number == signal.SIGKILL else Exit.STOPPED), life.said()
    end = time.monotonic() + 10
    while not all(gone(pid) for pid in (*found, server)):
        assert time.monotonic() < end, os.listdir("/proc")
        time.sleep(0.02)
    assert len(decided(out, "milp")) < flags["limit"] / 2
