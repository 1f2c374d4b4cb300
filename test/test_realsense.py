"""RealSense camera on pyrealsense2's software device, which runs the same code as a real one."""

import time
from itertools import count
from threading import Event, Thread

import numpy as np
import pytest

pytest.importorskip(
    "pyrealsense2",
    reason="pyrealsense2 (and Debian's libusb-1.0-0) is not installed",
    exc_type=ImportError,
)

import pyrealsense2 as rs

from nac_ros.cameras.capture import Capture, CaptureConfig
from nac_ros.cameras.realsense import RealSenseCamera, connected_devices
from nac_ros.core.errors import CameraError

pytestmark = pytest.mark.alone  # it measures time

WIDTH, HEIGHT, RATE = 64, 48, 30
PERIOD_MS = 1000 / RATE
MM = 0.001
DEPTH = np.full((HEIGHT, WIDTH), 700, np.uint16)


def stream(kind, form, bpp, uid):
    """Description of a video stream by a device."""
    lens = rs.intrinsics()
    lens.width, lens.height, lens.fx, lens.fy = WIDTH, HEIGHT, 60.0, 61.0
    lens.ppx, lens.ppy, lens.model = 31.5, 23.5, rs.distortion.brown_conrady
    lens.coeffs = [0.1, 0.0, 0.0, 0.0, 0.0] if kind == rs.stream.color else [0.0] * 5
    made = rs.video_stream()
    made.type, made.index, made.uid, made.fmt, made.bpp = kind, 0, uid, form, bpp
    made.width, made.height, made.fps, made.intrinsics = WIDTH, HEIGHT, RATE, lens
    return made


class SoftwareDevice:
    """A D4xx without hardware that sends given images at given device times [ms]."""

    def __init__(self, serial="123456", units=MM):
        self.device, self.units = rs.software_device(), units
        self.device.register_info(rs.camera_info.serial_number, serial)
        self.device.register_info(rs.camera_info.name, "D4xx")
        self._colour = self.device.add_sensor("RGB Camera")
        self._depth = self.device.add_sensor("Stereo Module")
        self._depth.add_read_only_option(rs.option.depth_units, units)
        self._c = self._colour.add_video_stream(stream(rs.stream.color, rs.format.rgb8, 3, 1))
        self._d = self._depth.add_video_stream(stream(rs.stream.depth, rs.format.z16, 2, 2))
        same = rs.extrinsics()
        same.rotation, same.translation = [1, 0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0]
        self._d.register_extrinsics_to(self._c, same)
        self._c.register_extrinsics_to(self._d, same)

    def colour(self, number, image, at_ms=None, domain=rs.timestamp_domain.hardware_clock):
        self._send(self._colour, self._c, number, image, at_ms, domain)

    def depth(self, number, values, at_ms=None, domain=rs.timestamp_domain.hardware_clock):
        self._send(self._depth, self._d, number, values, at_ms, domain)

    def _send(self, sensor, profile, number, pixels, at_ms, domain):
        made, bpp = rs.software_video_frame(), 3 if pixels.ndim == 3 else 2
        made.pixels, made.stride, made.bpp = pixels, WIDTH * bpp, bpp
        made.timestamp = number * PERIOD_MS if at_ms is None else at_ms
        made.domain, made.frame_number = domain, number
        made.profile = profile.as_video_stream_profile()
        if bpp == 2:
            made.depth_units = self.units
        sensor.on_video_frame(made)


def random_image(i):
    return np.random.default_rng(i).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def make_camera(device, serial="", size=(WIDTH, HEIGHT), rate=float(RATE), find=None, **facts):
    devices = find or (lambda: [device.device])
    return RealSenseCamera(serial, size, rate, time.time, find=devices, **facts)


@pytest.fixture
def opened():
    """Opens a camera with given options; returns its device and the camera."""
    made = []

    def open_(device=None, **facts):
        device = device or SoftwareDevice()
        found = make_camera(device, **facts)
        found.open()
        made.append(found)
        return device, found

    yield open_
    for found in made:
        found.close()


def test_colour_images_are_exact_and_have_numbers_and_intrinsics(opened):
    device, camera = opened()
    for i in (4, 5, 9):
        device.colour(i, random_image(i))
        frame = camera.read(1.0)
        np.testing.assert_array_equal(frame.image, random_image(i))
        assert frame.number == i and frame.stamp_source == "hardware" and frame.depth_mm is None
    lens = camera.intrinsics
    assert (lens.fx, lens.fy, lens.cx, lens.cy) == (60, 61, 31.5, 23.5)
    assert lens.distortion == pytest.approx((0.1, 0, 0, 0, 0))


