"""Plots of reports: arrays in, PNG bytes out, one fixed colour per method."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nac_ros.reporting.trial_trace import TrialTrace

# Colours of Okabe and Ito, which colour-blind readers can tell apart.
METHOD_COLOURS = {
    "nac": "#0072b2",
    "fast": "#e69f00",
    "oat": "#009e73",
    "vqvla": "#cc79a7",
    "diffusion": "#d55e00",
    "bin": "#56b4e9",
    "expert": "#222222",
    "rotated_rvq": "#882255",
}
OTHER_METHOD = "#777777"
PLANNED, COMMANDED, MEASURED = "#9aa9b8", "#0072b2", "#d55e00"
HOLD, INTERVENTION, IDLE = "#f6e3c5", "#d9ead9", "#8a9099"
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a9099",
    "figure.dpi": 150,
}
Rates = Mapping[str, tuple[int, int, tuple[float, float]]]


def method_colours(methods: Sequence[str]) -> dict[str, str]:
    """method -> colour: its fixed one, or one that no other method of `methods` has."""
    known = {name: METHOD_COLOURS[name] for name in methods if name in METHOD_COLOURS}
    free = iter(colour for colour in METHOD_COLOURS.values() if colour not in known.values())
    return {name: known.get(name) or next(free, OTHER_METHOD) for name in methods}


@mpl.rc_context(STYLE)
def plot_success_rates(methods: Mapping[str, Rates]) -> bytes:
    """method -> task -> (successes, trials, interval in [0, 1])."""
    figure, axes = _plot_by_task(methods, _draw_rate)
    axes.set(xlim=(0, 100), xlabel="success [%], 95 % Wilson interval")
    return to_png(figure)


@mpl.rc_context(STYLE)
def plot_success_times(methods: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """method -> task -> times to success of the trials [s]; the line is the median."""
    figure, axes = _plot_by_task(methods, _draw_times)
    axes.set(xlabel="time to success [s]", xlim=(0, None))
    return to_png(figure)


@mpl.rc_context(STYLE)
def plot_success_drift(outcomes: Mapping[str, Sequence[bool]], window: int) -> bytes:
    """Success rate over the last `window` trials; method -> success of each trial in order."""
    figure, axes = _new_figure(2.6)
    colours = method_colours(list(outcomes))
    for method, values in outcomes.items():
        rates = np.convolve(np.asarray(values, float), np.ones(window), "valid") / window
        trials = np.arange(window, len(values) + 1)
        axes.plot(trials, 100 * rates, color=colours[method], label=method, clip_on=False)
    axes.set(xlabel="trials played so far", ylabel="success [%]", ylim=(0, 100))
    _add_method_legend(axes)
    return to_png(figure)


@mpl.rc_context(STYLE)
def plot_wealth(pairs: Mapping[str, Sequence[float]], alpha: float) -> bytes:
    """Pair of methods -> wealth of the betting test after each pair of trials, over all tasks."""
    figure, axes = _new_figure(2.8)
    for name, values in pairs.items():
        axes.step(range(len(values) + 1), [1.0, *values], where="post", label=name, lw=1.6)
    threshold = f"significant: {1 / alpha:g}"
    axes.axhline(1 / alpha, color="#d55e00", lw=1.2, ls="--", label=threshold)
    axes.set(yscale="log", xlabel="pairs of trials on the same scene", ylabel="wealth (e-value)")
    axes.set_xlim(0, max((len(values) for values in pairs.values()), default=1))
    axes.legend(frameon=False, fontsize=8)
    return to_png(figure)


@mpl.rc_context(STYLE)
def plot_latency(latency_s: np.ndarray, budget_s: float | None, method: str) -> bytes:
    """Histogram of the times from observation to chunk `[C]` [s].

    budget_s: time after which the chunk is too late
    """
    figure, axes = _new_figure(2.6)
    values, colour = 1e3 * latency_s, METHOD_COLOURS.get(method, OTHER_METHOD)
    axes.hist(values, bins=min(40, len(values)), color=colour, alpha=0.85)
    for q, style in ((50, "-"), (99, "--")):
        at = np.percentile(values, q)
        axes.axvline(at, color="#222222", lw=1, ls=style, label=f"p{q} {at:.0f} ms")
    if budget_s is not None:
        label = f"executed steps end, {1e3 * budget_s:.0f} ms"
        axes.axvline(1e3 * budget_s, color="#d55e00", lw=1.5, label=label)
    axes.set(xlabel="observation to chunk [ms]", ylabel="chunks", xlim=(0, None))
    axes.legend(frameon=False)
    return to_png(figure)


@mpl.rc_context(STYLE)
def plot_interval_error(
    interval_s: np.ndarray, period_s: float, idle_s: np.ndarray | None
) -> bytes:
    """Share of command intervals `[M]` [s] that differ from the period by more than x."""
    figure, axes = _new_figure(2.6)
    for label, values, colour in (
        ("in the run", interval_s, COMMANDED),
        ("idle machine", idle_s, IDLE),
    ):
        if values is None or not len(values):
            continue
        error = np.sort(1e3 * np.abs(values - period_s))
        share = 1 - np.arange(len(error)) / len(error)
        axes.step(error, share, where="post", color=colour, label=f"{label}, n = {len(error)}")
    axes.set(xlabel="command interval error [ms]", ylabel="share of commands above x")
    axes.set(yscale="log", xlim=(0, None))
    axes.legend(frameon=False)
    return to_png(figure)


@mpl.rc_context(STYLE)
def plot_holds(counts: Mapping[str, int]) -> bytes:
    """Number of the guard's holds by reason."""
    figure, axes = _new_figure(0.8 + 0.3 * len(counts))
    reasons, numbers = zip(*sorted(counts.items(), key=lambda item: item[1]))
    axes.bar_label(axes.barh(reasons, numbers, color="#c98a2b"), padding=3)
    axes.set(xlabel="holds [count]")
    axes.grid(visible=False, axis="y")
    return to_png(figure)


