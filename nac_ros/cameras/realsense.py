"""Depth pictures find the colour pictures they belong to, and are laid over them."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nac_ros.cameras.camera import ArrivalTime, Clock, Frame, arrival_time
from nac_ros.cameras.clock_sync import DeviceClock
from nac_ros.core.errors import CameraError
from nac_ros.robot.spec import Intrinsics

KEPT = 3  # depths that came before their colours
MM = 1e-3


class DepthAligner:
    """Pairs by the device's stamps, at most half a period apart.

    patience_s: how long a reader may wait before it asks again
    """

    def __init__(self, rs: Any, rate_hz: float):
        self._rs, self._half_ms = rs, 500 / rate_hz
        self.patience_s = 0.5 / rate_hz
        self._period_s = 1 / rate_hz
        self._depths: deque[Any] = deque(maxlen=KEPT)
        self._waiting: deque[tuple[Frame, Any, float]] = deque()
        self._align = rs.align(rs.stream.color)

    def push(self, depth: Any) -> None:
        """A depth frame came."""
        self._depths.append(depth)

    def wait_for(self, frame: Frame, colour: Any) -> None:
        """A colour frame came; its depth is on its way, or here."""
        self._waiting.append((frame, colour, time.monotonic() + self._period_s))

    def take(self) -> Frame | None:
        """The oldest colour picture that has its depth, or has waited a period for it."""
        if not self._waiting:
            return None
        frame, colour, deadline = self._waiting[0]
        fits = [d for d in self._depths if abs(d.timestamp - colour.timestamp) <= self._half_ms]
        later = any(d.timestamp - colour.timestamp > self._half_ms for d in self._depths)
        if not fits and not later and time.monotonic() < deadline:
            return None
        self._waiting.popleft()
        if not fits:
            return frame
        nearest = min(fits, key=lambda d: abs(d.timestamp - colour.timestamp))
        return replace(frame, depth_mm=self._over(colour, nearest))

    def _over(self, colour: Any, depth: Any) -> np.ndarray:
        """Depth [mm] of each pixel of the colour picture, uint16 `[H, W]`."""
        pair, joined = [colour, depth], self._rs.frame_queue(1)
        block = self._rs.processing_block(
            lambda _, made: made.frame_ready(made.allocate_composite_frame(pair))
        )
        block.start(joined)
        block.invoke(colour)
        both = self._align.process(joined.wait_for_frame().as_frameset())
        aligned = both.get_depth_frame()
        units, values = aligned.get_units(), np.array(aligned.get_data())
        if abs(units - MM) < 1e-9:
            return values
        return np.minimum(np.rint(values * (units / MM)), 65535).astype(np.uint16)


QUEUE = 8  # frames of both streams that wait for a slow reader
NO_LIBRARY = (
    "a RealSense needs pyrealsense2: pip install pyrealsense2, and apt install libusb-1.0-0 ({})"
)
RULES = "it may be in use by another program, or its udev rules are missing"


def library() -> Any:
    """pyrealsense2; raises CameraError where it is not installed."""
    try:
        import pyrealsense2
    except ImportError as error:
        raise CameraError(NO_LIBRARY.format(error)) from error
    return pyrealsense2


def connected() -> Sequence[Any]:
    """The RealSense devices that are plugged in."""
    return list(library().context().query_devices())


class RealSenseCamera:
    """The device with `serial`, or the only one; size: width, height [pixels] of its pictures.

    find: the devices there are, real ones by default
    """

    def __init__(
        self,
        serial: str,
        size: tuple[int, int],
        rate_hz: float,
        clock: Clock,
        depth: bool = False,
        latency_s: float = 0.0,
        find: Callable[[], Sequence[Any]] = connected,
    ):
        self.name = f"RealSense {serial}".strip()
        self.rate_hz = rate_hz
        self.intrinsics: Intrinsics | None = None
        self._rs = library()
        self._serial, self._size, self._clock, self._find = serial, size, clock, find
        self._stamps, self._depth = DeviceClock(latency_s), depth
        self._sensors: list[Any] = []

    def open(self) -> None:
        """Starts its streams; raises CameraError when absent, in use or without such a mode."""
        try:
            self._start()
        except RuntimeError as error:
            raise CameraError(f"{self.name} cannot be started ({error}): {RULES}") from error

    def _start(self) -> None:
        self._device = self._choose()
        rs, (width, height) = self._rs, self._size
        wanted = [(rs.stream.color, rs.format.rgb8, f"colour {width}x{height} as RGB8")]
        if self._depth:
            wanted.append((rs.stream.depth, rs.format.z16, f"depth {width}x{height} as Z16"))
        chosen = [self._profile(*stream) for stream in wanted]
        self._stamps.restart()
        self._queue, self._depths = rs.frame_queue(QUEUE), DepthAligner(rs, self.rate_hz)
        by_sensor: dict[int, list[Any]] = defaultdict(list)
        sensors = list(self._device.query_sensors())
        for index, profile in chosen:
            by_sensor[index].append(profile)
        for index, profiles in by_sensor.items():
            sensors[index].open(profiles)
            self._sensors.append(sensors[index])
            sensors[index].start(self._queue)
        self.intrinsics = _intrinsics(chosen[0][1].as_video_stream_profile().get_intrinsics())

    def read(self, timeout_s: float) -> Frame | None:
        """The next picture, with its depth if that was asked for and comes within a period."""
        try:
            return self._next(time.monotonic() + timeout_s)
        except RuntimeError as error:
            raise CameraError(f"{self.name} failed ({error}); it is opened again") from error

    def _next(self, deadline: float) -> Frame | None:
        while (left := deadline - time.monotonic()) > 0:
            patience = min(left, self._depths.patience_s) if self._depth else left
            there, raw = self._queue.try_wait_for_frame(max(int(1e3 * patience), 1))
            if there and raw.profile.stream_type() == self._rs.stream.depth:
                self._depths.push(raw)
            elif there:
                frame = self._frame(raw, arrival_time(self._clock))
                if not self._depth:
                    return frame
                self._depths.wait_for(frame, raw)
            if self._depth and (done := self._depths.take()) is not None:
                return done
        if not self._device.is_connected():
            raise CameraError(f"{self.name} was unplugged")
        return None

    def close(self) -> None:
        """Stops its streams, as far as it is still there."""
        for sensor in self._sensors:
            for end in (sensor.stop, sensor.close):
                self._end(end)
        self._sensors.clear()

    def _end(self, end: Callable[[], None]) -> None:
        try:
            end()
        except RuntimeError:  # it is gone, or was never started: nothing is left to end
            return

    def _choose(self) -> Any:
        info = self._rs.camera_info.serial_number
        devices = {device.get_info(info): device for device in self._find()}
        known = ", ".join(sorted(devices))
        if not devices:
            raise CameraError(f"{self.name}: no RealSense is connected; plug it in, at USB 3")
        if not self._serial and len(devices) > 1:
            raise CameraError(
                f"RealSenses {known} are connected; give one as `serial` of the camera in the "
                "robot's YAML, in quotes"
            )
        if self._serial and self._serial not in devices:
            raise CameraError(f"{self.name} is not connected; there are: {known}")
        serial = self._serial or known
        self.name = f"RealSense {serial}"
        return devices[serial]

    def _profile(self, stream: Any, kind: Any, words: str) -> tuple[int, Any]:
        """Sensor's index and the stream profile of the wanted size, format and rate."""
        others = set()
        for index, sensor in enumerate(self._device.query_sensors()):
            for profile in sensor.get_stream_profiles():
                if profile.stream_type() != stream:
                    continue
                video = profile.as_video_stream_profile()
                size, hz, form = (video.width(), video.height()), video.fps(), video.format()
                if (size, form) == (self._size, kind) and hz == round(self.rate_hz):
                    return index, profile
                others.add(f"{size[0]}x{size[1]} {form.name.upper()} at {hz} Hz")
        known = ", ".join(sorted(others)) or "nothing of the kind"
        raise CameraError(
            f"{self.name} has no {words} at {self.rate_hz:g} Hz, it has: {known}; set the "
            "parameters width, height and rate_hz to one of these"
        )

    def _frame(self, raw: Any, received: ArrivalTime) -> Frame:
        image = np.array(raw.get_data())  # a copy: the device's buffers are few
        own_clock = raw.frame_timestamp_domain != self._rs.timestamp_domain.system_time
        if not own_clock:
            return Frame(image, received.wall, "receipt", raw.frame_number)
        stamp = self._stamps.stamp(1e-3 * raw.timestamp, received)
        return Frame(image, stamp, "hardware", raw.frame_number)


def _intrinsics(found: Any) -> Intrinsics:
    coefficients = tuple(float(c) for c in found.coeffs)
    k1, k2, p1, p2, k3 = coefficients
    return Intrinsics(
        fx=found.fx, fy=found.fy, cx=found.ppx, cy=found.ppy, distortion=(k1, k2, p1, p2, k3)
    )
