"""Proofs of verdicts: what holds is accepted, and nothing else."""

import json
import types
import zipfile
from fractions import Fraction

import numpy as np
import pytest

from eval import check
from eval.checker import claim, files, knowledge, lines, network, proof, sets, steps, trees
from eval.checker.rejection import RejectedError
from eval.checker.steps import margins
from tests import alterations, proof_cases

EXACT, FLOAT32 = files.Options(exact=True), files.Options(float32=True)


@pytest.fixture(scope="module")
def cases():
    """One proof of every kind by name; not to be changed."""
    found = proof_cases.several()
    assert all(found.values())
    return found


def _checked(path, made, options=files.PLAIN):
    return files.check(proof_cases.written(path, *made), options)


def test_what_holds_is_accepted_in_every_arithmetic(cases, tmp_path):
    path = tmp_path / "p.npz"
    for name, made in cases.items():
        (found,) = _checked(path, made).found
        (small,) = _checked(path, made, FLOAT32).found
        (exact,) = _checked(path, made, EXACT).found
        assert found.verdict == made[0]["examples"][0]["verdict"], name
        assert 0 <= small.bound < found.bound <= exact.bound
        assert found.leaves == exact.leaves


def test_fractions_agree_with_float64_rounded_outward(tmp_path):
    """On 50 proofs: never below, and close; the bound holds for the network at points as well."""
    path, count, trees = tmp_path / "p.npz", 0, 0
    rng = np.random.default_rng(0)
    for seed in range(26):
        for name in proof_cases.NETWORKS:
            made = proof_cases.by_phases(name, seed, (0.05, 0.1, 0.2)[seed % 3])
            if made is None:
                continue
            read, (found,) = _checked(path, made)
            _, (exact,) = _checked(path, made, EXACT)
            assert exact.bound >= found.bound
            assert float(exact.bound) == pytest.approx(found.bound, abs=1e-9)
            count, trees = count + 1, trees + len(made[0]["examples"][0]["trees"])
            one = read.examples[0]
            x = one.x + one.radius * rng.choice([-1, 1], (200, *one.x.shape))
            logits = proof_cases.evaluate(read.nodes, np.clip(x, 0, 1))
            least = -(logits @ one.asked.rows.T)
            # Of every other class its own margin, of which the bound is the least.
            assert least.min() >= found.bound
    assert count >= 50
    assert trees >= 5


@pytest.fixture(scope="module")
def spread(cases):
    """The kinds whose trees are of phases, with several leaves."""
    return [name for name in cases if name.startswith("phases")]


def test_400_single_alterations_are_rejected_each_for_its_reason(cases, tmp_path):
    rng = np.random.default_rng(5)
    path, done, tried = tmp_path / "p.npz", dict.fromkeys(alterations.KINDS, 0), 0
    pairs = [(kind, name) for kind in alterations.KINDS for name in cases]
    order = rng.permutation(len(pairs))
    while sum(done.values()) < 400:
        kind, name = pairs[order[tried % len(pairs)]]
        tried += 1
        altered = alterations.Altered(cases[name], rng)
        expected = getattr(altered, kind)()
        if expected is None:
            continue
        with pytest.raises((RejectedError, claim.UnreadableError)) as error:
            pytest.fail(f"{kind} of {name}: {_checked(path, (altered.header, altered.arrays))}")
        field = getattr(error.value, "field", "unreadable")
        fields, words = expected
        fields = (fields,) if isinstance(fields, str) else fields
        assert field in fields, f"{kind} of {name}: {error.value}"
        assert words in str(error.value), f"{kind} of {name}: {error.value}"
        done[kind] += 1
    assert min(done.values()) >= 2, done


