"""The independent checker: what is right is accepted, and nothing else."""

import ast
import hashlib
import io
import itertools
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import robustra_tf as rt
from eval import check, network
from eval.checker import claim, derive
from robustra_tf import proofs
from robustra_tf.graph import build
from tests import evaluations, nets

ROOT = Path(__file__).resolve().parents[1]
REGIONS = (("linf", (0.0, 1.0), 0.05), ("linf", None, 0.03), ("l2", None, 0.15), ("l1", None, 0.3))
MODES = {"float32": {"dtype": "float32"}, "float64": {"dtype": "float64"}, "sound": {"sound": True}}
PLAIN = [(0, "float32"), (2, "float32"), (1, "float64"), (3, "float64")]
#: Every network sound, with the regions in turn; one network with every region, and plain modes.
CASES = [(name, k % 4, "sound") for k, name in enumerate(nets.ALL)] + [
    ("dense", region, mode) for region, mode in [*itertools.product(range(1, 4), ["sound"]), *PLAIN]
]
SEED = 7


def members(path):
    """The arrays of a certificate, and its header."""
    with np.load(path) as file:
        arrays = dict(file)
    return arrays, json.loads(arrays.pop("header").tobytes())


def written(path, arrays, header):
    """A certificate of these arrays; its path."""
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, header=text, **arrays)
    return path


def rejection(path):
    """Why a file is rejected."""
    with pytest.raises(derive.RejectedError) as error:
        derive.check(claim.read(path))
    return error.value


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """For each case the file and what `certify` returned."""
    folder, made = tmp_path_factory.mktemp("certificates"), {}
    for case in CASES:
        name, region, mode = case
        norm, box, eps = REGIONS[region]
        model = nets.ALL[name]()
        x = nets.images(model, 2, seed=SEED)
        y = model(x).numpy().argmax(1)
        path = folder / f"{name}-{region}-{mode}.npz"
        found = rt.certify(model, x, y, eps, norm, box, batch_size=2, save=path, **MODES[mode])
        made[case] = (path, found)
    return made


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_certify_writes_is_accepted(certificates, case):
    path, found = certificates[case]
    derived = derive.check(claim.read(path))
    np.testing.assert_array_equal(derived.certified, found.certified)
    limit = {"float32": 1e-3, "float64": 1e-8, "sound": 1e-6}[case[2]]
    assert np.abs(derived.margin_lower - found.margin_lower).max() < limit
    if case[2] == "sound":
        # Nothing is claimed beyond what follows by the checker's own count of its rounding.
        assert (found.margin_lower <= derived.margin_lower).all()


def test_some_are_certified_and_some_are_not(certificates):
    verdicts = np.concatenate([found.certified for _, found in certificates.values()])
    assert verdicts.any()
    assert not verdicts.all()


BANDS = ("lower", "upper", "slope", "intercept")


def _other(rng, value, count):
    return int((value + rng.integers(1, count)) % count)


