"""The topic `guard/mode`: how a mode is requested, and which requests count.

A mode other than `hold` can move the arm, so it counts only if it was published after the guard
was activated. Neither the publisher's clock nor the time of receipt shows this: a latched message
is delivered whenever its reader is discovered. Therefore the activation creates a reader without
history. The middleware delivers to it only messages published after the two were matched.
"""

from collections.abc import Iterator
from typing import NamedTuple, get_args

from rclpy.node import Node
from std_msgs.msg import String

from nac_ros.control.types import Mode
from nac_ros.core.errors import NacError
from nac_ros.ros import qos
from nac_ros.ros.polled_subscription import PolledSubscription, ReceivedMessage

TOPIC = "guard/mode"
HOLD: Mode = "hold"
MODES = get_args(Mode)
MAX_BYTES = 1024
MAX_PUBLISHERS = 256  # whose newest sequence number is stored
TAKES_UNTIL_LATE = 20  # calls of `take` after which a message on the latched reader alone is old
HOLDS_BEFORE_START = ("mode_hold", "settling")  # hold reasons before a mode takes effect
EXPECTED_HOLDS = ("", *HOLDS_BEFORE_START, "no_chunk")  # hold reasons in normal operation
FIRST = "send hold first, then the mode"


class ModePublisher:
    """Requests modes of the guard on `guard/mode`; the last one is latched for later readers."""

    def __init__(self, node: Node):
        self.publisher = node.create_publisher(String, TOPIC, qos.LATCHED)

    def publish(self, mode: str) -> None:
        """Publishes one mode: `hold`, or a mode after a `hold` that was sent before."""
        self.publisher.publish(String(data=mode))

    def request(self, mode: str) -> None:
        """Publishes `hold`, then `mode`: the guard accepts a mode only after a `hold`."""
        self.publish(HOLD)
        if mode != HOLD:
            self.publish(mode)


class ModeRequest(NamedTuple):
    """mode: the requested mode, possibly unknown; rejection: why it does not count, or ''."""

    mode: str
    rejection: str = ""


class ModeRequests:
    """Requests on `guard/mode` while the guard is active; create it in the activation.

    `hold` always counts. Another mode counts if it was published since the activation, a `hold`
    was received before it in this activation, and its publisher sent the newest `hold` or sends
    its first message (so two `ros2 topic pub` commands work).

    The live reader receives only messages published since the activation, the latched reader also
    older ones. A message that the latched reader alone receives is therefore old.
    """

    def __init__(self, node: Node):
        # Created first: a publisher that waits for one matched reader has then matched this one.
        self._live = PolledSubscription(node, String, TOPIC, qos.COMMAND_QUEUE, MAX_BYTES)
        self._latched = PolledSubscription(node, String, TOPIC, qos.LATCHED_QUEUE, MAX_BYTES)
        self._numbers: dict[bytes, int] = {}  # publisher -> number of its newest live message
        # (publisher, number) of latched messages -> mode, and how many calls of `take` the live
        # reader may still need to receive the same message
        self._undecided: dict[tuple[bytes, int | None], tuple[str, int]] = {}
        self.discard()

    def discard(self) -> None:
        """Discards all earlier requests, also a `hold`."""
        for received in self._live.take():
            self._store_number(received)
        self._hold_publisher: bytes | None = None  # publisher of the newest hold

    def take(self) -> list[ModeRequest]:
        """The requests since the last call, in order; equal rejections are returned once."""
        found: list[ModeRequest] = []
        for request in (*self._take_live(), *self._take_latched()):
            if not request.rejection or request not in found:
                found.append(request)
        return found

    def _take_live(self) -> Iterator[ModeRequest]:
        for received in self._live.take():
            self._store_number(received)
            mode = _mode_in(received)
            if mode == HOLD:
                self._hold_publisher = received.publisher
            yield ModeRequest(mode, self._rejection(mode, received))

    def _rejection(self, mode: str, received: ReceivedMessage) -> str:
        if mode not in MODES or mode == HOLD:
            return ""
        if self._hold_publisher is None:
            return (
                f"guard/mode {mode} came before any hold since the guard was activated or reset; "
                f"{FIRST}"
            )
        if received.publisher != self._hold_publisher and received.number != 1:
            return f"guard/mode {mode} came from another publisher than the newest hold; {FIRST}"
        return ""

    def _take_latched(self) -> Iterator[ModeRequest]:
        """Requests that the live reader did not receive; old ones other than hold are rejected."""
        for received in self._latched.take():
            if self._was_live(received.publisher, received.number):
                continue
            mode = _mode_in(received)
            if mode in MODES and mode != HOLD:
                self._undecided[received.publisher, received.number] = (mode, TAKES_UNTIL_LATE)
                continue
            if mode == HOLD:
                self._hold_publisher = received.publisher
            yield ModeRequest(mode)
        for key, (mode, takes) in list(self._undecided.items()):
            if self._was_live(*key):
                del self._undecided[key]
            elif takes == 0:
                del self._undecided[key]
                yield ModeRequest(
                    mode, f"guard/mode {mode} was sent before the guard was activated; {FIRST}"
                )
            else:
                self._undecided[key] = (mode, takes - 1)

    def _was_live(self, publisher: bytes, number: int | None) -> bool:
        return number is not None and number <= self._numbers.get(publisher, 0)

    def _store_number(self, received: ReceivedMessage) -> None:
        """Stores the newest number of a publisher; forgets the one silent for longest."""
        self._numbers.pop(received.publisher, None)
        self._numbers[received.publisher] = received.number or 0
        if len(self._numbers) > MAX_PUBLISHERS:
            del self._numbers[next(iter(self._numbers))]


def _mode_in(received: ReceivedMessage) -> str:
    """Text of the message; the error text, an unknown mode, if it cannot be parsed."""
    try:
        return received.deserialize(String).data
    except NacError as error:
        return str(error)
