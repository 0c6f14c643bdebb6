"""Projected gradient descent on the margin or the cross-entropy, in l_inf, l2 and l1 balls.

Source: A. Madry et al., *Towards deep learning models resistant to adversarial attacks*, ICLR 2018.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.attacks import steps as geometry
from robustra_tf.attacks.replay import replay, settle
from robustra_tf.bounds.balls import NORMS, Box
from robustra_tf.graph.graph import Graph
from robustra_tf.intake import checks
from robustra_tf.intake.examples import arrays
from robustra_tf.intake.precision import full_precision
from robustra_tf.intake.subject import take

LOSSES = ("margin", "cross_entropy")


class AttackResult(NamedTuple):
    """What an attack found.

    Attributes:
      adversarial: float32 [n, *shape], the most wrongly classified point found for each image; it
        always lies in the ball and the box.
      success: boolean [n], `adversarial` is classified as another class than the label.
      predicted: int [n], the class of `adversarial`.
      margin: float32 [n], the largest `logit_t - logit_y` over `t != y` at `adversarial`.

    Example:
      >>> print(rt.attack(model, x, y, eps=0.1).summary())
      0 of 1 images attacked successfully (0.00%): robust error at least 0.00%
    """

    adversarial: np.ndarray
    success: np.ndarray
    predicted: np.ndarray
    margin: np.ndarray

    def summary(self) -> str:
        """One line: how many images it found an adversarial example of, and what that says."""
        n, found = len(self.success), int(self.success.sum())
        share = found / max(n, 1)
        text = f"{found} of {n} images attacked successfully ({share:.2%})"
        return f"{text}: robust error at least {share:.2%}" if n else text

    def __repr__(self) -> str:
        n, found = len(self.success), int(self.success.sum())
        return f"AttackResult(n={n}, success={found}, images {self.adversarial.shape[1:]})"


class Attack:
    """Maximises a loss of a network over a ball, by steepest ascent and projection.

    Each restart makes `steps` steps of shrinking length, `relative_step * eps * (1 - k / steps)`,
    and keeps the point with the largest margin. The first starts at the image itself, the others at
    random points of the ball that depend on `seed` and the image's index alone, not on its batch.

    Example:
      >>> attack = rt.Attack(model, steps=10)
      >>> attack(x, y, eps=0.1).success, attack(x, y, eps=0.4).success
      (array([False]), array([ True]))
    """

    def __init__(  # noqa: PLR0913, the door to all attacks
        self,
        model: keras.Model | Graph,
        *,
        norm: str = "linf",
        box: Box | None = (0.0, 1.0),
        loss: str = "margin",
        steps: int = 40,
        restarts: int = 2,
        relative_step: float = 0.5,
        early_stop: bool = True,
        batch_size: int = 500,
        seed: int = 0,
    ):
        """Compiles nothing yet: the first call does, once for every eps and batch.

        Args:
          model: a Keras model, image to logits, of supported layers; or its graph.
          norm: "linf", "l2" or "l1".
          box: (lo, hi) of every pixel, or None.
          loss: "margin", `max_t logit_t - logit_y`, or "cross_entropy".
          steps: of each restart, at least 1.
          restarts: at least 1.
          relative_step: length of the first step in radii.
          early_stop: leave an image alone once it is classified wrongly; otherwise go on to the
            largest margin.
          batch_size: images that are attacked at once.
          seed: of the random starts.

        Raises:
          ValueError: an option outside its range, or a model that computes something else than its
            layers' weights and settings say.
        """
        checks.member("norm", norm, NORMS)
        checks.member("loss", loss, LOSSES)
        for name, value in (("steps", steps), ("restarts", restarts), ("batch_size", batch_size)):
            checks.whole(name, value)
        if not relative_step > 0:
            raise ValueError(f"relative_step must be above 0, got {relative_step}")
        self.norm, self.box, self.loss = norm, checks.box(box), loss
        self.steps, self.restarts, self.seed = steps, restarts, seed
        self.relative_step, self.early_stop, self.batch_size = relative_step, early_stop, batch_size
        self._network = take(model)
        self._traced = {}

    @full_precision()
    def __call__(
        self,
        x: np.ndarray | tf.data.Dataset | keras.utils.PyDataset,
        y: np.ndarray | None,
        eps: float,
        indices: np.ndarray | None = None,
    ) -> AttackResult:
        """Attacks images.

        Args:
          x: float32 [n, *shape], in the box; NumPy, tensors or lists, as `y` too; or a
            `tf.data.Dataset` or `keras.utils.PyDataset` of images and labels.
          y: labels int [n]; None where `x` has them.
          eps: radius in pixels, at least 0, or one for each image, [n, 1, ...].
          indices: int [n], what the random starts depend on beside the seed; positions by default.

        Raises:
          ValueError: images outside the box, arguments that do not fit each other, or images on
            which the model computes something else than its layers' weights and settings say.
        """
        structure = self._network.structure
        shape, (classes,) = structure.input_shape, structure.output_shape
        x, y = arrays(x, y, shape)
        x = np.ascontiguousarray(checks.images(x, shape, self.box, "float32"))
        y = checks.labels(y, len(x), classes)
        indices = np.arange(len(x)) if indices is None else np.asarray(indices)
        if indices.shape != y.shape:
            raise ValueError(f"indices must be one for each of the {len(x)} images, got {indices}")
        eps = checks.radius(eps, self.norm, self.box, shape, len(x))
        eps = np.broadcast_to(eps, (len(x), *[1] * len(shape)))
        self._network.compare(x)
        climb = self._compiled(x.shape[1:])
        best, margin = x.copy(), np.full(len(x), -np.inf, np.float32)
        for restart in range(self.restarts):
            # Only what has resisted so far is attacked again, in full batches.
            left = np.flatnonzero(margin <= 0) if self.early_stop else np.arange(len(x))
            for first in range(0, len(left), self.batch_size):
                chosen = left[first : first + self.batch_size]
                starts = self._starts(x[chosen], indices[chosen], restart, eps[chosen])
                point, value = climb(
                    tf.constant(x[chosen]),
                    tf.constant(y[chosen]),
                    tf.constant(starts),
                    tf.constant(eps[chosen].reshape(-1, 1), tf.float32),
                )
                better = value.numpy() > margin[chosen]
                best[chosen[better]] = point.numpy()[better]
                margin[chosen[better]] = value.numpy()[better]
        best = settle(x, best, eps, self.norm, self.box)
        found = replay(
            self._network, x, best, y, eps, norm=self.norm, box=self.box, batch_size=self.batch_size
        )
        return AttackResult(best, found.success, found.predicted, found.margin)

    def _compiled(self, shape: tuple[int, ...]):
        """`_ascend` for images of one shape, traced once for batches of every size."""
        if shape not in self._traced:
            images = tf.TensorSpec((None, *shape), tf.float32)
            labels, eps = tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None, 1), tf.float32)
            self._traced[shape] = tf.function(
                self._ascend, input_signature=(images, labels, images, eps), autograph=False
            )
        return self._traced[shape]

    def _starts(
        self, x: np.ndarray, indices: np.ndarray, restart: int, eps: np.ndarray
    ) -> np.ndarray:
        if restart == 0:
            return np.zeros_like(x)
        shape = x.shape[1:]
        return eps.astype(np.float32) * np.stack(
            [
                geometry.random_start(shape, self.norm, (self.seed, restart, int(index)))
                for index in indices
            ]
        )

    def _ascend(self, x: tf.Tensor, y: tf.Tensor, start: tf.Tensor, eps: tf.Tensor):
        """One restart: the point of the largest margin [n, *shape] and that margin [n]."""
        shape, size = tf.shape(x), int(np.prod(x.shape[1:]))
        centre = tf.reshape(x, (-1, size))

        def place(delta):
            """The ball's nearest point, cut to the box: as the image lies in it, still inside."""
            point = centre + geometry.project(delta, eps, self.norm)
            return point if self.box is None else tf.clip_by_value(point, *self.box)

        def evaluate(point):
            with tf.GradientTape() as tape:
                tape.watch(point)
                logits = tf.cast(self._network(tf.reshape(point, shape)), tf.float32)
                label = tf.one_hot(y, logits.shape[-1], on_value=True, off_value=False)
                own = tf.reduce_sum(tf.where(label, logits, tf.zeros_like(logits)), axis=1)
                rivals = tf.where(label, tf.constant(-np.inf, logits.dtype), logits)
                margin = tf.reduce_max(rivals, axis=1) - own
                if self.loss == "margin":
                    loss = margin
                else:
                    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            return margin, tape.gradient(loss, point)

        def keep(point, margin, best, best_margin):
            better = margin > best_margin
            if self.early_stop:
                # Others of the batch may go on: what is found must not depend on them.
                better &= best_margin <= 0
            return tf.where(better[:, None], point, best), tf.where(better, margin, best_margin)

        def unfinished(step, point, best, best_margin):
            del point, best
            going = tf.reduce_any(best_margin <= 0) if self.early_stop else True
            return tf.logical_and(step < self.steps, going)

        def advance(step, point, best, best_margin):
            margin, gradient = evaluate(point)
            best, best_margin = keep(point, margin, best, best_margin)
            blocked = tf.zeros_like(point, tf.bool)
            if self.box is not None:
                blocked = ((point <= self.box[0]) & (gradient < 0)) | (
                    (point >= self.box[1]) & (gradient > 0)
                )
            length = eps * self.relative_step * (1.0 - tf.cast(step, x.dtype) / self.steps)
            move = length * geometry.steepest(gradient, blocked, self.norm)
            return step + 1, place(point + move - centre), best, best_margin

        point = place(tf.reshape(start, (-1, size)))
        floor = tf.fill(tf.shape(y), tf.constant(-np.inf, x.dtype))
        _, point, best, best_margin = tf.while_loop(
            unfinished, advance, (tf.constant(0), point, point, floor)
        )
        margin, _ = evaluate(point)
        best, best_margin = keep(point, margin, best, best_margin)
        return tf.reshape(best, shape), best_margin
