"""The restricted networks that searches stand on, each compared with the network itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robustra_tf.evidence.steps import Step
from robustra_tf.exact.case import Case
from robustra_tf.exact.domains import Domains
from robustra_tf.exact.encoding import Encoding, encode
from robustra_tf.exact.inner import improved
from robustra_tf.exact.probe import Probe
from robustra_tf.exact.refining import Refinement, refined
from robustra_tf.exact.restriction import Restriction
from robustra_tf.exact.substitution import Bounds, Form, restrict
from robustra_tf.intake.deadline import check


class Ground(NamedTuple):
    """What searches stand on.

    Attributes:
      encoding: of the restricted network, compared with the network.
      tight: whether its bounds are better than those of the dual and of intervals.
      unstable: ReLUs on either side, by the bounds before any search.
      steps: what its bounds rest on behind those of the root, where that is kept.
    """

    encoding: Encoding
    tight: bool
    unstable: int
    steps: tuple[Step, ...] = ()

    @property
    def restriction(self) -> Restriction:
        """The restricted network."""
        return self.encoding.restriction


def compared(case: Case, probe: Probe, restriction: Restriction, *, tight: bool) -> Ground:
    """The encoding of a restriction, both compared with the network before they are used.

    Raises:
      ValueError: they are not the network.
      LateError: the case's time is over.
    """
    check(case.deadline)
    probe.check_restriction(restriction)
    check(case.deadline)
    encoding = encode(restriction, case.flat, l1_radius=case.inputs.l1_radius)
    encoding.check(probe.points)
    return Ground(encoding, tight, int(restriction.relu.sum()))


def restricted(
    case: Case, probe: Probe, bounds: Bounds, *, sparse: bool = True, tight: bool = False
) -> Ground:
    """The network restricted by bounds of its pre-activations; `sparse` as `Form` has it."""
    network = case.task.network
    low, high = case.inputs.intervals(case.flat)
    small = restrict(
        network.structure,
        network.maps,
        low,
        high,
        bounds,
        form=Form(sparse, cut=case.proof is None),
        deadline=case.deadline,
    )
    return compared(case, probe, small, tight=tight)


def better(case: Case, probe: Probe, bounds: Bounds) -> Ground:
    """The network restricted anew by better bounds, which `bounds` takes in."""
    small = restricted(case, probe, bounds, sparse=False).restriction
    steps: list[Step] = []
    keep = None if case.proof is None else case.proof.into(steps)
    small = improved(small, case.flat, case.inputs.l1_radius, case.deadline, keep=keep)
    _into(bounds, small)
    ground = restricted(case, probe, bounds, sparse=False, tight=True)
    return ground._replace(steps=tuple(steps))


def finer(case: Case, probe: Probe, bounds: Bounds, ground: Ground, how: Refinement) -> Ground:
    """The network restricted anew by bounds from small searches, which `bounds` takes in."""
    small = refined(ground.restriction, case.flat, case.inputs.l1_radius, how)
    _into(bounds, small)
    found = restricted(case, probe, bounds, sparse=False, tight=True)
    return found._replace(unstable=ground.unstable)


def _into(bounds: Bounds, small: Restriction) -> None:
    """Takes in the bounds of a restriction's units."""
    for index in np.unique(small.node):
        units = np.flatnonzero(small.node == index)
        lower, upper = bounds[index]
        place, scale = small.neuron[units], small.scale[units]
        lower[place] = np.maximum(lower[place], small.lower[units] * scale)
        upper[place] = np.minimum(upper[place], small.upper[units] * scale)


def phases_on(encoding: Encoding, domains: Domains, own: Restriction) -> list[dict[int, bool]]:
    """The phases of domains of the restriction `own` as those of an encoding's ReLUs, by place.

    A phase of a ReLU that is not unstable there is left out: the domain only grows.
    """
    r, units = encoding.restriction, encoding.units[encoding.unstable]
    names = zip(r.node[units].tolist(), r.neuron[units].tolist(), strict=True)
    places = {name: place for place, name in enumerate(names)}
    found = []
    for row in domains.phases:
        fixed = np.flatnonzero(row)
        named = ((int(own.node[i]), int(own.neuron[i])) for i in fixed)
        on = zip(named, row[fixed] > 0, strict=True)
        found.append({places[name]: bool(phase) for name, phase in on if name in places})
    return found
