"""Replanning: a prediction starts early enough to arrive before the executed steps run out."""

from itertools import pairwise

import pytest

from nac_ros.inference.replanning import ReplanScheduler


def test_the_first_prediction_and_the_one_after_a_restart_are_due_at_once():
    scheduler = ReplanScheduler(16, 30.0, 0.03, 0.05)
    assert scheduler.seconds_until_due(100.0) == 0
    scheduler.add_chunk(100.0, 100.05)
    assert scheduler.seconds_until_due(100.05) > 0
    scheduler.restart()
    assert scheduler.seconds_until_due(100.05) == 0


@pytest.mark.parametrize("latency", [0.02, 0.1, 0.4])
def test_chunks_arrive_the_margin_before_the_executed_steps_run_out(latency):
    scheduler, now, arrivals, stamps = ReplanScheduler(16, 30.0, 0.03, latency), 0.0, [], []
    for _ in range(10):
        now += scheduler.seconds_until_due(now)
        stamps.append(now)
        now += latency
        arrivals.append(now)
        scheduler.add_chunk(stamps[-1], now)
    gaps = [b - a for a, b in pairwise(arrivals)]
    assert gaps == pytest.approx([16 / 30 - 0.03] * 9)
    assert [b - a for a, b in pairwise(stamps)] == pytest.approx(gaps)


def test_a_latency_beyond_the_executed_steps_leaves_no_pause():
    scheduler = ReplanScheduler(4, 30.0, 0.03, 0.5)
    scheduler.add_chunk(10.0, 10.5)
    assert scheduler.seconds_until_due(10.5) == 0


def test_a_late_chunk_is_followed_at_once_by_the_next_prediction():
    scheduler = ReplanScheduler(16, 30.0, 0.03, 0.1)
    for stamp in range(20):
        scheduler.add_chunk(stamp, stamp + 0.1)
    scheduler.add_chunk(20.0, 20.1)
    assert scheduler.seconds_until_due(20.1) == pytest.approx(16 / 30 - 0.1 - 0.03)
    scheduler.add_chunk(30.0, 30.6)
    assert scheduler.seconds_until_due(30.6) == 0
