"""Interventions: segments in which an operator took over from a policy, to train on them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.episode import Episode, EpisodeInfo, EpisodeReader
from nac_ros.datasets.episode_split import split_episodes
from nac_ros.datasets.factory import AnyDataset
from nac_ros.datasets.frames import Frames

TrainOn = Literal["all", "interventions"]  # which frames a training uses


class InterventionSegment(NamedTuple):
    """Frames `first` to before `end` of an episode, all driven by the operator."""

    episode: int
    first: int
    end: int


class FrameSplit(NamedTuple):
    """Frames, int64 each; those of test episodes are in neither."""

    train: np.ndarray
    validation: np.ndarray


class Interventions(EpisodeReader):
    """A dataset whose episodes are another dataset's interventions of at least `min_frames`.

    They end when the policy resumes. The arm is not at rest there, so the last action must not be
    repeated, as it may be at the end of an episode.
    """

    def __init__(self, dataset: AnyDataset, min_frames: int = 1):
        self._dataset, self._min_frames = dataset, min_frames
        self.root, self.fps, self.robot_type = dataset.root, dataset.fps, dataset.robot_type
        self.names, self.state_names = dataset.names, dataset.state_names
        self.units, self.cameras = dataset.units, dataset.cameras
        self.environment_names = dataset.environment_names

    @cached_property
    def segments(self) -> list[InterventionSegment]:
        """In order; reads every episode once."""
        return [
            InterventionSegment(index, first, end)
            for index in range(len(self._dataset.episodes))
            for first, end in find_runs(self._dataset.episode(index, images=False).intervention)
            if end - first >= self._min_frames
        ]

    @property
    def episodes(self) -> Sequence[EpisodeInfo]:
        infos = self._dataset.episodes
        return [
            EpisodeInfo(s.end - s.first, infos[s.episode].tasks, infos[s.episode].source)
            for s in self.segments
        ]

    def episode(self, index: int, images: bool = True) -> Episode:
        self._info(index)
        number, first, end = self.segments[index]
        frames = self._dataset.episode(number, images).slice_frames(first, end)
        return replace(frames, intervention=np.ones(end - first, bool))


def interventions_only(datasets: Sequence[AnyDataset], horizon: int) -> list[Interventions]:
    """The interventions of each dataset that have room for a chunk of `horizon` steps; raises
    DatasetError for fewer than two in all, since one is for validation."""
    views = [Interventions(dataset, horizon) for dataset in datasets]
    _check_count(sum(len(view.segments) for view in views), horizon)
    return views


def split_frames(frames: Frames, train_on: TrainOn, horizon: int) -> FrameSplit:
    """Frames to train on and for validation, of episodes or of interventions.

    Raises DatasetError if one side would be empty.
    """
    if train_on == "interventions":
        return _split_interventions(frames, horizon)
    validation, test = frames.validation[frames.episode], frames.test[frames.episode]
    train = ~validation & ~test
    if not train.any() or not validation.any():
        raise DatasetError(
            "training needs at least 2 episodes with frames, one of which is for validation"
        )
    return FrameSplit(np.flatnonzero(train), np.flatnonzero(validation))


def sampling_weights(frames: Frames, rows: np.ndarray, weight: float) -> np.ndarray:
    """Float64 `[R]`: how often each frame is sampled, `weight` for interventions, 1 for others."""
    values = np.where(frames.intervention[rows], weight, 1.0)
    return values / values[0] if (values == values[0]).all() else values


def _split_interventions(frames: Frames, horizon: int) -> FrameSplit:
    """Frames whose chunk of `horizon` steps the operator drove completely; at the end of an
    episode the arm rests, so there the chunk may end after the intervention."""
    usable = []
    for start in np.unique(frames.start).tolist():
        episode_end = frames.end[start]
        for first, end in find_runs(frames.intervention[start:episode_end]):
            ends_episode = start + end == episode_end
            last = end if ends_episode else end - horizon + 1
            if last > first:
                usable.append(np.arange(start + first, start + last))
    _check_count(len(usable), horizon)
    (split,) = split_episodes([len(usable)])
    sides = (split.train, split.validation)
    return FrameSplit(*(np.concatenate([usable[i] for i in side]) for side in sides))


def find_runs(marks: np.ndarray | None) -> list[tuple[int, int]]:
    """Bool `[T]` -> (first, end) of each run of True; [] for None."""
    if marks is None:
        return []
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]


def _check_count(count: int, horizon: int) -> None:
    if count < 2:
        raise DatasetError(
            f"the data has {count} interventions of at least {horizon} steps, wanted 2, one of "
            "which is for validation; record more of them, or take a shorter --horizon"
        )
