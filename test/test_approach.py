"""Start of motion: at the controllers' set-point if it is known, else after settling."""

from dataclasses import replace

import numpy as np
import pytest
from motion_assertions import Follower, assert_inside

from nac_ros.control.guard import Guard
from nac_ros.core.errors import ConfigError
from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import load_robot

SPEC = replace(load_robot("vx300s"), body=None)
PERIOD = 1 / SPEC.guard_rate_hz
REFERENCE = SPEC.home * [1, 1, 1, 1, 1, 1, 0.5]


class Rig:
    """A guard, and an arm that rests `offset` from the set-point of its controller.

    reports: whether the controller reports its set-point
    """

    def __init__(self, offset, reports=False, spec=SPEC):
        self.spec, self.offset, self.reports = spec, offset * spec.relative_mask, reports
        self.guard, self.now, self.sent = Guard(spec), 50.0, []
        self.follower = Follower(spec, REFERENCE, self.now)
        self.run(0.1)

    def run(self, seconds):
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            reference = self.follower.run(self.now)
            self.guard.update_joint_state(self.now, reference + self.offset)
            if self.reports:
                self.guard.update_reference(self.now, reference)
            self.guard.tick(self.now)
            if (motion := self.guard.trajectory_update(self.now)) is not None:
                self.sent.append(motion)
                self.follower.send(motion, self.now + 0.01)

    def start(self):
        assert self.guard.set_mode("policy") is None
        self.run(PERIOD)
        while self.guard.hold_reason == "settling":
            self.run(PERIOD)

    def swing(self, seconds=0.8):
        """Moves the shoulder out and back, beginning at the guard's set-point."""
        actions = np.tile(self.guard.setpoint, (32, 1))
        actions[:, 1] += 0.15 * (1 - np.cos(np.arange(1, 33) / 5))
        names, tokens = self.spec.joint_names, np.empty(0, np.int64)
        chunk = ActionChunk(self.now, 30.0, names, actions.astype(np.float32), tokens)
        assert self.guard.accept(chunk, self.now) is None
        self.run(seconds)
        assert self.guard.holds["chunk_ended"] or self.guard.state == "running"

    def stop(self):
        self.guard.set_mode("hold")
        self.run(0.6)

    def assert_smooth(self):
        for segment in self.follower.segments:
            assert_inside(self.spec, segment, self.follower.step)


@pytest.mark.parametrize("reports", [False, True])
@pytest.mark.parametrize("offset", [0.005, -0.01, 0.02, 0.0499])
def test_an_arm_that_droops_starts_within_its_limits(offset, reports):
    rig = Rig(offset, reports)
    rig.start()
    rig.swing()
    rig.assert_smooth()
    assert np.abs(np.diff(rig.follower.positions[:, 1])).max() > 1e-4, "it moved"


def test_motion_begins_at_once_at_a_known_controller_setpoint():
    rig = Rig(0.03, reports=True)
    rig.start()
    assert rig.guard.holds["settling"] == 0 and rig.sent == []
    np.testing.assert_array_equal(rig.guard.setpoint, REFERENCE)


def test_while_an_unknown_setpoint_settles_one_point_is_sent_and_chunks_are_rejected():
    rig = Rig(0.03)
    measured = REFERENCE + rig.offset
    assert rig.guard.set_mode("policy") is None
    rig.run(0.1)
    assert rig.guard.hold_reason == "settling" and rig.guard.state == "stopping"
    still = np.tile(measured, (32, 1)).astype(np.float32)
    chunk = ActionChunk(rig.now, 30.0, SPEC.joint_names, still, np.empty(0, np.int64))
    assert rig.guard.accept(chunk, rig.now).reason == "settling"
    assert 2 <= len(rig.sent) <= 5, "sent repeatedly in case one is lost"
    assert len({motion.stamp for motion in rig.sent}) == 1
    for motion in rig.sent:
        np.testing.assert_allclose(motion.positions, measured[None], atol=1e-12)
    rig.run(0.6)
    assert rig.guard.hold_reason == "no_chunk" and rig.guard.state == "armed"
    np.testing.assert_allclose(rig.follower.run(rig.now), measured)
    rig.assert_smooth()


def test_the_unknown_setpoint_of_a_blocked_gripper_may_be_anywhere_in_its_range():
    rig = Rig(0.0)
    rig.offset = np.zeros(7)
    rig.offset[6] = 0.03  # an object between the fingers, whose set-point is closer
    rig.run(0.1)
    rig.start()
    rig.swing()
    rig.assert_smooth()


@pytest.mark.parametrize("reports", [False, True])
def test_after_a_deactivation_motion_begins_at_the_last_sent_point(reports):
    rig = Rig(0.03, reports)
    rig.start()
    rig.swing()
    rig.stop()
    left = rig.guard.setpoint
    rig.guard.restart()
    rig.run(0.1)
    rig.start()
    np.testing.assert_allclose(rig.guard.setpoint, left, atol=1e-9)
    rig.swing()
    rig.assert_smooth()


