"""The independent checker: what is right is accepted, and nothing else."""

import ast
import hashlib
import itertools
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import robustra_tf as rt
from eval import check, network
from eval.checker import claim, derive
from eval.checker.claim import Band
from eval.checker.rejection import RejectedError
from eval.checker.state import State
from robustra_tf.evidence.network import network_sha256
from robustra_tf.graph import build
from tests import claims, evaluations, nets

ROOT = Path(__file__).resolve().parents[1]
PLAIN = [(0, "float32"), (2, "float32"), (1, "float64"), (3, "float64")]
#: Every network sound, with the regions in turn; one network with every region, and plain modes.
CASES = [(name, k % 4, "sound") for k, name in enumerate(nets.ALL)] + [
    ("dense", region, mode) for region, mode in [*itertools.product(range(1, 4), ["sound"]), *PLAIN]
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory, eager):
    """For each case the file and what `certify` returned."""
    folder = tmp_path_factory.mktemp("certificates")
    return {case: claims.made(folder, case) for case in CASES}


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
    loaded, kinds = [claims.members(path) for path, _ in certificates.values()], set()
    for trial in range(240):
        arrays, header, kind = altered(rng, *loaded[trial % len(loaded)])
        path = claims.written(tmp_path / "altered.npz", arrays, header)
        with pytest.raises((RejectedError, claim.UnreadableError)) as error:
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


@pytest.mark.parametrize("steeper", [True, False])
def test_another_line_needs_its_own_intercept(certificates, tmp_path, steeper):
    """`relu(z) <= d z + b`: above the chord's slope the lower end decides `b`, else the upper."""
    path, _ = certificates["dense", 0, "sound"]
    arrays, header = claims.members(path)
    low, high = (arrays[name].astype(float) for name in ("lower_0", "upper_0"))
    at = tuple(np.argwhere((low < -1e-3) & (high > 1e-3))[0])
    slope = 0.5 * (steeper + high[at] / (high[at] - low[at]))
    arrays["slope_0"][at] = slope
    other = (1 - slope) * high[at] if steeper else -slope * low[at]
    for intercept in (arrays["intercept_0"][at], other * (1 + 1e-12)):
        arrays["intercept_0"][at] = intercept
        error = claims.rejection(claims.written(tmp_path / "line.npz", arrays, header))
        assert error.layer.startswith("ReLU 0 ")
        assert error.field == "intercept"


def test_a_relu_of_numbers_from_zero_on_is_the_identity():
    """Nothing lies above `z` then, and the intercept may be 0; below zero it may not."""
    check = derive.Check.__new__(derive.Check)
    check.sound, check.tolerance, check.few, check.tiny = True, 0.0, 0.0, 0.0
    below, one = State(*(np.full((1, 1), value) for value in (1.0, 1.0, 0.0))), np.ones((1, 1))
    check._check_band("ReLU", Band(0 * one, 2 * one, one, 0 * one), below, one)
    low = one - np.nextafter(one, 2)
    with pytest.raises(RejectedError, match="intercept"):
        check._check_band("ReLU", Band(low, 2 * one, one, 0 * one), below, one - low)


def test_rows_are_carried_back_in_slices_that_keep_within_the_memory(certificates, monkeypatch):
    """As many at a time as it holds where they are widest, and no fewer."""
    given = claim.read(certificates["two_conv", 2, "sound"][0])
    backward, seen = derive.Check._backward, []

    def measured(self, index, rows):
        seen.append(rows.shape[1])
        return backward(self, index, rows)

    monkeypatch.setattr(derive.Check, "_backward", measured)
    widest = max(np.prod(node.shape) for node in given.nodes)
    whole = derive.check(given).margin_lower
    assert max(seen) > 3
    seen.clear()
    monkeypatch.setattr(derive, "BUDGET", 3 * 8 * int(widest) * len(given.x))
    np.testing.assert_allclose(derive.check(given).margin_lower, whole, rtol=1e-9)
    assert max(seen) == 3


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
    arrays, header = claims.members(path)
    assert _rehashed(arrays, header) == header["network_sha256"]
    arrays["weight_0"][1, 1, 0, 0] += 0.1
    header["network_sha256"] = _rehashed(arrays, header)
    error = claims.rejection(claims.written(tmp_path / "forged.npz", arrays, header))
    assert error.layer == "ReLU 0 (network[2])"
    assert error.field in ("lower", "upper")


def test_the_first_layer_that_does_not_hold_is_named(certificates, tmp_path):
    path, _ = certificates["dense", 0, "sound"]
    arrays, header = claims.members(path)
    arrays["margin_lower"][0] += 1
    error = claims.rejection(claims.written(tmp_path / "a.npz", arrays, header))
    assert (error.layer, error.field) == ("logits", "margin_lower")
    arrays["slope_1"][1] *= 0.5
    error = claims.rejection(claims.written(tmp_path / "b.npz", arrays, header))
    assert error.layer.startswith("ReLU 1 ")
    arrays["upper_0"][1, 3] -= 0.1
    error = claims.rejection(claims.written(tmp_path / "c.npz", arrays, header))
    assert error.layer.startswith("ReLU 0 ")
    assert error.field == "upper"
    assert "(1, 3)" in str(error)


