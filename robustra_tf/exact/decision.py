"""How one image is decided, target by target: group by group of conditions."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from robustra_tf.exact.case import Case
from robustra_tf.exact.goal import Goal
from robustra_tf.exact.probe import FEW, MANY, Probe
from robustra_tf.exact.searches import Searches
from robustra_tf.exact.splitting import split, splits
from robustra_tf.exact.tighten import Enclosed, enclosed
from robustra_tf.exact.verdict import Status, Verdict
from robustra_tf.intake.deadline import LateError

# Of the time of a case, what splitting leaves to the search behind it.
_REST = 0.1


def decide(case: Case) -> Verdict:
    """The verdict; its seconds are left to the caller.

    Raises:
      ValueError: what would be searched is not the network: see `Probe`.
    """
    probe = case.probed(FEW)
    falsified = case.replayed(probe.unsafe(case.goal.conditions)[:2])
    if falsified is not None:
        return falsified
    if not probe.finite:
        return unknown("logits that are not finite numbers")
    if case.inputs.single(case.flat) and case.proof is None:
        return _clean(case, probe)
    if not splits(case):
        return _searched(case, probe)
    found = _split(case)
    late = time.monotonic() >= case.deadline
    if case.task.split or late or found.status in (Status.VERIFIED, Status.FALSIFIED):
        return found
    behind = _searched(case, probe)
    search = f"{found.search} {behind.search}".strip()
    return dataclasses.replace(behind, nodes=found.nodes + behind.nodes, search=search)


def _searched(case: Case, probe: Probe) -> Verdict:
    """The verdict by WK's bounds, or by a search over the phases of ReLUs."""
    network, goal = case.task.network, case.goal
    if case.proof is None:
        centre = case.image.astype(np.float64)
        found = enclosed(network.structure, network.weights, centre, goal.rows, *case.inputs)
    else:
        found = case.proof.enclosed(
            lambda margin: all(
                _proven(goal, probe, margin - goal.offset, number) for number in goal.groups
            )
        )
    if not all(np.isfinite(end).all() for ends in found.bounds.values() for end in ends):
        return unknown("bounds of pre-activations that are not finite numbers")
    # What is no finite number proves nothing.
    found = found._replace(margin=np.where(np.isfinite(found.margin), found.margin, -np.inf))
    _compare(probe, goal, found)
    margins = found.margin - goal.offset
    bounds = {number: float(margins[places].max()) for number, places in goal.groups.items()}
    others = sorted(bounds, key=lambda number: bounds[number])
    if all(_proven(goal, probe, margins, number) for number in others):
        return Verdict(Status.VERIFIED, bounds[others[0]], others[0], None, 0.0)
    probe = case.probed(MANY)
    falsified = case.replayed(probe.unsafe(goal.conditions)[:2])
    if falsified is not None:
        return falsified
    if not probe.finite:
        return unknown("logits that are not finite numbers")
    _compare(probe, goal, found)
    left = [number for number in others if not _proven(goal, probe, margins, number)]
    try:
        return Searches(case, probe).run(found, bounds, left)
    except LateError:
        least = bounds[others[0]] if np.isfinite(bounds[others[0]]) else None
        return Verdict(Status.TIMEOUT, least, others[0], None, 0.0, reason="time limit")


def _split(case: Case) -> Verdict:
    """The verdict by splitting inputs, behind a look at many points."""
    probe = case.probed(MANY)
    falsified = case.replayed(probe.unsafe(case.goal.conditions)[:2])
    if falsified is not None:
        return falsified
    if not probe.finite:
        return unknown("logits that are not finite numbers")
    if case.task.split is None:
        # The other search decides what touches its bound, where splitting comes to no end.
        left = case.deadline - time.monotonic()
        case = case._replace(deadline=case.deadline - _REST * left)
    return split(case, probe)


def unknown(reason: str) -> Verdict:
    """That nothing was decided, and why."""
    return Verdict(Status.UNKNOWN, None, None, None, 0.0, reason=reason)


def _clean(case: Case, probe: Probe) -> Verdict:
    """The image is the whole ball: its margin is known, without a bound's rounding."""
    margins = case.goal.margins(probe.deployed[0])
    target = min(margins, key=lambda number: margins[number])
    least = margins[target]
    # The model's own outputs are safe, or it were falsified; a label may be saved by a tie.
    if least > 0:
        return Verdict(Status.VERIFIED, least, target, None, 0.0)
    return Verdict(Status.UNKNOWN, least, target, None, 0.0, reason="a tie")


def _proven(goal: Goal, probe: Probe, margins: np.ndarray, number: int) -> bool:
    """Whether lower bounds [k] of margins keep a group out."""
    return any(
        margins[place] > probe.scale(goal.rows[place], float(goal.offset[place])).least
        for place in goal.groups[number]
    )


def _compare(probe: Probe, goal: Goal, found: Enclosed) -> None:
    probe.check_bounds(found.bounds)
    probe.check_margins(goal.rows, found.margin)
