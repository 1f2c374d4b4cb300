"""Episodes of LeRobot v3 folders, and pieces of them, of which others are made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from nac_ros.data import layout, places, tables
from nac_ros.data.compatibility import check_compatible
from nac_ros.data.info import read_info, show
from nac_ros.data.layout import VERSION
from nac_ros.data.lerobot import Dataset
from nac_ros.errors import DatasetError

ALIKE = ("robot_type",)


class Part(NamedTuple):
    """Frames `first` to before `end` of an episode of a source; task, outcome: what they become,
    as they are when None."""

    source: int
    episode: int
    first: int
    end: int
    task: str | None = None
    outcome: str | None = None


class Source:
    """A v3 folder with its whole table of contents; raises DatasetError for any other."""

    def __init__(self, root: Path):
        self.root, self.info = root, read_info(root)
        if self.info["codebase_version"] != VERSION:
            raise DatasetError(
                f"{root} is a LeRobot folder of {self.info['codebase_version']}, which is not "
                "edited; `nac data convert --to lerobot` makes one of v3.0 of it"
            )
        self.dataset = Dataset.open(root)
        if not self.dataset.episodes:
            raise DatasetError(f"{root} holds no episode yet")
        self.tasks = places.read_tasks(root)
        files = layout.episode_files(root)
        self.rows = [row for path in files for row in places.read_contents(path)]
        for key in (k for k, f in self.info["features"].items() if f["dtype"] == "video"):
            for row in self.rows:
                check_clip(root, key, row)

    def parts(self, source: int) -> list[Part]:
        """Every episode, whole; `source`: this one's number among those composed."""
        return [Part(source, i, 0, row["length"]) for i, row in enumerate(self.rows)]

    def is_whole(self, part: Part) -> bool:
        return (part.first, part.end) == (0, self.rows[part.episode]["length"])

    def data_file(self, part: Part) -> Path:
        return self.dataset.data_file(part.episode)

    def video_file(self, key: str, part: Part) -> Path:
        return self.dataset.video_file(part.episode, key)

    def tasks_of(self, part: Part) -> tuple[str, ...]:
        """Texts of a part's frames."""
        whole = self.dataset.episode(part.episode, images=False)
        return whole.piece(part.first, part.end).tasks

    def task_text(self, number: int, part: Part) -> str:
        """The text of a task_index; raises DatasetError where the table has none."""
        if number not in self.tasks:
            raise DatasetError(
                f"{self.root}, episode {part.episode}: task_index {number} is not in the table of "
                "tasks; copy the folder again"
            )
        return self.tasks[number]

    def success(self, part: Part) -> bool:
        return self.dataset.episode(part.episode, images=False).success is True


def check_alike(first: Source, other: Source) -> None:
    """Raises DatasetError where two folders cannot be one."""
    check_compatible([first.dataset, other.dataset])
    for key in ALIKE:
        if first.info.get(key) != other.info.get(key):
            raise DatasetError(
                f"{other.root} has {key} {other.info.get(key)}, {first.root} has "
                f"{first.info.get(key)}; they cannot be one dataset"
            )
    ours, theirs = (_shapes(source.info["features"]) for source in (first, other))
    for key in {**ours, **theirs}:
        if ours.get(key) != theirs.get(key):
            raise DatasetError(
                f"column '{key}' is {theirs.get(key, 'not there')} in {other.root} and "
                f"{ours.get(key, 'not there')} in {first.root}; they cannot be one dataset"
            )


def _shapes(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {key: (f["dtype"], f.get("shape"), f.get("names")) for key, f in wanted.items()}


def check_clip(root: Path, key: str, row: Mapping[str, Any]) -> None:
    """Raises DatasetError unless a line says from when to when its video goes [s]."""
    for which in ("from", "to"):
        value = row.get(f"videos/{key}/{which}_timestamp")
        if not isinstance(value, (int, float)) or not 0 <= value <= places.MAX_SECONDS:
            raise DatasetError(
                f"{root}, episode {row['episode_index']}: videos/{key}/{which}_timestamp is "
                f"{show(value)}; wanted seconds in 0 .. {places.MAX_SECONDS:g}"
            )


def rows_of(path: Path, table: pa.Table, part: Part) -> tuple[int, int]:
    """First row and one past the last of a part in its data file."""
    episodes = tables.read_scalars(table["episode_index"], "int64", f"{path}: episode_index")
    found = np.flatnonzero(episodes == part.episode)
    if not part.end or len(found) < part.end or found[-1] - found[0] + 1 != len(found):
        raise DatasetError(
            f"{path}: episode {part.episode} should have {part.end} consecutive frames, "
            f"{len(found)} were found; copy the folder again"
        )
    return int(found[0]) + part.first, int(found[0]) + part.end
