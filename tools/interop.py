"""`make interop`: stock lerobot, rosbags and mcap read the files that this package writes.

Generates a small data set with images in the twin, converts it to every format, lets these
libraries read it in a separate environment (`interop_reader.py`) and compares all values.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nac_ros.cli.main import main as nac
from nac_ros.core.config import config_dir
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.datasets.lerobot.schema import OptionalColumns
from nac_ros.datasets.lerobot.writer import DatasetWriter

ROOT = Path(__file__).resolve().parent.parent
READER = ROOT / "tools/interop_reader.py"
LEROBOT = "lerobot==0.4.4"  # the last release that runs on Python 3.10 and 3.11
READERS = ("rosbags", "mcap", "mcap-ros2-support")
COMPLETE = ".complete"
EPISODES, TASK, CUT_S = 3, "marker", 1.0
START_NS = 1_790_000_000_000_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if all values are equal, else 1."""
    arguments = _parser().parse_args(argv)
    folder = arguments.folder.absolute()
    python = environment(folder / "venv", arguments.python, arguments.torch_index)
    data = folder / "data"
    if data.exists():
        shutil.rmtree(data)
    make(data)
    words = [str(python), str(READER), str(data), "--json", str(folder / "interop.json")]
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(words, env={**alone, "HF_HUB_OFFLINE": "1"}, check=False).returncode


def environment(venv: Path, python: str, torch_index: str) -> Path:
    """Python of the environment with the stock libraries; builds it if it is incomplete."""
    inside, wanted = venv / "bin/python", " ".join((LEROBOT, *READERS))
    stamp = venv / COMPLETE
    if stamp.is_file() and stamp.read_text() == wanted:
        return inside
    print(f"interop: building {venv} with {wanted}; some 8 GB", flush=True)
    subprocess.run([python, "-m", "venv", "--clear", str(venv)], check=True)
    index = ["--extra-index-url", torch_index] if torch_index else []
    subprocess.run([str(inside), "-m", "pip", "install", *index, LEROBOT, *READERS], check=True)
    stamp.write_text(wanted)
    return inside


def make(data: Path) -> None:
    """Writes the data sets to read, and the expected values as plain arrays."""
    made, png, film = data / "generated", data / "png", data / "h264"
    _nac("data", "generate", "--task", TASK, "--episodes", EPISODES, "--out", made)
    episodes = add_columns(LeRobotDataset.open(made), png)
    for codec in ("h264", "av1"):
        _nac("data", "convert", png, "--to", "lerobot", "--video", codec, "--out", data / codec)
    shutil.copytree(film, data / "edited")
    _nac("data", "edit", "discard", data / "edited", "--episode", 0)
    _nac("data", "edit", "split", data / "edited", "--episode", 0, "--at-seconds", CUT_S)
    shutil.rmtree(data / "edited.before")
    _nac("data", "edit", "merge", film, data / "edited", "--out", data / "merged")
    _nac("data", "convert", png, "--to", "mcap", "--out", data / "recordings")
    _nac(
        "data",
        "convert",
        png,
        "--to",
        "mcap",
        "--robot",
        _jpeg_robot(data),
        "--out",
        data / "jpeg",
    )
    _nac("data", "convert", data / "recordings", "--to", "lerobot", "--out", data / "back")
    first = round(CUT_S * LeRobotDataset.open(png).fps)
    cut = [part(episodes[1], 0, first), part(episodes[1], first, len(episodes[1])), episodes[2]]
    for name in ("png", "h264", "av1", "back", "recordings", "jpeg"):
        expect(data / "expected" / name, episodes)
    expect(data / "expected/edited", cut)
    expect(data / "expected/merged", [*episodes, *cut])


def add_columns(source: LeRobotDataset, out: Path) -> list[Episode]:
    """Adds measured stamps and an intervention to the episodes, as recordings have them."""
    episodes = [
        _with_columns(source.episode(k), k, source.fps) for k in range(len(source.episodes))
    ]
    writer = DatasetWriter.create_or_resume(
        out,
        fps=source.fps,
        robot_type=source.robot_type,
        names=source.names,
        units=source.units,
        cameras=source.cameras,
        write_outcomes=True,
        optional=OptionalColumns(
            stamps=True, interventions=True, image_ages=tuple(source.cameras)
        ),
    )
    with closing(writer):
        for episode in episodes:
            writer.add_episode(episode)
    return episodes


def _with_columns(episode: Episode, k: int, fps: float) -> Episode:
    steps = np.arange(len(episode))
    jitter = np.random.default_rng(k).integers(-2_000_000, 2_000_000, len(episode))
    stamps = START_NS + k * 10**11 + np.round(steps * 1e9 / fps).astype(np.int64) + jitter
    return replace(
        episode,
        stamps_ns=stamps,
        ages_ms={camera: np.zeros(len(episode), np.float32) for camera in episode.images},
        intervention=(steps >= 20) & (steps < 50),
    )


def part(episode: Episode, first: int, end: int) -> Episode:
    """Frames first .. end - 1."""
    kept = slice(first, end)
    assert episode.stamps_ns is not None and episode.intervention is not None
    return replace(
        episode,
        proprio=episode.proprio[kept],
        actions=episode.actions[kept],
        images={camera: images[kept] for camera, images in episode.images.items()},
        stamps_ns=episode.stamps_ns[kept],
        intervention=episode.intervention[kept],
    )


def expect(folder: Path, episodes: Sequence[Episode]) -> None:
    """Writes the episodes as plain numpy arrays, readable without this package."""
    folder.mkdir(parents=True)
    for k, episode in enumerate(episodes):
        arrays: dict[str, Any] = {
            "actions": episode.actions,
            "states": episode.proprio,
            "stamps": episode.stamps_ns,
            "intervention": episode.intervention,
            "task": episode.task,
            "success": episode.success,
        }
        arrays |= {f"image_{camera}": images for camera, images in episode.images.items()}
        np.savez(folder / f"{k:03d}.npz", **arrays)


def _jpeg_robot(data: Path) -> Path:
    """Path of a YAML of the twin's robot with JPEG images from the wrist camera."""
    content = yaml.safe_load((config_dir() / "robots/vx300s.yaml").read_text())
    for camera in content["cameras"]:
        camera["transport"] = "jpeg" if camera["name"] == "wrist" else "raw"
    path = data / "jpeg.yaml"
    path.write_text(json.dumps(content))
    return path


def _nac(*words: object) -> None:
    arguments = [str(word) for word in words]
    if nac(arguments):
        raise SystemExit(f"interop: `nac {' '.join(arguments)}` failed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/interop")
    parser.add_argument("--python", default=sys.executable, help="for the stock libraries")
    parser.add_argument("--torch-index", default="", help="index with a smaller build of torch")
    return parser


if __name__ == "__main__":
    sys.exit(main())
