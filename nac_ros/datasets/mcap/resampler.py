"""Resamples a recording at the control rate with the observation buffer that the robot uses.

Messages are replayed in the order of receipt. A frame is taken as soon as every camera has
reached its time, as the policy would have seen it then. The frames of a segment are one control
period apart. If cameras left images out, the previous images are held for as long as the robot's
YAML allows (`max_age_s`); a longer gap, or one of the joint states, starts a new segment.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from nac_ros.core.errors import BadObservation, DatasetError, show_text
from nac_ros.core.image_codec import decode_compressed_image
from nac_ros.core.message_decoding import NANO, from_image, from_joint_state, to_seconds
from nac_ros.core.types import Observation
from nac_ros.datasets.mcap import topics, writer
from nac_ros.datasets.mcap.reader import Message
from nac_ros.datasets.mcap.topics import COMPRESSED, IMAGE, JOINTS
from nac_ros.robot.observation_buffer import ObservationBuffer
from nac_ros.robot.spec import RobotSpec

MAX_POSITION = 1e30  # [rad or m] actions are float32, where more becomes infinite
MIN_FRAME_STEP = 0.5  # [control periods] between a frame and the next one


@dataclass
class CommandTrack:
    """Commanded set-points: times `[N]` [s], positions `[N, D]` in the robot's joint order."""

    times: list[float] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)

    def interpolate(self, times: np.ndarray) -> np.ndarray:
        """Positions at `times` `[T]` [s], float32 `[T, D]`; constant before the first and after
        the last set-point."""
        order = np.argsort(self.times, kind="stable")
        positions = np.array(self.positions)[order]
        # Integer nanoseconds: at the time of a set-point the result is exactly that set-point.
        known = np.round(np.array(self.times)[order] * NANO)
        wanted = np.round(times * NANO)
        columns = [np.interp(wanted, known, column) for column in positions.T]
        return np.stack(columns, 1).astype(np.float32)


