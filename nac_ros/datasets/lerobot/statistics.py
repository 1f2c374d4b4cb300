"""Statistics of a LeRobot dataset's features: exact, also when merged over many episodes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros.core import files as file_io
from nac_ros.core.errors import DatasetError
from nac_ros.datasets.lerobot import layout, schema, tables
from nac_ros.datasets.lerobot.info import MAX_FRAMES, is_int_in
from nac_ros.datasets.lerobot.reader import LeRobotDataset

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
MAX_IMAGES = 20  # images sampled per episode
LEVELS, CHANNELS = 256, 3
CONSTANT_SHARE = 1e-6  # of the largest value: a dimension that varies less is constant
RARE_RANGE = 20.0  # times the range of 98 % of the values: values beyond it are rare extremes
HISTOGRAM_FILE = "nac_image_histograms.json"  # in meta: exact image statistics, unlike stats.json
Stats = dict[str, np.ndarray]


class FeatureStatistics:
    """All values of a feature, kept sorted `[D, N]`, so that merged quantiles are exact."""

    def __init__(self) -> None:
        self._sorted: np.ndarray | None = None

    def add(self, values: np.ndarray) -> "FeatureStatistics":
        """Adds values `[T]` or `[T, D]`; returns itself."""
        rows = np.asarray(values).reshape(len(values), -1).T
        known = rows[:, :0] if self._sorted is None else self._sorted
        self._sorted = np.concatenate([known, rows], axis=1)
        self._sorted.sort(axis=1, kind="stable")  # timsort merges the runs already sorted
        return self

    @property
    def filled(self) -> bool:
        """Whether there is any value."""
        return self._sorted is not None

    def stats(self) -> Stats:
        """Each statistic float64 `[D]`, count `[1]`."""
        if self._sorted is None:
            raise ValueError("no value was added, so there are no statistics")
        values = self._sorted
        n = values.shape[1]
        return {
            "min": values[:, 0].astype(np.float64),
            "max": values[:, -1].astype(np.float64),
            "mean": values.mean(1, dtype=np.float64),
            "std": values.std(1, dtype=np.float64),
            "count": np.array([n]),
            **_quantiles(lambda rank: values[:, rank].astype(np.float64), n),
        }


@dataclass(frozen=True)
class ImageHistogram:
    """Counts of each channel's levels, int64 `[3, 256]`, over `frames` images.

    Histograms of disjoint sets of images add and subtract.
    """

    counts: np.ndarray
    frames: int

    def __add__(self, other: "ImageHistogram") -> "ImageHistogram":
        return ImageHistogram(self.counts + other.counts, self.frames + other.frames)

    def __sub__(self, other: "ImageHistogram") -> "ImageHistogram":
        return ImageHistogram(self.counts - other.counts, self.frames - other.frames)

    def stats(self) -> Stats:
        """Each statistic float64 `[3, 1, 1]` in [0, 1], count `[1]`: the number of images."""
        n = int(self.counts[0].sum())
        level = np.arange(LEVELS) / (LEVELS - 1)
        mean = self.counts @ level / n
        variance = ((level - mean[:, None]) ** 2 * self.counts).sum(1) / n
        stats = {
            "min": self._value_at(0),
            "max": self._value_at(n - 1),
            "mean": mean,
            "std": np.sqrt(variance),
            **_quantiles(self._value_at, n),
        }
        shaped = {name: np.asarray(value).reshape(3, 1, 1) for name, value in stats.items()}
        return {**shaped, "count": np.array([self.frames])}

    def _value_at(self, rank: int) -> np.ndarray:
        """float64 `[3]`: the value at a rank among the sorted pixels."""
        up_to = self.counts.cumsum(1)
        return np.array([np.searchsorted(row, rank, side="right") for row in up_to]) / (LEVELS - 1)


def _quantiles(value_at: Callable[[int], np.ndarray], count: int) -> Stats:
    """Interpolates linearly between the two neighbouring ranks, as numpy.quantile does."""
    found = {}
    for name, share in QUANTILES.items():
        below, part = divmod(share * (count - 1), 1)
        low, high = value_at(int(below)), value_at(min(int(below) + 1, count - 1))
        found[name] = low + part * (high - low)
    return found


def value_statistics(values: np.ndarray) -> Stats:
    """Statistics of values `[T]` or `[T, D]`."""
    return FeatureStatistics().add(values).stats()


def image_histogram(images: np.ndarray) -> ImageHistogram:
    """Histogram of at most MAX_IMAGES of the images, uint8 `[T, H, W, 3]`, evenly spaced."""
    chosen = np.unique(np.linspace(0, len(images) - 1, MAX_IMAGES).round().astype(int))
    pixels = images[chosen].reshape(-1, CHANNELS)
    counts = np.stack([np.bincount(channel, minlength=LEVELS) for channel in pixels.T])
    return ImageHistogram(counts, len(chosen))


def degenerate_dimensions(stats: Stats, names: Sequence[str]) -> list[str]:
    """A sentence for each dimension that quantile normalisation would divide by nearly zero:
    constant ones, and those constant in 98 % of the frames with rare large values."""
    sentences = []
    for i, name in enumerate(names):
        low, high = stats["min"][i], stats["max"][i]
        usual = stats["q99"][i] - stats["q01"][i]
        if high - low <= CONSTANT_SHARE * max(abs(low), abs(high)):
            sentences.append(f"{name} never changes, it is {low:.4g} in all frames")
        elif high - low > RARE_RANGE * usual:
            sentences.append(
                f"{name} is nearly constant: 98 % of its values span {usual:.3g}, all of them "
                f"{high - low:.3g}; normalise it by min and max, not by quantiles"
            )
    return sentences


def flatten(stats: Mapping[str, Stats]) -> dict[str, Any]:
    """Columns of a row of meta/episodes: `stats/<feature>/<statistic>`."""
    return {
        f"stats/{feature}/{name}": value.tolist()
        for feature, values in stats.items()
        for name, value in values.items()
    }


class DatasetStatistics:
    """Statistics of all numbers, and of a sample of the images, of a dataset's episodes."""

    def __init__(self) -> None:
        self._features: dict[str, FeatureStatistics] = {}
        self._histograms: dict[str, ImageHistogram] = {}
        self._n_episodes = 0

    @classmethod
    def restore(
        cls, root: Path, info: Mapping[str, Any], files: Sequence[Path], n_episodes: int
    ) -> "DatasetStatistics":
        """Statistics of the episodes in a folder, whose data files are given in order.

        Reads the images only of the episodes that the stored histograms do not cover.
        """
        result = cls()
        for path in files:
            if not path.is_file():
                raise DatasetError(
                    f"{path} is missing, so no episode can be added; copy the folder again"
                )
            result._add_numbers(read_numbers(path, info["features"]))
        covered, result._histograms = load_histograms(root / "meta", n_episodes)
        keys = schema.image_keys(info["features"])
        cameras = list(schema.color_image_sizes(info["features"]))
        if cameras and covered < n_episodes:
            dataset = LeRobotDataset.open(root)
            for index in range(covered, n_episodes):
                for camera in cameras:
                    histogram = image_histogram(dataset.images(index, camera))
                    result._add_histogram(keys[camera], histogram)
        result._n_episodes = n_episodes
        return result

    def add(
        self, columns: Mapping[str, np.ndarray], histograms: Mapping[str, ImageHistogram]
    ) -> None:
        """Adds an episode: feature -> values, and image feature -> histogram."""
        self._add_numbers(columns)
        for key, histogram in histograms.items():
            self._add_histogram(key, histogram)
        self._n_episodes += 1

    def write(self, meta: Path) -> None:
        """Writes stats.json, and the histograms that a later writer starts from."""
        known: dict[str, FeatureStatistics | ImageHistogram]
        known = {**self._features, **self._histograms}
        stats = {
            key: {name: value.tolist() for name, value in one.stats().items()}
            for key, one in known.items()
        }
        file_io.write_json(meta / "stats.json", stats)
        if self._histograms:
            save_histograms(meta, self._histograms, self._n_episodes)

    def _add_numbers(self, columns: Mapping[str, np.ndarray]) -> None:
        for key, values in columns.items():
            self._features.setdefault(key, FeatureStatistics()).add(values)

    def _add_histogram(self, key: str, histogram: ImageHistogram) -> None:
        known = self._histograms.get(key)
        self._histograms[key] = known + histogram if known else histogram


