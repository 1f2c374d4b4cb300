"""Chunks for codecs: every window of H consecutive actions inside an episode."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from nac_ros.core.errors import DatasetError
from nac_ros.core.normalize import FLAT_RANGE
from nac_ros.datasets.factory import AnyDataset

HELD_OUT_EVERY = 5  # the benchmark split: episodes with index % 5 == 4 are held out
NAMED = 10  # episodes that a notice lists; the rest are counted
Notice = Callable[[str], None]


class Windows(NamedTuple):
    """actions: float32 `[N, H, D]`; references: float32 `[N, D]`, the joint state at each
    window's first frame, or None where the dataset has no state of the action's dimensions."""

    actions: np.ndarray
    references: np.ndarray | None


class Sides(NamedTuple):
    """Windows to train on and held-out ones of several datasets.

    constant: names of the dimensions that are constant in training and move in held-out episodes;
        in `held_out` they are held at the value of the training, since no codec can tell them
    """

    train: Windows
    held_out: Windows
    constant: tuple[str, ...]


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


def tell(sentence: str) -> None:
    """A notice on stderr."""
    print(f"nac: {sentence}", file=sys.stderr)


def windows_of_sides(
    datasets: Sequence[AnyDataset], horizon: int, pad_end: bool = False, notice: Notice = tell
) -> Sides:
    """Windows of both sides of the benchmark split (`splits`) of all datasets.

    pad_end: as in `action_windows`, of the training episodes and of held-out ones that are shorter
        than a chunk; these are padded as well where nothing else is held out
    notice: is told what was left out or padded: episodes shorter than a chunk, windows with NaN or
        inf, datasets without any window. Raises DatasetError where one side would be empty.
    """
    train, held_out = _Side("training", horizon, notice), _Side("held-out", horizon, notice)
    for dataset, split in zip(datasets, splits([len(d.episodes) for d in datasets])):
        train.add(dataset, split.train, pad_end)
        held_out.add(dataset, split.held_out, pad_end=False, pad_short=pad_end)
        if not train.count(dataset) + held_out.count(dataset):
            notice(f"{dataset.root} has no window of {horizon} steps and is left out")
    if not held_out.pieces:
        held_out.pad_skipped()
    sides = Sides(train.joined(), held_out.joined(), ())
    return _hold_constant(sides, datasets[0].names, notice)


class _Side:
    """Windows of one side of the split as they are collected; `skipped`: (dataset, episode)."""

    def __init__(self, name: str, horizon: int, notice: Notice):
        self.pieces: list[Windows] = []
        self._name, self._horizon, self._notice = name, horizon, notice
        self._skipped: list[tuple[AnyDataset, int]] = []
        self._counts: dict[int, int] = {}
        self._roots: list[str] = []

    def add(
        self, dataset: AnyDataset, episodes: Iterable[int], pad_end: bool, pad_short: bool = False
    ) -> None:
        """Takes in episodes of a dataset; those shorter than a chunk are padded or skipped."""
        self._roots.append(str(dataset.root))
        short, infos = list[int](), dataset.episodes
        for index in map(int, episodes):
            if infos[index].length < self._horizon and not pad_end:
                short.append(index)
            else:
                self._take(dataset, index, pad_end)
        if short and not pad_short:
            self._skipped += [(dataset, index) for index in short]
        for index in short if pad_short else ():
            self._take(dataset, index, pad_end=True)
        if short:
            self._tell(dataset, short, "padded with their last action" if pad_short else "skipped")

    def pad_skipped(self) -> None:
        """Takes in, padded, what was skipped for being short."""
        for dataset in dict.fromkeys(dataset for dataset, _ in self._skipped):
            short = [index for of, index in self._skipped if of is dataset]
            for index in short:
                self._take(dataset, index, pad_end=True)
            what = "padded with their last action, for nothing else is held out"
            self._tell(dataset, short, what)

    def count(self, dataset: AnyDataset) -> int:
        """Windows taken from a dataset."""
        return self._counts.get(id(dataset), 0)

    def joined(self) -> Windows:
        """All windows; raises DatasetError where there are none."""
        if not self.pieces:
            raise DatasetError(
                f"{', '.join(self._roots[:NAMED])}: no window of {self._horizon} steps fits into "
                f"the {self._name} episodes; take a shorter horizon or more episodes"
            )
        return concatenate(self.pieces)

    def _take(self, dataset: AnyDataset, index: int, pad_end: bool) -> None:
        found = _of_episode(dataset, index, self._horizon, pad_end)
        finite = np.isfinite(found.actions).all((1, 2))
        if found.references is not None:
            finite &= np.isfinite(found.references).all(1)
        if not finite.all():
            self._notice(
                f"{dataset.root}, {self._name} episode {index}: {int((~finite).sum())} of "
                f"{len(finite)} windows hold NaN or inf and are left out"
            )
            kept = None if found.references is None else found.references[finite]
            found = Windows(found.actions[finite], kept)
        if len(found.actions):
            self.pieces.append(found)
            self._counts[id(dataset)] = self.count(dataset) + len(found.actions)

    def _tell(self, dataset: AnyDataset, episodes: Sequence[int], what: str) -> None:
        more = f" and {len(episodes) - NAMED} more" if len(episodes) > NAMED else ""
        listed = ", ".join(map(str, episodes[:NAMED])) + more
        self._notice(
            f"{dataset.root}: {self._name} episodes {listed} are shorter than a chunk of "
            f"{self._horizon} steps: {what}"
        )


def _hold_constant(sides: Sides, names: Sequence[str], notice: Notice) -> Sides:
    """Holds what is constant in training at its value in the held-out windows, and says so."""
    train, held_out = sides.train, sides.held_out
    low, high = train.actions.min((0, 1)), train.actions.max((0, 1))
    moved = (np.abs(held_out.actions - low) > FLAT_RANGE).any((0, 1)) & (high - low < FLAT_RANGE)
    if not moved.any():
        return sides
    actions, references = held_out.actions.copy(), held_out.references
    actions[..., moved] = low[moved]
    if references is not None and train.references is not None:
        references = references.copy()
        references[:, moved] = train.references[0, moved]
    constant = tuple(str(names[d]) for d in np.flatnonzero(moved))
    notice(
        f"{', '.join(constant)} never moves in the training episodes, but in held-out ones; "
        "it is held at its training value there, and the figures do not judge it"
    )
    return Sides(train, Windows(actions, references), constant)


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
