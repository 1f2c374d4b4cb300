"""Node `policy`: predicts a chunk from each observation; inference runs in a thread of its own.

It predicts while it is active and started (`~/start`). A frozen camera stops it until the next
`~/start`. The heartbeat stops when the inference loop hangs.
"""

import time
import traceback
from collections import Counter
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
from rcl_interfaces.msg import SetParametersResult
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
from nac_ros.ros import messages, parameters, qos
from nac_ros.ros.diagnostics import OK, WARN, Diagnostics, Status
from nac_ros.ros.node_clock import STEADY
from nac_ros.ros.node_main import ManagedNode, exit_process, run
from nac_ros.ros.observation_source import ObservationSource
from nac_ros.ros.policy_loading import LOAD_PARAMETERS, PolicyParameters, load_engine

HEARTBEAT_S = 0.05  # 20 Hz
EXPECTED = ("planning", "not configured", "inactive", "not started", "starting")  # status texts
NO_TASK = "no task was given; publish one on `task`"
START = "call policy/start to start again"
LOG_EVERY_S = 10.0  # reasons with the same code are logged at most this often
MAX_REASON = 400  # characters


class PolicyNode(ManagedNode):
    """Passes observations to an Engine and publishes its chunks.

    Services and subscriptions run in the executor's thread, predictions in the inference thread.
    """

    HELP = "check the bundle (nac doctor)"
    _engine: Engine
    _source: ObservationSource

    def __init__(self) -> None:
        super().__init__("policy")
        parameters.declare(self, PolicyParameters, changeable=LOAD_PARAMETERS)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._loaded = False  # whether the engine and the observation source exist
        self._thread: Thread | None = None
        self._closing, self._wake, self._started = Event(), Event(), Event()
        self._lock = Lock()  # for the start and stop of predictions, by services and both threads
        self._frozen = (
            ""  # the frozen camera that stopped predictions, until the next start or stop
        )
        self._task, self._task_error = "", ""
        self._reason = ""  # why no chunk is predicted
        self._logged_at: dict[str, float] = {}  # code of a reason -> time
        self._n_chunks, self._loop_time = 0, 0.0
        self._last_chunk: ActionChunk | None = None
        self._unusable = Counter[str]()
        self._chunk_report: dict[str, Any] = {}
        self.diagnostics = Diagnostics(self, self._status)

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        names = sorted({parameter.name for parameter in changed} & set(LOAD_PARAMETERS))
        if not self._loaded or not names:
            return SetParametersResult(successful=True)
        return SetParametersResult(successful=False, reason=f"clean up first to set {names[0]}")

    def configure(self) -> None:
        self._config = config = parameters.read(self, PolicyParameters)
        self._engine, spec = load_engine(config, self.log.info)
        engine = self._engine
        self._source = ObservationSource(
            self, spec, engine.cameras, engine.n_obs_steps, engine.n_past_commands
        )
        self._loaded = True
        for notice in self._source.notices:
            self.log.warning(notice)
        self._task, self._task_error = config.task, ""
        predict_s = engine.timing.predict_s
        self._scheduler = ReplanScheduler(
            engine.n_action_steps, engine.rate_hz, config.margin_s, predict_s
        )
        runtime = engine.policy.name
        self.log.info(f"loaded; a prediction by {runtime} takes {1e3 * predict_s:.0f} ms")
        self._chunks = self.create_publisher(JointTrajectory, "policy/chunk", qos.COMMAND)
        self._heartbeats = self.create_publisher(Header, "policy/heartbeat", qos.COMMAND)
        self.create_subscription(String, "task", self._on_task, qos.LATCHED)
        self.create_service(Trigger, "~/start", self._on_start)
        self.create_service(Trigger, "~/stop", self._on_stop)

    def activate(self) -> None:
        self._closing.clear()
        self._started.clear()
        self._frozen, self._reason = "", "not started"
        self._loop_time = self._now()
        self._thread = Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()
        self.create_timer(HEARTBEAT_S, self._publish_heartbeat, clock=STEADY)

    def stop(self) -> None:
        """Ends the inference thread."""
        if self._thread is None:
            return
        self._started.clear()
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout=5.0)
        self._thread = None

    def release(self) -> None:
        if not self._loaded:
            return
        self._loaded = False
        if self._engine.call_log is not None:
            self._engine.call_log.close()
        del self._engine, self._source

    def close(self) -> None:
        self.stop()
        self.release()

    def _now(self) -> float:
        return messages.to_seconds(self.get_clock().now().to_msg())

    def _on_task(self, message: String) -> None:
        try:
            self._engine.policy.task_index(message.data)
        except UnknownName as error:
            self._task, self._task_error = "", str(error)
            self.log.warning(str(error), "task")
        else:
            self._task, self._task_error = message.data, ""
        self.diagnostics.publish()

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = False
        if self._thread is None:
            response.message = "the node is not active; activate it first"
        elif not self._task:
            response.message = self._task_error or NO_TASK
        elif frozen := self._source.frozen:
            response.message = frozen[0]
        else:
            self._frozen = ""
            self._set_reason("starting")
            self._source.clear(self._now())
            self._scheduler.restart()
            self._n_chunks, self._last_chunk = 0, None
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

    def _publish_heartbeat(self) -> None:
        now = self._now()
        if now - self._loop_time <= self._config.max_stall_s:
            self._heartbeats.publish(Header(stamp=messages.to_time(now)))

    def _run(self) -> None:
        """The inference loop; while it waits it runs once per heartbeat period."""
        try:
            while not self._closing.is_set():
                self._loop_time = self._now()
                self._source.read_messages()
                with self._lock:
                    if self._frozen and not self._started.is_set():
                        self._check_frozen_camera()
                wait = self._step(self._loop_time) if self._started.is_set() else HEARTBEAT_S
                self._wake.wait(min(wait, HEARTBEAT_S))
                self._wake.clear()
        except Exception:  # the heartbeat ends with this thread, so the guard stops
            self.log.fatal(traceback.format_exc())
            self._set_reason("the inference loop failed; see the log")

    def _step(self, now: float) -> float:
        """Predicts and publishes a chunk if it is due; returns the time to the next step [s]."""
        wait = self._scheduler.seconds_until_due(now)
        if wait > 0:
            return wait
        try:
            if not self._task:
                raise UnknownName(self._task_error or NO_TASK)
            # `now` is older than the newest messages, which would count as from the future.
            observation = self._source.get_observation(self._now(), self._task)
            chunk = self._engine.predict_chunk(observation, self._current_chunk(observation.stamp))
        except NacError as error:
            with self._lock:
                if self._started.is_set():
                    self._reject(error)
            return self._config.retry_s
        if not self._started.is_set():
            return 0.0
        return self._send(chunk, observation.reference)

    def _current_chunk(self, stamp: float) -> CurrentChunk | None:
        """The last chunk, if a chunk observed at `stamp` [s] will replace it before its end."""
        chunk = self._last_chunk
        if chunk is None or chunk.end <= stamp:
            return None
        return CurrentChunk(chunk, stamp + self._scheduler.latency_s)

    def _reject(self, error: NacError) -> None:
        """Counts and reports an unusable observation; a frozen camera stops the predictions."""
        code = getattr(error, "reason", "task")
        self._unusable[code] += 1
        if code == "frozen":
            self._started.clear()
            self._frozen = str(error)
        self._set_reason(str(error), code)

    def _check_frozen_camera(self) -> None:
        """Updates the report about a frozen camera; predictions stay stopped in any case."""
        if frozen := self._source.frozen:
            self._frozen = frozen[0]
            self._set_reason(f"stopped: {self._frozen}, then {START}", "stopped")
        else:
            self._set_reason(f"stopped: the frozen images change again; {START}", "unfrozen")

    def _send(self, chunk: ActionChunk, start: np.ndarray) -> float:
        """Publishes a chunk observed at joint positions `start` `[D]`, or handles low confidence
        as configured; returns the time to the next step [s]."""
        config, action = self._config, self._config.on_low_confidence
        reason = config.low_confidence_reason(self._engine.confidence)
        if reason:
            self._unusable["low_confidence"] += 1
            if action in ("replan", "stop"):
                if action == "stop":
                    self._started.clear()
                self._set_reason(reason, "low_confidence")
                return config.retry_s
            if action == "slow":
                chunk = time_stretched(chunk, start, config.slow_scale)
        self._publish(chunk)
        return 0.0

    def _publish(self, chunk: ActionChunk) -> None:
        self._chunks.publish(messages.to_chunk_message(chunk))
        arrival = self._now()
        self._scheduler.add_chunk(chunk.stamp, arrival)
        self._last_chunk = chunk
        self._n_chunks += 1
        latency_s, budget_s = arrival - chunk.stamp, self._scheduler.execution_s
        self._chunk_report = _chunk_report(self._engine, chunk, latency_s, budget_s)
        self._reason = ""
        self.diagnostics.publish()

    def _set_reason(self, reason: str, code: str = "other") -> None:
        """Sets why no chunk is predicted; publishes it if more than its numbers has changed."""
        reason = " ".join(reason.split())[:MAX_REASON]
        changed = without_digits(reason) != without_digits(self._reason)
        self._reason = reason
        if changed:
            self.diagnostics.publish()
        now = time.monotonic()
        if reason not in EXPECTED and now - self._logged_at.get(code, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged_at[code] = now
            self.log.warning(reason)

    def _status(self) -> Status:
        reason = self._reason if self.lifecycle == "active" else self.lifecycle
        text = self._task_error or reason or "planning"
        values: dict[str, Any] = {
            "task": self._task,
            "chunks": self._n_chunks,
            **self._chunk_report,
            "state": self._state(),
            "reason": "" if text == "planning" else text,
            **{f"unusable.{code}": n for code, n in dict(self._unusable).items()},
        }
        if self._loaded:
            rejections = dict(self._source.rejections)
            values |= {f"rejections.{code}": n for code, n in rejections.items()}
            values["last_rejection"] = self._source.last_rejection
            values["content_not_checked"] = self._source.unchecked
        return Status(OK if text in EXPECTED else WARN, text, values)

    def _state(self) -> str:
        """`unconfigured`, `inactive`, `not_started`, `stopped` by a frozen camera, `waiting` for
        a usable observation, or `planning`."""
        if not self._loaded:
            return "unconfigured"
        if self._thread is None:
            return "inactive"
        if not self._started.is_set():
            return "stopped" if self._frozen else "not_started"
        return "waiting" if self._task_error or self._reason else "planning"


def _chunk_report(
    engine: Engine, chunk: ActionChunk, latency_s: float, budget_s: float
) -> dict[str, Any]:
    """Values on diagnostics about the newest chunk; times in ms, the stamp in s.

    latency_ms: from observation to chunk; budget_ms: duration of the executed steps
    """
    return {
        "chunk_stamp": chunk.stamp,
        "latency_ms": 1e3 * latency_s,
        "predict_ms": 1e3 * engine.timing.predict_s,
        "decode_ms": 1e3 * engine.timing.decode_s,
        "budget_ms": 1e3 * budget_s,
        "tokens": chunk.tokens.tolist(),
        "entropy": engine.confidence.entropy,
        "margin": engine.confidence.margin,
    }


def main() -> None:
    """Entry point of the executable `policy`."""
    exit_process(run(PolicyNode))


if __name__ == "__main__":
    main()
