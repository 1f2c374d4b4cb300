"""One episode in memory, its entry in a dataset's table of episodes, and a base of all readers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nac_ros.core.errors import DatasetError

Progress = Callable[[int, int], None]  # called with (episodes done, episodes in all)


class _EpisodeInfo(NamedTuple):
    length: int
    tasks: tuple[str, ...]
    source: str = ""


class EpisodeInfo(_EpisodeInfo):
    """What is known of an episode without reading it: number of frames T, and its tasks.

    tasks: empty if the dataset has no text; a single text becomes a tuple of one
    source: episode and dataset, for messages
    """

    __slots__ = ()

    def __new__(cls, length: int, tasks: str | Sequence[str], source: str = "") -> "EpisodeInfo":
        return super().__new__(cls, length, _as_tuple(tasks), source)

    @property
    def task(self) -> str:
        """The episode's only task, "" if it has none; raises DatasetError for several."""
        return single_task(self.tasks, self.source)


@dataclass(frozen=True)
class Episode:
    """T frames at a dataset's rate; frame k was observed at k / fps [s].

    proprio: float32 `[T, S]`, joint state at each frame; S = 0 if none was recorded
    actions: float32 `[T, D]`, set-point to be reached one frame later
    tasks: texts of the episode, each once; a single text becomes a tuple of one
    images: camera -> uint8 `[T, H, W, 3]` RGB
    success: None for an episode without a verdict
    stamps_ns: int64 `[T]`, true time of each frame, None if unknown
    ages_ms: camera -> float32 `[T]`, how much older than the frame its image is; empty if unknown
    intervention: bool `[T]`, where an operator took over from a policy, None if unknown
    task_index: int64 `[T]`, which of `tasks` each frame belongs to; None if there is at most one,
        or if it is unknown
    source: episode and dataset, for messages
    depth: camera -> T images whose number of channels is not three, PNG as stored; never decoded
    environment_state: float32 `[T, N]`, low-dimensional state of the scene; None if not recorded
    """

    proprio: np.ndarray
    actions: np.ndarray
    tasks: tuple[str, ...]
    images: dict[str, np.ndarray] = field(default_factory=dict)
    success: bool | None = None
    stamps_ns: np.ndarray | None = None
    ages_ms: dict[str, np.ndarray] = field(default_factory=dict)
    intervention: np.ndarray | None = None
    task_index: np.ndarray | None = None
    source: str = ""
    depth: dict[str, list[bytes]] = field(default_factory=dict)
    environment_state: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", _as_tuple(self.tasks))

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def task(self) -> str:
        """The episode's only task, "" if it has none; raises DatasetError for several."""
        return single_task(self.tasks, self.source)

    def frame_tasks(self) -> list[str]:
        """The task of each of T frames; raises DatasetError if several have no `task_index`."""
        if self.task_index is None:
            return [self.task] * len(self)
        return [self.tasks[k] for k in self.task_index]

    def slice_frames(self, first: int, end: int) -> "Episode":
        """Frames `first` to before `end`, with the tasks of these frames."""
        kept = slice(first, end)
        tasks, index = self.tasks, self.task_index
        environment = self.environment_state
        if index is not None:
            used, index = np.unique(index[kept], return_inverse=True)
            tasks = tuple(self.tasks[k] for k in used)
        return replace(
            self,
            proprio=self.proprio[kept],
            actions=self.actions[kept],
            tasks=tasks,
            images={camera: frames[kept] for camera, frames in self.images.items()},
            stamps_ns=None if self.stamps_ns is None else self.stamps_ns[kept],
            ages_ms={camera: ages[kept] for camera, ages in self.ages_ms.items()},
            intervention=None if self.intervention is None else self.intervention[kept],
            task_index=index if len(tasks) > 1 else None,
            depth={camera: frames[kept] for camera, frames in self.depth.items()},
            environment_state=None if environment is None else environment[kept],
        )


class EpisodeReader:
    """Base of the readers: a table of episodes that are read one by one."""

    root: Path
    episodes: Sequence[EpisodeInfo]
    environment_names: tuple[str, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """Task texts in the order of their first episode."""
        return list(dict.fromkeys(task for info in self.episodes for task in info.tasks))

    def _info(self, index: int) -> EpisodeInfo:
        """The table's entry of an episode; raises DatasetError if there is none."""
        if not 0 <= index < len(self.episodes):
            count = len(self.episodes)
            raise DatasetError(f"{self.root} has no episode {index}; it has {count}, from 0")
        return self.episodes[index]


def single_task(tasks: Sequence[str], source: str) -> str:
    """The only text, "" if there is none; raises DatasetError for several."""
    if len(tasks) > 1:
        listed = ", ".join(f"'{task}'" for task in tasks[:3]) + (", ..." if len(tasks) > 3 else "")
        raise DatasetError(
            f"{source or 'an episode'} has {len(tasks)} tasks ({listed}), wanted one per episode; "
            "`nac data edit split` it where the task changes, or `relabel` it"
        )
    return tasks[0] if tasks else ""


def _as_tuple(tasks: str | Sequence[str]) -> tuple[str, ...]:
    return (tasks,) if isinstance(tasks, str) else tuple(tasks)
