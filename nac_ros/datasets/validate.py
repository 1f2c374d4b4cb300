"""Checks a dataset for damage and implausible values; a sound dataset has no findings.

mcap/validate.py checks recordings.
"""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.episode import Episode, Progress
from nac_ros.datasets.factory import AnyDataset, open_dataset
from nac_ros.datasets.lerobot.info import show
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.datasets.lerobot.statistics import FeatureStatistics, degenerate_dimensions

TIMESTAMP_TOLERANCE_S = 1e-4  # lerobot's tolerance_s
RATE_TOLERANCE = 0.05  # relative, between the stated rate and that of the true stamps
FROZEN_S, FROZEN_FRAMES = 0.5, 5  # shortest run of equal images that counts as frozen
MOVED = 0.1  # share of a joint's range in the episode beyond which the arm moved
NOISE = 1e-3  # [rad or m] a joint with a smaller range in the episode is at rest


@dataclass(frozen=True)
class DatasetFinding:
    """One problem; episode is None if it concerns the whole dataset."""

    episode: int | None
    message: str

    def __str__(self) -> str:
        where = "dataset" if self.episode is None else f"episode {self.episode}"
        return f"{where}: {self.message}"


class ValueRange:
    """Statistics over the values of all readable episodes."""

    def __init__(self, dataset: AnyDataset):
        self._names = {"action": dataset.names, "state": dataset.state_names}
        self._statistics = {
            key: FeatureStatistics() for key, names in self._names.items() if names
        }

    def add(self, episode: Episode) -> None:
        """Adds the episode's finite frames."""
        for key, values in (("action", episode.actions), ("state", episode.proprio)):
            finite = values[np.isfinite(values).all(-1)]
            if key in self._statistics and len(finite):
                self._statistics[key].add(finite)

    def degenerate(self) -> list[str]:
        """A sentence for each dimension of action or state that is constant, or nearly so."""
        return [
            f"{key} {sentence}"
            for key, statistics in self._statistics.items()
            if statistics.filled
            for sentence in degenerate_dimensions(statistics.stats(), self._names[key])
        ]


def no_progress(done: int, total: int) -> None:
    """Reports nothing."""


def check_path(
    path: Path,
    action_key: str | None = None,
    state_key: str | None = None,
    progress: Progress = no_progress,
) -> list[DatasetFinding]:
    """The findings of `check`; a dataset that cannot be opened is a finding too.

    Raises DatasetError if the path does not exist.
    """
    if not path.exists():
        raise DatasetError(f"no dataset at {path}; name a folder or an HDF5 file")
    try:
        dataset = open_dataset(path, action_key, state_key)
    except DatasetError as error:
        return [DatasetFinding(None, str(error))]
    return check(dataset, progress=progress)


def check(
    dataset: AnyDataset, images: bool = True, progress: Progress = no_progress
) -> list[DatasetFinding]:
    """All findings; one that concerns every episode is reported once."""
    try:
        count, tasks = len(dataset.episodes), frozenset(dataset.tasks)
    except DatasetError as error:
        return [DatasetFinding(None, str(error))]
    findings = _check_folder(dataset) if isinstance(dataset, LeRobotDataset) else []
    values, messages = ValueRange(dataset), list[list[str]]()
    for index in range(count):
        messages.append(_check_episode(dataset, index, images, tasks, values))
        progress(index + 1, count)
    occurrences = Counter(message for of_episode in messages for message in of_episode)
    common = [message for message, times in occurrences.items() if times == count > 1]
    findings += [DatasetFinding(None, f"in every episode, {message}") for message in common]
    findings += [DatasetFinding(None, sentence) for sentence in values.degenerate()]
    return findings + [
        DatasetFinding(index, message)
        for index, of_episode in enumerate(messages)
        for message in of_episode
        if message not in common
    ]


def degenerate_columns(dataset: AnyDataset) -> list[str]:
    """A sentence for each dimension of action or state that is constant, or nearly so."""
    values = ValueRange(dataset)
    for index in range(len(dataset.episodes)):
        values.add(dataset.episode(index, images=False))
    return values.degenerate()


def _check_folder(dataset: LeRobotDataset) -> list[DatasetFinding]:
    """Findings of a whole LeRobot folder: totals, videos, depth, frames without an episode."""
    count = len(dataset.episodes)
    lengths = [dataset.location(i).length for i in range(count)]
    totals = {"total_episodes": count, "total_frames": sum(lengths)}
    texts = [
        f"info.json says {key} {show(dataset.info.get(key))}, the episodes make {value}"
        for key, value in totals.items()
        if dataset.info.get(key) != value
    ]
    texts += [
        f"all videos of camera '{camera}' are missing; copy them, or take "
        f"'{dataset.image_keys[camera]}' out of meta/info.json"
        for camera in dataset.cameras_without_videos
        if count
    ]
    texts += [
        f"'{dataset.image_keys[camera]}' has images of other than 3 channels, such as depth; "
        "conversion to LeRobot keeps them as they are, training ignores them"
        for camera in dataset.depth_cameras
    ]
    return [DatasetFinding(None, text) for text in [*texts, *_check_files(dataset, lengths)]]


