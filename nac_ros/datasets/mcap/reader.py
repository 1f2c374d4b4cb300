"""Reads an episode's MCAP file, complete or truncated, and repairs damaged ones."""

import os
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

from mcap.records import Channel, Metadata, Schema

from nac_ros.core.config import load_yaml
from nac_ros.core.errors import ConfigError, DatasetError, show_text
from nac_ros.core.message_decoding import NANO
from nac_ros.datasets.mcap import container
from nac_ros.datasets.mcap import writer as mcap_writer
from nac_ros.datasets.mcap.container import Record
from nac_ros.datasets.mcap.writer import BAG_INFORMATION, CDR, CUSTOM_DATA, BagWriter

REPAIRED, DAMAGED = ".repaired", ".damaged"


class Message(NamedTuple):
    """One serialized message; times [ns]; topic as it was recorded, with a leading slash."""

    topic: str
    message_type: str
    received: int
    published: int
    data: bytes


@dataclass
class ReadReport:
    """Filled while a file is read.

    metadata: the episode's metadata in the MCAP file
    complete: whether the file has a valid end
    damaged_chunks, unknown_messages: number of chunks that cannot be read, and of messages whose
        channel the file does not describe
    readable_bytes: offset up to which the file could be read
    """

    metadata: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    damaged_chunks: int = 0
    readable_bytes: int = 0
    unknown_messages: int = 0

    @property
    def intact(self) -> bool:
        """Whether everything could be read."""
        return self.complete and not self.damaged_chunks and not self.unknown_messages

    def __str__(self) -> str:
        """One line that describes the damage; '' if there is none."""
        parts = [] if self.complete else [f"cut off or damaged at byte {self.readable_bytes}"]
        parts += [f"{self.damaged_chunks} damaged chunks"] if self.damaged_chunks else []
        if self.unknown_messages:
            parts.append(f"{self.unknown_messages} messages of unknown channels")
        return ", ".join(parts)


def is_episode(folder: Path) -> bool:
    """Whether the folder holds a finished recording."""
    unfinished = (mcap_writer.PARTIAL, mcap_writer.DISCARDED, DAMAGED, REPAIRED)
    return (folder / mcap_writer.FILE).is_file() and not folder.name.endswith(unfinished)


def unfinished(path: Path) -> list[Path]:
    """Episodes below a folder that no recorder finished, and those whose repair was interrupted
    before its last renaming."""
    found = [
        partial
        for partial in path.glob(f"*{mcap_writer.PARTIAL}")
        if not partial.name.endswith(REPAIRED + mcap_writer.PARTIAL)
    ]
    for repaired in path.glob(f"*{REPAIRED}"):
        episode = repaired.with_name(repaired.name.removesuffix(REPAIRED))
        if not episode.exists() and not mcap_writer.partial_path(episode).exists():
            found.append(repaired)
    return sorted(found)


def read_metadata(folder: Path) -> dict[str, str]:
    """The recorder's metadata of an episode; raises DatasetError if metadata.yaml is invalid."""
    return custom_metadata(read_bag_metadata(folder), folder)


def read_bag_metadata(folder: Path) -> dict[str, Any]:
    """Content of an episode's metadata.yaml; raises DatasetError if it is missing or invalid."""
    path = folder / mcap_writer.METADATA
    remedy = f"run `nac data repair {folder}`"
    try:
        content = load_yaml(path)
    except ConfigError as error:
        raise DatasetError(f"{error}; {remedy}") from error
    if not isinstance(content.get(BAG_INFORMATION), dict):
        raise DatasetError(f"{path} has no mapping {BAG_INFORMATION}; {remedy}")
    return content


