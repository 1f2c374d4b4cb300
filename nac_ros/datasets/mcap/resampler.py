"""A recording cut into frames by the same alignment that the robot observes with.

Messages come in the order in which they were received. A frame is taken as soon as every camera
has reached its time, as the policy would have seen it then; the frames of one slice lie one
control period apart. Where cameras left pictures out, the one before is held for as long as the
robot's YAML lets a picture age; at a longer hole a slice ends.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nac_ros.core.errors import BadObservation, DatasetError, show_text
from nac_ros.core.image_codec import from_compressed
from nac_ros.core.message_decoding import NANO, from_image, from_joint_state, to_seconds
from nac_ros.core.types import Observation
from nac_ros.datasets.mcap import topics, writer
from nac_ros.datasets.mcap.reader import Message
from nac_ros.datasets.mcap.topics import COMPRESSED, IMAGE, JOINTS
from nac_ros.robot.observation_buffer import ObservationBuffer
from nac_ros.robot.spec import RobotSpec

LARGEST = 1e30  # [rad or m] actions are float32, where more becomes infinite
EARLY = 0.5  # control periods after the last frame, before which none is taken


@dataclass
class CommandTrack:
    """What was commanded: times `[N]` [s], and positions `[N, D]` in the robot's order."""

    times: list[float] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)

    def at(self, times: np.ndarray) -> np.ndarray:
        """Float32 `[T, D]`; before its first and after its last set-point the arm stands."""
        order = np.argsort(self.times, kind="stable")
        known, places = np.array(self.times)[order], np.array(self.positions)[order]
        wanted, known = np.round(times * NANO), np.round(known * NANO)  # set-points stay exact
        columns = [np.interp(wanted, known, column) for column in places.T]
        return np.stack(columns, 1).astype(np.float32)


@dataclass
class Segment:
    """Frames one control period apart: an observation each, and how much older its images are."""

    observations: list[Observation] = field(default_factory=list)
    ages: list[dict[str, float]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def stamps(self) -> np.ndarray:
        """Float64 `[T]` [s]."""
        return np.array([observation.stamp for observation in self.observations])


@dataclass
class ResampledRecording:
    """All of one recording; times are seconds after `origin_ns`.

    held: frames that show the picture of the frame before, because the cameras left theirs out
    modes: when guard/mode said what; refused: what did not fit, as the live bridge counts it
    """

    origin_ns: int = 0
    held: int = 0
    slices: list[Segment] = field(default_factory=list)
    commands: CommandTrack = field(default_factory=CommandTrack)
    modes: list[tuple[float, str]] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)

    def nanoseconds(self, times: np.ndarray) -> np.ndarray:
        """Int64 `[T]` of seconds after the origin."""
        return self.origin_ns + np.round(times * NANO).astype(np.int64)


