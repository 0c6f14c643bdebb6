"""A whole evaluation is checked against its proofs: every claim of its ledger, and nothing else."""

import json

import numpy as np
import pytest

from eval import check, evidence
from eval.checker import claim, evaluation, runs
from tests import proof_cases

EPS = 0.1
HEADER = "index,label,predicted,status,stage,margin_lower,worst_target,seconds,search"


@pytest.fixture
def made(tmp_path):
    """An evaluation: three verified images, one falsified, one misclassified, one open."""
    folder = tmp_path / "proofs"
    folder.mkdir()
    operations, weights = proof_cases.dense(4)
    header, arrays = proof_cases.file(operations, weights, [], {})
    proof_cases.written(folder / "network.npz", header, arrays)
    lines = [HEADER]
    statuses = ["verified", "falsified", "misclassified", "unknown", "verified", "verified"]
    for index, status in enumerate(statuses):
        case = proof_cases.Case("dense", 4, EPS)
        case.text |= {"position": index, "stage": "crown"}
        if status in ("falsified", "misclassified"):
            # The label is the least of the logits, or one that a corner reaches.
            case.label = int(proof_cases.evaluate(case.nodes, case.x[None]).argmin())
            case.text |= {"label": case.label, "verdict": "falsified", "bounds": [], "margins": []}
            case.arrays["0/point"] = case.x
        if status == "unknown":
            case.text |= {"verdict": "open", "bounds": [], "margins": []}
        own = {key: value for key, value in case.file()[1].items() if "weight_" not in key}
        case_header = case.file()[0] | {"network": None}
        proof_cases.written(folder / f"{index:07d}.npz", case_header, own)
        lines.append(f"{index},{case.label},0,{status},crown,,,0.1,")
    (tmp_path / "ledger.csv").write_text("\n".join(lines) + "\n")
    sha256 = {"network": header["network_sha256"], "proofs": runs.folder_sha256(folder)}
    _results(tmp_path, sha256=sha256)
    return tmp_path


def _results(out, **change):
    path = out / "results.json"
    found = {"norm": "linf", "eps": EPS, "box": [0.0, 1.0]}
    if path.exists():
        found = json.loads(path.read_text())
    path.write_text(json.dumps(found | change))


def _altered(out, index, **change):
    """A proof with fields of its example changed; the hash of the files is forgotten."""
    path = out / "proofs" / f"{index:07d}.npz"
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(arrays.pop("header").tobytes())
    header["examples"][0] |= change
    proof_cases.written(path, header, arrays)
    _results(out, sha256={})


