"""Synchronises stamped joint states and images into observations, live and from recordings.

The stamp of an observation is the newest time that every camera has reached; older history steps
are whole control periods before it. The robot file sets which sample of a stream is used at a
time: the nearest one, the newest one before, or for joints the interpolation of two.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from math import isfinite

import numpy as np

from nac_ros.core.errors import BadObservation
from nac_ros.core.types import Observation
from nac_ros.robot.frozen_images import FrozenImageDetector
from nac_ros.robot.joint_states import JointStateMerger
from nac_ros.robot.spec import Align, RobotSpec

JOINTS = "joint_states"  # name of the joints' stream; those of cameras have the camera's name
COMMANDS = "guard/command"  # name of the stream of executed commands
# Without a command for this time [s] the arm was not commanded, and its joint state stands in.
COMMAND_MAX_AGE_S = 0.2


class TimeSeriesBuffer:
    """The newest `depth` samples of one sensor, in the order of their stamps [s]."""

    def __init__(self, name: str, depth: int):
        self.name = name
        self._stamps: deque[float] = deque(maxlen=depth)
        self._values: deque[np.ndarray] = deque(maxlen=depth)

    def add(self, stamp: float, value: np.ndarray) -> None:
        """Adds a sample; raises BadObservation unless its stamp is finite and the newest."""
        if not isfinite(stamp):
            raise BadObservation(
                f"{self.name}: stamp {stamp} s is not finite; check the driver's clock", "clock"
            )
        if self._stamps and stamp <= self._stamps[-1]:
            raise BadObservation(
                f"{self.name}: stamp {stamp:.6f} s is not after {self._stamps[-1]:.6f} s; "
                "reset the stream if its clock was set back",
                "clock",
            )
        self._stamps.append(stamp)
        self._values.append(value)

    def clear(self) -> None:
        """Forgets all samples, for a clock that was set back or a new episode."""
        self._stamps.clear()
        self._values.clear()

    @property
    def newest_stamp(self) -> float | None:
        """Stamp [s] of the newest sample, None without samples."""
        return self._stamps[-1] if self._stamps else None

    def nearest(self, stamp: float) -> tuple[float, np.ndarray]:
        """The sample whose stamp is nearest to `stamp` [s], with its stamp."""
        right = bisect_right(self._stamps, stamp)
        around = [i for i in (right - 1, right) if 0 <= i < len(self._stamps)]
        best = min(around, key=lambda i: abs(self._stamps[i] - stamp))
        return self._stamps[best], self._values[best]

    def at(self, stamp: float, align: Align) -> tuple[float, np.ndarray]:
        """The sample to use at `stamp` [s], with its stamp; interpolated ones have `stamp`."""
        right = bisect_right(self._stamps, stamp)
        if align == "nearest" or right == 0:
            return self.nearest(stamp)
        before, value = self._stamps[right - 1], self._values[right - 1]
        if align == "hold" or right == len(self._stamps) or before == stamp:
            return before, value
        share = (stamp - before) / (self._stamps[right] - before)
        between = (1 - share) * value.astype(np.float64) + share * self._values[right]
        return stamp, between.astype(value.dtype)


class ObservationBuffer:
    """Collects joint states and images, and returns observations of `n_obs_steps` steps.

    The newest N_JOINTS joint states and commands and N_IMAGES images of each camera are kept.
    Joint states may come in parts, see JointStateMerger. While a camera is frozen, see
    FrozenImageDetector, there is no observation.

    n_past_commands: executed commands in an observation, one each control period up to its stamp
    """

    N_JOINTS, N_IMAGES = 256, 16

    def __init__(
        self, spec: RobotSpec, cameras: Sequence[str], n_obs_steps: int, n_past_commands: int = 0
    ):
        self.spec = spec
        self.n_obs_steps, self.n_past_commands = n_obs_steps, n_past_commands
        self._cameras = {name: spec.camera(name) for name in cameras}
        self._merger = JointStateMerger(spec.joint_names, spec.joint_states_max_age_s)
        self._joints = TimeSeriesBuffer(JOINTS, depth=self.N_JOINTS)
        self._commands = TimeSeriesBuffer(COMMANDS, depth=self.N_JOINTS)
        self._images = {n: TimeSeriesBuffer(f"camera {n}", depth=self.N_IMAGES) for n in cameras}
        self._detector = FrozenImageDetector(spec, cameras)
        # Stream -> why its newest message was rejected; removed by the next accepted one.
        self._rejections: dict[str, BadObservation] = {}

    def clear(self) -> None:
        """Forgets all samples; keeps which cameras have noise."""
        self._merger.clear()
        self._joints.clear()
        self._commands.clear()
        for buffer in self._images.values():
            buffer.clear()
        self._detector.clear()
        self._rejections.clear()

    def add_named_joint_state(
        self, stamp: float, names: Sequence[str], positions: Sequence[float]
    ) -> None:
        """Adds the content of a JointState message with all joints or some; raises BadObservation
        that names the joint."""
        sample = self._merger.add(stamp, names, positions)
        if sample is not None:
            self.add_joint_state(*sample)

    def add_joint_state(self, stamp: float, positions: np.ndarray) -> None:
        """Adds joint positions `[D]` [rad or m] in the robot's order; raises BadObservation if the
        shape is wrong or a value is not finite."""
        values = np.asarray(positions, np.float32)
        if values.shape != (self.spec.action_dim,):
            raise BadObservation(
                f"joint_states: wanted {self.spec.action_dim} positions, got {values.shape}",
                "joint_names",
            )
        if not np.isfinite(values).all():
            bad = [n for n, v in zip(self.spec.joint_names, values) if not np.isfinite(v)]
            raise BadObservation(
                f"joint_states: not finite at {', '.join(bad)}; check the driver", "not_finite"
            )
        self._joints.add(stamp, values)
        self._detector.add_joint_state(stamp, values)
        self._rejections.pop(JOINTS, None)

    def add_command(self, stamp: float, positions: np.ndarray) -> None:
        """Adds the positions `[D]` [rad or m] that were commanded for the time `stamp` [s]; raises
        BadObservation if the shape is wrong or a value is not finite."""
        values = np.asarray(positions, np.float32)
        if values.shape != (self.spec.action_dim,) or not np.isfinite(values).all():
            raise BadObservation(
                f"{COMMANDS}: wanted {self.spec.action_dim} finite positions, got {values}",
                "not_finite",
            )
        self._commands.add(stamp, values)

    def add_image(self, camera: str, stamp: float, image: np.ndarray) -> None:
        """Adds an RGB uint8 image `[H, W, 3]` of the size in the robot file; raises BadObservation
        for another one."""
        wanted = (self._cameras[camera].height, self._cameras[camera].width, 3)
        if image.shape != wanted or image.dtype != np.uint8:
            raise BadObservation(
                f"camera {camera}: wanted a uint8 image of {wanted}, got {image.dtype} of "
                f"{image.shape}; set the size of the camera or of the robot file",
                "image_size",
            )
        self._images[camera].add(stamp, image)
        self._detector.add_image(camera, stamp, image)
        self._rejections.pop(camera, None)

    def reject(self, stream: str, error: BadObservation) -> None:
        """Notes why the newest message of a camera, or of JOINTS, was rejected. Errors about a
        missing or stale stream add it."""
        self._rejections[stream] = error

    @property
    def unchecked(self) -> list[str]:
        """Cameras that have shown no noise, so that their content is not checked."""
        return self._detector.unchecked

    @property
    def frozen(self) -> list[str]:
        """A sentence for each camera that is frozen now."""
        return [text for name in self._images if (text := self._frozen(name))]

    def get_observation(self, now: float, task: str) -> Observation:
        """The newest observation at `now` [s]; raises BadObservation if a stream is missing,
        stale, stamped in the future or frozen."""
        return self.observation_at(self._newest_common_stamp(now), task)

    def observation_at(self, stamp: float, task: str) -> Observation:
        """The observation at `stamp` [s] from the samples in the buffer; raises BadObservation if
        joint states are stale there."""
        joints_stamp, _ = self._joints.nearest(stamp)
        self._check_age(JOINTS, stamp, joints_stamp, self.spec.joint_states_max_age_s)
        times = stamp - np.arange(self.n_obs_steps)[::-1] / self.spec.action_rate_hz
        images = {
            name: np.stack([self._image_at(name, t)[1] for t in times])  # [K, H, W, 3]
            for name in self._images
        }
        align = self.spec.joint_states_align
        proprio = np.stack([self._joints.at(t, align)[1] for t in times])  # [K, D]
        commands = self._commands_until(stamp) if self.n_past_commands else None
        return Observation(stamp, images, proprio, task, past_commands=commands)

    def _commands_until(self, stamp: float) -> np.ndarray:
        """The last `n_past_commands` commands `[P, D]`, one each control period, the newest due at
        `stamp` [s]; the joint state at times without a command, as before the first chunk."""
        times = stamp - np.arange(self.n_past_commands)[::-1] / self.spec.action_rate_hz
        return np.stack([self._command_at(time) for time in times])

    def _command_at(self, time: float) -> np.ndarray:
        if self._commands.newest_stamp is not None:
            found, command = self._commands.nearest(time)
            if abs(found - time) <= COMMAND_MAX_AGE_S:
                return command
        return self._joints.at(time, self.spec.joint_states_align)[1]

    @property
    def common_stamp(self) -> float | None:
        """The oldest of the cameras' newest stamps [s], or the newest joint stamp if there are
        no cameras; None while a stream has no samples."""
        newest = self._joints.newest_stamp
        if newest is None:
            return None
        stamps = [buffer.newest_stamp for buffer in self._images.values()] or [newest]
        return None if None in stamps else min(stamp for stamp in stamps if stamp is not None)

    def image_ages(self, stamp: float) -> dict[str, float]:
        """Camera -> age at `stamp` [s] of the image that is used for this time."""
        return {name: stamp - self._image_at(name, stamp)[0] for name in self._images}

    def _image_at(self, camera: str, stamp: float) -> tuple[float, np.ndarray]:
        return self._images[camera].at(stamp, self._cameras[camera].align)

    def _newest_common_stamp(self, now: float) -> float:
        """Like `common_stamp`; raises BadObservation if a stream cannot be used at `now` [s]."""
        max_age_s = self.spec.joint_states_max_age_s
        newest = self._check_newest(JOINTS, self._joints, now, max_age_s, "is the driver running?")
        stamps = []
        for name, buffer in self._images.items():
            max_age_s = self._cameras[name].max_age_s
            stamps.append(self._check_newest(name, buffer, now, max_age_s, "is it running?"))
            if frozen := self._frozen(name):
                raise BadObservation(frozen, "frozen")
        return min(stamps, default=newest)

    def _check_newest(
        self, stream: str, buffer: TimeSeriesBuffer, now: float, max_age_s: float, hint: str
    ) -> float:
        """The newest stamp [s] of a stream; raises BadObservation if it is missing or stale, with
        the reason for which newer messages were rejected, if any."""
        newest = buffer.newest_stamp
        try:
            if newest is None:
                raise BadObservation(f"{buffer.name}: nothing received yet; {hint}", "missing")
            self._check_age(buffer.name, now, newest, max_age_s)
        except BadObservation as error:
            rejection = self._rejections.get(stream)
            if rejection is None:
                raise
            text = f"{error}; newer messages are rejected: {rejection}"
            if newest is None:
                text = f"{buffer.name}: nothing usable received yet: {rejection}"
            raise BadObservation(text, rejection.reason) from error
        return newest

    def _frozen(self, camera: str) -> str:
        """A sentence if the camera is frozen, else ''."""
        if not (seconds := self._detector.frozen_s(camera)):
            return ""
        return (
            f"camera {camera}: the same image for {seconds:.2f} s, although its images have "
            "noise; the camera is frozen, restart its driver"
        )

    @staticmethod
    def _check_age(stream: str, now: float, stamp: float, max_age_s: float) -> None:
        age = now - stamp
        if age > max_age_s:
            text = f"{stream}: stale, {age:.3f} s old; at most {max_age_s} s is allowed"
            raise BadObservation(text, "stale")
        if age < -max_age_s:
            text = f"{stream}: stamped {-age:.3f} s in the future; check the clocks"
            raise BadObservation(text, "future")
