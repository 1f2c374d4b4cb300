"""Node `relay`: passes an arm's joint states and images on, or spoils them as it is told.

An instrument of `nac faults`: the senders are remapped to raw/<topic>, so that what everybody
hears has passed through here. With `clock_hz` it is also the clock of those on simulated time.
"""

import time
from collections import deque
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

LATE = 15  # messages kept back by 'late'


@dataclass(frozen=True, kw_only=True)
class RelayParameters:
    """robot: name in config/robots, or the path of a robot's YAML
    clock_hz: how often /clock is published; 0 = never
    """

    robot: str = "vx300s"
    clock_hz: float = number_field(0.0, 0.0, 1000.0)

    def __post_init__(self) -> None:
        check_fields(self)


class RelayNode(Node):
    """What is spoiled comes on `relay/spoil`: `joint_states nan`, `images late`, `clock -3600`,
    or `none`."""

    def __init__(self) -> None:
        super().__init__("relay")
        config = parameters.declare(self, RelayParameters)
        spec = load_robot(config.robot)
        self._spoil: dict[str, str] = {}
        self._kept: dict[str, deque[Any]] = {}
        self._offset_s = 0.0
        kinds: list[tuple[Any, str]] = [(JointState, spec.joint_states_topic)]
        kinds += [(Image, camera.topic) for camera in spec.cameras]
        for kind, topic in kinds:
            out = self.create_publisher(kind, topic, qos.SENSOR_PUBLISHER)
            self._kept[topic] = deque(maxlen=LATE)
            pass_on = partial(self._pass, kind is Image, topic, out)
            self.create_subscription(kind, f"raw/{topic}", pass_on, qos.MONITOR)
        self.create_subscription(String, "relay/spoil", self._on_spoil, qos.MONITOR)
        if config.clock_hz:
            self._clock = self.create_publisher(Clock, "/clock", qos.SENSOR_PUBLISHER)
            self._tick_s = 1 / config.clock_hz
            self._begin_clock()

    def close(self) -> None:
        """Nothing moves here."""

    def _begin_clock(self) -> None:
        def tick() -> None:
            while self.context.ok():
                now = messages.to_time(time.time() + self._offset_s)
                self._clock.publish(Clock(clock=Time(sec=now.sec, nanosec=now.nanosec)))
                time.sleep(self._tick_s)

        Thread(target=tick, name="clock", daemon=True).start()

    def _on_spoil(self, message: String) -> None:
        what, _, how = message.data.partition(" ")
        self._spoil = {what: how}
        if what == "clock":
            self._offset_s += float(how)

    def _pass(self, is_image: bool, topic: str, out: Any, message: Any) -> None:
        kept = self._kept[topic]
        how = self._spoil.get("images" if is_image else "joint_states", "")
        for spoiled in _spoiled(how, message, kept):
            out.publish(spoiled)
        if how != "freeze":
            kept.append(message)


def _spoiled(how: str, message: Any, kept: deque[Any]) -> list[Any]:
    """What is sent in the place of `message`, after those `kept`."""
    if how == "stop":
        return []
    if how == "late":
        return [kept[0]] if len(kept) == LATE else []
    if how == "double":
        return [message, message]
    if how == "freeze" and kept:
        frozen = kept[-1]
        return [Image(header=message.header, height=frozen.height, width=frozen.width,
                      encoding=frozen.encoding, step=frozen.step, data=frozen.data)]  # fmt: skip
    if how == "size":
        image = messages.from_image(message)[::2, ::2]
        stamp = messages.to_seconds(message.header.stamp)
        return [messages.to_image(stamp, message.header.frame_id, image)]
    if how == "nan":
        message.position = [np.nan] * len(message.position)
    if how == "order":
        message.name, message.position = message.name[::-1], message.position[::-1]
    if how == "names":
        message.name = [f"other_{name}" for name in message.name]
    return [message]


def main() -> None:
    exit_process(run(RelayNode))


if __name__ == "__main__":
    main()
