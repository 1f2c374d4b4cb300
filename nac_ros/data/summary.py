"""Statistics of a whole LeRobot folder while it grows, found again after any crash."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from nac_ros.data import feature_stats, features, layout, tables
from nac_ros.data.feature_stats import Levels, Pool, Stats
from nac_ros.data.info import MAX_FRAMES, is_count
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
        keys = features.picture_keys(info["features"])
        cameras = list(features.picture_sizes(info["features"]))
        dataset = Dataset.open(root) if cameras and known < n_episodes else None
        for index in range(known, n_episodes if dataset else 0):
            for camera in cameras:
                images = dataset.images(index, camera)
                summary._add_levels(keys[camera], feature_stats.levels(images))
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
        content = layout.read_json(path) if path.is_file() else {}
        told = content.get("episodes") if isinstance(content, dict) else None
        if not is_count(told, 1, n_episodes):
            return 0
        self._levels = stored_levels(meta, told) or {}
        return told


def number_columns(path: Path, wanted: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every column of numbers of a data file: feature -> `[T]` or `[T, D]`."""
    numbers = [
        key for key, f in wanted.items() if f["dtype"] not in (*features.PICTURES, "string")
    ]
    table = tables.read_table(path, numbers)
    return {key: _values(table[key], f"{path}: {key}") for key in numbers}


def stored_levels(meta: Path, n_episodes: int) -> dict[str, Levels] | None:
    """Of the images of exactly so many episodes, by feature; None where that is not known."""
    path = meta / LEVELS_FILE
    content = layout.read_json(path) if path.is_file() else {"episodes": 0}
    try:
        if content["episodes"] != n_episodes:
            return None
        pairs = content["levels"].items()
        return {key: _levels(counts, frames) for key, (counts, frames) in pairs}
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
        raise DatasetError(f"{path} is damaged; delete it, it is made anew") from error


def store_levels(meta: Path, known: Mapping[str, Levels], n_episodes: int) -> None:
    """What `stored_levels` reads."""
    plain = {key: [one.counts.tolist(), one.frames] for key, one in known.items()}
    layout.write_json(meta / LEVELS_FILE, {"episodes": n_episodes, "levels": plain})


def _levels(counts: Any, frames: Any) -> Levels:
    """Raises ValueError unless they are counts of three channels."""
    known = np.array(counts, np.int64)
    if known.shape != (feature_stats.CHANNELS, feature_stats.LEVELS) or not is_count(
        frames, 0, MAX_FRAMES
    ):
        raise ValueError(f"levels of shape {known.shape} of {frames} frames")
    return Levels(known, frames)


def _values(column: Any, where: str) -> np.ndarray:
    """Scalars `[T]` or lists of one length `[T, D]`; raises DatasetError for any other."""
    whole = tables.plain_array(column)
    with tables.reading(Path(where), "column of numbers"):
        if not tables.is_list(whole.type):
            return _numbers(whole, where)
        lengths = np.asarray(pc.fill_null(pc.list_value_length(whole), -1))
        if len(np.unique(lengths)) > 1 or (lengths < 0).any():
            raise DatasetError(f"{where} holds lists of {np.unique(lengths)[:5]} values; mend it")
        flat = tables.plain_array(whole.flatten())
        return _numbers(flat, where).reshape(len(whole), -1)


def _numbers(array: Any, where: str) -> np.ndarray:
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "biuf":
        raise DatasetError(f"{where} holds {array.type}, wanted numbers")
    return values
