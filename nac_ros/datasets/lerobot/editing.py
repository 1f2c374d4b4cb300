"""Changes to LeRobot v3 folders: episodes taken out, split, relabelled, folders merged.

The folder is made anew beside the old one, out of the same files where they do not change, and
takes its place when it is complete; the old one stays as `<name>.before` until the next change.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

from nac_ros.core import files
from nac_ros.core.errors import DatasetError
from nac_ros.core.provenance import environment
from nac_ros.datasets.lerobot import writer
from nac_ros.datasets.lerobot.composer import (
    EDIT_FILE,
    OWN_META,
    DatasetComposer,
    EpisodeSlice,
    Report,
    SourceDataset,
)
from nac_ros.datasets.lerobot.info import frame_rate, read_info
from nac_ros.datasets.lerobot.reader import OUTCOMES, LeRobotDataset

EDITING, EDITED, BEFORE = ".editing", ".edited", ".before"
Change = Callable[[list[EpisodeSlice]], list[EpisodeSlice]]


def is_lerobot(path: Path) -> bool:
    """Whether it is a LeRobot folder, or one whose last change was cut off."""
    return (path / "meta/info.json").is_file() or _beside(path, EDITED).exists()


def discard(root: Path, episodes: Sequence[int], report: Report) -> Path:
    """Takes episodes out; those after them move up. Raises DatasetError."""

    def change(parts: list[EpisodeSlice]) -> list[EpisodeSlice]:
        gone = set(_known(root, parts, episodes))
        kept = [part for part in parts if part.episode not in gone]
        if not kept:
            raise DatasetError(f"{root} would hold no episode any more; delete the folder instead")
        return kept

    return _replace(root, change, report)


def relabel(
    root: Path, episodes: Sequence[int], task: str | None, outcome: str | None, report: Report
) -> Path:
    """Gives episodes, all of them if none are named, another task or verdict."""
    if outcome is not None and outcome not in OUTCOMES:
        raise DatasetError(f"no outcome '{outcome}'; known are: {', '.join(OUTCOMES)}")

    def change(parts: list[EpisodeSlice]) -> list[EpisodeSlice]:
        chosen = set(_known(root, parts, episodes or range(len(parts))))
        new = {"task": task, "outcome": outcome}
        return [part._replace(**new) if part.episode in chosen else part for part in parts]

    return _replace(root, change, report)


def split(root: Path, episode: int, at_s: float, report: Report) -> Path:
    """Makes two episodes of one, `at_s` [s] after its first frame."""
    fps = frame_rate(read_info(root))

    def change(parts: list[EpisodeSlice]) -> list[EpisodeSlice]:
        (index,) = _known(root, parts, [episode])
        whole, border = parts[index], ceil(at_s * fps - 1e-6)
        if not 0 < border < whole.end:
            raise DatasetError(
                f"episode {episode} of {root} is {whole.end / fps:.1f} s long; {at_s:g} s lies "
                "not in it"
            )
        pieces = [whole._replace(end=border), whole._replace(first=border)]
        return [*parts[:index], *pieces, *parts[index + 1 :]]

    return _replace(root, change, report)


def merge(roots: Sequence[Path], out: Path, report: Report) -> Path:
    """One folder of several, which stay as they are; raises DatasetError where they differ."""
    if out.exists():
        raise DatasetError(f"{out} exists already; choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    sources = [SourceDataset(root) for root in roots]
    parts = [part for k, source in enumerate(sources) for part in source.parts(k)]
    work = _beside(out, EDITING)
    _remove(work)
    _compose(sources, parts, work, report)
    os.replace(work, out)
    files.fsync(out.parent)
    return out


def recover_interrupted_edit(root: Path) -> None:
    """Brings to its end what a crash cut off between an old folder and the new one."""
    edited = _beside(root, EDITED)
    if edited.exists() and not root.exists():
        os.replace(edited, root)
        files.fsync(root.parent)
    for left in (edited, _beside(root, EDITING)):
        _remove(left)


def _replace(root: Path, change: Change, report: Report) -> Path:
    recover_interrupted_edit(root)
    if not root.is_dir():
        raise DatasetError(f"no dataset at {root}; name a LeRobot v3 folder")
    with _locked(root):
        source = SourceDataset(root)
        work, edited, before = (_beside(root, e) for e in (EDITING, EDITED, BEFORE))
        _compose([source], change(source.parts(0)), work, report)
        os.replace(work, edited)
        files.fsync(root.parent)
        _remove(before)
        os.replace(root, before)
        os.replace(edited, root)
        files.fsync(root.parent)
    return root


def _compose(
    sources: Sequence[SourceDataset], parts: Sequence[EpisodeSlice], work: Path, report: Report
) -> None:
    """The new folder, read once before it counts."""
    DatasetComposer(sources, parts).write(work, report)
    content = {
        "sources": [_origin(source) for source in sources],
        "parts": [list(part) for part in parts],
        "environment": environment(),
    }
    files.write_json(work / "meta" / EDIT_FILE, content)
    made = LeRobotDataset.open(work)
    for index, part in enumerate(parts):
        if len(made.episode(index, images=False)) != part.end - part.first:
            raise DatasetError(
                f"{work}: episode {index} is not what it should be; nothing changed"
            )
    for folder in (work, *(path for path in work.rglob("*") if path.is_dir())):
        files.fsync(folder)


def _origin(source: SourceDataset) -> dict[str, Any]:
    """Its name, and what its own origin was."""
    found = {}
    for name in (n for n in OWN_META if n in ("convert.json", "generate.json", EDIT_FILE)):
        path = source.root / "meta" / name
        if path.is_file():
            found[name] = path.read_text()
    return {"name": source.root.name, "episodes": len(source.rows), "meta": found}


def _known(root: Path, parts: Sequence[EpisodeSlice], episodes: Sequence[int]) -> list[int]:
    for index in episodes:
        if not 0 <= index < len(parts):
            raise DatasetError(f"{root} has no episode {index}; it has {len(parts)}, from 0")
    return list(episodes)


@contextmanager
def _locked(root: Path):
    descriptor = writer.lock(root)
    try:
        yield
    finally:
        os.close(descriptor)


def _beside(root: Path, ending: str) -> Path:
    whole = root.absolute()
    return whole.with_name(whole.name + ending)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
