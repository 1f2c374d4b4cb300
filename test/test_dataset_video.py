"""Video files of datasets: any frame is read by its index, and a file is complete or absent."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from crash_injection import kill_at
from test_lerobot import SHAPES, make_episode, open_writer

from nac_ros.core.errors import ConfigError, DatasetError
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.datasets.lerobot.video import CODECS, VideoConfig, read_into, write_video
from nac_ros.datasets.validate import check

SIZE = (64, 96)
LUMA = np.array([0.299, 0.587, 0.114])
LOWEST_PSNR = 35.0  # [dB] of the luma of any frame, as docs/datasets.md says


def numbered(n: int) -> np.ndarray:
    """Smooth frames of a moving image; bright and dark fields encode each frame number."""
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 256, (SIZE[0], 400, 3)).astype(np.uint8), (0, 0), 4)
    wide = cv2.normalize(wide, None, 40, 200, cv2.NORM_MINMAX)
    frames = np.stack([wide[:, 2 * k : 2 * k + SIZE[1]] for k in range(n)])
    for k, frame in enumerate(frames):
        for bit in range(8):
            frame[:16, 12 * bit : 12 * bit + 12] = 230 if k >> bit & 1 else 25
    return frames


def number_of(frame: np.ndarray) -> int:
    fields = [frame[4:12, 12 * bit + 4 : 12 * bit + 8].mean() for bit in range(8)]
    return sum(1 << bit for bit, value in enumerate(fields) if value > 127)


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """PSNR of the luma of each frame [dB]."""
    error = np.mean((a @ LUMA - b @ LUMA) ** 2, axis=(1, 2))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-9))


def read(path: Path, first: int, count: int, fps: int = 30) -> np.ndarray:
    out = np.zeros((count, *SIZE, 3), np.uint8)
    read_into(out, path, first, fps)
    return out


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("gop", [1, 2, 10])
def test_frames_are_read_in_order_and_one_by_one(tmp_path, codec, gop):
    path, frames = tmp_path / "a.mp4", numbered(60)
    write_video(path, frames, 30, VideoConfig(codec=codec, gop=gop))
    whole = read(path, 0, 60)
    assert [number_of(frame) for frame in whole] == list(range(60))
    assert psnr(frames, whole).min() >= LOWEST_PSNR
    for index in (0, 1, 17, 30, 59):
        np.testing.assert_array_equal(read(path, index, 1)[0], whole[index])
    np.testing.assert_array_equal(read(path, 23, 20), whole[23:43])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("fps", [0.5, 5, 12.5, 15, 20, 23.976, 29.97, 30000 / 1001, 50])
def test_stamps_increase_and_match_those_of_lerobot(tmp_path, codec, fps):
    path = tmp_path / "a.mp4"
    write_video(path, numbered(25), fps, VideoConfig(codec=codec))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-9)
        packets = [packet for packet in container.demux(stream) if packet.size]
        stamps = [float(packet.pts * stream.time_base) for packet in packets]
        assert [packet.dts for packet in packets] == [packet.pts for packet in packets]
    np.testing.assert_allclose(stamps, np.arange(25) / fps, atol=1e-4)


def test_a_file_of_several_episodes_is_read_from_any_frame(tmp_path):
    """As written by lerobot: episodes one after the other, with B-frames and long GOPs."""
    path, frames = tmp_path / "a.mp4", numbered(90)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "40", "crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    for first in (0, 1, 39, 40, 41, 77):
        assert [number_of(f) for f in read(path, first, 13)] == list(range(first, first + 13))


def test_a_missing_frame_or_file_is_named(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, numbered(10), 30, VideoConfig())
    with pytest.raises(DatasetError, match="frame 10 is missing"):
        read(path, 5, 8)
    with pytest.raises(DatasetError, match="frame 1 is missing"):
        read(path, 0, 10, fps=60)
    with pytest.raises(DatasetError, match=r"b\.mp4 is missing"):
        read(tmp_path / "b.mp4", 0, 1)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DatasetError, match="cannot be decoded"):
        read(path, 0, 10)


def test_invalid_encoder_settings_are_rejected():
    with pytest.raises(ConfigError, match="h264, av1"):
        VideoConfig(codec="vp9")
    with pytest.raises(ConfigError, match=r"crf .* got 99"):
        VideoConfig(crf=99)


def test_the_documented_defaults_are_those_of_the_code():
    table = (Path(__file__).parent.parent / "docs/datasets.md").read_text()
    for name in ("crf", "gop", "threads"):
        assert f"| `--{name}` | {getattr(VideoConfig(), name)} |" in table


def with_video(root: Path, indices, **changes) -> LeRobotDataset:
    with closing(open_writer(root, video=VideoConfig(), **changes)) as writer:
        for index in indices:
            writer.add_episode(smooth(index))
    return LeRobotDataset.open(root)


def smooth(index: int) -> Episode:
    episode = make_episode(index, length=12)
    for camera, images in episode.images.items():
        episode.images[camera] = np.stack([cv2.GaussianBlur(i, (0, 0), 3) for i in images])
    return episode


def test_a_dataset_with_videos_has_the_layout_of_lerobot(tmp_path):
    dataset = with_video(tmp_path, range(3))
    assert dataset.cameras == SHAPES and check(dataset) == []
    for index in range(3):
        episode = dataset.episode(index)
        np.testing.assert_array_equal(episode.actions, smooth(index).actions)
        for camera in SHAPES:
            assert psnr(episode.images[camera], smooth(index).images[camera]).min() >= 30
    key = "observation.images.scene"
    row = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-002.parquet").to_pylist()[0]
    clip = [row[f"videos/{key}/{part}"] for part in ("chunk_index", "file_index")]
    span = [row[f"videos/{key}/{part}"] for part in ("from_timestamp", "to_timestamp")]
    assert clip == [0, 2] and span == [0.0, 12 / 30]
    assert (tmp_path / f"videos/{key}/chunk-000/file-002.mp4").is_file()
    table = pq.read_table(tmp_path / "data/chunk-000/file-000.parquet")
    assert key not in table.column_names
    feature = dataset.features[key]
    assert feature["dtype"] == "video" and feature["info"]["video.codec"] == "h264"


def test_joints_are_read_from_a_folder_without_its_videos(tmp_path):
    for path in with_video(tmp_path, range(2)).video_files("scene"):
        path.unlink()
    dataset = LeRobotDataset.open(tmp_path)
    assert list(dataset.cameras) == ["wrist"]
    assert list(dataset.episode(1).images) == ["wrist"]


def test_check_finds_a_missing_and_a_truncated_video(tmp_path):
    files = with_video(tmp_path, range(3)).video_files("scene")
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:500])
    findings = check(LeRobotDataset.open(tmp_path))
    assert [finding.episode for finding in findings] == [1, 2]
    assert "missing" in str(findings[0]) and "decoded" in str(findings[1])


def test_a_camera_of_odd_size_is_rejected_before_anything_is_written(tmp_path):
    cameras = {"scene": (13, 16)}
    with pytest.raises(DatasetError, match=r"even sides.*--video none"):
        open_writer(tmp_path / "new", cameras=cameras, video=VideoConfig())
    assert not (tmp_path / "new").exists()


# Writes episodes 0 and 1 with videos.
WORK = """
import test_dataset_video

