"""One evaluation of a pair, from its configuration to results.json, ledger.csv and the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import robustra_tf as rt
from robustra_tf.cli.stopping import NEVER, Stop
from robustra_tf.intake.precision import full_precision

from . import cascade, page, pair_results, pair_stages, pools, results, run
from .config import Config
from .pair_rows import PairRow
from .pair_stages import Judged
from .progress import Progress
from .rows import Status
from .witnesses import Witnesses
from .workers import Pool

#: What the bar counts: proven to be answered, and not.
_SHOWN = (Status.VERIFIED, Status.UNKNOWN)


def prepare(config: Config) -> run.Evaluation[PairRow]:
    """Loads and checks both networks and the examples, and opens the ledger; as `run.prepare`."""
    return run.opened(config, PairRow)


@full_precision()
def evaluate(
    evaluation: run.Evaluation[PairRow],
    stop: Stop = NEVER,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Runs the stages, writes the results and prints them; returns the content of results.json.

    Arguments and errors are `run.evaluate`'s.
    """
    config = evaluation.config
    stop.keeps(f"what is decided stays in {config.out}, --resume goes on from it")
    with pools.opened(config, say) as pool:
        found = _decided(evaluation, pool, stop)
    print(page.write(config.out), flush=True)
    return found


def _decided(evaluation: run.Evaluation[PairRow], pool: Pool | None, stop: Stop) -> dict[str, Any]:
    config, pair, examples, identity, ledger = evaluation
    kept = PairWitnesses(config.out, identity, pair, config.resume)
    made = pair_stages.make(config, pair, ledger, pool)
    progress = Progress(ledger.rows.values(), shown=_SHOWN)
    try:
        cascade.run(made, examples, ledger, run.until(stop, progress), kept.keep)
    finally:
        progress.close()
        ledger.close()
    ledger.finish()
    name, source = _name(pair), str(config.place.resolve())
    found = pair_results.figures(identity, name, source, ledger.rows.values(), ledger.seconds)
    path = results.write(found, config.out)
    print(f"{pair_results.table(found)}\nresults in {path}", flush=True)
    return found


def _name(pair: rt.Pair) -> str:
    names = dict.fromkeys((pair.f.name, pair.g.name))
    return f"pair of {' and '.join(names)}"


class PairWitnesses(Witnesses):
    """The witnesses of silent errors: points that both networks answer with one wrong class."""

    def keep(self, stage: str, decisions: Judged) -> None:
        """Adds the witnesses of what a stage falsified; a `cascade.Keep`."""
        if decisions.witnesses is None or decisions.silent is None:
            return
        chosen = np.flatnonzero([status is Status.FALSIFIED for status in decisions.silent])
        batch = decisions.examples.take(chosen)
        self.add(stage, batch.indices, batch.images, batch.labels, decisions.witnesses[chosen])

    def _replayed(
        self, images: np.ndarray, found: np.ndarray, labels: np.ndarray
    ) -> rt.attacks.Replay:
        f, g = (
            rt.attacks.replay(network, images, found, labels, **self._ball())
            for network in (self._model.f, self._model.g)
        )
        both = f.success & g.success & (f.predicted == g.predicted)
        return f._replace(success=both, margin=np.minimum(f.margin, g.margin))

    def _ball(self) -> Mapping[str, Any]:
        return {name: self._identity[name] for name in ("eps", "norm", "box")}
