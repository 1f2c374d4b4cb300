"""`nac data edit` on LeRobot folders: results are exact and unchanged files are reused."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_cli import run
from test_dataset_video import SIZE, number_of, numbered
from test_episode_locations import KEY, write_v21
from test_lerobot import NAMES, SHAPES, assert_same, make_episode

from nac_ros.datasets.convert import ConversionConfig, to_lerobot
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.factory import open_dataset
from nac_ros.datasets.lerobot import statistics
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.datasets.lerobot.video import VideoConfig, write_video
from nac_ros.datasets.lerobot.writer import DatasetWriter
from nac_ros.datasets.validate import check

OPTIONS = {"fps": 30, "robot_type": "arm", "names": NAMES, "cameras": SHAPES}


def written(root, made, **changes):
    """A folder with these episodes, one file for each."""
    writer = DatasetWriter.create_or_resume(root, **OPTIONS | {"write_outcomes": True} | changes)
    for episode in made:
        writer.add_episode(episode)
    writer.close()
    return LeRobotDataset.open(root)


def made(n=5):
    return [make_episode(k, task=f"Task {k % 2}.") for k in range(n)]


def filmed(root, lengths=(9, 11, 10)):
    """Episodes that share a video and a data file, as in lerobot's folders; frame k shows k."""
    frames, ends = numbered(sum(lengths)), np.cumsum(lengths)
    writer = DatasetWriter.create_or_resume(
        root, **OPTIONS | {"cameras": {"front": SIZE}, "video": VideoConfig()}
    )
    for k, length in enumerate(lengths):
        joints = make_episode(k, length)
        shown = {"front": frames[ends[k] - length : ends[k]]}
        writer.add_episode(replace(joints, images=shown))
    writer.close()
    videos = LeRobotDataset.open(root).video_files("front")
    write_video(videos[0], frames, 30, VideoConfig(gop=20))
    rows = [pq.read_table(path) for path in sorted((root / "meta/episodes").rglob("*.parquet"))]
    data = LeRobotDataset.open(root).data_files()
    pq.write_table(pa.concat_tables([pq.read_table(path) for path in data]), data[0])
    content = pa.concat_tables(rows).to_pylist()
    for k, row in enumerate(content):
        start, end = (float((ends[k] - n) / 30) for n in (lengths[k], 0))
        row |= {"data/file_index": 0, f"videos/{KEY}/file_index": 0}
        row |= {f"videos/{KEY}/from_timestamp": start, f"videos/{KEY}/to_timestamp": end}
    for path in [*videos[1:], *data[1:], *(root / "meta/episodes").rglob("*.parquet")]:
        path.unlink()
    pq.write_table(
        pa.Table.from_pylist(content), root / "meta/episodes/chunk-000/file-000.parquet"
    )
    return LeRobotDataset.open(root)


def inodes(root):
    """Inode of every data and video file."""
    return {p.stat().st_ino for kind in ("data", "videos") for p in (root / kind).rglob("*.*")}


def assert_exact(root, episodes):
    """Asserts that content, indices and statistics are those of a folder written like this."""
    dataset = LeRobotDataset.open(root)
    assert len(dataset.episodes) == len(episodes) and check(dataset) == []
    for index, wanted in enumerate(episodes):
        found = dataset.episode(index)
        np.testing.assert_array_equal(found.actions, wanted.actions)
        np.testing.assert_array_equal(found.proprio, wanted.proprio)
        assert (found.task, found.success) == (wanted.task, wanted.success)
    table = pa.concat_tables([pq.read_table(path) for path in dataset.data_files()])
    n = sum(map(len, episodes))
    assert table["index"].to_pylist() == list(range(n))
    frames = [k for episode in episodes for k in range(len(episode))]
    assert table["frame_index"].to_pylist() == frames
    texts = [episode.task for episode in episodes for _ in range(len(episode))]
    assert [dataset.tasks[k] for k in table["task_index"].to_pylist()] == texts
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"]) == (len(episodes), n)
    assert info["total_tasks"] == len(dataset.tasks) and info["splits"] == {
        "train": f"0:{len(episodes)}"
    }
    stats = json.loads((root / "meta/stats.json").read_text())
    for key in ("action", "observation.state", "index", "timestamp", "task_index"):
        column = np.stack(table[key].to_numpy())
        for name, value in statistics.value_statistics(column).items():
            assert stats[key][name] == value.tolist(), (key, name)
    rows = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    ends = np.cumsum([0, *map(len, episodes)])
    for index, row in enumerate(rows):
        assert (row["dataset_from_index"], row["dataset_to_index"]) == tuple(
            ends[index : index + 2]
        )
        own = statistics.value_statistics(episodes[index].actions)
        assert row["stats/action/mean"] == own["mean"].tolist()
        assert row["stats/index/min"] == [ends[index]]


