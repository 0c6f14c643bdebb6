"""Evaluations of properties: the cascade, its ledger, resumption, results, page and refusals."""

import csv
import json

import keras
import numpy as np
import pytest

import robustra_tf as rt
from eval import main, property_run, questions, report, results
from robustra_tf.cli.stopping import Stopped
from tests import nets

EVERY = ["clean", "pgd", "ibp", "lp", "crown", "alpha", "milp"]


@pytest.fixture(scope="module")
def network():
    return nets.randomise(
        keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(6, activation="relu"),
                keras.layers.Dense(2),
            ]
        ),
        4,
    )


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    """Properties about one point: `f_0 <= v` in boxes of several sizes, `v` above the middle's."""
    home = tmp_path_factory.mktemp("properties")
    network.save(home / "net.keras")
    (home / "asked").mkdir()
    rng, x = np.random.default_rng(0), np.full((1, 3), 0.5)
    for number, (eps, share) in enumerate([(0.1, 2.0), (0.1, -0.1), (0.4, 0.5), (0.4, 0.97)]):
        low, high = np.clip(x - eps, 0, 1), np.clip(x + eps, 0, 1)
        values = network(rng.uniform(low, high, (4000, 3)).astype("float32")).numpy()[:, 0]
        middle = float(network(x.astype("float32"))[0, 0])
        value = middle + share * (values.max() - middle)
        asked = rt.Property(low, high, rt.unreachable(([[-1.0, 0.0]], [-value])))
        asked.to_vnnlib(home / "asked" / f"p{number}.vnnlib", 2)
    # Two boxes, of which one alone has unsafe outputs.
    ends = np.concatenate([x, x - 0.4]), np.concatenate([x, x + 0.4])
    both = rt.Property(*ends, rt.unreachable(([[-1, 0]], [-value])))
    both.to_vnnlib(home / "asked" / "q.vnnlib.gz", 2)
    return home


def given(folder, out, **options):
    asked = {"model_file": folder / "net.keras", "properties": folder / "asked", "out": out}
    return {name: str(value) for name, value in asked.items()} | options


def evaluate(folder, out, **options):
    asked = questions.resolve(given(folder, out, **options))
    return property_run.evaluate(property_run.prepare(asked))