def altered(rng, arrays, header):
    """A certificate with one entry changed, and what was changed."""
    arrays, header = {k: v.copy() for k, v in arrays.items()}, json.loads(json.dumps(header))
    kinds = ["hash", "eps", "norm", "weight", "x", "labels", "predicted", "margin", "network"]
    kind = rng.choice([*kinds, "box", "mode", *BANDS, *BANDS, *BANDS])
    if kind == "box" and header["norm"] != "linf":
        kind = "norm"
    if kind == "mode" and header["mode"] == "sound":
        kind = "hash"

    def entry(name):
        values = arrays[name]
        return values, tuple(int(rng.integers(n)) for n in values.shape)

    def moved(value):
        size = max(abs(value), 0.1) * rng.uniform(0.02, 1)
        return value + rng.choice([-1, 1]) * size

    if kind == "hash":
        text, at = header["network_sha256"], int(rng.integers(64))
        header["network_sha256"] = f"{text[:at]}{(int(text[at], 16) + 1) % 16:x}{text[at + 1 :]}"
    elif kind == "eps":
        header["eps"] *= rng.choice([0.5, 0.9, 1.1, 2.0])
    elif kind == "norm":
        header["norm"] = {"linf": "l2", "l2": "l1", "l1": "linf"}[header["norm"]]
    elif kind == "box":
        header["box"] = [-0.5, 1.5] if header["box"] else [0.0, 1.0]
    elif kind == "mode":
        later = {"float32": ["float64", "sound"], "float64": ["sound"]}
        header["mode"] = str(rng.choice(later[header["mode"]]))
    elif kind == "network":
        relus = [k for k, node in enumerate(header["network"]) if node["op"] == "relu"]
        header["network"][int(rng.choice(relus))] |= {"inputs": [0]}
    elif kind == "weight":
        names = [name for name in arrays if name.startswith("weight_")]
        values, at = entry(str(rng.choice(names)))
        values[at] = moved(values[at])
    elif kind == "x":
        values, at = entry("x")
        values[at] += 0.2 if values[at] < 0.5 else -0.2
    elif kind in ("labels", "predicted"):
        values, at = entry(kind)
        values[at] = _other(rng, values[at], nets.CLASSES)
    elif kind == "margin":
        values, at = entry("margin_lower")
        values[at] = moved(values[at])
    else:
        layers = sum(name.startswith(f"{kind}_") for name in arrays)
        kind = f"{kind}_{rng.integers(layers)}"
        values, at = entry(kind)
        values[at] = moved(values[at])
    return arrays, header, kind


def test_no_single_alteration_passes(certificates, tmp_path):
    rng = np.random.default_rng(11)
    loaded, kinds = [members(path) for path, _ in certificates.values()], set()
    for trial in range(240):
        arrays, header, kind = altered(rng, *loaded[trial % len(loaded)])
        path = written(tmp_path / "altered.npz", arrays, header)
        with pytest.raises((derive.RejectedError, claim.UnreadableError)) as error:
            pytest.fail(f"{kind} altered: accepted, {derive.check(claim.read(path))}")
        if error.type is claim.UnreadableError:
            assert kind == "network"  # an altered link may leave shapes that do not fit
            continue
        kinds.add(kind.partition("_")[0])
        if kind.startswith(("lower", "upper")):
            field, _, layer = kind.partition("_")
            assert error.value.layer.startswith(f"ReLU {layer} ")
            assert error.value.field == field
    expected = {"hash", "eps", "norm", "box", "mode", "weight", "x", "labels", "predicted"}
    assert kinds >= expected | {"margin", *BANDS}


