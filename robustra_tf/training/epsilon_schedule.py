"""The ramp of a `CertifiedModel`'s radius along Keras's `fit`."""

from __future__ import annotations

import keras

from robustra_tf.training.keras_fit import CertifiedModel
from robustra_tf.training.schedules import epsilon_within


class EpsilonSchedule(keras.callbacks.Callback):
    """Raises a `CertifiedModel`'s radius step by step: linearly from `start` to its `eps_end`.

    After `e` epochs, whole or not, it is `start + (eps_end - start) e / warmup_epochs`, and then
    `eps_end` (Gowal et al. 2018, section 4). `logs["eps"]` of an epoch is that of its last step;
    callbacks that stand before this one in the list do not see it.

    Args:
      warmup_epochs: epochs of the ramp, at least 0.
      start: radius in pixels at the first step, from 0 to the model's `eps_end`.

    Raises:
      ValueError: an argument out of its range; when `fit` begins, a model that is no
        `CertifiedModel`, a start above its `eps_end`, or an unknown number of steps.

    Example:
      >>> certified = rt.CertifiedModel(model, method="ibp", eps=0.1)
      >>> certified.compile("sgd")
      >>> ramp = rt.EpsilonSchedule(warmup_epochs=2)
      >>> history = certified.fit(x, y, epochs=3, callbacks=[ramp], verbose=0).history
      >>> [round(eps, 2) for eps in history["eps"]]
      [0.0, 0.05, 0.1]
    """

    def __init__(self, warmup_epochs: float, start: float = 0.0):
        super().__init__()
        if not warmup_epochs >= 0:
            raise ValueError(f"warmup_epochs must be at least 0, got {warmup_epochs!r}")
        if not start >= 0:
            raise ValueError(f"start must be at least 0, in pixels, got {start!r}")
        self.warmup_epochs, self.start = warmup_epochs, start
        self._epoch = 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Checks that there is a radius to raise."""
        if not isinstance(self.model, CertifiedModel):
            raise ValueError(f"model must be a CertifiedModel, got {type(self.model).__name__}")
        if self.start > (end := self.model.eps_end):
            raise ValueError(f"start must be at most eps_end {end:g}, got {self.start:g}")
        if not self.params.get("steps"):
            raise ValueError("steps_per_epoch must be given to fit: the data do not say it")

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Remembers the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Sets the radius of the step."""
        done = self._epoch + batch / self.params["steps"]
        end = self.model.eps_end
        self.model.radius.assign(epsilon_within(done, self.start, end, self.warmup_epochs))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Puts the radius in pixels into the epoch's logs."""
        if logs is not None:
            logs["eps"] = float(self.model.radius)
