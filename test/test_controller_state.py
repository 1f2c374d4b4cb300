"""Set-points of the controllers from ros2_control's controller_state."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from nac_ros.control.guard import Guard
from nac_ros.core.errors import BadActions
from nac_ros.robot.spec import load_robot

pytest.importorskip("rclpy")

import rclpy
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectoryPoint

from nac_ros.ros import controller_state
from nac_ros.ros.controller_state import (
    ControllerStates,
    message_type,
    reference_positions,
    state_topic,
)

SPEC = load_robot("vx300s")


def state(names, reference, desired=()):
    """The fields of a JointTrajectoryControllerState that are read, with real points."""
    points = [JointTrajectoryPoint(positions=list(values)) for values in (reference, desired)]
    return SimpleNamespace(joint_names=list(names), reference=points[0], desired=points[1])


def test_the_set_point_is_in_the_requested_joint_order():
    message = state(("b", "a", "c"), (2.0, 1.0, 3.0))
    np.testing.assert_array_equal(reference_positions(message, ("a", "b")), [1.0, 2.0])


def test_the_field_is_desired_in_older_and_reference_in_newer_controllers():
    message = state(("a", "b"), (), (1.0, 2.0))
    np.testing.assert_array_equal(reference_positions(message, ("a", "b")), [1.0, 2.0])
    del message.reference
    np.testing.assert_array_equal(reference_positions(message, ("a", "b")), [1.0, 2.0])


@pytest.mark.parametrize("reference", [(1.0,), (1.0, np.nan), (np.inf, 1.0), ()])
def test_an_incomplete_set_point_is_rejected_with_the_joint_name(reference):
    with pytest.raises(BadActions, match=r"no finite set-point of .*[ab]"):
        reference_positions(state(("a", "b"), reference), ("a", "b"))


def test_a_newer_controller_without_a_set_point_is_rejected():
    message = state(("a", "b"), ())
    del message.desired
    with pytest.raises(BadActions, match="no finite set-point of a, b"):
        reference_positions(message, ("a", "b"))


def test_the_topic_is_in_the_namespace_of_the_controller():
    assert state_topic("arm_controller/joint_trajectory") == "arm_controller/controller_state"
    assert state_topic("joint_trajectory") == "controller_state"


@pytest.fixture
def node():
    context = rclpy.Context()
    rclpy.init(context=context)
    made = rclpy.create_node("states", context=context)
    yield made
    made.destroy_node()
    rclpy.shutdown(context=context)


@pytest.mark.skipif(message_type() is not None, reason="control_msgs is installed")
def test_without_control_msgs_the_set_point_is_unknown_and_the_node_reports_it(node):
    states, guard = ControllerStates(node, SPEC), Guard(SPEC)
    assert "control_msgs is not installed" in states.text
    assert states.update(guard, 1.0) == [] and not guard.reference_known(1.0)


@pytest.mark.skipif(message_type() is None, reason="control_msgs is not installed")
def test_a_controller_state_that_is_published_reaches_the_guard(node):
    states, guard = ControllerStates(node, SPEC), Guard(SPEC)
    topic = state_topic(SPEC.groups[0].topic)
    publisher = node.create_publisher(message_type(), topic, 1)
    message = message_type()(joint_names=list(SPEC.joint_names))
    message.reference = JointTrajectoryPoint(positions=SPEC.home.tolist())
    for _ in range(500):
        publisher.publish(message)
        states.update(guard, 1.0)
        if guard.reference_known(1.0):
            break
        rclpy.spin_once(node, timeout_sec=0.01)
    assert guard.reference_known(1.0)


def test_of_a_flood_of_states_only_the_newest_is_read_in_a_tick(node, monkeypatch):
    """Another message with positions by name replaces control_msgs, which may be missing."""
    read = []

    def positions_of(message, joints):
        read.append(message.header.frame_id)
        return np.array([dict(zip(message.name, message.position))[joint] for joint in joints])

    monkeypatch.setattr(controller_state, "message_type", lambda: JointState)
    monkeypatch.setattr(controller_state, "reference_positions", positions_of)
    states, guard = ControllerStates(node, SPEC), Guard(SPEC)
    topics = {state_topic(group.topic) for group in SPEC.groups}
    publishers = [node.create_publisher(JointState, topic, 10) for topic in topics]
    deadline = time.monotonic() + 10
    while any(p.get_subscription_count() < 1 for p in publishers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for k in range(5):
        message = JointState(name=list(SPEC.joint_names), position=(SPEC.home + 0.01 * k).tolist())
        message.header.frame_id = str(k)
        for publisher in publishers:
            publisher.publish(message)
    time.sleep(0.5)
    assert states.update(guard, 50.0) == []
    assert read == ["4"] * len(SPEC.groups)
    assert guard.reference_known(50.0)
