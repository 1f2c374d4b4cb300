"""Recordings resampled to frames: as observed live, and with no frame across a gap."""

import os
import time

import numpy as np
import pytest

pytest.importorskip("mcap")
pytest.importorskip("rosbags")

from test_mcap import IMAGE, JOINTS, T0, TEXT, serialize

from nac_ros.core import image_codec
from nac_ros.core.errors import DatasetError
from nac_ros.datasets.mcap import reader
from nac_ros.datasets.mcap.dataset import RecordingDataset, robot_metadata
from nac_ros.datasets.mcap.topics import COMPRESSED
from nac_ros.datasets.mcap.writer import BagWriter
from nac_ros.robot.spec import load_robot

SPEC = load_robot("vx300s")
EMPTY = np.zeros(0)
PROMPT = "Place the marker in the bin."


def joint_state_message(stamp, values, chosen=slice(None)):
    names = list(SPEC.joint_names)[chosen]
    return serialize(
        JOINTS,
        stamp=stamp,
        name=names,
        position=np.asarray(values, float)[chosen],
        velocity=EMPTY,
        effort=EMPTY,
    )


def image_message(stamp, value):
    data = np.full(96 * 96 * 3, value % 256, np.uint8)
    data[:3] = np.frombuffer(np.int32(value).tobytes(), np.uint8)[:3]
    return serialize(
        IMAGE,
        stamp=stamp,
        height=96,
        width=96,
        encoding="rgb8",
        is_bigendian=0,
        step=288,
        data=data,
    )


def bgra_message(stamp, value):
    """The image of `image_message` as bgra8."""
    image = np.full((96 * 96, 4), value % 256, np.uint8)
    image[:, 3] = 7
    image[0, 2::-1] = np.frombuffer(np.int32(value).tobytes(), np.uint8)[:3]
    return serialize(
        IMAGE,
        stamp=stamp,
        height=96,
        width=96,
        encoding="bgra8",
        is_bigendian=0,
        step=384,
        data=image.reshape(-1),
    )


def jpeg_message(stamp, value):
    image = np.full((96, 96, 3), value % 256, np.uint8)
    data = np.frombuffer(image_codec.encode_jpeg(image, 95), np.uint8)
    return serialize(COMPRESSED, stamp=stamp, format="jpeg", data=data)


def commanded_positions(k):
    """Set-point of every joint at k / 100 s."""
    return SPEC.home + 0.001 * k


def write_recording(
    folder,
    seconds=2.0,
    holes=(),
    modes=(),
    outcome="success",
    command=True,
    wrist=(IMAGE, image_message),
    parts=False,
):
    """Joint states and set-points at 100 Hz, images at 30 Hz received 12 ms after their stamp.

    parts: arm and gripper have separate publishers, the gripper's is 3 ms later
    """
    writer = BagWriter(folder, {"task": PROMPT, **robot_metadata(SPEC)})
    topics = {"joint_states": JOINTS, "guard/command": JOINTS, "guard/mode": TEXT}
    shown = "wrist/image_raw" + ("/compressed" if wrist[0] == COMPRESSED else "")
    for topic, message_type in {**topics, "scene/image_raw": IMAGE, shown: wrist[0]}.items():
        writer.add_topic(topic, message_type)
    events = []
    for k in range(int(seconds * 100)):
        stamp = T0 + k * 10_000_000
        here = commanded_positions(k) - 0.01
        if parts:
            later = stamp + 3_000_000
            arm, gripper = (
                joint_state_message(stamp, here, slice(6)),
                joint_state_message(later, here, slice(6, 7)),
            )
            events.append((stamp + 200_000, "joint_states", stamp, arm))
            events.append((later + 200_000, "joint_states", later, gripper))
        else:
            events.append(
                (stamp + 200_000, "joint_states", stamp, joint_state_message(stamp, here))
            )
        if command:
            events.append(
                (stamp, "guard/command", stamp, joint_state_message(stamp, commanded_positions(k)))
            )
    for k in range(int(seconds * 30)):
        stamp = T0 + k * 33_333_333
        if not any(low <= k / 30 < high for low, high in holes):
            late = stamp + 12_000_000
            events.append((late, "scene/image_raw", stamp, image_message(stamp, k)))
            events.append((late + 1_000_000, shown, stamp, wrist[1](stamp, k + 100)))
    for at, mode in modes:
        stamp = T0 + int(at * 1e9)
        events.append((stamp, "guard/mode", stamp, serialize(TEXT, data=mode)))
    for received, topic, stamp, data in sorted(events, key=lambda e: e[0]):
        writer.write(topic, received, stamp, data)
    return writer.finish({"outcome": outcome})


