"""The stages of an evaluation of properties: each decides one file at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import numpy as np

from robustra_tf.attacks import Attack, replay
from robustra_tf.certificates.certify import certify
from robustra_tf.exact import Status as VerdictStatus
from robustra_tf.exact.properties import Decider
from robustra_tf.property import Property

from .held import Answer, Answered, Asked
from .questions import Questions
from .rows import Status
from .stages import BOUNDS

Decide = Callable[[Sequence[Property]], Answer]


class Stage:
    """A `cascade.Stage` of one function, made with its first file."""

    batch_size = 1

    def __init__(self, name: str, make: Callable[[], Decide]):
        self.name, self._make = name, make
        self._decide: Decide | None = None

    def run(self, batches: Iterable[Asked]) -> Iterator[Answered]:
        """Decides the files in their order."""
        for batch in batches:
            start = time.perf_counter()
            self._decide = self._decide or self._make()
            answer = self._decide(batch.properties[0])
            yield Answered(batch, answer, time.perf_counter() - start)


def make(questions: Questions, model: keras.Model) -> list[Stage]:
    """The stages that are asked for, in their order."""
    makers = {"clean": _middle, "pgd": _attacked, "milp": _decided}
    return [
        Stage(name, lambda name=name: makers.get(name, _bounded(name))(questions, model))
        for name in questions.stages
    ]


def _middle(questions: Questions, model: keras.Model) -> Decide:
    """Falsified where the middle of a box has unsafe outputs."""
    del questions

    def decide(properties: Sequence[Property]) -> Answer:
        for given in properties:
            middle = (0.5 * given.lower + 0.5 * given.upper).astype(np.float32)
            found = replay(model, given, middle)
            if found.success.any():
                return Answer(Status.FALSIFIED, None, middle[found.success.argmax()])
        return Answer(Status.UNKNOWN)

    return decide


def _attacked(questions: Questions, model: keras.Model) -> Decide:
    """Falsified where projected gradient descent finds a checked counterexample."""
    attack = Attack(
        model,
        steps=questions.attack_steps,
        restarts=questions.attack_restarts,
        seed=questions.seed,
    )

    def decide(properties: Sequence[Property]) -> Answer:
        for given in properties:
            found = attack(given)
            if found.success.any():
                return Answer(Status.FALSIFIED, None, found.adversarial[found.success.argmax()])
        return Answer(Status.UNKNOWN)

    return decide


def _bounded(name: str) -> Callable[[Questions, keras.Model], Decide]:
    """Verified where the bounds of all boxes keep their outputs away from what is unsafe."""

    def made(questions: Questions, model: keras.Model) -> Decide:
        def decide(properties: Sequence[Property]) -> Answer:
            certificates = [
                certify(
                    model,
                    given,
                    method=BOUNDS[name],
                    batch_size=questions.batch_size,
                    dtype=questions.dtype,
                    sound=questions.sound,
                )
                for given in properties
            ]
            held = all(certificate.verified.all() for certificate in certificates)
            least = min(float(certificate.worst_margin.min()) for certificate in certificates)
            return Answer(Status.VERIFIED if held else Status.UNKNOWN, least)

        return decide

    return made


def _decided(questions: Questions, model: keras.Model) -> Decide:
    """Verified or falsified where the search of all boxes ends in time."""
    decider = Decider(model)

    def decide(properties: Sequence[Property]) -> Answer:
        verdict = decider.decide(properties, questions.time_limit)
        # The time that a file has is one of the settings: what ran out of it is unknown.
        late = verdict.status is VerdictStatus.TIMEOUT
        status = Status.UNKNOWN if late else Status(verdict.status.value)
        return Answer(status, verdict.margin_lower, verdict.witness)

    return decide
