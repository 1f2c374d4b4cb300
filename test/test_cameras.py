"""Cameras without ROS: clock synchronisation, frame statistics, reconnecting, files, V4L2."""

import os
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from nac_ros.cameras.camera import ArrivalTime, EndOfStream, Frame
from nac_ros.cameras.capture import Capture, CaptureConfig, FrameStatistics
from nac_ros.cameras.clock_sync import DeviceClock
from nac_ros.cameras.factory import CameraConfig, ResizedCamera, make_camera
from nac_ros.cameras.file import FileCamera
from nac_ros.cameras.v4l2 import V4l2Camera, to_rgb
from nac_ros.core import image_codec
from nac_ros.core.errors import BadObservation, CameraError, ConfigError
from nac_ros.robot.spec import Intrinsics, load_robot

pytestmark = pytest.mark.alone  # it measures time

EPOCH = 1.79e9  # [s] of the host's clock when the monotonic clock is at 0
SPEC = load_robot("vx300s").camera("scene")
QUICK = CaptureConfig(retry_s=0.05, max_retry_s=0.2, silence_s=0.3)


def random_image(i, width=96, height=96):
    """A random image, uint8 `[H, W, 3]`, different for each `i`."""
    image = np.random.default_rng(i).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return image.repeat(8, 0).repeat(8, 1)


def errors_of(delays, drift=0.0, rate=30.0):
    """Stamp minus true time [s] of frames that arrive `delays` [s] late, for a drifting clock."""
    stamps, errors = DeviceClock(), []
    for i, delay in enumerate(delays):
        true = i / rate
        arrived = true + delay
        device = 77.0 + true * (1 + drift)
        errors.append(
            stamps.to_host_time(device, ArrivalTime(EPOCH + arrived, arrived)) - EPOCH - true
        )
    return np.array(errors)


def test_jitter_of_the_arrival_does_not_affect_the_stamps():
    delays = 0.01 + np.random.default_rng(0).exponential(0.02, 3000)
    errors = errors_of(delays) - 0.01  # arrival times do not reveal the shortest delay
    assert delays.std() > 0.015
    assert np.abs(errors[300:]).max() < 0.001


@pytest.mark.parametrize("drift", [-100e-6, 100e-6])
def test_the_drift_of_a_clock_is_followed_over_ten_minutes(drift):
    delays = 0.01 + np.random.default_rng(1).exponential(0.02, 18000)
    errors = errors_of(delays, drift) - 0.01
    assert np.abs(errors[300:]).max() < 0.002


def test_a_stamp_is_never_later_than_the_arrival():
    delays = np.random.default_rng(2).exponential(0.02, 3000)
    assert (errors_of(delays, 100e-6) <= delays + 1e-6).all()


def test_a_device_clock_that_restarts_is_mapped_again():
    stamps = DeviceClock()
    for i in range(300):
        stamps.to_host_time(1000 + i / 30, ArrivalTime(EPOCH + i / 30, i / 30))
    after = stamps.to_host_time(2.0, ArrivalTime(EPOCH + 20, 20.0))
    assert after == pytest.approx(EPOCH + 20)


def test_setting_the_host_clock_back_an_hour_does_not_change_the_mapping():
    stamps, ages = DeviceClock(), []
    for i in range(600):
        wall = EPOCH + i / 30 - (3600 if i > 300 else 0)
        ages.append(wall - stamps.to_host_time(i / 30, ArrivalTime(wall, i / 30)))
    assert np.abs(ages).max() < 1e-6


def test_the_configured_latency_is_subtracted():
    assert DeviceClock(0.012).to_host_time(5.0, ArrivalTime(EPOCH, 1.0)) == pytest.approx(
        EPOCH - 0.012
    )


def frame(i, number=True, stamp_source="hardware", seen=None):
    image = random_image(i if seen is None else seen)
    return Frame(image, EPOCH + i / 30, stamp_source, i if number else None)


def test_drops_are_counted_by_frame_numbers_or_by_gaps():
    for number in (True, False):
        statistics = FrameStatistics(30.0)
        assert all(statistics.accept(frame(i, number)) for i in (0, 1, 4, 5, 9))
        assert (statistics.drops, statistics.frames) == (5, 5)


