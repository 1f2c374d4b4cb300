"""A client of the running graph: calls its services and stores what it publishes."""

import time
from collections.abc import Callable, Mapping
from threading import Event, Thread
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from nac_ros.core.errors import NacError
from nac_ros.core.types import ActionChunk
from nac_ros.ros import messages, qos
from nac_ros.ros.graph_monitor import Report, subscribe_status
from nac_ros.ros.guard_mode import HOLD, HOLDS_BEFORE_START, ModePublisher
from nac_ros.ros.polled_subscription import size_limited_callback
from nac_ros.ros.service_client import ServiceCalls

POLL_S = 0.05
START_S, ANSWER_S = 60.0, 15.0  # for the first diagnostics of a node, for an answer of a live one
REQUEST_MODE_S = 1.0  # a mode is requested again if the guard does not report it within this time
DISCOVERY_S = 0.5  # so long after the first diagnostics the node's services are discovered too
CALL_TIMEOUT_S = 120.0  # configuring loads a model, a reset may compile a scene


class GraphClient(ServiceCalls):
    """Talks to policy, guard and twin; its node spins in a thread of its own.

    command_times: times [s] at which each guard/command was published
    chunks: all valid chunks; malformed: number of the invalid ones
    diagnostics: node -> its values in order, each with its `stamp` [s]
    outcome: the newest of the twin
    """

    def __init__(
        self,
        domain_id: int,
        watch: Callable[[], None] = lambda: None,
        receive_chunks: bool = True,
    ):
        """watch: called while waiting, raises NacError if a process has ended
        receive_chunks: False if chunks are not needed; a thousand a second keep one core busy
        """
        self.command_times: list[float] = []
        self.chunks: list[ActionChunk] = []
        self.malformed = 0
        self.diagnostics: dict[str, list[Report]] = {}
        self.outcome: Report = {}
        self._watch = watch
        self._context, self._ending = Context(), Event()
        rclpy.init(
            context=self._context,
            domain_id=domain_id,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self.node = Node("operator", context=self._context)
        self._modes = ModePublisher(self.node)
        self._task = self.node.create_publisher(String, "task", qos.LATCHED)
        self._subscribe(receive_chunks)
        self._thread = Thread(target=self._spin, name="operator", daemon=True)
        self._thread.start()

    def __enter__(self) -> "GraphClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(timeout=5.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    def latest_diagnostics(self, node: str) -> Report:
        """The newest diagnostics of a node, empty before the first."""
        reports = self.diagnostics.get(node)
        return reports[-1] if reports else {}

    def last_message(self, node: str) -> str:
        return self.latest_diagnostics(node).get("message", "see its log")

    def set_mode(self, mode: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Requests a mode; returns when the guard reports it and accepts chunks.

        The request is repeated until then, because a guard that was just activated may not be
        discovered yet. Raises NacError if the guard has a fault or is not active.
        """
        requested_at, n_reports = 0.0, 0

        def is_set() -> bool:
            nonlocal requested_at, n_reports
            guard = self.latest_diagnostics("guard")
            if requested_at and guard.get("mode") == mode:
                return mode == HOLD or guard.get("hold") not in HOLDS_BEFORE_START
            if requested_at and time.monotonic() - requested_at <= REQUEST_MODE_S:
                return False
            reports = self.diagnostics.get("guard", [])
            if requested_at and mode != HOLD and len(reports) > n_reports:
                _check_accepts_mode(reports[-1], mode)
            self._modes.request(mode)
            requested_at, n_reports = time.monotonic(), len(reports)
            return False

        self.wait_until(is_set, f"guard mode {mode}", timeout_s)

    def publish_task(self, task: str) -> None:
        """Publishes a prompt or task id without waiting for the policy."""
        self._task.publish(String(data=task))

    def set_task(self, task: str) -> None:
        """Publishes a prompt or task id; returns when the policy reports it."""
        self.publish_task(task)
        self.wait_until(
            lambda: self.latest_diagnostics("policy").get("task") == task, f"task {task}"
        )

    def activate(self, node: str) -> None:
        """Configures and activates a node that was just started.

        Waits for its diagnostics first: the services of a node of this name that was killed still
        seem to exist for a while.
        """
        self.diagnostics.pop(node, None)
        self.wait_until(lambda: self.latest_diagnostics(node), f"diagnostics of {node}", START_S)
        time.sleep(DISCOVERY_S)
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            self._retry_transition(node, transition)

    def _retry_transition(self, node: str, transition: int) -> None:
        """Repeats a request whose answer, or the request itself, went to a node that has ended."""
        for timeout_s in (ANSWER_S, ANSWER_S, START_S):
            try:
                return self.change_state(node, transition, timeout_s)
            except NacError as error:
                if "waited" not in str(error) or timeout_s == START_S:
                    raise

    def call(
        self, service_type: Any, name: str, request: Any, timeout_s: float | None = None
    ) -> Any:
        timeout_s = CALL_TIMEOUT_S if timeout_s is None else timeout_s
        client: Any = self.node.create_client(service_type, name)
        try:
            self.wait_until(client.service_is_ready, f"service {name}", timeout_s)
            future = client.call_async(request)
            self.wait_until(future.done, f"an answer of {name}", timeout_s)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def wait_until(
        self, condition: Callable[[], Any], description: str, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        """Waits until `condition()`; raises NacError if the time is up or a process has ended."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            self._watch()
            if time.monotonic() > deadline:
                raise NacError(f"waited {timeout_s:.0f} s for {description}; see the nodes' logs")
            time.sleep(POLL_S)

    def _subscribe(self, receive_chunks: bool) -> None:
        subscribe_status(self.node, self._add_report, self._set_outcome)
        self.node.create_subscription(JointState, "guard/command", self._on_command, qos.MONITOR)
        if receive_chunks:
            callback = size_limited_callback(
                JointTrajectory, self._on_chunk, messages.MAX_REPORT_BYTES
            )
            self.node.create_subscription(
                JointTrajectory, "policy/chunk", callback, qos.MONITOR, raw=True
            )

    def _on_command(self, message: JointState, info: Mapping[str, Any]) -> None:
        self.command_times.append(1e-9 * info["source_timestamp"])  # the time of publication

    def _on_chunk(self, message: JointTrajectory) -> None:
        try:
            self.chunks.append(messages.from_chunk_message(message))
        except NacError:  # the guard rejects it too, and reports it
            self.malformed += 1

    def _add_report(self, node: str, report: Report) -> None:
        self.diagnostics.setdefault(node, []).append(report)

    def _set_outcome(self, outcome: Report) -> None:
        self.outcome = outcome

    def _spin(self) -> None:
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self.node)
        while not self._ending.is_set():
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()


def _check_accepts_mode(guard: Report, mode: str) -> None:
    """Raises NacError if the guard, by its diagnostics, cannot change to `mode`."""
    if fault := guard.get("fault"):
        raise NacError(f"the guard stopped, {fault}; call guard/reset, then request {mode} again")
    if guard.get("state") == "inactive":
        raise NacError(f"the guard is not active; activate it, then request {mode} again")
