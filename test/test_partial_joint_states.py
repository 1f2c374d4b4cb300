"""Joint states over DDS of an arm whose joints are published in several messages."""

import os
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import JointState

from nac_ros.control.guard import Guard
from nac_ros.robot.spec import load_robot
from nac_ros.ros import messages, qos
from nac_ros.ros.guard_io import GuardInputs
from nac_ros.ros.node_clock import NodeClock

SPEC = load_robot("vx300s")
ARM, GRIPPER = SPEC.joint_names[:6], SPEC.joint_names[6:]


class Inputs:
    """A guard with its inputs, and two publishers of joint states."""

    def __init__(self):
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self.context = Context()
        rclpy.init(context=self.context, domain_id=10 + (os.getpid() + 31) % 80)
        self.node, self.guard, self.refused = Node("guard", context=self.context), Guard(SPEC), []
        self._inputs = GuardInputs(self.node, SPEC, NodeClock(self.node, 0.2), self.refused.append)
        self._outputs = [
            self.node.create_publisher(JointState, SPEC.joint_states_topic, qos.SENSOR_PUBLISHER)
            for _ in range(2)
        ]
        self.wait(lambda: all(out.get_subscription_count() for out in self._outputs), take=False)

    def wait(self, ready, seconds=30.0, take=True):
        """Waits until a message that the guard's inputs read fulfils the condition."""
        deadline = time.monotonic() + seconds
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.001)
            if take:
                self._inputs.update(self.guard, 1.0, False)
        assert ready()

    def publish(self, stamp, names, positions, publisher=0):
        message = messages.to_joint_state(stamp, names, np.asarray(positions, float))
        self._outputs[publisher].publish(message)

    def said(self):
        return [rejection.text for rejection in self.refused if rejection is not None]

    def age(self, now):
        return self.guard.ages(now)["joint_states_age_s"]

    def close(self):
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def inputs():
    made = Inputs()
    yield made
    made.close()


def test_the_guard_merges_arm_and_gripper_of_two_publishers_at_the_older_stamp(inputs):
    inputs.publish(1.00, ARM, SPEC.home[:6])
    inputs.publish(1.01, GRIPPER, SPEC.home[6:], publisher=1)
    inputs.wait(lambda: inputs.age(1.01) is not None)
    assert inputs.age(1.01) == pytest.approx(0.01)
    np.testing.assert_array_equal(inputs.guard.setpoint, SPEC.home)
    assert inputs.said() == []


def test_a_silent_gripper_makes_the_joint_states_stale_and_is_named(inputs):
    inputs.publish(1.00, ARM, SPEC.home[:6])
    inputs.publish(1.00, GRIPPER, SPEC.home[6:], publisher=1)
    inputs.wait(lambda: inputs.age(1.0) is not None)
    inputs.publish(1.15, ARM, SPEC.home[:6])
    inputs.wait(lambda: inputs.guard.rejections["joint_states_partial"] == 1)
    assert inputs.age(1.15) == pytest.approx(0.15)
    assert "gripper stale" in inputs.said()[-1]


@pytest.mark.parametrize(
    ("names", "positions", "reason", "said"),
    [
        (SPEC.joint_names, [*SPEC.home[:6], np.nan], "joint_states_not_finite", "at gripper"),
        ((*ARM, "waist"), SPEC.home, "joint_states_names", "waist is named twice"),
        (SPEC.joint_names, [], "joint_states_names", "0 positions, none for waist"),
    ],
)
def test_rejected_joint_states_are_counted_and_name_the_joint(
    inputs, names, positions, reason, said
):
    inputs.publish(1.0, names, positions)
    inputs.wait(lambda: inputs.guard.rejections[reason] == 1)
    assert said in inputs.said()[-1] and inputs.age(1.0) is None
