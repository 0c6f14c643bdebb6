"""Packages that only those need who ask for ONNX."""

from __future__ import annotations

import importlib
from typing import Any


def required(name: str) -> Any:
    """A package or module by its name.

    Raises:
      ImportError: it is not installed; the text says which extra has it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"ONNX needs the package {package}: pip install 'robustra-tf[onnx]'"
        ) from error
