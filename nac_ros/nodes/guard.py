"""Node `guard`: sends chunks to the controllers at a fixed rate and stops the arm on faults.

It imports neither torch nor a simulator. Deactivating it is a planned stop. If the process dies,
the controllers play the last trajectory, which ends at rest.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from threading import RLock
from typing import Any, cast

from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from nac_ros.control.checks import Rejection
from nac_ros.control.guard import Guard
from nac_ros.control.logged_guard import LoggedGuard, call_log_folder
from nac_ros.control.types import AT_REST, GuardConfig, Mode
from nac_ros.core.config import number_field
from nac_ros.core.errors import NacError
from nac_ros.core.garbage_collection import GarbageCollection
from nac_ros.core.realtime import (
    DelayedExecutor,
    PeriodicTimer,
    set_cpu_affinity,
    set_realtime_priority,
)
from nac_ros.core.timing import Intervals
from nac_ros.robot.spec import load_robot
from nac_ros.ros import messages, parameters, qos
from nac_ros.ros.diagnostics import QueuedDiagnostics, Status
from nac_ros.ros.guard_io import ControllerPublisher, GuardInputs
from nac_ros.ros.guard_mode import HOLD, MODES, ModeRequest, ModeRequests
from nac_ros.ros.guard_status import call_log_values, guard_status
from nac_ros.ros.node_clock import NodeClock
from nac_ros.ros.node_main import ManagedNode, exit_process, run

COMMAND_AHEAD_S = 0.03  # guard/command is published so long before it is due, at an even rate
QUIET_S = 1.0  # rejections for the same reason publish diagnostics at most this often
MAX_TEXT = 500  # characters of a rejection that are reported
MAX_MODE = 80  # characters of an unknown mode that are reported
INACTIVE = "the guard is not active; activate it first"
IN_HOLD = "in mode hold, where the arm is; send guard/mode again: hold, then the mode"


@dataclass(frozen=True, kw_only=True)
class GuardNodeConfig(GuardConfig):
    """Parameters of the node.

    robot: name of a robot in config/robots, or path of its YAML file
    max_heartbeat_age_s: the guard stops if the policy is silent for longer; 0 = no heartbeat
    priority: SCHED_FIFO priority, if the system permits it; 0 = no real-time priority
    cpus: numbers of the CPUs that the guard may use; empty = all
    call_log: folder of the call log; `auto` = a new one below ROS_HOME, `none` = no call log
    """

    robot: str = "vx300s"
    call_log: str = "auto"
    max_heartbeat_age_s: float = number_field(0.2, 0.0, 10.0)
    priority: int = number_field(50, 0, 98)
    cpus: tuple[int, ...] = ()


class GuardNode(ManagedNode):
    """Passes messages to a Guard and its set-points to the controllers.

    Ticks run in a thread of their own; services and parameters in the executor's.
    """

    def __init__(self) -> None:
        super().__init__("guard")
        config = parameters.declare(self, GuardNodeConfig, changeable=("speed_scale",))
        self.add_on_set_parameters_callback(self._on_parameters)
        self._spec = load_robot(config.robot)
        self._time = NodeClock(self, config.max_gap_s)
        self._guard = self._create_guard(config)
        self._intervals = Intervals(self._guard.period)
        self._active, self._lock = False, RLock()
        self._state, self._hold_reason, self._last_rejection = "inactive", "", ""
        self._rejection_reported_at: dict[str, float] = {}
        self._collector = GarbageCollection()
        affinity = set_cpu_affinity(config.cpus)
        self._scheduling = f"{affinity}, {set_realtime_priority(config.priority)}"
        self.diagnostics = self._queued_diagnostics = QueuedDiagnostics(self, self._status)
        self._inputs: GuardInputs | None = None
        self._mode_requests: ModeRequests | None = None
        self._ticks: PeriodicTimer | None = None
        self._command_sender = DelayedExecutor(COMMAND_AHEAD_S)
        self.log.info(f"scheduled {self._scheduling}")

    def _create_guard(self, config: GuardNodeConfig) -> Guard:
        names = [field.name for field in fields(GuardConfig)]
        guard_config = GuardConfig(**{name: getattr(config, name) for name in names})
        folder = call_log_folder(config.call_log)
        if folder is None:
            return Guard(self._spec, guard_config)
        return LoggedGuard(self._spec, guard_config, folder)

    def configure(self) -> None:
        self._command = self.create_publisher(JointState, "guard/command", qos.MONITOR)
        self._controllers = [
            ControllerPublisher(self, self._spec, group) for group in self._spec.groups
        ]
        self.create_service(Trigger, "guard/stop", self._on_stop)
        self.create_service(Trigger, "guard/reset", self._on_reset)
        self.create_service(Trigger, "guard/ramp", self._on_ramp)
        self._inputs = GuardInputs(self, self._spec, self._time, self._on_rejection)
        self.log.info(self._inputs.reference_text)
        self._collector.freeze()
        self._ticks = PeriodicTimer(self._guard.period, self._update, "ticks")

    def activate(self) -> None:
        """Starts in mode hold where the arm is; modes requested before do not count."""
        with self._lock:
            if not self._guard.is_at_rest(self._time.now()):
                raise NacError("the arm has not come to rest; activate again in a moment")
            self._guard.restart()
            self._intervals.restart()
            self._mode_requests = ModeRequests(self)
            self._state, self._hold_reason = self._guard.state, self._guard.hold_reason
            self._active = True

    def stop(self) -> None:
        """A planned stop: sends the controllers the complete stop, then nothing more."""
        with self._lock:
            if not self._active:
                return
            self._active = False
            self._guard.set_mode(HOLD)
            self._tick()
            self._mode_requests = None
            self._command_sender.flush()
            self._state, self._hold_reason = "inactive", ""
            self.diagnostics.publish()

    def release(self) -> None:
        if self._ticks is not None:
            self._ticks.stop()
        self._ticks = self._inputs = None

    def close(self) -> None:
        self.stop()
        self.release()
        self._command_sender.close()
        if isinstance(self._guard, LoggedGuard):
            self._guard.call_log.close()
        self._queued_diagnostics.close()

    def _update(self) -> None:
        with self._lock:
            assert self._inputs is not None
            if self._time.read():
                self._guard.handle_clock_jump()
            if not self._time.begun:  # simulated time was not published yet
                return
            if self._mode_requests is not None and (requests := self._mode_requests.take()):
                self._set_modes(requests)
            self._inputs.update(self._guard, self._time.now(), self._active)
            if self._active:
                self._tick()
            if not self._active or (self._state in AT_REST and self._guard.mode == HOLD):
                self._collector.collect_if_due()

    def _tick(self) -> None:
        now, steady = self._time.now(), time.monotonic()
        guard, origin_ns = self._guard, self._time.origin_ns
        for stamp, positions, velocities, *_ in guard.tick(now):
            message = messages.to_joint_state(
                stamp, self._spec.joint_names, positions, velocities, origin_ns=origin_ns
            )
            self._command_sender.submit(
                stamp, now, steady, partial(self._command.publish, message)
            )
        before = (self._state, self._hold_reason)
        self._state, self._hold_reason = guard.state, guard.hold_reason
        self._send_trajectory(now, moved=before[0] in ("running", "stopping"))
        if guard.setpoint is not None:
            self._intervals.mark(now)
        if (self._state, self._hold_reason) != before:
            self.diagnostics.publish()

    def _send_trajectory(self, now: float, moved: bool) -> None:
        """Sends nothing to an arm at rest, and nothing after a clock jump (`tick_gap`): the
        trajectory that the controllers have ends at rest."""
        guard = self._guard
        if (guard.state in AT_REST and not moved) or guard.fault == "tick_gap":
            return
        trajectory, setpoint = guard.trajectory_update(self._time.now()), guard.setpoint
        for controller in self._controllers:
            controller.send(trajectory, setpoint, now, self._time.origin_ns)

    def _set_modes(self, requests: Sequence[ModeRequest]) -> None:
        """Applies mode requests in order; an unknown mode is a hold."""
        guard = self._guard
        for mode, rejection in requests:
            if rejection and mode == guard.mode:
                continue
            if rejection:
                self._on_rejection(guard.reject("hold_first", rejection))
            elif mode in MODES:
                self._on_rejection(guard.set_mode(cast(Mode, mode)))
            else:
                known = ", ".join(MODES)
                text = f"guard/mode '{mode[:MAX_MODE]}' is unknown, the arm holds; known: {known}"
                self._on_rejection(guard.reject("unknown_mode", text))
                self._on_rejection(guard.set_mode(HOLD))
        self.diagnostics.publish()

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self._guard.stop()
        response.success, response.message = True, "stopping; guard/reset ends the stop"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self._guard.reset()
            if self._mode_requests is not None:
                self._mode_requests.discard()
        response.success, response.message = True, IN_HOLD
        return response

    def _on_ramp(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            if not self._active:
                response.success, response.message = False, INACTIVE
                return response
            rejection = self._guard.approach()
        response.success = rejection is None
        moving = "moving slowly to the start of the chunk"
        response.message = moving if rejection is None else rejection.text
        return response

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        try:
            for parameter in changed:
                if parameter.name == "speed_scale":
                    with self._lock:
                        self._guard.set_speed_scale(parameter.value)
        except NacError as error:  # rclpy accepts values a rounding error beyond the range
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _on_rejection(self, rejection: Rejection | None) -> None:
        if rejection is None or rejection.reason in ("mode", "settling"):
            return
        reason, text = rejection.reason, rejection.text[:MAX_TEXT]
        self._last_rejection = text
        self.log.warning(f"rejected, {reason}: {text}", reason)
        now = time.monotonic()
        if now - self._rejection_reported_at.get(reason, -QUIET_S) >= QUIET_S:
            self._rejection_reported_at[reason] = now
            self.diagnostics.publish()

    def _status(self) -> Status:
        with self._lock:
            errors = self._intervals.errors_ms()
            more: dict[str, Any] = {
                **{f"command_interval_error_ms.{key}": value for key, value in errors.items()},
                "last_rejection": self._last_rejection,
                "scheduling": self._scheduling,
                "gc_pause_ms.max": 1e3 * self._collector.longest_s,
            }
            if isinstance(self._guard, LoggedGuard):
                more |= call_log_values(self._guard.call_log)
            if self.log.dropped:
                more["log_dropped"] = self.log.dropped
            now, origin_ns = self._time.now(), self._time.origin_ns
            return guard_status(self._guard, self._state, self._hold_reason, now, origin_ns, more)


def main() -> None:
    """Entry point of the executable `guard`."""
    exit_process(run(GuardNode))


if __name__ == "__main__":
    main()
