"""The page of an evaluation: whole by itself, true to what was found."""

import base64
import html.parser
import json
import re
import shutil
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from eval import curves, ledger, published, report, results, sweep
from robustra_tf.cli import plots
from tests.evaluations import (
    COUNT,
    HISTORY,
    RADIUS,
    digits_network,
    evaluate,
    rows,
    save,
    write_run,
)

VOID = {"meta", "img", "br", "link", "hr", "input", "source"}


@pytest.fixture(scope="module")
def network():
    return digits_network()


@pytest.fixture(scope="module")
def finished(network, tmp_path_factory):
    """The directory of an evaluation with a sweep, of a network that lies in its run's folder."""
    saved = save(network, write_run(tmp_path_factory.mktemp("runs") / "run") / "f")
    out = tmp_path_factory.mktemp("finished")
    options = {"stages": ["clean", "pgd", "lp"], "attack_steps": 10, "eps_sweep": ["0.02", "0.06"]}
    evaluate(saved, out, **options)
    return out


@pytest.fixture
def copy(finished, tmp_path, monkeypatch):
    """A copy of it to change, whose new figures are not drawn: they take a second a page."""
    monkeypatch.setattr(Figure, "savefig", lambda self, file, format: file.write(b"\x89PNG"))
    return shutil.copytree(finished, tmp_path / "copy")


class Page(html.parser.HTMLParser):
    """A page's tags, checked to close in order, its images, tables and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.images, self.cells, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag):
        assert tag not in VOID
        assert self.open.pop() == tag

    def handle_data(self, content):
        self.text.append(content)
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += content

    def headings(self):
        return [row[0] for row in self.cells if row]


def page(out):
    return Page((out / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_whole_by_itself(finished):
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    found = page(finished)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|url\(|@import|https?:""", text)
    drawn = {path.stem: path.read_bytes() for path in (finished / "figures").iterdir()}
    shown = []
    for image in found.images:
        assert image["alt"]
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/png;base64"
        shown.append(base64.b64decode(content, validate=True))
        assert shown[-1].startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(shown) == sorted(drawn.values())
    wanted = {"training_errors", "reference", "stages", "sweep", "verified", "falsified"}
    assert set(drawn) - {"undecided"} == wanted


def test_its_tables_say_what_the_results_say(finished):
    figures_found, cells = results.read(finished), page(finished).cells
    for name, words in results.ERRORS.items():
        if name in figures_found:
            share = figures_found[name]
            assert [words, f"{100 * share:.2f}%", str(round(share * COUNT))] in cells
    status = [row["status"] for row in rows(finished)]
    entered = COUNT
    for stage, word in (("clean", "misclassified"), ("pgd", "falsified"), ("lp", "verified")):
        seconds = f"{figures_found['seconds'][stage]:.1f}"
        assert [stage, str(entered), f"{status.count(word)} {word}", seconds] in cells
        entered -= status.count(word)
    points = sweep.read(finished, ledger.read(finished).identity)
    own = [figures_found[name] for name in ("clean_error", "pgd_error", "lp_error")]
    for eps, *shares in [(RADIUS, *own), *[(p.eps, *p[2:5]) for p in points]]:
        assert [f"{eps:.5g}", *(f"{100 * share:.2f}%" for share in shares)] in cells
    text = " ".join(page(finished).text)
    for value in (figures_found["weights_sha256"], figures_found["date"], "an estimate, a lower"):
        assert value in text


def test_what_it_prints_is_never_taken_for_markup(copy):
    path = copy / "results.json"
    path.write_text(path.read_text().replace('"features"', '"<b>&</i>"'))
    report.build(copy)
    assert "".join(page(copy).text).count("<b>&</i>") >= 2


def test_the_published_figures_stand_beside_those_of_the_same_row(copy):
    path = copy / "results.json"
    changed = json.loads(path.read_text()) | {"model": "mnist_small", "dataset": "mnist"}
    path.write_text(json.dumps(changed | {"eps": 0.1}))
    report.build(copy)
    cells = page(copy).cells
    assert [
        "error",
        "here",
        "examples",
        "Robustra, published",
        "Wong and Kolter, published",
    ] in cells
    (row,) = [row for row in cells if row and row[0] == results.ERRORS["lp_error"]]
    assert row[-2:] == ["4.84%", "4.48%"]
    (row,) = [row for row in cells if row and row[0] == results.ERRORS["pgd_error"]]
    assert row[-2:] == ["–", "–"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"eps": 0.0078}, (51.47, 47.93, 36.03)),
        ({"eps": 2 / 255}, (51.47, 47.93, 36.03)),
        ({"eps": 0.0314}, (76.29, 74.87, 66.34)),
        ({"eps": 0.02}, None),
        ({"norm": "l2"}, None),
        ({"split": "train"}, None),
        ({"dataset": "digits"}, None),
        ({"model": "features"}, None),
        ({"model": "cifar10_resnet", "eps": 8 / 255}, (79.57, 78.10, 72.10)),
    ],
)
def test_a_published_row_is_found_for_its_network_and_radius_only(change, expected):
    found = {"model": "cifar10_small", "dataset": "cifar10", "split": "test", "norm": "linf"}
    row = published.find(found | {"eps": 2 / 255} | change)
    assert (tuple(row[0][1:]) if row else None) == expected