def assert_same_image_stats(root, other):
    a, b = (json.loads((p / "meta/stats.json").read_text()) for p in (root, other))
    for key in a:
        if key.startswith("observation.images."):
            assert a[key] == b[key], key


def edit(capsys, *arguments):
    code, out, error = run(capsys, "data", "edit", *arguments)
    assert code == 0, error
    return out


def test_discarding_episodes_keeps_the_files_before_them(tmp_path, capsys):
    root, episodes = tmp_path / "in", made()
    before = written(root, episodes).data_files()
    kept = {path: path.stat().st_ino for path in before[:2]}
    edit(capsys, "discard", root, "--episode", 2, 4)
    assert_exact(root, [episodes[k] for k in (0, 1, 3)])
    assert {
        path: path.stat().st_ino for path in LeRobotDataset.open(root).data_files()[:2]
    } == kept
    for index, k in enumerate((0, 1, 3)):
        assert_same(LeRobotDataset.open(root).episode(index), episodes[k])
    written(tmp_path / "new", [episodes[k] for k in (0, 1, 3)])
    assert_same_image_stats(root, tmp_path / "new")
    assert_exact(tmp_path / "in.before", episodes)
    edit_info = json.loads((root / "meta/edit.json").read_text())
    assert edit_info["sources"][0]["episodes"] == 5 and len(edit_info["slices"]) == 3


def test_a_video_that_several_episodes_share_is_never_changed(tmp_path, capsys):
    root = tmp_path / "in"
    source = filmed(root)
    episodes = [source.episode(k) for k in range(3)]
    (video,) = source.video_files("front")
    bytes_before = video.read_bytes()
    edit(capsys, "discard", root, "--episode", 1)
    dataset = LeRobotDataset.open(root)
    assert dataset.video_files("front")[0].read_bytes() == bytes_before
    assert [number_of(f) for f in dataset.images(1, "front")] == list(range(20, 30))
    assert_exact(root, [episodes[0], episodes[2]])
    edit(capsys, "split", root, "--episode", 1, "--at-seconds", 0.1)
    dataset = LeRobotDataset.open(root)
    assert dataset.video_files("front")[0].read_bytes() == bytes_before
    assert [number_of(f) for f in dataset.images(1, "front")] == [20, 21, 22]
    assert [number_of(f) for f in dataset.images(2, "front")] == list(range(23, 30))


def test_an_episode_is_split_and_both_halves_start_at_zero(tmp_path, capsys):
    root, episodes = tmp_path / "in", made(3)
    others = written(root, episodes).data_files()[0].stat().st_ino
    edit(capsys, "split", root, "--episode", 1, "--at-seconds", 0.1)
    whole = episodes[1]
    halves = [
        replace(
            whole,
            proprio=whole.proprio[rows],
            actions=whole.actions[rows],
            images={c: v[rows] for c, v in whole.images.items()},
        )
        for rows in (slice(0, 3), slice(3, 6))
    ]
    wanted = [episodes[0], *halves, episodes[2]]
    assert_exact(root, wanted)
    assert LeRobotDataset.open(root).data_files()[0].stat().st_ino == others
    for index in (1, 2):
        assert_same(LeRobotDataset.open(root).episode(index), halves[index - 1])
        assert LeRobotDataset.open(root).timestamps(index)[0] == 0
    written(tmp_path / "new", wanted)
    assert_same_image_stats(root, tmp_path / "new")
    code, _, error = run(capsys, "data", "edit", "split", root, "--episode", 1, "--at-seconds", 7)
    assert code == 2 and "is 0.1 s long; it cannot be split at 7 s" in error


