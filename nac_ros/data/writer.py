"""Writes LeRobot v3 episode by episode; whatever is finished survives a crash at any moment.

Each episode has its own data file, and is part of the dataset from the moment its line in
meta/episodes is renamed into place; info.json and stats.json follow and are derived from it.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nac_ros.data import feature_stats, layout, png
from nac_ros.data.episode import Episode
from nac_ros.data.layout import ACTION, IMAGE_PREFIX, STATE, SUCCESS, FileNumber
from nac_ros.errors import DatasetError

TRIAL = "nac/trial"  # column of meta/episodes: which trial of a generator made the episode


class DatasetWriter:
    """The only writer of one folder; a second one is refused until this one is closed."""

    def __init__(self, root: Path, info: dict[str, Any], lock: int):
        self.root = root
        self.n_episodes = 0
        self.n_frames = 0
        self.last_trial: int | None = None
        self._info = info
        self._schema = layout.data_schema(info["features"])
        self._lock = lock
        self._stats: dict[str, feature_stats.Stats] = {}
        self._tasks: list[str] = []
        self._file = FileNumber(0, 0)

    @classmethod
    def create_or_resume(
        cls,
        root: Path | str,
        *,
        fps: int,
        robot_type: str,
        names: Sequence[str],
        cameras: Mapping[str, tuple[int, int]],
        units: Sequence[str] = (),
    ) -> "DatasetWriter":
        """Opens an empty folder, or one that this writer left, for more episodes.

        names: the D joints' names, one order for state and action; units: theirs, if known
        cameras: name -> (height, width) [pixels]
        Raises DatasetError when the folder holds something else.
        """
        root = Path(root)
        features = layout.make_features(names, units or [""] * len(names), cameras)
        info = layout.make_info(features, fps, robot_type)
        _check_can_hold(root, info)
        (root / "meta").mkdir(parents=True, exist_ok=True)
        writer = cls(root, info, _lock(root))
        writer._recover()
        return writer

    def add_episode(self, episode: Episode, trial: int | None = None) -> int:
        """Appends it and returns its index; on return it is on disk.

        trial: which trial of a generator it is, for resuming one
        """
        self._check(episode)
        index = self.n_episodes
        task_index = self._task_index(episode.task)
        columns = self._numbers(episode, index, task_index)
        stats = {key: feature_stats.of_values(values) for key, values in columns.items()}
        for camera, images in episode.images.items():
            stats[IMAGE_PREFIX + camera] = feature_stats.of_images(images)
        arrays = [self._array(field, columns, episode) for field in self._schema]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        layout.write_parquet(self._file.path(self.root / "data"), table)
        row = self._row(episode, index, stats, trial)
        layout.write_parquet(self._file.path(self.root / "meta/episodes"), row)
        self._count(len(episode), stats, trial)
        self._write_summary()
        return index

    def close(self) -> None:
        """Lets others write; nothing is left to save."""
        os.close(self._lock)

    @property
    def _joints(self) -> list[str]:
        return self._info["features"][ACTION]["names"]

    def _recover(self) -> None:
        """Drops what a crash left unfinished and brings the derived files up to date."""
        for folder in ("data", "meta"):
            for path in (self.root / folder).rglob(f"*{layout.TEMPORARY}"):
                path.unlink()
        for path in layout.episode_files(self.root):
            for row in pq.read_table(path).to_pylist():
                self._count(row["length"], feature_stats.unflatten(row), row.get(TRIAL))
                self._file = FileNumber(row["data/chunk_index"], row["data/file_index"]).next()
        if (self.root / "meta/tasks.parquet").is_file():
            self._tasks = layout.read_tasks(self.root)
        self._file.path(self.root / "data").unlink(missing_ok=True)
        self._write_summary()

    def _count(self, length: int, stats: dict[str, Any], trial: int | None) -> None:
        self.n_episodes += 1
        self.n_frames += length
        self.last_trial = self.last_trial if trial is None else trial
        self._file = self._file.next()
        for key, one in stats.items():
            known = self._stats.get(key)
            self._stats[key] = feature_stats.merge(known, one) if known else one

    def _write_summary(self) -> None:
        self._info.update(
            total_episodes=self.n_episodes,
            total_frames=self.n_frames,
            total_tasks=len(self._tasks),
            splits={"train": f"0:{self.n_episodes}"},
        )
        meta = self.root / "meta"
        layout.write_json(meta / "stats.json", feature_stats.to_plain(self._stats))
        layout.write_json(meta / "info.json", self._info)

    def _task_index(self, task: str) -> int:
        if task not in self._tasks:
            table = layout.tasks_table([*self._tasks, task])
            layout.write_parquet(self.root / "meta/tasks.parquet", table)
            self._tasks.append(task)
        return self._tasks.index(task)

    def _check(self, episode: Episode) -> None:
        wanted = (len(episode), len(self._joints))
        if len(episode) < 1:
            raise DatasetError("an episode needs at least one frame, this one has none")
        for what, values in (("actions", episode.actions), ("proprio", episode.proprio)):
            if np.shape(values) != wanted:
                raise DatasetError(f"an episode's {what} must be {wanted}, got {values.shape}")
            if not np.isfinite(values).all():
                raise DatasetError(f"an episode's {what} hold NaN or inf; nothing was written")
        features = self._info["features"]
        cameras = {key: f["shape"] for key, f in features.items() if f["dtype"] == "image"}
        got = {IMAGE_PREFIX + name: list(v.shape[1:]) for name, v in episode.images.items()}
        lengths = {len(v) for v in episode.images.values()} | {len(episode)}
        if got != cameras or len(lengths) > 1:
            raise DatasetError(f"an episode's images must be {cameras} per frame, got {got}")

    def _numbers(self, episode: Episode, index: int, task_index: int) -> dict[str, np.ndarray]:
        """Every column but the images, by feature name."""
        steps = np.arange(len(episode))
        success = np.zeros(len(episode), bool)
        success[-1] = bool(episode.success)
        return {
            STATE: np.asarray(episode.proprio, np.float32),
            ACTION: np.asarray(episode.actions, np.float32),
            SUCCESS: success,
            "timestamp": (steps / self._info["fps"]).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(len(episode), index),
            "index": self.n_frames + steps,
            "task_index": np.full(len(episode), task_index),
        }

    def _array(
        self, field: pa.Field, columns: Mapping[str, np.ndarray], episode: Episode
    ) -> pa.Array:
        if field.type == layout.IMAGE_TYPE:
            images = episode.images[field.name.removeprefix(IMAGE_PREFIX)]
            paths = [f"frame-{k:06d}.png" for k in range(len(images))]
            encoded = [png.encode(image) for image in images]
            return pa.StructArray.from_arrays(
                [pa.array(encoded, pa.binary()), pa.array(paths)], fields=list(field.type)
            )
        values = columns[field.name]
        if values.ndim == 1:
            return pa.array(values, field.type)
        return pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])

    def _row(
        self,
        episode: Episode,
        index: int,
        stats: Mapping[str, feature_stats.Stats],
        trial: int | None,
    ) -> pa.Table:
        row = {
            "episode_index": index,
            "tasks": [episode.task],
            "length": len(episode),
            "data/chunk_index": self._file.chunk,
            "data/file_index": self._file.file,
            "dataset_from_index": self.n_frames,
            "dataset_to_index": self.n_frames + len(episode),
            "meta/episodes/chunk_index": self._file.chunk,
            "meta/episodes/file_index": self._file.file,
            **({} if trial is None else {TRIAL: trial}),
            **feature_stats.flatten(stats),
        }
        return pa.Table.from_pylist([row])


def _check_can_hold(root: Path, wanted: Mapping[str, Any]) -> None:
    if root.is_file():
        raise DatasetError(f"{root} is a file; name a folder for the dataset")
    if not (root / "meta/info.json").is_file():
        others = [p.name for p in root.iterdir() if p.name != "meta"] if root.is_dir() else []
        if others:
            raise DatasetError(f"{root} holds {others[0]} but no dataset; choose an empty folder")
        return
    found = layout.read_info(root)
    for key in ("fps", "robot_type", "features"):
        if found.get(key) != wanted[key]:
            raise DatasetError(_difference(root, key, found.get(key), wanted[key]))


def _difference(root: Path, key: str, found: Any, wanted: Any) -> str:
    if key == "features":
        names = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
        key, found, wanted = names[0], found.get(names[0]), wanted.get(names[0])
    return (
        f"{root} holds a dataset with {key} = {found}, but these episodes have {wanted}; "
        "choose another folder"
    )


def _lock(root: Path) -> int:
    """A descriptor that keeps other writers out until it is closed or the process dies."""
    descriptor = os.open(root / "meta/.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DatasetError(f"{root} is being written by another process; wait for it") from error
    return descriptor
