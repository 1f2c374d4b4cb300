"""Chunks for codecs: every window of H consecutive actions inside an episode."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from nac_ros.data.datasets import AnyDataset
from nac_ros.errors import DatasetError

HELD_OUT_EVERY = 5  # the benchmark split: episodes with index % 5 == 4 are held out


class Windows(NamedTuple):
    """actions: float32 `[N, H, D]`; references: float32 `[N, D]`, the joint state at each
    window's first frame, or None where the dataset has no state of the action's dimensions."""

    actions: np.ndarray
    references: np.ndarray | None


class EpisodeSplit(NamedTuple):
    """Episode indices, int64 each."""

    train: np.ndarray
    held_out: np.ndarray


def benchmark_split(n_episodes: int) -> EpisodeSplit:
    """Every fifth episode is held out, so that all published tables use the same ones."""
    index = np.arange(n_episodes)
    held_out = index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return EpisodeSplit(index[~held_out], index[held_out])


def splits(counts: Sequence[int]) -> list[EpisodeSplit]:
    """The split of each of several datasets, given how many episodes they have.

    Those of fewer than five are counted through as one; if that is still fewer, its last episode
    is held out. Raises DatasetError when one single episode is all there is.
    """
    small = [k for k, n in enumerate(counts) if n < HELD_OUT_EVERY]
    pooled = benchmark_split(sum(counts[k] for k in small))
    if len(small) == len(counts) and not len(pooled.held_out):
        if len(pooled.train) < 2:
            raise DatasetError(
                f"{len(pooled.train)} episode in all: at least 2 are needed, one is held out"
            )
        pooled = EpisodeSplit(pooled.train[:-1], pooled.train[-1:])
    made, first = [benchmark_split(n) for n in counts], 0
    for k in small:
        inside = [side[(side >= first) & (side < first + counts[k])] - first for side in pooled]
        made[k], first = EpisodeSplit(*inside), first + counts[k]
    return made


def action_windows(
    dataset: AnyDataset, episodes: Iterable[int], horizon: int, pad_end: bool = False
) -> Windows:
    """All windows of the episodes, stride 1, none across episodes.

    pad_end: one window per frame; past the episode's end the last set-point is repeated, for
    there the arm rests. Otherwise an episode shorter than the horizon gives none.
    """
    pieces = [_of_episode(dataset, int(i), horizon, pad_end) for i in episodes]
    if not sum(len(piece.actions) for piece in pieces):
        raise DatasetError(
            f"{dataset.root}: no window of {horizon} steps fits into the {len(pieces)} chosen "
            "episodes; take a shorter horizon or more episodes"
        )
    return concatenate(pieces)


def concatenate(pieces: Sequence[Windows]) -> Windows:
    """Windows of several datasets as one; raises DatasetError when their D differ."""
    dims = sorted({piece.actions.shape[-1] for piece in pieces})
    if len(dims) > 1:
        raise DatasetError(f"datasets with actions of {dims} dimensions cannot be joined")
    references = [p.references for p in pieces if p.references is not None]
    joined = np.concatenate(references) if len(references) == len(pieces) else None
    return Windows(np.concatenate([piece.actions for piece in pieces]), joined)


def _of_episode(dataset: AnyDataset, index: int, horizon: int, pad_end: bool) -> Windows:
    episode = dataset.episode(index, images=False)
    actions = episode.actions
    if pad_end and len(actions):
        actions = np.concatenate([actions, np.repeat(actions[-1:], horizon - 1, axis=0)])
    n = max(0, len(actions) - horizon + 1)
    # [T, D] -> [N, H, D]
    windows = actions[np.arange(n)[:, None] + np.arange(horizon)]
    same = len(dataset.state_names) == len(dataset.names)
    return Windows(windows, episode.proprio[:n] if same else None)
