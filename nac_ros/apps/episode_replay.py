"""`nac data replay`: a recorded episode through the guard, on the twin or on the arm that runs."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from nac_ros.apps.demo import running
from nac_ros.control.types import AT_REST
from nac_ros.core.config import bounded, check_bounds
from nac_ros.core.errors import BadObservation, DatasetError, NacError
from nac_ros.core.types import ActionChunk
from nac_ros.datasets.factory import open_dataset
from nac_ros.robot.joint_states import JointStateMerger
from nac_ros.robot.spec import RobotSpec, load_robot
from nac_ros.ros import messages, qos
from nac_ros.ros.graph_client import GraphClient
from nac_ros.ros.node_graph import TWIN, policy_graph, twin_graph, default_robot

HORIZON, EVERY = 32, 8  # steps of a chunk, and after how many the next one follows
BEAT_S = 0.05
DISCOVERY_S = 0.5  # after one side knows the other, the other knows it too
ANSWER_S = 10.0
RAMP_S = 60.0  # at a tenth of the speed, from anywhere to anywhere
NO_TOKENS = np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class RerunConfig:
    """data: dataset; episode: its number; action_key: column, the dataset's usual one when empty

    robot: name or YAML of the robot whose guard runs; `twin` starts the simulated arm and a guard
    speed: share of the recorded speed; out: folder of runs
    """

    data: str
    episode: int = 0
    action_key: str = ""
    robot: str = TWIN
    speed: float = bounded(1.0, 0.05, 1.0)
    out: str = "runs/replay"

    def __post_init__(self) -> None:
        check_bounds(self)


def rerun_episode(config: RerunConfig) -> dict[str, Any]:
    """Plays the episode and returns how far the arm was from it, by joint [rad or m]."""
    dataset = open_dataset(config.data, config.action_key or None)
    episode = dataset.episode(config.episode, images=False)
    spec = load_robot(default_robot("twin") if config.robot == TWIN else config.robot)
    if tuple(dataset.names) != spec.joint_names:
        raise DatasetError(
            f"{config.data} moves {', '.join(dataset.names)}; robot {spec.name} has "
            f"{', '.join(spec.joint_names)}"
        )
    rate = dataset.fps * config.speed
    tasks = ", ".join(episode.tasks)
    print(f"episode {config.episode}: '{tasks}', {len(episode) / rate:.1f} s at this speed")
    with _graph(config) as operator:
        return _Player(operator, spec, episode.actions, rate).play()


class _Player:
    """Sends an episode's actions as a policy would, and listens to what becomes of them."""

    def __init__(self, operator: GraphClient, spec: RobotSpec, actions: np.ndarray, rate: float):
        self._operator, self._spec, self._actions, self._rate = operator, spec, actions, rate
        node = operator.node
        self._chunks = node.create_publisher(JointTrajectory, "policy/chunk", qos.COMMAND)
        self._beats = node.create_publisher(Header, "policy/heartbeat", qos.COMMAND)
        self._seen: dict[str, list[tuple[float, np.ndarray]]] = {"commanded": [], "measured": []}
        self._handles = [
            node.create_subscription(
                JointState, topic, lambda m, w=what: self._hear(w, m), profile
            )
            for what, topic, profile in (
                ("commanded", "guard/command", qos.MONITOR),
                ("measured", spec.joint_states_topic, qos.SENSOR_QUEUE),
            )
        ]
        names, max_age_s = spec.joint_names, spec.joint_states_max_age_s
        self._mergers = {what: JointStateMerger(names, max_age_s) for what in self._seen}
        self._ending = Event()
        self._before: dict[str, Any] = {}  # what the guard had counted already

    def play(self) -> dict[str, Any]:
        """All of it; raises NacError where the guard stops it."""
        beats = Thread(target=self._beat, daemon=True)
        beats.start()
        try:
            self._operator.wait_until(
                lambda: self._chunks.get_subscription_count() > 0, "a guard that listens", 10
            )
            self._operator.wait_until(
                lambda: all(self._seen.values()), "joint states and the guard's commands", 10
            )
            time.sleep(DISCOVERY_S)
            self._operator.set_mode("policy")
            self._before = dict(self._operator.latest_diagnostics("guard"))
            self._approach()
            began = self._now()
            self._send_all(began)
            self._operator.wait_until(self._rests, "the arm to rest", 30)
        finally:
            self._ending.set()
            beats.join()
            self._operator.set_mode("hold")
        return self._figures(began)

    def _approach(self) -> None:
        """To where the episode begins, slowly where that is far away."""
        start = np.repeat(self._actions[:1], HORIZON, 0)
        deadline = time.monotonic() + ANSWER_S
        while not self._told("jump") and self._state() != "running":
            if time.monotonic() > deadline:
                refused = self._operator.latest_diagnostics("guard").get("last_rejection") or "it says nothing"
                raise NacError(f"the guard does not take the episode's start: {refused}")
            self._send(self._now(), start)
            time.sleep(EVERY / self._rate)
        if self._told("jump"):
            print("the arm is elsewhere; it goes slowly to where the episode begins", flush=True)
            self._operator.trigger("guard/ramp")
            time.sleep(0.5)
            self._operator.wait_until(lambda: self._state() in AT_REST, "the ramp to end", RAMP_S)

    def _send_all(self, began: float) -> None:
        for first in range(0, len(self._actions), EVERY):
            self._operator.wait_until(lambda f=first: self._now() >= began + f / self._rate, "its time")
            if fault := self._operator.latest_diagnostics("guard").get("fault"):
                raise NacError(f"the guard stopped the episode: {fault}; see its diagnostics")
            rows = self._actions[first : first + HORIZON]
            self._send(began + first / self._rate, rows)

    def _send(self, stamp: float, rows: np.ndarray) -> None:
        names = self._spec.joint_names
        chunk = ActionChunk(stamp, self._rate, names, rows.astype(np.float32), NO_TOKENS)
        self._chunks.publish(messages.to_chunk_message(chunk))

    def _beat(self) -> None:
        while not self._ending.wait(BEAT_S):
            self._beats.publish(Header(stamp=messages.to_time(self._now())))

    def _now(self) -> float:
        return messages.to_seconds(self._operator.node.get_clock().now().to_msg())

    def _state(self) -> str:
        return self._operator.latest_diagnostics("guard").get("state", "")

    def _rests(self) -> bool:
        return self._state() in AT_REST

    def _told(self, reason: str) -> bool:
        return self._counted(f"rejections.{reason}") > 0

    def _counted(self, key: str) -> int:
        """By the guard, since it was begun here."""
        return self._operator.latest_diagnostics("guard").get(key, 0) - self._before.get(key, 0)

    def _hear(self, what: str, message: JointState) -> None:
        try:
            sample = self._mergers[what].add_message(message)
        except BadObservation:  # the guard says so, and stops the episode where it lasts
            return
        if sample is not None:
            self._seen[what].append(sample)

    def _figures(self, began: float) -> dict[str, Any]:
        """Root mean square and largest distance from the recorded actions when they were due."""
        due = began + (np.arange(len(self._actions)) + 1) / self._rate
        report = self._operator.latest_diagnostics("guard")
        figures: dict[str, Any] = {"seconds": len(due) / self._rate}
        for what, rows in self._seen.items():
            times, places = np.array([t for t, _ in rows]), np.array([p for _, p in rows])
            columns = [np.interp(due, times, column) for column in places.T]
            off = np.stack(columns, 1) - self._actions
            for key, values in (("rms", np.sqrt((off**2).mean(0))), ("max", np.abs(off).max(0))):
                figures[f"{what}_{key}"] = dict(zip(self._spec.joint_names, values.tolist()))
        for kind in ("holds", "rejections", "clips"):
            counts = {
                key.split(".", 1)[1]: self._counted(key)
                for key in report
                if key.startswith(f"{kind}.")
            }
            figures[kind] = {key: n for key, n in counts.items() if n}
        return figures


@contextmanager
def _graph(config: RerunConfig) -> Iterator[GraphClient]:
    """Twin and guard of our own, or the guard that runs on this domain."""
    if config.robot != TWIN:
        with GraphClient(int(os.environ.get("ROS_DOMAIN_ID", "0"))) as operator:
            operator.wait_until(lambda: operator.latest_diagnostics("guard"), "a guard; start policy.launch.py", 10)
            yield operator
        return
    folder = Path(config.out) / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    guard, _ = policy_graph(call_log=str((folder / "call_log").resolve()))
    with running((*twin_graph(), guard), folder) as (_, operator):
        operator.trigger("guard/reset")
        yield operator
