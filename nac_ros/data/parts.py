"""Episodes of LeRobot v3 folders, and pieces of them, of which others are made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nac_ros.data import layout, places
from nac_ros.data.layout import VERSION, FileNumber
from nac_ros.data.lerobot import Dataset
from nac_ros.data.places import CLIP
from nac_ros.errors import DatasetError

ALIKE = ("fps", "robot_type")


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
        self.root, self.info = root, layout.read_info(root)
        if self.info["codebase_version"] != VERSION:
            raise DatasetError(
                f"{root} is a LeRobot folder of {self.info['codebase_version']}, which is not "
                "edited; `nac data convert --to lerobot` makes one of v3.0 of it"
            )
        if not self.info["total_episodes"]:
            raise DatasetError(f"{root} holds no episode yet")
        self.tasks = places.read_tasks(root)
        self.dataset = Dataset.open(root)
        tables = [pq.read_table(path) for path in layout.episode_files(root)]
        whole = pa.concat_tables(tables, promote_options="default") if tables else pa.table({})
        self.rows: list[dict[str, Any]] = whole.to_pylist()

    def parts(self, source: int) -> list[Part]:
        """Every episode, whole; `source`: this one's number among those composed."""
        return [Part(source, i, 0, row["length"]) for i, row in enumerate(self.rows)]

    def is_whole(self, part: Part) -> bool:
        return (part.first, part.end) == (0, self.rows[part.episode]["length"])

    def data_file(self, part: Part) -> Path:
        row = self.rows[part.episode]
        number = FileNumber(row["data/chunk_index"], row["data/file_index"])
        return number.path(self.root / "data")

    def video_file(self, key: str, part: Part) -> Path:
        row = self.rows[part.episode]
        chunk, file, _ = (row[f"videos/{key}/{what}"] for what in CLIP)
        return FileNumber(chunk, file).path(self.root / "videos" / key, ".mp4")

    def success(self, part: Part) -> bool:
        return self.dataset.episode(part.episode, images=False).success is True


def check_alike(first: Source, other: Source) -> None:
    """Raises DatasetError where two folders cannot be one."""
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
    return {key: (f["dtype"], f["shape"], f.get("names")) for key, f in wanted.items()}


def rows_of(path: Path, table: pa.Table, part: Part) -> tuple[int, int]:
    """First row and one past the last of a part in its data file."""
    found = np.flatnonzero(table["episode_index"].to_numpy() == part.episode)
    if len(found) < part.end or found[-1] - found[0] + 1 != len(found):
        raise DatasetError(
            f"{path}: episode {part.episode} should have {part.end} consecutive frames, "
            f"{len(found)} were found; copy the folder again"
        )
    return int(found[0]) + part.first, int(found[0]) + part.end
