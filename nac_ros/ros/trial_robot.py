"""What keeps a trial from being begun: who is silent, what it says, and how to mend it."""

import time
from collections.abc import Iterator, Mapping
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
from nac_ros.ros.graph_monitor import GraphMonitor
from nac_ros.ros.guard_mode import HOLDS_BEFORE_START, HOLD, ModePublisher
from nac_ros.ros.security_policy import camera_node
from nac_ros.ros.service_client import ServiceClient
from nac_ros.trials.protocol import TWIN, Protocol
from nac_ros.trials.recording_metrics import smoothness
from nac_ros.trials.schedule import Slot
from nac_ros.trials.trial_robot import Blocker, RecordingResult, TrialStatus, image_problem

SILENT_S = 3.0  # a node that told nothing for longer; each does once a second
WRONG = "problem."  # what the recorder finds wrong with the streams


def readiness_problems(seen: GraphMonitor, spec: RobotSpec) -> list[Blocker]:
    """All of them, the gravest first."""
    return [*_guard(seen), *_cameras(seen, spec), *_policy(seen), *_recorder(seen)]


def _guard(seen: GraphMonitor) -> Iterator[Blocker]:
    said = seen.latest_diagnostics("guard")
    if silence := _silence(seen, "guard"):
        yield silence
    elif said.get("state") == "inactive":
        yield Blocker("the guard is not active", "activate it: ros2 lifecycle set /guard activate")
    elif fault := said.get("fault"):
        yield Blocker(
            f"the guard stopped the arm ({fault})",
            "see that nothing is in the arm's way, then press G (reset the guard)",
            "release",
        )


def _cameras(seen: GraphMonitor, spec: RobotSpec) -> Iterator[Blocker]:
    ages = seen.ages()
    for camera in spec.cameras:
        if problem := image_problem(ages[camera.name]):
            node = camera_node(camera.name)
            yield Blocker(
                f"camera {camera.name}: {problem} on {camera.topic}",
                f"look at its plug, and whether the node {node} (or the twin) runs",
            )


def _policy(seen: GraphMonitor) -> Iterator[Blocker]:
    if silence := _silence(seen, "policy"):
        yield silence
    elif seen.latest_diagnostics("policy").get("message") == "not configured":
        yield Blocker("the policy has nothing loaded", "press R (load again)", "retry")


def _recorder(seen: GraphMonitor) -> Iterator[Blocker]:
    said = seen.latest_diagnostics("recorder")
    if silence := _silence(seen, "recorder"):
        yield silence
    elif said.get("state") == "inactive":
        yield Blocker("the recorder is not active", "activate it, as evaluate.launch.py does")
    else:
        for key, text in said.items():
            if key.startswith(WRONG):
                yield Blocker(f"the recorder cannot record: {text}", "mend that stream or disk")


def _silence(seen: GraphMonitor, node: str) -> Blocker | None:
    if seen.silence_s(node) < SILENT_S:
        return None
    return Blocker(
        f"the node {node} says nothing on diagnostics",
        "start it (evaluate.launch.py does), and look at its last words in its log",
    )


LOAD_S = 180.0  # a model, and a scene that is compiled for the first time
SETTLE_S = 0.3  # by then the guard has seen where the arm is in the new scene
REST_S = 10.0  # a stop takes much less
DISK_S = 70.0  # for the recorder to complete a file
ANSWER_S = 1.0  # a guard that takes longer to be told to stop is not to be trusted
KEEP = {"success": "stop", "failure": "fail", "aborted": "fail", "invalid": "discard"}
STOP, RESET = "guard/stop", "guard/reset"
TRIGGERS = (
    STOP, RESET, "policy/start", "policy/stop", "twin/reset",
    *(f"recorder/{name}" for name in ("start", "stop", "fail", "discard")),
)  # fmt: skip
DOWN = {
    State.PRIMARY_STATE_ACTIVE: Transition.TRANSITION_DEACTIVATE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_CLEANUP,
}
UP = {
    State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_ACTIVATE,
}
CHANGES = 8  # transitions after which a node that is still not there is given up


