"""Where the episodes of a LeRobot folder lie, v3 and v2.1 alike: its table of contents."""

from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nac_ros.core import image_codec
from nac_ros.core.errors import DatasetError
from nac_ros.core.json_reader import read_bytes
from nac_ros.datasets.episode import Episode, EpisodeInfo
from nac_ros.datasets.lerobot import info, layout, schema, tables, video
from nac_ros.datasets.lerobot.info import (
    DATA_PATHS,
    MAX_COUNT,
    MAX_FRAMES,
    FLOAT_DTYPES,
    VIDEO_PATHS,
    format_path,
    is_int_in,
    show,
)
from nac_ros.datasets.lerobot.layout import (
    ACTION,
    INTERVENTION,
    OLD_VERSION,
    OUTCOME,
    STAMP,
    STATE,
    SUCCESS,
)

CONTENTS = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index"]
VIDEO_COLUMNS = ("chunk_index", "file_index", "from_timestamp")
OUTCOMES = {"success": True, "failure": False, "unjudged": None}  # nac/outcome -> Episode.success
MAX_SECONDS = 1e9  # at which an episode may begin in a video
TASKS, OLD_TASKS, OLD_EPISODES = "meta/tasks.parquet", "meta/tasks.jsonl", "meta/episodes.jsonl"


class VideoSegment(NamedTuple):
    """An episode's part of a video file, which begins at frame `first`."""

    path: Path
    first: int


class EpisodeLocation(NamedTuple):
    """One episode: frames on disk, tasks, data file, video key -> clip, nac/outcome if told."""

    length: int
    tasks: tuple[str, ...]
    data: Path
    clips: dict[str, VideoSegment]
    outcome: str | None


def outcome_text(success: bool | None) -> str:
    """The word of OUTCOMES for what is known of an episode."""
    return next(text for text, value in OUTCOMES.items() if value is success)


def read_episode_locations(root: Path, info: Mapping[str, Any]) -> list[EpisodeLocation]:
    """All episodes in order; raises DatasetError when one is missing between others."""
    keys = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    read = _old_places if info["codebase_version"] == OLD_VERSION else _new_places
    return read(root, info, keys)


def read_tasks(root: Path) -> dict[int, str]:
    """task_index -> text in the order of the numbers; raises DatasetError when the table is
    missing or a number is there twice."""
    path, old = root / TASKS, root / OLD_TASKS
    if path.is_file():
        numbers, texts = _task_columns(path)
    elif old.is_file():
        path, rows = old, read_lines(old)
        numbers, texts = ([row.get(key) for row in rows] for key in ("task_index", "task"))
    else:
        raise DatasetError(f"{root}: {TASKS} is missing; copy the folder again")
    for number, text in zip(numbers, texts):
        if not is_int_in(number, 0, MAX_FRAMES) or not isinstance(text, str):
            raise DatasetError(
                f"{path}: task {show(number)} is {show(text)}; wanted a number and a text"
            )
    if len(set(numbers)) < len(numbers):
        raise DatasetError(f"{path} has a task_index twice; wanted each once")
    return dict(sorted(zip(numbers, texts)))


def has_tasks(root: Path) -> bool:
    """Whether the folder has a table of tasks."""
    return (root / TASKS).is_file() or (root / OLD_TASKS).is_file()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object a line; raises DatasetError naming the line."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing; copy the folder again")
    rows, content = [], read_bytes(path, DatasetError, layout.MAX_JSON)
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        row = layout.parse_json(line, f"{path}, line {number},")
        if not isinstance(row, dict):
            raise DatasetError(f"{path}, line {number}, is {show(row)}; wanted an object")
        rows.append(row)
    return rows