def test_renaming_a_task_everywhere_changes_no_data_file(tmp_path, capsys):
    root, episodes = tmp_path / "in", made()
    written(root, episodes)
    before = inodes(root)
    edit(capsys, "relabel", root, "--episode", 1, 3, "--task", "Put it there.")
    assert inodes(root) == before
    wanted = [replace(e, tasks="Put it there.") if k % 2 else e for k, e in enumerate(episodes)]
    assert_exact(root, wanted)
    assert LeRobotDataset.open(root).tasks == ["Task 0.", "Put it there."]
    edit(capsys, "relabel", root, "--episode", 0, "--task", "Lift it.", "--outcome", "failure")
    wanted[0] = replace(wanted[0], tasks="Lift it.", success=False)
    assert_exact(root, wanted)
    assert LeRobotDataset.open(root).tasks == ["Task 0.", "Put it there.", "Lift it."]
    assert len(inodes(root) - before) == 1
    edit(capsys, "relabel", root, "--task", "Do it.")
    assert_exact(root, [replace(episode, tasks="Do it.") for episode in wanted])
    assert LeRobotDataset.open(root).tasks == ["Do it."]


def test_merging_does_not_change_the_sources(tmp_path, capsys):
    episodes, more = made(3), [make_episode(k + 7, task="Other.") for k in range(2)]
    written(tmp_path / "a", episodes)
    written(tmp_path / "b", more)
    edit(capsys, "merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "all")
    assert_exact(tmp_path / "all", [*episodes, *more])
    assert_exact(tmp_path / "a", episodes)
    assert inodes(tmp_path / "a") <= inodes(tmp_path / "all")
    written(tmp_path / "new", [*episodes, *more])
    assert_same_image_stats(tmp_path / "all", tmp_path / "new")
    filmed(tmp_path / "x")
    filmed(tmp_path / "y", (5, 6))
    edit(capsys, "merge", tmp_path / "x", tmp_path / "y", "--out", tmp_path / "film")
    dataset = LeRobotDataset.open(tmp_path / "film")
    assert len(dataset.video_files("front")) == 2 and check(dataset) == []
    assert [number_of(f) for f in dataset.images(4, "front")] == list(range(5, 11))


def test_episodes_can_be_added_to_an_edited_folder(tmp_path, capsys):
    root, episodes = tmp_path / "in", made()
    written(root, episodes)
    edit(capsys, "discard", root, "--episode", 0)
    written(root, [make_episode(9)])
    dataset = LeRobotDataset.open(root)
    assert check(dataset) == [] and len(dataset.episodes) == 5
    assert_same(dataset.episode(4), make_episode(9))
    written(tmp_path / "new", [*episodes[1:], make_episode(9)])
    a, b = (json.loads((p / "meta/stats.json").read_text()) for p in (root, tmp_path / "new"))
    same = {key for key in a if a[key] == b[key]}
    assert set(a) - same == {"task_index"}  # 'Task 0.' comes first here, and second there
    film = tmp_path / "film"
    filmed(film)
    edit(capsys, "discard", film, "--episode", 0)
    frames = numbered(40)[30:]
    added = Episode(*[np.zeros((10, 3), np.float32)] * 2, "Do it.", {"front": frames}, True)
    written(film, [added], cameras={"front": SIZE}, video=VideoConfig(), write_outcomes=False)
    shown = [number_of(f) for k in range(3) for f in LeRobotDataset.open(film).images(k, "front")]
    assert shown == list(range(9, 40))


@pytest.mark.parametrize("step", range(1, 9))
def test_a_kill_leaves_the_old_folder_or_the_new_one(tmp_path, capsys, step):
    root, episodes = tmp_path / "in", made(3)
    written(root, episodes)
    code = (
        "import os, signal, sys\nfrom nac_ros.cli.main import main\n"
        "real, calls = os.replace, iter(range(1, 99))\n"
        "def replace(a, b):\n"
        "    if next(calls) == int(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(a, b)\n"
        "os.replace = replace\n"
        "main(['data', 'edit', 'discard', sys.argv[2], '--episode', '0'])"
    )
    count = _replacements(tmp_path)
    place = count - 8 + step  # the last renames: table, statistics, folders
    done = subprocess.run([sys.executable, "-c", code, str(place), str(root)], check=False)
    assert done.returncode == -signal.SIGKILL
    if root.exists():
        assert_exact(root, episodes)
        edit(capsys, "discard", root, "--episode", 0)
    else:
        edit(capsys, "relabel", root, "--episode", 0, "--outcome", "failure")
        episodes[1] = replace(episodes[1], success=False)
    assert_exact(root, episodes[1:])
    assert not (tmp_path / "in.editing").exists() and not (tmp_path / "in.edited").exists()


def _replacements(tmp_path):
    """Number of renames in an edit of such a folder."""
    from unittest import mock

    from nac_ros.datasets.lerobot import editing

    written(tmp_path / "counted", made(3))
    with mock.patch("os.replace", wraps=os.replace) as renames:
        editing.discard(tmp_path / "counted", [0], lambda done, total: None)
    return renames.call_count


def test_an_impossible_edit_is_rejected_and_nothing_changes(tmp_path, capsys):
    root = tmp_path / "in"
    written(root, made(2))

    def rejected(*arguments):
        code, _, error = run(capsys, "data", "edit", *arguments)
        assert code == 2 and error.count("\n") == 1
        return error

    assert "has no episode 2; it has 2, from 0" in rejected("discard", root, "--episode", 2)
    assert "would hold no episode" in rejected("discard", root, "--episode", 0, 1)
    assert "needs --episode" in rejected("discard", root)
    assert "relabel needs --task or --outcome" in rejected("relabel", root)
    assert "LeRobot folders have no notes" in rejected("relabel", root, "--note", "x")
    assert "merge needs --out" in rejected("merge", root, root)
    assert "exists already" in rejected("merge", root, root, "--out", root)
    write_v21(tmp_path / "old")
    assert "nac data convert --to lerobot" in rejected("discard", tmp_path / "old", "--episode", 0)
    written(tmp_path / "b", made(1), fps=10)
    assert "has a rate of 10 Hz" in rejected(
        "merge", root, tmp_path / "b", "--out", tmp_path / "c"
    )
    assert "--episode needs a LeRobot folder" in rejected("discard", tmp_path, "--episode", 0)
    with LockedFolder(root):
        assert "written by another process" in rejected("discard", root, "--episode", 0)
    assert_exact_length(root, 2)


class LockedFolder:
    """Holds the lock of the folder as another writer."""

    def __init__(self, root):
        self._root = root

    def __enter__(self):
        self._writer = DatasetWriter.create_or_resume(self._root, **OPTIONS, write_outcomes=True)

    def __exit__(self, *_):
        self._writer.close()


def assert_exact_length(root, n):
    assert (
        len(LeRobotDataset.open(root).episodes) == n and not root.with_name("in.before").exists()
    )


def test_other_files_in_a_folder_are_kept(tmp_path, capsys):
    root = tmp_path / "in"
    written(root, made(2))
    (root / "README.md").write_text("a card")
    (root / "meta/subtasks.parquet").write_bytes(b"theirs")
    edit(capsys, "discard", root, "--episode", 0)
    assert (root / "README.md").read_text() == "a card"
    assert (root / "meta/subtasks.parquet").read_bytes() == b"theirs"


def test_a_conversion_does_not_resume_in_an_edited_folder(tmp_path, capsys):
    written(tmp_path / "a", made(3))
    to_lerobot(
        [open_dataset(tmp_path / "a")], tmp_path / "b", ConversionConfig(), lambda d, t: None
    )
    edit(capsys, "discard", tmp_path / "b", "--episode", 0)
    code, _, error = run(
        capsys, "data", "convert", tmp_path / "a", "--to", "lerobot", "--out", tmp_path / "b"
    )
    assert code == 2 and "another origin" in error
