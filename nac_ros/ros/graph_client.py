"""A client of the running graph: calls its services and remembers what it publishes."""

import time
from collections.abc import Callable, Mapping
from threading import Event, Thread
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from nac_ros.core.errors import NacError
from nac_ros.core.types import ActionChunk
from nac_ros.ros import messages, parameters, qos
from nac_ros.ros.guard_mode import HOLDS_BEFORE_START, HOLD, ModePublisher
from nac_ros.ros.polled_subscription import size_limited_callback

POLL_S = 0.05
START_S, ANSWER_S = 60.0, 15.0  # for a node's first word, and for an answer to a live one
ASK_S = 1.0  # for a mode again, where the guard does not say that it has it
DISCOVERY_S = 0.5  # after its first word a node's services are known too
CALL_TIMEOUT_S = 120.0  # configuring loads a model, a reset may compile a scene

Watch = Callable[[], None]


class GraphClient:
    """Talks to policy, guard and twin over DDS from a thread of its own.

    commands: times [s] at which each guard/command was published
    chunks: every chunk, malformed ones are only counted
    diagnostics: node -> its values in order, each with its `stamp` [s]
    outcome: the newest of the twin
    """

    def __init__(self, domain_id: int, watch: Watch = lambda: None, receive_chunks: bool = True):
        """receive_chunks: False where others see to them, for a thousand a second keep one busy."""
        self.commands: list[float] = []
        self.chunks: list[ActionChunk] = []
        self.malformed = 0
        self.diagnostics: dict[str, list[dict[str, Any]]] = {}
        self.outcome: dict[str, Any] = {}
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

    def latest_diagnostics(self, node: str) -> dict[str, Any]:
        """The newest diagnostics of a node, empty before the first."""
        seen = self.diagnostics.get(node)
        return seen[-1] if seen else {}

    def set_mode(self, mode: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Whose input counts; returns when the guard says so and would take a chunk. It is asked
        again until then, for a guard that was activated just now may not be matched yet.

        Raises NacError where the guard then has a fault or is not active: whoever resets or
        activates it did not ask for this mode.
        """
        asked, words_before = 0.0, 0

        def told() -> bool:
            nonlocal asked, words_before
            if asked and self.latest_diagnostics("guard").get("mode") == mode:
                return mode == HOLD or self.latest_diagnostics("guard").get("hold") not in HOLDS_BEFORE_START
            if asked and time.monotonic() - asked <= ASK_S:
                return False
            words = self.diagnostics.get("guard", [])
            if asked and mode != HOLD and len(words) > words_before:
                _check_obeys(words[-1], mode)
            self._modes.request(mode)
            asked, words_before = time.monotonic(), len(words)
            return False

        self.wait_until(told, f"guard mode {mode}", timeout_s)

    def publish_task(self, task: str) -> None:
        """Prompt or task id, without waiting for an answer."""
        self._task.publish(String(data=task))

    def set_task(self, task: str) -> None:
        """Returns when the policy has taken the task; raises NacError with its rejection."""
        self.publish_task(task)
        self.wait_until(lambda: self.latest_diagnostics("policy").get("task") == task, f"task {task}")

    def change_state(self, node: str, transition: int, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """A lifecycle transition; raises NacError with what the node says about a failure."""
        request = ChangeState.Request()
        request.transition.id = transition
        if not self.call(ChangeState, f"{node}/change_state", request, timeout_s).success:
            said = self.latest_diagnostics(node).get("message", "see its log")
            raise NacError(f"node {node} refused transition {transition}: {said}")

    def activate(self, node: str) -> None:
        """Configures and activates a node that was just started, once it speaks: the services of
        one that was killed under its name seem to be there for a while."""
        self.diagnostics.pop(node, None)
        self.wait_until(lambda: self.latest_diagnostics(node), f"a word of {node}", START_S)
        time.sleep(DISCOVERY_S)
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            self._insist(node, transition)

    def _insist(self, node: str, transition: int) -> None:
        """Asks again where the answer, or the question, went to a node that is no more."""
        for patience in (ANSWER_S, ANSWER_S, START_S):
            try:
                return self.change_state(node, transition, patience)
            except NacError as error:
                if "waited" not in str(error) or patience == START_S:
                    raise

    def trigger(self, service: str, timeout_s: float = CALL_TIMEOUT_S) -> str:
        """Calls a Trigger service; its message, or NacError with it when it says no."""
        answer = self.call(Trigger, service, Trigger.Request(), timeout_s)
        if not answer.success:
            raise NacError(f"{service}: {answer.message}")
        return answer.message

    def set_parameters(self, node: str, values: Mapping[str, Any]) -> None:
        """Raises NacError with the reason of a rejection."""
        parameters.send(self.call, node, values)

    def call(self, kind: type, name: str, request: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """The answer of a service, waiting for both to appear."""
        client: Any = self.node.create_client(kind, name)
        try:
            self.wait_until(client.service_is_ready, f"service {name}", timeout_s)
            future = client.call_async(request)
            self.wait_until(future.done, f"an answer of {name}", timeout_s)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def wait_until(
        self, ready: Callable[[], bool], what: str, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        """Until `ready()`; raises NacError when a process ends meanwhile or time is up."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            self._watch()
            if time.monotonic() > deadline:
                raise NacError(f"waited {timeout_s:.0f} s for {what}; see the nodes' logs")
            time.sleep(POLL_S)

    def _subscribe(self, receive_chunks: bool) -> None:
        self.node.create_subscription(JointState, "guard/command", self._on_command, qos.MONITOR)
        inputs: list[tuple[Any, str, Callable[[Any], None], Any]] = [
            (DiagnosticArray, "diagnostics", self._on_diagnostics, qos.MONITOR),
            (String, "twin/outcome", self._on_outcome, qos.LATCHED),
        ]
        if receive_chunks:
            inputs.append((JointTrajectory, "policy/chunk", self._on_chunk, qos.MONITOR))
        for kind, topic, take, profile in inputs:
            callback = size_limited_callback(kind, take, messages.MAX_REPORT_BYTES)
            self.node.create_subscription(kind, topic, callback, profile, raw=True)

    def _on_command(self, message: JointState, info: Mapping[str, Any]) -> None:
        self.commands.append(1e-9 * info["source_timestamp"])  # set when it was published

    def _on_chunk(self, message: JointTrajectory) -> None:
        try:
            self.chunks.append(messages.from_chunk_message(message))
        except NacError:  # the guard refuses it too, and says so
            self.malformed += 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        stamp = messages.to_seconds(message.header.stamp)
        for status in message.status:
            row = {**messages.values_from_status(status), "stamp": stamp}
            self.diagnostics.setdefault(status.name, []).append(row)

    def _on_outcome(self, message: String) -> None:
        self.outcome = messages.from_outcome(message.data)

    def _spin(self) -> None:
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self.node)
        while not self._ending.is_set():
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()


def _check_obeys(said: Mapping[str, Any], mode: str) -> None:
    """Raises NacError where the guard, by what it `said` of itself, cannot take `mode`."""
    if fault := said.get("fault"):
        raise NacError(f"the guard stopped, {fault}; call guard/reset, then ask for {mode} again")
    if said.get("state") == "inactive":
        raise NacError(f"the guard is not active; activate it, then ask for {mode} again")
