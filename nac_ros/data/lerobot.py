"""Reads LeRobot folders, v3 and v2.1: joints from parquet files, images from those or videos."""

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nac_ros.data import features, layout, places, png, video
from nac_ros.data.episode import Episode, EpisodeInfo
from nac_ros.data.layout import ACTION, IMAGE_PREFIX, INTERVENTION, STAMP, STATE, SUCCESS
from nac_ros.data.places import OUTCOMES, Place
from nac_ros.errors import DatasetError

VECTORS = ("float32", "float64")


class Joints(NamedTuple):
    """The numbers of one data file: episode `[R]`, state `[R, S]`, action `[R, D]`, timestamp
    `[R]`; more: each other column that the folder has, `[R]`."""

    episode: np.ndarray
    state: np.ndarray
    action: np.ndarray
    timestamp: np.ndarray
    more: dict[str, np.ndarray]


class Dataset:
    """One folder, opened by `Dataset.open`.

    When the action column is the state column, the action of a frame is the NEXT frame's state
    and each episode is one frame shorter than on disk.
    """

    def __init__(self, root: Path, info: dict[str, Any], action_key: str, state_key: str | None):
        self.root, self._info = root, info
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
        state_key = state_key or (STATE if STATE in info["features"] else None)
        for key in (action_key or ACTION, state_key):
            if key is not None:
                _check_column(root, info["features"], key)
        return cls(root, info, action_key or ACTION, state_key)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the D action dimensions."""
        return features.dimension_names(self._action_key, self.features[self._action_key])

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the S state dimensions, none where the folder has no state."""
        key = self._state_key
        return features.dimension_names(key, self.features[key]) if key else ()

    @property
    def units(self) -> tuple[str, ...]:
        """Unit of each action dimension, "" where the folder does not say."""
        return tuple(self.features[self._action_key].get("units") or [""] * len(self.names))

    @cached_property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Camera -> (height, width) [pixels], of those whose images or videos are there."""
        return {
            camera: size
            for camera, size in features.picture_sizes(self.features).items()
            if not self.is_video(camera)
            or any(path.is_file() for path in self.video_files(camera))
        }

    @cached_property
    def tasks(self) -> list[str]:
        """Task texts."""
        return places.read_tasks(self.root)

    @cached_property
    def episodes(self) -> list[EpisodeInfo]:
        """Length and task of each episode."""
        shorter = int(self._shifted)
        return [EpisodeInfo(place.length - shorter, place.task) for place in self._places]

    def episode(self, index: int, images: bool = True) -> Episode:
        """Episode `index`; without images only the numbers are read."""
        place = self._place(index)
        joints = self._joints(place.data)
        rows = self._rows(index, place.length, joints.episode)
        states, actions = joints.state[rows], joints.action[rows]
        kept = slice(0, len(actions) - int(self._shifted))
        more = {key: values[rows][kept] for key, values in joints.more.items()}
        ages = {camera: more.get(features.age_key(camera)) for camera in self.cameras}
        return Episode(
            states[kept],
            actions[1:] if self._shifted else actions,
            place.task,
            {c: self.images(index, c)[kept] for c in self.cameras} if images else {},
            _success(place, joints, rows),
            stamps_ns=more.get(STAMP),
            ages_ms={camera: age for camera, age in ages.items() if age is not None},
            intervention=more.get(INTERVENTION),
        )

    def is_video(self, camera: str) -> bool:
        """Whether the camera's images are in video files, and so not exactly what was seen."""
        return self.features[IMAGE_PREFIX + camera]["dtype"] == "video"

    def timestamps(self, index: int) -> np.ndarray:
        """float64 `[T]` [s] of the episode's frames on disk."""
        place = self._place(index)
        joints = self._joints(place.data)
        return joints.timestamp[self._rows(index, place.length, joints.episode)]

    def images(self, index: int, camera: str, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 `[T, H, W, 3]` RGB of the frames on disk, written into `out` when given."""
        self._check_camera(camera)
        place = self._place(index)
        if out is None:
            out = np.empty((place.length, *self.cameras[camera], 3), np.uint8)
        if self.is_video(camera):
            clip = place.clips[IMAGE_PREFIX + camera]
            video.read_into(out, clip.path, clip.first, self.fps)
            return out
        for k, data in enumerate(self.encoded_images(index, camera)):
            png.decode_into(out[k], data, f"{self.root}, episode {index}, {camera} frame {k}")
        return out

    def encoded_images(self, index: int, camera: str) -> list[bytes]:
        """PNG or JPEG bytes of the episode's frames on disk, of a camera without videos."""
        self._check_camera(camera)
        place = self._place(index)
        rows = self._rows(index, place.length, self._joints(place.data).episode)
        column = _read_rows(place.data, IMAGE_PREFIX + camera, rows)
        data = column.field("bytes").to_pylist()
        if None in data:
            raise DatasetError(
                f"{place.data}: {camera} names image files instead of holding the images"
            )
        return data

    def frames_on_disk(self, index: int) -> int:
        """T of the episode in the data files."""
        return self._place(index).length

    def data_files(self) -> list[Path]:
        """The data files in use, in order."""
        return sorted({place.data for place in self._places})

    def video_files(self, camera: str) -> list[Path]:
        """The camera's video files in use, in order; none where its images are in data files."""
        clips = [place.clips.get(IMAGE_PREFIX + camera) for place in self._places]
        return sorted({clip.path for clip in clips if clip})

    @property
    def _shifted(self) -> bool:
        return self._action_key == self._state_key

    @cached_property
    def _places(self) -> list[Place]:
        return places.read_places(self.root, self._info)

    def _place(self, index: int) -> Place:
        if not 0 <= index < len(self._places):
            count = len(self._places)
            raise DatasetError(f"{self.root} has no episode {index}; it has {count}, from 0")
        return self._places[index]

    def _check_camera(self, camera: str) -> None:
        if camera not in self.cameras:
            known = ", ".join(self.cameras) or "none, or their videos are missing"
            raise DatasetError(f"{self.root} has no images of camera '{camera}'; it has: {known}")

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
        ages = [features.age_key(camera) for camera in features.picture_sizes(self.features)]
        more = [k for k in (SUCCESS, STAMP, INTERVENTION, *ages) if k in self.features]
        keys = list(dict.fromkeys([self._action_key, self._state_key or self._action_key]))
        table = pq.read_table(path, columns=[*keys, *more, "episode_index", "timestamp"])
        n = len(table)
        state = _matrix(table[self._state_key]) if self._state_key else np.zeros((n, 0), "f4")
        return Joints(
            table["episode_index"].to_numpy(),
            state,
            _matrix(table[self._action_key]),
            table["timestamp"].to_numpy().astype(np.float64),
            {key: table[key].to_numpy() for key in more},
        )


def _success(place: Place, joints: Joints, rows: slice) -> bool | None:
    """From the table of contents where it says, else whether any frame was a success."""
    if place.outcome is not None:
        return OUTCOMES[place.outcome]
    return bool(joints.more[SUCCESS][rows].any()) if SUCCESS in joints.more else None


def _check_column(root: Path, features: dict[str, Any], key: str) -> None:
    vectors = [k for k, f in features.items() if f["dtype"] in VECTORS and f["shape"] != [1]]
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
