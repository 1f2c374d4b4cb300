"""LeRobot v3 folders: round trip, resumed writing, crashes, statistics, real data."""

import json
import os
import signal
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crash_injection import kill_at
from hypothesis import given, settings
from hypothesis import strategies as st

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.lerobot import layout, statistics
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.datasets.lerobot.writer import DatasetWriter
from nac_ros.datasets.validate import check

NAMES = ("waist", "elbow", "gripper")
SHAPES = {"scene": (12, 16), "wrist": (8, 8)}


def make_episode(index: int, length: int | None = None, task: str = "Do it.") -> Episode:
    rng = np.random.default_rng(index)
    length = length or 5 + index
    return Episode(
        proprio=rng.normal(size=(length, 3)).astype(np.float32),
        actions=rng.normal(size=(length, 3)).astype(np.float32),
        tasks=(task,),
        images={
            camera: rng.integers(0, 256, (length, *shape, 3)).astype(np.uint8)
            for camera, shape in SHAPES.items()
        },
        success=index % 2 == 0,
    )


def open_writer(root: Path, **changes) -> DatasetWriter:
    options = {"fps": 30, "robot_type": "arm", "names": NAMES, "cameras": SHAPES} | changes
    return DatasetWriter.create_or_resume(root, **options)


def write(root: Path, indices, **changes) -> LeRobotDataset:
    with closing(open_writer(root, **changes)) as writer:
        for index in indices:
            writer.add_episode(make_episode(index))
    return LeRobotDataset.open(root)


def assert_same(a: Episode, b: Episode) -> None:
    np.testing.assert_array_equal(a.proprio, b.proprio)
    np.testing.assert_array_equal(a.actions, b.actions)
    assert a.images.keys() == b.images.keys()
    for camera in a.images:
        np.testing.assert_array_equal(a.images[camera], b.images[camera])
    assert (a.task, a.success) == (b.task, b.success)


def test_an_episode_is_read_back_bit_for_bit(tmp_path):
    dataset = write(tmp_path, range(3))
    for index in range(3):
        assert_same(dataset.episode(index), make_episode(index))
    assert dataset.fps == 30 and dataset.names == NAMES and dataset.cameras == SHAPES
    assert [info.length for info in dataset.episodes] == [5, 6, 7]
    assert check(dataset) == []


def test_a_second_writer_continues_where_the_first_one_stopped(tmp_path):
    write(tmp_path, range(2))
    dataset = write(tmp_path, range(2, 4))
    for index in range(4):
        assert_same(dataset.episode(index), make_episode(index))
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert info["total_episodes"] == 4 and info["total_frames"] == 5 + 6 + 7 + 8
    assert info["splits"] == {"train": "0:4"}


def test_indices_continue_over_episodes_and_tasks_are_numbered(tmp_path):
    with closing(open_writer(tmp_path)) as writer:
        for index, task in enumerate(["a", "b", "a"]):
            writer.add_episode(make_episode(index, task=task))
    files = sorted((tmp_path / "data").rglob("*.parquet"))
    table = pa.concat_tables([pq.read_table(path) for path in files])
    assert table["index"].to_pylist() == list(range(len(table)))
    assert table["task_index"].unique().to_pylist() == [0, 1]
    assert table["next.success"].to_pylist().count(True) == 2
    dataset = LeRobotDataset.open(tmp_path)
    assert dataset.tasks == ["a", "b"]
    assert [info.task for info in dataset.episodes] == ["a", "b", "a"]