@mpl.rc_context(STYLE)
def plot_joints(trace: TrialTrace) -> bytes:
    """Planned, commanded and measured position of each joint over the trial."""
    dims = len(trace.names)
    columns = 2 if dims > 1 else 1
    rows = -(-dims // columns)
    figure = Figure((9.6, 0.6 + 1.45 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for joint in range(dims):
        _draw_joint(grid.flat[joint], trace, joint)
    for axes in grid.flat[dims:]:
        axes.set_axis_off()
    for axes in grid.flat[max(0, dims - columns) : dims]:
        axes.set_xlabel("time [s]")
        axes.tick_params(labelbottom=True)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles))
    figure.legend(
        list(unique.values()), list(unique), loc="outside upper center", ncols=4, frameon=False
    )
    return to_png(figure)


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _new_figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure((8.4, height), layout="constrained")
    return figure, figure.subplots()


def _plot_by_task(
    methods: Mapping[str, Mapping[str, Any]], draw: Callable[..., None]
) -> tuple[Figure, Axes]:
    """A figure with one band per task, in which each method has a row.

    methods: method -> task -> value; draw: called with axes, row, value, colour and label
    """
    tasks = list(dict.fromkeys(task for values in methods.values() for task in values))
    n, colours = len(methods), method_colours(list(methods))
    figure, axes = _new_figure(0.9 + 0.28 * len(tasks) * (n + 0.5))
    for index, (method, values) in enumerate(methods.items()):
        label, offset = method, (index - (n - 1) / 2) * 0.8 / n
        for task, value in values.items():
            draw(axes, tasks.index(task) + offset, value, colours[method], label)
            label = ""  # one entry per method in the legend
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    if n > 1:
        _add_method_legend(axes)
    return figure, axes


def _draw_rate(
    axes: Axes, row: float, rate: tuple[int, int, tuple[float, float]], colour: str, label: str
) -> None:
    k, n, (low, high) = rate
    axes.hlines(row, 100 * low, 100 * high, color=colour, lw=2.5, alpha=0.45)
    axes.plot(100 * k / n, row, "o", ms=7, color=colour, label=label, clip_on=False)
    side, align = (-9, "right") if k / n > 0.88 else (9, "left")
    axes.annotate(
        f"{k}/{n}",
        (100 * k / n, row),
        xytext=(side, 6),
        textcoords="offset points",
        ha=align,
        color=colour,
    )


def _draw_times(axes: Axes, row: float, times: Sequence[float], colour: str, label: str) -> None:
    rows = np.full(len(times), row)
    axes.plot(times, rows, "o", ms=4, color=colour, alpha=0.5, label=label, clip_on=False)
    axes.vlines(np.median(times), row - 0.12, row + 0.12, color=colour, lw=2.5)


def _add_method_legend(axes: Axes) -> None:
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)


def _draw_joint(axes: Axes, trace: TrialTrace, joint: int) -> None:
    start = trace.times[0] if len(trace.times) else 0.0
    for spans, colour, label in (
        (trace.holds, HOLD, "hold"),
        (trace.interventions, INTERVENTION, "intervention"),
    ):
        for span in spans:
            axes.axvspan(span.start - start, span.end - start, color=colour, lw=0, label=label)
    if trace.chunk_actions.ndim == 3 and len(trace.chunk_actions):
        ahead = (np.arange(trace.chunk_actions.shape[1]) + 1) / trace.rate_hz
        times = trace.chunk_stamps[:, None] + ahead - start  # [C, H]
        values = trace.chunk_actions[:, :, joint]
        lines = axes.plot(times.T, values.T, color=PLANNED, lw=0.9)
        lines[0].set_label("planned chunks")
    times = trace.times - start
    axes.plot(times, trace.commanded[:, joint], color=COMMANDED, lw=1.4, label="commanded")
    axes.plot(times, trace.measured[:, joint], color=MEASURED, lw=1, ls="--", label="measured")
    unit = trace.units[joint]
    axes.set_ylabel(f"{trace.names[joint]}\n[{unit}]" if unit else trace.names[joint])
