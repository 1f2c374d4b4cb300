"""Damaged and forged recordings are read, checked and repaired without a traceback."""

import json
import random
import struct
import zlib
from functools import partial
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest

pytest.importorskip("mcap")
pytest.importorskip("rosbags")

import lz4.frame
import yaml
import zstandard
from fuzz import HOSTILE_VALUES, damage_bytes, damage_tree, nested, pickle_payload, run_cases
from test_mcap import JOINTS, T0, TEXT, serialize
from test_resampler import (
    PROMPT,
    image_message,
    joint_state_message,
    jpeg_message,
    write_recording,
)

from nac_ros.cli.main import main
from nac_ros.core import image_codec
from nac_ros.core.errors import BadObservation, DatasetError
from nac_ros.datasets.mcap import container, reader
from nac_ros.datasets.mcap import writer as mcap_writer
from nac_ros.datasets.mcap.dataset import RecordingDataset, robot_metadata
from nac_ros.datasets.mcap.editing import relabel
from nac_ros.datasets.mcap.topics import COMPRESSED, IMAGE
from nac_ros.datasets.mcap.validate import check_recordings
from nac_ros.datasets.mcap.writer import BagWriter
from nac_ros.robot.spec import load_robot

CHUNK = 0x06
PACKERS = {"": bytes, "zstd": zstandard.compress, "lz4": lz4.frame.compress}


def records(content: bytes) -> list[tuple[int, bytes]]:
    """(opcode, content) of every record of an undamaged file."""
    found, at = [], len(container.MAGIC)
    while at + container.HEAD.size < len(content):
        opcode, length = container.HEAD.unpack_from(content, at)
        at += container.HEAD.size + length
        found.append((opcode, content[at - length : at]))
    return found


def joined(parts: list[tuple[int, bytes]]) -> bytes:
    body = b"".join(container.HEAD.pack(code, len(part)) + part for code, part in parts)
    return container.MAGIC + body + container.MAGIC


def chunk(content: bytes, compression: str = "", size: int | None = None) -> bytes:
    """Content of a chunk record with a correct CRC; `size`: the size stated in its header."""
    packed, name = PACKERS[compression](content), compression.encode()
    head = struct.pack(
        "<QQQI", T0, T0, len(content) if size is None else size, zlib.crc32(content)
    )
    return head + struct.pack("<I", len(name)) + name + struct.pack("<Q", len(packed)) + packed


def chunk_content(part: bytes) -> bytes:
    """The content of an uncompressed chunk."""
    (length,) = struct.unpack_from("<I", part, 28)
    return part[40 + length :]


def damage_chunk(content: bytes, rng: random.Random) -> bytes:
    """A file with one chunk damaged inside, with a new CRC, often compressed."""
    parts = records(content)
    at = rng.choice([i for i, (code, _) in enumerate(parts) if code == CHUNK])
    inside = damage_bytes(chunk_content(parts[at][1]), rng)
    size = rng.choice((None, None, 0, 2**63, len(inside) + 1))
    parts[at] = CHUNK, chunk(inside, rng.choice(list(PACKERS)), size)
    return joined(parts)


def damage_record(content: bytes, rng: random.Random) -> bytes:
    """A file with a record left out, repeated, moved, or of another type."""
    parts = records(content)
    at, to = rng.randrange(len(parts)), rng.randrange(len(parts))
    choice = rng.random()
    if choice < 0.3:
        del parts[at]
    elif choice < 0.6:
        parts.insert(to, parts[at])
    elif choice < 0.8:
        parts[at], parts[to] = parts[to], parts[at]
    else:
        parts[at] = rng.randrange(20), damage_bytes(parts[at][1], rng)
    return joined(parts)


def rewrite(folder: Path, target: Path, rng: random.Random) -> None:
    """Writes the episode with some invalid messages."""
    facts, rows = reader.read_metadata(folder), list(reader.read_messages(folder))
    for _ in range(rng.choice((1, 2, 8))):
        at, other = rng.randrange(len(rows)), rng.choice(rows)
        row, far = rows[at], rng.choice((0, 1, 2**63 - 1, 2**64 - 1, T0 * 2))
        variants = [
            row._replace(data=damage_bytes(row.data, rng)),
            row._replace(data=row.data[: rng.randint(0, 32)]),
            row._replace(data=other.data),
            row._replace(received=far),
            row._replace(data=row.data[:4] + rng.randbytes(8) + row.data[12:]),
        ]
        rows[at] = rng.choice(variants)
    if rng.random() < 0.3:
        robot = damage_tree(yaml.safe_load(facts["robot_yaml"]), rng)
        facts["robot_yaml"] = json.dumps(robot)
    writer = BagWriter(target, {key: value.replace("\ud800", "") for key, value in facts.items()})
    for row in rows:
        reader.copy_message(writer, row)
    writer.finish()


