"""How networks are trained: all that a run is but for the networks and the data."""

from __future__ import annotations

import dataclasses

from robustra_tf.bounds.options import BoundOptions
from robustra_tf.objective.batch import LossOptions
from robustra_tf.training import optimizers, schedules
from robustra_tf.training.methods import Method, method_named
from robustra_tf.training.options import StepOptions, fields_of

RAMPS = ("epoch", "step")
LR_SCHEDULES = ("halving", "cosine")
SCHEDULES = ("alternating", "parallel")


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """How networks are trained.

    Attributes:
      eps: radius in pixels that the networks are for, and tested at.
      epochs: each trains every network once.
      method: the name of one of `robustra_tf.training.methods.METHODS`.
      options: what the steps are tuned by. The end of the ramp is this plan's.
      eps_start: radius of the first epoch, in pixels.
      eps_warmup_epochs: epochs over which the radius grows; None for a third of all.
      eps_train_ratio: training goes up to this times `eps`.
      ramp: when the radius grows: every `epoch` or every `step`.
      batch_size: examples a step.
      optimizer: `adam` or `sgd`.
      lr: learning rate until the radius is there.
      lr_schedule: how it falls afterwards: by `halving` every ten epochs, or as a `cosine`.
      momentum: of `sgd`.
      shift: pixels that training images move by at most, at random.
      mirror: whether they are mirrored at random.
      schedule: whether networks of a pair take turns, `alternating`, or learn at the same time on
        devices of their own, `parallel`.
      devices: of the parallel schedule, one TensorFlow device for each network.
      seed: of the order of the data, of their augmentation, and of all that steps draw.

    Raises:
      ValueError: a setting out of its range, by name.

    Example:
      >>> plan = rt.TrainingPlan(eps=0.1, epochs=6, method="ibp")
      >>> plan.batch_size, plan.warmup_epochs
      (50, 2)
    """

    eps: float
    epochs: int
    method: str = "robustra"
    options: StepOptions = StepOptions()
    eps_start: float = 0.0
    eps_warmup_epochs: int | None = None
    eps_train_ratio: float = 1.0
    ramp: str = "epoch"
    batch_size: int = 50
    optimizer: str = "adam"
    lr: float = 1e-3
    lr_schedule: str = "halving"
    momentum: float = 0.9
    shift: int = 0
    mirror: bool = False
    schedule: str = "alternating"
    devices: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self):
        method_named(self.method)
        for name, allowed in (
            ("ramp", RAMPS),
            ("optimizer", optimizers.NAMES),
            ("lr_schedule", LR_SCHEDULES),
            ("schedule", SCHEDULES),
        ):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        for name, least in (("epochs", 1), ("batch_size", 1), ("shift", 0), ("seed", 0)):
            if not (value := getattr(self, name)) >= least:
                raise ValueError(f"{name} must be at least {least}, got {value!r}")
        for name in ("eps_train_ratio", "lr"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name} must be above 0, got {value!r}")
        if not 0 <= self.eps_start <= self.eps:
            raise ValueError(
                f"eps_start must be at least 0 and at most eps {self.eps:g}, got {self.eps_start!r}"
            )
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise ValueError(
                f"eps_warmup_epochs must be at least 0 and at most epochs {self.epochs}, got "
                f"{self.eps_warmup_epochs!r}"
            )
        if bool(self.devices) != (self.schedule == "parallel"):
            wanted = "one for each network" if self.schedule == "parallel" else "none"
            raise ValueError(
                f"devices must be {wanted} with schedule {self.schedule!r}, got {self.devices!r}"
            )

    @classmethod
    def of(cls, **settings) -> TrainingPlan:
        """The plan of settings by their names, those of `options` and of its parts among them.

        Raises:
          TypeError: a name of nothing.
          ValueError: a setting out of its range, by name.
        """
        own = {name: settings.pop(name) for name in fields_of(cls) & set(settings)}
        return cls(**own, options=StepOptions.of(**settings))

    @classmethod
    def names(cls) -> set[str]:
        """What `of` takes."""
        own = {"options", "bounds", "losses"}
        kinds = (cls, StepOptions, BoundOptions, LossOptions)
        return set().union(*map(fields_of, kinds)) - own

    def settings(self) -> dict[str, object]:
        """What `of` takes for this plan, without devices, which do not change what it computes."""
        options, found = self.options, {}
        for part in (self, options, options.bounds, options.losses):
            found |= {name: getattr(part, name) for name in fields_of(type(part))}
        return {name: found[name] for name in sorted(self.names() - {"devices"})}

    @property
    def traits(self) -> Method:
        """The method."""
        return method_named(self.method)

    @property
    def eps_end(self) -> float:
        """The radius in pixels that training comes to."""
        return self.eps * self.eps_train_ratio

    @property
    def warmup_epochs(self) -> int:
        """Epochs over which the radius grows."""
        return self.epochs // 3 if self.eps_warmup_epochs is None else self.eps_warmup_epochs

    @property
    def step_options(self) -> StepOptions:
        """What the steps are tuned by, with the end of the ramp."""
        return self.options.with_losses(eps_end=self.eps_end)

    def prolongs(self, epochs: int) -> bool:
        """Whether it goes on where an equal plan of so many epochs has come to its end.

        A cosine, a warm-up that is a share of all epochs, and a threshold on a ramp are laid out
        for their number.
        """
        laid_out = self.lr_schedule == "cosine" or self.eps_warmup_epochs is None
        laid_out = laid_out or self.options.losses.threshold == "ramp"
        return self.epochs >= epochs and not laid_out

    def radius(self, epoch: int, step: int, steps: int) -> float:
        """The radius in pixels of a step, of `steps` in an epoch; both count from 0."""
        ends = (self.eps_start, self.eps_end, self.warmup_epochs)
        if self.ramp == "step":
            return schedules.epsilon_within(epoch + step / steps, *ends)
        return schedules.epsilon(epoch, *ends)

    def lowered(self, epoch: int, step: int, steps: int) -> float:
        """How far a threshold on a ramp has come from `t0` to 0 at a step, as `radius` counts."""
        return schedules.lowered(epoch + step / steps, self.warmup_epochs, self.epochs)

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, from 0."""
        if self.lr_schedule == "cosine":
            return schedules.cosine(epoch, self.lr, self.warmup_epochs, self.epochs)
        return schedules.halving(epoch, self.lr, self.warmup_epochs)
