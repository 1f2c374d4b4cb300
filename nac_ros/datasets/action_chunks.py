"""Action chunks of datasets: every window of H consecutive actions inside an episode."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from nac_ros.core.errors import DatasetError
from nac_ros.core.normalize import FLAT_RANGE
from nac_ros.datasets.factory import AnyDataset

HELD_OUT_EVERY = 5  # the benchmark split: episodes with index % 5 == 4 are held out
MAX_LISTED = 10  # episodes that a notice lists; the rest are counted
NoticeCallback = Callable[[str], None]


class ActionChunks(NamedTuple):
    """actions: float32 `[N, H, D]`; references: float32 `[N, D]`, the joint state at the first
    frame of each chunk, or None if the dataset has no state of the action's dimensions."""

    actions: np.ndarray
    references: np.ndarray | None


class ChunkSplit(NamedTuple):
    """Training and held-out chunks of several datasets.

    constant: names of the dimensions that are constant in training and move in held-out episodes;
        in `held_out` they have their training value, since no codec could encode anything else
    """

    train: ActionChunks
    held_out: ActionChunks
    constant: tuple[str, ...]


class EpisodeSplit(NamedTuple):
    """Episode indices, int64 each."""

    train: np.ndarray
    held_out: np.ndarray


def benchmark_split(n_episodes: int) -> EpisodeSplit:
    """Holds out every fifth episode, so that all published tables use the same ones."""
    index = np.arange(n_episodes)
    held_out = index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return EpisodeSplit(index[~held_out], index[held_out])


def benchmark_splits(counts: Sequence[int]) -> list[EpisodeSplit]:
    """The split of each of several datasets, given their numbers of episodes.

    Datasets of fewer than five episodes are numbered through and split as one; if all datasets
    together have fewer, the last episode is held out. Raises DatasetError for a single episode.
    """
    small = [k for k, n in enumerate(counts) if n < HELD_OUT_EVERY]
    pooled = benchmark_split(sum(counts[k] for k in small))
    if len(small) == len(counts) and not len(pooled.held_out):
        if len(pooled.train) < 2:
            raise DatasetError(
                f"{len(pooled.train)} episode in all: at least 2 are needed, one is held out"
            )
        pooled = EpisodeSplit(pooled.train[:-1], pooled.train[-1:])
    splits, first = [benchmark_split(n) for n in counts], 0
    for k in small:
        end = first + counts[k]
        own = [side[(side >= first) & (side < end)] - first for side in pooled]
        splits[k], first = EpisodeSplit(*own), end
    return splits


def extract_chunks(
    dataset: AnyDataset, episodes: Iterable[int], horizon: int, pad_end: bool = False
) -> ActionChunks:
    """All chunks of the episodes, stride 1, none across episodes.

    pad_end: one chunk per frame; after the episode's end the last set-point is repeated, for the
        arm rests there. Otherwise an episode shorter than the horizon has no chunk.
    """
    pieces = [_episode_chunks(dataset, int(i), horizon, pad_end) for i in episodes]
    if not sum(len(piece.actions) for piece in pieces):
        raise DatasetError(
            f"{dataset.root}: no chunk of {horizon} steps fits into the {len(pieces)} chosen "
            "episodes; take a shorter horizon or more episodes"
        )
    return concatenate(pieces)


def print_notice(sentence: str) -> None:
    """Prints a notice on stderr."""
    print(f"nac: {sentence}", file=sys.stderr)


def split_chunks(
    datasets: Sequence[AnyDataset],
    horizon: int,
    pad_end: bool = False,
    notice: NoticeCallback = print_notice,
) -> ChunkSplit:
    """Chunks of both sides of the benchmark split (`benchmark_splits`) of all datasets.

    pad_end: as in `extract_chunks`, for training episodes and for held-out ones that are shorter
        than a chunk; without it, short held-out episodes are padded if nothing else is held out
    notice: called with a sentence about everything left out or padded: episodes shorter than a
        chunk, chunks with NaN or inf, datasets without a chunk
    Raises DatasetError if one side would be empty.
    """
    train = _ChunkCollector("training", horizon, notice)
    held_out = _ChunkCollector("held-out", horizon, notice)
    splits = benchmark_splits([len(dataset.episodes) for dataset in datasets])
    for dataset, split in zip(datasets, splits):
        n_train = train.add(dataset, split.train, pad_end)
        n_held_out = held_out.add(dataset, split.held_out, pad_end=False, pad_short=pad_end)
        if not n_train + n_held_out:
            notice(f"{dataset.root} has no chunk of {horizon} steps and is left out")
    if not held_out.pieces:
        held_out.pad_skipped()
    return _hold_constant(train.joined(), held_out.joined(), datasets[0].names, notice)