class RecordingResampler:
    """Feeds an Aligner with a recording's messages and takes a frame whenever one is due."""

    def __init__(self, spec: RobotSpec, cameras: Iterable[str], task: str, images: bool = True):
        self.spec, self._task, self._images = spec, task, images
        self._aligner = ObservationBuffer(spec, list(cameras), n_obs_steps=1)
        pictures = [spec.camera(name) for name in cameras]
        self._cameras = {f"/{t}": c.name for c in pictures for t in (c.topic, c.compressed_topic)}
        self._period = 1 / spec.action_rate_hz
        self._patience = min((camera.max_age_s for camera in pictures), default=0.0)
        self.cut = ResampledRecording()

    def take(self, message: Message) -> None:
        """One message; what does not fit is counted, as on the robot."""
        cut, topic = self.cut, message.topic
        cut.origin_ns = cut.origin_ns or message.received
        try:
            if topic == f"/{self.spec.joint_states_topic}":
                decoded = _decoded(message, JOINTS)
                stamp = to_seconds(decoded.header.stamp, cut.origin_ns)
                self._aligner.push_joint_state(stamp, decoded.name, decoded.position)
            elif topic in self._cameras:
                decoded = _decoded(message, IMAGE, COMPRESSED)
                stamp = to_seconds(decoded.header.stamp, cut.origin_ns)
                read = from_compressed if message.kind == COMPRESSED else from_image
                self._aligner.push_image(self._cameras[topic], stamp, read(decoded))
            elif topic == f"/{topics.COMMAND}":
                self._command(message)
            elif topic == f"/{topics.MODE}":
                said = _text(message)
                cut.modes.append(((message.received - cut.origin_ns) / NANO, said))
        except BadObservation as error:
            cut.refused[error.reason] = cut.refused.get(error.reason, 0) + 1
        self._frame((message.received - cut.origin_ns) / NANO)

    def _command(self, message: Message) -> None:
        decoded = _decoded(message, JOINTS)
        track = self.cut.commands
        positions = from_joint_state(decoded, self.spec.joint_names)
        if not (np.abs(positions) < LARGEST).all():
            text = f"{topics.COMMAND}: a set-point is not finite, or beyond {LARGEST:g}"
            raise BadObservation(text, "not_finite")
        track.positions.append(positions)
        track.times.append(to_seconds(decoded.header.stamp, self.cut.origin_ns))

    def _frame(self, now: float) -> None:
        """Takes a frame where one is due, as `observe` gives it."""
        common, slices = self._aligner.common, self.cut.slices
        if common is None:
            return
        last = slices[-1].observations[-1].stamp if slices else -np.inf
        if common < last + EARLY * self._period:
            return
        try:
            observation = self._aligner.observe(now, self._task)
        except BadObservation as error:
            self.cut.refused[error.reason] = self.cut.refused.get(error.reason, 0) + 1
            return
        if not self._images:
            observation = replace(observation, images={})
        if not slices or not self._bridged(slices[-1], observation.stamp):
            slices.append(Segment())
        slices[-1].observations.append(observation)
        slices[-1].ages.append(self._aligner.ages(observation.stamp))

    def _bridged(self, part: Segment, stamp: float) -> bool:
        """Whether the frame at `stamp` [s] goes on with a slice; those between it and the last one
        hold the last one's pictures."""
        last, ages = part.observations[-1], part.ages[-1]
        if stamp - last.stamp > self._patience + 2 * self._period:
            return False  # whatever lies between; a stamp may lie by years
        count = round((stamp - last.stamp) / self._period)
        times = np.linspace(last.stamp, stamp, max(count, 1) + 1)[1:-1]
        if len(times) and times[-1] + max(ages.values(), default=0) > last.stamp + self._patience:
            return False
        try:
            between = [self._aligner.at(float(t), self._task) for t in times]
        except BadObservation:  # no joint states either
            return False
        part.observations += [replace(frame, images=last.images) for frame in between]
        part.ages += [{name: age + t - last.stamp for name, age in ages.items()} for t in times]
        self.cut.held += len(times)
        return True


def _decoded(message: Message, *kinds: str) -> Any:
    """The message, of one of the types that its topic has; raises DatasetError."""
    where = f"topic {show_text(message.topic, 80)}, message received at {message.received} ns"
    if message.kind not in kinds:
        raise DatasetError(
            f"{where}: it is a {show_text(message.kind, 80)}, wanted {' or '.join(kinds)}"
        )
    return writer.deserialize(message.data, message.kind, where)


def _text(message: Message) -> str:
    try:
        return topics.text_of(message.data)
    except (IndexError, struct.error) as error:
        where = f"topic {show_text(message.topic, 80)}, message received at {message.received} ns"
        raise DatasetError(f"{where}: {len(message.data)} bytes are no text") from error


def cut(
    messages: Iterable[Message], spec: RobotSpec, cameras: Iterable[str], task: str,
    images: bool = True,
) -> ResampledRecording:  # fmt: skip
    """A whole recording; without `images` the frames are the same, but hold none."""
    cutter = RecordingResampler(spec, tuple(cameras), task, images)
    for message in messages:
        cutter.take(message)
    return cutter.cut


def taken_over(cut: ResampledRecording, times: np.ndarray) -> np.ndarray:
    """Bool `[T]`: where a hand drove although the policy did before or afterwards."""
    said = [mode for _, mode in cut.modes]
    if "policy" not in said or "teleop" not in said:
        return np.zeros(len(times), bool)
    starts = np.array([time for time, _ in cut.modes])
    index = np.searchsorted(starts, times, side="right") - 1
    return np.array([i >= 0 and said[i] == "teleop" for i in index])
