"""Ablation of a learned tokenizer: one setting changed at a time, with equal training time.

Contains the groups of the paper's Table 1, and further groups that show which settings improve a
tokenizer on the given data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from nac_ros.core import files
from nac_ros.core.config import number_field
from nac_ros.core.device import CPU, ComputeDevice
from nac_ros.core.errors import ConfigError
from nac_ros.evaluation.published_results import TABLE_1
from nac_ros.evaluation.tokenizer_benchmark import (
    ComparisonConfig,
    comparison_facts,
    markdown_table,
    train_seeds,
)
from nac_ros.training.experiment import BenchmarkData, Candidate

COMMITMENTS = (1.0, 10.0, 1000.0)  # the last one is the paper's
MODEL_GROUPS = ("head", "representation", "tokens")  # other groups change the training
GROUP_TOKENIZERS = {"head": "nac", "tokens": "rotated_rvq"}  # with settings of one tokenizer only
NO_AUGMENTATION = {"scale_range": 0.0, "warp_probability": 0.0, "mirror_probability": 0.0}
OURS: dict[str, dict[str, dict[str, Any]]] = {
    "commitment": {
        f"{weight:g}, {name}": {"commitment_weight": weight, "discriminator": name}
        for weight in COMMITMENTS
        for name in ("none", "dac")
    },
    "augmentation": {
        "none": NO_AUGMENTATION,
        "amplitude": {**NO_AUGMENTATION, "scale_range": 0.2},
        "slower": {**NO_AUGMENTATION, "warp_probability": 0.3},
        "amplitude, slower": {},
        "amplitude, slower, mirrored": {"mirror_probability": 0.3},
    },
    "representation": {"default": {}, "absolute": {"relative": ()}},
    "tokens": {
        "default": {},
        "greedy": {"beam_width": 1},
        "no prefixes": {"prefix_dropout": 0.0},
        "no perceptrons": {"encoder_hidden": 0, "decoder_hidden": 0},
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
class AblationConfig(ComparisonConfig):
    """groups: of GROUPS; tokenizer: the one changed, except in groups of GROUP_TOKENIZERS"""

    groups: tuple[str, ...] = (*TABLE_1, "commitment")
    tokenizer: str = "nac"
    train_seconds: float = number_field(60.0, 0.1)
    seeds: int = number_field(3, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for group in self.groups:
            if group not in GROUPS:
                raise ConfigError(f"no group '{group}'; known are {', '.join(GROUPS)}")


def ablation_candidates(
    tokenizer: str, preset: str, groups: Sequence[str]
) -> list[tuple[str, str, Candidate]]:
    """Group, setting and candidate; each candidate differs from the preset in one setting."""
    rows = []
    for group in groups:
        name = GROUP_TOKENIZERS.get(group, tokenizer)
        settings = OURS.get(group) or {name: {group: name} for name in TABLE_1[group]}
        field = "model" if group in MODEL_GROUPS else "training"
        for setting, changes in settings.items():
            change: dict[str, Any] = {field: tuple(changes.items())}
            candidate = Candidate(
                name=name,
                preset=preset,
                label=f"{name} {group} {setting}",
                **change,
            )
            rows.append((group, setting, candidate))
    return rows


def run_ablation(
    config: AblationConfig, data: BenchmarkData, out: Path, device: ComputeDevice = CPU
) -> dict[str, Any]:
    """Trains all candidates; writes ablation.json and ablation.md to `out`.

    The errors are of validation episodes, since an ablation chooses settings.
    """
    torch.set_num_threads(config.threads or torch.get_num_threads())
    candidates = ablation_candidates(config.tokenizer, config.preset, config.groups)
    rows = []
    for group, setting, candidate in candidates:
        runs = [run.metrics for run in train_seeds(candidate, config, data, device)]
        rows.append(_row(candidate.name, group, setting, runs))
    facts = {**comparison_facts(config, data, device), "split": "validation"}
    results = {**facts, "preset": config.preset, "rows": rows}
    files.write_json(out / "ablation.json", results)
    files.write_text(out / "ablation.md", table(results))
    return results


def table(results: dict[str, Any]) -> str:
    """Markdown table of the rows, with the paper's values."""
    head = (
        "tokenizer | changed | setting | MSE | of each seed | velocity error | steps | "
        "paper: MSE | success [%]"
    )
    return markdown_table(head, [_cells(row) for row in results["rows"]])


def _row(
    tokenizer: str, group: str, setting: str, runs: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    errors = [metrics["mse"] for metrics in runs]
    paper = TABLE_1.get(group, {}).get(setting) if tokenizer == "nac" else None
    return {
        "tokenizer": tokenizer,
        "group": group,
        "setting": setting,
        "mse": median(errors),
        "mse_seeds": errors,
        "velocity_error": median(metrics["velocity_error"] for metrics in runs),
        "train_steps": [metrics["train_steps"] for metrics in runs],
        "paper_mse": None if paper is None else paper.mse,
        "paper_success": None if paper is None else paper.success,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    paper = (row["paper_mse"], row["paper_success"])
    return [
        row["tokenizer"],
        row["group"],
        row["setting"],
        f"{row['mse']:.2e}",
        ", ".join(f"{error:.2e}" for error in row["mse_seeds"]),
        f"{row['velocity_error']:.2e}",
        ", ".join(map(str, row["train_steps"])),  # fewer if other processes used the machine
        *("-" if value is None else f"{value:g}" for value in paper),
    ]