@pytest.mark.parametrize("reports", [False, True])
@pytest.mark.parametrize("moved", [0.04, 0.6])
def test_an_arm_that_was_moved_by_hand_starts_within_its_limits(moved, reports):
    rig = Rig(0.02, reports)
    rig.start()
    rig.swing()
    rig.stop()
    rig.follower.activate(rig.follower.run(rig.now) + moved * np.eye(7)[0], rig.now)
    rig.run(0.3)
    rig.guard.reset()
    rig.start()
    rig.swing()
    rig.assert_smooth()


def test_after_a_restart_there_is_no_trajectory_update():
    rig = Rig(0.03)
    assert rig.guard.set_mode("policy") is None
    rig.guard.tick(rig.now + PERIOD)
    rig.guard.restart()
    assert rig.guard.trajectory_update(rig.now + PERIOD) is None
    rig.run(0.1)
    assert rig.sent == []


def test_after_a_stop_and_a_reset_the_setpoint_stays_at_the_end_of_the_stop():
    rig = Rig(0.03)
    rig.start()
    rig.swing(0.4)
    rig.guard.stop()
    rig.run(0.6)
    left = rig.guard.setpoint
    rig.guard.reset()
    rig.start()
    np.testing.assert_array_equal(rig.guard.setpoint, left)
    rig.swing()
    rig.assert_smooth()


def test_an_arm_farther_than_max_offset_from_its_setpoint_is_not_started():
    rig = Rig(0.06, reports=True)
    rejection = rig.guard.set_mode("policy")
    assert rejection.reason == "offset" and "max_offset is 0.05" in rejection.text
    rig.run(0.2)
    assert rig.guard.mode == "hold" and rig.sent == []
    joints = tuple(replace(joint, max_offset=0.08) for joint in SPEC.joints)
    assert Rig(0.06, True, replace(SPEC, joints=joints)).guard.set_mode("policy") is None


def test_an_offset_that_appears_after_the_mode_was_set_is_a_fault():
    guard = Guard(SPEC)
    assert guard.set_mode("policy") is None
    guard.update_reference(50.0, REFERENCE)
    guard.update_joint_state(50.0, REFERENCE + 0.06 * SPEC.relative_mask)
    guard.tick(50.0)
    assert (
        guard.fault == "offset" and guard.mode == "hold" and guard.trajectory_update(50.0) is None
    )


def test_a_controller_that_executes_a_trajectory_of_another_sender_is_not_started():
    rig = Rig(0.0, reports=True)
    rig.guard.update_reference(rig.now, REFERENCE + 1e-3)
    assert rig.guard.set_mode("policy").reason == "reference_moves"
    rig.run(0.3)
    assert rig.guard.set_mode("policy") is None


@pytest.mark.parametrize("periods", range(0, 12, 2))
def test_a_moving_reference_just_after_the_guard_s_own_stop_is_accepted(periods):
    rig = Rig(0.02, reports=True)
    rig.start()
    rig.swing(0.5)
    rig.guard.set_mode("hold")
    while not rig.guard.is_at_rest(rig.now):
        rig.run(PERIOD)
    rig.run(periods * PERIOD)
    rig.start()
    rig.swing()
    rig.assert_smooth()


def test_a_trajectory_of_another_sender_just_after_the_guard_s_own_stop_is_an_offset():
    rig = Rig(0.0, reports=True)
    rig.start()
    rig.swing(0.5)
    rig.guard.set_mode("hold")
    while not rig.guard.is_at_rest(rig.now):
        rig.run(PERIOD)
    rig.run(2 * PERIOD)
    rig.guard.update_reference(rig.now, rig.guard.setpoint + 0.2)
    assert rig.guard.set_mode("policy").reason == "offset"


def test_a_setpoint_that_is_not_finite_or_old_is_unknown():
    rig = Rig(0.0, reports=True)
    assert rig.guard.reference_known(rig.now)
    assert not rig.guard.reference_known(rig.now + 0.3)
    rejection = rig.guard.update_reference(rig.now, REFERENCE * np.nan)
    assert rejection.reason == "reference_not_finite" and not rig.guard.reference_known(rig.now)


@pytest.mark.parametrize("value", [0.0, -0.1, np.nan, np.inf, 0.6])
def test_a_max_offset_out_of_range_is_rejected(value):
    with pytest.raises(ConfigError, match="max_offset must be in 1e-05"):
        replace(SPEC.joints[0], max_offset=value)


def test_after_a_clock_jump_while_settling_nothing_is_sent():
    rig = Rig(0.02)
    assert rig.guard.set_mode("policy") is None
    rig.guard.tick(rig.now + PERIOD / 2)  # settling begins, and nothing was sent yet
    rig.guard.handle_clock_jump()
    rig.guard.reset()
    rig.sent.clear()
    rig.run(1.0)
    assert not rig.sent, "neither before the motion is over nor after it"
    rig.start()
    rig.swing()
    rig.assert_smooth()
