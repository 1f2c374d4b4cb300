"""Two runs of `nac eval` on the same scenes, trial by trial."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros.errors import ConfigError
from nac_ros.evaluation.statistics import paired_difference


def load_earlier(path: Path, seed: int, scenes: str) -> dict[str, Any]:
    """The figures of an earlier run; raises ConfigError where they are none or of other scenes."""
    try:
        earlier = json.loads(path.read_text())
        other = earlier["seed"]
        earlier["tasks"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no figures of `nac eval --json` ({error}); name such a file"
        ) from error
    if other != seed:
        raise ConfigError(f"{path} has seed {other}, this run {seed}: other scenes")
    looked = earlier.get("scenes", "nominal")  # files from before scenes could vary say nothing
    if looked != scenes:
        raise ConfigError(f"{path} has {looked} scenes, this run {scenes}: other scenes")
    return earlier


def beside(figures: dict[str, Any], other: dict[str, Any], name: str) -> dict[str, Any]:
    """Task -> difference of the success rates to those of an earlier run on the same scenes, with
    its paired interval; raises ConfigError where that did not judge a task."""
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
