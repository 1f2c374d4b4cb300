"""`nac data demonstrate`: a scripted operator leads the twin by a leader arm and records episodes.

It touches what a person would: the leader's joint states, the pedal's buttons on `joy`. Teleop,
guard and recorder are those of a lab, and the twin's judge is its eyes.
"""

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sensor_msgs.msg import JointState, Joy

from nac_ros.apps.demo import running
from nac_ros.control.types import AT_REST
from nac_ros.core.config import bounded, check_bounds
from nac_ros.core.errors import NacError
from nac_ros.nodes.teleop import LEADER_TOPIC
from nac_ros.robot.spec import RobotSpec, load_robot
from nac_ros.ros import messages, qos
from nac_ros.ros.graph_client import GraphClient
from nac_ros.ros.node_graph import TWIN, record_graph, default_robot
from nac_ros.simulation.expert import Demonstration, demonstrate
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.twin import Twin
from nac_ros.teleop.input_mapping import load_hand_map

MAPPING = "leader"
SEND_HZ = 100.0
AXES = 8  # of a gamepad, none of them moved
GRASP_S = 0.4  # the clutch is held before the hand moves
PRESS_S = 0.2  # a button is held for so long
SETTLE_S = 0.3  # by then the guard has seen where the arm is in the new scene
LOOK_S = 1.5  # the operator looks at the result before letting go
ANSWER_S = 20.0
FAILURES = 10  # demonstrations in a row that end the session


@dataclass(frozen=True, kw_only=True)
class HandConfig:
    """task: what is demonstrated; episodes: how many successes are kept; seed: of the scenes
    out: folder of episodes
    """

    task: str
    episodes: int = bounded(20, 1, 100_000)
    seed: int = bounded(0, 0)
    out: str = "runs/episodes"

    def __post_init__(self) -> None:
        check_bounds(self)


def record_demonstrations(config: HandConfig) -> dict[str, Any]:
    """Records until `episodes` succeeded; {"kept", "discarded", "out", "minutes"}.

    Raises NacError where the task is unknown, a node fails, or nothing succeeds any more.
    """
    spec = load_robot(default_robot("twin"))
    script = Twin(spec, config.task, render=False)
    out, began = Path(config.out).resolve(), time.monotonic()
    logs = out.parent / f"{out.name}.logs" / time.strftime("%Y%m%d-%H%M%S")
    logs.mkdir(parents=True)
    prompt = script.task.prompt
    graph = record_graph(TWIN, MAPPING, task=config.task, out=str(out), operator="scripted")
    for node in graph:
        if node.name == "recorder":
            node.parameters["task"] = prompt
        elif node.name == "teleop":
            node.parameters.update(speed=1.0, acceleration=1.0, clutching="absolute")
    kept, failed = 0, 0
    with running(graph, logs) as (_, operator):
        hand = _ScriptedOperator(operator, spec)
        for trial in itertools.count():
            said = hand.episode(config, trial, _script(script, config, trial))
            kept, failed = (kept + 1, 0) if said == "success" else (kept, failed + 1)
            print(f"{kept}/{config.episodes}: scene {trial}, {said}", flush=True)
            if kept == config.episodes:
                break
            if failed == FAILURES:
                raise NacError(
                    f"{FAILURES} demonstrations of {config.task} in a row failed, the last one by "
                    f"{said}; look at {logs}"
                )
    minutes = (time.monotonic() - began) / 60
    return {"kept": kept, "discarded": trial + 1 - kept, "out": str(out), "minutes": minutes}


def _script(twin: Twin, config: HandConfig, trial: int) -> Demonstration:
    """What the operator is going to do, tried out in a scene of its own."""
    scene = scene_seed(config.task, config.seed, trial)
    return demonstrate(twin, scene, np.random.default_rng(scene))


