"""`nac data check` on LeRobot folders: each fault is a finding with its location."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_folder import (
    CONTENTS,
    DATA,
    V3,
    V21,
    change_column,
    change_feature,
    change_info,
    write_folder,
)
from test_cli import run

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.convert import ConversionConfig, to_lerobot
from nac_ros.datasets.factory import open_dataset
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.datasets.validate import check, check_path


def findings(root: Path) -> list[str]:
    return [str(finding) for finding in check_path(root)]


def other(index: int, value) -> Callable[[list], list]:
    """Replaces one value of a column."""
    return lambda values: [value if k == index else old for k, old in enumerate(values)]


@pytest.mark.parametrize("version", [V3, V21])
@pytest.mark.parametrize("fps", [29.97, 12.5, 0.5, 30])
def test_a_sound_folder_has_no_findings(tmp_path, version, fps):
    root = write_folder(
        tmp_path / "in",
        version=version,
        fps=fps,
        images={"observation.image": (6, 8)},
        videos={"observation.images.top": (16, 16)},
    )
    assert findings(root) == []


@pytest.mark.parametrize("name", [DATA, CONTENTS, "meta/info.json", "meta/tasks.parquet"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_file_is_one_finding_with_its_name(tmp_path, capsys, name, share):
    root = write_folder(tmp_path / "in")
    whole = (root / name).read_bytes()
    (root / name).write_bytes(whole[: int(share * len(whole))])
    (found,) = findings(root)
    assert str(root / name) in found and "\n" not in found
    code, out, error = run(capsys, "data", "check", root)
    assert code == 2 and found in out and error.count("\n") == 1


@pytest.mark.parametrize("name", ["episodes", "tasks"])
def test_a_truncated_line_of_json_is_a_finding_with_its_file(tmp_path, name):
    root = write_folder(tmp_path / "in", version=V21)
    path = root / f"meta/{name}.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    (found,) = findings(root)
    assert f"{name}.jsonl, line {3 if name == 'episodes' else 1}" in found


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "action is null"),
        ([0.0] * 5, "action has 5 values, info.json says 2 values"),
        ([], "action has 0 values"),
        ([0.0, None], "action holds a null"),
    ],
)
def test_an_invalid_action_is_a_finding_with_file_episode_and_frame(tmp_path, value, words):
    root = write_folder(tmp_path / "in")
    change_column(root / DATA, "action", other(8 + 3, value))
    assert findings(root) == [
        f"episode 1: {root / DATA}, episode 1, frame 3: {words}"
        + (
            ", info.json says 2 values"
            if "info.json" not in words and "holds" not in words
            else ""
        )
        + " (1 faulty frames); correct the data, or discard the episode"
    ]
    dataset = open_dataset(root)
    assert len(dataset.episode(0)) == 8 and len(dataset.episode(2)) == 7
    with pytest.raises(DatasetError, match="episode 1, frame 3"):
        to_lerobot([dataset], tmp_path / "out", ConversionConfig(), lambda done, total: None)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("key", ["action", "observation.state"])
def test_a_number_that_is_not_finite_is_a_finding_with_its_frame(tmp_path, key, value):
    root = write_folder(tmp_path / "in")
    change_column(root / DATA, key, other(8 + 3, [0.0, value]), pa.list_(pa.float64()))
    (found,) = findings(root)
    assert "episode 1" in found and "not finite at 1 frames, first at 3" in found
    assert str(root / DATA) in found


def test_a_wrong_width_of_every_episode_is_reported_once(tmp_path):
    root = write_folder(tmp_path / "in")
    change_feature(root, "action", shape=[7], names=None)
    (found,) = findings(root)
    assert "action has 2 values, info.json says 7 values, in all frames" in found


def test_an_episode_without_frames_is_a_finding_and_can_be_discarded(tmp_path, capsys):
    root = write_folder(tmp_path / "in", lengths=(8, 0, 7))
    (found,) = findings(root)
    assert "episode 1 has no frame" in found and "discard" in found
    with pytest.raises(DatasetError, match="episode 1 has no frame"):
        open_dataset(root).episode(1)
    code, _, _ = run(capsys, "data", "edit", "discard", root, "--episode", 1)
    assert code == 0 and findings(root) == []


def test_a_data_file_without_rows_is_a_finding(tmp_path):
    root = write_folder(tmp_path / "in")
    pq.write_table(pq.read_table(root / DATA).slice(0, 0), root / DATA)
    assert [text for text in findings(root) if "0 were found" in text]


def test_frames_without_an_episode_are_a_finding(tmp_path):
    root = write_folder(tmp_path / "in")
    table = pq.read_table(root / DATA)
    change = pa.array([9] * 4, pa.int64())
    extra = table.slice(0, 4).set_column(
        table.schema.get_field_index("episode_index"), "episode_index", change
    )
    pq.write_table(pa.concat_tables([table, extra]), root / DATA)
    (found,) = findings(root)
    assert "has 25 frames, its episodes make 21" in found


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "timestamp of frame 3 is 0.0000 s"), (np.nan, "frame 3 is nan")]
)
def test_a_wrong_timestamp_is_a_finding_with_its_frame(tmp_path, value, words):
    root = write_folder(tmp_path / "in")
    change_column(root / DATA, "timestamp", other(8 + 3, value))
    (found,) = findings(root)
    assert found.startswith("episode 1: ") and words in found and str(root / DATA) in found


def test_timestamps_of_a_long_episode_may_have_float32_rounding(tmp_path):
    root = write_folder(tmp_path / "in", lengths=(40_000,), fps=12.5)
    assert findings(root) == []


def test_missing_videos_are_findings(tmp_path):
    root = write_folder(tmp_path / "in", version=V21, videos={"observation.images.top": (16, 16)})
    videos = sorted(root.rglob("*.mp4"))
    videos[1].unlink()
    (found,) = findings(root)
    assert found.startswith("episode 1: ") and "episode_000001.mp4 is missing" in found
    for video in (videos[0], videos[2]):
        video.unlink()
    (found,) = findings(root)
    assert "all videos of camera 'top' are missing" in found


def test_a_depth_camera_is_a_finding(tmp_path, capsys):
    root = write_folder(tmp_path / "in", images={"observation.images.depth": (6, 8)})
    change_feature(root, "observation.images.depth", shape=[6, 8, 1])
    (found,) = findings(root)
    assert "'observation.images.depth' has images of other than 3 channels" in found
    dataset = open_dataset(root)
    assert dataset.cameras == {} and dataset.depth_cameras == {"depth": (6, 8)}
    with pytest.raises(DatasetError, match="such as depth"):
        dataset.images(0, "depth")
    code, out, _ = run(capsys, "data", "info", root)
    assert code == 0 and "depth      {'depth': [6, 8]}" in out


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((6, 8), 900, np.uint16), "1 channels of 16 bits, such as depth"),
        (np.full((6, 8, 3), 900, np.uint16), "3 channels of 16 bits"),
        (np.zeros((6, 8, 4), np.uint8), "4 channels of 8 bits"),
        (np.zeros((4, 8, 3), np.uint8), "the image is (4, 8), but info.json says (6, 8)"),
    ],
)
def test_an_invalid_image_is_a_finding_with_its_frame(tmp_path, image, words):
    root = write_folder(tmp_path / "in", images={"image": (6, 8)})
    encoded = {"bytes": cv2.imencode(".png", image)[1].tobytes(), "path": None}
    change_column(root / DATA, "image", other(8 + 3, encoded))
    (found,) = findings(root)
    assert found.startswith(f"episode 1: {root / DATA}, episode 1, image frame 3: ")
    assert words in found


def test_an_image_with_a_huge_header_is_rejected_before_decoding(tmp_path):
    root = write_folder(tmp_path / "in", images={"image": (6, 8)})

    def enlarge(values: list) -> list:
        data = values[3]["bytes"]
        size = (60_000).to_bytes(4, "big")
        values[3]["bytes"] = data[:16] + size + size + data[24:]
        return values

    change_column(root / DATA, "image", enlarge)
    (found,) = findings(root)
    assert "the image is (60000, 60000), but info.json says (6, 8)" in found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("length", -1),
        ("length", 10**15),
        ("length", None),
        ("data/file_index", -1),
        ("data/chunk_index", 10**12),
        ("data/file_index", None),
        ("episode_index", None),
    ],
)
def test_an_absurd_value_in_meta_episodes_is_a_finding(tmp_path, key, value):
    root = write_folder(tmp_path / "in")
    change_column(root / CONTENTS, key, other(1, value))
    (found,) = findings(root)
    assert f"{root / CONTENTS}, row 1: {key} is {value}" in found


@pytest.mark.parametrize("key", ["total_episodes", "total_frames"])
@pytest.mark.parametrize("value", [None, -1, "many", 10**18, [1]])
def test_a_wrong_total_is_a_finding(tmp_path, key, value):
    root = write_folder(tmp_path / "in")
    change_info(root, **{key: value})
    (found,) = findings(root)
    assert f"info.json says {key} {value!r}, the episodes make" in found


def test_tasks_missing_in_meta_episodes_are_findings(tmp_path):
    root = write_folder(tmp_path / "in", tasks=("pick", "place"))
    change_column(root / DATA, "task_index", other(8 + 3, 1))
    (found,) = findings(root)
    assert found.startswith("episode 1: meta/episodes lists the tasks ['pick']")
    change_column(root / DATA, "task_index", other(8 + 3, 7))
    (found,) = findings(root)
    assert "episode 1, frame 3: task_index 7 is not in the table of tasks" in found


def test_a_missing_path_is_rejected(tmp_path):
    with pytest.raises(DatasetError, match="no dataset at"):
        check_path(tmp_path / "absent")


def test_check_of_an_opened_dataset_does_not_raise(tmp_path):
    root = write_folder(tmp_path / "in")
    dataset = LeRobotDataset.open(root)
    (root / CONTENTS).write_bytes(b"PAR1")
    (found,) = check(dataset)
    assert CONTENTS in str(found)
    assert json.loads((root / "meta/info.json").read_text())["total_episodes"] == 3
