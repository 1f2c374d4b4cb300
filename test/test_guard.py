"""The guard: whatever it receives, set-points keep all limits, and faults stop the arm."""

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from motion_assertions import Follower, assert_inside

from nac_ros.control.guard import Guard
from nac_ros.control.types import GuardConfig
from nac_ros.core.errors import ConfigError
from nac_ros.core.types import ActionChunk, Trajectory
from nac_ros.robot.kinematics import CollisionModel
from nac_ros.robot.spec import load_robot
from nac_ros.simulation.joint_trajectory_controller import JointTrajectoryController

SPEC = load_robot("vx300s")
PERIOD = 1 / SPEC.guard_rate_hz
START = SPEC.home * [1, 1, 1, 1, 1, 1, 0.5]
COLLISION = CollisionModel(SPEC, SPEC.body)


def chunk(actions, stamp, names=SPEC.joint_names):
    return ActionChunk(
        stamp, 30.0, tuple(names), np.asarray(actions, np.float32), np.empty(0, np.int64)
    )


def swing(stamp, start=START, joint=1, amplitude=0.3, steps=32):
    """A smooth motion of one joint, fastest in the middle and at the end of the chunk."""
    actions = np.tile(start, (steps, 1))
    actions[:, joint] += amplitude * (1 - np.cos(np.arange(1, steps + 1) / 10))
    return chunk(actions, stamp)


class Rig:
    """A guard, an arm that follows its set-points without delay, and a clock."""

    def __init__(self, config=None, start=START, spec=SPEC):
        self.guard, self.now, self.ticks = Guard(spec, config or GuardConfig()), 50.0, []
        self.guard.update_joint_state(self.now, start)
        self.guard.update_reference(self.now, start)
        self.ticks += self.guard.tick(self.now)
        assert self.guard.set_mode("policy") is None

    def run(self, seconds, measure=True):
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            if measure:
                self.guard.update_joint_state(self.now, self.guard.setpoint)
                self.guard.update_reference(self.now, self.guard.setpoint)
            self.ticks += self.guard.tick(self.now)
        return self.ticks[-1]

    def rest_at(self, positions, seconds=0.2):
        """The arm was moved by other means, and its controller holds it at `positions`."""
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            self.guard.update_joint_state(self.now, positions)
            self.guard.update_reference(self.now, positions)
            self.ticks += self.guard.tick(self.now)

    def reset_and_start(self):
        """The operator's actions after a fault."""
        self.guard.reset()
        assert self.guard.set_mode("policy") is None
        self.run(0.05)

    @property
    def positions(self):
        return np.stack([tick.positions for tick in self.ticks])


def test_there_is_no_setpoint_before_the_first_joint_state():
    guard = Guard(SPEC)
    assert guard.tick(1.0) == [] and guard.setpoint is None
    guard.set_mode("policy")
    assert guard.accept(swing(1.0), 1.0).reason == "no_joint_states"


def test_a_chunk_is_tracked_by_its_time_stamps():
    rig = Rig()
    moving = swing(rig.now)
    assert rig.guard.accept(moving, rig.now) is None
    tick = rig.run(0.5)
    assert tick.state == "running" and tick.hold_reason == ""
    at = (tick.stamp - moving.stamp) * 30 - 1
    wanted = np.interp(at, np.arange(32), moving.actions[:, 1])
    assert tick.positions[1] == pytest.approx(wanted, abs=2e-3)
    assert tick.stamp == pytest.approx(rig.now + rig.guard.config.lead_s, abs=PERIOD / 2)


def test_before_its_first_command_the_guard_starts_at_the_newest_joint_state():
    guard, moved = Guard(SPEC), START + 0.11 * SPEC.relative_mask
    guard.update_joint_state(1.0, START)
    guard.tick(1.0)
    guard.update_joint_state(1.01, moved)
    assert guard.set_mode("policy") is None
    np.testing.assert_allclose(guard.tick(1.01)[-1].positions, moved)


def test_an_arm_that_was_moved_by_other_means_needs_a_reset():
    rig = Rig()
    rig.guard.accept(swing(rig.now, steps=4), rig.now)
    rig.run(1.0)
    rig.guard.set_mode("hold")
    moved = rig.guard.setpoint + 0.11 * SPEC.relative_mask
    rig.guard.update_joint_state(rig.now, moved)
    rejection = rig.guard.set_mode("policy")
    assert rejection.reason == "displaced" and "0.110 rad" in rejection.text
    assert rig.guard.mode == "hold"
    rig.rest_at(moved)
    assert rig.guard.set_mode("policy").reason == "displaced"
    rig.guard.reset()
    assert rig.guard.set_mode("policy") is None
    np.testing.assert_allclose(rig.guard.setpoint[:6], moved[:6])


