"""Looks for what is wrong in a dataset; a sound one has no findings."""

from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from nac_ros.core.errors import DatasetError, NacError
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.factory import AnyDataset, open_dataset
from nac_ros.datasets.lerobot.info import show
from nac_ros.datasets.lerobot.reader import Dataset
from nac_ros.datasets.lerobot.statistics import FeatureStatistics, degenerate_dimensions
from nac_ros.datasets.mcap import reader, resampler
from nac_ros.datasets.mcap.dataset import JUDGED, MIN_FRAMES, episode_folders, spec_of
from nac_ros.datasets.mcap.reader import ReadReport
from nac_ros.datasets.mcap.resampler import ResampledRecording

TIMESTAMP_TOLERANCE_S = 1e-4  # lerobot's tolerance_s
RATE_TOLERANCE = 0.05  # share by which the true rate may differ from the one that is said
FROZEN_S, FROZEN_FRAMES = 0.5, 5  # the same image for longer, while the arm moves, is a stall
MOVED = 0.1  # share of a joint's range in the episode: more, and an arm moves
NOISE = 1e-3  # [rad or m] a joint with a smaller range in the episode rests


@dataclass(frozen=True)
class DatasetFinding:
    """One thing that is wrong; episode is None when it concerns the whole dataset."""

    episode: int | None
    message: str

    def __str__(self) -> str:
        where = "dataset" if self.episode is None else f"episode {self.episode}"
        return f"{where}: {self.message}"


class ValueRange:
    """The values of all episodes that could be read, for what only shows over all of them."""

    def __init__(self, dataset: AnyDataset):
        self._names = {"action": dataset.names, "state": dataset.state_names}
        self._pools = {what: FeatureStatistics() for what, names in self._names.items() if names}

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
            for sentence in degenerate_dimensions(pool.stats(), self._names[what])
        ]


def check_path(
    path: Path,
    action_key: str | None = None,
    state_key: str | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[DatasetFinding]:
    """All findings of `check`, and of a dataset that cannot be opened what is wrong with it.

    Raises DatasetError where there is nothing at the path.
    """
    if not path.exists():
        raise DatasetError(f"no dataset at {path}; name a folder or an HDF5 file")
    try:
        dataset = open_dataset(path, action_key, state_key)
    except DatasetError as error:
        return [DatasetFinding(None, str(error))]
    return check(dataset, report=report)


def check(
    dataset: AnyDataset,
    images: bool = True,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[DatasetFinding]:
    """All findings; what is true of every episode is told once. report is called with (episodes
    checked, episodes)."""
    try:
        count, tasks = len(dataset.episodes), frozenset(dataset.tasks)
    except DatasetError as error:
        return [DatasetFinding(None, str(error))]
    findings = _check_folder(dataset) if isinstance(dataset, Dataset) else []
    extent, told = ValueRange(dataset), list[list[str]]()
    for index in range(count):
        told.append(_check_episode(dataset, index, images, tasks, extent))
        report(index + 1, count)
    often = Counter(message for messages in told for message in messages)
    every = [message for message, times in often.items() if times == count > 1]
    findings += [DatasetFinding(None, f"in every episode, {message}") for message in every]
    findings += [DatasetFinding(None, sentence) for sentence in extent.odd()]
    return findings + [
        DatasetFinding(index, message)
        for index, messages in enumerate(told)
        for message in messages
        if message not in every
    ]


def degenerate_columns(dataset: AnyDataset) -> list[str]:
    """A sentence for each dimension of action or state that is constant, or nearly."""
    extent = ValueRange(dataset)
    for index in range(len(dataset.episodes)):
        extent.add(dataset.episode(index, images=False))
    return extent.odd()


def _check_folder(dataset: Dataset) -> list[DatasetFinding]:
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
    return [DatasetFinding(None, text) for text in [*texts, *_check_files(dataset, lengths)]]


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
    dataset: AnyDataset, index: int, images: bool, tasks: Set[str], extent: ValueRange
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


MANY_HELD = 0.1  # share of the frames
STILL = 1e-3  # [rad or m] an arm that moves less in a whole episode did nothing


def check_recordings(
    path: Path, report: Callable[[int, int], None] = lambda done, total: None
) -> list[DatasetFinding]:
    """All findings, episodes counted in the order of their names; report is called with (episodes
    checked, episodes)."""
    folders = episode_folders(path)
    findings = [
        DatasetFinding(None, f"{partial.name} was never finished; run `nac data repair {partial}`")
        for partial in reader.unfinished(path)
    ]
    for index, folder in enumerate(folders):
        try:
            texts = _check(folder)
        except NacError as error:
            texts = [str(error)]
        findings += [DatasetFinding(index, f"{folder.name}: {text}") for text in texts]
        report(index + 1, len(folders))
    return findings


def _check(folder: Path) -> list[str]:
    facts, reading = reader.facts_of(folder), ReadReport()
    spec, task = spec_of(facts), facts.get("task", "")
    found = [f"while it was recorded: {t}" for t in facts.get("findings", "").split("; ") if t]
    cameras = [camera.name for camera in spec.cameras]
    cut = resampler.cut(reader.messages(folder, None, reading), spec, cameras, task, images=False)
    if not reading.sound:
        found.append(f"damaged or cut off; run `nac data repair {folder}`")
    if not task:
        found.append("it has no task; publish one on `task`, or `nac data edit relabel`")
    if facts.get("outcome") not in JUDGED:
        found.append(f"nobody judged it, its outcome is '{facts.get('outcome', '')}'")
    return found + _check_frames(cut)


def _check_frames(cut: ResampledRecording) -> list[str]:
    found = [f"{n} messages do not fit: {reason}" for reason, n in cut.refused.items()]
    parts = [part for part in cut.slices if len(part) >= MIN_FRAMES]
    if not parts:
        return [*found, "it gives no frame; were joint states and all cameras recorded?"]
    if len(parts) > 1:
        ends = [f"{part.stamps[-1] - cut.slices[0].stamps[0]:.1f}" for part in parts[:-1]]
        found.append(f"holes after {', '.join(ends)} s make {len(parts)} episodes of it")
    frames = sum(map(len, parts))
    if cut.held > MANY_HELD * frames:
        found.append(
            f"{cut.held} of {frames} frames hold the picture before: cameras left some out"
        )
    moved = np.concatenate([[o.proprio[-1] for o in part.observations] for part in parts])
    if float(np.ptp(moved, axis=0).max()) < STILL:
        found.append("the arm never moves")
    if not cut.commands.times:
        found.append("no guard/command in it; train with --action-key joint_states")
    return found
