"""Whether properties of one model hold, decided: an attack on all boxes, then each box completely.

Everything that decides a property for the command line, for benchmarks and for whoever asks goes
through `decide_property`, or through `Decider` where a model is asked more than once. Other ways of
deciding, such as splitting inputs of few dimensions, belong behind `Decider`, which tells nobody
which of them it chose.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from robustra_tf.attacks.pgd import Attack
from robustra_tf.attacks.replay import replay
from robustra_tf.evidence import files
from robustra_tf.evidence.files import Example
from robustra_tf.exact.proofs import Proofs
from robustra_tf.exact.verdict import Status, Verdict
from robustra_tf.exact.verifier import Verifier
from robustra_tf.graph.graph import Graph
from robustra_tf.intake import checks
from robustra_tf.property import Property
from robustra_tf.radii import outward
from robustra_tf.storage.files import write_atomically

#: Whether a point [*input_shape], float32, is taken for a counterexample.
Accepts = Callable[[np.ndarray], bool]
#: Of the attack that comes first: a few starts in every box.
_STEPS, _RESTARTS, _BATCH = 30, 3, 500


def decide_property(
    model: keras.Model | Graph,
    properties: Property | Sequence[Property],
    seconds: float,
    *,
    accepts: Accepts | None = None,
) -> Verdict:
    """Decides whether no input of any box has unsafe outputs: `Decider(model).decide(...)`.

    Args:
      model: as `Verifier` takes it.
      properties, seconds, accepts: as `Decider.decide` takes them.
    """
    start = time.monotonic()
    decider = Decider(model)
    left = _seconds(seconds) - (time.monotonic() - start)
    return decider.decide(properties, max(left, 0.0), accepts=accepts)


class Decider:
    """Decides properties of one model; what is compiled for one of them serves the others."""

    def __init__(self, model: keras.Model | Graph):
        """Reads the model's weights as they are now.

        Args:
          model: as `Verifier` takes it.

        Raises:
          ValueError: as `Verifier`.
        """
        self._model = model
        self._verifier = Verifier(model, box=None)
        # Of the boxes that are decided what proves it, where that is asked for.
        self._proven: dict[int, Example] | None = None

    @functools.cached_property
    def _attack(self) -> Attack:
        return Attack(self._model, box=None, steps=_STEPS, restarts=_RESTARTS, batch_size=_BATCH)

    def decide(
        self,
        properties: Property | Sequence[Property],
        seconds: float,
        *,
        accepts: Accepts | None = None,
        proof: str | os.PathLike | None = None,
    ) -> Verdict:
        """Decides whether all properties hold, of all their examples.

        They are `verified` where each box is proven against each group of its conditions, as
        `Verifier` does it: over the box with its ends rounded outward to float32. They are
        `falsified` where a float32 point of a box is found, as near as rounding takes it to one
        where the box has none, whose outputs of the model are unsafe, and which `accepts` takes.
        Every box has its turn before `seconds` have passed; one that is left undecided does not
        end the search for a point in the others.

        Args:
          properties: one or several, of boxes alone, at least one box in all.
          seconds: for all of it, at least 0. Attacks and searches end with the step under way, the
            first bounds of a box are not broken off.
          accepts: what a counterexample has to pass beside; by default all do.
          proof: a file to write proofs of all boxes to, rounded outward, or of the counterexample,
            for `python -m eval.check`; none is written where nothing is decided, nor of a
            counterexample that rounding alone may have made.

        Returns:
          The verdict; its bound is the least over all boxes, its work that of all searches.

        Raises:
          ValueError: no property or no box, a ball, inputs or outputs of another shape than the
            model's, ends that float32 does not have.
        """
        start = time.monotonic()
        deadline, accepts = start + _seconds(seconds), accepts or _any_point
        boxes = _boxes(properties)
        self._proven = None if proof is None else {}
        place = None if proof is None else Proofs.alone(proof).path
        verdict = self._attacked(boxes, deadline, accepts) or self._searched(
            boxes, deadline, accepts
        )
        if place is not None:
            verdict = self._written(place, verdict)
        return dataclasses.replace(verdict, seconds=time.monotonic() - start)

    def _written(self, place: Path, verdict: Verdict) -> Verdict:
        """The verdict, whose proof is written where it is one."""
        proven = self._proven or {}
        decided = verdict.status in (Status.VERIFIED, Status.FALSIFIED)
        if not decided or not proven:
            return verdict
        examples = [proven[number] for number in sorted(proven)]
        try:
            write_atomically(place, files.packed(self._verifier.described, examples))
        except files.TooLargeError as error:
            return _unknown(f"no proof: {error}")
        return verdict

    def _attacked(
        self, boxes: Sequence[_Boxes], deadline: float, accepts: Accepts
    ) -> Verdict | None:
        """Falsified by projected gradient descent in all boxes together, if it is."""
        for given in boxes:
            if time.monotonic() >= deadline:
                break
            found = self._attack(given.outward, deadline=deadline)
            for place in map(int, np.flatnonzero(found.success)):
                verdict = self._taken(given.at(place), found.adversarial[place], accepts)
                if verdict is not None:
                    return verdict
        return None

    def _taken(self, box: _Boxes, point: np.ndarray, accepts: Accepts) -> Verdict | None:
        """Falsified by a point of one box rounded outward, moved into the box itself."""
        point = np.clip(point, box.low[0], box.high[0])
        if replay(self._model, box.outward, point[None]).success[0] and accepts(point):
            if self._proven is not None:
                found = self._verifier.counterexample(box.outward, point)
                # Of a property that does not hold nothing else is said.
                self._proven = {} if found is None else {0: found}
            return Verdict(Status.FALSIFIED, None, None, point, 0.0)
        return None

    def _searched(self, boxes: Sequence[_Boxes], deadline: float, accepts: Accepts) -> Verdict:
        """The boxes one by one: in equal shares of the time, then the late ones once more."""
        each = [given.at(place) for given in boxes for place in range(len(given.low))]
        verdicts = self._round(dict(enumerate(each)), deadline, accepts)
        late = [i for i, verdict in enumerate(verdicts) if verdict.status is Status.TIMEOUT]
        if late and len(each) > 1 and verdicts[-1].status is not Status.FALSIFIED:
            again = self._round({i: each[i] for i in late}, deadline, accepts)
            for i, verdict in zip(late, again, strict=False):
                verdicts[i] = verdict
        return _joined(verdicts)

    def _round(
        self, boxes: Mapping[int, _Boxes], deadline: float, accepts: Accepts
    ) -> list[Verdict]:
        """A verdict for each box, by its number, up to the first that is falsified."""
        verdicts: list[Verdict] = []
        for done, (number, box) in enumerate(boxes.items()):
            left, waiting = deadline - time.monotonic(), len(boxes) - done
            if left <= 0:
                verdicts += [_LATE] * waiting
                break
            verdict = self._verified(number, box, left / waiting)
            if verdict.witness is not None:
                found = self._taken(box, verdict.witness, accepts)
                verdict = found or _unknown("a counterexample that was not taken")
            verdicts.append(verdict)
            if verdict.status is Status.FALSIFIED:
                break
        return verdicts

    def _verified(self, number: int, box: _Boxes, seconds: float) -> Verdict:
        """One box's verdict; what proves it is kept by its number where that is asked for."""
        found, proven = [], self._proven
        proof = None if proven is None else Proofs(position=number, keep=found.append)
        verdict = self._verifier.verify(box.outward, time_limit=seconds, proof=proof)
        if proven is not None and verdict.status is Status.VERIFIED:
            (proven[number],) = found
        return verdict


