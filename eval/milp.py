"""The stage that decides examples one by one, exactly: complete verification."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, wait

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.exact import Status as VerdictStatus
from robustra_tf.exact import Verdict, Verifier
from robustra_tf.storage import fingerprint

from . import inputs
from .cascade import Decisions, Examples
from .config import Config
from .rows import Status

# Examples handed out ahead of each worker: none waits, and few are lost when one dies.
_AHEAD = 2


class StageError(RuntimeError):
    """A stage that could not go on; what was recorded before stays."""


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
        first = next(batches, None)
        if first is None:
            return
        batches = itertools.chain([first], batches)
        config, digest = self._config, fingerprint.weights_sha256(self._model)
        # Not forks of this process, whose threads of TensorFlow's they would not have, but of one
        # that has imported all and computed nothing.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tensorflow", "keras", __name__])
        pool = ProcessPoolExecutor(config.workers, context, _begin, (config, digest))
        waiting: dict = {}
        try:
            while True:
                for batch in itertools.islice(batches, _AHEAD * config.workers - len(waiting)):
                    job = pool.submit(_verify, batch.images[0], int(batch.labels[0]))
                    waiting[job] = batch
                if not waiting:
                    return
                for job in wait(waiting, return_when=FIRST_COMPLETED).done:
                    batch = waiting.pop(job)
                    yield decisions(batch, _answer(job, int(batch.indices[0])))
        except BaseException:
            # Nobody waits for what they are at: of a worker, nothing is recorded in any case.
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def make_verifier(config: Config, model: keras.Model) -> Verifier:
    """The verifier that the settings ask for."""
    return Verifier(
        model,
        config.eps,
        norm=config.norm,
        box=config.box,
        time_limit=config.time_limit,
        solver=config.solver,
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
    )


def _answer(job, index: int) -> Verdict:
    try:
        return job.result()
    except BrokenExecutor as error:
        raise StageError(
            f"milp: a worker died, on example {index} or beside it; --resume goes on"
        ) from error
    except Exception as error:
        raise StageError(f"milp: example {index}: {type(error).__name__}: {error}") from error


@dataclasses.dataclass
class _Worker:
    """What a worker process knows: its orders, and its verifier once it has built it."""

    config: Config | None = None
    weights_sha256: str = ""
    verifier: Verifier | None = None


_worker = _Worker()


def _begin(config: Config, weights_sha256: str) -> None:
    """Begins a worker; the network is read with the first example, where errors are told."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the evaluation's to answer
    threading.Thread(target=_end_with, args=[multiprocessing.parent_process()], daemon=True).start()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    _worker.config, _worker.weights_sha256 = config, weights_sha256


def _end_with(evaluation: multiprocessing.process.BaseProcess) -> None:
    """Ends this process as soon as the evaluation's has ended, however it did."""
    evaluation.join()
    os._exit(1)


def _verify(image: np.ndarray, label: int) -> Verdict:
    if _worker.verifier is None:
        model = inputs.load_network(_worker.config)
        if fingerprint.weights_sha256(model) != _worker.weights_sha256:
            raise ValueError("the network's file has changed since the evaluation began")
        _worker.verifier = make_verifier(_worker.config, model)
    return _worker.verifier.verify(image, label)