def read_numbers(path: Path, features: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every column of numbers of a data file: feature -> `[T]` or `[T, D]`."""
    others = (*schema.IMAGE_DTYPES, "string")
    keys = [key for key, feature in features.items() if feature["dtype"] not in others]
    table = tables.read_table(path, keys)
    return {key: tables.read_numbers(table[key], f"{path}: {key}") for key in keys}


def load_histograms(meta: Path, n_episodes: int) -> tuple[int, dict[str, ImageHistogram]]:
    """Number of episodes that the stored histograms cover, and image feature -> histogram.

    (0, {}) if there are none, or if they cover more than `n_episodes`, the number in the folder.
    """
    path = meta / HISTOGRAM_FILE
    content = layout.read_json(path) if path.is_file() else {}
    covered: Any = content.get("episodes") if isinstance(content, dict) else None
    if not is_int_in(covered, 1, n_episodes):
        return 0, {}
    try:
        pairs = content["histograms"].items()
        return covered, {key: _histogram(counts, frames) for key, (counts, frames) in pairs}
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
        raise DatasetError(f"{path} is damaged; delete it, it will be computed again") from error


def save_histograms(meta: Path, histograms: Mapping[str, ImageHistogram], n_episodes: int) -> None:
    """Writes the file that `load_histograms` reads."""
    plain = {key: [one.counts.tolist(), one.frames] for key, one in histograms.items()}
    file_io.write_json(meta / HISTOGRAM_FILE, {"episodes": n_episodes, "histograms": plain})


def _histogram(counts: Any, frames: Any) -> ImageHistogram:
    """Raises ValueError unless they are counts of three channels."""
    array = np.array(counts, np.int64)
    if array.shape != (CHANNELS, LEVELS) or not is_int_in(frames, 0, MAX_FRAMES):
        raise ValueError(f"histogram of shape {array.shape} of {frames} frames")
    return ImageHistogram(array, frames)
