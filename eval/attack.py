"""Attacks the images of a file, a folder or a data set.

`python -m eval.attack IMAGES --model_file=NET.keras --eps=0.1`, or `robustra attack`. IMAGES is an
`.npz` file with `x`, images in [0, 1], and `y`, the label of each, or a folder of images by class;
or `--dataset` names a data set. Projected gradient descent looks for an image in the ball about
each that the network takes for another class: finding none proves nothing. `--save` keeps the
images it ends at, `--out` what it found one by one.
"""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustra_tf.cli import command, settings
from robustra_tf.cli.program import Program
from robustra_tf.cli.settings import Range
from robustra_tf.data import Dataset
from robustra_tf.storage.files import write_atomically

from .asked import Asked, answer, as_csv
from .config import Config

if TYPE_CHECKING:
    import keras

    from robustra_tf.attacks import AttackResult

PROGRAM = Program("eval.attack")
COLUMNS = ("index", "label", "success", "predicted", "margin")
_ATTACK = "Attack"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attacked(Asked):
    """The command's settings."""

    box: bool = command.setting("what is looked at lies in [0, 1]", True, topic="Question")
    loss: str = command.same(Config, "attack_loss", topic=_ATTACK)
    steps: int = command.same(Config, "attack_steps", topic=_ATTACK)
    restarts: int = command.same(Config, "attack_restarts", topic=_ATTACK)
    seed: int = command.same(Config, "seed", topic=_ATTACK)
    batch_size: int = command.setting("images at a time", 500, range=Range(1), topic=_ATTACK)
    save: Path | None = command.setting(
        "an .npz file: x, where the attacks ended, y, success, predicted", None, topic="Results"
    )
    out: Path | None = command.setting(
        "what was found image by image, a CSV", None, topic="Results"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Attacks what the command line names; returns the process's exit code."""
    return answer(PROGRAM, Attacked, __doc__, arguments, _attack)


def _attack(given: Attacked, model: keras.Model, examples: Dataset) -> str:
    from robustra_tf.attacks import Attack

    indices = np.arange(given.first, given.first + len(examples.labels))
    attack = Attack(
        model,
        norm=settings.known("norm", given.norm),
        box=(0.0, 1.0) if given.box else None,
        loss=given.loss,
        steps=given.steps,
        restarts=given.restarts,
        batch_size=given.batch_size,
        seed=given.seed,
    )
    found = attack(*examples, given.eps, indices)
    if given.save is not None:
        write_atomically(given.save, _archive(found, examples.labels))
    if given.out is not None:
        columns = (indices, examples.labels, found.success.astype(int), found.predicted)
        write_atomically(given.out, as_csv(COLUMNS, [*columns, found.margin.tolist()]))
    return found.summary()


def _archive(found: AttackResult, labels: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(
        content, x=found.adversarial, y=labels, success=found.success, predicted=found.predicted
    )
    return content.getvalue()


if __name__ == "__main__":
    sys.exit(main())
