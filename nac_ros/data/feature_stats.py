"""LeRobot's statistics of a feature: for one episode, and merged over episodes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
MAX_IMAGES = 20  # frames sampled per episode for an image's statistics
Stats = dict[str, np.ndarray]


def of_values(values: np.ndarray) -> Stats:
    """Values `[T]` or `[T, D]` -> each statistic float64 `[D]`, count `[1]`."""
    return _over_rows(np.asarray(values, np.float64).reshape(len(values), -1))


def of_images(images: np.ndarray) -> Stats:
    """uint8 `[T, H, W, 3]` -> each statistic float64 `[3, 1, 1]` in [0, 1], of a sample of T."""
    chosen = np.unique(np.linspace(0, len(images) - 1, MAX_IMAGES).round().astype(int))
    stats = _over_rows(images[chosen].reshape(-1, 3) / 255.0)
    shaped = {key: value.reshape(3, 1, 1) for key, value in stats.items() if key != "count"}
    return {**shaped, "count": np.array([len(chosen)])}


def merge(a: Stats, b: Stats) -> Stats:
    """Of both together: exact but for the quantiles, the outermost of both (medians: the mean)."""
    n_a, n_b = float(a["count"][0]), float(b["count"][0])
    share = n_b / (n_a + n_b)
    mean = a["mean"] + share * (b["mean"] - a["mean"])
    spread = share * (1 - share) * (b["mean"] - a["mean"]) ** 2
    variance = (1 - share) * a["std"] ** 2 + share * b["std"] ** 2 + spread
    merged = {
        "min": np.minimum(a["min"], b["min"]),
        "max": np.maximum(a["max"], b["max"]),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": a["count"] + b["count"],
        "q50": a["q50"] + share * (b["q50"] - a["q50"]),
    }
    merged.update({key: np.minimum(a[key], b[key]) for key in ("q01", "q10")})
    merged.update({key: np.maximum(a[key], b[key]) for key in ("q90", "q99")})
    return merged


def to_plain(stats: Mapping[str, Stats]) -> dict[str, dict[str, Any]]:
    """For stats.json."""
    return {key: {name: v.tolist() for name, v in one.items()} for key, one in stats.items()}


def flatten(stats: Mapping[str, Stats]) -> dict[str, Any]:
    """For a row of meta/episodes: `stats/<feature>/<statistic>`."""
    return {
        f"stats/{feature}/{name}": value.tolist()
        for feature, one in stats.items()
        for name, value in one.items()
    }


def unflatten(row: Mapping[str, Any]) -> dict[str, Stats]:
    """The inverse of `flatten`; other columns are ignored."""
    stats: dict[str, Stats] = {}
    for key, value in row.items():
        if key.startswith("stats/"):
            _, feature, name = key.split("/")
            stats.setdefault(feature, {})[name] = np.array(value)
    return stats


def _over_rows(rows: np.ndarray) -> Stats:
    stats = {
        "min": rows.min(0),
        "max": rows.max(0),
        "mean": rows.mean(0),
        "std": rows.std(0),
        "count": np.array([len(rows)]),
    }
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {**stats, **dict(zip(QUANTILES, quantiles))}