def damage_metadata(path: Path, folder: Path, rng: random.Random) -> bytes:
    choice = rng.random()
    if choice < 0.5:
        values = [value for value in HOSTILE_VALUES if value != "\ud800"]
        return yaml.safe_dump(damage_tree(yaml.safe_load(path.read_text()), rng, values)).encode()
    if choice < 0.8:
        return damage_bytes(path.read_bytes(), rng)
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 12))
    return rng.choice(
        (
            b"",
            pickle_payload(folder / "executed"),
            bomb.encode(),
            nested(5000).encode(),
            b"!!python/object/apply:os.system ['touch executed']",
            b"a: " + b"1:" * 5000 + b"1",
            b"a: " + b"9" * 5000,
            b"a: 2001-99-99",
            b"[a, b]",
            b"\xff\xfe\x00",
        )
    )


def read_everything(folder: Path, repaired: bool) -> None:
    """Reads a recording in every way; `check_recordings` must not raise."""
    findings = check_recordings(folder.parent)
    assert all("\n" not in str(finding) for finding in findings)
    if repaired:
        reader.repair(folder)
    dataset = RecordingDataset.open(folder.parent)
    for index in range(len(dataset.episodes)):
        episode = dataset.episode(index)
        assert np.isfinite(episode.actions).all() and np.isfinite(episode.proprio).all()


def recording_cases(folder: Path, seed: int, count: int):
    """Damages the file, the content of chunks, single messages, or metadata.yaml."""
    rng, whole, place = random.Random(seed), folder / "whole" / "a", folder / "damaged"
    read_everything(whole, False)
    content = (whole / mcap_writer.FILE).read_bytes()
    for n in range(count):
        rmtree(place, ignore_errors=True)
        kind = rng.choice(("bytes", "chunk", "chunk", "record", "messages", "metadata"))
        if kind == "messages":
            place.mkdir()
            rewrite(whole, place / "a", rng)
        else:
            copytree(whole, place / "a")
        if kind == "metadata":
            path = place / "a" / mcap_writer.METADATA
            path.write_bytes(damage_metadata(path, folder, rng))
        elif kind != "messages":
            change = {"bytes": damage_bytes, "chunk": damage_chunk, "record": damage_record}[kind]
            (place / "a" / mcap_writer.FILE).write_bytes(change(content, rng))
        yield f"case {n}: {kind}", partial(read_everything, place / "a", rng.random() < 0.5)


@pytest.mark.timeout(300)
def test_500_damaged_recordings_are_rejected_reported_or_harmless(tmp_path):
    write_recording(tmp_path / "whole" / "a", seconds=0.5, wrist=(COMPRESSED, jpeg_message))
    result = run_cases(__file__, "recording_cases", tmp_path)
    assert result["rejected"] > 100 and result["accepted"] > 50
    assert not (tmp_path / "executed").exists()


def bomb(compression: str, stated: int) -> bytes:
    """A file whose only chunk decompresses to a gigabyte of zeros; its header states `stated`."""
    block = bytes(1 << 20)
    if compression == "zstd":
        packer = zstandard.ZstdCompressor().compressobj()
        packed = b"".join([*(packer.compress(block) for _ in range(1024)), packer.flush()])
    else:
        packer = lz4.frame.LZ4FrameCompressor()
        packed = packer.begin() + b"".join(packer.compress(block) for _ in range(1024))
        packed += packer.flush()
    name = compression.encode()
    head = struct.pack("<QQQI", T0, T0, stated, 0) + struct.pack("<I", len(name)) + name
    return joined([(CHUNK, head + struct.pack("<Q", len(packed)) + packed)])


def bomb_cases(folder: Path, seed: int, count: int):
    for place in sorted(folder.glob("*/*")):
        yield place.parent.name, lambda place=place: list(reader.read_messages(place))


def test_a_chunk_is_decompressed_only_up_to_the_limited_size_in_its_header(tmp_path):
    for compression in ("zstd", "lz4"):
        for stated in (1 << 30, 1 << 20, 2**63):
            place = tmp_path / f"{compression}-{stated}" / "a"
            place.mkdir(parents=True)
            (place / mcap_writer.FILE).write_bytes(bomb(compression, stated))
    assert run_cases(__file__, "bomb_cases", tmp_path, count=6)["rejected"] == 6


@pytest.mark.parametrize("compression", list(PACKERS))
def test_chunks_of_every_compression_are_read(tmp_path, compression):
    folder = write_recording(tmp_path / "a", seconds=0.5)
    wanted = list(reader.read_messages(folder))
    parts = records((folder / mcap_writer.FILE).read_bytes())
    packed = [(c, chunk(chunk_content(p), compression) if c == CHUNK else p) for c, p in parts]
    (folder / mcap_writer.FILE).write_bytes(joined(packed))
    assert list(reader.read_messages(folder)) == wanted


