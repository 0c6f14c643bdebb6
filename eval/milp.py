"""The stage that decides examples one by one, exactly: complete verification."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import keras
import numpy as np

from robustra_tf.exact import Status as VerdictStatus
from robustra_tf.exact import Verdict, Verifier
from robustra_tf.exact.proofs import Proofs

from .cascade import Decisions, Examples
from .config import Config
from .rows import Status


class Milp:
    """Verified or falsified where the search ends in time, with the ball cut to the box."""

    name = "milp"
    batch_size = 1

    def __init__(self, config: Config, model: keras.Model):
        """Takes the evaluation's settings and its network."""
        self._config, self._model = config, model
        self._verifier: Verifier | None = None

    def run(self, batches: Iterable[Examples]) -> Iterator[Decisions]:
        """Decides the batches in their order."""
        for batch in batches:
            # Only now: nothing is built for a stage that has nothing to do.
            self._verifier = self._verifier or make_verifier(self._config, self._model)
            proof = None
            if self._config.proofs is not None:
                proof = Proofs(whole=False, position=int(batch.indices[0]))
            image, label = batch.images[0], int(batch.labels[0])
            yield decisions(batch, self._verifier.verify(image, label, proof=proof))


def make_verifier(config: Config, model: keras.Model) -> Verifier:
    """The verifier that the settings ask for."""
    return Verifier(
        model,
        config.eps,
        norm=config.norm,
        box=config.box,
        time_limit=config.time_limit,
        solver=config.solver,
        memory_mb=config.memory_mb,
    )


def decisions(batch: Examples, verdict: Verdict) -> Decisions:
    """The verdict of a batch's one example, as the cascade takes it."""
    margin, target = verdict.margin_lower, verdict.target
    # The time that an example has is one of the settings: what ran out of it is unknown.
    late = verdict.status is VerdictStatus.TIMEOUT
    return Decisions(
        batch,
        [Status.UNKNOWN if late else Status(verdict.status.value)],
        None,
        None if margin is None else np.array([margin]),
        None if target is None else np.array([target]),
        verdict.seconds,
        None if verdict.witness is None else verdict.witness[None],
        [verdict.search],
        proofs=[verdict.proof],
    )
