"""Compares pairs with their parts, from trained runs: one table.

`python -m eval.pair_study NAME=RUN ... --eps=0.1 --out=DIR`, or `robustra pair-study`. Each pair is
`NAME=RUN`, the folder of a run that trained f and g, or `NAME=F,G`, two SavedModels. Its rows are
the pair; f and g alone; their averaged logits; and each of these with a threshold: it answers only
where its greatest logit leads all others by at least so much as leaves, on training images that the
runs did not see (`--held` from `--held_first` on), no larger share without an answer than the pair
leaves there. For runs that saw all training images `--held=0` sets it on the test images
themselves, in the threshold's favour.

Columns, in percent of the test images: the clean error and the clean abstention; the certified
silent error, images for which a wrong answer within the ball is not excluded; and the certified
abstention, images for which it is not excluded that a point of the ball is not answered by the
label. All by the best of `--methods`. What a pair came to is kept in `--out` and not done again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from robustra_tf.cli import command, settings
from robustra_tf.cli.program import Program
from robustra_tf.cli.settings import Range, SettingError
from robustra_tf.storage.files import write_atomically
from robustra_tf.vocabulary import BOUNDS

from . import coverage
from .config import Config

if TYPE_CHECKING:
    import keras

    from robustra_tf.data import Dataset
    from robustra_tf.pair import Pair

PROGRAM = Program("eval.pair_study")
COLUMNS = ("clean_error", "clean_abstention", "silent_error", "abstention")
HEAD = ("pair", "classifier", "clean error", "clean abst.", "silent error", "certified abst.")
_SOUND = ("dual", "interval")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """The command's settings."""

    pairs: tuple[str, ...] = command.setting("pairs to compare", operands="NAME=RUN|F,G")
    eps: float = command.same(Config, "eps")
    norm: str = command.same(Config, "norm", default="linf")
    dataset: str = command.setting("data set", "mnist")
    data_dir: str | None = command.setting("TensorFlow Datasets' folder", None)
    limit: int = command.setting("test images", 10000, range=Range(1))
    held: int = command.setting(
        "training images that thresholds are set on (0: the test images)",
        5000,
        range=Range(0),
    )
    held_first: int = command.setting("position of the first of them", 55000, range=Range(0))
    methods: tuple[str, ...] = command.setting("bounds", ("interval", "dual"), choices=BOUNDS)
    sound: bool = command.setting("subtract all rounding: dual and interval", False)
    batch_size: int = command.setting("images at a time", 20, range=Range(1))
    out: Path = command.setting("folder of table.md and of what each pair came to")

    def __post_init__(self):
        command.check(self)
        if not self.pairs:
            raise SettingError("pairs", "one NAME=RUN or more", "none")
        for text in self.pairs:
            name, equals, places = text.partition("=")
            if not (name and equals and 1 <= len(places.split(",")) <= 2):
                raise SettingError("pairs", "NAME=RUN or NAME=F,G", text)
        if self.sound and (other := [name for name in self.methods if name not in _SOUND]):
            raise SettingError("methods", f"{' and '.join(_SOUND)} with --sound", other[0])
        settings.output_directory("out", self.out)


