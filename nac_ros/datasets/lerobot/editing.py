"""Edits LeRobot v3 folders: discards, splits and relabels episodes, and merges folders.

The new folder is composed next to the old one, from the same files where nothing in them changes,
and replaces it when it is complete. The old one is kept as `<name>.before` until the next edit.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from typing import Any

from nac_ros.core import files
from nac_ros.core.errors import DatasetError
from nac_ros.core.provenance import environment
from nac_ros.datasets.episode import Progress
from nac_ros.datasets.lerobot import writer
from nac_ros.datasets.lerobot.composer import (
    ORIGIN_FILES,
    DatasetComposer,
    EpisodeSlice,
    SourceDataset,
)
from nac_ros.datasets.lerobot.info import frame_rate, read_info
from nac_ros.datasets.lerobot.metadata import OUTCOMES
from nac_ros.datasets.lerobot.reader import LeRobotDataset

EDITING, EDITED, BEFORE = ".editing", ".edited", ".before"
Change = Callable[[list[EpisodeSlice]], list[EpisodeSlice]]


def is_lerobot(path: Path) -> bool:
    """Whether it is a LeRobot folder, or one whose last edit was interrupted."""
    return (path / "meta/info.json").is_file() or _sibling(path, EDITED).exists()


def discard(root: Path, episodes: Sequence[int], progress: Progress) -> Path:
    """Removes episodes and renumbers those after them; raises DatasetError."""

    def change(slices: list[EpisodeSlice]) -> list[EpisodeSlice]:
        _check_indices(root, slices, episodes)
        kept = [part for part in slices if part.episode not in episodes]
        if not kept:
            raise DatasetError(f"{root} would hold no episode any more; delete the folder instead")
        return kept

    return _replace(root, change, progress)


def relabel(
    root: Path, episodes: Sequence[int], task: str | None, outcome: str | None, progress: Progress
) -> Path:
    """Changes the task or outcome of episodes, of all if `episodes` is empty."""
    if outcome is not None and outcome not in OUTCOMES:
        raise DatasetError(f"no outcome '{outcome}'; known are: {', '.join(OUTCOMES)}")

    def change(slices: list[EpisodeSlice]) -> list[EpisodeSlice]:
        _check_indices(root, slices, episodes)
        chosen = episodes or range(len(slices))
        return [
            part._replace(task=task, outcome=outcome) if part.episode in chosen else part
            for part in slices
        ]

    return _replace(root, change, progress)


def split(root: Path, episode: int, at_s: float, progress: Progress) -> Path:
    """Splits an episode into two, `at_s` [s] after its first frame."""
    fps = frame_rate(read_info(root))

    def change(slices: list[EpisodeSlice]) -> list[EpisodeSlice]:
        _check_indices(root, slices, [episode])
        whole, frame = slices[episode], ceil(at_s * fps - 1e-6)
        if not 0 < frame < whole.end:
            raise DatasetError(
                f"episode {episode} of {root} is {whole.end / fps:.1f} s long; it cannot be split "
                f"at {at_s:g} s"
            )
        halves = [whole._replace(end=frame), whole._replace(first=frame)]
        return [*slices[:episode], *halves, *slices[episode + 1 :]]

    return _replace(root, change, progress)


def merge(roots: Sequence[Path], out: Path, progress: Progress) -> Path:
    """Joins folders into a new one; raises DatasetError if they differ in their features."""
    if out.exists():
        raise DatasetError(f"{out} exists already; choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    sources = [SourceDataset(root) for root in roots]
    slices = [part for k, source in enumerate(sources) for part in source.slices(k)]
    work = _sibling(out, EDITING)
    _remove(work)
    _compose(sources, slices, work, progress)
    os.replace(work, out)
    files.fsync(out.parent)
    return out


def recover_interrupted_edit(root: Path) -> None:
    """Completes an edit that a crash interrupted while the new folder replaced the old one."""
    edited = _sibling(root, EDITED)
    if edited.exists() and not root.exists():
        os.replace(edited, root)
        files.fsync(root.parent)
    for left in (edited, _sibling(root, EDITING)):
        _remove(left)


# A crash leaves a complete folder at any time: <name>.edited is complete before the old folder
# moves to <name>.before, and `recover_interrupted_edit` moves it to <name> if that is missing.
def _replace(root: Path, change: Change, progress: Progress) -> Path:
    recover_interrupted_edit(root)
    if not root.is_dir():
        raise DatasetError(f"no dataset at {root}; name a LeRobot v3 folder")
    with ExitStack() as stack:
        stack.callback(os.close, writer.lock(root))
        source = SourceDataset(root)
        work, edited, before = (_sibling(root, e) for e in (EDITING, EDITED, BEFORE))
        _compose([source], change(source.slices(0)), work, progress)
        os.replace(work, edited)
        files.fsync(root.parent)
        _remove(before)
        os.replace(root, before)
        os.replace(edited, root)
        files.fsync(root.parent)
    return root


def _compose(
    sources: Sequence[SourceDataset],
    slices: Sequence[EpisodeSlice],
    work: Path,
    progress: Progress,
) -> None:
    """Writes the new folder and reads every episode of it back."""
    DatasetComposer(sources, slices).write(work, progress)
    content = {
        "sources": [_description(source) for source in sources],
        "slices": [list(part) for part in slices],
        "environment": environment(),
    }
    files.write_json(work / "meta/edit.json", content)
    result = LeRobotDataset.open(work)
    for index, part in enumerate(slices):
        if len(result.episode(index, images=False)) != part.end - part.first:
            raise DatasetError(
                f"{work}: episode {index} has not the frames that were written; the edit was "
                "cancelled and nothing changed"
            )
    for folder in (work, *(path for path in work.rglob("*") if path.is_dir())):
        files.fsync(folder)


def _description(source: SourceDataset) -> dict[str, Any]:
    """Name of a source, its number of episodes and how it was made."""
    paths = [source.root / "meta" / name for name in ORIGIN_FILES]
    origins = {path.name: path.read_text() for path in paths if path.is_file()}
    return {"name": source.root.name, "episodes": len(source.rows), "meta": origins}


def _check_indices(root: Path, slices: Sequence[EpisodeSlice], episodes: Sequence[int]) -> None:
    for index in episodes:
        if not 0 <= index < len(slices):
            raise DatasetError(f"{root} has no episode {index}; it has {len(slices)}, from 0")


def _sibling(root: Path, ending: str) -> Path:
    path = root.absolute()
    return path.with_name(path.name + ending)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