def custom_metadata(content: dict[str, Any], folder: Path) -> dict[str, str]:
    """The recorder's entries in the result of `read_bag_metadata`; raises DatasetError if one is
    no text or number."""
    metadata = content[BAG_INFORMATION].get(CUSTOM_DATA) or {}
    items = metadata.items() if isinstance(metadata, dict) else [(CUSTOM_DATA, metadata)]
    for key, value in items:
        if not isinstance(key, str) or not isinstance(value, (str, int, float)):
            raise DatasetError(
                f"{folder / mcap_writer.METADATA}: {CUSTOM_DATA} must map names to texts or "
                f"numbers, got {show_text(key, 40)}: {show_text(value)}; run `nac data repair "
                f"{folder}`"
            )
    return {key: str(value) for key, value in items}


def read_messages(
    folder: Path, topics: Collection[str] | None = None, report: ReadReport | None = None
) -> Iterator[Message]:
    """The messages of all topics, or of some, in the order in which they were written.

    report: filled while reading; without one, damage raises DatasetError after the last message
    """
    # Schemas name message types, channels connect a number to a topic and a schema. The first
    # definition of a number is valid; messages of undefined channels are counted and left out.
    path, found = folder / mcap_writer.FILE, ReadReport() if report is None else report
    channels: dict[int, tuple[str, str]] = {}  # number -> topic, message type
    schemas: dict[int, str] = {}  # number -> message type
    for record in _read_records(path, found):
        if isinstance(record, Schema):
            schemas.setdefault(record.id, record.name)
        elif isinstance(record, Channel):
            if record.schema_id in schemas and record.message_encoding == CDR:
                channels.setdefault(record.id, (record.topic, schemas[record.schema_id]))
        elif isinstance(record, Metadata):
            if record.name == mcap_writer.METADATA_RECORD:
                found.metadata.update(record.metadata)
        elif record.channel not in channels:
            found.unknown_messages += 1
        else:
            topic, message_type = channels[record.channel]
            if topics is None or topic in topics:
                yield Message(topic, message_type, record.received, record.published, record.data)
    if report is None and not found.intact:
        raise DatasetError(f"{path} is damaged ({found}); run `nac data repair {folder}`")


def copy_message(writer: BagWriter, message: Message) -> None:
    """Writes a message, and its topic if that is new; raises DatasetError for unknown types."""
    if message.topic not in writer.topics:
        writer.add_topic(message.topic, message.message_type)
    writer.write(message.topic, message.received, message.published, message.data)


