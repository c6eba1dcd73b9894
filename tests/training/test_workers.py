"""Independent calls, some at a time."""

import os
import time

import pytest

from nerf_dfa.errors import UserError
from nerf_dfa.training.workers import drive


def square(x):
    if x < 0:
        raise UserError(f"{x} is below 0")
    return x * x, os.getpid()


def slow_square(x):
    if x >= 0:
        time.sleep(0.05)
    return square(x)


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_routine_is_sent_what_its_calls_returned(jobs):
    found, processes = {}, set()

    def routine(x):
        (once, one), (twice, other) = (yield square, x), (yield square, x + 1)
        found[x] = once, twice
        processes.update((one, other))

    def idle():
        return
        yield

    drive([routine(2), idle(), routine(5), idle()], jobs)
    assert found == {2: (4, 9), 5: (25, 36)}
    assert (os.getpid() in processes) == (jobs == 1)
    assert len(processes) <= jobs


def test_routines_begin_in_order_and_no_more_than_there_are_jobs():
    begun = []

    def routine(x):
        begun.append(x)
        yield square, x
        begun.append(-x)

    drive([routine(1), routine(2), routine(3)])
    assert begun == [1, -1, 2, -2, 3, -3]
    drive([])


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_call_raises_ends_all(jobs):
    ended = []

    def routine(x):
        ended.append((yield slow_square, x))

    with pytest.raises(UserError, match="-1 is below 0"):
        drive([routine(-1), *(routine(x) for x in range(50))], jobs)
    assert len(ended) < 40


def test_no_call_is_lost_to_a_stopped_iteration():
    def routine():
        yield next, iter(())

    with pytest.raises(StopIteration):
        drive([routine()])
