"""What a stream of pictures shows of its camera: rate, losses, pictures that come twice."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Literal

import numpy as np

from nac_ros.cameras.camera import Camera, Clock, EndOfStream, Frame
from nac_ros.core.config import bounded, check_bounds
from nac_ros.core.errors import CameraError, ConfigError, NacError

RATE_OVER = 31  # pictures


class FrameStatistics:
    """Counts; `passes` decides whether a picture is new.

    drops: pictures that the camera took and that never came, by its count or by the gaps
    repeats: the same picture handed out again; it is not passed on
    duplicates: new ones, by count or stamp, with the bytes of the one before
    """

    def __init__(self, rate_hz: float):
        self.rate_hz = rate_hz
        self.frames = self.drops = self.repeats = self.duplicates = 0
        self._last: Frame | None = None
        self._changed = float("-inf")
        self._stamps: deque[float] = deque(maxlen=RATE_OVER)

    def accept(self, frame: Frame) -> bool:
        """Whether `frame` is a new picture; an old one never passes."""
        before = self._last
        same = before is not None and _same_bytes(before.image, frame.image)
        if before is not None and not _is_newer(frame, before, same):
            self.repeats += 1
            return False
        if before is not None:
            self.drops += self._lost(before, frame)
        self.duplicates += same
        if not same:
            self._changed = frame.stamp
        self.frames += 1
        self._last = frame
        self._stamps.append(frame.stamp)
        return True

    def reopen(self, rate_hz: float) -> None:
        """The device was opened anew, and counts anew."""
        self.rate_hz, self._last = rate_hz, None
        self._stamps.clear()

    @property
    def measured_hz(self) -> float:
        """Rate of the last second or so, 0 before there are two pictures."""
        if len(self._stamps) < 2:
            return 0.0
        span = self._stamps[-1] - self._stamps[0]
        return (len(self._stamps) - 1) / span if span > 0 else 0.0

    @property
    def newest(self) -> Frame | None:
        """The last picture that passed since the device was opened."""
        return self._last

    @property
    def unchanged_s(self) -> float:
        """For how long [s] pictures have been the same, up to the newest."""
        return 0.0 if self._last is None else self._last.stamp - self._changed

    def _lost(self, before: Frame, frame: Frame) -> int:
        if before.number is None or frame.number is None:
            return max(round((frame.stamp - before.stamp) * self.rate_hz) - 1, 0)
        return max(frame.number - before.number - 1, 0)


def _is_newer(frame: Frame, before: Frame, same: bool) -> bool:
    """By the device's stamp, its count, or, where it has neither, by what is seen."""
    if frame.stamp <= before.stamp:
        return False
    if frame.number is not None and before.number is not None:
        restarted = frame.number < before.number and frame.stamp_source == "hardware"
        return frame.number > before.number or restarted
    return frame.stamp_source == "hardware" or not same


def _same_bytes(one: np.ndarray, other: np.ndarray) -> bool:
    rows = slice(None, None, 16)  # nearly always enough to tell them apart
    return np.array_equal(one[rows], other[rows]) and np.array_equal(one, other)


READ_S = 0.1  # how soon `close` is noticed
RATE_SHARE = 0.8  # of the promised rate, below which a camera is called slow

CaptureState = Literal["off", "opening", "running", "slow", "frozen", "silent", "lost", "ended"]


@dataclass(frozen=True, kw_only=True)
class CaptureConfig:
    """Times in seconds.

    retry_s: how long after a loss the device is opened again; twice as long after each failure
    max_retry_s: never longer than this
    silence_s: a device that gives no picture for longer is taken for lost
    frozen_s: the same picture for longer is called frozen
    """

    retry_s: float = bounded(0.5, 0.01, 60.0)
    max_retry_s: float = bounded(8.0, 0.01, 600.0)
    silence_s: float = bounded(1.0, 0.1, 60.0)
    frozen_s: float = bounded(0.3, 0.05, 60.0)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.max_retry_s < self.retry_s:
            raise ConfigError(
                f"max_retry_s {self.max_retry_s} is less than retry_s {self.retry_s}"
            )


