"""Writes a LeRobot v3 dataset episode by episode; a crash keeps all finished episodes."""

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
from nac_ros.datasets.lerobot import layout, metadata, schema, statistics
from nac_ros.datasets.lerobot.info import int_if_whole, read_info
from nac_ros.datasets.lerobot.layout import FileNumber
from nac_ros.datasets.lerobot.metadata import VIDEO_COLUMNS, file_number
from nac_ros.datasets.lerobot.schema import NO_DEPTH, NO_OPTIONAL_COLUMNS, OptionalColumns
from nac_ros.datasets.lerobot.statistics import DatasetStatistics
from nac_ros.datasets.lerobot.video import VideoConfig, write_video


class DatasetWriter:
    """The only writer of a folder; another one is rejected until this one is closed.

    last_trial: trial of the newest episode that has one
    """

    def __init__(
        self,
        root: Path,
        info: dict[str, Any],
        video: VideoConfig | None,
        write_outcomes: bool,
        lock: int,
    ):
        self.root = root
        self.n_episodes = 0
        self.n_frames = 0
        self.last_trial: int | None = None
        self._info = info
        self._features: dict[str, Any] = info["features"]
        self._schema = schema.data_schema(self._features)
        self._video_keys = metadata.video_keys(info)
        self._video, self._write_outcomes, self._lock = video, write_outcomes, lock
        self._statistics = DatasetStatistics()
        self._tasks: list[str] = []
        self._file = FileNumber(0, 0)  # of the next episode

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
        optional: OptionalColumns = NO_OPTIONAL_COLUMNS,
        write_outcomes: bool = False,
        depth: Mapping[str, Mapping[str, Any]] = NO_DEPTH,
    ) -> "DatasetWriter":
        """Opens an empty folder, or one of this writer to add episodes.

        names, units: of the D action dimensions; state_names: of the S state dimensions, by
        default those of the action
        cameras: name -> (height, width) [pixels]; video: their encoding, None for PNG
        optional: columns of the episodes besides joints and images
        write_outcomes: whether meta/episodes gets success, failure or unjudged for each episode
        depth: camera -> feature of images that have not three channels, written as they are
        Raises DatasetError if the folder holds something else.
        """
        root, fps = Path(root), int_if_whole(fps)
        states = names if state_names is None else state_names
        known_units = units or [""] * len(names)
        features = schema.make_features(
            names, known_units, states, cameras, fps, video, optional, depth
        )
        info = layout.make_info(features, fps, robot_type)
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
        """Appends an episode, which is on disk on return; returns its index.

        trial: number of the trial of a generator, from which it resumes
        """
        check_episode(episode, self._features)
        index, tasks = self.n_episodes, episode.frame_tasks()
        numbers = {text: self._task_index(text) for text in dict.fromkeys(tasks)}
        task_index = np.array([numbers[text] for text in tasks], np.int64)
        columns = _number_columns(
            episode, index, self.n_frames, task_index, self._info["fps"], self._features
        )
        histograms = {
            layout.IMAGE_PREFIX + camera: statistics.image_histogram(images)
            for camera, images in episode.images.items()
        }
        stats = {key: statistics.value_statistics(values) for key, values in columns.items()}
        stats |= {key: histogram.stats() for key, histogram in histograms.items()}
        # The row of the episode table is written last: without it the other files do not count.
        if self._video:
            for camera, images in episode.images.items():
                path = self._video_file(layout.IMAGE_PREFIX + camera)
                write_video(path, images, self._info["fps"], self._video)
        table = _data_table(episode, columns, self._schema)
        layout.write_parquet(self._file.path(self.root / "data"), table)
        row = pa.Table.from_pylist([self._episode_row(episode, index, stats, trial)])
        layout.write_parquet(self._file.path(self.root / "meta/episodes"), row)
        self._statistics.add(columns, histograms)
        self._count(len(episode), trial)
        self._write_summary()
        return index

    def close(self) -> None:
        """Releases the lock; all episodes are on disk already."""
        os.close(self._lock)

    def _recover(self) -> None:
        """Removes unfinished files of a crash and brings the derived files up to date."""
        for folder in ("data", "meta", "videos"):
            for path in (self.root / folder).rglob(f"*{file_io.TEMPORARY}"):
                path.unlink()
        data_files: dict[Path, None] = {}
        for path in layout.episode_files(self.root):
            for row in metadata.read_episode_rows(path):
                # an edited folder may have more video files than data files
                keys = ["data", *(f"videos/{key}" for key in self._video_keys)]
                numbers = [FileNumber(*file_number(row, k, str(path)).values()) for k in keys]
                data_files[numbers[0].path(self.root / "data")] = None
                self._file = max(self._file, *numbers)
                self._count(row["length"], row.get(layout.TRIAL))
        if (self.root / metadata.TASKS).is_file():
            self._tasks = _task_list(self.root)
        data = self._file.path(self.root / "data")
        for path in (data, *(self._video_file(key) for key in self._video_keys)):
            path.unlink(missing_ok=True)
        self._write_info()
        self._statistics = DatasetStatistics.restore(
            self.root, self._info, list(data_files), self.n_episodes
        )
        self._write_summary()

    def _video_file(self, key: str) -> Path:
        """Video file of the next episode."""
        return self._file.path(self.root / "videos" / key, ".mp4")

    def _count(self, length: int, trial: int | None) -> None:
        self.n_episodes += 1
        self.n_frames += length
        self.last_trial = self.last_trial if trial is None else trial
        self._file = self._file.next()

    def _write_summary(self) -> None:
        self._statistics.write(self.root / "meta")
        self._write_info()

    def _write_info(self) -> None:
        self._info |= layout.info_totals(self.n_episodes, self.n_frames, len(self._tasks))
        file_io.write_json(self.root / "meta/info.json", self._info)

    def _task_index(self, task: str) -> int:
        """Number of a task, which is added to the table if it is new."""
        if task not in self._tasks:
            table = layout.tasks_table([*self._tasks, task])
            layout.write_parquet(self.root / metadata.TASKS, table)
            self._tasks.append(task)
        return self._tasks.index(task)

    def _episode_row(
        self,
        episode: Episode,
        index: int,
        stats: Mapping[str, statistics.Stats],
        trial: int | None,
    ) -> dict[str, Any]:
        first, end = self.n_frames, self.n_frames + len(episode)
        tasks = episode.tasks or [""]
        row = layout.episode_row(index, tasks, first, end, self._file, self._file)
        names = (*VIDEO_COLUMNS, "to_timestamp")
        values = (*self._file, 0.0, len(episode) / self._info["fps"])
        for key in self._video_keys:
            row |= {f"videos/{key}/{name}": value for name, value in zip(names, values)}
        if trial is not None:
            row[layout.TRIAL] = trial
        if self._write_outcomes:
            row[layout.OUTCOME] = metadata.outcome_text(episode.success)
        return row | statistics.flatten(stats)


