"""Subscriptions that are polled: a message wakes no callback, the node reads when it has time.

A sender that floods such a topic costs its reader nothing: the middleware's threads keep the
newest messages, up to the depth of the QoS profile, and drop the others. A message larger than
`max_bytes` is rejected before the slow deserialization.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message

from nac_ros.core.errors import NacError

MAX_TAKEN = 4_000_000  # bytes of one topic that one `take` reads; the rest waits


class ReceivedMessage(NamedTuple):
    """A serialized message.

    data: its bytes; empty if it is too large
    publisher: identity of the sender
    received_ns: system time [ns] at which the middleware received it, also with simulated time
    number: sequence number among the publisher's messages, from 1; None if not supported
    rejection: why it cannot be read, or ''
    """

    data: bytes
    publisher: bytes
    received_ns: int
    number: int | None = None
    rejection: str = ""

    def deserialize(self, message_type: Any) -> Any:
        """Raises NacError if the message is too large or is no `message_type`."""
        if self.rejection:
            raise NacError(self.rejection)
        try:
            return deserialize_message(self.data, message_type)
        except RuntimeError as error:
            size = len(self.data)
            raise NacError(f"{size} bytes are no {message_type.__name__}: {error}") from None


class PolledSubscription:
    """A subscription that no executor waits for; destroy it by its `subscription`.

    max_bytes: longest serialized message that is read
    """

    def __init__(
        self,
        node: Node,
        message_type: Any,
        topic: str,
        profile: QoSProfile,
        max_bytes: int = sys.maxsize,
    ):
        self.subscription = node.create_subscription(
            message_type, topic, lambda _: None, profile, callback_group=_NeverExecuted(), raw=True
        )
        self.message_type, self.topic, self._depth = message_type, topic, profile.depth
        self._max_bytes = max_bytes

    def take(self) -> Iterator[ReceivedMessage]:
        """The messages since the last call, oldest first: at most the depth of the profile, and
        none after MAX_TAKEN bytes."""
        handle, n_bytes = self.subscription.handle, 0
        with handle:
            for _ in range(self._depth):
                taken = handle.take_message(self.message_type, True)
                if taken is None:
                    return
                n_bytes += len(taken[0])
                yield self._received(*taken)
                if n_bytes > MAX_TAKEN:
                    return

    def _received(self, data: bytes, info: dict[str, Any]) -> ReceivedMessage:
        rejection = ""
        if len(data) > self._max_bytes:
            rejection = (
                f"a {self.message_type.__name__} of {len(data)} bytes on {self.topic}; at most "
                f"{self._max_bytes} are read, find out who sends it"
            )
        publisher = bytes(info["publisher_gid"]["data"])
        number = info["publication_sequence_number"]
        return ReceivedMessage(
            b"" if rejection else data, publisher, info["received_timestamp"], number, rejection
        )


def size_limited_callback(
    message_type: Any, callback: Callable[[Any], None], max_bytes: int
) -> Callable[[bytes], None]:
    """Wraps `callback` for a subscription with `raw=True`; messages longer than `max_bytes` and
    bytes that are no `message_type` are dropped."""

    def deserialize(data: bytes) -> None:
        if len(data) > max_bytes:
            return
        try:
            message = deserialize_message(data, message_type)
        except RuntimeError:  # anyone may send bytes that are no such message
            return
        callback(message)

    return deserialize


class _NeverExecuted(CallbackGroup):
    """Keeps an executor from running the callbacks of its subscriptions."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing was begun."""
