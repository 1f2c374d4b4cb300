"""The topic `guard/mode`: how a mode is asked for, and which of the requests count.

A mode other than `hold` can set an arm in motion, so it counts only where somebody asked for it
since the guard was activated. A publisher's clock says nothing about that, and neither does the
time of receipt: a latched message is delivered whenever its reader is discovered. What does is a
reader without history that is created by the activation, which the middleware gives only what is
published after the two have met.
"""

from collections.abc import Iterator
from typing import NamedTuple, get_args

from rclpy.node import Node
from std_msgs.msg import String

from nac_ros.errors import NacError
from nac_ros.nodes import qos
from nac_ros.nodes.polled import Polled, Received
from nac_ros.runtime.tick import Mode

TOPIC, HOLD = "guard/mode", "hold"
MODES = get_args(Mode)
MAX_BYTES = 1024
MAX_PUBLISHERS = 256  # that are remembered
WAIT_TAKES = 20  # after which a message that came on the latched reader alone is an old one
BEFORE_START = ("mode_hold", "settling")  # holds of a guard in which a mode has not begun to count
FIRST = "send hold first, then the mode"


class ModePublisher:
    """Asks the guard for modes on `guard/mode`; the last one stays for those that join later."""

    def __init__(self, node: Node):
        self.publisher = node.create_publisher(String, TOPIC, qos.LATCHED)

    def send(self, mode: str) -> None:
        """The mode alone: `hold`, or one that goes on from a `hold` that was sent before."""
        self.publisher.publish(String(data=mode))

    def ask(self, mode: str) -> None:
        """`hold`, then the mode, which counts after it only."""
        self.send(HOLD)
        if mode != HOLD:
            self.send(mode)


class ModeRequest(NamedTuple):
    """mode: what was asked for, known or not; refusal: why it does not count, or ''."""

    mode: str
    refusal: str = ""


class ModeRequests:
    """What is asked for on `guard/mode` while the guard is active: create it by the activation.

    `hold` always counts. Another mode counts after a `hold` that was received in this activation,
    where its publisher is the one that sent the newest `hold`, or sends for the first time (so
    two commands of a terminal will do), and where it was published since the activation.
    """

    def __init__(self, node: Node):
        self._node = node
        # First: a publisher that waits for one reader to be matched has matched this one too.
        self._live = Polled(node, String, TOPIC, qos.CROWD, MAX_BYTES)
        self._kept = Polled(node, String, TOPIC, qos.LATCHED_CROWD, MAX_BYTES)
        self._newest: dict[bytes, int] = {}  # publisher -> number of its newest live message
        self._late: dict[tuple[bytes, int | None], tuple[str, int]] = {}
        self.renew()

    def destroy(self) -> None:
        """Nothing more is received."""
        for polled in (self._live, self._kept):
            self._node.destroy_subscription(polled.subscription)

    def renew(self) -> None:
        """What was asked for until now does not count, and neither does a `hold`."""
        for received in self._live.take():
            self._note(received)
        self._holder: bytes | None = None  # publisher of the newest hold

    def take(self) -> list[ModeRequest]:
        """What was asked for since the last call, in order; of equal refusals the first."""
        found: list[ModeRequest] = []
        for request in (*self._take_live(), *self._take_kept()):
            if not request.refusal or request not in found:
                found.append(request)
        return found

    def _take_live(self) -> Iterator[ModeRequest]:
        for received in self._live.take():
            self._note(received)
            mode = _mode_of(received)
            if mode == HOLD:
                self._holder = received.sender
            yield ModeRequest(mode, self._refusal(mode, received))

    def _refusal(self, mode: str, received: Received) -> str:
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
        """Of the latched reader what the live one does not deliver: sent before the activation."""
        for received in self._kept.take():
            if self._was_live(received.sender, received.number):
                continue
            mode = _mode_of(received)
            if mode in MODES and mode != HOLD:
                self._late[received.sender, received.number] = (mode, WAIT_TAKES)
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
        """The newest number of a publisher; who was silent for longest is forgotten."""
        self._newest.pop(received.sender, None)
        self._newest[received.sender] = received.number or 0
        if len(self._newest) > MAX_PUBLISHERS:
            del self._newest[next(iter(self._newest))]


def _mode_of(received: Received) -> str:
    """Text of the message; bytes that are none are a mode that nobody knows."""
    try:
        return received.message(String).data
    except NacError as error:
        return str(error)
