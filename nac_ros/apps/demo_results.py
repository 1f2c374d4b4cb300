"""What a demo says in the end: result.json, the report, the video and a table."""

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros.apps.demo_trials import Trials
from nac_ros.reporting.run_report import write_report
from nac_ros.reporting.trial_trace import TrialTrace
from nac_ros.reporting.video import compose, title, write_video
from nac_ros.robot.spec import RobotSpec
from nac_ros.simulation.state_log import Recording
from nac_ros.simulation.twin import Twin, TwinState
from nac_ros.stats.intervals import wilson

VIDEO_FPS = 30
MAX_FRAMES = 600  # what two cores render in about 20 s; longer runs are shown faster
SPECTATOR = (480, 360)  # [pixels]
TITLE_FRAMES = 20


def figures(
    bundle: str, seed: int, traces: Sequence[TrialTrace], collected: Trials
) -> dict[str, Any]:
    """The object of result.json."""
    facts = [recording.facts for recording in collected.recordings]
    tasks = dict.fromkeys(row["task"] for row in facts)
    intervals = np.concatenate([trace.command_interval_s for trace in traces])
    period = collected.period_s
    return {
        "bundle": bundle,
        "seed": seed,
        "tasks": {task: _row([f for f in facts if f["task"] == task]) for task in tasks},
        "chunk_ms": _percentiles(collected.chunk_ms),
        "decode_ms": _percentiles(collected.decode_ms),
        "command_interval_error_ms": _errors(intervals, period),
        "idle_interval_error_ms": _errors(collected.idle_s, period),
        "holds": dict(collected.holds),
        "refusals": dict(collected.refusals),
        "interventions": sum(len(trace.interventions) for trace in traces),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def render(
    folder: Path, result: dict[str, Any], traces: Sequence[TrialTrace], collected: Trials
) -> None:
    """Writes result.json, one trace per trial, video.mp4 and report.html into `folder`."""
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    for trace in traces:
        trace.save(folder / "trials" / f"{trace.task}-{trace.trial:03d}.trace.npz")
    write_video(folder / "video.mp4", _pictures(collected.spec, collected.recordings), VIDEO_FPS)
    write_report(
        folder / "report.html",
        result,
        traces,
        title="Demo",
        video="video.mp4",
        command_period_s=collected.period_s,
        chunk_budget_s=collected.budget_s,
        idle_interval_s=collected.idle_s,
    )


def print_table(result: Mapping[str, Any], folder: Path) -> None:
    """The figures that matter, in a dozen lines."""
    print(f"\n{'task':14s} {'successes':>9s}   Wilson 95 %")
    for task, row in result["tasks"].items():
        low, high = row["wilson95"]
        rate = f"{row['successes']}/{row['trials']}"
        print(f"{task:14s} {rate:>9s}   {100 * low:.0f} .. {100 * high:.0f} %")
    for key, text in (
        ("chunk_ms", "observation to chunk"),
        ("decode_ms", "decode"),
        ("command_interval_error_ms", "command interval error"),
        ("idle_interval_error_ms", "  its idle floor"),
    ):
        values = ", ".join(f"{name} {value:.2f}" for name, value in result[key].items())
        print(f"{text:24s} {values} ms" if values else f"{text:24s} nothing measured")
    for what in ("holds", "refusals"):
        counts = ", ".join(f"{reason} {n}" for reason, n in sorted(result[what].items()))
        print(f"{what:24s} {counts or 'none'}")
    print(f"{'report':24s} {folder / 'report.html'}", flush=True)


def _row(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    successes = sum(row["state"] == "success" for row in facts)
    outcomes = [
        {"trial": row["trial"], "outcome": row["state"]} | {k: row[k] for k in ("reason", "steps")}
        for row in facts
    ]
    return {
        "trials": len(facts),
        "successes": successes,
        "wilson95": list(wilson(successes, len(facts))),
        "outcomes": outcomes,
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50 and p99; empty where nothing was measured."""
    if not len(values):
        return {}
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def _errors(intervals: np.ndarray, period: float) -> dict[str, float]:
    """How far intervals [s] are off the period, in ms."""
    errors = 1e3 * np.abs(intervals - period)
    if not len(errors):
        return {}
    return {**_percentiles(errors.tolist()), "max": round(float(errors.max()), 3)}


def _pictures(spec: RobotSpec, recordings: Sequence[Recording]) -> Iterator[np.ndarray]:
    """Every trial under a title; one Twin per task renders what was recorded."""
    total = sum(len(recording.states) for recording in recordings)
    stride = max(1, round(total / MAX_FRAMES))
    twins: dict[str, Twin] = {}
    for recording in recordings:
        task = recording.facts["task"]
        twin = twins.get(task) or twins.setdefault(task, Twin(spec, task))
        caption = f"{task} {recording.facts['trial'] + 1}: {recording.facts['state']}"
        frames = [_picture(twin, state, caption) for state in recording.states[::stride]]
        yield from title(caption, frames[0].shape[:2], TITLE_FRAMES)
        yield from frames
    for twin in twins.values():
        twin.close()


def _picture(twin: Twin, state: TwinState, caption: str) -> np.ndarray:
    twin.restore(state)
    insets = {name: image for name, (_, image) in twin.read().images.items()}
    return compose(twin.render("spectator", *SPECTATOR), insets, caption)
