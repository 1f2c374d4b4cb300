"""Outputs of a demo run: result.json, traces, report, video and a printed summary."""

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros.apps.demo_trials import DemoTrials
from nac_ros.reporting.run_report import write_run_report
from nac_ros.reporting.trial_trace import TrialTrace
from nac_ros.reporting.video import compose_frame, title_frames, write_video
from nac_ros.robot.spec import RobotSpec
from nac_ros.simulation.state_log import StateLog
from nac_ros.simulation.twin import Twin, TwinState
from nac_ros.stats.intervals import percentiles, wilson

VIDEO_FPS = 30
MAX_FRAMES = 600  # rendered in about 20 s on two cores; longer runs are shown in fast motion
SPECTATOR_SIZE = (480, 360)  # [pixels]
TITLE_FRAMES = 20


def make_result(
    bundle: str, seed: int, traces: Sequence[TrialTrace], trials: DemoTrials
) -> dict[str, Any]:
    """The object of result.json."""
    outcomes = [log.trial for log in trials.state_logs]
    tasks = dict.fromkeys(row["task"] for row in outcomes)
    intervals = np.concatenate([trace.command_interval_s for trace in traces])
    return {
        "bundle": bundle,
        "seed": seed,
        "tasks": {task: _row([f for f in outcomes if f["task"] == task]) for task in tasks},
        "chunk_ms": _percentiles(trials.chunk_ms),
        "decode_ms": _percentiles(trials.decode_ms),
        "command_interval_error_ms": _interval_errors(intervals, trials.period_s),
        "idle_interval_error_ms": _interval_errors(trials.idle_s, trials.period_s),
        "holds": dict(trials.holds),
        "rejections": dict(trials.rejections),
        "interventions": sum(len(trace.interventions) for trace in traces),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def write_outputs(
    folder: Path, result: dict[str, Any], traces: Sequence[TrialTrace], trials: DemoTrials
) -> None:
    """Writes result.json, one trace per trial, video.mp4 and report.html into `folder`."""
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    for trace in traces:
        trace.save(folder / "trials" / f"{trace.task}-{trace.trial:03d}.trace.npz")
    write_video(folder / "video.mp4", _frames(trials.spec, trials.state_logs), VIDEO_FPS)
    write_run_report(
        folder / "report.html",
        result,
        traces,
        title="Demo",
        video="video.mp4",
        command_period_s=trials.period_s,
        chunk_budget_s=trials.budget_s,
        idle_interval_s=trials.idle_s,
    )


def print_summary(result: Mapping[str, Any], folder: Path) -> None:
    """Prints success rates, latencies, timing errors, holds and the report's path."""
    print(f"\n{'task':14s} {'successes':>9s}   Wilson 95 %")
    for task, row in result["tasks"].items():
        low, high = row["wilson95"]
        rate = f"{row['successes']}/{row['trials']}"
        print(f"{task:14s} {rate:>9s}   {100 * low:.0f} .. {100 * high:.0f} %")
    for key, text in (
        ("chunk_ms", "observation to chunk"),
        ("decode_ms", "decode"),
        ("command_interval_error_ms", "command interval error"),
        ("idle_interval_error_ms", "  on the idle machine"),
    ):
        values = ", ".join(f"{name} {value:.2f}" for name, value in result[key].items())
        print(f"{text:24s} {values} ms" if values else f"{text:24s} not measured")
    for key in ("holds", "rejections"):
        counts = ", ".join(f"{reason} {n}" for reason, n in sorted(result[key].items()))
        print(f"{key:24s} {counts or 'none'}")
    print(f"{'report':24s} {folder / 'report.html'}", flush=True)


def _row(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    successes = sum(row["state"] == "success" for row in outcomes)
    return {
        "trials": len(outcomes),
        "successes": successes,
        "wilson95": list(wilson(successes, len(outcomes))),
        "outcomes": [
            {"outcome": row["state"], **{key: row[key] for key in ("trial", "reason", "steps")}}
            for row in outcomes
        ],
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50 and p99; empty without values."""
    return {key: round(p, 3) for key, p in percentiles(values).items() if p is not None}


def _interval_errors(intervals: np.ndarray, period: float) -> dict[str, float]:
    """Absolute difference of intervals [s] from the period [s], in ms."""
    errors = 1e3 * np.abs(intervals - period)
    if not len(errors):
        return {}
    return {**_percentiles(errors.tolist()), "max": round(float(errors.max()), 3)}


def _frames(spec: RobotSpec, state_logs: Sequence[StateLog]) -> Iterator[np.ndarray]:
    """Video frames of every trial after its title; one Twin per task renders them."""
    n_states = sum(len(log.states) for log in state_logs)
    stride = max(1, round(n_states / MAX_FRAMES))
    twins: dict[str, Twin] = {}
    for log in state_logs:
        task = log.trial["task"]
        twin = twins.get(task) or twins.setdefault(task, Twin(spec, task))
        caption = f"{task} {log.trial['trial'] + 1}: {log.trial['state']}"
        frames = [_frame(twin, state, caption) for state in log.states[::stride]]
        yield from title_frames(caption, frames[0].shape[:2], TITLE_FRAMES)
        yield from frames
    for twin in twins.values():
        twin.close()


def _frame(twin: Twin, state: TwinState, caption: str) -> np.ndarray:
    twin.restore(state)
    insets = {name: image for name, (_, image) in twin.read().images.items()}
    return compose_frame(twin.render("spectator", *SPECTATOR_SIZE), insets, caption)
