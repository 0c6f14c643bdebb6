"""The stage that decides examples one by one, exactly: complete verification."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import keras
import numpy as np

from robustra_tf.cli import settings
from robustra_tf.exact import Status as VerdictStatus
from robustra_tf.exact import Verdict, Verifier
from robustra_tf.storage import fingerprint

from . import inputs
from .cascade import Decisions, Examples
from .config import Config
from .rows import Status
from .workers import StageError, Team, share_out


class Milp:
    """Verified or falsified where the search ends in time, with the ball cut to the box.

    With several workers, each is a process with a network of its own and one thread; verdicts come
    as they are ready, and their seconds add up to more than passed.
    """

    name = "milp"
    batch_size = 1

    def __init__(self, config: Config, model: keras.Model):
        """Takes the evaluation's settings and its network."""
        self._config, self._model = config, model

    def run(self, batches: Iterable[Examples]) -> Iterator[Decisions]:
        """Decides the batches, in any order.

        Raises:
          StageError: a worker failed or died; the text says what it said.
        """
        if self._config.workers > 1:
            yield from self._shared_out(iter(batches))
            return
        verifier = None
        for batch in batches:
            # Only now: nothing is built for a stage that has nothing to do.
            verifier = verifier or make_verifier(self._config, self._model)
            yield decisions(batch, verifier.verify(batch.images[0], int(batch.labels[0])))

    def _shared_out(self, batches: Iterator[Examples]) -> Iterator[Decisions]:
        digest = fingerprint.weights_sha256(self._model)
        team = Team(self._config.workers, (_begin, (self._config, digest)))
        for batch, result in share_out(batches, team, _verify, _question):
            try:
                verdict = result(f"example {int(batch.indices[0])}")
            except StageError as error:
                raise StageError(f"milp: {error}") from error
            yield decisions(batch, verdict)


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
    )


def _question(batch: Examples) -> tuple[np.ndarray, int]:
    return batch.images[0], int(batch.labels[0])


@dataclasses.dataclass
class _Worker:
    """What a worker process knows: its orders, and its verifier once it has built it."""

    config: Config | None = None
    weights_sha256: str = ""
    verifier: Verifier | None = None


_worker = _Worker()


def _begin(config: Config, weights_sha256: str) -> None:
    """Begins a worker; the network is read with the first example, where errors are told."""
    _worker.config, _worker.weights_sha256 = config, weights_sha256


def _verify(image: np.ndarray, label: int) -> Verdict:
    if _worker.verifier is None:
        config = settings.known("config", _worker.config)
        model = inputs.load_network(config)
        if fingerprint.weights_sha256(model) != _worker.weights_sha256:
            raise ValueError("the network's file has changed since the evaluation began")
        _worker.verifier = make_verifier(config, model)
    return _worker.verifier.verify(image, label)
