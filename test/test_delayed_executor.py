"""Delayed callbacks run at their time, in order, and none is lost."""

import threading
import time

import pytest

from nac_ros.core.realtime import DelayedExecutor


@pytest.fixture
def executor():
    made = DelayedExecutor(ahead=0.03)
    yield made
    made.close()


def later(executor, dues, now):
    """Submits callbacks due at `dues` [s]; a list that they fill with (number, monotonic time)."""
    done = []
    steady = time.monotonic()
    for i, due in enumerate(dues):
        executor.submit(due, now, steady, lambda i=i: done.append((i, time.monotonic())))
    return done


def wait_for(ready):
    deadline = time.monotonic() + 5
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_callback_runs_ahead_of_its_due_time_and_not_earlier(executor):
    began = time.monotonic()
    done = later(executor, [1000.23, 1000.33], now=1000.0)
    wait_for(lambda: len(done) == 2)
    assert [i for i, _ in done] == [0, 1]
    assert done[0][1] - began > 0.199 and done[1][1] - began > 0.299
    assert done[1][1] - began < 1.0  # a busy machine


def test_late_callbacks_run_at_once_and_in_order(executor):
    done = later(executor, [999.0, 999.01, 1000.0], now=1000.0)
    wait_for(lambda: len(done) == 3)
    assert [i for i, _ in done] == [0, 1, 2]


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_after_a_clock_jump_callbacks_run_at_their_time(executor, jump):
    first = later(executor, [1000.04], now=1000.0)
    wait_for(lambda: first)
    then = later(executor, [1000.05 + jump], now=1000.0 + jump)
    wait_for(lambda: then)


def test_flush_and_close_run_all_queued_callbacks():
    executor = DelayedExecutor(ahead=0.0)
    done = later(executor, [1010.0, 1020.0], now=1000.0)
    executor.flush()
    assert [i for i, _ in done] == [0, 1]
    more = later(executor, [1010.0], now=1000.0)
    executor.close()
    assert len(more) == 1 and "delayed_executor" not in {t.name for t in threading.enumerate()}
