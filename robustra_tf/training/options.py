"""What a step of training is tuned by: one value for every engine that takes steps."""

from __future__ import annotations

import dataclasses

from robustra_tf.bounds.options import BoundOptions
from robustra_tf.objective.batch import LossOptions
from robustra_tf.vocabulary import DEFAULT_MEMORY_MB


def fields_of(kind: type) -> set[str]:
    """The names of a dataclass's fields."""
    return {field.name for field in dataclasses.fields(kind)}


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What a step is tuned by, beside its method.

    Attributes:
      bounds: how bounds are computed, and the norm of the balls.
      losses: what the method's loss is tuned by.
      clip_norm: the largest global norm of the gradient, or None.
      weight_decay: the factor of each weight that is added to its gradient.
      l1: the factor of the sum of the sizes of weights that is added to the loss, of trained ones
        of two axes and more: neither biases nor what normalises.
      memory_mb: MiB that the rows of one piece of a batch may take.
      microbatch: examples of one piece at most, 0 for no limit but the memory's; the gradient is
        that of the whole batch either way.

    Raises:
      ValueError: an option out of its range, by name.

    Example:
      >>> options = rt.StepOptions.of(norm="l2", inner="mixed", clip_norm=1.0)
      >>> options.bounds.norm, options.clip_norm
      ('l2', 1.0)
    """

    bounds: BoundOptions = BoundOptions()
    losses: LossOptions = LossOptions()
    clip_norm: float | None = None
    weight_decay: float = 0.0
    l1: float = 0.0
    memory_mb: float = DEFAULT_MEMORY_MB
    microbatch: int = 0

    def __post_init__(self):
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0 or None, got {self.clip_norm!r}")
        for name in ("weight_decay", "l1", "microbatch"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"{name} must be at least 0, got {value!r}")
        if not self.memory_mb > 0:
            raise ValueError(f"memory_mb must be above 0, got {self.memory_mb!r}")

    @classmethod
    def of(cls, **settings) -> StepOptions:
        """The options of settings by their names, those of `bounds` and of `losses` among them.

        Raises:
          TypeError: a name of nothing.
          ValueError: an option out of its range, by name.
        """
        parts = {}
        for name, kind in (("bounds", BoundOptions), ("losses", LossOptions)):
            fields = fields_of(kind) & set(settings)
            parts[name] = kind(**{field: settings.pop(field) for field in fields})
        return cls(**parts, **settings)

    @property
    def bounds_in_memory(self) -> BoundOptions:
        """`bounds`, with slices of rows that fit `memory_mb`."""
        budget = min(self.memory_mb * 2**20, self.bounds.budget)
        return dataclasses.replace(self.bounds, budget=budget)

    def with_bounds(self, **changes) -> StepOptions:
        """These options with some fields of `bounds` changed."""
        return dataclasses.replace(self, bounds=dataclasses.replace(self.bounds, **changes))

    def with_losses(self, **changes) -> StepOptions:
        """These options with some fields of `losses` changed."""
        return dataclasses.replace(self, losses=dataclasses.replace(self.losses, **changes))
