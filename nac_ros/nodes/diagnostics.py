"""State that is published, not only logged: on `diagnostics`, at 1 Hz and whenever it changes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from nac_ros.nodes import convert, qos
from nac_ros.nodes.spin import STEADY

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
PERIOD_S = 1.0


class Status(NamedTuple):
    """level, a short text that names the reason, and values for JSON."""

    level: bytes
    text: str
    values: Mapping[str, Any]


class Diagnostics:
    """Publishes what `status` returns, under the node's name."""

    def __init__(self, node: Node, status: Callable[[], Status]):
        self._node, self._status = node, status
        self._publisher = node.create_publisher(DiagnosticArray, "diagnostics", qos.RECORD)
        self._timer = node.create_timer(PERIOD_S, self.publish, clock=STEADY)

    def publish(self) -> None:
        """Now, for a change."""
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [convert.to_status(self._node.get_name(), *self._status())]
        self._publisher.publish(message)
