"""What a run is made of: the examples, and the architecture that the networks have."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range, SettingError
from robustra_tf.data import Dataset, Info, Origin
from robustra_tf.vocabulary import CLASSES, MODEL_INPUTS, MODELS, models_for

from . import presets

#: Which networks start from the weights of `model_file`.
STARTS = ("f", "both", "none")

_task, _data = (
    functools.partial(command.setting, topic=topic) for topic in ("What is trained", "Data")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """The settings of a run that say what it is made of."""

    dataset: str = _task(
        "data set: digits, or the name of one that --data_dir has", presets.DEFAULT_DATASET
    )
    model: str | None = _task(
        "architecture", None, choices=MODELS, otherwise="the data set's small one"
    )
    width: float = _task(
        "factor of the architecture's filters and hidden units", 1.0, range=Range(0.01, 8)
    )
    model_file: str | None = _task(
        "instead of --model: a Keras model, .keras, .h5 or a SavedModel's folder", None
    )
    start: str = _task(
        "the networks that start from the weights in --model_file, the others from new ones",
        STARTS[0],
        choices=STARTS,
    )
    data: str | None = _data(
        "instead of --dataset: an .npz file of x and y, or of x_train, y_train, x_test and y_test, "
        "or a folder of images by class",
        None,
    )
    scale: float | None = _data(
        "what the pixels of --data are divided by, such as 255",
        None,
        range=Range(0, open_low=True),
        otherwise="none: they lie in [0, 1]",
    )
    data_dir: str | None = _data(
        "TensorFlow Datasets' folder", None, otherwise="TFDS_DATA_DIR, or else its own"
    )

    @property
    def origin(self) -> Origin:
        """Where the examples come from."""
        path = None if self.data is None else Path(self.data).expanduser()
        return Origin(self.dataset, self.data_dir, path, self.scale)

    def info(self) -> Info:
        """What is known of the examples; raises `FlagError` where they cannot be read."""
        with settings.naming("dataset" if self.data is None else "data"):
            return self.origin.info()

    def load(self, split: str, limit: int) -> Dataset:
        """The first examples of a split.

        Raises:
          DataNotFoundError: the data set is not there.
          FlagError: its files are damaged, or have pixels or labels of another kind.
        """
        if self.data is None:
            return self.origin.load(split, limit)
        with settings.naming("data"):
            return self.origin.load(split, limit)

    def from_file(self, network: str) -> bool:
        """Whether a network, f or g, starts from the weights in `model_file`."""
        return self.start == "both" or (self.start == "f" == network)


def parts(info: Info) -> tuple[str, str | None]:
    """The split that is trained on, and the one that networks are tested on, if there is one.

    Raises:
      SettingError: there are examples for testing alone.
    """
    names = list(info.splits)
    tested = "test" if "test" in names else None
    trained = "train" if "train" in names else next(n for n in [*names, None] if n != tested)
    if trained is None:
        raise SettingError("dataset", "one with examples to train on", ", ".join(names))
    return trained, tested


def fitting(info: Info) -> list[str]:
    """The architectures that take such images."""
    return models_for(info.shape)


def check_material(material: Material, info: Info) -> None:
    """Refuses (`SettingError`) an architecture for other images, and what does not go together."""
    if material.scale is not None and material.data is None:
        raise SettingError("scale", "none but with --data", material.scale)
    if material.model_file is not None:
        if material.model is not None:
            raise SettingError("model", "one of --model and --model_file", material.model)
        return
    if material.start != STARTS[0]:
        raise SettingError("start", "none but with --model_file", material.start)
    names = fitting(info)
    if material.model not in names:
        way = "x[..., None]" if (*info.shape, 1) in MODEL_INPUTS.values() else "--model_file"
        there = ", ".join(names) or f"there is none for images of {info.shape}: {way}"
        raise SettingError("model", f"one for {material.dataset}: {there}", material.model)
    if info.classes > CLASSES:
        wanted = f"a --model_file of {info.classes} classes for {material.dataset}"
        raise SettingError("model", wanted, material.model)
