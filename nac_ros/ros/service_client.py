"""Calls of ROS services from a thread that may block, while another thread spins the node."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from threading import Event
from typing import Any

from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_srvs.srv import Trigger

from nac_ros.core.errors import NacError

POLL_S = 0.02
ANSWER_S = 5.0  # for an answer that takes no work


class ServiceCalls(ABC):
    """Requests that are common to all service clients."""

    @abstractmethod
    def call(
        self, service_type: Any, name: str, request: Any, timeout_s: float | None = None
    ) -> Any:
        """The response of a service; raises NacError if there is none in time.

        timeout_s: None = the default of the class
        """

    def last_message(self, node: str) -> str:
        """What a node reported last, for the text of an error."""
        return "see its log"

    def trigger(self, name: str, timeout_s: float | None = None) -> str:
        """Calls a Trigger service; returns its message, raises NacError with it if it failed."""
        response = self.call(Trigger, name, Trigger.Request(), timeout_s)
        if not response.success:
            raise NacError(f"{name}: {response.message}")
        return response.message

    def change_state(self, node: str, transition: int, timeout_s: float | None = None) -> None:
        """Requests a lifecycle transition; raises NacError if it failed."""
        request = ChangeState.Request()
        request.transition.id = transition
        if not self.call(ChangeState, f"{node}/change_state", request, timeout_s).success:
            raise NacError(
                f"node {node} rejected transition {transition}: {self.last_message(node)}"
            )

    def set_parameters(self, node: str, values: Mapping[str, Any]) -> None:
        """Sets parameters of a node; raises NacError with the reason if it rejects one."""
        request = SetParameters.Request()
        request.parameters = [Parameter(k, value=v).to_parameter_msg() for k, v in values.items()]
        for result in self.call(SetParameters, f"{node}/set_parameters", request).results:
            if not result.successful:
                raise NacError(f"node {node} rejected {', '.join(values)}: {result.reason}")


class ServiceClient(ServiceCalls):
    """Calls of one thread; `cancel`, from any other thread, makes a waiting call give up."""

    def __init__(self, node: Node):
        self._node, self._cancelled = node, Event()
        self._clients: dict[str, Any] = {}

    def cancel(self) -> None:
        """Makes the present call and all later ones raise NacError, until `resume`."""
        self._cancelled.set()

    def resume(self) -> None:
        """Allows calls again after `cancel`."""
        self._cancelled.clear()

    def add_client(self, service_type: Any, name: str) -> Any:
        """Returns the client of a service; created early, it has found its service when needed."""
        if name not in self._clients:
            self._clients[name] = self._node.create_client(service_type, name)
        return self._clients[name]

    def send_trigger(self, name: str) -> Future:
        """Calls a Trigger service without waiting; its client must have been added."""
        return self._clients[name].call_async(Trigger.Request())

    def lifecycle_state(self, node: str) -> int:
        """Id of a lifecycle node's state."""
        return self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.id

    def call(
        self, service_type: Any, name: str, request: Any, timeout_s: float | None = None
    ) -> Any:
        timeout_s = ANSWER_S if timeout_s is None else timeout_s
        client, deadline = self.add_client(service_type, name), time.monotonic() + timeout_s
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

    def _wait(self, name: str, problem: str, deadline: float) -> None:
        self.sleep(POLL_S)
        if time.monotonic() > deadline:
            raise NacError(f"service {name} {problem}")

    def sleep(self, seconds: float) -> None:
        """Waits; raises NacError as soon as the calls are cancelled."""
        if self._cancelled.wait(seconds):
            raise NacError("cancelled because the arm was stopped")
