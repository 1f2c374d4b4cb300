"""NAC's Table 1 again: one thing changed at a time, equal seconds, beside the paper's figures."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from nac_ros.config import bounded, check_bounds
from nac_ros.evaluation.bench import machine
from nac_ros.evaluation.published import TABLE_1
from nac_ros.provenance import environment
from nac_ros.training.study import Candidate, Material, train

COMMITMENTS = (1.0, 10.0, 1000.0)  # the paper's is the last
MODEL_FIELDS = ("head",)  # of Table 1; the others are the training's


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """preset: small-flat is the paper's layout; train_seconds, seeds: of every setting."""

    preset: str = "small-flat"
    train_seconds: float = bounded(60.0, 0.1)
    seeds: int = bounded(3, 1)
    seed: int = 0
    threads: int = bounded(0, 0)
    batch: int = bounded(128, 1)
    cache: str = "runs/tokenizers"

    def __post_init__(self) -> None:
        check_bounds(self)


def grid(preset: str) -> list[tuple[str, str, Candidate]]:
    """Group, setting, candidate: Table 1; commitment weights with and without adversary."""
    rows = []
    for group, settings in TABLE_1.items():
        for setting in settings:
            change = ((group, setting),)
            is_model = group in MODEL_FIELDS
            rows.append((group, setting, _candidate(preset, **{
                "model" if is_model else "training": change
            })))  # fmt: skip
    for weight in COMMITMENTS:
        for discriminator in ("none", "dac"):
            change = (("commitment_weight", weight), ("discriminator", discriminator))
            rows.append(("commitment", f"{weight:g}, {discriminator}",
                         _candidate(preset, training=change)))  # fmt: skip
    return rows


def _candidate(preset: str, **changes: Any) -> Candidate:
    return Candidate(name="nac", preset=preset, **changes)


def ablate(config: AblationConfig, material: Material, out: Path) -> dict[str, Any]:
    """Trains the whole grid; writes ablation.json and ablation.md to `out`."""
    torch.set_num_threads(config.threads or torch.get_num_threads())
    common = {"seconds": config.train_seconds, "batch": config.batch}
    rows = []
    for group, setting, candidate in grid(config.preset):
        seeds = [config.seed + k for k in range(config.seeds)]
        runs = [train(candidate, material, common, seed, Path(config.cache)) for seed in seeds]
        rows.append(_row(group, setting, [run.figures for run in runs]))
    figures = {
        "data": material.label,
        "machine": machine(),
        "preset": config.preset,
        "train_seconds": config.train_seconds,
        "seeds": [config.seed + k for k in range(config.seeds)],
        "rows": rows,
        **environment(),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "ablation.json").write_text(json.dumps(figures, indent=1) + "\n")
    (out / "ablation.md").write_text(table(figures))
    return figures


def _row(group: str, setting: str, figures: list[dict[str, Any]]) -> dict[str, Any]:
    errors = [found["mse"] for found in figures]
    paper = TABLE_1.get(group, {}).get(setting)
    return {
        "group": group,
        "setting": setting,
        "mse": median(errors),
        "mse_seeds": errors,
        "velocity_error": median(found["velocity_error"] for found in figures),
        "train_steps": [found["train_steps"] for found in figures],
        "paper_mse": None if paper is None else paper.mse,
        "paper_success": None if paper is None else paper.success,
    }


def table(figures: dict[str, Any]) -> str:
    """Markdown of the rows, the paper's figures beside."""
    lines = [
        "| changed | setting | MSE | of each seed | velocity error | paper: MSE | success [%] |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in figures["rows"]:
        seeds = ", ".join(f"{error:.2e}" for error in row["mse_seeds"])
        paper = [row["paper_mse"], row["paper_success"]]
        theirs = ["-" if value is None else f"{value:g}" for value in paper]
        lines.append(
            f"| {row['group']} | {row['setting']} | {row['mse']:.2e} | {seeds} | "
            f"{row['velocity_error']:.2e} | {theirs[0]} | {theirs[1]} |"
        )
    return "\n".join(lines) + "\n"
