"""The guard's time is continuous when the system clock is set."""

import numpy as np
import pytest

from nac_ros.control.guard_clock import NANO, GuardClock

TODAY_NS = 1_795_942_000 * NANO


def test_time_begins_with_the_first_reading_that_is_not_zero():
    clock = GuardClock(0.2)
    assert not clock.read(0, 5.0, simulated=True) and not clock.begun
    assert clock.seconds(0) == 0.0
    assert not clock.read(TODAY_NS, 8.0, simulated=True) and clock.begun
    assert clock.origin_ns == TODAY_NS
    assert clock.seconds(TODAY_NS + 1) == 1e-9, "no nanosecond is lost"


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize("jump_s", [-3600.0, -1.0, 1.0, 1e9])
def test_after_the_clock_was_set_time_continues_without_a_jump(jump_s, simulated):
    clock = GuardClock(0.2)
    clock.read(TODAY_NS, 0.0, simulated)
    assert not clock.read(TODAY_NS + NANO // 100, 0.01, simulated)
    set_ns = TODAY_NS + NANO // 50 + round(jump_s * NANO)
    assert clock.read(set_ns, 0.02, simulated)
    assert clock.seconds(set_ns) == pytest.approx(0.02, abs=1e-8)
    assert not clock.read(set_ns + NANO // 100, 0.03, simulated)


def test_a_small_clock_jump_is_detected_and_slewing_is_not():
    clock = GuardClock(0.2)
    clock.read(TODAY_NS, 0.0)
    for k in range(1, 1000):
        assert not clock.read(TODAY_NS + round(k * 0.010005 * NANO), k * 0.01)
    assert clock.read(TODAY_NS + round(999 * 0.010005 * NANO) + NANO // 20, 9.99)


@pytest.mark.parametrize("simulated", [False, True])
def test_a_step_back_of_less_than_a_period_is_detected_and_no_time_repeats(
    simulated,
):
    clock = GuardClock(0.2)
    clock.read(TODAY_NS, 0.0, simulated)
    clock.read(TODAY_NS + NANO // 100, 0.01, simulated)
    back_ns = TODAY_NS + NANO // 200
    assert clock.read(back_ns, 0.02, simulated)
    assert clock.seconds(back_ns) == pytest.approx(0.02, abs=1e-8)


def test_simulated_time_may_pause_and_run_at_any_rate():
    clock = GuardClock(0.2)
    clock.read(10 * NANO, 0.0, simulated=True)
    steady, ns = 0.0, 10 * NANO
    for rate in (0.0, 0.0, 0.3, 5.0, 10.0, 0.0):
        for _ in range(50):
            steady, ns = steady + 0.01, ns + round(rate * 0.01 * NANO)
            assert not clock.read(ns, steady, simulated=True)
    assert clock.seconds(ns) == pytest.approx(0.5 * (0.3 + 5 + 10))


def test_a_process_that_was_suspended_detects_no_clock_jump():
    clock = GuardClock(0.2)
    clock.read(TODAY_NS, 0.0)
    assert not clock.read(TODAY_NS + 2 * NANO, 2.0)
    assert clock.seconds(TODAY_NS + 2 * NANO) == 2.0
    assert np.isfinite(clock.seconds(TODAY_NS))
