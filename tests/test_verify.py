"""The commands about networks in ONNX: one question, benchmarks, other tools' words and tables."""

import csv
import re

import numpy as np
import pytest

from eval import cross_check, export_benchmark, ledger, pools, supports, verify, workers
from eval.answered import Answered
from eval.standing import Standing
from robustra_tf.cli.stopping import Exit
from robustra_tf.vnncomp import tables
from robustra_tf.vnncomp.answers import Word
from robustra_tf.vnncomp.networks import Network
from tests import evaluations, vnncomp_files

SECOND = """(vnnlib-version <2.0>)
(declare-network N (declare-input X {} [1, 2]) (declare-output Y float32 [1, 2]))
(assert (and (>= X[0,0] 0.6) (<= X[0,0] 0.9) (>= X[0,1] 0.1) (<= X[0,1] 0.3)))
(assert (>= Y[0,0] {}))
"""


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """The list of a tiny benchmark."""
    return vnncomp_files.benchmark(tmp_path_factory.mktemp("verify") / "tiny")


def run(listed, out, *flags):
    return verify.main([f"--instances={listed}", f"--out={out}", *flags])


@pytest.fixture(scope="module")
def finished(listed, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    assert run(listed, out) == Exit.DONE
    return out


def verdicts(out):
    with (out / "verdicts.csv").open() as file:
        return {
            row["vnnlib"].removesuffix(".vnnlib"): row["verdict"] for row in csv.DictReader(file)
        }


def test_one_question_has_one_word(listed, tmp_path, capsys):
    home, witness = listed.parent, tmp_path / "w.txt"
    files = [str(home / "net.onnx"), str(home / "unsat.vnnlib")]
    assert verify.main([*files, "--timeout=30", f"--witness={witness}"]) == Exit.DONE
    assert capsys.readouterr().out == "unsat\n"
    assert not witness.exists()
    files[1] = str(home / "sat.vnnlib")
    assert verify.main([*files, "--timeout=30", f"--witness={witness}"]) == Exit.DONE
    assert capsys.readouterr().out == "sat\n"
    ends = np.array([0.6, 0.1]), np.array([0.9, 0.3])
    assert vnncomp_files.judged(files[0], *ends, lambda y: y[0] >= 1.15, witness.read_text())
    assert verify.main([*files, "--timeout=0.001"]) == Exit.DONE
    assert capsys.readouterr().out == "timeout\n"


def test_an_answer_whose_witness_cannot_be_kept_is_told(listed, tmp_path, capsys, monkeypatch):
    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(verify, "write_atomically", full)
    files = [str(listed.parent / "net.onnx.gz"), str(listed.parent / "sat.vnnlib")]
    assert verify.main([*files, f"--witness={tmp_path / 'w'}"]) == Exit.FAILED
    told = capsys.readouterr()
    assert told.out == "sat\n"
    assert "no space left" in told.err


def test_a_contradiction_is_not_hidden_by_another_line_of_the_same_instance():
    key = tables.Key("net", "p")
    agreed = tables.Table({key: tables.Result(Word.UNSAT, 1.0)}, {})
    rows = [
        Answered(i, "net.onnx", "p.vnnlib", 9.0, word, 1.0, "")
        for i, word in enumerate((Word.TIMEOUT, Word.SAT, Word.TIMEOUT, Word.UNSAT))
    ]
    found = Standing.of("b", rows[:3], agreed)
    assert found.wrong == [rows[1]]
    assert found.comparison.contradictions == [key]
    assert Standing.of("b", rows[2:], agreed).wrong == []
    assert Standing.of("b", rows, agreed).wrong == [rows[1]]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["{net}", "{query}", "--witness={home}"], "--witness: expected a file, not a folder"),
        (
            ["{net}", "{query}", "--witness={home}/no/w"],
            "--witness: expected a file whose folder is",
        ),
        (["{net}", "{query}", "--witness={net}/w"], "net.onnx is none)"),
        (["{net}"], "--files: expected NET.onnx PROP.vnnlib"),
        (["{net}", "{query}", "--out=o"], "--out: expected --instances with it"),
        (["{net}", "{query}", "--timeout=0"], "--timeout: expected above 0"),
        (["{net}", "nowhere.vnnlib"], "nowhere.vnnlib"),
        (["{query}", "{query}"], "no ONNX"),
        (["{query}", "--network=N"], "--network: expected NAME=NET.onnx"),
        (["{query}", "--network=N={net}"], "expected version <2.0>"),
        (["{query}", "--network=N={net}", "--network=M={net}"], "--network: expected one network"),
        (["--instances={listed}"], "--out: expected a folder"),
        (["--instances={listed}", "--out={out}", "{net}"], "none of files beside it"),
        (["--instances={home}", "--out={out}"], "--instances: expected a folder of folders"),
        (["--instances={listed}", "--out={out}", "--resume", "--overwrite"], "one of --resume"),
        (["--instances={query}", "--out={out}"], "line 1: expected a network"),
    ],
)
def test_what_cannot_be_run_is_one_line(listed, tmp_path, capsys, flags, words):
    home = listed.parent
    names = {"net": home / "net.onnx", "query": home / "sat.vnnlib", "listed": listed, "home": home}
    names["out"] = tmp_path / "out"
    try:
        code = verify.main([flag.format(**names) for flag in flags])
    except SystemExit as end:
        code = end.code
    assert code == Exit.BAD_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()


