"""Looks for what is wrong in a dataset; a sound one has no findings."""

from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from nac_ros.data.datasets import AnyDataset, open_dataset
from nac_ros.data.episode import Episode
from nac_ros.data.feature_stats import Pool, odd_dimensions
from nac_ros.data.info import show
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


def check_path(
    path: Path,
    action_key: str | None = None,
    state_key: str | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Finding]:
    """All findings of `check`, and of a dataset that cannot be opened what is wrong with it.

    Raises DatasetError where there is nothing at the path.
    """
    if not path.exists():
        raise DatasetError(f"no dataset at {path}; name a folder or an HDF5 file")
    try:
        dataset = open_dataset(path, action_key, state_key)
    except DatasetError as error:
        return [Finding(None, str(error))]
    return check(dataset, report=report)


def check(
    dataset: AnyDataset,
    images: bool = True,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Finding]:
    """All findings; what is true of every episode is told once. report is called with (episodes
    checked, episodes)."""
    try:
        count, tasks = len(dataset.episodes), frozenset(dataset.tasks)
    except DatasetError as error:
        return [Finding(None, str(error))]
    findings = _check_folder(dataset) if isinstance(dataset, Dataset) else []
    extent, told = Extent(dataset), list[list[str]]()
    for index in range(count):
        told.append(_check_episode(dataset, index, images, tasks, extent))
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


def _check_folder(dataset: Dataset) -> list[Finding]:
    """What concerns a whole LeRobot folder: totals, videos, depth, frames of no episode."""
    count = len(dataset.episodes)
    lengths = [dataset.frames_on_disk(i) for i in range(count)]
    found = {"total_episodes": count, "total_frames": sum(lengths)}
    texts = [
        f"info.json says {key} {show(dataset.info.get(key))}, the episodes make {value}"
        for key, value in found.items()
        if dataset.info.get(key) != value
    ]
    texts += [
        f"none of the videos of camera '{camera}' is there; copy them, or take "
        f"'{dataset.picture_keys[camera]}' out of meta/info.json"
        for camera in dataset.cameras_without_videos
        if count
    ]
    texts += [
        f"'{dataset.picture_keys[camera]}' has images of other than 3 channels, such as depth; "
        "conversion to LeRobot keeps them as they are, no training reads them"
        for camera in dataset.depth_cameras
    ]
    return [Finding(None, text) for text in [*texts, *_check_files(dataset, lengths)]]


def _check_files(dataset: Dataset, lengths: Sequence[int]) -> list[str]:
    """Data files with more frames than their episodes have; others are told with an episode."""
    wanted = Counter[Path]()
    for index, length in enumerate(lengths):
        wanted[dataset.data_file(index)] += length
    texts = []
    for path, count in wanted.items():
        try:
            found = dataset.rows_in_file(path)
        except DatasetError:  # each of its episodes tells it
            continue
        if found > count:
            texts.append(f"{path} has {found} frames, its episodes make {count}")
    return texts


def _check_episode(
    dataset: AnyDataset, index: int, images: bool, tasks: Set[str], extent: Extent
) -> list[str]:
    try:
        episode = dataset.episode(index, images=False)
    except DatasetError as error:
        return [str(error)]
    if not len(episode):
        return ["it has no frame"]
    extent.add(episode)
    where = f" in {dataset.data_file(index)}" if isinstance(dataset, Dataset) else ""
    messages = _check_tasks(dataset, index, episode, tasks)
    for what, values in (("state", episode.proprio), ("action", episode.actions)):
        bad = np.flatnonzero(~np.isfinite(values).all(-1))
        if len(bad):
            messages.append(f"{what} is not finite at {len(bad)} frames, first at {bad[0]}{where}")
    messages += _check_rate(episode, dataset.fps)
    if isinstance(dataset, Dataset):
        messages += _check_timestamps(dataset, index)
    return messages + (_check_images(dataset, index, episode) if images else [])


def _check_tasks(dataset: AnyDataset, index: int, episode: Episode, known: Set[str]) -> list[str]:
    messages = [] if any(episode.tasks) else ["it has no task"]
    messages += [
        f"its task {show(task)} is not among those of the dataset"
        for task in episode.tasks
        if task not in known
    ]
    if len(episode.tasks) > 1 and episode.task_index is None:
        messages.append("it has several tasks, and nothing says which frame has which")
    if isinstance(dataset, Dataset):
        listed = dataset.listed_tasks(index)
        if set(listed) != set(episode.tasks):
            messages.append(
                f"meta/episodes lists the tasks {show(list(listed))}, its frames have "
                f"{show(list(episode.tasks))}"
            )
    return messages


def _check_timestamps(dataset: Dataset, index: int) -> list[str]:
    """Times off the grid of the rate, up to the precision of the float32 that they are kept in."""
    stamps = dataset.timestamps(index)
    error = np.abs(stamps - np.arange(len(stamps)) / dataset.fps)
    finite = np.minimum(np.where(np.isfinite(stamps), np.abs(stamps), 0), 1e9).astype(np.float32)
    allowed = np.maximum(TIMESTAMP_TOLERANCE_S, 2 * np.spacing(finite))
    late = ~(error <= allowed)  # NaN is late
    if not late.any():
        return []
    worst = int(np.flatnonzero(late)[0]) if np.isnan(error).any() else int(error.argmax())
    where = dataset.data_file(index)
    text = f"timestamp of frame {worst} is {stamps[worst]:.4f} s, {error[worst]:.4f} s off"
    return [f"{text} the rate of {dataset.fps:.10g} Hz, in {where}"]


def _check_rate(episode: Episode, fps: float) -> list[str]:
    """True stamps that do not run at the rate that is said, or not forward."""
    stamps = episode.stamps_ns
    if stamps is None or len(stamps) < 2 or not fps:
        return []
    steps = np.diff(stamps) / 1e9
    if steps.min() <= 0:
        return [f"its true stamps do not run forward at frame {int(steps.argmin()) + 1}"]
    rate = 1 / float(np.median(steps))
    if abs(rate - fps) > RATE_TOLERANCE * fps:
        return [f"its frames came at {rate:.1f} Hz, the dataset says {fps:.10g}"]
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
        except DatasetError as error:
            messages.append(str(error))
            continue
        if not frames.any():
            messages.append(f"all images of {camera} are black")
        elif stalled := _stall(frames, episode.proprio, dataset.fps):
            messages.append(f"{camera} shows the same image for {stalled}")
    return messages


def _stall(frames: np.ndarray, proprio: np.ndarray, fps: float) -> str:
    """The first long run of equal images during which the arm moved, in words; "" without."""
    if not fps or not proprio.shape[1] or not np.isfinite(proprio).all():
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
