"""Services called from a thread that may wait, while the node's executor spins in another one."""

import time
from collections.abc import Mapping
from threading import Event
from typing import Any

from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from nac_ros.core.errors import NacError
from nac_ros.ros import parameters

LOOK_S = 0.02
USUAL_S = 5.0  # for an answer that takes no work


class ServiceClient:
    """Calls of one thread; `cancel`, from any other one, makes the one under way give up."""

    def __init__(self, node: Node):
        self._node, self._cancelled = node, Event()
        self._clients: dict[str, Any] = {}

    def cancel(self) -> None:
        """What waits raises NacError, and so does what is called, until `renew`."""
        self._cancelled.set()

    def renew(self) -> None:
        """Calls are answered again."""
        self._cancelled.clear()

    def offer(self, kind: Any, name: str) -> Any:
        """A client that finds its service meanwhile."""
        if name not in self._clients:
            self._clients[name] = self._node.create_client(kind, name)
        return self._clients[name]

    def fire(self, name: str) -> Future:
        """Calls a Trigger service without waiting for anything; for a client `offer` made."""
        return self._clients[name].call_async(Trigger.Request())

    def trigger(self, name: str, timeout_s: float = USUAL_S) -> str:
        """Calls a Trigger service; its message, or NacError with it when it says no."""
        answer = self.call(Trigger, name, Trigger.Request(), timeout_s)
        if not answer.success:
            raise NacError(f"{name}: {answer.message}")
        return answer.message

    def change_state(self, node: str, transition: int, timeout_s: float = USUAL_S) -> None:
        """A lifecycle transition; raises NacError when it is refused."""
        request = ChangeState.Request()
        request.transition.id = transition
        if not self.call(ChangeState, f"{node}/change_state", request, timeout_s).success:
            raise NacError(f"node {node} refused transition {transition}")

    def state(self, node: str) -> int:
        """Id of a lifecycle node's state."""
        return self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.id

    def set_parameters(self, node: str, values: Mapping[str, Any]) -> None:
        """Raises NacError with the reason of a rejection."""
        parameters.send(self.call, node, values)

    def call(self, kind: Any, name: str, request: Any, timeout_s: float = USUAL_S) -> Any:
        """The answer of a service; raises NacError when there is none in time."""
        client, deadline = self.offer(kind, name), time.monotonic() + timeout_s
        while not client.service_is_ready():
            self._wait(name, "is not offered; is its node running?", deadline)
        future = client.call_async(request)
        try:
            while not future.done():
                self._wait(name, f"was not answered within {timeout_s:.0f} s", deadline)
        except NacError:
            client.remove_pending_request(future)
            raise
        return future.result()

    def _wait(self, name: str, why: str, deadline: float) -> None:
        self.pause(LOOK_S)
        if time.monotonic() > deadline:
            raise NacError(f"service {name} {why}")

    def pause(self, seconds: float) -> None:
        """Lets time pass; raises NacError when cancelled."""
        if self._cancelled.wait(seconds):
            raise NacError("given up, because the arm was stopped")
