"""Serialized messages from core values, where no ROS is, for episodes that were converted."""

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nac_ros.core import config as configs
from nac_ros.core import files, image_codec
from nac_ros.core.errors import DatasetError
from nac_ros.core.message_decoding import JPEG_FORMAT, NANO
from nac_ros.core.provenance import environment
from nac_ros.datasets import convert
from nac_ros.datasets.compatibility import same_rate
from nac_ros.datasets.convert import Conversion, Converted, Report
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.factory import AnyDataset
from nac_ros.datasets.lerobot import reader as lerobot_reader
from nac_ros.datasets.mcap import reader, resampler, topics
from nac_ros.datasets.mcap import writer as mcap_writer
from nac_ros.datasets.mcap.async_writer import slug
from nac_ros.datasets.mcap.dataset import AGES, INTERVENTIONS, STAMPS, UNKNOWN, robot_fact
from nac_ros.datasets.mcap.topics import COMPRESSED, IMAGE, JOINTS, TEXT
from nac_ros.datasets.mcap.writer import STORE, BagWriter
from nac_ros.robot.spec import CameraSpec, RobotSpec, list_robots, load_robot

NOTHING = np.zeros(0)


def joint_state(stamp: int, names: Sequence[str], positions: np.ndarray) -> bytes:
    """sensor_msgs/JointState of positions `[D]` at `stamp` [ns]."""
    return _serialized(
        JOINTS, header=_header(stamp, ""), name=list(names), velocity=NOTHING, effort=NOTHING,
        position=np.asarray(positions, np.float64),
    )  # fmt: skip


def image(stamp: int, camera: str, pixels: np.ndarray) -> bytes:
    """sensor_msgs/Image of RGB uint8 `[H, W, 3]` at `stamp` [ns]."""
    height, width, _ = pixels.shape
    return _serialized(
        IMAGE, header=_header(stamp, camera), height=height, width=width, encoding="rgb8",
        is_bigendian=0, step=3 * width, data=np.ascontiguousarray(pixels).reshape(-1),
    )  # fmt: skip


def compressed(stamp: int, camera: str, pixels: np.ndarray) -> bytes:
    """sensor_msgs/CompressedImage, JPEG, of RGB uint8 `[H, W, 3]` at `stamp` [ns]."""
    data = np.frombuffer(image_codec.encode_jpeg(pixels, image_codec.QUALITY), np.uint8)
    return _serialized(
        COMPRESSED, header=_header(stamp, camera), format=JPEG_FORMAT, data=data
    )  # fmt: skip


def text(said: str) -> bytes:
    """std_msgs/String."""
    return _serialized(TEXT, data=said)


def _header(stamp: int, frame: str) -> Any:
    types = STORE.types
    time = types["builtin_interfaces/msg/Time"](*divmod(stamp, NANO))
    return types["std_msgs/msg/Header"](stamp=time, frame_id=frame)


def _serialized(kind: str, **values: Any) -> bytes:
    return bytes(STORE.serialize_cdr(STORE.types[kind](**values), kind))


BEGIN_NS = NANO  # when an episode begins whose source tells no time; 0 would be no time in ROS
SAME_NS = 1000  # stamps closer than this are of one image: ages are kept as float32


class TimedMessage(NamedTuple):
    """One serialized message; times [ns]; topic as the robot's YAML names it."""

    topic: str
    received: int
    published: int
    data: bytes


class CameraSample(NamedTuple):
    """An image: when it was taken [ns], and the first frame that shows it."""

    stamp: int
    frame: int


def frame_times(episode: Episode, rate_hz: float) -> list[int]:
    """When each of T frames was [ns]; by the rate where the source does not tell."""
    if episode.stamps_ns is not None:
        return [int(stamp) for stamp in episode.stamps_ns]
    return [BEGIN_NS + round(k * NANO / rate_hz) for k in range(len(episode))]


def episode_messages(
    episode: Episode, spec: RobotSpec, order: Sequence[int]
) -> Iterator[TimedMessage]:
    """All messages in the order of receipt; `order`: the column of each of the robot's joints."""
    times, names = frame_times(episode, spec.action_rate_hz), spec.joint_names
    period, columns = round(NANO / spec.action_rate_hz), list(order)
    waiting = {camera.name: deque(shots(episode, camera.name, times)) for camera in spec.cameras}
    shown = dict.fromkeys(waiting, times[0] - 1)
    yield TimedMessage(topics.TASK, times[0], times[0], text(episode.task))
    said = _modes(episode, times, period)
    clock = times[0]
    for k, time in enumerate(times):
        yield from (TimedMessage(topics.MODE, at, at, text(mode)) for at, mode in said[k])
        joints = joint_state(time, names, episode.proprio[k, columns])
        command = joint_state(time + period, names, episode.actions[k, columns])
        frame = [(spec.joint_states_topic, time, joints)]
        for name, shot in _due(waiting, shown, time):
            pixels = episode.images[name][shot.frame]
            frame.append(_picture(spec.camera(name), shot.stamp, pixels))
        for topic, at, data in [*frame, (topics.COMMAND, time + period, command)]:
            clock = max(clock, at)
            yield TimedMessage(topic, clock, at, data)


