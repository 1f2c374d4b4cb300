"""Trial videos: H.264 that decodes to the written frames and plays in a browser."""

import os
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import av
import numpy as np
import pytest

from nac_ros.core.errors import NacError
from nac_ros.reporting.video import compose_frame, title_frames, write_video

pytestmark = pytest.mark.alone  # measures time

PLAYER = """<!doctype html><video muted src="video.mp4"></video><script>
const video = document.querySelector("video");
const send = () => fetch(`/report?ready=${video.readyState}&time=${video.currentTime}` +
  `&width=${video.videoWidth}&error=${video.error ? video.error.message : ""}`);
video.ontimeupdate = () => { if (video.currentTime > 0.5) { video.ontimeupdate = null; send(); } };
video.onerror = send;
video.play();
</script>"""


def moving_square(n_frames, size=(64, 96)):
    for k in range(n_frames):
        frame = np.full((*size, 3), 40, np.uint8)
        frame[20:40, k : k + 20] = (220, 30, 30)
        yield frame


def test_the_video_is_h264_with_the_written_frames(tmp_path):
    path = tmp_path / "videos" / "video.mp4"
    assert write_video(path, moving_square(30), fps=15) == 30
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 15
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    written = list(moving_square(30))
    assert len(decoded) == 30
    for a, b in zip(decoded, written):
        assert np.abs(a.astype(int) - b).mean() < 4


def test_the_index_comes_first_so_that_playback_can_start_at_once(tmp_path):
    write_video(tmp_path / "video.mp4", moving_square(10), fps=30)
    content = (tmp_path / "video.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(
    ("frames", "word"),
    [
        ([], "no frames"),
        ([np.zeros((63, 96, 3), np.uint8)], "even sides"),
        ([np.zeros((64, 96, 3), np.uint8), np.zeros((64, 98, 3), np.uint8)], "unlike the first"),
    ],
)
def test_frames_that_make_no_video_are_rejected(tmp_path, frames, word):
    with pytest.raises(NacError, match=word):
        write_video(tmp_path / "video.mp4", frames, fps=30)


def test_a_composed_frame_has_the_spectator_view_and_the_cameras_next_to_it():
    spectator = np.random.default_rng(0).integers(0, 256, (181, 241, 3)).astype(np.uint8)
    insets = {
        "scene": np.full((96, 96, 3), 200, np.uint8),
        "wrist": np.full((48, 64, 3), 90, np.uint8),
    }
    frame = compose_frame(spectator, insets, "marker, trial 1 of 5")
    np.testing.assert_array_equal(frame[:181, :241], spectator)
    assert frame.shape[0] % 2 == 0 and frame.shape[1] % 2 == 0
    column = frame[:181, 241:]
    assert (column == 200).all(-1).sum() > 3000 and (column == 90).all(-1).sum() > 3000
    assert frame[182:, :241].max() > 200  # the caption's ink


def test_too_many_cameras_for_the_frame_are_rejected():
    insets = {str(i): np.zeros((8, 8, 3), np.uint8) for i in range(9)}
    with pytest.raises(NacError, match="9 insets"):
        compose_frame(np.zeros((120, 160, 3), np.uint8), insets, "")


def test_title_frames_have_the_wanted_size_and_number():
    frames = list(title_frames("weighing", (64, 96), 3))
    assert len(frames) == 3 and frames[0].shape == (64, 96, 3) and frames[0].max() > 200


class ReportHandler(SimpleHTTPRequestHandler):
    """Serves a folder and stores the report of the page."""

    def do_GET(self):
        if self.path.startswith("/report"):
            self.server.report = parse_qs(urlparse(self.path).query)
            self.server.reported.set()
            self.send_response(204)
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(ReportHandler, directory=str(tmp_path)))
    server.reported, server.report = threading.Event(), {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_chromium_plays_the_video(tmp_path, server):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium or google-chrome on this machine")
    write_video(tmp_path / "video.mp4", moving_square(60), fps=30)
    (tmp_path / "player.html").write_text(PLAYER)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--disable-sync", "--autoplay-policy=no-user-gesture-required"]
    flags += [f"--user-data-dir={tmp_path}/profile", "--remote-debugging-port=0"]
    address = f"http://127.0.0.1:{server.server_port}/player.html"
    process = subprocess.Popen(
        [browser, *flags, address], stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert server.reported.wait(60), "the page reported nothing"
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)
    assert server.report.get("error") is None
    assert int(server.report["ready"][0]) >= 3 and float(server.report["time"][0]) > 0.5
    assert server.report["width"] == ["96"]
