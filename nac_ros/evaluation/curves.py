"""The plot of bits against error: every tokenizer, its prefixes and its other settings."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nac_ros.evaluation.figures import METHOD_COLOURS, OTHER_METHOD, STYLE, png

Points = Sequence[dict[str, Any]]  # name, label, bits, mse, kind: full, prefix or setting
BUDGET = 120  # bits of the paper's learned tokenizers
MARKERS = {"full": "o", "prefix": ".", "setting": "s"}


def rate_distortion(points: Points, caption: str) -> bytes:
    """Bits of a chunk against its normalised MSE, both logarithmic."""
    with mpl.rc_context(STYLE):
        figure = Figure((8.4, 5.2), layout="constrained")
        axes = figure.subplots()
        for label in dict.fromkeys(point["label"] for point in points):
            _curve(axes, [point for point in points if point["label"] == label], label)
        axes.axvline(BUDGET, color="#8a9099", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{BUDGET} bits", (BUDGET, 0), xycoords=("data", "axes fraction"), fontsize=8,
            xytext=(3, 4), textcoords="offset points",
        )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="bits of a chunk", ylabel="normalised MSE")
        axes.legend(frameon=False, ncols=2)
        axes.set_title(caption, fontsize=8, loc="left")
        return png(figure)


def _curve(axes: Axes, points: Points, label: str) -> None:
    colour = METHOD_COLOURS.get(points[0]["name"], OTHER_METHOD)
    faint = 0.45 if label != points[0]["name"] else 1.0
    ordered = sorted(points, key=lambda point: point["bits"])
    x, y = [p["bits"] for p in ordered], [p["mse"] for p in ordered]
    axes.plot(x, y, color=colour, alpha=faint, linewidth=1.2)
    for kind, marker in MARKERS.items():
        some = [p for p in ordered if p["kind"] == kind]
        size = 8 if kind == "full" else 5
        axes.plot(
            [p["bits"] for p in some], [p["mse"] for p in some], marker,
            color=colour, alpha=faint, markersize=size,
        )  # fmt: skip
    axes.plot([], [], MARKERS["full"], color=colour, alpha=faint, label=label)