@dataclass(frozen=True)
class CaptureStatus:
    """How a camera is: `text` is a sentence where that is not well; age_s: of the newest picture.

    stamp_source: where stamps come from; no_depth: pictures that came without their depth
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


class Capture:
    """Hands each new picture to `deliver`, in the thread that reads; status() from any thread."""

    def __init__(
        self,
        source: Camera,
        deliver: Callable[[Frame], None],
        clock: Clock,
        config: CaptureConfig,
        depth: bool = False,
    ):
        self._source, self._deliver, self._clock, self._config = source, deliver, clock, config
        self._depth, self._no_depth, self._reconnects = depth, 0, 0
        self._watch, self._lock, self._closing = FrameStatistics(0.0), Lock(), Event()
        self._state: CaptureState = "off"
        self._text = ""
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begins to read."""
        self._closing.clear()
        self._set("opening", "")
        self._thread = Thread(target=self._run, name=f"camera {self._source.name}", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Ends the thread; False where the device's driver does not return."""
        self._closing.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout_s)
        self._set("off", "")
        return thread is None or not thread.is_alive()

    def status(self) -> CaptureStatus:
        """As it is now."""
        with self._lock:
            watch, newest = self._watch, self._watch.newest
            age = None if newest is None else self._clock() - newest.stamp
            state, text = self._judge(age)
            return CaptureStatus(
                state=state,
                text=text,
                rate_hz=watch.measured_hz if state in ("running", "slow", "frozen") else 0.0,
                age_s=age,
                frames=watch.frames,
                drops=watch.drops,
                repeats=watch.repeats,
                duplicates=watch.duplicates,
                reconnects=self._reconnects,
                stamp_source="" if newest is None else newest.stamp_source,
                no_depth=self._no_depth,
            )

    def _judge(self, age: float | None) -> tuple[CaptureState, str]:
        """What counts beside what the loop knows: its read may be stuck in a driver."""
        name, watch = self._source.name, self._watch
        if self._state != "running" or age is None:
            return self._state, self._text
        if age > max(self._config.silence_s / 2, 3 / watch.rate_hz):
            return "silent", f"{name} has given no new picture for {age:.1f} s"
        if watch.unchanged_s > self._config.frozen_s:
            seen = f"the same picture for {watch.unchanged_s:.1f} s"
            return "frozen", f"{name} has shown {seen}; look at its cable, or start it anew"
        if 0 < watch.measured_hz < RATE_SHARE * watch.rate_hz:
            rate = f"{watch.measured_hz:.1f} of {watch.rate_hz:g} pictures a second"
            return "slow", f"{name} gives {rate}; look at USB, light and CPU load"
        return "running", ""

    def _run(self) -> None:
        wait_s = self._config.retry_s
        while not self._closing.is_set():
            before = self._watch.frames
            try:
                self._session()
            except EndOfStream as error:
                self._set("ended", str(error))
                return
            except NacError as error:
                self._set("lost", str(error))
            except Exception as error:
                self._set("lost", f"{self._source.name} is not read any more: {error!r}")
                raise
            finally:
                self._source.close()
            if self._watch.frames > before:
                wait_s = self._config.retry_s
            self._closing.wait(wait_s)
            wait_s = min(2 * wait_s, self._config.max_retry_s)

    def _session(self) -> None:
        """From opening the device to its loss."""
        self._source.open()
        with self._lock:
            self._reconnects += self._watch.frames > 0
            self._watch.reopen(self._source.rate_hz)
            self._state, self._text = "running", ""
        silent_s = 0.0
        while not self._closing.is_set():
            frame = self._source.read(READ_S)
            if frame is not None and self._passes(frame):
                silent_s = 0.0
                self._deliver(frame)
                continue
            silent_s += READ_S if frame is None else 1 / self._source.rate_hz
            if silent_s > self._config.silence_s:
                raise CameraError(
                    f"{self._source.name} has given no new picture for {silent_s:.1f} s; it is "
                    "opened again"
                )

    def _passes(self, frame: Frame) -> bool:
        with self._lock:
            passes = self._watch.accept(frame)
            self._no_depth += passes and self._depth and frame.depth_mm is None
        return passes

    def _set(self, state: CaptureState, text: str) -> None:
        with self._lock:
            self._state, self._text = state, text