def shots(episode: Episode, camera: str, times: Sequence[int]) -> list[CameraSample]:
    """The images that a camera took, each once though several frames may show it.

    The last one counts as taken with its frame, for none came after it to complete the frame.
    """
    ages = episode.ages_ms.get(camera, np.zeros(len(times)))
    found: list[CameraSample] = []
    for k, time in enumerate(times):
        stamp = time - round(1e6 * float(ages[k]))
        if k == len(times) - 1:
            stamp = max(stamp, time)
        if not found or stamp > found[-1].stamp + SAME_NS:
            found.append(CameraSample(stamp, k))
    return found


def _due(
    waiting: dict[str, deque[CameraSample]], shown: dict[str, int], time: int
) -> list[tuple[str, CameraSample]]:
    """The images until every camera has reached `time`; those that reach just it come last, for
    then the frame is complete."""
    due: dict[str, list[CameraSample]] = {}
    for name, queue in waiting.items():
        while queue and shown[name] < time:
            due.setdefault(name, []).append(queue.popleft())
            shown[name] = due[name][-1].stamp
    order = sorted(due, key=lambda name: -shown[name])
    return [(name, shot) for name in order for shot in due[name]]


def _picture(camera: CameraSpec, stamp: int, pixels: np.ndarray) -> tuple[str, int, bytes]:
    if camera.transport == "jpeg":
        data = compressed(stamp, camera.name, pixels)
        return camera.compressed_topic, stamp, data
    return camera.topic, stamp, image(stamp, camera.name, pixels)


def _modes(
    episode: Episode, times: Sequence[int], period: int
) -> list[list[tuple[int, str]]]:  # fmt: skip
    """What guard/mode says at each frame, such that a reader finds the same interventions."""
    said: list[list[tuple[int, str]]] = [[] for _ in times]
    marks = episode.intervention
    if marks is None or not marks.any():
        return said
    before = False
    said[0].append((times[0] - period, "policy"))
    for k, mark in enumerate(marks):
        if mark != before:
            said[k].append((times[k], "teleop" if mark else "policy"))
        before = mark
    return said


RUN_FILE = "convert.json"
INCOMPLETE = "a reader finds {} of its {} frames ({}), as the robot would have"


def to_mcap(
    sources: Sequence[AnyDataset], out: Path, conversion: Conversion, report: Report
) -> Converted:
    """A folder for each, `episode_<number>_<task>`; report is called with (episodes done, all).

    Called again with the same sources, the last of which may have grown, it adds what is missing.
    An episode that is read back with other frames than it had is kept and says so in its
    `findings`, as one whose camera stood still does.
    Raises DatasetError and ConfigError where the sources differ, are of another robot, or `out`
    holds something else.
    """
    fps = convert.common_rate(sources, conversion.fps)
    robot = robot_for(sources[0], conversion.robot)
    convert.check_single_tasks(sources, "a recording")
    convert.check_no_depth(sources, "a recording")
    order = columns_of(sources[0], robot)
    spec = as_seen(robot, sources[0], fps, conversion.cameras)
    origin = convert.source_fingerprint(sources, fps, _identity(spec))
    run_file = out / RUN_FILE
    convert.check_same(run_file, origin, sources, out, out.is_dir() and any(out.iterdir()))
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(run_file, {**origin, "environment": environment()})
    total, before, frames, doubtful = convert.count(sources), 0, 0, 0
    numbered = [(source, i) for source in sources for i in range(len(source.episodes))]
    for number, (source, index) in enumerate(numbered):
        info = source.episodes[index]
        folder = out / f"episode_{number:06d}_{slug(info.task)}"
        frames += info.length
        if folder.exists() or mcap_writer.discarded_of(folder).exists():
            before += 1
            continue
        _clear(mcap_writer.partial_of(folder))
        facts = {"note": f"converted from {source.root.name}, episode {index}"}
        doubtful += not write_episode(folder, source.episode(index), spec, order, facts)
        report(number + 1, total)
    return Converted(out, total, frames, before, doubtful)


def write_episode(
    folder: Path, episode: Episode, spec: RobotSpec, order: Sequence[int], more: dict[str, str]
) -> bool:
    """One episode as a recording, `order`: the column of each of the robot's joints; whether it
    is read back with the frames that it had."""
    facts = {
        "task": episode.task, "operator": "", "bundle": "", **more, **robot_fact(spec),
        UNKNOWN: " ".join(_unknown(episode)),
        **{key: str(value) for key, value in environment().items()},
    }  # fmt: skip
    writer = BagWriter(folder, facts)
    for source in topics.recorded(spec):
        writer.open_topic(source.topic, source.kind)
    for row in episode_messages(episode, spec, order):
        writer.write(*row)
    writer.flush()
    found = _read_back(mcap_writer.partial_of(folder), episode, spec)
    writer.finish(
        {"outcome": lerobot_reader.told(episode.success), "findings": found, "lost": "0"}
    )
    return not found


