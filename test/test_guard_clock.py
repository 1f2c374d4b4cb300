"""The guard's time goes on evenly, whatever is done to the clock."""

import numpy as np
import pytest

from nac_ros.control.guard_clock import NANO, GuardClock

TODAY_NS = 1_795_942_000 * NANO


def test_a_clock_of_zero_has_not_begun_and_time_begins_with_the_first_valid_reading():
    clock = GuardClock(0.2)
    assert not clock.read(0, 5.0, simulated=True) and not clock.begun
    assert clock.seconds(0) == 0.0
    assert not clock.read(TODAY_NS, 8.0, simulated=True) and clock.begun
    assert clock.origin_ns == TODAY_NS
    assert clock.seconds(TODAY_NS + 1) == 1e-9, "no nanosecond is lost"


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize("jump_s", [-3600.0, -1.0, 1.0, 1e9])
def test_a_clock_that_is_set_goes_on_evenly_from_another_origin(jump_s, simulated):
    clock = GuardClock(0.2)
    clock.read(TODAY_NS, 0.0, simulated)
    assert not clock.read(TODAY_NS + NANO // 100, 0.01, simulated)
    set_ns = TODAY_NS + NANO // 50 + round(jump_s * NANO)
    assert clock.read(set_ns, 0.02, simulated)
    assert clock.seconds(set_ns) == pytest.approx(0.02, abs=1e-8)
    assert not clock.read(set_ns + NANO // 100, 0.03, simulated)


def test_a_system_clock_that_is_set_by_a_little_is_noticed_and_one_that_is_slewed_is_not():
    clock = GuardClock(0.2)
    clock.read(TODAY_NS, 0.0)
    for k in range(1, 1000):
        assert not clock.read(TODAY_NS + round(k * 0.010005 * NANO), k * 0.01)
    assert clock.read(TODAY_NS + round(999 * 0.010005 * NANO) + NANO // 20, 9.99)


@pytest.mark.parametrize("simulated", [False, True])
def test_a_clock_that_is_set_back_by_less_than_a_period_is_noticed_and_no_time_passes_twice(
    simulated,
):
    clock = GuardClock(0.2)
    clock.read(TODAY_NS, 0.0, simulated)
    clock.read(TODAY_NS + NANO // 100, 0.01, simulated)
    back_ns = TODAY_NS + NANO // 200
    assert clock.read(back_ns, 0.02, simulated)
    assert clock.seconds(back_ns) == pytest.approx(0.02, abs=1e-8)


def test_simulated_time_may_stand_and_pass_at_any_rate():
    clock = GuardClock(0.2)
    clock.read(10 * NANO, 0.0, simulated=True)
    steady, ns = 0.0, 10 * NANO
    for rate in (0.0, 0.0, 0.3, 5.0, 10.0, 0.0):
        for _ in range(50):
            steady, ns = steady + 0.01, ns + round(rate * 0.01 * NANO)
            assert not clock.read(ns, steady, simulated=True)
    assert clock.seconds(ns) == pytest.approx(0.5 * (0.3 + 5 + 10))


def test_a_process_that_slept_has_not_had_its_clock_set():
    clock = GuardClock(0.2)
    clock.read(TODAY_NS, 0.0)
    assert not clock.read(TODAY_NS + 2 * NANO, 2.0)
    assert clock.seconds(TODAY_NS + 2 * NANO) == 2.0
    assert np.isfinite(clock.seconds(TODAY_NS))
