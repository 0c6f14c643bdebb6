"""The stages that decide whole batches: the clean forward pass, an attack, bounds."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import Self

import keras
import numpy as np
import tensorflow as tf

from robustra_tf import counting, graph
from robustra_tf.attacks import Attack
from robustra_tf.certificates.certificate import Certificate
from robustra_tf.certificates.certify import certify

from .cascade import Decisions, Examples, Stage
from .config import Config
from .milp import Milp
from .proofs import Prover
from .rows import Status

#: The stages that are bounds, and the methods of `certify` that they are.
BOUNDS = {"ibp": "interval", "lp": "dual", "crown": "crown", "alpha": "alpha"}
#: How many times the configured batch fits: without rows of inner layers, many times.
FACTORS = {"ibp": 10, "lp": 1, "crown": 1, "alpha": 1}


def make(config: Config, model: keras.Model) -> list[Stage]:
    """The stages that the configuration asks for, in their order."""
    makers = {"clean": Clean, "pgd": Pgd, "milp": Milp}
    return [
        Bound(config, model, name) if name in BOUNDS else makers[name](config, model)
        for name in config.stages
    ]


class Batched:
    """A stage whose work is one function of a batch."""

    name: str
    #: How many times the configured batch fits: a forward pass holds far less than rows do.
    factor = 10

    def __init__(self, config: Config, model: keras.Model):
        self._config, self._model = config, model
        self._prover = None if config.proofs is None else Prover(config, model)
        self.batch_size = self.factor * config.batch_size

    def at(self, eps: float) -> Self:
        """The same stage for another radius; the two share what is compiled."""
        other = copy.copy(self)
        other._config = dataclasses.replace(self._config, eps=eps, proofs=None)
        other._prover = None
        return other

    def run(self, batches: Iterable[Examples]) -> Iterator[Decisions]:
        """Decides the batches in their order."""
        for batch in batches:
            start = time.perf_counter()
            decisions = self._decide(batch)
            if self._prover is not None:
                decisions = self._prover.added(self.name, decisions)
            yield decisions._replace(seconds=time.perf_counter() - start)

    def _decide(self, batch: Examples) -> Decisions:
        raise NotImplementedError


class Clean(Batched):
    """Misclassified where the image itself is."""

    name = "clean"

    def _decide(self, batch: Examples) -> Decisions:
        predicted = counting.predicted(predict(self._model, batch.images))
        wrong = predicted != batch.labels
        return Decisions(batch, _where(wrong, Status.MISCLASSIFIED), predicted, None, None, 0.0)


class Pgd(Batched):
    """Falsified where projected gradient descent finds a checked adversarial example."""

    name = "pgd"

    def __init__(self, config: Config, model: keras.Model):
        super().__init__(config, model)
        self._attack = Attack(
            model,
            norm=config.norm,
            box=config.box,
            loss=config.attack_loss,
            steps=config.attack_steps,
            restarts=config.attack_restarts,
            batch_size=self.batch_size,
            seed=config.seed,
        )

    def _decide(self, batch: Examples) -> Decisions:
        found = self._attack(batch.images, batch.labels, self._config.eps, batch.indices)
        status = _where(found.success, Status.FALSIFIED)
        return Decisions(batch, status, None, None, found.predicted, 0.0, found.adversarial)


class Bound(Batched):
    """Verified where lower bounds of all margins are positive.

    The bound is that of `certify(method=...)`, over the ball cut to the box but for WK's, which is
    the published one, over the ball alone, unless the configuration says otherwise.
    """

    def __init__(self, config: Config, model: keras.Model, name: str):
        self.name, self.factor = name, FACTORS[name]
        super().__init__(config, model)

    def _decide(self, batch: Examples) -> Decisions:
        exact = self._config.eps == 0 and not self._config.sound
        certificate = self._exact(batch) if exact else self._bound(batch)
        # Without what filled the batch up.
        n = len(batch)
        status = _where(certificate.certified[:n], Status.VERIFIED)
        least, target = certificate.worst_margin[:n], certificate.worst_target[:n]
        return Decisions(batch, status, None, least, target, 0.0)

    def _bound(self, batch: Examples) -> Certificate:
        config = self._config
        # A smaller batch is filled up: another size would be traced anew, and would round otherwise
        # in a resumed run, which may have only that one left.
        full = batch.take(np.arange(self.batch_size) % len(batch))
        cut = config.lp_box if self.name == "lp" else True
        return certify(
            self._model,
            full.images,
            full.labels,
            config.eps,
            norm=config.norm,
            box=config.box if cut else None,
            method=BOUNDS[self.name],
            batch_size=self.batch_size,
            dtype=config.dtype,
            sound=config.sound,
        )

    def _exact(self, batch: Examples) -> Certificate:
        """The ball is the image itself: its margins are known, without a bound's rounding."""
        logits = predict(self._model, batch.images)
        with np.errstate(invalid="ignore"):  # of logits that are no finite numbers
            margins = np.take_along_axis(logits, batch.labels[:, None], axis=1) - logits
        predicted = counting.predicted(logits)
        norm = self._config.norm
        return Certificate(margins, batch.labels, predicted, 0.0, norm, None, "exact", "float32")


def predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The logits [n, classes] of images [n, h, w, c], in NumPy."""
    return graph.logits(model, tf.constant(images)).numpy()


def _where(decided: np.ndarray, status: Status) -> list[Status]:
    return [status if is_decided else Status.UNKNOWN for is_decided in decided]
