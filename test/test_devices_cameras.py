"""Cameras without ROS: whose time a picture has, what a stream shows, and a loop that survives."""

import time
from itertools import count

import cv2
import numpy as np
import pytest

from nac_ros.devices.capture import Capture, CaptureConfig
from nac_ros.devices.file import FileSource
from nac_ros.devices.frame import EndOfPictures, Frame, Moment
from nac_ros.devices.stamps import Stamps
from nac_ros.devices.watch import Watch
from nac_ros.errors import CameraError, ConfigError

SIZE = (64, 48)


def picture(value):
    return np.full((48, 64, 3), value % 256, np.uint8)


def wait_for(ready, seconds=10):
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("drift", [0.0, 80e-6, -80e-6])
def test_a_device_s_clock_is_mapped_to_when_pictures_were_taken(drift):
    random, stamps, worst = np.random.default_rng(1), Stamps(latency_s=0.004), 0.0
    for k in range(60 * 30):
        taken = 1000.0 + k / 30
        device = 77.0 + (taken - 1000.0) * (1 + drift)
        arrives = taken + 0.004 + random.exponential(0.003)
        stamp = stamps.stamp(device, Moment(wall=arrives + 5e8, steady=arrives))
        assert stamp <= arrives + 5e8
        if k > 300:
            worst = max(worst, abs(stamp - taken - 5e8))
    assert worst < 1e-3


def test_a_device_s_clock_that_begins_anew_is_followed_at_once():
    stamps = Stamps()
    for k in range(100):
        stamps.stamp(500 + k / 30, Moment(k / 30, k / 30))
    assert stamps.stamp(0.01, Moment(9.0, 9.0)) == pytest.approx(9.0)


def test_a_stream_s_losses_repeats_and_standing_pictures_are_counted():
    watch = Watch(30.0)
    for number, value in ((1, 1), (2, 2), (2, 2), (5, 3), (6, 3), (7, 3)):
        watch.passes(Frame(picture(value), number / 30, "hardware", number))
    assert (watch.frames, watch.drops, watch.repeats, watch.duplicates) == (5, 2, 1, 2)
    assert watch.unchanged_s == pytest.approx(2 / 30)
    assert watch.measured_hz == pytest.approx(20.0)
    assert not watch.passes(Frame(picture(9), 0.1, "hardware", 8)), "an old one never passes"


class Flaky:
    """A camera of 200 Hz that fails to open twice, then gives pictures, and then is gone."""

    name, rate_hz, intrinsics = "flaky", 200.0, None

    def __init__(self, frozen=False):
        self.opened, self.closed, self._numbers, self._frozen = [], 0, count(), frozen

    def open(self):
        self.opened.append(time.monotonic())
        if len(self.opened) <= 2:
            raise CameraError("flaky is not connected")
        self._left = 30

    def read(self, timeout_s):
        time.sleep(1 / self.rate_hz)
        self._left -= 1
        if self._left < 0 and not self._frozen:
            raise CameraError("flaky was unplugged")
        number = next(self._numbers)
        return Frame(picture(0 if self._frozen else number), time.time(), "hardware", number)

    def close(self):
        self.closed += 1


def test_a_camera_that_is_lost_is_opened_again_with_growing_pauses():
    source, taken = Flaky(), []
    config = CaptureConfig(retry_s=0.05, max_retry_s=0.2)
    capture = Capture(source, taken.append, time.time, config)
    capture.start()
    try:
        wait_for(lambda: capture.status().state == "lost")
        assert capture.status().text == "flaky is not connected"
        wait_for(lambda: len(taken) >= 70)
        assert capture.status().reconnects >= 2
    finally:
        assert capture.close()
    pauses = np.diff(source.opened[:3])
    assert pauses[0] > 0.045 and pauses[1] > 0.09
    numbers = [frame.number for frame in taken]
    assert numbers == sorted(set(numbers)) and source.closed >= 4
    assert capture.status().state == "off"


def test_a_camera_that_shows_one_picture_is_called_frozen():
    source = Flaky(frozen=True)
    capture = Capture(
        source, lambda frame: None, time.time, CaptureConfig(retry_s=0.01, frozen_s=0.2)
    )
    capture.start()
    try:
        wait_for(lambda: capture.status().state == "frozen")
        assert "the same picture for" in capture.status().text
        assert capture.status().duplicates > 10
    finally:
        capture.close()
    with pytest.raises(ConfigError, match="is less than retry_s"):
        CaptureConfig(retry_s=5.0, max_retry_s=1.0)


def test_a_folder_is_played_at_its_pace_once_or_again_and_again(tmp_path):
    for k in range(5):
        cv2.imwrite(str(tmp_path / f"{k}.png"), picture(40 * k))
    source = FileSource(tmp_path, SIZE, time.time, rate_hz=100.0, loop=False)
    source.open()
    began = time.monotonic()
    frames = [source.read(1.0) for _ in range(5)]
    with pytest.raises(EndOfPictures, match="is over after 5 pictures"):
        source.read(1.0)
    assert time.monotonic() - began > 0.035
    assert frames[0].image[0, 0, 0] == 0 and all(f.stamped == "receipt" for f in frames)
    again = FileSource(tmp_path, SIZE, time.time, rate_hz=500.0)
    again.open()
    numbers = [again.read(1.0).number for _ in range(12)]
    assert numbers == sorted(set(numbers)) and numbers[-1] >= 11


def test_what_a_file_cannot_give_is_said(tmp_path):
    with pytest.raises(CameraError, match="no file or folder at /nowhere"):
        FileSource(tmp_path.__class__("/nowhere"), SIZE, time.time)
    empty = FileSource(tmp_path, SIZE, time.time, rate_hz=10.0)
    with pytest.raises(CameraError, match="holds no picture"):
        empty.open()
    cv2.imwrite(str(tmp_path / "a.png"), picture(1)[:10])
    source = FileSource(tmp_path, SIZE, time.time, rate_hz=10.0)
    source.open()
    with pytest.raises(CameraError, match="64x10, but 64x48 were asked for; set width:=64"):
        source.read(1.0)
    text = tmp_path / "b.mp4"
    text.write_text("no video")
    with pytest.raises(CameraError, match="cannot be read as a video"):
        FileSource(text, SIZE, time.time).open()
