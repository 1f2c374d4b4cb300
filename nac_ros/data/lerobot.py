"""Reads LeRobot v3 folders: our own, and any other whose joint data is in parquet files."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nac_ros.data import layout, png
from nac_ros.data.episode import Episode, EpisodeInfo
from nac_ros.data.layout import ACTION, IMAGE_PREFIX, STATE, SUCCESS, FileNumber
from nac_ros.errors import DatasetError

CONTENTS = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index"]


class Joints(NamedTuple):
    """The numbers of one data file: episode `[R]`, state `[R, S]`, action `[R, D]`, and so on."""

    episode: np.ndarray
    state: np.ndarray
    action: np.ndarray
    timestamp: np.ndarray
    success: np.ndarray | None


class Dataset:
    """One folder, opened by `Dataset.open`.

    When the action column is the state column, the action of a frame is the NEXT frame's state
    and each episode is one frame shorter than on disk.
    """

    def __init__(self, root: Path, info: dict[str, Any], action_key: str, state_key: str):
        self.root = root
        self.fps = int(info["fps"])
        self.robot_type: str = info.get("robot_type") or ""
        self.features: dict[str, Any] = info["features"]
        self._action_key, self._state_key = action_key, state_key
        self._joints = lru_cache(maxsize=64)(self._read_joints)

    @classmethod
    def open(
        cls, root: Path | str, action_key: str | None = None, state_key: str | None = None
    ) -> "Dataset":
        """The dataset in the folder; raises DatasetError naming what is missing."""
        root = Path(root)
        info = layout.read_info(root)
        chosen = (action_key or ACTION, state_key or STATE)
        for key in chosen:
            _check_column(root, info["features"], key)
        return cls(root, info, *chosen)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the D action dimensions."""
        return self._names(self._action_key)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the S state dimensions."""
        return self._names(self._state_key)

    @property
    def units(self) -> tuple[str, ...]:
        """Unit of each action dimension, "" where the folder does not say."""
        return tuple(self.features[self._action_key].get("units") or [""] * len(self.names))

    @cached_property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Camera -> (height, width) [pixels], of those whose images are in the data files."""
        return {
            key.removeprefix(IMAGE_PREFIX): tuple(feature["shape"][:2])
            for key, feature in self.features.items()
            if feature["dtype"] == "image"
        }

    @cached_property
    def tasks(self) -> list[str]:
        """Task texts."""
        return layout.read_tasks(self.root)

    @cached_property
    def episodes(self) -> list[EpisodeInfo]:
        """Length and task of each episode."""
        shorter = int(self._shifted)
        return [EpisodeInfo(r["length"] - shorter, r["tasks"][0]) for r in self._contents]

    def episode(self, index: int, images: bool = True) -> Episode:
        """Episode `index`; without images only the joint columns are read."""
        row = self._row(index)
        joints = self._joints(self._file(row))
        rows = self._rows(index, row["length"], joints.episode)
        states, actions = joints.state[rows], joints.action[rows]
        pictures = {c: self.images(index, c) for c in self.cameras} if images else {}
        if self._shifted:
            states, actions = states[:-1], states[1:]
            pictures = {camera: frames[:-1] for camera, frames in pictures.items()}
        success = None if joints.success is None else bool(joints.success[rows].any())
        return Episode(states, actions, row["tasks"][0], pictures, success)

    def timestamps(self, index: int) -> np.ndarray:
        """float64 `[T]` [s] of the episode's frames on disk."""
        row = self._row(index)
        joints = self._joints(self._file(row))
        return joints.timestamp[self._rows(index, row["length"], joints.episode)]

    def images(self, index: int, camera: str, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 `[T, H, W, 3]` RGB of the frames on disk, written into `out` when given."""
        encoded = self.encoded_images(index, camera)
        if out is None:
            out = np.empty((len(encoded), *self.cameras[camera], 3), np.uint8)
        for k, data in enumerate(encoded):
            png.decode_into(out[k], data, f"{self.root}, episode {index}, {camera} frame {k}")
        return out

    def encoded_images(self, index: int, camera: str) -> list[bytes]:
        """PNG or JPEG bytes of the episode's frames on disk."""
        if camera not in self.cameras:
            known = ", ".join(self.cameras) or "none (videos are not read)"
            raise DatasetError(f"{self.root} has no images of camera '{camera}'; it has: {known}")
        row = self._row(index)
        path = self._file(row)
        rows = self._rows(index, row["length"], self._joints(path).episode)
        column = _read_rows(path, IMAGE_PREFIX + camera, rows)
        data = column.field("bytes").to_pylist()
        if None in data:
            raise DatasetError(f"{path}: {camera} names image files instead of holding the images")
        return data

    def frames_on_disk(self, index: int) -> int:
        """T of the episode in the data files."""
        return self._row(index)["length"]

    def data_files(self) -> list[Path]:
        """The data files in use, in order."""
        return sorted({self._file(row) for row in self._contents})

    @property
    def _shifted(self) -> bool:
        return self._action_key == self._state_key

    @cached_property
    def _contents(self) -> list[dict[str, Any]]:
        files = layout.episode_files(self.root)
        tables = [pq.read_table(path, columns=CONTENTS) for path in files]
        rows = pa.concat_tables(tables).to_pylist() if tables else []
        for position, row in enumerate(rows):
            if row["episode_index"] != position:
                raise DatasetError(
                    f"{self.root}: episode {position} is missing from meta/episodes, where "
                    f"{row['episode_index']} follows; copy the folder again"
                )
        return rows

    def _row(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self._contents):
            count = len(self._contents)
            raise DatasetError(f"{self.root} has no episode {index}; it has {count}, from 0")
        return self._contents[index]

    def _file(self, row: dict[str, Any]) -> Path:
        number = FileNumber(row["data/chunk_index"], row["data/file_index"])
        return number.path(self.root / "data")

    def _rows(self, index: int, length: int, episodes: np.ndarray) -> slice:
        found = np.flatnonzero(episodes == index)
        if len(found) != length or found[-1] - found[0] + 1 != length:
            raise DatasetError(
                f"{self.root}: episode {index} should have {length} consecutive frames, "
                f"{len(found)} were found; copy the folder again"
            )
        return slice(int(found[0]), int(found[-1]) + 1)

    def _read_joints(self, path: Path) -> Joints:
        if not path.is_file():
            raise DatasetError(f"{path} is missing; copy the folder again")
        success = [SUCCESS] if SUCCESS in self.features else []
        keys = list(dict.fromkeys([self._action_key, self._state_key]))
        table = pq.read_table(path, columns=[*keys, *success, "episode_index", "timestamp"])
        return Joints(
            table["episode_index"].to_numpy(),
            _matrix(table[self._state_key]),
            _matrix(table[self._action_key]),
            table["timestamp"].to_numpy().astype(np.float64),
            table[SUCCESS].to_numpy() if success else None,
        )

    def _names(self, key: str) -> tuple[str, ...]:
        feature = self.features[key]
        names = feature.get("names")
        if isinstance(names, Sequence) and len(names) == feature["shape"][0]:
            return tuple(names)
        return tuple(f"{key}.{i}" for i in range(feature["shape"][0]))


def _check_column(root: Path, features: dict[str, Any], key: str) -> None:
    vectors = [k for k, f in features.items() if f["dtype"] == "float32" and f["shape"] != [1]]
    if key not in vectors:
        raise DatasetError(
            f"{root} has no column '{key}' of joints; choose one with --action-key or "
            f"--state-key: {', '.join(vectors)}"
        )


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Fixed-size or plain lists -> float32 `[R, D]`."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat.reshape(len(column), -1), np.float32)


def _read_rows(path: Path, key: str, rows: slice) -> pa.StructArray:
    """The column's rows, read from no more row groups than hold them."""
    file = pq.ParquetFile(path)
    counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    ends = np.cumsum(counts)
    starts = ends - counts
    wanted = np.flatnonzero((ends > rows.start) & (starts < rows.stop))
    table = file.read_row_groups(wanted.tolist(), columns=[key])
    first = int(starts[wanted[0]])
    column = table[key].slice(rows.start - first, rows.stop - rows.start)
    return column.combine_chunks()
