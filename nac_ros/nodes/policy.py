"""The policy node: observations in, chunks out; inference runs in a thread of its own.

Active and started (`~/start`) it plans; otherwise it only watches its sensors. A frozen camera
stops planning until the next `~/start`. Its heartbeat stops when the inference loop does not come
round.
"""

import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from nac_ros.core.errors import NacError, UnknownName
from nac_ros.core.timing import without_digits
from nac_ros.core.types import ActionChunk
from nac_ros.inference.chunk_transition import CurrentChunk
from nac_ros.inference.engine import Engine
from nac_ros.inference.replanning import ReplanScheduler
from nac_ros.inference.uncertainty import time_stretched
from nac_ros.ros import messages, qos
from nac_ros.ros import parameters as ros_parameters
from nac_ros.ros.diagnostics import OK, WARN, Diagnostics, Status
from nac_ros.ros.node_log import NodeLog
from nac_ros.ros.node_clock import STEADY
from nac_ros.ros.node_main import exit_process, run
from nac_ros.ros.observation_source import ObservationSource
from nac_ros.ros.policy_loading import LOAD_PARAMETERS, PolicyParameters, load_engine

HEARTBEAT_S = 0.05  # 20 Hz
# reasons that need nobody's attention
QUIET = ("not configured", "inactive", "not started", "starting")
NO_TASK = "no task was given; publish one on `task`"
START = "policy/start starts it again"
LOG_EVERY_S = 10.0  # reasons of one code are logged at most this often, whatever their text
LONGEST = 400  # characters of a reason


