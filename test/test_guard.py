"""The guard: no chunk, however bad, brings a set-point out of its limits or the arm to a jerk."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nac_ros.chunk import Chunk
from nac_ros.robot import load_robot
from nac_ros.runtime.guard import Guard, GuardConfig
from nac_ros.simulation.jtc import Trajectory, TrajectoryController, TrajectoryPoint

SPEC = load_robot("vx300s")
PERIOD = 1 / SPEC.guard_rate_hz
START = SPEC.home * [1, 1, 1, 1, 1, 1, 0.5]


def chunk(actions, stamp, names=SPEC.joint_names):
    return Chunk(stamp, 30.0, tuple(names), np.asarray(actions, np.float32), np.empty(0, np.int64))


def swing(stamp, start=START, joint=1, amplitude=0.3, steps=32):
    """A smooth motion of one joint that is fast at its middle and where it is cut off."""
    actions = np.tile(start, (steps, 1))
    actions[:, joint] += amplitude * (1 - np.cos(np.arange(1, steps + 1) / 10))
    return chunk(actions, stamp)


class Rig:
    """A guard, an arm that follows its set-points at once, and a clock."""

    def __init__(self, config=None, start=START):
        self.guard, self.now, self.ticks = Guard(SPEC, config or GuardConfig()), 50.0, []
        self.guard.measure(self.now, start)
        self.guard.tick(self.now)
        self.guard.set_mode("policy")

    def run(self, seconds, measure=True):
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            if measure:
                self.guard.measure(self.now, self.guard.setpoint)
            self.ticks.append(self.guard.tick(self.now))
        return self.ticks[-1]

    @property
    def positions(self):
        return np.stack([tick.positions for tick in self.ticks])


def test_until_the_arm_was_measured_there_is_no_set_point():
    guard = Guard(SPEC)
    assert guard.tick(1.0) is None and guard.setpoint is None
    guard.set_mode("policy")
    assert guard.accept(swing(1.0), 1.0).reason == "no_joint_states"


def test_a_chunk_is_followed_by_time():
    rig = Rig()
    moving = swing(rig.now)
    assert rig.guard.accept(moving, rig.now) is None
    tick = rig.run(0.5)
    assert tick.state == "running" and tick.hold == ""
    at = (tick.stamp - moving.stamp) * 30 - 1
    wanted = np.interp(at, np.arange(32), moving.actions[:, 1])
    assert tick.positions[1] == pytest.approx(wanted, abs=1e-5)


def test_mode_policy_starts_at_the_measured_position():
    guard = Guard(SPEC)
    guard.measure(1.0, START)
    guard.tick(1.0)
    guard.measure(1.01, START + 0.01 * SPEC.relative_mask + 0.1 * (SPEC.units[0] == "rad"))
    guard.set_mode("policy")
    np.testing.assert_allclose(guard.tick(1.01 + 1e-4).positions[:6], START[:6] + 0.11)


def test_an_arm_that_grips_keeps_its_grip_when_the_mode_comes_back():
    rig = Rig()
    measured = rig.guard.setpoint.copy()
    measured[-1] += 0.02  # the fingers stand on an object
    rig.guard.measure(rig.now, measured)
    rig.guard.set_mode("hold")
    rig.guard.set_mode("policy")
    assert rig.guard.setpoint[-1] == START[-1]


def test_a_first_chunk_away_from_the_arm_is_refused_as_a_jump():
    rig = Rig()
    refusal = rig.guard.accept(swing(rig.now, START + [0.3, 0, 0, 0, 0, 0, 0]), rig.now)
    assert refusal.reason == "jump" and "waist" in refusal.text
    assert rig.run(0.1).hold == "no_chunk"
    np.testing.assert_array_equal(rig.positions, np.tile(START, (10, 1)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: chunk(c.actions * np.nan, c.stamp), "not_finite"),
        (lambda c: chunk(c.actions[:, ::-1], c.stamp, c.names[::-1]), "order"),
        (lambda c: chunk(c.actions, c.stamp, ("x", *c.names[1:])), "names"),
        (lambda c: chunk(c.actions + 9, c.stamp), "position"),
        (lambda c: chunk(c.actions, c.stamp - 0.6), "stale"),
        (lambda c: chunk(c.actions, c.stamp + 1), "future"),
    ],
)
def test_a_refused_chunk_leaves_the_arm_holding_and_is_counted(change, reason):
    rig = Rig()
    assert rig.guard.accept(change(swing(rig.now)), rig.now).reason == reason
    tick = rig.run(0.1)
    assert tick.state == "holding" and rig.guard.refusals == Counter({reason: 1})
    np.testing.assert_array_equal(rig.positions, np.tile(START, (10, 1)))


def test_a_refused_chunk_does_not_disturb_the_one_being_played():
    rig, calm = Rig(), Rig()
    for one in (rig, calm):
        one.guard.accept(swing(one.now), one.now)
        one.run(0.2)
    assert rig.guard.accept(chunk(np.full((4, 7), np.nan), rig.now), rig.now) is not None
    rig.run(0.2), calm.run(0.2)
    np.testing.assert_array_equal(rig.positions, calm.positions)


def test_a_chunk_planned_before_the_mode_was_set_does_not_count():
    rig = Rig()
    assert rig.guard.accept(swing(rig.now - 0.1), rig.now).reason == "old"


def decelerations(positions):
    return np.abs(np.diff(positions, 2, axis=0)) / PERIOD**2


def assert_it_came_to_rest(rig, reason, after):
    """From tick `after` on the arm slows inside its limits and stays where it stopped."""
    tail = rig.positions[after:]
    assert rig.ticks[-1].hold == reason and rig.ticks[-1].state == "holding"
    assert (decelerations(tail) <= SPEC.acceleration_limit * (1 + 1e-6)).all()
    assert (np.diff(tail, axis=0)[-5:] == 0).all()
    assert np.abs(np.diff(tail, axis=0)[0]).max() > 1e-3, "it was moving before"
    assert any(tick.state == "stopping" for tick in rig.ticks[after:])


def test_a_chunk_that_runs_out_ends_in_a_stop_within_the_acceleration_limit():
    rig = Rig()
    rig.guard.accept(swing(rig.now, steps=16), rig.now)
    rig.run(1.2)
    assert_it_came_to_rest(rig, "chunk_ended", 51)
    assert rig.guard.holds["chunk_ended"] == 1


def test_a_chunk_is_not_played_longer_than_allowed():
    rig = Rig(GuardConfig(max_play_s=0.4))
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(1.0)
    assert_it_came_to_rest(rig, "chunk_stale", 38)


def test_stale_joint_states_stop_the_arm():
    rig = Rig()
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.4)
    rig.run(0.8, measure=False)
    assert_it_came_to_rest(rig, "joint_states_stale", 49)


def test_joint_states_that_are_not_finite_do_not_count_as_new():
    rig = Rig()
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.4)
    broken = START * [1, 1, np.nan, 1, 1, 1, 1]
    for _ in range(80):
        rig.now += PERIOD
        assert "elbow" in rig.guard.measure(rig.now, broken).text
        rig.ticks.append(rig.guard.tick(rig.now))
    assert_it_came_to_rest(rig, "joint_states_stale", 49)
    assert rig.guard.refusals["joint_states_not_finite"] == 80


def test_a_silent_policy_stops_the_arm_and_a_living_one_does_not():
    rig = Rig(GuardConfig(max_heartbeat_age_s=0.25))
    rig.guard.beat(rig.now)
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.2)
    rig.guard.beat(rig.now)
    assert rig.run(0.2).state == "running"
    rig.run(0.6)
    assert_it_came_to_rest(rig, "heartbeat_lost", 44)


def test_stop_is_latched_until_reset_and_the_mode_is_set_again():
    rig = Rig()
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.4)
    rig.guard.stop()
    rig.run(0.6)
    assert_it_came_to_rest(rig, "stopped", 39)
    rig.guard.set_mode("policy")
    assert rig.guard.mode == "hold"
    rig.guard.reset()
    assert rig.run(0.1).hold == "mode_hold"
    rig.guard.set_mode("policy")
    rig.run(0.1)
    assert rig.guard.accept(swing(rig.now, rig.guard.setpoint), rig.now) is None
    assert rig.run(0.1).state == "running"


def test_a_new_chunk_ends_a_hold():
    rig = Rig()
    rig.guard.accept(swing(rig.now, steps=8), rig.now)
    assert rig.run(1.0).hold == "chunk_ended"
    assert rig.guard.accept(swing(rig.now, rig.guard.setpoint), rig.now) is None
    assert rig.run(0.1).state == "running"


def test_a_guard_that_slept_goes_on_from_the_arm_with_a_new_chunk():
    rig = Rig()
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.4)
    rig.now += 1.0
    rig.guard.measure(rig.now, START)
    tick = rig.guard.tick(rig.now)
    assert tick.hold == "tick_gap" and rig.guard.chunk is None
    np.testing.assert_allclose(tick.positions[:6], START[:6])


def test_a_clock_that_is_set_back_holds_the_arm():
    rig = Rig()
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.4)
    rig.now -= 100
    assert rig.guard.tick(rig.now).hold == "tick_gap"
    assert rig.run(0.1).state == "holding"


def test_a_seam_that_would_be_too_fast_is_limited_and_counted():
    rig = Rig()
    rig.guard.accept(swing(rig.now, amplitude=0.01), rig.now)
    rig.run(0.3)
    away = START + [0.8, 0, 0, 0, 0, 0, 0]
    assert rig.guard.accept(swing(rig.now, away, amplitude=0.01), rig.now) is None
    rig.run(0.5)
    speed = np.abs(np.diff(rig.positions, axis=0)) / PERIOD
    assert (speed <= SPEC.velocity_limit * (1 + 1e-9)).all() and speed[:, 0].max() > 3.1
    assert rig.guard.clips[0] > 5 and not rig.guard.clips[1:].any()


def test_a_set_point_a_little_beyond_its_limit_is_clipped_and_counted():
    rig = Rig(start=SPEC.home)
    actions = np.tile(SPEC.home, (32, 1))
    actions[:, 6] = 0.073
    assert rig.guard.accept(chunk(actions, rig.now), rig.now) is None
    rig.run(0.4)
    assert (rig.positions[:, 6] <= SPEC.position_high[6]).all()
    assert rig.guard.clips.tolist() == [0, 0, 0, 0, 0, 0, 32]


finite_or_not = st.one_of(st.floats(-10, 10), st.floats(width=32), st.just(float("nan")))
steps = st.integers(1, 32)


@st.composite
def chunks(draw):
    """From plausible walks to nonsense: [T, 7] plus stamp offset and delay until it is sent."""
    length = draw(steps)
    if draw(st.booleans()):
        rows = draw(hnp.arrays(np.float64, (length, 7), elements=finite_or_not))
    else:
        seed, scale = draw(st.integers(0, 2**32 - 1)), draw(st.floats(0, 1.2))
        walk = np.random.default_rng(seed).uniform(-1, 1, (length, 7)).cumsum(0)
        rows = START + scale * walk * SPEC.velocity_limit / 30
    return rows, draw(st.floats(-1, 0.2)), draw(st.integers(0, 40))


@settings(max_examples=40, deadline=None)
@given(st.lists(chunks(), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_no_chunks_bring_a_set_point_out_of_its_limits(given_chunks, seed):
    rig, rng = Rig(), np.random.default_rng(seed)
    for rows, stamp, wait in given_chunks:
        with np.errstate(invalid="ignore"):
            near = rows - rows[0] + rig.guard.setpoint
        for actions in (rows, near, np.clip(near, SPEC.position_low, SPEC.position_high)):
            rig.guard.accept(chunk(actions, rig.now + min(stamp, 0.04)), rig.now)
        for _ in range(wait):
            elapsed = rng.uniform(0.002, 0.03)
            rig.now += elapsed
            rig.guard.measure(rig.now, rig.guard.setpoint)
            before = rig.guard.setpoint
            tick = rig.guard.tick(rig.now)
            assert np.isfinite(tick.positions).all() and np.isfinite(tick.velocities).all()
            assert (tick.positions >= SPEC.position_low).all()
            assert (tick.positions <= SPEC.position_high).all()
            speed = np.abs(tick.positions - before) / elapsed
            assert (speed <= SPEC.velocity_limit * (1 + 1e-6)).all()
            assert_motion_is_safe(rig.guard.motion(rig.now))


def assert_motion_is_safe(motion):
    assert (motion.velocities[-1] == 0).all() and motion.times[0] > 0
    assert (np.diff(motion.times) > 0).all()
    assert (motion.positions >= SPEC.position_low).all()
    assert (motion.positions <= SPEC.position_high).all()


def controller_of(motion, now, start, velocity=None):
    arm = TrajectoryController(SPEC.joint_names)
    arm.reset(start, now)
    rows = zip(motion.positions, motion.times, motion.velocities)
    arm.accept(Trajectory(SPEC.joint_names, [TrajectoryPoint(*row) for row in rows]), now)
    return arm


def test_if_the_guard_dies_the_controller_stops_the_arm_within_its_limits():
    rig = Rig()
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.5)
    motion = rig.guard.motion(rig.now)
    assert 0.15 < motion.times[-1] < 0.6
    arm = controller_of(motion, rig.now, rig.guard.setpoint)
    ahead = int((motion.velocities[:, 0] == 0).argmax())
    times = rig.now + np.arange(motion.times[0], motion.times[-1] + 0.1, 0.002)
    desired = arm.sample(times)
    assert ahead == 0 and (desired.velocities[-1] == 0).all()
    tail = times >= rig.now + motion.times[-2]
    slowing = np.abs(np.diff(desired.velocities[tail], axis=0)) / 0.002
    assert (slowing <= SPEC.acceleration_limit * (1 + 1e-6)).all()


def test_a_controller_that_gets_every_motion_follows_the_set_points():
    rig = Rig()
    arm = controller_of(rig.guard.motion(rig.now), rig.now, START)
    rig.guard.accept(swing(rig.now), rig.now)
    worst = 0.0
    for _ in range(150):
        tick = rig.run(PERIOD)
        motion = rig.guard.motion(rig.now)
        rows = zip(motion.positions, motion.times, motion.velocities)
        points = [TrajectoryPoint(*row) for row in rows]
        arm.accept(Trajectory(SPEC.joint_names, points), rig.now)
        at_due = arm.sample(tick.stamp).positions[0]
        worst = max(worst, float(np.abs(at_due - tick.positions).max()))
    assert worst < 1e-9


@pytest.mark.bench
def test_a_tick_costs_a_hundredth_of_its_period():
    rig, spent = Rig(), []
    rig.guard.accept(swing(rig.now), rig.now)
    for _ in range(90):
        rig.now += PERIOD
        rig.guard.measure(rig.now, rig.guard.setpoint)
        began = time.perf_counter()
        rig.guard.tick(rig.now)
        spent.append(time.perf_counter() - began)
    share = float(np.median(spent)) / PERIOD
    print(f"a tick takes {100 * share:.2f} % of its period")
    assert share < 0.01
