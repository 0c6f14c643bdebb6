"""Deadlines: asked for between two rounds of work, and inside of compiled loops.

A deadline is a time of `time.monotonic`; infinity is none.
"""

from __future__ import annotations

import time


class LateError(Exception):
    """A deadline passed in the middle of work that is of no use unless it is done."""


def check(deadline: float) -> None:
    """Raises `LateError` from the deadline on."""
    if time.monotonic() >= deadline:
        raise LateError


def timestamp(deadline: float) -> float:
    """The deadline as `tf.timestamp` counts, in seconds: for the condition of a compiled loop."""
    return time.time() + (deadline - time.monotonic())