class _ScriptedOperator:
    """Leader arm and pedal."""

    def __init__(self, operator: GraphClient, spec: RobotSpec):
        self._operator, self._spec, self._map = operator, spec, load_hand_map(MAPPING)
        node = operator.node
        self._leader = node.create_publisher(JointState, LEADER_TOPIC, qos.SENSOR_PUBLISHER)
        self._joy = node.create_publisher(Joy, "joy", qos.SENSOR_PUBLISHER)
        self._due = 0.0

    def episode(self, config: HandConfig, trial: int, script: Demonstration) -> str:
        """One episode of the scene `trial`; `success`, or why it was thrown away."""
        operator = self._operator
        if not script.success:
            return f"not begun: the script would fail ({script.reason})"
        operator.wait_until(self._rests, "the arm to rest", ANSWER_S)
        scene = {"task": config.task, "seed": config.seed, "trial": trial}
        operator.set_parameters("twin", scene)
        operator.trigger("twin/reset")
        time.sleep(SETTLE_S)
        operator.trigger("guard/reset")  # the arm is elsewhere now, and that is all right
        operator.wait_until(self._streams_are_well, "the recorder's streams to be well", ANSWER_S)
        rows = self._rows(script.actions)
        self._press("start", rows[0])
        operator.wait_until(lambda: self._recorder("state") == "recording", "the recorder", ANSWER_S)
        self._hold(GRASP_S, rows[0], self._map.clutch)
        for row in rows:
            self._send(row, self._map.clutch)
            if self._judged(trial) == "failure":
                break
        outcome = self._look(trial, rows[-1])
        self._press("success" if outcome == "success" else "discard", rows[-1])
        operator.wait_until(lambda: self._recorder("state") == "ready", "the episode's end", ANSWER_S)
        return outcome

    def _rows(self, actions: np.ndarray) -> np.ndarray:
        """The leader's joint states `[N, D]` at SEND_HZ, its gripper from 0 to 1."""
        seconds = len(actions) / self._spec.action_rate_hz
        times = np.arange(0, seconds, 1 / SEND_HZ) * self._spec.action_rate_hz
        at = np.arange(len(actions))
        rows = np.stack([np.interp(times, at, column) for column in actions.T], 1)
        low, high = self._spec.position_low, self._spec.position_high
        grip = ~self._spec.relative_mask
        rows[:, grip] = ((rows - low) / (high - low))[:, grip]
        return rows

    def _look(self, trial: int, row: np.ndarray) -> str:
        """Holds still until the judge has spoken."""
        deadline = time.monotonic() + LOOK_S
        while time.monotonic() < deadline:
            if (judged := self._judged(trial)) != "running":
                return judged
            self._send(row, self._map.clutch)
        return "not done in time"

    def _judged(self, trial: int) -> str:
        """`running` until the judge has spoken of this very trial."""
        outcome = self._operator.outcome
        return str(outcome["state"]) if outcome.get("trial") == trial else "running"

    def _press(self, action: str, row: np.ndarray) -> None:
        """A button alone: the clutch is let go."""
        for pressed in (None, self._map.buttons[action], None):
            self._hold(PRESS_S, row, pressed)

    def _hold(self, seconds: float, row: np.ndarray, button: int | None) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._send(row, button)

    def _send(self, row: np.ndarray, button: int | None) -> None:
        """One message of each device, at its time."""
        self._due = max(self._due + 1 / SEND_HZ, time.monotonic() - 1 / SEND_HZ)
        time.sleep(max(self._due - time.monotonic(), 0.0))
        message = messages.to_joint_state(time.time(), self._spec.joint_names, row)
        count = 1 + max(self._map.clutch, *self._map.buttons.values())
        buttons = [int(i == button) for i in range(count)]
        self._leader.publish(message)
        self._joy.publish(Joy(header=message.header, axes=[0.0] * AXES, buttons=buttons))

    def _recorder(self, key: str) -> Any:
        return self._operator.latest_diagnostics("recorder").get(key)

    def _streams_are_well(self) -> bool:
        said = self._operator.latest_diagnostics("recorder")
        return said.get("state") == "ready" and not any(k.startswith("wrong.") for k in said)

    def _rests(self) -> bool:
        return self._operator.latest_diagnostics("guard").get("state") in (*AT_REST, "inactive", "")
