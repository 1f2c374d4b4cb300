"""Two runs of `nac eval` on the same scenes, trial by trial."""

from typing import Any

import numpy as np

from nac_ros.errors import ConfigError
from nac_ros.evaluation.statistics import paired_difference


def beside(figures: dict[str, Any], other: dict[str, Any], name: str) -> dict[str, Any]:
    """Task -> difference of the success rates to those of an earlier run on the same scenes, with
    its paired interval; raises ConfigError where the scenes are others."""
    if figures["seed"] != other.get("seed"):
        raise ConfigError(
            f"{name} has seed {other.get('seed')}, this run {figures['seed']}: other scenes"
        )
    rows = {}
    for task in figures["tasks"]:
        ours, theirs = (_outcomes(f["tasks"].get(task)) for f in (figures, other))
        shared = sorted(ours.keys() & theirs.keys())
        if not shared:
            raise ConfigError(
                f"{name} has no trial of {task}, so there is nothing to compare with"
            )
        pair = [[side[trial] for trial in shared] for side in (ours, theirs)]
        gained = float(np.mean(pair[0]) - np.mean(pair[1]))
        bounds = list(paired_difference(*pair))
        rows[task] = {"difference": gained, "difference95": bounds, "trials": len(shared)}
    return rows


def _outcomes(row: dict[str, Any] | None) -> dict[int, bool]:
    return {r["trial"]: r["outcome"] == "success" for r in (row or {}).get("outcomes", [])}
