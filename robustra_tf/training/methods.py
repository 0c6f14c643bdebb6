"""The methods of training, one table: what each is trained on, takes, needs and measures.

Flags, presets, checks, histories and the step follow from it. Nothing here imports TensorFlow, so
that a setting can be checked before the seconds of that import are spent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

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
    """

    name: str
    bound: str | None
    measures: tuple[str, ...] = ()
    needs_reference: bool = False
    norms: tuple[str, ...] = NORMS
    inner: tuple[str, ...] = TRAINED_INNER[:1]
    attacks: bool = False
    certifies: str | None = None

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
    def test_error(self) -> str:
        """What the certified error on test images is called, after the bound behind it."""
        return "test_interval_error" if self.bound == "interval" else "test_lp_error"


def _dual(name: str, measures: Iterable[str] = (), needs_reference: bool = False) -> Method:
    measures = (*_DUAL, *measures)
    return Method(
        name, "dual", measures, needs_reference, inner=TRAINED_INNER, certifies="wk_error"
    )


def _interval(name: str, attacks: bool = False) -> Method:
    error = "robust_error"
    return Method(name, "interval", (error,), norms=NORMS[:1], attacks=attacks, certifies=error)


#: By name, in the order in which they are listed to users.
METHODS = {
    method.name: method
    for method in (
        _dual("robustra", _REFERENCE, needs_reference=True),
        _dual("wong"),
        _interval("ibp"),
        _interval("crown_ibp"),
        _interval("mtl_ibp", attacks=True),
        _interval("sabr", attacks=True),
        Method("natural", None),
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
