"""Partial JointState messages are merged by joint name; each joint has its own age."""

from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nac_ros.core.errors import BadObservation
from nac_ros.robot.joint_states import MAX_FOREIGN, JointStateMerger
from nac_ros.robot.observation_buffer import ObservationBuffer
from nac_ros.robot.spec import load_robot

ROBOT = load_robot("vx300s")
ARM, GRIPPER = ("shoulder", "elbow"), ("gripper",)
NAMES = ("gripper", "shoulder", "elbow")  # not in the order of the messages
LIMIT_S = 0.1


def merger() -> JointStateMerger:
    return JointStateMerger(NAMES, LIMIT_S)


def rejection(call, *arguments) -> BadObservation:
    with pytest.raises(BadObservation) as caught:
        call(*arguments)
    return caught.value


def test_arm_and_gripper_from_two_publishers_are_one_sample_at_the_older_stamp():
    one = merger()
    assert one.add(1.000, ARM, [0.1, 0.2]) is None
    sample = one.add(1.009, GRIPPER, [0.03])
    assert sample.stamp == 1.000
    np.testing.assert_array_equal(sample.positions, [0.03, 0.1, 0.2])
    sample = one.add(1.010, ARM, [0.3, 0.4])
    assert sample.stamp == 1.009 and sample.positions.tolist() == [0.03, 0.3, 0.4]


def test_two_arms_on_one_topic_are_merged_and_other_robots_are_ignored():
    one = JointStateMerger(("left", "right"), LIMIT_S)
    assert one.add(1.00, ("left", "base"), [1.0, np.nan]) is None
    assert one.add(1.00, ("wheel", "wheel"), [7.0]) is None
    assert one.add(1.01, ("right",), [2.0]) == (1.00, pytest.approx([1.0, 2.0]))


def test_a_complete_message_is_a_sample_at_its_own_stamp():
    sample = merger().add(5.0, ("elbow", "x", "gripper", "shoulder"), [3.0, 9.0, 1.0, 2.0])
    assert sample.stamp == 5.0 and sample.positions.tolist() == [1.0, 2.0, 3.0]


def test_a_sample_is_returned_only_when_the_oldest_stamp_advances():
    one = merger()
    one.add(1.00, GRIPPER, [0.0])
    stamps = [one.add(1.00 + k / 100, ARM, [k, k]) for k in range(1, 9)]
    assert [sample and sample.stamp for sample in stamps] == [1.00] + [None] * 7
    sample = one.add(1.09, GRIPPER, [9.0])
    assert sample.stamp == 1.08 and sample.positions.tolist() == [9.0, 8.0, 8.0]


def test_a_joint_without_updates_is_stale_by_name_and_gives_no_sample():
    one = merger()
    one.add(1.00, GRIPPER, [0.0])
    assert one.add(1.00, ARM, [0.0, 0.0]).stamp == 1.00
    error = rejection(one.add, 1.11, ARM, [0.0, 0.0])
    assert error.reason == "stale" and "gripper stale, 0.110 s older" in str(error)
    assert "shoulder" not in str(error)
    assert one.add(1.12, GRIPPER, [0.0]).stamp == 1.11  # and recovers without a reset


def test_a_joint_that_was_never_received_is_missing_by_name_after_the_limit():
    one = merger()
    for k in range(11):
        assert one.add(k / 100, ARM, [0.0, 0.0]) is None
    error = rejection(one.add, 0.11, ARM, [0.0, 0.0])
    assert error.reason == "joint_names"
    assert "gripper missing; the newest message holds shoulder, elbow" in str(error)


def test_joints_under_other_names_are_missing_and_the_received_names_are_listed():
    one = merger()
    for k in range(1, MAX_FOREIGN):
        assert one.add(k, ("other_elbow",), [0.0]) is None
    error = rejection(one.add, MAX_FOREIGN, ("other_elbow",), [0.0])
    assert "gripper, shoulder, elbow missing" in str(error) and "other_elbow" in str(error)


