"""The report's plots: arrays in, PNG bytes out; one fixed colour per method."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nac_ros.reporting.trial_trace import TrialTrace

# Okabe and Ito's colours, which colour-blind readers can tell apart.
METHOD_COLOURS = {
    "nac": "#0072b2",
    "fast": "#e69f00",
    "oat": "#009e73",
    "vqvla": "#cc79a7",
    "diffusion": "#d55e00",
    "bin": "#56b4e9",
    "expert": "#222222",
}
OTHER_METHOD = "#777777"
PLANNED, COMMANDED, MEASURED, HELD = "#9aa9b8", "#0072b2", "#d55e00", "#f6e3c5"
BY_HAND = "#d9ead9"
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


def colours_of(methods: Sequence[str]) -> dict[str, str]:
    """Each method's own colour; one that has none gets one that no other method here has."""
    known = {name: METHOD_COLOURS[name] for name in methods if name in METHOD_COLOURS}
    free = iter(colour for colour in METHOD_COLOURS.values() if colour not in known.values())
    return {name: known.get(name) or next(free, OTHER_METHOD) for name in methods}


def offsets(n: int) -> list[float]:
    """Where `n` methods are drawn around the row of a task."""
    return [(row - (n - 1) / 2) * 0.8 / n for row in range(n)]


def success_rates(methods: Mapping[str, Rates]) -> bytes:
    """method -> task -> (successes, trials, interval in [0, 1])."""
    tasks = list(dict.fromkeys(task for rates in methods.values() for task in rates))
    with mpl.rc_context(STYLE):
        height = 0.9 + 0.28 * len(tasks) * (len(methods) + 0.5)
        figure = Figure((8.4, height), layout="constrained")
        axes = figure.subplots()
        colours = colours_of(list(methods))
        for (method, rates), offset in zip(methods.items(), offsets(len(methods))):
            places = [tasks.index(task) + offset for task in rates]
            _draw_rates(axes, places, rates, method, colours[method])
        axes.set(xlim=(0, 100), xlabel="success [%], 95 % Wilson interval")
        axes.set_yticks(range(len(tasks)), tasks)
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        if len(methods) > 1:
            axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
        return png(figure)


def latency(latency_s: np.ndarray, budget_s: float | None, method: str) -> bytes:
    """Distribution of observation-to-chunk times `[C]` [s]; budget: when the chunk is needed."""
    with mpl.rc_context(STYLE):
        figure = Figure((8.4, 2.6), layout="constrained")
        axes = figure.subplots()
        values = 1e3 * latency_s
        axes.hist(
            values,
            bins=min(40, len(values)),
            color=METHOD_COLOURS.get(method, OTHER_METHOD),
            alpha=0.85,
        )
        for q, style in ((50, "-"), (99, "--")):
            at = np.percentile(values, q)
            axes.axvline(at, color="#222222", lw=1, ls=style, label=f"p{q} {at:.0f} ms")
        if budget_s is not None:
            label = f"executed steps run out, {1e3 * budget_s:.0f} ms"
            axes.axvline(1e3 * budget_s, color="#d55e00", lw=1.5, label=label)
        axes.set(xlabel="observation to chunk [ms]", ylabel="chunks", xlim=(0, None))
        axes.legend(frameon=False)
        return png(figure)


def interval_error(interval_s: np.ndarray, period_s: float, idle_s: np.ndarray | None) -> bytes:
    """Share of commands whose interval `[M]` [s] is off the period by more than x."""
    with mpl.rc_context(STYLE):
        figure = Figure((8.4, 2.6), layout="constrained")
        axes = figure.subplots()
        curves = [("in the run", interval_s, COMMANDED), ("idle floor", idle_s, "#8a9099")]
        for label, values, colour in curves:
            if values is None or not len(values):
                continue
            error = np.sort(1e3 * np.abs(values - period_s))
            share = 1 - np.arange(len(error)) / len(error)
            axes.step(error, share, where="post", color=colour, label=f"{label}, n = {len(error)}")
        axes.set(xlabel="command interval error [ms]", ylabel="share of commands above x")
        axes.set(yscale="log", xlim=(0, None))
        axes.legend(frameon=False)
        return png(figure)


def holds(counts: Mapping[str, int]) -> bytes:
    """How often the guard held, by reason."""
    with mpl.rc_context(STYLE):
        figure = Figure((8.4, 0.8 + 0.3 * len(counts)), layout="constrained")
        axes = figure.subplots()
        ordered = sorted(counts.items(), key=lambda item: item[1])
        bars = axes.barh(
            [reason for reason, _ in ordered], [n for _, n in ordered], color="#c98a2b"
        )
        axes.bar_label(bars, padding=3)
        axes.set(xlabel="holds [count]")
        axes.grid(visible=False, axis="y")
        return png(figure)


