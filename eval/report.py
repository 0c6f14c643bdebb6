"""Writes the page of a finished evaluation.

`python -m eval.report --out=DIR`, or `robustra report`.

`report.html` is one file that needs no network and no script: its figures, which stand in
`figures/*.png` too, are part of it. Everything on it is read from what the evaluation left in its
directory and from the history of the run that trained the network. `eval.main` and `eval.merge`
write the page at their end; the command writes it anew, for other options:

* `--run=WORKDIR`: the training run, where it does not lie beside the SavedModel;
* `--motivation=CSV`: a run whose networks attack each other, columns `plots.MOTIVATION`;
* `--data_dir=DIR`, or `--data=FILE`: where the images are read from again.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from matplotlib.figure import Figure

from robustra_tf.cli import command, plots
from robustra_tf.cli.program import Program
from robustra_tf.storage.files import write_atomically

from . import (
    checked,
    curves,
    figures,
    gallery,
    pair_page,
    pair_results,
    property_page,
    published,
    results,
    sweep,
    witnesses,
)
from .cascade import Examples
from .ledger import Stored, read
from .page import FOLDER, NAME
from .rows import Status

PROGRAM = Program("eval.report")
_TEMPLATES = Path(__file__).with_name("templates")
#: The column of Table 2 that each error is to be compared with.
_COMPARED = {"lp_error": "lp", "milp_error_upper": "milp", "clean_error": "clean"}


class Picture(NamedTuple):
    """A figure of the page: its file's name, the text for who cannot see it, and its PNG."""

    name: str
    alt: str
    png: bytes

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return as_uri(self.png)


def as_uri(png: bytes) -> str:
    """A PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def environment() -> jinja2.Environment:
    """What templates of pages are read by."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["percent"] = lambda share: f"{100 * share:.2f}%"
    return made


def build(
    out: Path,
    examples: Examples | None = None,
    run: Path | None = None,
    motivation: Path | None = None,
    data_dir: str | None = None,
    data: Path | None = None,
) -> Path:
    """Writes `report.html` and `figures/*.png` for the finished evaluation in a directory.

    Args:
      out: the evaluation's directory.
      examples: its examples, where they are at hand; otherwise they are read again.
      run: the workdir of the training run; looked for beside the SavedModel by default.
      motivation: a CSV for Figure 1.
      data_dir: TensorFlow Datasets' folder.
      data: the file or folder of the images, where it was one.

    Returns:
      The page's path.

    Raises:
      ValueError: no finished evaluation there, a damaged file, or a `run` or `motivation` that is
        not one; what was only looked for and not found is said on the page.
    """
    if property_page.is_of(out):
        return property_page.build(out)
    if pair_results.is_of(out):
        return pair_page.build(out)
    stored, found = read(out), results.read(out)
    attacked = None if motivation is None else curves.read_motivation(motivation)
    if not stored.finished:
        raise ValueError(f"{out}: the evaluation is not finished; eval.main --resume goes on")
    if (
        found["n"] != len(stored.rows)
        or found["weights_sha256"] != stored.identity["weights_sha256"]
    ):
        raise ValueError(
            f"{out}: {results.NAME} and the ledger are of two evaluations; eval.main --resume "
            "writes the results anew"
        )
    content = {
        "figures": found,
        "settings": stored.identity,
        "ranges": results.ranges(stored.rows),
        "errors": list(_errors(found)),
        "published": published.find(found),
        **_training(found, run),
        **_stages(found, stored),
        **_sweep(out, stored, found),
        **_gallery(out, stored, lambda: examples or gallery.load(stored.identity, data_dir, data)),
        "motivation": None,
        "checked": checked.read(out, found.get("sha256", {}).get("network")),
    }
    if attacked is not None:
        drawn = plots.motivation(attacked)
        content["motivation"] = picture("motivation", "PGD and transfer errors by epoch", drawn)
    _save([value for value in content.values() if isinstance(value, Picture)], out / FOLDER)
    path = out / NAME
    write_atomically(path, environment().get_template(NAME).render(content))
    return path


