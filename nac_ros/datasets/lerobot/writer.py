"""An episode as the columns of a LeRobot data file."""

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nac_ros.core import files as file_io
from nac_ros.core import image_codec
from nac_ros.core.errors import DatasetError
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.lerobot import layout, schema, statistics
from nac_ros.datasets.lerobot import reader as lerobot_reader
from nac_ros.datasets.lerobot import schema as lerobot_schema
from nac_ros.datasets.lerobot.info import int_if_whole, read_info
from nac_ros.datasets.lerobot.layout import (
    ACTION,
    IMAGE_PREFIX,
    INTERVENTION,
    OUTCOME,
    STAMP,
    STATE,
    SUCCESS,
    FileNumber,
)
from nac_ros.datasets.lerobot.reader import VIDEO_COLUMNS
from nac_ros.datasets.lerobot.schema import NO_OPTIONAL_COLUMNS, OptionalColumns
from nac_ros.datasets.lerobot.statistics import DatasetStatistics
from nac_ros.datasets.lerobot.video import VideoConfig, write_video


def check_episode(episode: Episode, wanted: Mapping[str, Any]) -> None:
    """Raises DatasetError where the episode lacks what the features want, or holds more."""
    if len(episode) < 1:
        raise DatasetError("an episode needs at least one frame, this one has none")
    for what, key in (("actions", ACTION), ("proprio", STATE)):
        values = getattr(episode, what)
        shape = (len(episode), wanted[key]["shape"][0] if key in wanted else 0)
        if np.shape(values) != shape:
            raise DatasetError(f"an episode's {what} must be {shape}, got {values.shape}")
        if not np.isfinite(values).all():
            raise DatasetError(f"an episode's {what} hold NaN or inf; nothing was written")
    _check_images(episode, wanted)
    expected = dict.fromkeys(
        lerobot_schema.age_key(camera) for camera in lerobot_schema.color_image_sizes(wanted)
    )
    for key, values in {**expected, **_extras(episode)}.items():
        if (key in wanted) != (values is not None):
            has = "lacks" if values is None else "has"
            raise DatasetError(f"an episode {has} {key}, unlike the first one of its folder")
        if values is not None and len(values) != len(episode):
            raise DatasetError(
                f"an episode of {len(episode)} frames has {len(values)} values of {key}"
            )


def numeric_columns(
    episode: Episode,
    index: int,
    first: int,
    task_index: np.ndarray,
    fps: float,
    wanted: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """Every column but the images, by feature name; `first` is its first frame's global index.

    task_index: int64 `[T]`, which task of the dataset each frame has
    """
    steps = np.arange(len(episode))
    success = np.zeros(len(episode), bool)
    success[-1] = bool(episode.success)
    columns: dict[str, Any] = {
        STATE: np.asarray(episode.proprio, np.float32),
        ACTION: np.asarray(episode.actions, np.float32),
        SUCCESS: success,
        **_extras(episode),
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(len(episode), index),
        "index": first + steps,
        "task_index": task_index,
    }
    return {key: np.asarray(columns[key]) for key in wanted if key in columns}


def to_table(episode: Episode, columns: Mapping[str, np.ndarray], schema: pa.Schema) -> pa.Table:
    """The whole data file; images become PNG."""
    arrays = [_array(field, columns, episode) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(field: pa.Field, columns: Mapping[str, np.ndarray], episode: Episode) -> pa.Array:
    if field.type == layout.IMAGE_TYPE:
        camera = field.name.removeprefix(IMAGE_PREFIX)
        encoded = episode.depth.get(camera)
        if encoded is None:
            encoded = [image_codec.encode_png(image) for image in episode.images[camera]]
        paths = [f"frame-{k:06d}.png" for k in range(len(encoded))]
        return pa.StructArray.from_arrays(
            [pa.array(encoded, pa.binary()), pa.array(paths)], fields=list(field.type)
        )
    values = columns[field.name]
    if not pa.types.is_fixed_size_list(field.type):
        return pa.array(values.reshape(len(values)), field.type)
    return pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])


def _extras(episode: Episode) -> dict[str, np.ndarray | None]:
    ages = {lerobot_schema.age_key(camera): age for camera, age in episode.ages_ms.items()}
    return {STAMP: episode.stamps_ns, INTERVENTION: episode.intervention, **ages}


def _check_images(episode: Episode, wanted: Mapping[str, Any]) -> None:
    sizes = {name: (*size, 3) for name, size in lerobot_schema.color_image_sizes(wanted).items()}
    got = {name: tuple(images.shape[1:]) for name, images in episode.images.items()}
    lengths = {len(images) for images in episode.images.values()} | {len(episode)}
    if got != sizes or len(lengths) > 1:
        raise DatasetError(f"an episode's images must be {sizes} per frame, got {got}")
    _check_depth(episode, wanted)


