"""The plots of a run's report: arrays in, PNG bytes out."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from nac_ros.evaluation.figures import STYLE, colours_of, offsets, png

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
