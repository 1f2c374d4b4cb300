"""Action chunks of datasets: every window of H consecutive actions inside an episode."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from nac_ros.core.errors import DatasetError
from nac_ros.core.normalize import FLAT_RANGE
from nac_ros.datasets.episode_split import split_episodes
from nac_ros.datasets.factory import AnyDataset

MAX_LISTED = 10  # episodes that a notice lists; the rest are counted
NoticeCallback = Callable[[str], None]


class ActionChunks(NamedTuple):
    """actions: float32 `[N, H, D]`; references: float32 `[N, D]`, the joint state at the first
    frame of each chunk, or None if the dataset has no state of the action's dimensions."""

    actions: np.ndarray
    references: np.ndarray | None

    def select(self, rows: np.ndarray | slice) -> "ActionChunks":
        """Some of the chunks, by a slice, indices or a mask."""
        references = None if self.references is None else self.references[rows]
        return ActionChunks(self.actions[rows], references)

    @property
    def consecutive(self) -> np.ndarray:
        """Rows int64 `[P]` whose chunk is followed, in the next row, by the one that starts a step
        later in the same episode: the two have H - 1 actions in common."""
        if self.actions.shape[1] < 2:
            return np.zeros(0, np.int64)
        return np.flatnonzero((self.actions[:-1, 1:] == self.actions[1:, :-1]).all((1, 2)))


class ChunkSplit(NamedTuple):
    """Chunks of the training, validation and test episodes of several datasets.

    test: None if the datasets have too few episodes (`split_episodes`)
    constant: names of the dimensions that are constant in training and move in other episodes;
        there they have their training value, since no codec could encode anything else
    """

    train: ActionChunks
    validation: ActionChunks
    test: ActionChunks | None
    constant: tuple[str, ...]


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
    """Chunks of all sides of the split (`split_episodes`) of all datasets.

    pad_end: as in `extract_chunks`, for training episodes and for others that are shorter than a
        chunk; without it, short validation and test episodes are padded if a side has no others
    notice: called with a sentence about everything left out or padded: episodes shorter than a
        chunk, chunks with NaN or inf, datasets without a chunk
    Raises DatasetError if there is no chunk for training, or none for validation.
    """
    splits = split_episodes([len(dataset.episodes) for dataset in datasets])
    found: dict[str, list[ActionChunks]] = {"training": [], "validation": [], "test": []}
    padded = "padded with their last action"
    for dataset, split in zip(datasets, splits):
        reader = _ChunkReader(dataset, horizon, notice)
        own = {
            "training": reader.read("training", split.train, pad_end),
            **{
                side: reader.read(side, episodes, pad_short=padded if pad_end else "")
                for side, episodes in (("validation", split.validation), ("test", split.test))
            },
        }
        if not any(own.values()):
            notice(f"{dataset.root} has no chunk of {horizon} steps and is left out")
        for side, pieces in own.items():
            found[side] += pieces
    for side in ("validation", "test"):
        if not found[side]:
            pad_short = f"{padded}, because there are no other {side} chunks"
            for dataset, split in zip(datasets, splits):
                reader = _ChunkReader(dataset, horizon, notice)
                found[side] += reader.read(side, getattr(split, side), pad_short=pad_short)
    for side in ("training", "validation"):
        if not found[side]:
            roots = ", ".join(str(dataset.root) for dataset in datasets[:MAX_LISTED])
            raise DatasetError(
                f"{roots}: no chunk of {horizon} steps fits into the {side} episodes; take a "
                "shorter horizon or more episodes"
            )
    joined = [concatenate(pieces) if pieces else None for pieces in found.values()]
    return _hold_constant(*joined, datasets[0].names, notice)


class _ChunkReader(NamedTuple):
    """Reads chunks of a dataset and reports what is left out or padded."""

    dataset: AnyDataset
    horizon: int
    notice: NoticeCallback

    def read(
        self, side: str, episodes: Iterable[int], pad_end: bool = False, pad_short: str = ""
    ) -> list[ActionChunks]:
        """Chunks of one side's episodes, without empty ones.

        pad_short: how the padding of episodes shorter than a chunk is reported, '' = skip them
        """
        infos, numbers = self.dataset.episodes, [int(i) for i in episodes]
        short = [] if pad_end else [i for i in numbers if infos[i].length < self.horizon]
        if short:
            more = f" and {len(short) - MAX_LISTED} more" if len(short) > MAX_LISTED else ""
            self.notice(
                f"{self.dataset.root}: {side} episodes "
                f"{', '.join(map(str, short[:MAX_LISTED]))}{more} are shorter than a chunk of "
                f"{self.horizon} steps: {pad_short or 'skipped'}"
            )
        kept = [i for i in numbers if pad_short or i not in short]
        chunks = [self._finite_chunks(side, i, pad_end or i in short) for i in kept]
        return [piece for piece in chunks if len(piece.actions)]

    def _finite_chunks(self, side: str, index: int, pad_end: bool) -> ActionChunks:
        chunks = _episode_chunks(self.dataset, index, self.horizon, pad_end)
        finite = np.isfinite(chunks.actions).all((1, 2))
        if chunks.references is not None:
            finite &= np.isfinite(chunks.references).all(1)
        if finite.all():
            return chunks
        self.notice(
            f"{self.dataset.root}, {side} episode {index}: {int((~finite).sum())} of "
            f"{len(finite)} chunks have NaN or inf and are left out"
        )
        return chunks.select(finite)


def _hold_constant(
    train: ActionChunks,
    validation: ActionChunks,
    test: ActionChunks | None,
    names: Sequence[str],
    notice: NoticeCallback,
) -> ChunkSplit:
    """Sets dimensions that are constant in training to their training value elsewhere."""
    low, high = train.actions.min((0, 1)), train.actions.max((0, 1))
    others = [validation.actions] if test is None else [validation.actions, test.actions]
    moves = np.any([(np.abs(part - low) > FLAT_RANGE).any((0, 1)) for part in others], 0)
    held = moves & (high - low < FLAT_RANGE)  # bool [D]
    if not held.any():
        return ChunkSplit(train, validation, test, ())

    def hold(chunks: ActionChunks) -> ActionChunks:
        actions, references = chunks.actions.copy(), chunks.references
        actions[..., held] = low[held]
        if references is not None and train.references is not None:
            references = references.copy()
            references[:, held] = train.references[0, held]
        return ActionChunks(actions, references)

    constant = tuple(str(names[d]) for d in np.flatnonzero(held))
    notice(
        f"{', '.join(constant)} never moves in the training episodes, but in other ones; "
        "it is held at its training value there, so the results do not cover it"
    )
    return ChunkSplit(train, hold(validation), None if test is None else hold(test), constant)


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