def _check_depth(episode: Episode, wanted: Mapping[str, Any]) -> None:
    """Raises DatasetError unless each image of other than three channels is what its feature
    says."""
    sizes, known = lerobot_schema.depth_image_sizes(wanted), lerobot_schema.image_keys(wanted)
    if set(sizes) != set(episode.depth):
        raise DatasetError(
            f"an episode's depth cameras must be {list(sizes)}, got {list(episode.depth)}"
        )
    for camera, images in episode.depth.items():
        if len(images) != len(episode):
            raise DatasetError(
                f"an episode of {len(episode)} frames has {len(images)} images of {camera}"
            )
        wanted_header = (*sizes[camera], lerobot_schema.channels(wanted[known[camera]]))
        for k, data in enumerate(images):
            header = image_codec.read_header(data)
            if header is None or header[:3] != wanted_header:
                raise DatasetError(
                    f"{episode.source or 'an episode'}, {camera} frame {k}: the image is "
                    f"{header and header[:3]}, wanted {wanted_header} (height, width, channels)"
                )


class DatasetWriter:
    """The only writer of one folder; a second one is refused until this one is closed."""

    def __init__(
        self, root: Path, info: dict[str, Any], video: VideoConfig | None, tell: bool, lock: int
    ):
        self.root = root
        self.n_episodes = 0
        self.n_frames = 0
        self.last_trial: int | None = None
        self._info = info
        self._features: dict[str, Any] = info["features"]
        self._schema = schema.data_schema(self._features)
        self._video, self._tell, self._lock = video, tell, lock
        self._summary = DatasetStatistics()
        self._tasks: list[str] = []
        self._file = FileNumber(0, 0)

    @classmethod
    def create_or_resume(
        cls,
        root: Path | str,
        *,
        fps: float,
        robot_type: str,
        names: Sequence[str],
        cameras: Mapping[str, tuple[int, int]],
        units: Sequence[str] = (),
        state_names: Sequence[str] | None = None,
        video: VideoConfig | None = None,
        extras: OptionalColumns = NO_OPTIONAL_COLUMNS,
        write_outcomes: bool = False,
        depth: Mapping[str, Mapping[str, Any]] = schema.NO_DEPTH,
    ) -> "DatasetWriter":
        """Opens an empty folder, or one that this writer left, for more episodes.

        names: of the D action dimensions; units: theirs, if known; state_names: of the S state
        dimensions, the action's when left out
        cameras: name -> (height, width) [pixels]; video: how they are encoded, as PNG when None
        extras: what else the episodes carry; write_outcomes: meta/episodes says of each episode
        whether it succeeded, failed or was not judged
        depth: camera -> feature of the images of other than three channels, written as they are
        Raises DatasetError when the folder holds something else.
        """
        root, fps = Path(root), int_if_whole(fps)
        states = names if state_names is None else state_names
        known_units = units or [""] * len(names)
        wanted = schema.make_features(
            names, known_units, states, cameras, fps, video, extras, depth
        )
        info = layout.make_info(wanted, fps, robot_type)
        _check_can_hold(root, info)
        (root / "meta").mkdir(parents=True, exist_ok=True)
        writer = cls(root, info, video, write_outcomes, lock(root))
        try:
            writer._recover()
        except BaseException:
            writer.close()
            raise
        return writer

    def add_episode(self, episode: Episode, trial: int | None = None) -> int:
        """Appends it and returns its index; on return it is on disk.

        trial: which trial of a generator it is, for resuming one
        """
        check_episode(episode, self._features)
        index, fps = self.n_episodes, self._info["fps"]
        numbered = {text: self._task_index(text) for text in dict.fromkeys(episode.frame_tasks())}
        task = np.array([numbered[text] for text in episode.frame_tasks()], np.int64)
        numbers = numeric_columns(episode, index, self.n_frames, task, fps, self._features)
        levels = {IMAGE_PREFIX + c: statistics.levels(v) for c, v in episode.images.items()}
        stats = {key: statistics.value_statistics(values) for key, values in numbers.items()}
        stats |= {key: one.stats() for key, one in levels.items()}
        if self._video:
            for camera, images in episode.images.items():
                write_video(self._clip(IMAGE_PREFIX + camera), images, fps, self._video)
        table = to_table(episode, numbers, self._schema)
        layout.write_parquet(self._file.path(self.root / "data"), table)
        row = self._row(episode, index, stats, trial)
        layout.write_parquet(self._file.path(self.root / "meta/episodes"), row)
        self._summary.add(numbers, levels)
        self._count(len(episode), trial)
        self._write_summary()
        return index

    def close(self) -> None:
        """Lets others write; nothing is left to save."""
        os.close(self._lock)

    def _recover(self) -> None:
        """Drops what a crash left unfinished and brings the derived files up to date."""
        for folder in ("data", "meta", "videos"):
            for path in (self.root / folder).rglob(f"*{file_io.TEMPORARY}"):
                path.unlink()
        files = []
        for path in layout.episode_files(self.root):
            for row in lerobot_reader.read_contents(path):
                number = FileNumber(*lerobot_reader.file_number(row, "data", str(path)).values())
                files.append(number.path(self.root / "data"))
                self._file = max(self._file, number, *self._clips_of(row))
                self._count(row["length"], row.get(layout.TRIAL))
        if (self.root / "meta/tasks.parquet").is_file():
            self._tasks = _task_list(self.root)
        for path in (self._file.path(self.root / "data"), *map(self._clip, self._video_keys)):
            path.unlink(missing_ok=True)
        self._write_info()
        once = list(dict.fromkeys(files))
        self._summary = DatasetStatistics.restore(self.root, self._info, once, self.n_episodes)
        self._write_summary()

    @property
    def _video_keys(self) -> list[str]:
        return [key for key, feature in self._features.items() if feature["dtype"] == "video"]

    def _clips_of(self, row: Mapping[str, Any]) -> list[FileNumber]:
        """The video files of an episode; edited folders may have more of them than data files."""
        return [
            FileNumber(*lerobot_reader.file_number(row, f"videos/{k}", str(self.root)).values())
            for k in self._video_keys
        ]

    def _clip(self, key: str) -> Path:
        """Video file of the next episode."""
        return self._file.path(self.root / "videos" / key, ".mp4")

    def _count(self, length: int, trial: int | None) -> None:
        self.n_episodes += 1
        self.n_frames += length
        self.last_trial = self.last_trial if trial is None else trial
        self._file = self._file.next()

    def _write_summary(self) -> None:
        self._summary.write(self.root / "meta")
        self._write_info()

    def _write_info(self) -> None:
        self._info.update(
            total_episodes=self.n_episodes,
            total_frames=self.n_frames,
            total_tasks=len(self._tasks),
            splits={"train": f"0:{self.n_episodes}"},
        )
        file_io.write_json(self.root / "meta/info.json", self._info)

    def _task_index(self, task: str) -> int:
        if task not in self._tasks:
            table = layout.tasks_table([*self._tasks, task])
            layout.write_parquet(self.root / "meta/tasks.parquet", table)
            self._tasks.append(task)
        return self._tasks.index(task)

    def _row(
        self,
        episode: Episode,
        index: int,
        stats: Mapping[str, statistics.Stats],
        trial: int | None,
    ) -> pa.Table:
        row = {
            "episode_index": index,
            "tasks": list(episode.tasks) or [""],
            "length": len(episode),
            "data/chunk_index": self._file.chunk,
            "data/file_index": self._file.file,
            "dataset_from_index": self.n_frames,
            "dataset_to_index": self.n_frames + len(episode),
            "meta/episodes/chunk_index": self._file.chunk,
            "meta/episodes/file_index": self._file.file,
            **self._clip_columns(len(episode)),
            **({} if trial is None else {layout.TRIAL: trial}),
            **({OUTCOME: lerobot_reader.outcome_text(episode.success)} if self._tell else {}),
            **statistics.flatten(stats),
        }
        return pa.Table.from_pylist([row])

    def _clip_columns(self, length: int) -> dict[str, Any]:
        values = (self._file.chunk, self._file.file, 0.0)
        ends = {f"videos/{k}/to_timestamp": length / self._info["fps"] for k in self._video_keys}
        starts = {f"videos/{k}/{p}": v for k in self._video_keys for p, v in zip(VIDEO_COLUMNS, values)}
        return {**starts, **ends}


