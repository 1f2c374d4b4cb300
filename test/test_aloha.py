"""HDF5 of ACT and ALOHA: one file an episode, images raw or as JPEG."""

import cv2
import h5py
import numpy as np
import pytest
from test_hdf5_damage import write_aloha

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.aloha import NAMES, AlohaDataset, jpeg_size
from nac_ros.datasets.factory import open_all, open_dataset


def write_episode(path, seed=0, jpeg=False) -> None:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        write_aloha(file, np.random.default_rng(seed), jpeg)


def test_a_folder_of_episodes_is_one_dataset_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 0):
        write_episode(tmp_path / f"transfer cube/episode_{number}.hdf5", seed=number)
    dataset = open_dataset(tmp_path / "transfer cube")
    assert isinstance(dataset, AlohaDataset) and len(dataset.episodes) == 3
    assert [path.stem for path in dataset.files] == ["episode_0", "episode_2", "episode_10"]
    assert dataset.names == dataset.state_names == NAMES and dataset.fps == 50
    assert dataset.tasks == ["transfer cube"]
    assert dataset.cameras == {"cam_high": (16, 24), "cam_low": (16, 24)}
    for index, path in enumerate(dataset.files):
        episode = dataset.episode(index)
        with h5py.File(path) as file:
            np.testing.assert_array_equal(episode.actions, file["action"][()].astype("f4"))
            np.testing.assert_array_equal(
                episode.proprio, file["observations/qpos"][()].astype("f4")
            )
            for camera, images in episode.images.items():
                np.testing.assert_array_equal(images, file[f"observations/images/{camera}"][()])
    (found,) = open_all(tmp_path / "transfer cube")
    assert len(found.episodes) == 3
    (below,) = open_all(tmp_path)
    assert below.root == tmp_path / "transfer cube"


def test_a_single_file_is_a_dataset_and_columns_can_be_chosen(tmp_path):
    write_episode(tmp_path / "episode_0.hdf5")
    path = tmp_path / "episode_0.hdf5"
    velocities = open_dataset(path, state_key="/observations/qvel")
    with h5py.File(path) as file:
        wanted = file["observations/qvel"][()].astype("f4")
        states = file["observations/qpos"][()].astype("f4")
    np.testing.assert_array_equal(velocities.episode(0, images=False).proprio, wanted)
    assert velocities.state_names[0] == "observations/qvel.0"
    shifted = open_dataset(path, "observations/qpos", "observations/qpos")
    episode = shifted.episode(0)
    assert shifted.episodes[0].length == 5 and len(episode.images["cam_low"]) == 5
    np.testing.assert_array_equal(episode.actions, states[1:])
    np.testing.assert_array_equal(episode.proprio, states[:-1])
    with pytest.raises(DatasetError, match=r"no table 'poses'.*observations/qvel"):
        open_dataset(path, "poses")


@pytest.mark.parametrize("rows", ["padded", "variable"])
def test_jpeg_images_equal_the_decoder_s_output(tmp_path, rows):
    path = tmp_path / "episode_0.hdf5"
    write_episode(path, jpeg=True)
    with h5py.File(path, "r+") as file:
        stored = file["observations/images/cam_high"][()]
        lengths = file["compress_len"][0].astype(int)
        encoded = [row[:n] for row, n in zip(stored, lengths)]
        if rows == "variable":
            del file["observations/images/cam_high"], file["compress_len"]
            made = file.create_dataset(
                "observations/images/cam_high", (6,), h5py.vlen_dtype(np.uint8)
            )
            for k, row in enumerate(encoded):
                made[k] = row
    dataset = open_dataset(path)
    assert dataset.cameras["cam_high"] == (16, 24)
    images = dataset.episode(0).images["cam_high"]
    for image, row in zip(images, encoded):
        np.testing.assert_array_equal(image, cv2.imdecode(row, cv2.IMREAD_COLOR)[..., ::-1])


def test_a_jpeg_with_a_huge_header_is_not_decoded(tmp_path):
    path = tmp_path / "episode_0.hdf5"
    write_episode(path, jpeg=True)
    with h5py.File(path, "r+") as file:
        row = file["observations/images/cam_high"][3]
        at = row.tobytes().index(b"\xff\xc0")
        row[at + 5 : at + 9] = 0xFF
        file["observations/images/cam_high"][3] = row
    with pytest.raises(DatasetError, match=r"cam_high frame 3: the image is no JPEG"):
        open_dataset(path).episode(0)


def test_the_size_of_a_jpeg_is_read_from_its_header():
    for shape in ((8, 8, 3), (37, 61, 3), (480, 640, 3)):
        data = cv2.imencode(".jpg", np.zeros(shape, np.uint8))[1].tobytes()
        assert jpeg_size(data, "here") == shape[:2]
        for cut in (0, 1, 3, 20, 100):
            with pytest.raises(DatasetError, match="here: the image is no JPEG"):
                jpeg_size(data[:cut], "here")


def test_episodes_of_other_shapes_are_rejected_by_name(tmp_path):
    for number in range(2):
        write_episode(tmp_path / f"episode_{number}.hdf5")
    with h5py.File(tmp_path / "episode_1.hdf5", "r+") as file:
        del file["action"], file["observations/qpos"]
        file["action"] = file["observations/qpos"] = np.zeros((6, 7))
    with pytest.raises(DatasetError, match=r"episode_1.hdf5 has \(7, 7\) dimensions.*\(14, 14\)"):
        open_dataset(tmp_path)
    with h5py.File(tmp_path / "episode_1.hdf5", "r+") as file:
        del file["action"]
        file["action"] = np.zeros((4, 7))
    with pytest.raises(DatasetError, match=r"4 actions and 6 states"):
        open_dataset(tmp_path)
