"""RealSense camera: colour, and depth aligned to the colour image."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nac_ros.cameras.camera import ArrivalTime, Clock, Frame
from nac_ros.cameras.clock_sync import DeviceClock
from nac_ros.core.errors import CameraError
from nac_ros.robot.spec import Intrinsics

QUEUE_SIZE = 8  # frames of both streams that wait for a slow reader
MAX_DEPTHS = 3  # depth frames kept until their colour frame arrives
MM = 1e-3


class RealSenseCamera:
    """The RealSense with this serial number, or the only one connected if it is ''.

    size: (width, height) [pixels]; depth: whether frames get their depth
    find: returns the connected devices
    """

    def __init__(
        self,
        serial: str,
        size: tuple[int, int],
        rate_hz: float,
        clock: Clock,
        depth: bool = False,
        latency_s: float = 0.0,
        find: Callable[[], Sequence[Any]] | None = None,
    ):
        self.name = f"RealSense {serial}".strip()
        self.rate_hz = rate_hz
        self.intrinsics: Intrinsics | None = None
        self._rs = library()
        self._serial, self._size, self._clock = serial, size, clock
        self._find = find or connected_devices
        self._device_clock, self._depth = DeviceClock(latency_s), depth
        self._sensors: list[Any] = []

    def open(self) -> None:
        """Starts the streams; raises CameraError if absent, in use or without such a mode."""
        try:
            self._start()
        except RuntimeError as error:
            raise CameraError(
                f"{self.name} cannot be started ({error}): it may be in use by another program, "
                "or its udev rules are missing"
            ) from error

    def _start(self) -> None:
        self._device = self._choose()
        rs, (width, height) = self._rs, self._size
        streams = [(rs.stream.color, rs.format.rgb8, f"colour {width}x{height} as RGB8")]
        if self._depth:
            streams.append((rs.stream.depth, rs.format.z16, f"depth {width}x{height} as Z16"))
        chosen = [self._find_profile(*stream) for stream in streams]
        self._device_clock.reset()
        self._queue = rs.frame_queue(QUEUE_SIZE)
        self._depth_aligner = DepthAligner(rs, self.rate_hz)
        by_sensor: dict[int, list[Any]] = defaultdict(list)
        for index, profile in chosen:
            by_sensor[index].append(profile)
        sensors = list(self._device.query_sensors())
        for index, profiles in by_sensor.items():
            sensors[index].open(profiles)
            self._sensors.append(sensors[index])
            sensors[index].start(self._queue)
        lens = chosen[0][1].as_video_stream_profile().get_intrinsics()
        k1, k2, p1, p2, k3 = (float(c) for c in lens.coeffs)
        self.intrinsics = Intrinsics(
            fx=lens.fx, fy=lens.fy, cx=lens.ppx, cy=lens.ppy, distortion=(k1, k2, p1, p2, k3)
        )

    def read(self, timeout_s: float) -> Frame | None:
        """The next frame, with its depth if that is requested and arrives within a period."""
        try:
            return self._next_frame(time.monotonic() + timeout_s)
        except RuntimeError as error:
            raise CameraError(f"{self.name} failed ({error}); it will be reopened") from error

    def _next_frame(self, deadline: float) -> Frame | None:
        aligner = self._depth_aligner if self._depth else None
        while (left := deadline - time.monotonic()) > 0:
            wait_s = min(left, aligner.poll_s) if aligner else left
            received, raw = self._queue.try_wait_for_frame(max(int(1e3 * wait_s), 1))
            if received and raw.profile.stream_type() == self._rs.stream.depth:
                self._depth_aligner.add_depth(raw)
            elif received:
                frame = self._to_frame(raw, ArrivalTime.now(self._clock))
                if aligner is None:
                    return frame
                aligner.add_colour(frame, raw)
            if aligner and (done := aligner.pop()) is not None:
                return done
        if not self._device.is_connected():
            raise CameraError(f"{self.name} was unplugged")
        return None

    def close(self) -> None:
        """Stops the streams that are still running."""
        for sensor in self._sensors:
            for end in (sensor.stop, sensor.close):
                try:
                    end()
                except RuntimeError:  # unplugged or never started: nothing is left to stop
                    continue
        self._sensors.clear()

    def _choose(self) -> Any:
        """The device with the wanted serial number."""
        info = self._rs.camera_info.serial_number
        devices = {device.get_info(info): device for device in self._find()}
        known = ", ".join(sorted(devices))
        if not devices:
            raise CameraError(f"{self.name}: no RealSense is connected; plug it into USB 3")
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

    def _find_profile(self, stream: Any, pixel_format: Any, text: str) -> tuple[int, Any]:
        """Index of the sensor and the stream profile with the wanted size, format and rate."""
        others = set()
        for index, sensor in enumerate(self._device.query_sensors()):
            for profile in sensor.get_stream_profiles():
                if profile.stream_type() != stream:
                    continue
                video = profile.as_video_stream_profile()
                size, hz, form = (video.width(), video.height()), video.fps(), video.format()
                if (size, form) == (self._size, pixel_format) and hz == round(self.rate_hz):
                    return index, profile
                others.add(f"{size[0]}x{size[1]} {form.name.upper()} at {hz} Hz")
        known = ", ".join(sorted(others)) or "no such stream"
        raise CameraError(
            f"{self.name} has no {text} at {self.rate_hz:g} Hz, it has: {known}; set the "
            "parameters width, height and rate_hz to one of these"
        )

    def _to_frame(self, raw: Any, arrival: ArrivalTime) -> Frame:
        image = np.array(raw.get_data())  # a copy: the device has few buffers
        if raw.frame_timestamp_domain == self._rs.timestamp_domain.system_time:
            return Frame(image, arrival.wall, "receipt", raw.frame_number)
        stamp = self._device_clock.to_host_time(1e-3 * raw.timestamp, arrival)
        return Frame(image, stamp, "hardware", raw.frame_number)


class DepthAligner:
    """Pairs colour and depth frames whose device stamps are at most half a period apart.

    poll_s: how often to call `pop` [s]
    """

    def __init__(self, rs: Any, rate_hz: float):
        self._rs, self._period_s = rs, 1 / rate_hz
        self.poll_s = self._period_s / 2
        self._half_period_ms = 500 / rate_hz
        self._depths: deque[Any] = deque(maxlen=MAX_DEPTHS)
        self._waiting: deque[tuple[Frame, Any, float]] = deque()  # frame, raw colour, deadline
        self._align = rs.align(rs.stream.color)

    def add_depth(self, depth: Any) -> None:
        """Adds a depth frame."""
        self._depths.append(depth)

    def add_colour(self, frame: Frame, colour: Any) -> None:
        """Adds a colour frame, converted and as received."""
        self._waiting.append((frame, colour, time.monotonic() + self._period_s))

    def pop(self) -> Frame | None:
        """The oldest colour frame, with its depth, or without after waiting for a period."""
        if not self._waiting:
            return None
        frame, colour, deadline = self._waiting[0]
        offsets = [(depth.timestamp - colour.timestamp, depth) for depth in self._depths]  # [ms]
        matching = [each for each in offsets if abs(each[0]) <= self._half_period_ms]
        passed = any(offset > self._half_period_ms for offset, _ in offsets)
        if not matching and not passed and time.monotonic() < deadline:
            return None
        self._waiting.popleft()
        if not matching:
            return frame
        _, nearest = min(matching, key=lambda each: abs(each[0]))
        return replace(frame, depth_mm=self._aligned(colour, nearest))

    def _aligned(self, colour: Any, depth: Any) -> np.ndarray:
        """Depth [mm] at each pixel of the colour image, uint16 `[H, W]`.

        rs.align takes framesets only, so a processing block joins the two frames into one.
        """
        pair, joined = [colour, depth], self._rs.frame_queue(1)
        block = self._rs.processing_block(
            lambda _, made: made.frame_ready(made.allocate_composite_frame(pair))
        )
        block.start(joined)
        block.invoke(colour)
        frames = self._align.process(joined.wait_for_frame().as_frameset())
        aligned = frames.get_depth_frame()
        units, values = aligned.get_units(), np.array(aligned.get_data())
        if abs(units - MM) < 1e-9:
            return values
        return np.minimum(np.rint(values * (units / MM)), 65535).astype(np.uint16)


def library() -> Any:
    """pyrealsense2; raises CameraError if it is not installed."""
    try:
        import pyrealsense2
    except ImportError as error:
        raise CameraError(
            "a RealSense needs pyrealsense2: pip install pyrealsense2, and apt install "
            f"libusb-1.0-0 ({error})"
        ) from error
    return pyrealsense2


def connected_devices() -> Sequence[Any]:
    """The RealSense devices that are plugged in."""
    return list(library().context().query_devices())
