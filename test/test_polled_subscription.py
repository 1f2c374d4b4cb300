"""Polled subscriptions over DDS, periodic timers, and threads that fail."""

import subprocess
import sys
import time

import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Header, String

from nac_ros.core.errors import NacError
from nac_ros.core.realtime import PeriodicTimer
from nac_ros.ros import qos
from nac_ros.ros.polled_subscription import PolledSubscription

FAILING_NODE = """
import threading
from nac_ros.ros.node_main import run
import rclpy.node

class FailingNode(rclpy.node.Node):
    def __init__(self):
        super().__init__("failing")
        threading.Thread(target=lambda: 1 / 0).start()
    def close(self):
        pass

run(FailingNode)
"""


@pytest.fixture
def nodes():
    """Two nodes in one context."""
    context = rclpy.Context()
    rclpy.init(context=context)
    yield Node("sender", context=context), Node("reader", context=context)
    context.try_shutdown()


def taken(polled, n, seconds=5.0):
    """The first n messages that are received."""
    found, deadline = [], time.monotonic() + seconds
    while len(found) < n and time.monotonic() < deadline:
        found += polled.take()
        time.sleep(0.01)
    return found


def connected(publisher, n=1):
    deadline = time.monotonic() + 5
    while publisher.get_subscription_count() < n and time.monotonic() < deadline:
        time.sleep(0.01)


def test_messages_wait_until_they_are_polled_and_no_executor_takes_them(nodes):
    sender, reader = nodes
    polled = PolledSubscription(reader, String, "words", qos.COMMAND_QUEUE)
    first, second = (sender.create_publisher(String, "words", qos.COMMAND_QUEUE) for _ in range(2))
    connected(first), connected(second)
    before = time.time_ns()
    first.publish(String(data="one"))
    second.publish(String(data="two"))
    executor = SingleThreadedExecutor(context=reader.context)
    executor.add_node(reader)
    for _ in range(20):
        executor.spin_once(timeout_sec=0.01)
    found = taken(polled, 2)
    assert sorted(row.deserialize(String).data for row in found) == ["one", "two"]
    assert found[0].publisher != found[1].publisher
    assert all(0 <= row.received_ns - before < 5e9 for row in found)
    assert list(polled.take()) == []


def test_of_a_flood_the_newest_messages_up_to_the_depth_are_kept(nodes):
    sender, reader = nodes
    polled = PolledSubscription(reader, String, "words", qos.COMMAND)
    flood = sender.create_publisher(String, "words", qos.COMMAND_QUEUE)
    connected(flood)
    for n in range(500):
        flood.publish(String(data=str(n)))
    time.sleep(0.5)
    assert [row.deserialize(String).data for row in polled.take()] == ["499"]


def test_bytes_that_are_no_message_raise_an_error_with_the_type(nodes):
    sender, reader = nodes
    polled = PolledSubscription(reader, Header, "words", qos.COMMAND)
    strange = sender.create_publisher(Header, "words", qos.COMMAND)
    connected(strange)
    strange.publish(b"\0\1\0\0" + b"\xff" * 40)
    (row,) = taken(polled, 1)
    with pytest.raises(NacError, match="44 bytes are no Header"):
        row.deserialize(Header)


def test_a_message_that_is_too_large_is_not_deserialized(nodes):
    sender, reader = nodes
    polled = PolledSubscription(reader, String, "words", qos.COMMAND_QUEUE, max_bytes=100)
    stranger = sender.create_publisher(String, "words", qos.COMMAND_QUEUE)
    connected(stranger)
    stranger.publish(String(data="x" * 5000))
    stranger.publish(String(data="short"))
    large, short = taken(polled, 2)
    assert large.data == b"" and large.publisher == short.publisher
    assert (large.number, short.number) == (1, 2)
    with pytest.raises(NacError, match=r"a String of 50.. bytes on words; at most 100 are read"):
        large.deserialize(String)
    assert short.deserialize(String).data == "short"


def test_one_poll_reads_few_very_large_messages(nodes):
    sender, reader = nodes
    polled = PolledSubscription(reader, String, "words", qos.COMMAND_QUEUE, max_bytes=100)
    stranger = sender.create_publisher(String, "words", qos.COMMAND_QUEUE)
    connected(stranger)
    for _ in range(4):
        stranger.publish(String(data="x" * 3_000_000))
    time.sleep(1.0)
    assert len(list(polled.take())) == 2
    assert len(list(polled.take())) == 2


def test_a_periodic_timer_skips_missed_beats_and_keeps_its_grid():
    beats = []

    def beat():
        beats.append(time.monotonic())
        time.sleep(0.13 if len(beats) == 3 else 0)

    metronome = PeriodicTimer(0.05, beat)
    time.sleep(1.0)
    metronome.stop()
    count = len(beats)
    time.sleep(0.1)
    assert len(beats) == count  # none after stop
    phases = [(at - beats[0]) / 0.05 for at in beats]
    early = [phase - round(phase) for phase in phases]
    assert sorted(early)[len(early) // 2] < 0.2  # on the grid of the first beat
    assert round(phases[3]) - round(phases[2]) >= 3  # two were skipped
    assert len(beats) <= 21


def test_a_failed_thread_ends_its_node():
    done = subprocess.run(
        [sys.executable, "-c", FAILING_NODE], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
