"""The next chunk is begun in time to be there before the executed steps run out."""

from itertools import pairwise

import pytest

from nac_ros.inference.replanning import ReplanScheduler


def test_the_first_chunk_is_due_at_once_and_after_a_restart_too():
    cadence = ReplanScheduler(16, 30.0, 0.03, 0.05)
    assert cadence.wait(100.0) == 0
    cadence.planned(100.0, 100.05)
    assert cadence.wait(100.05) > 0
    cadence.restart()
    assert cadence.wait(100.05) == 0


@pytest.mark.parametrize("latency", [0.02, 0.1, 0.4])
def test_chunks_arrive_the_margin_before_the_executed_steps_run_out(latency):
    cadence, now, arrivals, stamps = ReplanScheduler(16, 30.0, 0.03, latency), 0.0, [], []
    for _ in range(10):
        now += cadence.wait(now)
        stamps.append(now)
        now += latency
        arrivals.append(now)
        cadence.planned(stamps[-1], now)
    gaps = [b - a for a, b in pairwise(arrivals)]
    assert gaps == pytest.approx([16 / 30 - 0.03] * 9)
    assert [b - a for a, b in pairwise(stamps)] == pytest.approx(gaps)


def test_a_latency_beyond_the_executed_steps_leaves_no_pause():
    cadence = ReplanScheduler(4, 30.0, 0.03, 0.5)
    cadence.planned(10.0, 10.5)
    assert cadence.wait(10.5) == 0


def test_a_chunk_that_came_late_is_followed_at_once():
    cadence = ReplanScheduler(16, 30.0, 0.03, 0.1)
    for stamp in range(20):
        cadence.planned(stamp, stamp + 0.1)
    cadence.planned(20.0, 20.1)
    assert cadence.wait(20.1) == pytest.approx(16 / 30 - 0.1 - 0.03)
    cadence.planned(30.0, 30.6)
    assert cadence.wait(30.6) == 0
