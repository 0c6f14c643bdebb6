"""Finds how far each image can move: certified and attacked radii.

`python -m eval.radius IMAGES --model_file=NET.keras`, or `robustra radius`; network and images are
named as for `eval.certify`. Printed are the radii's medians, of all images and by
class. `--out` keeps the radii image by image, the classes and the curve of certified accuracy as
CSV, and its figure.
"""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from robustra_tf.cli import command, settings
from robustra_tf.cli.program import Program
from robustra_tf.cli.settings import Range, SettingError
from robustra_tf.data import Dataset
from robustra_tf.storage.files import write_atomically

from .asked import Asked, answer, as_csv
from .certify import Certify
from .config import Config

if TYPE_CHECKING:
    import keras

    from robustra_tf.certificates.radii import Radii

PROGRAM = Program("eval.radius")
FIGURE = "radius.png"
#: Norms that complete verification knows.
_DECIDED = ("linf", "l1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Radius(Asked):
    """The command's settings."""

    needs_eps: ClassVar[bool] = False

    eps: float | None = command.same(
        Config,
        "eps",
        default=None,
        text="a radius at which the curve is exact, in pixels of [0, 1]",
        otherwise="what the saved model was trained for, if it knows",
    )
    box: bool = command.same(Certify, "box")
    tolerance: float = command.setting(
        "of the radii", 1e-3, range=Range(0, unit="pixels", open_low=True), topic="Question"
    )
    complete: bool = command.setting(
        "go on to the minimal distortion by complete verification: linf and l1",
        False,
        topic="Question",
    )
    method: str = command.same(Certify, "method")
    dtype: str | None = command.same(Certify, "dtype")
    sound: bool = command.same(Certify, "sound")
    batch_size: int = command.same(Certify, "batch_size")
    attack_steps: int = command.setting(
        "steps of every attack; 0 leaves attacks out", 20, range=Range(0), topic="Attack"
    )
    time_limit: float = command.same(
        Config, "time_limit", text="for an image at one radius, where --complete"
    )
    out: Path | None = command.setting(
        "folder of radii.csv, classes.csv, curve.csv and radius.png", None, topic="Results"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.out is not None:
            settings.output_directory("out", self.out)
        if self.complete and self.sound:
            raise SettingError("sound", "not with --complete, whose search rounds", True)
        if self.complete and self.norm not in (None, *_DECIDED):
            raise SettingError("norm", f"{' or '.join(_DECIDED)} with --complete", self.norm)


def main(arguments: Sequence[str] | None = None) -> int:
    """Finds the radii that the command line asks for; returns the process's exit code."""
    return answer(PROGRAM, Radius, __doc__, arguments, _found)


def _found(given: Radius, model: keras.Model, examples: Dataset) -> str:
    from robustra_tf.certificates import radius

    radii = radius.certified_radius(
        model,
        *examples,
        norm=settings.known("norm", given.norm),
        box=(0.0, 1.0) if given.box else None,
        method=given.method,
        tolerance=given.tolerance,
        radii=() if given.eps is None else (given.eps,),
        attack_steps=given.attack_steps,
        complete=given.complete,
        time_limit=given.time_limit,
        batch_size=given.batch_size,
        dtype=given.dtype,
        sound=given.sound,
        progress=sys.stderr.isatty(),
    )
    lines = [radii.summary(), *_by_class(radii)]
    if given.out is not None:
        lines.append(keep(given.out, radii))
    return "\n".join(lines)


def _by_class(radii: Radii) -> Iterator[str]:
    """The table of the classes, as lines to print."""
    yield "  class  images  correct  certified   attacked  (medians)"
    for label, images, correct, certified, attacked in zip(*radii.by_class().values(), strict=True):
        yield (f"  {label:>5}  {images:>6,}  {correct:>7.2%}  {certified:>9.4g}  {attacked:>9.4g}")


def keep(out: Path, radii: Radii) -> str:
    """Writes the tables and the figure into a folder; gives a line that says where.

    Without Matplotlib there is no figure, and the line says what to install.
    """
    out.mkdir(exist_ok=True)
    curve = radii.curve()
    for name, columns in (
        ("radii", radii.columns()),
        ("classes", radii.by_class()),
        ("curve", curve._asdict()),
    ):
        values = (column.tolist() for column in columns.values())
        write_atomically(out / f"{name}.csv", as_csv(tuple(columns), values))
    try:
        from . import figures
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return f"tables in {out}; no figure: after pip install 'robustra-tf[report]' there is one"
    png = io.BytesIO()
    figures.radius_curve(*curve, radii.norm).savefig(png, format="png")
    write_atomically(out / FIGURE, png.getvalue())
    return f"tables and {FIGURE} in {out}"


if __name__ == "__main__":
    sys.exit(main())
