"""Conversion of messages and core values; invalid messages raise."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy")

from rclpy.serialization import serialize_message
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMsg
from trajectory_msgs.msg import JointTrajectoryPoint

from nac_ros.core.errors import BadActions, BadObservation
from nac_ros.core.message_decoding import image_header
from nac_ros.core.types import ActionChunk, JointTrajectory
from nac_ros.robot.spec import load_robot
from nac_ros.ros import messages

NAMES = ("a", "b", "c")


def chunk(steps=5):
    actions = np.arange(3 * steps, dtype=np.float32).reshape(steps, 3) / 8
    return ActionChunk(1234.5678, 30.0, NAMES, actions, np.empty(0, np.int64))


@pytest.mark.parametrize("seconds", [0.0, 0.1, 1795489432.2102516, 0.9999999999])
def test_seconds_are_unchanged_by_a_stamp(seconds):
    stamp = messages.to_time(seconds)
    assert 0 <= stamp.nanosec < 1_000_000_000
    assert messages.to_seconds(stamp) == pytest.approx(seconds, abs=1e-6)


def test_a_chunk_is_unchanged_by_its_message():
    back = messages.from_chunk_message(messages.to_chunk_message(chunk()))
    assert back.names == NAMES and back.stamp == pytest.approx(1234.5678)
    assert back.rate_hz == pytest.approx(30.0, rel=1e-6)
    np.testing.assert_array_equal(back.actions, chunk().actions)


def test_a_chunk_without_points_is_rejected():
    message = messages.to_chunk_message(chunk())
    message.points = []
    with pytest.raises(BadActions, match="has 0 points"):
        messages.from_chunk_message(message)


def test_a_ragged_chunk_is_rejected():
    message = messages.to_chunk_message(chunk())
    message.points[2].positions = [0.0, 1.0]
    with pytest.raises(BadActions, match="point 2 has 2 positions for 3 joints"):
        messages.from_chunk_message(message)


def test_a_chunk_with_uneven_times_is_rejected():
    message = messages.to_chunk_message(chunk())
    message.points[1].time_from_start.nanosec += 5_000_000
    with pytest.raises(BadActions, match="evenly spaced from its stamp"):
        messages.from_chunk_message(message)


def test_a_trajectory_is_split_by_controller():
    rows = np.arange(6.0).reshape(2, 3)
    motion = JointTrajectory(7.5, np.array([0.0, 0.03]), rows, -rows, 2 * rows)
    message = messages.to_trajectory_message(motion, ("c", "a"), [2, 0])
    assert messages.to_seconds(message.header.stamp) == 7.5 and message.joint_names == ["c", "a"]
    back = messages.from_trajectory_message(message)
    assert [point.time_from_start for point in back.points] == [0.0, 0.03]
    np.testing.assert_array_equal(back.points[1].positions, [5, 3])
    np.testing.assert_array_equal(back.points[1].velocities, [-5, -3])
    np.testing.assert_array_equal(back.points[1].accelerations, [10, 6])


def test_points_close_together_imply_no_large_acceleration():
    times = 0.0123456789123 + np.array([0.0, 1.00003e-5, 0.01])
    rows = np.ones((3, 1))
    motion = JointTrajectory(
        5.1234567891234, times - times[0], 3 * times[:, None], 3 * rows, 0 * rows
    )
    back = messages.from_trajectory_message(messages.to_trajectory_message(motion, ("a",), [0]))
    first, second = back.points[:2]
    span = second.time_from_start - first.time_from_start
    strayed = second.positions - first.positions - 3 * span
    assert abs(strayed[0]) / span**2 < 1e-3, "an acceleration that was not commanded"


def test_a_trajectory_that_starts_on_arrival_holds_the_time_until_its_first_point():
    rows = np.zeros((2, 1))
    motion = JointTrajectory(7.5, np.array([0.0, 0.03]), rows, rows, rows)
    message = messages.to_trajectory_message(motion, ("a",), [0], sent=7.48)
    assert messages.to_seconds(message.header.stamp) == 0
    times = [messages.to_seconds(point.time_from_start) for point in message.points]
    np.testing.assert_allclose(times, [0.02, 0.05], atol=1e-9)
    late = messages.to_trajectory_message(motion, ("a",), [0], sent=7.6)
    assert messages.to_seconds(late.points[0].time_from_start) == pytest.approx(1e-3)


def test_a_trajectory_without_velocities_has_none():
    message = messages.to_chunk_message(chunk())
    assert all(p.velocities is None for p in messages.from_trajectory_message(message).points)


def test_joint_states_are_read_in_the_order_of_the_robot():
    message = messages.to_joint_state(7.25, ("c", "x", "a", "b"), np.array([3.0, 9.0, 1.0, 2.0]))
    np.testing.assert_array_equal(messages.from_joint_state(message, NAMES), [1, 2, 3])
    assert messages.to_seconds(message.header.stamp) == 7.25


@pytest.mark.parametrize(
    ("names", "positions", "said"),
    [
        (("a", "b"), [1.0, 2.0], "c missing; the message holds a, b"),
        (("a", "b"), [], "2 names and 0 positions, none for a, b; the driver must publish"),
        (("a", "b", "c"), [1.0, 2.0], "none for c"),
        (("a", "b", "c", "b"), [1.0] * 4, "b is named twice"),
        (("a", "b", "c"), [1.0, np.nan, 2.0], "not finite at b"),
    ],
)
def test_joint_states_without_a_joint_are_rejected(names, positions, said):
    message = messages.to_joint_state(0.0, names, np.array(positions))
    with pytest.raises(BadObservation, match=said):
        messages.from_joint_state(message, NAMES)


def test_an_image_is_unchanged_by_its_message():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    for sent in (image, image[:, ::-1]):  # contiguous or not
        message = messages.to_image(2.5, "scene", sent)
        assert (message.encoding, message.header.frame_id) == ("rgb8", "scene")
        np.testing.assert_array_equal(messages.from_image(message), sent)


def test_bgr_becomes_rgb_and_padding_is_removed():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    message = messages.to_image(0.0, "scene", image)
    message.encoding, message.step = "bgr8", 16
    message.data = np.pad(image.reshape(2, 12), ((0, 0), (0, 4))).tobytes()
    np.testing.assert_array_equal(messages.from_image(message), image[..., ::-1])


@pytest.mark.parametrize(
    ("encoding", "channels"),
    [
        ("rgb8", [0, 1, 2]),
        ("bgr8", [2, 1, 0]),
        ("rgba8", [0, 1, 2, 3]),
        ("bgra8", [2, 1, 0, 3]),
    ],
)
def test_every_colour_encoding_becomes_rgb(encoding, channels):
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    sent = np.ascontiguousarray(image[..., channels])
    message = messages.to_image(0.0, "scene", image[..., :3])
    message.encoding, message.step = encoding, 6 * len(channels)
    message.data = sent.tobytes()
    np.testing.assert_array_equal(messages.from_image(message), image[..., :3])


def test_a_grey_image_becomes_three_equal_channels():
    grey = np.arange(8, dtype=np.uint8).reshape(2, 4)
    message = messages.to_image(0.0, "scene", np.zeros((2, 4, 3), np.uint8))
    message.encoding, message.step, message.data = "mono8", 4, grey.tobytes()
    np.testing.assert_array_equal(messages.from_image(message), np.stack([grey] * 3, -1))


@pytest.mark.parametrize(
    "encoding", ["16UC1", "32FC1", "mono16", "yuv422_yuy2", "bayer_rggb8", ""]
)
def test_an_unknown_encoding_is_rejected_with_the_known_ones(encoding):
    message = messages.to_image(0.0, "scene", np.zeros((2, 4, 3), np.uint8))
    message.encoding = encoding
    known = f"'{encoding}'; known are: rgb8, bgr8, rgba8, bgra8, mono8"
    with pytest.raises(BadObservation, match=known):
        messages.from_image(message)


@pytest.mark.parametrize(
    "changed",
    [
        {"height": 3},
        {"height": 0},
        {"width": 5},
        {"width": 0},
        {"step": 0},
        {"step": 13},
        {"encoding": "rgba8"},
    ],
    ids=str,
)
def test_an_image_whose_data_do_not_match_its_size_is_rejected(changed):
    message = messages.to_image(0.0, "scene", np.zeros((2, 4, 3), np.uint8))
    for field, value in changed.items():
        setattr(message, field, value)
    with pytest.raises(BadObservation, match=r"an image of \d+x\d+ has 24 bytes") as caught:
        messages.from_image(message)
    assert caught.value.reason == "image_size"


@pytest.mark.parametrize("frame", ["", "s", "scene", "camera_optical"])
def test_the_header_of_a_serialized_image_is_read_without_its_pixels(frame):
    message = messages.to_image(0.0, frame, np.zeros((2, 4, 3), np.uint8))
    for encoding in ("rgb8", "16UC1", "mono8"):
        message.encoding = encoding
        header = image_header(serialize_message(message))
        assert header == (2, 4, encoding, 12, 24)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_image_have_no_header(data):
    with suppress(BadObservation):
        assert len(image_header(data)) == 5


def test_diagnostic_values_are_unchanged_by_their_message():
    values = {"mode": "policy", "age_s": 0.25, "chunk_age_s": None, "clips.a": 3, "on": True}
    status = messages.to_status("guard", b"\x01", "holding", values)
    assert messages.values_from_status(status) == {"message": "holding", **values}
    assert (status.name, status.level) == ("guard", b"\x01")


def test_a_forward_controller_gets_bare_numbers():
    message = messages.to_array_message(np.array([1.0, 2.5]))
    assert isinstance(message, Float64MultiArray) and list(message.data) == [1.0, 2.5]


def test_stamps_after_an_origin_are_exact_to_the_nanosecond():
    origin = 1_795_522_816_158_945_513
    stamp = messages.to_time(12.345678901, origin)
    assert stamp.sec * 10**9 + stamp.nanosec == origin + 12_345_678_901
    assert messages.to_seconds(stamp, origin) == 12.345678901


def test_a_forward_controller_gets_the_present_set_point_not_the_next_point():
    from nac_ros.robot.spec import ControllerGroup, load_robot
    from nac_ros.ros.guard_io import ControllerPublisher

    sent = []
    publisher = type("Publisher", (), {"publish": lambda self, message: sent.append(message)})()
    node = type("Node", (), {"create_publisher": lambda self, *_: publisher})()
    spec = load_robot("vx300s")
    group = ControllerGroup(
        name="g", kind="forward", topic="g/commands", joints=("elbow", "waist")
    )
    far = np.stack([spec.home + 1, spec.home + 2])
    motion = JointTrajectory(7.5, np.array([0.0, 0.2]), far, 0 * far, 0 * far)
    ControllerPublisher(node, spec, group).send(motion, spec.home, 7.4, 0)
    np.testing.assert_array_equal(sent[0].data, spec.home[[2, 0]])


SPEC = load_robot("vx300s")


def serialized(points, names=SPEC.joint_names, frame="", full=False):
    """A serialized chunk; `full`: also with velocities, accelerations and efforts."""
    row = [0.0] * len(names)
    values = {"positions": row}
    if full:
        values |= {"velocities": row, "accelerations": row, "effort": row}
    message = JointTrajectoryMsg(joint_names=list(names))
    message.header.frame_id = frame
    message.points = [JointTrajectoryPoint(**values) for _ in range(points)]
    return serialize_message(message)


@pytest.mark.parametrize("frame", ["", "a", "base", "base_link"])
def test_the_longest_permitted_chunk_fits_the_byte_limit_and_a_longer_one_is_rejected(frame):
    most = messages.max_points(SPEC)
    assert most == 150
    data = serialized(most, frame=frame, full=True)
    assert len(data) <= messages.max_chunk_bytes(SPEC)
    messages.check_chunk_size(data, SPEC)
    with pytest.raises(BadActions, match="the chunk has 151 points; wanted 1 to 150"):
        messages.check_chunk_size(serialized(most + 1, frame=frame), SPEC)


def test_a_chunk_with_too_many_empty_points_is_rejected_before_deserialization():
    message = JointTrajectoryMsg(points=[JointTrajectoryPoint() for _ in range(900)])
    data = serialize_message(message)
    assert len(data) < messages.max_chunk_bytes(SPEC)
    with pytest.raises(BadActions, match="900 points"):
        messages.check_chunk_size(data, SPEC)


def test_a_chunk_with_too_many_joints_is_rejected_before_deserialization():
    with pytest.raises(BadActions, match="5000 joints, the robot has 7"):
        messages.check_chunk_size(serialized(1, names=[""] * 5000), SPEC)


@pytest.mark.parametrize("cut", [0, 1, 4, 11, 17, 30, 60])
def test_bytes_that_end_before_the_points_are_no_chunk(cut):
    with pytest.raises(BadActions, match="are no JointTrajectory"):
        messages.check_chunk_size(serialized(2)[:cut], SPEC)


def test_joint_states_of_a_large_robot_fit_the_byte_limit():
    names = [*SPEC.joint_names, *(f"left_hand/finger_{n}/joint" for n in range(300))]
    ones = np.ones(len(names))
    message = messages.to_joint_state(1.0, names, ones, ones)
    message.effort = ones.tolist()
    assert len(serialize_message(message)) <= messages.max_joint_state_bytes(SPEC)
