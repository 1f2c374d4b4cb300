"""Writes LeRobot v3 episode by episode; whatever is finished survives a crash at any moment.

Each episode has its own data file and its own video files, and is part of the dataset from the
moment its line in meta/episodes is renamed into place; info.json and stats.json are derived.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nac_ros.data import columns, feature_stats, features, layout, places
from nac_ros.data.episode import Episode
from nac_ros.data.features import NO_EXTRAS, Extras
from nac_ros.data.info import plain_rate, read_info
from nac_ros.data.layout import IMAGE_PREFIX, OUTCOME, FileNumber
from nac_ros.data.places import CLIP
from nac_ros.data.summary import Summary
from nac_ros.data.video import VideoConfig, write_video
from nac_ros.errors import DatasetError


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
        self._schema = features.data_schema(self._features)
        self._video, self._tell, self._lock = video, tell, lock
        self._summary = Summary()
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
        extras: Extras = NO_EXTRAS,
        tell_outcomes: bool = False,
        depth: Mapping[str, Mapping[str, Any]] = features.NO_DEPTH,
    ) -> "DatasetWriter":
        """Opens an empty folder, or one that this writer left, for more episodes.

        names: of the D action dimensions; units: theirs, if known; state_names: of the S state
        dimensions, the action's when left out
        cameras: name -> (height, width) [pixels]; video: how they are encoded, as PNG when None
        extras: what else the episodes carry; tell_outcomes: meta/episodes says of each episode
        whether it succeeded, failed or was not judged
        depth: camera -> feature of the images of other than three channels, written as they are
        Raises DatasetError when the folder holds something else.
        """
        root, fps = Path(root), plain_rate(fps)
        states = names if state_names is None else state_names
        known_units = units or [""] * len(names)
        wanted = features.make_features(
            names, known_units, states, cameras, fps, video, extras, depth
        )
        info = layout.make_info(wanted, fps, robot_type)
        _check_can_hold(root, info)
        (root / "meta").mkdir(parents=True, exist_ok=True)
        writer = cls(root, info, video, tell_outcomes, lock(root))
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
        columns.check(episode, self._features)
        index, fps = self.n_episodes, self._info["fps"]
        numbered = {text: self._task_index(text) for text in dict.fromkeys(episode.frame_tasks())}
        task = np.array([numbered[text] for text in episode.frame_tasks()], np.int64)
        numbers = columns.numbers(episode, index, self.n_frames, task, fps, self._features)
        levels = {IMAGE_PREFIX + c: feature_stats.levels(v) for c, v in episode.images.items()}
        stats = {key: feature_stats.of_values(values) for key, values in numbers.items()}
        stats |= {key: one.stats() for key, one in levels.items()}
        if self._video:
            for camera, images in episode.images.items():
                write_video(self._clip(IMAGE_PREFIX + camera), images, fps, self._video)
        table = columns.table(episode, numbers, self._schema)
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
            for path in (self.root / folder).rglob(f"*{layout.TEMPORARY}"):
                path.unlink()
        files = []
        for path in layout.episode_files(self.root):
            for row in places.read_contents(path):
                number = FileNumber(*places.file_number(row, "data", str(path)).values())
                files.append(number.path(self.root / "data"))
                self._file = max(self._file, number, *self._clips_of(row))
                self._count(row["length"], row.get(layout.TRIAL))
        if (self.root / "meta/tasks.parquet").is_file():
            self._tasks = _task_list(self.root)
        for path in (self._file.path(self.root / "data"), *map(self._clip, self._video_keys)):
            path.unlink(missing_ok=True)
        self._write_info()
        once = list(dict.fromkeys(files))
        self._summary = Summary.restore(self.root, self._info, once, self.n_episodes)
        self._write_summary()

    @property
    def _video_keys(self) -> list[str]:
        return [key for key, feature in self._features.items() if feature["dtype"] == "video"]

    def _clips_of(self, row: Mapping[str, Any]) -> list[FileNumber]:
        """The video files of an episode; edited folders may have more of them than data files."""
        return [
            FileNumber(*places.file_number(row, f"videos/{k}", str(self.root)).values())
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
        layout.write_json(self.root / "meta/info.json", self._info)

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
        stats: Mapping[str, feature_stats.Stats],
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
            **({OUTCOME: places.told(episode.success)} if self._tell else {}),
            **feature_stats.flatten(stats),
        }
        return pa.Table.from_pylist([row])

    def _clip_columns(self, length: int) -> dict[str, Any]:
        values = (self._file.chunk, self._file.file, 0.0)
        ends = {f"videos/{k}/to_timestamp": length / self._info["fps"] for k in self._video_keys}
        starts = {f"videos/{k}/{p}": v for k in self._video_keys for p, v in zip(CLIP, values)}
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
    tasks = places.read_tasks(root)
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
