"""Writes small LeRobot folders of v2.1 and v3.0 with plain pyarrow, as other libraries would."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nac_ros.core import image_codec
from nac_ros.datasets.lerobot.video import VideoConfig, write_video

V3, V21 = "v3.0", "v2.1"
DATA, CONTENTS = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
LISTS = pa.list_(pa.float32())
SCALARS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a folder holds.

    images, videos: key -> (height, width) [pixels]; task_index: of T frames of an episode
    vector: type of the columns of joints
    """

    version: str = V3
    lengths: Sequence[int] = (8, 6, 7)
    fps: float = 30
    names: Sequence[str] | None = ("a", "b")
    action_key: str = "action"
    state_key: str = "observation.state"
    images: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    videos: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tasks: Sequence[str] = ("pick it",)
    task_index: Callable[[int, int], np.ndarray] = lambda episode, length: np.zeros(length, int)
    vector: pa.DataType = LISTS


def write_folder(root: Path, **changes: Any) -> Path:
    """A sound folder; every value of an episode differs from those of the others."""
    folder = Folder(**changes)
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(_info(folder), indent=1))
    starts = np.cumsum([0, *folder.lengths])
    written = [_table(folder, index, int(starts[index])) for index in range(len(folder.lengths))]
    write = _write_v3 if folder.version == V3 else _write_v21
    write(root, folder, written, starts)
    return root


def joints(episode: int, length: int, dims: int = 2) -> np.ndarray:
    """float32 `[T, D]` of an episode's states; its actions are 1 more."""
    grid = np.arange(length * dims, dtype=np.float32).reshape(length, dims)
    return np.sin(grid / 7 + episode).astype(np.float32)


def images(episode: int, length: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 `[T, H, W, 3]` of a camera."""
    rng = np.random.default_rng(episode)
    frame = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return np.stack([np.roll(frame, k, axis=1) for k in range(length)])


def change_info(root: Path, **changes: Any) -> None:
    """Replaces facts of meta/info.json."""
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_feature(root: Path, key: str, **changes: Any) -> None:
    """Replaces what meta/info.json says of one feature."""
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"][key] |= changes
    path.write_text(json.dumps(info))


def change_column(path: Path, key: str, change: Callable[[list], Any], kind: Any = None) -> None:
    """Rewrites one column of a parquet file from the list of its values."""
    table = pq.read_table(path)
    at, field = table.schema.get_field_index(key), table.schema.field(key)
    values = change(table[key].to_pylist())
    array = values if isinstance(values, pa.Array) else pa.array(values, kind or field.type)
    pq.write_table(table.set_column(at, pa.field(key, array.type), array), path)


def _info(folder: Folder) -> dict[str, Any]:
    vector = {"dtype": "float32", "shape": [len(folder.names or "ab")]}
    vector["names"] = list(folder.names) if folder.names else None
    image_features = {
        key: {"dtype": kind, "shape": [*size, 3], "names": ["height", "width", "channels"]}
        for kind, keys in (("image", folder.images), ("video", folder.videos))
        for key, size in keys.items()
    }
    scalars = {k: {"dtype": v, "shape": [1], "names": None} for k, v in SCALARS.items()}
    return {
        "codebase_version": folder.version,
        "robot_type": "so101",
        "fps": folder.fps,
        "total_episodes": len(folder.lengths),
        "total_frames": sum(folder.lengths),
        "total_tasks": len(folder.tasks),
        "chunks_size": 1000,
        "splits": {"train": f"0:{len(folder.lengths)}"},
        "features": {
            folder.state_key: vector,
            folder.action_key: vector,
            **image_features,
            **scalars,
        },
    }


def _table(folder: Folder, index: int, first: int) -> pa.Table:
    length = folder.lengths[index]
    states, steps = joints(index, length, len(folder.names or "ab")), np.arange(length)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    encoded = {
        key: [
            {"bytes": image_codec.encode_png(image), "path": None}
            for image in images(index, length, size)
        ]
        for key, size in folder.images.items()
    }
    return pa.table(
        {
            folder.state_key: pa.array(states.tolist(), folder.vector),
            folder.action_key: pa.array((states + 1).tolist(), folder.vector),
            **{key: pa.array(values, kind) for key, values in encoded.items()},
            "timestamp": pa.array((steps / folder.fps).astype(np.float32)),
            "frame_index": steps,
            "episode_index": pa.array([index] * length, pa.int64()),
            "index": first + steps,
            "task_index": pa.array(folder.task_index(index, length), pa.int64()),
        }
    )


def _tasks_of(folder: Folder, index: int) -> list[str]:
    used = np.unique(folder.task_index(index, folder.lengths[index]))
    return [folder.tasks[k] for k in used] if folder.tasks else []


def _write_v3(root: Path, folder: Folder, written: Sequence[pa.Table], starts: np.ndarray) -> None:
    for name in (DATA, CONTENTS):
        (root / name).parent.mkdir(parents=True)
    pq.write_table(pa.concat_tables(written), root / DATA)
    rows = [
        {
            "episode_index": index,
            "tasks": _tasks_of(folder, index),
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": int(starts[index]),
            "dataset_to_index": int(starts[index + 1]),
            **{
                f"videos/{key}/{name}": value
                for key in folder.videos
                for name, value in (
                    ("chunk_index", 0),
                    ("file_index", 0),
                    ("from_timestamp", starts[index] / folder.fps),
                    ("to_timestamp", starts[index + 1] / folder.fps),
                )
            },
        }
        for index, length in enumerate(folder.lengths)
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / CONTENTS)
    if folder.tasks:
        numbers = pa.array(range(len(folder.tasks)), pa.int64())
        table = pa.table({"task_index": numbers, "task": list(folder.tasks)})
        pq.write_table(table, root / "meta/tasks.parquet")
    for key, size in folder.videos.items():
        frames = [images(index, length, size) for index, length in enumerate(folder.lengths)]
        path = root / f"videos/{key}/chunk-000/file-000.mp4"
        write_video(path, np.concatenate(frames), folder.fps, VideoConfig())


def _write_v21(
    root: Path, folder: Folder, written: Sequence[pa.Table], starts: np.ndarray
) -> None:
    (root / "data/chunk-000").mkdir(parents=True)
    rows = []
    for index, (table, length) in enumerate(zip(written, folder.lengths)):
        pq.write_table(table, root / f"data/chunk-000/episode_{index:06d}.parquet")
        rows.append({"episode_index": index, "tasks": _tasks_of(folder, index), "length": length})
        for key, size in folder.videos.items():
            path = root / f"videos/chunk-000/{key}/episode_{index:06d}.mp4"
            write_video(path, images(index, length, size), folder.fps, VideoConfig())
    tasks = [{"task_index": k, "task": task} for k, task in enumerate(folder.tasks)]
    for name, lines in (("episodes", rows), ("tasks", tasks)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / f"meta/{name}.jsonl").write_text(text)