def test_an_old_frame_is_never_accepted_as_new():
    statistics = FrameStatistics(30.0)
    assert statistics.accept(frame(5)) and statistics.accept(frame(6))
    assert not statistics.accept(frame(6)) and not statistics.accept(frame(5))
    again = Frame(random_image(6), EPOCH + 1, "receipt", 6)  # delivered later with the same number
    assert not statistics.accept(again)
    assert statistics.repeats == 3 and statistics.frames == 2


def test_without_number_and_hardware_stamp_the_same_bytes_are_the_same_frame():
    statistics = FrameStatistics(30.0)
    assert statistics.accept(frame(0, number=False, stamp_source="receipt"))
    assert not statistics.accept(frame(1, number=False, stamp_source="receipt", seen=0))
    assert statistics.accept(frame(2, number=False, stamp_source="receipt"))
    assert statistics.repeats == 1


def test_new_frames_with_the_same_image_are_accepted_and_counted():
    statistics = FrameStatistics(30.0)
    assert all(statistics.accept(frame(i, seen=0)) for i in range(10))
    assert statistics.duplicates == 9 and statistics.unchanged_s == pytest.approx(0.3, abs=1e-6)
    assert statistics.accept(frame(10)) and statistics.unchanged_s == 0


class CableCamera:
    """A camera whose cable (`plugged`), stream (`flows`) and image (`changes`) a test controls."""

    name, rate_hz, intrinsics = "camera on a cable", 50.0, None

    def __init__(self):
        self.plugged = self.flows = self.changes = True
        self.opened, self.tried, self._n = 0, [], 0

    def open(self):
        self.tried.append(time.monotonic())
        if not self.plugged:
            raise CameraError("camera on a cable is not connected")
        self.opened += 1

    def read(self, timeout_s):
        if not self.plugged:
            raise CameraError("camera on a cable was unplugged")
        time.sleep(0.01 if self.flows else timeout_s)
        if not self.flows:
            return None
        self._n += 1
        image = random_image(self._n if self.changes else 0)
        return Frame(image, time.time(), "hardware", self._n)

    def close(self):
        pass


def wait(ready, what, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)


@pytest.fixture
def cable():
    """A camera on a cable, its capture, and the delivered frames."""
    device, frames = CableCamera(), []
    capture = Capture(device, frames.append, time.time, QUICK)
    yield device, capture, frames
    assert capture.close()
    assert not any(thread.name == f"camera {device.name}" for thread in threading.enumerate())


def test_an_unplugged_camera_is_reported_and_reopened(cable):
    device, capture, frames = cable
    capture.start()
    wait(lambda: capture.status().state == "running", "running")
    device.plugged = False
    wait(lambda: "not connected" in capture.status().text, "the loss", 1.0)
    assert capture.status().state == "lost" and capture.status().rate_hz == 0
    n = len(frames)
    device.plugged = True
    wait(lambda: len(frames) > n + 5, "frames")
    assert capture.status().state == "running" and capture.status().reconnects == 1


def test_a_camera_that_is_absent_at_the_start_is_retried_with_growing_delays(cable):
    device, capture, frames = cable
    device.plugged = False
    capture.start()
    wait(lambda: len(device.tried) >= 5, "attempts")
    waits = np.diff(device.tried)
    assert waits[0] < 0.1 < waits[3] < 0.4
    device.plugged = True
    wait(lambda: frames, "a frame")
    assert capture.status().reconnects == 0, "it was not open before"


def test_a_silent_camera_is_reported_and_reopened(cable):
    device, capture, frames = cable
    capture.start()
    wait(lambda: frames, "a frame")
    device.flows = False
    wait(lambda: capture.status().state in ("silent", "lost"), "the silence", 1.0)
    assert "delivered no new image" in capture.status().text
    wait(lambda: device.opened > 1, "another attempt")
    device.flows = True
    wait(lambda: capture.status().state == "running", "running")


def test_a_frozen_image_is_reported(cable):
    device, capture, _ = cable
    device.changes = False
    capture.start()
    wait(lambda: capture.status().state == "frozen", "frozen", 2.0)
    assert "same image" in capture.status().text
    device.changes = True
    wait(lambda: capture.status().state == "running", "running")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unexpected_error_is_reported():
    def fail(_):
        raise ValueError("unexpected")

    capture = Capture(CableCamera(), fail, time.time, QUICK)
    capture.start()
    wait(lambda: "unexpected" in capture.status().text, "the error")
    assert capture.status().state == "lost"
    assert capture.close()


