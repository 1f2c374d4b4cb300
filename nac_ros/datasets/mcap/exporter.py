"""Converts datasets to recordings: serializes each episode to the messages of a recorder.

Reading such a recording back gives the frames of the source. ROS is not needed.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

import numpy as np

from nac_ros.core import config as configs
from nac_ros.core import files, image_codec
from nac_ros.core.errors import DatasetError
from nac_ros.core.message_decoding import JPEG_FORMAT, NANO
from nac_ros.core.provenance import environment
from nac_ros.datasets import convert
from nac_ros.datasets.compatibility import same_rate
from nac_ros.datasets.convert import ConversionConfig, ConversionResult
from nac_ros.datasets.episode import Episode, Progress
from nac_ros.datasets.factory import AnyDataset
from nac_ros.datasets.lerobot.metadata import outcome_text
from nac_ros.datasets.mcap import reader, resampler, topics
from nac_ros.datasets.mcap import writer as mcap_writer
from nac_ros.datasets.mcap.async_writer import slug
from nac_ros.datasets.mcap.dataset import AGES, INTERVENTIONS, STAMPS, UNKNOWN, robot_metadata
from nac_ros.datasets.mcap.topics import COMPRESSED, IMAGE, JOINTS, TEXT
from nac_ros.datasets.mcap.writer import STORE, BagWriter, TimedMessage
from nac_ros.robot.spec import CameraSpec, RobotSpec, list_robots, load_robot

Metadata = Mapping[str, str]
RUN_FILE = "convert.json"
START_NS = NANO  # start of an episode whose source has no times; 0 means "no time" in ROS
SAME_IMAGE_NS = 1000  # closer stamps belong to one image, for ages are stored as float32
EMPTY = np.zeros(0)


def to_mcap(
    sources: Sequence[AnyDataset], out: Path, conversion: ConversionConfig, progress: Progress
) -> ConversionResult:
    """Converts each episode to a recording in a folder `episode_<number>_<task>`.

    Called again with the same sources, it adds the missing episodes; the last source may have
    new ones. An episode whose frames differ when they are read back, such as one with a frozen
    camera, is kept and listed in `findings`. Raises DatasetError and ConfigError if the
    sources differ, are of another robot, or `out` has other content.
    """
    fps = convert.common_rate(sources, conversion.fps)
    robot = select_robot(sources[0], conversion.robot)
    convert.check_single_tasks(sources, "a recording")
    convert.check_no_depth(sources, "a recording")
    columns = joint_columns(sources[0], robot)
    spec = spec_of_source(robot, sources[0], fps, conversion.cameras)
    fingerprint = convert.source_fingerprint(sources, fps, _robot_fingerprint(spec))
    has_content = out.is_dir() and any(out.iterdir())
    convert.check_resumable(out / RUN_FILE, fingerprint, sources, out, has_content)
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / RUN_FILE, {**fingerprint, "environment": environment()})
    total, before, frames, changed = convert.count_episodes(sources), 0, 0, 0
    numbered = [(source, i) for source in sources for i in range(len(source.episodes))]
    for number, (source, index) in enumerate(numbered):
        info = source.episodes[index]
        folder = out / f"episode_{number:06d}_{slug(info.task)}"
        frames += info.length
        if folder.exists() or mcap_writer.discarded_path(folder).exists():
            before += 1
            continue
        _remove_partial(mcap_writer.partial_path(folder))
        note = {"note": f"converted from {source.root.name}, episode {index}"}
        changed += not write_episode(folder, source.episode(index), spec, columns, note)
        progress(number + 1, total)
    return ConversionResult(out, total, frames, before, changed)


def write_episode(
    folder: Path, episode: Episode, spec: RobotSpec, columns: Sequence[int], metadata: Metadata
) -> bool:
    """Writes one episode as a recording; returns whether it is read back with the same frames.

    columns: column of each of the robot's joints in the episode's states and actions
    """
    unknown = {
        STAMPS: episode.stamps_ns is None,
        AGES: not episode.ages_ms,
        INTERVENTIONS: episode.intervention is None,
    }
    known = {"task": episode.task, "operator": "", "bundle": "", **metadata}
    known |= {UNKNOWN: " ".join(name for name, missing in unknown.items() if missing)}
    known |= {key: str(value) for key, value in environment().items()}
    writer = BagWriter(folder, {**known, **robot_metadata(spec)})
    for topic in topics.recorded_topics(spec):
        writer.add_topic(topic.topic, topic.message_type)
    for message in episode_messages(episode, spec, columns):
        writer.write(*message)
    writer.flush()
    findings = _compare_frames(mcap_writer.partial_path(folder), episode, spec)
    outcome = outcome_text(episode.success)
    writer.finish({"outcome": outcome, "findings": findings, "lost": "0"})
    return not findings


def _remove_partial(partial: Path) -> None:
    """Deletes the folder of an interrupted conversion."""
    if partial.exists():
        if (partial / mcap_writer.FILE).is_file() and mcap_writer.in_use(partial):
            raise DatasetError(f"{partial} is being written by another process; wait for it")
        rmtree(partial)


def _compare_frames(partial: Path, episode: Episode, spec: RobotSpec) -> str:
    """Reads the recording back; returns a sentence if its frames differ from the episode's."""
    cameras = [camera.name for camera in spec.cameras]
    messages = reader.read_messages(partial, None, reader.ReadReport())
    recording = resampler.resample(messages, spec, cameras, episode.task, images=False)
    wanted = np.array(frame_times(episode, spec.action_rate_hz))
    found = [recording.to_nanoseconds(segment.stamps) for segment in recording.segments]
    if len(found) == 1 and np.array_equal(found[0], wanted):
        return ""
    n_same = len(np.intersect1d(np.concatenate([*found, wanted[:0]]), wanted))
    rejected = ", ".join(f"{n} messages: {reason}" for reason, n in recording.rejected.items())
    cause = rejected or f"{len(found)} segments"
    return f"a reader, like the robot, finds {n_same} of its {len(wanted)} frames ({cause})"