def ledger(out):
    with (out / "ledger.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return evaluate(folder, out, stages=EVERY), out


def test_every_file_is_decided_by_the_first_stage_that_can(finished, folder, network):
    figures, out = finished
    rows = {row["name"]: row for row in ledger(out)}
    assert [row["status"] for row in rows.values()] == ["verified", *["falsified"] * 4]
    assert rows["p1.vnnlib"]["stage"] == "clean"
    assert rows["p2.vnnlib"]["stage"] == "pgd"
    # Few points of these are unsafe: the attack may miss them.
    assert {rows[name]["stage"] for name in ("p3.vnnlib", "q.vnnlib.gz")} <= {"pgd", "milp"}
    assert (figures["verified"], figures["falsified"], figures["undecided"]) == (1, 4, 0)
    (asked,) = rt.Property.from_vnnlib(folder / "asked" / "p0.vnnlib")
    stage = {"ibp": "interval", "lp": "dual", "crown": "crown"}[rows["p0.vnnlib"]["stage"]]
    proof = rt.certify(network, asked, method=stage)
    assert proof.verified.all()
    found = float(rows["p0.vnnlib"]["margin_lower"])
    assert found == pytest.approx(proof.worst_margin[0], rel=1e-5)


def test_a_counterexample_is_written_of_each_that_is_falsified(finished, folder, network):
    _, out = finished
    written = sorted(file.name for file in (out / "witnesses").iterdir())
    assert [name.split("_")[1] for name in written] == [
        *(f"p{k}.vnnlib.counterexample" for k in (1, 2, 3)),
        "q.vnnlib.gz.counterexample",
    ]
    for name in written:
        text = (out / "witnesses" / name).read_text().replace("(", "").replace(")", "")
        values = dict(line.split() for line in text.splitlines())
        point = np.array([[float(values[f"X_{i}"]) for i in range(3)]], np.float32)
        file = folder / "asked" / name.split("_")[1].removesuffix(".counterexample")
        (asked,) = rt.Property.from_vnnlib(file)
        one = [k for k in range(len(asked)) if (asked.lower[k] <= point).all()][-1]
        box = rt.Property(asked.lower[[one]], asked.upper[[one]], asked.output)
        assert rt.attacks.replay(network, box, point).success.all()


def test_complete_search_decides_what_bounds_leave(folder, tmp_path):
    found = evaluate(folder, tmp_path / "out", stages=["milp"])
    assert (found["verified"], found["falsified"]) == (1, 4)
    stages = {row["name"]: row["stage"] for row in ledger(tmp_path / "out")}
    assert stages == {n: "milp" if n != "p1.vnnlib" else "clean" for n in stages}


def test_an_evaluation_that_was_stopped_goes_on_to_the_same_ledger(finished, folder, tmp_path):
    class Once:
        def __init__(self):
            self.checked = 0

        def nothing_to_lose(self, text): ...

        def keeps(self, text): ...

        def check(self):
            self.checked += 1
            if self.checked == 7:
                raise Stopped

    out = tmp_path / "out"
    first = property_run.prepare(questions.resolve(given(folder, out, stages=EVERY)))
    with pytest.raises(Stopped):
        property_run.evaluate(first, Once())
    with pytest.raises(ValueError, match="--resume goes on with it"):
        property_run.prepare(questions.resolve(given(folder, out, stages=EVERY)))
    with pytest.raises(ValueError, match="seed was 0, is 1"):
        evaluate(folder, out, stages=EVERY, resume=True, seed=1)
    figures = evaluate(folder, out, stages=EVERY, resume=True)
    assert ledger(out) == ledger(finished[1])
    assert figures["falsified"] == finished[0]["falsified"]
    with pytest.raises(ValueError, match="a folder without results"):
        property_run.prepare(questions.resolve(given(folder, out)))


def test_the_page_and_the_results_name_every_file(finished):
    figures, out = finished
    assert results.read(out) == json.loads(json.dumps(figures))
    page = report.build(out).read_text()
    for name in ("p0.vnnlib", "q.vnnlib.gz", "falsified", "pgd"):
        assert name in page
    # What went wrong comes first.
    assert page.index("p1.vnnlib") < page.index("p0.vnnlib")


def test_sound_bounds_and_a_list_of_files(folder, tmp_path):
    (folder / "list.csv").write_text("net.onnx,asked/p0.vnnlib,60\n\nasked/p1.vnnlib\n")
    files = questions.listed(folder / "list.csv")
    assert list(files) == ["asked/p0.vnnlib", "asked/p1.vnnlib"]
    asked = {"properties": str(folder / "list.csv"), "stages": ["ibp", "lp"], "sound": True}
    found = evaluate(folder, tmp_path / "out", **asked)
    assert (found["verified"], found["falsified"], found["sound"]) == (1, 1, True)
    assert list(questions.listed(folder / "asked" / "p0.vnnlib")) == ["p0.vnnlib"]


WRONG = {
    "eps": ({"eps": 0.1}, "eps: expected none with --properties, which say it themselves, got 0.1"),
    "images": ({"dataset": "digits"}, "dataset: expected none with --properties"),
    "nowhere": (
        {"properties": "nowhere"},
        "--properties: nowhere: there is no such file",
    ),
    "another kind": ({"properties": "net.keras"}, "--properties: .*expected a file .vnnlib or"),
    "empty": ({"properties": "empty"}, r"--properties: .*expected files .* in it, got none"),
    "list": (
        {"properties": "bad.csv"},
        r"bad\.csv, line 1: expected one other property, got 'a",
    ),
    "list of none": ({"properties": "none.csv"}, "expected a property or more, got none"),
    "missing of list": ({"properties": "missing.csv"}, "line 1: .*: there is no such file"),
    "sound": ({"sound": True, "stages": ["crown"]}, "stages: expected no crown, alpha, milp with"),
    "out": ({"out": None}, "out: expected a directory for the results"),
    "damaged": ({"properties": "cut.vnnlib"}, r"--properties: .*cut\.vnnlib"),
    "shape": ({"properties": "wide.vnnlib"}, "--properties: shape must be of 4 numbers"),
    "outputs": ({"properties": "outputs.vnnlib"}, "outputs.vnnlib: polyhedra: expected 2 coeffic"),
}


@pytest.fixture(scope="module")
def wrong(folder):
    (folder / "empty").mkdir()
    (folder / "bad.csv").write_text("a,b\n")
    (folder / "none.csv").write_text("\n")
    (folder / "missing.csv").write_text("x.vnnlib\n")
    (folder / "cut.vnnlib").write_text("(declare-const X_0")
    wide = rt.Property(np.zeros((1, 4)), np.ones((1, 4)), rt.unreachable(([[1, 0]], [0])))
    wide.to_vnnlib(folder / "wide.vnnlib", 2)
    three = rt.Property(np.zeros((1, 3)), np.ones((1, 3)), rt.unreachable(([[1, 0, 0]], [0])))
    three.to_vnnlib(folder / "outputs.vnnlib", 3)
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_go_with_properties_is_one_line(name, wrong, tmp_path, monkeypatch):
    options, message = WRONG[name]
    monkeypatch.chdir(wrong)
    asked = {k: v for k, v in (given(wrong, tmp_path / "out") | options).items() if v is not None}
    with pytest.raises((ValueError, OSError), match=message) as raised:
        property_run.prepare(questions.resolve(asked))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_the_program_takes_properties(folder, tmp_path, capsys, monkeypatch):
    from absl import flags

    values = flags.FlagValues()
    monkeypatch.setattr(main, "FLAGS", values)
    main._define()
    words = given(folder, tmp_path / "out", stages="clean,pgd,lp")
    values(["eval.main", *(f"--{name}={value}" for name, value in words.items())])
    assert main.main([]) == 0
    printed = capsys.readouterr()
    assert "verified    20.00%       1 of 5" in printed.out
    assert "asked; starting TensorFlow" in printed.err
