"""Independent calls, some at a time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def die(x):
    os.kill(os.getpid(), signal.SIGKILL)


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


def test_routines_begin_in_order():
    begun = []

    def routine(x):
        begun.append(x)
        yield square, x
        begun.append(-x)

    drive([routine(1), routine(2), routine(3)])
    assert begun == [1, -1, 2, -2, 3, -3]
    drive([])


@pytest.mark.parametrize("jobs", [2, 3])
def test_no_more_calls_run_than_there_are_jobs(jobs):
    running, most = 0, 0

    def routine(x):
        nonlocal running, most
        for _ in range(2):
            running += 1
            most = max(most, running)
            yield slow_square, x
            running -= 1

    drive([routine(x) for x in range(5)], jobs)
    assert (running, most) == (0, jobs)


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_call_raises_ends_all_that_has_not_begun(jobs):
    begun, ended = [], []

    def routine(x):
        begun.append(x)
        ended.append((yield slow_square, x)[0])

    with pytest.raises(UserError, match="-1 is below 0"):
        drive([routine(-1), *(routine(x) for x in range(50))], jobs)
    assert len(begun) < 40
    assert len(ended) == len(begun) - 1  # nothing that had begun is lost


def test_a_process_that_is_killed_is_one_line():
    def routine(x):
        yield die, x

    with pytest.raises(UserError, match="killed"):
        drive([routine(0), routine(1)], jobs=2)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_stopped_iteration_in_a_call_is_an_error(jobs):
    def routine():
        yield next, iter(())

    with pytest.raises((StopIteration, RuntimeError)):
        drive([routine()], jobs)


INTERRUPTED = """
import os, sys, time
from pathlib import Path
from nerf_dfa.training.workers import drive

def call(x):
    Path(__file__).with_name(f"{x}.pid").write_text(str(os.getpid()))
    time.sleep(60)

def one(x):
    yield call, x

if __name__ == "__main__":
    try:
        drive([one(x) for x in range(4)], 2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_leaves_no_process(tmp_path, sent):
    """Ctrl-C, which all processes of a terminal get, ends calls that know nothing of it; none outlives the parent."""
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    parent = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, start_new_session=True)
    try:
        assert soon(lambda: sum(bool(path.read_text()) for path in tmp_path.glob("*.pid")) == 2)
        workers = [Path("/proc") / path.read_text() for path in tmp_path.glob("*.pid")]
        assert all(process.exists() for process in workers)
        if sent == signal.SIGINT:
            os.killpg(parent.pid, sent)
        else:
            parent.send_signal(sent)
        _, errors = parent.communicate(timeout=30)
        assert parent.returncode == (130 if sent == signal.SIGINT else -sent)
        assert b"Traceback" not in errors
        assert soon(lambda: not any(process.exists() for process in workers))
    finally:
        parent.kill()


def soon(condition, seconds=120):
    """Whether it holds before so long."""
    deadline = time.time() + seconds
    while time.time() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False
