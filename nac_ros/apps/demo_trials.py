"""Runs trials on the twin through the running graph and collects their data."""

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
SETTLE_S = 0.3  # until the guard has received the arm's position in the new scene
REST_S = 20.0  # a stop takes much less
OUTCOME_MARGIN_S = 30.0  # beyond the horizon


def reset_scene(client: GraphClient, task: str, seed: int, trial: int) -> None:
    """Waits until the arm rests, loads a trial's scene and clears the guard's fault."""
    client.wait_until(lambda: is_at_rest(client), "the arm to rest", REST_S)
    client.set_parameters("twin", {"task": task, "seed": seed, "trial": trial})
    client.trigger("twin/reset")
    time.sleep(SETTLE_S)
    client.trigger("guard/reset")  # the reset moved the arm, which the guard takes for a fault


def is_at_rest(client: GraphClient) -> bool:
    """Whether the guard commands no motion, or is not active yet."""
    return client.latest_diagnostics("guard").get("state") in (*AT_REST, "inactive", "")


class DemoTrials:
    """Runs one trial after the other.

    state_logs: of the trials, in order; idle_s: command intervals of the idle machine [s]
    chunk_ms: of every chunk; decode_ms: of those decoded from tokens
    holds, rejections: by reason, counted during trials only
    """

    def __init__(self, client: GraphClient, spec: RobotSpec, seed: int):
        self._client, self.spec, self._seed = client, spec, seed
        self.state_logs: list[StateLog] = []
        self.idle_s = np.zeros(0)
        self.chunk_ms: list[float] = []
        self.decode_ms: list[float] = []
        self.holds: Counter[str] = Counter()
        self.rejections: Counter[str] = Counter()
        self._diagnostics: list[dict[str, Any]] = []

    @property
    def period_s(self) -> float:
        """Nominal time between commands [s]."""
        return 1 / self.spec.guard_rate_hz

    @property
    def budget_s(self) -> float | None:
        """Duration [s] of a chunk's executed steps; None before the policy reported it."""
        budget = self._client.latest_diagnostics("policy").get("budget_ms")
        return None if budget is None else 1e-3 * budget

    def compile_scenes(self, tasks: Sequence[str]) -> None:
        """Lets the twin compile the scene of every task, so that no trial waits for it."""
        for task in reversed(tasks):
            self._reset(task, 0)

    def measure_idle(self) -> None:
        """Measures command intervals while the guard holds and no inference runs."""
        time.sleep(1.0)  # let the reset finish
        first = len(self._client.command_times)
        deadline = time.monotonic() + IDLE_S
        self._client.wait_until(lambda: time.monotonic() > deadline, "the idle machine")
        self.idle_s = np.diff(self._client.command_times[first:])

    def run_trial(self, task: str, trial: int) -> TrialTrace:
        """Runs a trial until the success detector ends it; the arm holds before and after."""
        client = self._client
        client.set_task(task)
        self._reset(task, trial)
        first_command, first_chunk = len(client.command_times), len(client.chunks)
        first_report = {n: len(client.diagnostics.get(n, [])) for n in ("policy", "guard")}
        before = client.latest_diagnostics("guard")
        client.set_mode("policy")
        client.trigger("policy/start")
        limit_s = HORIZON / self.spec.action_rate_hz + OUTCOME_MARGIN_S
        client.wait_until(
            lambda: self._has_ended(task, trial), f"the outcome of {task} {trial}", limit_s
        )
        client.trigger("policy/stop")
        ended = time.time()
        client.set_mode("hold")
        reports = {node: client.diagnostics[node][n:] for node, n in first_report.items()}
        # Only the guard's counts of the trial itself: the hold afterwards was requested.
        for key, total in (("holds", self.holds), ("rejections", self.rejections)):
            total.update(count_increases(before, reports["guard"][-1], key))
        return self._trace(first_command, first_chunk, reports, ended)

    def take_diagnostics(self) -> list[dict[str, Any]]:
        """The nodes' diagnostics during the trials since the last call, by stamp."""
        taken, self._diagnostics = self._diagnostics, []
        return taken

    def _reset(self, task: str, trial: int) -> None:
        self._client.set_mode("hold")
        reset_scene(self._client, task, self._seed, trial)

    def _has_ended(self, task: str, trial: int) -> bool:
        now = self._client.outcome
        return (now.get("task"), now.get("trial")) == (task, trial) and now["state"] != "running"

    def _trace(
        self,
        first_command: int,
        first_chunk: int,
        reports: dict[str, list[dict[str, Any]]],
        ended: float,
    ) -> TrialTrace:
        client, outcome = self._client, self._client.outcome
        if not outcome["state_log"]:
            raise NacError("the twin records no trials; set its parameter `recordings`")
        state_log = StateLog.load(outcome["state_log"])
        self.state_logs.append(state_log)
        chunks, timings = client.chunks[first_chunk:], chunk_reports(reports["policy"])
        self.chunk_ms += [report["latency_ms"] for report in timings]
        decode_ms = (report["decode_ms"] for report in timings)
        self.decode_ms += [ms for ms in decode_ms if ms]  # 0: the policy decodes no tokens
        rows = [{"node": node, **report} for node in reports for report in reports[node]]
        self._diagnostics += sorted(rows, key=lambda row: row["stamp"])
        return TrialTrace(
            task=outcome["task"],
            trial=outcome["trial"],
            outcome=outcome["state"],
            reason=outcome["reason"],
            names=self.spec.joint_names,
            units=self.spec.units,
            times=state_log.stamps,
            commanded=state_log.commanded,
            measured=state_log.measured,
            chunk_stamps=np.array([chunk.stamp for chunk in chunks]),
            chunk_latency_s=np.array([1e-3 * report["latency_ms"] for report in timings]),
            chunk_actions=np.array([chunk.actions for chunk in chunks]),
            command_interval_s=np.diff(client.command_times[first_command:]),
            rate_hz=self.spec.action_rate_hz,
            holds=hold_spans(reports["guard"], ended),
            interventions=interventions(reports["guard"], ended),
        )
