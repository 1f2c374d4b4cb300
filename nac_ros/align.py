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

from nac_ros.chunk import Observation
from nac_ros.errors import BadObservation
from nac_ros.robot import Align, RobotSpec

FROZEN_S = 0.3  # one picture for longer,
FROZEN_MOVE = 0.05  # [rad] although a joint of the arm had moved by more
SHOWN_S = 0.1  # when it was taken: an arm that only just began to move need not show


class Stream:
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


class Aligner:
    """Collects joint states and images and hands out observations of `n_obs_steps` steps; of each
    joint the newest N_JOINTS samples are kept, of each camera N_IMAGES.

    may_freeze: the cameras are real, and one that shows the same picture while the arm moves is
        refused. Rendered ones, which have no noise, do so when the arm is out of their view
    """

    N_JOINTS, N_IMAGES = 256, 16

    def __init__(
        self, spec: RobotSpec, cameras: Sequence[str], n_obs_steps: int, *, may_freeze: bool = True
    ):
        self.spec = spec
        self.n_obs_steps = n_obs_steps
        self._may_freeze = may_freeze
        self._cameras = {name: spec.camera(name) for name in cameras}
        self._joints = Stream("joint_states", depth=self.N_JOINTS)
        self._images = {n: Stream(f"camera {n}", depth=self.N_IMAGES) for n in cameras}
        self._changed: dict[str, tuple[float, np.ndarray | None]] = {}
        self._moved: dict[str, tuple[float, float]] = {}  # camera -> when and how far since then

    def clear(self) -> None:
        """Forgets all samples."""
        self._joints.clear()
        for stream in self._images.values():
            stream.clear()
        self._changed.clear()
        self._moved.clear()

    def push_joints(self, stamp: float, positions: np.ndarray) -> None:
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
        for camera, (_, then) in self._changed.items():
            apart = np.zeros(1) if then is None else np.abs(values - then)[self.spec.relative_mask]
            moved = float(apart.max())  # of the arm: a gripper may be too small to be seen
            if moved > FROZEN_MOVE and camera not in self._moved:
                self._moved[camera] = stamp, moved

    def push_image(self, camera: str, stamp: float, image: np.ndarray) -> None:
        """Adds an RGB uint8 image `[H, W, 3]` of the size that the robot's YAML gives."""
        wanted = (self._cameras[camera].height, self._cameras[camera].width, 3)
        if image.shape != wanted or image.dtype != np.uint8:
            raise BadObservation(
                f"camera {camera}: wanted a uint8 image of {wanted}, got {image.dtype} of "
                f"{image.shape}; set the camera's size or the robot's YAML",
                "image_size",
            )
        stream = self._images[camera]
        before = None if stream.newest is None else stream.nearest(stream.newest)[1]
        stream.push(stamp, image)
        if before is None or not np.array_equal(before, image):
            self._changed[camera] = (stamp, self._joints.last)
            self._moved.pop(camera, None)

    def observe(self, now: float, task: str) -> Observation:
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
        if self._joints.newest is None:
            raise BadObservation(
                "joint_states: nothing received yet; is the driver running?", "missing"
            )
        self._check_age("joint_states", now, self._joints.newest, self.spec.joint_states_max_age_s)
        stamps = []
        for name, stream in self._images.items():
            if stream.newest is None:
                raise BadObservation(
                    f"camera {name}: nothing received yet; is it running?", "missing"
                )
            self._check_age(f"camera {name}", now, stream.newest, self._cameras[name].max_age_s)
            self._check_frozen(name, stream.newest)
            stamps.append(stream.newest)
        return min(stamps, default=self._joints.newest)

    def _check_frozen(self, camera: str, newest: float) -> None:
        """A camera that shows one picture while the arm moves is not looking any more."""
        since, _ = self._changed[camera]
        moved_at, moved = self._moved.get(camera, (newest, 0.0))
        frozen = newest - since > FROZEN_S and newest - moved_at > SHOWN_S
        if frozen and self._may_freeze:
            raise BadObservation(
                f"camera {camera}: the same picture for {newest - since:.2f} s while the arm "
                f"moved by {moved:.3f} rad; it is frozen, start its driver anew",
                "frozen",
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
