"""What a node sees of the others: diagnostics, pictures, the twin's judge; it only stores."""

import time
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from std_msgs.msg import String

from nac_ros.core.errors import BadObservation
from nac_ros.robot.spec import RobotSpec
from nac_ros.ros import image_transport, messages, qos
from nac_ros.ros.image_transport import ImageTopic
from nac_ros.ros.polled_subscription import size_limited_callback

NODES = ("guard", "policy", "recorder")
NEVER = float("inf")

Report = dict[str, Any]


class GraphMonitor:
    """Subscriptions of one node to the others.

    reports: node -> its values since `mark`, in order, each with its `stamp` [s]
    outcome: the newest of the twin
    """

    def __init__(self, node: Node, spec: RobotSpec):
        self.reports: dict[str, list[Report]] = {name: [] for name in NODES}
        self.outcome: Report = {}
        self._marked, self._newest = False, dict[str, Report]()
        self._heard: dict[str, float] = {}
        self._pictures: dict[str, tuple[float, Any, ImageTopic]] = {}
        self._cameras = [camera.name for camera in spec.cameras]
        for kind, topic, take, profile in (
            (DiagnosticArray, "diagnostics", self._on_diagnostics, qos.MONITOR),
            (String, "twin/outcome", self._on_outcome, qos.LATCHED),
        ):
            callback = size_limited_callback(kind, take, messages.MAX_REPORT_BYTES)
            node.create_subscription(kind, topic, callback, profile, raw=True)
        for camera in spec.cameras:
            feed = image_transport.image_topic(camera)
            take = partial(self._on_picture, camera.name, feed)
            node.create_subscription(feed.message_type, feed.topic, take, qos.SENSOR)

    def latest_diagnostics(self, node: str) -> Report:
        """The newest diagnostics of a node, empty before the first."""
        return self._newest.get(node, {})

    def mark(self) -> None:
        """A trial begins."""
        self.reports, self._marked = {name: [] for name in NODES}, True

    def unmark(self) -> None:
        """A trial ends; its reports stay until the next one begins."""
        self._marked = False

    def silence_s(self, node: str) -> float:
        """How long ago a node reported."""
        return time.monotonic() - self._heard.get(node, -NEVER)

    def ages(self) -> dict[str, float]:
        """Of each camera's newest picture [s], infinite before the first."""
        now, never = time.monotonic(), (-NEVER,)
        return {name: now - self._pictures.get(name, never)[0] for name in self._cameras}

    def picture(self, camera: str) -> np.ndarray | None:
        """The newest one; a message is made a picture when somebody looks."""
        if camera not in self._pictures:
            return None
        _, message, feed = self._pictures[camera]
        try:
            return feed.decode(message)
        except BadObservation:  # of another encoding; the policy says which
            return None

    def _on_picture(self, name: str, feed: ImageTopic, message: Any) -> None:
        self._pictures[name] = (time.monotonic(), message, feed)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        stamp = messages.to_seconds(message.header.stamp)
        for status in message.status:
            if status.name not in NODES:
                continue
            row = {**messages.values_from_status(status), "stamp": stamp}
            self._newest[status.name] = row
            self._heard[status.name] = time.monotonic()
            if self._marked:
                self.reports[status.name].append(row)

    def _on_outcome(self, message: String) -> None:
        self.outcome = messages.from_outcome(message.data)