def test_phases_that_are_flipped_are_judged_as_fractions_judge_them(cases, spread, tmp_path):
    """The multipliers of two sides exchanged: valid ones, of another proof, good or not."""
    rng, path = np.random.default_rng(1), tmp_path / "p.npz"
    verdicts = []
    for name in spread:
        for _ in range(6):
            header, arrays = cases[name][0], {k: v.copy() for k, v in cases[name][1].items()}
            split = arrays["0/t0/split"]
            if len(split) < 3:
                continue
            first, second = rng.choice(len(arrays["0/t0/alpha"]), 2, replace=False)
            for part in ("alpha", "weight"):
                rows = arrays[f"0/t0/{part}"]
                rows[[first, second]] = rows[[second, first]]
            beta = arrays["0/t0/beta"]
            beta[:] = beta[rng.permutation(len(beta))] * 3
            path = proof_cases.written(path, header, arrays)
            outcomes = []
            for options in (files.PLAIN, EXACT):
                try:
                    files.check(path, options)
                    outcomes.append(True)
                except RejectedError as error:
                    outcomes.append((error.field, error.layer.partition(" (")[0]))
            assert outcomes[0] == outcomes[1]
            assert outcomes[0] is True or outcomes[0][0] == "bound"
            verdicts.append(outcomes[0] is True)
    assert not all(verdicts)


def test_files_that_are_cut_off_or_damaged_are_refused(cases, tmp_path):
    rng = np.random.default_rng(2)
    path = proof_cases.written(tmp_path / "whole.npz", *cases["phases"])
    content, cut = path.read_bytes(), tmp_path / "cut.npz"
    for end in rng.integers(0, len(content), 40):
        cut.write_bytes(content[:end])
        with pytest.raises(claim.UnreadableError):
            files.check(cut)
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        damaged[int(rng.integers(len(content)))] ^= int(rng.integers(1, 256))
        cut.write_bytes(bytes(damaged))
        try:
            files.check(cut)
        except (claim.UnreadableError, RejectedError):
            refused += 1
    assert refused > 30


def _header(made, change):
    header = json.loads(json.dumps(made[0]))
    change(header)
    return header, made[1]


def _without_weights(header):
    first = next(node for node in header["network"] if node["op"] == "dense")
    first["weights"] = []


HEADERS = {
    "version": (lambda h: h.update(version=2), "version: expected 1, got 2"),
    "field": (lambda h: h.update(more=1), "header: expected the fields"),
    "examples": (lambda h: h.update(examples={}), "examples: expected a list"),
    "example": (lambda h: h["examples"][0].pop("eps"), r"examples\[0\]: expected the fields"),
    "verdict": (lambda h: h["examples"][0].update(verdict="true"), "verdict: expected one of"),
    "eps": (lambda h: h["examples"][0].update(eps=-1), r"eps: expected finite, >= 0"),
    "eps text": (lambda h: h["examples"][0].update(eps="1"), r"eps: expected a finite number"),
    "norm": (lambda h: h["examples"][0].update(norm=["linf"]), "norm: expected one of"),
    "box": (lambda h: h["examples"][0].update(box=[1, 0]), "box: expected two numbers"),
    "label": (lambda h: h["examples"][0].update(label=3), "label: expected a class below 3"),
    "bool": (lambda h: h["examples"][0].update(label=True), "label: expected a class below 3"),
    "position": (lambda h: h["examples"][0].update(position=-1), "position: expected a whole"),
    "bounds": (lambda h: h["examples"][0].update(bounds=3), "bounds: expected a list of steps"),
    "step": (lambda h: h["examples"][0].update(bounds=[[9, "wk"]]), r"bounds\[0\]: expected"),
    "rule": (lambda h: h["examples"][0].update(bounds=[[0, "milp"]]), r"bounds\[0\]: expected"),
    "rows": (
        lambda h: h["examples"][0].update(bounds=[[0, "rows", 1]]),
        "rows of a number up to 0",
    ),
    "margins": (lambda h: h["examples"][0].update(margins=["lp"]), "margins: expected a list"),
    "tree": (lambda h: h["examples"][0].update(trees=[1]), r"trees\[0\]: expected an object"),
    "kind": (lambda h: h["examples"][0].update(trees=[{"kind": []}]), "expected kind phases"),
    "group": (lambda h: h["examples"][0]["trees"][0].update(group=7), "the number of a group"),
    "deep": (lambda h: h["network"].append(h["network"][1] | {"inputs": [99]}), "inputs below"),
    "no kernel": (_without_weights, "a kernel of 2 axes, perhaps a bias"),
    "nothing": (lambda h: h["network"][0].update(shape=[0]), "whole numbers from 1 on, got"),
    "open": (lambda h: h["examples"][0].update(verdict="open"), "no proof of what is not"),
    "shared": (lambda h: h.update(network=None), "network.npz: file: cannot be read"),
}