def test_a_gripper_keeps_its_setpoint_when_the_mode_is_set_again():
    rig = Rig()
    rig.guard.accept(swing(rig.now, steps=4), rig.now)
    rig.run(1.0)
    gripping, measured = rig.guard.setpoint, rig.guard.setpoint.copy()
    measured[-1] += 0.02  # an object blocks the fingers
    rig.guard.update_joint_state(rig.now, measured)
    rig.guard.stop()
    rig.guard.reset()
    assert rig.guard.set_mode("policy") is None
    assert rig.guard.setpoint[-1] == gripping[-1]


def test_after_a_new_scene_motion_starts_with_the_measured_gripper_position():
    rig = Rig()
    actions = np.tile(START, (32, 1))
    actions[:, 6] = np.maximum(START[6] - 0.009 * np.arange(1, 33), 0.0)  # closes
    rig.guard.accept(chunk(actions, rig.now), rig.now)
    rig.run(1.3)
    assert rig.guard.setpoint[6] < 0.001
    anew = START + 0.08 * SPEC.relative_mask
    anew[6] = 0.07
    rig.guard.set_mode("hold")
    rig.rest_at(anew)
    rig.guard.reset()
    assert rig.guard.set_mode("policy") is None
    np.testing.assert_allclose(rig.guard.setpoint, anew)


def test_a_first_chunk_far_from_the_arm_is_rejected_as_a_jump():
    rig = Rig()
    rejection = rig.guard.accept(swing(rig.now, START + [0.3, 0, 0, 0, 0, 0, 0]), rig.now)
    assert rejection.reason == "jump" and "waist" in rejection.text
    assert rig.run(0.1).hold_reason == "no_chunk"
    np.testing.assert_array_equal(rig.positions, np.tile(START, (11, 1)))


def test_a_late_chunk_that_moves_the_gripper_at_once_starts_an_arm_at_rest():
    rig = Rig()
    actions = np.tile(START, (32, 1))
    actions[:, 6] = np.maximum(START[6] - 0.0095 * np.arange(1, 33), 0.0)
    late = chunk(actions, rig.now)
    rig.run(0.25)
    assert rig.guard.accept(late, rig.now) is None
    rig.run(0.4)
    assert_inside(SPEC, rig.positions, PERIOD)
    assert rig.ticks[-1].positions[6] < 0.005


def test_a_first_chunk_whose_gripper_is_shut_closes_an_open_one_within_its_limits():
    rig = Rig()
    actions = np.tile(START, (32, 1))
    actions[:, 6] = 0.0 if START[6] > 0.03 else 0.07
    assert rig.guard.accept(chunk(actions, rig.now), rig.now) is None
    rig.run(0.8)
    assert_inside(SPEC, rig.positions, PERIOD)
    assert rig.ticks[-1].positions[6] == pytest.approx(actions[0, 6], abs=1e-3)


def test_an_approach_moves_slowly_to_the_start_of_the_rejected_chunk():
    rig, away = Rig(), START + [0.3, 0, 0, 0, 0, 0, 0]
    assert rig.guard.approach().reason == "no_approach"
    first = rig.guard.accept(swing(rig.now, away), rig.now)
    assert first.reason == "jump" and "guard/ramp" in first.text
    assert rig.guard.approach() is None
    assert rig.run(0.2).state == "running" and rig.guard.approaching
    assert rig.guard.accept(swing(rig.now, away), rig.now).reason == "approaching"
    tick = rig.run(2.5)
    assert tick.state == "armed" and tick.hold_reason == "no_chunk"
    np.testing.assert_allclose(tick.positions, swing(0.0, away).actions[0], atol=2e-3)
    speed = np.abs(np.diff(rig.positions, axis=0)) / PERIOD / SPEC.velocity_limit
    assert 0.09 < speed.max() < 0.1001
    assert rig.guard.accept(swing(rig.now, away), rig.now) is None
    assert rig.run(0.1).state == "running"


