"""Chunk checks, time-optimal stops and the jerk limiter."""

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nac_ros.control.checks import check_chunk, check_displaced, check_start
from nac_ros.control.jerk_limiter import JerkLimiter
from nac_ros.control.stopping import MotionState, StopProfile
from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import load_robot

SPEC = load_robot("vx300s")
PERIOD = 1 / SPEC.guard_rate_hz
JOINTS = np.arange(SPEC.action_dim)


def chunk(actions=None, names=SPEC.joint_names, stamp=10.0, rate=30.0):
    actions = np.tile(SPEC.home, (32, 1)) if actions is None else actions
    return ActionChunk(
        stamp, rate, tuple(names), np.asarray(actions, np.float32), np.empty(0, np.int64)
    )


def changed(step, joint, value):
    actions = np.tile(SPEC.home, (32, 1))
    actions[step:, joint] = value
    return actions


REJECTED = {
    "not_finite": (chunk(changed(3, 2, np.nan)), "elbow is nan at step 3"),
    "names": (chunk(names=("knee", *SPEC.joint_names[1:])), "moves knee.* this robot has waist"),
    "order": (chunk(names=SPEC.joint_names[::-1]), "wanted the order waist"),
    "position": (chunk(changed(31, 1, 1.6)), r"shoulder.* 1.6000 rad at step 31.*1.25664"),
    "velocity": (chunk(changed(5, 6, 0.03)), r"gripper would move at 1.260 m/s after step 4.*0.3"),
    "stale": (chunk(stamp=9.4), "0.600 s old; at most 0.5 s"),
    "future": (chunk(stamp=10.2), "0.200 s ahead"),
    "rate": (chunk(rate=20.0), "20.0 Hz, not 30.0 Hz"),
    "late": (chunk(np.tile(SPEC.home, (2, 1)), stamp=9.8), "due 0.133 s ago"),
}


@pytest.mark.parametrize("reason", REJECTED)
def test_an_invalid_chunk_is_rejected_with_joint_value_and_limit(reason):
    bad, text = REJECTED[reason]
    rejection = check_chunk(SPEC, bad, now=10.0, max_age_s=0.5)
    assert rejection is not None and rejection.reason == reason
    assert re.search(text, rejection.text), rejection.text


def test_a_chunk_of_another_width_is_rejected():
    bad = chunk(names=SPEC.joint_names[:3], actions=np.zeros((4, 3)))
    assert check_chunk(SPEC, bad, 10.0, 0.5).reason == "names"
    wider = chunk()
    object.__setattr__(wider, "actions", np.zeros((4, 9), np.float32))
    assert check_chunk(SPEC, wider, 10.0, 0.5).reason == "shape"


def test_a_valid_chunk_and_one_slightly_beyond_the_gripper_limit_are_accepted():
    assert check_chunk(SPEC, chunk(), 10.0, 0.5) is None
    assert check_chunk(SPEC, chunk(changed(0, 6, 0.0730)), 10.0, 0.5) is None


def test_a_start_farther_than_the_velocity_limit_allows_is_a_jump():
    offset = np.zeros(SPEC.action_dim)
    assert check_start(SPEC, offset + 0.01, 0.05) is None
    offset[4] = -0.2
    rejection = check_start(SPEC, offset, 0.05)
    assert rejection.reason == "jump" and "wrist_angle would jump by 0.2000 rad" in rejection.text


def test_a_time_stretched_chunk_is_late_after_its_stretched_end():
    short = chunk(np.tile(SPEC.home, (2, 1)), stamp=9.8)
    assert check_chunk(SPEC, short, 10.0, 0.5, speed_scale=0.1) is None


def test_an_arm_away_from_its_last_rest_position_is_displaced_but_a_gripper_is_not():
    measured = SPEC.home.copy()
    measured[-1] -= 0.06
    assert check_displaced(SPEC, measured, SPEC.home) is None
    measured[2] += 0.1
    rejection = check_displaced(SPEC, measured, SPEC.home)
    assert rejection.reason == "displaced" and "elbow is 0.100 rad" in rejection.text


def state_of(shares):
    """A state within the velocity and acceleration limits, from shares `[3, D]` of the limits."""
    position, velocity, acceleration = np.array(shares)
    acceleration = acceleration * SPEC.acceleration_limit
    remaining = np.abs(acceleration) ** 2 / (2 * SPEC.jerk_limit)
    return MotionState(
        SPEC.home + position, velocity * (SPEC.velocity_limit - remaining), acceleration
    )


def stop_of(state):
    return StopProfile(state, SPEC.acceleration_limit, SPEC.jerk_limit)


share = st.lists(st.floats(-1, 1), min_size=SPEC.action_dim, max_size=SPEC.action_dim)
states = st.lists(share, min_size=3, max_size=3).map(state_of)


