"""Answers as VNN-COMP wants them: words, counterexamples, lists and tables."""

import numpy as np
import pytest

import robustra_tf as rt
from robustra_tf.vnncomp import instances, tables
from robustra_tf.vnncomp.answers import Counterexample, Replay, Word
from robustra_tf.vnncomp.networks import Network
from tests import vnncomp_files

LOWER, UPPER = np.array([0.6, 0.1]), np.array([0.9, 0.3])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return vnncomp_files.benchmark(tmp_path_factory.mktemp("vnncomp") / "tiny").parent


@pytest.fixture(scope="module")
def network(folder):
    return Network(folder / "net.onnx")


@pytest.mark.parametrize(
    ("name", "word"),
    [("unsat", "unsat"), ("sat", "sat"), ("joint", "unsat"), ("one of two", "sat")],
)
def test_properties_are_decided(folder, network, name, word):
    answer = network.answer(folder / f"{name}.vnnlib", 30)
    assert answer.word == word, answer.reason
    assert (answer.counterexample is not None) == (word == "sat")
    if word == "sat":
        unsafe = {
            "sat": lambda y: y[0] >= 1.15,
            "one of two": lambda y: y[0] >= 1.25 or (y[1] >= 0.75 and y[0] <= 1.05),
        }[name]
        text = answer.counterexample.text
        assert vnncomp_files.judged(folder / "net.onnx", LOWER, UPPER, unsafe, text)


def test_want_of_time_is_timeout_whatever_was_found(folder, network):
    for name in ("unsat", "sat"):
        answer = network.answer(folder / f"{name}.vnnlib", 1e-3)
        assert answer.word is Word.TIMEOUT
        assert answer.reason
        assert answer.counterexample is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (vnncomp_files.HEAD + "(assert (>= X_0 0))(assert (>= Y_0 9))", "no lower bound"),
        (vnncomp_files.BOX + "(assert (>= X_0 1))(assert (>= Y_0 9))", "some input to satisfy"),
        (vnncomp_files.BOX, "conditions on outputs"),
        (vnncomp_files.BOX.replace("(declare-const Y_1 Real)", "") + "(assert (>= Y_0 9))", "2 co"),
        (vnncomp_files.BOX + "(declare-const X_2 Real)(assert (>= Y_0 9))", "X_2 has no lower"),
    ],
)
def test_what_is_no_question_is_refused(network, tmp_path, text, words):
    path = tmp_path / "odd.vnnlib"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        network.answer(path, 30)


def replay(lower, upper, outputs):
    given = rt.Property([lower], [upper], rt.above(0, 0.5))  # unsafe is at most 0.5
    return Replay(lambda x: np.array(outputs, np.float32), [given])


@pytest.mark.parametrize(
    ("ends", "point", "outputs", "taken"),
    [
        ((0.0, 1.0), 0.5, [0.4], True),
        ((0.0, 1.0), 0.5, [0.5], True),  # a tie is unsafe
        ((0.0, 1.0), 0.5, [0.50000006], False),  # no tolerance on outputs
        ((0.0, 1.0), 0.5, [np.nan], False),
        ((0.0, 1.0), 1.0000001, [0.4], False),  # another float32 than those of the box
        ((0.1, 0.1), np.float32(0.1), [0.4], True),  # which float32 rounds
        ((0.1, 0.1), np.nextafter(np.float32(0.1), np.float32(1)), [0.4], False),
        ((30000.001, 30000.001), np.float32(30000.001), [0.4], False),  # rounded by 1e-3
        ((0.0, 1.0), np.nan, [0.4], False),
    ],
)
def test_counterexamples_are_those_that_the_scoring_takes(ends, point, outputs, taken):
    judge = replay(*([end] for end in ends), outputs)
    assert judge(np.array([point], np.float32)) is taken
    assert (judge.found is not None) is taken
    if taken:
        assert ends[0] <= judge.found.inputs[0] <= ends[1]
        assert np.float32(judge.found.inputs[0]) == np.float32(point)


def test_a_witness_is_written_as_the_scoring_reads_it():
    found = Counterexample(np.array([0.1, -0.0, 1e-9]), np.array([0.1], np.float32))
    assert found.text == "((X_0 0.1)\n(X_1 0.0)\n(X_2 1e-09)\n(Y_0 0.10000000149011612))\n"
    x, y = vnncomp_files.read_witness(found.text)
    np.testing.assert_array_equal(x, found.inputs)
    np.testing.assert_array_equal(y.astype(np.float32), found.outputs)


