"""The guard's word: whatever it is told, no set-point passes a limit, also between two of them."""

import os
from dataclasses import replace

import numpy as np
import pytest
from limits import Follower, assert_inside

from nac_ros.chunk import Chunk
from nac_ros.robot import load_robot
from nac_ros.runtime.guard import Guard
from nac_ros.runtime.tick import GuardConfig

SPEC = replace(load_robot("vx300s"), body=None)  # the body is test_guard.py's
PERIOD = 1 / SPEC.guard_rate_hz
MIDDLE = (SPEC.position_low + SPEC.position_high) / 2
SPAN = SPEC.position_high - SPEC.position_low


def smooth(rng, start):
    """A motion such as a policy plans."""
    t = np.arange(1, 33)[:, None] / 30
    swing = rng.uniform(-0.5, 0.5, SPEC.action_dim) * SPAN / 6
    return start + swing * (1 - np.cos(t * rng.uniform(0.5, 6, SPEC.action_dim)))


def noisy(rng, start):
    """The same under noise that no arm could follow."""
    return (
        smooth(rng, start) + rng.normal(0, 0.15, (32, SPEC.action_dim)) * SPEC.velocity_limit / 30
    )


def walk(rng, start):
    """Every joint at full speed, this way and that."""
    steps = rng.choice([-1, 0, 1], (32, SPEC.action_dim)) * SPEC.velocity_limit / 30
    held = np.repeat(steps[:: rng.integers(1, 9)], 32, 0)[:32]
    return start + held.cumsum(0) * 0.9999


def wall(rng, start):
    """Straight into the position limits at full speed."""
    way = rng.choice([-1, 1], SPEC.action_dim) * SPEC.velocity_limit / 30 * 0.9999
    return np.clip(start + way * np.arange(1, 33)[:, None], SPEC.position_low, SPEC.position_high)


def elsewhere(rng, start):
    """A smooth motion that begins far away."""
    return smooth(rng, MIDDLE + rng.uniform(-0.4, 0.4, SPEC.action_dim) * SPAN)


def broken(rng, start):
    """Not a motion at all."""
    actions = smooth(rng, start)
    actions[rng.integers(32), rng.integers(SPEC.action_dim)] = rng.choice([np.nan, np.inf, 1e9])
    return actions


KINDS = (smooth, smooth, noisy, walk, wall, elsewhere, broken)


def play(seed):
    """A guard and its controller under a random sequence of chunks, orders and pauses."""
    rng = np.random.default_rng(seed)
    guard, now = Guard(SPEC, GuardConfig(blend_s=rng.choice([0.05, 0.1, 0.3]))), 20.0
    start = MIDDLE + rng.uniform(-0.5, 0.5, SPEC.action_dim) * SPAN
    guard.measure(now, start)
    follower, ticks, running = Follower(SPEC, start, now), guard.tick(now), 0
    arrival = now
    guard.set_mode("policy")
    for _ in range(rng.integers(3, 8)):
        kind = KINDS[rng.integers(len(KINDS))]
        actions = kind(rng, guard.setpoint).astype(np.float32)
        stamp = now - rng.choice([0.0, 0.0, 0.02, 0.1])
        guard.accept(Chunk(stamp, 30.0, SPEC.joint_names, actions, np.empty(0, np.int64)), now)
        order(rng, guard)
        for _ in range(rng.integers(1, 45)):
            now += pause(rng)
            guard.measure(now, follower.run(now))
            ticks += guard.tick(now)
            running += guard.hold == ""
            if (motion := guard.news(now)) is not None:
                arrival = max(arrival, now + rng.uniform(0, 0.029))  # in order
                follower.send(motion, arrival)
    end = now + 2.0
    follower.run(end)
    return follower, ticks, running


def order(rng, guard):
    """Now and then something other than a chunk."""
    what = rng.integers(16)
    if what == 0:
        guard.stop()
    if what in (0, 1, 2):
        guard.reset()
        guard.set_mode("policy")
    if what == 3:
        guard.set_mode("hold")
    if what == 4:
        guard.set_speed_scale(float(rng.choice([0.1, 0.5, 1.0])))
    if what == 5:
        guard.ramp()


def pause(rng):
    """A timer's period: jitter, at times a late call, rarely a long sleep."""
    return rng.choice(
        [PERIOD + rng.uniform(-0.002, 0.002), rng.uniform(0.003, 0.03), 0.09, 0.3],
        p=[0.9, 0.08, 0.015, 0.005],
    )


def check(seed):
    follower, ticks, running = play(seed)
    assert_inside(SPEC, follower.positions, follower.step)
    assert (np.diff(follower.positions[-200:], axis=0) == 0).all(), "it came to rest by itself"
    stamps = np.array([tick.stamp for tick in ticks])
    commands = np.stack([tick.positions for tick in ticks])
    assert (np.diff(stamps) > 0).all()
    even = np.abs(np.diff(stamps) - PERIOD) < 1e-6
    for piece in np.split(commands, np.flatnonzero(~even) + 1):
        assert_inside(SPEC, piece, PERIOD)
    return running


def test_no_sequence_of_chunks_and_orders_passes_a_limit():
    running = [check(seed) for seed in range(500)]
    assert np.mean(np.array(running) > 20) > 0.5, "most sequences moved the arm"


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_no_sequence_passes_a_limit_in_ten_thousand():
    for seed in range(10_000, 10_000 + int(os.environ.get("SEQUENCES", "10000"))):
        check(seed)