def test_a_run_is_accepted_as_a_whole(made, capsys):
    assert check.main([f"--run={made}", "--processes=1"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("accepted: real numbers, ")
    assert "3 verified, proofs accepted: 3" in out
    assert "2 falsified or misclassified, counterexamples replayed: 2 in float64, none" in out
    assert "1 open" in out
    assert "6/6 [0 s left, accepted=6, refused=0, without=0]" in err
    checked = json.loads((made / "checked.json").read_text())
    assert checked["holds"]
    assert checked["stages"]["crown"]["proofs"] == 6
    assert set(checked["hashes"]) == {"network", "data", "proofs"}


def test_processes_work_side_by_side(made, capsys):
    assert check.main([f"--run={made}", "--processes=2", "--float32"]) == 0
    assert "accepted: real numbers and float32" in capsys.readouterr().out


FIELDS = {
    "position": {"position": 5},
    "eps": {"eps": 0.05},
    "box": {"box": [0.1, 0.9]},
    "norm": {"norm": "l2"},
    "label": {"label": 1},
    "verdict": {"verdict": "open", "bounds": [], "margins": []},
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_proof_of_something_else_is_refused(made, capsys, field):
    """Each of these is a proof that holds, of what the ledger does not say."""
    change = FIELDS[field]
    if field == "label":
        with np.load(made / "proofs" / "0000000.npz") as file:
            label = json.loads(file["header"].tobytes())["examples"][0]["label"]
        change = {"label": (label + 1) % proof_cases.CLASSES}
    _altered(made, 0, **change)
    assert check.main([f"--run={made}", "--processes=1"]) == 1
    out = capsys.readouterr().out
    assert f"rejected: example 0: example 0: {field}: it is another one than the run's" in out
    assert "3 verified, proofs accepted: 2" in out
    assert not json.loads((made / "checked.json").read_text())["holds"]


def test_what_is_missing_or_too_much_is_told(made, capsys):
    (made / "proofs" / "0000004.npz").unlink()
    (made / "proofs" / "0000003.npz").unlink()
    _results(made, sha256={})
    assert check.main([f"--run={made}", "--processes=1"]) == 1
    out = capsys.readouterr().out
    assert "rejected: example 4: it is verified, and there is no proof of it" in out
    assert "example 3" not in out
    assert "not all images have files" in out
    (made / "proofs" / "0000017.npz").write_bytes(b"")
    assert check.main([f"--run={made}", "--processes=1"]) == 1
    assert "files: 0000017.npz is of no example of the run" in capsys.readouterr().out


def test_hashes_that_results_name_are_those_of_the_files(made, capsys):
    for name in ("network", "data", "proofs"):
        _results(made, sha256={name: "0" * 64})
        assert check.main([f"--run={made}", "--processes=1"]) == 1
        assert name in capsys.readouterr().out
    assert check.main([f"--run={made}", f"--network_sha256={'0' * 64}"]) == 1
    assert "another network's" in capsys.readouterr().out


def test_the_last_line_of_an_example_counts(made):
    path = made / "ledger.csv"
    path.write_text(path.read_text() + "3,0,0,misclassified,pgd,,,0.1,\n")
    assert evaluation.read(made).lines[3].status == "misclassified"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ledger.csv", "index,label\n", "line for each example"),
        ("ledger.csv", f"{HEADER}\n0,1,0,proven,lp,,,0,\n", "line 2: status: got 'proven'"),
        ("ledger.csv", f"{HEADER}\nx,1,0,verified,lp,,,0,\n", "line 2: invalid literal"),
        ("results.json", "[]", "expected an object"),
        ("results.json", "{", "not JSON"),
        ("results.json", '{"norm": "linf", "eps": "1", "box": null}', "expected norm, eps and box"),
        ("results.json", '{"norm": "linf", "eps": 1, "box": [1]}', "expected norm, eps and box"),
        ("results.json", '{"norm": "l1", "eps": 1, "box": null, "sha256": [1]}', "expected texts"),
    ],
)
def test_evaluations_that_are_none(made, name, content, message):
    (made / name).write_text(content)
    with pytest.raises(claim.UnreadableError, match=message):
        evaluation.read(made)


def test_commands_that_are_wrong(made, capsys):
    for arguments in ([], ["x.npz", f"--run={made}"], ["x.npz", "--proofs=y"], ["--processes=0"]):
        with pytest.raises(SystemExit) as leave:
            check.main(arguments)
        assert leave.value.code == 2
    assert check.main([f"--run={made / 'none'}"]) == 2
    assert "ledger.csv: cannot be read" in capsys.readouterr().err
    assert check.main([f"--run={made}", f"--proofs={made / 'none'}"]) == 2
    assert "there are no proofs" in capsys.readouterr().err


def test_hashes_of_data_and_folders_are_those_that_an_evaluation_writes(made):
    """Computed twice, by code that is not shared."""
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(size=(3, 4, 2)).astype(np.float32), np.array([1, 0, 2])
    own = [runs.image_sha256(x, y) for x, y in zip(images, labels.tolist(), strict=True)]
    whole = runs.hashlib.sha256("".join(own).encode()).hexdigest()
    assert evidence.data_sha256(images, labels) == whole
    assert evidence.folder_sha256(made / "proofs") == runs.folder_sha256(made / "proofs")


def test_counterexamples_are_asked_of_the_exported_network(made, capsys, monkeypatch):
    """One that it answers with the label is refused; where it cannot be asked, that is said."""
    asked = []

    def replayed(network, x, labels):
        asked.append((network, x.shape, labels.shape))
        return "runtime 1.0", np.array([True, False])

    monkeypatch.setattr(check.stored, "bind", lambda *_: (4, 4))
    monkeypatch.setattr(runs.exported, "replayed", replayed)
    assert check.main([f"--run={made}", "--processes=1", "--weights=net.onnx"]) == 1
    out = capsys.readouterr().out
    assert "rejected: example 2: net.onnx answers its counterexample with the label" in out
    assert "replayed: 2 in float64, 1 by net.onnx (runtime 1.0)" in out
    assert asked[0][1:] == ((2, 4), (2,))
    checked = json.loads((made / "checked.json").read_text())
    assert checked["exported"]["count"] == 1
    assert not checked["holds"]

    def none(*given):
        raise runs.exported.NotReplayedError("eval.replay: No module named 'tensorflow'")

    monkeypatch.setattr(runs.exported, "replayed", none)
    assert check.main([f"--run={made}", "--processes=1", "--weights=net.onnx"]) == 0
    out = capsys.readouterr().out
    assert "none by an exported network (eval.replay: No module named 'tensorflow')" in out
