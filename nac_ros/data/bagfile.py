"""Reads an episode's MCAP file, whole or cut off, and mends what was cut off."""

import os
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import yaml
from mcap.exceptions import McapError
from mcap.records import Channel, Chunk, McapRecord, Metadata, Schema
from mcap.records import Message as Record
from mcap.stream_reader import StreamReader, breakup_chunk

from nac_ros.data import bag
from nac_ros.data.bag import BagWriter
from nac_ros.errors import DatasetError

REPAIRED, DAMAGED = ".repaired", ".damaged"
RECORD_LIMIT = 1 << 30  # [bytes] a longer record is no record
NANO = 1e9
DAMAGE = (McapError, EOFError, ValueError, MemoryError, struct.error)  # as the library meets it


class Message(NamedTuple):
    """One serialized message; times [ns]; topic as it was recorded, from the root."""

    topic: str
    kind: str
    received: int
    published: int
    data: bytes


@dataclass
class Reading:
    """What was found on the way: facts, whether the file ends as it should, what was damaged.

    whole: up to which byte the file could be read
    """

    facts: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    damaged: int = 0
    whole: int = 0
    kinds: dict[str, str] = field(default_factory=dict)


def is_episode(folder: Path) -> bool:
    """Whether the folder holds a finished recording."""
    unfinished = (bag.PARTIAL, bag.DISCARDED, DAMAGED, REPAIRED)
    return (folder / bag.FILE).is_file() and not folder.name.endswith(unfinished)


def facts_of(folder: Path) -> dict[str, str]:
    """What the recorder wrote beside an episode; raises DatasetError without metadata.yaml."""
    path = folder / bag.METADATA
    try:
        content = yaml.safe_load(path.read_text())["rosbag2_bagfile_information"]
        return {key: str(value) for key, value in (content.get("custom_data") or {}).items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path} is missing or broken; run `nac data repair {folder}`"
        ) from error


def messages(
    folder: Path, topics: Collection[str] | None = None, reading: Reading | None = None
) -> Iterator[Message]:
    """Messages in the order they were written, of all topics or of some.

    reading: is filled on the way; without one, damage raises DatasetError
    """
    path, found = folder / bag.FILE, reading or Reading()
    channels: dict[int, tuple[str, str]] = {}
    schemas: dict[int, str] = {}
    for record in _records(path, found):
        if isinstance(record, Schema):
            schemas[record.id] = record.name
        elif isinstance(record, Channel):
            channels[record.id] = (record.topic, schemas[record.schema_id])
            found.kinds[record.topic] = schemas[record.schema_id]
        elif isinstance(record, Metadata) and record.name == bag.FACTS:
            found.facts.update(record.metadata)
        elif isinstance(record, Record):
            topic, kind = channels[record.channel_id]
            if topics is None or topic in topics:
                yield Message(topic, kind, record.log_time, record.publish_time, record.data)
    if reading is None and (found.damaged or not found.complete):
        what = f"{found.damaged} damaged chunks" if found.damaged else "cut off"
        raise DatasetError(f"{path} is damaged ({what}); run `nac data repair {folder}`")


def is_whole(folder: Path) -> bool:
    """Whether every byte of an episode can be read, and its metadata is there."""
    reading = Reading()
    for _ in messages(folder, (), reading):
        pass
    return reading.complete and not reading.damaged and (folder / bag.METADATA).is_file()


class Repaired(NamedTuple):
    """What became of a damaged episode: where it is now, messages by topic, its length [s], how
    many bytes at its end and how many chunks before could not be read."""

    folder: Path
    messages: dict[str, int]
    seconds: float
    lost_bytes: int
    damaged: int

    def __str__(self) -> str:
        kept = sum(self.messages.values())
        lost = f"{self.lost_bytes} bytes at its end" if self.lost_bytes else "nothing at its end"
        lost += f" and {self.damaged} chunks before were lost" if self.damaged else " was lost"
        return f"{self.folder}: {kept} messages of {self.seconds:.1f} s are kept; {lost}"


def repair(folder: Path) -> Repaired:
    """Writes a whole file from what can be read, under the episode's own name; the damaged one
    stays beside it as `<name>.damaged`. Raises DatasetError where there is nothing to read."""
    name = folder.name.removesuffix(bag.PARTIAL)
    target = folder.with_name(name)
    path, reading = folder / bag.FILE, Reading()
    if not path.is_file() or not path.stat().st_size:
        raise DatasetError(f"{path} holds nothing, so there is nothing to repair")
    work = folder.with_name(name + REPAIRED)
    if bag.partial_of(work).exists():
        bag.remove(bag.partial_of(work))  # of a repair that was cut off itself
    writer = BagWriter(work, {})
    for message in messages(folder, None, reading):
        if message.topic not in writer.contents.topics:
            writer.open_topic(message.topic, message.kind)
        writer.write(message.topic, message.received, message.published, message.data)
    if not writer.contents.topics:
        writer.abandon()
        bag.remove(bag.partial_of(work))
        raise DatasetError(f"{path} holds no whole message, so there is nothing to repair")
    lost = path.stat().st_size - reading.whole
    facts = {"outcome": "interrupted", **reading.facts}
    writer.finish({**facts, "repaired": f"{lost} bytes and {reading.damaged} chunks were lost"})
    os.replace(folder, folder.with_name(name + DAMAGED))
    os.replace(work, target)
    extent = writer.contents.extent
    counts = {topic: seen.messages for topic, seen in writer.contents.topics.items()}
    return Repaired(target, counts, (extent.last - extent.first) / NANO, lost, reading.damaged)


def _records(path: Path, reading: Reading) -> Iterator[McapRecord]:
    """Every record up to where the file is cut off; chunks that are damaged are left out."""
    with path.open("rb") as stream:
        reader = StreamReader(stream, emit_chunks=True, record_size_limit=RECORD_LIMIT)
        records = reader.records
        while True:
            try:
                record = next(records)
            except StopIteration:
                reading.complete = True
                return
            except DAMAGE:
                return
            inside = _opened(record)
            if inside is None and stream.tell() == path.stat().st_size:
                return  # the last chunk is not whole
            reading.whole = stream.tell()
            reading.damaged += inside is None
            yield from inside or ()


def _opened(record: McapRecord) -> list[McapRecord] | None:
    """The record, or what a chunk is made of; None where its CRC does not hold."""
    if not isinstance(record, Chunk):
        return [record]
    try:
        return breakup_chunk(record, validate_crc=True)
    except DAMAGE:
        return None