def test_a_stop_ends_an_approach():
    rig = Rig()
    rig.guard.accept(swing(rig.now, START + [0.3, 0, 0, 0, 0, 0, 0]), rig.now)
    rig.guard.approach()
    rig.run(0.3)
    rig.guard.stop()
    tick = rig.run(0.5)
    assert tick.state == "fault" and tick.hold_reason == "stopped"
    assert rig.guard.approach().reason == "no_approach"


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
def test_a_rejected_chunk_leaves_the_arm_at_rest_and_is_counted(change, reason):
    rig = Rig()
    assert rig.guard.accept(change(swing(rig.now)), rig.now).reason == reason
    tick = rig.run(0.1)
    assert tick.state == "armed" and rig.guard.rejections == Counter({reason: 1})
    np.testing.assert_array_equal(rig.positions, np.tile(START, (11, 1)))


def test_a_rejected_chunk_does_not_change_the_one_being_executed():
    rig, calm = Rig(), Rig()
    for one in (rig, calm):
        one.guard.accept(swing(one.now), one.now)
        one.run(0.2)
    assert rig.guard.accept(chunk(np.full((4, 7), np.nan), rig.now), rig.now) is not None
    rig.run(0.2), calm.run(0.2)
    np.testing.assert_array_equal(rig.positions, calm.positions)


def test_a_chunk_planned_before_the_mode_was_set_is_rejected():
    rig = Rig()
    assert rig.guard.accept(swing(rig.now - 0.1), rig.now).reason == "old"


def assert_stopped(rig, reason, after):
    """From tick `after` on the arm brakes within its limits and stays at rest."""
    tail = rig.positions[after:]
    assert rig.ticks[-1].hold_reason == reason and rig.ticks[-1].state in ("armed", "fault")
    assert_inside(SPEC, rig.positions, PERIOD)
    assert (np.diff(tail, axis=0)[-5:] == 0).all()
    assert np.abs(np.diff(tail, axis=0)[0]).max() > 1e-3, "it moved before"
    assert any(tick.state == "stopping" for tick in rig.ticks[after:])


@pytest.mark.parametrize(
    ("config", "steps", "reason", "end_s"),
    [
        (GuardConfig(), 16, "chunk_ended", 16 / 30),
        (GuardConfig(max_execution_s=0.4), 32, "chunk_stale", 0.4),
    ],
)
def test_without_a_newer_chunk_the_arm_is_at_rest_by_the_end_of_the_present_one(
    config, steps, reason, end_s
):
    rig = Rig(config)
    stamp = rig.now
    rig.guard.accept(swing(stamp, steps=steps), stamp)
    rig.run(1.2)
    assert_inside(SPEC, rig.positions, PERIOD)
    times = np.array([tick.stamp for tick in rig.ticks]) - stamp
    speed = np.abs(np.diff(rig.positions, axis=0)).max(1) / PERIOD
    assert (speed[times[:-1] >= end_s] == 0).all()
    assert speed[times[:-1] < end_s - 0.25].max() > 0.1, "it tracked the chunk as long as possible"
    assert rig.ticks[-1].hold_reason == reason and rig.guard.holds[reason] == 1


def arm_at(rig, offset, now):
    """A teleoperation command of one point: the waist rotated by `offset`."""
    return chunk((START + offset * np.eye(7)[0])[None], now)


def test_a_far_teleoperation_command_is_approached_slowly_and_then_tracked():
    rig = Rig()
    rig.guard.set_mode("hold")
    assert rig.guard.set_mode("teleop") is None
    speeds = []
    for k in range(600):
        if k % 3 == 0:
            assert rig.guard.accept(arm_at(rig, 0.6, rig.now), rig.now, "teleop") is None
        before = rig.guard.setpoint
        rig.run(PERIOD)
        speeds.append(np.abs(rig.guard.setpoint - before).max() / PERIOD)
    np.testing.assert_allclose(rig.guard.setpoint[0], START[0] + 0.6, atol=2e-3)
    assert max(speeds[:30]) <= 0.1 * SPEC.velocity_limit.max() + 1e-6
    assert not rig.guard.approaching and not rig.guard.holds["teleop_silent"]
    assert_inside(SPEC, rig.positions, PERIOD)


@pytest.mark.parametrize("early", np.arange(1, 10) / 1000)
def test_a_first_teleoperation_command_may_arrive_at_any_time_between_two_ticks(early):
    rig = Rig()
    rig.guard.set_mode("hold")
    rig.guard.set_mode("teleop")
    sent = rig.now + early
    assert rig.guard.accept(arm_at(rig, 0.1, sent), sent, "teleop") is None
    assert rig.run(0.05).hold_reason == ""
    assert_inside(SPEC, rig.positions, PERIOD)


