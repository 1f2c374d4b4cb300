"""Stores what the other nodes publish: diagnostics, camera images, the twin's outcome."""

import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from std_msgs.msg import String

from nac_ros.core.errors import BadObservation
from nac_ros.robot.spec import RobotSpec
from nac_ros.ros import image_transport, messages, qos
from nac_ros.ros.polled_subscription import size_limited_callback

NODES = ("guard", "policy", "recorder")

Report = dict[str, Any]


def subscribe_status(
    node: Node, on_report: Callable[[str, Report], None], on_outcome: Callable[[Report], None]
) -> None:
    """Subscribes `node` to diagnostics and to the twin's outcome.

    on_report: called with the name of a node and its values, `message` and `stamp` [s] included
    """

    def read_diagnostics(message: DiagnosticArray) -> None:
        stamp = messages.to_seconds(message.header.stamp)
        for status in message.status:
            on_report(status.name, {**messages.values_from_status(status), "stamp": stamp})

    def read_outcome(message: String) -> None:
        on_outcome(messages.from_outcome(message.data))

    for message_type, topic, read, profile in (
        (DiagnosticArray, "diagnostics", read_diagnostics, qos.MONITOR),
        (String, "twin/outcome", read_outcome, qos.LATCHED),
    ):
        callback = size_limited_callback(message_type, read, messages.MAX_REPORT_BYTES)
        node.create_subscription(message_type, topic, callback, profile, raw=True)


class GraphMonitor:
    """Subscriptions of one node to guard, policy, recorder, cameras and twin.

    reports: node -> its values since `start_trial`, in order, each with its `stamp` [s]
    outcome: the newest of the twin
    """

    def __init__(self, node: Node, spec: RobotSpec):
        self.reports: dict[str, list[Report]] = {name: [] for name in NODES}
        self.outcome: Report = {}
        self._in_trial, self._latest = False, dict[str, Report]()
        self._reported_at: dict[str, float] = {}
        self._images: dict[str, tuple[float, Any]] = {}  # camera -> (time of receipt, message)
        self._cameras = [camera.name for camera in spec.cameras]
        subscribe_status(node, self._add_report, self._set_outcome)
        for camera in spec.cameras:
            message_type, topic = image_transport.image_topic(camera)
            store = partial(self._store_image, camera.name)
            node.create_subscription(message_type, topic, store, qos.SENSOR)

    def latest_diagnostics(self, node: str) -> Report:
        """The newest diagnostics of a node, empty before the first."""
        return self._latest.get(node, {})

    def start_trial(self) -> None:
        """Starts to collect `reports`."""
        self.reports, self._in_trial = {name: [] for name in NODES}, True

    def end_trial(self) -> None:
        """Stops collecting; the reports stay until the next trial starts."""
        self._in_trial = False

    def seconds_since_report(self, node: str) -> float:
        """Time since the newest diagnostics of a node, infinite before the first."""
        return time.monotonic() - self._reported_at.get(node, -inf)

    def image_ages(self) -> dict[str, float]:
        """Age [s] of each camera's newest image, infinite before the first."""
        now = time.monotonic()
        return {name: now - self._images.get(name, (-inf,))[0] for name in self._cameras}

    def latest_image(self, camera: str) -> np.ndarray | None:
        """The newest image, RGB uint8 `[H, W, 3]`; None before the first or if it is invalid."""
        if camera not in self._images:
            return None
        try:
            return messages.read_image(self._images[camera][1])[1]
        except BadObservation:  # another encoding; the policy reports it
            return None

    def _store_image(self, camera: str, message: Any) -> None:
        self._images[camera] = (time.monotonic(), message)

    def _add_report(self, node: str, report: Report) -> None:
        if node not in NODES:
            return
        self._latest[node] = report
        self._reported_at[node] = time.monotonic()
        if self._in_trial:
            self.reports[node].append(report)

    def _set_outcome(self, outcome: Report) -> None:
        self.outcome = outcome