def test_invalid_time_limits_are_rejected_by_name():
    with pytest.raises(ConfigError, match="max_retry_s"):
        CaptureConfig(retry_s=5.0, max_retry_s=1.0)
    with pytest.raises(ConfigError, match="silence_s"):
        CaptureConfig(silence_s=0.0)


@pytest.fixture
def video(tmp_path):
    """An mp4 of 20 images, 128x96 at 50 Hz; image k has brightness 10 k."""
    path = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 50.0, (128, 96))
    for i in range(20):
        writer.write(np.full((96, 128, 3), 10 * i, np.uint8))
    writer.release()
    return path


def play(camera, n):
    camera.open()
    found = []
    while len(found) < n:
        if (frame := camera.read(0.2)) is not None:
            found.append(frame)
    camera.close()
    return found


def test_a_video_is_played_at_its_own_rate_and_repeated(video):
    camera = FileCamera(video, (128, 96), time.time)
    frames = play(camera, 25)
    assert camera.rate_hz == 50
    shown = [round(frame.image.mean() / 10) for frame in frames]
    assert shown == [frame.number % 20 for frame in frames]
    played = frames[-1].stamp - frames[0].stamp
    assert played == pytest.approx((frames[-1].number - frames[0].number) / 50, abs=0.1)


def test_a_video_that_is_played_once_ends_with_a_message(video):
    camera = FileCamera(video, (128, 96), time.time, rate_hz=500.0, loop=False)
    with pytest.raises(EndOfStream, match="has ended after 20 images"):
        play(camera, 21)
    frames = []
    capture = Capture(camera, frames.append, time.time, QUICK)
    capture.start()
    wait(lambda: capture.status().state == "ended", "the end")
    assert capture.close() and frames


def test_frame_numbers_show_what_a_late_reader_missed(video):
    camera = FileCamera(video, (128, 96), time.time)
    camera.open()
    first = camera.read(0.1)
    time.sleep(0.2)
    late = camera.read(0.1)
    assert late.number - first.number >= 8
    assert round(late.image.mean() / 10) == late.number
    camera.close()


def test_images_of_another_size_are_rejected_without_a_request_to_resize(video):
    with pytest.raises(CameraError, match="128x96, but 96x96 were requested; set width:=128"):
        play(FileCamera(video, (96, 96), time.time), 1)


def test_images_are_resized_on_request(video):
    config = CameraConfig(source="file", path=str(video), width=128, height=96)
    (frame,) = play(make_camera(config, SPEC, time.time), 1)
    assert frame.image.shape == (96, 96, 3)


def test_resized_intrinsics_describe_the_same_rays():
    class Wide:
        name, rate_hz = "wide", 30.0
        intrinsics = Intrinsics(fx=600.0, fy=600.0, cx=319.5, cy=239.5)

    scaled = ResizedCamera(Wide(), (640, 480), (96, 96)).intrinsics
    assert (scaled.fx, scaled.fy) == pytest.approx((90, 120))
    assert (scaled.cx, scaled.cy) == pytest.approx((47.5, 47.5)), "the centre stays the centre"


def test_a_folder_is_played_in_the_order_of_its_file_names(tmp_path):
    for i in (2, 0, 1):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((96, 96, 3), 50 * i, np.uint8))
    frames = play(FileCamera(tmp_path, (96, 96), time.time, rate_hz=100.0), 3)
    assert [frame.image[0, 0, 0] for frame in frames] == [50 * f.number % 150 for f in frames]


def test_a_folder_needs_a_rate(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), random_image(0))
    with pytest.raises(CameraError, match="set the parameter rate_hz"):
        FileCamera(tmp_path, (96, 96), time.time).open()


def test_images_are_rgb(tmp_path):
    image = np.zeros((96, 96, 3), np.uint8)
    image[..., 0] = 200
    cv2.imwrite(str(tmp_path / "0.png"), image[..., ::-1])
    (frame,) = play(FileCamera(tmp_path, (96, 96), time.time, rate_hz=100.0), 1)
    np.testing.assert_array_equal(frame.image, image)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.mp4", b"no video", "cannot be read as a video"),
        ("b.png", b"no picture", "cannot be read as an image"),
        ("c.txt", b"", "holds no image"),
    ],
)
def test_a_damaged_file_is_rejected_in_one_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    path = tmp_path / name if name == "a.mp4" else tmp_path
    with pytest.raises(CameraError, match=words):
        play(FileCamera(path, (96, 96), time.time, rate_hz=30.0), 1)


