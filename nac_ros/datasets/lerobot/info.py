"""Validates meta/info.json of a LeRobot folder: every value in use has a range."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nac_ros.core.errors import DatasetError, show_text, show_value
from nac_ros.datasets.lerobot.layout import DATA_PATH, OLD_VERSION, VERSION, VIDEO_PATH, read_json

MAX_FPS, MIN_FPS = 10_000.0, 1e-4  # [Hz]
MAX_COUNT = 1_000_000  # dimensions of a vector, episodes in a chunk, file numbers
MAX_FRAMES = 100_000_000  # in an episode: 38 days at 30 Hz
MAX_SIDE = 16_384  # pixels
IMAGE_DTYPES, FLOAT_DTYPES = ("image", "video"), ("float32", "float64")
DATA_PATHS = {
    VERSION: DATA_PATH,
    OLD_VERSION: "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
}
VIDEO_PATHS = {
    VERSION: VIDEO_PATH,
    OLD_VERSION: "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
PLACEHOLDER = re.compile(r"\{(\w+)(?::0?(\d{1,2})?d?)?\}")
MAX_SHOWN = 60  # characters of a value in a message


def read_info(root: Path) -> dict[str, Any]:
    """meta/info.json of a LeRobot folder; raises DatasetError if it is missing or invalid."""
    path = root / "meta/info.json"
    if not path.is_file():
        raise DatasetError(f"{root} is no LeRobot v3 folder: meta/info.json is missing")
    return check_info(read_json(path), path)


def check_info(info: Any, path: Path) -> dict[str, Any]:
    """Returns `info`, the content of `path`; raises DatasetError naming key, value and range."""
    if not isinstance(info, dict):
        raise DatasetError(f"{path} holds {show(info)}; wanted an object with codebase_version")
    version = info.get("codebase_version")
    if version not in (VERSION, OLD_VERSION):
        raise DatasetError(
            f"{path.parent.parent} has codebase_version {show(version, text=True)}; only "
            f"{VERSION} and {OLD_VERSION} are read: convert it with lerobot's own script"
        )
    _check_rate(info.get("fps"), path)
    _check_chunks(info, path)
    for key, known in (("data_path", DATA_PATHS), ("video_path", VIDEO_PATHS)):
        _check_template(key, info.get(key) or known[version], version, path)
    if not isinstance(info.get("robot_type") or "", str):
        raise DatasetError(f"{path}: robot_type is {show(info['robot_type'])}; wanted a text")
    _check_features(info.get("features"), path)
    return info


def frame_rate(info: Mapping[str, Any]) -> float:
    """Frames per second, as an int if it is a whole number."""
    return int_if_whole(info["fps"])


def int_if_whole(fps: float) -> float:
    """A rate [Hz], as an int if it is a whole number, as in LeRobot's files."""
    return int(fps) if fps == int(fps) else float(fps)


def show(value: Any, text: bool = False) -> str:
    """A value shortened for a message; `text` shows strings without quotation marks."""
    plain = text and isinstance(value, str)
    return show_text(value, MAX_SHOWN) if plain else show_value(value, MAX_SHOWN)


def is_int_in(value: Any, low: int, high: int) -> bool:
    """Whether it is an int in `low` .. `high`."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def format_path(template: str, values: Mapping[str, int | str]) -> str:
    """A path from a checked template with numbers and a video key."""

    def fill(match: re.Match) -> str:
        value = values[match[1]]
        return value if isinstance(value, str) else f"{value:0{int(match[2] or 1)}d}"

    return PLACEHOLDER.sub(fill, template)


def _check_rate(fps: Any, path: Path) -> None:
    number = isinstance(fps, (int, float)) and not isinstance(fps, bool)
    if not number or not MIN_FPS <= fps <= MAX_FPS:
        raise DatasetError(
            f"{path}: fps is {show(fps)}; wanted frames per second in {MIN_FPS:g} .. {MAX_FPS:g}"
        )


def _check_chunks(info: Mapping[str, Any], path: Path) -> None:
    size = info.get("chunks_size", 1000)
    if not is_int_in(size, 1, MAX_COUNT):
        raise DatasetError(f"{path}: chunks_size is {show(size)}; wanted 1 .. {MAX_COUNT}")


def _check_template(key: str, template: Any, version: str, path: Path) -> None:
    """Raises DatasetError if a template leaves the folder or has unknown placeholders."""
    known = [name for name, _ in PLACEHOLDER.findall(VIDEO_PATHS[version])]
    if not isinstance(template, str) or not template.isprintable():
        raise DatasetError(
            f"{path}: {key} is {show(template)}; wanted a path such as {VIDEO_PATH}"
        )
    rest = PLACEHOLDER.sub("", template)
    unknown = [name for name, _ in PLACEHOLDER.findall(template) if name not in known]
    if unknown or "{" in rest or "}" in rest:
        raise DatasetError(
            f"{path}: {key} is {show(template)}; its placeholders may be {', '.join(known)}"
        )
    if template.startswith("/") or "\\" in template or ".." in PurePosixPath(template).parts:
        raise DatasetError(
            f"{path}: {key} is {show(template)}, which leaves the folder; wanted a path below it"
        )


def _check_features(features: Any, path: Path) -> None:
    if not isinstance(features, dict):
        raise DatasetError(f"{path}: features is {show(features)}; wanted an object of columns")
    for key, feature in features.items():
        if not key.isprintable() or not key or "/" in key or "\\" in key or key in (".", ".."):
            raise DatasetError(
                f"{path}: the feature {show(key)} is no column; wanted a name without slashes"
            )
        if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
            raise DatasetError(f"{path}: feature '{key}' is {show(feature)}; wanted its dtype")
        if feature["dtype"] in IMAGE_DTYPES:
            _check_shape(key, feature.get("shape"), (2, 3), MAX_SIDE, path)
        elif feature["dtype"] in FLOAT_DTYPES:
            _check_shape(key, feature.get("shape"), (1, 2, 3, 4), MAX_COUNT, path)


def _check_shape(key: str, shape: Any, dims: tuple[int, ...], high: int, path: Path) -> None:
    sound = isinstance(shape, list) and len(shape) in dims
    if not sound or not all(is_int_in(side, 1, high) for side in shape):
        raise DatasetError(
            f"{path}: feature '{key}' has shape {show(shape)}; wanted a list of "
            f"{' or '.join(map(str, dims))} whole numbers in 1 .. {high}"
        )
