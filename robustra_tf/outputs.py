"""What may be asked of outputs: classes, targets, one logit, values, any linear conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from robustra_tf.conditions import NO_GROUP, Conditions, Output
from robustra_tf.intake import checks


def classified(y: Any) -> Output:
    """Every input is classified as its label: no other class has as great a logit.

    Args:
      y: labels, integers [n], or one for all.

    Example:
      >>> print(rt.certify(model, x, rt.classified(y), eps=0.1).margin_lower.round(2))
      [[0.  0.4]]
    """
    y = _indices("y", y)
    return Output("classified as the label", (y,), _others)


def _others(outputs: int, y: np.ndarray) -> Conditions:
    if outputs < 2:
        raise ValueError("output: expected at least two logits for classes, got one: use rt.binary")
    _within("y", y, outputs)
    one = np.eye(outputs)
    group = np.where(np.arange(outputs) == y[:, None], NO_GROUP, np.arange(outputs))
    return Conditions(one[None] - one[y][:, None], np.zeros((1, outputs)), group)


def targeted(y: Any, targets: Any) -> Output:
    """No input is classified as one of the targets in place of its label.

    Args:
      y: labels, integers [n], or one for all.
      targets: classes other than the label, integers: one, [m] for all, or [n, m].

    Example:
      >>> rt.certify(model, x, rt.targeted(0, 1), eps=0.1).verified
      array([ True])
    """
    y, given = _indices("y", y), np.asarray(targets)
    chosen = _indices("targets", given.ravel()).reshape(-1, max(given.shape[-1:], default=1) or 1)
    if given.ndim > 2 or not chosen.size:
        raise ValueError(f"targets must be one class, [m] or [n, m], got shape {given.shape}")
    if len(chosen) > 1 and len(y) > 1 and len(chosen) != len(y):
        raise ValueError(f"targets must be for each of {len(y)} labels, got {len(chosen)}")
    if (chosen == y[:, None]).any():
        raise ValueError(f"targets must be other classes than the label, got {given.tolist()}")
    return Output("never as a target", (y, chosen), _towards)


def _towards(outputs: int, y: np.ndarray, targets: np.ndarray) -> Conditions:
    _within("y", y, outputs)
    _within("targets", targets, outputs)
    one, count = np.eye(outputs), targets.shape[1]
    rows = one[targets] - one[y][:, None]
    return Conditions(rows, np.zeros((1, count)), np.arange(count)[None])


def binary(label: Any, *, threshold: float = 0.0, probability: float | None = None) -> Output:
    """The one logit of a two-class network stays on the label's side of a threshold.

    Args:
      label: 1 where the logit has to stay above, 0 where below; [n], or one for all.
      threshold: of the logit.
      probability: the threshold as the logistic function of the logit, between 0 and 1.

    Example:
      >>> rt.binary([0, 1], probability=0.5)
      Output('the logit on its side of 0')
    """
    label = _indices("label", label)
    if not (label <= 1).all():
        raise ValueError(f"label must be 0 or 1, got {label.max()}")
    if probability is not None:
        share = checks.number(probability)
        if share is None or not 0 < share < 1:
            raise ValueError(f"probability must lie between 0 and 1, got {probability!r}")
        threshold = math.log(share) - math.log1p(-share)
    value = _numbers("threshold", threshold)
    if value.shape != (1,):
        raise ValueError(f"threshold must be one number, got shape {value.shape}")

    def one_logit(outputs: int, label: np.ndarray) -> Conditions:
        if outputs != 1:
            raise ValueError(f"output: expected one logit for rt.binary, got {outputs}")
        return _side(1, 0, np.where(label == 1, -1.0, 1.0), value)

    return Output(f"the logit on its side of {value[0]:g}", (label,), one_logit)


def below(k: int, value: Any) -> Output:
    """Output `k` stays below a value.

    Args:
      k: the number of the output, from 0.
      value: a number, or [n].

    Example:
      >>> rt.certify(model, x, rt.below(1, 0.35), eps=0.1).verified
      array([ True])
    """
    return _one_side(k, value, 1.0, "below")


def above(k: int, value: Any) -> Output:
    """Output `k` stays above a value.

    Args:
      k, value: as `below` takes them.

    Example:
      >>> rt.certify(model, x, rt.above(0, 0.75), eps=0.1).verified
      array([False])
    """
    return _one_side(k, value, -1.0, "above")


def _one_side(k: int, value: Any, sign: float, word: str) -> Output:
    k, value = checks.whole("k", k, least=0), _numbers("value", value)
    shown = f"{value[0]:g}" if len(value) == 1 else "its value"

    def made(outputs: int, value: np.ndarray) -> Conditions:
        _within("k", np.array([k]), outputs)
        return _side(outputs, k, np.full(1, sign), value)

    return Output(f"output {k} {word} {shown}", (value,), made)


def _side(outputs: int, k: int, sign: np.ndarray, value: np.ndarray) -> Conditions:
    """Unsafe where `sign (f_k - value) >= 0`."""
    rows = sign[:, None, None] * np.eye(outputs)[[k]]
    return Conditions(rows, -(sign * value)[:, None], np.zeros((1, 1), int))


def unreachable(*polyhedra: tuple[Any, Any]) -> Output:
    """No input gives outputs `f` in one of the polyhedra `{f : A f <= b}`, as VNN-LIB states it.

    Args:
      polyhedra: pairs of coefficients `A` [m, outputs] and bounds `b` [m], the same for every
        example; at least one pair, each of at least one condition.

    Example:
      Neither logit reaches 2, and they are never both below 0:

      >>> output = rt.unreachable(([[-1, 0]], [-2]), ([[0, -1]], [-2]), ([[1, 0], [0, 1]], [0, 0]))
      >>> rt.certify(model, x, output, eps=0.1).verified
      array([ True])
    """
    if not polyhedra:
        raise ValueError("polyhedra: expected at least one pair (A, b), got none")
    pairs = [_polyhedron(number, pair) for number, pair in enumerate(polyhedra)]
    widths = {a.shape[1] for a, _ in pairs}
    if len(widths) > 1:
        raise ValueError(f"polyhedra: expected as many coefficients in each, got {sorted(widths)}")
    (width,) = widths
    group = np.repeat(np.arange(len(pairs)), [len(b) for _, b in pairs])[None]
    rows = np.concatenate([0.0 - a for a, _ in pairs])[None]
    offset = np.concatenate([b for _, b in pairs])[None]

    def made(outputs: int, *parts: np.ndarray) -> Conditions:
        if outputs != width:
            raise ValueError(f"polyhedra: expected {outputs} coefficients a condition, got {width}")
        return Conditions(*parts)

    count = f"{len(pairs)} polyhedr{'a' if len(pairs) > 1 else 'on'}"
    return Output(f"{count} of outputs never reached", (rows, offset, group), made)


def _polyhedron(number: int, pair: Any) -> tuple[np.ndarray, np.ndarray]:
    where = f"polyhedra[{number}]"
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise ValueError(f"{where}: expected a pair (A, b), got {type(pair).__name__}")
    a, b = (checks.numbers(where, part) for part in pair)
    if a.ndim != 2 or not a.size:
        raise ValueError(f"{where}: expected A of shape [m, outputs], m >= 1, got {a.shape}")
    if b.shape != a.shape[:1]:
        raise ValueError(f"{where}: expected b of shape {a.shape[:1]}, got {b.shape}")
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        raise ValueError(f"{where}: expected finite numbers, got NaN or infinity")
    if not a.any(1).all():
        raise ValueError(f"{where}: expected a coefficient in every row of A, got a row of zeros")
    return a, b


def _numbers(name: str, value: Any) -> np.ndarray:
    """Finite numbers [n] or, of a single one, [1]."""
    found = np.atleast_1d(checks.numbers(name, value))
    if found.ndim != 1 or not found.size:
        raise ValueError(f"{name} must be a number or one axis of them, got shape {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return found


def _indices(name: str, value: Any) -> np.ndarray:
    """Whole numbers from 0, [n] or, of a single one, [1]."""
    found = np.atleast_1d(np.asarray(value))
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be a whole number or one axis of them, got {found.dtype} of shape "
            f"{np.shape(value)}"
        )
    if not found.size or found.min() < 0:
        raise ValueError(f"{name} must be at least 0, got {found.min(initial=0)}")
    return found.astype(np.int64)


def _within(name: str, index: np.ndarray, outputs: int) -> None:
    if (largest := index.max(initial=0)) >= outputs:
        raise ValueError(f"{name} must lie in 0..{outputs - 1}, got {largest}")
