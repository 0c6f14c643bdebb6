"""Where a run is, and those who follow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple


class Position(NamedTuple):
    """Between which two steps a run is, and what it remembers beside its networks.

    Everything else is a function of it: order and augmentation of the data, random starts, radius
    and learning rate.

    Attributes:
      passes: that are done.
      step: steps that each pass of the round under way has taken.
      totals: of that round, by the name of the network, the sums of the metrics over these steps.
      seconds: that the round has taken.
    """

    passes: int = 0
    step: int = 0
    totals: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    seconds: float = 0.0


class Begun(NamedTuple):
    """A pass that begins.

    Attributes:
      name: of its network.
      epoch: from 0.
      eps: radius of its first step, in pixels.
      lr: learning rate.
      steps: that it has.
      taken: of these, where it goes on.
    """

    name: str
    epoch: int
    eps: float
    lr: float
    steps: int
    taken: int


class Watch:
    """Follows the passes under way, of which there may be one for each network.

    This one does nothing; what follows a run overrides what it is interested in.
    """

    def begin(self, begun: Begun) -> None:
        """A pass begins, or goes on."""

    def advance(self, name: str, read: Callable[[], dict[str, float]]) -> None:
        """A step of network `name` was taken; `read()` waits for the device and gives the means."""

    def end(self, name: str, metrics: Mapping[str, float]) -> None:
        """A pass is done, with these means."""

    def boundary(self, position: Callable[[], Position]) -> None:
        """All networks are between two steps, at `position()`; may raise to end the run there."""


class Watches(Watch):
    """Several that follow a run, told in their order."""

    def __init__(self, *watches: Watch):
        self._watches = watches

    def begin(self, begun: Begun) -> None:
        """Tells all."""
        for watch in self._watches:
            watch.begin(begun)

    def advance(self, name: str, read: Callable[[], dict[str, float]]) -> None:
        """Tells all."""
        for watch in self._watches:
            watch.advance(name, read)

    def end(self, name: str, metrics: Mapping[str, float]) -> None:
        """Tells all."""
        for watch in self._watches:
            watch.end(name, metrics)

    def boundary(self, position: Callable[[], Position]) -> None:
        """Tells all."""
        for watch in self._watches:
            watch.boundary(position)
