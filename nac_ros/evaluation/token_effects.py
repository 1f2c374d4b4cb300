"""How far each token of a chunk moves its actions: measurement and plot."""

from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nac_ros.core.errors import BadActions
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.export.output_envelope import alternative_tokens
from nac_ros.reporting.plots import METHOD_COLOURS, OTHER_METHOD, STYLE, to_png
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.grammar import PAD

MAX_COLUMNS = 3  # joints shown, those that move most
MAX_ALTERNATIVES = 24  # tokens tried at one position
MAX_POSITIONS = 96  # tokens measured, from the first on
ORIGINAL_COLOUR = "#9aa9b8"


class TokenEffects(NamedTuple):
    """Effects of the tokens of one chunk.

    chunk, decoded: the chunk and its reconstruction, normalized, `[H, D]`
    effects: RMS change of each step when a token is replaced by others, `[L, H]`
    n_tokens: length of the whole sequence
    """

    chunk: np.ndarray
    decoded: np.ndarray
    effects: np.ndarray
    n_tokens: int


def measure_token_effects(
    tokenizer: Tokenizer, chunks: ActionChunks, seed: int = 0
) -> TokenEffects:
    """Replaces the tokens of the most dynamic chunk of `chunks` one at a time."""
    scale = tokenizer.absolute_normalizer.half_range.cpu().numpy()
    chunk, reference, tokens = _most_dynamic_chunk(tokenizer, chunks)
    decoded = tokenizer.decode(tokens[None], reference).cpu().numpy()
    generator = np.random.default_rng(seed)
    effects = np.zeros((min(len(tokens), MAX_POSITIONS), chunk.shape[1]))
    for position in range(len(effects)):
        others = alternative_tokens(tokenizer.grammar, tokens, position)
        others = generator.choice(others, min(MAX_ALTERNATIVES, len(others)), replace=False)
        if not len(others):
            continue  # FAST: no other piece has the same length
        changed = np.repeat(tokens[None], len(others), 0)
        changed[:, position] = others
        references = None if reference is None else np.repeat(reference, len(others), 0)
        change = (tokenizer.decode(changed, references).cpu().numpy() - decoded) / scale
        effects[position] = np.sqrt((change**2).mean((0, 2)))
    origin = np.zeros_like(scale) if reference is None else reference[0]
    return TokenEffects(
        (chunk[0] - origin) / scale, (decoded[0] - origin) / scale, effects, len(tokens)
    )


@mpl.rc_context(STYLE)
def plot_token_effects(
    measured: TokenEffects, names: tuple[str, ...], method: str, rate_hz: float
) -> bytes:
    """PNG: on the left the chunk and its reconstruction, on the right the effect of each token."""
    colour = METHOD_COLOURS.get(method, OTHER_METHOD)
    figure = Figure((9.0, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    _draw_curves(left, measured, names, colour, rate_hz)
    _draw_effects(right, measured, figure)
    return to_png(figure)


def _most_dynamic_chunk(
    tokenizer: Tokenizer, chunks: ActionChunks
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """The chunk that moves most and can be encoded: chunk `[1, H, D]`, reference `[1, D]`, tokens
    `[L]`."""
    motion = np.ptp(
        chunks.actions / tokenizer.absolute_normalizer.half_range.cpu().numpy(), axis=1
    ).sum(1)
    for row in np.argsort(-motion):
        chunk, reference = chunks.select(slice(row, row + 1))
        try:
            tokens = tokenizer.encode(chunk, reference).cpu().numpy()[0]
        except BadActions:  # outside the range of the tokenizer
            continue
        return chunk, reference, tokens[tokens != PAD]
    raise BadActions(f"tokenizer {tokenizer.name} has tokens for none of {len(motion)} chunks")


def _draw_curves(
    axes: Axes, measured: TokenEffects, names: tuple[str, ...], colour: str, rate_hz: float
) -> None:
    steps = np.arange(1, len(measured.chunk) + 1)
    times, label = (steps / rate_hz, "time [s]") if rate_hz else (steps, "step")
    for column in np.argsort(-np.ptp(measured.chunk, axis=0))[:MAX_COLUMNS]:
        axes.plot(times, measured.chunk[:, column], color=ORIGINAL_COLOUR, lw=3)
        axes.plot(times, measured.decoded[:, column], color=colour, lw=1.3)
        axes.annotate(
            names[column] if names else f"column {column}",
            (times[-1], measured.chunk[-1, column]),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=7,
            va="center",
            annotation_clip=False,
        )
    axes.plot([], [], color=ORIGINAL_COLOUR, lw=3, label="chunk")
    axes.plot([], [], color=colour, lw=1.3, label="decoded")
    axes.set(xlabel=label, ylabel="offset from the state [half ranges]")
    axes.legend(frameon=False, fontsize=7)


def _draw_effects(axes: Axes, measured: TokenEffects, figure: Figure) -> None:
    n_shown = len(measured.effects)
    largest = max(float(measured.effects.max()), 1e-9)
    image = axes.imshow(
        np.log10(np.maximum(measured.effects / largest, 1e-3)),
        aspect="auto",
        cmap="viridis",
        vmin=-3,
        vmax=0,
        interpolation="nearest",
        extent=(0.5, len(measured.chunk) + 0.5, n_shown, 0),
    )
    axes.grid(visible=False)
    part = "" if n_shown == measured.n_tokens else f", the first {n_shown} of {measured.n_tokens}"
    axes.set(xlabel="step of the chunk", ylabel=f"token{part}")
    bar = figure.colorbar(image, ax=axes, ticks=[-3, -2, -1, 0])
    bar.ax.set_yticklabels(["≤ .001", ".01", ".1", "1"], fontsize=7)
    bar.set_label("relative change by other tokens", fontsize=7)