@pytest.mark.parametrize("change", HEADERS)
def test_headers_that_are_refused(cases, tmp_path, change):
    edit, message = HEADERS[change]
    made = _header(cases["phases"], edit)
    with pytest.raises(claim.UnreadableError, match=message):
        _checked(tmp_path / "p.npz", made)


def test_members_that_are_refused(cases, tmp_path):
    header, arrays = cases["phases"]
    path = tmp_path / "p.npz"

    def refused(changed, match):
        with pytest.raises(claim.UnreadableError, match=match):
            _checked(path, (header, arrays | changed))

    refused({"more": np.zeros(1)}, "no further members")
    refused({"0/x": np.zeros(5)}, "0/x: expected shape")
    refused({"0/x": np.full(4, np.nan)}, "0/x: expected finite numbers")
    refused({"0/x": np.array(["a"] * 4)}, "0/x: expected numbers of type")
    refused({"0/t0/split": np.int32([10**6])}, "units below 11")
    refused({"0/t0/split": np.int32([-2])}, "units below 11")
    refused({"0/t0/split": np.zeros(0, np.int32)}, "not empty")
    refused({"0/t0/weight": np.zeros((2, 2), np.float32)}, "expected shape")
    refused({"0/t0/alpha": np.zeros((1, 1), np.float32)}, "expected shape")
    # A chain of splits: its paths have the square of its length, and are not written out.
    deep = np.append(np.arange(10**5, dtype=np.int32) % 11, np.full(10**5 + 1, -1, np.int32))
    with pytest.raises(RejectedError, match=r"twice on its path|no multiplier"):
        _checked(path, (header, arrays | {"0/t0/split": deep}))


def test_what_would_inflate_without_end_is_refused(cases, tmp_path):
    path = proof_cases.written(tmp_path / "p.npz", *cases["phases"])
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("more.npy", "w", force_zip64=True) as stream,
    ):
        for _ in range(2**8 + 1):
            stream.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(claim.UnreadableError, match="bytes inflated"):
        files.check(path)


def test_a_network_that_proofs_share(cases, tmp_path):
    header, arrays = cases["boxes"]
    weights = {k: v for k, v in arrays.items() if k.startswith("weight_")}
    rest = {k: v for k, v in arrays.items() if k not in weights}
    proof_cases.written(tmp_path / "network.npz", header | {"examples": []}, weights)
    path = proof_cases.written(tmp_path / "0000000.npz", header | {"network": None}, rest)
    assert files.check(path).found[0].leaves > 10
    other = proof_cases.conv(5)
    proof_cases.written(tmp_path / "network.npz", *proof_cases.file(*other, [], {}))
    with pytest.raises((claim.UnreadableError, RejectedError)):
        files.check(path)
    forged = proof_cases.file(*other, [], {})[0] | {"network_sha256": "0" * 64}
    proof_cases.written(
        tmp_path / "network.npz", forged, {f"weight_{k}": w for k, w in enumerate(other[1])}
    )
    with pytest.raises(claim.UnreadableError, match="network_sha256"):
        files.check(path)


def test_rows_that_trees_share_are_those_of_one(cases, tmp_path):
    """Named again they count again, unless they lean on one tree's margins."""
    header, arrays = proof_cases.by_rows("dense", 0)
    text = header["examples"][0]
    groups = [k for k in range(proof_cases.CLASSES) if k != text["label"]]
    steps = text["bounds"]
    text |= {"bounds": steps[:-1], "margins": []}
    text["trees"] = [{"kind": "phases", "group": g, "bounds": steps[-1:]} for g in groups]
    none, one = np.zeros(0, np.float32), np.ones((1, 1), np.float32)
    for k in range(2):
        arrays |= {f"0/t{k}/split": np.int32([-1]), f"0/t{k}/weight": one, f"0/t{k}/beta": none}
        arrays |= {f"0/t{k}/unit": np.zeros(0, np.int32), f"0/t{k}/alpha": np.zeros((1, 0), "f4")}
    path = tmp_path / "p.npz"
    assert _checked(path, (header, arrays)).found[0].leaves == 2
    weight = np.zeros((len(arrays["0/r0/neuron"]), 1), np.float32)
    with pytest.raises(claim.UnreadableError, match="rows without weights"):
        _checked(path, (header, arrays | {"0/r0/weight": weight}))
    for place in (-1, 10_000):
        wrong = arrays["0/r0/neuron"].copy()
        wrong[0] = place
        with pytest.raises(claim.UnreadableError, match="r0/neuron: expected places below"):
            _checked(path, (header, arrays | {"0/r0/neuron": wrong}))
    text["trees"][1]["bounds"] = []
    assert _checked(path, (header, arrays | {"0/r0/weight": weight})).found[0].leaves == 2
    text["trees"][1]["bounds"] = [[0, "rows", 0]]
    with pytest.raises(claim.UnreadableError, match="rows of ReLU 1"):
        _checked(path, (header, arrays))


