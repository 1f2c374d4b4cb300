"""Deeds at their time, in order, and none is lost."""

import threading
import time

import pytest

from nac_ros.core.realtime import DelayedExecutor


@pytest.fixture
def pacer():
    made = DelayedExecutor(ahead=0.03)
    yield made
    made.close()


def later(pacer, dues, now):
    """Puts deeds due at `dues` [s]; a list that they fill with (number, when) [steady s]."""
    done = []
    steady = time.monotonic()
    for i, due in enumerate(dues):
        pacer.submit(due, now, steady, lambda i=i: done.append((i, time.monotonic())))
    return done


def wait_for(ready):
    deadline = time.monotonic() + 5
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_deed_is_done_so_long_before_it_is_due_and_not_earlier(pacer):
    began = time.monotonic()
    done = later(pacer, [1000.23, 1000.33], now=1000.0)
    wait_for(lambda: len(done) == 2)
    assert [i for i, _ in done] == [0, 1]
    assert done[0][1] - began > 0.199 and done[1][1] - began > 0.299
    assert done[1][1] - began < 1.0  # a busy machine


def test_what_comes_late_is_done_at_once_and_in_order(pacer):
    done = later(pacer, [999.0, 999.01, 1000.0], now=1000.0)
    wait_for(lambda: len(done) == 3)
    assert [i for i, _ in done] == [0, 1, 2]


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_after_a_jump_of_the_clock_it_goes_on(pacer, jump):
    first = later(pacer, [1000.04], now=1000.0)
    wait_for(lambda: first)
    then = later(pacer, [1000.05 + jump], now=1000.0 + jump)
    wait_for(lambda: then)


def test_flushing_and_closing_leave_nothing_undone():
    pacer = DelayedExecutor(ahead=0.0)
    done = later(pacer, [1010.0, 1020.0], now=1000.0)
    pacer.flush()
    assert [i for i, _ in done] == [0, 1]
    more = later(pacer, [1010.0], now=1000.0)
    pacer.close()
    assert len(more) == 1 and "delayed_executor" not in {t.name for t in threading.enumerate()}