class PolicyNode(LifecycleNode):
    """Messages in, chunks out; what they say is the engine's."""

    def __init__(self) -> None:
        super().__init__("policy")
        self._log = NodeLog(self)
        ros_parameters.declare(self, PolicyParameters, changeable=LOAD_PARAMETERS)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._engine: Engine | None = None
        self._bridge: ObservationSource | None = None
        self._thread: Thread | None = None
        self._closing, self._wake, self._started = Event(), Event(), Event()
        self._frozen = ""  # the verdict that stopped planning, until the next start or stop
        self._lock = Lock()  # of that verdict, which services and the inference thread change
        self._undo: list[Callable[[], object]] = []  # of what `on_configure` made
        self._logged: dict[str, float] = {}  # code of a reason -> when, on a steady clock
        self._task, self._fault, self._reason = "", "", "not configured"
        self._n_chunks, self._alive = 0, 0.0
        self._sent: ActionChunk | None = None
        self._unusable = Counter[str]()
        self._newest: dict[str, Any] = {}
        self._diagnostics = Diagnostics(self, self._status)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the bundle; a node that cannot says why, and may be configured again."""
        try:
            self._load(ros_parameters.read(self, PolicyParameters))
            self._connect()
        except NacError as error:
            self._fail(_one_line(str(error)))
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # rclpy would end the node and say nothing
            self._log.debug(traceback.format_exc())
            text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self._fail(f"configuring failed, {_one_line(text)}; check the bundle (nac doctor)")
            return TransitionCallbackReturn.FAILURE
        self._set_reason("inactive")
        return TransitionCallbackReturn.SUCCESS

    def _fail(self, reason: str) -> None:
        """Nothing is configured, for a reason that is on diagnostics and in the log."""
        self._disconnect()
        self._log.error(reason)
        self._reason = reason
        self._diagnostics.publish()

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        """What a model is loaded with changes before it is loaded."""
        names = sorted({parameter.name for parameter in changed} & set(LOAD_PARAMETERS))
        if self._engine is None or not names:
            return SetParametersResult(successful=True)
        return SetParametersResult(successful=False, reason=f"clean up first to set {names[0]}")

    def _load(self, parameters: PolicyParameters) -> None:
        engine, self.spec = load_engine(parameters)
        self._engine = engine
        plan_s = engine.timing.predict_s
        self._cadence = ReplanScheduler(
            engine.n_action_steps, engine.rate_hz, parameters.margin_s, plan_s
        )
        self._settings, self._task = parameters, parameters.task
        self._log.info(f"loaded; planning takes {1e3 * plan_s:.0f} ms")

    def _connect(self) -> None:
        assert self._engine is not None
        self._chunks = self.create_publisher(JointTrajectory, "policy/chunk", qos.COMMAND)
        self._undo.append(partial(self.destroy_publisher, self._chunks))
        self._heartbeats = self.create_publisher(Header, "policy/heartbeat", qos.COMMAND)
        self._undo.append(partial(self.destroy_publisher, self._heartbeats))
        self._bridge = ObservationSource(
            self, self.spec, self._engine.cameras, self._engine.n_obs_steps
        )
        for notice in self._bridge.notices:
            self._log.warning(notice)
        task = self.create_subscription(String, "task", self._on_task, qos.LATCHED)
        self._undo.append(partial(self.destroy_subscription, task))
        for service in (
            self.create_service(Trigger, "~/start", self._on_start),
            self.create_service(Trigger, "~/stop", self._on_stop),
        ):
            self._undo.append(partial(self.destroy_service, service))

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._closing.clear()
        self._started.clear()
        self._frozen = ""
        self._alive = self._now()
        self._thread = Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()
        self._beats = self.create_timer(HEARTBEAT_S, self._beat, clock=STEADY)
        self._set_reason("not started")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._rest()
        self._set_reason("inactive")
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._disconnect()
        self._set_reason("not configured")
        return TransitionCallbackReturn.SUCCESS

    def _disconnect(self) -> None:
        """Takes back what `on_configure` made, as far as it came."""
        if self._bridge is not None:
            self._bridge.close()
        for destroy in self._undo:
            destroy()
        self._close_call_log()
        self._undo, self._engine, self._bridge = [], None, None

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._rest()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Ends the inference thread, and the tape."""
        self._rest()
        self._close_call_log()

    def _close_call_log(self) -> None:
        if self._engine is not None and self._engine.call_log is not None:
            self._engine.call_log.close()

    def _rest(self) -> None:
        if self._thread is None:
            return
        self.destroy_timer(self._beats)
        self._started.clear()
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout=5.0)
        self._thread = None

    def _now(self) -> float:
        return messages.to_seconds(self.get_clock().now().to_msg())

    def _on_task(self, message: String) -> None:
        assert self._engine is not None
        try:
            self._engine.bundle.policy.task_index(message.data)
        except UnknownName as error:
            self._task, self._fault = "", str(error)
            self._log.warning(str(error), "task")
        else:
            self._task, self._fault = message.data, ""
        self._diagnostics.publish()

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        assert self._bridge is not None
        response.success = False
        if self._thread is None:
            response.message = "the node is not active; activate it first"
        elif not self._task:
            response.message = self._fault or NO_TASK
        elif frozen := self._bridge.frozen:
            response.message = frozen[0]
        else:
            self._frozen = ""
            self._set_reason("starting")
            self._bridge.clear(self._now())
            self._cadence.restart()
            self._n_chunks, self._sent = 0, None
            self._started.set()
            self._wake.set()
            response.success, response.message = True, f"planning for '{self._task}'"
        return response

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self._started.clear()
            self._frozen = ""
            self._set_reason("not started")
        response.success, response.message = True, f"stopped after {self._n_chunks} chunks"
        return response

    def _beat(self) -> None:
        """Says that the inference loop is alive, as long as it is."""
        now = self._now()
        if now - self._alive <= self._settings.max_stall_s:
            self._heartbeats.publish(Header(stamp=messages.to_time(now)))

    def _run(self) -> None:
        """The inference loop; it comes round once per heartbeat while it waits."""
        assert self._bridge is not None
        try:
            while not self._closing.is_set():
                self._alive = self._now()
                self._bridge.take()
                with self._lock:
                    if self._frozen and not self._started.is_set():
                        self._look_again()
                wait = self._step(self._alive) if self._started.is_set() else HEARTBEAT_S
                self._wake.wait(min(wait, HEARTBEAT_S))
                self._wake.clear()
        except Exception:  # a thread must not die unheard; the heartbeat ends with it
            self._log.fatal(traceback.format_exc())
            self._set_reason("the inference loop failed; see the log")

    def _step(self, now: float) -> float:
        """Plans when it is due; seconds until the next look."""
        assert self._engine is not None and self._bridge is not None
        wait = self._cadence.seconds_until_due(now)
        if wait > 0:
            return wait
        try:
            if not self._task:
                raise UnknownName(self._fault or NO_TASK)
            # the time after `take`: messages that came meanwhile are not of the future
            observation = self._bridge.get_observation(self._now(), self._task)
            chunk = self._engine.predict_chunk(observation, self._underway(observation.stamp))
        except NacError as error:
            with self._lock:
                if self._started.is_set():
                    self._reject(error)
            return self._settings.retry_s
        if not self._started.is_set():
            return 0.0
        return self._send(chunk, observation.reference)

    def _reject(self, error: NacError) -> None:
        """Counts and reports why nothing was planned; a frozen camera stops planning."""
        reason = getattr(error, "reason", "task")
        self._unusable[reason] += 1
        if reason == "frozen":
            self._started.clear()
            self._frozen = str(error)
        self._set_reason(_one_line(str(error)), reason)

    def _look_again(self) -> None:
        """Tests a frozen camera anew; planning stays stopped although it shows new pictures."""
        assert self._bridge is not None
        frozen = self._bridge.frozen
        if frozen:
            self._frozen = frozen[0]
            self._set_reason(f"stopped: {self._frozen}, then {START}", "stopped")
        else:
            text = f"stopped: the pictures that were frozen change again; {START}"
            self._set_reason(text, "unfrozen")

    def _send(self, chunk: ActionChunk, start: np.ndarray) -> float:
        """Publishes a chunk from joint positions `start` on, or what comes of a doubtful one;
        seconds until the next look."""
        assert self._engine is not None
        settings, why = self._settings, self._settings.low_confidence_reason(self._engine.confidence)
        if why:
            self._unusable["low_confidence"] += 1
        if why and settings.on_low_confidence in ("replan", "stop"):
            if settings.on_low_confidence == "stop":
                self._started.clear()
            self._set_reason(why, "low_confidence")
            return settings.retry_s
        if why and settings.on_low_confidence == "slow":
            chunk = time_stretched(chunk, start, settings.slow_scale)
        self._publish(chunk)
        return 0.0

    def _underway(self, stamp: float) -> CurrentChunk | None:
        """The chunk sent before, and when the one observed at `stamp` [s] will take over."""
        sent = self._sent
        if sent is None or sent.end <= stamp:
            return None
        return CurrentChunk(sent, stamp + self._cadence.latency_s)

    def _publish(self, chunk: ActionChunk) -> None:
        assert self._engine is not None
        self._chunks.publish(messages.to_chunk_message(chunk))
        self._sent = chunk
        arrival, timing = self._now(), self._engine.timing
        self._cadence.add_chunk(chunk.stamp, arrival)
        self._n_chunks += 1
        self._newest = {
            "chunk_stamp": chunk.stamp,
            "latency_ms": 1e3 * (arrival - chunk.stamp),
            "plan_ms": 1e3 * timing.predict_s,
            "decode_ms": 1e3 * timing.decode_s,
            "budget_ms": 1e3 * self._cadence.execution_s,
            "tokens": chunk.tokens.tolist(),
            "entropy": self._engine.confidence.entropy,
            "margin": self._engine.confidence.margin,
        }
        self._reason = ""
        self._diagnostics.publish()

    def _set_reason(self, reason: str, code: str = "other") -> None:
        """Why nothing is planned; what is new, but for numbers in it, is published at once."""
        changed = without_digits(reason) != without_digits(self._reason)
        self._reason = reason
        if changed:
            self._diagnostics.publish()
        now = time.monotonic()
        if reason not in QUIET and now - self._logged.get(code, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged[code] = now
            self._log.warning(reason)

    def _status(self) -> Status:
        text = self._fault or self._reason or "planning"
        values: dict[str, Any] = {"task": self._task, "chunks": self._n_chunks, **self._newest}
        values |= {"state": self._state(), "reason": "" if text == "planning" else text}
        values |= {f"unusable.{reason}": n for reason, n in dict(self._unusable).items()}
        if self._bridge is not None:
            values |= {f"rejections.{reason}": n for reason, n in dict(self._bridge.refused).items()}
            values["last_rejection"] = self._bridge.last_rejection
            values["content_not_checked"] = self._bridge.unchecked
        return Status(OK if text in ("planning", *QUIET) else WARN, text, values)

    def _state(self) -> str:
        """`unconfigured`, `inactive`, `not_started`, `stopped` by a frozen camera, `waiting` for
        a usable observation, or `planning`."""
        if self._bridge is None:
            return "unconfigured"
        if self._thread is None:
            return "inactive"
        if not self._started.is_set():
            return "stopped" if self._frozen else "not_started"
        return "waiting" if self._fault or self._reason else "planning"


def _one_line(text: str) -> str:
    """An error's text as one line of at most LONGEST characters."""
    return " ".join(text.split())[:LONGEST]


def main() -> None:
    exit_process(run(PolicyNode))


if __name__ == "__main__":
    main()