def _check_can_hold(root: Path, wanted: Mapping[str, Any]) -> None:
    if root.is_file():
        raise DatasetError(f"{root} is a file; name a folder for the dataset")
    if not (root / "meta/info.json").is_file():
        others = [p.name for p in root.iterdir() if p.name != "meta"] if root.is_dir() else []
        if others:
            raise DatasetError(f"{root} holds {others[0]} but no dataset; choose an empty folder")
        return
    found = read_info(root)
    for key in ("codebase_version", "fps", "robot_type", "features", "data_path", "video_path"):
        if found.get(key, wanted[key]) != wanted[key]:
            raise DatasetError(_difference(root, key, found.get(key), wanted[key]))


def _task_list(root: Path) -> list[str]:
    """Texts in the order of task_index; raises DatasetError where numbers are left out."""
    tasks = lerobot_reader.read_tasks(root)
    if list(tasks) != list(range(len(tasks))):
        raise DatasetError(
            f"{root}: the tasks have numbers {list(tasks)[:5]}, not 0 .. {len(tasks) - 1}; "
            "convert the folder into a new one"
        )
    return list(tasks.values())


def _difference(root: Path, key: str, found: Any, wanted: Any) -> str:
    if key == "features":
        names = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
        key, found, wanted = names[0], found.get(names[0]), wanted.get(names[0])
    return (
        f"{root} holds a dataset with {key} = {found}, but these episodes have {wanted}; "
        "choose another folder"
    )


def lock(root: Path) -> int:
    """A descriptor that keeps other writers out until it is closed or the process dies."""
    descriptor = os.open(root / "meta/.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DatasetError(f"{root} is being written by another process; wait for it") from error
    return descriptor
