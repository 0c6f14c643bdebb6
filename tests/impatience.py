"""Searches that take every step for long ones after a few domains, on weak bounds."""

import contextlib
import dataclasses
import functools

import pytest

from robustra_tf.exact import batched, closing, refining, searches

_EFFORT = closing.Effort(units=3, times=2, steps=2, rate=0.3, whole=1)


@contextlib.contextmanager
def impatient(rounds=((2, 3), (6, 8))):
    """Small networks then meet refined units, cut bounds and parts of targets."""
    init = batched.BatchedSearch.__init__

    @functools.wraps(init)
    def hasty(self, restriction, centre, l1_radius, targets, options, proof=None):
        options = dataclasses.replace(options, batch=4, steps=1, root_steps=1, parts=1)
        init(self, restriction, centre, l1_radius, targets, options, proof)

    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (batched, "_LONG", 2),
            (batched, "_LONGER", 4),
            (batched, "_PARTS", 2),
            (closing, "_EFFORT", _EFFORT),
            (closing, "PART_EFFORT", _EFFORT),
            (refining, "_ROUNDS", rounds),
            (searches, "_FIRST_NODES", 1),
        ):
            patch.setattr(module, name, value)
        patch.setattr(batched.BatchedSearch, "__init__", hasty)
        yield
