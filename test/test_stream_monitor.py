"""The stream monitor on given times: current problems, and problems of a whole episode."""

import struct

import numpy as np
import pytest

from nac_ros.core.errors import ConfigError
from nac_ros.datasets.mcap.stream_monitor import (
    KEPT,
    StreamMonitor,
    StreamMonitorConfig,
    StreamSpec,
)
from nac_ros.robot.frozen_images import FrozenImageDetector
from nac_ros.robot.spec import load_robot

MS = 1_000_000
ROBOT = load_robot("vx300s")
JOINTS = StreamSpec(topic="joint_states", message_type="j", rate_hz=30.0)
SCENE = StreamSpec(topic="scene", message_type="i", rate_hz=30.0, image=True)


def monitor_streams(
    seconds=3.0,
    image=lambda k: bytes(12) + b"%d" % k,
    late=0,
    skip=lambda t: False,
    stamped=lambda t: t,
    speed=0.0,
):
    """A monitor of joint states at 100 Hz and a camera at 30 Hz, and the end of the episode [ns].

    late: delay of the images [ms]; speed: of the arm [rad/s]
    """
    content = FrozenImageDetector(ROBOT, ("scene",))
    monitor = StreamMonitor((JOINTS, SCENE), StreamMonitorConfig(), 0, content)
    for k in range(int(seconds * 100)):
        content.add_joint_state(stamped(10 * k) / 1000, ROBOT.home + speed * k / 100)
        monitor.add_message("joint_states", stamped(10 * k) * MS, 0, 10 * k * MS, b"")
        if k % 3 == 0 and not skip(10 * k):
            monitor.add_message(
                "scene", (stamped(10 * k) - late) * MS, late * MS, 10 * k * MS, image(k)
            )
    return monitor, int(seconds * 1000) * MS


