"""Node `teleop`: the operator leads the arm through the guard while the clutch is held.

Input devices are gamepad, SpaceMouse, keyboard or leader arm; nac_ros.teleop.teleoperator decides.
If the node is deactivated or killed, or loses its device, it sends nothing and the guard stops the
arm.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile
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
from nac_ros.ros.node_main import ManagedNode, exit_process, run
from nac_ros.ros.polled_subscription import PolledSubscription
from nac_ros.teleop.clutch import TELEOP, GuardStatus
from nac_ros.teleop.input_mapping import load_input_mapping
from nac_ros.teleop.keyboard import Keyboard
from nac_ros.teleop.teleoperator import Teleoperator, TeleoperatorConfig

LEADER_TOPIC = "leader/joint_states"
MAX_BYTES = 65_536  # of a message of a device, of the guard or on diagnostics
SERVICES = {  # action of a button -> service
    "start": "recorder/start",
    "success": "recorder/stop",
    "discard": "recorder/discard",
    "mark": "recorder/mark",
    "stop": "guard/stop",
}


@dataclass(frozen=True, kw_only=True)
class TeleopParameters(TeleoperatorConfig):
    """Parameters of the node.

    robot: name of a robot in config/robots, or path of its YAML file
    mapping: name of an input mapping in config/teleop, or path of its YAML file
    rate_hz: rate of the commands
    """

    robot: str = "vx300s"
    mapping: str = "gamepad"
    rate_hz: float = number_field(100.0, 20.0, 200.0)


class TeleopNode(ManagedNode):
    """Passes messages to a Teleoperator and publishes its commands."""

    def __init__(self) -> None:
        super().__init__("teleop")
        self._config = config = parameters.declare(self, TeleopParameters)
        self._spec, mapping = load_robot(config.robot), load_input_mapping(config.mapping)
        self._teleoperator = Teleoperator(self._spec, config, mapping)
        self._keyboard = Keyboard(mapping) if mapping.source == "keyboard" else None
        self._running = False  # between activation and stop
        self._inputs: list[tuple[PolledSubscription, Callable[[Any], None]]] = []
        self._service_clients: dict[str, Any] = {}
        self._call_results: dict[str, str] = {}  # action -> result of its newest call
        self._n_marked = 0  # takeovers that were marked in the recording
        self.diagnostics = Diagnostics(self, self._status)

    def configure(self) -> None:
        self._commands = self.create_publisher(JointTrajectory, "teleop/command", qos.COMMAND)
        self._modes = ModePublisher(self)
        self._inputs.clear()
        self._add_input(JointState, "guard/command", self._on_set_point)
        self._add_input(DiagnosticArray, "diagnostics", self._on_reports, qos.MONITOR)
        if self._keyboard is None:
            self._add_input(Joy, "joy", self._on_joy)
        if self._teleoperator.mapping.source == "leader":
            self._add_input(JointState, LEADER_TOPIC, self._on_leader)
        self._service_clients = {
            action: self.create_client(Trigger, service) for action, service in SERVICES.items()
        }

    def _add_input(
        self,
        message_type: Any,
        topic: str,
        read: Callable[[Any], None],
        profile: QoSProfile = qos.SENSOR,
    ) -> None:
        subscription = PolledSubscription(self, message_type, topic, profile, MAX_BYTES)
        self._inputs.append((subscription, read))

    def activate(self) -> None:
        self._teleoperator.reset()
        for subscription, _ in self._inputs:
            list(subscription.take())  # discards inputs from before the activation
        self.create_timer(1 / self._config.rate_hz, self._tick, clock=STEADY)
        self._running = True

    def stop(self) -> None:
        if self._running:
            self._running = False
            self._request_mode(self._teleoperator.disengage())

    def close(self) -> None:
        """Ends the control of the arm, and restores the terminal."""
        try:
            self.stop()
        finally:
            if self._keyboard is not None:
                self._keyboard.close()

    def _request_mode(self, mode: str) -> None:
        """A takeover is requested with a hold before it. The mode after a release is not: it must
        not end a hold that another node has requested."""
        if mode == TELEOP:
            self._modes.request(mode)
        elif mode:
            self._modes.publish(mode)

    def _tick(self) -> None:
        self._read_inputs()
        now, before = time.monotonic(), self._message()
        if self._keyboard is not None and (keys := self._keyboard.poll(now)) is not None:
            self._teleoperator.update_joy(now, *keys)
        stamp = messages.to_seconds(self.get_clock().now().to_msg())
        command = self._teleoperator.tick(now, stamp)
        self._request_mode(command.mode)
        if command.chunk is not None:
            self._commands.publish(messages.to_chunk_message(command.chunk))
        for action in command.actions:
            self._call(action)
        if self._teleoperator.clutch.takeovers > self._n_marked:
            self._n_marked = self._teleoperator.clutch.takeovers
            self._call("mark")
        if self._message() != before:
            self.diagnostics.publish()

    def _read_inputs(self) -> None:
        for subscription, read in self._inputs:
            for received in subscription.take():
                try:
                    read(received.deserialize(subscription.message_type))
                except NacError as error:
                    self.log.warning(f"{subscription.topic}: {error}", subscription.topic)

    def _on_joy(self, message: Joy) -> None:
        self._teleoperator.update_joy(time.monotonic(), message.axes, message.buttons)

    def _on_leader(self, message: JointState) -> None:
        self._teleoperator.update_leader(time.monotonic(), message.name, message.position)

    def _on_set_point(self, message: JointState) -> None:
        positions = messages.from_joint_state(message, self._spec.joint_names)
        velocities = np.array(message.velocity)
        self._teleoperator.update_setpoint(time.monotonic(), positions, velocities)

    def _on_reports(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "guard":
                report = messages.values_from_status(status)
                guard = GuardStatus(
                    time.monotonic(),
                    mode=str(report.get("mode", "")),
                    fault=str(report.get("fault", "")),
                    rejection=str(report.get("last_rejection", "")),
                    settling=report.get("hold") in HOLDS_BEFORE_START,
                )
                self._teleoperator.update_guard_status(guard)

    def _call(self, action: str) -> None:
        """Calls the service of an action; a missing service is only reported."""
        client, service = self._service_clients[action], SERVICES[action]
        if not client.service_is_ready():
            self._report_call(action, f"there is no service {service}; is its node running?")
            return
        self._call_results[action] = f"{service} was called"
        client.call_async(Trigger.Request()).add_done_callback(partial(self._on_response, action))

    def _on_response(self, action: str, future: Any) -> None:
        response = future.result()
        self._report_call(action, response.message, response.success)

    def _report_call(self, action: str, text: str, success: bool = False) -> None:
        """Reports the result of a call; a repeated failure is not logged again."""
        if success:
            self.log.info(f"{action}: {text}")
        elif text != self._call_results.get(action):
            self.log.warning(f"{action}: {text}", action)
        self._call_results[action] = text
        self.diagnostics.publish()

    def _message(self) -> str:
        teleoperator = self._teleoperator
        if self.lifecycle != "active":
            return self.lifecycle
        if teleoperator.driving:
            limits = ", ".join(teleoperator.limited_by)
            return f"driving, limited by: {limits}" if limits else "driving"
        return teleoperator.reason or ("taking over" if teleoperator.clutch.engaged else "ready")

    def _status(self) -> Status:
        teleoperator, now = self._teleoperator, time.monotonic()
        values: dict[str, Any] = {
            "clutch": teleoperator.clutch.engaged,
            "driving": teleoperator.driving,
            "takeovers": teleoperator.clutch.takeovers,
            "source": teleoperator.mapping.source,
            "jog": teleoperator.jog.mode,
            "frame": teleoperator.jog.frame,
            **{f"age_s.{device}": age for device, age in teleoperator.input_ages(now).items()},
            **{f"limited_ticks.{limit}": n for limit, n in teleoperator.limited_ticks.items()},
            **{f"rejections.{device}": n for device, n in teleoperator.rejections.items()},
            **{f"called.{action}": result for action, result in self._call_results.items()},
            "last_rejection": teleoperator.last_rejection,
        }
        blocked = self.lifecycle == "active" and not teleoperator.driving and teleoperator.reason
        return Status(WARN if blocked else OK, self._message(), values)


def main() -> None:
    """Entry point of the executable `teleop`."""
    exit_process(run(TeleopNode))


if __name__ == "__main__":
    main()