def test_the_files_have_the_metadata_that_pandas_and_datasets_need(tmp_path):
    write(tmp_path, range(1))
    schema = pq.read_schema(tmp_path / "data/chunk-000/file-000.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["observation.images.scene"] == {"_type": "Image"}
    assert features["action"]["length"] == 3
    assert schema.field("action").type == pa.list_(pa.float32(), 3)
    tasks = pq.read_schema(tmp_path / "meta/tasks.parquet")
    assert json.loads(tasks.metadata[b"pandas"])["index_columns"] == ["task"]
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    assert np.shape(stats["observation.images.wrist"]["mean"]) == (3, 1, 1)


def test_a_chunk_has_a_thousand_files():
    assert layout.FileNumber(0, 999).next() == layout.FileNumber(1, 0)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"fps": 15}, "fps"),
        ({"robot_type": "other"}, "robot_type"),
        ({"names": ("a", "b", "c")}, "observation.state"),
        ({"cameras": {"scene": (24, 16), "wrist": (8, 8)}}, "observation.images.scene"),
        ({"cameras": {"scene": (12, 16)}}, "observation.images.wrist"),
    ],
)
def test_resuming_with_other_features_is_rejected_in_one_sentence(tmp_path, change, word):
    write(tmp_path, range(1))
    with pytest.raises(DatasetError, match=f"{word}.*choose another folder") as caught:
        open_writer(tmp_path, **change)
    assert "\n" not in str(caught.value)


def test_a_second_writer_at_the_same_time_is_rejected(tmp_path):
    with closing(open_writer(tmp_path)), pytest.raises(DatasetError, match="another process"):
        open_writer(tmp_path)


def test_a_folder_with_other_files_is_rejected(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DatasetError, match=r"thesis\.tex"):
        open_writer(tmp_path)


@pytest.mark.parametrize("what", ["proprio", "actions"])
def test_values_that_are_not_finite_are_rejected_and_nothing_is_written(tmp_path, what):
    episode = make_episode(0)
    getattr(episode, what)[2, 1] = np.nan
    with closing(open_writer(tmp_path)) as writer:
        with pytest.raises(DatasetError, match=what):
            writer.add_episode(episode)
        assert writer.n_episodes == 0
    assert not list((tmp_path / "data").rglob("*.parquet"))


def test_images_of_another_size_are_rejected(tmp_path):
    episode = make_episode(0)
    episode.images["scene"] = episode.images["scene"][:, :10]
    with closing(open_writer(tmp_path)) as writer, pytest.raises(DatasetError, match="images"):
        writer.add_episode(episode)


# Writes episodes 0, 1, 2.
WORK = """
from test_lerobot import make_episode, open_writer

writer = open_writer(root)
for index in range(3):
    writer.add_episode(make_episode(index))
    (root / f"../finished-{index}").touch()
"""


@pytest.mark.parametrize("fatal", [3, 9, 12, 14, 17, 20, 23, 26, 30, 35])
def test_kill_9_at_any_write_keeps_all_finished_episodes(tmp_path, fatal):
    root = tmp_path / "dataset"
    assert kill_at(fatal, WORK, root) == -signal.SIGKILL
    finished = len(list(tmp_path.glob("finished-*")))
    kept = len(LeRobotDataset.open(root).episodes) if (root / "meta/info.json").is_file() else 0
    assert kept in (finished, finished + 1)
    dataset = write(root, range(kept, 3))
    for index in range(3):
        assert_same(dataset.episode(index), make_episode(index))
    assert check(dataset) == []
    assert not list(root.rglob("*.partial"))


def test_check_finds_damage(tmp_path):
    dataset = write(tmp_path, range(4))
    damage_timestamp(dataset.data_files()[1])
    damage_image(dataset.data_files()[2])
    dataset.data_files()[3].unlink()
    findings = check(LeRobotDataset.open(tmp_path))
    assert [finding.episode for finding in findings] == [1, 2, 3]
    for finding, word in zip(findings, ("timestamp", "decoded", "missing")):
        assert word in str(finding)


def damage_timestamp(path: Path) -> None:
    table = pq.read_table(path)
    stamps = table["timestamp"].to_numpy() + np.float32(0.5)
    column = table.schema.get_field_index("timestamp")
    pq.write_table(table.set_column(column, "timestamp", pa.array(stamps)), path)


