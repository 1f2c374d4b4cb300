"""LeRobot folders of other libraries: v2.1, and videos that hold several episodes."""

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_dataset_video import SIZE, number_of, numbered

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.factory import open_dataset
from nac_ros.datasets.lerobot import layout
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.datasets.lerobot.video import VideoConfig, write_video
from nac_ros.datasets.lerobot.writer import DatasetWriter
from nac_ros.datasets.validate import check

KEY = "observation.images.front"
CHUNK, FILE = "chunk-{episode_chunk:03d}", "episode_{episode_index:06d}"
LENGTHS, TASKS = (8, 11, 9), ("stack", "pour", "stack")
SCALARS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_v21(root: Path) -> list[np.ndarray]:
    """Three episodes as written by lerobot 0.3, two per chunk; returns their actions."""
    (root / "meta").mkdir(parents=True)
    vector = {"dtype": "float32", "shape": [2], "names": {"motors": ["shoulder", "gripper"]}}
    video = {
        "dtype": "video",
        "shape": [*SIZE, 3],
        "names": ["height", "width", "channels"],
        "info": {"video.fps": 10, "video.codec": "h264", "video.pix_fmt": "yuv420p"},
    }
    scalars = {k: {"dtype": v, "shape": [1], "names": None} for k, v in SCALARS.items()}
    info = {
        "codebase_version": "v2.1",
        "robot_type": "so100",
        "total_episodes": 3,
        "total_frames": sum(LENGTHS),
        "total_tasks": 2,
        "total_videos": 3,
        "total_chunks": 2,
        "chunks_size": 2,
        "fps": 10,
        "splits": {"train": "0:3"},
        "data_path": f"data/{CHUNK}/{FILE}.parquet",
        "video_path": f"videos/{CHUNK}/{{video_key}}/{FILE}.mp4",
        "features": {"action": vector, "observation.state": vector, KEY: video, **scalars},
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    lines(
        root / "meta/tasks.jsonl",
        [{"task_index": 1, "task": "pour"}, {"task_index": 0, "task": "stack"}],
    )
    rows = [{"episode_index": i, "tasks": [TASKS[i]], "length": LENGTHS[i]} for i in range(3)]
    lines(root / "meta/episodes.jsonl", rows)
    rng = np.random.default_rng(0)
    actions = [rng.normal(size=(n, 2)).astype(np.float32) for n in LENGTHS]
    for index, values in enumerate(actions):
        write_v21_episode(root, index, values)
    return actions


def write_v21_episode(root: Path, index: int, actions: np.ndarray) -> None:
    steps, first = np.arange(len(actions)), sum(LENGTHS[:index])
    columns = {
        "action": list(actions),
        "observation.state": list(actions + 1),
        "timestamp": (steps / 10).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(len(steps), index),
        "index": first + steps,
        "task_index": np.full(len(steps), ("stack", "pour").index(TASKS[index])),
    }
    data = root / f"data/chunk-{index // 2:03d}/episode_{index:06d}.parquet"
    data.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), data)
    frames = numbered(60)[first : first + len(actions)]
    clip = root / f"videos/chunk-{index // 2:03d}/{KEY}/episode_{index:06d}.mp4"
    write_video(clip, frames, 10, VideoConfig())


def test_a_v21_folder_is_read_completely(tmp_path):
    actions = write_v21(tmp_path)
    dataset = open_dataset(tmp_path)
    assert isinstance(dataset, LeRobotDataset) and check(dataset) == []
    assert (dataset.fps, dataset.robot_type) == (10, "so100")
    assert dataset.names == ("shoulder", "gripper") and dataset.cameras == {"front": SIZE}
    assert dataset.tasks == ["stack", "pour"]
    assert [(info.length, info.task) for info in dataset.episodes] == list(zip(LENGTHS, TASKS))
    for index, first in enumerate((0, 8, 19)):
        episode = dataset.episode(index)
        np.testing.assert_array_equal(episode.actions, actions[index])
        np.testing.assert_array_equal(episode.proprio, actions[index] + 1)
        shown = [number_of(frame) for frame in episode.images["front"]]
        assert shown == list(range(first, first + LENGTHS[index]))
        assert episode.success is None


def test_a_v21_folder_without_one_of_its_episodes_is_rejected(tmp_path):
    write_v21(tmp_path)
    table = tmp_path / "meta/episodes.jsonl"
    table.write_text("\n".join(table.read_text().splitlines()[::2]))
    with pytest.raises(DatasetError, match="episode 1 is missing"):
        _ = open_dataset(tmp_path).episodes
    table.unlink()
    with pytest.raises(DatasetError, match=r"episodes\.jsonl is missing"):
        _ = open_dataset(tmp_path).episodes


def test_a_task_table_of_implausible_size_is_rejected_unread(tmp_path):
    write_v21(tmp_path)
    with (tmp_path / "meta/tasks.jsonl").open("ab") as file:
        file.truncate(layout.MAX_JSON + 1)
    with pytest.raises(DatasetError, match=r"tasks\.jsonl has \d+ bytes, more than"):
        _ = open_dataset(tmp_path).tasks


def test_episodes_are_not_added_to_a_v21_folder(tmp_path):
    write_v21(tmp_path)
    with pytest.raises(DatasetError, match=r"codebase_version = v2\.1.*choose another folder"):
        DatasetWriter.create_or_resume(
            tmp_path, fps=10, robot_type="so100", names=("shoulder", "gripper"), cameras={}
        )


def test_an_unknown_version_is_rejected(tmp_path):
    write_v21(tmp_path)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    (tmp_path / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v1.6"}))
    with pytest.raises(DatasetError, match=r"v1\.6; only v3\.0 and v2\.1"):
        open_dataset(tmp_path)


def test_episodes_that_share_a_video_file_are_separated(tmp_path):
    """As in lerobot's v3 folders: the second episode starts where the first one ends."""
    options = {"fps": 30, "robot_type": "arm", "names": ("a", "b"), "cameras": {"front": SIZE}}
    frames = numbered(20)
    with closing(
        DatasetWriter.create_or_resume(tmp_path, video=VideoConfig(), **options)
    ) as writer:
        for part in (slice(0, 9), slice(9, 20)):
            joints = np.zeros((part.stop - part.start, 2), np.float32)
            writer.add_episode(Episode(joints, joints, "go", {"front": frames[part]}))
    first, second = LeRobotDataset.open(tmp_path).video_files("front")
    write_video(first, frames, 30, VideoConfig(gop=20))
    second.unlink()
    row = tmp_path / "meta/episodes/chunk-000/file-001.parquet"
    (content,) = pq.read_table(row).to_pylist()
    content |= {f"videos/{KEY}/file_index": 0, f"videos/{KEY}/from_timestamp": 9 / 30}
    pq.write_table(pa.Table.from_pylist([content]), row)
    dataset = LeRobotDataset.open(tmp_path)
    for index, part in enumerate((range(9), range(9, 20))):
        assert [number_of(frame) for frame in dataset.images(index, "front")] == list(part)