def test_missing_teleoperation_commands_stop_the_arm_until_the_next_command():
    rig = Rig()
    rig.guard.set_mode("hold")
    rig.guard.set_mode("teleop")
    for k in range(90):
        if k % 3 == 0:
            rig.guard.accept(arm_at(rig, 0.002 * k, rig.now), rig.now, "teleop")
        rig.run(PERIOD)
    spoke, silent = rig.now, len(rig.ticks)
    rig.run(0.8)
    stop = next(tick for tick in rig.ticks[silent:] if tick.hold_reason)
    assert stop.hold_reason == "teleop_silent" and stop.stamp - spoke <= 0.1 + 4 * PERIOD
    assert_inside(SPEC, rig.positions, PERIOD)
    assert (np.diff(rig.positions, axis=0)[-20:] == 0).all()
    assert rig.guard.accept(arm_at(rig, 0.2, rig.now), rig.now, "teleop") is None
    assert rig.run(0.05).hold_reason == ""


def test_the_mode_can_change_from_policy_to_teleop_and_back_while_the_arm_moves():
    rig = Rig()
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.4)
    assert rig.guard.set_mode("teleop") is None
    assert rig.guard.accept(swing(rig.now), rig.now).reason == "mode"
    for k in range(60):
        if k % 3 == 0:
            assert rig.guard.accept(arm_at(rig, 0.1, rig.now), rig.now, "teleop") is None
        rig.run(PERIOD)
    assert rig.guard.set_mode("policy") is None
    rig.run(0.5)
    assert rig.ticks[-1].hold_reason == "no_chunk" and rig.ticks[-1].state == "armed"
    here = rig.guard.setpoint
    assert rig.guard.accept(swing(rig.now, here, joint=0), rig.now) is None
    assert rig.run(0.2).state == "running"
    assert_inside(SPEC, rig.positions, PERIOD)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: chunk(c.actions * np.nan, c.stamp), "not_finite"),
        (lambda c: chunk(np.repeat(c.actions, 9, 0), c.stamp), "shape"),
        (lambda c: chunk(c.actions, c.stamp - 0.2), "stale"),
        (lambda c: chunk(c.actions, c.stamp + 1), "future"),
        (lambda c: chunk(c.actions[:, ::-1], c.stamp, c.names[::-1]), "order"),
    ],
)
def test_an_invalid_teleoperation_command_is_rejected(change, reason):
    rig = Rig()
    rig.guard.set_mode("hold")
    rig.guard.set_mode("teleop")
    rejection = rig.guard.accept(change(arm_at(rig, 0.0, rig.now)), rig.now, "teleop")
    assert rejection.reason == reason
    assert rig.run(0.1).state == "armed"


def test_stale_joint_states_stop_the_arm():
    rig = Rig()
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.4)
    rig.run(0.8, measure=False)
    assert_stopped(rig, "joint_states_stale", 49)


def test_joint_states_that_are_not_finite_are_rejected_and_become_stale():
    rig = Rig()
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.4)
    broken = START * [1, 1, np.nan, 1, 1, 1, 1]
    for _ in range(80):
        rig.now += PERIOD
        assert "elbow" in rig.guard.update_joint_state(rig.now, broken).text
        rig.ticks += rig.guard.tick(rig.now)
    assert_stopped(rig, "joint_states_stale", 49)
    assert rig.guard.rejections["joint_states_not_finite"] == 80


def test_a_lost_heartbeat_stops_the_arm_and_a_regular_one_does_not():
    rig = Rig(GuardConfig(max_heartbeat_age_s=0.25))
    rig.guard.heartbeat(rig.now)
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.2)
    rig.guard.heartbeat(rig.now)
    assert rig.run(0.2).state == "running"
    rig.run(0.6)
    assert_stopped(rig, "heartbeat_lost", 44)


