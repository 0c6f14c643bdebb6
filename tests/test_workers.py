"""Processes that share work out: what fails, dies or takes too long, and what becomes of it."""

import multiprocessing
import os
import time

import pytest

from eval.workers import Orders, OverrunError, Processes, StageError

# Two processes import TensorFlow: some seconds.
pytestmark = pytest.mark.slow


def work(kind, value):
    if kind == "sleep":
        time.sleep(value)
    if kind == "die":
        os._exit(3)
    if kind == "raise":
        raise ValueError(value)
    return value


def limit(job):
    return 0.5 if job[0] == "sleep" else 60.0


def outcomes(jobs, workers):
    """By job, what came of it."""
    found = {}
    for job, result in Processes(workers).share_out(
        jobs, Orders(None, limit), work, lambda job: job
    ):
        try:
            found[job] = result("it")
        except StageError as error:
            found[job] = type(error), str(error)
    return found


def test_one_that_is_late_dies_or_fails_takes_no_other_with_it():
    jobs = [("give", 1), ("sleep", 600), ("give", 2), ("die", 0), ("give", 3), ("raise", "{no}")]
    jobs += [("give", 4), ("give", None)]
    start, expected = time.monotonic(), {job: job[1] for job in jobs if job[0] == "give"}
    expected["sleep", 600] = OverrunError, "it: its worker was ended after 0.5 seconds"
    expected["die", 0] = StageError, "it: its worker died; --resume goes on"
    expected["raise", "{no}"] = StageError, "it: ValueError: {no}"
    assert outcomes(jobs, 2) == expected
    assert time.monotonic() - start < 300
    assert outcomes(jobs[2:5], 1) == {job: expected[job] for job in jobs[2:5]}


def test_who_does_not_wait_for_the_rest_leaves_no_process():
    before = {*multiprocessing.active_children()}
    orders = Orders(None, lambda job: 600.0)
    jobs = [("sleep", 600), ("give", 1)]
    shared = Processes(2).share_out(jobs, orders, work, lambda job: job)
    job, result = next(shared)
    assert (job, result("it")) == (("give", 1), 1)
    assert len({*multiprocessing.active_children()} - before) == 2
    shared.close()
    assert {*multiprocessing.active_children()} <= before
