"""What a command is about: a network, and the labelled images that it is looked at on."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, ClassVar

from robustra_tf import vocabulary
from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range, SettingError
from robustra_tf.data import Info, Origin
from robustra_tf.storage import description, keras_files

_NETWORK, _EXAMPLES = "Network", "Examples"
_network, _examples = (
    functools.partial(command.setting, topic=topic) for topic in (_NETWORK, _EXAMPLES)
)
_SOURCES = ("saved_model", "model_file", "weights")
#: Settings that are files or folders.
PATHS = (*_SOURCES, "pair", "data")
_SOURCE = "one of --saved_model, --model_file and --weights with --model"
TRAINED = "what the saved model was trained for"
_TRAINED_FOR = ("dataset", "eps", "norm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """The network: one that training wrote, one of Keras's, or an architecture's weights."""

    #: The settings of which one names the network, and what errors say of them.
    sources: ClassVar[tuple[str, ...]] = _SOURCES
    wanted: ClassVar[str] = _SOURCE

    saved_model: Path | None = command.setting(
        "folder of a SavedModel that training wrote", None, topic=_NETWORK
    )
    model_file: Path | None = command.setting(
        "a Keras model: a .keras or .h5 file, or a SavedModel's folder", None, topic=_NETWORK
    )
    weights: Path | None = command.setting(
        "published weights, a .mat file; with --model", None, topic=_NETWORK
    )
    model: str | None = _network("architecture of --weights", None, choices=vocabulary.SIZED_MODELS)
    normalised: bool = _network("the network in --weights works on normalised inputs", False)

    def __post_init__(self):
        command.check(self)
        given = [name for name in self.sources if getattr(self, name) is not None]
        if len(given) != 1:
            raise SettingError("saved_model", self.wanted, ", ".join(given) or "none")
        if self.weights is not None:
            settings.one_of("model", self.model, vocabulary.MODEL_INPUTS)
        elif self.model is not None or self.normalised:
            flag = "normalised" if self.model is None else "model"
            raise SettingError(flag, "none but with --weights", getattr(self, flag))

    @property
    def flag(self) -> str:
        """The flag that names the network."""
        (name,) = [name for name in self.sources if getattr(self, name) is not None]
        return name

    @property
    def place(self) -> Path:
        """The file or folder of the network."""
        return getattr(self, self.flag).expanduser()

    def trained_for(self) -> dict[str, Any]:
        """The data set, the radius and the norm that the network says that it was trained for.

        Raises:
          FlagError: its file or folder is not there or cannot be read.
        """
        if self.weights is not None:
            return {}
        with settings.naming(self.flag):
            return self._trained_for()

    def _trained_for(self) -> dict[str, Any]:
        if self.place.suffix in keras_files.SUFFIXES and not self.place.is_dir():
            keras_files.read_architecture(self.place)
            return {}
        return known_of(self.place)


def known_of(place: Path) -> dict[str, Any]:
    """What a SavedModel says that it was trained for; raises as `description.read_settings`."""
    stored = description.read_settings(place)
    return {name: stored[name] for name in _TRAINED_FOR if stored.get(name) is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairSource(Source):
    """As `Source`, or both networks of a training run as one classifier."""

    sources: ClassVar[tuple[str, ...]] = (*_SOURCES, "pair")
    wanted: ClassVar[str] = f"{_SOURCE}, and --pair"

    pair: Path | None = command.setting(
        "folder of a training run, for its f and g as one classifier", None, topic=_NETWORK
    )

    def _trained_for(self) -> dict[str, Any]:
        if self.pair is None:
            return super()._trained_for()
        known, other = (known_of(self.place / name) for name in ("f", "g"))
        return {name: value for name, value in known.items() if other.get(name) == value}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examined(Source):
    """A network and the labelled images that it is looked at on."""

    dataset: str | None = _examples(
        "data set: digits, or the name of one that --data_dir has", None, otherwise=TRAINED
    )
    data: Path | None = command.setting(
        "instead of --dataset: an .npz file of x and y, or a folder of images by class",
        None,
        topic=_EXAMPLES,
    )
    scale: float | None = _examples(
        "what the pixels of --data are divided by, such as 255",
        None,
        range=Range(0, open_low=True),
        otherwise="none: they lie in [0, 1]",
    )
    data_dir: str | None = _examples(
        "TensorFlow Datasets' folder", None, otherwise="TFDS_DATA_DIR, or else its own"
    )
    split: str | None = _examples("split", None, otherwise="test, or all of --data")
    first: int = _examples("position of the first example in the split", 0)
    limit: int | None = _examples("so many examples from --first on", None, otherwise="all")

    def __post_init__(self):
        super().__post_init__()
        if self.data is not None and self.dataset not in (None, self.data.name):
            raise SettingError("dataset", "one of --dataset and --data", self.dataset)
        if self.scale is not None and self.data is None:
            raise SettingError("scale", "none but with --data", self.scale)

    @property
    def origin(self) -> Origin:
        """Where the examples come from."""
        name = settings.known("dataset", self.dataset) if self.data is None else self.data.name
        return Origin(name, self.data_dir, self.data, self.scale)

    @property
    def where(self) -> str:
        """What errors call the examples."""
        return f"{self.dataset} {self.split}" if self.data is None else f"--data: {self.data}"

    def checked(self) -> tuple[str, Info]:
        """The split, the usual one where none is given, and what is known of the examples.

        Raises:
          FlagError: there are no such examples, or they are damaged.
        """
        if self.data is None and self.dataset is None:
            named = "--data, or --dataset that only a saved model may know"
            raise SettingError("dataset", named, None)
        with settings.naming("dataset" if self.data is None else "data"):
            info = self.origin.info()
            self.origin.require()
        usual = "test" if "test" in info.splits else next(iter(info.splits))
        split = settings.one_of("split", self.split or usual, info.splits)
        size = info.splits[split]
        settings.within("first", self.first, Range(0, size - 1))
        if self.limit is not None:
            settings.within("limit", self.limit, Range(1, size - self.first))
        return split, info