def damage_image(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = content.index(b"\x89PNG")
    content[start : start + 4] = b"XXXX"
    path.write_bytes(content)


def test_errors_name_the_folder_and_the_missing_item(tmp_path):
    with pytest.raises(DatasetError, match=r"meta/info\.json"):
        LeRobotDataset.open(tmp_path)
    dataset = write(tmp_path, range(1))
    with pytest.raises(DatasetError, match=r"effort.*action, |effort.*observation\.state, action"):
        LeRobotDataset.open(tmp_path, action_key="effort")
    with pytest.raises(DatasetError, match="no episode 7"):
        dataset.episode(7)
    with pytest.raises(DatasetError, match=r"front.*scene, wrist"):
        dataset.images(0, "front")


def test_the_state_as_action_is_the_next_state(tmp_path):
    write(tmp_path, range(1))
    shifted = LeRobotDataset.open(tmp_path, action_key="observation.state").episode(0)
    whole = make_episode(0)
    np.testing.assert_array_equal(shifted.actions, whole.proprio[1:])
    np.testing.assert_array_equal(shifted.proprio, whole.proprio[:-1])
    np.testing.assert_array_equal(shifted.images["scene"], whole.images["scene"][:-1])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_statistics_of_merged_episodes_are_exactly_those_of_all_values(lengths, seed):
    rng = np.random.default_rng(seed)
    pieces = [rng.normal(rng.normal(), 2, (n, 3)).astype(np.float32) for n in lengths]
    pool = statistics.FeatureStatistics()
    for piece in pieces:
        pool.add(piece)
    whole = np.concatenate(pieces).astype(np.float64)
    assert_describes(pool.stats(), whole)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 19), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_statistics_of_merged_images_are_exactly_those_of_all_pixels(lengths, seed):
    rng = np.random.default_rng(seed)
    pieces = [rng.integers(0, 256, (n, 4, 6, 3)).astype(np.uint8) for n in lengths]
    levels = [statistics.image_histogram(piece) for piece in pieces]
    stats = sum(levels[1:], levels[0]).stats()
    assert stats.pop("count") == sum(lengths) and stats["mean"].shape == (3, 1, 1)
    flat = {key: value.reshape(3) for key, value in stats.items()}
    assert_describes(flat, np.concatenate(pieces).reshape(-1, 3) / 255)


def assert_describes(stats: dict[str, np.ndarray], rows: np.ndarray) -> None:
    """Asserts that the statistics are those of float64 rows `[N, D]`."""
    np.testing.assert_allclose(stats["mean"], rows.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(stats["std"], rows.std(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal([stats["min"], stats["max"]], [rows.min(0), rows.max(0)])
    for name, share in statistics.QUANTILES.items():
        wanted = np.quantile(rows, share, axis=0)
        np.testing.assert_allclose(stats[name], wanted, rtol=1e-12, atol=1e-12)


def test_real_piper_data_is_read(real_data):
    dataset = LeRobotDataset.open(real_data / "piper_real")
    assert len(dataset.episodes) == 55 and sum(i.length for i in dataset.episodes) == 13331
    assert dataset.fps == 15 and len(dataset.names) == 6 and len(dataset.state_names) == 7
    assert dataset.tasks == ["Put the grape on the white plate."] and dataset.cameras == {}
    assert_only_videos_are_missing(dataset)
    states = LeRobotDataset.open(real_data / "piper_real", action_key="observation.state")
    assert len(states.names) == 7 and states.episodes[0].length == dataset.episodes[0].length - 1


def test_real_so101_data_is_read(real_data):
    dataset = LeRobotDataset.open(real_data / "so101_real")
    assert [i.length for i in dataset.episodes][:2] == [373, 374]
    assert dataset.episode(3).actions.shape[1] == 6
    assert_only_videos_are_missing(dataset)


def assert_only_videos_are_missing(dataset: LeRobotDataset) -> None:
    """These folders were copied without their videos and are valid otherwise."""
    found = [str(finding) for finding in check(dataset)]
    assert found and all("all videos of camera" in text for text in found)


@pytest.fixture
def real_data() -> Path:
    if "NAC_DATA" not in os.environ:
        pytest.skip("set NAC_DATA to a folder with real demonstrations")
    return Path(os.environ["NAC_DATA"])
