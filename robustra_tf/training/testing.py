"""What a network comes to on examples that it is not trained on, after every epoch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from robustra_tf.certificates.certify import certify
from robustra_tf.data import Dataset
from robustra_tf.training.plan import TrainingPlan

#: Images between two looks at whether the run is to stop, and those that the dual bounds at a time.
_TESTED_TOGETHER, _BATCH = 500, 20


def errors_of(
    model: keras.Model,
    examples: Dataset,
    plan: TrainingPlan,
    between: Callable[[], None] = lambda: None,
) -> Mapping[str, float]:
    """The certified error at the full radius and the clean error, by the names of `plan.tests`.

    The bound is the one that was trained on: WK's over the ball alone, or intervals over the ball
    cut to the box. `between` is called before the first batch and then every `_TESTED_TOGETHER`
    images.
    """
    bounds = plan.options.bounds
    how: dict[str, Any] = {"box": None, "inner": bounds.inner}
    batch = _BATCH
    if plan.traits.bound == "interval":
        batch, how = _TESTED_TOGETHER, {"method": "interval"}
    certified, correct = [], []
    # The first batch, which is compiled, by itself: it says how long that takes. None is smaller
    # than a batch, for which another one would be compiled.
    count = len(examples.labels)
    starts = [0, *range(batch, count - batch + 1, _TESTED_TOGETHER)]
    for first, last in itertools.pairwise([*starts, count]):
        between()
        part = Dataset(*(array[first:last] for array in examples))
        certificate = certify(model, *part, eps=plan.eps, norm=bounds.norm, batch_size=batch, **how)
        certified.append(certificate.certified)
        correct.append(certificate.predicted == part.labels)
    errors = (float(1 - np.mean(np.concatenate(found))) for found in (certified, correct))
    return dict(zip(plan.tests, errors, strict=True))
