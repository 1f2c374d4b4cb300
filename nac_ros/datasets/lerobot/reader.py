"""Reads a LeRobot dataset, v3.0 or v2.1: joints, images and notes of any episode."""

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nac_ros.core import image_codec
from nac_ros.core.errors import DatasetError
from nac_ros.datasets.episode import Episode, EpisodeInfo
from nac_ros.datasets.lerobot import schema, tables, video
from nac_ros.datasets.lerobot.info import FLOAT_DTYPES, frame_rate, read_info
from nac_ros.datasets.lerobot.layout import (
    ACTION,
    ENVIRONMENT,
    INTERVENTION,
    STAMP,
    STATE,
    SUCCESS,
)
from nac_ros.datasets.lerobot.metadata import (
    OUTCOMES,
    EpisodeLocation,
    VideoSegment,
    has_tasks,
    read_episode_locations,
    read_tasks,
)

TASK_INDEX = "task_index"
DTYPES = {SUCCESS: "bool", INTERVENTION: "bool", STAMP: "int64"}  # image ages: float64 -> float32


class FrameColumns(NamedTuple):
    """Numbers of one data file of R frames.

    episode `[R]`, state `[R, S]`, action `[R, D]`, timestamp `[R]`
    task_index `[R]` or None; optional: the other columns by name, `[R]` or `[R, N]`
    faults: row -> problem of one of its vectors
    """

    episode: np.ndarray
    state: np.ndarray
    action: np.ndarray
    timestamp: np.ndarray
    task_index: np.ndarray | None
    optional: dict[str, np.ndarray]
    faults: dict[int, str]