class _ChunkCollector:
    """Collects the chunks of one side of the split; episodes without a chunk are skipped."""

    def __init__(self, side: str, horizon: int, notice: NoticeCallback):
        self.pieces: list[ActionChunks] = []
        self._side, self._horizon, self._notice = side, horizon, notice
        self._skipped: list[tuple[AnyDataset, list[int]]] = []
        self._roots: list[str] = []

    def add(
        self, dataset: AnyDataset, episodes: Iterable[int], pad_end: bool, pad_short: bool = False
    ) -> int:
        """Adds episodes of a dataset, pads or skips those shorter than a chunk, and returns the
        number of chunks."""
        self._roots.append(str(dataset.root))
        infos, count, short = dataset.episodes, 0, list[int]()
        for index in map(int, episodes):
            if infos[index].length < self._horizon and not pad_end:
                short.append(index)
            else:
                count += self._add_episode(dataset, index, pad_end)
        if short and pad_short:
            count += sum(self._add_episode(dataset, index, pad_end=True) for index in short)
            self._report_short(dataset, short, "padded with their last action")
        elif short:
            self._skipped.append((dataset, short))
            self._report_short(dataset, short, "skipped")
        return count

    def pad_skipped(self) -> None:
        """Adds the episodes skipped because they are short, padded."""
        for dataset, short in self._skipped:
            for index in short:
                self._add_episode(dataset, index, pad_end=True)
            action = "padded with their last action, because nothing else is held out"
            self._report_short(dataset, short, action)

    def joined(self) -> ActionChunks:
        """All chunks; raises DatasetError if there are none."""
        if not self.pieces:
            raise DatasetError(
                f"{', '.join(self._roots[:MAX_LISTED])}: no chunk of {self._horizon} steps fits "
                f"into the {self._side} episodes; take a shorter horizon or more episodes"
            )
        return concatenate(self.pieces)

    def _add_episode(self, dataset: AnyDataset, index: int, pad_end: bool) -> int:
        chunks = _episode_chunks(dataset, index, self._horizon, pad_end)
        finite = np.isfinite(chunks.actions).all((1, 2))
        if chunks.references is not None:
            finite &= np.isfinite(chunks.references).all(1)
        if not finite.all():
            self._notice(
                f"{dataset.root}, {self._side} episode {index}: {int((~finite).sum())} of "
                f"{len(finite)} chunks have NaN or inf and are left out"
            )
            references = None if chunks.references is None else chunks.references[finite]
            chunks = ActionChunks(chunks.actions[finite], references)
        if len(chunks.actions):
            self.pieces.append(chunks)
        return len(chunks.actions)

    def _report_short(self, dataset: AnyDataset, episodes: Sequence[int], action: str) -> None:
        more = f" and {len(episodes) - MAX_LISTED} more" if len(episodes) > MAX_LISTED else ""
        listed = ", ".join(map(str, episodes[:MAX_LISTED])) + more
        self._notice(
            f"{dataset.root}: {self._side} episodes {listed} are shorter than a chunk of "
            f"{self._horizon} steps: {action}"
        )


def _hold_constant(
    train: ActionChunks, held_out: ActionChunks, names: Sequence[str], notice: NoticeCallback
) -> ChunkSplit:
    """Sets dimensions that are constant in training to their training value in held-out chunks."""
    low, high = train.actions.min((0, 1)), train.actions.max((0, 1))
    moves = (np.abs(held_out.actions - low) > FLAT_RANGE).any((0, 1))
    held = moves & (high - low < FLAT_RANGE)  # bool [D]
    if not held.any():
        return ChunkSplit(train, held_out, ())
    actions, references = held_out.actions.copy(), held_out.references
    actions[..., held] = low[held]
    if references is not None and train.references is not None:
        references = references.copy()
        references[:, held] = train.references[0, held]
    constant = tuple(str(names[d]) for d in np.flatnonzero(held))
    notice(
        f"{', '.join(constant)} never moves in the training episodes, but in held-out ones; "
        "it is held at its training value there, so the results do not cover it"
    )
    return ChunkSplit(train, ActionChunks(actions, references), constant)


def concatenate(pieces: Sequence[ActionChunks]) -> ActionChunks:
    """Chunks of several datasets as one; raises DatasetError if their D differ."""
    dims = sorted({piece.actions.shape[-1] for piece in pieces})
    if len(dims) > 1:
        raise DatasetError(f"datasets with actions of {dims} dimensions cannot be joined")
    references = [p.references for p in pieces if p.references is not None]
    joined = np.concatenate(references) if len(references) == len(pieces) else None
    return ActionChunks(np.concatenate([piece.actions for piece in pieces]), joined)


def _episode_chunks(dataset: AnyDataset, index: int, horizon: int, pad_end: bool) -> ActionChunks:
    episode = dataset.episode(index, images=False)
    actions = episode.actions
    if pad_end and len(actions):
        actions = np.concatenate([actions, np.repeat(actions[-1:], horizon - 1, axis=0)])
    n = max(0, len(actions) - horizon + 1)
    # [T, D] -> [N, H, D]
    chunks = actions[np.arange(n)[:, None] + np.arange(horizon)]
    has_reference = len(dataset.state_names) == len(dataset.names)
    return ActionChunks(chunks, episode.proprio[:n] if has_reference else None)
