"""One picture of how a tokenizer works: a chunk, what comes back, and what each token moves."""

from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nac_ros.core.errors import BadActions
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.export.output_envelope import alternatives
from nac_ros.reporting.plots import METHOD_COLOURS, OTHER_METHOD, STYLE, to_png
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.grammar import PAD

SHOWN = 3  # columns, those that move most
OTHERS = 24  # tokens tried in the place of each
PLACES = 96  # tokens looked at, the first ones


class Anatomy(NamedTuple):
    """A chunk `[H, D]`, what it decodes to and to how many tokens it came, normalised; reach
    `[L, H]`: RMS change of each step when a token is exchanged for others."""

    real: np.ndarray
    decoded: np.ndarray
    reach: np.ndarray
    n_tokens: int


def token_effects(tokenizer: Tokenizer, windows: ActionChunks, seed: int = 0) -> Anatomy:
    """Of the chunk among `windows` that moves most and has tokens."""
    scale = tokenizer.absolute_normalizer.half_range
    chunk, reference, tokens = _most_dynamic_chunk(tokenizer, windows)
    decoded = tokenizer.decode(tokens[None], reference).numpy()
    generator = np.random.default_rng(seed)
    reach = np.zeros((min(len(tokens), PLACES), chunk.shape[1]))
    for place in range(len(reach)):
        other = alternatives(tokenizer.grammar, tokens, place)
        other = generator.choice(other, min(OTHERS, len(other)), replace=False)
        if not len(other):
            continue  # no other piece is as long
        changed = np.repeat(tokens[None], len(other), 0)
        changed[:, place] = other
        references = None if reference is None else np.repeat(reference, len(other), 0)
        moved = (tokenizer.decode(changed, references).numpy() - decoded) / scale
        reach[place] = np.sqrt((moved**2).mean((0, 2)))
    middle = np.zeros_like(scale) if reference is None else reference[0]
    return Anatomy((chunk[0] - middle) / scale, (decoded[0] - middle) / scale, reach, len(tokens))


def _most_dynamic_chunk(
    tokenizer: Tokenizer, windows: ActionChunks
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Chunk `[1, H, D]`, reference `[1, D]` and tokens `[L]`."""
    moved = np.ptp(windows.actions / tokenizer.absolute_normalizer.half_range, axis=1).sum(1)
    for row in np.argsort(-moved):
        chunk = windows.actions[row : row + 1]
        reference = None if windows.references is None else windows.references[row : row + 1]
        try:
            tokens = tokenizer.encode(chunk, reference).numpy()[0]
        except BadActions:  # beyond what the tokenizer has tokens for
            continue
        return chunk, reference, tokens[tokens != PAD]
    raise BadActions(f"tokenizer {tokenizer.name} has tokens for none of {len(moved)} chunks")


def picture(found: Anatomy, names: tuple[str, ...], method: str, rate_hz: float) -> bytes:
    """PNG: to the left the chunk and what came back, to the right what each token moves."""
    colour = METHOD_COLOURS.get(method, OTHER_METHOD)
    with mpl.rc_context(STYLE):
        figure = Figure((9.0, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        _curves(left, found, names, colour, rate_hz)
        _reach(right, found, figure)
        return to_png(figure)


def _curves(
    axes: Axes, found: Anatomy, names: tuple[str, ...], colour: str, rate_hz: float
) -> None:
    steps = np.arange(1, len(found.real) + 1)
    times, label = (steps / rate_hz, "time [s]") if rate_hz else (steps, "step")
    moving = np.argsort(-np.ptp(found.real, axis=0))[:SHOWN]
    for column in moving:
        axes.plot(times, found.real[:, column], color="#9aa9b8", lw=3)
        axes.plot(times, found.decoded[:, column], color=colour, lw=1.3)
        name = names[column] if names else f"column {column}"
        axes.annotate(
            name, (times[-1], found.real[-1, column]), xytext=(4, 0),
            textcoords="offset points", fontsize=7, va="center", annotation_clip=False,
        )  # fmt: skip
    axes.plot([], [], color="#9aa9b8", lw=3, label="chunk")
    axes.plot([], [], color=colour, lw=1.3, label="decoded")
    axes.set(xlabel=label, ylabel="in half ranges, from the state")
    axes.legend(frameon=False, fontsize=7)


def _reach(axes: Axes, found: Anatomy, figure: Figure) -> None:
    shown = len(found.reach)
    largest = max(float(found.reach.max()), 1e-9)
    image = axes.imshow(
        np.log10(np.maximum(found.reach / largest, 1e-3)), aspect="auto", cmap="viridis",
        vmin=-3, vmax=0, interpolation="nearest", extent=(0.5, len(found.real) + 0.5, shown, 0),
    )  # fmt: skip
    axes.grid(visible=False)
    part = "" if shown == found.n_tokens else f", the first {shown} of {found.n_tokens}"
    axes.set(xlabel="step of the chunk", ylabel=f"token{part}")
    bar = figure.colorbar(image, ax=axes, ticks=[-3, -2, -1, 0])
    bar.ax.set_yticklabels(["≤ .001", ".01", ".1", "1"], fontsize=7)
    bar.set_label("how far others in its place move it", fontsize=7)