def episode_messages(
    episode: Episode, spec: RobotSpec, columns: Sequence[int]
) -> Iterator[TimedMessage]:
    """All messages of an episode in the order of receipt; columns: see `write_episode`."""
    # The resampler takes a frame at the newest time that all cameras have reached, when a joint
    # state of that time is there. So each frame k gives: mode changes, its joint state, the images
    # up to its time, the image that completes it last, and the command for one period later.
    times, names = frame_times(episode, spec.action_rate_hz), spec.joint_names
    period, order = round(NANO / spec.action_rate_hz), list(columns)
    queues = {c.name: deque(camera_samples(episode, c.name, times)) for c in spec.cameras}
    shown = dict.fromkeys(queues, times[0] - 1)  # camera -> stamp of its newest image
    yield TimedMessage(topics.TASK, times[0], times[0], serialize_text(episode.task))
    modes = _mode_changes(episode, times, period)
    received = times[0]
    for k, time in enumerate(times):
        for at, mode in modes[k]:
            yield TimedMessage(topics.MODE, at, at, serialize_text(mode))
        joints = serialize_joint_state(time, names, episode.proprio[k, order])
        command = serialize_joint_state(time + period, names, episode.actions[k, order])
        messages = [(spec.joint_states_topic, time, joints)]
        for name, sample in _due_samples(queues, shown, time):
            pixels = episode.images[name][sample.frame]
            messages.append(_image_message(spec.camera(name), sample.stamp, pixels))
        for topic, at, data in [*messages, (topics.COMMAND, time + period, command)]:
            received = max(received, at)
            yield TimedMessage(topic, received, at, data)


def frame_times(episode: Episode, rate_hz: float) -> list[int]:
    """Time of each of T frames [ns]; at the rate from START_NS on if the source has no times."""
    if episode.stamps_ns is not None:
        return [int(stamp) for stamp in episode.stamps_ns]
    return [START_NS + round(k * NANO / rate_hz) for k in range(len(episode))]


