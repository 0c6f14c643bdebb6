"""Which steps bound a network's ReLUs by rules."""

from __future__ import annotations

import functools

from robustra_tf.bounds.radius import interval_exact
from robustra_tf.evidence.steps import Step
from robustra_tf.graph.graph import Structure
from robustra_tf.graph.ops import Relu


@functools.lru_cache(maxsize=64)
def behind_others(structure: Structure) -> tuple[bool, ...]:
    """Of every ReLU whether it reads another one, directly or through others."""
    reads: list[bool] = []
    for node in structure.nodes:
        reads.append(any(reads[i] or isinstance(structure.nodes[i].op, Relu) for i in node.inputs))
    return tuple(reads[structure.nodes[i].inputs[0]] for i in structure.relus)


def rules(structure: Structure, names: tuple[str, ...], norm: str) -> tuple[Step, ...]:
    """Steps that bound one ReLU after the other by these rules, intervals first.

    A ReLU that reads no other has no slopes before it: one backward pass does, or none where
    intervals are exact.
    """
    behind = behind_others(structure)
    exact = interval_exact(structure) if norm == "linf" else frozenset()
    steps = []
    for k, node in enumerate(structure.relus):
        own = names if behind[k] else names[:2]
        if structure.nodes[node].inputs[0] in exact:
            own = names[:1]
        steps += [Step(k, name) for name in own]
    return tuple(steps)
