"""HDF5: written files are read back equal, and files of robomimic and LIBERO are read."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_lerobot import NAMES, assert_same, make_episode

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.factory import open_all, open_dataset
from nac_ros.datasets.hdf5 import Hdf5Metadata, read_own_metadata, write_hdf5

TASKS = ("Open it.", "Close it.")


def hdf5_metadata(**changes) -> Hdf5Metadata:
    usual = {
        "names": NAMES,
        "state_names": NAMES,
        "units": ("rad", "rad", "m"),
        "fps": 15,
        "robot_type": "arm",
        "tasks": TASKS,
        "more": {"made": "here"},
    }
    return Hdf5Metadata(**usual | changes)


def episodes() -> list:
    made = [make_episode(index, task=TASKS[index % 2]) for index in range(3)]
    for k, episode in enumerate(made):
        n = len(episode)
        noted = {
            "stamps_ns": 1_790_000_000_000_000_000 + np.arange(n) * 66_666_667,
            "ages_ms": {camera: np.linspace(0, 9, n, dtype="f4") for camera in episode.images},
            "intervention": np.arange(n) % 2 == k % 2,
            "environment_state": np.linspace(k, 1, 4 * n, dtype="f4").reshape(n, 4),
        }
        episode.__dict__.update(noted)
    return made


def assert_same_annotations(a, b) -> None:
    np.testing.assert_array_equal(a.stamps_ns, b.stamps_ns)
    np.testing.assert_array_equal(a.intervention, b.intervention)
    np.testing.assert_array_equal(a.environment_state, b.environment_state)
    assert a.ages_ms.keys() == b.ages_ms.keys()
    for camera in a.ages_ms:
        np.testing.assert_array_equal(a.ages_ms[camera], b.ages_ms[camera])


def test_a_written_file_is_read_back_equal(tmp_path):
    path = tmp_path / "demo.hdf5"
    write_hdf5(path, hdf5_metadata(), episodes())
    dataset = open_dataset(path)
    for index, wanted in enumerate(episodes()):
        assert_same(dataset.episode(index), wanted)
        assert_same_annotations(dataset.episode(index), wanted)
    assert (dataset.names, dataset.state_names) == (NAMES, NAMES)
    assert dataset.units == ("rad", "rad", "m") and dataset.fps == 15
    assert dataset.robot_type == "arm" and dataset.tasks == list(TASKS)
    assert read_own_metadata(path) == {"made": "here"}


def test_an_episode_without_a_verdict_stays_without(tmp_path):
    unjudged = make_episode(0)
    unjudged.__dict__["success"] = None
    write_hdf5(
        tmp_path / "demo.hdf5", hdf5_metadata(), [unjudged, make_episode(0), make_episode(1)]
    )
    dataset = open_dataset(tmp_path)
    assert [dataset.episode(i).success for i in range(3)] == [None, True, False]


def test_the_file_has_everything_that_robomimic_needs(tmp_path):
    path = tmp_path / "demo.hdf5"
    write_hdf5(path, hdf5_metadata(tasks=TASKS[:1]), [make_episode(0), make_episode(1)])
    with h5py.File(path) as file:
        data = file["data"]
        arguments = json.loads(data.attrs["env_args"])
        assert {"env_name", "type", "env_kwargs"} <= arguments.keys()
        assert arguments["env_kwargs"]["control_freq"] == 15
        assert data.attrs["total"] == 5 + 6
        problem_info = json.loads(data.attrs["problem_info"])
        assert problem_info["language_instruction"] == TASKS[0]
        demo = data["demo_1"]
        assert demo.attrs["num_samples"] == 6 and demo["obs/scene_image"].shape == (6, 12, 16, 3)
        assert demo["dones"][:].tolist() == [0, 0, 0, 0, 0, 1]
        assert demo["rewards"][:].sum() == 0 and data["demo_0/rewards"][-1] == 1


def test_a_failed_write_leaves_no_file(tmp_path):
    def broken():
        yield make_episode(0)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_hdf5(tmp_path / "demo.hdf5", hdf5_metadata(), broken())
    assert not (tmp_path / "demo.hdf5").exists()


def write_libero(path: Path, **attributes) -> np.ndarray:
    """Two demonstrations in LIBERO's layout; returns the images of the first one."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 8, 10, 3)).astype(np.uint8)
    problem = {"problem_name": "libero", "language_instruction": ["pick up the ", "bowl"]}
    with h5py.File(path, "w") as file:
        for n in range(2):
            demo = file.create_group(f"data/demo_{n}")
            demo["actions"] = rng.normal(size=(7, 7))
            demo["obs/agentview_rgb"], demo["obs/eye_in_hand_rgb"] = images, images[:, :4]
            demo["obs/joint_states"] = rng.normal(size=(7, 7))
            demo["obs/agentview_depth"] = rng.normal(size=(7, 8, 10, 1))
            demo["dones"] = demo["rewards"] = np.arange(7) == 6
        data = file["data"]
        data.attrs["problem_info"] = json.dumps(problem)
        data.attrs["env_args"] = json.dumps({"env_name": "L", "env_kwargs": attributes})
    return images


