"""Files of certificates from anywhere: what is malformed is refused by name, and nothing runs."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

import robustra_tf as rt
from eval.checker import claim
from tests import claims, nets
from tests.hostile import Payload

pytestmark = pytest.mark.usefixtures("nothing_runs")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of a small convolutional network, sound; not to be changed."""
    return claims.made(tmp_path_factory.mktemp("certificates"), ("conv", 1, "sound"))[0]


def _npy(descr="<f8", shape=(1,), data=b"\0" * 8):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def _repacked(path, target, replace=None, compression=zipfile.ZIP_STORED, extra=()):
    """The archive with members replaced, dropped (None) or added."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = (replace or {}).get(name.removesuffix(".npy"), old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in extra:
            new.writestr(name, content)
    return target


def _node(index, **change):
    def edit(header):
        header["network"][index].update(change)
        return header

    return edit


HEADERS = {
    "format": (lambda h: h | {"format": "other"}, "format: expected 'robustra_tf certificate'"),
    "version": (lambda h: h | {"version": 3}, "version: expected 1 or 2, got 3"),
    "fields": (lambda h: h | {"more": 1}, "header: expected the fields"),
    "list": (lambda h: [h], "header: expected an object"),
    "eps": (lambda h: h | {"eps": -1}, "eps: expected a finite number >= 0, got -1"),
    "eps nan": (lambda h: h | {"eps": float("nan")}, "eps: expected"),
    "eps text": (lambda h: h | {"eps": "0.1"}, "eps: expected"),
    "norm": (lambda h: h | {"norm": "l3"}, "norm: expected one of linf, l2, l1, got l3"),
    "norm list": (lambda h: h | {"norm": ["linf"]}, "norm: expected one of"),
    "mode": (lambda h: h | {"mode": "exact"}, "mode: expected one of"),
    "method": (lambda h: h | {"method": "interval"}, "method: expected one of dual"),
    "box": (lambda h: h | {"box": [1, 0]}, "box: expected null or two numbers"),
    "box text": (lambda h: h | {"box": [0, "1"]}, "box: expected null or two numbers"),
    "hash": (lambda h: h | {"network_sha256": 7}, "network_sha256: expected"),
    "no network": (lambda h: h | {"network": []}, r"network: expected a list of at most"),
    "op": (_node(1, op="softmax"), r"network\[1\]: expected one of add, .*, got softmax"),
    "later": (_node(1, inputs=[2]), r"network\[1\]: expected inputs below 1"),
    "negative": (_node(1, inputs=[-1]), r"network\[1\]: expected whole numbers from 0 on"),
    "weights": (_node(1, weights=[99]), r"network\[1\]: expected weights below"),
    "unused": (_node(1, weights=[0]), r"network: expected every weight in use"),
    "second input": (_node(2, op="input"), r"network\[2\]: expected the input first"),
    "strides": (_node(1, strides=[0, 2]), r"network\[1\]: expected whole numbers from 1 on"),
    "padding": (_node(1, padding=[[1, 1]]), r"network\[1\]: expected padding of two sides"),
    "huge": (_node(1, padding=[[2**26, 0], [2**26, 0]]), r"network\[1\]: expected 1 to 67108864"),
    "field": (_node(2, slope=0.1), r"network\[2\]: expected no further fields, got slope"),
}


@pytest.mark.parametrize("change", HEADERS)
def test_headers_that_are_refused(certificate, tmp_path, change):
    arrays, header = claims.members(certificate)
    edit, message = HEADERS[change]
    with pytest.raises(claim.UnreadableError, match=f"c.npz: {message}"):
        claim.read(claims.written(tmp_path / "c.npz", arrays, edit(header)))


def _members_that_are_refused(folder):
    objects = io.BytesIO()
    np.save(objects, np.array([Payload(folder)], dtype=object), allow_pickle=True)
    plain = pickle.dumps(Payload(folder))
    return {
        "pickle in an array": ({"x": objects.getvalue()}, "x: expected numbers of type"),
        "pickle alone": ({"x": plain}, "x: its .npy header is damaged"),
        "giant shape": ({"x": _npy(shape=(2**40, 2**20))}, "x: expected data for shape"),
        "negative shape": ({"x": _npy(shape=(-1,))}, "x: expected a shape"),
        "short data": ({"x": _npy(shape=(2,))}, "x: expected data for shape|x: expected 16 bytes"),
        "long data": ({"x": _npy(data=b"\0" * 9)}, "x: expected 8 bytes of data"),
        "header of code": ({"x": _npy(shape="__import__('os')")}, "x: its .npy header is damaged"),
        "another type": ({"x": _npy("<c16", data=b"\0" * 16)}, "x: expected numbers of type"),
        "another shape": ({"x": _npy()}, r"x: expected shape \(2, 6, 6, 1\), got \(1,\)"),
        "labels of reals": ({"labels": _npy(shape=(2,), data=b"\0" * 16)}, "labels: expected type"),
        "weights of reals": ({"weight_1": _npy()}, "weight_1: expected type <f4"),
        "no labels": ({"labels": None}, "labels: expected one axis"),
        "no margins": ({"margin_lower": None}, "margin_lower: expected a member of that name"),
        "no slopes": ({"slope_0": None}, "slope_0: expected a member of that name"),
        "no header": ({"header": None}, "header: expected a member of that name"),
        "header of words": ({"header": _npy("|u1", (4,), b"{no}")}, "header: not JSON"),
        "deep header": ({"header": _npy("|u1", (10**5,), b"[" * 10**5)}, "header: not JSON"),
    }


@pytest.mark.parametrize("kind", _members_that_are_refused(Path("nowhere")))
def test_members_that_are_refused(certificate, tmp_path, kind):
    replace, message = _members_that_are_refused(tmp_path)[kind]
    with pytest.raises(claim.UnreadableError, match=f"c.npz: ({message})"):
        claim.read(_repacked(certificate, tmp_path / "c.npz", replace))


@pytest.fixture(scope="module")
def of_property(tmp_path_factory, eager):
    """A certificate of a property: two groups, for one image the first alone; not to be changed."""
    path = tmp_path_factory.mktemp("property") / "c.npz"
    model = nets.dense()
    output = rt.unreachable(([[1, 0, 0], [0, 1, 0]], [-9, -9]), ([[0, 0, 1]], [-9]))
    rt.certify(model, nets.images(model, 2), output, 0.01, dtype="float64", save=path)
    arrays, header = claims.members(path)
    arrays["group"][1, 2] = -1
    return claims.written(path, arrays, header)


CONDITIONS = {
    "group": ([-2, 3], "group: expected numbers in -1..2"),
    "rows": ([np.nan, np.inf], "rows: expected finite numbers"),
    "offset": ([np.nan, -np.inf], "rows: expected finite numbers"),
    "radius": ([-1e-9, np.inf], "radius: expected finite numbers >= 0"),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_single_number_of_a_condition_is_enough(of_property, tmp_path, name):
    arrays, header = claims.members(of_property)
    numbers, message = CONDITIONS[name]
    for number in numbers:
        changed = arrays | {name: arrays[name].copy()}
        changed[name].flat[1] = number
        with pytest.raises(claim.UnreadableError, match=message):
            claim.read(claims.written(tmp_path / "c.npz", changed, header))
    assert claim.read(of_property).conditions.group.tolist() == [[0, 0, 1], [0, 0, -1]]


def test_archives_that_are_refused(certificate, tmp_path):
    target = tmp_path / "c.npz"
    with pytest.raises(claim.UnreadableError, match="expected an uncompressed member"):
        claim.read(_repacked(certificate, target, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(claim.UnreadableError, match="file: expected no further members, got more"):
        claim.read(_repacked(certificate, target, extra=[("more.npy", _npy())]))
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        pytest.raises(claim.UnreadableError, match="file: expected each member once"),
    ):
        claim.read(_repacked(certificate, target, extra=[("x.npy", _npy())]))
    whole = certificate.read_bytes()
    target.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(claim.UnreadableError, match=r"file: damaged, or no \.npz archive"):
        claim.read(target)
    at = whole.index(b"NUMPY") + 2000
    target.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(claim.UnreadableError, match=r"no \.npz archive: Bad CRC"):
        claim.read(target)
    target.write_bytes(b"")
    with pytest.raises(claim.UnreadableError, match="file: damaged"):
        claim.read(target)
    with pytest.raises(claim.UnreadableError, match="file: cannot be read"):
        claim.read(tmp_path)