def joints(trace: TrialTrace) -> bytes:
    """Planned, commanded and measured position of each joint over the trial."""
    dims = len(trace.names)
    columns = 2 if dims > 1 else 1
    rows = -(-dims // columns)
    with mpl.rc_context(STYLE):
        figure = Figure((9.6, 0.6 + 1.45 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
        for joint in range(dims):
            _draw_joint(grid.flat[joint], trace, joint)
        for axes in grid.flat[dims:]:
            axes.set_axis_off()
        for axes in grid.flat[max(0, dims - columns) : dims]:
            axes.set_xlabel("time [s]")
            axes.tick_params(labelbottom=True)
        figure.legend(*_legend(grid.flat[0]), loc="outside upper center", ncols=4, frameon=False)
        return png(figure)


def _draw_rates(axes: Axes, rows: Sequence[float], rates: Rates, method: str, colour: str) -> None:
    centres = [100 * k / n for k, n, _ in rates.values()]
    low, high = np.array([100 * np.array(interval) for *_, interval in rates.values()]).T
    axes.hlines(rows, low, high, color=colour, lw=2.5, alpha=0.45)
    axes.plot(centres, rows, "o", ms=7, color=colour, label=method, clip_on=False)
    for row, (k, n, _) in zip(rows, rates.values()):
        left = k / n > 0.88
        axes.annotate(
            f"{k}/{n}",
            (100 * k / n, row),
            xytext=(-9 if left else 9, 6),
            textcoords="offset points",
            ha="right" if left else "left",
            color=colour,
        )


def _draw_joint(axes: Axes, trace: TrialTrace, joint: int) -> None:
    start = trace.times[0] if len(trace.times) else 0.0
    for hold in trace.holds:
        axes.axvspan(hold.start - start, hold.end - start, color=HELD, lw=0, label="hold")
    for hand in trace.interventions:
        axes.axvspan(hand.start - start, hand.end - start, color=BY_HAND, lw=0, label="by hand")
    if trace.chunk_actions.ndim == 3 and len(trace.chunk_actions):
        ahead = (np.arange(trace.chunk_actions.shape[1]) + 1) / trace.rate_hz
        times = trace.chunk_stamps[:, None] + ahead - start
        values = trace.chunk_actions[:, :, joint]
        lines = axes.plot(times.T, values.T, color=PLANNED, lw=0.9)
        lines[0].set_label("planned chunks")
    times = trace.times - start
    axes.plot(times, trace.commanded[:, joint], color=COMMANDED, lw=1.4, label="commanded")
    axes.plot(times, trace.measured[:, joint], color=MEASURED, lw=1, ls="--", label="measured")
    unit = trace.units[joint]
    axes.set_ylabel(f"{trace.names[joint]}\n[{unit}]" if unit else trace.names[joint])


def _legend(axes: Axes) -> tuple[list, list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles))
    return list(unique.values()), list(unique)


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


Values = Mapping[str, Mapping[str, Sequence[float]]]


def times(seconds: Values) -> bytes:
    """method -> task -> seconds to success of each trial; the line is the median."""
    tasks = list(dict.fromkeys(task for rows in seconds.values() for task in rows))
    colours = colours_of(list(seconds))
    with mpl.rc_context(STYLE):
        figure = Figure(
            (8.4, 0.9 + 0.28 * len(tasks) * (len(seconds) + 0.5)), layout="constrained"
        )
        axes = figure.subplots()
        for (method, rows), offset in zip(seconds.items(), offsets(len(seconds))):
            for label, (task, values) in enumerate(rows.items()):
                row = tasks.index(task) + offset
                colour, name = colours[method], "" if label else method
                axes.plot(values, np.full(len(values), row), "o", ms=4, color=colour, alpha=0.5,
                          label=name, clip_on=False)  # fmt: skip
                axes.vlines(np.median(values), row - 0.12, row + 0.12, color=colour, lw=2.5)
        axes.set(xlabel="time to success [s]", xlim=(0, None))
        axes.set_yticks(range(len(tasks)), tasks)
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        if len(seconds) > 1:
            axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
        return png(figure)


def stakes(pairs: Mapping[str, Sequence[float]], alpha: float) -> bytes:
    """Pair of methods -> stake after each pair of trials, over all tasks in turn."""
    with mpl.rc_context(STYLE):
        figure = Figure((8.4, 2.8), layout="constrained")
        axes = figure.subplots()
        for name, values in pairs.items():
            axes.step(range(len(values) + 1), [1.0, *values], where="post", label=name, lw=1.6)
        axes.axhline(
            1 / alpha, color="#d55e00", lw=1.2, ls="--", label=f"told apart: {1 / alpha:g}"
        )
        axes.set(
            yscale="log", xlabel="pairs of trials on the same scene", ylabel="stake (e-value)"
        )
        axes.set_xlim(0, max((len(values) for values in pairs.values()), default=1))
        axes.legend(frameon=False, fontsize=8)
        return png(figure)


def drift(outcomes: Mapping[str, Sequence[bool]], window: int) -> bytes:
    """method -> success of each trial in the order played; the rate of the last `window`."""
    colours = colours_of(list(outcomes))
    with mpl.rc_context(STYLE):
        figure = Figure((8.4, 2.6), layout="constrained")
        axes = figure.subplots()
        for method, values in outcomes.items():
            sums = np.convolve(np.asarray(values, float), np.ones(window), "valid") / window
            axes.plot(np.arange(window, len(values) + 1), 100 * sums, color=colours[method],
                      label=method, clip_on=False)  # fmt: skip
        axes.set(xlabel="trials played so far", ylabel="success [%]", ylim=(0, 100))
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
        return png(figure)
