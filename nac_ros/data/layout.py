"""The LeRobot v3 format: features, Arrow schemas, file names, and writes that survive a crash."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nac_ros.errors import DatasetError

VERSION = "v3.0"
FILES_PER_CHUNK = 1000
ACTION, STATE, SUCCESS = "action", "observation.state", "next.success"
IMAGE_PREFIX = "observation.images."
TEMPORARY = ".partial"
INDEX_FEATURES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class FileNumber(NamedTuple):
    """Which parquet file: `chunk-000/file-000.parquet` is (0, 0)."""

    chunk: int
    file: int

    def next(self) -> "FileNumber":
        if self.file + 1 < FILES_PER_CHUNK:
            return FileNumber(self.chunk, self.file + 1)
        return FileNumber(self.chunk + 1, 0)

    def path(self, folder: Path) -> Path:
        return folder / f"chunk-{self.chunk:03d}" / f"file-{self.file:03d}.parquet"


def make_features(
    names: Sequence[str], units: Sequence[str], cameras: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    """The `features` of info.json; cameras are name -> (height, width) [pixels]."""
    joints = {
        "dtype": "float32",
        "shape": [len(names)],
        "names": list(names),
        "units": list(units),
    }
    images = {
        IMAGE_PREFIX + camera: {
            "dtype": "image",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
        }
        for camera, (height, width) in cameras.items()
    }
    scalars = {SUCCESS: "bool", **INDEX_FEATURES}
    return {
        STATE: joints,
        ACTION: dict(joints),
        **images,
        **{key: {"dtype": kind, "shape": [1], "names": None} for key, kind in scalars.items()},
    }


def make_info(features: Mapping[str, Any], fps: int, robot_type: str) -> dict[str, Any]:
    """info.json of an empty dataset."""
    return {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": 0,
        "total_frames": 0,
        "total_tasks": 0,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": "0:0"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": dict(features),
    }


def data_schema(features: Mapping[str, Any]) -> pa.Schema:
    """Arrow schema of the data files, with the note that makes `datasets` see images as images."""
    fields: list[pa.Field] = []
    notes: dict[str, Any] = {}
    for key, feature in features.items():
        kind, shape = feature["dtype"], feature["shape"]
        if kind == "image":
            fields.append(pa.field(key, IMAGE_TYPE))
            notes[key] = {"_type": "Image"}
            continue
        value = {"dtype": kind, "_type": "Value"}
        scalar = pa.type_for_alias(kind)
        single = shape == [1]
        fields.append(pa.field(key, scalar if single else pa.list_(scalar, shape[0])))
        notes[key] = value if single else {"feature": value, "length": shape[0], "_type": "List"}
    note = json.dumps({"info": {"features": notes}})
    return pa.schema(fields, metadata={"huggingface": note})


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """The pandas frame of meta/tasks.parquet: index `task`, column `task_index`."""
    columns = [
        _pandas_column("task_index", "int64", "int64"),
        _pandas_column("task", "unicode", "object"),
    ]
    index_name = {
        **_pandas_column(None, "unicode", "object"),
        "field_name": None,
        "metadata": {"encoding": "UTF-8"},
    }
    note = {
        "index_columns": ["task"],
        "column_indexes": [index_name],
        "columns": columns,
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.3.3",
    }
    schema = pa.schema(
        [("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(note)}
    )
    return pa.table([list(range(len(tasks))), list(tasks)], schema=schema)


def read_tasks(root: Path) -> list[str]:
    """Task texts in the order of task_index; raises DatasetError when the table is missing."""
    path = root / "meta/tasks.parquet"
    if not path.is_file():
        raise DatasetError(f"{root}: meta/tasks.parquet is missing; copy the folder again")
    table = pq.read_table(path)
    text = next(f.name for f in table.schema if pa.types.is_string(f.type))
    pairs = zip(table["task_index"].to_pylist(), table[text].to_pylist())
    return [task for _, task in sorted(pairs)]


def read_info(root: Path) -> dict[str, Any]:
    """meta/info.json of a LeRobot v3 folder; raises DatasetError when there is none."""
    path = root / "meta/info.json"
    if not path.is_file():
        raise DatasetError(f"{root} is no LeRobot v3 folder: meta/info.json is missing")
    info = json.loads(path.read_text())
    version = info.get("codebase_version")
    if version != VERSION:
        raise DatasetError(
            f"{root} has codebase_version {version}; only {VERSION} is read: convert it with "
            "lerobot's own conversion script"
        )
    return info


def episode_files(root: Path) -> list[Path]:
    """The parquet files of the table of contents, in order."""
    return sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet"))


def write_json(path: Path, content: Any) -> None:
    """Replaces the file in one step that survives a crash."""
    replace_with(path, lambda temporary: temporary.write_text(json.dumps(content, indent=4)))


def write_parquet(path: Path, table: pa.Table) -> None:
    """Replaces the file in one step that survives a crash; images are not compressed twice."""
    options: dict[str, Any] = {"compression": _compression(table.schema)}
    if len(table) == 1:  # a line of contents: per-column extras would double its size
        options |= {"use_dictionary": False, "write_statistics": False}
    replace_with(path, lambda to: pq.write_table(table, to, **options))


def replace_with(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write(temporary path)`, forces it to disk and renames it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY)
    write(temporary)
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _compression(schema: pa.Schema) -> dict[str, str]:
    """Parquet wants a codec for each leaf column, e.g. `observation.images.scene.bytes`."""
    codecs = {}
    for field in schema:
        if field.type == IMAGE_TYPE:
            codecs.update({f"{field.name}.{leaf.name}": "none" for leaf in IMAGE_TYPE})
        else:
            codecs[field.name] = "snappy"
    return codecs


def _pandas_column(name: str | None, pandas_type: str, numpy_type: str) -> dict[str, Any]:
    return {
        "name": name,
        "field_name": name,
        "pandas_type": pandas_type,
        "numpy_type": numpy_type,
        "metadata": None,
    }