@dataclass
class Segment:
    """Frames one control period apart.

    image_ages: of each frame, camera -> how much older than the frame its image is [s]
    """

    observations: list[Observation] = field(default_factory=list)
    image_ages: list[dict[str, float]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def stamps(self) -> np.ndarray:
        """Float64 `[T]` [s]."""
        return np.array([observation.stamp for observation in self.observations])


@dataclass
class ResampledRecording:
    """Frames of one recording; times are seconds after `origin_ns`.

    held_frames: number of frames with the images of the frame before, because cameras left
        theirs out
    modes: (time of receipt, mode) of each message on guard/mode
    rejected: reason -> number of messages or frames, as counted on the robot
    """

    origin_ns: int = 0
    held_frames: int = 0
    segments: list[Segment] = field(default_factory=list)
    commands: CommandTrack = field(default_factory=CommandTrack)
    modes: list[tuple[float, str]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)

    def to_nanoseconds(self, times: np.ndarray) -> np.ndarray:
        """Int64 `[T]` of seconds after the origin."""
        return self.origin_ns + np.round(times * NANO).astype(np.int64)

    def intervention_mask(self, times: np.ndarray) -> np.ndarray:
        """Bool `[T]`: where the operator drove, in a recording in which the policy drove too."""
        modes = [mode for _, mode in self.modes]
        if "policy" not in modes or "teleop" not in modes:
            return np.zeros(len(times), bool)
        starts = np.array([time for time, _ in self.modes])
        index = np.searchsorted(starts, times, side="right") - 1
        return np.array([i >= 0 and modes[i] == "teleop" for i in index])


class RecordingResampler:
    """Feeds a recording's messages to an observation buffer and takes the frames that are due."""

    def __init__(self, spec: RobotSpec, cameras: Iterable[str], task: str, images: bool = True):
        self.spec, self._task, self._images = spec, task, images
        self._buffer = ObservationBuffer(spec, list(cameras), n_obs_steps=1)
        specs = [spec.camera(name) for name in cameras]
        self._cameras = {f"/{t}": c.name for c in specs for t in (c.topic, c.compressed_topic)}
        self._period = 1 / spec.action_rate_hz  # [s]
        self._max_hold = min((camera.max_age_s for camera in specs), default=0.0)  # [s]
        self.result = ResampledRecording()

    def add_message(self, message: Message) -> None:
        """Adds one message; rejected ones are counted, as on the robot."""
        self.result.origin_ns = self.result.origin_ns or message.received
        received = (message.received - self.result.origin_ns) / NANO
        try:
            self._decode(message, received)
        except BadObservation as error:
            self.result.rejected[error.reason] += 1
        self._take_frame(received)

    def _decode(self, message: Message, received: float) -> None:
        """Adds the content of a message to the buffer or the result; other topics are ignored."""
        topic, origin = message.topic, self.result.origin_ns
        if topic == f"/{self.spec.joint_states_topic}":
            joints = _deserialize(message, JOINTS)
            stamp = to_seconds(joints.header.stamp, origin)
            self._buffer.add_named_joint_state(stamp, joints.name, joints.position)
        elif topic in self._cameras:
            image = _deserialize(message, IMAGE, COMPRESSED)
            pixels = decode_compressed_image if message.message_type == COMPRESSED else from_image
            stamp = to_seconds(image.header.stamp, origin)
            self._buffer.add_image(self._cameras[topic], stamp, pixels(image))
        elif topic == f"/{topics.COMMAND}":
            self._add_command(_deserialize(message, JOINTS))
        elif topic == f"/{topics.MODE}":
            self.result.modes.append((received, _decode_text(message)))

    def _add_command(self, command: Any) -> None:
        positions = from_joint_state(command, self.spec.joint_names)
        if not (np.abs(positions) < MAX_POSITION).all():
            raise BadObservation(
                f"{topics.COMMAND}: a set-point is not finite, or beyond {MAX_POSITION:g}",
                "not_finite",
            )
        self.result.commands.positions.append(positions)
        self.result.commands.times.append(to_seconds(command.header.stamp, self.result.origin_ns))

    def _take_frame(self, now: float) -> None:
        """Takes a frame if all cameras have reached a time at least MIN_FRAME_STEP periods after
        the last frame, and the robot would have accepted the observation at `now` [s]."""
        newest, segments = self._buffer.common_stamp, self.result.segments
        if newest is None:
            return
        last = segments[-1].observations[-1].stamp if segments else -np.inf
        if newest < last + MIN_FRAME_STEP * self._period:
            return
        try:
            observation = self._buffer.get_observation(now, self._task)
        except BadObservation as error:
            self.result.rejected[error.reason] += 1
            return
        if not self._images:
            observation = replace(observation, images={})
        if not segments or not self._fill_gap(segments[-1], observation.stamp):
            segments.append(Segment())
        segments[-1].observations.append(observation)
        segments[-1].image_ages.append(self._buffer.image_ages(observation.stamp))

    def _fill_gap(self, segment: Segment, stamp: float) -> bool:
        """Adds the frames missing between the last frame and `stamp` [s]; False if the gap is too
        long, so that a new segment must start."""
        # The gap is divided into steps as close to one control period as possible. Each missing
        # frame has the joint state of its time and the last frame's images. It is valid while the
        # oldest of these images is younger than max_hold.
        last, ages = segment.observations[-1], segment.image_ages[-1]
        if stamp - last.stamp > self._max_hold + 2 * self._period:
            return False  # also limits the number of steps: a wrong stamp can be years away
        steps = max(round((stamp - last.stamp) / self._period), 1)
        missing = np.linspace(last.stamp, stamp, steps + 1)[1:-1]
        oldest_age = max(ages.values(), default=0)
        if len(missing) and missing[-1] + oldest_age > last.stamp + self._max_hold:
            return False
        try:
            frames = [self._buffer.observation_at(float(time), self._task) for time in missing]
        except BadObservation:  # no joint state near enough
            return False
        segment.observations += [replace(frame, images=last.images) for frame in frames]
        segment.image_ages += [
            {camera: age + time - last.stamp for camera, age in ages.items()} for time in missing
        ]
        self.result.held_frames += len(missing)
        return True


def resample(
    messages: Iterable[Message],
    spec: RobotSpec,
    cameras: Iterable[str],
    task: str,
    images: bool = True,
) -> ResampledRecording:
    """Resamples a whole recording; without `images` the frames are the same but hold none."""
    resampler = RecordingResampler(spec, tuple(cameras), task, images)
    for message in messages:
        resampler.add_message(message)
    return resampler.result


def write_images(
    messages: Iterable[Message],
    resampler: RecordingResampler,
    segment: int,
    outs: Mapping[str, np.ndarray],
) -> None:
    """Resamples a recording and writes the images of one segment into `outs`, camera -> uint8
    `[T, H, W, 3]` RGB; only a few images are in memory at a time.

    Raises DatasetError unless the segment has T frames.
    """
    written = 0
    for number, k, images in _frames_with_images(messages, resampler):
        if number != segment:
            continue
        for camera, out in outs.items():
            if k >= len(out):
                raise DatasetError(f"the recording gives more than {len(out)} frames of {camera}")
            out[k] = images[camera][-1]
        written = k + 1
    wanted = {len(out) for out in outs.values()}
    if wanted - {written}:
        raise DatasetError(f"the recording gives {written} frames with images, wanted {wanted}")


def _frames_with_images(
    messages: Iterable[Message], resampler: RecordingResampler
) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
    """(segment, frame, images) of every frame; its images are released afterwards."""
    segments, number, k = resampler.result.segments, 0, 0
    for message in chain(messages, [None]):
        if message is not None:
            resampler.add_message(message)
        while number < len(segments):
            frames, last_segment = segments[number].observations, number == len(segments) - 1
            # Until the recording ends, later frames may hold the newest frame's images.
            end = len(frames) - (last_segment and message is not None)
            while k < end:
                yield number, k, frames[k].images
                frames[k] = replace(frames[k], images={})
                k += 1
            if last_segment:
                break
            number, k = number + 1, 0


def _deserialize(message: Message, *message_types: str) -> Any:
    """The content of a message of one of the types; raises DatasetError."""
    if message.message_type not in message_types:
        raise DatasetError(
            f"{_where(message)}: it is a {show_text(message.message_type, 80)}, wanted "
            f"{' or '.join(message_types)}"
        )
    return writer.deserialize(message.data, message.message_type, _where(message))


def _decode_text(message: Message) -> str:
    try:
        return topics.decode_text(message.data)
    except (IndexError, struct.error) as error:
        raise DatasetError(f"{_where(message)}: {len(message.data)} bytes are no text") from error


def _where(message: Message) -> str:
    return f"topic {show_text(message.topic, 80)}, message received at {message.received} ns"