def test_a_benchmark_is_answered_and_kept(finished, listed):
    assert verdicts(finished) == {
        "unsat": "unsat",
        "sat": "sat",
        "joint": "unsat",
        "one of two": "sat",
    }
    kept = sorted(path.name for path in (finished / "witnesses").iterdir())
    assert kept == ["net_one of two.counterexample", "net_sat.counterexample"]
    stored = ledger.read(finished, Answered)
    assert stored.finished
    assert [stored.rows[i].query for i in range(4)] == [
        f"{n}.vnnlib" for n in vnncomp_files.QUERIES
    ]
    page = (finished / "report.html").read_text()
    assert "4 decided" in page
    assert "joint.vnnlib" in page


def test_finished_work_is_kept_and_gone_on_with(finished, listed, capsys):
    assert run(listed, finished) == Exit.BAD_USAGE
    assert "--out: expected a folder without verdicts" in capsys.readouterr().err
    before = (finished / "ledger.csv").read_bytes()
    (finished / "verdicts.csv").unlink()
    assert run(listed, finished, "--resume", "--timeout=30") == Exit.DONE
    assert (finished / "ledger.csv").read_bytes() == before
    assert verdicts(finished)["joint"] == "unsat"
    assert run(listed, finished, "--resume", "--timeout=5") == Exit.BAD_USAGE
    assert "another evaluation" in capsys.readouterr().err


def test_an_interrupted_run_answers_only_what_is_left(finished, listed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    stored = ledger.read(finished, Answered)
    begun = ledger.Ledger(out, stored.identity, False, Answered)
    begun.record([stored.rows[0], stored.rows[1]], "verify", 1.0)
    begun.close()
    asked = []
    answer = Network.answer
    monkeypatch.setattr(
        Network, "answer", lambda *args: asked.append(args[1].stem) or answer(*args)
    )
    assert run(listed, out, "--resume") == Exit.DONE
    assert asked == ["joint", "one of two"]
    assert verdicts(out) == verdicts(finished)


def test_a_contradiction_has_its_own_code(finished, listed, tmp_path, capsys):
    agreed = tmp_path / "agreed.csv"
    head = "benchmark,onnx,vnnlib,verdict,abcrown_verdict,abcrown_seconds\n"
    lines = ["tiny,net.onnx,sat.vnnlib,sat,sat,3\n", "tiny,net.onnx,joint.vnnlib,unsat,timeout,9\n"]
    agreed.write_text(head + "".join(lines))
    flags = ("--resume", f"--expected={agreed}")
    assert run(listed, finished, *flags) == Exit.DONE
    shown = capsys.readouterr().out.splitlines()[-2:]
    table = dict(zip(*(line.replace(" s ", "-s ").split() for line in shown), strict=False))
    assert (table["benchmark"], table["agreed"], table["wrong"]) == ("tiny", "2", "0")
    assert table["abCROWN"] == "1"
    agreed.write_text(head + lines[0].replace("sat,sat,3", "unsat,unsat,3") + lines[1])
    assert run(listed, finished, *flags) == Exit.CONTRADICTED
    told = capsys.readouterr()
    assert "CONTRADICTION: tiny net.onnx sat.vnnlib: sat here, unsat agreed" in told.out
    assert "CONTRADICTION" in told.err
    assert "Contradictions" in (finished / "report.html").read_text()
    agreed.write_text(head + "tiny,other.onnx,sat.vnnlib,sat,,\n")
    assert run(listed, finished, *flags) == Exit.BAD_USAGE
    assert "--expected: expected verdicts of instances of tiny" in capsys.readouterr().err


def test_a_file_that_is_refused_is_unknown(listed, tmp_path):
    home = tmp_path / "odd"
    vnncomp_files.benchmark(home)
    (home / "joint.vnnlib").write_text(vnncomp_files.HEAD + "(assert (>= Y_0 9))")
    (home / "other.onnx").write_bytes(b"nothing")
    text = "net.onnx,joint.vnnlib,20\nother.onnx,sat.vnnlib,20\nnet.onnx,sat.vnnlib,20\n"
    (home / "instances.csv").write_text(text)
    assert run(home / "instances.csv", tmp_path / "out") == Exit.DONE
    rows = ledger.read(tmp_path / "out", Answered).rows
    assert [rows[i].status for i in range(3)] == ["unknown", "unknown", "sat"]
    assert "no lower bound" in rows[0].reason
    assert "no ONNX" in rows[1].reason


def test_folders_of_benchmarks_have_a_table_together(
    finished, listed, tmp_path, capsys, monkeypatch
):
    for name in ("one", "two"):
        vnncomp_files.benchmark(tmp_path / name)
        (tmp_path / name / "instances.csv").write_text("net.onnx,sat.vnnlib,20\n")
    out = tmp_path / "out"
    assert run(tmp_path, out) == Exit.DONE
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()[-2:]] == [
        ["one", "1", "0"],
        ["two", "1", "0"],
    ]
    assert verdicts(out / "two") == {"sat": "sat"}


