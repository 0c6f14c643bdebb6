"""Certified training by Keras's own `fit`: a model that brings the loss, and the radius's ramp."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from robustra_tf import counting
from robustra_tf.intake import checks
from robustra_tf.intake.precision import full_precision
from robustra_tf.intake.subject import Wrapper
from robustra_tf.objective.interval_losses import BOX
from robustra_tf.training import fit_data
from robustra_tf.training.gradient import StepGradient
from robustra_tf.training.options import StepOptions
from robustra_tf.training.schedules import epsilon_within
from robustra_tf.vocabulary import largest_radius

#: What `compile` takes of Keras's that a method brings itself.
_BROUGHT = ("loss", "loss_weights", "metrics", "weighted_metrics")


class CertifiedModel(Wrapper):
    """A network that `fit` trains by a certified method and `evaluate` certifies.

    `fit` minimises the mean over the batch of the method's loss at the present `radius`, the same
    one that the program `train.main` minimises; `evaluate` reports it at the full `eps`:

    * `loss`: drawn anew by every call where the method attacks (`mtl_ibp`, `sabr`);
    * `accuracy`: the share of correct predictions at the images themselves;
    * `certified_accuracy`: the share of images whose label is proven over the ball of radius `eps`
      by the bound that was trained on: Wong and Kolter's over the plain ball for `wong` and
      `robustra`, intervals over the ball cut to [0, 1] for the others, `natural` too.

    Along `fit` the three are means over the epoch, at the radius of each step, with the weights
    that it had then; `natural` bounds nothing there. Dropout is off. Batch normalisation takes the
    statistics of the batch along `fit` and moves its running ones, unless the layer's `trainable`
    is False.

    Images are floating-point pixels in [0, 1]; labels are integers, [n] or [n, 1]. `fit` and
    `evaluate` refuse what is not, at the batch that has it: standardised or 0..255 pixels, NaN,
    images of another size, labels that are no class. A step whose loss or gradient is no finite
    number changes neither weights nor optimizer nor running statistics; the loss of its epoch is
    then NaN in the history (`keras.callbacks.TerminateOnNaN` ends training there).

    The network itself is `network`, an ordinary Keras model that learns in place: save that one.
    Weights (`save_weights`, `ModelCheckpoint(save_weights_only=True)`) are the network's and the
    present radius; a reference belongs to whoever made it and is not among them.

    Attributes:
      network: the Keras model.
      method, eps: as given.
      radius: what a step trains at, in pixels: a variable, `eps` until a schedule changes it.

    Args:
      model: a built Keras model of supported layers, image to logits.
      method: `robustra`, `wong`, `ibp`, `crown_ibp`, `mtl_ibp`, `sabr` or `natural`.
      eps: radius of the ball in pixels, above 0 and at most the diameter of the images in [0, 1].
      reference: the fixed model in whose adversarial space `robustra` bounds the attack.
      options: what a step is tuned by, the norm of the ball among it; losses fade as the radius
        comes to `eps`.
      name: of the model.

    Raises:
      ValueError: an argument out of its range, by name; a reference that is missing or not wanted.
      UnsupportedLayerError: a layer that is no affine map or ReLU, by name.

    Example:
      >>> certified = rt.CertifiedModel(model, method="ibp", eps=0.1)
      >>> certified.compile("sgd")
      >>> certified.evaluate(x, y, verbose=0, return_dict=True)["certified_accuracy"]
      1.0
    """

    def __init__(
        self,
        model: keras.Model,
        method: str = "ibp",
        eps: float = 0.1,
        *,
        reference: keras.Model | None = None,
        options: StepOptions = StepOptions(),
        name: str | None = None,
    ):
        super().__init__(name=name)
        if (radius := checks.number(eps)) is None:
            raise ValueError(f"eps must be one number of pixels, got {eps!r}")
        # A graph hides the reference from Keras: its weights are neither trained nor saved here.
        self._gradient = StepGradient(model, reference, method, options.with_losses(eps_end=radius))
        structure = self._gradient.graph.structure
        largest = largest_radius(options.bounds.norm, structure.input_shape)
        if not 0 < radius <= largest:
            raise ValueError(
                f"eps must be above 0 and at most {largest:g}, in pixels, got {eps!r}"
                f"{checks.likely(radius, largest)}"
            )
        self.network, self.method, self.eps = model, method, radius
        self.radius = self.add_weight(
            name="radius",
            shape=(),
            dtype="float32",
            initializer=keras.initializers.Constant(radius),
            trainable=False,
        )
        names = ("loss", "accuracy", "certified_accuracy")
        self._means = [keras.metrics.Mean(name=name) for name in names]
        self.built = True

    def compile(self, optimizer="rmsprop", **kwargs: Any) -> None:
        """Sets the optimizer; the loss and the metrics are the method's.

        Args:
          optimizer: a Keras optimizer, or its name; its own options clip and decay.
          **kwargs: `run_eagerly` and `steps_per_execution`, as Keras takes them.

        Raises:
          ValueError: a loss, metrics, `jit_compile=True` or an optimizer that scales the loss.
        """
        for name in _BROUGHT:
            if kwargs.get(name) is not None:
                raise ValueError(f"{name} must be left out: method {self.method!r} brings its own")
        if kwargs.setdefault("jit_compile", False) is True:
            raise ValueError("jit_compile must be False: how many rows are bounded depends on data")
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError("optimizer must not scale the loss: bounds are computed in float32")
        super().compile(optimizer, **kwargs | {"jit_compile": False, "auto_scale_loss": False})
        # Its variables made within the first step would have that traced twice.
        self.optimizer.build(self.network.trainable_variables)

    def make_train_function(self, force: bool = False) -> None:
        """What Keras calls for a step of `fit`, with refusals of data as `ValueError`."""
        before = self.train_function
        super().make_train_function(force)
        if self.train_function is not before:
            self.train_function = fit_data.refusing(self.train_function)

    def make_test_function(self, force: bool = False) -> None:
        """What Keras calls for a step of `evaluate`, with refusals of data as `ValueError`."""
        before = self.test_function
        super().make_test_function(force)
        if self.test_function is not before:
            self.test_function = fit_data.refusing(self.test_function)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What an epoch averages."""
        return list(self._means)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One optimizer step at the present radius; what Keras compiles and calls."""
        x, y = fit_data.batch(data, self._gradient.graph.structure, BOX)
        batch = self._gradient.problem.batch(x, y, tf.convert_to_tensor(self.radius), _drawn())
        step = self._gradient(*self._gradient.networks(), batch)

        def update() -> bool:
            self.optimizer.apply(step.gradients, self.network.trainable_variables)
            self._gradient.graph.assign(step.statistics)
            return True

        # A poisoned update could not be taken back.
        tf.cond(step.finite, update, lambda: False)
        loss = tf.where(step.finite, step.metrics["loss"], float("nan"))
        values = [loss, 1.0 - step.metrics["clean_error"]]
        # Robustra's own error is over the reference's space, no bound over the ball.
        if error := self._gradient.problem.method.certifies:
            values.append(1.0 - step.metrics[error])
        return self._averaged(values, tf.shape(x)[0])

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """The losses and the certified examples of a batch at the full radius."""
        x, y = fit_data.batch(data, self._gradient.graph.structure, BOX)
        batch = self._gradient.problem.batch(x, y, tf.constant(self.eps, tf.float32), _drawn())
        found = self._gradient.evaluated(*self._gradient.networks(), batch)
        proven = tf.cast(counting.certified_tensor(-found.upper, y), tf.float32)
        right = 1.0 - found.clean_error
        return self._averaged([found.loss, right, proven * right])

    @full_precision()
    def evaluate(self, *args: Any, **kwargs: Any):
        """As Keras's own, in full float32."""
        return super().evaluate(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Refused: a saved model would need this class, and a reference, to be read again.

        Raises:
          NotImplementedError: always; says what to save instead.
        """
        raise NotImplementedError(
            f"{self.name!r} is not saved whole: save its .network, an ordinary Keras model, or its "
            "weights by save_weights (in ModelCheckpoint: save_weights_only=True)"
        )

    def _averaged(
        self, values: list[tf.Tensor], count: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Adds to the means: numbers per example, or means over `count` examples."""
        means = self._means[: len(values)]
        for mean, value in zip(means, values, strict=True):
            mean.update_state(value, count)
        return {mean.name: mean.result() for mean in means}


class EpsilonSchedule(keras.callbacks.Callback):
    """Raises a `CertifiedModel`'s radius step by step: linearly from `start` to its `eps`.

    After `e` epochs, whole or not, the radius is `start + (eps - start) e / warmup_epochs`, then
    `eps` (Gowal et al. 2018, section 4). `logs["eps"]` of an epoch is that of its last step;
    callbacks that stand before this one in the list do not see it.

    Args:
      warmup_epochs: epochs of the ramp, at least 0.
      start: radius in pixels at the first step, from 0 to the model's `eps`.

    Raises:
      ValueError: an argument out of its range; when `fit` begins, a model that is no
        `CertifiedModel`, a start above its `eps`, or an unknown number of steps.

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
        if self.start > self.model.eps:
            raise ValueError(f"start must be at most eps {self.model.eps:g}, got {self.start:g}")
        if not self.params.get("steps"):
            raise ValueError("steps_per_epoch must be given to fit: the data do not say it")

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Remembers the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Sets the radius of the step."""
        done = self._epoch + batch / self.params["steps"]
        end = self.model.eps
        self.model.radius.assign(epsilon_within(done, self.start, end, self.warmup_epochs))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Puts the radius in pixels into the epoch's logs."""
        if logs is not None:
            logs["eps"] = float(self.model.radius)


def _drawn() -> tf.Tensor:
    """Another seed at every call, by TensorFlow's generator."""
    return tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