@pytest.mark.parametrize(
    ("member", "value", "layer", "field"),
    [
        ("x", np.nan, "input", "x"),
        ("x", 2.0, "input", "x"),
        ("lower_0", np.nan, "ReLU 0 (network[2])", "lower"),
        ("upper_0", np.inf, "ReLU 0 (network[2])", "upper"),
        ("slope_0", -0.5, "ReLU 0 (network[2])", "slope"),
        ("slope_0", 1.5, "ReLU 0 (network[2])", "slope"),
        ("margin_lower", np.nan, "logits", "margin_lower"),
        ("margin_lower", np.inf, "logits", "margin_lower"),
        ("weight_1", np.nan, "network", "network_sha256"),
        ("labels", 3, "logits", "labels"),
        ("labels", -1, "logits", "labels"),
    ],
)
def test_numbers_that_are_none_are_rejected(certificates, tmp_path, member, value, layer, field):
    # Without a box nothing else is wrong with an image that holds no number.
    case = ("dense", int(np.isnan(value)), "sound") if member == "x" else ("two_conv", 2, "sound")
    arrays, header = claims.members(certificates[case][0])
    arrays[member].flat[0] = value
    error = claims.rejection(claims.written(tmp_path / "c.npz", arrays, header))
    assert (error.layer, error.field) == (layer, field)


def test_numpys_format_is_read_in_its_second_version_too(certificates, tmp_path):
    """That of headers longer than 64 kB, which NumPy writes where it needs to."""
    path, found = certificates["conv", 1, "sound"]
    with np.load(path) as file, zipfile.ZipFile(tmp_path / "second.npz", "w") as archive:
        for name, value in file.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, value, version=(2, 0))
    derived = derive.check(claim.read(tmp_path / "second.npz"))
    np.testing.assert_array_equal(derived.certified, found.certified)


def test_an_ulp_too_much_is_too_much_where_it_is_sound(certificates, tmp_path):
    """Strict: claimed margins may not be above what follows, not by the last digit."""
    path, _ = certificates["dense", 0, "sound"]
    arrays, header = claims.members(path)
    derived = derive.check(claim.read(path)).margin_lower
    at = (0, int((header and arrays["labels"][0] + 1) % nets.CLASSES))
    arrays["margin_lower"][at] = derived[at]
    derive.check(claim.read(claims.written(tmp_path / "a.npz", arrays, header)))
    arrays["margin_lower"][at] = np.nextafter(derived[at], np.inf)
    error = claims.rejection(claims.written(tmp_path / "b.npz", arrays, header))
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
    assert found.worst_margin > 1
    # The image is misclassified by the model: its file is of no use to anyone, in any mode.
    assert not found.certified.any()
    assert "another class has the greatest logit" in str(claims.rejection(path))
    arrays, header = claims.members(path)
    error = claims.rejection(claims.written(path, arrays, header | {"mode": "sound"}))
    assert error.layer.startswith("ReLU 0")
    sound = rt.certify(model, np.ones((1, 1)), [0], 0.0, sound=True, save=path)
    assert not sound.certified.any()
    # In real numbers, as the checker reads it, the prediction is another one than the model's.
    assert "another class has the greatest logit" in str(claims.rejection(path))


def test_exit_codes_and_words(certificates, tmp_path, capsys):
    path, found = certificates["dense", 0, "sound"]
    assert check.main([str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("accepted: 2 images, linf balls of radius 0.05 cut to [0, 1], sound")
    assert f"{found.certified.sum()} certified, 2 correct" in out
    arrays, header = claims.members(path)
    arrays["lower_1"][0, 0] -= 1
    assert check.main([str(claims.written(tmp_path / "c.npz", arrays, header))]) == 1
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
    assert sha256 == network_sha256(build(model))
    assert check.main([str(path), f"--network_sha256={sha256}"]) == 0
    assert check.main([str(path), f"--network_sha256={'0' * 64}"]) == 1
    assert "rejected: network: network_sha256" in capsys.readouterr().out
    assert network.main([f"--saved_model={tmp_path / 'none'}"]) == 2
    assert "eval.network: " in capsys.readouterr().err


def test_the_checker_imports_numpy_and_nothing_of_what_it_checks(certificates):
    """By its text, and by what is loaded once it has run as a command."""
    files = [ROOT / "eval" / "check.py", *sorted((ROOT / "eval" / "checker").glob("*.py"))]
    assert len(files) == 37
    found = set()
    for file in [ROOT / "eval" / "__init__.py", *files]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.level:
                # Its own modules: `from .checker` in check.py, `from .` within the checker.
                assert node.level == 1
                assert file.parent.name == "checker" or node.module == "checker"
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module)
    assert found == {
        *("__future__", "argparse", "collections.abc", "concurrent.futures", "copy", "csv"),
        *("fractions", "hashlib", "json", "math", "multiprocessing", "numpy", "os", "pathlib"),
        *("re", "struct", "subprocess", "sys", "tempfile", "time", "typing", "zipfile", "zlib"),
    }
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


def test_layers_with_nothing_between_them_are_bounded_by_their_product(tmp_path):
    """By intervals each would widen what the other leaves, and the claim would not follow."""
    model = keras.Sequential(
        [keras.Input((6,)), *(keras.layers.Dense(5) for _ in range(2)), keras.layers.ReLU()]
    )
    model.add(keras.layers.Dense(nets.CLASSES))
    nets.randomise(model, 0)
    x = nets.images(model, 2, seed=1)
    path = tmp_path / "product.npz"
    found = rt.certify(model, x, [0, 1], 0.05, sound=True, box=None, save=path)
    derived = derive.check(claim.read(path))
    assert np.abs(derived.margin_lower - found.margin_lower).max() < 1e-6