def contents_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A line of the table of contents with a sound number, length and tasks; raises DatasetError
    naming `where`, the key and the value."""
    for key, high in (("episode_index", MAX_FRAMES), ("length", MAX_FRAMES)):
        if not is_int_in(row.get(key), 0, high):
            raise DatasetError(f"{where}: {key} is {show(row.get(key))}; wanted 0 .. {high}")
    tasks = row.get("tasks")
    tasks = [tasks] if isinstance(tasks, str) else (tasks or [])
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise DatasetError(f"{where}: tasks is {show(row['tasks'])}; wanted texts")
    if row.get(OUTCOME) not in (None, *OUTCOMES):
        raise DatasetError(
            f"{where}: {OUTCOME} is {show(row[OUTCOME])}; known are: {', '.join(OUTCOMES)}"
        )
    return {**row, "tasks": list(dict.fromkeys(tasks))}


def file_number(row: Mapping[str, Any], key: str, where: str) -> dict[str, int]:
    """chunk_index and file_index of a line's data file, or of one of its videos."""
    numbers = {name: row.get(f"{key}/{name}") for name in VIDEO_COLUMNS[:2]}
    for name, value in numbers.items():
        if not is_int_in(value, 0, MAX_COUNT):
            raise DatasetError(f"{where}: {key}/{name} is {show(value)}; wanted 0 .. {MAX_COUNT}")
    return numbers