def test_the_command_accepts_and_rejects(cases, tmp_path, capsys):
    path = str(proof_cases.written(tmp_path / "p.npz", *cases["phases"]))
    assert check.main([path, "--float32"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("accepted: 1 examples, linf ball of radius 0.3 cut to [0, 1], real numb")
    sha256 = cases["phases"][0]["network_sha256"]
    assert "1 verified (" in out
    assert out.endswith(f"network {sha256}\n")
    assert check.main([path, f"--network_sha256={sha256}", "--exact"]) == 0
    assert check.main([path, f"--network_sha256={'0' * 64}"]) == 1
    assert "rejected: network: network_sha256" in capsys.readouterr().out
    arrays = dict(cases["phases"][1])
    arrays["0/t0/alpha"] = arrays["0/t0/alpha"] + np.float32(1.5)
    proof_cases.written(path, cases["phases"][0], arrays)
    assert check.main([path]) == 1
    assert "rejected: example 0: tree 0, leaf 0: alpha: unit 0" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        check.main([path, "--exact", "--float32"])


def test_square_roots_have_no_fractions(tmp_path):
    operations, weights = proof_cases.dense(0)
    epsilon = {"op": "batch_norm", "epsilon": 1e-3, "parts": ["mean", "variance"]}
    count = len(weights)
    operations.append(epsilon | {"inputs": [len(operations) - 1], "weights": [count, count + 1]})
    weights += [np.zeros(3, np.float32), np.ones(3, np.float32)]
    made = proof_cases.file(operations, weights, [], {})
    assert _checked(tmp_path / "p.npz", made).found == ()
    with pytest.raises(RejectedError, match="no square root"):
        _checked(tmp_path / "p.npz", made, EXACT)


def test_one_logit_has_no_rival_for_a_label():
    members = types.SimpleNamespace()
    with pytest.raises(network.WrongError, match="label: expected a class below 1"):
        proof._property("examples[0]", {"label": 0}, members, 1)


def test_nothing_is_known_where_numbers_overflow_or_are_none():
    subject = types.SimpleNamespace(rounding=types.SimpleNamespace(exact=False))
    known = types.SimpleNamespace(subject=subject, safe=np.array([True, False, True]))
    found = np.array([[1.0, 2.0], [3.0, 4.0], [np.nan, np.inf]])
    expected = [[1.0, 2.0], [-np.inf] * 2, [-np.inf] * 2]
    np.testing.assert_array_equal(steps._kept(known, found), expected)


def test_a_stable_relu_adds_nothing_and_no_other_line_is_too_low():
    """Against fractions: `slope z + intercept` is above the ReLU at both ends."""
    lower = np.array([-3.0, -1.0, -1e-9, 0.0, 2.0, -1.0, -1.0, -0.7])
    upper = np.array([-1.0, 0.0, 0.0, 1.0, 5.0, 0.0, 2.0, 0.1])
    slope = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 0.3, 0.9, 1.0])
    found = lines.intercept(slope, lower, upper, False)
    np.testing.assert_array_equal(found[:5], 0.0)
    for d, b, *ends in zip(slope[5:], found[5:], lower[5:], upper[5:], strict=True):
        left = [max(Fraction(z), 0) - Fraction(d) * Fraction(z) for z in ends]
        assert max(left) < Fraction(b) < max(left) + Fraction(1, 10**12)