@pytest.mark.parametrize("fault", ["joint_states_stale", "heartbeat_lost", "tick_gap", "stopped"])
def test_after_a_fault_nothing_moves_until_a_reset_and_the_mode_is_set_again(fault):
    rig = Rig(GuardConfig(max_heartbeat_age_s=0.25))
    rig.guard.heartbeat(rig.now)
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.2)
    if fault != "heartbeat_lost":
        rig.guard.heartbeat(rig.now)
    if fault == "stopped":
        rig.guard.stop()
    if fault == "tick_gap":
        rig.now += 0.5
    rig.run(0.3, measure=fault != "joint_states_stale")
    rig.guard.heartbeat(rig.now)  # heartbeat and joint states are back
    rig.run(0.5)
    assert rig.guard.fault == fault and rig.guard.mode == "hold"
    rejection = rig.guard.set_mode("policy")
    assert (
        rejection.reason == "fault" and fault in rejection.text and "guard/reset" in rejection.text
    )
    here = rig.guard.setpoint
    rig.run(0.3)
    np.testing.assert_array_equal(rig.guard.setpoint, here)
    rig.reset_and_start()
    rig.guard.heartbeat(rig.now)
    assert rig.guard.accept(swing(rig.now, rig.guard.setpoint), rig.now) is None
    assert rig.run(0.1).state == "running"


def test_after_a_clock_jump_the_setpoints_follow_the_trajectory_that_was_sent_last():
    rig, follower = Rig(), Follower(SPEC, START, 50.0)
    rig.guard.accept(swing(rig.now), rig.now)
    for k in range(100):
        if k == 40:
            rig.guard.handle_clock_jump()  # from now on nothing is sent
            before = rig.guard.setpoint
            assert rig.guard.set_mode("policy").reason == "fault"
            rig.guard.reset()
            assert rig.guard.set_mode("policy").reason == "tick_gap", "it still moves"
        rig.run(PERIOD)
        motion = rig.guard.trajectory_update(rig.now)
        if k < 40:
            follower.send(motion, rig.now)
        else:
            assert motion is None
    assert_inside(SPEC, rig.positions, PERIOD)
    assert np.abs(rig.guard.setpoint - before).max() > 0.01, (
        "it did not jump to the end of the trajectory"
    )
    np.testing.assert_allclose(follower.run(rig.now), rig.guard.setpoint, atol=1e-9)
    assert rig.guard.set_mode("policy") is None


def test_stale_joint_states_in_mode_hold_are_no_fault():
    rig = Rig()
    rig.guard.set_mode("hold")
    assert rig.run(0.3, measure=False).hold_reason == "joint_states_stale"
    assert rig.guard.fault == "" and rig.run(0.1).hold_reason == "mode_hold"


def test_a_new_chunk_ends_a_hold():
    rig = Rig()
    rig.guard.accept(swing(rig.now, steps=8), rig.now)
    assert rig.run(1.0).hold_reason == "chunk_ended"
    assert rig.guard.accept(swing(rig.now, rig.guard.setpoint), rig.now) is None
    assert rig.run(0.1).state == "running"


def test_after_a_pause_the_guard_assumes_the_arm_at_the_end_of_its_last_trajectory():
    rig = Rig()
    follower = Follower(SPEC, START, rig.now)
    rig.guard.accept(swing(rig.now), rig.now)
    for _ in range(40):
        rig.run(PERIOD)
        follower.send(rig.guard.trajectory(rig.now), rig.now)
    rig.now += 1.0
    resting = follower.run(rig.now)
    rig.guard.update_joint_state(rig.now, resting)
    tick = rig.guard.tick(rig.now)[-1]
    assert tick.hold_reason == "tick_gap" and rig.guard.chunk is None
    np.testing.assert_allclose(tick.positions, resting, atol=1e-9)


def test_a_late_tick_returns_all_setpoints_that_became_final():
    late, calm = Rig(), Rig()
    for rig in (late, calm):
        rig.guard.accept(swing(rig.now), rig.now)
        rig.run(0.2)
    late.now += 0.05
    late.guard.update_joint_state(late.now, late.guard.setpoint)
    assert len(late.guard.tick(late.now)) == 5
    calm.run(0.05)
    np.testing.assert_allclose(late.guard.setpoint, calm.guard.setpoint, atol=1e-6)


def test_a_clock_that_is_set_back_is_a_fault():
    rig = Rig()
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.4)
    rig.now -= 100
    assert rig.guard.tick(rig.now)[-1].hold_reason == "tick_gap"
    assert rig.run(0.1).state == "fault"


