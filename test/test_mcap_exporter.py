"""`nac data convert --to mcap`: episodes of other formats are equal when read back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_cli import run
from test_dataset_conversion import check_progress, rejection, write_hdf5_source
from test_dataset_video import psnr
from test_hdf5 import assert_same_annotations
from test_lerobot import NAMES, SHAPES, assert_same, make_episode

pytest.importorskip("mcap")
pytest.importorskip("rosbags")

from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from test_mcap import STORE

from nac_ros.core import config as configs
from nac_ros.core.errors import DatasetError
from nac_ros.datasets.convert import ConversionConfig, to_lerobot
from nac_ros.datasets.factory import open_dataset
from nac_ros.datasets.lerobot.writer import DatasetWriter
from nac_ros.datasets.mcap import exporter
from nac_ros.datasets.mcap import reader as mcap_reader
from nac_ros.datasets.mcap import writer as mcap_writer
from nac_ros.datasets.mcap.exporter import to_mcap
from nac_ros.datasets.mcap.validate import check_recordings
from nac_ros.datasets.validate import check
from nac_ros.robot.spec import load_robot

T0, PERIOD = 1_790_000_000_123_456_789, 33_333_333


def moving_episode(index, length=40, task="Do it."):
    """An episode with a moving arm and changing images."""
    return make_episode(index, length, task)


def annotated_episode(index, ages=None, mark=None, jitter=0):
    """A moving episode with uneven stamps, image ages and interventions."""
    made, rng = moving_episode(index), np.random.default_rng(index)
    n = len(made)
    stamps = T0 + index * 10**11 + np.arange(n) * PERIOD + rng.integers(-jitter, jitter + 1, n)
    intervention = np.zeros(n, bool)
    for first, end in mark or ():
        intervention[first:end] = True
    aged = {camera: np.asarray(row, np.float32) for camera, row in (ages or {}).items()}
    return replace(made, stamps_ns=stamps, ages_ms=aged, intervention=intervention)


@pytest.fixture
def robot(tmp_path):
    """Writes the YAML of the robot of these tests; `transport` is that of its wrist camera."""

    def write_yaml(transport="raw", **changes):
        transports = {"wrist": transport}
        joint = {"unit": "rad", "position": [-9, 9], "velocity": 3, "acceleration": 9, "jerk": 99}
        content = {
            "name": "arm",
            "joints": [{"name": name, "home": 0, **joint} for name in NAMES],
            "cameras": [
                {
                    "name": name,
                    "width": width,
                    "height": height,
                    "rate_hz": 30,
                    "topic": f"{name}/image_raw",
                    "transport": transports.get(name, "raw"),
                }
                for name, (height, width) in SHAPES.items()
            ],
            "groups": [{"name": "all", "kind": "jtc", "topic": "t", "joints": list(NAMES)}],
        } | changes
        path = tmp_path / "arm.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write_yaml


def converted(sources, out, robot):
    to_mcap(sources, out, ConversionConfig(robot=robot), check_progress)
    return open_dataset(out)


def test_a_lerobot_folder_is_equal_after_conversion_to_recordings_and_back(tmp_path, robot):
    write_lerobot(tmp_path / "in", [moving_episode(k, task=f"Task {k}.") for k in range(3)])
    source = open_dataset(tmp_path / "in")
    recordings = converted([source], tmp_path / "mcap", robot())
    to_lerobot([recordings], tmp_path / "back", ConversionConfig(), check_progress)
    back = open_dataset(tmp_path / "back")
    for index in range(3):
        wanted, found = source.episode(index), back.episode(index)
        assert_same(found, wanted)
        assert found.stamps_ns is None and found.intervention is None and found.ages_ms == {}
        np.testing.assert_array_equal(back.timestamps(index), source.timestamps(index))
    assert (back.fps, back.names, back.tasks) == (30, NAMES, source.tasks)
    assert back.cameras == SHAPES and back.robot_type == "arm"
    assert check(back) == [] and check_recordings(tmp_path / "mcap") == []


def write_lerobot(root, made, **changes):
    options = {"fps": 30, "robot_type": "arm", "names": NAMES, "cameras": SHAPES} | changes
    writer = DatasetWriter.create_or_resume(root, **options)
    for episode in made:
        writer.add_episode(episode)
    writer.close()


AGES = {
    "at once": {},
    "one camera ahead": {"scene": [0.0] * 40, "wrist": [-13.0] * 40},
    "one camera late": {"scene": [13.0] * 40, "wrist": [0.0] * 40},
    "a dropped image": {"scene": [0.0] * 10 + [33.333333] + [0.0] * 29, "wrist": [0.0] * 40},
}


@pytest.mark.parametrize("ages", AGES.values(), ids=AGES)
def test_stamps_ages_and_interventions_are_preserved(tmp_path, robot, ages):
    jitter = 0 if len(set(ages.get("scene", [0]))) > 1 else 4_000_000
    made = [
        annotated_episode(0, ages, [(5, 12), (20, 40)], jitter),
        annotated_episode(1, ages, [(0, 3)]),
        annotated_episode(2, ages),
    ]
    if len(set(ages.get("scene", [0]))) > 1:  # the frame repeats the previous image
        for episode in made:
            episode.images["scene"][10] = episode.images["scene"][9]
    source = write_hdf5_source(tmp_path / "a.hdf5", made, fps=30, units=("rad",) * 3)
    recordings = converted([source], tmp_path / "mcap", robot())
    assert len(recordings.episodes) == 3
    for index, wanted in enumerate(made):
        found = recordings.episode(index)
        assert_same(found, wanted)
        np.testing.assert_array_equal(found.stamps_ns, wanted.stamps_ns)
        np.testing.assert_array_equal(found.intervention, wanted.intervention)
        for camera, row in wanted.ages_ms.items():
            shown = found.ages_ms[camera]
            np.testing.assert_allclose(shown[:-1], row[:-1], atol=1e-5)
            np.testing.assert_allclose(shown[-1], min(row[-1], 0), atol=1e-5)
    assert check_recordings(tmp_path / "mcap") == []


def test_images_of_jpeg_cameras_differ_only_by_jpeg_compression(tmp_path, robot):
    made = moving_episode(0)
    ramp = np.linspace(0, 255, 8).astype(np.uint8)
    made.images["wrist"][:] = ramp[None, :, None, None]
    made.images["wrist"][..., 1] = 3 * np.arange(40, dtype=np.uint8)[:, None, None]
    write_lerobot(tmp_path / "in", [made])
    recordings = converted([open_dataset(tmp_path / "in")], tmp_path / "mcap", robot("jpeg"))
    found = recordings.episode(0)
    np.testing.assert_array_equal(found.images["scene"], made.images["scene"])
    assert psnr(found.images["wrist"], made.images["wrist"]).min() > 35
    (folder,) = (p for p in (tmp_path / "mcap").iterdir() if p.is_dir())
    topics = {m.topic: m.message_type for m in mcap_reader.read_messages(folder)}
    assert topics["/wrist/image_raw/compressed"] == "sensor_msgs/msg/CompressedImage"


def test_rosbags_and_mcap_read_a_converted_recording(tmp_path, robot):
    made = annotated_episode(0, mark=[(10, 20)])
    source = write_hdf5_source(tmp_path / "a.hdf5", [made], fps=30, units=("rad",) * 3)
    converted([source], tmp_path / "mcap", robot())
    (folder,) = (p for p in (tmp_path / "mcap").iterdir() if p.is_dir())
    assert folder.name == "episode_000000_do-it"
    with AnyReader([folder]) as reader:
        message_types = {c.topic: c.msgtype for c in reader.connections}
        states = [
            (m.header.stamp.sec * 10**9 + m.header.stamp.nanosec, m.position)
            for c, _, raw in reader.messages()
            if c.topic == "/joint_states"
            for m in [reader.deserialize(raw, c.msgtype)]
        ]
    assert (
        message_types["/guard/mode"] == "std_msgs/msg/String" and "/policy/chunk" in message_types
    )
    assert [stamp for stamp, _ in states] == made.stamps_ns.tolist()
    np.testing.assert_array_equal(np.array([p for _, p in states], np.float32), made.proprio)
    with (folder / mcap_writer.FILE).open("rb") as stream:
        modes = [
            STORE.deserialize_cdr(m.data, s.name).data
            for s, c, m in make_reader(stream, validate_crcs=True).iter_messages(["/guard/mode"])
        ]
    assert modes == ["policy", "teleop", "policy"]


def test_an_interrupted_conversion_resumes_and_keeps_discarded_episodes(tmp_path, robot):
    write_lerobot(tmp_path / "in", [moving_episode(k) for k in range(4)])
    source, out = open_dataset(tmp_path / "in"), tmp_path / "mcap"
    options = ConversionConfig(robot=robot())

    class Interruption(Exception):
        pass

    def interrupt(done, total):
        if done == 2:
            raise Interruption

    with pytest.raises(Interruption):
        to_mcap([source], out, options, interrupt)
    folders = sorted(p for p in out.iterdir() if p.is_dir())
    folders[0].rename(mcap_writer.discarded_path(folders[0]))
    mcap_writer.partial_path(out / "episode_000002_do-it").mkdir()  # as after a kill
    done = to_mcap([source], out, options, check_progress)
    assert (done.already_converted, done.episodes) == (2, 4)
    names = sorted(p.name for p in out.iterdir() if p.is_dir())
    assert names == [
        "episode_000000_do-it.discarded",
        *(f"episode_{k:06d}_do-it" for k in (1, 2, 3)),
    ]
    assert_same(open_dataset(out).episode(1), moving_episode(2))
    with pytest.raises(DatasetError, match="with cameras = scene, wrist, now it is scene; give"):
        to_mcap([source], out, replace(options, cameras=("scene",)), check_progress)


def test_a_frozen_camera_is_reported_and_all_its_images_are_kept(tmp_path, robot, capsys):
    made = moving_episode(0, 60)
    made.proprio[:19] = made.proprio[0]  # at rest with changing images: the camera has noise
    made.images["wrist"][20:] = 7
    write_lerobot(tmp_path / "in", [made])
    call = ("data", "convert", tmp_path / "in", "--to", "mcap", "--robot", robot())
    code, out, _ = run(capsys, *call, "--out", tmp_path / "mcap")
    assert code == 0 and "1 of them" in out and "nac data check" in out
    (text,) = [t for t in map(str, check_recordings(tmp_path / "mcap")) if "while it was" in t]
    assert "of its 60 frames" in text and "frozen" in text
    (folder,) = (p for p in (tmp_path / "mcap").iterdir() if p.is_dir())
    topics = [m.topic for m in mcap_reader.read_messages(folder)]
    assert topics.count("/wrist/image_raw") == topics.count("/joint_states") == 60
    only = tmp_path / "scene"
    assert run(capsys, *call, "--cameras", "scene", "--out", only)[0] == 0
    assert len(open_dataset(only).episode(0)) == 60


def test_sources_that_do_not_fit_the_robot_are_rejected(tmp_path, robot, capsys):
    write_lerobot(tmp_path / "in", [moving_episode(0)])
    to = ("--to", "mcap", "--out", tmp_path / "out")
    assert "is of robot 'arm', which config/robots does not have (vx300s)" in rejection(
        capsys, tmp_path / "in", *to
    )
    assert "choose another --robot" in rejection(capsys, tmp_path / "in", *to, "--robot", "vx300s")
    small = [c | {"width": 4} for c in yaml.safe_load(Path(robot()).read_text())["cameras"]]
    assert "the robot's YAML says 4 x 12" in rejection(
        capsys, tmp_path / "in", *to, "--robot", robot(cameras=small)
    )
    assert "has no camera 'front'; it has: scene, wrist" in rejection(
        capsys, tmp_path / "in", *to, "--robot", robot(), "--cameras", "front"
    )
    assert "--robot needs --to mcap" in rejection(
        capsys, tmp_path / "in", "--to", "hdf5", "--out", tmp_path / "out", "--robot", "x"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("keep")
    error = rejection(capsys, tmp_path / "in", *to, "--robot", robot())
    assert "another origin" in error
    made = replace(moving_episode(0), proprio=np.zeros((40, 0), np.float32))
    write_hdf5_source(tmp_path / "a.hdf5", [made], state_names=(), fps=30)
    error = rejection(capsys, tmp_path / "a.hdf5", *to[:-1], tmp_path / "b", "--robot", robot())
    assert "the state of each joint; choose columns with --state-key" in error


def test_a_recording_is_converted_with_its_own_robot(tmp_path):
    from test_resampler import write_recording

    write_recording(tmp_path / "in/a", modes=[(0.0, "policy"), (0.5, "teleop"), (1.0, "policy")])
    source = open_dataset(tmp_path / "in")
    to_mcap([source], tmp_path / "out", ConversionConfig(), check_progress)
    again = open_dataset(tmp_path / "out")
    assert_same(again.episode(0), source.episode(0))
    assert_same_annotations(again.episode(0), source.episode(0))
    assert configs.to_plain(again.spec) == configs.to_plain(load_robot("vx300s"))


def test_frames_without_stamps_get_times_at_the_rate():
    times = np.array(exporter.frame_times(moving_episode(0, 4), 30.0))
    np.testing.assert_array_equal(np.diff(times), [33333333, 33333334, 33333333])


REAL = {"so101_real": [], "piper_real": ["--action-key", "observation.state"]}


@pytest.mark.parametrize(("folder", "more"), REAL.items())
def test_real_data_is_equal_after_conversion_to_recordings_and_back(
    tmp_path, nac_data, folder, more
):
    source = open_dataset(nac_data / folder, *more[1:])
    joint = {"unit": "rad", "position": [-999, 999], "velocity": 3, "acceleration": 9, "jerk": 99}
    content = {
        "name": "real",
        "joints": [{"name": name, "home": 0, **joint} for name in source.names],
        "cameras": [],
        "groups": [{"name": "a", "kind": "jtc", "topic": "t", "joints": list(source.names)}],
    }
    (tmp_path / "real.yaml").write_text(json.dumps(content))
    source.episodes[3:] = []
    to_mcap(
        [source],
        tmp_path / "out",
        ConversionConfig(robot=str(tmp_path / "real.yaml")),
        check_progress,
    )
    recordings = open_dataset(tmp_path / "out")
    for index in range(3):
        assert_same(recordings.episode(index), source.episode(index, images=False))


@pytest.mark.parametrize("fps", [12.5, 29.97])
def test_recordings_keep_a_fractional_rate(tmp_path, robot, fps):
    write_lerobot(tmp_path / "in", [moving_episode(0)], fps=fps)
    made = converted([open_dataset(tmp_path / "in")], tmp_path / "out", robot())
    assert made.fps == fps
    assert_same(made.episode(0), moving_episode(0))
