"""Metadata tables of a LeRobot folder, v3.0 and v2.1: tasks, and the location of each episode."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nac_ros.core.errors import DatasetError
from nac_ros.core.json_reader import read_bytes
from nac_ros.datasets.lerobot import layout, tables
from nac_ros.datasets.lerobot.info import (
    DATA_PATHS,
    MAX_COUNT,
    MAX_FRAMES,
    VIDEO_PATHS,
    format_path,
    is_int_in,
    show,
)
from nac_ros.datasets.lerobot.layout import OLD_VERSION, OUTCOME

EPISODE_COLUMNS = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index"]
VIDEO_COLUMNS = ("chunk_index", "file_index", "from_timestamp")
OUTCOMES = {"success": True, "failure": False, "unjudged": None}  # nac/outcome -> Episode.success
MAX_SECONDS = 1e9  # largest time in a video at which an episode may start
TASKS, OLD_TASKS, OLD_EPISODES = "meta/tasks.parquet", "meta/tasks.jsonl", "meta/episodes.jsonl"


class VideoSegment(NamedTuple):
    """An episode's part of a video file, which starts at frame `first`."""

    path: Path
    first: int


class EpisodeLocation(NamedTuple):
    """Length of an episode in frames, its tasks and data file, its segment in each video by
    feature key, and its nac/outcome if known."""

    length: int
    tasks: tuple[str, ...]
    data_file: Path
    videos: dict[str, VideoSegment]
    outcome: str | None


def outcome_text(success: bool | None) -> str:
    """Key of OUTCOMES for the success of an episode."""
    return next(text for text, value in OUTCOMES.items() if value is success)


def read_episode_locations(root: Path, info: Mapping[str, Any]) -> list[EpisodeLocation]:
    """Locations of all episodes in order; raises DatasetError if one is missing between others."""
    old = info["codebase_version"] == OLD_VERSION
    rows = _old_episode_rows(root) if old else _episode_rows(root, info)
    for position, (row, _) in enumerate(rows):
        if row["episode_index"] != position:
            raise DatasetError(
                f"{root}: episode {position} is missing from meta/episodes, where "
                f"{row['episode_index']} follows; copy the folder again"
            )
    return [_locate(root, info, row, where) for row, where in rows]


def read_tasks(root: Path) -> dict[int, str]:
    """task_index -> text, in the order of the numbers.

    Raises DatasetError if the table is missing or a number occurs twice.
    """
    numbers: list[Any]
    texts: list[Any]
    path, old = root / TASKS, root / OLD_TASKS
    if path.is_file():
        numbers, texts = _read_task_columns(path)
    elif old.is_file():
        path, rows = old, read_json_lines(old)
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


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file; raises DatasetError naming the line."""
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


def read_episode_rows(path: Path, columns: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Checked rows of one file of meta/episodes: all columns, or those of `columns` it has."""
    known = tables.column_names(path)
    chosen = known if columns is None else [name for name in columns if name in known]
    table = tables.read_table(path, chosen)
    with tables.reading(path):
        rows = table.to_pylist()
    return [check_episode_row(row, f"{path}, row {k}") for k, row in enumerate(rows)]


def check_episode_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A row of the episode table with tasks as a list; raises DatasetError naming `where`."""
    for key in ("episode_index", "length"):
        if not is_int_in(row.get(key), 0, MAX_FRAMES):
            raise DatasetError(f"{where}: {key} is {show(row.get(key))}; wanted 0 .. {MAX_FRAMES}")
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
    """chunk_index and file_index of the `data` file of a row, or of a video by its key."""
    numbers: dict[str, Any] = {name: row.get(f"{key}/{name}") for name in VIDEO_COLUMNS[:2]}
    for name, value in numbers.items():
        if not is_int_in(value, 0, MAX_COUNT):
            raise DatasetError(f"{where}: {key}/{name} is {show(value)}; wanted 0 .. {MAX_COUNT}")
    return numbers


def video_seconds(row: Mapping[str, Any], key: str, which: str, where: str) -> float:
    """Time `from` or `to` [s] of a row's segment in a video; raises DatasetError."""
    value = row.get(f"videos/{key}/{which}_timestamp")
    if not isinstance(value, (int, float)) or not 0 <= value <= MAX_SECONDS:
        raise DatasetError(
            f"{where}: videos/{key}/{which}_timestamp is {show(value)}; wanted seconds in 0 .. "
            f"{MAX_SECONDS:g}"
        )
    return value


def _read_task_columns(path: Path) -> tuple[list[int], list[str]]:
    """task_index and text; the text may be the index of a pandas frame with any name."""
    table = tables.read_table(path)
    texts = [field.name for field in table.schema if tables.is_text(field.type)]
    if "task_index" not in table.column_names or (len(table) and not texts):
        raise DatasetError(f"{path} lacks task_index or the texts; copy the file again")
    if not len(table):
        return [], []
    name = "task" if "task" in texts else texts[0]
    numbers = tables.read_scalars(table["task_index"], "int64", f"{path}: task_index")
    return numbers.tolist(), tables.read_texts(table[name], f"{path}: {name}")


def _episode_rows(root: Path, info: Mapping[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Rows of the episode table of v3.0, each with its place in error messages."""
    videos = [f"videos/{key}/{name}" for key in video_keys(info) for name in VIDEO_COLUMNS]
    return [
        (row, f"{path}, row {number}")
        for path in layout.episode_files(root)
        for number, row in enumerate(read_episode_rows(path, [*EPISODE_COLUMNS, OUTCOME, *videos]))
    ]


def _old_episode_rows(root: Path) -> list[tuple[dict[str, Any], str]]:
    """Rows of the episode table of v2.1 in the order of the episodes."""
    path = root / OLD_EPISODES
    if not path.is_file():
        raise DatasetError(f"{root}: {OLD_EPISODES} is missing; copy the folder again")
    places = ((row, f"{path}, episode {k}") for k, row in enumerate(read_json_lines(path)))
    rows = [(check_episode_row(row, where), where) for row, where in places]
    return sorted(rows, key=lambda each: each[0]["episode_index"])


def _locate(
    root: Path, info: Mapping[str, Any], row: Mapping[str, Any], where: str
) -> EpisodeLocation:
    """Location of an episode: v2.1 numbers the files by episode, v3.0 names them in the row."""
    version, index = info["codebase_version"], row["episode_index"]
    data_path = info.get("data_path") or DATA_PATHS[version]
    video_path = info.get("video_path") or VIDEO_PATHS[version]
    by_episode: dict[str, int] = {}
    if version == OLD_VERSION:
        chunk = index // info.get("chunks_size", 1000)
        by_episode = {"episode_chunk": chunk, "episode_index": index}
    numbers = by_episode or file_number(row, "data", where)
    data = root / format_path(data_path, {**numbers, "video_key": ""})
    videos = {}
    for key in video_keys(info):
        if not by_episode and row.get(f"videos/{key}/{VIDEO_COLUMNS[0]}") is None:
            continue
        numbers = by_episode or file_number(row, f"videos/{key}", where)
        start = 0.0 if by_episode else video_seconds(row, key, "from", where)
        path = root / format_path(video_path, {**numbers, "video_key": key})
        videos[key] = VideoSegment(path, round(start * info["fps"]))
    outcome = None if by_episode else row.get(OUTCOME)
    return EpisodeLocation(row["length"], tuple(row["tasks"]), data, videos, outcome)


def video_keys(info: Mapping[str, Any]) -> list[str]:
    """Keys of the video features."""
    return [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
