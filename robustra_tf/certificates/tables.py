"""What is known image by image and class by class, as tables."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


class Table:
    """What is known of images, with `columns` of equal length."""

    def columns(self) -> dict[str, np.ndarray]:
        """What is known image by image, by name."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """`columns` as a DataFrame of pandas, a row for each image.

        Raises:
          ImportError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise ImportError("to_pandas: needs pandas, which pip install pandas brings") from None
        return pandas.DataFrame(self.columns())


def by_class(
    labels: np.ndarray, measures: Mapping[str, Callable[[np.ndarray], float]]
) -> dict[str, np.ndarray]:
    """Measures of the images of each class that occurs, as columns: `label`, `images` and theirs.

    Args:
      labels: integers [n].
      measures: each a function of the places of a class's images, integers [k].
    """
    classes = np.unique(labels)
    places = [np.flatnonzero(labels == label) for label in classes]
    found = {"label": classes, "images": np.array([len(place) for place in places], int)}
    return found | {
        name: np.array([measure(place) for place in places]) for name, measure in measures.items()
    }
