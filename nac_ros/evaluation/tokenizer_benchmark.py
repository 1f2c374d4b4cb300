"""The plot of bits against error: every tokenizer, its prefixes and its other settings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nac_ros.core.config import bounded, check_bounds
from nac_ros.core.provenance import environment
from nac_ros.evaluation import token_effects, tokenizer_timing
from nac_ros.evaluation.published_results import TABLE_3
from nac_ros.reporting.plots import METHOD_COLOURS, OTHER_METHOD, STYLE, to_png
from nac_ros.tokenizers import list_tokenizers
from nac_ros.tokenizers.base import TOKENIZERS
from nac_ros.training.experiment import BenchmarkData, Candidate, TrainedCandidate, train

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
        return to_png(figure)


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


OURS = "nac"
FAST_SCALES = (1.0, 1.5, 2.0, 3.0, 5.0, 20.0)  # beside the default
BIN_SETTINGS = (
    (1, 1024),
    (1, 128),
    (2, 256),
    (2, 64),
    (3, 32),
    (4, 16),
    (4, 256),
    (8, 256),
    (16, 256),
)


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """train_seconds: of each learned tokenizer; seeds: of each, of which the median counts;
    threads: of torch in training, 0 = what it takes by itself; cache: where runs are kept;
    tokenizers: names, empty = all."""

    preset: str = "small"
    train_seconds: float = bounded(300.0, 0.1)
    seeds: int = bounded(1, 1)
    seed: int = 0
    threads: int = bounded(0, 0)
    batch: int = bounded(128, 1)
    tokenizers: tuple[str, ...] = ()
    cache: str = "runs/tokenizers"

    def __post_init__(self) -> None:
        check_bounds(self)


def bench(config: BenchConfig, material: BenchmarkData, out: Path) -> dict[str, Any]:
    """Trains, judges and times; writes bench.json, table.md and the pictures to `out`."""
    torch.set_num_threads(config.threads or torch.get_num_threads())
    names = config.tokenizers or tuple(list_tokenizers())
    runs = {
        name: _runs(Candidate(name=name, preset=config.preset), config, material) for name in names
    }
    chosen = {title: _middle(of) for title, of in runs.items()}
    rows, parities = _timed_rows(chosen, runs, material)
    points = _points(chosen, config, material)
    figures = {
        "data": material.label,
        "machine": machine(),
        "train_seconds": config.train_seconds,
        "seeds": [config.seed + k for k in range(config.seeds)],
        "relative": any(material.facts.get("relative", ())),
        "chunks": {
            "train": len(material.train.actions),
            "held_out": len(material.held_out.actions),
        },
        "constant": list(material.constant),
        "rows": rows,
        "points": points,
        "onnx": parities,
        "ranking": ranking(points),
        "dominates_nac": dominating(points),
        **environment(),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(figures, indent=1) + "\n")
    (out / "table.md").write_text(table(figures))
    (out / "rate_distortion.png").write_bytes(rate_distortion(points, _caption(figures)))
    for title, run in chosen.items():
        found = token_effects.token_effects(run.tokenizer, material.held_out, config.seed)
        facts = run.tokenizer.config
        drawn = token_effects.picture(found, facts.names, run.tokenizer.name, facts.rate_hz)
        (out / f"tokens_{title}.png").write_bytes(drawn)
    return figures


def _runs(
    candidate: Candidate, config: BenchConfig, material: BenchmarkData
) -> list[TrainedCandidate]:
    """One run a seed; what is not learned does not depend on it."""
    common = {"seconds": config.train_seconds, "batch": config.batch}
    n = config.seeds if TOKENIZERS.get(candidate.name).learned else 1
    return [
        train(candidate, material, common, config.seed + k, Path(config.cache)) for k in range(n)
    ]


def _middle(runs: Sequence[TrainedCandidate]) -> TrainedCandidate:
    """The run of the median error (the better of two in the middle)."""
    ordered = sorted(runs, key=lambda run: run.metrics["mse"])
    return ordered[(len(ordered) - 1) // 2]


def _timed_rows(
    chosen: dict[str, TrainedCandidate],
    runs: dict[str, list[TrainedCandidate]],
    material: BenchmarkData,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of Table 3, one per tokenizer, runtime and batch; how far ONNX is from torch."""
    candidates: dict[tuple[str, str], tokenizer_timing.Coder] = {}
    parities = {}
    for title, run in chosen.items():
        coders, pair = tokenizer_timing.coders(run.tokenizer)
        candidates |= {(title, runtime): coder for runtime, coder in coders.items()}
        if pair is not None:
            parities[title] = tokenizer_timing.parity(
                run.tokenizer, pair, material.held_out
            )._asdict()
    rows = []
    for batch in tokenizer_timing.ROUNDS:
        taken = tokenizer_timing.measure(candidates, material.train, batch)
        for (title, runtime), ms in taken.items():
            cost = dict(zip(("encode_ms", "decode_ms", "roundtrip_ms"), ms))
            where = {"runtime": runtime, "batch": batch, "threads": 1}
            rows.append({**_row(chosen[title], runs[title]), **cost, **where})
    return rows, parities