def _read_records(path: Path, report: ReadReport) -> Iterator[Record]:
    """Every record up to the first that does not fit into the file, without damaged chunks."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            for part in container.read_parts(stream, size):
                if part.records is None and part.end == size:
                    return  # a crash interrupted the last chunk: the file is cut off here
                report.readable_bytes, report.complete = part.end, part.complete
                report.damaged_chunks += part.records is None
                yield from part.records or ()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; copy it again") from error


def is_intact(folder: Path) -> bool:
    """Whether every byte of an episode and its metadata can be read."""
    report = ReadReport()
    for _ in read_messages(folder, (), report):
        pass
    return report.intact and _has_metadata(folder)


def _has_metadata(folder: Path) -> bool:
    try:
        read_metadata(folder)
    except DatasetError:  # `repair` replaces it and reports the lost parts of the file
        return False
    return True


class RepairResult(NamedTuple):
    """A repaired episode.

    folder: where it is now; messages: topic -> number; seconds: duration
    lost_bytes: at the end of the file; damaged_chunks: before it
    unknown_messages: messages left out because their channel or type is unknown
    """

    folder: Path
    messages: dict[str, int]
    seconds: float
    lost_bytes: int
    damaged_chunks: int
    unknown_messages: int = 0

    def __str__(self) -> str:
        kept = sum(self.messages.values())
        lost = f"{self.lost_bytes} bytes at the end" if self.lost_bytes else "nothing at the end"
        if self.damaged_chunks:
            lost += f" and {self.damaged_chunks} chunks before it"
        if self.unknown_messages:
            lost += (
                f"; {self.unknown_messages} messages of unknown channels or types were left out"
            )
        return f"{self.folder}: kept {kept} messages of {self.seconds:.1f} s; lost {lost}"


def repair(folder: Path) -> RepairResult:
    """Writes a complete file from the readable messages, under the episode's own name.

    The damaged file is kept as `<name>.damaged`. An interrupted repair can be repeated. Raises
    DatasetError if nothing is readable, the disk is full, or a recorder is still writing.
    """
    # Steps, each of which can be the last one before a crash:
    # 1. copy the readable messages to <name>.repaired.partial, 2. rename it to <name>.repaired,
    # 3. rename the damaged folder to <name>.damaged, 4. rename <name>.repaired to <name>.
    # A repeated repair deletes the results of steps 1 and 2; after step 3 `unfinished` lists
    # <name>.repaired, and only step 4 is left.
    name = folder.name.removesuffix(mcap_writer.PARTIAL).removesuffix(REPAIRED)
    target, repaired = folder.with_name(name), folder.with_name(name + REPAIRED)
    _check_repairable(folder, target, repaired)
    if folder == repaired:
        os.replace(repaired, target)
        return _repair_result(target, ReadReport(), 0)
    for leftover in (repaired, mcap_writer.partial_path(repaired)):
        if leftover.exists():
            rmtree(leftover)
    report = ReadReport()
    try:
        lost_bytes = _copy_readable(folder, repaired, report)
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be repaired and is unchanged: {error.strerror}; free disk space"
        ) from error
    except (ArithmeticError, struct.error, UnicodeError, ValueError) as error:  # of the writer
        raise DatasetError(
            f"{folder} cannot be repaired: {show_text(error)}; it is unchanged, copy it again"
        ) from error
    os.replace(folder, _unused(folder.with_name(name + DAMAGED)))
    os.replace(repaired, target)
    return _repair_result(target, report, lost_bytes)


def _check_repairable(folder: Path, target: Path, repaired: Path) -> None:
    path = folder / mcap_writer.FILE
    if folder == mcap_writer.partial_path(repaired):
        raise DatasetError(
            f"{folder} is left from an interrupted repair; repair the episode itself again"
        )
    if not path.is_file() or not path.stat().st_size:
        raise DatasetError(f"{path} is missing or empty, so there is nothing to repair")
    if mcap_writer.in_use(folder):
        raise DatasetError(f"{folder} is being recorded; end the episode first")
    if folder != target and target.exists():
        raise DatasetError(f"{target} exists already; move it away, then repair {folder}")


def _copy_readable(folder: Path, target: Path, report: ReadReport) -> int:
    """Copies all readable messages and the newest metadata; returns the bytes lost at the end."""
    writer = BagWriter(target, {})
    for message in read_messages(folder, None, report):
        try:
            copy_message(writer, message)
        except DatasetError:  # an unknown type
            report.unknown_messages += 1
    if not writer.topics:
        writer.abandon()
        rmtree(mcap_writer.partial_path(target))
        raise DatasetError(f"{folder} has no readable message, so there is nothing to repair")
    lost_bytes = (folder / mcap_writer.FILE).stat().st_size - report.readable_bytes
    metadata = {"outcome": "interrupted", **report.metadata}
    if _has_metadata(folder):  # it may have been relabelled since
        metadata |= read_metadata(folder)
    metadata["repaired"] = f"{lost_bytes} bytes and {report.damaged_chunks} chunks were lost"
    writer.finish(metadata)
    return lost_bytes


def _unused(folder: Path) -> Path:
    """`folder`, or the same name with a number if that exists."""
    names = (folder, *(folder.with_name(f"{n}.{folder.name}") for n in range(2, 1000)))
    return next(path for path in names if not path.exists())


def _repair_result(folder: Path, report: ReadReport, lost_bytes: int) -> RepairResult:
    counts, times = Counter[str](), list[int]()
    for message in read_messages(folder):
        counts[message.topic] += 1
        times.append(message.received)
    seconds, damaged = (max(times) - min(times)) / NANO, report.damaged_chunks
    return RepairResult(
        folder, dict(counts), seconds, lost_bytes, damaged, report.unknown_messages
    )