def test_good_streams_have_no_problems():
    monitor, end = monitor_streams()
    assert monitor.current_problems(end) == [] == monitor.episode_problems(end, "joint_states")
    summary = monitor.summary()
    assert summary["scene"]["messages"] == 100 and summary["scene"]["rate_hz"] == pytest.approx(
        33.3, 0.01
    )
    assert summary["joint_states"]["largest_gap_s"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"skip": lambda t: t > 1500}, "scene: 1.50 s without a message"),
        ({"skip": lambda t: (t // 30) % 2}, "scene: 16.7 Hz, expected 30 Hz"),
        ({"image": lambda k: bytes(12) + b"%d" % min(k, 99)}, "scene: the same image for 2.0 s"),
        ({"late": 400}, "scene: stamped 0.40 s before receipt, at most 0.25 s is allowed"),
        ({"stamped": lambda t: t - 3600_000 * (t > 1000)}, "its clock was set back at 1.0 s"),
        ({"stamped": lambda t: t // 60 * 60}, "stamps come twice"),
    ],
)
def test_a_fault_is_among_the_problems_of_the_episode(fault, sentence):
    monitor, end = monitor_streams(**fault)
    assert any(sentence in text for text in monitor.episode_problems(end, "joint_states"))


def test_a_problem_is_reported_only_while_it_lasts():
    monitor, end = monitor_streams(skip=lambda t: t > 2000)
    assert monitor.current_problems(end) == ["scene: no message for 1.0 s; is its node running?"]
    monitor.add_message("scene", end, 0, end, bytes(12) + b"new")
    assert monitor.current_problems(end) == []
    monitor.add_message("scene", end - 3600_000 * MS, 0, end + MS, bytes(12) + b"newer")
    assert "was set back" in monitor.current_problems(end + MS)[0]
    monitor.add_message("scene", end - 3590_000 * MS, 0, end + 10_000 * MS, bytes(12) + b"newest")
    assert not any("set back" in text for text in monitor.current_problems(end + 10_000 * MS))


def test_images_that_differ_only_in_their_stamp_are_equal():
    monitor, end = monitor_streams(image=lambda k: k.to_bytes(12, "little") + b"%d" % min(k, 99))
    assert monitor.summary()["scene"]["repeated"] == 66
    assert any("same image" in text for text in monitor.current_problems(end))


@pytest.mark.parametrize(
    "shown",
    [
        {"image": lambda k: bytes(12) + b"x"},
        {"image": lambda k: bytes(12) + b"%d" % min(k, 99), "speed": 0.3},
    ],
    ids=["no noise", "noise only in motion"],
)
def test_without_noise_at_rest_only_the_stamps_of_a_camera_are_checked(shown):
    monitor, end = monitor_streams(**shown)
    assert monitor.current_problems(end) == [] == monitor.episode_problems(end, "joint_states")
    assert monitor.unchecked_topics == ["scene"]
    monitor, end = monitor_streams(skip=lambda t: t > 1500, **shown)
    assert monitor.episode_problems(end, "joint_states") == [
        "scene: 17.0 Hz, expected 30 Hz",
        "scene: 1.50 s without a message",
    ]


def test_the_noise_of_a_camera_is_known_in_the_next_episode():
    before, end = monitor_streams()
    assert before.unchecked_topics == []
    monitor = StreamMonitor((SCENE,), StreamMonitorConfig(), end, before._detector)
    for k in range(60):
        now = end + 33 * k * MS
        monitor.add_message("scene", now, 0, now, bytes(12) + b"x")
    assert monitor.current_problems(now) == [
        "scene: the same image for 1.9 s; is the camera frozen?"
    ]


def test_without_a_detector_no_content_is_checked():
    monitor = StreamMonitor((SCENE,), StreamMonitorConfig(), 0)
    for k in range(60):
        monitor.add_message("scene", 33 * k * MS, 0, 33 * k * MS, bytes(12) + b"%d" % min(k, 30))
    assert monitor.current_problems(60 * 33 * MS) == [] and monitor.unchecked_topics == ["scene"]


def image_message(encoding="rgb8", width=8, step=24, n_bytes=192):
    """A serialized sensor_msgs/Image of height 8 (CDR, little endian)."""
    name = encoding.encode() + b"\0"
    data = b"\0\1\0\0" + struct.pack("<iII", 1, 2, 6) + b"scene\0\0\0"
    data += struct.pack("<III", 8, width, len(name)) + name + b"\0"
    data += bytes(-len(data) % 4) + struct.pack("<II", step, n_bytes)
    return data + np.random.default_rng(0).bytes(n_bytes)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (image_message("16UC1", step=16, n_bytes=128), "encoding '16UC1'; known are: rgb8, bgr8"),
        (image_message(width=4, step=12, n_bytes=96), "4x8; the robot's YAML says 8x8"),
        (image_message(step=20, n_bytes=160), "8x8 has 160 bytes in rows of 20"),
        (image_message(n_bytes=100), "8x8 has 100 bytes in rows of 24"),
        (bytes(20), "20 bytes are no image message"),
    ],
    ids=["encoding", "size", "step", "length", "bytes"],
)
def test_unreadable_images_are_reported_at_once_and_with_the_episode(data, sentence):
    scene = StreamSpec(topic="scene", message_type="i", rate_hz=30.0, image=True, size=(8, 8))
    monitor = StreamMonitor((scene,), StreamMonitorConfig(), 0)
    monitor.add_message("scene", 0, 0, 0, image_message())
    assert monitor.current_problems(0) == []
    monitor.add_message("scene", 30 * MS, 0, 30 * MS, data)
    (now,) = monitor.current_problems(30 * MS)
    assert now.startswith("scene: ") and sentence in now
    monitor.add_message("scene", 60 * MS, 0, 60 * MS, image_message("bgra8", step=32, n_bytes=256))
    assert monitor.current_problems(60 * MS) == []
    assert any(
        f"1 unreadable images: {now[7:]}" in t
        for t in monitor.episode_problems(60 * MS, "joint_states")
    )


def test_images_far_from_any_joint_state_are_reported():
    monitor = StreamMonitor((JOINTS, SCENE), StreamMonitorConfig(), 0)
    for k in range(30):
        monitor.add_message("joint_states", 33 * k * MS, 0, 33 * k * MS, b"")
        monitor.add_message(
            "scene", (33 * k + 16) * MS, 0, (33 * k + 16) * MS, bytes(12) + b"%d" % k
        )
    assert monitor.episode_problems(30 * 33 * MS, "joint_states") == []
    strict = StreamMonitor((JOINTS, SCENE), StreamMonitorConfig(max_offset_s=0.01), 0)
    strict._statistics = monitor._statistics
    assert "images are 0.016 s from" in strict.episode_problems(30 * 33 * MS, "joint_states")[0]


def test_trim_limits_the_memory_while_nothing_is_recorded():
    monitor, end = monitor_streams(seconds=30.0)
    monitor.trim()
    assert monitor.summary()["joint_states"]["messages"] == KEPT
    assert monitor.current_problems(end) == [] and np.isfinite(
        monitor.summary()["scene"]["rate_hz"]
    )


def test_invalid_limits_are_rejected():
    with pytest.raises(ConfigError, match="max_gap_s"):
        StreamMonitorConfig(max_gap_s=0.0)
