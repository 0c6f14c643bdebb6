"""Certified training by Keras's own `fit`: a model that brings the loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from robustra_tf import counting
from robustra_tf.intake import checks
from robustra_tf.intake.precision import full_precision
from robustra_tf.objective.batch import Batch
from robustra_tf.objective.interval_losses import BOX
from robustra_tf.training import fit_data
from robustra_tf.training.gradient import StepGradient
from robustra_tf.training.keras_saving import SavedWhole
from robustra_tf.training.options import StepOptions
from robustra_tf.vocabulary import largest_radius

#: What `compile` takes of Keras's that a method brings itself.
_BROUGHT = ("loss", "loss_weights")
#: What a step reports, by names that no further metric may have.
_REPORTED = ("loss", "accuracy", "certified_accuracy")


@keras.saving.register_keras_serializable(package="robustra_tf")
class CertifiedModel(SavedWhole):
    """A network that `fit` trains by a certified method and `evaluate` certifies.

    `fit` minimises the mean over the batch of the method's loss at the present `radius`, the same
    one that the program `train.main` minimises; `evaluate` reports it at the full `eps`:

    * `loss`: drawn anew by every call where the method attacks (`mtl_ibp`, `sabr` and so on);
    * `accuracy`: the share of correct predictions at the images themselves;
    * `certified_accuracy`: the share of images whose label is proven over the ball of radius `eps`
      by the bound that was trained on: Wong and Kolter's over the plain ball for `wong` and
      `robustra`, intervals over the ball cut to [0, 1] for the others, `natural` too.

    Along `fit` the three are means over the epoch, at the radius of each step, with the weights
    that it had then; `natural` bounds nothing there. Dropout is off. Batch normalisation takes the
    statistics of the batch along `fit` and moves its running ones, unless the layer's `trainable`
    is False.

    Keras's weights of examples and of classes weight the losses, whose sum is divided by the number
    of examples, as Keras does it; the two accuracies count every example once. Further metrics
    compare labels and logits. Images are floating-point pixels in [0, 1]; labels are integers, [n]
    or [n, 1], or one-hot rows. `fit` and `evaluate` refuse what is not, at the batch that has it:
    standardised or 0..255 pixels, NaN, images of another size, labels that are no class, rows that
    are not one-hot, negative weights. A step whose loss or gradient is no finite number changes
    neither weights nor optimizer nor running statistics; the loss of its epoch is then NaN in the
    history (`keras.callbacks.TerminateOnNaN` ends training there).

    The network itself is `network`, an ordinary Keras model that learns in place. `save` keeps the
    whole: network, reference, method, radius and optimizer, for `keras.models.load_model`, which
    knows this class once it was named; what it loads evaluates the same and trains on. Weights
    (`save_weights`, `ModelCheckpoint(save_weights_only=True)`) are the network's, the reference's
    and the present radius.

    Attributes:
      network: the Keras model.
      method, eps: as given.
      eps_end: the radius in pixels that training comes to.
      radius: what a step trains at, in pixels: a variable, `eps_end` until a schedule changes it.

    Args:
      model: a built Keras model of supported layers, image to logits.
      method: `robustra`, `wong`, `ibp`, `crown_ibp`, `mtl_ibp`, `cc_ibp`, `exp_ibp`, `sabr` or
        `natural`.
      eps: radius of the ball in pixels, above 0 and at most the diameter of the images in [0, 1].
      reference: the fixed model in whose adversarial space `robustra` bounds the attack.
      options: what a step is tuned by, the norm of the ball among it; losses fade as the radius
        comes to `eps_end`.
      eps_train_ratio: training goes up to this times `eps`.
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
        eps_train_ratio: float = 1.0,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if (radius := checks.number(eps)) is None:
            raise ValueError(f"eps must be one number of pixels, got {eps!r}")
        # A function hides the reference from Keras, which would train and average it.
        self._reference = lambda: reference
        self._options = options
        if not eps_train_ratio > 0:
            raise ValueError(f"eps_train_ratio must be above 0, got {eps_train_ratio!r}")
        self.eps_train_ratio, self.eps_end = eps_train_ratio, radius * eps_train_ratio
        options = options.with_losses(eps_end=self.eps_end)
        self._gradient = StepGradient(model, reference, method, options)
        structure = self._gradient.graph.structure
        largest = largest_radius(options.bounds.norm, structure.input_shape)
        if not 0 < radius <= largest:
            raise ValueError(
                f"eps must be above 0 and at most {largest:g}, in pixels, got {eps!r}"
                f"{checks.likely(radius, largest)}"
            )
        if not self.eps_end <= largest:
            wanted = f"lead to at most {largest:g}, in pixels"
            raise ValueError(f"eps_train_ratio must {wanted}, got {eps_train_ratio!r}")
        self.network, self.method, self.eps = model, method, radius
        self.radius = self.add_weight(
            name="radius",
            shape=(),
            dtype="float32",
            initializer=keras.initializers.Constant(self.eps_end),
            trainable=False,
        )
        self._means = [keras.metrics.Mean(name=name) for name in _REPORTED]
        self._compile_jit(False)
        self.built = True

    def compile(self, optimizer="rmsprop", **kwargs: Any) -> None:
        """Sets the optimizer and further metrics; the loss is the method's.

        Args:
          optimizer: a Keras optimizer, or its name; its own options clip and decay.
          **kwargs: as Keras takes them: `metrics` and `weighted_metrics`, of labels and logits;
            `run_eagerly`; `steps_per_execution`; `jit_compile=True`, for the methods by intervals
            and `natural`, whose shapes are static.

        Raises:
          ValueError: a loss, a metric of a name that is reported already, `jit_compile=True` of a
            method whose shapes depend on data, or an optimizer that scales the loss.
        """
        for name in _BROUGHT:
            if kwargs.get(name) is not None:
                raise ValueError(f"{name} must be left out: method {self.method!r} brings its own")
        for name in ("metrics", "weighted_metrics"):
            _check_names(name, kwargs.get(name))
        jit = kwargs.pop("jit_compile", False) is True
        if jit and self._gradient.problem.method.bound == "dual":
            raise ValueError(
                f"jit_compile must be False for method {self.method!r}: how many rows are bounded "
                "depends on data"
            )
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError("optimizer must not scale the loss: bounds are computed in float32")
        # Checks of data cannot be compiled: what is, is called by the step.
        self._compile_jit(jit)
        super().compile(optimizer, **kwargs | {"jit_compile": False, "auto_scale_loss": False})
        # Its variables made within the first step would have that traced twice.
        self.optimizer.build(self.network.trainable_variables)

    def _compile_jit(self, jit: bool) -> None:
        """Makes the functions that a step calls."""
        self._jit = jit
        self._stepped, self._evaluated = self._gradient.step, self._gradient.evaluation
        if jit:
            compiled = {"jit_compile": True, "autograph": False, "reduce_retracing": True}
            self._stepped, self._evaluated = (
                tf.function(work, **compiled) for work in (self._stepped, self._evaluated)
            )

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
        """What an epoch averages: the method's own, then those that `compile` was given."""
        others = [metric for metric in super().metrics if metric.name not in _REPORTED]
        return [*self._means, *others]

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One optimizer step at the present radius; what Keras compiles and calls."""
        given = fit_data.batch(data, self._gradient.graph.structure, BOX)
        batch = self._batch(given, tf.convert_to_tensor(self.radius))
        step, logits = self._stepped(batch, self._measures)

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
        return self._averaged(values, given, logits, tf.shape(batch.x)[0])

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """The losses and the certified examples of a batch at the full radius."""
        given = fit_data.batch(data, self._gradient.graph.structure, BOX)
        batch = self._batch(given, tf.constant(self.eps, tf.float32))
        found, logits = self._evaluated(batch, self._measures)
        proven = tf.cast(counting.certified_tensor(-found.upper, batch.y), tf.float32)
        right = 1.0 - found.clean_error
        return self._averaged([found.loss, right, proven * right], given, logits)

    def _batch(self, given: fit_data.Examples, eps: tf.Tensor) -> Batch:
        drawn = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
        return self._gradient.problem.batch(given.x, given.y, eps, drawn, given.importance)

    @property
    def _measures(self) -> bool:
        """Whether there are metrics of labels and logits."""
        return any(metric not in self._means for metric in self.metrics)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any):
        """As Keras's own."""
        checks.plain("CertifiedModel.fit", x, y)
        return super().fit(x, y, *args, **kwargs)

    @full_precision()
    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any):
        """As Keras's own, in full float32."""
        checks.plain("CertifiedModel.evaluate", x, y)
        return super().evaluate(x, y, *args, **kwargs)

    def _averaged(
        self,
        values: list[tf.Tensor],
        given: fit_data.Examples,
        logits: tf.Tensor | None,
        count: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Adds to the means: numbers per example, or means over `count` examples."""
        means = self._means[: len(values)]
        for mean, value in zip(means, values, strict=True):
            mean.update_state(value, count)
        found = {mean.name: mean.result() for mean in means}
        if logits is None:
            return found
        further = self.compute_metrics(given.x, given.given, logits, given.importance)
        return found | {name: value for name, value in further.items() if name not in _REPORTED}


def _check_names(argument: str, metrics: Any) -> None:
    """Refuses (`ValueError`) metrics of names that are reported already."""
    for metric in keras.tree.flatten(metrics):
        name = metric if isinstance(metric, str) else getattr(metric, "name", None)
        if name in (*_REPORTED, "acc"):
            raise ValueError(
                f"{argument} must be called otherwise than {', '.join(_REPORTED)}, which are "
                f"reported already, got {name!r}"
            )