def test_a_message_of_an_unknown_channel_is_reported_and_left_out_by_repair(tmp_path, capsys):
    folder = write_recording(tmp_path / "a", seconds=0.5)
    parts = records((folder / mcap_writer.FILE).read_bytes())
    at = next(i for i, (code, _) in enumerate(parts) if code == CHUNK)
    lost = container.MESSAGE.pack(999, 0, T0, T0) + b"data"
    inside = chunk_content(parts[at][1]) + container.HEAD.pack(0x05, len(lost)) + lost
    parts[at] = CHUNK, chunk(inside)
    (folder / mcap_writer.FILE).write_bytes(joined(parts))
    with pytest.raises(DatasetError, match=r"1 messages of unknown channels.*nac data repair"):
        list(reader.read_messages(folder))
    assert any("damaged" in str(finding) for finding in check_recordings(tmp_path))
    assert main(["data", "repair", str(tmp_path)]) == 0
    assert "1 messages of unknown channels or types were left out" in capsys.readouterr().out
    assert check_recordings(tmp_path) == []


def write_with_message(folder: Path, topic: str, message_type: str, data: bytes) -> Path:
    """An episode with one additional message."""
    writer = BagWriter(folder, {"task": PROMPT, **robot_metadata(load_robot("vx300s"))})
    for name, of in (
        {"joint_states": JOINTS, "scene/image_raw": IMAGE} | {topic: message_type}
    ).items():
        writer.add_topic(name, of)
    for k in range(40):
        stamp = T0 + k * 33_333_333
        writer.write(
            "joint_states", stamp, stamp, joint_state_message(stamp, load_robot("vx300s").home)
        )
        writer.write("scene/image_raw", stamp, stamp, image_message(stamp, k))
    writer.write(topic, T0 + 2 * 10**9, T0, data)
    return writer.finish({"outcome": "success"})


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_set_point_that_is_not_finite_is_rejected(tmp_path, value):
    write_with_message(
        tmp_path / "a", "guard/command", JOINTS, joint_state_message(T0, [value] * 7)
    )
    findings = [str(finding) for finding in check_recordings(tmp_path)]
    assert any("1 messages rejected: not_finite" in text for text in findings)


@pytest.mark.parametrize(
    ("topic", "message_type", "data"),
    [
        ("joint_states", JOINTS, b""),
        ("joint_states", JOINTS, b"\0\1\0\0" + b"\xff" * 40),
        ("scene/image_raw", IMAGE, image_message(T0, 0)[:-1]),
        ("scene/image_raw", TEXT, serialize(TEXT, data="no image")),
        ("guard/command", JOINTS, joint_state_message(T0, [0.0] * 7)[:60]),
        ("guard/mode", TEXT, b"\0"),
    ],
)
def test_an_invalid_message_is_a_finding_of_its_episode_only(tmp_path, topic, message_type, data):
    write_with_message(tmp_path / "a", topic, message_type, data)
    write_recording(tmp_path / "b")
    findings = [str(finding) for finding in check_recordings(tmp_path)]
    assert any(f"episode 0: a: topic /{topic}, message received at" in text for text in findings)
    assert not any("episode 1" in text for text in findings)
    with pytest.raises(DatasetError, match=rf"topic /{topic}, message received at \d+ ns"):
        RecordingDataset.open(tmp_path)
    assert main(["data", "check", str(tmp_path)]) == 2


def test_invalid_metadata_is_repaired_from_the_mcap_file(tmp_path):
    folder = write_recording(tmp_path / "a")
    for text in ("", "[]", "rosbag2_bagfile_information: 3", "a: &x [1]\nb: *x"):
        (folder / mcap_writer.METADATA).write_text(text)
        with pytest.raises(DatasetError, match="nac data repair"):
            relabel(folder, {"task": "x"})
        assert not reader.is_intact(folder)
        reader.repair(folder)
        assert reader.read_metadata(folder)["task"] == PROMPT


def test_an_image_of_a_billion_pixels_is_rejected(tmp_path):
    chunk_type, body = b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk_type + body
    png += struct.pack(">I", zlib.crc32(chunk_type + body))
    rows = zlib.compress(bytes(30_001 * 100))  # the rest of the rows is missing
    png += struct.pack(">I", len(rows)) + b"IDAT" + rows + struct.pack(">I", 0)
    small = image_codec.encode_jpeg(np.zeros((96, 96, 3), np.uint8), 90)
    at = small.index(b"\xff\xc0") + 5
    large = small[:at] + struct.pack(">HH", 30_000, 30_000) + small[at + 4 :]
    assert image_codec.decode_image(small).shape == (96, 96, 3)
    for picture_file in (png, large):
        with pytest.raises(BadObservation, match="30000x30000"):
            image_codec.decode_image(picture_file)
    data = serialize(COMPRESSED, stamp=T0, format="png", data=np.frombuffer(png, np.uint8))
    write_with_message(tmp_path / "a", "wrist/image_raw/compressed", COMPRESSED, data)
    findings = [str(finding) for finding in check_recordings(tmp_path)]
    assert any("messages rejected: image" in text for text in findings)
