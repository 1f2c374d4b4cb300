"""Node `guard`: plays chunks to the controllers at a fixed rate, and stops the arm when in doubt.

It imports neither torch nor a simulator. Deactivating it is a planned stop, and so is its sudden
death: what the controllers hold ends at rest.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from threading import RLock
from typing import Any, cast

import numpy as np
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from nac_ros.control.checks import Rejection
from nac_ros.control.guard import Guard
from nac_ros.control.logged_guard import LoggedGuard, call_log_folder
from nac_ros.control.types import AT_REST, GuardConfig, Mode
from nac_ros.core.config import bounded
from nac_ros.core.errors import NacError
from nac_ros.core.garbage_collection import GarbageCollection
from nac_ros.core.realtime import DelayedExecutor, PeriodicTimer, set_realtime_priority, set_cpu_affinity
from nac_ros.core.timing import Intervals
from nac_ros.robot.spec import load_robot
from nac_ros.ros import messages, parameters, qos
from nac_ros.ros.diagnostics import ERROR, OK, WARN, QueuedDiagnostics, Status
from nac_ros.ros.guard_io import Controller, GuardInputs
from nac_ros.ros.guard_mode import MODES, ModeRequest, ModeRequests
from nac_ros.ros.node_clock import NodeClock
from nac_ros.ros.node_log import NodeLog
from nac_ros.ros.node_main import exit_process, run

PLANNED = ("", "mode_hold", "no_chunk", "settling")  # holds that need nobody's attention
COMMAND_S = 0.03  # so long before it is due a set-point is told, whatever planning takes
QUIET_S = 1.0  # rejections for the same reason are reported at once at most this often
MAX_TEXT = 500  # characters of a rejection that are kept
SHOWN = 80  # characters of a mode that nobody knows
INACTIVE = "the guard is not active; activate it first"


@dataclass(frozen=True, kw_only=True)
class GuardNodeConfig(GuardConfig):
    """Parameters of the node.

    robot: name of a robot in config/robots, or the path of its YAML file
    max_heartbeat_age_s: a policy silent for longer is taken for dead; 0 expects no heartbeat
    priority: real time on Linux (SCHED_FIFO) where the system lets it; 0 = as other processes
    cpus: numbers of the CPUs that the guard's threads run on, all of them where none is named
    call_log: folder of the call log; `auto` = a new one below ROS_HOME, `none` = no call log
    """

    robot: str = "vx300s"
    call_log: str = "auto"
    max_heartbeat_age_s: float = bounded(0.2, 0.0, 10.0)
    priority: int = bounded(50, 0, 98)
    cpus: tuple[int, ...] = ()


class GuardNode(LifecycleNode):
    """Messages in, set-points out; every decision is nac_ros.control.guard's."""

    def __init__(self) -> None:
        super().__init__("guard")
        config = parameters.declare(self, GuardNodeConfig, changeable=("speed_scale",))
        self.add_on_set_parameters_callback(self._on_parameters)
        self._config = GuardConfig(
            **{f.name: getattr(config, f.name) for f in fields(GuardConfig)}
        )
        self._spec = load_robot(config.robot)
        self._time = NodeClock(self, config.max_gap_s)
        self._guard = self._new_guard(config.call_log)
        self._intervals = Intervals(self._guard.period)
        self._active, self._lock = False, RLock()  # ticks have a thread of their own
        self._shown, self._rejection = ("inactive", ""), ""
        self._reported: dict[str, float] = {}  # reason of a rejection -> when it was reported last
        self._collector, self._log = GarbageCollection(), NodeLog(self)
        self._scheduling = f"{set_cpu_affinity(config.cpus)}, {set_realtime_priority(config.priority)}"
        self._diagnostics = QueuedDiagnostics(self, self._status)
        self._offered: list[Any] = []
        self._inputs: GuardInputs | None = None
        self._modes: ModeRequests | None = None
        self._metronome: PeriodicTimer | None = None
        self._pacer = DelayedExecutor(COMMAND_S)
        self._log.info(f"scheduled {self._scheduling}")

    def _new_guard(self, folder: str) -> Guard:
        place = call_log_folder(folder)
        if place is None:
            return Guard(self._spec, self._config)
        return LoggedGuard(self._spec, self._config, place)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._command = self.create_publisher(JointState, "guard/command", qos.MONITOR)
        self._controllers = [Controller(self, self._spec, group) for group in self._spec.groups]
        self._offered = [
            self.create_service(Trigger, "guard/stop", self._on_stop),
            self.create_service(Trigger, "guard/reset", self._on_reset),
            self.create_service(Trigger, "guard/ramp", self._on_ramp),
        ]
        self._inputs = GuardInputs(self, self._spec, self._time, self._refused)
        self._log.info(self._inputs.reference_text)
        self._collector.freeze()
        self._metronome = PeriodicTimer(self._guard.period, self._beat, "ticks")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts in mode hold wherever the arm is; another one counts after a hold that is sent
        from now on."""
        with self._lock:
            if not self._guard.at_rest(self._now()):
                self._log.error("the arm still comes to rest; activate again in a moment")
                return TransitionCallbackReturn.FAILURE
            self._guard.restart()
            self._intervals.restart()
            self._modes = ModeRequests(self)
            self._active = True
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.rest()
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._end_beats()
        for service in self._offered:
            self.destroy_service(service)
        for publisher in (self._command, *(c.publisher for c in self._controllers)):
            self.destroy_publisher(publisher)
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.rest()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """The arm comes to rest before the process ends."""
        self.rest()
        self._end_beats()
        self._pacer.close()
        if isinstance(self._guard, LoggedGuard):
            self._guard.call_log.close()
        self._diagnostics.close()

    def rest(self) -> None:
        """A planned stop: the controllers get the whole of it, then nothing more comes."""
        with self._lock:
            if not self._active:
                return
            self._active = False
            self._guard.set_mode("hold")
            self._tick()
            if self._modes is not None:
                self._modes.destroy()
                self._modes = None
            self._pacer.flush()
            self._shown = ("inactive", "")
            self._diagnostics.publish()

    def _end_beats(self) -> None:
        if self._metronome is None or self._inputs is None:
            return
        self._metronome.end()
        self._inputs.destroy()
        self._metronome = self._inputs = None

    def _now(self) -> float:
        return self._time.now()

    def _beat(self) -> None:
        with self._lock:
            assert self._inputs is not None
            if self._time.read():
                self._guard.handle_clock_jump()
            if not self._time.begun:  # simulated time that nobody has published yet
                return
            if self._modes is not None and (requests := self._modes.take()):
                self._set_modes(requests)
            self._inputs.take(self._guard, self._now(), self._active)
            if self._active:
                self._tick()
            if not self._active or (self._shown[0] in AT_REST and self._guard.mode == "hold"):
                self._collector.rest()

    def _tick(self) -> None:
        now, steady = self._now(), time.monotonic()
        guard, names = self._guard, self._spec.joint_names
        for tick in guard.tick(now):
            set_point = (tick.positions, tick.velocities, self._time.origin_ns)
            message = messages.to_joint_state(tick.stamp, names, *set_point)
            self._pacer.put(tick.stamp, now, steady, partial(self._command.publish, message))
        before, self._shown = self._shown, (guard.state, guard.hold_reason)
        # An arm at rest is left alone, and so is one whose clock was set: what its controllers
        # have ends at rest by itself.
        moves = guard.state not in AT_REST or before[0] in ("running", "stopping")
        if moves and guard.fault != "tick_gap":
            motion, here = guard.trajectory_update(self._now()), guard.setpoint
            for controller in self._controllers:
                controller.send(motion, here, now, self._time.origin_ns)
        if guard.setpoint is not None:
            self._intervals.mark(now)
        if self._shown != before:
            self._diagnostics.publish()

    def _set_modes(self, requests: Sequence[ModeRequest]) -> None:
        """What was asked for since the last tick, in order; what nobody knows is a hold."""
        guard = self._guard
        for mode, rejection in requests:
            if rejection and mode == guard.mode:
                continue
            if rejection:
                self._refused(guard.reject("hold_first", rejection))
            elif mode in MODES:
                self._refused(guard.set_mode(cast(Mode, mode)))
            else:
                known = ", ".join(MODES)
                text = f"guard/mode '{mode[:SHOWN]}' is unknown, so the arm holds; known: {known}"
                self._refused(guard.reject("unknown_mode", text))
                self._refused(guard.set_mode("hold"))
        self._diagnostics.publish()

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self._guard.stop()
        response.success, response.message = True, "stopping; guard/reset ends it"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self._guard.reset()
            if self._modes is not None:
                self._modes.renew()
        text = (
            "in mode hold, where the arm is, until guard/mode is sent again: hold, then the mode"
        )
        response.success, response.message = True, text
        return response

    def _on_ramp(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = False
        with self._lock:
            if not self._active:
                response.message = INACTIVE
                return response
            rejection = self._guard.approach()
        response.success = rejection is None
        text = "moving slowly to where the chunk began"
        response.message = rejection.text if rejection else text
        return response

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        try:
            for parameter in changed:
                if parameter.name == "speed_scale":
                    with self._lock:
                        self._guard.set_speed_scale(parameter.value)
        except NacError as error:  # rclpy lets values by that lie a rounding beyond the range
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _refused(self, rejection: Rejection | None) -> None:
        if rejection is None or rejection.reason in ("mode", "settling"):
            return
        self._rejection, reason = rejection.text[:MAX_TEXT], rejection.reason
        self._log.warning(f"refused, {reason}: {rejection.text[:MAX_TEXT]}", reason)
        now = time.monotonic()
        if now - self._reported.get(reason, -QUIET_S) >= QUIET_S:
            self._reported[reason] = now
            self._diagnostics.publish()

    def _status(self) -> Status:
        with self._lock:
            return self._status_now()

    def _status_now(self) -> Status:
        guard, (state, hold) = self._guard, self._shown
        level = ERROR if guard.fault else OK if hold in PLANNED else WARN
        values: dict[str, Any] = {
            "mode": guard.mode,
            "state": state,
            "approaching": guard.approaching,
            "hold": hold,
            "fault": guard.fault,
        }
        values |= guard.ages(self._now())
        values["reference_known"] = guard.reference_known(self._now())
        if guard.mode == "policy" and guard.chunk is not None:
            jump = np.abs(guard.jump[self._spec.relative_mask]).max()
            stamp = guard.chunk.stamp + 1e-9 * self._time.origin_ns  # as the policy tells it
            values |= {"chunk_stamp": stamp, "transition_jump": float(jump)}
        values |= {f"holds.{reason}": n for reason, n in guard.holds.items()}
        values |= {f"rejections.{reason}": n for reason, n in guard.rejections.items()}
        values |= {f"clips.{n}": int(c) for n, c in zip(self._spec.joint_names, guard.clips) if c}
        values["clips.workspace"] = guard.workspace.shortened
        errors = self._intervals.errors_ms()
        values |= {f"command_interval_error_ms.{key}": value for key, value in errors.items()}
        values |= {"last_rejection": self._rejection, "scheduling": self._scheduling}
        values["gc_pause_ms.max"] = 1e3 * self._collector.longest_s
        if isinstance(guard, LoggedGuard) and guard.call_log.trouble:
            values["call_log"] = guard.call_log.trouble
        if isinstance(guard, LoggedGuard) and guard.call_log.lost:
            values["call_log_lost"] = guard.call_log.lost
        if dropped := self._log.dropped:
            values["log_dropped"] = dropped
        return Status(level, f"{state}: {hold}" if hold else state, values)


def main() -> None:
    """Entry point of the executable `guard`."""
    exit_process(run(GuardNode))


if __name__ == "__main__":
    main()
