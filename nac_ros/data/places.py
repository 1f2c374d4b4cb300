"""Where the episodes of a LeRobot folder lie, v3 and v2.1 alike: its table of contents."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nac_ros.data import layout
from nac_ros.data.layout import OLD_VERSION, OUTCOME, FileNumber
from nac_ros.errors import DatasetError

CONTENTS = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index"]
CLIP = ("chunk_index", "file_index", "from_timestamp")
OUTCOMES = {"success": True, "failure": False, "unjudged": None}  # nac/outcome -> Episode.success


class Clip(NamedTuple):
    """An episode's part of a video file, which begins at frame `first`."""

    path: Path
    first: int


class Place(NamedTuple):
    """One episode: frames on disk, task, data file, video key -> clip, nac/outcome if told."""

    length: int
    task: str
    data: Path
    clips: dict[str, Clip]
    outcome: str | None


def told(success: bool | None) -> str:
    """The word of OUTCOMES for what is known of an episode."""
    return next(text for text, value in OUTCOMES.items() if value is success)


def read_places(root: Path, info: Mapping[str, Any]) -> list[Place]:
    """All episodes in order; raises DatasetError when one is missing between others."""
    keys = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    read = _old_places if info["codebase_version"] == OLD_VERSION else _new_places
    return read(root, info, keys)


def read_tasks(root: Path) -> list[str]:
    """Task texts in the order of task_index; raises DatasetError when the table is missing."""
    path = root / "meta/tasks.parquet"
    if path.is_file():
        table = pq.read_table(path)
        text = next(f.name for f in table.schema if pa.types.is_string(f.type))
        pairs = zip(table["task_index"].to_pylist(), table[text].to_pylist())
        return [task for _, task in sorted(pairs)]
    lines = root / "meta/tasks.jsonl"
    if lines.is_file():
        return [task for _, task in sorted((r["task_index"], r["task"]) for r in _rows(lines))]
    raise DatasetError(f"{root}: meta/tasks.parquet is missing; copy the folder again")


def _new_places(root: Path, info: Mapping[str, Any], keys: list[str]) -> list[Place]:
    wanted = [*CONTENTS, OUTCOME, *(f"videos/{key}/{part}" for key in keys for part in CLIP)]
    files = layout.episode_files(root)
    tables = []
    for path in files:
        known = set(pq.read_schema(path).names)
        tables.append(pq.read_table(path, columns=[name for name in wanted if name in known]))
    rows = pa.concat_tables(tables, promote_options="default").to_pylist() if tables else []
    _check_order(root, (row["episode_index"] for row in rows))
    return [
        Place(
            row["length"],
            row["tasks"][0],
            FileNumber(row["data/chunk_index"], row["data/file_index"]).path(root / "data"),
            {k: _clip(root, k, row, info["fps"]) for k in keys if f"videos/{k}/{CLIP[0]}" in row},
            row.get(OUTCOME),
        )
        for row in rows
    ]


def _clip(root: Path, key: str, row: Mapping[str, Any], fps: float) -> Clip:
    chunk, file, start = (row[f"videos/{key}/{part}"] for part in CLIP)
    return Clip(FileNumber(chunk, file).path(root / "videos" / key, ".mp4"), round(start * fps))


def _old_places(root: Path, info: Mapping[str, Any], keys: list[str]) -> list[Place]:
    path = root / "meta/episodes.jsonl"
    if not path.is_file():
        raise DatasetError(f"{root}: meta/episodes.jsonl is missing; copy the folder again")
    rows = sorted(_rows(path), key=lambda row: row["episode_index"])
    _check_order(root, (row["episode_index"] for row in rows))
    places = []
    for index, row in enumerate(rows):
        chunk, name = f"chunk-{index // info['chunks_size']:03d}", f"episode_{index:06d}"
        clips = {key: Clip(root / "videos" / chunk / key / f"{name}.mp4", 0) for key in keys}
        data = root / "data" / chunk / f"{name}.parquet"
        places.append(Place(row["length"], row["tasks"][0], data, clips, None))
    return places


def _check_order(root: Path, indices: Iterable[int]) -> None:
    for position, index in enumerate(indices):
        if index != position:
            raise DatasetError(
                f"{root}: episode {position} is missing from meta/episodes, where {index} "
                "follows; copy the folder again"
            )


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
