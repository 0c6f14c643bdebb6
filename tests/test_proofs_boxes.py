"""Proofs of searches that split inputs: trees of boxes that the checker derives again."""

import itertools
import json

import keras
import numpy as np
import pytest

import robustra_tf as rt
from eval import check, verify
from eval.checker import files
from eval.checker.rejection import RejectedError
from robustra_tf.exact import Decider, Status, Verifier
from robustra_tf.exact.boxtree import BoxRecord
from robustra_tf.exact.regions import Regions
from tests import nets

pytestmark = pytest.mark.usefixtures("eager")


def asked(seed):
    """A network, and conditions on its outputs that take some boxes to exclude."""
    model = nets.dense(seed)
    x = nets.images(model, 1, seed=seed)
    logits = model(x).numpy()[0]
    rows = np.eye(3)[[0, 1], :]
    both = [(rows[:1], logits[:1] - 0.4), (rows, logits[:2] - 0.3)]
    low, high = np.clip(x - 0.25, 0, 1), np.clip(x + 0.25, 0, 1)
    return model, rt.Property(low, high, rt.unreachable(*both))


@pytest.fixture(scope="module")
def searched(eager):
    """Networks and properties that are verified by several boxes."""
    found = []
    for seed in range(40):
        model, given = asked(seed)
        verdict = Verifier(model, box=None, solver="split", time_limit=5.0).verify(given)
        if verdict.status is Status.VERIFIED and 8 <= verdict.nodes < 200:
            found.append((model, given))
        if len(found) == 3:
            return found
    raise AssertionError("no network takes several boxes")


def proven(model, given, path):
    verifier = Verifier(model, box=None, solver="split", time_limit=20.0)
    return verifier.verify(given, proof=path)


def header(path):
    return json.loads(np.load(path)["header"].tobytes())["examples"][0]


def test_boxes_are_accepted_in_every_arithmetic(searched, tmp_path):
    path, leaves = tmp_path / "proof.npz", []
    for model, given in searched:
        verdict = proven(model, given, path)
        assert verdict.status is Status.VERIFIED
        (tree,) = header(path)["trees"]
        assert tree["kind"] == "boxes"
        assert header(path)["stage"] == verdict.search == "split"
        for options in (files.PLAIN, files.Options(float32=True)):
            (found,) = files.check(path, options).found
            assert found.verdict == "verified"
            leaves.append(found.leaves)
    assert min(leaves) > 2
    (exact,) = files.check(path, files.Options(exact=True)).found
    assert exact.leaves == leaves[-1]


def test_images_of_few_pixels_and_many_units_are_split_by_auto(tmp_path):
    """Whatever decides them: what is written is accepted."""
    path, kinds = tmp_path / "proof.npz", set()
    for seed in range(3):
        layers = [keras.layers.Dense(units, "relu") for units in (40, 30)]
        model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(3)])
        model = nets.randomise(model, seed)
        x = nets.images(model, 1, seed=seed)[0]
        label = int(model(x[None]).numpy().argmax())
        verdict = Verifier(model, 0.05, time_limit=10.0).verify(x, label, proof=path)
        if verdict.status is Status.VERIFIED:
            assert files.check(path).found[0].verdict == "verified"
            kinds |= {tree["kind"] for tree in header(path)["trees"]}
    assert kinds == {"boxes"}


def _all_closed(patch):
    """Every group counts as closed on every box."""
    plain = BoxRecord.close
    patch.setattr(BoxRecord, "close", lambda self, node, own: plain(self, node, own | True))


def _sides_exchanged(patch):
    """Halves are written down the wrong way round."""
    plain = BoxRecord.split

    def split(self, *given):
        above, below = np.split(plain(self, *given), 2)
        return np.concatenate([below, above])

    patch.setattr(BoxRecord, "split", split)


