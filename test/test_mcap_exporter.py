"""`nac data convert --to mcap`: what other formats hold becomes recordings, and comes back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_cli import run
from test_dataset_conversion import bad, hdf5_source, quiet
from test_dataset_video import psnr
from test_hdf5 import assert_equal_notes
from test_lerobot import NAMES, SHAPES, assert_same, make_episode

pytest.importorskip("mcap")
pytest.importorskip("rosbags")

from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from test_mcap import STORE

from nac_ros.core import config as configs
from nac_ros.core.errors import DatasetError
from nac_ros.datasets.convert import Conversion, to_lerobot
from nac_ros.datasets.factory import open_dataset
from nac_ros.datasets.lerobot.writer import DatasetWriter
from nac_ros.datasets.mcap import exporter
from nac_ros.datasets.mcap import reader as mcap_reader
from nac_ros.datasets.mcap import writer as mcap_writer
from nac_ros.datasets.mcap.exporter import to_mcap
from nac_ros.datasets.validate import check, check_recordings
from nac_ros.robot.spec import load_robot

T0, PERIOD = 1_790_000_000_123_456_789, 33_333_333


def moving(index, length=40, task="Do it."):
    """An episode of an arm that moves before cameras whose pictures change."""
    return make_episode(index, length, task)


def noted(index, ages=None, mark=None, jitter=0):
    """One with true stamps that are not even, and what else a recording knows."""
    made, rng = moving(index), np.random.default_rng(index)
    n = len(made)
    stamps = T0 + index * 10**11 + np.arange(n) * PERIOD + rng.integers(-jitter, jitter + 1, n)
    intervention = np.zeros(n, bool)
    for first, end in mark or ():
        intervention[first:end] = True
    aged = {camera: np.asarray(row, np.float32) for camera, row in (ages or {}).items()}
    return replace(made, stamps_ns=stamps, ages_ms=aged, intervention=intervention)


@pytest.fixture
def robot(tmp_path):
    """YAML of the robot that the episodes of these tests are of; its wrist is sent as JPEG."""

    def write_yaml(transport="raw", **changes):
        kinds = {"wrist": transport}
        joint = {"unit": "rad", "position": [-9, 9], "velocity": 3, "acceleration": 9, "jerk": 99}
        content = {
            "name": "arm",
            "joints": [{"name": name, "home": 0, **joint} for name in NAMES],
            "cameras": [
                {"name": name, "width": width, "height": height, "rate_hz": 30,
                 "topic": f"{name}/image_raw", "transport": kinds.get(name, "raw")}
                for name, (height, width) in SHAPES.items()
            ],
            "groups": [{"name": "all", "kind": "jtc", "topic": "t", "joints": list(NAMES)}],
        } | changes  # fmt: skip
        path = tmp_path / "arm.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write_yaml


def converted(sources, out, robot):
    to_mcap(sources, out, Conversion(robot=robot), quiet)
    return open_dataset(out)


def test_a_lerobot_folder_comes_back_equal_from_recordings(tmp_path, robot):
    with_episodes(tmp_path / "in", [moving(k, task=f"Task {k}.") for k in range(3)])
    source = open_dataset(tmp_path / "in")
    recordings = converted([source], tmp_path / "mcap", robot())
    to_lerobot([recordings], tmp_path / "back", Conversion(), quiet)
    back = open_dataset(tmp_path / "back")
    for index in range(3):
        wanted, found = source.episode(index), back.episode(index)
        assert_same(found, wanted)
        assert found.stamps_ns is None and found.intervention is None and found.ages_ms == {}
        np.testing.assert_array_equal(back.timestamps(index), source.timestamps(index))
    assert (back.fps, back.names, back.tasks) == (30, NAMES, source.tasks)
    assert back.cameras == SHAPES and back.robot_type == "arm"
    assert check(back) == [] and check_recordings(tmp_path / "mcap") == []


def with_episodes(root, made, **changes):
    options = {"fps": 30, "robot_type": "arm", "names": NAMES, "cameras": SHAPES} | changes
    writer = DatasetWriter.create_or_resume(root, **options)
    for episode in made:
        writer.add_episode(episode)
    writer.close()


AGES = {
    "at once": {},
    "each camera newer in its turn": {"scene": [0.0] * 40, "wrist": [-13.0] * 40},
    "one camera late": {"scene": [13.0] * 40, "wrist": [0.0] * 40},
    "a picture that was dropped": {
        "scene": [0.0] * 10 + [33.333333] + [0.0] * 29, "wrist": [0.0] * 40
    },
}  # fmt: skip


@pytest.mark.parametrize("ages", AGES.values(), ids=AGES)
def test_true_times_ages_and_interventions_come_back_equal(tmp_path, robot, ages):
    jitter = 0 if len(set(ages.get("scene", [0]))) > 1 else 4_000_000
    made = [noted(0, ages, [(5, 12), (20, 40)], jitter), noted(1, ages, [(0, 3)]), noted(2, ages)]
    if len(set(ages.get("scene", [0]))) > 1:  # the frame shows the picture before once more
        for episode in made:
            episode.images["scene"][10] = episode.images["scene"][9]
    source = hdf5_source(tmp_path / "a.hdf5", made, fps=30, units=("rad",) * 3)
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


def test_pictures_that_the_robot_sends_as_jpeg_differ_by_no_more_than_that(tmp_path, robot):
    made = moving(0)
    ramp = np.linspace(0, 255, 8).astype(np.uint8)
    made.images["wrist"][:] = ramp[None, :, None, None]
    made.images["wrist"][..., 1] = 3 * np.arange(40, dtype=np.uint8)[:, None, None]
    with_episodes(tmp_path / "in", [made])
    recordings = converted([open_dataset(tmp_path / "in")], tmp_path / "mcap", robot("jpeg"))
    found = recordings.episode(0)
    np.testing.assert_array_equal(found.images["scene"], made.images["scene"])
    assert psnr(found.images["wrist"], made.images["wrist"]).min() > 35
    (folder,) = (p for p in (tmp_path / "mcap").iterdir() if p.is_dir())
    topics = {m.topic: m.kind for m in mcap_reader.messages(folder)}
    assert topics["/wrist/image_raw/compressed"] == "sensor_msgs/msg/CompressedImage"


def test_others_read_what_was_written(tmp_path, robot):
    made = noted(0, mark=[(10, 20)])
    source = hdf5_source(tmp_path / "a.hdf5", [made], fps=30, units=("rad",) * 3)
    converted([source], tmp_path / "mcap", robot())
    (folder,) = (p for p in (tmp_path / "mcap").iterdir() if p.is_dir())
    assert folder.name == "episode_000000_do-it"
    with AnyReader([folder]) as reader:
        kinds = {c.topic: c.msgtype for c in reader.connections}
        states = [
            (m.header.stamp.sec * 10**9 + m.header.stamp.nanosec, m.position)
            for c, _, raw in reader.messages()
            if c.topic == "/joint_states"
            for m in [reader.deserialize(raw, c.msgtype)]
        ]
    assert kinds["/guard/mode"] == "std_msgs/msg/String" and "/policy/chunk" in kinds
    assert [stamp for stamp, _ in states] == made.stamps_ns.tolist()
    np.testing.assert_array_equal(np.array([p for _, p in states], np.float32), made.proprio)
    with (folder / mcap_writer.FILE).open("rb") as stream:
        said = [
            STORE.deserialize_cdr(m.data, s.name).data
            for s, c, m in make_reader(stream, validate_crcs=True).iter_messages(["/guard/mode"])
        ]
    assert said == ["policy", "teleop", "policy"]


def test_an_interrupted_conversion_goes_on_and_what_was_put_aside_stays_so(tmp_path, robot):
    with_episodes(tmp_path / "in", [moving(k) for k in range(4)])
    source, out = open_dataset(tmp_path / "in"), tmp_path / "mcap"
    options = Conversion(robot=robot())

    class Cut(Exception):
        pass

    def cut(done, total):
        if done == 2:
            raise Cut

    with pytest.raises(Cut):
        to_mcap([source], out, options, cut)
    folders = sorted(p for p in out.iterdir() if p.is_dir())
    folders[0].rename(mcap_writer.discarded_of(folders[0]))
    mcap_writer.partial_of(out / "episode_000002_do-it").mkdir()  # as a kill leaves it
    done = to_mcap([source], out, options, quiet)
    assert (done.before, done.episodes) == (2, 4)
    names = sorted(p.name for p in out.iterdir() if p.is_dir())
    assert names == [
        "episode_000000_do-it.discarded",
        *(f"episode_{k:06d}_do-it" for k in (1, 2, 3)),
    ]
    assert_same(open_dataset(out).episode(1), moving(2))
    with pytest.raises(DatasetError, match="with cameras = scene, wrist, now it is scene; give"):
        to_mcap([source], out, replace(options, cameras=("scene",)), quiet)


def test_a_camera_that_stood_still_is_told_and_nothing_is_left_out(tmp_path, robot, capsys):
    made = moving(0, 60)
    made.proprio[:19] = made.proprio[0]  # at rest, while the pictures differ: the camera has noise
    made.images["wrist"][20:] = 7
    with_episodes(tmp_path / "in", [made])
    call = ("data", "convert", tmp_path / "in", "--to", "mcap", "--robot", robot())
    code, out, _ = run(capsys, *call, "--out", tmp_path / "mcap")
    assert code == 0 and "1 of them" in out and "nac data check" in out
    (text,) = [t for t in map(str, check_recordings(tmp_path / "mcap")) if "while it was" in t]
    assert "of its 60 frames" in text and "frozen" in text
    (folder,) = (p for p in (tmp_path / "mcap").iterdir() if p.is_dir())
    topics = [m.topic for m in mcap_reader.messages(folder)]
    assert topics.count("/wrist/image_raw") == topics.count("/joint_states") == 60
    only = tmp_path / "scene"
    assert run(capsys, *call, "--cameras", "scene", "--out", only)[0] == 0
    assert len(open_dataset(only).episode(0)) == 60


def test_what_is_not_of_the_robot_is_refused_in_a_sentence(tmp_path, robot, capsys):
    with_episodes(tmp_path / "in", [moving(0)])
    to = ("--to", "mcap", "--out", tmp_path / "out")
    assert "is of robot 'arm', which config/robots does not have (vx300s)" in bad(
        capsys, tmp_path / "in", *to
    )
    assert "choose another --robot" in bad(capsys, tmp_path / "in", *to, "--robot", "vx300s")
    small = [c | {"width": 4} for c in yaml.safe_load(Path(robot()).read_text())["cameras"]]
    assert "the robot's YAML says 4 x 12" in bad(
        capsys, tmp_path / "in", *to, "--robot", robot(cameras=small)
    )
    assert "has no camera 'front'; it has: scene, wrist" in bad(
        capsys, tmp_path / "in", *to, "--robot", robot(), "--cameras", "front"
    )
    assert "--robot goes with --to mcap" in bad(
        capsys, tmp_path / "in", "--to", "hdf5", "--out", tmp_path / "out", "--robot", "x"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("keep")
    error = bad(capsys, tmp_path / "in", *to, "--robot", robot())
    assert "another origin" in error
    made = replace(moving(0), proprio=np.zeros((40, 0), np.float32))
    hdf5_source(tmp_path / "a.hdf5", [made], state_names=(), fps=30)
    error = bad(capsys, tmp_path / "a.hdf5", *to[:-1], tmp_path / "b", "--robot", robot())
    assert "the state of each joint; choose columns with --state-key" in error


def test_a_recording_becomes_a_recording_without_asking_for_its_robot(tmp_path):
    from test_resampler import recorded

    recorded(tmp_path / "in/a", modes=[(0.0, "policy"), (0.5, "teleop"), (1.0, "policy")])
    source = open_dataset(tmp_path / "in")
    to_mcap([source], tmp_path / "out", Conversion(), quiet)
    again = open_dataset(tmp_path / "out")
    assert_same(again.episode(0), source.episode(0))
    assert_equal_notes(again.episode(0), source.episode(0))
    assert configs.to_plain(again.spec) == configs.to_plain(load_robot("vx300s"))


def test_times_of_a_source_without_any_follow_its_rate():
    times = np.array(exporter.frame_times(moving(0, 4), 30.0))
    np.testing.assert_array_equal(np.diff(times), [33333333, 33333334, 33333333])


REAL = {"so101_real": [], "piper_real": ["--action-key", "observation.state"]}


@pytest.mark.parametrize(("folder", "more"), REAL.items())
def test_real_data_becomes_recordings_and_comes_back(tmp_path, nac_data, folder, more):
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
    to_mcap([source], tmp_path / "out", Conversion(robot=str(tmp_path / "real.yaml")), quiet)
    recordings = open_dataset(tmp_path / "out")
    for index in range(3):
        assert_same(recordings.episode(index), source.episode(index, images=False))


@pytest.mark.parametrize("fps", [12.5, 29.97])
def test_a_fractional_rate_stays_fractional_in_recordings(tmp_path, robot, fps):
    with_episodes(tmp_path / "in", [moving(0)], fps=fps)
    made = converted([open_dataset(tmp_path / "in")], tmp_path / "out", robot())
    assert made.fps == fps
    assert_same(made.episode(0), moving(0))
