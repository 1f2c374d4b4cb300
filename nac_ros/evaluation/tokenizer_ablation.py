"""NAC's Table 1 again: one thing changed at a time, equal seconds, beside the paper's figures.

Beside the paper's groups there are ours, which ask what helps a preset on the data at hand.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError
from nac_ros.core.provenance import environment
from nac_ros.evaluation.published_results import TABLE_1
from nac_ros.evaluation.tokenizer_benchmark import machine
from nac_ros.training.experiment import BenchmarkData, Candidate, train

COMMITMENTS = (1.0, 10.0, 1000.0)  # the paper's is the last
MODEL_FIELDS = ("head", "representation", "tokens")  # the others are the training's
NEEDS = {"tokens": "small"}  # whatever the preset, for what there is to change
PLAIN = {"scale_range": 0.0, "warp_probability": 0.0, "mirror_probability": 0.0}
OURS: dict[str, dict[str, dict[str, Any]]] = {
    "commitment": {
        f"{weight:g}, {judge}": {"commitment_weight": weight, "discriminator": judge}
        for weight in COMMITMENTS
        for judge in ("none", "dac")
    },
    "augmentation": {
        "none": PLAIN,
        "amplitude": {**PLAIN, "scale_range": 0.2},
        "slower": {**PLAIN, "warp_probability": 0.3},
        "amplitude, slower": {},
        "amplitude, slower, mirrored": {"mirror_probability": 0.3},
    },
    "representation": {"as chosen": {}, "absolute": {"relative": ()}},
    "tokens": {
        "as chosen": {},
        "greedy": {"beam_width": 1},
        "no prefixes": {"prefix_dropout": 0.0},
        "no perceptrons": {"path_hidden": 0},
    },
    "control": {
        "none": {},
        "velocity": {"velocity_weight": 3.0},
        "acceleration": {"acceleration_weight": 3.0},
        "transition": {"transition_weight": 1.0},
    },
}
GROUPS = (*TABLE_1, *OURS)


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """groups: of `GROUPS`; preset: small-flat is the paper's layout; train_seconds, seeds: of
    every setting."""

    groups: tuple[str, ...] = (*TABLE_1, "commitment")
    preset: str = "small-flat"
    train_seconds: float = number_field(60.0, 0.1)
    seeds: int = number_field(3, 1)
    seed: int = 0
    threads: int = number_field(0, 0)
    batch: int = number_field(128, 1)
    cache: str = "runs/tokenizers"

    def __post_init__(self) -> None:
        check_fields(self)
        for group in self.groups:
            if group not in GROUPS:
                raise ConfigError(f"no group '{group}'; known are {', '.join(GROUPS)}")


def grid(preset: str, groups: Sequence[str]) -> list[tuple[str, str, Candidate]]:
    """Group, setting and candidate, one thing changed in each."""
    rows = []
    for group in groups:
        settings = OURS.get(group) or {name: {group: name} for name in TABLE_1[group]}
        field = "model" if group in MODEL_FIELDS else "training"
        for setting, changes in settings.items():
            given: dict[str, Any] = {field: tuple(changes.items())}
            label = f"{group} {setting}"
            chosen = NEEDS.get(group, preset)
            candidate = Candidate(name="nac", preset=chosen, label=label, **given)
            rows.append((group, setting, candidate))
    return rows


def ablate(config: AblationConfig, material: BenchmarkData, out: Path) -> dict[str, Any]:
    """Trains the whole grid; writes ablation.json and ablation.md to `out`."""
    torch.set_num_threads(config.threads or torch.get_num_threads())
    common = {"seconds": config.train_seconds, "batch": config.batch}
    rows = []
    for group, setting, candidate in grid(config.preset, config.groups):
        seeds = [config.seed + k for k in range(config.seeds)]
        runs = [train(candidate, material, common, seed, Path(config.cache)) for seed in seeds]
        rows.append(_row(group, setting, [run.metrics for run in runs]))
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
    head = ("changed", "setting", "MSE", "of each seed", "velocity error", "steps", "paper: MSE",
            "success [%]")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for row in figures["rows"]:
        seeds = ", ".join(f"{error:.2e}" for error in row["mse_seeds"])
        paper = [row["paper_mse"], row["paper_success"]]
        theirs = ["-" if value is None else f"{value:g}" for value in paper]
        steps = ", ".join(map(str, row["train_steps"]))  # fewer where others used the machine
        lines.append(
            f"| {row['group']} | {row['setting']} | {row['mse']:.2e} | {seeds} | "
            f"{row['velocity_error']:.2e} | {steps} | {theirs[0]} | {theirs[1]} |"
        )
    return "\n".join(lines) + "\n"