def _check_files(dataset: LeRobotDataset, lengths: Sequence[int]) -> list[str]:
    """Data files with more frames than their episodes; too few are a finding of the episode."""
    wanted = Counter[Path]()
    for index, length in enumerate(lengths):
        wanted[dataset.location(index).data_file] += length
    texts = []
    for path, count in wanted.items():
        try:
            found = dataset.rows_in_file(path)
        except DatasetError:  # a finding of each of its episodes
            continue
        if found > count:
            texts.append(f"{path} has {found} frames, its episodes make {count}")
    return texts


def _check_episode(
    dataset: AnyDataset, index: int, images: bool, tasks: Set[str], values: ValueRange
) -> list[str]:
    try:
        episode = dataset.episode(index, images=False)
    except DatasetError as error:
        return [str(error)]
    if not len(episode):
        return ["it has no frame"]
    values.add(episode)
    where = (
        f" in {dataset.location(index).data_file}" if isinstance(dataset, LeRobotDataset) else ""
    )
    messages = _check_tasks(dataset, index, episode, tasks)
    for key, rows in (("state", episode.proprio), ("action", episode.actions)):
        bad = np.flatnonzero(~np.isfinite(rows).all(-1))
        if len(bad):
            messages.append(f"{key} is not finite at {len(bad)} frames, first at {bad[0]}{where}")
    messages += _check_rate(episode, dataset.fps)
    if isinstance(dataset, LeRobotDataset):
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
        messages.append("it has several tasks, but not which frame has which")
    if isinstance(dataset, LeRobotDataset):
        listed = dataset.location(index).tasks
        if set(listed) != set(episode.tasks):
            messages.append(
                f"meta/episodes lists the tasks {show(list(listed))}, its frames have "
                f"{show(list(episode.tasks))}"
            )
    return messages


def _check_timestamps(dataset: LeRobotDataset, index: int) -> list[str]:
    """Timestamps that differ from frame / fps by more than the rounding of stored float32."""
    stamps = dataset.timestamps(index)
    error = np.abs(stamps - np.arange(len(stamps)) / dataset.fps)
    finite = np.minimum(np.where(np.isfinite(stamps), np.abs(stamps), 0), 1e9).astype(np.float32)
    allowed = np.maximum(TIMESTAMP_TOLERANCE_S, 2 * np.spacing(finite))
    wrong = ~(error <= allowed)  # also NaN
    if not wrong.any():
        return []
    worst = int(np.flatnonzero(wrong)[0]) if np.isnan(error).any() else int(error.argmax())
    where, rate = dataset.location(index).data_file, f"the rate of {dataset.fps:.10g} Hz"
    text = f"timestamp of frame {worst} is {stamps[worst]:.4f} s, {error[worst]:.4f} s off {rate}"
    return [f"{text}, in {where}"]


def _check_rate(episode: Episode, fps: float) -> list[str]:
    """True stamps that do not increase, or have another rate than the dataset."""
    stamps = episode.stamps_ns
    if stamps is None or len(stamps) < 2 or not fps:
        return []
    steps = np.diff(stamps) / 1e9
    if steps.min() <= 0:
        return [f"its true stamps do not increase at frame {int(steps.argmin()) + 1}"]
    rate = 1 / float(np.median(steps))
    if abs(rate - fps) > RATE_TOLERANCE * fps:
        return [f"its frames were recorded at {rate:.1f} Hz, the dataset says {fps:.10g}"]
    return []


def _check_images(dataset: AnyDataset, index: int, episode: Episode) -> list[str]:
    messages, whole = list[str](), None
    for camera in dataset.cameras:
        try:
            if isinstance(dataset, LeRobotDataset):
                frames = dataset.images(index, camera)
            else:
                whole = whole or dataset.episode(index)
                frames = whole.images[camera]
        except DatasetError as error:
            messages.append(str(error))
            continue
        if not frames.any():
            messages.append(f"all images of {camera} are black")
        elif frozen := _find_frozen(frames, episode.proprio, dataset.fps):
            messages.append(f"{camera} shows the same image for {frozen}")
    return messages


def _find_frozen(frames: np.ndarray, proprio: np.ndarray, fps: float) -> str:
    """Duration and start of the first long run of equal images during which the arm moved, ""
    if there is none; frames `[T, H, W, 3]`, proprio `[T, S]`."""
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
