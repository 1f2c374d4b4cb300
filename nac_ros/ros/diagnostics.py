"""Publishes the state of a node on `diagnostics`, at 1 Hz and whenever it changes."""

from collections.abc import Callable, Mapping
from queue import Full, Queue
from threading import Thread
from typing import Any, NamedTuple

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from nac_ros.ros import messages, qos
from nac_ros.ros.node_clock import STEADY

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
PERIOD_S = 1.0
MAX_WAITING = 200  # reports in the queue
CLOSE_S = 1.0


class Status(NamedTuple):
    """Level, a short text with the reason, and values that JSON can hold."""

    level: bytes
    text: str
    values: Mapping[str, Any]


class Diagnostics:
    """Publishes the result of `status` under the node's name."""

    def __init__(self, node: Node, status: Callable[[], Status]):
        self._node, self._status = node, status
        self._publisher = node.create_publisher(DiagnosticArray, "diagnostics", qos.MONITOR)
        self._timer = node.create_timer(PERIOD_S, self.publish, clock=STEADY)

    def publish(self) -> None:
        """Publishes the present status."""
        self._send(self._node.get_clock().now().to_msg(), self._status())

    def _send(self, stamp: Time, status: Status) -> None:
        message = DiagnosticArray()
        message.header.stamp = stamp
        message.status = [messages.to_status(self._node.get_name(), *status)]
        self._publisher.publish(message)


class QueuedDiagnostics(Diagnostics):
    """Diagnostics for a node whose threads must not wait: `publish` queues the status, and another
    thread formats and sends it.

    dropped: number of reports that did not fit into the queue
    """

    def __init__(self, node: Node, status: Callable[[], Status]):
        self.dropped = 0
        self._queue: Queue[tuple[Time, Status] | None] = Queue(MAX_WAITING)
        super().__init__(node, status)
        self._thread = Thread(target=self._run, name="diagnostics", daemon=True)
        self._thread.start()

    def publish(self) -> None:
        """Queues the present status."""
        try:
            self._queue.put_nowait((self._node.get_clock().now().to_msg(), self._status()))
        except Full:
            self.dropped += 1

    def close(self) -> None:
        """Sends the queued reports; call it before the node is destroyed."""
        try:
            self._queue.put(None, timeout=CLOSE_S)
        except Full:
            return
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while (report := self._queue.get()) is not None:
            self._send(*report)