def _errors(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of the result table: words, share, count, and what was published for each method."""
    rows = published.find(found)
    for name, words in results.ERRORS.items():
        if name in found:
            column = _COMPARED.get(name)
            beside = [getattr(row, column) if column else None for row in rows]
            count = round(found[name] * found["n"])
            yield {"words": words, "share": found[name], "count": count, "published": beside}


def _training(found: Mapping[str, Any], run: Path | None) -> dict[str, Any]:
    """The training curves of `run` or of the run beside the SavedModel, or why there are none."""
    content: dict[str, Any] = {"errors_figure": None, "reference_figure": None, "training": None}
    source = found["source"]
    folder = run if run is not None else source and Path(source).parent
    if not folder or not (run is not None or (Path(folder) / "history.csv").is_file()):
        return content | {"training_note": "No training run was found beside the network."}
    try:
        history = curves.read(Path(folder))
    except ValueError as error:
        if run is not None:
            raise
        return content | {"training_note": str(error)}
    content |= {"training": history.method, "training_note": None}
    if history.has(("robust_error", *curves.CERTIFIED, "clean_error", *curves.CLEAN)):
        alt = "Robust and clean error of f and g by epoch"
        content["errors_figure"] = picture("training_errors", alt, curves.errors(history))
    if history.has(("t0", *curves.TIGHTNESS)):
        alt = "Threshold t0 and shares of loose, tight and infeasible constraints by epoch"
        content["reference_figure"] = picture("reference", alt, curves.reference(history))
    return content


def _stages(found: Mapping[str, Any], stored: Stored) -> dict[str, Any]:
    """What each stage had, decided and took."""
    counts = figures.decided(list(found["seconds"]), list(stored.rows.values()))
    table, left = [], len(stored.rows)
    for name, decided in counts.items():
        spent = found["seconds"][name]
        counted = {status.value: decided[status] for status in Status if decided[status]}
        table.append({"name": name, "entered": left, "decided": counted, "seconds": spent})
        left -= decided.total()
    drawn = figures.stages(counts, found["seconds"])
    alt = "Examples that each stage decided, and its seconds"
    return {"stages": table, "left": left, "stages_figure": picture("stages", alt, drawn)}


def _sweep(out: Path, stored: Stored, found: Mapping[str, Any]) -> dict[str, Any]:
    """The errors against the radius, with the evaluation's own point where it has both ends."""
    points = sweep.read(out, stored.identity)
    if not points:
        return {"sweep": [], "sweep_figure": None}
    names = ("clean_error", "pgd_error", "lp_error")
    if found["eps"] not in [p.eps for p in points] and all(name in found for name in names):
        spent = sum(found["seconds"].values())
        errors = {name: found[name] for name in names}
        own = sweep.Point(eps=found["eps"], n=found["n"], seconds=spent, **errors)
        points = sorted([*points, own])
    drawn = picture("sweep", "Certified and PGD error against epsilon", figures.sweep(points))
    return {"sweep": points, "sweep_figure": drawn}


def _gallery(out: Path, stored: Stored, load: Callable[[], Examples]) -> dict[str, Any]:
    """Verified, falsified and undecided images, where `load` gives them."""
    rows, identity = list(stored.rows.values()), stored.identity
    content: dict[str, Any] = {"gallery_note": None, "scale": None, "falsified_figure": None}
    chosen = {
        "verified": gallery.verified(rows, figures.COLUMNS),
        "undecided": gallery.undecided(rows, figures.COLUMNS),
    }
    examples = None
    try:
        examples = load()
    except (ValueError, OSError) as error:
        content["gallery_note"] = f"Only adversarial examples are shown: {error}"
    for name, picked in chosen.items():
        drawn = None
        if picked and examples is not None:
            pictures = gallery.pictures(examples, picked)
            drawn = picture(name, f"Images that are {name}", figures.images(picked, pictures))
        content[f"{name}_figure"] = drawn
    shown = gallery.falsified(witnesses.read(out, identity), stored.rows, figures.COLUMNS)
    content["shown"] = len(shown)
    content["count"] = {s.value: sum(row.status is s for row in rows) for s in Status}
    if shown:
        scale = figures.perturbation_scale(shown, identity["eps"], identity["norm"])
        drawn = figures.falsified(shown, scale)
        alt = "Images, perturbations and the adversarial examples they give"
        content |= {"scale": scale, "falsified_figure": picture("falsified", alt, drawn)}
    return content


def picture(name: str, alt: str, figure: Figure) -> Picture:
    """A figure as a picture of a page."""
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return Picture(name, alt, png.getvalue())


def _save(pictures: list[Picture], folder: Path) -> None:
    """Writes the figures; those of an earlier page that this one has not are removed."""
    folder.mkdir(exist_ok=True)
    for picture in pictures:
        write_atomically(folder / f"{picture.name}.png", picture.png)
    drawn = {picture.name for picture in pictures}
    for name in _NAMES:
        if name not in drawn:
            (folder / f"{name}.png").unlink(missing_ok=True)


_NAMES = (
    "training_errors",
    "reference",
    "motivation",
    "stages",
    "sweep",
    "verified",
    "falsified",
    "undecided",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The command's settings."""

    out: Path = command.setting("folder of the evaluation")
    run: Path | None = command.setting(
        "workdir of the training run", None, otherwise="beside the SavedModel"
    )
    motivation: Path | None = command.setting("CSV of train.motivation, for Figure 1", None)
    data_dir: str | None = command.setting("TensorFlow Datasets' folder", None)
    data: Path | None = command.setting("the file or folder that was evaluated on", None)


def main() -> None:
    """Reads the command line."""
    given = PROGRAM.read(Report, __doc__)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        page = build(given.out, None, given.run, given.motivation, given.data_dir, given.data)
        print(f"report in {page}")
    except (ValueError, OSError) as error:
        sys.exit(PROGRAM.refuse(error))


if __name__ == "__main__":
    main()
