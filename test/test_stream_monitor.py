"""The capture gate on clocks of our own: what it says at once, and what stays with an episode."""

import struct

import numpy as np
import pytest

from nac_ros.core.errors import ConfigError
from nac_ros.datasets.mcap.stream_monitor import KEPT, GateConfig, StreamMonitor, StreamSpec
from nac_ros.robot.frozen_images import FrozenImageDetector
from nac_ros.robot.spec import load_robot

MS = 1_000_000
ROBOT = load_robot("vx300s")
JOINTS = StreamSpec(topic="joint_states", kind="j", rate_hz=30.0)
SCENE = StreamSpec(topic="scene", kind="i", rate_hz=30.0, image=True)


def watched(seconds=3.0, image=lambda k: bytes(12) + b"%d" % k, late=0, skip=lambda t: False,
            stamped=lambda t: t, speed=0.0):  # fmt: skip
    """Joints at 100 Hz and a camera at 30 Hz whose images come `late` [ms]; speed: of the arm
    [rad/s]."""
    content = FrozenImageDetector(ROBOT, ("scene",))
    gate = StreamMonitor((JOINTS, SCENE), GateConfig(), 0, content)
    for k in range(int(seconds * 100)):
        content.push_joints(stamped(10 * k) / 1000, ROBOT.home + speed * k / 100)
        gate.take("joint_states", stamped(10 * k) * MS, 0, 10 * k * MS, b"")
        if k % 3 == 0 and not skip(10 * k):
            gate.take("scene", (stamped(10 * k) - late) * MS, late * MS, 10 * k * MS, image(k))
    return gate, int(seconds * 1000) * MS


