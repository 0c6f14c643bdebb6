"""The stages of an evaluation of a pair: each looks at both networks, and at both questions.

All but what is proven to be answered goes through every stage, so that the margins of the pair, of
its networks and of their averaged logits are of the same bounds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np

from robustra_tf import counting
from robustra_tf.attacks.pair import PairAttack
from robustra_tf.certificates.certify import certify
from robustra_tf.pair import Pair, agreed, averaged

from . import shared
from .cascade import Examples, Stage
from .config import Config
from .ledger import Ledger
from .milp import Milp
from .pair_rows import NAMES, PairRow
from .rows import Status
from .stages import BOUNDS, FACTORS, predict
from .workers import Pool

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Judged(NamedTuple):
    """What a stage says about a batch of n examples; what it says nothing of is absent.

    Attributes:
      examples: the batch.
      clean: fields of `PairRow` about the images themselves, [n] each.
      silent, abstains: a `Status` each; UNKNOWN leaves the question open.
      margins: lower bounds by classifier, [n] each.
      target: int [n].
      seconds: what the batch took.
      witnesses: float32 [n, h, w, c], a point that both networks answer wrongly where `silent` is
        FALSIFIED.
      search: of each example which searches it took.
    """

    examples: Examples
    clean: Mapping[str, Sequence] = _NOTHING
    silent: Sequence[Status] | None = None
    abstains: Sequence[Status] | None = None
    margins: Mapping[str, np.ndarray] = _NOTHING
    target: np.ndarray | None = None
    seconds: float = 0.0
    witnesses: np.ndarray | None = None
    search: Sequence[str] | None = None

    def rows(self, stage: str, ledger: Ledger[PairRow]) -> Iterator[PairRow]:
        """The rows of the examples: what was known before, and what this stage adds."""
        spent = self.seconds / max(len(self.examples), 1)
        for i, index in enumerate(self.examples.indices.tolist()):
            if self.clean:
                own = {name: values[i] for name, values in self.clean.items()}
                known = PairRow(index, int(self.examples.labels[i]), **own)
            else:
                known = ledger.rows[index]
            search = "" if self.search is None else self.search[i]
            known = dataclasses.replace(known, stage=stage, seconds=spent, search=search)
            yield self._added(known, i)

    def _added(self, row: PairRow, i: int) -> PairRow:
        changes: dict[str, Any] = {}
        for name, values in self.margins.items():
            changes[f"{name}_margin"] = max(row.margin(name), float(values[i]))
        if self.target is not None:
            changes["worst_target"] = int(self.target[i])
        silent = row.silent
        # What is decided stays: an attack's point is not taken back by a bound that rounds.
        if self.silent is not None and silent is Status.UNKNOWN:
            silent = self.silent[i]
        if silent is not row.silent:
            changes |= {"silent": silent, "silent_by": row.stage}
        if self.abstains is not None and row.abstains is Status.UNKNOWN:
            found = self.abstains[i]
            if found is Status.FALSIFIED or (found, silent) == (Status.VERIFIED,) * 2:
                changes |= {"abstains": found, "abstains_by": row.stage}
        return dataclasses.replace(row, **changes)


def make(
    config: Config, pair: Pair, ledger: Ledger[PairRow], pool: Pool | None = None
) -> list[Stage]:
    """The stages that the configuration asks for, in their order; `milp` by a pool, if given."""
    average = averaged(pair)
    makers = {
        "clean": lambda: Clean(config, pair),
        "pgd": lambda: Pgd(config, pair),
        "milp": lambda: PairMilp(shared.milp(config, pair, pool), ledger),
    }
    return [
        Bound(config, pair, average, name) if name in BOUNDS else makers[name]()
        for name in config.stages
    ]


class _Batched:
    """A stage whose work is one function of a batch."""

    name: str
    factor = 10

    def __init__(self, config: Config, pair: Pair):
        self._config, self._pair = config, pair
        self.batch_size = self.factor * config.batch_size

    def run(self, batches: Iterable[Examples]) -> Iterator[Judged]:
        """Decides the batches in their order."""
        for batch in batches:
            start = time.perf_counter()
            judged = self._judge(batch)
            yield judged._replace(seconds=time.perf_counter() - start)

    def _judge(self, batch: Examples) -> Judged:
        raise NotImplementedError


class Clean(_Batched):
    """What the pair and its networks answer at the images themselves."""

    name = "clean"

    def _judge(self, batch: Examples) -> Judged:
        f, g = (predict(network, batch.images) for network in (self._pair.f, self._pair.g))
        answers = {"pair": agreed(f, g)}
        leads = {}
        with np.errstate(over="ignore", invalid="ignore"):
            for name, logits in (("f", f), ("g", g), ("average", 0.5 * f + 0.5 * g)):
                answers[name] = counting.predicted(logits)
                leads[f"{name}_lead"] = lead(logits)
        none = answers["pair"] == counting.NO_CLASS
        right = answers["pair"] == batch.labels
        clean = {name: values.tolist() for name, values in (answers | leads).items()}
        silent = _where(~none & ~right, Status.MISCLASSIFIED)
        return Judged(batch, clean, silent, _where(~right, Status.FALSIFIED))


class Pgd(_Batched):
    """Attacks on both networks at once, for either question, replayed by Keras."""

    name = "pgd"

    def __init__(self, config: Config, pair: Pair):
        super().__init__(config, pair)
        self._attacks = {
            goal: PairAttack(
                pair,
                goal=goal,
                norm=config.norm,
                box=config.box,
                steps=config.attack_steps,
                restarts=config.attack_restarts,
                batch_size=self.batch_size,
                seed=config.seed,
            )
            for goal in ("silent", "abstention")
        }

    def _judge(self, batch: Examples) -> Judged:
        given = (batch.images, batch.labels, self._config.eps, batch.indices)
        silent, other = (attack(*given) for attack in self._attacks.values())
        return Judged(
            batch,
            silent=_where(silent.success, Status.FALSIFIED),
            abstains=_where(silent.success | other.success, Status.FALSIFIED),
            witnesses=silent.adversarial,
        )


class Bound(_Batched):
    """Lower bounds of the margins of the pair, of both networks, and of their averaged logits.

    As `stages.Bound`: over the ball cut to the box, but for WK's, unless asked otherwise.
    """

    def __init__(self, config: Config, pair: Pair, average: keras.Model, name: str):
        self.name, self.factor, self._average = name, FACTORS[name], average
        super().__init__(config, pair)

    def _judge(self, batch: Examples) -> Judged:
        config, n = self._config, len(batch)
        # Filled up, so that nothing is traced anew and a resumed run rounds alike.
        full = batch.take(np.arange(self.batch_size) % n)
        cut = config.lp_box if self.name == "lp" else True
        both, average = (
            certify(
                model,
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
            for model in (self._pair, self._average)
        )
        margins = {"pair": both.worst_margin, "average": average.worst_margin}
        for name, values in (("f", both.f_margin), ("g", both.g_margin)):
            margins[name] = counting.least_margin(values, full.labels)
        return Judged(
            batch,
            silent=_where(both.certified[:n], Status.VERIFIED),
            abstains=_where(both.answered[:n], Status.VERIFIED),
            margins={name: margins[name][:n] for name in NAMES},
            target=both.worst_target[:n],
        )


class PairMilp:
    """Decides whether both networks can be made to answer one wrong class, where that is open.

    How far an attack may force the pair to abstain is a question about each network alone, which
    is left to the bounds.
    """

    name = Milp.name
    batch_size = Milp.batch_size

    def __init__(self, milp: Milp | shared.Shared, ledger: Ledger[PairRow]):
        """Takes the stage that decides, here or by workers."""
        self._milp, self._ledger = milp, ledger

    def run(self, batches: Iterable[Examples]) -> Iterator[Judged]:
        """Decides the batches, in any order; raises as the stage does."""
        closed: list[Examples] = []

        def left() -> Iterator[Examples]:
            for batch in batches:
                if self._ledger.rows[int(batch.indices[0])].silent is Status.UNKNOWN:
                    yield batch
                else:
                    closed.append(batch)

        for found in self._milp.run(left()):
            yield Judged(
                found.examples,
                silent=found.status,
                target=found.worst_target,
                seconds=found.seconds,
                witnesses=found.witnesses,
                search=found.search,
            )
        yield from map(Judged, closed)


def lead(logits: np.ndarray) -> np.ndarray:
    """By how much the greatest logit [n, classes] is above all others, [n]; minus infinity."""
    ordered = np.sort(np.where(np.isfinite(logits), logits, -np.inf), axis=1)
    finite = np.isfinite(logits).all(1)
    return np.where(finite, ordered[:, -1] - ordered[:, -2], -np.inf)


def _where(decided: np.ndarray, status: Status) -> list[Status]:
    return [status if is_decided else Status.UNKNOWN for is_decided in decided]