@pytest.mark.parametrize("side", ["low", "high"])
def test_one_wall_that_is_no_number_is_refused(cases, tmp_path, side):
    header, arrays = cases["property"]
    walls = arrays[f"0/{side}"].copy()
    walls.flat[1] = np.nan
    with pytest.raises(claim.UnreadableError, match="box: expected numbers"):
        _checked(tmp_path / "p.npz", (header, arrays | {f"0/{side}": walls}))


def test_one_number_that_is_too_large_is_enough():
    values = np.ones((3, 2, 2))
    values[1, 0, 1], values[2] = 2e38, np.nan
    np.testing.assert_array_equal(knowledge._kept(values), [True, False, False])


@pytest.mark.parametrize("norm", ["linf", "l1", "l2"])
def test_whether_a_point_is_in_its_set_is_what_fractions_say(norm):
    """At radii that are the distance itself, next to it, and far off."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        x, moved = rng.normal(size=(2, int(rng.integers(1, 6))))
        point = x + moved
        apart = [abs(Fraction(a) - Fraction(b)) for a, b in zip(point, x, strict=True)]
        power = 2 if norm == "l2" else 1
        size = max(apart) if norm == "linf" else sum(a**power for a in apart)
        radius = float(size) ** (1 / power)
        radius *= rng.choice([1, 1 + 2**-52, 1 - 2**-53, 1 + 1e-13, 1 - 1e-13, 1.1, 0.9])
        expected = size <= Fraction(radius) ** power
        reach = np.full(len(x) if norm == "linf" else 1, radius)
        assert sets.within(norm, x, reach, None, point) == expected
        inside += expected
        walls = point - 1, np.where(np.arange(len(x)) == 0, point - 2.0**-40, point + 1)
        assert not sets.within(norm, x, reach, walls, point)
    assert 100 < inside < 200


def test_bounds_that_leave_nothing_between_them_close_a_tree(tmp_path):
    """Rows that lean on margins which are above 0: there is no input where none of them is."""
    case = proof_cases.Case("dense", 0, 0.02)
    known = case.known()
    assert (margins(known, case.asked, "crown")[0] > 0).all()
    groups = [int(g) for g in case.groups]
    none = {"unit": np.zeros(0, np.int32), "beta": np.zeros(0, np.float32)}
    case.text["margins"] = []
    for k, group in enumerate(groups):
        case.text["trees"].append({"kind": "phases", "group": group, "bounds": [[1, "rows", k]]})
        rows = {"neuron": np.int32([0, 0]), "end": np.int8([1, -1]), "unit": none["unit"]}
        rows |= {"alpha": np.zeros((2, 0), "f4"), "weight": np.full((2, 1), 1e4, "f4")}
        tree = none | {"split": np.int32([-1]), "alpha": np.zeros((1, 0), "f4")}
        tree |= {"weight": np.zeros((1, 1), np.float32)}
        for name, parts in ((f"r{k}", rows), (f"t{k}", tree)):
            case.arrays |= {f"0/{name}/{key}": value for key, value in parts.items()}
    header, arrays = case.file()
    for options in (files.PLAIN, FLOAT32, EXACT):
        (found,) = _checked(tmp_path / "p.npz", (header, arrays), options).found
        assert found.verdict == "verified"
        assert found.leaves == 0
        assert found.bound > 0
    arrays["0/r0/weight"] = np.zeros((2, 1), np.float32)
    with pytest.raises(RejectedError, match="bound: what follows"):
        _checked(tmp_path / "p.npz", (header, arrays))


@pytest.mark.parametrize("at", [0.0, 1.0, np.nan])
def test_a_box_is_not_split_at_its_own_faces(at):
    leaf = np.array([True])
    tree = types.SimpleNamespace(
        split=np.array([0, trees.LEAF, trees.LEAF]),
        at=np.array([at, 0.0, 0.0]),
        closes=np.array([~leaf, leaf, leaf]),
        groups=[0],
    )
    region = types.SimpleNamespace(low=np.zeros((1, 2)), high=np.ones((1, 2)))
    with pytest.raises(RejectedError, match="not within its interval"):
        list(trees.closing(tree, region, "tree"))
    tree.at[0] = 0.5
    assert len(list(trees.closing(tree, region, "tree"))) == 2