def test_a_missing_file_is_rejected_in_one_sentence(tmp_path):
    with pytest.raises(CameraError, match="no file or folder at"):
        FileCamera(tmp_path / "none.mp4", (96, 96), time.time)


def test_an_absent_v4l2_camera_is_reported_with_the_existing_ones():
    with pytest.raises(CameraError, match=r"no camera at /dev/video97; .*There are: "):
        V4l2Camera("97", (640, 480), 30.0, time.time).open()


def test_a_file_that_is_no_camera_is_rejected_in_one_sentence(video):
    with pytest.raises(CameraError, match="cannot be opened; is it a camera"):
        V4l2Camera(str(video), (128, 96), 50.0, time.time).open()


def test_a_camera_without_permission_names_the_missing_group(tmp_path):
    device = tmp_path / "video0"
    device.touch(mode=0o000)
    leave_root = ""
    if os.getuid() == 0:
        leave_root = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"
        for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            folder.chmod(0o755)
    code = f"""
import os, time
from nac_ros.cameras.v4l2 import V4l2Camera
{leave_root}
V4l2Camera({str(device)!r}, (640, 480), 30.0, time.time).open()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "CameraError: no permission to use" in done.stderr and "video" in done.stderr


def test_an_image_in_another_format_is_rejected_in_one_sentence():
    for bad in (np.zeros((96, 96), np.uint8), np.zeros((96, 96, 3), np.uint16)):
        with pytest.raises(CameraError, match="set the parameter fourcc"):
            to_rgb(bad, "camera x", (96, 96))
    with pytest.raises(CameraError, match="delivers images of 96x96, but 64x48 were requested"):
        to_rgb(np.zeros((96, 96, 3), np.uint8), "camera x", (64, 48))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"source": "file"}, "give the parameter path"),
        ({"source": "v4l2", "depth": True}, "RealSense only"),
        ({"width": 640}, "width and height together"),
        ({"source": "v4l2", "device": "0", "fourcc": "MJPEG"}, "four letters"),
        ({"latency_s": -1.0}, "latency_s"),
    ],
)
def test_a_configuration_that_cannot_work_is_rejected(facts, words):
    with pytest.raises(ConfigError, match=words):
        CameraConfig(**facts)


def test_a_v4l2_camera_needs_a_device():
    with pytest.raises(ConfigError, match="give `device` in the robot's YAML"):
        make_camera(CameraConfig(source="v4l2"), SPEC, time.time)


def test_jpeg_decodes_to_rgb_and_other_bytes_are_rejected():
    image = random_image(3)
    back = image_codec.decode_image(image_codec.encode_jpeg(image, 95))
    assert back.shape == image.shape and np.abs(back.astype(int) - image).mean() < 20
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    np.testing.assert_allclose(
        image_codec.decode_image(image_codec.encode_jpeg(red, 95))[32, 32], red[0, 0], atol=4
    )
    for bad in (b"", b"no picture"):
        with pytest.raises(BadObservation, match="are no JPEG or PNG image"):
            image_codec.decode_image(bad)


def test_a_realsense_without_its_library_is_reported_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)  # as if it were not installed
    with pytest.raises(CameraError, match="pip install pyrealsense2, and apt install libusb"):
        make_camera(CameraConfig(source="realsense"), SPEC, time.time)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_of_any_number_of_channels_becomes_rgb_and_16_bits_are_rejected(channels):
    colours = np.random.default_rng(0).integers(0, 256, (8, 9, channels), dtype=np.uint8)
    _, data = cv2.imencode(".png", colours)
    rgb = np.repeat(colours, 3, -1) if channels == 1 else colours[..., 2::-1]
    np.testing.assert_array_equal(image_codec.decode_image(data.tobytes()), rgb)
    _, data = cv2.imencode(".png", colours.astype(np.uint16) * 256)
    with pytest.raises(BadObservation, match="an image with 16 bits per channel") as caught:
        image_codec.decode_image(data.tobytes())
    assert caught.value.reason == "image_encoding"
