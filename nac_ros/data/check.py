"""Looks for what is wrong in a LeRobot v3 folder; a sound one has no findings."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nac_ros.data import layout
from nac_ros.data.lerobot import Dataset
from nac_ros.errors import DatasetError

TIMESTAMP_TOLERANCE_S = 1e-4  # lerobot's tolerance_s


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; episode is None when it concerns the whole dataset."""

    episode: int | None
    message: str

    def __str__(self) -> str:
        where = "dataset" if self.episode is None else f"episode {self.episode}"
        return f"{where}: {self.message}"


def check(
    dataset: Dataset,
    images: bool = True,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Finding]:
    """All findings; report is called with (episodes checked, episodes)."""
    try:
        count = len(dataset.episodes)
    except DatasetError as error:
        return [Finding(None, str(error))]
    findings = _check_totals(dataset)
    for index in range(count):
        findings += [Finding(index, message) for message in _check_episode(dataset, index, images)]
        report(index + 1, count)
    return findings


def _check_totals(dataset: Dataset) -> list[Finding]:
    info = layout.read_info(dataset.root)
    frames = sum(dataset.frames_on_disk(i) for i in range(len(dataset.episodes)))
    found = {"total_episodes": len(dataset.episodes), "total_frames": frames}
    return [
        Finding(None, f"info.json says {key} {info.get(key)}, the episodes make {value}")
        for key, value in found.items()
        if info.get(key) != value
    ]


def _check_episode(dataset: Dataset, index: int, images: bool) -> list[str]:
    try:
        episode = dataset.episode(index, images=False)
    except (DatasetError, OSError) as error:
        return [str(error)]
    messages = []
    if episode.task not in dataset.tasks:
        messages.append(f"its task '{episode.task}' is not in meta/tasks.parquet")
    for what, values in (("state", episode.proprio), ("action", episode.actions)):
        bad = np.flatnonzero(~np.isfinite(values).all(-1))
        if len(bad):
            messages.append(f"{what} is not finite at {len(bad)} frames, first at {bad[0]}")
    messages += _check_timestamps(dataset, index)
    return messages + (_check_images(dataset, index) if images else [])


def _check_timestamps(dataset: Dataset, index: int) -> list[str]:
    stamps = dataset.timestamps(index)
    error = np.abs(stamps - np.arange(len(stamps)) / dataset.fps)
    if error.max() <= TIMESTAMP_TOLERANCE_S:
        return []
    worst = int(error.argmax())
    return [f"timestamp of frame {worst} is {stamps[worst]:.4f} s, {error[worst]:.4f} s off"]


def _check_images(dataset: Dataset, index: int) -> list[str]:
    messages = []
    for camera in dataset.cameras:
        try:
            frames = dataset.images(index, camera)
        except (DatasetError, OSError) as error:
            messages.append(str(error))
            continue
        if not frames.any():
            messages.append(f"all images of {camera} are black")
    return messages
