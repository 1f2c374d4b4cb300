"""Frames for training equal what the dataset holds, and the cache follows the dataset."""

from contextlib import closing

import numpy as np
import pytest

from nac_ros.data.episode import Episode
from nac_ros.data.frames import ImageStack, load_frames
from nac_ros.data.lerobot import Dataset
from nac_ros.data.writer import DatasetWriter
from nac_ros.errors import DatasetError

CAMERAS = {"scene": (8, 8), "wrist": (6, 10)}


def add_episodes(root, lengths, names="ab", task="t", seed=0):
    rng = np.random.default_rng(seed)
    options = {"fps": 30, "robot_type": "arm", "names": names, "cameras": CAMERAS}
    with closing(DatasetWriter.create_or_resume(root, **options)) as writer:
        for length in lengths:
            images = {
                name: rng.integers(0, 256, (length, *size, 3)).astype(np.uint8)
                for name, size in CAMERAS.items()
            }
            states = rng.normal(size=(2, length, len(names))).astype(np.float32)
            writer.add_episode(Episode(states[0], states[1], task, images))


def test_frames_of_two_datasets_are_what_the_episodes_hold(tmp_path):
    add_episodes(tmp_path / "a", [3, 4, 5], task="one")
    add_episodes(tmp_path / "b", [2, 6], task="two", seed=1)
    roots = [tmp_path / "a", tmp_path / "b"]
    frames = load_frames(roots, ["wrist", "scene"])
    episodes = [d.episode(i) for d in map(Dataset.open, roots) for i in range(len(d.episodes))]
    assert len(frames) == 20 and list(frames.images) == ["wrist", "scene"]
    assert frames.tasks == ("one", "one", "one", "two", "two")
    np.testing.assert_array_equal(frames.actions, np.concatenate([e.actions for e in episodes]))
    np.testing.assert_array_equal(frames.proprio, np.concatenate([e.proprio for e in episodes]))
    for camera, stack in frames.images.items():
        wanted = np.concatenate([e.images[camera] for e in episodes])
        np.testing.assert_array_equal(stack[np.arange(20)], wanted)
    assert frames.start[7] == 7 and frames.end[7] == 12 and frames.episode[7] == 2


def test_history_and_future_stay_inside_the_episode(tmp_path):
    add_episodes(tmp_path, [3, 4])
    frames = load_frames([tmp_path], [])
    index = np.array([0, 2, 3, 4])
    np.testing.assert_array_equal(frames.history(index, 2), [[0, 0], [1, 2], [3, 3], [3, 4]])
    np.testing.assert_array_equal(
        frames.future(index, 3), [[0, 1, 2], [2, 2, 2], [3, 4, 5], [4, 5, 6]]
    )


def test_the_cache_is_used_again_and_renewed_when_an_episode_is_added(tmp_path):
    add_episodes(tmp_path, [3])
    decoded = []
    for _ in range(2):
        load_frames([tmp_path], ["scene"], report=lambda done, total: decoded.append(total))
    assert decoded == [1]
    add_episodes(tmp_path, [4], seed=1)
    frames = load_frames([tmp_path], ["scene"])
    wanted = Dataset.open(tmp_path).episode(1).images["scene"]
    np.testing.assert_array_equal(frames.images["scene"][np.arange(3, 7)], wanted)
    assert len(list((tmp_path / ".cache/frames").glob("*.npy*"))) == 1


def test_a_cache_folder_elsewhere_serves_several_datasets(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        add_episodes(tmp_path / name, [3], seed=seed)
        frames = load_frames([tmp_path / name], ["scene"], cache_dir=tmp_path / "cache")
        wanted = Dataset.open(tmp_path / name).episode(0).images["scene"]
        np.testing.assert_array_equal(frames.images["scene"][np.arange(3)], wanted)
    assert not (tmp_path / "a/.cache").exists()


def test_an_image_stack_takes_indices_of_any_shape_and_refuses_those_outside():
    parts = [np.full((n, 2, 2, 3), n, np.uint8) for n in (2, 3)]
    stack = ImageStack(parts)
    assert stack.shape == (5, 2, 2, 3) and stack[np.array([[0, 4], [1, 2]])].shape[:2] == (2, 2)
    np.testing.assert_array_equal(stack[np.array([4, 0, 2])][:, 0, 0, 0], [3, 2, 3])
    assert stack[3].shape == (2, 2, 3)
    for outside in (5, -1):
        with pytest.raises(IndexError):
            stack[np.array([outside])]


def test_datasets_that_differ_or_lack_a_camera_are_refused(tmp_path):
    add_episodes(tmp_path / "a", [3])
    add_episodes(tmp_path / "b", [3], names="abc")
    with pytest.raises(DatasetError, match=r"\(a, b, c\).*cannot be joined"):
        load_frames([tmp_path / "a", tmp_path / "b"], [])
    with pytest.raises(DatasetError, match=r"front.*scene, wrist"):
        load_frames([tmp_path / "a"], ["front"])
    add_episodes(tmp_path / "empty", [])
    with pytest.raises(DatasetError, match="no episode"):
        load_frames([tmp_path / "empty"], [])
