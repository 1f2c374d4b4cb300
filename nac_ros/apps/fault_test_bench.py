"""Test bench of `nac faults`: relay, twin, guard and policy as processes; measures the motion."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lifecycle_msgs.msg import Transition
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from nac_ros.apps.demo_trials import reset_scene
from nac_ros.control.types import AT_REST
from nac_ros.core.errors import NacError
from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import RobotSpec
from nac_ros.ros import messages, qos
from nac_ros.ros.diagnostics_summary import Report
from nac_ros.ros.graph_client import DISCOVERY_S, GraphClient
from nac_ros.ros.node_graph import NodeProcess, policy_graph, twin_graph
from nac_ros.ros.polled_subscription import PolledSubscription
from nac_ros.ros.processes import SHARED_MEMORY, ProcessGroup

MOVING_SHARE = 0.15  # of a velocity limit, from which on the arm counts as moving
START_S = 12.0  # limit for a policy to move the arm
START_ATTEMPTS = 4
CLOCK_HZ = 250.0
SEED = 7  # of the scenes
COUNTERS = ("holds.", "rejections.", "unusable.")  # prefixes of counts by reason, in diagnostics


class GraphOptions(NamedTuple):
    """The graph that a fault needs; faults with equal options share one graph.

    sim_time: guard and policy use the relay's clock, which can be set
    setup_code: (node, Python code that its process runs first)
    prepare: called with the graph's folder before the nodes start
    twin: (parameter of the twin, value)
    """

    sim_time: bool = False
    setup_code: tuple[tuple[str, str], ...] = ()
    prepare: Callable[[Path], None] | None = None
    twin: tuple[tuple[str, float], ...] = ()


DEFAULT_GRAPH = GraphOptions()


@dataclass(frozen=True)
class MeasuredMotion:
    """Set-points `[N, D]` as the controller interpolated them, with derivatives [rad or m, s].

    times: when they were received, on the monotonic clock [s]; stamps: of the arm's clock [s]
    """

    times: np.ndarray
    stamps: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    accelerations: np.ndarray


class FaultTestBench:
    """The graph in its own ROS domain, as a context manager.

    observed: reasons that a fault's code has seen itself, in addition to diagnostics
    """

    def __init__(
        self,
        folder: Path,
        bundle: Path,
        robot: Path,
        spec: RobotSpec,
        domain: int,
        options: GraphOptions = DEFAULT_GRAPH,
    ):
        self.spec, self.folder = spec, folder
        variables = {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        }
        self.processes = ProcessGroup(folder, variables)
        self.nodes = _graph(bundle, robot, spec, folder, options)
        self.observed = set[str]()
        self._domain = domain
        self._setpoints: list[tuple[float, JointState]] = []  # time of arrival, message
        self._latest_chunk = b""  # serialized
        self._counts: dict[str, Report] = {}  # node -> its counts at `clear_reports`

    def __enter__(self) -> "FaultTestBench":
        for process in self.nodes.values():
            self.processes.start(process)
        self.client = GraphClient(self._domain, receive_chunks=False)
        node = self.client.node
        node.create_subscription(JointState, "twin/set_point", self._on_setpoint, qos.MONITOR)
        self._chunks = PolledSubscription(node, JointTrajectory, "policy/chunk", qos.COMMAND)
        self._relay = node.create_publisher(String, "relay/spoil", qos.MONITOR)
        self.chunk_publisher = node.create_publisher(JointTrajectory, "policy/chunk", qos.COMMAND)
        for name in ("guard", "policy"):
            self.client.activate(name)
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.end()
        self.client.__exit__()

    def restart(self, name: str) -> None:
        """Starts a node that was killed."""
        self.processes.start(self.nodes[name])
        self.client.activate(name)

    def reactivate_guard(self) -> None:
        """Deactivates and activates the guard; the policy continues from rest."""
        self.client.set_mode("hold")
        self._wait_for_rest()
        self.client.change_state("guard", Transition.TRANSITION_DEACTIVATE)
        self.client.change_state("guard", Transition.TRANSITION_ACTIVATE)
        self.client.set_mode("policy")

    def inject(self, command: str) -> None:
        """Sends the relay a command, such as `images late`; `none` ends the fault."""
        self._relay.publish(String(data=command))

    def run_until_moving(self, task: str, trial: int) -> None:
        """Starts the policy; returns once the arm moves fast. Raises NacError if it does not."""
        client = self.client
        for attempt in range(START_ATTEMPTS):
            self._start_over(task, trial + attempt)
            client.set_mode("policy")
            client.trigger("policy/start")
            deadline = time.monotonic() + START_S
            while time.monotonic() < deadline:
                if self._is_moving() and self._guard_state() == "running":
                    return
                time.sleep(0.02)
        reports = {name: client.latest_diagnostics(name) for name in ("guard", "policy")}
        raise NacError(
            f"the policy did not move the arm: {reports}; messages in a second: "
            f"{self._message_counts()}"
        )

    def mark(self) -> int:
        """A mark for `motion_since`."""
        return len(self._setpoints)

    def motion_since(self, mark: int) -> MeasuredMotion:
        """The commanded motion since the mark."""
        received = self._setpoints[mark:]
        return MeasuredMotion(
            times=np.array([arrival for arrival, _ in received]),
            stamps=np.array([messages.to_seconds(m.header.stamp) for _, m in received]),
            positions=np.array([message.position for _, message in received]),
            velocities=np.array([message.velocity for _, message in received]),
            accelerations=np.array([message.effort for _, message in received]),
        )

    def altered_chunk(self, alter: Callable[[ActionChunk], Any]) -> JointTrajectory:
        """The policy's newest chunk, altered by a function that returns a chunk or a message."""
        for received in self._chunks.take():
            self._latest_chunk = received.data
        message = deserialize_message(self._latest_chunk, JointTrajectory)
        altered = alter(messages.from_chunk_message(message))
        is_chunk = isinstance(altered, ActionChunk)
        return messages.to_chunk_message(altered) if is_chunk else altered

    def reasons(self) -> set[str]:
        """All reasons that guard and policy reported since `clear_reports`, and `observed`."""
        found = set(self.observed)
        for node in ("guard", "policy"):
            before = self._counts.get(node, {})
            for report in self.client.diagnostics.get(node, []):
                found |= {report.get("hold", ""), report.get("fault", "")}
                found |= {"call_log"} & set(report)
                # Each report is compared with the one before: a restarted node counts from zero.
                counts = _counts(report)
                increased = [key for key, n in counts.items() if n > before.get(key, 0)]
                found |= {key.split(".", 1)[1] for key in increased}
                before = counts
        return found

    def guard_faults(self) -> set[str]:
        """Faults for which the guard stopped since `clear_reports`."""
        reports = self.client.diagnostics.get("guard", [])
        return {report.get("fault", "") for report in reports} - {""}

    def resource_usage(self) -> dict[str, int]:
        """Memory and handles of the nodes that survive every fault, and shared-memory segments of
        the middleware."""
        nodes = [self.processes.resource_usage(name) for name in ("twin", "relay")]
        usage = {key: sum(node[key] for node in nodes) for key in nodes[0]}
        return {**usage, "segments": len(list(SHARED_MEMORY.glob("fastdds_*")))}

    def clear_reports(self) -> None:
        """Forgets all reports so far."""
        for node in ("guard", "policy"):
            self._counts[node] = _counts(self.client.latest_diagnostics(node))
        self.client.diagnostics.clear()
        self.observed.clear()

    def _start_over(self, task: str, trial: int) -> None:
        """Ends a fault, stops the arm and loads a scene; the policy is ready to start."""
        client = self.client
        self.inject("none")
        client.trigger("policy/stop")
        client.set_mode("hold")
        self._wait_for_rest()
        reset_scene(client, task, SEED, trial)
        client.set_task(task)
        # A camera that has not shown noise yet would not be detected as frozen.
        client.wait_until(
            lambda: not client.latest_diagnostics("policy").get("content_not_checked"),
            "the cameras' noise",
            10,
        )

    def _wait_for_rest(self) -> None:
        self.client.wait_until(lambda: self._guard_state() in AT_REST, "the arm to rest", 10)

    def _guard_state(self) -> str:
        return self.client.latest_diagnostics("guard").get("state", "")

    def _message_counts(self) -> dict[str, int]:
        """Topic -> messages within a second, before and after the relay."""
        types = {self.spec.joint_states_topic: JointState}
        types |= {camera.topic: Image for camera in self.spec.cameras}
        polled = {
            topic: PolledSubscription(self.client.node, message_type, topic, qos.MONITOR)
            for name, message_type in types.items()
            for topic in (f"raw/{name}", name)
        }
        time.sleep(1.0 + DISCOVERY_S)
        return {topic: len(list(subscription.take())) for topic, subscription in polled.items()}

    def _on_setpoint(self, message: JointState) -> None:
        self._setpoints.append((time.monotonic(), message))

    def _is_moving(self) -> bool:
        if not self._setpoints:
            return False
        share = np.abs(np.array(self._setpoints[-1][1].velocity)) / self.spec.velocity_limit
        return bool(share[self.spec.relative_mask].max() > MOVING_SHARE)


