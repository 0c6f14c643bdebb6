"""Merged parts are the evaluation of them all, and nothing else is merged."""

import json
import shutil
import subprocess
import sys

import pytest

from eval import ledger, merge, report, results, run, witnesses
from eval.ledger import LedgerError
from robustra_tf.cli.settings import SettingError
from tests.evaluations import digits_network, evaluate, resolve, rows, save

pytestmark = pytest.mark.usefixtures("without_pages")
OPTIONS = {"stages": ["clean", "pgd", "lp"], "attack_steps": 10, "eps_sweep": ["0.02"]}
RANGES = ((0, 25), (25, 7), (40, 20))


build_page = report.build


@pytest.fixture(scope="module")
def parts(saved, tmp_path_factory):
    """Finished evaluations of the ranges."""
    folder = tmp_path_factory.mktemp("parts")
    made = []
    for first, limit in RANGES:
        made.append(folder / f"from_{first}")
        evaluate(saved, made[-1], first=first, limit=limit, **OPTIONS)
    return made


@pytest.fixture(scope="module")
def whole(saved, tmp_path_factory):
    """The directory of an evaluation of the first 60 examples at once."""
    out = tmp_path_factory.mktemp("whole")
    evaluate(saved, out, limit=60, **OPTIONS)
    return out


def verdicts(directory, indices=None):
    names = ("label", "predicted", "status", "stage", "worst_target")
    return {
        int(row["index"]): tuple(row[name] for name in names)
        for row in rows(directory)
        if indices is None or int(row["index"]) in indices
    }


def test_parts_in_any_order_are_the_evaluation_of_all(parts, whole, tmp_path):
    figures = merge.merge(tmp_path / "out", [parts[2], parts[0], parts[1]])
    indices = [i for first, limit in RANGES for i in range(first, first + limit)]
    assert figures["n"] == len(indices) == 52
    assert list(verdicts(tmp_path / "out")) == indices
    assert verdicts(tmp_path / "out") == verdicts(whole, indices)
    expected = verdicts(whole / "sweep" / "eps_0.02", indices)
    assert verdicts(tmp_path / "out" / "sweep" / "eps_0.02") == expected
    wrong = sum(v[2] == "misclassified" for v in verdicts(whole, indices).values())
    assert figures["clean_error"] == wrong / 52
    assert figures["clean_error"] < figures["pgd_error"] < figures["lp_error"]
    assert results.read(tmp_path / "out") == json.loads(json.dumps(figures))
    own = [results.read(part) for part in parts]
    for stage, seconds in figures["seconds"].items():
        assert seconds == pytest.approx(sum(f["seconds"][stage] for f in own), abs=2e-3)
    for name in ("model", "source", "eps", "norm", "dataset", "weights_sha256", "first"):
        assert figures[name] == own[0][name]
    # The witnesses of the lowest indices, of all the parts.
    stored = ledger.read(tmp_path / "out")
    kept = witnesses.read(tmp_path / "out", stored.identity)
    falsified = [i for i, row in stored.rows.items() if row.status == "falsified"]
    assert [w.index for w in kept] == falsified[: witnesses.MOST]
    assert len({w.index for w in kept} - set(range(25))) > 0


def test_merging_in_two_steps_is_merging_at_once(parts, tmp_path):
    at_once = merge.merge(tmp_path / "at_once", parts)
    merge.merge(tmp_path / "two", parts[1:])
    in_two = merge.merge(tmp_path / "out", [tmp_path / "two", parts[0]])
    for figures in (at_once, in_two):
        figures.pop("date")
    assert in_two == at_once
    assert ledger.read(tmp_path / "out") == ledger.read(tmp_path / "at_once")


def test_its_report_shows_the_images_of_all_parts(parts, tmp_path):
    merge.merge(tmp_path / "out", parts)
    page = build_page(tmp_path / "out").read_text()
    assert "Only adversarial examples are shown" not in page
    for name in ("verified", "falsified", "stages", "sweep"):
        assert (tmp_path / "out" / "figures" / f"{name}.png").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0.05}, "eps 0.04 there, 0.05 here"),
        ({"norm": "l2"}, "norm 'linf' there, 'l2' here"),
        ({"seed": 7}, "seed 0 there, 7 here"),
        ({"stages": ["clean"]}, r"stages \['clean', 'pgd', 'lp'\] there, \['clean'\] here"),
        ({"split": "train"}, "split 'test' there, 'train' here; split_sha256 '[0-9a-f]{64}' there"),
        ({"eps_sweep": []}, r"eps_sweep \[0.02\] there, \[\] here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_parts_of_another_evaluation_are_named_by_what_differs(
    parts, saved, tmp_path, change, message
):
    evaluate(saved, tmp_path / "b", **(OPTIONS | {"first": 100, "limit": 3} | change))
    with pytest.raises(LedgerError, match=rf"b: of another evaluation than .*from_0: .*{message}"):
        merge.merge(tmp_path / "out", [parts[0], tmp_path / "b"])
    assert not (tmp_path / "out").exists()