def robot_for(source: AnyDataset, named: str) -> RobotSpec:
    """The robot `named`, else the one that the source is of; raises DatasetError where nothing
    says which."""
    recorded: RobotSpec | None = getattr(source, "spec", None)
    if recorded is not None and not named:
        return recorded
    if not named and source.robot_type not in list_robots():
        raise DatasetError(
            f"{source.root} is of robot '{source.robot_type}', which config/robots does not have "
            f"({', '.join(list_robots())}); name it, or its YAML file, with --robot"
        )
    return load_robot(named or source.robot_type)


def as_seen(
    robot: RobotSpec, source: AnyDataset, fps: float, cameras: Sequence[str] = ()
) -> RobotSpec:
    """The robot at the source's rate, with its cameras that are wanted, all that the source has
    if none are named; raises UnknownName and DatasetError where one is not there."""
    names = cameras or tuple(source.cameras)
    for name in names:
        if name not in source.cameras:
            known = ", ".join(source.cameras) or "none"
            raise DatasetError(f"{source.root} has no camera '{name}'; it has: {known}")
    views = tuple(_view(robot.camera(name), source) for name in names)
    if same_rate(robot.action_rate_hz, fps):
        return replace(robot, cameras=views)
    views = tuple(replace(view, rate_hz=float(fps)) for view in views)
    return replace(robot, action_rate_hz=float(fps), cameras=views)


def columns_of(source: AnyDataset, spec: RobotSpec) -> list[int]:
    """Which column of actions and state is which of the robot's joints; columns that nobody named
    are taken in their order. Raises DatasetError."""
    names, states = list(source.names), list(source.state_names)
    if len(states) != len(names):
        raise DatasetError(
            f"{source.root} has {len(states)} columns of state and {len(names)} of actions, and a "
            "recording needs the state of each joint; choose columns with --state-key"
        )
    if _nameless(names) and len(names) == spec.action_dim:
        return list(range(len(names)))
    if sorted(names) != sorted(spec.joint_names) or not (states == names or _nameless(states)):
        raise DatasetError(
            f"{source.root} has actions of {', '.join(names)} and a state of {', '.join(states)}; "
            f"robot {spec.name} has joints {', '.join(spec.joint_names)}: choose another --robot"
        )
    order = [names.index(joint) for joint in spec.joint_names]
    units = [source.units[k] for k in order]
    if any(units) and units != list(spec.units):
        raise DatasetError(
            f"{source.root} has units {', '.join(units)}, robot {spec.name} has "
            f"{', '.join(spec.units)}; choose another --robot"
        )
    return order


def _identity(spec: RobotSpec) -> dict[str, str]:
    """What conversions that go on must have in common of their robot, in words for people."""
    content = json.dumps(configs.to_plain(spec))
    return {
        "robot": spec.name,
        "cameras": ", ".join(camera.name for camera in spec.cameras),
        "robot_digest": hashlib.sha256(content.encode()).hexdigest()[:16],
    }


def _view(camera: CameraSpec, source: AnyDataset) -> CameraSpec:
    size = source.cameras[camera.name]
    if (camera.height, camera.width) != size:
        raise DatasetError(
            f"{source.root} has images of {size[1]} x {size[0]} pixels of camera '{camera.name}', "
            f"the robot's YAML says {camera.width} x {camera.height}; give a YAML that fits"
        )
    return camera


def _nameless(names: Sequence[str]) -> bool:
    """Whether they are the numbered ones that a reader gives columns without names."""
    return all(name.endswith(f".{k}") for k, name in enumerate(names))


def _unknown(episode: Episode) -> list[str]:
    told = {
        STAMPS: episode.stamps_ns is not None,
        AGES: bool(episode.ages_ms),
        INTERVENTIONS: episode.intervention is not None,
    }
    return [what for what, known in told.items() if not known]


def _clear(partial: Path) -> None:
    """Removes what a conversion left that was cut off."""
    if partial.exists():
        if (partial / mcap_writer.FILE).is_file() and mcap_writer.in_use(partial):
            raise DatasetError(f"{partial} is being written by another process; wait for it")
        mcap_writer.remove(partial)


def _read_back(place: Path, episode: Episode, spec: RobotSpec) -> str:
    """What is wrong with the frames that a reader finds; "" where they are the episode's."""
    cameras = [camera.name for camera in spec.cameras]
    written = reader.messages(place, None, reader.ReadReport())
    cut = resampler.cut(written, spec, cameras, episode.task, images=False)
    wanted = np.array(frame_times(episode, spec.action_rate_hz))
    found = [cut.nanoseconds(part.stamps) for part in cut.slices]
    if len(found) == 1 and np.array_equal(found[0], wanted):
        return ""
    kept = len(np.intersect1d(np.concatenate([*found, wanted[:0]]), wanted))
    why = ", ".join(f"{n} messages: {reason}" for reason, n in cut.refused.items())
    return INCOMPLETE.format(kept, len(wanted), why or f"{len(found)} stretches without a hole")