def read_contents(path: Path, wanted: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Lines of one file of meta/episodes, of those of the `wanted` columns that it has."""
    known = tables.read_columns(path)
    columns = known if wanted is None else [name for name in wanted if name in known]
    table = tables.read_table(path, columns)
    with tables.reading(path):
        rows = table.to_pylist()
    return [contents_row(row, f"{path}, row {k}") for k, row in enumerate(rows)]


def _task_columns(path: Path) -> tuple[list[int], list[str]]:
    """task_index and text; the text may be the index of a pandas frame, of any name."""
    table = tables.read_table(path)
    texts = [field.name for field in table.schema if tables.is_text(field.type)]
    if "task_index" not in table.column_names or (len(table) and not texts):
        raise DatasetError(f"{path} lacks task_index or the texts; copy the file again")
    if not len(table):
        return [], []
    name = "task" if "task" in texts else texts[0]
    numbers = tables.read_scalars(table["task_index"], "int64", f"{path}: task_index")
    return numbers.tolist(), tables.read_texts(table[name], f"{path}: {name}")


def _new_places(root: Path, info: Mapping[str, Any], keys: list[str]) -> list[EpisodeLocation]:
    wanted = [*CONTENTS, OUTCOME, *(f"videos/{key}/{part}" for key in keys for part in VIDEO_COLUMNS)]
    places, indices = list[EpisodeLocation](), list[int]()
    for path in layout.episode_files(root):
        for number, row in enumerate(read_contents(path, wanted)):
            where = f"{path}, row {number}"
            indices.append(row["episode_index"])
            places.append(_new_place(root, info, keys, row, where))
    _check_order(root, indices)
    return places


def _new_place(
    root: Path, info: Mapping[str, Any], keys: list[str], row: Mapping[str, Any], where: str
) -> EpisodeLocation:
    template = info.get("data_path") or DATA_PATHS[info["codebase_version"]]
    data = root / format_path(template, {**file_number(row, "data", where), "video_key": ""})
    known = [key for key in keys if row.get(f"videos/{key}/{VIDEO_COLUMNS[0]}") is not None]
    clips = {key: _clip(root, key, row, info, where) for key in known}
    return EpisodeLocation(row["length"], tuple(row["tasks"]), data, clips, row.get(OUTCOME))


def _clip(
    root: Path, key: str, row: Mapping[str, Any], info: Mapping[str, Any], where: str
) -> VideoSegment:
    start = row.get(f"videos/{key}/from_timestamp")
    if not isinstance(start, (int, float)) or not 0 <= start <= MAX_SECONDS:
        raise DatasetError(
            f"{where}: videos/{key}/from_timestamp is {show(start)}; wanted seconds in 0 .. "
            f"{MAX_SECONDS:g}"
        )
    template = info.get("video_path") or VIDEO_PATHS[info["codebase_version"]]
    numbers = file_number(row, f"videos/{key}", where)
    path = root / format_path(template, {**numbers, "video_key": key})
    return VideoSegment(path, round(start * info["fps"]))


def _old_places(root: Path, info: Mapping[str, Any], keys: list[str]) -> list[EpisodeLocation]:
    path, version = root / OLD_EPISODES, info["codebase_version"]
    if not path.is_file():
        raise DatasetError(f"{root}: {OLD_EPISODES} is missing; copy the folder again")
    rows = [
        contents_row(row, f"{path}, episode {number}")
        for number, row in enumerate(read_lines(path))
    ]
    rows.sort(key=lambda row: row["episode_index"])
    _check_order(root, (row["episode_index"] for row in rows))
    data, video = info.get("data_path") or DATA_PATHS[version], info.get("video_path")
    places = []
    for index, row in enumerate(rows):
        values = {"episode_chunk": index // info.get("chunks_size", 1000), "episode_index": index}
        clips = {
            key: VideoSegment(
                root / format_path(video or VIDEO_PATHS[version], {**values, "video_key": key}), 0
            )
            for key in keys
        }
        path = root / format_path(data, {**values, "video_key": ""})
        places.append(EpisodeLocation(row["length"], tuple(row["tasks"]), path, clips, None))
    return places


def _check_order(root: Path, indices: Iterable[int]) -> None:
    for position, index in enumerate(indices):
        if index != position:
            raise DatasetError(
                f"{root}: episode {position} is missing from meta/episodes, where {index} "
                "follows; copy the folder again"
            )


TASK_INDEX = "task_index"
KINDS = {SUCCESS: "bool", INTERVENTION: "bool", STAMP: "int64"}  # others are ages, float64


class Joints(NamedTuple):
    """The numbers of one data file: episode `[R]`, state `[R, S]`, action `[R, D]`, timestamp
    `[R]`, task_index `[R]` where there is one; more: each other column that the folder has, `[R]`.

    faults: row -> what is wrong with its state or action
    """

    episode: np.ndarray
    state: np.ndarray
    action: np.ndarray
    timestamp: np.ndarray
    task_index: np.ndarray | None
    more: dict[str, np.ndarray]
    faults: dict[int, str]


class LeRobotDataset:
    """One folder, opened by `LeRobotDataset.open`.

    When the action column is the state column, the action of a frame is the NEXT frame's state
    and each episode is one frame shorter than on disk.
    """

    def __init__(self, root: Path, facts: dict[str, Any], action_key: str, state_key: str | None):
        self.root, self.info = root, facts
        self.fps: float = info.frame_rate(facts)
        self.robot_type: str = facts.get("robot_type") or ""
        self.features: dict[str, Any] = facts["features"]
        self.image_keys = schema.image_keys(self.features)
        self.depth_cameras = schema.depth_image_sizes(self.features)
        self._action_key, self._state_key = action_key, state_key
        self.units = schema.dimension_units(action_key, self.features[action_key])
        self._joints = lru_cache(maxsize=64)(self._read_joints)

    @classmethod
    def open(
        cls, root: Path | str, action_key: str | None = None, state_key: str | None = None
    ) -> "LeRobotDataset":
        """The dataset in the folder; raises DatasetError naming what is missing."""
        root = Path(root)
        facts = info.read_info(root)
        state_key = state_key or (STATE if STATE in facts["features"] else None)
        for key in (action_key or ACTION, state_key):
            if key is not None:
                _check_column(root, facts["features"], key)
        return cls(root, facts, action_key or ACTION, state_key)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the D action dimensions."""
        return schema.dimension_names(self._action_key, self.features[self._action_key])

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the S state dimensions, none where the folder has no state."""
        key = self._state_key
        return schema.dimension_names(key, self.features[key]) if key else ()

    @cached_property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Camera -> (height, width) [pixels], of those in colour whose images or videos are
        there; `image_keys` says which column each camera is."""
        return {
            camera: size
            for camera, size in schema.color_image_sizes(self.features).items()
            if not self.is_video(camera)
            or any(path.is_file() for path in self.video_files(camera))
        }

    @property
    def cameras_without_videos(self) -> list[str]:
        """Cameras in colour of info.json none of whose videos is there."""
        known = schema.color_image_sizes(self.features)
        return [camera for camera in known if camera not in self.cameras]

    @property
    def tasks(self) -> list[str]:
        """Task texts; none in a folder whose episodes have none."""
        return list(self._task_texts.values())

    @cached_property
    def episodes(self) -> list[EpisodeInfo]:
        """Length and tasks of each episode, as the table of contents has them."""
        shorter = int(self._shifted)
        return [
            EpisodeInfo(max(0, place.length - shorter), place.tasks, self._source(index))
            for index, place in enumerate(self._places)
        ]

    def episode(self, index: int, images: bool = True) -> Episode:
        """Episode `index`; without images only the numbers are read.

        Raises DatasetError naming file, episode and frame where a row holds no sound vector.
        """
        place = self._place(index)
        joints = self._joints(place.data)
        rows = self._rows(index, place, joints)
        self._check_rows(index, place, joints, rows)
        states, actions = joints.state[rows], joints.action[rows]
        kept = slice(0, len(actions) - int(self._shifted))
        more = {key: values[rows][kept] for key, values in joints.more.items()}
        ages = {camera: more.get(schema.age_key(camera)) for camera in self.cameras}
        tasks, task_index = self._tasks_of(index, place, joints, rows)
        return Episode(
            states[kept],
            actions[1:] if self._shifted else actions,
            tasks,
            {c: self.images(index, c)[kept] for c in self.cameras} if images else {},
            _success(place, joints, rows),
            stamps_ns=more.get(STAMP),
            ages_ms={camera: age for camera, age in ages.items() if age is not None},
            intervention=more.get(INTERVENTION),
            task_index=None if task_index is None else task_index[kept],
            source=self._source(index),
            depth={c: self._encoded(index, c)[kept] for c in self._kept_depth} if images else {},
        )

    def is_video(self, camera: str) -> bool:
        """Whether the camera's images are in video files, and so not exactly what was seen."""
        return self.features[self.image_keys[camera]]["dtype"] == "video"

    def timestamps(self, index: int) -> np.ndarray:
        """float64 `[T]` [s] of the episode's frames on disk."""
        place = self._place(index)
        joints = self._joints(place.data)
        return joints.timestamp[self._rows(index, place, joints)]

    def images(self, index: int, camera: str, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 `[T, H, W, 3]` RGB of the frames on disk, written into `out` when given."""
        self._check_camera(camera)
        place = self._place(index)
        rows = self._rows(index, place, self._joints(place.data))
        if out is None:
            out = self._empty(rows.stop - rows.start, camera)
        if self.is_video(camera):
            clip = self._clip(index, camera)
            video.read_into(out, clip.path, clip.first, self.fps)
            return out
        for k, data in enumerate(self.encoded_images(index, camera)):
            image_codec.decode_into(
                out[k], data, f"{place.data}, episode {index}, {camera} frame {k}"
            )
        return out

    def encoded_images(self, index: int, camera: str) -> list[bytes]:
        """PNG or JPEG bytes of the episode's frames on disk, of a camera without videos."""
        self._check_camera(camera)
        return self._encoded(index, camera)

    def _encoded(self, index: int, camera: str) -> list[bytes]:
        place = self._place(index)
        rows = self._rows(index, place, self._joints(place.data))
        data = _read_images(place.data, self.image_keys[camera], rows)
        if None in data:
            raise DatasetError(
                f"{place.data}, episode {index}, frame {data.index(None)}: {camera} names image "
                "files instead of holding the images, or nothing at all; convert it with lerobot"
            )
        return [image for image in data if image is not None]

    def stored_length(self, index: int) -> int:
        """T of the episode in the data files."""
        return self._place(index).length

    def data_files(self) -> list[Path]:
        """The data files in use, in order."""
        return sorted({place.data for place in self._places})

    def video_files(self, camera: str) -> list[Path]:
        """The camera's video files in use, in order; none where its images are in data files."""
        key = self.image_keys[camera]
        clips = [place.clips.get(key) for place in self._places]
        return sorted({clip.path for clip in clips if clip})

    def data_file(self, index: int) -> Path:
        """The file with the episode's numbers."""
        return self._place(index).data

    def video_file(self, index: int, key: str) -> Path:
        """The file with the episode's part of a video, by the feature's key."""
        clip = self._place(index).clips.get(key)
        if clip is None:
            raise DatasetError(f"{self._source(index)} has no video of '{key}'; copy meta again")
        return clip.path

    def listed_tasks(self, index: int) -> tuple[str, ...]:
        """Tasks of the episode as the table of contents has them."""
        return self._place(index).tasks

    def rows_in_file(self, path: Path) -> int:
        """How many frames a data file holds."""
        return len(self._joints(path).episode)

    @property
    def depth_features(self) -> dict[str, dict[str, Any]]:
        """Camera -> feature of `depth_cameras`."""
        return schema.depth_features(self.features)

    @property
    def _kept_depth(self) -> list[str]:
        """Depth cameras whose images are in the data files."""
        return [camera for camera in self.depth_cameras if not self.is_video(camera)]

    @property
    def _shifted(self) -> bool:
        return self._action_key == self._state_key

    @cached_property
    def _places(self) -> list[EpisodeLocation]:
        return read_episode_locations(self.root, self.info)

    @cached_property
    def _task_texts(self) -> dict[int, str]:
        """task_index -> text; none where neither a table nor an episode has one."""
        if not has_tasks(self.root) and not any(place.tasks for place in self._places):
            return {}
        return read_tasks(self.root)

    def _source(self, index: int) -> str:
        return f"{self.root}, episode {index}"

    def _place(self, index: int) -> EpisodeLocation:
        if not 0 <= index < len(self._places):
            count = len(self._places)
            raise DatasetError(f"{self.root} has no episode {index}; it has {count}, from 0")
        return self._places[index]

    def _clip(self, index: int, camera: str) -> VideoSegment:
        key = self.image_keys[camera]
        path = self.video_file(index, key)
        return VideoSegment(path, self._place(index).clips[key].first)

    def _empty(self, length: int, camera: str) -> np.ndarray:
        shape = (length, *self.cameras[camera], schema.COLOURS)
        try:
            return np.empty(shape, np.uint8)
        except MemoryError as error:
            raise DatasetError(
                f"{self.root}: {camera} would be {shape} bytes, which do not fit into memory; "
                "correct its shape in meta/info.json, or split the episode"
            ) from error

    def _tasks_of(
        self, index: int, place: EpisodeLocation, joints: Joints, rows: slice
    ) -> tuple[tuple[str, ...], np.ndarray | None]:
        """Texts of an episode and which of them each frame has, as the frames say; as the table of
        contents says where they do not."""
        texts = self._task_texts
        if joints.task_index is None or not texts:
            return place.tasks, None
        numbers, which = np.unique(joints.task_index[rows], return_inverse=True)
        for number in numbers.tolist():
            if number not in texts:
                frame = int(np.flatnonzero(joints.task_index[rows] == number)[0])
                raise DatasetError(
                    f"{place.data}, episode {index}, frame {frame}: task_index {number} is not in "
                    "the table of tasks; copy the folder again"
                )
        tasks = tuple(texts[number] for number in numbers.tolist())
        return tasks, which.astype(np.int64) if len(tasks) > 1 else None

    def _check_camera(self, camera: str) -> None:
        if camera in self.depth_cameras:
            raise DatasetError(
                f"{self.root}: '{self.image_keys[camera]}' has images of other than 3 channels, "
                "such as depth, which no camera in colour has; choose another camera"
            )
        if camera not in self.cameras:
            known = ", ".join(self.cameras) or "none, or their videos are missing"
            raise DatasetError(f"{self.root} has no images of camera '{camera}'; it has: {known}")

    def _rows(self, index: int, place: EpisodeLocation, joints: Joints) -> slice:
        found = np.flatnonzero(joints.episode == index)
        if not place.length and not len(found):
            raise DatasetError(
                f"{place.data}: episode {index} has no frame; take it out with `nac data edit "
                f"discard {self.root} --episode {index}`"
            )
        if len(found) != place.length or found[-1] - found[0] + 1 != place.length:
            raise DatasetError(
                f"{place.data}: episode {index} should have {place.length} consecutive frames, "
                f"{len(found)} were found; copy the folder again"
            )
        return slice(int(found[0]), int(found[-1]) + 1)

    def _check_rows(self, index: int, place: EpisodeLocation, joints: Joints, rows: slice) -> None:
        faulty = [row for row in joints.faults if rows.start <= row < rows.stop]
        if faulty:
            first = min(faulty)
            raise DatasetError(
                f"{place.data}, episode {index}, frame {first - rows.start}: "
                f"{joints.faults[first]} ({len(faulty)} faulty frames); mend the data, or take "
                "the episode out"
            )

    def _read_joints(self, path: Path) -> Joints:
        known = tables.read_columns(path)
        ages = [schema.age_key(camera) for camera in self.image_keys]
        more = [k for k in (SUCCESS, STAMP, INTERVENTION, *ages) if k in self.features]
        keys = list(dict.fromkeys([self._action_key, self._state_key or self._action_key]))
        indices = ["episode_index", "timestamp", *([TASK_INDEX] if TASK_INDEX in known else [])]
        table = tables.read_table(path, [*keys, *more, *indices])

        def scalars(key: str, kind: str) -> np.ndarray:
            return tables.read_scalars(table[key], kind, f"{path}: {key}")

        vectors, faults = {}, dict[int, str]()
        for key in keys:
            width, where = self.features[key]["shape"][0], f"{path}: {key}"
            vectors[key], wrong = tables.read_vectors(table[key], width, where)
            if wrong and len(set(wrong.values())) == 1 and len(wrong) == len(table):
                raise DatasetError(f"{where} {wrong[0]}, in all frames; correct one of them")
            faults = {row: f"{key} {text}" for row, text in wrong.items()} | faults
        state = vectors[self._state_key] if self._state_key else np.zeros((len(table), 0), "f4")
        return Joints(
            scalars("episode_index", "int64"),
            state,
            vectors[self._action_key],
            scalars("timestamp", "float64"),
            scalars(TASK_INDEX, "int64") if TASK_INDEX in indices else None,
            {key: _note(key, scalars(key, KINDS.get(key, "float64"))) for key in more},
            faults,
        )


def _note(key: str, values: np.ndarray) -> np.ndarray:
    """Ages are float32, other notes as they are."""
    return values if key in KINDS else values.astype(np.float32)


def _success(place: EpisodeLocation, joints: Joints, rows: slice) -> bool | None:
    """From the table of contents where it says, else whether any frame was a success."""
    if place.outcome is not None:
        return OUTCOMES[place.outcome]
    return bool(joints.more[SUCCESS][rows].any()) if SUCCESS in joints.more else None


def _check_column(root: Path, features: dict[str, Any], key: str) -> None:
    vectors = [
        k
        for k, feature in features.items()
        if feature["dtype"] in FLOAT_DTYPES and len(feature["shape"]) == 1 and feature["shape"] != [1]
    ]
    if key not in vectors:
        raise DatasetError(
            f"{root} has no column '{key}' of joints; choose one with --action-key or "
            f"--state-key: {', '.join(vectors[:20])}"
        )


def _read_images(path: Path, key: str, rows: slice) -> list[bytes | None]:
    """The column's rows, read from no more row groups than hold them."""
    with tables.open_file(path) as file:
        tables.require_columns(path, file.schema_arrow.names, [key])
        counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = np.cumsum(counts)
        starts = ends - counts
        wanted = np.flatnonzero((ends > rows.start) & (starts < rows.stop))
        with tables.reading(path):
            table = file.read_row_groups(wanted.tolist(), columns=[key]).select([key])
            first = int(starts[wanted[0]])
            column = table[key].slice(rows.start - first, rows.stop - rows.start)
    images = tables.read_images(column, f"{path}: {key}")
    if len(images) != rows.stop - rows.start:
        raise DatasetError(f"{path}: {key} has {len(images)} of {rows.stop - rows.start} images")
    return images
