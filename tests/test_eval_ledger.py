"""The ledger and the cascade: nothing decided is lost, nothing is taken for what it is not."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from eval import cascade
from eval.cascade import Decisions, Examples
from eval.ledger import Ledger, LedgerError
from eval.rows import Row, Status

IDENTITY = {"eps": 0.1, "norm": "linf", "box": (0.0, 1.0)}


class Stub:
    """A stage that decides the examples whose index gives a remainder, and remembers its work."""

    batch_size = 4

    def __init__(self, name, divisor, status, first=False):
        self.name, self.divisor, self.status, self.first = name, divisor, status, first
        self.seen = []

    def run(self, batches):
        for batch in batches:
            self.seen.append(batch.indices.tolist())
            decided = batch.indices % self.divisor == 0
            status = [self.status if d else Status.UNKNOWN for d in decided]
            # What a stage says of an example may depend on its batch by rounding errors.
            margin = batch.indices / 7 + len(batch) * 1e-7 + batch.indices[0] * 1e-6
            predicted = batch.indices % 10 if self.first else None
            target = None if self.first else (batch.indices + 1) % 10
            yield Decisions(batch, status, predicted, margin, target, 0.5)


def stages():
    return [
        Stub("clean", 5, Status.MISCLASSIFIED, first=True),
        Stub("pgd", 3, Status.FALSIFIED),
        Stub("lp", 2, Status.VERIFIED),
    ]


def examples(count=40):
    return Examples(np.arange(count), np.zeros((count, 2)), np.arange(count) % 10)


def run(directory, resume=False, stop_after=None, identity=IDENTITY):
    """An evaluation with stub stages, stopped after some batches; its stages."""
    made, calls = stages(), 0
    ledger = Ledger(directory, identity, resume)

    def watch(stage, rows, total, left):
        nonlocal calls
        calls += bool(rows)
        if calls == stop_after:
            raise KeyboardInterrupt

    try:
        cascade.run(made, examples(), ledger, watch)
    except KeyboardInterrupt:
        ledger.close()
    else:
        ledger.finish()
    return made


def without_seconds(directory):
    """The ledger's cells without the last three columns: seconds, searches and reasons."""
    lines = (directory / "ledger.csv").read_text().splitlines()
    return [line.rsplit(",", 3)[0] for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    run(directory)
    return without_seconds(directory)


def test_each_stage_takes_only_what_is_undecided(tmp_path, uninterrupted):
    made = run(tmp_path)
    entered = [sorted(itertools.chain(*stage.seen)) for stage in made]
    assert entered[0] == list(range(40))
    assert entered[1] == [i for i in range(40) if i % 5]
    assert entered[2] == [i for i in range(40) if i % 5 and i % 3]
    assert uninterrupted[0] == "index,label,predicted,status,stage,margin_lower,worst_target"
    rows = [line.split(",") for line in uninterrupted[1:]]
    assert [int(row[0]) for row in rows] == list(range(40))
    expected = [
        ("misclassified", "clean")
        if i % 5 == 0
        else ("falsified", "pgd")
        if i % 3 == 0
        else ("verified", "lp")
        if i % 2 == 0
        else ("unknown", "lp")
        for i in range(40)
    ]
    assert [(row[3], row[4]) for row in rows] == expected


@pytest.mark.parametrize("stop_after", range(1, 25, 3))
def test_a_stopped_evaluation_goes_on_to_the_same_ledger(tmp_path, uninterrupted, stop_after):
    run(tmp_path, stop_after=stop_after)
    made = run(tmp_path, resume=True)
    assert without_seconds(tmp_path) == uninterrupted
    batches = sum(len(stage.seen) for stage in made)
    assert batches == 10 + 8 + 6 - stop_after


def test_a_ledger_cut_at_any_byte_goes_on_to_the_same_ledger(tmp_path, uninterrupted):
    run(tmp_path, stop_after=13)
    path = tmp_path / "ledger.csv"
    content = path.read_bytes()
    about = (tmp_path / "ledger.json").read_bytes()
    for cut in np.linspace(0, len(content), 25).astype(int):
        path.write_bytes(content[:cut])
        (tmp_path / "ledger.json").write_bytes(about)
        run(tmp_path, resume=True)
        assert without_seconds(tmp_path) == uninterrupted, cut


def test_killed_ten_times_the_ledger_ends_the_same(tmp_path, uninterrupted):
    # A process of its own, killed without any chance to tidy up; the stages sleep to be hit.
    program = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from tests import test_eval_ledger as t
        write = t.Ledger.record
        def slow(self, rows, stage, seconds):
            def spread():
                for row in rows:
                    time.sleep(0.01)
                    yield row
            write(self, spread(), stage, seconds)
        t.Ledger.record = slow
        print("ready", flush=True)
        t.run(Path({str(tmp_path)!r}), resume=True)
        """
    )
    rng = np.random.default_rng(3)
    kills = 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    while kills < 10:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment
        )
        process.stdout.readline()
        try:
            process.wait(timeout=rng.uniform(0.0, 0.12))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        else:
            assert process.returncode == 0
            break
        finally:
            process.stdout.close()
    assert kills >= 5
    run(tmp_path, resume=True)
    assert without_seconds(tmp_path) == uninterrupted


def test_seconds_add_up_over_resumed_runs(tmp_path):
    run(tmp_path, stop_after=13)
    run(tmp_path, resume=True)
    seconds = Ledger(tmp_path, IDENTITY, resume=True).seconds
    assert seconds == {"clean": 10 * 0.5, "pgd": 8 * 0.5, "lp": 6 * 0.5}


def test_another_evaluations_ledger_is_refused_by_what_differs(tmp_path):
    run(tmp_path, stop_after=3)
    before = (tmp_path / "ledger.csv").read_bytes()
    other = IDENTITY | {"eps": 0.2, "seed": 1}
    with pytest.raises(LedgerError, match=r"another evaluation: eps was 0.1, is 0.2; seed was"):
        Ledger(tmp_path, other, resume=True)
    with pytest.raises(LedgerError, match="unfinished evaluation; --resume goes on"):
        Ledger(tmp_path, other, resume=False)
    assert (tmp_path / "ledger.csv").read_bytes() == before


def test_a_finished_evaluation_is_begun_anew_without_resume(tmp_path, uninterrupted):
    run(tmp_path)
    made = run(tmp_path)
    assert len(made[0].seen) == 10
    made = run(tmp_path, resume=True)
    assert [stage.seen for stage in made] == [[], [], []]
    assert without_seconds(tmp_path) == uninterrupted


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,3,verified", "line 3: expected 10 fields, got 4"),
        ("1,2,3,proven,lp,,,0.1,,", "line 3: status: expected one of misclassified.* got 'proven'"),
        ("one,2,3,verified,lp,,,0.1,,", "line 3: index: expected an integer.* got 'one'"),
        (
            "-1,2,3,verified,lp,,,0.1,,",
            "line 3: index: expected an integer of at least 0, got '-1'",
        ),
        ("1,2,3,verified,lp,,,nan,,", "line 3: seconds: expected a number, got 'nan'"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    run(tmp_path, stop_after=2)
    path = tmp_path / "ledger.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(LedgerError, match=message):
        Ledger(tmp_path, IDENTITY, resume=True)


def test_a_ledger_without_its_owner_is_refused(tmp_path):
    run(tmp_path, stop_after=2)
    (tmp_path / "ledger.json").write_text('{"identity": {}')
    with pytest.raises(LedgerError, match=r"ledger\.json: damaged"):
        Ledger(tmp_path, IDENTITY, resume=True)
    (tmp_path / "ledger.json").unlink()
    with pytest.raises(LedgerError, match="whose ledger it is cannot be told"):
        Ledger(tmp_path, IDENTITY, resume=True)
    (tmp_path / "ledger.csv").write_bytes(b"\xff\xfe\n")
    (tmp_path / "ledger.json").write_text(
        '{"identity": {"eps": 0.1, "norm": "linf", "box": [0.0, 1.0]}, "seconds": {},'
        ' "finished": false}'
    )
    with pytest.raises(LedgerError, match="not text"):
        Ledger(tmp_path, IDENTITY, resume=True)


def test_rows_read_as_they_were_written():
    rows = [
        Row(3, 2, 2, Status.VERIFIED, "lp", 1.25e-7, 9, 0.5),
        Row(5, 1, 1, Status.FALSIFIED, "milp", None, 2, 0.5, "branch batched"),
        Row(4, 0, 0, Status.UNKNOWN, "clean", None, None, 0.0, reason="died, thrice"),
    ]
    assert [Row.parse(row.cells()) for row in rows] == rows
