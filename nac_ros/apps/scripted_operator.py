"""`nac data demonstrate`: a scripted operator teleoperates the twin and records episodes.

It sends what a person's devices send: the leader arm's joint states and the pedal's buttons on
`joy`. Teleop, guard and recorder run as in a lab; the twin's success detector decides the outcome.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sensor_msgs.msg import JointState, Joy

from nac_ros.apps.demo import make_run_folder, running_graph
from nac_ros.apps.demo_trials import reset_scene
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import NacError
from nac_ros.nodes.teleop import LEADER_TOPIC
from nac_ros.robot.spec import RobotSpec, load_robot
from nac_ros.ros import messages, qos
from nac_ros.ros.graph_client import GraphClient
from nac_ros.ros.node_graph import TWIN, default_robot, record_graph
from nac_ros.simulation.expert import Demonstration, demonstrate
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.twin import Twin
from nac_ros.teleop.input_mapping import load_input_mapping

MAPPING = "leader"
SEND_HZ = 100.0
N_AXES = 8  # of the gamepad; none of them moves
CLUTCH_S = 0.4  # the clutch is held for this time before the leader moves
PRESS_S = 0.2  # duration of a button press
OUTCOME_S = 1.5  # limit for the success detector after the last action
PRESS_AGAIN_S = 5.0  # a press may be lost: devices publish without delivery guarantee
ANSWER_S = 60.0
MAX_FAILURES = 10  # in a row


@dataclass(frozen=True, kw_only=True)
class ScriptedOperatorConfig:
    """task: id; episodes: successful ones to record; seed: of the scenes; out: their folder"""

    task: str
    episodes: int = number_field(20, 1, 100_000)
    seed: int = number_field(0, 0)
    out: str = "runs/episodes"

    def __post_init__(self) -> None:
        check_fields(self)


def record_demonstrations(config: ScriptedOperatorConfig) -> dict[str, Any]:
    """Records until `episodes` succeeded; returns {"kept", "discarded", "out", "minutes"}.

    Raises NacError for an unknown task, if a node fails, or after MAX_FAILURES failures in a row.
    """
    spec = load_robot(default_robot("twin"))
    planning_twin = Twin(spec, config.task, render=False)
    out, began = Path(config.out).resolve(), time.monotonic()
    logs = make_run_folder(out.parent / f"{out.name}.logs")
    graph = record_graph(TWIN, MAPPING, task=config.task, out=str(out), operator="scripted")
    for node in graph:
        if node.name == "recorder":
            node.parameters["task"] = planning_twin.task.prompt
        elif node.name == "teleop":
            node.parameters.update(speed=1.0, acceleration=1.0, leader_mode="absolute")
    kept, failures = 0, 0
    with running_graph(graph, logs) as (_, client):
        operator = _ScriptedOperator(client, spec)
        for trial in itertools.count():
            scene = scene_seed(config.task, config.seed, trial)
            plan = demonstrate(planning_twin, scene, np.random.default_rng(scene))
            outcome = operator.record_episode(config, trial, plan)
            succeeded = outcome == "success"
            kept, failures = kept + succeeded, 0 if succeeded else failures + 1
            print(f"{kept}/{config.episodes}: scene {trial}, {outcome}", flush=True)
            if kept == config.episodes:
                break
            if failures == MAX_FAILURES:
                raise NacError(
                    f"{MAX_FAILURES} demonstrations of {config.task} in a row failed, the last "
                    f"one: {outcome}; see the logs in {logs}"
                )
    minutes = (time.monotonic() - began) / 60
    return {"kept": kept, "discarded": trial + 1 - kept, "out": str(out), "minutes": minutes}


class _ScriptedOperator:
    """Publishes the messages of leader arm and pedal."""

    def __init__(self, client: GraphClient, spec: RobotSpec):
        self._client, self._spec, self._mapping = client, spec, load_input_mapping(MAPPING)
        node = client.node
        self._leader = node.create_publisher(JointState, LEADER_TOPIC, qos.SENSOR_PUBLISHER)
        self._joy = node.create_publisher(Joy, "joy", qos.SENSOR_PUBLISHER)
        self._due = 0.0

    def record_episode(
        self, config: ScriptedOperatorConfig, trial: int, plan: Demonstration
    ) -> str:
        """Records the planned demonstration; returns `success`, or why it was discarded."""
        client = self._client
        if not plan.success:
            return f"not recorded: the planned demonstration fails ({plan.reason})"
        reset_scene(client, config.task, config.seed, trial)
        client.wait_until(self._streams_are_ready, "the recorder's streams", ANSWER_S)
        rows = self._leader_rows(plan.actions)
        self._press_until("start", rows[0], "recording")
        self._hold(CLUTCH_S, rows[0], self._mapping.clutch)
        for row in rows:
            self._send(row, self._mapping.clutch)
            if self._outcome(trial) == "failure":
                break
        outcome = self._wait_for_outcome(trial, rows[-1])
        self._press_until("success" if outcome == "success" else "discard", rows[-1], "ready")
        return outcome

    def _leader_rows(self, actions: np.ndarray) -> np.ndarray:
        """Actions `[T, D]` as the leader's joint states `[N, D]` at SEND_HZ, grippers 0 to 1."""
        rate = self._spec.action_rate_hz
        steps = np.arange(0, len(actions) / rate, 1 / SEND_HZ) * rate
        known = np.arange(len(actions))
        rows = np.stack([np.interp(steps, known, column) for column in actions.T], 1)
        low, high = self._spec.position_low, self._spec.position_high
        gripper = ~self._spec.relative_mask
        rows[:, gripper] = ((rows - low) / (high - low))[:, gripper]
        return rows

    def _wait_for_outcome(self, trial: int, row: np.ndarray) -> str:
        """Holds the leader still until the success detector decides."""
        deadline = time.monotonic() + OUTCOME_S
        while time.monotonic() < deadline:
            if (outcome := self._outcome(trial)) != "running":
                return outcome
            self._send(row, self._mapping.clutch)
        return "not done in time"

    def _outcome(self, trial: int) -> str:
        """`running` until the success detector has decided this trial."""
        outcome = self._client.outcome
        return str(outcome["state"]) if outcome.get("trial") == trial else "running"

    def _press_until(self, action: str, row: np.ndarray, state: str) -> None:
        """Presses a button until the recorder reports `state`, at most ANSWER_S.

        The recorder rejects a second press of the same button, so repeating one is safe.
        """
        reached, next_press = self._recorder_is(state), time.monotonic()

        def is_reached() -> bool:
            nonlocal next_press
            if not reached() and time.monotonic() >= next_press:
                self._press(action, row)
                next_press = time.monotonic() + PRESS_AGAIN_S
            return reached()

        self._client.wait_until(is_reached, f"the recorder to be {state}", ANSWER_S)

    def _press(self, action: str, row: np.ndarray) -> None:
        """Presses a button with the clutch released."""
        for button in (None, self._mapping.buttons[action], None):
            self._hold(PRESS_S, row, button)

    def _hold(self, seconds: float, row: np.ndarray, button: int | None) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._send(row, button)

    def _send(self, row: np.ndarray, button: int | None) -> None:
        """Publishes one message of each device when it is due."""
        self._due = max(self._due + 1 / SEND_HZ, time.monotonic() - 1 / SEND_HZ)
        time.sleep(max(self._due - time.monotonic(), 0.0))
        message = messages.to_joint_state(time.time(), self._spec.joint_names, row)
        n_buttons = 1 + max(self._mapping.clutch, *self._mapping.buttons.values())
        buttons = [int(i == button) for i in range(n_buttons)]
        self._leader.publish(message)
        self._joy.publish(Joy(header=message.header, axes=[0.0] * N_AXES, buttons=buttons))

    def _recorder_is(self, state: str) -> Callable[[], bool]:
        return lambda: self._client.latest_diagnostics("recorder").get("state") == state

    def _streams_are_ready(self) -> bool:
        report = self._client.latest_diagnostics("recorder")
        return report.get("state") == "ready" and not any(k.startswith("problem.") for k in report)
