"""The RealSense source on pyrealsense2's own software device: the code that real ones run."""

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
    """A video stream as a device describes it."""
    lens = rs.intrinsics()
    lens.width, lens.height, lens.fx, lens.fy = WIDTH, HEIGHT, 60.0, 61.0
    lens.ppx, lens.ppy, lens.model = 31.5, 23.5, rs.distortion.brown_conrady
    lens.coeffs = [0.1, 0.0, 0.0, 0.0, 0.0] if kind == rs.stream.color else [0.0] * 5
    made = rs.video_stream()
    made.type, made.index, made.uid, made.fmt, made.bpp = kind, 0, uid, form, bpp
    made.width, made.height, made.fps, made.intrinsics = WIDTH, HEIGHT, RATE, lens
    return made


class Soft:
    """A D4xx without hardware: pictures are what a test says, at the device's times [ms]."""

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


def picture(i):
    return np.random.default_rng(i).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def source(soft, serial="", size=(WIDTH, HEIGHT), rate=float(RATE), find=None, **facts):
    devices = find or (lambda: [soft.device])
    return RealSenseCamera(serial, size, rate, time.time, find=devices, **facts)


@pytest.fixture
def opened():
    """A device and its opened source, by the source's facts."""
    made = []

    def open_(soft=None, **facts):
        soft = soft or Soft()
        found = source(soft, **facts)
        found.open()
        made.append(found)
        return soft, found

    yield open_
    for found in made:
        found.close()


def test_colours_come_bit_for_bit_with_their_numbers_and_the_lens(opened):
    soft, camera = opened()
    for i in (4, 5, 9):
        soft.colour(i, picture(i))
        frame = camera.read(1.0)
        np.testing.assert_array_equal(frame.image, picture(i))
        assert frame.number == i and frame.stamp_source == "hardware" and frame.depth_mm is None
    lens = camera.intrinsics
    assert (lens.fx, lens.fy, lens.cx, lens.cy) == (60, 61, 31.5, 23.5)
    assert lens.distortion == pytest.approx((0.1, 0, 0, 0, 0))


def test_stamps_keep_the_device_s_spacing_when_pictures_arrive_unevenly(opened):
    soft, camera = opened()
    began, stamps = time.monotonic(), []
    delays = np.random.default_rng(0).exponential(0.015, 30)
    for i, delay in enumerate(delays):
        time.sleep(max(began + i / RATE + delay - time.monotonic(), 0))
        soft.colour(i, picture(i))
        stamps.append(camera.read(1.0).stamp)
    gaps = np.diff(stamps[10:])
    assert np.abs(gaps - 1 / RATE).max() < 0.003 < np.abs(np.diff(delays)).max()
    assert abs(stamps[-1] - time.time()) < 0.2


def test_stamps_of_arrival_are_called_so(opened):
    soft, camera = opened()
    soft.colour(1, picture(1), at_ms=1.0, domain=rs.timestamp_domain.system_time)
    frame = camera.read(1.0)
    assert frame.stamp_source == "receipt" and abs(frame.stamp - time.time()) < 0.5


@pytest.mark.parametrize("units", [MM, 1e-4])
def test_depth_lies_over_its_colour_in_millimetres(opened, units):
    soft, camera = opened(Soft(units=units), depth=True)
    values = np.full((HEIGHT, WIDTH), round(0.5 / units), np.uint16)
    soft.depth(3, values + 100, at_ms=3 * PERIOD_MS - 25)  # of the picture before
    soft.depth(4, values, at_ms=3 * PERIOD_MS + 4)
    soft.colour(3, picture(3))
    frame = camera.read(1.0)
    assert frame.number == 3 and frame.depth_mm.dtype == np.uint16
    seen = frame.depth_mm[HEIGHT // 4 : -HEIGHT // 4, WIDTH // 4 : -WIDTH // 4]
    assert np.median(seen) == 500


def test_depth_that_comes_after_its_colour_is_waited_for(opened):
    soft, camera = opened(depth=True)
    soft.colour(3, picture(3))
    Thread(target=lambda: (time.sleep(0.01), soft.depth(3, DEPTH))).start()
    assert camera.read(1.0).depth_mm is not None


def test_a_picture_whose_depth_never_comes_is_given_without_it_in_time(opened):
    soft, camera = opened(depth=True)
    soft.colour(3, picture(3))
    began = time.monotonic()
    frame = camera.read(1.0)
    assert frame.number == 3 and frame.depth_mm is None
    assert time.monotonic() - began < 0.3


def test_nothing_comes_is_none_after_the_time_it_was_given(opened):
    _, camera = opened()
    began = time.monotonic()
    assert camera.read(0.1) is None
    assert time.monotonic() - began < 0.5


def test_the_serial_chooses_among_several():
    one, other = Soft("111"), Soft("222")
    camera = source(None, "222", find=lambda: [one.device, other.device])
    camera.open()
    other.colour(2, picture(2))
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
def test_a_device_that_cannot_be_chosen_is_one_sentence(serial, serials, words):
    there = [Soft(s) for s in serials]
    with pytest.raises(CameraError, match=words):
        source(None, serial, find=lambda: [soft.device for soft in there]).open()


@pytest.mark.parametrize("facts", [{"size": (96, 96)}, {"rate": 15.0}])
def test_a_mode_it_does_not_have_is_one_sentence_with_those_it_has(facts):
    soft = Soft()
    with pytest.raises(CameraError, match="it has: 64x48 RGB8 at 30 Hz; set the parameters"):
        source(soft, **facts).open()


def test_one_that_is_in_use_is_one_sentence(opened):
    soft, _ = opened()
    with pytest.raises(CameraError, match=r"cannot be started .*in use by another program"):
        source(soft).open()


def test_one_that_was_unplugged_comes_back_by_itself():
    soft, there, came, ending = Soft(), [True], [], Event()
    camera = source(soft, "123456", find=lambda: [soft.device] if there[0] else [])
    config = CaptureConfig(retry_s=0.05, max_retry_s=0.1, silence_s=0.3)
    capture = Capture(camera, came.append, time.time, config)

    def play():
        for i in count():
            if ending.wait(1 / RATE):
                return
            if there[0]:
                soft.colour(i, picture(i % 50))

    player = Thread(target=play)
    player.start(), capture.start()
    try:
        wait(lambda: len(came) > 5, "pictures")
        there[0] = False
        wait(lambda: "no RealSense is connected" in capture.status().text, "the loss")
        there[0], n = True, len(came)
        wait(lambda: len(came) > n + 5, "pictures again")
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


def test_this_machine_s_devices_can_be_asked_for():
    assert isinstance(connected_devices(), list)
