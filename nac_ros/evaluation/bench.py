"""All tokenizers on the same data, trained for the same time: NAC's Table 3 and a plot."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from statistics import median
from typing import Any

import torch

from nac_ros.config import bounded, check_bounds
from nac_ros.evaluation import anatomy, timing
from nac_ros.evaluation.curves import BUDGET, rate_distortion
from nac_ros.evaluation.published import TABLE_3
from nac_ros.provenance import environment
from nac_ros.tokenizers import list_tokenizers
from nac_ros.tokenizers.base import TOKENIZERS
from nac_ros.training.study import Candidate, Material, Run, train

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


def bench(config: BenchConfig, material: Material, out: Path) -> dict[str, Any]:
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
        found = anatomy.anatomy(run.tokenizer, material.held_out, config.seed)
        facts = run.tokenizer.config
        drawn = anatomy.picture(found, facts.names, run.tokenizer.name, facts.rate_hz)
        (out / f"tokens_{title}.png").write_bytes(drawn)
    return figures


def _runs(candidate: Candidate, config: BenchConfig, material: Material) -> list[Run]:
    """One run a seed; what is not learned does not depend on it."""
    common = {"seconds": config.train_seconds, "batch": config.batch}
    n = config.seeds if TOKENIZERS.get(candidate.name).learned else 1
    return [
        train(candidate, material, common, config.seed + k, Path(config.cache)) for k in range(n)
    ]


def _middle(runs: Sequence[Run]) -> Run:
    """The run of the median error (the better of two in the middle)."""
    ordered = sorted(runs, key=lambda run: run.figures["mse"])
    return ordered[(len(ordered) - 1) // 2]


def _timed_rows(
    chosen: dict[str, Run], runs: dict[str, list[Run]], material: Material
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of Table 3, one per tokenizer, runtime and batch; how far ONNX is from torch."""
    candidates: dict[tuple[str, str], timing.Coder] = {}
    parities = {}
    for title, run in chosen.items():
        coders, pair = timing.coders(run.tokenizer)
        candidates |= {(title, runtime): coder for runtime, coder in coders.items()}
        if pair is not None:
            parities[title] = timing.parity(run.tokenizer, pair, material.held_out)._asdict()
    rows = []
    for batch in timing.ROUNDS:
        taken = timing.measure(candidates, material.train, batch)
        for (title, runtime), ms in taken.items():
            cost = dict(zip(("encode_ms", "decode_ms", "roundtrip_ms"), ms))
            where = {"runtime": runtime, "batch": batch, "threads": 1}
            rows.append({**_row(chosen[title], runs[title]), **cost, **where})
    return rows, parities


def _row(run: Run, all_seeds: Sequence[Run]) -> dict[str, Any]:
    tokenizer, figures = run.tokenizer, run.figures
    keys = ("mse", "l1", "max_error", "velocity_error", "decode_failures", "encode_failures")
    numbers = {key: median(other.figures[key] for other in all_seeds) for key in keys}
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
        "mse_seeds": [other.figures["mse"] for other in all_seeds],
        "train_steps": figures["train_steps"],
        "codebook_use": figures["codebook_use"],
    }


def _points(
    chosen: dict[str, Run], config: BenchConfig, material: Material
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


def _of_run(title: str, run: Run, kind: str) -> list[dict[str, Any]]:
    facts = {"name": run.tokenizer.name, "label": title, "settings": dict(run.candidate.model)}
    figures = run.figures
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
