"""Changes to recorded episodes; messages are copied only where an episode is split."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from nac_ros.core import files
from nac_ros.core.errors import DatasetError
from nac_ros.core.message_decoding import NANO
from nac_ros.datasets.mcap import reader, topics
from nac_ros.datasets.mcap import writer as mcap_writer
from nac_ros.datasets.mcap.reader import Message
from nac_ros.datasets.mcap.writer import BagWriter


def relabel(folder: Path, facts: Mapping[str, str]) -> None:
    """Changes facts of an episode, such as `task` or `outcome`; what they were stays as
    `was_<fact>`. Raises DatasetError where its metadata cannot be read."""
    content = reader.metadata_of(folder)
    before = reader.facts_in(content, folder)
    was = {f"was_{key}": before[key] for key in facts if before.get(key, facts[key]) != facts[key]}
    path = folder / mcap_writer.METADATA
    content[reader.INFORMATION][reader.CUSTOM] = {**was, **before, **facts}
    text = yaml.safe_dump(dict(content), sort_keys=False)
    files.replace_with(path, lambda to: to.write_text(text))


def discard(folder: Path) -> Path:
    """Puts an episode aside, as if it had been discarded when it was recorded."""
    _check(folder)
    target = mcap_writer.discarded_of(folder)
    if target.exists():
        raise DatasetError(f"{target} exists already; move it away first")
    os.replace(folder, target)
    return target


def merge(folders: Sequence[Path], out: Path) -> list[Path]:
    """Moves episodes into one folder; all or none, should a name be there already."""
    for folder in folders:
        _check(folder)
    targets = [out / folder.name for folder in folders]
    taken = [target for target in targets if target.exists()]
    if taken or len({*targets}) < len(targets):
        name = taken[0] if taken else out
        raise DatasetError(f"{name} would be overwritten; rename one of the episodes first")
    out.mkdir(parents=True, exist_ok=True)
    for folder, target in zip(folders, targets):
        try:
            os.replace(folder, target)
        except OSError as error:
            raise DatasetError(
                f"{folder} cannot be moved to {target}: {error.strerror}; those before it were, "
                "choose an --out on the same disk for the rest"
            ) from error
    return targets


def split(folder: Path, at_s: float) -> tuple[Path, Path]:
    """Makes two episodes of one, `at_s` [s] after its first message; it is put aside."""
    _check(folder)
    facts = reader.facts_of(folder)
    parts = [folder.with_name(f"{folder.name}{letter}") for letter in "ab"]
    rows = list(reader.messages(folder))
    first = min(row.received for row in rows)
    border = first + round(at_s * NANO)
    if not first < border < max(row.received for row in rows):
        seconds = (max(row.received for row in rows) - first) / NANO
        raise DatasetError(f"{folder.name} is {seconds:.1f} s long; {at_s:g} s lies not in it")
    for part in parts:
        if part.exists() or mcap_writer.partial_of(part).exists():
            raise DatasetError(f"{part} exists already; move it away first")
    for part, kept in zip(parts, (_before(rows, border), _after(rows, border))):
        _write(part, {**facts, "split_from": folder.name}, kept)
    discard(folder)
    return parts[0], parts[1]


def _before(rows: Sequence[Message], border: int) -> list[Message]:
    return [row for row in rows if row.received < border]


def _after(rows: Sequence[Message], border: int) -> list[Message]:
    """With what was said before and still holds then."""
    static = {f"/{topic}" for topic in topics.STATIC}
    said = {row.topic: row for row in rows if row.topic in static and row.received < border}
    held = [row._replace(received=border) for row in said.values()]
    return held + [row for row in rows if row.received >= border]


def _write(folder: Path, facts: Mapping[str, str], rows: Sequence[Message]) -> None:
    writer = BagWriter(folder, facts)
    for row in rows:
        if row.topic not in writer.contents.topics:
            writer.open_topic(row.topic, row.kind)
        writer.write(row.topic, row.received, row.published, row.data)
    writer.finish()


def _check(folder: Path) -> None:
    if not reader.is_episode(folder):
        raise DatasetError(f"{folder} is no finished episode")
