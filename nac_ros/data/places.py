"""Where the episodes of a LeRobot folder lie, v3 and v2.1 alike: its table of contents."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nac_ros.data import layout, tables
from nac_ros.data.info import (
    DATA_PATHS,
    MAX_COUNT,
    MAX_FRAMES,
    VIDEO_PATHS,
    fill_path,
    is_count,
    show,
)
from nac_ros.data.layout import OLD_VERSION, OUTCOME
from nac_ros.errors import DatasetError
from nac_ros.json_reader import read_bytes

CONTENTS = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index"]
CLIP = ("chunk_index", "file_index", "from_timestamp")
OUTCOMES = {"success": True, "failure": False, "unjudged": None}  # nac/outcome -> Episode.success
MAX_SECONDS = 1e9  # at which an episode may begin in a video
TASKS, OLD_TASKS, OLD_EPISODES = "meta/tasks.parquet", "meta/tasks.jsonl", "meta/episodes.jsonl"


class Clip(NamedTuple):
    """An episode's part of a video file, which begins at frame `first`."""

    path: Path
    first: int


class Place(NamedTuple):
    """One episode: frames on disk, tasks, data file, video key -> clip, nac/outcome if told."""

    length: int
    tasks: tuple[str, ...]
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
        if not is_count(number, 0, MAX_FRAMES) or not isinstance(text, str):
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
        if not is_count(row.get(key), 0, high):
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
    numbers = {name: row.get(f"{key}/{name}") for name in CLIP[:2]}
    for name, value in numbers.items():
        if not is_count(value, 0, MAX_COUNT):
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


def _new_places(root: Path, info: Mapping[str, Any], keys: list[str]) -> list[Place]:
    wanted = [*CONTENTS, OUTCOME, *(f"videos/{key}/{part}" for key in keys for part in CLIP)]
    places, indices = list[Place](), list[int]()
    for path in layout.episode_files(root):
        for number, row in enumerate(read_contents(path, wanted)):
            where = f"{path}, row {number}"
            indices.append(row["episode_index"])
            places.append(_new_place(root, info, keys, row, where))
    _check_order(root, indices)
    return places


def _new_place(
    root: Path, info: Mapping[str, Any], keys: list[str], row: Mapping[str, Any], where: str
) -> Place:
    template = info.get("data_path") or DATA_PATHS[info["codebase_version"]]
    data = root / fill_path(template, {**file_number(row, "data", where), "video_key": ""})
    known = [key for key in keys if row.get(f"videos/{key}/{CLIP[0]}") is not None]
    clips = {key: _clip(root, key, row, info, where) for key in known}
    return Place(row["length"], tuple(row["tasks"]), data, clips, row.get(OUTCOME))


def _clip(
    root: Path, key: str, row: Mapping[str, Any], info: Mapping[str, Any], where: str
) -> Clip:
    start = row.get(f"videos/{key}/from_timestamp")
    if not isinstance(start, (int, float)) or not 0 <= start <= MAX_SECONDS:
        raise DatasetError(
            f"{where}: videos/{key}/from_timestamp is {show(start)}; wanted seconds in 0 .. "
            f"{MAX_SECONDS:g}"
        )
    template = info.get("video_path") or VIDEO_PATHS[info["codebase_version"]]
    numbers = file_number(row, f"videos/{key}", where)
    path = root / fill_path(template, {**numbers, "video_key": key})
    return Clip(path, round(start * info["fps"]))


def _old_places(root: Path, info: Mapping[str, Any], keys: list[str]) -> list[Place]:
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
            key: Clip(
                root / fill_path(video or VIDEO_PATHS[version], {**values, "video_key": key}), 0
            )
            for key in keys
        }
        path = root / fill_path(data, {**values, "video_key": ""})
        places.append(Place(row["length"], tuple(row["tasks"]), path, clips, None))
    return places


def _check_order(root: Path, indices: Iterable[int]) -> None:
    for position, index in enumerate(indices):
        if index != position:
            raise DatasetError(
                f"{root}: episode {position} is missing from meta/episodes, where {index} "
                "follows; copy the folder again"
            )