class CameraSample(NamedTuple):
    """An image: its stamp [ns] and the first frame that shows it."""

    stamp: int
    frame: int


def camera_samples(episode: Episode, camera: str, times: Sequence[int]) -> list[CameraSample]:
    """The images of a camera, each once, though several frames may show it.

    The last image is stamped with its frame's time: no later image would complete that frame.
    """
    ages = episode.ages_ms.get(camera, np.zeros(len(times)))
    samples: list[CameraSample] = []
    for k, time in enumerate(times):
        stamp = time - round(1e6 * float(ages[k]))
        if k == len(times) - 1:
            stamp = max(stamp, time)
        if not samples or stamp > samples[-1].stamp + SAME_IMAGE_NS:
            samples.append(CameraSample(stamp, k))
    return samples


def _due_samples(
    queues: dict[str, deque[CameraSample]], shown: dict[str, int], time: int
) -> list[tuple[str, CameraSample]]:
    """Takes the images out of the queues until every camera has reached `time`. The camera with
    the oldest newest image comes last, because it completes the frame."""
    due: dict[str, list[CameraSample]] = {}
    for name, queue in queues.items():
        while queue and shown[name] < time:
            due.setdefault(name, []).append(queue.popleft())
            shown[name] = due[name][-1].stamp
    order = sorted(due, key=lambda name: -shown[name])
    return [(name, sample) for name in order for sample in due[name]]


def _mode_changes(
    episode: Episode, times: Sequence[int], period: int
) -> list[list[tuple[int, str]]]:
    """Messages (time [ns], mode) on guard/mode before each frame, from which a reader finds the
    same interventions."""
    changes: list[list[tuple[int, str]]] = [[] for _ in times]
    marks = episode.intervention
    if marks is None or not marks.any():
        return changes
    changes[0].append((times[0] - period, "policy"))
    before = False
    for k, mark in enumerate(marks):
        if mark != before:
            changes[k].append((times[k], "teleop" if mark else "policy"))
        before = mark
    return changes


def _image_message(camera: CameraSpec, stamp: int, pixels: np.ndarray) -> tuple[str, int, bytes]:
    if camera.transport == "jpeg":
        data = serialize_compressed_image(stamp, camera.name, pixels)
        return camera.compressed_topic, stamp, data
    return camera.topic, stamp, serialize_image(stamp, camera.name, pixels)


def serialize_joint_state(stamp: int, names: Sequence[str], positions: np.ndarray) -> bytes:
    """sensor_msgs/JointState of positions `[D]` at `stamp` [ns]."""
    values = {"name": list(names), "position": np.asarray(positions, np.float64)}
    return _serialize_stamped(JOINTS, stamp, "", **values, velocity=EMPTY, effort=EMPTY)


def serialize_image(stamp: int, camera: str, pixels: np.ndarray) -> bytes:
    """sensor_msgs/Image of RGB uint8 `[H, W, 3]` at `stamp` [ns]."""
    height, width, _ = pixels.shape
    layout = {"encoding": "rgb8", "is_bigendian": 0, "step": 3 * width}
    data = np.ascontiguousarray(pixels).reshape(-1)
    return _serialize_stamped(
        IMAGE, stamp, camera, height=height, width=width, **layout, data=data
    )


def serialize_compressed_image(stamp: int, camera: str, pixels: np.ndarray) -> bytes:
    """sensor_msgs/CompressedImage, JPEG, of RGB uint8 `[H, W, 3]` at `stamp` [ns]."""
    data = np.frombuffer(image_codec.encode_jpeg(pixels, image_codec.JPEG_QUALITY), np.uint8)
    return _serialize_stamped(COMPRESSED, stamp, camera, format=JPEG_FORMAT, data=data)


def serialize_text(text: str) -> bytes:
    """std_msgs/String."""
    return _serialize(TEXT, data=text)


