"""report.html of a run: one file with all plots inside, and the address of the video."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros.reporting import plots
from nac_ros.reporting.html import figure, page, section, table
from nac_ros.reporting.trial_trace import TrialTrace
from nac_ros.stats.intervals import wilson


def write_run_report(
    path: Path | str,
    result: Mapping[str, Any],
    traces: Sequence[TrialTrace] = (),
    *,
    title: str = "Trials",
    video: str | None = None,
    command_period_s: float | None = None,
    chunk_budget_s: float | None = None,
    idle_interval_s: np.ndarray | None = None,
) -> Path:
    """Writes the page and returns its path.

    result: the object of result.json; sections without data are left out
    video: address of the video relative to the page
    command_period_s: wanted time between commands
    chunk_budget_s: time until the executed steps of a chunk end
    idle_interval_s: `[M]` command intervals [s] of the idle machine
    """
    method = str(result.get("method", "nac"))
    sections = [_tiles(result)]
    if video:
        sections.append(section("Video", f'<video controls muted src="{escape(video)}"></video>'))
    sections.append(_success(result, method))
    sections.append(_trial_table(traces))
    sections.append(_latency(traces, chunk_budget_s, method))
    sections.append(_intervals(traces, command_period_s, idle_interval_s))
    sections.append(_holds(result))
    sections.append(_joints(traces))
    sections.append(_raw_results(result))
    path = Path(path)
    path.write_text(page(title, _subtitle(result), "\n".join(sections)), encoding="utf-8")
    return path


def _subtitle(result: Mapping[str, Any]) -> str:
    values = {key: result.get(key) for key in ("bundle", "seed", "robot", "machine", "time")}
    return " · ".join(f"{key} {escape(str(v))}" for key, v in values.items() if v is not None)


def _tiles(result: Mapping[str, Any]) -> str:
    tiles = []
    for task, (k, n, (low, high)) in _rates(result).items():
        note = f"{100 * k / n:.0f} %; 95 %: {100 * low:.0f} to {100 * high:.0f} %"
        tiles.append((f"{k} of {n}", escape(task), note))
    for key, label in (("chunk_ms", "observation to chunk"), ("decode_ms", "tokens to actions")):
        if p := result.get(key):
            tiles.append((f"{p['p50']:.1f} ms", label, f"median; p99 {p['p99']:.1f} ms"))
    if "command_interval_error_ms" in result:
        run, idle = result["command_interval_error_ms"], result.get("idle_interval_error_ms")
        idle_note = f"; idle machine {_p99(idle):.1f} ms" if idle is not None else ""
        tiles.append((f"{_p99(run):.1f} ms", "command interval error", f"p99{idle_note}"))
    if "holds" in result:
        tiles.append((str(sum(result["holds"].values())), "holds", "by the guard, all reasons"))
    cells = "".join(
        f'<div class="tile"><b>{value}</b><span>{label}</span><small>{note}</small></div>'
        for value, label, note in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _success(result: Mapping[str, Any], method: str) -> str:
    rates = _rates(result)
    if not rates:
        return ""
    total = sum(n for _, n, _ in rates.values())
    caption = (
        f"Success by task, method {method}, n = {total} trials; the bar is Wilson's 95 % interval."
    )
    return section("Success", figure(plots.plot_success_rates({method: rates}), caption))


def _trial_table(traces: Sequence[TrialTrace]) -> str:
    if not traces:
        return ""
    rows = [
        [
            escape(trace.task),
            str(trace.trial),
            f'<i class="{escape(trace.outcome)}">{escape(trace.outcome)}</i>',
            escape(trace.reason),
            f"{trace.duration_s:.1f}",
            str(len(trace.chunk_stamps)),
            str(len(trace.holds)),
            str(len(trace.interventions)),
        ]
        for trace in traces
    ]
    heads = ("task", "trial", "outcome", "reason", "time [s]", "chunks", "holds", "interventions")
    return section("Trials", table(heads, rows))


def _latency(traces: Sequence[TrialTrace], budget_s: float | None, method: str) -> str:
    values = _concatenate([trace.chunk_latency_s for trace in traces])
    if not len(values):
        return ""
    caption = f"Time from an observation's stamp to its chunk, n = {len(values)} chunks."
    return section("Latency", figure(plots.plot_latency(values, budget_s, method), caption))


def _intervals(
    traces: Sequence[TrialTrace], period_s: float | None, idle_s: np.ndarray | None
) -> str:
    values = _concatenate([trace.command_interval_s for trace in traces])
    if not len(values) or period_s is None:
        return ""
    caption = (
        f"Commands are due every {1e3 * period_s:.1f} ms; deviation of the intervals, "
        f"n = {len(values)} commands. Idle machine: the same timer with nothing else running."
    )
    plot = plots.plot_interval_error(values, period_s, idle_s)
    return section("Timing", figure(plot, caption))


def _holds(result: Mapping[str, Any]) -> str:
    counts = {reason: n for reason, n in result.get("holds", {}).items() if n}
    if not counts:
        return ""
    caption = f"Reasons for which the guard held, n = {sum(counts.values())} holds."
    return section("Holds", figure(plots.plot_holds(counts), caption))


def _joints(traces: Sequence[TrialTrace]) -> str:
    blocks = []
    for index, trace in enumerate(t for t in traces if len(t.times)):
        error = np.abs(trace.commanded - trace.measured)
        joint = int(error.max(0).argmax())
        caption = (
            f"{trace.reason} Largest difference between command and measurement: "
            f"{error.max():.3f} {trace.units[joint]} at {trace.names[joint]}, "
            f"n = {len(trace.times)} samples."
        )
        name = f"{trace.task}, trial {trace.trial}: {trace.outcome}"
        body = figure(plots.plot_joints(trace), escape(caption))
        opened = " open" if index == 0 else ""
        blocks.append(f"<details{opened}><summary>{escape(name)}</summary>{body}</details>")
    return section("Joints", "".join(blocks)) if blocks else ""


def _raw_results(result: Mapping[str, Any]) -> str:
    text = escape(json.dumps(result, indent=2, default=str))
    details = f"<details><summary>result.json</summary><pre>{text}</pre></details>"
    return section("Results", details)


def _rates(result: Mapping[str, Any]) -> dict[str, tuple[int, int, tuple[float, float]]]:
    """Task -> (successes, trials, Wilson's interval)."""
    counts = {t: (r["successes"], r["trials"]) for t, r in result.get("tasks", {}).items()}
    return {task: (k, n, wilson(k, n)) for task, (k, n) in counts.items() if n}


def _p99(value: Any) -> float:
    return float(value["p99"] if isinstance(value, Mapping) else value)


def _concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0)