class RosTrialRobot:
    """See `nac_ros.trials.trial_robot.TrialRobot`; what blocks runs in one thread, the node spins in another."""

    def __init__(self, node: Node, spec: RobotSpec, protocol: Protocol, seen: GraphMonitor):
        self._spec, self._protocol, self._seen = spec, protocol, seen
        self._calls = ServiceClient(node)
        for name in TRIGGERS:  # early, so that a stop need not look for its service
            self._calls.offer(Trigger, name)
        for kind, name in ((ChangeState, "change_state"), (GetState, "get_state")):
            self._calls.offer(kind, f"policy/{name}")
        self._calls.offer(SetParameters, "recorder/set_parameters")
        self._modes = ModePublisher(node)
        self._task = node.create_publisher(String, "task", qos.LATCHED)
        self._loaded = self._recorded = ""
        self._alone = False
        self._began, self._ended = 0.0, 0.0
        self._before: dict[str, Any] = {}
        self._old_chunk: float | None = None  # of the trial before; reported until a new one comes
        self._asked: tuple[float, Any] | None = None

    def prepare(self, source: str, slot: Slot) -> None:
        self._calls.renew()
        self._hold()
        self._end_others()
        if self._state() != State.PRIMARY_STATE_ACTIVE or self._loaded != source:
            self._load(source)
        self._task.publish(String(data=slot.task))
        self._wait(lambda: self._says("policy", "task") == slot.task, f"the task {slot.task}")
        if self._protocol.robot == TWIN:
            self._reset_twin(slot)

    def start(self, slot: Slot, metadata: Mapping[str, str]) -> None:
        self._calls.renew()
        if self._protocol.robot == TWIN:  # whose trial has a time of its own
            self._reset_twin(slot)
        self._calls.set_parameters("recorder", metadata)
        said = self._calls.trigger("recorder/start")
        self._recorded = said.removeprefix("recording ")
        self._seen.mark()
        self._before = self._seen.latest_diagnostics("guard")
        self._old_chunk = self._says("policy", "chunk_stamp")
        self._began, self._ended, self._asked = time.monotonic(), 0.0, None
        try:
            self._modes.request("policy")
            self._wait(self._takes_chunks, "the guard's mode policy")
            self._calls.trigger("policy/start")
            self._began = time.monotonic()
        except NacError:
            self._give_up()
            raise

    def stop(self) -> None:
        self._ended = time.monotonic()
        self._calls.renew()
        self._hold()  # the arm first, then who drives it
        try:
            self._calls.trigger("policy/stop")
        finally:
            self._seen.unmark()

    def finish_recording(self, outcome: str) -> RecordingResult:
        self._calls.renew()
        self._calls.trigger(f"recorder/{KEEP[outcome]}", DISK_S)
        place = self._recorded + (".discarded" if KEEP[outcome] == "discard" else "")
        try:
            return RecordingResult(place, *smoothness(Path(place), self._spec))
        except (NacError, OSError):  # on another machine, or damaged: `nac data check` says
            return RecordingResult(place)

    def abort(self) -> None:
        self._calls.cancel()
        self._asked = (time.monotonic(), self._calls.fire(STOP))
        self._hold()
        self._calls.fire("policy/stop")

    def reset_guard(self) -> None:
        self._calls.renew()
        self._asked = None
        self._hold()
        self._calls.trigger(RESET)

    def blockers(self) -> list[Blocker]:
        return readiness_problems(self._seen, self._spec)

    def messages(self) -> list[str]:
        found = []
        if self._unheard():
            found.append("the guard does not answer guard/stop: use the emergency stop")
        for node in ("guard", "policy", "recorder"):
            if text := self._seen.latest_diagnostics(node).get("message", ""):
                found.append(f"{node}: {text}")
        if rejection := self._seen.latest_diagnostics("guard").get("last_rejection", ""):
            found.append(f"guard refused last: {rejection}")
        return found

    def image_ages(self) -> dict[str, float]:
        return self._seen.ages()

    def latest_image(self, camera: str) -> np.ndarray | None:
        return self._seen.picture(camera)

    def status(self) -> TrialStatus:
        if not self._began:
            return TrialStatus()
        seconds = (self._ended or time.monotonic()) - self._began
        reports = {node: list(rows) for node, rows in self._seen.reports.items()}
        after = reports["guard"][-1] if reports["guard"] else self._before
        clips = counts_by_reason(after, "clips") - counts_by_reason(self._before, "clips")
        chunks = [r for r in chunk_reports(reports["policy"]) if r["chunk_stamp"] != self._old_chunk]
        return TrialStatus(
            steps=int(seconds * self._spec.action_rate_hz),
            seconds=seconds,
            clips=clips.total(),
            interventions=len(interventions(reports["guard"], 0.0)),
            transition_jumps=tuple(transition_jumps(reports["guard"], self._before)),
            chunk_ms=tuple(report["latency_ms"] for report in chunks),
            holds=count_increases(self._before, after, "holds"),
            rejections=count_increases(self._before, after, "rejections"),
        )

    def detected_outcome(self) -> str:
        if self._protocol.robot != TWIN:
            return ""
        said = self._seen.outcome
        decided = said.get("state", "running") != "running"
        return f"{said['state']}, {said['reason']}" if decided else "it has not decided"

    def _unheard(self) -> bool:
        """Whether a stop was asked for and the guard has not answered."""
        if self._asked is None:
            return False
        at, answer = self._asked
        return time.monotonic() - at > ANSWER_S and not answer.done()

    def _load(self, source: str) -> None:
        """The bundle at `source`, from whatever state the policy is in."""
        self._loaded = ""
        for _ in range(CHANGES):
            if (state := self._state()) not in DOWN:
                break
            self._calls.change_state("policy", DOWN[state])
        told = self._protocol.conditions
        steps = {"seam": told.seam, "n_action_steps": told.n_action_steps}
        self._calls.set_parameters("policy", {"bundle": source, **steps})
        for _ in range(CHANGES):
            if (state := self._state()) not in UP:
                break
            try:
                self._calls.change_state("policy", UP[state], LOAD_S)
            except NacError as error:
                said = self._says("policy", "message") or error
                raise NacError(f"the method cannot be loaded: {said}") from error
        self._loaded = source

    def _reset_twin(self, slot: Slot) -> None:
        """The scene of a trial; the guard is told that the arm is elsewhere now."""
        self._wait(lambda: self._says("guard", "state") in (*AT_REST, "inactive", ""), "rest")
        values = {"task": slot.task, "seed": self._protocol.seed, "trial": slot.trial}
        values["randomization"] = self._protocol.conditions.randomization
        self._calls.set_parameters("twin", values)
        self._calls.trigger("twin/reset", LOAD_S)
        self._calls.pause(SETTLE_S)
        self._calls.trigger(RESET)
        self._wait(lambda: self._says("guard", "fault") == "", "the guard's reset")

    def _end_others(self) -> None:
        """At first: what a console that crashed has left going on, policy and recording."""
        if self._alone:
            return
        if self._state() == State.PRIMARY_STATE_ACTIVE:
            self._calls.trigger("policy/stop")
        request = Trigger.Request()  # refused where nothing is being recorded
        self._calls.call(Trigger, "recorder/discard", request, DISK_S)
        self._alone = True

    def _give_up(self) -> None:
        """What was begun of a trial that cannot go on is ended; what hangs is left."""
        self._hold()
        self._ended = time.monotonic()
        self._seen.unmark()
        for name in ("policy/stop", "recorder/discard"):
            self._calls.fire(name)

    def _hold(self) -> None:
        self._modes.publish(HOLD)

    def _state(self) -> int:
        return self._calls.state("policy")

    def _takes_chunks(self) -> bool:
        """Whether the guard is in mode policy and would take a chunk; a policy that began before
        that would go on from one that was never played."""
        ready = self._says("guard", "hold") not in HOLDS_BEFORE_START
        return ready and self._says("guard", "mode") == "policy"

    def _says(self, node: str, key: str) -> Any:
        return self._seen.latest_diagnostics(node).get(key)

    def _wait(self, ready: Any, what: str, timeout_s: float = REST_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            self._calls.pause(0.02)
            if time.monotonic() > deadline:
                raise NacError(f"waited {timeout_s:.0f} s for {what}; see the nodes' logs")
