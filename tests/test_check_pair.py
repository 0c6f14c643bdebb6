"""Certificates of pairs as files, and their checker: accepted as written, altered rejected."""

import json
import types
from fractions import Fraction

import numpy as np
import pytest

import robustra_tf as rt
from eval import check
from eval.checker import pair as checker
from eval.checker import pair_claim
from eval.checker.claim import UnreadableError
from eval.checker.rejection import RejectedError
from tests import claims, nets

pytestmark = pytest.mark.usefixtures("eager")
#: A network, a region of `claims.REGIONS`, a method and a mode of `claims.MODES`.
CASES = [
    ("dense", 0, "dual", "sound"),
    ("dense", 1, "dual", "float32"),
    ("dense", 2, "dual", "sound"),
    ("dense", 3, "dual", "float64"),
    ("two_conv", 0, "dual", "float64"),
    ("maxima", 0, "dual", "sound"),
    ("residual", 1, "dual", "sound"),
    ("dense", 0, "interval", "float32"),
    ("maxima", 0, "interval", "sound"),
    ("maxima", 1, "interval", "float64"),
    ("branches", 0, "interval", "sound"),
    ("batch_norm", 2, "interval", "sound"),
]


def made(folder, case):
    """The file of a certificate and what `certify` returned, of networks that mixes pay for."""
    name, region, method, mode = case
    norm, box, eps = claims.REGIONS[region]
    f, g = nets.ALL[name](1), nets.ALL[name](2)
    x = nets.images(f, 3, seed=claims.SEED)
    y = f(x).numpy().argmax(1)
    # Both networks leave the same targets open, so that a mix may exclude them.
    options = {"norm": norm, "box": box, **claims.MODES[mode]}
    ours, theirs = (rt.margin_bounds(each, x, y, eps, **options) for each in (f, g))
    last = g.layers[-1]
    last.bias.assign_add((theirs - ours)[0].astype(np.float32))
    path = folder / f"{name}-{region}-{method}-{mode}.npz"
    found = rt.certify(rt.Pair(f, g), x, y, eps, method=method, save=path, **options)
    return path, found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory, eager):
    folder = tmp_path_factory.mktemp("pairs")
    return {case: made(folder, case) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_certify_writes_is_accepted(certificates, case):
    path, found = certificates[case]
    derived = checker.check(pair_claim.read(path))
    np.testing.assert_array_equal(derived.certified, found.certified)
    np.testing.assert_array_equal(derived.answered, found.answered)
    limit = {"float32": 1e-3, "float64": 1e-8, "sound": 1e-6}[case[3]]
    assert np.abs(derived.margin_lower - found.margin_lower).max() < limit
    if case[3] == "sound":
        assert (found.margin_lower <= derived.margin_lower).all()


def test_mixes_of_both_networks_are_among_them(certificates):
    """Strictly between the ends, and better than either end."""
    mixed = 0
    for (_, _, method, _), (path, found) in certificates.items():
        mix = claims.members(path)[0]["mix"]
        inner = (mix > 0) & (mix < 1)
        if method == "interval":
            assert not inner.any()
            continue
        alone = np.maximum(found.f_margin, found.g_margin)
        assert (found.margin_lower >= alone).all()
        assert (found.margin_lower > alone)[inner].all()
        mixed += inner.sum()
    assert mixed > 10


def test_any_mix_is_valid_where_the_margin_is_its_own(certificates, tmp_path):
    """The optimum is not asked for: a poorer mix with the poorer margin is a certificate too."""
    path, _ = certificates["dense", 0, "dual", "sound"]
    arrays, header = claims.members(path)
    claim = pair_claim.read(path)
    for share in (0.0, 0.3, 1.0):
        poorer = claim._replace(mix=np.full_like(claim.mix, share))
        with pytest.raises(RejectedError) as error:
            checker.check(poorer)
        assert (error.value.layer, error.value.field) == ("pair", "margin_lower")
        sides = [
            checker._of_network(n, c, "dual", None) for n, c in (("f", claim.f), ("g", claim.g))
        ]
        arrays["mix"], arrays["margin_lower"] = poorer.mix, checker._follows(poorer, *sides)
        derived = checker.check(pair_claim.read(claims.written(tmp_path / "a.npz", arrays, header)))
        np.testing.assert_array_equal(derived.margin_lower, arrays["margin_lower"])


def altered(rng, arrays, header):
    """A certificate with one entry changed, and what was changed."""
    arrays, header = {k: v.copy() for k, v in arrays.items()}, json.loads(json.dumps(header))
    names = ["mix", "margin_lower", "x", "labels", "eps", "hash", "weight", "predicted", "margin"]
    bands = [name for name in ("lower", "upper", "slope", "intercept") if f"f/{name}_0" in arrays]
    kind, side = str(rng.choice([*names, *bands, *bands])), str(rng.choice(["f", "g"]))
    size = rng.choice([-1, 1]) * rng.uniform(0.02, 1)
    if kind == "eps":
        header["eps"] *= rng.choice([0.5, 0.9, 1.1, 2.0])
        return arrays, header, kind
    if kind == "hash":
        text, at = header[side]["network_sha256"], int(rng.integers(64))
        changed = f"{text[:at]}{(int(text[at], 16) + 1) % 16:x}{text[at + 1 :]}"
        header[side]["network_sha256"] = changed
        return arrays, header, kind
    known = {"weight": f"{side}/weight_", "predicted": f"{side}/predicted"}
    known |= {"margin": f"{side}/margin_lower"} | {name: f"{side}/{name}_" for name in bands}
    start = known.get(kind, kind)
    values = arrays[str(rng.choice([name for name in arrays if name.startswith(start)]))]
    at = tuple(int(rng.integers(n)) for n in values.shape)
    if kind in ("labels", "predicted"):
        values[at] = (values[at] + rng.integers(1, nets.CLASSES)) % nets.CLASSES
    elif kind == "x":
        values[at] += 0.2 if values[at] < 0.5 else -0.2
    elif kind == "mix":
        inner = np.argwhere((values > 0.05) & (values < 0.95))
        if not len(inner):
            values[at] = 1.5
        else:
            at = tuple(rng.choice(inner))
            values[at] = rng.choice([0.0, 1.0])
    else:
        values[at] += size * max(abs(values[at]), 0.1)
    return arrays, header, kind


def test_no_single_alteration_passes(certificates, tmp_path):
    rng = np.random.default_rng(5)
    loaded, kinds = [claims.members(path) for path, _ in certificates.values()], set()
    for trial in range(220):
        arrays, header, kind = altered(rng, *loaded[trial % len(loaded)])
        path = claims.written(tmp_path / "altered.npz", arrays, header)
        with pytest.raises(RejectedError) as error:
            pytest.fail(f"{kind} altered: accepted, {checker.check(pair_claim.read(path))}")
        kinds.add(kind)
        if kind in ("lower", "upper"):
            assert error.value.field == kind
            assert error.value.layer[:8] in ("f: ReLU ", "g: ReLU ")
        if kind == "mix":
            assert error.value.layer == "pair"
    assert kinds == {
        *("mix", "margin_lower", "x", "labels", "eps", "hash", "weight", "predicted", "margin"),
        *("lower", "upper", "slope", "intercept"),
    }


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "robustra_tf certificate"}, "format: expected"),
        ({"version": 2}, "version: expected 1"),
        ({"method": "crown"}, "method: expected one of dual, interval"),
        ({"eps": -1}, "eps: expected a finite number"),
        ({"box": [1, 0]}, "box: expected"),
        ({"f": {}}, "f: expected the fields"),
        ({"more": 1}, "header: expected the fields"),
        ({"method": "interval"}, "file: expected no further members"),
    ],
)
def test_a_file_that_is_no_certificate_is_one_line(certificates, tmp_path, change, text):
    arrays, header = claims.members(certificates[CASES[0]][0])
    path = claims.written(tmp_path / "a.npz", arrays, header | change)
    with pytest.raises(UnreadableError, match=text) as error:
        pair_claim.read(path)
    assert "\n" not in str(error.value)


