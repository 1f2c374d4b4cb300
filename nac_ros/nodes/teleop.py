"""Node `teleop`: a hand leads the arm through the guard while it holds the clutch.

Gamepad, SpaceMouse, keyboard or leader arm; every decision is nac_ros.teleop.teleoperator's.
Deactivated, killed or deaf it sends nothing, so the guard brings the arm to rest.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from rclpy.timer import Timer
from sensor_msgs.msg import JointState, Joy
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from nac_ros.core.config import number_field
from nac_ros.core.errors import NacError
from nac_ros.robot.spec import load_robot
from nac_ros.ros import messages, parameters, qos
from nac_ros.ros.diagnostics import OK, WARN, Diagnostics, Status
from nac_ros.ros.guard_mode import HOLDS_BEFORE_START, ModePublisher
from nac_ros.ros.node_clock import STEADY
from nac_ros.ros.node_log import NodeLog
from nac_ros.ros.node_main import exit_process, run
from nac_ros.ros.polled_subscription import PolledSubscription
from nac_ros.teleop.clutch import TELEOP, GuardStatus
from nac_ros.teleop.input_mapping import load_input_mapping
from nac_ros.teleop.keyboard import Keyboard
from nac_ros.teleop.teleoperator import Teleoperator, TeleoperatorConfig

LEADER_TOPIC = "leader/joint_states"
MAX_BYTES = 65_536  # of a message of a device, the guard or on diagnostics
SERVICES = {  # action of a button -> what it calls
    "start": "recorder/start",
    "success": "recorder/stop",
    "discard": "recorder/discard",
    "mark": "recorder/mark",
    "stop": "guard/stop",
}


@dataclass(frozen=True, kw_only=True)
class TeleopParameters(TeleoperatorConfig):
    """Parameters of the node.

    robot: name of a robot in config/robots, or the path of its YAML file
    mapping: name of a mapping in config/teleop, or the path of a YAML file like those
    rate_hz: how often commands are sent
    """

    robot: str = "vx300s"
    mapping: str = "gamepad"
    rate_hz: float = number_field(100.0, 20.0, 200.0)


class TeleopNode(LifecycleNode):
    """Messages in, commands out."""

    def __init__(self) -> None:
        super().__init__("teleop")
        self._parameters = parameters.declare(self, TeleopParameters)
        chosen = {f.name: getattr(self._parameters, f.name) for f in fields(TeleoperatorConfig)}
        self._spec = load_robot(self._parameters.robot)
        hand = load_input_mapping(self._parameters.mapping)
        self._teleoperator = Teleoperator(self._spec, TeleoperatorConfig(**chosen), hand)
        self._keyboard = Keyboard(hand) if hand.source == "keyboard" else None
        self._state, self._ticks = "not configured", list[Timer]()
        self._inputs: list[tuple[PolledSubscription, Callable[[Any], None]]] = []
        self._calls: dict[str, Any] = {}
        self._said: dict[str, str] = {}  # action -> what became of its newest call
        self._marked = 0  # takeovers that the recorder was told of
        self._log = NodeLog(self)
        self._diagnostics = Diagnostics(self, self._status)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._commands = self.create_publisher(JointTrajectory, "teleop/command", qos.COMMAND)
        self._modes = ModePublisher(self)
        self._listen(JointState, "guard/command", self._on_set_point)
        self._listen(DiagnosticArray, "diagnostics", self._on_reports, qos.MONITOR)
        if self._keyboard is None:
            self._listen(Joy, "joy", self._on_joy)
        if self._teleoperator.mapping.source == "leader":
            self._listen(JointState, LEADER_TOPIC, self._on_leader)
        self._calls = {name: self.create_client(Trigger, to) for name, to in SERVICES.items()}
        self._set_state("inactive")
        return TransitionCallbackReturn.SUCCESS

    def _listen(
        self,
        kind: Any,
        topic: str,
        take: Callable[[Any], None],
        profile: QoSProfile = qos.SENSOR,
    ) -> None:
        self._inputs.append((PolledSubscription(self, kind, topic, profile, MAX_BYTES), take))

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._teleoperator.reset()
        for polled, _ in self._inputs:
            list(polled.take())  # nothing that was done before counts
        period = 1 / self._parameters.rate_hz
        self._ticks = [self.create_timer(period, self._tick, clock=STEADY)]
        self._set_state("active")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._rest()
        self._set_state("inactive")
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        for polled, _ in self._inputs:
            self.destroy_subscription(polled.subscription)
        self._inputs.clear()
        for client in self._calls.values():
            self.destroy_client(client)
        for publisher in (self._commands, self._modes.publisher):
            self.destroy_publisher(publisher)
        self._set_state("not configured")
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._rest()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """The arm is let go, and the terminal given back."""
        try:
            self._rest()
        finally:
            if self._keyboard is not None:
                self._keyboard.close()

    def _rest(self) -> None:
        if not self._ticks:
            return
        self.destroy_timer(self._ticks.pop())
        self._ask(self._teleoperator.disengage())

    def _set_state(self, state: str) -> None:
        self._state = state
        self._diagnostics.publish()

    def _ask(self, mode: str) -> None:
        """A takeover asks with a hold before it; what hands the arm back ends no other's hold."""
        if mode == TELEOP:
            self._modes.request(mode)
        elif mode:
            self._modes.publish(mode)

    def _tick(self) -> None:
        self._take_inputs()
        now, before = time.monotonic(), self._text()
        if self._keyboard is not None and (keys := self._keyboard.poll(now)) is not None:
            self._teleoperator.update_joy(now, *keys)
        stamp = messages.to_seconds(self.get_clock().now().to_msg())
        command = self._teleoperator.tick(now, stamp)
        self._ask(command.mode)
        if command.chunk is not None:
            self._commands.publish(messages.to_chunk_message(command.chunk))
        for action in command.actions:
            self._call(action)
        if self._teleoperator.clutch.takeovers > self._marked:
            self._marked = self._teleoperator.clutch.takeovers
            self._call("mark")
        if self._text() != before:
            self._diagnostics.publish()

    def _take_inputs(self) -> None:
        for polled, told in self._inputs:
            for received in polled.take():
                try:
                    told(received.deserialize(polled.message_type))
                except NacError as error:
                    self._log.warning(f"{polled.topic}: {error}", polled.topic)

    def _on_joy(self, message: Joy) -> None:
        self._teleoperator.update_joy(time.monotonic(), message.axes, message.buttons)

    def _on_leader(self, message: JointState) -> None:
        self._teleoperator.update_leader(time.monotonic(), message.name, message.position)

    def _on_set_point(self, message: JointState) -> None:
        positions = messages.from_joint_state(message, self._spec.joint_names)
        self._teleoperator.update_setpoint(time.monotonic(), positions, np.array(message.velocity))

    def _on_reports(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "guard":
                said = messages.values_from_status(status)
                facts = [str(said.get(key, "")) for key in ("mode", "fault", "last_rejection")]
                settling = said.get("hold") in HOLDS_BEFORE_START
                self._teleoperator.update_guard_status(GuardStatus(time.monotonic(), *facts, settling))

    def _call(self, action: str) -> None:
        """Calls the service of an action; one that is absent is said and nothing more."""
        client, service = self._calls[action], SERVICES[action]
        if not client.service_is_ready():
            self._answered(action, f"there is no service {service}; does its node run?")
            return
        self._said[action] = f"{service} was called"
        client.call_async(Trigger.Request()).add_done_callback(partial(self._on_answer, action))

    def _on_answer(self, action: str, future: Any) -> None:
        answer = future.result()
        self._answered(action, answer.message, answer.success)

    def _answered(self, action: str, text: str, success: bool = False) -> None:
        """Logs what became of a call, unless it is what came of the one before."""
        if text != self._said.get(action) or success:
            if success:
                self._log.info(f"{action}: {text}")
            else:
                self._log.warning(f"{action}: {text}", action)
        self._said[action] = text
        self._diagnostics.publish()

    def _text(self) -> str:
        teleoperator = self._teleoperator
        if self._state != "active":
            return self._state
        if teleoperator.driving:
            return "driving" + (
                f", held back: {', '.join(teleoperator.limited_by)}" if teleoperator.limited_by else ""
            )
        return teleoperator.reason or ("taking over" if teleoperator.clutch.engaged else "ready")

    def _status(self) -> Status:
        teleoperator, text = self._teleoperator, self._text()
        quiet = teleoperator.driving or not teleoperator.reason or self._state != "active"
        values: dict[str, Any] = {
            "clutch": teleoperator.clutch.engaged,
            "driving": teleoperator.driving,
            "takeovers": teleoperator.clutch.takeovers,
            "source": teleoperator.mapping.source,
            "jog": teleoperator.jog.mode,
            "frame": teleoperator.jog.frame,
        }
        values |= {f"age_s.{name}": age for name, age in teleoperator.input_ages(time.monotonic()).items()}
        values |= {f"limited_ticks.{name}": n for name, n in teleoperator.limited_ticks.items()}
        values |= {f"rejections.{name}": n for name, n in teleoperator.rejections.items()}
        values |= {f"called.{action}": said for action, said in self._said.items()}
        values["last_rejection"] = teleoperator.last_rejection
        return Status(OK if quiet else WARN, text, values)


def main() -> None:
    """Entry point of the executable `teleop`."""
    exit_process(run(TeleopNode))


if __name__ == "__main__":
    main()
