"""Twin, relay, guard and policy as processes, driven until they move, spoiled, and measured."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lifecycle_msgs.msg import Transition
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from nac_ros.control.types import AT_REST
from nac_ros.core.errors import NacError
from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import RobotSpec
from nac_ros.ros import messages, qos
from nac_ros.ros.graph_client import DISCOVERY_S, GraphClient
from nac_ros.ros.node_graph import NodeProcess, policy_graph, twin_graph
from nac_ros.ros.polled_subscription import PolledSubscription
from nac_ros.ros.processes import SHARED_MEMORY, ProcessGroup

MOVING = 0.15  # share of a velocity limit at which the arm counts as moving
MOVE_S = 12.0  # by then a policy moves the arm
TRIES = 4
CLOCK_HZ = 250.0
COUNTED = ("holds.", "rejections.", "unusable.")  # by reason, in diagnostics


@dataclass(frozen=True)
class MeasuredMotion:
    """What was commanded from `times[0]` on: set-points `[N, D]` as the controller interpolated
    them, with their derivatives [rad or m, per s, per s^2].

    times: when they were heard of, on a clock that nobody sets [s]; stamps: the arm's
    """

    times: np.ndarray
    stamps: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    accelerations: np.ndarray


class FaultTestBench:
    """A graph of its own on a domain of its own; a context manager.

    sim_time: guard and policy take their time from the relay, whose clock can be set
    """

    def __init__(
        self, folder: Path, bundle: Path, robot: Path, spec: RobotSpec, domain: int,
        sim_time: bool = False, before: dict[str, str] | None = None,
        twin: dict[str, Any] | None = None,
    ):  # fmt: skip
        """twin: parameters of its node"""
        self.spec, self.folder, self.sim_time = spec, folder, sim_time
        variables = {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        }
        self.processes = ProcessGroup(folder, variables)
        self.nodes = _graph(bundle, robot, spec, folder, sim_time, before or {}, twin or {})
        self._domain = domain
        self._rows: list[tuple[float, JointState]] = []
        self._newest = b""  # chunk, serialized
        self.said = set[str]()
        self._counted: dict[str, dict[str, int]] = {}  # node -> what it had counted at `forget`

    def __enter__(self) -> "FaultTestBench":
        for process in self.nodes.values():
            self.processes.start(process)
        self.operator = GraphClient(self._domain, receive_chunks=False)
        node = self.operator.node
        node.create_subscription(JointState, "twin/set_point", self._hear, qos.MONITOR)
        self._chunks = PolledSubscription(node, JointTrajectory, "policy/chunk", qos.COMMAND)
        self._spoil = node.create_publisher(String, "relay/spoil", qos.MONITOR)
        self.chunk_out = node.create_publisher(JointTrajectory, "policy/chunk", qos.COMMAND)
        for name in ("guard", "policy"):
            self.operator.activate(name)
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.end()
        self.operator.__exit__()

    def restart(self, name: str) -> None:
        """Starts a node that was killed again."""
        self.processes.start(self.nodes[name])
        self.operator.activate(name)

    def start_again(self) -> None:
        """The guard is deactivated and activated, and the policy goes on from rest."""
        operator = self.operator
        operator.set_mode("hold")
        operator.wait_until(lambda: operator.latest_diagnostics("guard").get("state") in AT_REST, "rest", 10)
        operator.change_state("guard", Transition.TRANSITION_DEACTIVATE)
        operator.change_state("guard", Transition.TRANSITION_ACTIVATE)
        operator.set_mode("policy")

    def spoil(self, what: str) -> None:
        """Tells the relay what to do from now on."""
        self._spoil.publish(String(data=what))

    def drive(self, task: str, seed: int) -> None:
        """Until the policy moves the arm fast; raises NacError when it does not."""
        operator = self.operator
        for attempt in range(TRIES):
            self._fresh(task, seed + attempt)
            operator.set_mode("policy")
            operator.trigger("policy/start")
            deadline = time.monotonic() + MOVE_S
            while time.monotonic() < deadline:
                if self._moves() and operator.latest_diagnostics("guard").get("state") == "running":
                    return
                time.sleep(0.02)
        said = {name: operator.latest_diagnostics(name) for name in ("guard", "policy")}
        raise NacError(
            f"the policy did not move the arm: {said}; came in a second: {self._flowing()}"
        )

    def _flowing(self) -> dict[str, int]:
        """Topic -> messages in a second, of what the relay gets and what it passes on."""
        kinds = {self.spec.joint_states_topic: JointState}
        kinds |= {camera.topic: Image for camera in self.spec.cameras}
        polled = {
            topic: PolledSubscription(self.operator.node, kind, topic, qos.MONITOR)
            for name, kind in kinds.items()
            for topic in (f"raw/{name}", name)
        }
        time.sleep(1.0 + DISCOVERY_S)
        return {topic: len(list(one.take())) for topic, one in polled.items()}

    def mark(self) -> int:
        """How much of the motion was seen."""
        return len(self._rows)

    def motion(self, mark: int) -> MeasuredMotion:
        """What was commanded since a mark."""
        heard = self._rows[mark:]
        rows = [row for _, row in heard]
        return MeasuredMotion(
            np.array([time for time, _ in heard]),
            np.array([messages.to_seconds(row.header.stamp) for row in rows]),
            *(np.array([getattr(row, part) for row in rows])
              for part in ("position", "velocity", "effort")),
        )  # fmt: skip

    def bad_chunk(self, change: Callable[[ActionChunk], Any]) -> JointTrajectory:
        """A message of the policy's newest chunk, changed to a chunk or a message."""
        for received in self._chunks.take():
            self._newest = received.data
        message = deserialize_message(self._newest, JointTrajectory)
        made = change(messages.from_chunk_message(message))
        return messages.to_chunk_message(made) if isinstance(made, ActionChunk) else made

    def reasons(self) -> set[str]:
        """Every reason that guard and policy have given since `forget`, and what was `said`."""
        found = set(self.said)
        for node in ("guard", "policy"):
            before = self._counted.get(node, {})
            for report in self.operator.diagnostics.get(node, []):
                found |= {report.get("hold", ""), report.get("fault", "")}
                found |= {"call_log"} & set(report)
                counts = _counts(report)
                # a node that was started anew counts from nothing
                found |= {
                    key.split(".", 1)[1] for key, n in counts.items() if n > before.get(key, 0)
                }
                before = counts
        return found

    def held(self) -> dict[str, int]:
        """What is held by the nodes that live through every fault, and how many segments of shared
        memory the middleware has for all."""
        nodes = [self.processes.resource_usage(name) for name in ("twin", "relay")]
        held = {key: sum(node[key] for node in nodes) for key in nodes[0]}
        return {**held, "segments": len(list(SHARED_MEMORY.glob("fastdds_*")))}

    def guard_faults(self) -> set[str]:
        """What the guard stopped for since `forget`."""
        reports = self.operator.diagnostics.get("guard", [])
        return {report.get("fault", "") for report in reports} - {""}

    def forget(self) -> None:
        """Counts start anew."""
        for node in ("guard", "policy"):
            self._counted[node] = _counts(self.operator.latest_diagnostics(node))
        self.operator.diagnostics.clear()
        self.said.clear()

    def _fresh(self, task: str, trial: int) -> None:
        operator = self.operator
        self.spoil("none")
        operator.trigger("policy/stop")
        operator.set_mode("hold")
        operator.wait_until(lambda: operator.latest_diagnostics("guard").get("state") in AT_REST, "rest", 10)
        operator.set_parameters("twin", {"task": task, "seed": 7, "trial": trial})
        operator.trigger("twin/reset")
        time.sleep(0.3)
        operator.trigger("guard/reset")
        operator.set_task(task)
        operator.wait_until(lambda: not _unchecked(operator.latest_diagnostics("policy")), "the cameras' noise", 10)

    def _hear(self, message: JointState) -> None:
        self._rows.append((time.monotonic(), message))

    def _moves(self) -> bool:
        if not self._rows:
            return False
        share = np.abs(np.array(self._rows[-1][1].velocity)) / self.spec.velocity_limit
        return bool(share[self.spec.relative_mask].max() > MOVING)


