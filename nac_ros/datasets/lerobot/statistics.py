"""LeRobot's statistics of a feature, exact however many episodes they are of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from nac_ros.core import files as file_io
from nac_ros.core.errors import DatasetError
from nac_ros.datasets.lerobot import layout, schema, tables
from nac_ros.datasets.lerobot.info import MAX_FRAMES, is_int_in
from nac_ros.datasets.lerobot.reader import LeRobotDataset

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
MAX_IMAGES = 20  # frames sampled per episode for an image's statistics
LEVELS, CHANNELS = 256, 3
STILL = 1e-6  # share of its largest value that a dimension may vary by and still be constant
FAR = 20.0  # times the span of 98 % of the values: what lies further out is seldom and extreme
Stats = dict[str, np.ndarray]


class FeatureStatistics:
    """All values of a feature, `[D, N]`, kept sorted: quantiles of merged episodes are exact."""

    def __init__(self) -> None:
        self._sorted: np.ndarray | None = None

    def add(self, values: np.ndarray) -> "FeatureStatistics":
        """Takes in values `[T]` or `[T, D]`; returns itself."""
        rows = np.asarray(values).reshape(len(values), -1).T
        known = rows[:, :0] if self._sorted is None else self._sorted
        self._sorted = np.concatenate([known, rows], axis=1)
        self._sorted.sort(axis=1, kind="stable")  # merges the runs that are sorted already
        return self

    @property
    def filled(self) -> bool:
        """Whether there is any value."""
        return self._sorted is not None

    def stats(self) -> Stats:
        """Each statistic float64 `[D]`, count `[1]`."""
        if self._sorted is None:
            raise ValueError("no value was added, so there is nothing to describe")
        values = self._sorted
        n = values.shape[1]
        stats = {
            "min": values[:, 0].astype(np.float64),
            "max": values[:, -1].astype(np.float64),
            "mean": values.mean(1, dtype=np.float64),
            "std": values.std(1, dtype=np.float64),
            "count": np.array([n]),
        }
        for name, share in QUANTILES.items():
            below, part = divmod(share * (n - 1), 1)
            pair = values[:, [int(below), min(int(below) + 1, n - 1)]].astype(np.float64)
            stats[name] = pair[:, 0] + part * (pair[:, 1] - pair[:, 0])
        return stats


@dataclass(frozen=True)
class ImageHistogram:
    """How often each of a channel's levels was seen, int64 `[3, 256]`, in `frames` images."""

    counts: np.ndarray
    frames: int

    def __add__(self, other: "ImageHistogram") -> "ImageHistogram":
        return ImageHistogram(self.counts + other.counts, self.frames + other.frames)

    def stats(self) -> Stats:
        """Each statistic float64 `[3, 1, 1]` in [0, 1], count `[1]`: how many images."""
        n = int(self.counts[0].sum())
        level = np.arange(LEVELS) / (LEVELS - 1)
        mean = self.counts @ level / n
        square = ((level - mean[:, None]) ** 2 * self.counts).sum(1) / n
        stats = {
            "min": self._ranked(0),
            "max": self._ranked(n - 1),
            "mean": mean,
            "std": np.sqrt(square),
        }
        for name, share in QUANTILES.items():
            below, part = divmod(share * (n - 1), 1)
            low, high = self._ranked(int(below)), self._ranked(min(int(below) + 1, n - 1))
            stats[name] = low + part * (high - low)
        shaped = {name: np.asarray(value).reshape(3, 1, 1) for name, value in stats.items()}
        return {**shaped, "count": np.array([self.frames])}

    def _ranked(self, rank: int) -> np.ndarray:
        """float64 `[3]`: the value at a place among all sorted ones."""
        upto = self.counts.cumsum(1)
        return np.array([np.searchsorted(row, rank, side="right") for row in upto]) / (LEVELS - 1)


def value_statistics(values: np.ndarray) -> Stats:
    """Values `[T]` or `[T, D]` -> each statistic float64 `[D]`, count `[1]`."""
    return FeatureStatistics().add(values).stats()


def levels(images: np.ndarray) -> ImageHistogram:
    """uint8 `[T, H, W, 3]` -> levels of a sample of T."""
    chosen = np.unique(np.linspace(0, len(images) - 1, MAX_IMAGES).round().astype(int))
    pixels = images[chosen].reshape(-1, 3)
    counts = np.stack([np.bincount(channel, minlength=LEVELS) for channel in pixels.T])
    return ImageHistogram(counts, len(chosen))


