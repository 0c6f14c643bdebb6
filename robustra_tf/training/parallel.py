"""Both networks of a pair at the same time, each on its own device (section 6 of the paper).

In epoch e each learns against the weights that the other had after epoch e - 1: a `Snapshot` on the
device where it is used, refreshed once an epoch. Between two refreshes the networks have nothing to
do with each other, so that their steps may overlap in any way without a change of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from robustra_tf.training.mutual import Course, Pass, in_turn, rounds
from robustra_tf.training.watch import Position, Watch


def parallel(
    course: Course, start: Position, watch: Watch, overlap: bool = True
) -> Iterator[tuple[Pass, ...]]:
    """Trains all networks at once, an epoch after the other.

    Every network goes through its data as in the alternating schedule: of P networks, the one in
    place i has in epoch e the order of pass P e + i.

    Args:
      course: the networks, each with its `snapshot` of the other if its method has a reference;
        the data and the plan.
      start: where the run is; its passes are whole epochs.
      watch: is told of the progress, by the thread that iterates.
      overlap: False takes the same steps one after the other.

    Yields:
      The passes of an epoch, when all are done.

    Raises:
      ValueError: a start whose passes end within an epoch.
      NotFiniteError: as `alternate`.
    """
    width = len(course.learners)
    if start.passes % width:
        raise ValueError(f"start.passes must be a multiple of {width}, got {start.passes}")
    if not overlap:
        yield from rounds(course, start, watch, width, in_turn)
        return
    with ThreadPoolExecutor(width, thread_name_prefix="step") as pool:
        yield from rounds(course, start, watch, width, AtOnce(pool))


class AtOnce:
    """Runs pieces of work at the same time; returns when all are done.

    TensorFlow gives up Python's lock while it computes, so a thread for each device keeps all of
    them busy, and every step stays the compiled function that it is in the other schedule.
    """

    def __init__(self, pool: ThreadPoolExecutor):
        self._pool, self._traced = pool, False

    def __call__(self, works: Sequence[Callable[[], None]]) -> None:
        """Does all of `works`; raises what one of them raises."""
        # Steps are traced by their first call: one after the other, so that what TensorFlow names
        # and orders by a count of its own does not depend on the threads' timing.
        if not self._traced:
            in_turn(works)
            self._traced = True
            return
        for future in [self._pool.submit(work) for work in works]:
            future.result()
