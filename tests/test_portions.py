"""How many jobs go into a task: by what they took, by the number of workers, near the end."""

import itertools

import pytest

from eval import portions
from eval.portions import Portions


def sizes(jobs, workers, seconds):
    """Of all tasks in their order, where a job takes `seconds` and workers are done in turn."""
    source, found, under_way = Portions(iter(jobs)), [], []
    while True:
        while len(under_way) < workers and (part := source.next(workers)):
            under_way.append(len(part))
            found.append(len(part))
        if not under_way:
            return found
        done = under_way.pop(0)
        source.measure(done * seconds, done, workers)


@pytest.mark.parametrize(
    ("workers", "seconds", "wanted"),
    [(2, 0.05, 10), (2, 60.0, 1), (200, 0.05, 40), (4, 1e-9, portions.MOST)],
)
def test_a_task_takes_half_a_second_or_more_where_workers_are_many(workers, seconds, wanted):
    found = sizes(range(60 * workers * wanted), workers, seconds)
    assert sum(found) == 60 * workers * wanted
    assert max(found) == pytest.approx(wanted, abs=1)
    # Twice as many at most as the tasks before, whose workers have answered.
    rounds = [max(found[i : i + workers]) for i in range(0, len(found), workers)]
    assert all(b <= 2 * a for a, b in itertools.pairwise(rounds[:8]))


def test_tasks_shrink_towards_the_end():
    """None of the last is more than half a worker's share of what was left."""
    found = sizes(range(4000), 4, 0.005)
    assert max(found) == 100
    left = 4000
    for size in found:
        assert size <= max(-(-left // 8), 1) or left > 8 * 100
        left -= size
    assert (left, found[-1]) == (0, 1)


def test_quick_jobs_that_come_first_do_not_make_long_tasks():
    """Of a hundred workers with a job each, those with nothing to do answer first."""
    source = Portions(iter(range(10**6)))
    for _ in range(100):
        assert len(source.next(100)) == 1
    for _ in range(10):
        source.measure(1e-4, 1, 100)
    assert len(source.next(100)) == 2


def test_a_source_is_read_no_further_ahead_than_is_needed():
    taken = []

    def jobs():
        for i in range(10**6):
            taken.append(i)
            yield i

    source, sent = Portions(jobs()), 0
    for _ in range(2000):
        part = source.next(50)
        sent += len(part)
        source.measure(1e-4 * len(part), len(part), 50)
        assert len(taken) - sent <= portions.AHEAD
    assert sent > 10 * portions.AHEAD