def _rehashed(arrays, header):
    """The hash that a forger would write, by the format's description."""
    inner = hashlib.sha256()
    for k in range(sum(name.startswith("weight_") for name in arrays)):
        weight = arrays[f"weight_{k}"]
        inner.update(f"{weight.dtype.str}{list(weight.shape)}".encode() + weight.tobytes())
    text = json.dumps(header["network"], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256((text + inner.hexdigest()).encode()).hexdigest()


def test_a_forged_hash_does_not_help(certificates, tmp_path):
    """Weights altered and hashed anew: the bounds do not follow from them."""
    path, _ = certificates["conv", 1, "sound"]
    arrays, header = members(path)
    assert _rehashed(arrays, header) == header["network_sha256"]
    arrays["weight_0"][1, 1, 0, 0] += 0.1
    header["network_sha256"] = _rehashed(arrays, header)
    error = rejection(written(tmp_path / "forged.npz", arrays, header))
    assert error.layer == "ReLU 0 (network[2])"
    assert error.field in ("lower", "upper")


def test_the_first_layer_that_does_not_hold_is_named(certificates, tmp_path):
    path, _ = certificates["dense", 0, "sound"]
    arrays, header = members(path)
    arrays["margin_lower"][0] += 1
    error = rejection(written(tmp_path / "a.npz", arrays, header))
    assert (error.layer, error.field) == ("logits", "margin_lower")
    arrays["slope_1"][1] *= 0.5
    error = rejection(written(tmp_path / "b.npz", arrays, header))
    assert error.layer.startswith("ReLU 1 ")
    arrays["upper_0"][1, 3] -= 0.1
    error = rejection(written(tmp_path / "c.npz", arrays, header))
    assert error.layer.startswith("ReLU 0 ")
    assert error.field == "upper"
    assert "(1, 3)" in str(error)


def test_an_ulp_too_much_is_too_much_where_it_is_sound(certificates, tmp_path):
    """Strict: claimed margins may not be above what follows, not by the last digit."""
    path, _ = certificates["dense", 0, "sound"]
    arrays, header = members(path)
    derived = derive.check(claim.read(path)).margin_lower
    at = (0, int((header and arrays["labels"][0] + 1) % nets.CLASSES))
    arrays["margin_lower"][at] = derived[at]
    derive.check(claim.read(written(tmp_path / "a.npz", arrays, header)))
    arrays["margin_lower"][at] = np.nextafter(derived[at], np.inf)
    error = rejection(written(tmp_path / "b.npz", arrays, header))
    assert (error.layer, error.field) == ("logits", "margin_lower")


def test_a_certificate_that_float64_gets_wrong_is_not_accepted_as_sound(tmp_path):
    """The model computes `relu(1e8 + 4.1) - 1e8` as 8: see test_sound."""
    model = evaluations.keras.Sequential(
        [
            evaluations.keras.Input((1,)),
            evaluations.layers.Dense(1, activation="relu"),
            evaluations.layers.Dense(2),
        ]
    )
    last = np.float32([[-1.0, 0.0]])
    first = np.float32([[4.1]]), np.float32([1e8])
    model.set_weights([*first, last, np.float32([1e8, -6.0])])
    path = tmp_path / "c.npz"
    found = rt.certify(model, np.ones((1, 1)), [0], 0.0, dtype="float64", save=path)
    assert found.certified.all()
    assert derive.check(claim.read(path)).certified.all()
    arrays, header = members(path)
    error = rejection(written(path, arrays, header | {"mode": "sound"}))
    assert error.layer.startswith("ReLU 0")
    sound = rt.certify(model, np.ones((1, 1)), [0], 0.0, sound=True, save=path)
    assert not sound.certified.any()
    assert not derive.check(claim.read(path)).certified.any()


def test_exit_codes_and_words(certificates, tmp_path, capsys):
    path, found = certificates["dense", 0, "sound"]
    assert check.main([str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("accepted: 2 images, linf balls of radius 0.05 cut to [0, 1], sound")
    assert f"{found.certified.sum()} certified, 2 correct" in out
    arrays, header = members(path)
    arrays["lower_1"][0, 0] -= 1
    assert check.main([str(written(tmp_path / "c.npz", arrays, header))]) == 1
    assert capsys.readouterr().out.startswith("rejected: ReLU 1 (network[4]): lower: at (0, 0)")
    assert check.main([str(tmp_path / "none.npz")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "none.npz: file: cannot be read: No such file" in error
    with pytest.raises(SystemExit) as leave:
        check.main([])
    assert leave.value.code == 2


def test_a_certificate_is_bound_to_a_network(tmp_path, capsys):
    model = evaluations.digits_network()
    saved = evaluations.save(model, tmp_path / "model")
    path = tmp_path / "c.npz"
    images = nets.images(model, 1)
    rt.certify(model, images, [0], 0.01, save=path)
    assert network.main([f"--saved_model={saved}"]) == 0
    sha256 = capsys.readouterr().out.strip()
    assert sha256 == proofs.network_sha256(build(model))
    assert check.main([str(path), f"--network_sha256={sha256}"]) == 0
    assert check.main([str(path), f"--network_sha256={'0' * 64}"]) == 1
    assert "rejected: network: network_sha256" in capsys.readouterr().out
    assert network.main([f"--saved_model={tmp_path / 'none'}"]) == 2
    assert "eval.network: " in capsys.readouterr().err


def test_the_checker_imports_numpy_and_nothing_of_what_it_checks(certificates):
    """By its text, and by what is loaded once it has run as a command."""
    files = [ROOT / "eval" / "check.py", *sorted((ROOT / "eval" / "checker").glob("*.py"))]
    assert len(files) == 6
    found = set()
    for file in [ROOT / "eval" / "__init__.py", *files]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    foreign = {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith("eval.checker")} == {"numpy"}
    path, _ = certificates["residual", 3, "sound"]
    program = (
        "import sys\nfrom eval import check\n"
        f"code = check.main([{str(path)!r}])\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "print(code, loaded & {'robustra_tf', 'tensorflow', 'keras', 'scipy', 'absl', 'train'})"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.splitlines()[-1] == "0 set()", run.stderr


class Bomb:
    """Would leave a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


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
    "version": (lambda h: h | {"version": 2}, "version: expected 1, got 2"),
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
def test_headers_that_are_refused(certificates, tmp_path, change):
    path, _ = certificates["conv", 1, "sound"]
    arrays, header = members(path)
    edit, message = HEADERS[change]
    with pytest.raises(claim.UnreadableError, match=f"c.npz: {message}"):
        claim.read(written(tmp_path / "c.npz", arrays, edit(header)))


def _members_that_are_refused(trap):
    objects = io.BytesIO()
    np.save(objects, np.array([Bomb(trap)], dtype=object), allow_pickle=True)
    plain = pickle.dumps(Bomb(trap))
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
        "weights of reals": ({"weight_1": _npy()}, "weight_1: expected float32"),
        "no labels": ({"labels": None}, "labels: expected one axis"),
        "no margins": ({"margin_lower": None}, "margin_lower: expected a member of that name"),
        "no slopes": ({"slope_0": None}, "slope_0: expected a member of that name"),
        "no header": ({"header": None}, "header: expected a member of that name"),
        "header of words": ({"header": _npy("|u1", (4,), b"{no}")}, "header: not JSON"),
        "deep header": ({"header": _npy("|u1", (10**5,), b"[" * 10**5)}, "header: not JSON"),
    }


@pytest.mark.parametrize("kind", _members_that_are_refused("nowhere"))
def test_members_that_are_refused(certificates, tmp_path, kind):
    path, _ = certificates["conv", 1, "sound"]
    replace, message = _members_that_are_refused(tmp_path / "trap")[kind]
    with pytest.raises(claim.UnreadableError, match=f"c.npz: ({message})"):
        claim.read(_repacked(path, tmp_path / "c.npz", replace))
    assert not (tmp_path / "trap").exists()


def test_archives_that_are_refused(certificates, tmp_path):
    path, _ = certificates["conv", 1, "sound"]
    target = tmp_path / "c.npz"
    with pytest.raises(claim.UnreadableError, match="expected an uncompressed member"):
        claim.read(_repacked(path, target, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(claim.UnreadableError, match="file: expected no further members, got more"):
        claim.read(_repacked(path, target, extra=[("more.npy", _npy())]))
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        pytest.raises(claim.UnreadableError, match="file: expected each member once"),
    ):
        claim.read(_repacked(path, target, extra=[("x.npy", _npy())]))
    whole = path.read_bytes()
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


@pytest.mark.parametrize(
    ("field", "value", "layer"),
    [("x", np.nan, "input"), ("x", 2.0, "input"), ("lower_0", np.nan, "ReLU 0 (network[2])"),
     ("upper_0", np.inf, "ReLU 0 (network[2])"), ("slope_0", -0.5, "ReLU 0 (network[2])"),
     ("margin_lower", np.nan, "logits"), ("margin_lower", np.inf, "logits"),
     ("weight_1", np.nan, "network"), ("labels", 3, "logits"), ("labels", -1, "logits")],
)  # fmt: skip
def test_numbers_that_are_none_are_rejected(certificates, tmp_path, field, value, layer):
    path, _ = certificates["two_conv", 2, "sound"]
    if field == "x":
        path, _ = certificates["dense", 0, "sound"]
    arrays, header = members(path)
    arrays[field].flat[0] = value
    error = rejection(written(tmp_path / "c.npz", arrays, header))
    assert (error.layer, error.field) == (layer, field.partition("_0")[0]) or field == "weight_1"
