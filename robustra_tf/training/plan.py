"""How networks are trained: all that a run is but for the networks and the data."""

from __future__ import annotations

import dataclasses

import keras

from robustra_tf.bounds.options import BoundOptions
from robustra_tf.objective.batch import LossOptions
from robustra_tf.training import optimizers, schedules
from robustra_tf.training.methods import CLEAN, Method, method_named
from robustra_tf.training.options import StepOptions, fields_of

RAMPS = ("epoch", "step")
LR_SCHEDULES = ("halving", "cosine", "drops")
SCHEDULES = ("alternating", "parallel")
_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "shift": 0,
    "validation": 0,
    "seed": 0,
    "order_seed": 0,
    "augmentation_seed": 0,
}


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
      optimizer: `adam`, `adamw` (whose `weight_decay` shrinks the weights themselves), `radam` or
        `sgd`.
      lr: learning rate until the radius is there.
      lr_schedule: how it falls afterwards: by `halving` every ten epochs, or as a `cosine`; or by
        `drops` at epochs of its own.
      lr_drops: epochs that are done when the rate falls, rising; of `drops` alone.
      lr_factor: what it is multiplied by then.
      momentum: of `sgd`.
      ema: what an average of the weights keeps of itself in a step; 0 for none. Networks are tested
        with their averages, and hold them when a run is done.
      shift: pixels that training images move by at most, at random.
      mirror: whether they are mirrored at random.
      schedule: whether networks of a pair take turns, `alternating`, or learn at the same time on
        devices of their own, `parallel`.
      devices: for each network the TensorFlow devices that take equal shares of its batches; the
        first holds it. None leaves that to TensorFlow, but in the parallel schedule.
      seed: of all that steps draw, and of the next two where these are None.
      order_seed: of the order of the data.
      augmentation_seed: of their augmentation.
      validation: training images that are held out, the same whatever the seed, and take the place
        of test images; 0 for none.

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
    lr_drops: tuple[int, ...] = ()
    lr_factor: float = 0.2
    momentum: float = 0.9
    ema: float = 0.0
    shift: int = 0
    mirror: bool = False
    schedule: str = "alternating"
    devices: tuple[tuple[str, ...], ...] = ()
    seed: int = 0
    order_seed: int | None = None
    augmentation_seed: int | None = None
    validation: int = 0

    def __post_init__(self):
        method_named(self.method)
        self._check_rates()
        for name, allowed in (
            ("ramp", RAMPS),
            ("optimizer", optimizers.NAMES),
            ("lr_schedule", LR_SCHEDULES),
            ("schedule", SCHEDULES),
        ):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) is not None and not value >= least:
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
        self._check_devices()

    def _check_devices(self) -> None:
        parallel, wanted = self.schedule == "parallel", ""
        if parallel and not self.devices:
            wanted = "those of each network with schedule 'parallel'"
        elif not all(isinstance(each, tuple | list) and each for each in self.devices):
            wanted = "a tuple of names for each network"
        named = [name for each in self.devices for name in each]
        apart = [named] if parallel else self.devices
        if not wanted and any(len(set(names)) < len(names) for names in apart):
            wanted = "different ones for each network" if parallel else "different ones"
        if not wanted and any(len(each) > self.batch_size for each in self.devices):
            wanted = f"at most batch_size {self.batch_size} for a network"
        if wanted:
            raise ValueError(f"devices must be {wanted}, got {self.devices!r}")

    def _check_rates(self) -> None:
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be at least 0 and below 1, got {self.ema!r}")
        if not 0 < self.lr_factor <= 1:
            raise ValueError(f"lr_factor must be above 0 and at most 1, got {self.lr_factor!r}")
        drops = self.lr_drops
        if bool(drops) != (self.lr_schedule == "drops"):
            wanted = "epochs" if self.lr_schedule == "drops" else "none"
            raise ValueError(
                f"lr_drops must be {wanted} with lr_schedule {self.lr_schedule!r}, got {drops!r}"
            )
        if list(drops) != sorted(set(drops)) or min(drops, default=1) < 1:
            raise ValueError(f"lr_drops must be rising epochs from 1, got {drops!r}")

    @classmethod
    def of(cls, **settings) -> TrainingPlan:
        """The plan of settings by their names, those of `options` and of its parts among them.

        Raises:
          TypeError: a name of nothing.
          ValueError: a setting out of its range, by name.
        """
        own = {name: settings.pop(name) for name in fields_of(cls) & set(settings)}
        own["lr_drops"] = tuple(own.get("lr_drops", ()))
        return cls(**own, options=StepOptions.of(**settings))

    @classmethod
    def names(cls) -> set[str]:
        """What `of` takes."""
        own = {"options", "bounds", "losses"}
        kinds = (cls, StepOptions, BoundOptions, LossOptions)
        return set().union(*map(fields_of, kinds)) - own

    def settings(self) -> dict[str, object]:
        """What `of` takes for this plan, as JSON keeps it.

        Devices are left out, which do not change what it computes.
        """
        options, found = self.options, {}
        for part in (self, options, options.bounds, options.losses):
            found |= {name: getattr(part, name) for name in fields_of(type(part))}
        found["lr_drops"] = list(self.lr_drops)
        return {name: found[name] for name in sorted(self.names() - {"devices"})}

    @property
    def traits(self) -> Method:
        """The method."""
        return method_named(self.method)

    @property
    def tests(self) -> tuple[str, str]:
        """What the certified and the clean error are called that an epoch ends with."""
        part = "validation" if self.validation else "test"
        return f"{part}_{self.traits.error}", f"{part}_{CLEAN}"

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
        options = self.options.with_losses(eps_end=self.eps_end)
        if self.optimizer in optimizers.DECAYING:
            options = dataclasses.replace(options, weight_decay=0.0)
        return options

    def make_optimizer(self) -> keras.optimizers.Optimizer:
        """An optimizer of this plan."""
        decay, average = self.options.weight_decay, self.ema
        return optimizers.make(
            self.optimizer, self.lr, self.momentum, weight_decay=decay, average=average
        )

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
        if self.lr_schedule == "drops":
            return schedules.dropped(epoch, self.lr, self.lr_drops, self.lr_factor)
        return schedules.halving(epoch, self.lr, self.warmup_epochs)
