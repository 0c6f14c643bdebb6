"""Where a program's examples come from: a data set by name, or a file or folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from robustra_tf.data import own, sets
from robustra_tf.data.examples import Dataset, Info


class Origin(NamedTuple):
    """A source of examples, which may be read more than once.

    Attributes:
      name: of the data set, or of the file or folder.
      data_dir: TensorFlow Datasets' folder, as `load` takes it.
      path: of the file or folder; None for a data set.
      scale: what the pixels of a file are divided by, as `read` takes it.

    Example:
      >>> origin = rt.data.Origin("digits")
      >>> origin.load("test", limit=3).images.shape
      (3, 8, 8, 1)
    """

    name: str
    data_dir: str | None = None
    path: Path | None = None
    scale: float | None = None

    def info(self) -> Info:
        """What is known before anything is read.

        Raises:
          OSError, ValueError: it is not there, damaged, or of another form.
        """
        if self.path is not None:
            return own.describe(self.path)
        return sets.describe(self.name, self.data_dir)

    def require(self) -> None:
        """Refuses what is not there; raises as `info`."""
        if self.path is None:
            sets.find(self.name, self.data_dir)

    def load(self, split: str, limit: int | None = None) -> Dataset:
        """The first examples of a split; raises as `info`."""
        if self.path is not None:
            return own.read(self.path, split, limit, self.scale)
        return sets.load(self.name, split, limit, self.data_dir)

    def sha256(self, split: str) -> str | None:
        """Hash of the files of a whole split, without decoding them; None where there are none."""
        digest = hashlib.sha256()
        if not (paths := [*self._files(split)]):
            return None
        for path in paths:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _files(self, split: str) -> Iterator[Path]:
        if self.path is None:
            if (folder := sets.find(self.name, self.data_dir)) is None:
                return
            yield folder / "dataset_info.json"
            yield from sorted(folder.glob(f"{self.name.partition('/')[0]}-{split}.*"))
        elif self.path.is_dir():
            yield from own.folders.scan(own.part(self.path, split)).paths
        else:
            yield self.path
