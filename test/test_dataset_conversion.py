"""`nac data convert`: nothing is lost, interrupted runs resume, real data of every format."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_folder import CONTENTS, DATA, change_column, change_feature, write_folder
from test_cli import run
from test_dataset_video import psnr
from test_episode_locations import write_v21
from test_hdf5 import assert_same_annotations, episodes, hdf5_metadata
from test_lerobot import assert_same, make_episode, write

from nac_ros.core.errors import DatasetError
from nac_ros.datasets import convert
from nac_ros.datasets.convert import ConversionConfig, to_lerobot
from nac_ros.datasets.factory import AnyDataset, open_all, open_dataset
from nac_ros.datasets.hdf5 import write_hdf5
from nac_ros.datasets.lerobot import statistics
from nac_ros.datasets.validate import check

DEFAULT = ConversionConfig()


def check_progress(done: int, total: int) -> None:
    assert 1 <= done <= total


def write_hdf5_source(path: Path, made=None, **changes) -> AnyDataset:
    write_hdf5(path, hdf5_metadata(**changes), made or episodes())
    return open_dataset(path)


def rejection(capsys, *arguments) -> str:
    """The error message of a rejected conversion, one line."""
    code, _, error = run(capsys, "data", "convert", *arguments)
    assert code == 2 and error.count("\n") == 1
    return error


def test_conversion_to_lerobot_and_back_to_hdf5_preserves_everything(tmp_path):
    source = write_hdf5_source(tmp_path / "demo.hdf5")
    to_lerobot([source], tmp_path / "lerobot", DEFAULT, check_progress)
    there = open_dataset(tmp_path / "lerobot")
    convert.to_hdf5([there], tmp_path / "back", DEFAULT, check_progress)
    back = open_dataset(tmp_path / "back")
    for index, wanted in enumerate(episodes()):
        for dataset in (there, back):
            assert_same(dataset.episode(index), wanted)
            assert_same_annotations(dataset.episode(index), wanted)
    for key in ("names", "state_names", "units", "robot_type", "cameras", "fps", "tasks"):
        assert getattr(back, key) == getattr(there, key) == getattr(source, key), key


def test_stamps_ages_and_interventions_are_optional_columns(tmp_path):
    source = write_hdf5_source(tmp_path / "demo.hdf5")
    to_lerobot([source], tmp_path / "out", DEFAULT, check_progress)
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-001.parquet")
    wanted = episodes()[1]
    assert str(table.schema.field("observation.stamp_ns").type) == "int64"
    assert table["observation.stamp_ns"].to_pylist() == wanted.stamps_ns.tolist()
    assert table["intervention"].to_pylist() == wanted.intervention.tolist()
    ages = table["observation.images.scene.age_ms"].to_numpy()
    np.testing.assert_array_equal(ages, wanted.ages_ms["scene"])
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    names = set(info["features"]) - {"observation.images.scene", "observation.images.wrist"}
    assert names <= set(table.column_names)


def test_an_episode_without_a_verdict_is_not_a_failure(tmp_path):
    made = [make_episode(index) for index in range(3)]
    made[1].__dict__["success"] = None
    to_lerobot(
        [write_hdf5_source(tmp_path / "a.hdf5", made)], tmp_path / "out", DEFAULT, check_progress
    )
    dataset = open_dataset(tmp_path / "out")
    assert [dataset.episode(i).success for i in range(3)] == [True, None, True]


def test_without_a_state_there_is_no_state_column(tmp_path):
    made = [make_episode(0)]
    made[0].__dict__["proprio"] = np.zeros((5, 0), np.float32)
    source = write_hdf5_source(tmp_path / "a.hdf5", made, state_names=())
    to_lerobot([source], tmp_path / "out", DEFAULT, check_progress)
    dataset = open_dataset(tmp_path / "out")
    assert dataset.state_names == () and dataset.episode(0).proprio.shape == (5, 0)
    assert check(dataset) == []


def test_statistics_cover_all_values_of_several_sources(tmp_path):
    sources = [
        write_hdf5_source(tmp_path / f"{n}.hdf5", [make_episode(3 * n + k) for k in range(3)])
        for n in range(2)
    ]
    to_lerobot(sources, tmp_path / "out", DEFAULT, check_progress)
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    every = np.concatenate([make_episode(k).actions for k in range(6)]).astype(np.float64)
    for name, share in statistics.QUANTILES.items():
        wanted = np.quantile(every, share, axis=0)
        np.testing.assert_allclose(stats["action"][name], wanted, rtol=1e-12)


def content(root: Path) -> dict[Path, bytes]:
    """Path -> content of every file except convert.json, which has the time and machine."""
    files = [path for path in root.rglob("*.*") if path.name != "convert.json"]
    return {path.relative_to(root): path.read_bytes() for path in files}


class Interruption(Exception):
    """The conversion is interrupted."""


def test_an_interrupted_conversion_resumes_with_the_same_result(tmp_path):
    made = [make_episode(index) for index in range(5)]
    source = write_hdf5_source(tmp_path / "demo.hdf5", made)

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise Interruption

    with pytest.raises(Interruption):
        to_lerobot([source], tmp_path / "resumed", DEFAULT, interrupt)
    assert len(open_dataset(tmp_path / "resumed").episodes) == 2
    done = to_lerobot([source], tmp_path / "resumed", DEFAULT, check_progress)
    assert (done.episodes, done.already_converted) == (5, 2)
    to_lerobot([source], tmp_path / "whole", DEFAULT, check_progress)
    for index in range(5):
        assert_same(open_dataset(tmp_path / "resumed").episode(index), made[index])
    assert content(tmp_path / "resumed") == content(tmp_path / "whole")
    again = to_lerobot([source], tmp_path / "resumed", DEFAULT, check_progress)
    assert (again.episodes, again.already_converted) == (5, 5)


def test_a_killed_conversion_resumes(tmp_path):
    source = tmp_path / "demo.hdf5"
    write_hdf5_source(source, [make_episode(index) for index in range(5)])
    call = ["data", "convert", str(source), "--to", "lerobot", "--out", str(tmp_path / "out")]
    code = (
        "import os, signal, sys\nfrom nac_ros.cli import output\n"
        "from nac_ros.cli.main import main\ndef die(line, done, total):\n"
        "    if done == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "output.progress = die\nmain(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, *call], check=False)
    assert done.returncode == -signal.SIGKILL
    more = to_lerobot([open_dataset(source)], tmp_path / "out", DEFAULT, check_progress)
    assert (more.already_converted, more.episodes) == (3, 5) and check(
        open_dataset(tmp_path / "out")
    ) == []


def test_image_histograms_lost_in_a_crash_are_recomputed(tmp_path):
    out = tmp_path / "out"
    write(out, range(3))
    before = json.loads((out / "meta/stats.json").read_text())
    (out / "meta/nac_image_histograms.json").unlink()
    (out / "meta/stats.json").unlink()
    write(out, [])
    assert json.loads((out / "meta/stats.json").read_text()) == before


def test_sources_that_cannot_be_joined_are_rejected(capsys, tmp_path):
    a, b, out = tmp_path / "a.hdf5", tmp_path / "b.hdf5", tmp_path / "out"
    write_hdf5_source(a)
    write_hdf5_source(b, fps=30)
    to = ("--to", "lerobot", "--out", out)
    assert "a rate of 30 Hz" in rejection(capsys, a, b, *to)
    assert run(capsys, "data", "convert", a, b, *to, "--fps", 30)[0] == 0
    assert "now it is a.hdf5 (3 episodes)" in rejection(capsys, a, *to, "--fps", 30)
    assert "fps = 30, now it is 20" in rejection(capsys, a, b, *to, "--fps", 20)
    write_hdf5_source(b, robot_type="other")
    assert "separate folders" in rejection(capsys, a, b, *to)
    assert "--crf needs --video" in rejection(capsys, a, *to, "--crf", 3)
    assert "needs --to lerobot" in rejection(
        capsys, a, "--to", "hdf5", "--out", out, "--video", "h264"
    )
    assert "no dataset at" in rejection(capsys, tmp_path / "absent", *to)


def test_a_conversion_resumes_for_a_grown_source_but_not_for_another(capsys, tmp_path):
    made = [make_episode(index) for index in range(4)]
    call = (tmp_path / "a.hdf5", "--to", "lerobot", "--out", tmp_path / "out")
    write_hdf5_source(tmp_path / "a.hdf5", made[:3])
    assert run(capsys, "data", "convert", *call)[0] == 0
    write_hdf5_source(tmp_path / "a.hdf5", made)
    code, out, _ = run(capsys, "data", "convert", *call)
    assert code == 0 and "3 of them from before" in out
    for index, episode in enumerate(made):
        assert_same(open_dataset(tmp_path / "out").episode(index), episode)
    write_hdf5_source(tmp_path / "a.hdf5", made[1:])
    assert "choose another folder" in rejection(capsys, *call)


def test_a_recording_becomes_a_lerobot_folder_with_its_true_stamps(tmp_path):
    pytest.importorskip("mcap")
    pytest.importorskip("rosbags")
    from test_resampler import write_recording

    write_recording(tmp_path / "in/a")
    write_recording(tmp_path / "in/b", outcome="failure", modes=((0.0, "policy"), (1.0, "teleop")))
    source = open_dataset(tmp_path / "in")
    to_lerobot([source], tmp_path / "out", DEFAULT, check_progress)
    dataset = open_dataset(tmp_path / "out")
    for index in range(2):
        assert_same(dataset.episode(index), source.episode(index))
        assert_same_annotations(dataset.episode(index), source.episode(index))
    assert dataset.episode(1).intervention.any() and dataset.episode(1).success is False
    assert dataset.units == source.units and dataset.robot_type == "vx300s"
    assert check(dataset) == []


def test_a_folder_with_other_episodes_is_not_changed(capsys, tmp_path):
    write_hdf5_source(tmp_path / "a.hdf5")
    write(tmp_path / "other", range(1))
    error = rejection(capsys, tmp_path / "a.hdf5", "--to", "lerobot", "--out", tmp_path / "other")
    assert "another origin" in error and len(open_dataset(tmp_path / "other").episodes) == 1


def test_an_existing_hdf5_file_is_kept(capsys, tmp_path):
    write_hdf5_source(tmp_path / "a.hdf5")
    write_hdf5_source(tmp_path / "b.hdf5", [make_episode(7)])
    call = ("data", "convert", tmp_path / "a.hdf5", "--to", "hdf5", "--out", tmp_path / "out")
    assert run(capsys, *call)[0] == 0
    before = (tmp_path / "out/demo.hdf5").stat().st_mtime_ns
    code, out, _ = run(capsys, *call)
    assert code == 0 and "3 of them from before" in out
    error = rejection(capsys, tmp_path / "b.hdf5", "--to", "hdf5", "--out", tmp_path / "out")
    assert "remove it or choose another folder" in error
    assert (tmp_path / "out/demo.hdf5").stat().st_mtime_ns == before


def test_a_v21_folder_becomes_v3_with_its_videos(tmp_path):
    actions = write_v21(tmp_path / "old")
    source = open_dataset(tmp_path / "old")
    to_lerobot(
        [source], tmp_path / "new", ConversionConfig(video=convert.VideoConfig()), check_progress
    )
    dataset = open_dataset(tmp_path / "new")
    assert check(dataset) == [] and dataset.tasks == ["stack", "pour"]
    for index, values in enumerate(actions):
        np.testing.assert_array_equal(dataset.episode(index).actions, values)
        a, b = source.episode(index).images["front"], dataset.episode(index).images["front"]
        assert psnr(a, b).min() >= 35


REAL = {
    "piper_real": [],
    "so101_real": [],
    "robosuite_human": [],
    "bridge_debug": ["dataset: in every episode, all images of image_3 are black"],
}


@pytest.mark.parametrize(("folder", "findings"), REAL.items())
def test_real_data_is_bit_equal_after_conversion_to_lerobot_and_hdf5(
    capsys, tmp_path, nac_data, folder, findings
):
    out, back = tmp_path / "lerobot", tmp_path / "hdf5"
    call = ("data", "convert", nac_data / folder, "--to", "lerobot", "--out", out)
    assert run(capsys, *call)[0] == 0
    assert run(capsys, "data", "convert", out, "--to", "hdf5", "--out", back)[0] == 0
    assert [str(finding) for finding in check(open_dataset(out))] == findings
    sources = open_all(nac_data / folder)
    wanted = [source.episode(i) for source in sources for i in range(len(source.episodes))]
    for path in (out, back):
        dataset = open_dataset(path)
        assert len(dataset.episodes) == len(wanted)
        for index, episode in enumerate(wanted):
            assert_same(dataset.episode(index), episode)


def test_real_images_are_equal_as_png_and_close_as_video(tmp_path, nac_data):
    source = open_dataset(nac_data / "bridge_debug")
    for codec in ("h264", "av1"):
        video = ConversionConfig(video=convert.VideoConfig(codec=codec))
        to_lerobot([source], tmp_path / codec, video, check_progress)
        dataset = open_dataset(tmp_path / codec)
        for index in range(0, 25, 4):
            episode, shown = source.episode(index), dataset.episode(index)
            np.testing.assert_array_equal(episode.actions, shown.actions)
            for camera, images in episode.images.items():
                assert psnr(images, shown.images[camera]).min() >= 35


def test_state_columns_can_be_converted_as_actions(capsys, tmp_path, nac_data):
    code, _, _ = run(
        capsys,
        "data",
        "convert",
        nac_data / "piper_real",
        "--to",
        "lerobot",
        "--out",
        tmp_path / "out",
        "--action-key",
        "observation.state",
    )
    source = open_dataset(nac_data / "piper_real", "observation.state")
    dataset = open_dataset(tmp_path / "out")
    assert code == 0 and len(dataset.names) == 7
    assert_same(dataset.episode(54), source.episode(54))


def write_and_convert(root: Path, **changes) -> tuple[AnyDataset, AnyDataset]:
    """A folder as another library writes it, and its conversion."""
    keys = {key: changes.get(key) for key in ("action_key", "state_key")}
    source = open_dataset(write_folder(root / "in", **changes), *keys.values())
    to_lerobot([source], root / "out", DEFAULT, check_progress)
    return source, open_dataset(root / "out")


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_image_keys_of_other_libraries_become_cameras_of_lerobot(tmp_path, version):
    pictures = {"observation.image": (6, 8), "wrist_image": (4, 4)}
    source, made = write_and_convert(
        tmp_path, version=version, images=pictures, action_key="actions", state_key="state"
    )
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert {"observation.images.image", "observation.images.wrist_image"} <= set(info["features"])
    assert made.cameras == source.cameras == {"image": (6, 8), "wrist_image": (4, 4)}
    for index in range(3):
        assert_same(made.episode(index), source.episode(index))
    assert check(made) == []


@pytest.mark.parametrize("fps", [29.97, 12.5, 0.5])
@pytest.mark.parametrize("codec", [None, "h264"])
def test_a_fractional_rate_stays_fractional(tmp_path, fps, codec):
    videos = {"observation.images.top": (64, 64)}
    source = open_dataset(write_folder(tmp_path / "in", fps=fps, videos=videos))
    video = convert.VideoConfig(codec=codec) if codec else None
    to_lerobot([source], tmp_path / "out", ConversionConfig(video=video), check_progress)
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    made = open_dataset(tmp_path / "out")
    assert info["fps"] == made.fps == fps and check(made) == []
    if codec:
        facts = info["features"]["observation.images.top"]["info"]
        assert facts["video.fps"] == fps
    done = convert.to_hdf5([made], tmp_path / "hdf5", DEFAULT, check_progress)
    assert done.frames == 21


def test_a_given_rate_may_be_fractional(capsys, tmp_path):
    write_hdf5_source(tmp_path / "a.hdf5")
    call = (tmp_path / "a.hdf5", "--to", "lerobot", "--out", tmp_path / "out")
    for wrong in ("0", "-5", "nan", "1e9"):
        assert "--fps must be in" in rejection(capsys, *call, "--fps", wrong)
    assert run(capsys, "data", "convert", *call, "--fps", "29.97")[0] == 0
    assert json.loads((tmp_path / "out/meta/info.json").read_text())["fps"] == 29.97


def halves(episode: int, length: int) -> np.ndarray:
    return (np.arange(length) >= length // 2).astype(int)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_several_tasks_of_an_episode_are_kept_per_frame(tmp_path, version):
    tasks = ("open it", "close it")
    source, made = write_and_convert(tmp_path, version=version, tasks=tasks, task_index=halves)
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-001.parquet")
    assert table["task_index"].to_pylist() == [0, 0, 0, 1, 1, 1]
    assert made.tasks == list(tasks) and made.episodes[1].tasks == tasks
    for dataset in (source, made):
        episode = dataset.episode(1)
        assert episode.frame_tasks() == [tasks[0]] * 3 + [tasks[1]] * 3
        with pytest.raises(DatasetError, match="episode 1 has 2 tasks"):
            _ = episode.task
    assert check(source) == check(made) == []


def test_a_format_with_one_task_per_episode_rejects_several(capsys, tmp_path):
    source = write_folder(tmp_path / "in", tasks=("a", "b"), task_index=halves)
    for to, more in (("hdf5", ()), ("mcap", ("--robot", "vx300s"))):
        error = rejection(capsys, source, "--to", to, "--out", tmp_path / to, *more)
        assert "episode 0 has 2 tasks" in error and not (tmp_path / to).exists()


def test_an_episode_without_a_task_is_converted(tmp_path):
    source, made = write_and_convert(tmp_path, tasks=())
    assert source.tasks == [] and source.episode(0).task == made.episode(0).task == ""


def depth_folder(root: Path, kind: str = "image") -> tuple[Path, list[bytes]]:
    """A folder with a camera of 16 bits and one channel, and its images as stored."""
    key = "observation.images.depth"
    write_folder(root, images={key: (6, 8), "image": (4, 4)})
    change_feature(root, key, dtype=kind, shape=[6, 8, 1])
    grid = np.arange(21 * 48, dtype=np.uint16).reshape(21, 6, 8) * 61
    encoded = [cv2.imencode(".png", image)[1].tobytes() for image in grid]
    change_column(root / DATA, key, lambda rows: [{"bytes": e, "path": None} for e in encoded])
    return root, encoded


def test_a_depth_image_is_copied_unchanged(tmp_path):
    root, encoded = depth_folder(tmp_path / "in")
    source = open_dataset(root)
    to_lerobot([source], tmp_path / "out", DEFAULT, check_progress)
    made = open_dataset(tmp_path / "out")
    assert made.cameras == {"image": (4, 4)} and made.depth_cameras == {"depth": (6, 8)}
    found = [image for index in range(3) for image in made.episode(index).depth["depth"]]
    assert found == encoded
    pixels = cv2.imdecode(np.frombuffer(found[20], np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels.dtype == np.uint16 and pixels.shape == (6, 8)
    assert ["such as depth" in str(finding) for finding in check(made)] == [True]


def test_a_depth_image_is_not_converted_to_color(capsys, tmp_path):
    root, _ = depth_folder(tmp_path / "in")
    for to, more in (("hdf5", ()), ("mcap", ("--robot", "vx300s"))):
        error = rejection(capsys, root, "--to", to, "--out", tmp_path / to, *more)
        assert "'observation.images.depth'" in error and "such as depth" in error
    change_feature(root, "observation.images.depth", dtype="video")
    error = rejection(capsys, root, "--to", "lerobot", "--out", tmp_path / "out")
    assert "a video of depth" in error


def test_an_invalid_depth_image_is_rejected_with_its_frame(capsys, tmp_path):
    root, _ = depth_folder(tmp_path / "in")
    wrong = cv2.imencode(".png", np.zeros((6, 8, 3), np.uint8))[1].tobytes()

    def replace(rows: list) -> list:
        rows[8 + 3]["bytes"] = wrong
        return rows

    change_column(root / DATA, "observation.images.depth", replace)
    error = rejection(capsys, root, "--to", "lerobot", "--out", tmp_path / "out")
    assert "episode 1, depth frame 3: the image is (6, 8, 3), wanted (6, 8, 1)" in error


def test_a_depth_camera_survives_an_edit(capsys, tmp_path):
    root, encoded = depth_folder(tmp_path / "in")
    assert run(capsys, "data", "edit", "discard", root, "--episode", 1)[0] == 0
    made = open_dataset(root)
    assert [i for k in range(2) for i in made.episode(k).depth["depth"]] == (
        encoded[:8] + encoded[14:]
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": ("b", "a")}, "(b, a)"),
        ({"fps": 29.97}, "a rate of 29.97 Hz"),
        ({"names": None}, "add the names"),
    ],
)
def test_folders_of_other_joints_or_rates_are_not_joined(capsys, tmp_path, changes, words):
    a = write_folder(tmp_path / "a")
    b = write_folder(tmp_path / "b", **changes)
    assert words in rejection(capsys, a, b, "--to", "lerobot", "--out", tmp_path / "out")
    code, _, error = run(capsys, "data", "edit", "merge", a, b, "--out", tmp_path / "merged")
    assert code == 2 and error.count("\n") == 1 and words in error
    assert not (tmp_path / "merged").exists()


def test_units_that_differ_are_not_merged(capsys, tmp_path):
    a, b = write_folder(tmp_path / "a"), write_folder(tmp_path / "b")
    change_feature(a, "action", units=["rad", "rad"])
    change_feature(b, "action", units=["deg", "deg"])
    code, _, error = run(capsys, "data", "edit", "merge", a, b, "--out", tmp_path / "merged")
    assert code == 2 and "has units (deg, deg)" in error


@pytest.mark.parametrize("text", [pa.large_string(), pa.string_view()])
def test_parquet_of_pandas_3_and_polars_is_read(tmp_path, text):
    """Large strings, string views, large lists, and the text as the index of a frame."""
    root = write_folder(tmp_path / "in", vector=pa.large_list(pa.float64()))
    column = pa.array(["pick it"], text)
    names = ["__index_level_0__", "task_index"]
    pq.write_table(pa.table([column, [0]], names), root / "meta/tasks.parquet")
    change_column(root / CONTENTS, "tasks", lambda rows: pa.array(rows, pa.large_list(text)))
    dataset = open_dataset(root)
    assert dataset.tasks == ["pick it"] and dataset.episodes[0].task == "pick it"
    assert check(dataset) == []
