"""Reads the records of an untrusted MCAP file; lengths, sizes and checksums are checked first.

The mcap library trusts the lengths in a file: it would allocate an exabyte for a record, or
decompress a chunk to a terabyte. Here a record is read only if it fits into the file, and a chunk
is decompressed only up to the size in its header, which is limited. Format: https://mcap.dev/spec
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.exceptions import EndOfFile, McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, ChunkIndex, Footer, Metadata, Schema, Statistics

from nac_ros.core.errors import show_text

MAGIC = b"\x89MCAP0\r\n"
MAX_DATA_RECORD = 128 << 20  # [bytes] of a chunk or a message; an 8K image has 100 MB
MAX_OTHER_RECORD = 16 << 20  # [bytes]
MAX_CHUNK = 128 << 20  # [bytes] of a decompressed chunk
MAX_RECORDS = 1 << 20  # in one chunk
HEAD = struct.Struct("<BQ")  # opcode and length
MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
# What a damaged record raises. Any other exception is not damage: with a decompressor that is not
# installed, a sound recording must not count as damaged.
DAMAGE = (
    McapError,
    EOFError,
    ValueError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
DATA_RECORDS = (Opcode.CHUNK, Opcode.MESSAGE)
SKIPPED_RECORDS = (Opcode.MESSAGE_INDEX, Opcode.ATTACHMENT)  # this package stores no data there
RECORD_TYPES: dict[int, Any] = {
    Opcode.SCHEMA: Schema,
    Opcode.CHANNEL: Channel,
    Opcode.METADATA: Metadata,
}
SUMMARY_TYPES: dict[int, Any] = {
    Opcode.CHUNK_INDEX: ChunkIndex,
    Opcode.STATISTICS: Statistics,
    Opcode.FOOTER: Footer,
}


class RawMessage(NamedTuple):
    """A serialized message; times [ns]."""

    channel: int
    received: int
    published: int
    data: bytes


Record = Schema | Channel | Metadata | RawMessage


class FilePart(NamedTuple):
    """One record of the file, or all records of a chunk.

    end: offset of the byte after it
    records: None if the part is damaged
    complete: whether this is a valid end of the file
    """

    end: int
    records: list[Record] | None
    complete: bool = False


def read_parts(stream: BinaryIO, size: int) -> Iterator[FilePart]:
    """Every record of a file of `size` bytes, up to the first that does not fit into it.

    A part whose content is damaged has `records` None; reading continues after it.
    """
    # A file is: magic, records, footer, magic. Each record is an opcode, a length and a content.
    # An implausible length leaves no way to find the next record, so reading ends there.
    if stream.read(len(MAGIC)) != MAGIC:
        return
    while len(head := stream.read(HEAD.size)) == HEAD.size:
        opcode, length = HEAD.unpack(head)
        end = stream.tell() + length
        if length > (MAX_DATA_RECORD if opcode in DATA_RECORDS else MAX_OTHER_RECORD):
            return
        if end > size:
            return
        if opcode in SKIPPED_RECORDS:
            stream.seek(end)
            yield FilePart(end, [])
            continue
        try:
            records = _parse(opcode, stream.read(length))
        except DAMAGE:
            records = None
        if opcode == Opcode.FOOTER:
            if records is not None:
                yield FilePart(end, [], stream.read(len(MAGIC)) == MAGIC)
            return
        yield FilePart(end, records)


def _parse(opcode: int, content: bytes) -> list[Record]:
    """Messages, schemas, channels and metadata in a record; raises one of DAMAGE."""
    if opcode == Opcode.CHUNK:
        chunk = Chunk.read(_CheckedStream(content))
        return list(_chunk_records(decompress_chunk(chunk)))
    if opcode in SUMMARY_TYPES:
        SUMMARY_TYPES[opcode].read(_CheckedStream(content))  # only checked
    record = _parse_record(opcode, content)
    return [] if record is None else [record]


def _chunk_records(content: bytes) -> Iterator[Record]:
    """Records of a decompressed chunk."""
    position = count = 0
    while position < len(content):
        if (count := count + 1) > MAX_RECORDS:
            raise ValueError(f"a chunk of more than {MAX_RECORDS} records")
        opcode, length = HEAD.unpack_from(content, position)
        position += HEAD.size
        if length > len(content) - position:
            raise EndOfFile()
        record = _parse_record(opcode, content[position : position + length])
        if record is not None:
            yield record
        position += length


def _parse_record(opcode: int, content: bytes) -> Record | None:
    """A message, schema, channel or metadata; None for other records."""
    if opcode == Opcode.MESSAGE:
        channel, _, received, published = MESSAGE.unpack_from(content)
        return RawMessage(channel, received, published, content[MESSAGE.size :])
    if opcode in RECORD_TYPES:
        return RECORD_TYPES[opcode].read(_CheckedStream(content))
    return None


class _CheckedStream(ReadDataStream):
    """Raises EndOfFile if a record is shorter than its fields need."""

    def __init__(self, content: bytes):
        super().__init__(BytesIO(content))

    def read(self, length: int) -> bytes:
        data = super().read(length) if length else b""
        if len(data) < length:
            raise EndOfFile()
        return data


def decompress_chunk(chunk: Chunk) -> bytes:
    """The content of a chunk; raises one of DAMAGE before it allocates more than MAX_CHUNK."""
    if chunk.uncompressed_size > MAX_CHUNK:
        raise ValueError(f"a chunk of {chunk.uncompressed_size} bytes, more than {MAX_CHUNK}")
    if chunk.compression not in DECOMPRESSORS:
        raise ValueError(f"unknown compression {show_text(chunk.compression, 20)}")
    # One byte more than the header states, to detect a header with too small a size.
    content = DECOMPRESSORS[chunk.compression](chunk.data, chunk.uncompressed_size + 1)
    if len(content) != chunk.uncompressed_size:
        raise ValueError("the chunk's size differs from its header")
    if chunk.uncompressed_crc and zlib.crc32(content) != chunk.uncompressed_crc:
        raise ValueError("the chunk's CRC does not match")
    return content


def _zstd(data: bytes, max_bytes: int) -> bytes:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK)
    try:
        with decompressor.stream_reader(BytesIO(data)) as stream:
            return stream.read(max_bytes)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _lz4(data: bytes, max_bytes: int) -> bytes:
    import lz4.frame

    try:
        return lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=max_bytes)
    except RuntimeError as error:  # the library's only error
        raise ValueError(str(error)) from error


DECOMPRESSORS: dict[str, Callable[[bytes, int], bytes]] = {
    "": lambda data, max_bytes: data,
    "zstd": _zstd,
    "lz4": _lz4,
}