def _halves_lost(patch):
    """Of all halves those below are never looked at."""
    plain = Regions.halves

    def halves(self, *given):
        found = plain(self, *given)
        return found.take(slice(found.boxes // 2))

    patch.setattr(Regions, "halves", halves)


def _split_elsewhere(patch):
    """Another entry is written down than the one that is split."""
    plain = BoxRecord.split
    patch.setattr(
        BoxRecord, "split", lambda self, n, entry, at: plain(self, n, (entry + 1) % 4, at)
    )


FAULTS = {
    "all closed": (_all_closed, {"bound"}),
    "sides exchanged": (_sides_exchanged, {"bound", "at", "closes"}),
    "halves lost": (_halves_lost, {"closes"}),
    "split elsewhere": (_split_elsewhere, {"bound", "at", "closes"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_search_is_found_out(searched, fault, tmp_path, monkeypatch):
    put, fields = FAULTS[fault]
    put(monkeypatch)
    rejected = []
    for number, (model, given) in enumerate(searched):
        path = tmp_path / f"{number}.npz"
        if proven(model, given, path).status is Status.VERIFIED:
            try:
                files.check(path)
            except RejectedError as error:
                rejected.append(error)
    assert rejected
    assert {error.field for error in rejected} <= fields
    assert all("node" in error.layer for error in rejected)


def test_a_record_is_a_tree_in_preorder():
    record = BoxRecord(1)
    above, below = record.split(np.array([0]), np.array([2]), np.array([0.5]))
    upper, lower = record.split(np.array([below]), np.array([1]), np.array([0.25]))
    record.close(np.array([lower, above, upper]), np.ones((3, 1), bool))
    tree = record.tree((7,), (), ("crown",))
    assert tree.split.tolist() == [2, -1, 1, -1, -1]
    assert tree.at.tolist() == [0.5, 0.25]
    assert tree.closes.ravel().tolist() == [0, 1, 0, 1, 1]


def test_what_a_set_is_said_of_does_not_depend_on_the_sets_beside_it():
    """The checker derives boxes together and alone, with the same ends."""
    from eval.checker.knowledge import Knowledge
    from eval.checker.sets import Region
    from eval.checker.steps import Step, follow
    from tests import proof_cases

    case, rng = proof_cases.Case("dense", 3, 0.3), np.random.default_rng(0)
    low = rng.uniform(-1, 1, (6, 4))
    high = low + rng.uniform(0, 0.5, (6, 4))
    steps = [Step(k, rule, None) for k, rule in case.bounds]

    def ends(which):
        known = Knowledge(case.subject, Region(low[which], high[which]))
        follow(known, steps)
        return [end for both in known.bounds for end in both]

    whole = ends(slice(None))
    for at in range(6):
        for both, alone in itertools.zip_longest(whole, ends(slice(at, at + 1))):
            np.testing.assert_allclose(both[at], alone[0], rtol=1e-12, atol=1e-12)


def test_a_property_of_several_boxes_is_proven_in_one_file(searched, tmp_path):
    """All boxes of it, by their numbers; or the counterexample, wherever it was found."""
    path = tmp_path / "proof.npz"
    model, given = searched[0]
    two = rt.Property(
        np.concatenate([given.lower, given.lower]),
        np.concatenate([given.upper, 0.5 * (given.lower + given.upper)]),
        given.output.take(np.zeros(2, int)),
    )
    verdict = Decider(model).decide(two, 30.0, proof=path)
    assert verdict.status is Status.VERIFIED
    read, found = files.check(path)
    assert [one.verdict for one in found] == ["verified"] * 2
    assert [one.position for one in read.examples] == [0, 1]
    np.testing.assert_array_equal(read.examples[0].walls[0], given.lower[0].astype(np.float32))
    wrong = rt.Property(given.lower, given.upper, rt.above(0, 100.0))
    assert Decider(model).decide(wrong, 30.0, proof=path).status is Status.FALSIFIED
    (found,) = files.check(path).found
    assert found.verdict == "falsified"
    with pytest.raises(ValueError, match="proof: expected a file"):
        Decider(model).decide(two, 30.0, proof=tmp_path)


def test_the_command_proves_its_answers(searched, tmp_path, capsys):
    """What it prints is what the checker accepts, of the weights in the file that was asked."""
    model, given = searched[0]
    network, asked_, proof = (tmp_path / name for name in ("net.onnx", "p.vnnlib", "p.npz"))
    rt.onnx.save(model, network)
    given.to_vnnlib(asked_, 3)
    assert verify.main([str(network), str(asked_), "--timeout=30", f"--proof={proof}"]) == 0
    assert capsys.readouterr().out == "unsat\n"
    assert check.main([str(proof), f"--weights={network}"]) == 0
    assert "1 verified (" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        verify.main([str(network), str(asked_), f"--proof={tmp_path}"])