def test_good_streams_are_good():
    gate, end = watched()
    assert gate.now(end) == [] == gate.verdict(end, "joint_states")
    facts = gate.facts()
    assert facts["scene"]["messages"] == 100 and facts["scene"]["rate_hz"] == pytest.approx(
        33.3, 0.01
    )
    assert facts["joint_states"]["largest_gap_s"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({"skip": lambda t: t > 1500}, "scene: 1.50 s without a message"),
        ({"skip": lambda t: (t // 30) % 2}, "scene: 16.7 Hz, 30 Hz are promised"),
        ({"image": lambda k: bytes(12) + b"%d" % min(k, 99)}, "scene: the same picture for 2.0 s"),
        ({"late": 400}, "scene: stamped 0.40 s before it comes, at most 0.25 s is allowed"),
        ({"stamped": lambda t: t - 3600_000 * (t > 1000)}, "its clock was set back at 1.0 s"),
        ({"stamped": lambda t: t // 60 * 60}, "stamps come twice"),
    ],
)
def test_what_was_wrong_stays_with_the_episode(spoilt, said):
    gate, end = watched(**spoilt)
    assert any(said in text for text in gate.verdict(end, "joint_states"))


def test_what_is_wrong_is_said_while_it_is_and_no_longer():
    gate, end = watched(skip=lambda t: t > 2000)
    assert gate.now(end) == ["scene: no message for 1.0 s; is its node running?"]
    gate.take("scene", end, 0, end, bytes(12) + b"new")
    assert gate.now(end) == []
    gate.take("scene", end - 3600_000 * MS, 0, end + MS, bytes(12) + b"newer")
    assert "was set back" in gate.now(end + MS)[0]
    gate.take("scene", end - 3590_000 * MS, 0, end + 10_000 * MS, bytes(12) + b"newest")
    assert not any("set back" in text for text in gate.now(end + 10_000 * MS))


def test_a_picture_that_differs_in_its_stamp_alone_is_the_same():
    gate, end = watched(image=lambda k: k.to_bytes(12, "little") + b"%d" % min(k, 99))
    assert gate.facts()["scene"]["repeated"] == 66
    assert any("same picture" in text for text in gate.now(end))


@pytest.mark.parametrize(
    "shown",
    [{"image": lambda k: bytes(12) + b"x"}, {"image": lambda k: bytes(12) + b"%d" % min(k, 99),
                                              "speed": 0.3}],
    ids=["no noise", "noise only in motion"],
)  # fmt: skip
def test_a_camera_that_showed_no_noise_at_rest_is_judged_by_its_stamps_alone(shown):
    gate, end = watched(**shown)
    assert gate.now(end) == [] == gate.verdict(end, "joint_states")
    assert gate.unchecked == ["scene"]
    gate, end = watched(skip=lambda t: t > 1500, **shown)
    assert gate.verdict(end, "joint_states") == ["scene: 17.0 Hz, 30 Hz are promised",
                                                 "scene: 1.50 s without a message"]  # fmt: skip


def test_the_noise_of_a_camera_is_known_in_the_next_episode_too():
    before, end = watched()
    assert before.unchecked == []
    gate = StreamMonitor((SCENE,), GateConfig(), end, before._content)
    for k in range(60):
        now = end + 33 * k * MS
        gate.take("scene", now, 0, now, bytes(12) + b"x")
    assert gate.now(now) == ["scene: the same picture for 1.9 s; is the camera stuck?"]


def test_without_an_arm_to_watch_no_content_is_judged():
    gate = StreamMonitor((SCENE,), GateConfig(), 0)
    for k in range(60):
        gate.take("scene", 33 * k * MS, 0, 33 * k * MS, bytes(12) + b"%d" % min(k, 30))
    assert gate.now(60 * 33 * MS) == [] and gate.unchecked == ["scene"]


def image_message(encoding="rgb8", width=8, step=24, n_bytes=192):
    """A serialized sensor_msgs/Image of height 8 (CDR, little endian)."""
    name = encoding.encode() + b"\0"
    data = b"\0\1\0\0" + struct.pack("<iII", 1, 2, 6) + b"scene\0\0\0"
    data += struct.pack("<III", 8, width, len(name)) + name + b"\0"
    data += bytes(-len(data) % 4) + struct.pack("<II", step, n_bytes)
    return data + np.random.default_rng(0).bytes(n_bytes)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (image_message("16UC1", step=16, n_bytes=128), "encoding '16UC1'; known are: rgb8, bgr8"),
        (image_message(width=4, step=12, n_bytes=96), "4x8; the robot's YAML says 8x8"),
        (image_message(step=20, n_bytes=160), "8x8 has 160 bytes in rows of 20"),
        (image_message(n_bytes=100), "8x8 has 100 bytes in rows of 24"),
        (bytes(20), "20 bytes are no image message"),
    ],
    ids=["encoding", "size", "step", "length", "bytes"],
)
def test_images_that_cannot_be_read_are_named_at_once_and_with_the_episode(data, said):
    scene = StreamSpec(topic="scene", kind="i", rate_hz=30.0, image=True, size=(8, 8))
    gate = StreamMonitor((scene,), GateConfig(), 0)
    gate.take("scene", 0, 0, 0, image_message())
    assert gate.now(0) == []
    gate.take("scene", 30 * MS, 0, 30 * MS, data)
    (now,) = gate.now(30 * MS)
    assert now.startswith("scene: ") and said in now
    gate.take("scene", 60 * MS, 0, 60 * MS, image_message("bgra8", step=32, n_bytes=256))
    assert gate.now(60 * MS) == []
    assert any(f"1 unusable images: {now[7:]}" in t for t in gate.verdict(60 * MS, "joint_states"))


def test_images_far_from_any_joint_state_are_named():
    gate = StreamMonitor((JOINTS, SCENE), GateConfig(), 0)
    for k in range(30):
        gate.take("joint_states", 33 * k * MS, 0, 33 * k * MS, b"")
        gate.take("scene", (33 * k + 16) * MS, 0, (33 * k + 16) * MS, bytes(12) + b"%d" % k)
    assert gate.verdict(30 * 33 * MS, "joint_states") == []
    strict = StreamMonitor((JOINTS, SCENE), GateConfig(max_offset_s=0.01), 0)
    strict._seen = gate._seen
    assert "images lie 0.016 s from" in strict.verdict(30 * 33 * MS, "joint_states")[0]


def test_a_gate_that_nobody_records_through_stays_small():
    gate, end = watched(seconds=30.0)
    gate.trim()
    assert gate.facts()["joint_states"]["messages"] == KEPT
    assert gate.now(end) == [] and np.isfinite(gate.facts()["scene"]["rate_hz"])


def test_nonsense_limits_are_refused():
    with pytest.raises(ConfigError, match="max_gap_s"):
        GateConfig(max_gap_s=0.0)
