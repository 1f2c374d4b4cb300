"""Topics that are looked at when there is time for them, instead of waking a node by each message.

A sender that floods such a topic costs its reader nothing: the middleware's own threads keep the
newest messages, as many as the profile is deep, and drop the others.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message

from nac_ros.errors import NacError


class Received(NamedTuple):
    """data: the message, serialized
    sender: identity of its publisher
    at_ns: when the middleware had it, in ROS time that nobody simulates [ns]
    """

    data: bytes
    sender: bytes
    at_ns: int

    def message(self, kind: Any) -> Any:
        """Raises NacError for bytes that are no such message, which anybody may send."""
        try:
            return deserialize_message(self.data, kind)
        except RuntimeError as error:
            size = len(self.data)
            raise NacError(f"{size} bytes are no {kind.__name__}: {error}") from None


class Polled:
    """A subscription that no executor waits for; `subscription` is for `destroy_subscription`."""

    def __init__(self, node: Node, kind: Any, topic: str, profile: QoSProfile):
        self.subscription = node.create_subscription(
            kind, topic, lambda _: None, profile, callback_group=_Nobody(), raw=True
        )
        self.kind, self.topic, self._depth = kind, topic, profile.depth

    def take(self) -> Iterator[Received]:
        """What came since the last call, oldest first; no more than the profile is deep."""
        handle = self.subscription.handle
        with handle:
            for _ in range(self._depth):
                taken = handle.take_message(self.kind, True)
                if taken is None:
                    return
                data, info = taken
                sender = bytes(info["publisher_gid"]["data"])
                yield Received(data, sender, info["received_timestamp"])


class _Nobody(CallbackGroup):
    """Whose subscriptions an executor leaves alone."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing was begun."""
