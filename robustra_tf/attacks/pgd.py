"""Projected gradient descent on the margin or the cross-entropy, in l_inf, l2 and l1 balls.

Source: A. Madry et al., *Towards deep learning models resistant to adversarial attacks*, ICLR 2018.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.attacks import steps as geometry
from robustra_tf.attacks.ascent import Ascent, Batch, Unsafe
from robustra_tf.attacks.replay import replayed, settle
from robustra_tf.bounds.balls import NORMS, Box
from robustra_tf.bounds.chunks import tensors_of
from robustra_tf.conditions import Output
from robustra_tf.graph.graph import Graph
from robustra_tf.intake import checks
from robustra_tf.intake.deadline import timestamp
from robustra_tf.intake.examples import arrays
from robustra_tf.intake.precision import full_precision
from robustra_tf.intake.subject import take
from robustra_tf.property import Property, Query, asked

LOSSES = ("margin", "cross_entropy")


class AttackResult(NamedTuple):
    """What an attack found.

    Attributes:
      adversarial: float32 [n, *shape], the most wrongly classified point found for each image; it
        always lies in the ball and the box.
      success: boolean [n], `adversarial` is classified as another class than the label; of a
        property, its outputs are unsafe.
      predicted: int [n], the class of `adversarial`, its greatest output.
      margin: [n], the largest `logit_t - logit_y` over `t != y` at `adversarial`, float32; of a
        property, how far its outputs are inside the unsafe set, at least 0 there.

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
        return f"{type(self).__name__}(n={n}, success={found}, images {self.adversarial.shape[1:]})"


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
        self.network = self._take(model)
        self._traced = {}

    def _take(self, model: Any) -> Any:
        """The model as it is attacked: a callable with a structure that is compared on images."""
        return take(model, rival=False, door="Attack")

    @full_precision()
    def __call__(
        self,
        x: np.ndarray | tf.data.Dataset | keras.utils.PyDataset | Property,
        y: np.ndarray | Output | None = None,
        eps: float | np.ndarray | None = None,
        indices: np.ndarray | None = None,
        deadline: float = math.inf,
    ) -> AttackResult:
        """Attacks images.

        Args:
          x: float32 [n, *shape], in the box; NumPy, tensors or lists, as `y` too; or a
            `tf.data.Dataset` or `keras.utils.PyDataset` of images and labels, without `y`. Or a
            `Property`, which has all the rest.
          y: labels int [n]; or what must not be reached: `binary`, `below`, ...
          eps: radius in pixels, at least 0; or an array, as `certify` takes it.
          indices: int [n], what the random starts depend on beside the seed; positions by default.
          deadline: of `time.monotonic`, from which on no further step is made.

        Raises:
          ValueError: images outside the box, arguments that do not fit each other, or images on
            which the model computes something else than its layers' weights and settings say.
        """
        x, y = arrays(x, y, self.network.structure.input_shape)
        given, query = x, asked(self.network, x, y, eps, self.norm, self.box, "float32")
        if query.labels is None and self.loss != "margin":
            raise ValueError(
                f"loss must be 'margin' of outputs that have no label, got {self.loss!r}"
            )
        indices = np.arange(len(query.x)) if indices is None else np.asarray(indices)
        if indices.shape != (len(query.x),):
            raise ValueError(
                f"indices must be one for each of the {len(query.x)} images, got {indices}"
            )
        self.network.compare(query.x)
        return self.of(query, query.unrounded(given), indices, deadline)

    def of(
        self, query: Query, exact: Query, indices: np.ndarray, deadline: float = math.inf
    ) -> AttackResult:
        """As a call, of a question about images on which the model was compared already.

        Args:
          query: in float32.
          exact: the same without rounding.
          indices, deadline: as a call takes them.
        """
        x = np.ascontiguousarray(query.x)
        best, margin = x.copy(), np.full(len(x), -np.inf, np.float32)
        for restart, taken in self._rounds(margin, deadline):
            part = query.take(taken)
            starts = self._starts(part, indices[taken], restart)
            point, value = self._climbed(part, starts, deadline)
            better = value > margin[taken]
            best[taken[better]] = point[better]
            margin[taken[better]] = value[better]
        return self._judged(exact, settle(exact.x, best, exact.eps, exact.norm, exact.box))

    def _judged(self, exact: Query, points: np.ndarray) -> AttackResult:
        """What the model itself makes of the points."""
        found = replayed(self.network, exact, points, self.batch_size)
        return AttackResult(points, found.success, found.predicted, found.margin)

    def _rounds(self, margin: np.ndarray, deadline: float) -> Iterator[tuple[int, np.ndarray]]:
        """The number of each restart, and who takes part: who has resisted, in full batches."""
        for restart in range(self.restarts):
            left = np.flatnonzero(margin <= 0) if self.early_stop else np.arange(len(margin))
            for first in range(0, len(left), self.batch_size):
                if time.monotonic() >= deadline:
                    return
                yield restart, left[first : first + self.batch_size]

    def _climbed(
        self, part: Query, starts: np.ndarray, deadline: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """One restart of a batch: the points of the largest margins, and these."""
        batch = self._batch(part, starts, deadline)
        tensors, pack = tensors_of(batch)
        specs = tuple(map(_spec, tensors))
        key = (part.norm, part.numbers, batch.walls is None, *specs)
        if key not in self._traced:
            ascent = self._ascent(part)
            self._traced[key] = tf.function(
                lambda *tensors: ascent.run(self.network, pack(tensors)),
                input_signature=specs,
                autograph=False,
            )
        return tuple(found.numpy() for found in self._traced[key](*tensors))

    def _ascent(self, part: Query) -> Ascent:
        """How a restart climbs."""
        how = (self.loss, self.steps, self.relative_step, self.early_stop)
        return Ascent(part.norm, part.numbers, *how)

    def _batch(self, part: Query, starts: np.ndarray, deadline: float) -> Batch:
        """A question's examples as tensors."""
        count = len(part.x)

        def spread(values: np.ndarray | float, dtype: type) -> tf.Tensor:
            values = np.broadcast_to(values, (count, *np.shape(values)[1:]))
            return tf.constant(values, dtype)

        eps, walls, aim = part.eps, None, part.labels
        if np.ndim(eps):
            eps = spread(eps, np.float32)
            if part.norm == "linf":
                eps = tf.broadcast_to(eps, part.x.shape)
            eps = tf.reshape(eps, (count, -1))
        if part.box is not None and part.numbers is None:
            walls = tuple(tf.reshape(spread(end, np.float32), (count, -1)) for end in part.box)
        if aim is None:
            conditions, _ = part.conditions(*self.network.structure.output_shape).scaled()
            rows, offset, group, _ = conditions
            kinds = (np.float32, np.float32, np.int32)
            aim = Unsafe(*map(spread, (rows, offset, group), kinds))
        x, starts = tf.constant(part.x), tf.constant(starts)
        aim, until = tf.nest.map_structure(tf.constant, aim), timestamp(deadline)
        return Batch(x, starts, aim, tf.constant(eps), walls, tf.constant(until, tf.float64))

    def _starts(self, part: Query, indices: np.ndarray, restart: int) -> np.ndarray:
        if restart == 0:
            return np.zeros_like(part.x)
        shape = part.x.shape[1:]
        return np.float32(part.eps) * np.stack(
            [
                geometry.random_start(shape, part.norm, (self.seed, restart, int(index)))
                for index in indices
            ]
        )


def _spec(tensor: tf.Tensor) -> tf.TensorSpec:
    """Any number of examples."""
    shape = (None, *tensor.shape[1:]) if tensor.shape.rank else ()
    return tf.TensorSpec(shape, tensor.dtype)
