"""Looks for what is wrong in a dataset; a sound one has no findings."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nac_ros.data import layout
from nac_ros.data.datasets import AnyDataset
from nac_ros.data.episode import Episode
from nac_ros.data.feature_stats import Pool, odd_dimensions
from nac_ros.data.lerobot import Dataset
from nac_ros.errors import DatasetError

TIMESTAMP_TOLERANCE_S = 1e-4  # lerobot's tolerance_s
RATE_TOLERANCE = 0.05  # share by which the true rate may differ from the one that is said
FROZEN_S, FROZEN_FRAMES = 0.5, 5  # the same image for longer, while the arm moves, is a stall
MOVED = 0.1  # share of a joint's range in the episode: more, and an arm moves
NOISE = 1e-3  # [rad or m] a joint with a smaller range in the episode rests


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; episode is None when it concerns the whole dataset."""

    episode: int | None
    message: str

    def __str__(self) -> str:
        where = "dataset" if self.episode is None else f"episode {self.episode}"
        return f"{where}: {self.message}"


class Extent:
    """The values of all episodes that could be read, for what only shows over all of them."""

    def __init__(self, dataset: AnyDataset):
        self._names = {"action": dataset.names, "state": dataset.state_names}
        self._pools = {what: Pool() for what, names in self._names.items() if names}

    def add(self, episode: Episode) -> None:
        """Takes in the episode's finite frames."""
        for what, values in (("action", episode.actions), ("state", episode.proprio)):
            finite = values[np.isfinite(values).all(-1)]
            if what in self._pools and len(finite):
                self._pools[what].add(finite)

    def odd(self) -> list[str]:
        """A sentence for each dimension of action or state that is constant, or nearly."""
        return [
            f"{what} {sentence}"
            for what, pool in self._pools.items()
            if pool.filled
            for sentence in odd_dimensions(pool.stats(), self._names[what])
        ]


def check(
    dataset: AnyDataset,
    images: bool = True,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Finding]:
    """All findings; what is true of every episode is told once. report is called with (episodes
    checked, episodes)."""
    try:
        count = len(dataset.episodes)
    except DatasetError as error:
        return [Finding(None, str(error))]
    findings = _check_totals(dataset) if isinstance(dataset, Dataset) else []
    extent, told = Extent(dataset), list[list[str]]()
    for index in range(count):
        told.append(_check_episode(dataset, index, images, extent))
        report(index + 1, count)
    often = Counter(message for messages in told for message in messages)
    every = [message for message, times in often.items() if times == count > 1]
    findings += [Finding(None, f"in every episode, {message}") for message in every]
    findings += [Finding(None, sentence) for sentence in extent.odd()]
    return findings + [
        Finding(index, message)
        for index, messages in enumerate(told)
        for message in messages
        if message not in every
    ]


def odd(dataset: AnyDataset) -> list[str]:
    """A sentence for each dimension of action or state that is constant, or nearly."""
    extent = Extent(dataset)
    for index in range(len(dataset.episodes)):
        extent.add(dataset.episode(index, images=False))
    return extent.odd()


def _check_totals(dataset: Dataset) -> list[Finding]:
    info = layout.read_info(dataset.root)
    frames = sum(dataset.frames_on_disk(i) for i in range(len(dataset.episodes)))
    found = {"total_episodes": len(dataset.episodes), "total_frames": frames}
    return [
        Finding(None, f"info.json says {key} {info.get(key)}, the episodes make {value}")
        for key, value in found.items()
        if info.get(key) != value
    ]


def _check_episode(dataset: AnyDataset, index: int, images: bool, extent: Extent) -> list[str]:
    try:
        episode = dataset.episode(index, images=False)
    except (DatasetError, OSError) as error:
        return [str(error)]
    extent.add(episode)
    messages = [] if episode.task else ["it has no task"]
    if episode.task not in dataset.tasks:
        messages.append(f"its task '{episode.task}' is not among those of the dataset")
    for what, values in (("state", episode.proprio), ("action", episode.actions)):
        bad = np.flatnonzero(~np.isfinite(values).all(-1))
        if len(bad):
            messages.append(f"{what} is not finite at {len(bad)} frames, first at {bad[0]}")
    messages += _check_rate(episode, dataset.fps)
    if isinstance(dataset, Dataset):
        messages += _check_timestamps(dataset, index)
    return messages + (_check_images(dataset, index, episode) if images else [])


def _check_timestamps(dataset: Dataset, index: int) -> list[str]:
    stamps = dataset.timestamps(index)
    error = np.abs(stamps - np.arange(len(stamps)) / dataset.fps)
    if error.max() <= TIMESTAMP_TOLERANCE_S:
        return []
    worst = int(error.argmax())
    return [f"timestamp of frame {worst} is {stamps[worst]:.4f} s, {error[worst]:.4f} s off"]


def _check_rate(episode: Episode, fps: int) -> list[str]:
    """True stamps that do not run at the rate that is said, or not forward."""
    stamps = episode.stamps_ns
    if stamps is None or len(stamps) < 2 or not fps:
        return []
    steps = np.diff(stamps) / 1e9
    if steps.min() <= 0:
        return [f"its true stamps do not run forward at frame {int(steps.argmin()) + 1}"]
    rate = 1 / float(np.median(steps))
    if abs(rate - fps) > RATE_TOLERANCE * fps:
        return [f"its frames came at {rate:.1f} Hz, the dataset says {fps}"]
    return []


def _check_images(dataset: AnyDataset, index: int, episode: Episode) -> list[str]:
    messages, whole = list[str](), None
    for camera in dataset.cameras:
        try:
            if isinstance(dataset, Dataset):
                frames = dataset.images(index, camera)
            else:
                whole = whole or dataset.episode(index)
                frames = whole.images[camera]
        except (DatasetError, OSError) as error:
            messages.append(str(error))
            continue
        if not frames.any():
            messages.append(f"all images of {camera} are black")
        elif stalled := _stall(frames, episode.proprio, dataset.fps):
            messages.append(f"{camera} shows the same image for {stalled}")
    return messages


def _stall(frames: np.ndarray, proprio: np.ndarray, fps: int) -> str:
    """The first long run of equal images during which the arm moved, in words; "" without."""
    if not fps or not proprio.shape[1]:
        return ""
    n = min(len(frames), len(proprio))
    changed = np.array([not np.array_equal(frames[k], frames[k + 1]) for k in range(n - 1)], bool)
    starts = np.concatenate([[0], np.flatnonzero(changed) + 1, [n]])
    span = np.ptp(proprio, axis=0)
    for first, end in pairwise(starts):
        moved = np.ptp(proprio[first:end], axis=0) > MOVED * span
        if end - first >= max(FROZEN_FRAMES, FROZEN_S * fps) and (moved & (span > NOISE)).any():
            return f"{(end - first) / fps:.1f} s from frame {first} on, while the arm moves"
    return ""