def _serialize_stamped(message_type: str, stamp: int, frame: str, **values: Any) -> bytes:
    time = STORE.types["builtin_interfaces/msg/Time"](*divmod(stamp, NANO))
    header = STORE.types["std_msgs/msg/Header"](stamp=time, frame_id=frame)
    return _serialize(message_type, header=header, **values)


def _serialize(message_type: str, **values: Any) -> bytes:
    return bytes(STORE.serialize_cdr(STORE.types[message_type](**values), message_type))


def select_robot(source: AnyDataset, named: str) -> RobotSpec:
    """The robot `named`, else the source's own; raises DatasetError if neither is known."""
    recorded: RobotSpec | None = getattr(source, "spec", None)
    if recorded is not None and not named:
        return recorded
    if not named and source.robot_type not in list_robots():
        raise DatasetError(
            f"{source.root} is of robot '{source.robot_type}', which config/robots does not have "
            f"({', '.join(list_robots())}); name it, or its YAML file, with --robot"
        )
    return load_robot(named or source.robot_type)


def spec_of_source(
    robot: RobotSpec, source: AnyDataset, fps: float, cameras: Sequence[str] = ()
) -> RobotSpec:
    """The robot with the source's rate and the given cameras, or all of the source's.

    Raises UnknownName and DatasetError if a camera is missing or its images have another size.
    """
    names = cameras or tuple(source.cameras)
    for name in names:
        if name not in source.cameras:
            known = ", ".join(source.cameras) or "none"
            raise DatasetError(f"{source.root} has no camera '{name}'; it has: {known}")
    specs = tuple(robot.camera(name) for name in names)
    for camera in specs:
        height, width = source.cameras[camera.name]
        if (camera.height, camera.width) != (height, width):
            raise DatasetError(
                f"{source.root} has images of {width} x {height} of camera '{camera.name}', the "
                f"robot's YAML says {camera.width} x {camera.height}; change the YAML"
            )
    if same_rate(robot.action_rate_hz, fps):
        return replace(robot, cameras=specs)
    specs = tuple(replace(camera, rate_hz=float(fps)) for camera in specs)
    return replace(robot, action_rate_hz=float(fps), cameras=specs)


def joint_columns(source: AnyDataset, spec: RobotSpec) -> list[int]:
    """The column of each of the robot's joints in the source's actions and states.

    Unnamed columns are taken in their order. Raises DatasetError if joints or units differ.
    """
    names, states = list(source.names), list(source.state_names)
    if len(states) != len(names):
        raise DatasetError(
            f"{source.root} has {len(states)} columns of state and {len(names)} of actions, and a "
            "recording needs the state of each joint; choose columns with --state-key"
        )
    if _is_unnamed(names) and len(names) == spec.action_dim:
        return list(range(len(names)))
    if sorted(names) != sorted(spec.joint_names) or not (states == names or _is_unnamed(states)):
        raise DatasetError(
            f"{source.root} has actions of {', '.join(names)} and a state of {', '.join(states)}; "
            f"robot {spec.name} has joints {', '.join(spec.joint_names)}: choose another --robot"
        )
    columns = [names.index(joint) for joint in spec.joint_names]
    units = [source.units[k] for k in columns]
    if any(units) and units != list(spec.units):
        raise DatasetError(
            f"{source.root} has units {', '.join(units)}, robot {spec.name} has "
            f"{', '.join(spec.units)}; choose another --robot"
        )
    return columns


def _is_unnamed(names: Sequence[str]) -> bool:
    """Whether these are the numbered names that a reader gives to columns without names."""
    return all(name.endswith(f".{k}") for k, name in enumerate(names))


def _robot_fingerprint(spec: RobotSpec) -> dict[str, str]:
    """What a resumed conversion must have in common of the robot, readable for error messages."""
    content = json.dumps(configs.to_plain(spec))
    return {
        "robot": spec.name,
        "cameras": ", ".join(camera.name for camera in spec.cameras),
        "robot_digest": hashlib.sha256(content.encode()).hexdigest()[:16],
    }
