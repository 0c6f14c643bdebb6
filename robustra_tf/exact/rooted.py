"""Proofs without a search: by rules, and by slopes that are optimised for what these leave open."""

from __future__ import annotations

import math

import numpy as np

from robustra_tf.evidence.files import Example
from robustra_tf.evidence.flat import Flat
from robustra_tf.evidence.steps import Step
from robustra_tf.exact.ascent import Pace
from robustra_tf.exact.bounding import Bounding
from robustra_tf.exact.goal import Goal
from robustra_tf.exact.inner import improved
from robustra_tf.exact.leaves import Margins
from robustra_tf.exact.matrices import affine_maps
from robustra_tf.exact.proving import Prover
from robustra_tf.exact.restriction import Restriction
from robustra_tf.exact.substitution import Bounds, Form, restrict
from robustra_tf.exact.targets import Target
from robustra_tf.graph.graph import Graph
from robustra_tf.property import Query

# Steps of the ascent of inner bounds and of margins, and the rate of the second.
_INNER_STEPS, _STEPS, _RATE = 40, 100, 0.15


def flat(graph: Graph) -> Flat:
    """A graph as proofs have it, with its weights as they are now."""
    return Flat.of(graph.structure, affine_maps(graph))


def proven(network: Flat, query: Query, stage: str, *, optimise: bool) -> Example | None:
    """The proof of one example that needs no search, or None where none was found.

    Args:
      network: that is asked.
      query: of one example.
      stage: the example's, for people.
      optimise: whether slopes are optimised where rules leave a group open.
    """
    goal = Goal.of(query.conditions(*network.structure.output_shape))
    prover = Prover(network, query, goal)

    def open_groups(margin: np.ndarray) -> list[int]:
        least = margin - goal.offset - prover.room
        return [n for n, places in goal.groups.items() if not (least[places] > 0).any()]

    found = prover.enclosed(lambda margin: not open_groups(margin))
    left = open_groups(found.margin)
    if (
        left
        and optimise
        and all(np.isfinite(end).all() for b in found.bounds.values() for end in b)
    ):
        left = _optimised(prover, found.bounds, left)
    return None if left else prover.example(stage)


def _optimised(prover: Prover, bounds: Bounds, left: list[int]) -> list[int]:
    """The groups that optimised slopes leave open."""
    region, goal = prover.region, prover.goal
    radius = region.radius if region.norm == "l1" else None
    if region.norm == "l2":
        return left
    steps: list[Step] = []
    keep = prover.into(steps)
    r = _restricted(prover, bounds)
    r = improved(r, region.centre, radius, math.inf, _INNER_STEPS, keep)
    margins = [_margins(prover, r, number) for number in left]
    targets = [Target(m.rows, m.constants, 0.0) for m in margins]
    bounding = Bounding(r, region.centre, radius, targets)
    domains = bounding.climbed(bounding.roots(0), Pace.of(_STEPS, _RATE))
    # In halves, as they are written.
    certain, batch = bounding.certified(domains), prover.batch(r, margins)
    batch.close(domains)
    for place, number in enumerate(left):
        room = prover.room[goal.groups[number]].max() / margins[place].unit.min()
        if certain[place] > room:
            prover.closed(number, tuple(steps), batch.leaves[place])
    return [number for place, number in enumerate(left) if number not in prover.trees]


def _restricted(prover: Prover, bounds: Bounds) -> Restriction:
    structure, region = prover.network.structure, prover.region
    return restrict(
        structure,
        prover.network.maps,
        region.low,
        region.high,
        bounds,
        form=Form(sparse=False, cut=False),
    )


def _margins(prover: Prover, r: Restriction, number: int) -> Margins:
    """A group's margins, each of them in units of about its size."""
    goal = prover.goal
    places = goal.groups[number]
    pairs = [r.margin(goal.rows[place], float(goal.offset[place])) for place in places]
    rows, constants = (np.array(part) for part in zip(*pairs, strict=True))
    far = np.concatenate([prover.region.farthest, np.maximum(np.abs(r.lower), np.abs(r.upper))])
    size = np.abs(rows) @ far + np.abs(constants)
    unit = np.ldexp(1.0, np.clip(np.frexp(size)[1] - 4, -300, 300))
    return Margins(rows / unit[:, None], constants / unit, unit)