def test_parts_of_other_weights_are_refused(parts, tmp_path):
    other = save(digits_network(seed=1), tmp_path / "g")
    evaluate(other, tmp_path / "b", first=100, limit=3, **OPTIONS)
    with pytest.raises(
        LedgerError, match=r"evaluation than .*: weights_sha256 '[0-9a-f]{64}' there"
    ):
        merge.merge(tmp_path / "out", [parts[0], tmp_path / "b"])


def test_overlapping_examples_are_named(parts, saved, tmp_path):
    evaluate(saved, tmp_path / "b", first=22, limit=4, **OPTIONS)
    message = r"b: examples 22-24 are in .*from_0 too"
    with pytest.raises(LedgerError, match=message):
        merge.merge(tmp_path / "out", [parts[0], parts[2], tmp_path / "b"])
    with pytest.raises(LedgerError, match=r"from_0: examples 0-24 are in .*from_0 too"):
        merge.merge(tmp_path / "out", [parts[0], parts[0]])
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_merged_is_named(parts, tmp_path):
    with pytest.raises(LedgerError, match=r"nowhere.*there is no ledger"):
        merge.merge(tmp_path / "out", [parts[0], tmp_path / "nowhere"])
    with pytest.raises(LedgerError, match="another directory than the parts'"):
        merge.merge(parts[0], parts)
    with pytest.raises(LedgerError, match="got none"):
        merge.merge(tmp_path / "out", [])
    copy = shutil.copytree(parts[1], tmp_path / "copy")
    about = json.loads((copy / "ledger.json").read_text())
    (copy / "ledger.json").write_text(json.dumps(about | {"finished": False}))
    with pytest.raises(
        LedgerError, match=r"copy: the evaluation is not finished; eval\.main --resume"
    ):
        merge.merge(tmp_path / "out", [parts[0], copy])
    assert not (tmp_path / "out").exists()


def test_an_unfinished_evaluation_is_not_merged_over(parts, saved, tmp_path):
    run.prepare(resolve(saved, tmp_path / "out", **OPTIONS)).ledger.close()
    before = (tmp_path / "out" / "ledger.json").read_bytes()
    with pytest.raises(LedgerError, match="unfinished evaluation"):
        merge.merge(tmp_path / "out", parts)
    assert (tmp_path / "out" / "ledger.json").read_bytes() == before


def test_results_are_not_merged_over_without_a_word(parts, tmp_path):
    merge.merge(tmp_path / "out", parts[:2])
    with pytest.raises(SettingError, match=r"--out: .*features on 32 test .*--overwrite"):
        merge.merge(tmp_path / "out", parts)
    assert results.read(tmp_path / "out")["n"] == 32
    assert merge.merge(tmp_path / "out", parts[:1], overwrite=True)["n"] == 25
    assert len(rows(tmp_path / "out")) == 25


def test_a_range_is_part_of_what_a_resumed_evaluation_must_agree_in(parts, saved, tmp_path):
    copy = shutil.copytree(parts[1], tmp_path / "copy")
    with pytest.raises(
        LedgerError, match=r"another evaluation: .*first was 25, is 26; limit was 7"
    ):
        run.prepare(resolve(saved, copy, first=26, limit=6, resume=True, **OPTIONS))
    merge.merge(tmp_path / "out", parts)
    with pytest.raises(LedgerError, match=r"another evaluation: .*parts was"):
        run.prepare(resolve(saved, tmp_path / "out", resume=True, **OPTIONS))


def test_a_range_keeps_the_positions_of_the_split(parts):
    assert [int(row["index"]) for row in rows(parts[1])] == list(range(25, 32))
    assert results.read(parts[1])["first"] == 25


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"first": -1}, "--first: expected at least 0 and at most 359, got -1"),
        ({"first": 360}, "--first: expected at least 0 and at most 359, got 360"),
        ({"first": 300, "limit": 61}, "--limit: expected at least 1 and at most 60, got 61"),
    ],
)
def test_a_range_outside_the_split_is_named(saved, tmp_path, given, message):
    with pytest.raises(SettingError, match=message):
        resolve(saved, tmp_path / "out", **given)


def test_the_command_refuses_in_one_line(parts, tmp_path):
    command = [sys.executable, "-m", "eval.merge", f"--out={tmp_path / 'out'}"]
    done = subprocess.run(
        [*command, str(parts[0]), str(parts[0])],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("eval.merge: ")
    assert "examples 0-24 are in" in line


def test_indices_are_told_as_ranges():
    assert results.ranges([9, 3, 4, 5, 11, 12]) == "3-5, 9, 11-12"
