"""Capture thread of a camera: reads, reopens a lost device, and counts drops and repeats."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Literal

import numpy as np

from nac_ros.cameras.camera import Camera, Clock, EndOfStream, Frame
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import CameraError, ConfigError, NacError

READ_S = 0.1  # `close` takes effect within this time
RATE_WINDOW = 31  # frames over which the rate is measured
SLOW_SHARE = 0.8  # of the nominal rate, below which a camera is slow

CaptureState = Literal["off", "opening", "running", "slow", "frozen", "silent", "lost", "ended"]


@dataclass(frozen=True, kw_only=True)
class CaptureConfig:
    """Time limits of the capture thread [s].

    retry_s: until a lost device is reopened, doubled after each failure
    max_retry_s: upper limit of that
    silence_s: without a frame for longer, a device is lost
    frozen_s: with the same image for longer, a camera is frozen
    """

    retry_s: float = number_field(0.5, 0.01, 60.0)
    max_retry_s: float = number_field(8.0, 0.01, 600.0)
    silence_s: float = number_field(1.0, 0.1, 60.0)
    frozen_s: float = number_field(0.3, 0.05, 60.0)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_retry_s < self.retry_s:
            raise ConfigError(
                f"max_retry_s {self.max_retry_s} is less than retry_s {self.retry_s}"
            )


@dataclass(frozen=True)
class CaptureStatus:
    """State of a camera; `text` describes a problem, age_s is that of the newest frame.

    drops, repeats, duplicates: see FrameStatistics; reconnects: times the device was reopened
    no_depth: frames without the requested depth
    """

    state: CaptureState
    text: str
    rate_hz: float
    age_s: float | None
    frames: int
    drops: int
    repeats: int
    duplicates: int
    reconnects: int
    stamp_source: str
    no_depth: int


class FrameStatistics:
    """Counters of a stream of frames.

    drops: frames the camera took that never arrived, by frame number or else by gaps in time
    repeats: frames delivered again by the driver, which are not passed on
    duplicates: new frames, by number or stamp, with the same bytes as the frame before
    """

    def __init__(self, rate_hz: float):
        self.rate_hz = rate_hz
        self.frames = self.drops = self.repeats = self.duplicates = 0
        self.newest: Frame | None = None  # since the device was opened
        self._changed_at = float("-inf")
        self._stamps: deque[float] = deque(maxlen=RATE_WINDOW)

    def accept(self, frame: Frame) -> bool:
        """Counts a frame; returns whether it is new."""
        before = self.newest
        same = before is not None and _same_bytes(before.image, frame.image)
        if before is not None:
            if not _is_newer(frame, before, same):
                self.repeats += 1
                return False
            self.drops += self._count_drops(before, frame)
        self.duplicates += same
        if not same:
            self._changed_at = frame.stamp
        self.frames += 1
        self.newest = frame
        self._stamps.append(frame.stamp)
        return True

    def restart(self, rate_hz: float) -> None:
        """Starts a new sequence of stamps and frame numbers after the device was opened."""
        self.rate_hz, self.newest = rate_hz, None
        self._stamps.clear()

    @property
    def measured_hz(self) -> float:
        """Frame rate over the last frames, 0 before the second."""
        if len(self._stamps) < 2:
            return 0.0
        span = self._stamps[-1] - self._stamps[0]
        return (len(self._stamps) - 1) / span if span > 0 else 0.0

    @property
    def unchanged_s(self) -> float:
        """Time for which the image has been the same, up to the newest frame [s]."""
        return 0.0 if self.newest is None else self.newest.stamp - self._changed_at

    def _count_drops(self, before: Frame, frame: Frame) -> int:
        if before.number is None or frame.number is None:
            return max(round((frame.stamp - before.stamp) * self.rate_hz) - 1, 0)
        return max(frame.number - before.number - 1, 0)


def _is_newer(frame: Frame, before: Frame, same: bool) -> bool:
    """Whether a frame is new: by the device's stamp, its number, or else by its bytes."""
    if frame.stamp <= before.stamp:
        return False
    hardware = frame.stamp_source == "hardware"
    if frame.number is None or before.number is None:
        return hardware or not same
    restarted = frame.number < before.number and hardware
    return frame.number > before.number or restarted


def _same_bytes(one: np.ndarray, other: np.ndarray) -> bool:
    rows = slice(None, None, 16)  # nearly always enough to find a difference
    return np.array_equal(one[rows], other[rows]) and np.array_equal(one, other)


