"""Node `relay`: passes joint states and images on, and injects faults into them on request.

`nac faults` uses it: the senders are remapped to raw/<topic>, so that every message passes the
relay. With `clock_hz` it also publishes the clock of nodes that use simulated time.
"""

import time
from collections import deque
from copy import copy
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from nac_ros.core.config import check_fields, number_field
from nac_ros.robot.spec import load_robot
from nac_ros.ros import messages, parameters, qos
from nac_ros.ros.node_main import exit_process, run

DELAY = 15  # messages by which `late` delays a topic


@dataclass(frozen=True, kw_only=True)
class RelayParameters:
    """Parameters of the node.

    robot: name in config/robots, or path of a robot's YAML
    clock_hz: rate of /clock; 0 = it is not published
    """

    robot: str = "vx300s"
    clock_hz: float = number_field(0.0, 0.0, 1000.0)

    def __post_init__(self) -> None:
        check_fields(self)


class RelayNode(Node):
    """Injects the fault of the last message on `relay/spoil`: `<stream> <fault>`, such as
    `joint_states nan` or `images late`; `clock <seconds>`, which sets the clock; or `none`."""

    def __init__(self) -> None:
        super().__init__("relay")
        config = parameters.declare(self, RelayParameters)
        spec = load_robot(config.robot)
        self._faults: dict[str, str] = {}  # stream -> fault
        self._previous: dict[str, deque[Any]] = {}  # topic -> previous messages
        self._offset_s = 0.0
        topics: list[tuple[Any, str]] = [(JointState, spec.joint_states_topic)]
        topics += [(Image, camera.topic) for camera in spec.cameras]
        for message_type, topic in topics:
            publisher = self.create_publisher(message_type, topic, qos.SENSOR_PUBLISHER)
            self._previous[topic] = deque(maxlen=DELAY)
            stream = "images" if message_type is Image else "joint_states"
            relay = partial(self._relay, stream, topic, publisher)
            self.create_subscription(message_type, f"raw/{topic}", relay, qos.MONITOR)
        self.create_subscription(String, "relay/spoil", self._on_fault, qos.MONITOR)
        if config.clock_hz:
            publisher = self.create_publisher(Clock, "/clock", qos.SENSOR_PUBLISHER)
            run_clock = partial(self._run_clock, publisher, 1 / config.clock_hz)
            Thread(target=run_clock, name="clock", daemon=True).start()

    def close(self) -> None:
        """Nothing to stop: the threads are daemons."""

    def _run_clock(self, publisher: Any, period_s: float) -> None:
        while self.context.ok():
            now = messages.to_time(time.time() + self._offset_s)
            publisher.publish(Clock(clock=Time(sec=now.sec, nanosec=now.nanosec)))
            time.sleep(period_s)

    def _on_fault(self, message: String) -> None:
        stream, _, fault = message.data.partition(" ")
        self._faults = {stream: fault}
        if stream == "clock":
            self._offset_s += float(fault)

    def _relay(self, stream: str, topic: str, publisher: Any, message: Any) -> None:
        fault, previous = self._faults.get(stream, ""), self._previous[topic]
        for changed in _inject(fault, message, previous):
            publisher.publish(changed)
        if fault != "freeze":
            previous.append(message)


def _inject(fault: str, message: Any, previous: deque[Any]) -> list[Any]:
    """The messages that are sent instead of `message`."""
    if fault == "stop":
        return []
    if fault == "late":
        return [previous[0]] if len(previous) == DELAY else []
    if fault == "double":
        return [message, message]
    if fault == "freeze" and previous:
        frozen = copy(previous[-1])
        frozen.header = message.header
        return [frozen]
    if fault == "size":
        stamp, image = messages.read_image(message)
        return [messages.to_image(stamp, message.header.frame_id, image[::2, ::2])]
    if fault == "nan":
        message.position = [np.nan] * len(message.position)
    if fault == "order":
        message.name, message.position = message.name[::-1], message.position[::-1]
    if fault == "names":
        message.name = [f"other_{name}" for name in message.name]
    return [message]


def main() -> None:
    """Entry point of the executable `relay`."""
    exit_process(run(RelayNode))


if __name__ == "__main__":
    main()
