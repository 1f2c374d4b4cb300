"""What the bridge does about an input that falls silent although somebody sends, over DDS."""

import os
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from nac_ros.errors import BadObservation
from nac_ros.nodes import convert, qos
from nac_ros.nodes.bridge import SILENT_S, Bridge
from nac_ros.robot import load_robot

SPEC = load_robot("vx300s")


@pytest.fixture
def graph():
    """A node to send from, one with the bridge, and what spins both."""
    before = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE")
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=10 + os.getpid() % 80)
    nodes = [Node(name, context=context) for name in ("sender", "eyes")]
    executor = SingleThreadedExecutor(context=context)
    for node in nodes:
        executor.add_node(node)
    yield (*nodes, executor)
    context.try_shutdown()
    os.environ.pop("ROS_AUTOMATIC_DISCOVERY_RANGE")
    if before is not None:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = before


def observed(bridge):
    try:
        return bridge.observe(time.time(), "t")
    except BadObservation:
        return None


def test_a_topic_that_lost_its_way_to_us_is_subscribed_anew(graph):
    sender, eyes, executor = graph
    bridge = Bridge(eyes, SPEC, ["scene"], 1)
    joints = sender.create_publisher(JointState, SPEC.joint_states_topic, qos.SENSOR_OUT)
    pictures = sender.create_publisher(Image, "scene/image_raw", qos.SENSOR_OUT)
    random = np.random.default_rng(0)

    def stream(seconds, until=lambda: False):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            now = time.time()
            joints.publish(convert.to_joint_state(now, SPEC.joint_names, SPEC.home))
            image = random.integers(0, 255, (96, 96, 3), np.uint8)
            pictures.publish(convert.to_image(now, "scene", image))
            executor.spin_once(timeout_sec=0.02)
            executor.spin_once(timeout_sec=0.02)

    stream(10, lambda: observed(bridge) is not None)
    assert observed(bridge) is not None
    eyes.destroy_subscription(bridge._inputs[1].subscription)  # as if the match were lost
    stream(0.5)
    assert observed(bridge) is None
    stream(SILENT_S + 8, lambda: observed(bridge) is not None)
    assert observed(bridge) is not None
    kept = [one.subscription for one in bridge._inputs]
    stream(SILENT_S + 1.0)  # what speaks is left alone
    assert [one.subscription for one in bridge._inputs] == kept
    bridge.close()
    assert bridge._inputs == []
