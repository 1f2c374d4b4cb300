"""The guard's time over DDS: starts with the first /clock, stays continuous if that is set."""

import time

import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock

from nac_ros.ros import messages
from nac_ros.ros.node_clock import NodeClock

TODAY_S = 1_795_942_000


@pytest.fixture
def simulated():
    """A node on simulated time, and a function that sets that time."""
    context = rclpy.Context()
    rclpy.init(context=context)
    given = [Parameter("use_sim_time", value=True)]
    node = rclpy.create_node("lab", context=context, parameter_overrides=given)
    publisher = node.create_publisher(Clock, "/clock", 1)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def set_time(seconds):
        stamp = messages.to_time(seconds - TODAY_S, TODAY_S * messages.NANO)  # to the nanosecond
        for _ in range(1000):
            publisher.publish(Clock(clock=stamp))
            executor.spin_once(timeout_sec=0.01)
            now = node.get_clock().now().nanoseconds
            if now == stamp.sec * messages.NANO + stamp.nanosec:
                return
        pytest.fail("the clock did not come")

    yield node, set_time
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_time_starts_with_the_first_clock_and_stays_continuous_when_it_is_set(simulated):
    node, set_time = simulated
    clock = NodeClock(node, 0.2)
    assert not clock.read() and not clock.begun and clock.now() == 0.0
    set_time(TODAY_S)
    assert not clock.read() and clock.begun
    assert clock.origin_ns == TODAY_S * messages.NANO and clock.now() == 0.0
    set_time(TODAY_S + 0.125)
    assert clock.now() == 0.125 and not clock.read()
    set_time(TODAY_S - 1000)
    assert clock.now() == 0.125, "between two readings nothing jumps"
    assert clock.read() and clock.origin_ns < (TODAY_S - 1000) * messages.NANO
    assert 0.125 <= clock.now() < 20


def test_the_system_clock_is_followed_between_readings():
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("lab", context=context)
    clock = NodeClock(node, 0.2)
    clock.read()
    began = time.monotonic()
    assert not clock.read()
    time.sleep(0.01)
    elapsed = time.monotonic() - began
    assert 0.01 <= clock.now() <= elapsed + 1.0
    stamp = node.get_clock().now().nanoseconds
    assert abs((clock.origin_ns + clock.now() * messages.NANO) - stamp) < messages.NANO
    node.destroy_node()
    rclpy.shutdown(context=context)