class Capture:
    """Reads a camera in a thread and calls `deliver` there for each new frame.

    depth: whether frames should have depth; `status` may be called from any thread
    """

    def __init__(
        self,
        camera: Camera,
        deliver: Callable[[Frame], None],
        clock: Clock,
        config: CaptureConfig,
        depth: bool = False,
    ):
        self._camera, self._deliver, self._clock, self._config = camera, deliver, clock, config
        self._depth, self._no_depth, self._reconnects = depth, 0, 0
        self._statistics, self._lock, self._closing = FrameStatistics(0.0), Lock(), Event()
        self._state: CaptureState = "off"
        self._text = ""
        self._thread: Thread | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._closing.clear()
        self._set_state("opening")
        self._thread = Thread(target=self._run, name=f"camera {self._camera.name}", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Ends the thread; False if the device's driver does not return in time."""
        self._closing.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout_s)
        self._set_state("off")
        return thread is None or not thread.is_alive()

    def status(self) -> CaptureStatus:
        """Current state and counters."""
        with self._lock:
            counts, newest = self._statistics, self._statistics.newest
            age = None if newest is None else self._clock() - newest.stamp
            state, text = self._current_state(age)
            return CaptureStatus(
                state=state,
                text=text,
                rate_hz=counts.measured_hz if state in ("running", "slow", "frozen") else 0.0,
                age_s=age,
                frames=counts.frames,
                drops=counts.drops,
                repeats=counts.repeats,
                duplicates=counts.duplicates,
                reconnects=self._reconnects,
                stamp_source="" if newest is None else newest.stamp_source,
                no_depth=self._no_depth,
            )

    def _current_state(self, age: float | None) -> tuple[CaptureState, str]:
        """State and text, also while the thread is stuck in the driver."""
        name, frames = self._camera.name, self._statistics
        if self._state != "running" or age is None:
            return self._state, self._text
        if age > max(self._config.silence_s / 2, 3 / frames.rate_hz):
            return "silent", f"{name} has delivered no new image for {age:.1f} s"
        if frames.unchanged_s > self._config.frozen_s:
            return "frozen", (
                f"{name} has delivered the same image for {frames.unchanged_s:.1f} s; check its "
                "cable or restart it"
            )
        if 0 < frames.measured_hz < SLOW_SHARE * frames.rate_hz:
            return "slow", (
                f"{name} delivers {frames.measured_hz:.1f} of {frames.rate_hz:g} images a second; "
                "check USB, light and CPU load"
            )
        return "running", ""

    def _run(self) -> None:
        """Opens the camera again after each loss, with a growing delay."""
        wait_s = self._config.retry_s
        while not self._closing.is_set():
            before = self._statistics.frames
            try:
                self._read_until_lost()
            except EndOfStream as error:
                self._set_state("ended", str(error))
                return
            except NacError as error:
                self._set_state("lost", str(error))
            except Exception as error:
                self._set_state("lost", f"{self._camera.name} is no longer read: {error!r}")
                raise
            finally:
                self._camera.close()
            if self._statistics.frames > before:
                wait_s = self._config.retry_s
            self._closing.wait(wait_s)
            wait_s = min(2 * wait_s, self._config.max_retry_s)

    def _read_until_lost(self) -> None:
        """Raises NacError once the device is lost."""
        self._camera.open()
        with self._lock:
            self._reconnects += self._statistics.frames > 0
            self._statistics.restart(self._camera.rate_hz)
            self._state, self._text = "running", ""
        silent_s = 0.0
        while not self._closing.is_set():
            frame = self._camera.read(READ_S)
            if frame is not None and self._accept(frame):
                silent_s = 0.0
                self._deliver(frame)
                continue
            silent_s += READ_S if frame is None else 1 / self._camera.rate_hz
            if silent_s > self._config.silence_s:
                raise CameraError(
                    f"{self._camera.name} has delivered no new image for {silent_s:.1f} s; it "
                    "will be reopened"
                )

    def _accept(self, frame: Frame) -> bool:
        with self._lock:
            accepted = self._statistics.accept(frame)
            self._no_depth += accepted and self._depth and frame.depth_mm is None
        return accepted

    def _set_state(self, state: CaptureState, text: str = "") -> None:
        with self._lock:
            self._state, self._text = state, text
