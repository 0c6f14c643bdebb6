"""The methods of training, one table: what each is trained on, takes, needs and measures.

Flags, presets, checks, histories and the step follow from it. `pieces.py` beside it has what
recipes add to any method. Nothing here imports TensorFlow, so that a setting can be checked before
the seconds of that import are spent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from robustra_tf.vocabulary import NORMS, TRAINED_INNER

_DUAL = ("robust_error", "wk_error", "unstable")
_REFERENCE = ("eta", "t0", "infeasible", "tight", "loose", "excluded")


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of training.

    Attributes:
      name: of the method.
      bound: what its loss is a function of: Wong and Kolter's `dual`, `interval` bounds, or None.
      measures: what a step measures beside `loss` and `clean_error`; `unstable` of every ReLU.
      needs_reference: whether attacks are bounded within the reference space of another network.
      norms: of the balls that it takes.
      inner: what it may take the bounds of inner layers from.
      attacks: whether its loss always has a part at attacked images.
      certifies: which of `measures` is an error over the whole ball; None where nothing is bounded.
      source: the paper.
      deviations: what is otherwise here than there, in words; empty for nothing that we know of.
    """

    name: str
    bound: str | None
    measures: tuple[str, ...] = ()
    needs_reference: bool = False
    norms: tuple[str, ...] = NORMS
    inner: tuple[str, ...] = TRAINED_INNER[:1]
    attacks: bool = False
    certifies: str | None = None
    source: str = ""
    deviations: str = ""

    def check_reference(self, given: bool) -> None:
        """Refuses (`ValueError`) a reference that is missing or not wanted."""
        if given != self.needs_reference:
            wanted, got = ("a model", "None") if self.needs_reference else ("None", "a model")
            raise ValueError(f"reference must be {wanted} for method {self.name!r}, got {got}")

    @property
    def mixes(self) -> bool:
        """Whether it takes a share of its loss at intervals or attacks, and projections."""
        return self.bound == "dual"

    @property
    def pairs(self) -> bool:
        """Whether the training program makes a pair of it."""
        return self.bound != "interval"

    @property
    def error(self) -> str:
        """What the certified error on further images is called, after the bound behind it."""
        return "interval_error" if self.bound == "interval" else "lp_error"


def _dual(name: str, source: str, measures: Iterable[str] = (), **others: Any) -> Method:
    measures, error = (*_DUAL, *measures), "wk_error"
    return Method(
        name, "dual", measures, inner=TRAINED_INNER, certifies=error, source=source, **others
    )


def _interval(name: str, source: str, **others: Any) -> Method:
    error = "robust_error"
    return Method(
        name, "interval", (error,), norms=NORMS[:1], certifies=error, source=source, **others
    )


_EXPRESSIVE = (
    "De Palma et al., Expressive Losses for Verified Robustness via Convex Combinations, ICLR 2024"
)
_ATTACK = (
    "attacks take their steps by a schedule of our own; the regulariser of the ramp counts as far "
    "as intervals do"
)


#: What the clean error on further images is called.
CLEAN = "clean_error"
#: By name, in the order in which they are listed to users.
METHODS = {
    method.name: method
    for method in (
        _dual(
            "robustra",
            "Li et al., Robustra: Training Provable Robust Neural Networks over Reference "
            "Adversarial Space, IJCAI 2019",
            _REFERENCE,
            needs_reference=True,
        ),
        _dual(
            "wong",
            "Wong and Kolter, Provable Defenses against Adversarial Examples via the Convex Outer "
            "Adversarial Polytope, ICML 2018",
            deviations="Robustra's recipe, not theirs",
        ),
        _interval(
            "ibp",
            "Gowal et al., On the Effectiveness of Interval Bound Propagation, 2018",
            deviations="the recipe of Shi et al. 2021",
        ),
        _interval(
            "crown_ibp",
            "Zhang et al., Towards Stable and Efficient Training of Verifiably Robust Neural "
            "Networks, ICLR 2020",
            deviations="the recipe of Shi et al. 2021; CROWN's lower slopes are adaptive",
        ),
        _interval("mtl_ibp", _EXPRESSIVE, attacks=True, deviations=_ATTACK),
        _interval("cc_ibp", _EXPRESSIVE, attacks=True, deviations=_ATTACK),
        _interval(
            "exp_ibp",
            _EXPRESSIVE,
            attacks=True,
            deviations=f"{_ATTACK}; a loss below 1e-12 counts as that",
        ),
        _interval(
            "sabr",
            "Mueller et al., Certified Training: Small Boxes are All You Need, ICLR 2023",
            attacks=True,
            deviations="attacks take their steps by a schedule of our own; ReLUs are not shrunk",
        ),
        Method("natural", None, source="cross-entropy at the images themselves"),
    )
}
#: Measurements that claim something of the bounds behind them, and are estimates where these are;
#: losses, eta and t0, which are minimised or chosen, claim nothing.
CLAIMS = (*_DUAL, "infeasible", "tight", "loose", "excluded")


def method_named(name: str) -> Method:
    """The method of a name.

    Raises:
      ValueError: there is none; the text lists those that are there.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]
