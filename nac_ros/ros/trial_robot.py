"""A robot with guard, policy and recorder on the ROS graph, as an operator session uses it."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from nac_ros.control.types import AT_REST
from nac_ros.core.errors import NacError
from nac_ros.robot.spec import RobotSpec
from nac_ros.ros import qos
from nac_ros.ros.diagnostics_summary import (
    chunk_reports,
    count_increases,
    counts_by_reason,
    interventions,
    transition_jumps,
)
from nac_ros.ros.graph_monitor import NODES, GraphMonitor, Report
from nac_ros.ros.guard_mode import HOLD, HOLDS_BEFORE_START, ModePublisher
from nac_ros.ros.security_policy import TRIAL_SERVICES, camera_node
from nac_ros.ros.service_client import POLL_S, ServiceClient
from nac_ros.trials.protocol import TWIN, TrialProtocol
from nac_ros.trials.recording_metrics import recording_smoothness
from nac_ros.trials.schedule import Slot
from nac_ros.trials.trial_robot import Blocker, RecordingResult, TrialStatus, image_problem

MAX_SILENCE_S = 3.0  # each node reports once a second
STREAM_PROBLEM = "problem."  # prefix of the recorder's values about bad streams
LOAD_S = 180.0  # for loading a model, and for compiling a scene for the first time
SETTLE_S = 0.3  # until the guard has received the arm's pose in a new scene
REST_S = 10.0  # for coming to rest, with a large margin
DISK_S = 70.0  # for the recorder to complete a file
ANSWER_S = 1.0  # a guard that does not answer guard/stop within this time counts as lost
RECORDER_SERVICE = {
    "success": "stop",
    "failure": "fail",
    "aborted": "fail",
    "invalid": "discard",
}
STOP, RESET = "guard/stop", "guard/reset"
UNLOAD_TRANSITIONS = {
    State.PRIMARY_STATE_ACTIVE: Transition.TRANSITION_DEACTIVATE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_CLEANUP,
}
LOAD_TRANSITIONS = {
    State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_ACTIVATE,
}
MAX_TRANSITIONS = 8  # attempts to bring the policy to a state


class RosTrialRobot:
    """Implements `nac_ros.trials.trial_robot.TrialRobot`; another thread must spin the node."""

    def __init__(self, node: Node, spec: RobotSpec, protocol: TrialProtocol, graph: GraphMonitor):
        self._spec, self._protocol, self._graph = spec, protocol, graph
        self._services = ServiceClient(node)
        for name in TRIAL_SERVICES:  # now, so that a stop does not wait for discovery
            self._services.add_client(Trigger, name)
        self._services.add_client(ChangeState, "policy/change_state")
        self._services.add_client(GetState, "policy/get_state")
        self._services.add_client(SetParameters, "recorder/set_parameters")
        self._modes = ModePublisher(node)
        self._task = node.create_publisher(String, "task", qos.LATCHED)
        self._loaded_bundle = self._recording = ""
        self._ended_leftovers = False
        self._began, self._ended = 0.0, 0.0
        self._guard_before: Report = {}  # the guard's report before the trial
        self._chunk_before: float | None = None  # the policy reports it until a new one comes
        self._stop_request: tuple[float, Any] | None = None  # when, and the future of its answer

    def prepare(self, bundle: str, slot: Slot) -> None:
        self._services.resume()
        self._hold()
        self._end_leftovers()
        if self._policy_state() != State.PRIMARY_STATE_ACTIVE or self._loaded_bundle != bundle:
            self._load(bundle)
        self._task.publish(String(data=slot.task))
        self._wait_until(
            lambda: self._reported("policy", "task") == slot.task, f"the task {slot.task}"
        )
        if self._protocol.robot == TWIN:
            self._reset_twin(slot)

    def start(self, slot: Slot, metadata: Mapping[str, str]) -> None:
        self._services.resume()
        if self._protocol.robot == TWIN:  # the twin's trial has a time limit of its own
            self._reset_twin(slot)
        self._services.set_parameters("recorder", metadata)
        answer = self._services.trigger("recorder/start")
        self._recording = answer.removeprefix("recording ")
        self._graph.start_trial()
        self._guard_before = self._graph.latest_diagnostics("guard")
        self._chunk_before = self._reported("policy", "chunk_stamp")
        self._began, self._ended, self._stop_request = time.monotonic(), 0.0, None
        try:
            self._modes.request("policy")
            self._wait_until(self._accepts_chunks, "the guard's mode policy")
            self._services.trigger("policy/start")
            self._began = time.monotonic()
        except NacError:
            self._abandon()
            raise

    def stop(self) -> None:
        self._ended = time.monotonic()
        self._services.resume()
        self._hold()  # before the policy: stopping the arm matters first
        try:
            self._services.trigger("policy/stop")
        finally:
            self._graph.end_trial()

    def finish_recording(self, outcome: str) -> RecordingResult:
        service = RECORDER_SERVICE[outcome]
        self._services.resume()
        self._services.trigger(f"recorder/{service}", DISK_S)
        path = self._recording + (".discarded" if service == "discard" else "")
        try:
            return RecordingResult(path, *recording_smoothness(Path(path), self._spec))
        except (NacError, OSError):  # on another machine, or damaged, which `nac data check` finds
            return RecordingResult(path)

    def abort(self) -> None:
        self._services.cancel()
        self._stop_request = (time.monotonic(), self._services.send_trigger(STOP))
        self._hold()
        self._services.send_trigger("policy/stop")

    def reset_guard(self) -> None:
        self._services.resume()
        self._stop_request = None
        self._hold()
        self._services.trigger(RESET)

    def blockers(self) -> list[Blocker]:
        return readiness_problems(self._graph, self._spec)

    def messages(self) -> list[str]:
        found = []
        if self._stop_unanswered():
            found.append("the guard does not answer guard/stop: use the emergency stop")
        for node in NODES:
            if text := self._reported(node, "message"):
                found.append(f"{node}: {text}")
        if rejection := self._reported("guard", "last_rejection"):
            found.append(f"last rejection of the guard: {rejection}")
        return found

    def image_ages(self) -> dict[str, float]:
        return self._graph.image_ages()

    def latest_image(self, camera: str) -> np.ndarray | None:
        return self._graph.latest_image(camera)

    def status(self) -> TrialStatus:
        if not self._began:
            return TrialStatus()
        seconds = (self._ended or time.monotonic()) - self._began
        reports = {node: list(rows) for node, rows in self._graph.reports.items()}
        before, after = self._guard_before, (reports["guard"] or [self._guard_before])[-1]
        clips = counts_by_reason(after, "clips") - counts_by_reason(before, "clips")
        chunks = chunk_reports(reports["policy"])
        return TrialStatus(
            steps=int(seconds * self._spec.action_rate_hz),
            seconds=seconds,
            clips=clips.total(),
            interventions=len(interventions(reports["guard"], 0.0)),
            transition_jumps=tuple(transition_jumps(reports["guard"], before)),
            chunk_ms=tuple(
                chunk["latency_ms"]
                for chunk in chunks
                if chunk["chunk_stamp"] != self._chunk_before
            ),
            holds=count_increases(before, after, "holds"),
            rejections=count_increases(before, after, "rejections"),
        )

    def detected_outcome(self) -> str:
        if self._protocol.robot != TWIN:
            return ""
        outcome = self._graph.outcome
        if outcome.get("state", "running") == "running":
            return "undecided"
        return f"{outcome['state']}, {outcome['reason']}"

    def _stop_unanswered(self) -> bool:
        if self._stop_request is None:
            return False
        requested_at, answer = self._stop_request
        return time.monotonic() - requested_at > ANSWER_S and not answer.done()

    def _load(self, bundle: str) -> None:
        """Loads the bundle at this path, whatever state the policy is in."""
        self._loaded_bundle = ""
        self._drive_policy(UNLOAD_TRANSITIONS)
        conditions = self._protocol.conditions
        parameters = {
            "bundle": bundle,
            "transition": conditions.transition,
            "n_action_steps": conditions.n_action_steps,
        }
        self._services.set_parameters("policy", parameters)
        try:
            self._drive_policy(LOAD_TRANSITIONS, LOAD_S)
        except NacError as error:
            reason = self._reported("policy", "message") or error
            raise NacError(f"the method cannot be loaded: {reason}") from error
        self._loaded_bundle = bundle

    def _drive_policy(
        self, transitions: Mapping[int, int], timeout_s: float | None = None
    ) -> None:
        """Changes the policy's lifecycle state until no transition is given for it."""
        for _ in range(MAX_TRANSITIONS):
            if (state := self._policy_state()) not in transitions:
                return
            self._services.change_state("policy", transitions[state], timeout_s)

    def _reset_twin(self, slot: Slot) -> None:
        """Sets up the scene of a trial, and resets the guard, for the arm is elsewhere then."""
        self._wait_until(
            lambda: self._reported("guard", "state") in (*AT_REST, "inactive", ""), "rest"
        )
        parameters = {
            "task": slot.task,
            "seed": self._protocol.seed,
            "trial": slot.trial,
            "randomization": self._protocol.conditions.randomization,
        }
        self._services.set_parameters("twin", parameters)
        self._services.trigger("twin/reset", LOAD_S)
        self._services.sleep(SETTLE_S)
        self._services.trigger(RESET)
        self._wait_until(lambda: self._reported("guard", "fault") == "", "the guard's reset")

    def _end_leftovers(self) -> None:
        """Once: stops the policy and the recording that a crashed console has left running."""
        if self._ended_leftovers:
            return
        if self._policy_state() == State.PRIMARY_STATE_ACTIVE:
            self._services.trigger("policy/stop")
        # The recorder rejects the call if nothing is recorded, which is fine.
        self._services.call(Trigger, "recorder/discard", Trigger.Request(), DISK_S)
        self._ended_leftovers = True

    def _abandon(self) -> None:
        """Ends a trial that failed to start, without waiting for nodes that may hang."""
        self._hold()
        self._ended = time.monotonic()
        self._graph.end_trial()
        for name in ("policy/stop", "recorder/discard"):
            self._services.send_trigger(name)

    def _hold(self) -> None:
        self._modes.publish(HOLD)

    def _policy_state(self) -> int:
        return self._services.lifecycle_state("policy")

    def _accepts_chunks(self) -> bool:
        """Whether the guard is in mode policy and accepts chunks. A policy started earlier would
        continue a chunk that was never played."""
        settled = self._reported("guard", "hold") not in HOLDS_BEFORE_START
        return settled and self._reported("guard", "mode") == "policy"

    def _reported(self, node: str, key: str) -> Any:
        return self._graph.latest_diagnostics(node).get(key)

    def _wait_until(self, condition: Callable[[], bool], description: str) -> None:
        deadline = time.monotonic() + REST_S
        while not condition():
            self._services.sleep(POLL_S)
            if time.monotonic() > deadline:
                raise NacError(f"waited {REST_S:.0f} s for {description}; see the nodes' logs")


