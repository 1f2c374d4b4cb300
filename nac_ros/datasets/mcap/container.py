"""Reads the records of an untrusted MCAP file; lengths, sizes and checksums are checked first.

The mcap library trusts a file's lengths: a record of an exabyte, a chunk that decompresses to a
terabyte. Here a record is read only if it fits into the file, and a chunk is decompressed only up
to the size in its header, which is limited.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.exceptions import EndOfFile, McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, ChunkIndex, Footer, Metadata, Schema, Statistics

from nac_ros.core.errors import show_text

MAGIC = b"\x89MCAP0\r\n"
MAX_RECORD = 128 << 20  # bytes of a chunk or a message; an image of 8K has 100 MB
MAX_FACTS = 16 << 20  # bytes of any other record
MAX_CHUNK = 128 << 20  # bytes of a decompressed chunk
MAX_RECORDS = 1 << 20  # in one chunk
HEAD = struct.Struct("<BQ")  # opcode and length
MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
DAMAGE = (
    McapError,
    EOFError,
    ValueError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
LARGE = (Opcode.CHUNK, Opcode.MESSAGE)
INDEX = (Opcode.MESSAGE_INDEX, Opcode.ATTACHMENT)  # skipped: they hold no data of ours


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
    if stream.read(len(MAGIC)) != MAGIC:
        return
    while len(head := stream.read(HEAD.size)) == HEAD.size:
        opcode, length = HEAD.unpack(head)
        end = stream.tell() + length
        if length > (MAX_RECORD if opcode in LARGE else MAX_FACTS) or end > size:
            return
        if opcode in INDEX:
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
    """The messages, schemas, channels and metadata in a record; raises one of DAMAGE."""
    if opcode == Opcode.CHUNK:
        return list(_inside(open_chunk(Chunk.read(_Strict(content)))))
    if opcode in _KEPT:
        return [_kept(opcode, content)]
    if opcode in _CHECKED:
        _CHECKED[opcode](_Strict(content))
    return []


def _inside(content: bytes) -> Iterator[Record]:
    """Records of a decompressed chunk."""
    at = count = 0
    while at < len(content):
        if (count := count + 1) > MAX_RECORDS:
            raise ValueError(f"a chunk of more than {MAX_RECORDS} records")
        opcode, length = HEAD.unpack_from(content, at)
        at += HEAD.size
        if length > len(content) - at:
            raise EndOfFile()
        if opcode in _KEPT:
            yield _kept(opcode, content[at : at + length])
        at += length


def open_chunk(chunk: Chunk) -> bytes:
    """The decompressed content of a chunk; raises one of DAMAGE before it allocates too much."""
    if chunk.uncompressed_size > MAX_CHUNK:
        raise ValueError(f"a chunk of {chunk.uncompressed_size} bytes, more than {MAX_CHUNK}")
    if chunk.compression not in _OPENERS:
        raise ValueError(f"unknown compression {show_text(chunk.compression, 20)}")
    content = _OPENERS[chunk.compression](chunk.data, chunk.uncompressed_size + 1)
    if len(content) != chunk.uncompressed_size:
        raise ValueError("the chunk's size differs from its header")
    if chunk.uncompressed_crc and zlib.crc32(content) != chunk.uncompressed_crc:
        raise ValueError("the chunk's CRC does not match")
    return content


def _stored(data: bytes, most: int) -> bytes:
    return data


def _zstd(data: bytes, most: int) -> bytes:
    import zstandard

    try:
        opener = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK)
        with opener.stream_reader(BytesIO(data)) as stream:
            return stream.read(most)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _lz4(data: bytes, most: int) -> bytes:
    import lz4.frame

    try:
        return lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=most)
    except RuntimeError as error:  # what the library raises
        raise ValueError(str(error)) from error


_OPENERS: dict[str, Callable[[bytes, int], bytes]] = {"": _stored, "zstd": _zstd, "lz4": _lz4}


class _Strict(ReadDataStream):
    """Raises EndOfFile if a record is shorter than its fields need."""

    def __init__(self, content: bytes):
        super().__init__(BytesIO(content))

    def read(self, length: int) -> bytes:
        data = super().read(length) if length else b""
        if len(data) < length:
            raise EndOfFile()
        return data


def _kept(opcode: int, content: bytes) -> Record:
    if opcode == Opcode.MESSAGE:
        channel, _, received, published = MESSAGE.unpack_from(content)
        return RawMessage(channel, received, published, content[MESSAGE.size :])
    return _KEPT[opcode](_Strict(content))


_KEPT: dict[int, Callable[[ReadDataStream], Record]] = {
    Opcode.SCHEMA: Schema.read,
    Opcode.CHANNEL: Channel.read,
    Opcode.METADATA: Metadata.read,
    Opcode.MESSAGE: lambda stream: _kept(Opcode.MESSAGE, stream.read(MAX_RECORD)),
}
_CHECKED: dict[int, Callable[[ReadDataStream], object]] = {
    Opcode.CHUNK_INDEX: ChunkIndex.read,
    Opcode.STATISTICS: Statistics.read,
    Opcode.FOOTER: Footer.read,
}
