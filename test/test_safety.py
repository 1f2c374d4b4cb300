"""Stops and limits: what a joint may be asked to do, and that it can always come to rest."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nac_ros.chunk import Chunk
from nac_ros.robot import load_robot
from nac_ros.safety.limits import check_chunk, check_start
from nac_ros.safety.stopping import Limiter, Stop

SPEC = load_robot("vx300s")
PERIOD = 1 / SPEC.guard_rate_hz
JOINTS = np.arange(SPEC.action_dim)


def chunk(actions=None, names=SPEC.joint_names, stamp=10.0, rate=30.0):
    actions = np.tile(SPEC.home, (32, 1)) if actions is None else actions
    return Chunk(stamp, rate, tuple(names), np.asarray(actions, np.float32), np.empty(0, np.int64))


def changed(step, joint, value):
    actions = np.tile(SPEC.home, (32, 1))
    actions[step:, joint] = value
    return actions


REFUSED = {
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


@pytest.mark.parametrize("reason", REFUSED)
def test_a_bad_chunk_is_refused_with_joint_value_and_limit(reason):
    bad, text = REFUSED[reason]
    refusal = check_chunk(SPEC, bad, now=10.0, max_age_s=0.5)
    assert refusal is not None and refusal.reason == reason
    assert re.search(text, refusal.text), refusal.text


def test_a_chunk_of_another_width_is_refused():
    bad = chunk(names=SPEC.joint_names[:3], actions=np.zeros((4, 3)))
    assert check_chunk(SPEC, bad, 10.0, 0.5).reason == "names"
    wider = chunk()
    object.__setattr__(wider, "actions", np.zeros((4, 9), np.float32))
    assert check_chunk(SPEC, wider, 10.0, 0.5).reason == "shape"


def test_a_sound_chunk_is_accepted_and_so_is_one_a_little_over_the_gripper_s_end():
    assert check_chunk(SPEC, chunk(), 10.0, 0.5) is None
    assert check_chunk(SPEC, chunk(changed(0, 6, 0.0730)), 10.0, 0.5) is None


def test_a_start_farther_than_the_velocity_limit_allows_is_a_jump():
    offset = np.zeros(SPEC.action_dim)
    assert check_start(SPEC, offset + 0.01, 0.05) is None
    offset[4] = -0.2
    refusal = check_start(SPEC, offset, 0.05)
    assert refusal.reason == "jump" and "wrist_angle would jump by 0.2000 rad" in refusal.text


shares = st.lists(st.floats(-1, 1), min_size=SPEC.action_dim, max_size=SPEC.action_dim)


@settings(max_examples=40, deadline=None)
@given(shares)
def test_a_stop_ends_at_rest_and_keeps_the_acceleration_limit(share):
    velocity = np.array(share) * SPEC.velocity_limit
    stop = Stop(5.0, SPEC.home, velocity, SPEC.acceleration_limit, PERIOD)
    times = np.arange(5.0, stop.end + 0.02, 0.001)
    positions, velocities = map(np.stack, zip(*(stop.at(t) for t in times)))
    assert (velocities[-1] == 0).all()
    np.testing.assert_allclose(velocities[0], velocity, atol=1e-9)
    slowing = np.abs(np.diff(velocities, axis=0)) / 0.001
    assert (slowing <= SPEC.acceleration_limit * (1 + 1e-6)).all()
    np.testing.assert_allclose(np.diff(positions, axis=0), velocities[:-1] * 0.001, atol=1e-5)
    bound = velocity**2 / (2 * SPEC.acceleration_limit) + np.abs(velocity) * PERIOD / 2
    assert (np.abs(positions[-1] - SPEC.home) <= bound + 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(shares, st.lists(shares, min_size=1, max_size=25), st.floats(0.002, 0.05))
def test_from_every_limited_set_point_a_stop_stays_inside_the_position_limits(
    start, rows, elapsed
):
    limiter, middle = Limiter(SPEC), (SPEC.position_low + SPEC.position_high) / 2
    half = (SPEC.position_high - SPEC.position_low) / 2
    position = middle + half * np.array(start)
    for row in rows:
        wanted = middle + 3 * half * np.array(row)
        after = limiter.step(position, wanted, elapsed)
        velocity = (after - position) / elapsed
        position = after
        assert (np.abs(velocity) <= SPEC.velocity_limit * (1 + 1e-9)).all()
        rest, _ = Stop(0, position, velocity, SPEC.acceleration_limit, PERIOD).at(10.0)
        assert (rest >= SPEC.position_low - 1e-9).all()
        assert (rest <= SPEC.position_high + 1e-9).all()


def test_a_limiter_leaves_an_allowed_step_alone_and_says_so():
    limiter = Limiter(SPEC)
    inside = replace(SPEC).home.copy()
    inside[-1] = 0.03
    rows = inside + np.linspace(0, 0.01, 10)[:, None] * [1, 1, 1, 1, 1, 1, 0]
    assert limiter.allows(rows, PERIOD)
    np.testing.assert_allclose(limiter.step(rows[0], rows[1], PERIOD), rows[1], atol=1e-12)
    assert not limiter.allows(rows * 50, PERIOD)


def test_the_guard_s_rooms_import_neither_torch_nor_ros():
    code = (
        "import sys, nac_ros.runtime.guard, nac_ros.safety.stopping;"
        "bad = {'torch', 'rclpy', 'mujoco'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
