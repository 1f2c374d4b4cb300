"""Plays trials through the running graph and collects what each one left behind."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from nac_ros.control.types import AT_REST
from nac_ros.core.errors import NacError
from nac_ros.reporting.trial_trace import TrialTrace
from nac_ros.robot.spec import RobotSpec
from nac_ros.ros.diagnostics_summary import (
    chunk_reports,
    count_increases,
    hold_spans,
    interventions,
)
from nac_ros.ros.graph_client import GraphClient
from nac_ros.simulation.state_log import StateLog
from nac_ros.simulation.tasks.base import HORIZON

IDLE_S = 5.0
SETTLE_S = 0.2  # by then the guard has seen where the arm is in the new scene
REST_S = 10.0  # a stop takes much less
LATE_S = 30.0  # an outcome is overdue this long after the horizon


class Trials:
    """One after the other on one Operator.

    recordings: of the played trials, in order; idle_s: command intervals of the idle machine [s]
    chunk_ms, decode_ms: of every chunk; holds, rejections: by reason, counted during trials alone
    """

    def __init__(self, operator: GraphClient, spec: RobotSpec, seed: int):
        self._operator, self.spec, self._seed = operator, spec, seed
        self.recordings: list[StateLog] = []
        self.idle_s = np.zeros(0)
        self.chunk_ms: list[float] = []
        self.decode_ms: list[float] = []
        self.holds: Counter[str] = Counter()
        self.rejections: Counter[str] = Counter()
        self._events: list[dict[str, Any]] = []

    @property
    def period_s(self) -> float:
        """Wanted time between commands [s]."""
        return 1 / self.spec.guard_rate_hz

    @property
    def budget_s(self) -> float | None:
        """Executed steps of a chunk in seconds, None before the policy said so."""
        budget = self._operator.latest_diagnostics("policy").get("budget_ms")
        return None if budget is None else 1e-3 * budget

    def prepare(self, tasks: Sequence[str]) -> None:
        """Lets the twin compile every scene before anything is timed."""
        for task in reversed(tasks):
            self._reset(task, 0)

    def measure_idle(self) -> None:
        """Command intervals while the guard holds and nothing is inferred."""
        time.sleep(1.0)  # the reset before has settled
        first = len(self._operator.command_times)
        deadline = time.monotonic() + IDLE_S
        self._operator.wait_until(lambda: time.monotonic() > deadline, "the idle machine")
        self.idle_s = np.diff(self._operator.command_times[first:])

    def play(self, task: str, trial: int) -> TrialTrace:
        """One judged trial; the arm holds before and after."""
        operator = self._operator
        operator.set_task(task)
        self._reset(task, trial)
        marks = (len(operator.command_times), len(operator.chunks))
        seen = {node: len(operator.diagnostics.get(node, [])) for node in ("policy", "guard")}
        before = operator.latest_diagnostics("guard")
        operator.set_mode("policy")
        operator.trigger("policy/start")
        overdue = HORIZON / self.spec.action_rate_hz + LATE_S
        operator.wait_until(lambda: self._ended(task, trial), f"the outcome of {task} {trial}", overdue)
        operator.trigger("policy/stop")
        ended = time.time()
        operator.set_mode("hold")
        reports = {node: operator.diagnostics[node][first:] for node, first in seen.items()}
        self._count(before, reports["guard"])
        return self._trace(marks, reports, ended)

    def new_events(self) -> list[dict[str, Any]]:
        """What happened since the last call, each a row for the event log."""
        events, self._events = self._events, []
        return events

    def _reset(self, task: str, trial: int) -> None:
        self._operator.set_mode("hold")
        self._operator.wait_until(self._rests, "the arm to rest", REST_S)
        self._operator.set_parameters("twin", {"task": task, "seed": self._seed, "trial": trial})
        self._operator.trigger("twin/reset")
        time.sleep(SETTLE_S)
        self._operator.trigger("guard/reset")  # the arm is elsewhere now, and that is all right

    def _rests(self) -> bool:
        return self._operator.latest_diagnostics("guard").get("state") in (*AT_REST, "inactive", "")

    def _ended(self, task: str, trial: int) -> bool:
        now = self._operator.outcome
        return (now.get("task"), now.get("trial")) == (task, trial) and now["state"] != "running"

    def _count(self, before: dict[str, Any], reports: Sequence[dict[str, Any]]) -> None:
        """What the guard counted in the trial; that it holds afterwards was asked for."""
        for what, total in (("holds", self.holds), ("rejections", self.rejections)):
            total.update(count_increases(before, reports[-1], what))

    def _trace(
        self,
        marks: tuple[int, int],
        reports: dict[str, list[dict[str, Any]]],
        ended: float,
    ) -> TrialTrace:
        operator, outcome = self._operator, self._operator.outcome
        if not outcome["state_log"]:
            raise NacError("the twin records no trials; set its parameter `recordings`")
        recording = StateLog.load(outcome["state_log"])
        self.recordings.append(recording)
        chunks = operator.chunks[marks[1] :]
        latency = self._timings(reports["policy"])
        self._events.extend(_rows(reports))
        return TrialTrace(
            task=outcome["task"],
            trial=outcome["trial"],
            outcome=outcome["state"],
            reason=outcome["reason"],
            names=self.spec.joint_names,
            units=self.spec.units,
            times=recording.stamps,
            commanded=recording.commanded,
            measured=recording.measured,
            chunk_stamps=np.array([chunk.stamp for chunk in chunks]),
            chunk_latency_s=np.array(latency),
            chunk_actions=np.array([chunk.actions for chunk in chunks]),
            command_interval_s=np.diff(operator.command_times[marks[0] :]),
            rate_hz=self.spec.action_rate_hz,
            holds=hold_spans(reports["guard"], ended),
            interventions=interventions(reports["guard"], ended),
        )

    def _timings(self, reports: Sequence[dict[str, Any]]) -> list[float]:
        """Observation-to-chunk times [s]."""
        chunks = chunk_reports(reports)
        self.chunk_ms += [report["latency_ms"] for report in chunks]
        self.decode_ms += [report["decode_ms"] for report in chunks]
        return [1e-3 * report["latency_ms"] for report in chunks]


def _rows(reports: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = [
        {"event": "diagnostics", "node": node, **report}
        for node, several in reports.items()
        for report in several
    ]
    return sorted(rows, key=lambda row: row["stamp"])
