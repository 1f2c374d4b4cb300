"""Reads with stock lerobot, rosbags and mcap what `interop.py` made, and compares every value.

Runs where nothing of this package is installed; prints results, and ends with 1 at a difference.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

LEROBOT = ("png", "back", "h264", "av1", "edited", "merged")
LOSSLESS = ("png", "back")
RECORDINGS = ("recordings", "jpeg")
CHUNK = 16  # actions ahead
LOSSY_DB = 35.0  # least PSNR of the brightness after video or JPEG (docs/datasets.md)
BRIGHTNESS = np.array(
    [0.299, 0.587, 0.114]
)  # ITU-R BT.601; 4:2:0 keeps a quarter of the colour samples
NANO = 1_000_000_000


class Difference(Exception):
    """A value that was read differs from the value that was written."""


def same(what: str, got: Any, wanted: Any) -> None:
    if not np.array_equal(np.asarray(got), np.asarray(wanted)):
        raise Difference(
            f"{what}: got {np.asarray(got).ravel()[:4]}, wanted {np.asarray(wanted).ravel()[:4]}"
        )


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR of the brightness of RGB images [dB]; inf if they are equal."""
    if np.array_equal(a, b):
        return np.inf
    error = np.mean(((a.astype(float) - b) @ BRIGHTNESS) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else 99.0


class Expected(NamedTuple):
    """One episode as plain arrays."""

    values: dict[str, np.ndarray]

    @property
    def cameras(self) -> dict[str, np.ndarray]:
        images = {k: v for k, v in self.values.items() if k.startswith("image_")}
        return {key.removeprefix("image_"): value for key, value in images.items()}


def expected(folder: Path) -> list[Expected]:
    return [Expected(dict(np.load(path))) for path in sorted(folder.glob("*.npz"))]


def read_lerobot(data: Path, name: str, backend: str) -> dict[str, Any]:
    """Compares every frame of a folder, the actions that follow and the previous image."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    wanted, root = expected(data / "expected" / name), data / name
    fps = json.loads((root / "meta/info.json").read_text())["fps"]
    cameras = {f"observation.images.{camera}": camera for camera in wanted[0].cameras}
    deltas = {"action": [k / fps for k in range(CHUNK)]}
    deltas |= {key: [-1 / fps, 0.0] for key in cameras}
    dataset = LeRobotDataset(
        f"local/{name}", root=root, delta_timestamps=deltas, video_backend=backend
    )
    same("episodes", dataset.num_episodes, len(wanted))
    same("frames", dataset.num_frames, sum(len(e.values["actions"]) for e in wanted))
    worst, index = np.inf, 0
    for number, episode in enumerate(wanted):
        for k in range(len(episode.values["actions"])):
            where = f"{name} episode {number} frame {k}"
            item = dataset[index]
            _compare_item(where, item, episode.values, (number, k, index, fps))
            for key, camera in cameras.items():
                quality = _compare_images(f"{where} {camera}", item[key], episode, camera, k)
                worst = min(worst, quality)
            index += 1
    if name in LOSSLESS and worst < np.inf:
        raise Difference(f"{name}: images differ, {worst:.1f} dB")
    _compare_stats(dataset, wanted)
    kept = None if worst == np.inf else round(worst, 1)
    return {"episodes": len(wanted), "frames": index, "backend": backend, "worst_psnr_db": kept}


def _compare_item(
    where: str, item: dict[str, Any], values: dict[str, np.ndarray], place: tuple[int, ...]
) -> None:
    number, k, index, fps = place
    actions = values["actions"]
    ahead = np.minimum(k + np.arange(CHUNK), len(actions) - 1)
    same(f"{where} action", item["action"].numpy(), actions[ahead])
    same(f"{where} padding", item["action_is_pad"].numpy(), k + np.arange(CHUNK) >= len(actions))
    same(f"{where} state", item["observation.state"].numpy(), values["states"][k])
    same(f"{where} stamp", item["observation.stamp_ns"].item(), values["stamps"][k])
    same(f"{where} mark", bool(item["intervention"]), bool(values["intervention"][k]))
    last = k == len(actions) - 1
    same(f"{where} success", bool(item["next.success"]), bool(values["success"]) and last)
    same(f"{where} task", item["task"], str(values["task"]))
    for key, value in (("episode_index", number), ("frame_index", k), ("index", index)):
        same(f"{where} {key}", item[key].item(), value)
    same(f"{where} timestamp", item["timestamp"].item(), np.float32(k / fps))


def _compare_images(where: str, pair: Any, episode: Expected, camera: str, k: int) -> float:
    """Smaller PSNR of a frame and the previous one [dB]; raises Difference if it is too low."""
    images = episode.cameras[camera]
    shown = np.round(pair.numpy() * 255).astype(np.uint8).transpose(0, 2, 3, 1)  # [2, H, W, 3]
    qualities = [psnr(a, images[max(k - back, 0)]) for a, back in zip(shown, (1, 0))]
    if min(qualities) < LOSSY_DB:
        raise Difference(f"{where}: {min(qualities):.1f} dB, at least {LOSSY_DB} are wanted")
    return min(qualities)


def _compare_stats(dataset: Any, wanted: list[Expected]) -> None:
    whole = np.concatenate([episode.values["actions"] for episode in wanted]).astype(np.float64)
    stats = dataset.meta.stats["action"]
    for name, value in (("mean", whole.mean(0)), ("std", whole.std(0)), ("max", whole.max(0))):
        if not np.allclose(stats[name], value, rtol=1e-9):
            raise Difference(
                f"statistics: {name} of action is {stats[name]}, it should be {value}"
            )


def read_recordings(data: Path, name: str) -> dict[str, Any]:
    """Compares every message, read by rosbags and by mcap with its ROS 2 decoder."""
    wanted = expected(data / "expected" / name)
    folders = sorted(path for path in (data / name).iterdir() if path.is_dir())
    same("episodes", len(folders), len(wanted))
    results: dict[str, Any] = {"episodes": len(folders)}
    for library, read in (("rosbags", by_rosbags), ("mcap", by_mcap)):
        counts, worst = 0, np.inf
        for folder, episode in zip(folders, wanted):
            topics: dict[str, list[Any]] = {}
            for topic, message in read(folder):
                topics.setdefault(topic, []).append(message)
            counts += sum(map(len, topics.values()))
            worst = min(worst, _compare_recording(f"{library} {folder.name}", topics, episode))
        results[f"{library}_messages"] = counts
        results["worst_psnr_db"] = None if worst == np.inf else round(worst, 1)
        if name == "recordings" and worst < np.inf:
            raise Difference(f"{name}: images differ, {worst:.1f} dB")
    return results


def by_rosbags(folder: Path) -> Iterator[tuple[str, Any]]:
    from rosbags.highlevel import AnyReader

    with AnyReader([folder]) as reader:
        for connection, _, raw in reader.messages():
            yield connection.topic, reader.deserialize(raw, connection.msgtype)


def by_mcap(folder: Path) -> Iterator[tuple[str, Any]]:
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    with (folder / "episode.mcap").open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True, decoder_factories=[DecoderFactory()])
        for _, channel, _, message in reader.iter_decoded_messages():
            yield channel.topic, message


def _compare_recording(where: str, topics: dict[str, list[Any]], episode: Expected) -> float:
    values = episode.values
    states, commands = topics["/joint_states"], topics["/guard/command"]
    same(f"{where} stamps", [_ns(message) for message in states], values["stamps"])
    positions = np.array([message.position for message in states], np.float32)
    same(f"{where} state", positions, values["states"])
    set_points = np.array([message.position for message in commands], np.float32)
    same(f"{where} action", set_points, values["actions"])
    same(f"{where} task", [m.data for m in topics["/task"]], [str(values["task"])])
    modes = [message.data for message in topics["/guard/mode"]]
    same(f"{where} modes", modes, ["policy", "teleop", "policy"])
    worst = np.inf
    for camera, images in episode.cameras.items():
        raw, packed = (topics.get(f"/{camera}/image_raw{e}") for e in ("", "/compressed"))
        shown = [_raw(m) for m in raw] if raw else [_jpeg(m) for m in packed or ()]
        same(f"{where} {camera}", len(shown), len(images))
        worst = min(worst, *(psnr(a, b) for a, b in zip(shown, images)))
    if worst < LOSSY_DB:
        raise Difference(f"{where}: {worst:.1f} dB, at least {LOSSY_DB} are wanted")
    return worst


def _ns(message: Any) -> int:
    return message.header.stamp.sec * NANO + message.header.stamp.nanosec


def _raw(message: Any) -> np.ndarray:
    flat = np.frombuffer(bytes(message.data), np.uint8)
    return flat.reshape(message.height, message.width, 3)


def _jpeg(message: Any) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(bytes(message.data), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise Difference("a compressed image cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@lru_cache
def backends() -> list[str]:
    """Video decoders that stock lerobot can use here; torchcodec needs FFmpeg libraries."""
    found = ["pyav"]
    if importlib.util.find_spec("torchcodec"):
        try:
            import torchcodec  # noqa: F401 - loads the libraries

            found.append("torchcodec")
        except (RuntimeError, OSError, ImportError) as error:
            print(f"torchcodec is not available: {str(error).splitlines()[0]}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    reads: list[tuple[str, Callable[..., dict[str, Any]], tuple[Any, ...]]] = [
        (f"lerobot {name} {backend}", read_lerobot, (arguments.data, name, backend))
        for name in LEROBOT
        for backend in (["pyav"] if name in LOSSLESS else backends())
    ]
    reads += [(name, read_recordings, (arguments.data, name)) for name in RECORDINGS]
    results, failed = {}, 0
    for title, read, words in reads:
        try:
            results[title] = read(*words)
            print(f"{title:24s} equal: {results[title]}", flush=True)
        except Exception as error:  # any exception of a library counts as a difference
            failed += 1
            results[title] = {"difference": repr(error)}
            print(f"{title:24s} DIFFERS: {error!r}", flush=True)
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
