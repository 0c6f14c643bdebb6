"""How a search over many domains at a time goes."""

from __future__ import annotations

import dataclasses

from robustra_tf.vocabulary import DEFAULT_MEMORY_MB

# Float32 numbers for each column that a domain holds while it is bounded, or a little more.
_COPIES = 24


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """How a search over many domains at a time goes.

    Attributes:
      short: whether a search of a few linear programmes comes first, and those take over where
        they are measured to be cheaper.
      memory_mb: MiB of the domains that wait, and of a batch.
      batch: domains that are bounded at a time, at most.
      root_steps: of the ascent before anything is split.
      steps: of the ascent of every domain, in as many parts as `parts`.
      parts: after each of them what is proven leaves the batch.
      rate: Adam's for slopes and multipliers.
    """

    short: bool = True
    memory_mb: float = DEFAULT_MEMORY_MB
    batch: int = 512
    root_steps: int = 60
    steps: int = 10
    parts: int = 2
    rate: float = 0.15

    def together(self, numbers: int) -> int:
        """Domains of a batch, of so many numbers each, that fit half of the memory."""
        most = 0.5 * self.memory_mb * 2**20 / (4 * _COPIES * numbers)
        return int(min(max(most, 2), self.batch))

    def waiting(self, size: int) -> int:
        """Domains of so many bytes each that fit the other half."""
        return max(1, int(0.5 * self.memory_mb * 2**20 / size))
