"""`open_dataset` for every format, and HDF5 through it."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.factory import open_dataset
from nac_ros.datasets.hdf5 import Hdf5Dataset
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.datasets.lerobot.writer import DatasetWriter


def write_hdf5(path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    actions = {f"demo_{n}": rng.normal(size=(20 + n, 7)) for n in (10, 2, 1)}
    with h5py.File(path, "w") as file:
        for name, values in actions.items():
            file[f"data/{name}/actions"] = values
            file[f"data/{name}/obs/joints"] = 2 * values
        facts = {"env_name": "Lift", "env_kwargs": {"control_freq": 10, "robots": ["Panda"]}}
        file["data"].attrs["env_args"] = json.dumps(facts)
    return actions


def test_hdf5_demonstrations_are_in_the_order_of_their_numbers(tmp_path):
    written = write_hdf5(tmp_path / "demo.hdf5")
    dataset = open_dataset(tmp_path / "demo.hdf5", state_key="obs/joints")
    assert [info.length for info in dataset.episodes] == [21, 22, 30]
    assert (dataset.fps, dataset.robot_type, dataset.tasks) == (10, "Panda", ["Lift"])
    for index, name in enumerate(["demo_1", "demo_2", "demo_10"]):
        episode = dataset.episode(index)
        np.testing.assert_array_equal(episode.actions, written[name].astype(np.float32))
        np.testing.assert_array_equal(episode.proprio, 2 * episode.actions)


def test_hdf5_state_as_action_is_the_next_state(tmp_path):
    written = write_hdf5(tmp_path / "demo.hdf5")
    episode = open_dataset(tmp_path, "obs/joints", "obs/joints").episode(0)
    states = (2 * written["demo_1"]).astype(np.float32)
    np.testing.assert_array_equal(episode.actions, states[1:])
    np.testing.assert_array_equal(episode.proprio, states[:-1])


def test_an_unknown_hdf5_key_lists_the_known_ones(tmp_path):
    write_hdf5(tmp_path / "demo.hdf5")
    with pytest.raises(DatasetError, match=r"poses.*actions, obs/joints"):
        open_dataset(tmp_path, "poses")


def test_open_dataset_finds_the_format(tmp_path):
    write_hdf5(tmp_path / "demo.hdf5")
    assert isinstance(open_dataset(tmp_path), Hdf5Dataset)
    folder = tmp_path / "lerobot"
    DatasetWriter.create_or_resume(folder, fps=30, robot_type="", names="ab", cameras={}).close()
    assert isinstance(open_dataset(folder), LeRobotDataset) and open_dataset(folder).episodes == []


def test_open_dataset_rejects_other_paths_with_the_reason(tmp_path):
    with pytest.raises(DatasetError, match="no dataset at"):
        open_dataset(tmp_path / "absent")
    with pytest.raises(DatasetError, match=r"neither.*0 found"):
        open_dataset(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DatasetError, match="no HDF5 file"):
        open_dataset(tmp_path / "notes.txt")


@pytest.mark.parametrize(("task", "steps"), [("door", 261), ("lift", 412), ("stack", 532)])
def test_real_robosuite_demonstrations_are_read(task, steps):
    if "NAC_DATA" not in os.environ:
        pytest.skip("NAC_DATA names no folder with real demonstrations")
    dataset = open_dataset(Path(os.environ["NAC_DATA"]) / "robosuite_human" / task)
    assert [info.length for info in dataset.episodes] == [steps]
    assert dataset.fps == 20 and dataset.episode(0).actions.shape == (steps, 7)