def _unchecked(policy: Mapping[str, Any]) -> list[str]:
    """Cameras that have not yet shown noise, and so would not be found frozen."""
    return policy.get("content_not_checked", [])


def _counts(report: Mapping[str, Any]) -> dict[str, int]:
    return {key: n for key, n in report.items() if key.startswith(COUNTED)}


def _graph(
    bundle: Path,
    robot: Path,
    spec: RobotSpec,
    folder: Path,
    sim_time: bool,
    before: dict[str, str],
    twin_given: dict[str, Any],
) -> dict[str, NodeProcess]:
    senders = (spec.joint_states_topic, *(camera.topic for camera in spec.cameras))
    clock: dict[str, Any] = {"use_sim_time": True} if sim_time else {}
    twin = twin_graph(str(robot), set_points=True, **twin_given)[
        0
    ]  # the arm has a clock of its own
    remaps = {topic: f"raw/{topic}" for topic in senders}
    relay = {"robot": str(robot), "clock_hz": CLOCK_HZ if sim_time else 0.0}
    given = policy_graph(str(bundle), str(robot), str(folder / "call_log"))
    nodes: Sequence[NodeProcess] = (
        NodeProcess(name="relay", parameters=relay, lifecycle=False, environment=twin.environment),
        NodeProcess(name="twin", parameters=twin.parameters, lifecycle=False, remaps=remaps,
                    environment=twin.environment),
        *(NodeProcess(name=node.name, parameters={**node.parameters, **clock},
                      setup_code=before.get(node.name, "")) for node in given),
    )  # fmt: skip
    return {node.name: node for node in nodes}
