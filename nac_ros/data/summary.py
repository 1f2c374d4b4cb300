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
    def restore(cls, root: Path, info: Mapping[str, Any], files: Sequence[Path]) -> "Summary":
        """Of the finished episodes, whose data files are given in order."""
        summary = cls()
        numbers = [k for k, f in info["features"].items() if f["dtype"] not in features.PICTURES]
        for path in files:
            if not path.is_file():
                raise DatasetError(f"{path} is missing, so nothing can be added; copy it again")
            table = pq.read_table(path, columns=numbers)
            columns = {key: _values(table[key]) for key in numbers}
            summary._add_numbers(columns)
        known = summary._load_levels(root / "meta" / LEVELS_FILE, len(files))
        cameras = [IMAGE_PREFIX + camera for camera in features.picture_sizes(info["features"])]
        for index in range(known, len(files) if cameras else 0):
            dataset = Dataset.open(root)
            for key in cameras:
                images = dataset.images(index, key.removeprefix(IMAGE_PREFIX))
                summary._add_levels(key, feature_stats.levels(images))
        summary._episodes = len(files)
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
            content = {
                "episodes": self._episodes,
                "levels": {k: [v.counts.tolist(), v.frames] for k, v in self._levels.items()},
            }
            layout.write_json(meta / LEVELS_FILE, content)

    def _add_numbers(self, columns: Mapping[str, np.ndarray]) -> None:
        for key, values in columns.items():
            self._pools.setdefault(key, Pool()).add(values)

    def _add_levels(self, key: str, levels: Levels) -> None:
        known = self._levels.get(key)
        self._levels[key] = known + levels if known else levels

    def _load_levels(self, path: Path, n_episodes: int) -> int:
        """Of how many episodes the file told; none when it tells of more than there are."""
        if not path.is_file():
            return 0
        content = json.loads(path.read_text())
        if content["episodes"] > n_episodes:
            return 0
        for key, (counts, frames) in content["levels"].items():
            self._levels[key] = Levels(np.array(counts, np.int64), frames)
        return content["episodes"]


def _values(column: Any) -> np.ndarray:
    """Scalars `[T]` or fixed-size lists `[T, D]`."""
    whole = column.combine_chunks()
    if not hasattr(whole, "flatten") or whole.type.num_fields == 0:
        return whole.to_numpy(zero_copy_only=False)
    return whole.flatten().to_numpy(zero_copy_only=False).reshape(len(whole), -1)
