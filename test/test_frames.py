"""Frames for training equal the episodes of the dataset, and the cache follows its changes."""

from contextlib import closing

import cv2
import numpy as np
import pytest
from test_aloha import write_episode
from test_hdf5_damage import STATES, write_layout

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.action_chunks import split_chunks
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.episode_split import split_episodes
from nac_ros.datasets.factory import open_dataset
from nac_ros.datasets.frames import ImageStack, load_frames
from nac_ros.datasets.interventions import split_frames
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.datasets.lerobot.schema import OptionalColumns
from nac_ros.datasets.lerobot.writer import DatasetWriter

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


def test_frames_of_two_datasets_equal_their_episodes(tmp_path):
    add_episodes(tmp_path / "a", [3, 4, 5], task="one")
    add_episodes(tmp_path / "b", [2, 6], task="two", seed=1)
    roots = [tmp_path / "a", tmp_path / "b"]
    frames = load_frames(roots, ["wrist", "scene"])
    episodes = [
        d.episode(i) for d in map(LeRobotDataset.open, roots) for i in range(len(d.episodes))
    ]
    assert len(frames) == 20 and list(frames.images) == ["wrist", "scene"]
    assert frames.tasks == ("one", "one", "one", "two", "two")
    np.testing.assert_array_equal(frames.actions, np.concatenate([e.actions for e in episodes]))
    np.testing.assert_array_equal(frames.proprio, np.concatenate([e.proprio for e in episodes]))
    for camera, stack in frames.images.items():
        wanted = np.concatenate([e.images[camera] for e in episodes])
        np.testing.assert_array_equal(stack[np.arange(20)], wanted)
    assert frames.start[7] == 7 and frames.end[7] == 12 and frames.episode[7] == 2


def test_frames_have_an_environment_state_if_every_dataset_has_one(tmp_path):
    columns = OptionalColumns(success=False, environment_names=("x", "y"))
    states = np.arange(20, dtype=np.float32).reshape(10, 2)
    options = {"fps": 30, "robot_type": "arm", "names": "ab", "cameras": {}}
    with closing(
        DatasetWriter.create_or_resume(tmp_path / "a", **options, optional=columns)
    ) as writer:
        for part in (states[:4], states[4:]):
            writer.add_episode(Episode(part + 1, part + 2, "t", environment_state=part))
        with pytest.raises(DatasetError, match=r"lacks observation\.environment_state"):
            writer.add_episode(Episode(states, states, "t"))
    dataset = open_dataset(tmp_path / "a")
    assert dataset.environment_names == ("x", "y")
    np.testing.assert_array_equal(load_frames([dataset], ()).environment_state, states)
    with closing(DatasetWriter.create_or_resume(tmp_path / "b", **options)) as writer:
        writer.add_episode(Episode(states, states, "t"))
    assert load_frames([tmp_path / "a", tmp_path / "b"], ()).environment_state is None


def test_history_and_future_indices_stay_inside_the_episode(tmp_path):
    add_episodes(tmp_path, [3, 4])
    frames = load_frames([tmp_path], [])
    index = np.array([0, 2, 3, 4])
    np.testing.assert_array_equal(
        frames.history_indices(index, 2), [[0, 0], [1, 2], [3, 3], [3, 4]]
    )
    np.testing.assert_array_equal(
        frames.indices_after(index, np.arange(3)), [[0, 1, 2], [2, 2, 2], [3, 4, 5], [4, 5, 6]]
    )


def test_past_commands_before_an_episode_are_the_joint_state_of_its_first_frame(tmp_path):
    add_episodes(tmp_path, [3, 4])
    frames = load_frames([tmp_path], [])
    found = frames.past_commands(np.array([0, 4, 6]), 2)
    actions, proprio = frames.actions, frames.proprio
    expected = [[proprio[0]] * 2, [proprio[3], actions[3]], [actions[4], actions[5]]]
    np.testing.assert_array_equal(found, expected)