def test_workers_answer_in_the_same_way(listed, tmp_path, monkeypatch):
    """The pool itself is tested with evaluations; here it is what it is asked for."""
    handed, asked = [], []

    class AtOnce:
        def __init__(self, workers):
            asked.append(workers)

        def share_out(self, jobs, orders, work, arguments):
            assert orders.begin == (verify.benchmark.imported, ())
            for job in jobs:
                assert orders.limit(job) > job.seconds
                handed.append(job.index)
                yield job, workers.Result(work(*arguments(job)))

    monkeypatch.setattr(pools, "Processes", AtOnce)
    assert run(listed, tmp_path / "out", "--workers=2") == Exit.DONE
    assert handed == [0, 1, 2, 3]
    assert asked == [2]

    class Late(AtOnce):
        def share_out(self, *given):
            errors = {1: workers.OverrunError, 3: workers.LostError}
            for job, result in super().share_out(*given):
                error = errors.get(job.index)
                yield job, result if error is None else workers.Result(None, error, "ended")

    monkeypatch.setattr(pools, "Processes", Late)
    assert run(listed, tmp_path / "late", "--workers=2") == Exit.DONE
    assert verdicts(tmp_path / "late") == {
        "unsat": "unsat",
        "sat": "timeout",
        "joint": "unsat",
        "one of two": "unknown",
    }

    class Dies(AtOnce):
        def share_out(self, *given):
            raise workers.StageError("a worker died")
            yield

    monkeypatch.setattr(pools, "Processes", Dies)
    assert run(listed, tmp_path / "two", "--workers=2") == Exit.FAILED


def test_a_worker_with_other_files_refuses_them_by_name(listed, tmp_path):
    place = verify.benchmark.prepare(listed, tmp_path).questions[0]
    network, known, query, asked, seconds = verify.benchmark._asked(place)
    for files, words in (
        ((network, "0" * 64, query, asked), f"{network}: expected the sha256 0000"),
        ((network, known, query, "0" * 64), f"{query}: expected the sha256 0000"),
        ((network.with_name("no.onnx"), known, query, asked), "no.onnx: cannot be read"),
    ):
        with pytest.raises(workers.RefusedError, match=re.escape(words)):
            verify.benchmark._checked(*files, seconds)


