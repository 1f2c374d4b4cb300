"""`nac data replay`: replays an episode through the guard, on the twin or on a running arm."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import numpy as np
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from nac_ros.apps.demo import make_run_folder, running_graph
from nac_ros.control.types import AT_REST
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import BadObservation, DatasetError, NacError
from nac_ros.core.types import ActionChunk
from nac_ros.datasets.factory import open_dataset
from nac_ros.robot.joint_states import JointStateMerger
from nac_ros.robot.spec import RobotSpec, load_robot
from nac_ros.ros import messages, qos
from nac_ros.ros.graph_client import DISCOVERY_S, GraphClient
from nac_ros.ros.node_graph import TWIN, default_robot, policy_graph, twin_graph

HORIZON, N_ACTION_STEPS = 32, 8  # steps of a chunk, and after how many the next one is sent
HEARTBEAT_S = 0.05
ANSWER_S = 10.0  # until the guard accepts or rejects the first chunk
APPROACH_S = 60.0  # limit for the slow approach to the start, at a tenth of the speed
NO_TOKENS = np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class EpisodeReplayConfig:
    """data: dataset; episode: its number; action_key: column, '' for the dataset's usual one
    robot: name or YAML file of the robot whose guard runs; `twin` starts the twin and a guard
    speed: share of the recorded speed; out: folder of all replay runs
    """

    data: str
    episode: int = 0
    action_key: str = ""
    robot: str = TWIN
    speed: float = number_field(1.0, 0.05, 1.0)
    out: str = "runs/replay"

    def __post_init__(self) -> None:
        check_fields(self)


def replay_episode(config: EpisodeReplayConfig) -> dict[str, Any]:
    """Replays the episode and returns the deviations from it, by joint [rad or m]."""
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
    with _graph(config) as client:
        return _EpisodePlayer(client, spec, episode.actions, rate).play()


class _EpisodePlayer:
    """Sends an episode's actions as chunks, like a policy, and measures the arm's motion."""

    def __init__(self, client: GraphClient, spec: RobotSpec, actions: np.ndarray, rate: float):
        """actions: `[T, D]` at `rate` per second"""
        self._client, self._spec, self._actions, self._rate = client, spec, actions, rate
        node = client.node
        self._chunks = node.create_publisher(JointTrajectory, "policy/chunk", qos.COMMAND)
        self._heartbeats = node.create_publisher(Header, "policy/heartbeat", qos.COMMAND)
        self._samples: dict[str, list[tuple[float, np.ndarray]]] = {}
        self._subscribe("commanded", "guard/command", qos.MONITOR)
        self._subscribe("measured", spec.joint_states_topic, qos.SENSOR_QUEUE)
        self._ending = Event()
        self._before: dict[str, Any] = {}  # the guard's diagnostics before the replay

    def play(self) -> dict[str, Any]:
        """Replays the whole episode; raises NacError if the guard stops it."""
        client = self._client
        heartbeat = Thread(target=self._send_heartbeats, daemon=True)
        heartbeat.start()
        try:
            client.wait_until(
                lambda: self._chunks.get_subscription_count() > 0, "a guard that listens", 10
            )
            client.wait_until(
                lambda: all(self._samples.values()), "joint states and the guard's commands", 10
            )
            time.sleep(DISCOVERY_S)  # now the guard has discovered the publishers too
            client.set_mode("policy")
            self._before = dict(client.latest_diagnostics("guard"))
            self._approach_start()
            began = self._now()
            self._send_all(began)
            client.wait_until(self._is_at_rest, "the arm to rest", 30)
        finally:
            self._ending.set()
            heartbeat.join()
            client.set_mode("hold")
        return self._results(began)

    def _approach_start(self) -> None:
        """Moves to the first action, slowly if it is far away."""
        start = np.repeat(self._actions[:1], HORIZON, 0)
        deadline = time.monotonic() + ANSWER_S
        while not self._is_too_far() and self._guard("state") != "running":
            if time.monotonic() > deadline:
                reason = self._guard("last_rejection") or "it reports no reason"
                raise NacError(f"the guard does not accept the episode's start: {reason}")
            self._send(self._now(), start)
            time.sleep(N_ACTION_STEPS / self._rate)
        if self._is_too_far():
            print("moving slowly to the start of the episode", flush=True)
            self._client.trigger("guard/ramp")
            time.sleep(0.5)
            self._client.wait_until(self._is_at_rest, "the arm to reach the start", APPROACH_S)

    def _send_all(self, began: float) -> None:
        for first in range(0, len(self._actions), N_ACTION_STEPS):
            due = began + first / self._rate
            self._wait_until_time(due)
            if fault := self._guard("fault"):
                raise NacError(f"the guard stopped the episode: {fault}; see its diagnostics")
            self._send(due, self._actions[first : first + HORIZON])

    def _wait_until_time(self, due: float) -> None:
        self._client.wait_until(lambda: self._now() >= due, "the next chunk's time")

    def _send(self, stamp: float, actions: np.ndarray) -> None:
        names = self._spec.joint_names
        chunk = ActionChunk(stamp, self._rate, names, actions.astype(np.float32), NO_TOKENS)
        self._chunks.publish(messages.to_chunk_message(chunk))

    def _send_heartbeats(self) -> None:
        while not self._ending.wait(HEARTBEAT_S):
            self._heartbeats.publish(Header(stamp=messages.to_time(self._now())))

    def _now(self) -> float:
        return messages.to_seconds(self._client.node.get_clock().now().to_msg())

    def _guard(self, key: str) -> Any:
        return self._client.latest_diagnostics("guard").get(key, "")

    def _is_at_rest(self) -> bool:
        return self._guard("state") in AT_REST

    def _is_too_far(self) -> bool:
        """Whether the guard rejected a chunk because it starts too far from the arm."""
        return self._count("rejections.jump") > 0

    def _count(self, key: str) -> int:
        """A count of the guard since the start of the replay."""
        return (self._guard(key) or 0) - self._before.get(key, 0)

    def _subscribe(self, name: str, topic: str, profile: Any) -> None:
        """Collects the joint positions of a topic in `_samples[name]`."""
        merger = JointStateMerger(self._spec.joint_names, self._spec.joint_states_max_age_s)
        samples = self._samples[name] = []

        def store(message: JointState) -> None:
            try:
                sample = merger.add_message(message)
            except BadObservation:  # the guard reports it, and stops if it persists
                return
            if sample is not None:
                samples.append(sample)

        self._client.node.create_subscription(JointState, topic, store, profile)

    def _results(self, began: float) -> dict[str, Any]:
        """Root mean square and largest deviation from the recorded actions at their due times."""
        due = began + (np.arange(len(self._actions)) + 1) / self._rate
        results: dict[str, Any] = {"seconds": len(due) / self._rate}
        for name, samples in self._samples.items():
            times, positions = (np.array(values) for values in zip(*samples))
            at_due = np.stack([np.interp(due, times, column) for column in positions.T], 1)
            deviation = at_due - self._actions
            rms, largest = np.sqrt((deviation**2).mean(0)), np.abs(deviation).max(0)
            for key, values in (("rms", rms), ("max", largest)):
                results[f"{name}_{key}"] = dict(zip(self._spec.joint_names, values.tolist()))
        for kind in ("holds", "rejections", "clips"):
            keys = [
                k for k in self._client.latest_diagnostics("guard") if k.startswith(f"{kind}.")
            ]
            counts = {key.split(".", 1)[1]: self._count(key) for key in keys}
            results[kind] = {key: n for key, n in counts.items() if n}
        return results


@contextmanager
def _graph(config: EpisodeReplayConfig) -> Iterator[GraphClient]:
    """Starts twin and guard, or connects to the guard that runs in this ROS domain."""
    if config.robot != TWIN:
        with GraphClient(int(os.environ.get("ROS_DOMAIN_ID", "0"))) as client:
            client.wait_until(
                lambda: client.latest_diagnostics("guard"), "a guard; start policy.launch.py", 10
            )
            yield client
        return
    folder = make_run_folder(config.out)
    guard, _ = policy_graph(call_log=str((folder / "call_log").resolve()))
    with running_graph((*twin_graph(), guard), folder) as (_, client):
        client.trigger("guard/reset")
        yield client