def test_the_cache_is_reused_and_renewed_when_an_episode_is_added(tmp_path):
    add_episodes(tmp_path, [3])
    decoded = []
    for _ in range(2):
        load_frames([tmp_path], ["scene"], progress=lambda done, total: decoded.append(total))
    assert decoded == [1]
    add_episodes(tmp_path, [4], seed=1)
    frames = load_frames([tmp_path], ["scene"])
    wanted = LeRobotDataset.open(tmp_path).episode(1).images["scene"]
    np.testing.assert_array_equal(frames.images["scene"][np.arange(3, 7)], wanted)
    assert len(list((tmp_path / ".cache/frames").glob("*.npy*"))) == 1


def test_one_cache_folder_can_serve_several_datasets(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        add_episodes(tmp_path / name, [3], seed=seed)
        frames = load_frames([tmp_path / name], ["scene"], cache_dir=tmp_path / "cache")
        wanted = LeRobotDataset.open(tmp_path / name).episode(0).images["scene"]
        np.testing.assert_array_equal(frames.images["scene"][np.arange(3)], wanted)
    assert not (tmp_path / "a/.cache").exists()


def test_an_image_stack_takes_indices_of_any_shape_and_rejects_others():
    parts = [np.full((n, 2, 2, 3), n, np.uint8) for n in (2, 3)]
    stack = ImageStack(parts)
    assert stack.shape == (5, 2, 2, 3) and stack[np.array([[0, 4], [1, 2]])].shape[:2] == (2, 2)
    np.testing.assert_array_equal(stack[np.array([4, 0, 2])][:, 0, 0, 0], [3, 2, 3])
    assert stack[3].shape == (2, 2, 3)
    for outside in (5, -1):
        with pytest.raises(IndexError):
            stack[np.array([outside])]


def test_datasets_that_differ_or_lack_a_camera_are_rejected(tmp_path):
    add_episodes(tmp_path / "a", [3])
    add_episodes(tmp_path / "b", [3], names="abc")
    with pytest.raises(DatasetError, match=r"\(a, b, c\).*cannot be joined"):
        load_frames([tmp_path / "a", tmp_path / "b"], [])
    with pytest.raises(DatasetError, match=r"front.*scene, wrist"):
        load_frames([tmp_path / "a"], ["front"])
    add_episodes(tmp_path / "empty", [])
    with pytest.raises(DatasetError, match="no episode"):
        load_frames([tmp_path / "empty"], [])


def opened(tmp_path, kind):
    """A dataset of each format, with images."""
    if kind == "lerobot":
        add_episodes(tmp_path / "data", [3, 4])
        return open_dataset(tmp_path / "data")
    if kind == "state as action":
        add_episodes(tmp_path / "data", [3, 4])
        return open_dataset(tmp_path / "data", "observation.state", "observation.state")
    if kind.startswith("aloha"):
        for k in range(2):
            write_episode(tmp_path / f"data/episode_{k}.hdf5", k, jpeg=kind == "aloha-jpeg")
        return open_dataset(tmp_path / "data")
    write_layout(tmp_path / "demo.hdf5", kind)
    return open_dataset(tmp_path / "demo.hdf5", None, STATES[kind])


KINDS = ("lerobot", "state as action", "robomimic", "libero", "aloha", "aloha-jpeg")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image_size", [None, 5])
def test_frames_of_every_format_equal_its_episodes(tmp_path, kind, image_size):
    dataset = opened(tmp_path, kind)
    cameras = list(dataset.cameras)
    frames = load_frames([dataset], cameras, image_size=image_size)
    episodes = [dataset.episode(i) for i in range(len(dataset.episodes))]
    assert len(frames) == sum(len(episode) for episode in episodes)
    np.testing.assert_array_equal(frames.actions, np.concatenate([e.actions for e in episodes]))
    np.testing.assert_array_equal(frames.proprio, np.concatenate([e.proprio for e in episodes]))
    for camera in cameras:
        wanted = np.concatenate([episode.images[camera] for episode in episodes])
        if image_size:
            area = {"dsize": (image_size, image_size), "interpolation": cv2.INTER_AREA}
            wanted = np.stack([cv2.resize(image, **area) for image in wanted])
        np.testing.assert_array_equal(frames.images[camera][np.arange(len(frames))], wanted)
    places = [p for p in tmp_path.rglob(".cache/frames/**/*") if p.is_file()]
    assert len([p for p in places if p.suffix == ".npy"]) == len(cameras)
    assert all(p.suffix == ".npy" or p.name == ".lock" for p in places), "scratch files are left"


def test_datasets_of_several_formats_are_joined_if_compatible(tmp_path):
    add_episodes(tmp_path / "a", [4] * 6)
    add_episodes(tmp_path / "b", [4] * 3)
    first = open_dataset(tmp_path / "a")
    frames = load_frames([first, tmp_path / "b"], ["scene"])
    for side in ("validation", "test"):
        splits = [getattr(split, side) for split in split_episodes([6, 3])]
        wanted = np.concatenate([np.isin(np.arange(n), s) for n, s in zip((6, 3), splits)])
        np.testing.assert_array_equal(getattr(frames, side), wanted)
    write_layout(tmp_path / "demo.hdf5", "libero")
    other = open_dataset(tmp_path / "demo.hdf5", None, STATES["libero"])
    with pytest.raises(DatasetError, match="cannot be joined"):
        load_frames([first, other], [])


@pytest.mark.parametrize("counts", [(2, 2, 2), (1, 1), (1, 2), (6, 3)])
def test_policies_and_tokenizers_split_the_same_episodes(tmp_path, counts):
    paths = [tmp_path / str(k) for k in range(len(counts))]
    for k, (path, n) in enumerate(zip(paths, counts)):
        add_episodes(path, [4] * n, seed=k)
    frames = load_frames(paths, [])
    sides = split_chunks([open_dataset(path) for path in paths], 4)
    first = frames.actions[frames.start]  # of each frame's episode
    train, validation = split_frames(frames, "all", 4)
    for rows, chunks in ((train, sides.train), (validation, sides.validation)):
        np.testing.assert_array_equal(np.unique(first[rows], axis=0), _firsts(chunks))
    rows = np.flatnonzero(frames.test[frames.episode])
    assert (sides.test is None) == (len(rows) == 0)
    if sides.test is not None:
        np.testing.assert_array_equal(np.unique(first[rows], axis=0), _firsts(sides.test))


def _firsts(chunks) -> np.ndarray:
    """First actions of chunks as long as their episode, sorted."""
    return np.unique(chunks.actions[:, 0], axis=0)


def test_images_of_two_sizes_need_a_given_size(tmp_path):
    write_layout(tmp_path / "a.hdf5", "robomimic")
    write_layout(tmp_path / "b.hdf5", "libero")
    sets = [
        open_dataset(tmp_path / f"{name}.hdf5", None, STATES[kind])
        for name, kind in (("a", "robomimic"), ("b", "libero"))
    ]
    sets[1].cameras["agentview"] = (9, 8)  # as if it had other images
    with pytest.raises(DatasetError, match=r"images of agentview of \(9, 8\).*image size"):
        load_frames(sets, ["agentview"])


def test_a_digest_changes_with_numbers_images_tasks_and_split(tmp_path):
    add_episodes(tmp_path / "a", [3, 4])
    add_episodes(tmp_path / "b", [3, 4])
    add_episodes(tmp_path / "c", [3, 4], seed=1)
    load = [load_frames([tmp_path / name], ["scene"]).digest() for name in "abc"]
    assert load[0] == load[1] != load[2]
    assert load_frames([tmp_path / "a"], ["wrist"]).digest() != load[0]