def test_lists_are_read_and_found(tmp_path):
    path = tmp_path / "instances.csv"
    path.write_bytes(b"a.onnx,b.vnnlib,30\r\n\r\n  \t\r\n a.onnx , c.vnnlib,1.5\r\n,,\r\n")
    found = instances.read(path)
    assert found == [("a.onnx", "b.vnnlib", 30), ("a.onnx", "c.vnnlib", 1.5)]
    instances.write(path, found)
    assert instances.read(path) == found
    for text, words in (
        ("a,b\n", "line 1: expected a network"),
        ("a,b,1\na,b,soon\n", "line 2"),
        ("a,b,0\n", "seconds above 0"),
        ("a,b,inf\n", "seconds above 0"),
        (",b,1\n", "expected a network"),
        ("\n", "an instance or more"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            instances.read(path)
    (tmp_path / "b.vnnlib.gz").touch()
    assert instances.located(tmp_path, "b.vnnlib").name == "b.vnnlib.gz"
    assert instances.located(tmp_path, str(tmp_path / "b.vnnlib")).name == "b.vnnlib.gz"
    (tmp_path / "c.vnnlib").touch()
    assert instances.located(tmp_path, "c.vnnlib.gz").name == "c.vnnlib"
    with pytest.raises(ValueError, match="no such file"):
        instances.located(tmp_path, "a.onnx")


def lines(form, names, words):
    return "".join(form.format(name, word) for name, word in zip(names, words, strict=True))


OURS = "benchmark,onnx,vnnlib,timeout,verdict,seconds\n" + lines(
    "b,onnx/{}.onnx,p.vnnlib,60,{},1.5\n",
    "abcdef",
    ("sat", "unsat", "unknown", "timeout", "sat", "sat"),
)
RESULTS = lines(
    "2022_b,./x/{}.onnx.gz,./x/p.vnnlib.gz,0.1,{},2\n",
    "abcdeg",
    ("unsat", "holds", "violated", "error_exit_code_1", "timeout", "sat"),
)


def test_tables_are_compared_by_the_names_of_files(tmp_path):
    for name, text in (("ours.csv", OURS), ("results.csv", RESULTS)):
        (tmp_path / name).write_text(text)
    ours, other = (tables.read(tmp_path / name).results for name in ("ours.csv", "results.csv"))
    found = tables.compare(ours, other)
    names = [[key.network for key in keys] for keys in found]
    assert names == [["a"], ["b"], ["e"], ["c"], ["d"], ["f"], ["g"]]
    assert tables.spent(ours.values()) == [1.5] * 4


def test_a_table_may_have_one_tools_own_beside(tmp_path):
    path = tmp_path / "verdicts.csv"
    head = "benchmark,onnx,vnnlib,timeout,verdict,abcrown_verdict,abcrown_seconds\n"
    path.write_text(head + "b,a.onnx,p.vnnlib,60,open,timeout,60\nb,b.onnx,p.vnnlib,60,sat,,\n")
    found = tables.read(path)
    a, b = tables.Key("a", "p"), tables.Key("b", "p")
    assert (found.results[a].word, found.results[b].word) == (Word.UNKNOWN, Word.SAT)
    assert found.peer == {a: (Word.TIMEOUT, 60.0)}


def test_an_instance_that_is_listed_twice_is_what_decides_it(tmp_path):
    path = tmp_path / "verdicts.csv"
    line = OURS.splitlines()[1]
    for others in ((), ("timeout",), ("unknown", "timeout")):
        words = [*others, "sat", *others]
        text = "\n".join([OURS.splitlines()[0], *(line.replace(",sat,", f",{w},") for w in words)])
        path.write_text(text)
        ((_, found),) = tables.read(path).results.items()
        assert found.word is Word.SAT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected results"),
        (OURS.splitlines()[0], "expected results"),
        (OURS.replace(",unsat,", ",perhaps,"), "line 3: expected one of unsat, sat, unknown"),
        (OURS.replace(",unsat,1.5", ",unsat"), "line 3: expected 6 columns"),
        (OURS.replace(",unsat,1.5", ",unsat,-1"), "line 3: expected seconds"),
        (OURS.replace("/b.onnx", "/a.onnx"), "line 3: a p: sat above, unsat here"),
        ("onnx,verdict\na,sat\n", "line 1: expected 6 columns"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, words):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        tables.read(path)
