"""Topics that are looked at when there is time for them, instead of waking a node by each message.

A sender that floods such a topic costs its reader nothing: the middleware's own threads keep the
newest messages, as many as the profile is deep, and drop the others. A message that is larger than
its reader can use is refused before it is deserialized, which is what takes long.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message

from nac_ros.core.errors import NacError

MAX_TAKEN = 4_000_000  # bytes of one topic that are taken at once; what is left waits


class Received(NamedTuple):
    """data: the message, serialized; empty where it is too large
    sender: identity of its publisher
    at_ns: when the middleware had it, in ROS time that nobody simulates [ns]
    number: of this message among its publisher's, from 1; None where the middleware has none
    rejection: why it is not read, or ''
    """

    data: bytes
    sender: bytes
    at_ns: int
    number: int | None = None
    rejection: str = ""

    def message(self, kind: Any) -> Any:
        """Raises NacError for bytes that are no such message, which anybody may send, and for a
        message that is too large."""
        if self.rejection:
            raise NacError(self.rejection)
        try:
            return deserialize_message(self.data, kind)
        except RuntimeError as error:
            size = len(self.data)
            raise NacError(f"{size} bytes are no {kind.__name__}: {error}") from None


class PolledSubscription:
    """A subscription that no executor waits for; `subscription` is for `destroy_subscription`.

    max_bytes: of a serialized message; larger ones are handed on without their content
    """

    def __init__(
        self,
        node: Node,
        kind: Any,
        topic: str,
        profile: QoSProfile,
        max_bytes: int = sys.maxsize,
    ):
        self.subscription = node.create_subscription(
            kind, topic, lambda _: None, profile, callback_group=_Nobody(), raw=True
        )
        self.kind, self.topic, self._depth = kind, topic, profile.depth
        self._max_bytes = max_bytes

    def take(self) -> Iterator[Received]:
        """What came since the last call, oldest first; no more than the profile is deep, and none
        beyond MAX_TAKEN bytes."""
        handle, n_bytes = self.subscription.handle, 0
        with handle:
            for _ in range(self._depth):
                taken = handle.take_message(self.kind, True)
                if taken is None:
                    return
                n_bytes += len(taken[0])
                yield self._received(*taken)
                if n_bytes > MAX_TAKEN:
                    return

    def _received(self, data: bytes, info: dict[str, Any]) -> Received:
        rejection = ""
        if len(data) > self._max_bytes:
            rejection = (
                f"a {self.kind.__name__} of {len(data)} bytes on {self.topic}; at most "
                f"{self._max_bytes} are read, find out who sends it"
            )
        sender = bytes(info["publisher_gid"]["data"])
        number = info["publication_sequence_number"]
        return Received(
            b"" if rejection else data, sender, info["received_timestamp"], number, rejection
        )


def size_limited_callback(
    kind: Any, take: Callable[[Any], None], max_bytes: int
) -> Callable[[bytes], None]:
    """For a subscription with `raw=True` of a node that only looks on: what is larger than
    `max_bytes`, or no message of `kind`, is left out before it costs anything."""

    def callback(data: bytes) -> None:
        if len(data) > max_bytes:
            return
        try:
            message = deserialize_message(data, kind)
        except RuntimeError:  # bytes that are no such message, which anybody may send
            return
        take(message)

    return callback


class _Nobody(CallbackGroup):
    """Whose subscriptions an executor leaves alone."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing was begun."""