def test_images_that_are_not_those_evaluated_are_not_shown(copy, finished):
    about = json.loads((copy / "ledger.json").read_text())
    about["identity"]["data_sha256"] = "0" * 64
    (copy / "ledger.json").write_text(json.dumps(about))
    report.build(copy)
    text = " ".join(page(copy).text)
    assert "Only adversarial examples are shown: the images there are not those" in text
    assert not (copy / "figures" / "verified.png").exists()
    assert "Only adversarial" not in " ".join(page(finished).text)


def test_a_page_written_again_is_the_same(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    before = (copy / "report.html").read_bytes()
    report.build(copy)
    assert (copy / "report.html").read_bytes() == before


def test_training_is_found_beside_the_network_or_where_it_is_named(copy, tmp_path):
    assert "Trained by the method " in page(copy).text
    path = copy / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source": str(tmp_path / "f")}))
    report.build(copy)
    assert "No training run was found beside the network." in page(copy).text
    assert not (copy / "figures" / "training_errors.png").exists()
    only = {name: HISTORY[name] for name in ("epoch", "network", "test_lp_error")}
    report.build(copy, run=write_run(tmp_path / "other", "natural", only))
    assert "natural" in page(copy).text
    assert (copy / "figures" / "training_errors.png").exists()
    assert not (copy / "figures" / "reference.png").exists()
    with pytest.raises(ValueError, match=r"RUN must be a workdir of train\.main, got .*nowhere"):
        report.build(copy, run=tmp_path / "nowhere")


def test_a_damaged_history_costs_only_its_figures(copy, tmp_path):
    run = write_run(tmp_path / "run")
    (run / "history.csv").write_text("epoch,loss\n1,2\n")
    path = copy / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source": str(run / "f")}))
    report.build(copy)
    assert "history.csv has no column network" in " ".join(page(copy).text)


def test_motivation_runs_are_drawn_from_their_csv(copy, tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(",".join(plots.MOTIVATION) + "\n1,0.9,0.8,0.7,0.6\n2,0.5,0.4,0.3,0.2\n")
    (axes,) = plots.motivation(curves.read_motivation(path)).axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [
        [90, 50],
        [80, 40],
        [70, 30],
        [60, 20],
    ]
    report.build(copy, motivation=path)
    assert (copy / "figures" / "motivation.png").exists()
    for text, message in (
        ("epoch,pgd_error_f\n1,0.5\n", "m.csv has no column pgd_error_g, transfer_error_f_to_g"),
        (path.read_text().replace("0.9", "90"), "line 2: pgd_error_f: expected a fraction, got 90"),
        (path.read_text().replace("0.3", "x"), "could not convert string to float: 'x'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"--motivation: expected a CSV .*{message}"):
            report.build(copy, motivation=path)


def test_only_finished_evaluations_have_a_page(copy):
    about = json.loads((copy / "ledger.json").read_text())
    (copy / "ledger.json").write_text(json.dumps(about | {"finished": False}))
    with pytest.raises(
        ValueError, match=r"copy: the evaluation is not finished; eval\.main --resume"
    ):
        report.build(copy)
    (copy / "results.json").write_text('{"schema": 1, "n": 3}')
    with pytest.raises(
        ValueError, match=r"results\.json: expected results of schema 1, got without"
    ):
        report.build(copy)
    (copy / "results.json").unlink()
    with pytest.raises(ValueError, match=r"results\.json: no results of a finished evaluation"):
        report.build(copy)


def test_the_command_refuses_in_one_line(tmp_path):
    command = [sys.executable, "-m", "eval.report", f"--out={tmp_path / 'nowhere'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"eval.report: {tmp_path / 'nowhere' / 'ledger.csv'}: there is no ledger"
    ]


def test_results_of_another_evaluation_are_not_reported(copy):
    path = copy / "results.json"
    whole = path.read_text()
    for change in ({"n": COUNT - 1}, {"weights_sha256": "0" * 64}):
        path.write_text(json.dumps(json.loads(whole) | change))
        with pytest.raises(ValueError, match=r"results\.json and the ledger are of two eval"):
            report.build(copy)


def test_what_a_check_of_proofs_found_is_on_the_page(copy):
    found = results.read(copy)
    assert set(found["sha256"]) == {"network", "data", "property"}
    stage = {"proofs": 4, "bytes": 8000, "largest": 3000, "leaves": 1234, "seconds": 0.5}
    totals = {"verified": 5, "accepted": 4, "falsified": 3, "replayed": 2, "open": 1}
    hashes = {"network": found["sha256"]["network"]}
    totals["exported"] = {"count": 2, "network": "f", "runtime": "TensorFlow", "reason": None}
    content = totals | {"holds": False, "mode": "real numbers", "stages": {"crown": stage}}
    path = copy / "checked.json"
    path.write_text(json.dumps(content | {"hashes": hashes}))
    text = _text(report.build(copy))
    assert "Not accepted by robustra check --run" in text
    assert "4 of 5 verified examples by their proofs" in text
    assert "1,234" in text
    assert found["sha256"]["data"] in text
    path.write_text(json.dumps(content | {"hashes": {"network": "another"}}))
    assert "robustra check" not in _text(report.build(copy))
    path.write_text(json.dumps(content | {"stages": {"crown": 1}}))
    with pytest.raises(ValueError, match=r"expected what eval\.check --run"):
        report.build(copy)


def _text(path):
    """A page's words, one space between each."""
    return " ".join("".join(Page(path.read_text(encoding="utf-8")).text).split())