def lock(root: Path) -> int:
    """A file descriptor that excludes other writers until it is closed or the process ends."""
    descriptor = os.open(root / "meta/.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DatasetError(f"{root} is being written by another process; wait for it") from error
    return descriptor


def check_episode(episode: Episode, features: Mapping[str, Any]) -> None:
    """Raises DatasetError if the episode lacks a feature, or has more than the features."""
    if len(episode) < 1:
        raise DatasetError("an episode needs at least one frame, this one has none")
    vectors = {"actions": layout.ACTION, "proprio": layout.STATE}
    if episode.environment_state is not None or layout.ENVIRONMENT in features:
        vectors["environment_state"] = layout.ENVIRONMENT
    for what, key in vectors.items():
        values = getattr(episode, what)
        if values is None:
            raise DatasetError(f"an episode lacks {key}, unlike the first one of its folder")
        shape = (len(episode), features[key]["shape"][0] if key in features else 0)
        if np.shape(values) != shape:
            raise DatasetError(f"an episode's {what} must be {shape}, got {values.shape}")
        if not np.isfinite(values).all():
            raise DatasetError(f"an episode's {what} hold NaN or inf; nothing was written")
    sizes = {name: (*size, 3) for name, size in schema.color_image_sizes(features).items()}
    found = {name: tuple(images.shape[1:]) for name, images in episode.images.items()}
    if found != sizes:
        raise DatasetError(f"an episode's images must be {sizes} per frame, got {found}")
    _check_depth(episode, features)
    ages = dict.fromkeys(schema.age_key(camera) for camera in sizes)
    for key, values in {**ages, **_optional_columns(episode)}.items():
        if (key in features) != (values is not None):
            has = "lacks" if values is None else "has"
            raise DatasetError(f"an episode {has} {key}, unlike the first one of its folder")
    series = {**episode.images, **episode.depth, **_optional_columns(episode)}
    for key, values in series.items():
        if values is not None and len(values) != len(episode):
            raise DatasetError(
                f"an episode of {len(episode)} frames has {len(values)} values of {key}"
            )


def _check_depth(episode: Episode, features: Mapping[str, Any]) -> None:
    """Raises DatasetError unless each encoded depth image has the size of its feature."""
    sizes, keys = schema.depth_image_sizes(features), schema.image_keys(features)
    if set(sizes) != set(episode.depth):
        raise DatasetError(
            f"an episode's depth cameras must be {list(sizes)}, got {list(episode.depth)}"
        )
    for camera, images in episode.depth.items():
        wanted = (*sizes[camera], schema.channels(features[keys[camera]]))
        for k, data in enumerate(images):
            header = image_codec.read_header(data)
            if header is None or header[:3] != wanted:
                raise DatasetError(
                    f"{episode.source or 'an episode'}, {camera} frame {k}: the image is "
                    f"{header and header[:3]}, wanted {wanted} (height, width, channels)"
                )


def _number_columns(
    episode: Episode,
    index: int,
    first: int,
    task_index: np.ndarray,
    fps: float,
    features: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """All columns but images, by feature; first: index of the first frame in the dataset.

    task_index: int64 `[T]`, task of each frame
    """
    steps = np.arange(len(episode))
    columns: dict[str, Any] = {
        layout.STATE: np.asarray(episode.proprio, np.float32),
        layout.ACTION: np.asarray(episode.actions, np.float32),
        layout.ENVIRONMENT: episode.environment_state,
        layout.SUCCESS: (steps == len(episode) - 1) & bool(episode.success),
        **_optional_columns(episode),
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(len(episode), index),
        "index": first + steps,
        "task_index": task_index,
    }
    return {key: np.asarray(columns[key]) for key in features if key in columns}


def _optional_columns(episode: Episode) -> dict[str, np.ndarray | None]:
    ages = {schema.age_key(camera): age for camera, age in episode.ages_ms.items()}
    return {layout.STAMP: episode.stamps_ns, layout.INTERVENTION: episode.intervention, **ages}


def _data_table(
    episode: Episode, columns: Mapping[str, np.ndarray], data_schema: pa.Schema
) -> pa.Table:
    """Content of a data file; images become PNG."""
    arrays = [_array(field, columns, episode) for field in data_schema]
    return pa.Table.from_arrays(arrays, schema=data_schema)


def _array(field: pa.Field, columns: Mapping[str, np.ndarray], episode: Episode) -> pa.Array:
    if field.type == layout.IMAGE_TYPE:
        camera = field.name.removeprefix(layout.IMAGE_PREFIX)
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


def _check_can_hold(root: Path, info: Mapping[str, Any]) -> None:
    """Raises DatasetError unless the folder is empty or holds a dataset like `info`."""
    if root.is_file():
        raise DatasetError(f"{root} is a file; name a folder for the dataset")
    if not (root / "meta/info.json").is_file():
        others = [p.name for p in root.iterdir() if p.name != "meta"] if root.is_dir() else []
        if others:
            raise DatasetError(f"{root} holds {others[0]} but no dataset; choose an empty folder")
        return
    found = read_info(root)
    for key in ("codebase_version", "fps", "robot_type", "features", "data_path", "video_path"):
        if found.get(key, info[key]) != info[key]:
            raise _difference(root, key, found.get(key), info[key])


def _difference(root: Path, key: str, found: Any, wanted: Any) -> DatasetError:
    if key == "features":
        key = next(k for k in {**found, **wanted} if found.get(k) != wanted.get(k))
        found, wanted = found.get(key), wanted.get(key)
    return DatasetError(
        f"{root} holds a dataset with {key} = {found}, but these episodes have {wanted}; "
        "choose another folder"
    )


def _task_list(root: Path) -> list[str]:
    """Texts in the order of task_index; raises DatasetError if a number is missing."""
    tasks = metadata.read_tasks(root)
    if list(tasks) != list(range(len(tasks))):
        raise DatasetError(
            f"{root}: the tasks have numbers {list(tasks)[:5]}, not 0 .. {len(tasks) - 1}; "
            "convert the folder into a new one"
        )
    return list(tasks.values())
