"""The adversarial examples behind the verdict *falsified*, kept for whoever wants to look at them.

`witnesses.npz` holds, for each stage, those of the lowest indices: `stage`, `index`, `label`,
`predicted` (the class that the adversarial example is taken for), `image` and `adversarial`
[count, h, w, c], and the `evaluation` that they belong to. A stage hands over what it found;
nothing is kept unless it lies inside ball and box in float64 and is classified wrongly.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Its attacks load TensorFlow on first use: reading and merging ledgers need not wait for that.
import robustra_tf as rt
from robustra_tf.storage.files import write_atomically
from robustra_tf.storage.reading import Field, read_arrays

from .cascade import Decisions
from .ledger import evaluation_id
from .rows import Status

NAME = "witnesses.npz"
#: So many are kept of each stage.
MOST = 12


@dataclasses.dataclass(frozen=True, eq=False)
class Witness:
    """An image [h, w, c] of a split, and a point near it of another class than its label."""

    stage: str
    index: int
    label: int
    predicted: int
    image: np.ndarray
    adversarial: np.ndarray


_NAMES = tuple(field.name for field in dataclasses.fields(Witness))
_WHOSE = {"evaluation": Field("U", 0)}
_FIELDS = {"stage": Field("U", 1)}
_FIELDS |= dict.fromkeys(("index", "label", "predicted"), Field("iu", 1))
_FIELDS |= dict.fromkeys(("image", "adversarial"), Field("f", 4))
#: Bytes of a file: a dozen images a stage take some megabytes at most.
LARGEST = 64 * 2**20


class Witnesses:
    """The witnesses of an evaluation, on disk as soon as they are found."""

    def __init__(
        self, directory: Path, identity: Mapping[str, Any], model: Callable, resume: bool = False
    ):
        """Begins anew, or goes on with those in `directory` that are of the same evaluation.

        Args:
          directory: an existing directory.
          identity: that of the ledger there, with `eps`, `norm` and `box`.
          model: the evaluated network: images [n, h, w, c] -> logits [n, classes].
          resume: keep what is there.
        """
        self._directory, self._identity, self._model = directory, identity, model
        self._kept = {(w.stage, w.index): w for w in read(directory, identity)} if resume else {}
        if not resume:
            (directory / NAME).unlink(missing_ok=True)

    def keep(self, stage: str, decisions: Decisions) -> None:
        """Adds the witnesses of what a stage falsified; a `cascade.Keep`."""
        if decisions.witnesses is None:
            return
        chosen = np.flatnonzero([status is Status.FALSIFIED for status in decisions.status])
        batch = decisions.examples.take(chosen)
        self.add(stage, batch.indices, batch.images, batch.labels, decisions.witnesses[chosen])

    def add(
        self,
        stage: str,
        indices: np.ndarray,
        images: np.ndarray,
        labels: np.ndarray,
        adversarial: np.ndarray,
    ) -> int:
        """Checks adversarial examples and keeps those that pass and are wanted.

        Args:
          stage: the one that found them.
          indices: int [n], positions in the split.
          images: [n, h, w, c].
          labels: int [n].
          adversarial: float32 [n, h, w, c].

        Returns:
          How many passed the check.
        """
        wanted = [i for i, index in enumerate(indices) if self._wants(stage, int(index))]
        if not wanted:
            return 0
        images, labels, found = images[wanted], np.asarray(labels)[wanted], adversarial[wanted]
        checked = self._replayed(images, found, labels)
        for i in np.flatnonzero(checked.success):
            index = int(indices[wanted[i]])
            self._kept[stage, index] = Witness(
                stage, index, int(labels[i]), int(checked.predicted[i]), images[i], found[i]
            )
        if checked.success.any():
            self._kept = {(w.stage, w.index): w for w in _first(self._kept.values())}
            write(self._directory, self._identity, self._kept.values())
        return int(checked.success.sum())

    def _replayed(
        self, images: np.ndarray, found: np.ndarray, labels: np.ndarray
    ) -> rt.attacks.Replay:
        """What the network makes of points near images, which have to lie in ball and box."""
        eps, norm, box = (self._identity[name] for name in ("eps", "norm", "box"))
        return rt.attacks.replay(self._model, images, found, labels, eps, norm=norm, box=box)

    def _wants(self, stage: str, index: int) -> bool:
        kept = [w.index for w in self._kept.values() if w.stage == stage]
        return (stage, index) not in self._kept and (len(kept) < MOST or index < max(kept))


def write(directory: Path, identity: Mapping[str, Any], witnesses: Iterable[Witness]) -> None:
    """Writes the witnesses of the lowest indices of each stage; none leave no file."""
    witnesses = _first(witnesses)
    if not witnesses:
        (directory / NAME).unlink(missing_ok=True)
        return
    columns: dict[str, Any] = {
        name: np.stack([getattr(w, name) for w in witnesses]) for name in _NAMES
    }
    content = io.BytesIO()
    np.savez_compressed(content, evaluation=evaluation_id(identity), **columns)
    write_atomically(directory / NAME, content.getvalue())


def read(directory: Path, identity: Mapping[str, Any]) -> list[Witness]:
    """The witnesses in `directory` of the evaluation `identity`, by stage and index.

    A file of another evaluation, or none, gives none. Points outside ball or box are left out: the
    file is not believed.

    Raises:
      ValueError: a file that cannot be read.
    """
    path = directory / NAME
    if not path.is_file():
        return []
    try:
        if str(read_arrays(path, _WHOSE, LARGEST)["evaluation"]) != evaluation_id(identity):
            return []
        columns = read_arrays(path, _FIELDS, LARGEST)
        if len({len(column) for column in columns.values()}) != 1:
            raise ValueError("its fields are of different lengths")
        if (columns["index"] < 0).any():
            raise ValueError("field 'index': expected at least 0, got a negative one")
        inside = rt.attacks.contained(
            columns["image"],
            columns["adversarial"],
            identity["eps"],
            identity["norm"],
            identity["box"],
        )
    except ValueError as error:
        text = str(error)
        raise ValueError(text if str(path) in text else f"{path}: damaged: {text}") from error
    return [
        Witness(
            str(columns["stage"][i]),
            *(int(columns[name][i]) for name in ("index", "label", "predicted")),
            image=columns["image"][i],
            adversarial=columns["adversarial"][i],
        )
        for i in np.flatnonzero(inside & (columns["predicted"] != columns["label"]))
    ]


def _first(witnesses: Iterable[Witness]) -> list[Witness]:
    """Those of the lowest indices of each stage, in their order."""
    kept: dict[str, list[Witness]] = {}
    for witness in sorted(witnesses, key=lambda w: w.index):
        of_stage = kept.setdefault(witness.stage, [])
        if len(of_stage) < MOST:
            of_stage.append(witness)
    return [witness for of_stage in kept.values() for witness in of_stage]