@pytest.mark.parametrize(
    ("names", "positions", "reason", "message"),
    [
        (("elbow", "elbow"), [0.0, 1.0], "joint_names", "elbow is named twice"),
        (("shoulder", "elbow"), [0.0], "joint_names", "2 names and 1 positions, none for elbow"),
        (("shoulder", "elbow"), [], "joint_names", "none for shoulder, elbow; the driver must"),
        (("shoulder", "elbow"), [0.0] * 3, "joint_names", "2 names and 3 positions"),
        (("shoulder", "elbow"), [0.0, np.nan], "not_finite", "not finite at elbow"),
        (("shoulder",), [np.inf], "not_finite", "not finite at shoulder"),
    ],
)
def test_an_invalid_message_is_rejected_by_joint_and_changes_nothing(
    names, positions, reason, message
):
    one = merger()
    one.add(1.00, ARM, [0.1, 0.2])
    error = rejection(one.add, 1.01, names, positions)
    assert error.reason == reason and message in str(error)
    assert one.add(1.02, GRIPPER, [0.3]) == (1.00, pytest.approx([0.3, 0.1, 0.2]))


def test_an_older_position_of_a_joint_is_rejected():
    one = merger()
    one.add(1.00, ARM, [0.1, 0.2])
    for stamp in (1.00, 0.95):
        assert rejection(one.add, stamp, ARM, [0.0, 0.0]).reason == "clock"
    assert one.add(1.01, GRIPPER, [0.3]).positions.tolist() == [0.3, 0.1, 0.2]


def test_after_a_clock_was_set_back_merging_restarts():
    one = merger()
    one.add(100.0, ARM, [0.1, 0.2])
    one.add(100.0, GRIPPER, [0.3])
    assert one.add(5.0, ARM, [0.4, 0.5]) is None
    assert one.add(5.0, GRIPPER, [0.6]) == (5.0, pytest.approx([0.6, 0.4, 0.5]))


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.floats(1e-4, 0.04)), min_size=1, max_size=80))
def test_every_joint_of_a_sample_was_measured_at_its_stamp_or_within_the_limit_after(messages):
    """Each position is the time of its measurement, so that an inconsistent sample is detected."""
    one, now, newest = merger(), 0.0, -np.inf
    for name, gap in messages:
        now += gap
        sample = None
        with suppress(BadObservation):  # stale or missing
            sample = one.add(now, (name,), [now])
        if sample is None:
            continue
        assert sample.stamp > newest
        assert sample.positions.min() == sample.stamp
        assert sample.positions.max() <= sample.stamp + LIMIT_S
        newest = sample.stamp


def test_the_observation_buffer_uses_partial_joint_states_at_their_oldest_stamp():
    buffer = ObservationBuffer(ROBOT, (), 1)
    arm, gripper = ROBOT.joint_names[:6], ROBOT.joint_names[6:]
    for k in range(20):
        buffer.add_named_joint_state(k / 100 + 0.001, arm, ROBOT.home[:6] + k)
        buffer.add_named_joint_state(k / 100 + 0.006, gripper, ROBOT.home[6:])
    observation = buffer.get_observation(0.2, "t")
    assert observation.stamp == pytest.approx(0.191)
    assert np.allclose(observation.reference - ROBOT.home, [19] * 6 + [0], atol=1e-5)


def test_the_observation_buffer_names_the_stale_joint():
    buffer = ObservationBuffer(ROBOT, (), 1)
    arm, gripper = ROBOT.joint_names[:6], ROBOT.joint_names[6:]
    buffer.add_named_joint_state(0.0, arm, ROBOT.home[:6])
    buffer.add_named_joint_state(0.0, gripper, ROBOT.home[6:])
    error = rejection(buffer.add_named_joint_state, 0.2, arm, ROBOT.home[:6])
    buffer.reject("joint_states", error)
    message = str(rejection(buffer.get_observation, 0.2, "t"))
    assert message.startswith("joint_states: stale, 0.200 s old") and "gripper stale" in message


def test_a_message_s_stamp_is_counted_from_the_origin():
    header = SimpleNamespace(stamp=SimpleNamespace(sec=10, nanosec=500_000_000))
    message = SimpleNamespace(header=header, name=list(NAMES), position=[1.0, 2.0, 3.0])
    assert merger().add_message(message, 10 * 10**9).stamp == 0.5
