"""Adversarial examples that are kept: each one real, the right ones, and none lost."""

import shutil

import numpy as np
import pytest

from eval import ledger, report, witnesses
from eval.cascade import Decisions, Examples
from eval.rows import Status
from robustra_tf import data
from tests.evaluations import (
    COUNT,
    RADIUS,
    digits_network,
    evaluate,
    save,
)


@pytest.fixture(scope="module")
def network():
    return digits_network()


@pytest.fixture(scope="module")
def finished(network, tmp_path_factory):
    """The directory of an evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "build", lambda out, **options: out)  # no page is wanted
        out = tmp_path_factory.mktemp("finished")
        saved = save(network, tmp_path_factory.mktemp("model") / "f")
        evaluate(saved, out, stages=["clean", "pgd", "lp"], attack_steps=10)
    return out


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(finished, tmp_path / "copy")


def test_every_adversarial_example_kept_is_one(finished, network):
    stored = ledger.read(finished)
    kept = witnesses.read(finished, stored.identity)
    falsified = [i for i, row in stored.rows.items() if row.status is Status.FALSIFIED]
    assert [w.index for w in kept] == falsified[: witnesses.MOST]
    assert len(kept) >= 6
    images, labels = data.load("digits", "test", COUNT)
    for w in kept:
        np.testing.assert_array_equal(w.image, images[w.index])
        point = w.adversarial.astype(np.float64)
        assert np.abs(point - w.image.astype(np.float64)).max() <= RADIUS
        assert point.min() >= 0
        assert point.max() <= 1
        predicted = network(w.adversarial[None]).numpy().argmax()
        assert w.predicted == predicted != w.label == labels[w.index]
        assert w.stage == "pgd"


def falsify(model, count):
    """Images, their labels by the model, and points of another class nearby."""
    images, _ = data.load("digits", "test", count)
    labels = model(images).numpy().argmax(axis=1)
    moved = np.roll(images, 1, axis=0)
    return images, labels, moved, model(moved).numpy().argmax(axis=1) != labels


def test_nothing_is_kept_that_is_no_adversarial_example(network, tmp_path):
    images, labels, moved, other = falsify(network, 40)
    identity = {"eps": 1.0, "norm": "linf", "box": (0.0, 1.0)}
    kept = witnesses.Witnesses(tmp_path, identity, network)
    moved[0], moved[1], moved[2, 0, 0, 0] = images[0], np.nan, -1e-7
    other[:3] = False
    assert 0 < other.sum() < 40
    indices = np.arange(100, 140)
    chosen = np.flatnonzero(~other)
    assert kept.add("milp", indices[chosen], images[chosen], labels[chosen], moved[chosen]) == 0
    assert not (tmp_path / "witnesses.npz").exists()
    assert kept.add("milp", indices, images, labels, moved) == other.sum()
    found = witnesses.read(tmp_path, identity)
    assert [w.index for w in found] == indices[other][: witnesses.MOST].tolist()
    # The same points at a radius that they are beyond.
    small = witnesses.Witnesses(tmp_path, identity | {"eps": 0.1}, network)
    assert small.add("milp", indices, images, labels, moved) == 0


def test_the_lowest_indices_of_each_stage_are_kept_in_any_order(network, tmp_path):
    images, labels, moved, other = falsify(network, 60)
    images, labels, moved = images[other], labels[other], moved[other]
    identity = {"eps": 1.0, "norm": "linf", "box": [0.0, 1.0]}
    order = np.random.default_rng(0).permutation(len(images))
    for k, part in enumerate(np.array_split(order, 5)):
        kept = witnesses.Witnesses(tmp_path, identity, network, resume=k > 0)
        status = [Status.FALSIFIED if i % 2 else Status.UNKNOWN for i in part]
        examples = Examples(part, images[part], labels[part])
        kept.keep("pgd", Decisions(examples, status, None, None, None, 0.0, moved[part]))
        kept.keep("lp", Decisions(examples, status, None, None, None, 0.0))
        kept.add("milp", part[:1], images[part[:1]], labels[part[:1]], moved[part[:1]])
    found = witnesses.read(tmp_path, identity)
    odd = list(range(1, len(images), 2))[: witnesses.MOST]
    assert [w.index for w in found if w.stage == "pgd"] == odd
    assert len([w for w in found if w.stage == "milp"]) == 5
    np.testing.assert_array_equal([w.adversarial for w in found if w.stage == "pgd"], moved[odd])
    # A new evaluation begins without them, and another's are not read.
    assert witnesses.read(tmp_path, identity | {"seed": 1}) == []
    witnesses.Witnesses(tmp_path, identity, network)
    assert not (tmp_path / "witnesses.npz").exists()


def test_a_changed_file_is_not_believed(copy):
    identity = ledger.read(copy).identity
    path = copy / "witnesses.npz"
    with np.load(path) as file:
        columns = dict(file)
    columns["adversarial"][1, 0, 0, 0] += 1
    columns["predicted"][2] = columns["label"][2]
    np.savez(path, **columns)
    kept = witnesses.read(copy, identity)
    assert [w.index for w in kept] == np.delete(columns["index"], [1, 2]).tolist()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"witnesses\.npz: damaged"):
        witnesses.read(copy, identity)
