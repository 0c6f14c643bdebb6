"""A question worked on in batches, each of them by a compiled bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf import counting
from robustra_tf.certificates.compiled import Inputs
from robustra_tf.cli.progress import follow
from robustra_tf.conditions import NO_GROUP, Conditions
from robustra_tf.intake.subject import Subject
from robustra_tf.property import Query


class Found(NamedTuple):
    """What is known of the images.

    Attributes:
      margin: [n, k] lower bounds.
      group: [n or 1, k] as `Conditions` has it.
      predicted: [n] classes.
      safe: [n] whether the images' own outputs are.
      bands: of each batch, where they are kept.
    """

    margin: np.ndarray
    group: np.ndarray
    predicted: np.ndarray
    safe: np.ndarray
    bands: list


class Work(NamedTuple):
    """A question to be worked on in batches."""

    network: Subject
    query: Query
    bound: Callable
    dtype: str

    def run(self, batch_size: int, progress: bool, keep: bool) -> Found:
        """Bounds every image, and keeps the bands."""
        (outputs,), count = self.network.structure.output_shape, len(self.query.x)
        x = self.query.x if self.query.given is None else self.query.x.astype(np.float32)
        own = self.network.compare(x, self.network.allowed)
        weights = self.network.graph.weights(tf.as_dtype(self.dtype))
        batched = batches(count, batch_size)
        if progress:
            batched = follow(batched, "certify", count, batch_size)
        none = self.query.take(np.zeros(min(count, 1), int)).conditions(outputs)
        margins, groups = [np.zeros((0, none.group.shape[1]))], [none.group]
        safe, bands = [np.zeros(0, bool)], []
        for index in batched:
            part = self.query.take(index)
            conditions = part.conditions(outputs)
            small, scale = conditions.scaled()
            bounded = self.bound(weights, self._inputs(part), *self._rows(small, len(index)))
            margin = bounded.margin.numpy()
            with np.errstate(over="ignore"):
                margins.append((margin / scale).astype(margin.dtype))
            groups.append(np.broadcast_to(conditions.group, margins[-1].shape))
            safe.append(~conditions.reached(own.logits[index]))
            if keep:
                bands.append([[end.numpy() for end in band] for band in bounded.bands])
        margin, group, safe = (
            np.concatenate(parts[len(parts) > 1 :])[:count] for parts in (margins, groups, safe)
        )
        # Of what cannot be compared with the model nothing is proven.
        margin = np.where(own.comparable[:, None], margin, margin.dtype.type(-np.inf))
        margin[group == NO_GROUP] = 0
        predicted = counting.predicted(own.logits)
        return Found(margin, group, predicted, safe & (predicted != counting.NO_CLASS), bands)

    def _inputs(self, part: Query) -> Inputs:
        """The inputs of a batch as tensors."""
        intervals = None
        if part.box is not None and part.numbers is None:
            intervals = tuple(tf.constant(end, self.dtype) for end in part.box)
        return Inputs(tf.constant(part.x), tf.constant(part.eps, self.dtype), intervals)

    def _rows(self, conditions: Conditions, count: int) -> tuple[tf.Tensor, tf.Tensor]:
        """`c` and `d` of a batch; NaN where the type does not have a coefficient."""
        rows = conditions.rows.astype(self.dtype)
        lost = (conditions.rows != 0) & ~(np.abs(rows) >= np.finfo(self.dtype).tiny)
        offset = np.where(lost.any(2), np.nan, conditions.offset)
        return tuple(
            tf.constant(np.broadcast_to(part, (count, *part.shape[1:])), self.dtype)
            for part in (rows, offset)
        )


def batches(count: int, batch_size: int) -> Iterator[np.ndarray]:
    """Equal batches of numbers, the last one filled up by repetition: one trace serves them all."""
    size = min(batch_size, count)
    for start in range(0, count, max(size, 1)):
        yield np.arange(start, start + size) % count
