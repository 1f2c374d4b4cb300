"""Streams of stamped samples become one observation; the same code serves recordings and the arm.

An observation is taken where the cameras were: its stamp is the newest time that every camera has
reached, and older history steps lie whole control periods before it. Which sample of a stream
counts at a time is the robot's to say: the nearest one, the newest one before, or for joints what
lies between their neighbours.
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

JOINTS = "joint_states"  # the name of their stream, beside those of the cameras


class TimeSeriesBuffer:
    """Samples of one sensor in stamp order; `depth` newest are kept."""

    def __init__(self, name: str, depth: int):
        self.name = name
        self._stamps: deque[float] = deque(maxlen=depth)
        self._values: deque[np.ndarray] = deque(maxlen=depth)

    def push(self, stamp: float, value: np.ndarray) -> None:
        """Adds a sample at `stamp` [s]; raises BadObservation unless finite and advancing."""
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
        """Forgets everything, for a clock that was set back or a new episode."""
        self._stamps.clear()
        self._values.clear()

    @property
    def newest(self) -> float | None:
        """Stamp [s] of the newest sample, None when there is none."""
        return self._stamps[-1] if self._stamps else None

    @property
    def last(self) -> np.ndarray | None:
        """The newest sample, None when there is none."""
        return self._values[-1] if self._values else None

    def nearest(self, stamp: float) -> tuple[float, np.ndarray]:
        """The sample whose stamp is nearest to `stamp` [s]."""
        right = bisect_right(self._stamps, stamp)
        around = [i for i in (right - 1, right) if 0 <= i < len(self._stamps)]
        best = min(around, key=lambda i: abs(self._stamps[i] - stamp))
        return self._stamps[best], self._values[best]

    def at(self, stamp: float, align: Align) -> tuple[float, np.ndarray]:
        """What counts at `stamp` [s], and the stamp of the sample it comes from."""
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
    """Collects joint states and images and hands out observations of `n_obs_steps` steps; of each
    joint the newest N_JOINTS samples are kept, of each camera N_IMAGES.

    Joint states may come in parts, see JointStateMerger. A camera whose content is frozen is
    refused, see FrozenImageDetector.
    """

    N_JOINTS, N_IMAGES = 256, 16

    def __init__(self, spec: RobotSpec, cameras: Sequence[str], n_obs_steps: int):
        self.spec = spec
        self.n_obs_steps = n_obs_steps
        self._cameras = {name: spec.camera(name) for name in cameras}
        self._merger = JointStateMerger(spec.joint_names, spec.joint_states_max_age_s)
        self._joints = TimeSeriesBuffer(JOINTS, depth=self.N_JOINTS)
        self._images = {n: TimeSeriesBuffer(f"camera {n}", depth=self.N_IMAGES) for n in cameras}
        self._detector = FrozenImageDetector(spec, cameras)
        self._rejections: dict[str, BadObservation] = {}  # stream -> newest, until one is taken

    def clear(self) -> None:
        """Forgets all samples; what is known of the cameras' content stays."""
        self._merger.clear()
        self._joints.clear()
        for stream in self._images.values():
            stream.clear()
        self._detector.clear()
        self._rejections.clear()

    def add_named_joint_state(
        self, stamp: float, names: Sequence[str], positions: Sequence[float]
    ) -> None:
        """Adds what a JointState message holds, all joints or some; raises BadObservation that
        names the joint."""
        sample = self._merger.push(stamp, names, positions)
        if sample is not None:
            self.add_joint_state(*sample)

    def add_joint_state(self, stamp: float, positions: np.ndarray) -> None:
        """Adds joint positions `[D]` [rad or m] in the robot's order; NaN or inf is refused."""
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
        self._joints.push(stamp, values)
        self._detector.add_joint_state(stamp, values)
        self._rejections.pop(JOINTS, None)

    def add_image(self, camera: str, stamp: float, image: np.ndarray) -> None:
        """Adds an RGB uint8 image `[H, W, 3]` of the size that the robot's YAML gives."""
        wanted = (self._cameras[camera].height, self._cameras[camera].width, 3)
        if image.shape != wanted or image.dtype != np.uint8:
            raise BadObservation(
                f"camera {camera}: wanted a uint8 image of {wanted}, got {image.dtype} of "
                f"{image.shape}; set the camera's size or the robot's YAML",
                "image_size",
            )
        self._images[camera].push(stamp, image)
        self._detector.add_image(camera, stamp, image)
        self._rejections.pop(camera, None)

    def reject(self, stream: str, error: BadObservation) -> None:
        """Notes why the newest message of a camera, or of JOINTS, was not taken; the sentence is
        part of those about a stream that is missing or stale."""
        self._rejections[stream] = error

    @property
    def unchecked(self) -> list[str]:
        """Cameras whose content is not checked, because they have shown no noise."""
        return self._detector.unchecked

    @property
    def frozen(self) -> list[str]:
        """A sentence for each camera that is frozen now."""
        return [text for name in self._images if (text := self._frozen(name))]

    def get_observation(self, now: float, task: str) -> Observation:
        """The newest observation at `now` [s]; raises BadObservation when missing or stale."""
        return self.at(self._common_stamp(now), task)

    def at(self, stamp: float, task: str) -> Observation:
        """The observation at `stamp` [s] of the samples that are here; raises BadObservation."""
        joints_stamp, _ = self._joints.nearest(stamp)
        self._check_age("joint_states", stamp, joints_stamp, self.spec.joint_states_max_age_s)
        times = stamp - np.arange(self.n_obs_steps)[::-1] / self.spec.action_rate_hz
        images = {
            name: np.stack([self._seen(name, t)[1] for t in times])  # [K, H, W, 3]
            for name in self._images
        }
        how = self.spec.joint_states_align
        proprio = np.stack([self._joints.at(t, how)[1] for t in times])  # [K, D]
        return Observation(stamp, images, proprio, task)

    @property
    def common(self) -> float | None:
        """The newest time [s] that every camera has reached, or the joints without any; None
        before all have come."""
        if self._joints.newest is None:
            return None
        stamps = [stream.newest for stream in self._images.values()] or [self._joints.newest]
        return min(stamp for stamp in stamps if stamp is not None) if None not in stamps else None

    def ages(self, stamp: float) -> dict[str, float]:
        """Camera -> how much older than `stamp` [s] its image is there."""
        return {name: stamp - self._seen(name, stamp)[0] for name in self._images}

    def _seen(self, camera: str, stamp: float) -> tuple[float, np.ndarray]:
        return self._images[camera].at(stamp, self._cameras[camera].align)

    def _common_stamp(self, now: float) -> float:
        joints_age = self.spec.joint_states_max_age_s
        newest = self._newest(JOINTS, self._joints, now, joints_age, "is the driver running?")
        stamps = []
        for name, stream in self._images.items():
            max_age = self._cameras[name].max_age_s
            stamps.append(self._newest(name, stream, now, max_age, "is it running?"))
            if frozen := self._frozen(name):
                raise BadObservation(frozen, "frozen")
        return min(stamps, default=newest)

    def _newest(
        self, key: str, stream: TimeSeriesBuffer, now: float, limit: float, todo: str
    ) -> float:
        """The newest stamp [s] of a stream; raises BadObservation when it is missing or stale,
        with the reason for which newer messages were refused, if any were."""
        try:
            if stream.newest is None:
                raise BadObservation(f"{stream.name}: nothing received yet; {todo}", "missing")
            self._check_age(stream.name, now, stream.newest, limit)
        except BadObservation as error:
            rejection = self._rejections.get(key)
            if rejection is None:
                raise
            text = f"{error}; newer messages are refused: {rejection}"
            if stream.newest is None:
                text = f"{stream.name}: nothing usable received yet: {rejection}"
            raise BadObservation(text, rejection.reason) from error
        return stream.newest

    def _frozen(self, camera: str) -> str:
        """A camera with noise that shows one picture is not looking any more; '' otherwise."""
        if not (seconds := self._detector.frozen_s(camera)):
            return ""
        return (
            f"camera {camera}: the same picture for {seconds:.2f} s, although its pictures have "
            "noise; it is frozen, start its driver anew"
        )

    @staticmethod
    def _check_age(what: str, now: float, stamp: float, limit: float) -> None:
        age = now - stamp
        if age > limit:
            raise BadObservation(
                f"{what}: stale, {age:.3f} s old; at most {limit} s is allowed", "stale"
            )
        if age < -limit:
            raise BadObservation(
                f"{what}: stamped {-age:.3f} s in the future; check the clocks", "future"
            )