def _counts(report: Report) -> Report:
    return {key: n for key, n in report.items() if key.startswith(COUNTERS)}


def _graph(
    bundle: Path, robot: Path, spec: RobotSpec, folder: Path, options: GraphOptions
) -> dict[str, NodeProcess]:
    """Joint states and images go from the twin through the relay to guard and policy."""
    (twin,) = twin_graph(str(robot), set_points=True, **dict(options.twin))
    relayed = (spec.joint_states_topic, *(camera.topic for camera in spec.cameras))
    remaps = {topic: f"raw/{topic}" for topic in relayed}
    relay = {"robot": str(robot), "clock_hz": CLOCK_HZ if options.sim_time else 0.0}
    # Like a real arm, the twin is always on the wall clock.
    clock: dict[str, Any] = {"use_sim_time": True} if options.sim_time else {}
    setup_code = dict(options.setup_code)
    nodes = {
        "relay": NodeProcess(
            name="relay", parameters=relay, lifecycle=False, environment=twin.environment
        ),
        "twin": replace(twin, remaps=remaps),
    }
    for node in policy_graph(str(bundle), str(robot), str(folder / "call_log")):
        nodes[node.name] = NodeProcess(
            name=node.name,
            parameters={**node.parameters, **clock},
            setup_code=setup_code.get(node.name, ""),
        )
    return nodes