def test_the_standards_form_has_its_own_words(listed, tmp_path, capsys):
    net, path = listed.parent / "net.onnx", tmp_path / "q.vnnlib"
    flags = [str(path), "--network", f"N={net}", "--timeout"]
    path.write_text(SECOND.format("float32", 1.15))
    assert verify.main([*flags, "30"]) == Exit.DONE
    word, *lines = capsys.readouterr().out.splitlines()
    assert word == "sat"
    assert lines[0] == "X float32 [1,2]"
    assert lines[3] == "Y float32 [1,2]"
    x, y = (np.array([*map(float, part)]) for part in (lines[1:3], lines[4:]))
    assert (x >= [0.6, 0.1]).all()
    assert (x <= [0.9, 0.3]).all()
    np.testing.assert_allclose(y, [x.sum(), x[0] - x[1]], rtol=1e-6)
    assert y[0] >= 1.15
    assert verify.main([*flags, "0.001"]) == Exit.DONE
    assert capsys.readouterr().out == "timed-out\n"
    path.write_text(SECOND.format("real", 1.25))
    assert verify.main([*flags, "30"]) == Exit.DONE
    assert capsys.readouterr().out == "unsat\n"
    path.write_text(SECOND.format("float64", 1.25))
    assert verify.main([*flags, "30"]) == Exit.BAD_USAGE
    assert "expected 'X' of float32 or real" in capsys.readouterr().err
    assert verify.main([str(path), f"--network=M={net}"]) == Exit.BAD_USAGE
    assert "--network: expected N=NET.onnx" in capsys.readouterr().err


def test_capabilities_are_told_one_a_line(capsys):
    for name in supports.CAPABILITIES:
        assert supports.main([name]) == Exit.DONE
        out = capsys.readouterr().out
        assert out.endswith("\n")
        if name == "--onnx-operators":
            assert {"Gemm", "Conv", "Relu"} <= {*out.splitlines()}
        if name.endswith("versions"):
            low, high = (tuple(map(int, line.split("."))) for line in out.splitlines())
            assert low <= high
    assert supports.main(["--help"]) == Exit.DONE
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    assert supports.main(["--onnx"]) == Exit.BAD_USAGE


def test_tables_are_cross_checked(finished, tmp_path, capsys):
    other = tmp_path / "results.csv"
    other.write_text(
        "x,net.onnx,sat.vnnlib,0,unsat,1\nx,net.onnx,unsat.vnnlib,0,unsat,1\n"
        "x,net.onnx,joint.vnnlib,0,timeout,1\nx,far.onnx,joint.vnnlib,0,sat,1\n"
    )
    ours = str(finished / "verdicts.csv")
    assert cross_check.main([ours, str(other)]) == Exit.CONTRADICTED
    assert capsys.readouterr().out.splitlines() == [
        "CONTRADICTION: net sat: sat, unsat",
        "decided by the first alone: net joint: unsat, timeout",
        "1 contradictions, 1 agreed, 1 decided by the first alone, 0 by the second alone, 0 by "
        "none",
        "1 instances in the first alone",
        "1 instances in the second alone",
    ]
    assert cross_check.main([ours, ours]) == Exit.DONE
    assert cross_check.main([ours, "nowhere.csv"]) == Exit.BAD_USAGE


def test_an_evaluation_becomes_a_benchmark(tmp_path, capsys):
    network = evaluations.digits_network()
    saved = evaluations.save(network, tmp_path / "f")
    stages = ["clean", "pgd", "milp"]
    options = {"stages": stages, "limit": 6, "first": 41, "eps": 0.03, "attack_steps": 3}
    evaluations.evaluate(saved, tmp_path / "run", **options)
    flags = [f"--run={tmp_path / 'run'}", f"--out={tmp_path / 'exported'}"]
    assert export_benchmark.main(flags) == Exit.DONE
    assert "6 instances" in capsys.readouterr().out
    ours = tables.read(tmp_path / "exported" / "verdicts.csv").results
    statuses = [row["status"] for row in evaluations.rows(tmp_path / "run")]
    words = {"verified": "unsat", "falsified": "sat", "misclassified": "sat", "unknown": "unknown"}
    assert [each.word for each in ours.values()] == [words[status] for status in statuses]
    assert len({each.word for each in ours.values()}) > 1
    # Answered anew, from the files alone.
    assert run(tmp_path / "exported" / "instances.csv", tmp_path / "again") == Exit.DONE
    again = tables.read(tmp_path / "again" / "verdicts.csv").results
    assert {key: each.word for key, each in again.items()} == {k: e.word for k, e in ours.items()}
    with pytest.raises(SystemExit):
        export_benchmark.main(flags)
    assert "--out: expected a new or empty folder" in capsys.readouterr().err
