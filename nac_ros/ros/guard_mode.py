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
from nac_ros.ros.polled_subscription import PolledSubscription, Received

TOPIC, HOLD = "guard/mode", "hold"
MODES = get_args(Mode)
MAX_BYTES = 1024
MAX_PUBLISHERS = 256  # whose newest number is stored
TAKES_UNTIL_LATE = 20  # calls of `take` after which a message on the latched reader alone is old
HOLDS_BEFORE_START = ("mode_hold", "settling")  # hold reasons before a mode takes effect
FIRST = "send hold first, then the mode"


class ModePublisher:
    """Requests modes of the guard on `guard/mode`; the last one is latched for later readers."""

    def __init__(self, node: Node):
        self.publisher = node.create_publisher(String, TOPIC, qos.LATCHED)

    def publish(self, mode: str) -> None:
        """Publishes one mode: `hold`, or a mode after a `hold` that was sent before."""
        self.publisher.publish(String(data=mode))

    def request(self, mode: str) -> None:
        """Publishes `hold`, then the mode, which counts only after a hold."""
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
    """

    def __init__(self, node: Node):
        self._node = node
        # Created first: a publisher that waits for one matched reader has then matched this one.
        self._live = PolledSubscription(node, String, TOPIC, qos.COMMAND_QUEUE, MAX_BYTES)
        self._kept = PolledSubscription(node, String, TOPIC, qos.LATCHED_QUEUE, MAX_BYTES)
        self._newest: dict[bytes, int] = {}  # publisher -> number of its newest live message
        self._late: dict[tuple[bytes, int | None], tuple[str, int]] = {}
        self.renew()

    def destroy(self) -> None:
        """Destroys the subscriptions."""
        for polled in (self._live, self._kept):
            self._node.destroy_subscription(polled.subscription)

    def renew(self) -> None:
        """Discards all earlier requests, also a `hold`."""
        for received in self._live.take():
            self._note(received)
        self._holder: bytes | None = None  # publisher of the newest hold

    def take(self) -> list[ModeRequest]:
        """The requests since the last call, in order; equal rejections are reported once."""
        found: list[ModeRequest] = []
        for request in (*self._take_live(), *self._take_kept()):
            if not request.rejection or request not in found:
                found.append(request)
        return found

    def _take_live(self) -> Iterator[ModeRequest]:
        for received in self._live.take():
            self._note(received)
            mode = _mode_of(received)
            if mode == HOLD:
                self._holder = received.sender
            yield ModeRequest(mode, self._rejection(mode, received))

    def _rejection(self, mode: str, received: Received) -> str:
        if mode not in MODES or mode == HOLD:
            return ""
        if self._holder is None:
            return (
                f"guard/mode {mode} came before any hold since the guard was activated or reset; "
                f"{FIRST}"
            )
        if received.sender != self._holder and received.number != 1:
            return f"guard/mode {mode} came from another publisher than the newest hold; {FIRST}"
        return ""

    def _take_kept(self) -> Iterator[ModeRequest]:
        """Messages of the latched reader only; these were published before the activation."""
        for received in self._kept.take():
            if self._was_live(received.sender, received.number):
                continue
            mode = _mode_of(received)
            if mode in MODES and mode != HOLD:
                self._late[received.sender, received.number] = (mode, TAKES_UNTIL_LATE)
                continue
            if mode == HOLD:
                self._holder = received.sender
            yield ModeRequest(mode)
        for key, (mode, takes) in list(self._late.items()):
            if self._was_live(*key):
                del self._late[key]
            elif takes == 0:
                del self._late[key]
                yield ModeRequest(
                    mode, f"guard/mode {mode} was sent before the guard was activated; {FIRST}"
                )
            else:
                self._late[key] = (mode, takes - 1)

    def _was_live(self, sender: bytes, number: int | None) -> bool:
        return number is not None and number <= self._newest.get(sender, 0)

    def _note(self, received: Received) -> None:
        """Stores the newest number of a publisher; drops the publisher silent for longest."""
        self._newest.pop(received.sender, None)
        self._newest[received.sender] = received.number or 0
        if len(self._newest) > MAX_PUBLISHERS:
            del self._newest[next(iter(self._newest))]


def _mode_of(received: Received) -> str:
    """Text of the message; the error text, an unknown mode, if it cannot be parsed."""
    try:
        return received.message(String).data
    except NacError as error:
        return str(error)