@settings(max_examples=100, deadline=None)
@given(states)
def test_a_stop_ends_at_rest_and_keeps_every_limit(state):
    stop = stop_of(state)
    times = np.arange(0, stop.duration + 0.02, 0.001)
    there = stop.states_at(times)
    assert not MotionState(*(part[-1] for part in there)).is_moving
    for first, expected in zip(there, state):
        np.testing.assert_allclose(first[0], expected, atol=1e-9)
    low, high = stop.position_range
    assert (there.positions >= low - 1e-9).all() and (there.positions <= high + 1e-9).all()
    assert (np.abs(there.velocities) <= stop.peak_speed + 1e-9).all()
    assert (stop.peak_speed <= SPEC.velocity_limit + 1e-9).all()
    jerks = np.abs(np.diff(there.accelerations, axis=0)) / 0.001
    assert (jerks <= SPEC.jerk_limit * (1 + 1e-6)).all()
    assert (np.abs(there.accelerations) <= SPEC.acceleration_limit * (1 + 1e-9)).all()
    mean = (there.velocities[:-1] + there.velocities[1:]) / 2
    np.testing.assert_allclose(np.diff(there.positions, axis=0), mean * 0.001, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(states)
def test_a_stop_takes_as_long_as_the_one_of_ruckig(state):
    ruckig = pytest.importorskip("ruckig")
    stop = stop_of(state)
    for joint in JOINTS:
        wanted = ruckig.InputParameter(1)
        wanted.control_interface = ruckig.ControlInterface.Velocity
        wanted.current_position = [state.positions[joint]]
        wanted.current_velocity = [state.velocities[joint]]
        wanted.current_acceleration = [state.accelerations[joint]]
        wanted.target_velocity, wanted.target_acceleration = [0.0], [0.0]
        wanted.max_acceleration = [SPEC.acceleration_limit[joint]]
        wanted.max_jerk = [SPEC.jerk_limit[joint]]
        found = ruckig.Trajectory(1)
        ruckig.Ruckig(1).calculate(wanted, found)
        assert stop.phase_ends[-1, joint] == pytest.approx(found.duration, abs=1e-6)


def test_stops_of_many_states_are_computed_together():
    rows = np.random.default_rng(0).uniform(-1, 1, (3, 20, SPEC.action_dim))
    many = MotionState(SPEC.home + rows[0], rows[1], 5 * rows[2] * (SPEC.jerk_limit / 400))
    together = stop_of(many)
    for k in range(20):
        one = stop_of(MotionState(*(part[k] for part in many)))
        np.testing.assert_array_equal(together.phase_ends[:, k], one.phase_ends)
        np.testing.assert_array_equal(together.position_range[1][k], one.position_range[1])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 0.5, 0.1]))
def test_every_step_keeps_the_limits_and_can_stop_under_any_requested_jerk(seed, speed):
    rng, limiter = np.random.default_rng(seed), JerkLimiter(SPEC)
    middle = (SPEC.position_low + SPEC.position_high) / 2
    state = MotionState.at_rest(
        middle + rng.uniform(-0.5, 0.5, SPEC.action_dim) * (SPEC.home - middle)
    )
    for k in range(150):
        if k % 30 == 0:
            jerk = rng.choice([-1.5, 0, 1.5], SPEC.action_dim) * SPEC.jerk_limit
        segment, before, began = limiter.step(state, jerk, speed), state, 0.0
        assert segment.times[-1] == PERIOD
        for t, *row in zip(segment.times, *segment.states):
            after = MotionState(*row)
            change = (after.accelerations - before.accelerations) / (t - began)
            assert (np.abs(change) <= SPEC.jerk_limit * (1 + 1e-6)).all()
            for share in (0.25, 0.5, 0.75, 1):
                there = before.after(share * (t - began), change)
                assert (np.abs(there.velocities) <= SPEC.velocity_limit * speed + 1e-6).all()
                assert (np.abs(there.accelerations) <= SPEC.acceleration_limit + 1e-6).all()
                assert (there.positions >= SPEC.position_low - 1e-6).all()
                assert (there.positions <= SPEC.position_high + 1e-6).all()
            np.testing.assert_allclose(there.positions, after.positions, atol=1e-9)
            before, began = after, t
        state = before
        low, high = limiter.stop_profile(state).position_range
        assert (low >= SPEC.position_low - 1e-6).all()
        assert (high <= SPEC.position_high + 1e-6).all()


def test_far_from_every_limit_the_requested_jerk_is_applied():
    limiter, wanted = JerkLimiter(SPEC), SPEC.jerk_limit * 0.3
    inside = SPEC.home.copy()
    inside[-1] = 0.03
    segment = limiter.step(MotionState.at_rest(inside), wanted)
    np.testing.assert_allclose(segment.states.accelerations[-1], wanted * PERIOD)


def test_a_joint_faster_than_a_tightened_limit_brakes():
    limiter = JerkLimiter(SPEC)
    fast = MotionState(SPEC.home, 0.5 * SPEC.velocity_limit, np.zeros(SPEC.action_dim))
    fast.positions[-1] = 0.03
    slowing = limiter.step(fast, np.zeros(SPEC.action_dim), speed_scale=0.1)
    assert (slowing.states.accelerations[-1] < 0).all()


def test_the_control_package_imports_neither_torch_nor_ros():
    code = (
        "import sys, nac_ros.control.guard, nac_ros.control.stopping;"
        "bad = {'torch', 'rclpy', 'mujoco'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
