"""meta/info.json: every value in use has a range, and a rejection names key and value."""

import json
import math

import pytest
from fuzz import nested
from lerobot_folder import V21, change_feature, change_info, write_folder

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.lerobot.info import format_path, int_if_whole, read_info
from nac_ros.datasets.lerobot.reader import LeRobotDataset


@pytest.mark.parametrize(
    "fps", [0, -30, 1e308, 1e-9, math.nan, math.inf, "30", None, True, [30], 10**400]
)
def test_an_invalid_rate_is_rejected(tmp_path, fps):
    write_folder(tmp_path / "in")
    change_info(tmp_path / "in", fps=fps)
    words = r"fps is .*; wanted frames per second|a whole number of 401 digits"
    with pytest.raises(DatasetError, match=rf"info\.json.*({words})"):
        read_info(tmp_path / "in")


@pytest.mark.parametrize("fps", [0.5, 12.5, 29.97, 1000 / 7, 30, 30.0])
def test_a_fractional_rate_is_kept(tmp_path, fps):
    dataset = LeRobotDataset.open(write_folder(tmp_path / "in", fps=fps))
    assert dataset.fps == fps and isinstance(int_if_whole(30.0), int)


@pytest.mark.parametrize(
    "template",
    [
        "../outside/{chunk_index}.parquet",
        "/etc/{file_index}",
        "data/../../{file_index}",
        7,
        "{chunk_index.__class__}",
        "{0}",
        "{unknown}",
        "data/{chunk_index:>999999999}",
        "a\\..\\b",
        "a\0b",
        "data/{{chunk_index}}",
    ],
)
@pytest.mark.parametrize("key", ["data_path", "video_path"])
def test_a_path_that_leaves_the_folder_or_runs_code_is_rejected(tmp_path, key, template):
    write_folder(tmp_path / "in")
    change_info(tmp_path / "in", **{key: template})
    with pytest.raises(DatasetError, match=f"{key} is |contains NUL"):
        LeRobotDataset.open(tmp_path / "in")


def test_a_path_template_of_another_library_is_used(tmp_path):
    root = write_folder(tmp_path / "in", version=V21)
    change_info(root, data_path="numbers/{episode_chunk:03d}/{episode_index:d}.parquet")
    for index in range(3):
        target = root / f"numbers/000/{index}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / f"data/chunk-000/episode_{index:06d}.parquet").rename(target)
    assert len(LeRobotDataset.open(root).episode(2)) == 7
    assert (
        format_path("{video_key}/{file_index:03d}", {"video_key": "a", "file_index": 5}) == "a/005"
    )


@pytest.mark.parametrize(
    "shape", [None, [], 5, "32", [0, 2], [-2], [2.0], [True], [10**9], [[2]], [1] * 9, {"0": 2}]
)
def test_an_invalid_shape_is_rejected(tmp_path, shape):
    write_folder(tmp_path / "in")
    change_feature(tmp_path / "in", "action", shape=shape)
    with pytest.raises(DatasetError, match="feature 'action' has shape"):
        LeRobotDataset.open(tmp_path / "in")


@pytest.mark.parametrize("key", ["a/b", "../action", "", "a\nb", "..", "a\\b", "a\0"])
def test_a_feature_whose_name_is_a_path_is_rejected(tmp_path, key):
    write_folder(tmp_path / "in")
    path = tmp_path / "in/meta/info.json"
    info = json.loads(path.read_text())
    info["features"][key] = {"dtype": "video", "shape": [16, 16, 3], "names": None}
    path.write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=r"wanted a name without slashes|contains NUL"):
        LeRobotDataset.open(tmp_path / "in")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b'{"fps": 30', "not valid JSON"),
        (b"\xff\xfe{}", "'utf-8' codec"),
        (nested(100_000).encode(), "nested too deeply"),
        (b'{"fps": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[]", "wanted an object"),
        (b"null", "wanted an object"),
        (b"{}", "codebase_version None"),
    ],
)
def test_an_invalid_file_is_rejected_in_one_sentence(tmp_path, content, words):
    write_folder(tmp_path / "in")
    (tmp_path / "in/meta/info.json").write_bytes(content)
    with pytest.raises(DatasetError, match=words) as caught:
        LeRobotDataset.open(tmp_path / "in")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
