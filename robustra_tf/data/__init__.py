"""Labelled images in [0, 1]: data sets by name, files and folders of one's own.

`digits` is embedded in scikit-learn; every other name is a folder of TensorFlow Datasets, which are
never downloaded here. Importing this package imports neither of them, nor TensorFlow: what is
missing or does not fit is known at once.
"""

from robustra_tf.data.examples import DataNotFoundError, Dataset, Info, held_out
from robustra_tf.data.origin import Origin
from robustra_tf.data.own import read
from robustra_tf.data.sets import INFO, NAMES, SPLITS, describe, find, load

__all__ = [
    "INFO",
    "NAMES",
    "SPLITS",
    "DataNotFoundError",
    "Dataset",
    "Info",
    "Origin",
    "describe",
    "find",
    "held_out",
    "load",
    "read",
]
