"""Results of evaluations and runs from anywhere, refused by name."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest

from eval import curves, ledger, results, sweep, witnesses
from eval.rows import FIELDS
from robustra_tf.storage.reading import Field, read_arrays, read_json
from tests.hostile import HUGE, Payload, refused

pytestmark = pytest.mark.usefixtures("nothing_runs")

# Archives of arrays

IDENTITY = {"eps": 0.1, "norm": "linf", "box": [0.0, 1.0]}


def columns():
    rng = np.random.default_rng(1)
    image = rng.uniform(0.2, 0.8, size=(2, 4, 4, 1)).astype(np.float32)
    return {
        "stage": np.array(["pgd", "pgd"]),
        "index": np.array([1, 2]),
        "label": np.array([0, 1]),
        "predicted": np.array([3, 4]),
        "image": image,
        "adversarial": image + np.float32(0.05),
        "evaluation": np.array(ledger.evaluation_id(IDENTITY)),
    }


def npy(array=None, header=None):
    """An array as `.npy`; or one whose header says what it likes, with nothing behind it."""
    file = io.BytesIO()
    if header is None:
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
    else:
        np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def archive(changed=None, extra=(), left_out=()):
    """The bytes of a witness file, some of its members changed."""
    members = {f"{name}.npy": npy(value) for name, value in columns().items()}
    members |= changed or {}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in (*members.items(), *extra):
            if name not in left_out:
                made.writestr(name, content)
    return file.getvalue()


def lying_directory():
    """A member whose entry in the directory claims another size than it has."""
    content = bytearray(archive())
    at = content.rindex(b"index.npy") - 46  # its central header
    size = struct.unpack_from("<I", content, at + 24)[0]
    struct.pack_into("<I", content, at + 24, size + 8)
    return bytes(content)


def flat(shape):
    return npy(header={"descr": "<f4", "fortran_order": False, "shape": shape})


ARCHIVES = {
    "not an archive": (lambda _: b"PK but nothing else", "not a zip"),
    "truncated": (lambda _: archive()[:-30], "not a zip"),
    "damaged inside": (
        lambda _: archive().replace(archive()[400:410], b"\x00" * 10, 1),
        "witnesses.npz",
    ),
    "missing field": (lambda _: archive(left_out=["label.npy"]), "'label'"),
    "a field twice": (lambda _: archive(extra=[("label.npy", npy([0, 1]))]), "'label'"),
    "pickled objects": (
        lambda folder: archive({"stage.npy": npy(np.array([Payload(folder)] * 2, object))}),
        "'stage'",
    ),
    "a pickle for an array": (
        lambda folder: archive({"image.npy": pickle.dumps(Payload(folder))}),
        "'image'",
    ),
    "huge declared shape": (lambda _: archive({"image.npy": flat((2, HUGE, HUGE, 1))}), "'image'"),
    "negative shape": (lambda _: archive({"image.npy": flat((2, -4, -4, 1))}), "'image'"),
    "a directory that lies": (lambda _: lying_directory(), "'index'"),
    "a bomb": (
        lambda _: archive({"image.npy": flat((1, 2**12, 2**13, 1)) + bytes(2**27)}),
        "'image': 134217856 bytes, expected at most",
    ),
    "text for numbers": (lambda _: archive({"label.npy": npy(["a", "b"])}), "'label'"),
    "lengths that differ": (lambda _: archive({"label.npy": npy([0, 1, 2])}), "lengths"),
    "negative index": (lambda _: archive({"index.npy": npy([1, -2])}), "'index'"),
}


@pytest.mark.parametrize(("make", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_a_malformed_archive_is_refused(tmp_path, make, message):
    path = tmp_path / witnesses.NAME
    path.write_bytes(make(tmp_path))
    refused(lambda: witnesses.read(tmp_path, IDENTITY), path, message)


def test_the_malformed_archives_are_near_a_good_one(tmp_path):
    (tmp_path / witnesses.NAME).write_bytes(archive())
    assert [w.index for w in witnesses.read(tmp_path, IDENTITY)] == [1, 2]


def test_sizes_count_together(tmp_path):
    path = tmp_path / "two.npz"
    np.savez(path, a=np.zeros(100), b=np.zeros(100))
    wanted = dict.fromkeys("ab", Field("f", 1))
    assert set(read_arrays(path, wanted, most=2000)) == {"a", "b"}
    refused(lambda: read_arrays(path, wanted, most=1200), path, "'b'", "at most 400")


# Ledgers, tables and settings


def write_ledger(folder, *lines, finished=False, about=None):
    folder.mkdir(exist_ok=True)
    header = ",".join(FIELDS)
    text = "\n".join([header, *lines]) + "\n"
    (folder / ledger.NAME).write_bytes(text.encode("latin-1"))
    stored = {"identity": {}, "seconds": {"lp": 1.0}, "finished": finished}
    content = about if about is not None else json.dumps(stored)
    (folder / ledger.IDENTITY_NAME).write_text(content)


GOOD = "1,3,3,verified,lp,0.5,4,0.1,,"
LINES = {
    "not UTF-8": ("1,3,3,verified,l\xffp,0.5,4,0.1,,", "not text"),
    "NUL bytes": ("\0" * 40, "line 3"),
    "a field without end": ('1,2,3,verified,"' + "x" * 200_000, "line 3"),
    "negative index": (GOOD.replace("1", "-1", 1), "line 3: index"),
    "negative label": ("1,-2,3,verified,lp,0.5,4,0.1,,", "line 3: label"),
    "a number of 10,000 digits": ("9" * 10_000 + GOOD[1:], "line 3: index"),
    "underscores": ("1_0" + GOOD[1:], "line 3: index"),
    "NaN margin": ("1,3,3,verified,lp,nan,4,0.1,,", "line 3: margin_lower"),
    "infinite seconds": ("1,3,3,verified,lp,0.5,4,inf,,", "line 3: row: expected"),
    "unknown status": ("1,3,3,proven,lp,0.5,4,0.1,,", "line 3: status"),
    "too many fields": (GOOD + ",", "line 3: expected 10 fields"),
    "a search that is none": (GOOD[:-1] + "=1+1,", "line 3: search: expected words"),
    "a reason of several lines": (GOOD + "\x1b[2J", "line 3: reason: expected a line"),
    "verified, misclassified": (
        "1,2,3,verified,lp,0.5,4,0.1,,",
        "line 3: row: expected of what is",
    ),
    "verified, no margin": ("1,3,3,verified,lp,-0.5,4,0.1,,", "line 3: row: expected of what is"),
}


@pytest.mark.parametrize(("line", "message"), LINES.values(), ids=LINES)
def test_a_malformed_ledger_is_refused(tmp_path, line, message):
    write_ledger(tmp_path / "out", "7" + GOOD[1:], line)
    refused(lambda: ledger.read(tmp_path / "out"), tmp_path / "out" / ledger.NAME, message)


def test_a_finished_ledger_has_each_example_once(tmp_path):
    """While it goes on, the newest row of an example is the one that counts."""
    out = tmp_path / "out"
    write_ledger(out, GOOD, GOOD.replace("verified", "unknown"))
    assert ledger.read(out).rows[1].status == "unknown"
    write_ledger(out, GOOD, GOOD.replace("verified", "unknown"), finished=True)
    refused(lambda: ledger.read(out), out / ledger.NAME, "line 3: index: 1 was there before")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("[" * 100_000, "not JSON"),
        ('{"identity": {}, "seconds": {}}', "'finished'"),
        ('{"identity": [], "seconds": {}, "finished": true}', "'identity'"),
        ('{"identity": {}, "seconds": {"lp": "x"}, "finished": true}', "'seconds' of 'lp'"),
        ('{"identity": {}, "seconds": {"lp": NaN}, "finished": true}', "'seconds' of 'lp'"),
        ("[1]", "'identity'"),
    ],
    ids=["deep", "missing", "list", "text", "NaN", "no object"],
)
def test_a_malformed_identity_is_refused(tmp_path, about, message):
    out = tmp_path / "out"
    write_ledger(out, GOOD, about=about)
    refused(lambda: ledger.read(out), out / ledger.IDENTITY_NAME, message)


def test_json_of_any_size_is_not_read(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text("[" + "0," * 50 + "0]")
    assert read_json(path) == [0] * 51
    refused(lambda: read_json(path, most=100), path, "at most 100 bytes")
    path.write_bytes(b'{"name": "\xff"}')
    refused(lambda: read_json(path), path, "not JSON")


def test_other_tables_and_settings_are_refused_by_name(tmp_path):
    (tmp_path / "results.json").write_text("[" * 100_000)
    refused(lambda: results.read(tmp_path), tmp_path / "results.json", "not JSON")
    endless = '"' + "x" * 200_000
    (tmp_path / sweep.NAME).write_text(f"eps,evaluation\n{endless},1\n")
    refused(lambda: sweep.read(tmp_path, IDENTITY), tmp_path / sweep.NAME, "damaged")
    (tmp_path / "config.json").write_text('{"method": "wong"}')
    (tmp_path / "history.csv").write_text(f"epoch,network\n{endless}\n")
    refused(lambda: curves.read(tmp_path), tmp_path, "history.csv, line 2")
    (tmp_path / "config.json").write_text("{" * 100_000)
    refused(lambda: curves.read(tmp_path), tmp_path, "config.json", "not JSON")
