"""Changes recorded episodes; messages are copied only when an episode is split."""

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
from nac_ros.datasets.mcap.writer import BAG_INFORMATION, CUSTOM_DATA, METADATA, BagWriter


def relabel(folder: Path, changes: Mapping[str, str]) -> None:
    """Changes metadata of an episode, such as `task` or `outcome`; the original value is kept as
    `was_<key>`. Raises DatasetError if the metadata cannot be read."""
    content = reader.read_bag_metadata(folder)
    before = reader.custom_metadata(content, folder)
    was = {
        f"was_{key}": before[key]
        for key, value in changes.items()
        if before.get(key, value) != value
    }
    content[BAG_INFORMATION][CUSTOM_DATA] = {**was, **before, **changes}
    text = yaml.safe_dump(dict(content), sort_keys=False)
    files.write_text(folder / METADATA, text)


def discard(folder: Path) -> Path:
    """Renames an episode as if the recorder had discarded it; returns the new folder."""
    _check(folder)
    target = mcap_writer.discarded_path(folder)
    if target.exists():
        raise DatasetError(f"{target} exists already; move it away first")
    os.replace(folder, target)
    return target


def merge(folders: Sequence[Path], out: Path) -> list[Path]:
    """Moves episodes into one folder; moves none if a name exists there already."""
    for folder in folders:
        _check(folder)
    targets = [out / folder.name for folder in folders]
    existing = [target for target in targets if target.exists()]
    if existing or len({*targets}) < len(targets):
        name = existing[0] if existing else out
        raise DatasetError(f"{name} would be overwritten; rename one of the episodes first")
    out.mkdir(parents=True, exist_ok=True)
    for folder, target in zip(folders, targets):
        try:
            os.replace(folder, target)
        except OSError as error:
            raise DatasetError(
                f"{folder} cannot be moved to {target}: {error.strerror}; the episodes before it "
                "were moved, choose an --out on the same disk for the rest"
            ) from error
    return targets


def split(folder: Path, at_s: float) -> tuple[Path, Path]:
    """Splits an episode `at_s` [s] after its first message and discards the original; returns the
    two new folders."""
    _check(folder)
    metadata = {**reader.read_metadata(folder), "split_from": folder.name}
    messages = list(reader.read_messages(folder))
    times = [message.received for message in messages]
    split_ns, duration_s = min(times) + round(at_s * NANO), (max(times) - min(times)) / NANO
    if not min(times) < split_ns < max(times):
        raise DatasetError(
            f"{folder.name} is {duration_s:.1f} s long, so it cannot be split at {at_s:g} s"
        )
    first, second = (folder.with_name(f"{folder.name}{letter}") for letter in "ab")
    for part in (first, second):
        if part.exists() or mcap_writer.partial_path(part).exists():
            raise DatasetError(f"{part} exists already; move it away first")
    before = [message for message in messages if message.received < split_ns]
    after = [message for message in messages if message.received >= split_ns]
    # The last task and guard mode before the split are still valid after it.
    latched_topics = {f"/{topic}" for topic in topics.LATCHED}
    latched = {m.topic: m for m in before if m.topic in latched_topics}
    latched_now = [message._replace(received=split_ns) for message in latched.values()]
    _write(first, metadata, before)
    _write(second, metadata, [*latched_now, *after])
    discard(folder)
    return first, second


def _write(folder: Path, metadata: Mapping[str, str], messages: Sequence[Message]) -> None:
    writer = BagWriter(folder, metadata)
    for message in messages:
        reader.copy_message(writer, message)
    writer.finish()


def _check(folder: Path) -> None:
    if not reader.is_episode(folder):
        raise DatasetError(f"{folder} is not a finished episode")