def test_the_command_says_what_was_accepted(certificates, tmp_path, capsys):
    path, found = certificates[CASES[0]]
    assert check.main([str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "accepted: a pair, 3 images, linf balls of radius 0.05 cut to [0, 1], dual"
    )
    assert f"{found.certified.sum()} certified" in out
    hashes = out.split()[-1]
    assert check.main([str(path), f"--network_sha256={hashes}"]) == 0
    turned = ",".join(hashes.split(",")[::-1])
    assert check.main([str(path), f"--network_sha256={turned}"]) == 1
    assert "rejected: f: network: network_sha256" in capsys.readouterr().out
    assert check.main([str(path), f"--network_sha256={hashes[:64]}"]) == 1
    arrays, header = claims.members(path)
    arrays["mix"][:] = 1.5
    assert check.main([str(claims.written(tmp_path / "a.npz", arrays, header))]) == 1
    assert "rejected: pair: mix: leaves [0, 1]" in capsys.readouterr().out
    assert check.main([str(path), "--exact"]) == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "crown"}, "method must be one of dual, interval"),
        ({"inner": "interval"}, "inner must be dual where save is given"),
        ({"eps": np.full((1, 1), 0.1)}, "one radius for all images"),
        ({"x": np.zeros((0, 5), np.float32), "y": np.zeros(0, int)}, "at least one image"),
    ],
)
def test_what_has_no_file_is_refused(tmp_path, options, text):
    pair = rt.Pair(nets.dense(1), nets.dense(2))
    given = {"x": nets.images(pair.f, 1), "y": [0], "eps": 0.1, **options}
    with pytest.raises(ValueError, match=text):
        rt.certify(pair, **given, save=tmp_path / "a.npz")
    assert not (tmp_path / "a.npz").exists()


