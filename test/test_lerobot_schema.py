"""Cameras of a dataset: any image key gives a camera with a unique name."""

import numpy as np
import pytest
from lerobot_folder import V3, V21, change_feature, images, write_folder

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.lerobot import schema
from nac_ros.datasets.lerobot.reader import LeRobotDataset


def names_of(*keys: str) -> dict[str, str]:
    return schema.image_keys({key: {"dtype": "image", "shape": [4, 4, 3]} for key in keys})


def test_a_camera_is_named_by_the_end_of_its_key():
    keys = ("observation.images.top", "observation.image", "wrist_image", "observation.image2")
    assert list(names_of(*keys)) == ["top", "image", "wrist_image", "image2"]
    assert list(names_of(*keys).values()) == list(keys)


@pytest.mark.parametrize(
    "keys",
    [
        ("top", "observation.images.top"),
        ("observation.top", "top", "observation.images.top", "observation_top"),
        ("observation.images.a", "observation.images.observation.images.a", "a"),
        ("a_b", "observation.a_b", "observation_a_b", "observation.images.observation_a_b"),
    ],
)
def test_keys_with_the_same_end_are_two_cameras(keys):
    found = names_of(*keys)
    assert sorted(found.values()) == sorted(keys) and len(found) == len(keys)
    again = names_of(*(f"observation.images.{name}" for name in found))
    assert set(again) == set(found), "names change when the dataset is written anew"


def test_other_columns_are_not_cameras():
    columns = {"observation.images.note": {"dtype": "string", "shape": [1]}}
    assert schema.image_keys(columns) == {}


@pytest.mark.parametrize("version", [V3, V21])
@pytest.mark.parametrize("key", ["observation.image", "image", "observation.images.top"])
def test_images_of_any_key_are_read(tmp_path, version, key):
    root = write_folder(tmp_path / "in", version=version, images={key: (6, 8)})
    dataset = LeRobotDataset.open(root)
    (camera,) = dataset.cameras
    assert dataset.cameras[camera] == (6, 8)
    for index, length in enumerate((8, 6, 7)):
        found = dataset.episode(index).images[camera]
        np.testing.assert_array_equal(found, images(index, length, (6, 8)))


@pytest.mark.parametrize("version", [V3, V21])
def test_videos_of_any_key_are_read(tmp_path, version):
    videos = {"wrist_image": (16, 16), "observation.image": (32, 16)}
    dataset = LeRobotDataset.open(write_folder(tmp_path / "in", version=version, videos=videos))
    assert dataset.cameras == {"wrist_image": (16, 16), "image": (32, 16)}
    assert dataset.episode(1).images["image"].shape == (6, 32, 16, 3)


@pytest.mark.parametrize(
    ("shape", "names", "size"),
    [
        ([3, 6, 8], ["channels", "height", "width"], (6, 8)),
        ([3, 6, 8], ["c", "h", "w"], (6, 8)),
        ([3, 6, 8], None, (6, 8)),
        ([6, 8, 3], None, (6, 8)),
        ([3, 8, 3], ["height", "width", "channel"], (3, 8)),
    ],
)
def test_channels_may_be_the_first_or_last_dimension(shape, names, size):
    feature = {"dtype": "image", "shape": shape, "names": names}
    assert schema.color_image_sizes({"image": feature}) == {"image": size}


@pytest.mark.parametrize(
    "feature",
    [
        {"dtype": "image", "shape": [6, 8, 1], "names": None},
        {"dtype": "image", "shape": [6, 8], "names": None},
        {"dtype": "image", "shape": [1, 6, 8], "names": ["channel", "height", "width"]},
        {"dtype": "video", "shape": [6, 8, 3], "info": {"video.is_depth_map": True}},
    ],
)
def test_images_of_one_channel_are_not_colour_cameras(feature):
    assert schema.color_image_sizes({"depth": feature}) == {}
    assert schema.depth_image_sizes({"depth": feature}) == {"depth": (6, 8)}


@pytest.mark.parametrize("units", ["rad", ["rad"], [1, 2], {"a": "rad"}])
def test_invalid_units_are_rejected(tmp_path, units):
    write_folder(tmp_path / "in")
    change_feature(tmp_path / "in", "action", units=units)
    with pytest.raises(DatasetError, match="feature 'action' has units"):
        LeRobotDataset.open(tmp_path / "in")
