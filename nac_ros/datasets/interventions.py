"""Where a hand took over from a policy: each such stretch as an episode of its own."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.action_chunks import EpisodeSplit, splits
from nac_ros.datasets.episode import Episode, EpisodeInfo
from nac_ros.datasets.factory import AnyDataset
from nac_ros.datasets.frames import Frames

Only = Literal["everything", "interventions"]  # what a training learns from


class InterventionSegment(NamedTuple):
    """Frames `first` to before `end` of an episode, all of them by hand."""

    episode: int
    first: int
    end: int


class Interventions:
    """A dataset whose episodes are another one's interventions of at least `shortest` frames.

    They end where the hand let go, so unlike an episode's their end is no rest: nothing may be
    repeated there.
    """

    def __init__(self, dataset: AnyDataset, shortest: int = 1):
        self._dataset, self._shortest = dataset, shortest
        self.root, self.fps, self.robot_type = dataset.root, dataset.fps, dataset.robot_type
        self.names, self.state_names, self.units = (
            dataset.names, dataset.state_names, dataset.units,
        )  # fmt: skip
        self.cameras = dataset.cameras

    @cached_property
    def stretches(self) -> list[InterventionSegment]:
        """In order; reads every episode once."""
        found = []
        for index in range(len(self._dataset.episodes)):
            marks = self._dataset.episode(index, images=False).intervention
            runs = [] if marks is None else runs_of(marks)
            found += [InterventionSegment(index, a, b) for a, b in runs if b - a >= self._shortest]
        return found

    @property
    def tasks(self) -> list[str]:
        """Task texts in the order in which they come first."""
        return list(dict.fromkeys(task for info in self.episodes for task in info.tasks))

    @property
    def episodes(self) -> Sequence[EpisodeInfo]:
        """Frames and task of each."""
        infos = self._dataset.episodes
        return [
            EpisodeInfo(s.end - s.first, infos[s.episode].tasks, infos[s.episode].source)
            for s in self.stretches
        ]

    def episode(self, index: int, images: bool = True) -> Episode:
        """Intervention `index`."""
        if not 0 <= index < len(self.stretches):
            count = len(self.stretches)
            raise DatasetError(f"{self.root} has no intervention {index}; it has {count}, from 0")
        stretch = self.stretches[index]
        whole = self._dataset.episode(stretch.episode, images)
        piece = whole.piece(stretch.first, stretch.end)
        return replace(piece, intervention=np.ones(stretch.end - stretch.first, bool))


def interventions_only(datasets: Sequence[AnyDataset], horizon: int) -> list[Interventions]:
    """The interventions of each dataset that hold a chunk of `horizon` steps; raises DatasetError
    where there are fewer than two in all, for one is held out."""
    views = [Interventions(dataset, horizon) for dataset in datasets]
    _check_count(sum(len(view.stretches) for view in views), horizon)
    return views


def split_rows(frames: Frames, only: Only, horizon: int) -> EpisodeSplit:
    """Frames to train on and held-out ones, int64 each, of episodes or of interventions.

    Of an intervention those from which a chunk of `horizon` steps is the hand's to its end, or to
    the episode's, where the arm rests. Raises DatasetError where one side would be empty.
    """
    if only == "interventions":
        return _rows_alone(frames, horizon)
    held_out = frames.held_out[frames.episode]
    if held_out.all() or not held_out.any():
        raise DatasetError(
            "training needs at least 2 episodes with frames, one of which is held out"
        )
    return EpisodeSplit(np.flatnonzero(~held_out), np.flatnonzero(held_out))


def sampling_weights(frames: Frames, rows: np.ndarray, weight: float) -> np.ndarray:
    """Float64 `[R]`: how often each of the frames is drawn, 1 but for interventions."""
    values = np.where(frames.intervention[rows], weight, 1.0)
    return values / values[0] if (values == values[0]).all() else values


def _rows_alone(frames: Frames, horizon: int) -> EpisodeSplit:
    usable = []
    for first, end in _runs_within(frames):
        last = end if end == frames.end[first] else end - horizon + 1
        if last > first:
            usable.append(np.arange(first, last))
    _check_count(len(usable), horizon)
    (split,) = splits([len(usable)])
    train, held_out = (np.concatenate([usable[i] for i in side]) for side in split)
    return EpisodeSplit(train, held_out)


def runs_of(marks: np.ndarray) -> list[tuple[int, int]]:
    """Bool `[T]` -> (first, end) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]


def _runs_within(frames: Frames) -> list[tuple[int, int]]:
    """Runs of marked frames, none across two episodes."""
    starts = np.unique(frames.start)
    return [
        (start + first, start + end)
        for start in starts.tolist()
        for first, end in runs_of(frames.intervention[start : frames.end[start]])
    ]


def _check_count(count: int, horizon: int) -> None:
    if count < 2:
        raise DatasetError(
            f"{count} interventions of at least {horizon} steps are marked in the data, and 2 are "
            "needed, one of which is held out; record more of them, or take a shorter --horizon"
        )