def _row(run: TrainedCandidate, all_seeds: Sequence[TrainedCandidate]) -> dict[str, Any]:
    tokenizer, figures = run.tokenizer, run.metrics
    keys = ("mse", "l1", "max_error", "velocity_error", "decode_failures", "encode_failures")
    numbers = {key: median(other.metrics[key] for other in all_seeds) for key in keys}
    return {
        "name": tokenizer.name,
        "title": run.candidate.title,
        "preset": tokenizer.preset,
        "params_m": round(tokenizer.params_m, 6),
        "tokens": figures["tokens"],
        "tokens_p99": figures["tokens_p99"],
        "vocabulary": tokenizer.codes_per_position,
        "bits": figures["bits"],
        **numbers,
        "mse_seeds": [other.metrics["mse"] for other in all_seeds],
        "train_steps": figures["train_steps"],
        "codebook_use": figures["codebook_use"],
    }


def _points(
    chosen: dict[str, TrainedCandidate], config: BenchConfig, material: BenchmarkData
) -> list[dict[str, Any]]:
    """What the plot shows: each tokenizer, its prefixes, FAST and Bin at other settings."""
    points = []
    for title, run in chosen.items():
        points += _of_run(title, run, "full")
    settings = [Candidate(name="fast", model=(("scale", scale),)) for scale in FAST_SCALES]
    settings += [
        Candidate(name="bin", model=(("n_knots", knots), ("n_bins", bins)))
        for knots, bins in BIN_SETTINGS
        if knots <= material.shape[0]
    ]
    for candidate in settings:
        if candidate.name in chosen:
            (run,) = _runs(candidate, config, material)
            points += _of_run(candidate.name, run, "setting")
    return points


def _of_run(title: str, run: TrainedCandidate, kind: str) -> list[dict[str, Any]]:
    facts = {"name": run.tokenizer.name, "label": title, "settings": dict(run.candidate.model)}
    figures = run.metrics
    points = [{**facts, "bits": figures["bits"], "mse": figures["mse"], "kind": kind}]
    for row in figures["prefixes"]:
        points.append({**facts, "bits": row["bits"], "mse": row["mse"], "kind": "prefix"})
    return points


def ranking(points: Sequence[dict[str, Any]]) -> list[str]:
    """Labels by the lowest error that any setting reaches within 120 bits, the lowest first."""
    found: dict[str, float] = {}
    for point in points:
        if point["bits"] <= BUDGET + log2(1.1):
            found[point["label"]] = min(point["mse"], found.get(point["label"], point["mse"]))
    return sorted(found, key=lambda label: found[label])


def dominating(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points of rivals with no more bits and no more error than a point of NAC."""
    ours = [point for point in points if point["label"] == OURS]
    return [
        {"rival": rival, "nac": own}
        for rival in points
        for own in ours
        if rival["name"] != OURS and rival["bits"] <= own["bits"] and rival["mse"] <= own["mse"]
    ]


def table(figures: dict[str, Any]) -> str:
    """Markdown of the rows, the paper's figures in brackets."""
    head = ("tokenizer", "params [M]", "tokens", "codes", "bits", "runtime, batch", "encode [ms]",
            "decode [ms]", "round trip [ms]", "MSE", "L1", "worst error", "velocity error",
            "failures", "steps trained")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for row in figures["rows"]:
        lines.append("| " + " | ".join(_cells(row)) + " |")
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    paper = TABLE_3.get(row["title"]) if row["batch"] == 1 and row["runtime"] != "torch" else None

    def beside(text: str, key: str) -> str:
        return text if paper is None else f"{text} ({getattr(paper, key):g})"

    failures = row["encode_failures"] + row["decode_failures"]
    times = [beside(f"{row[key]:.3f}", key) for key in ("encode_ms", "decode_ms", "roundtrip_ms")]
    return [
        row["title"],
        beside(f"{row['params_m']:.3f}", "params_m"),
        beside(f"{row['tokens']:.1f}", "tokens"),
        beside(str(row["vocabulary"]), "vocabulary"),
        beside(f"{row['bits']:.0f}", "bits"),
        f"{row['runtime']}, {row['batch']}",
        *times,
        f"{row['mse']:.2e}",
        f"{row['l1']:.2e}",
        f"{row['max_error']:.3f}",
        f"{row['velocity_error']:.2e}",
        str(failures),
        str(row["train_steps"]),
    ]


def machine() -> str:
    """Processor and cores, for figures that depend on them."""
    found = Path("/proc/cpuinfo")
    lines = found.read_text().splitlines() if found.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {len(names)} cores, no GPU used"


def _caption(figures: dict[str, Any]) -> str:
    seeds = len(figures["seeds"])
    return (
        f"{figures['data']}: {figures['chunks']['held_out']} held-out chunks, "
        f"{figures['train_seconds']:g} s of training each, median of {seeds} seed(s)"
    )