def test_frames_are_one_period_apart_with_the_next_command_as_action(tmp_path):
    write_recording(tmp_path / "a")
    dataset = RecordingDataset.open(tmp_path)
    assert dataset.fps == 30 and dataset.names == SPEC.joint_names
    assert dataset.tasks == [PROMPT] and len(dataset.episodes) == 1
    episode = dataset.episode(0)
    assert 57 <= len(episode) <= 60 and episode.success is True
    times = (episode.stamps_ns - T0) * 1e-9
    assert np.diff(times) == pytest.approx(1 / 30, abs=1e-6)
    expected = SPEC.home + 0.1 * (times[:, None] + 1 / 30)
    ahead = times + 1 / 30 < 1.98
    assert np.abs(episode.actions - expected)[ahead].max() < 1e-4
    nearest = SPEC.home + 0.001 * np.round(times * 100)[:, None] - 0.01
    assert np.abs(episode.proprio - nearest).max() < 1.1e-3
    shown = episode.images["scene"][:, 40, 40, 0]
    assert shown.tolist() == [k % 256 for k in range(shown[0], shown[0] + len(shown))]
    assert (episode.images["wrist"][:, 40, 40, 0] - shown == 100).all()
    assert np.abs(episode.ages_ms["wrist"]).max() < 1e-3
    assert not episode.intervention.any()
    blind = dataset.episode(0, images=False)
    assert blind.images == {} and np.array_equal(blind.actions, episode.actions)


def test_jpeg_images_give_the_same_frames(tmp_path):
    write_recording(tmp_path / "a", seconds=1.0, wrist=(COMPRESSED, jpeg_message))
    episode = RecordingDataset.open(tmp_path).episode(0)
    off = episode.images["wrist"][:, 40, 40, 0].astype(int) - episode.images["scene"][:, 40, 40, 0]
    assert len(episode) > 25 and np.abs(off - 100).max() <= 2


def test_images_with_alpha_give_the_same_frames(tmp_path):
    write_recording(tmp_path / "a", seconds=1.0, wrist=(IMAGE, bgra_message))
    write_recording(tmp_path / "b", seconds=1.0)
    episodes = [RecordingDataset.open(tmp_path / name).episode(0) for name in "ab"]
    assert len(episodes[0]) == len(episodes[1]) > 25
    assert np.array_equal(episodes[0].images["wrist"], episodes[1].images["wrist"])


def test_partial_joint_states_give_the_same_frames(tmp_path):
    write_recording(tmp_path / "a", seconds=1.0, parts=True)
    write_recording(tmp_path / "b", seconds=1.0)
    split, whole = (RecordingDataset.open(tmp_path / name).episode(0) for name in "ab")
    assert len(split) == len(whole) > 25
    assert np.array_equal(split.actions, whole.actions)
    assert np.abs(split.proprio - whole.proprio).max() < 1.1e-3  # the arm moves 0.001 per period


def test_a_gap_starts_a_new_episode(tmp_path):
    write_recording(tmp_path / "a", seconds=3.0, holes=[(1.0, 1.6)])
    lengths = [info.length for info in RecordingDataset.open(tmp_path).episodes]
    assert len(lengths) == 2 and sum(lengths) < 75 and min(lengths) > 25
    first = RecordingDataset.open(tmp_path).episode(0)
    assert np.diff(first.stamps_ns).max() < 1.5e9 / 30


def test_missing_images_are_held_up_to_their_maximum_age(tmp_path):
    write_recording(tmp_path / "a", seconds=3.0, holes=[(0.99, 1.05), (2.0, 2.03)])
    dataset = RecordingDataset.open(tmp_path)
    (info,) = dataset.episodes
    episode = dataset.episode(0)
    assert info.length == len(episode) >= 87
    times = (episode.stamps_ns - T0) * 1e-9
    assert np.diff(times) == pytest.approx(1 / 30, abs=1e-6)
    shown = episode.images["scene"][:, 40, 40, 0].astype(int)
    held = np.flatnonzero(np.diff(shown) == 0) + 1
    assert len(held) == 3
    assert episode.ages_ms["scene"][held] == pytest.approx([33.3, 66.7, 33.3], abs=0.5)
    assert np.delete(episode.ages_ms["scene"], held) == pytest.approx(0.0, abs=1e-3)
    nearest = SPEC.home + 0.001 * np.round(times * 100)[:, None] - 0.01
    assert np.abs(episode.proprio - nearest).max() < 1.1e-3  # the joint states continued