def test_a_libero_file_gives_images_language_and_success(tmp_path):
    images = write_libero(tmp_path / "demo.hdf5")
    dataset = open_dataset(tmp_path / "demo.hdf5", state_key="obs/joint_states")
    assert dataset.cameras == {"agentview": (8, 10), "eye_in_hand": (4, 10)}
    assert dataset.tasks == ["pick up the bowl"] and len(dataset.state_names) == 7
    episode = dataset.episode(0)
    np.testing.assert_array_equal(episode.images["agentview"], images)
    assert episode.success is True and dataset.episode(0, images=False).images == {}


def test_shaped_rewards_give_no_verdict(tmp_path):
    write_libero(tmp_path / "demo.hdf5", reward_shaping=True)
    assert open_dataset(tmp_path).episode(0).success is None


def test_images_of_another_length_than_the_actions_are_rejected(tmp_path):
    write_libero(tmp_path / "demo.hdf5")
    with h5py.File(tmp_path / "demo.hdf5", "a") as file:
        del file["data/demo_1/obs/agentview_rgb"]
        file["data/demo_1/obs/agentview_rgb"] = np.zeros((3, 8, 10, 3), np.uint8)
    with pytest.raises(DatasetError, match=r"demo_1 should have 7 images of agentview"):
        open_dataset(tmp_path).episode(1)


def test_a_folder_of_several_files_is_several_datasets(tmp_path):
    for name in ("lift", "stack"):
        (tmp_path / name).mkdir()
        write_libero(tmp_path / name / "demo.hdf5")
    assert [dataset.root.parent.name for dataset in open_all(tmp_path)] == ["lift", "stack"]
    with pytest.raises(DatasetError, match="neither"):
        open_dataset(tmp_path)


def test_an_environment_state_of_another_length_than_the_actions_is_rejected(tmp_path):
    path = tmp_path / "demo.hdf5"
    write_hdf5(path, hdf5_metadata(), episodes())
    with h5py.File(path, "r+") as file:
        demo = file["data/demo_1/obs"]
        short = demo["environment_state"][:-1]
        del demo["environment_state"]
        demo["environment_state"] = short
    with pytest.raises(DatasetError, match=r"environment_state of demo_1 is \(5, 4\), wanted"):
        open_dataset(path)


def test_the_object_state_of_robomimic_is_the_environment_state(tmp_path):
    path = tmp_path / "low_dim.hdf5"
    write_hdf5(path, hdf5_metadata(), episodes())
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo.move("obs/environment_state", "obs/object")
    dataset = open_dataset(path)
    assert dataset.environment_names == tuple(f"obs/object.{k}" for k in range(4))
    wanted = episodes()[2].environment_state
    np.testing.assert_array_equal(dataset.episode(2).environment_state, wanted)
