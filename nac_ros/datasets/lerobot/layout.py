"""Layout of LeRobot folders: versions, names of files and keys, and parquet files on disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nac_ros.core import json_reader
from nac_ros.core.errors import DatasetError
from nac_ros.core.files import replace_atomically

VERSION, OLD_VERSION = "v3.0", "v2.1"  # the first is written, both are read
FILES_PER_CHUNK = 1000
ACTION, STATE, SUCCESS = "action", "observation.state", "next.success"
ENVIRONMENT = "observation.environment_state"
STAMP, INTERVENTION = "observation.stamp_ns", "intervention"
IMAGE_PREFIX, AGE_SUFFIX = "observation.images.", ".age_ms"
# columns of meta/episodes: the generator's trial; success, failure or unjudged
TRIAL, OUTCOME = "nac/trial", "nac/outcome"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
MAX_JSON = 256 << 20  # [bytes] of meta/info.json and of statistics, which may hold NaN
INDEX_FEATURES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class FileNumber(NamedTuple):
    """Number of a data or video file: `chunk-000/file-000.parquet` is (0, 0)."""

    chunk: int
    file: int

    @classmethod
    def nth(cls, count: int) -> "FileNumber":
        """The file that has `count` files before it."""
        return cls(*divmod(count, FILES_PER_CHUNK))

    def next(self) -> "FileNumber":
        return FileNumber.nth(self.chunk * FILES_PER_CHUNK + self.file + 1)

    def path(self, folder: Path, ending: str = ".parquet") -> Path:
        return folder / f"chunk-{self.chunk:03d}" / f"file-{self.file:03d}{ending}"


def make_info(features: Mapping[str, Any], fps: float, robot_type: str) -> dict[str, Any]:
    """info.json of an empty dataset."""
    videos = any(feature["dtype"] == "video" for feature in features.values())
    return {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        **info_totals(0, 0, 0),
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if videos else None,
        "features": dict(features),
    }


def info_totals(n_episodes: int, n_frames: int, n_tasks: int) -> dict[str, Any]:
    """The values of info.json that change with each episode."""
    return {
        "total_episodes": n_episodes,
        "total_frames": n_frames,
        "total_tasks": n_tasks,
        "splits": {"train": f"0:{n_episodes}"},
    }


def episode_row(
    index: int, tasks: Sequence[str], first: int, end: int, data: FileNumber, table: FileNumber
) -> dict[str, Any]:
    """Row of the episode table for frames `first` to before `end` of the dataset.

    data, table: numbers of the data file and of the file of the episode table
    """
    return {
        "episode_index": index,
        "tasks": list(tasks),
        "length": end - first,
        "data/chunk_index": data.chunk,
        "data/file_index": data.file,
        "dataset_from_index": first,
        "dataset_to_index": end,
        "meta/episodes/chunk_index": table.chunk,
        "meta/episodes/file_index": table.file,
    }


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """meta/tasks.parquet as the pandas frame that lerobot reads: index `task`, `task_index`."""
    columns = [
        _pandas_column("task_index", "int64", "int64"),
        _pandas_column("task", "unicode", "object"),
    ]
    index_name = _pandas_column(None, "unicode", "object") | {"metadata": {"encoding": "UTF-8"}}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [index_name],
        "columns": columns,
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.3.3",
    }
    schema = pa.schema(
        [("task_index", pa.int64()), ("task", pa.string())],
        metadata={"pandas": json.dumps(pandas)},
    )
    return pa.table([list(range(len(tasks))), list(tasks)], schema=schema)


def read_json(path: Path) -> Any:
    """Content of a JSON file; raises DatasetError naming the file and the problem."""
    return json_reader.read_json(path, DatasetError, MAX_JSON, finite=False)


def parse_json(content: bytes, where: str) -> Any:
    """Value of JSON text in UTF-8; raises DatasetError naming `where`."""
    return json_reader.parse_json(content, where, DatasetError, finite=False)


def episode_files(root: Path) -> list[Path]:
    """Parquet files of the episode table, in order."""
    return sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet"))


def write_parquet(path: Path, table: pa.Table) -> None:
    """Replaces a parquet file atomically; encoded images are not compressed again."""
    options: dict[str, Any] = {"compression": _compression(table.schema)}
    if len(table) == 1:  # a row of the episode table: extras of each column would double its size
        options |= {"use_dictionary": False, "write_statistics": False}
    replace_atomically(path, lambda to: pq.write_table(table, to, **options))


def _compression(schema: pa.Schema) -> dict[str, str]:
    """Codec of each leaf column, such as `observation.images.scene.bytes`."""
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