def test_interventions_are_marked_but_demonstrations_are_not(tmp_path):
    write_recording(tmp_path / "a", modes=[(0.0, "policy"), (0.5, "teleop"), (1.0, "policy")])
    write_recording(tmp_path / "b", modes=[(0.0, "teleop")], outcome="failure")
    dataset = RecordingDataset.open(tmp_path)
    mixed, demonstration = dataset.episode(0), dataset.episode(1)
    assert 13 <= mixed.intervention.sum() <= 17 and not demonstration.intervention.any()
    assert demonstration.success is False


def test_unreadable_recordings_are_rejected_with_the_reason(tmp_path):
    with pytest.raises(DatasetError, match="contains no recorded episode"):
        RecordingDataset.open(tmp_path)
    write_recording(tmp_path / "a", command=False)
    with pytest.raises(DatasetError, match="has no guard/command"):
        RecordingDataset.open(tmp_path).episode(0)
    next_state = RecordingDataset.open(tmp_path, "joint_states").episode(0)
    assert np.array_equal(next_state.actions[:-1], next_state.proprio[1:])
    with pytest.raises(DatasetError, match="its action key is guard/command or joint_states"):
        RecordingDataset.open(tmp_path, "action")
    BagWriter(tmp_path / "b", {})
    with pytest.raises(DatasetError, match=r"b\.partial is unfinished; run `nac data repair"):
        RecordingDataset.open(tmp_path)


def wait_for(ready, seconds=5.0):
    """Waits until `ready()` or the timeout; the following assertion fails after a timeout."""
    deadline = time.monotonic() + seconds
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.parametrize("parts", [False, True], ids=["whole", "parts"])
def test_live_observations_equal_the_resampled_frames(tmp_path, parts):
    """The messages of a recording, published over DDS, give the frames of the resampler."""
    rclpy = pytest.importorskip("rclpy")
    from rclpy.context import Context
    from rclpy.node import Node
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import Image, JointState

    from nac_ros.core.errors import BadObservation
    from nac_ros.ros import qos
    from nac_ros.ros.observation_source import ObservationSource

    folder = write_recording(tmp_path / "a", seconds=1.0, parts=parts)
    frames = RecordingDataset.open(folder).episode(0)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    context = Context()
    rclpy.init(context=context, domain_id=10 + os.getpid() % 80)
    node = Node("bridge", context=context)
    bridge = ObservationSource(node, SPEC, [camera.name for camera in SPEC.cameras], 1)
    message_types = {JOINTS: JointState, IMAGE: Image}
    outputs = {
        topic: node.create_publisher(message_type, topic, qos.SENSOR_PUBLISHER)
        for topic, message_type in (
            ("/joint_states", JointState),
            ("/scene/image_raw", Image),
            ("/wrist/image_raw", Image),
        )
    }
    observed, last = [], -np.inf
    try:
        wait_for(lambda: all(out.get_subscription_count() for out in outputs.values()), 60)
        outputs["/joint_states"].publish(b"no message at all")
        wait_for(bridge.read_messages)
        assert (
            bridge.rejections == {"shape": 1}
            and "joint_states: 17 bytes are no" in bridge.last_rejection
        )
        for message in reader.read_messages(folder, set(outputs)):
            outputs[message.topic].publish(
                deserialize_message(message.data, message_types[message.message_type])
            )
            wait_for(bridge.read_messages)
            try:
                observation = bridge.get_observation(message.received * 1e-9, PROMPT)
            except BadObservation:
                continue
            if observation.stamp > last + 0.5 / 30:
                observed.append(observation)
                last = observation.stamp
    finally:
        node.destroy_node()
        context.try_shutdown()
    assert len(observed) == len(frames) > 25
    stamps = np.array([o.stamp for o in observed])
    assert np.abs(stamps - frames.stamps_ns * 1e-9).max() < 1e-6  # float seconds since 1970
    assert np.array_equal(np.stack([o.proprio[-1] for o in observed]), frames.proprio)
    for camera, images in frames.images.items():
        assert np.array_equal(np.stack([o.images[camera][-1] for o in observed]), images)