class Known(NamedTuple):
    """What is known of a classifier on some images.

    Attributes:
      answer: its class for each, -1 where it abstains, [n].
      lead: by how much the answer leads, minus infinity where there is none, [n].
    """

    answer: np.ndarray
    lead: np.ndarray


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares what the command line names; returns the process's exit code."""
    given = PROGRAM.read(Study, __doc__, arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        from robustra_tf import data

        given.out.mkdir(exist_ok=True)
        test = data.load(given.dataset, "test", given.limit, given.data_dir)
        held = _held(given) if given.held else test
        found = {}
        for text in given.pairs:
            name, _, places = text.partition("=")
            found[name] = _compared(given, name, places.split(","), test, held)
            write_atomically(given.out / "table.md", table(found))
    except (ValueError, OSError) as error:
        return PROGRAM.refuse(error)
    print(table(found), end="")
    return 0


def _held(given: Study) -> Dataset:
    """The training images that thresholds are set on."""
    from robustra_tf import data

    whole = data.load(given.dataset, "train", given.held_first + given.held, given.data_dir)
    held = data.Dataset(*(part[given.held_first :] for part in whole))
    if not len(held.labels):
        raise SettingError("held_first", "a position in the training images", given.held_first)
    return held


def _compared(
    given: Study, name: str, places: list[str], test: Dataset, held: Dataset
) -> dict[str, dict[str, float]]:
    """The rows of a pair, computed or read back."""
    from robustra_tf import export
    from robustra_tf.pair import Pair
    from robustra_tf.storage import fingerprint

    if len(places) == 1:
        places = [f"{places[0]}/{part}" for part in ("f", "g")]
    pair = Pair(*(export.load(place) for place in places))
    asked = {key: getattr(given, key) for key in ("eps", "norm", "methods", "sound")}
    asked |= {"weights": fingerprint.weights_sha256(pair)}
    asked |= {"data": fingerprint.arrays_sha256([*test, *held])}
    text = json.dumps(asked, sort_keys=True)
    path = given.out / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    if not path.exists():
        PROGRAM.say(f"{name}: {len(test.labels):,} test images")
        rows = rows_of(pair, test, held, given)
        write_atomically(path, json.dumps({"asked": asked, "rows": rows}, indent=1) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def rows_of(pair: Pair, test: Dataset, held: Dataset, given: Study) -> dict[str, dict[str, float]]:
    """By classifier, the shares of `COLUMNS`.

    Args:
      pair: the two networks.
      test: the images that are certified.
      held: those that thresholds are set on.
      given: radius, norm and bounds.
    """
    from robustra_tf.pair import averaged

    average = averaged(pair)
    here, there = (_known(pair, average, part.images) for part in (test, held))
    share = float((there["pair"].answer == -1).mean())
    thresholds = {
        name: coverage.threshold_for(known.lead, share) if name != "pair" else 0.0
        for name, known in there.items()
    }
    margins, answered = _margins(pair, average, test, given, here, thresholds)
    rows = {}
    for name, known in here.items():
        rows[name] = _row(known, margins[name], test.labels, 0.0)
    # Of the pair, what either network leaves open by itself may be made to differ.
    rows["pair"]["abstention"] = float(1 - answered.mean())
    for name in ("f", "g", "average"):
        threshold = thresholds[name]
        rows[f"{name}, threshold"] = _row(here[name], margins[name], test.labels, threshold)
        rows[f"{name}, threshold"]["threshold"] = threshold
    return rows


def _row(known: Known, margin: np.ndarray, labels: np.ndarray, tau: float) -> dict[str, float]:
    silent = (known.answer == -1) | (known.lead < tau)
    # Certified is what neither errs at the image itself nor can be made to.
    quiet = silent | (known.answer == labels)
    proven = (margin > -tau) & quiet
    held = (margin > 0) & (margin >= tau) & (known.answer == labels)
    found = (~quiet, silent, ~proven, ~held)
    return {name: float(part.mean()) for name, part in zip(COLUMNS, found, strict=True)}


def _known(pair: Pair, average: keras.Model, x: np.ndarray) -> dict[str, Known]:
    """What the pair, its networks and their averaged logits answer."""
    from .pair_stages import lead
    from .stages import predict

    found = {}
    for name, model in (("f", pair.f), ("g", pair.g), ("average", average)):
        logits = np.concatenate([predict(model, x[at : at + 500]) for at in range(0, len(x), 500)])
        finite = np.isfinite(logits).all(1)
        found[name] = Known(np.where(finite, logits.argmax(1), -1), lead(logits))
    f, g = found["f"], found["g"]
    agree = f.answer == g.answer
    both = np.where(agree, np.minimum(f.lead, g.lead), -np.inf)
    return {"pair": Known(np.where(agree, f.answer, -1), both), **found}


def _margins(
    pair: Pair,
    average: keras.Model,
    test: Dataset,
    given: Study,
    known: dict[str, Known],
    thresholds: dict[str, float],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The largest lower bound of each one's least margin, [n], and whether the pair answers.

    What an earlier method settles, for every classifier with its threshold and without, no later
    one looks at.
    """
    from robustra_tf import counting
    from robustra_tf.certificates.certify import certify
    from robustra_tf.data import Dataset

    labels = test.labels
    found = {name: np.full(len(labels), -np.inf) for name in known}
    answered = np.zeros(len(labels), bool)
    for method in given.methods:
        settled = [_settled(known[name], found[name], labels, thresholds[name]) for name in known]
        settled.append(answered | (known["pair"].answer != labels))
        if not (rows := np.flatnonzero(~np.all(settled, 0))).size:
            break
        part = Dataset(*(values[rows] for values in test))
        how: dict[str, Any] = {"method": method, "norm": given.norm, "sound": given.sound}
        how |= {"batch_size": given.batch_size, "progress": sys.stderr.isatty()}
        both, mean = (certify(model, *part, given.eps, **how) for model in (pair, average))
        new = {"pair": both.worst_margin, "average": mean.worst_margin}
        for name, each in (("f", both.f_margin), ("g", both.g_margin)):
            new[name] = counting.least_margin(each, part.labels)
        for name, margin in new.items():
            found[name][rows] = np.maximum(found[name][rows], margin)
        answered[rows] |= both.answered
    return found, answered


def _settled(known: Known, margin: np.ndarray, labels: np.ndarray, tau: float) -> np.ndarray:
    """Whether no larger margin changes what `_row` counts, at the threshold or at 0."""
    wrong = known.answer != labels
    return np.where(wrong, (known.lead >= tau) | (margin > -tau), (margin > 0) & (margin >= tau))


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """All rows as a table in Markdown, in percent."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    for pair, rows in found.items():
        for name, shares in rows.items():
            cells = (f"{100 * shares[column]:.2f}" for column in COLUMNS)
            lines.append(f"| {pair} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