def test_stamps_keep_the_spacing_of_the_device_when_frames_arrive_unevenly(opened):
    device, camera = opened()
    began, stamps = time.monotonic(), []
    delays = np.random.default_rng(0).exponential(0.015, 30)
    for i, delay in enumerate(delays):
        time.sleep(max(began + i / RATE + delay - time.monotonic(), 0))
        device.colour(i, random_image(i))
        stamps.append(camera.read(1.0).stamp)
    gaps = np.diff(stamps[10:])
    assert np.abs(gaps - 1 / RATE).max() < 0.003 < np.abs(np.diff(delays)).max()
    assert abs(stamps[-1] - time.time()) < 0.2


def test_stamps_of_the_system_clock_are_receipt_times(opened):
    device, camera = opened()
    device.colour(1, random_image(1), at_ms=1.0, domain=rs.timestamp_domain.system_time)
    frame = camera.read(1.0)
    assert frame.stamp_source == "receipt" and abs(frame.stamp - time.time()) < 0.5


@pytest.mark.parametrize("units", [MM, 1e-4])
def test_depth_is_aligned_to_its_colour_image_in_millimetres(opened, units):
    device, camera = opened(SoftwareDevice(units=units), depth=True)
    values = np.full((HEIGHT, WIDTH), round(0.5 / units), np.uint16)
    device.depth(3, values + 100, at_ms=3 * PERIOD_MS - 25)  # of the frame before
    device.depth(4, values, at_ms=3 * PERIOD_MS + 4)
    device.colour(3, random_image(3))
    frame = camera.read(1.0)
    assert frame.number == 3 and frame.depth_mm.dtype == np.uint16
    seen = frame.depth_mm[HEIGHT // 4 : -HEIGHT // 4, WIDTH // 4 : -WIDTH // 4]
    assert np.median(seen) == 500


def test_a_frame_waits_for_depth_that_arrives_later(opened):
    device, camera = opened(depth=True)
    device.colour(3, random_image(3))
    Thread(target=lambda: (time.sleep(0.01), device.depth(3, DEPTH))).start()
    assert camera.read(1.0).depth_mm is not None


def test_a_frame_whose_depth_is_lost_is_delivered_without_it(opened):
    device, camera = opened(depth=True)
    device.colour(3, random_image(3))
    began = time.monotonic()
    frame = camera.read(1.0)
    assert frame.number == 3 and frame.depth_mm is None
    assert time.monotonic() - began < 0.3


def test_read_returns_none_after_the_timeout(opened):
    _, camera = opened()
    began = time.monotonic()
    assert camera.read(0.1) is None
    assert time.monotonic() - began < 0.5


def test_the_serial_number_selects_the_device():
    one, other = SoftwareDevice("111"), SoftwareDevice("222")
    camera = make_camera(None, "222", find=lambda: [one.device, other.device])
    camera.open()
    other.colour(2, random_image(2))
    assert camera.read(1.0).number == 2
    camera.close()


@pytest.mark.parametrize(
    ("serial", "serials", "words"),
    [
        ("", (), "no RealSense is connected"),
        ("333", ("111", "222"), "RealSense 333 is not connected; there are: 111, 222"),
        ("", ("111", "222"), "RealSenses 111, 222 are connected; give one as `serial`"),
    ],
)
def test_a_device_that_cannot_be_selected_is_reported_in_one_sentence(serial, serials, words):
    there = [SoftwareDevice(s) for s in serials]
    with pytest.raises(CameraError, match=words):
        make_camera(None, serial, find=lambda: [device.device for device in there]).open()


@pytest.mark.parametrize("facts", [{"size": (96, 96)}, {"rate": 15.0}])
def test_a_missing_mode_is_reported_with_the_existing_ones(facts):
    device = SoftwareDevice()
    with pytest.raises(CameraError, match="it has: 64x48 RGB8 at 30 Hz; set the parameters"):
        make_camera(device, **facts).open()


def test_a_device_in_use_is_reported_in_one_sentence(opened):
    device, _ = opened()
    with pytest.raises(CameraError, match=r"cannot be started .*in use by another program"):
        make_camera(device).open()


def test_an_unplugged_device_is_reopened():
    device, there, frames, ending = SoftwareDevice(), [True], [], Event()
    camera = make_camera(device, "123456", find=lambda: [device.device] if there[0] else [])
    config = CaptureConfig(retry_s=0.05, max_retry_s=0.1, silence_s=0.3)
    capture = Capture(camera, frames.append, time.time, config)

    def play():
        for i in count():
            if ending.wait(1 / RATE):
                return
            if there[0]:
                device.colour(i, random_image(i % 50))

    player = Thread(target=play)
    player.start(), capture.start()
    try:
        wait(lambda: len(frames) > 5, "frames")
        there[0] = False
        wait(lambda: "no RealSense is connected" in capture.status().text, "the loss")
        there[0], n = True, len(frames)
        wait(lambda: len(frames) > n + 5, "frames again")
        status = capture.status()
        assert status.state in ("running", "slow") and status.reconnects == 1
        assert status.stamp_source == "hardware"
    finally:
        ending.set()
        player.join()
        assert capture.close()


def wait(ready, what, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def test_the_connected_devices_can_be_listed():
    assert isinstance(connected_devices(), list)