test_dataset_video.with_video(root, range(2))
"""


@pytest.mark.parametrize("fatal", [12, 14, 17, 20, 23, 30, 40])
def test_kill_9_never_leaves_a_video_that_belongs_to_another_episode(tmp_path, fatal):
    root = tmp_path / "dataset"
    assert kill_at(fatal, WORK, root) == -signal.SIGKILL
    kept = len(LeRobotDataset.open(root).episodes) if (root / "meta/info.json").is_file() else 0
    dataset = with_video(root, range(kept, 2))
    assert check(dataset) == [] and len(dataset.video_files("scene")) == 2
    assert not list(root.rglob("*.partial"))
    for index in range(2):
        assert psnr(dataset.images(index, "scene"), smooth(index).images["scene"]).min() >= 30


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_encoding_leaves_every_thread_at_normal_priority(tmp_path, codec):
    code = (
        "import os, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from nac_ros.datasets.lerobot.video import VideoConfig, write_video\n"
        "frames = np.zeros((5, 64, 64, 3), np.uint8)\n"
        "write_video(Path(sys.argv[1]), frames, 30, VideoConfig(codec=sys.argv[2]))\n"
        "print({os.sched_getscheduler(int(t)) for t in os.listdir('/proc/self/task')})\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "a.mp4"), codec]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout == f"{{{os.SCHED_OTHER}}}\n", done