def test_mixed_rows_reach_as_far_as_both_and_what_each_may_be_off():
    rng = np.random.default_rng(0)

    def traced(more):
        rows = rng.normal(size=(2, 3, 4))
        support = lambda rows: 0.5 * np.abs(rows).sum(-1)  # noqa: E731, a ball of radius 1/2
        return types.SimpleNamespace(rows=rows, share=more, support=support)

    f, g = traced(1.25), traced(1.5)
    share = rng.uniform(size=(2, 3))
    found = checker._reached(f, g, share, 1 - share)
    part = share[..., None]
    own = 0.5 * np.abs(part * f.rows + (1 - part) * g.rows).sum(-1)
    off = 0.25 * (np.abs(part * f.rows) + np.abs((1 - part) * g.rows)).sum(-1)
    np.testing.assert_allclose(found, 1.5 * own + off, rtol=1e-12)


def test_a_mix_is_rounded_downward():
    """Against fractions; for shares from a half up the rest is an exact difference."""
    rng = np.random.default_rng(0)
    share = rng.uniform(0.5, 1.0, (60, 3))
    margins = rng.normal(size=(2, 60, 3))
    conditions = types.SimpleNamespace(group=np.zeros((60, 3)))
    claim = types.SimpleNamespace(mix=share, f=types.SimpleNamespace(conditions=conditions))
    sides = [
        types.SimpleNamespace(
            check=types.SimpleNamespace(sound=True),
            derived=types.SimpleNamespace(margin_lower=margin),
        )
        for margin in margins
    ]
    found = checker._follows(claim, *sides)
    for s, f, g, follows in zip(*map(np.ravel, (share, *margins, found)), strict=True):
        exact = Fraction(s) * Fraction(f) + (1 - Fraction(s)) * Fraction(g)
        assert exact - Fraction(1, 10**12) < Fraction(follows) <= exact