def test_a_lower_speed_scale_slows_the_arm_at_once_and_stretches_the_next_chunk():
    rig = Rig()
    rig.guard.accept(swing(rig.now), rig.now)
    rig.run(0.3)
    rig.guard.set_speed_scale(0.1)
    rig.run(0.3)
    rig.guard.accept(swing(rig.now, rig.guard.setpoint), rig.now)
    rig.run(0.7)
    assert_inside(SPEC, rig.positions, PERIOD)
    speed = np.abs(np.diff(rig.positions, axis=0)) / PERIOD / SPEC.velocity_limit
    assert speed[:30].max() > 0.2 and speed[60:].max() <= 0.1001
    assert rig.ticks[-1].state == "running" and speed[-1].max() > 0.001
    with pytest.raises(ConfigError, match=r"speed_scale must be in .* got 1\.5"):
        rig.guard.set_speed_scale(1.5)


def test_a_chunk_transition_far_away_is_blended_within_the_limits_without_a_clip():
    rig = Rig()
    rig.guard.accept(swing(rig.now, amplitude=0.01), rig.now)
    rig.run(0.3)
    away = START + [0.8, 0, 0, 0, 0, 0, 0]
    assert rig.guard.accept(swing(rig.now, away, amplitude=0.01), rig.now) is None
    rig.run(0.9)
    assert_inside(SPEC, rig.positions, PERIOD)
    assert rig.guard.jump[0] == pytest.approx(0.8, abs=0.01)
    assert rig.positions[-1, 0] == pytest.approx(away[0], abs=0.01) and not rig.guard.clips.any()
    np.testing.assert_allclose(rig.ticks[-1].positions[0], away[0], atol=5e-3)


def test_an_action_slightly_beyond_its_limit_is_clipped_and_counted():
    rig = Rig(start=SPEC.home)
    actions = np.tile(SPEC.home, (32, 1))
    actions[:, 6] = 0.073
    assert rig.guard.accept(chunk(actions, rig.now), rig.now) is None
    rig.run(0.4)
    assert (rig.positions[:, 6] <= SPEC.position_high[6]).all()
    assert rig.guard.clips.tolist() == [0, 0, 0, 0, 0, 0, 32]


def test_if_the_guard_dies_the_last_trajectory_stops_the_arm_within_its_limits():
    rig = Rig()
    follower = Follower(SPEC, START, rig.now)
    rig.guard.accept(swing(rig.now), rig.now)
    for _ in range(50):
        rig.run(PERIOD)
        follower.send(rig.guard.trajectory(rig.now), rig.now)
    motion = rig.guard.trajectory(rig.now)
    assert (motion.velocities[-1] == 0).all() and (motion.accelerations[-1] == 0).all()
    assert 0.1 < motion.stamp + motion.times[-1] - rig.now < 0.5
    follower.run(rig.now + 1.0)
    assert_inside(SPEC, follower.positions, follower.step)
    assert (np.diff(follower.positions[-400:], axis=0) == 0).all()


def test_a_controller_that_receives_every_trajectory_follows_the_setpoints():
    rig = Rig()
    arm = JointTrajectoryController(SPEC.joint_names)
    arm.reset(START, rig.now)
    rig.guard.accept(swing(rig.now), rig.now)
    worst = 0.0
    for _ in range(150):
        tick = rig.run(PERIOD)
        arm.accept(
            Trajectory.from_arrays(SPEC.joint_names, rig.guard.trajectory(rig.now)), rig.now
        )
        at_due = arm.sample(tick.stamp).positions[0]
        worst = max(worst, float(np.abs(at_due - tick.positions).max()))
    assert worst < 1e-9


@pytest.mark.bench
def test_a_tick_takes_a_fraction_of_its_period():
    rig, spent = Rig(), []
    for k in range(300):
        if k % 50 == 0:
            rig.guard.accept(swing(rig.now, rig.guard.setpoint), rig.now)
        rig.now += PERIOD
        rig.guard.update_joint_state(rig.now, rig.guard.setpoint)
        began = time.perf_counter()
        rig.guard.tick(rig.now)
        rig.guard.trajectory(rig.now)
        spent.append(time.perf_counter() - began)
    usual, with_chunk = np.median(spent) / PERIOD, np.median(spent[::50]) / PERIOD
    print(f"a tick takes {usual:.1%} of its period, with a new chunk {with_chunk:.1%}")
    assert usual < 0.1 and with_chunk < 0.5


def test_an_arm_beyond_its_position_limit_is_not_started():
    guard, outside = Guard(SPEC), START.copy()
    outside[1] = SPEC.position_low[1] - 0.1
    guard.update_joint_state(1.0, outside)
    guard.tick(1.0)
    rejection = guard.set_mode("policy")
    assert rejection.reason == "outside" and "shoulder is 0.100 rad beyond" in rejection.text


