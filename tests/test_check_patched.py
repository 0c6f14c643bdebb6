"""A library that closes what it must not is found out: ten faults, each put into it on purpose.

What is asked takes a search of several domains. With a fault the search ends too early, or on
numbers that are wrong; the proof that it writes then does not hold, and the checker says where.
"""

import dataclasses

import numpy as np
import pytest

from eval.checker import files
from eval.checker.rejection import RejectedError
from robustra_tf.evidence import layers
from robustra_tf.exact import Status, Verifier, bounding, leaves, proving
from tests import nets

pytestmark = pytest.mark.usefixtures("eager")


#: Seeds of networks and images, and radii, that are verified by searches of several domains.
SEARCHED = ((0, 0.2), (1, 0.4), (2, 0.4), (24, 0.2), (26, 0.3))


@pytest.fixture(scope="module")
def cases(eager):
    """Networks, images, labels and radii."""
    found = []
    for seed, eps in SEARCHED:
        model = nets.dense(seed)
        x = nets.images(model, 1, seed=seed)[0]
        found.append((model, x, int(model(x[None]).numpy().argmax()), eps))
    return found


def _bound_too_good(patch):
    """A domain is closed by more than its multipliers prove."""
    plain = leaves.Duals.bound

    def bound(self, *given):
        found = plain(self, *given)
        return found._replace(bound=found.bound + 0.5)

    patch.setattr(leaves.Duals, "bound", bound)


def _no_intercepts(patch):
    """The line above a ReLU goes through zero."""
    plain = leaves.Duals.__init__

    def init(self, *given):
        plain(self, *given)
        self._intercept = 0 * self._intercept

    patch.setattr(leaves.Duals, "__init__", init)


def _flat_chords(patch):
    """The line above a ReLU ends below it."""
    plain = leaves.Duals.__init__

    def init(self, *given):
        plain(self, *given)
        self._slope = np.where(self._free, 0.5 * self._slope, self._slope)
        self._intercept = 0.5 * self._intercept

    patch.setattr(leaves.Duals, "__init__", init)


def _smaller_set(patch):
    """The least over the set is that over half of it."""
    plain = leaves.Duals.__init__

    def init(self, restriction, region):
        plain(self, restriction, region)
        middle = 0.5 * (region.low + region.high)
        low, high = 0.5 * (region.low + middle), 0.5 * (region.high + middle)
        self._region = region._replace(low=low, high=high)

    patch.setattr(leaves.Duals, "__init__", init)


def _taken_to_be_active(patch):
    """Every third unstable unit is taken to be active."""
    plain = leaves.Duals.__init__

    def init(self, *given):
        plain(self, *given)
        active = np.flatnonzero(self._free)[::3]
        self._free[active] = False
        self._slope[active], self._intercept[active] = 1.0, 0.0

    patch.setattr(leaves.Duals, "__init__", init)


def _margins_too_good(patch):
    """Margins by rules are above 0 where they are not."""
    plain = layers.Layers.margins

    def margins(self, *given):
        found = plain(self, *given)
        return np.where(found < 0, 1e-4, found)

    patch.setattr(layers.Layers, "margins", margins)


def _multipliers_lost(patch):
    """Multipliers of phases are not written down."""
    plain = leaves.Named.leaf

    def leaf(self, *given):
        found = plain(self, *given)
        return dataclasses.replace(found, beta=0 * found.beta)

    patch.setattr(leaves.Named, "leaf", leaf)


def _slopes_of_others(patch):
    """Slopes are written down in another order."""
    plain = leaves.Named.slopes

    def slopes(self, alpha):
        found = plain(self, alpha)
        return found._replace(alpha=np.roll(found.alpha, 1, axis=-1))

    patch.setattr(leaves.Named, "slopes", slopes)


def _a_side_forgotten(patch):
    """The tree's sides are written down the wrong way round."""
    plain = proving.phase_tree

    def tree(*given):
        found = plain(*given)
        beta = found.beta[::-1].copy()
        split = found.split.copy()
        inner = split >= 0
        split[inner] = split[inner][::-1]
        return dataclasses.replace(found, split=split, beta=beta)

    patch.setattr(proving, "phase_tree", tree)


def _certified_too_good(patch):
    """The search of many domains at a time closes what is not positive."""
    kind = bounding.Bounding
    certified, climbed = kind.certified, kind.climbed

    def better(self, *given):
        found = climbed(self, *given)
        return dataclasses.replace(found, bound=found.bound + 0.5)

    patch.setattr(kind, "climbed", better)
    patch.setattr(kind, "certified", lambda *given: certified(*given) + 0.5)


FAULTS = {
    "bound too good": (_bound_too_good, "branch"),
    "no intercepts": (_no_intercepts, "branch"),
    "flat chords": (_flat_chords, "branch"),
    "smaller set": (_smaller_set, "branch"),
    "taken to be active": (_taken_to_be_active, "branch"),
    "margins too good": (_margins_too_good, "branch"),
    "multipliers lost": (_multipliers_lost, "branch"),
    "slopes of others": (_slopes_of_others, "branch"),
    "sides exchanged": (_a_side_forgotten, "branch"),
    "many at a time": (_certified_too_good, "batched"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_search_is_found_out(cases, fault, tmp_path, monkeypatch):
    put, solver = FAULTS[fault]
    put(monkeypatch)
    rejected = []
    for number, (model, x, label, eps) in enumerate(cases if solver == "branch" else cases[:2]):
        path = tmp_path / f"{number}.npz"
        verdict = Verifier(model, eps, solver=solver).verify(x, label, proof=path)
        if verdict.status is not Status.VERIFIED:
            continue
        try:
            files.check(path)
        except RejectedError as error:
            rejected.append(error)
    assert rejected
    assert {error.field for error in rejected} <= {"bound", "groups", "split"}


def test_without_faults_all_of_it_holds(cases, tmp_path):
    for solver in ("branch", "batched"):
        for model, x, label, eps in cases[:1]:
            path = tmp_path / "p.npz"
            Verifier(model, eps, solver=solver).verify(x, label, proof=path)
            (found,) = files.check(path).found
            assert found.verdict == "verified"
            assert found.leaves > 1