class LeRobotDataset:
    """One folder, opened by `LeRobotDataset.open`.

    If the action column is the state column, the action of a frame is the state of the NEXT frame,
    and each episode is one frame shorter than on disk.

    image_keys: camera -> feature key; depth_cameras: camera -> (height, width) [pixels]
    """

    def __init__(self, root: Path, info: dict[str, Any], action_key: str, state_key: str | None):
        self.root, self.info = root, info
        self.fps: float = frame_rate(info)
        self.robot_type: str = info.get("robot_type") or ""
        self.features: dict[str, Any] = info["features"]
        self.image_keys = schema.image_keys(self.features)
        self.depth_cameras = schema.depth_image_sizes(self.features)
        self._action_key, self._state_key = action_key, state_key
        self.units = schema.dimension_units(action_key, self.features[action_key])
        self._columns = lru_cache(maxsize=64)(self._read_columns)

    @classmethod
    def open(
        cls, root: Path | str, action_key: str | None = None, state_key: str | None = None
    ) -> "LeRobotDataset":
        """The dataset in a folder; raises DatasetError naming what is missing."""
        root = Path(root)
        info = read_info(root)
        state_key = state_key or (STATE if STATE in info["features"] else None)
        for key in (action_key or ACTION, state_key):
            if key is not None:
                _check_vector_column(root, info["features"], key)
        return cls(root, info, action_key or ACTION, state_key)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the D action dimensions."""
        return schema.dimension_names(self._action_key, self.features[self._action_key])

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the S state dimensions, () without a state."""
        key = self._state_key
        return schema.dimension_names(key, self.features[key]) if key else ()

    @property
    def environment_names(self) -> tuple[str, ...]:
        """Names of the dimensions of the environment state, () without one."""
        if ENVIRONMENT not in _vector_columns(self.features):
            return ()
        return schema.dimension_names(ENVIRONMENT, self.features[ENVIRONMENT])

    @cached_property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Colour cameras with images or at least one video: name -> (height, width) [pixels]."""
        return {
            camera: size
            for camera, size in schema.color_image_sizes(self.features).items()
            if not self.is_video(camera)
            or any(path.is_file() for path in self.video_files(camera))
        }

    @property
    def cameras_without_videos(self) -> list[str]:
        """Colour cameras of info.json all of whose videos are missing."""
        known = schema.color_image_sizes(self.features)
        return [camera for camera in known if camera not in self.cameras]

    @property
    def depth_features(self) -> dict[str, dict[str, Any]]:
        """Camera -> feature of `depth_cameras`."""
        return schema.depth_features(self.features)

    @property
    def tasks(self) -> list[str]:
        """Task texts, [] if no episode has one."""
        return list(self._task_texts.values())

    @cached_property
    def episodes(self) -> list[EpisodeInfo]:
        """Length and tasks of each episode, from the episode table."""
        shorter = int(self._shifted)
        return [
            EpisodeInfo(max(0, location.length - shorter), location.tasks, self._source(index))
            for index, location in enumerate(self._locations)
        ]

    def episode(self, index: int, images: bool = True) -> Episode:
        """Episode `index`; without images only the numbers are read.

        Raises DatasetError naming file, episode and frame of an invalid state or action.
        """
        location, columns, rows = self._frames(index)
        self._check_faults(index, location, columns, rows)
        states, actions = columns.state[rows], columns.action[rows]
        kept = slice(0, len(actions) - int(self._shifted))
        optional = {key: values[rows][kept] for key, values in columns.optional.items()}
        ages = {camera: optional.get(schema.age_key(camera)) for camera in self.cameras}
        tasks, task_index = self._tasks_of(index, location, columns, rows)
        depth = [camera for camera in self.depth_cameras if not self.is_video(camera)]
        return Episode(
            states[kept],
            actions[1:] if self._shifted else actions,
            tasks,
            {c: self.images(index, c)[kept] for c in self.cameras} if images else {},
            _success(location, columns, rows),
            stamps_ns=optional.get(STAMP),
            ages_ms={camera: age for camera, age in ages.items() if age is not None},
            intervention=optional.get(INTERVENTION),
            task_index=None if task_index is None else task_index[kept],
            source=self._source(index),
            depth={c: self._read_encoded(index, c)[kept] for c in depth} if images else {},
            environment_state=optional.get(ENVIRONMENT),
        )

    def is_video(self, camera: str) -> bool:
        """Whether the camera's images are in video files, which are lossy."""
        return self.features[self.image_keys[camera]]["dtype"] == "video"

    def timestamps(self, index: int) -> np.ndarray:
        """float64 `[T]` [s] of the episode's frames on disk."""
        _, columns, rows = self._frames(index)
        return columns.timestamp[rows]

    def images(self, index: int, camera: str, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 `[T, H, W, 3]` RGB of the frames on disk, written into `out` if given."""
        self._check_camera(camera)
        location, _, rows = self._frames(index)
        if out is None:
            out = self._allocate(rows.stop - rows.start, camera)
        if self.is_video(camera):
            segment = self.video_segment(index, self.image_keys[camera])
            video.read_into(out, segment.path, segment.first, self.fps)
            return out
        for k, data in enumerate(self._read_encoded(index, camera)):
            where = f"{location.data_file}, episode {index}, {camera} frame {k}"
            image_codec.decode_into(out[k], data, where)
        return out

    def location(self, index: int) -> EpisodeLocation:
        """Length on disk, tasks and files of an episode, from the episode table."""
        if not 0 <= index < len(self._locations):
            count = len(self._locations)
            raise DatasetError(f"{self.root} has no episode {index}; it has {count}, from 0")
        return self._locations[index]

    def rows(self, index: int) -> slice:
        """Rows of an episode in its data file."""
        return self._frames(index)[2]

    def data_files(self) -> list[Path]:
        """Data files in use, in order."""
        return sorted({location.data_file for location in self._locations})

    def video_files(self, camera: str) -> list[Path]:
        """Video files of a camera in use, in order; [] if its images are in data files."""
        key = self.image_keys[camera]
        segments = (location.videos.get(key) for location in self._locations)
        return sorted({segment.path for segment in segments if segment})

    def video_segment(self, index: int, key: str) -> VideoSegment:
        """The episode's segment of a video, by feature key."""
        segment = self.location(index).videos.get(key)
        if segment is None:
            raise DatasetError(f"{self._source(index)} has no video of '{key}'; copy meta again")
        return segment

    def rows_in_file(self, path: Path) -> int:
        """Number of frames in a data file."""
        return len(self._columns(path).episode)

    @property
    def _shifted(self) -> bool:
        return self._action_key == self._state_key

    @cached_property
    def _locations(self) -> list[EpisodeLocation]:
        return read_episode_locations(self.root, self.info)

    @cached_property
    def _task_texts(self) -> dict[int, str]:
        """task_index -> text; {} if neither a table nor an episode has one."""
        if not has_tasks(self.root) and not any(place.tasks for place in self._locations):
            return {}
        return read_tasks(self.root)

    def _source(self, index: int) -> str:
        return f"{self.root}, episode {index}"

    def _frames(self, index: int) -> tuple[EpisodeLocation, FrameColumns, slice]:
        """Location of an episode, columns of its data file, and its rows there."""
        location = self.location(index)
        path, length = location.data_file, location.length
        columns = self._columns(path)
        found = np.flatnonzero(columns.episode == index)
        if not length and not len(found):
            raise DatasetError(
                f"{path}: episode {index} has no frame; remove it with `nac data edit "
                f"discard {self.root} --episode {index}`"
            )
        if len(found) != length or found[-1] - found[0] + 1 != length:
            raise DatasetError(
                f"{path}: episode {index} should have {length} consecutive frames, "
                f"{len(found)} were found; copy the folder again"
            )
        return location, columns, slice(int(found[0]), int(found[-1]) + 1)

    def _allocate(self, length: int, camera: str) -> np.ndarray:
        shape = (length, *self.cameras[camera], schema.COLORS)
        try:
            return np.empty(shape, np.uint8)
        except MemoryError as error:
            raise DatasetError(
                f"{self.root}: {camera} would be {shape} bytes, which do not fit into memory; "
                "correct its shape in meta/info.json, or split the episode"
            ) from error

    def _tasks_of(
        self, index: int, location: EpisodeLocation, columns: FrameColumns, rows: slice
    ) -> tuple[tuple[str, ...], np.ndarray | None]:
        """Tasks of an episode, and the index of each frame's task among them.

        From the frames' task_index, or from the episode table if they have none.
        """
        texts = self._task_texts
        if columns.task_index is None or not texts:
            return location.tasks, None
        numbers, which = np.unique(columns.task_index[rows], return_inverse=True)
        for number in numbers.tolist():
            if number not in texts:
                frame = int(np.flatnonzero(columns.task_index[rows] == number)[0])
                raise DatasetError(
                    f"{location.data_file}, episode {index}, frame {frame}: task_index {number} "
                    "is not in the table of tasks; copy the folder again"
                )
        tasks = tuple(texts[number] for number in numbers.tolist())
        return tasks, which.astype(np.int64) if len(tasks) > 1 else None

    def _check_camera(self, camera: str) -> None:
        if camera in self.depth_cameras:
            raise DatasetError(
                f"{self.root}: '{self.image_keys[camera]}' has images of other than 3 channels, "
                "such as depth; choose a colour camera"
            )
        if camera not in self.cameras:
            known = ", ".join(self.cameras) or "none, or their videos are missing"
            raise DatasetError(f"{self.root} has no images of camera '{camera}'; it has: {known}")

    def _check_faults(
        self, index: int, location: EpisodeLocation, columns: FrameColumns, rows: slice
    ) -> None:
        faulty = [row for row in columns.faults if rows.start <= row < rows.stop]
        if faulty:
            first = min(faulty)
            raise DatasetError(
                f"{location.data_file}, episode {index}, frame {first - rows.start}: "
                f"{columns.faults[first]} ({len(faulty)} faulty frames); correct the data, or "
                "discard the episode"
            )

    def _read_columns(self, path: Path) -> FrameColumns:
        known = tables.column_names(path)
        ages = [schema.age_key(camera) for camera in self.image_keys]
        optional = [k for k in (SUCCESS, STAMP, INTERVENTION, *ages) if k in self.features]
        keys = list(dict.fromkeys([self._action_key, self._state_key or self._action_key]))
        environment = [ENVIRONMENT] if self.environment_names else []
        keys += [key for key in environment if key not in keys]
        indices = ["episode_index", "timestamp", *([TASK_INDEX] if TASK_INDEX in known else [])]
        table = tables.read_table(path, [*keys, *optional, *indices])

        def scalars(key: str, dtype: str) -> np.ndarray:
            return tables.read_scalars(table[key], dtype, f"{path}: {key}")

        vectors, faults = {}, dict[int, str]()
        for key in keys:
            width, where = self.features[key]["shape"][0], f"{path}: {key}"
            vectors[key], wrong = tables.read_vectors(table[key], width, where)
            if wrong and len(set(wrong.values())) == 1 and len(wrong) == len(table):
                raise DatasetError(f"{where} {wrong[0]}, in all frames; correct one of them")
            faults = {row: f"{key} {text}" for row, text in wrong.items()} | faults
        state = vectors[self._state_key] if self._state_key else np.zeros((len(table), 0), "f4")
        return FrameColumns(
            scalars("episode_index", "int64"),
            state,
            vectors[self._action_key],
            scalars("timestamp", "float64"),
            scalars(TASK_INDEX, "int64") if TASK_INDEX in indices else None,
            {key: _read_optional(key, scalars) for key in optional}
            | {key: vectors[key] for key in environment},
            faults,
        )

    def _read_encoded(self, index: int, camera: str) -> list[bytes]:
        """PNG or JPEG bytes of the frames on disk, of a camera without videos."""
        location, _, rows = self._frames(index)
        data = _read_images(location.data_file, self.image_keys[camera], rows)
        if None in data:
            raise DatasetError(
                f"{location.data_file}, episode {index}, frame {data.index(None)}: {camera} names "
                "image files or nothing instead of holding the images; convert it with lerobot"
            )
        return [image for image in data if image is not None]


def _read_optional(key: str, scalars: Callable[[str, str], np.ndarray]) -> np.ndarray:
    return scalars(key, DTYPES[key]) if key in DTYPES else scalars(key, "float64").astype("f4")


def _success(location: EpisodeLocation, columns: FrameColumns, rows: slice) -> bool | None:
    """From the episode table if known, else whether any frame is marked as success."""
    if location.outcome is not None:
        return OUTCOMES[location.outcome]
    return bool(columns.optional[SUCCESS][rows].any()) if SUCCESS in columns.optional else None


def _vector_columns(features: Mapping[str, Any]) -> list[str]:
    """Names of the columns of several numbers per frame."""
    return [
        name
        for name, feature in features.items()
        if feature["dtype"] in FLOAT_DTYPES
        and len(feature["shape"]) == 1
        and feature["shape"] != [1]
    ]


def _check_vector_column(root: Path, features: Mapping[str, Any], key: str) -> None:
    vectors = _vector_columns(features)
    if key not in vectors:
        raise DatasetError(
            f"{root} has no column '{key}' of joints; choose one with --action-key or "
            f"--state-key: {', '.join(vectors[:20])}"
        )


def _read_images(path: Path, key: str, rows: slice) -> list[bytes | None]:
    """Rows of an image column, read from only the row groups that hold them."""
    with tables.open_file(path) as file:
        tables.require_columns(path, file.schema_arrow.names, [key])
        counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = np.cumsum(counts)
        starts = ends - counts
        groups = np.flatnonzero((ends > rows.start) & (starts < rows.stop))
        with tables.reading(path):
            table = file.read_row_groups(groups.tolist(), columns=[key]).select([key])
            first = int(starts[groups[0]])
            column = table[key].slice(rows.start - first, rows.stop - rows.start)
    images = tables.read_images(column, f"{path}: {key}")
    if len(images) != rows.stop - rows.start:
        raise DatasetError(f"{path}: {key} has {len(images)} of {rows.stop - rows.start} images")
    return images
