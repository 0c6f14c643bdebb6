"""How one image is decided, target by target: group by group of conditions."""

from __future__ import annotations

import numpy as np

from robustra_tf.exact.case import Case
from robustra_tf.exact.goal import Goal
from robustra_tf.exact.probe import FEW, MANY, Probe
from robustra_tf.exact.searches import Searches
from robustra_tf.exact.tighten import Enclosed, enclosed
from robustra_tf.exact.verdict import Status, Verdict


def decide(case: Case) -> Verdict:
    """The verdict; its seconds are left to the caller.

    Raises:
      ValueError: what would be searched is not the network: see `Probe`.
    """
    network, goal = case.task.network, case.goal
    probe = case.probed(FEW)
    falsified = case.replayed(probe.unsafe(goal.conditions)[:2])
    if falsified is not None:
        return falsified
    if not probe.finite:
        return unknown("logits that are not finite numbers")
    if case.inputs.single(case.flat):
        return _clean(case, probe)
    centre = case.image.astype(np.float64)
    found = enclosed(network.structure, network.weights, centre, goal.rows, *case.inputs)
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
    return Searches(case, probe).run(found, bounds, left)


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
        margins[place] > probe.scale(goal.rows[place], goal.offset[place]).least
        for place in goal.groups[number]
    )


def _compare(probe: Probe, goal: Goal, found: Enclosed) -> None:
    probe.check_bounds(found.bounds)
    probe.check_margins(goal.rows, found.margin)