def test_a_reset_of_an_arm_that_droops_moves_no_setpoint():
    rig = Rig()
    rig.guard.accept(swing(rig.now, steps=8), rig.now)
    rig.run(1.0)
    rig.guard.stop()
    rig.run(0.1)
    here = rig.guard.setpoint
    rig.guard.update_joint_state(rig.now, here - 0.03 * SPEC.relative_mask)
    rig.guard.reset()
    assert rig.guard.set_mode("policy") is None
    np.testing.assert_array_equal(rig.guard.setpoint, here)


def test_times_that_are_not_finite_are_rejected_or_hold():
    rig = Rig(GuardConfig(max_heartbeat_age_s=0.25))
    assert rig.guard.update_joint_state(np.nan, START).reason == "joint_states_stamp"
    rig.guard.heartbeat(np.nan)
    rig.guard.accept(swing(rig.now), rig.now)
    assert rig.run(0.1).hold_reason == "heartbeat_lost"
    assert rig.guard.tick(np.nan) == []


def reach(rig, shoulder, steps=32):
    """A chunk that moves the shoulder by `shoulder` [rad], slowly at both ends."""
    actions = np.tile(rig.guard.setpoint, (steps, 1))
    actions[:, 1] += shoulder * (1 - np.cos(np.arange(1, steps + 1) / steps * np.pi)) / 2
    return chunk(actions, rig.now)


def depth(positions):
    return COLLISION.worst_violation(np.atleast_2d(positions))[0]


def test_a_chunk_that_ends_slightly_outside_the_workspace_is_cut_off_and_counted():
    rig = Rig()
    amount = next(
        a for a in np.arange(0.3, 1.2, 0.002) if depth(reach(rig, a).actions).max() > 0.01
    )
    assert rig.guard.accept(reach(rig, amount), rig.now) is None
    rig.run(1.2)
    assert rig.guard.workspace.shortened == 1 and rig.guard.fault == ""
    assert -0.05 < depth(rig.positions).max() <= SPEC.body.margin_m / 4
    assert_inside(SPEC, rig.positions, PERIOD)


def test_a_chunk_that_ends_far_outside_the_workspace_is_rejected_with_part_and_depth():
    rig = Rig()
    rejection = rig.guard.accept(reach(rig, 1.2), rig.now)
    assert (
        rejection.reason == "workspace"
        and "the tool" in rejection.text
        and "in z" in rejection.text
    )
    rig.run(0.3)
    np.testing.assert_array_equal(rig.positions[-1], START)
    assert rig.guard.workspace.shortened == 0 and not rig.guard.clips.any(), (
        "a rejection changes nothing"
    )


def test_teleoperation_stops_at_the_boundary_of_the_workspace():
    rig = Rig()
    rig.guard.set_mode("hold")
    rig.guard.set_mode("teleop")
    wanted = START.copy()
    for k in range(300):
        wanted[1] += 0.006 * (k < 200)
        if k % 3 == 0:
            rig.guard.accept(chunk(wanted[None], rig.now), rig.now, "teleop")
        rig.run(PERIOD)
    assert rig.guard.fault == "" and rig.guard.workspace.shortened > 10
    assert -0.05 < depth(rig.positions).max() <= 0.01
    for k in range(300):  # and back
        wanted[1] -= 0.006 * (k < 200)
        if k % 3 == 0:
            assert rig.guard.accept(chunk(wanted[None], rig.now), rig.now, "teleop") is None
        rig.run(PERIOD)
    np.testing.assert_allclose(rig.guard.setpoint, START, atol=0.01)


def test_an_arm_that_is_pushed_out_of_the_workspace_stops():
    rig = Rig()
    rig.guard.accept(swing(rig.now, joint=0), rig.now)
    rig.run(0.3)
    pushed = rig.guard.setpoint.copy()
    pushed[1] += 1.2
    rig.guard.update_joint_state(rig.now, pushed)
    rig.run(0.6, measure=False)
    assert rig.guard.fault == "workspace"
    assert_inside(SPEC, rig.positions, PERIOD)


def test_without_a_body_only_joint_limits_are_checked():
    rig = Rig(spec=replace(SPEC, body=None))
    assert rig.guard.accept(reach(rig, 1.2), rig.now) is None