def readiness_problems(graph: GraphMonitor, spec: RobotSpec) -> list[Blocker]:
    """Conditions that block the start of a trial, the most severe first."""
    return [
        *_node_problems(graph, "guard", _guard_problems),
        *_camera_problems(graph.image_ages(), spec),
        *_node_problems(graph, "policy", _policy_problems),
        *_node_problems(graph, "recorder", _recorder_problems),
    ]


def _node_problems(
    graph: GraphMonitor, node: str, problems: Callable[[Report], Iterator[Blocker]]
) -> Iterator[Blocker]:
    if graph.seconds_since_report(node) < MAX_SILENCE_S:
        yield from problems(graph.latest_diagnostics(node))
    else:
        yield Blocker(
            f"the node {node} does not report on diagnostics",
            "start it (evaluate.launch.py does), and read the end of its log",
        )


def _guard_problems(report: Report) -> Iterator[Blocker]:
    if report.get("state") == "inactive":
        yield Blocker("the guard is not active", "activate it: ros2 lifecycle set /guard activate")
    elif fault := report.get("fault"):
        yield Blocker(
            f"the guard stopped the arm ({fault})",
            "check that nothing is in the arm's way, then press G (reset the guard)",
            "reset_guard",
        )


def _camera_problems(image_ages: Mapping[str, float], spec: RobotSpec) -> Iterator[Blocker]:
    for camera in spec.cameras:
        if problem := image_problem(image_ages[camera.name]):
            node = camera_node(camera.name)
            yield Blocker(
                f"camera {camera.name}: {problem} on {camera.topic}",
                f"check its plug, and whether the node {node} (or the twin) runs",
            )


def _policy_problems(report: Report) -> Iterator[Blocker]:
    if report.get("message") == "not configured":
        yield Blocker("the policy has loaded no bundle", "press R (load again)", "retry")


def _recorder_problems(report: Report) -> Iterator[Blocker]:
    if report.get("state") == "inactive":
        yield Blocker("the recorder is not active", "activate it, as evaluate.launch.py does")
        return
    for key, text in report.items():
        if key.startswith(STREAM_PROBLEM):
            yield Blocker(f"the recorder cannot record: {text}", "repair that stream or disk")
