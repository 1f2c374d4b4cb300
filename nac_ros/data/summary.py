"""Statistics of a whole LeRobot folder while it grows, found again after any crash."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from nac_ros.data import feature_stats, features, layout
from nac_ros.data.feature_stats import Levels, Pool, Stats
from nac_ros.data.layout import IMAGE_PREFIX
from nac_ros.data.lerobot import Dataset
from nac_ros.errors import DatasetError

LEVELS_FILE = "nac_levels.json"  # in meta: what stats.json says of images, before it is rounded


class Summary:
    """Every number and a sample of the images of the episodes in a folder."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}
        self._levels: dict[str, Levels] = {}
        self._episodes = 0

    @classmethod
    def restore(
        cls, root: Path, info: Mapping[str, Any], files: Sequence[Path], n_episodes: int
    ) -> "Summary":
        """Of the finished episodes, whose data files are given in order, each once."""
        summary = cls()
        for path in files:
            if not path.is_file():
                raise DatasetError(f"{path} is missing, so nothing can be added; copy it again")
            summary._add_numbers(number_columns(path, info["features"]))
        known = summary._load_levels(root / "meta", n_episodes)
        cameras = [IMAGE_PREFIX + camera for camera in features.picture_sizes(info["features"])]
        dataset = Dataset.open(root) if cameras and known < n_episodes else None
        for index in range(known, n_episodes if dataset else 0):
            for key in cameras:
                images = dataset.images(index, key.removeprefix(IMAGE_PREFIX))
                summary._add_levels(key, feature_stats.levels(images))
        summary._episodes = n_episodes
        return summary

    def add(self, columns: Mapping[str, np.ndarray], levels: Mapping[str, Levels]) -> None:
        """Takes in one more episode: feature -> values, and image feature -> levels."""
        self._add_numbers(columns)
        for key, one in levels.items():
            self._add_levels(key, one)
        self._episodes += 1

    def stats(self) -> dict[str, Stats]:
        """Feature -> statistics over all episodes."""
        numbers = {key: pool.stats() for key, pool in self._pools.items()}
        return numbers | {key: one.stats() for key, one in self._levels.items()}

    def write(self, meta: Path) -> None:
        """stats.json, and the levels from which a later writer goes on."""
        layout.write_json(meta / "stats.json", feature_stats.to_plain(self.stats()))
        if self._levels:
            store_levels(meta, self._levels, self._episodes)

    def _add_numbers(self, columns: Mapping[str, np.ndarray]) -> None:
        for key, values in columns.items():
            self._pools.setdefault(key, Pool()).add(values)

    def _add_levels(self, key: str, levels: Levels) -> None:
        known = self._levels.get(key)
        self._levels[key] = known + levels if known else levels

    def _load_levels(self, meta: Path, n_episodes: int) -> int:
        """Of how many episodes the file told; none when it tells of more than there are."""
        path = meta / LEVELS_FILE
        told = json.loads(path.read_text())["episodes"] if path.is_file() else 0
        if not 0 < told <= n_episodes:
            return 0
        self._levels = stored_levels(meta, told) or {}
        return told


def number_columns(path: Path, wanted: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every column of numbers of a data file: feature -> `[T]` or `[T, D]`."""
    numbers = [
        key for key, f in wanted.items() if f["dtype"] not in (*features.PICTURES, "string")
    ]
    table = pq.read_table(path, columns=numbers)
    return {key: _values(table[key]) for key in numbers}


def stored_levels(meta: Path, n_episodes: int) -> dict[str, Levels] | None:
    """Of the images of exactly so many episodes, by feature; None where that is not known."""
    path = meta / LEVELS_FILE
    content = json.loads(path.read_text()) if path.is_file() else {"episodes": 0}
    if content["episodes"] != n_episodes:
        return None
    pairs = content["levels"].items()
    return {key: Levels(np.array(counts, np.int64), frames) for key, (counts, frames) in pairs}


def store_levels(meta: Path, known: Mapping[str, Levels], n_episodes: int) -> None:
    """What `stored_levels` reads."""
    plain = {key: [one.counts.tolist(), one.frames] for key, one in known.items()}
    layout.write_json(meta / LEVELS_FILE, {"episodes": n_episodes, "levels": plain})


def _values(column: Any) -> np.ndarray:
    """Scalars `[T]` or fixed-size lists `[T, D]`."""
    whole = column.combine_chunks()
    if not hasattr(whole, "flatten") or whole.type.num_fields == 0:
        return whole.to_numpy(zero_copy_only=False)
    return whole.flatten().to_numpy(zero_copy_only=False).reshape(len(whole), -1)