class _Boxes(NamedTuple):
    """Boxes of a property.

    Attributes:
      outward: the same with ends rounded outward to float32: what is proven.
      low, high: ends rounded inward, [n, *input_shape] each, where counterexamples lie; of an
        interval that no float32 lies in, its ends rounded to the nearest.
    """

    outward: Property
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, given: Property) -> _Boxes:
        """The boxes of a property that has no ball."""
        with np.errstate(over="ignore"):  # ends without limit are refused as such
            ends = outward(given.lower, given.upper, "float32")
            near = given.lower.astype(np.float32), given.upper.astype(np.float32)
        low = np.where(ends[0] < given.lower, np.nextafter(ends[0], np.float32(np.inf)), ends[0])
        high = np.where(ends[1] > given.upper, np.nextafter(ends[1], -np.float32(np.inf)), ends[1])
        inside = [np.where(low <= high, *pair) for pair in zip((low, high), near, strict=True)]
        return cls(Property(*ends, given.output), *inside)

    def at(self, place: int) -> _Boxes:
        """One of them."""
        chosen = np.array([place])
        given, output = self.outward, self.outward.output.take(chosen)
        return _Boxes(
            Property(given.lower[chosen], given.upper[chosen], output),
            self.low[chosen],
            self.high[chosen],
        )


def _seconds(value: float) -> float:
    seconds = checks.number(value)
    if seconds is None or not seconds >= 0:
        raise ValueError(f"seconds must be at least 0, got {value!r}")
    return seconds


def _boxes(properties: Property | Sequence[Property]) -> list[_Boxes]:
    given = [properties] if isinstance(properties, Property) else list(properties)
    for each in given:
        if not isinstance(each, Property):
            raise ValueError(f"properties must be rt.Property, got {type(each).__name__}")
        if each.centre is not None:
            raise ValueError(f"properties must be boxes without a ball, got {each.text}")
    if not sum(map(len, given)):
        raise ValueError("properties must have one box or more, got none")
    return [_Boxes.of(each) for each in given if len(each)]


_LATE = Verdict(Status.TIMEOUT, None, None, None, 0.0, reason="time limit")


def _unknown(reason: str) -> Verdict:
    return Verdict(Status.UNKNOWN, None, None, None, 0.0, reason=reason)


def _joined(verdicts: Sequence[Verdict]) -> Verdict:
    """What the verdicts of all boxes, up to one that is falsified, come to."""
    work = {
        name: sum(getattr(verdict, name) for verdict in verdicts)
        for name in ("unstable", "binaries", "nodes", "solves")
    }
    for status in (Status.FALSIFIED, Status.TIMEOUT, Status.UNKNOWN, Status.VERIFIED):
        found = [verdict for verdict in verdicts if verdict.status is status]
        if found:
            break
    reason = "; ".join(dict.fromkeys(verdict.reason for verdict in verdicts if verdict.reason))
    worst = min(found, key=lambda verdict: _margin(verdict.margin_lower))
    return dataclasses.replace(worst, **work, reason=reason)


def _margin(value: float | None) -> float:
    return -np.inf if value is None else value


def _any_point(point: np.ndarray) -> bool:
    del point
    return True