def degenerate_dimensions(stats: Stats, names: Sequence[str]) -> list[str]:
    """What would be divided by nearly nothing, a sentence each: dimensions that never change,
    and those that mostly keep still and at times go far."""
    sentences = []
    for i, name in enumerate(names):
        low, high = stats["min"][i], stats["max"][i]
        usual = stats["q99"][i] - stats["q01"][i]
        if high - low <= STILL * max(abs(low), abs(high)):
            sentences.append(f"{name} never changes, it is {low:.4g} in all frames")
        elif high - low > FAR * usual:
            sentences.append(
                f"{name} is nearly constant: 98 % of its values span {usual:.3g}, all of them "
                f"{high - low:.3g}; normalise it by min and max, not by quantiles"
            )
    return sentences


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


LEVELS_FILE = "nac_image_histograms.json"  # in meta: what stats.json says of images, before it is rounded


class DatasetStatistics:
    """Every number and a sample of the images of the episodes in a folder."""

    def __init__(self) -> None:
        self._pools: dict[str, FeatureStatistics] = {}
        self._levels: dict[str, ImageHistogram] = {}
        self._episodes = 0

    @classmethod
    def restore(
        cls, root: Path, info: Mapping[str, Any], files: Sequence[Path], n_episodes: int
    ) -> "DatasetStatistics":
        """Of the finished episodes, whose data files are given in order, each once."""
        summary = cls()
        for path in files:
            if not path.is_file():
                raise DatasetError(f"{path} is missing, so nothing can be added; copy it again")
            summary._add_numbers(number_columns(path, info["features"]))
        known = summary._load_levels(root / "meta", n_episodes)
        keys = schema.image_keys(info["features"])
        cameras = list(schema.color_image_sizes(info["features"]))
        dataset = LeRobotDataset.open(root) if cameras and known < n_episodes else None
        for index in range(known, n_episodes if dataset else 0):
            for camera in cameras:
                images = dataset.images(index, camera)
                summary._add_levels(keys[camera], levels(images))
        summary._episodes = n_episodes
        return summary

    def add(self, columns: Mapping[str, np.ndarray], levels: Mapping[str, ImageHistogram]) -> None:
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
        file_io.write_json(meta / "stats.json", to_plain(self.stats()))
        if self._levels:
            save_histograms(meta, self._levels, self._episodes)

    def _add_numbers(self, columns: Mapping[str, np.ndarray]) -> None:
        for key, values in columns.items():
            self._pools.setdefault(key, FeatureStatistics()).add(values)

    def _add_levels(self, key: str, levels: ImageHistogram) -> None:
        known = self._levels.get(key)
        self._levels[key] = known + levels if known else levels

    def _load_levels(self, meta: Path, n_episodes: int) -> int:
        """Of how many episodes the file told; none when it tells of more than there are."""
        path = meta / LEVELS_FILE
        content = layout.read_json(path) if path.is_file() else {}
        told = content.get("episodes") if isinstance(content, dict) else None
        if not is_int_in(told, 1, n_episodes):
            return 0
        self._levels = load_histograms(meta, told) or {}
        return told


def number_columns(path: Path, wanted: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every column of numbers of a data file: feature -> `[T]` or `[T, D]`."""
    numbers = [key for key, f in wanted.items() if f["dtype"] not in (*schema.IMAGE_DTYPES, "string")]
    table = tables.read_table(path, numbers)
    return {key: _values(table[key], f"{path}: {key}") for key in numbers}


def load_histograms(meta: Path, n_episodes: int) -> dict[str, ImageHistogram] | None:
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


def save_histograms(meta: Path, known: Mapping[str, ImageHistogram], n_episodes: int) -> None:
    """What `load_histograms` reads."""
    plain = {key: [one.counts.tolist(), one.frames] for key, one in known.items()}
    file_io.write_json(meta / LEVELS_FILE, {"episodes": n_episodes, "levels": plain})


def _levels(counts: Any, frames: Any) -> ImageHistogram:
    """Raises ValueError unless they are counts of three channels."""
    known = np.array(counts, np.int64)
    if known.shape != (CHANNELS, LEVELS) or not is_int_in(frames, 0, MAX_FRAMES):
        raise ValueError(f"levels of shape {known.shape} of {frames} frames")
    return ImageHistogram(known, frames)


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
