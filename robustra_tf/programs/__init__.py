"""The programs under one name, and the command `robustra` that runs them.

A wheel carries the folders `train` and `eval` as `robustra_tf.programs.train` and `.eval`. In a
checkout they stand beside the library, where this package finds them under the same names.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

if not (_HERE / "train").is_dir():
    __path__.append(str(_HERE.parents[1]))
