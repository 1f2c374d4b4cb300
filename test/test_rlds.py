"""TFRecord folders: checksums, packed and unpacked protobuf lists, real BridgeData."""

import json
import struct
from pathlib import Path

import cv2
import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nac_ros.core.errors import DatasetError
from nac_ros.datasets import tfrecord
from nac_ros.datasets.factory import open_dataset
from nac_ros.datasets.rlds import RldsDataset

STEPS = 4


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(values, packed: bool = True) -> bytes:
    """A tf.train.Feature of bytes, floats or ints."""
    if isinstance(values, list) and values and isinstance(values[0], bytes):
        return field(1, b"".join(field(1, value) for value in values))
    if np.asarray(values).dtype.kind == "f":
        items = [struct.pack("<f", value) for value in values]
        one = b"".join(varint(1 << 3 | 5) + item for item in items)
        return field(2, field(1, b"".join(items)) if packed else one)
    items = [varint(int(value)) for value in values]
    one = b"".join(varint(1 << 3) + item for item in items)
    return field(3, field(1, b"".join(items)) if packed else one)


def example(features: dict, packed: bool = True) -> bytes:
    entries = [
        field(1, field(1, key.encode()) + field(2, feature(values, packed)))
        for key, values in features.items()
    ]
    return field(1, b"".join(entries))


def framed(data: bytes) -> bytes:
    def checksum(part: bytes) -> bytes:
        crc = google_crc32c.value(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)


def jpeg(value: int) -> bytes:
    return cv2.imencode(".jpg", np.full((8, 12, 3), value, np.uint8))[1].tobytes()


def write_folder(root: Path, rewards=(0.0, 0.0, 0.0, 0.0)) -> None:
    """Two files of one episode each."""

    def tensor(*shape: int) -> dict:
        return {"tensor": {"shape": {"dimensions": [str(n) for n in shape]}}}

    image = {"image": {"shape": {"dimensions": ["8", "12", "3"]}, "encodingFormat": "jpeg"}}
    observation = {"state": tensor(3), "top": image}
    steps = {
        "action": tensor(2),
        "reward": {"tensor": {"shape": {}}},
        "language_instruction": {},
        "observation": {"featuresDict": {"features": observation}},
    }
    sequence = {"sequence": {"feature": {"featuresDict": {"features": steps}}}}
    root.mkdir(exist_ok=True)
    described = {"featuresDict": {"features": {"steps": sequence}}}
    (root / "features.json").write_text(json.dumps(described))
    for n in range(2):
        values = {
            "steps/action": np.arange(2.0 * STEPS) + n,
            "steps/observation/state": np.arange(3.0 * STEPS) - n,
            "steps/observation/top": [jpeg(20 * k) for k in range(STEPS)],
            "steps/language_instruction": [b"go %d" % n] * STEPS,
            "steps/reward": list(rewards),
        }
        (root / f"some-train.tfrecord-{n:05d}-of-00002").write_bytes(framed(example(values)))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False), max_size=20),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20),
    st.lists(st.binary(max_size=300), min_size=1, max_size=5),
    st.booleans(),
)
def test_packed_and_unpacked_lists_of_an_example_are_read(floats, ints, texts, packed):
    values = {"f": np.array(floats, np.float32), "i": np.array(ints, np.int64), "b": texts}
    found = tfrecord.parse_example(memoryview(example(values, packed)))
    np.testing.assert_array_equal(found["f"], values["f"])
    np.testing.assert_array_equal(found["i"], values["i"])
    assert [bytes(text) for text in found["b"]] == texts


def test_a_folder_is_read_in_the_order_of_its_files(tmp_path):
    write_folder(tmp_path)
    dataset = open_dataset(tmp_path)
    assert isinstance(dataset, RldsDataset) and dataset.fps == 0
    assert dataset.cameras == {"top": (8, 12)} and dataset.tasks == ["go 0", "go 1"]
    assert dataset.names == ("action.0", "action.1") and len(dataset.state_names) == 3
    episode = dataset.episode(1)
    np.testing.assert_array_equal(episode.actions, np.arange(8.0).reshape(4, 2) + 1)
    np.testing.assert_array_equal(episode.proprio, np.arange(12.0).reshape(4, 3) - 1)
    assert episode.images["top"][:, 0, 0, 0].tolist() == [0, 20, 40, 60]
    assert episode.task == "go 1" and episode.success is None


def test_the_state_as_action_is_the_next_state(tmp_path):
    write_folder(tmp_path, rewards=(0.0, 0.0, 0.0, 1.0))
    episode = open_dataset(tmp_path, "observation/state", "observation/state").episode(0)
    states = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(episode.actions, states[1:])
    np.testing.assert_array_equal(episode.proprio, states[:-1])
    assert len(episode.images["top"]) == 3 and episode.success is True


def test_an_unknown_key_lists_the_known_ones(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(DatasetError, match=r"'poses'.*action, observation/state"):
        open_dataset(tmp_path, "poses")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda content: content[:-40], "ends inside record 0"),
        (lambda content: content[:3] + b"\x07" + content[4:], "damaged or no TFRecord at byte 0"),
        (lambda content: b"", "is empty"),
    ],
)
def test_a_truncated_file_or_no_tfrecord_is_rejected(tmp_path, damage, word):
    write_folder(tmp_path)
    path = tmp_path / "some-train.tfrecord-00001-of-00002"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=word):
        open_dataset(tmp_path)


def test_a_flipped_bit_is_detected_by_the_checksum(tmp_path):
    write_folder(tmp_path)
    path = tmp_path / "some-train.tfrecord-00000-of-00002"
    content = bytearray(path.read_bytes())
    content[content.index(jpeg(40)) + 200] ^= 4
    path.write_bytes(content)
    dataset = open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="record 0 is damaged"):
        dataset.episode(0)
    assert len(dataset.episode(1)) == STEPS


def test_bridge_data_is_read_with_its_images_and_language(nac_data):
    dataset = open_dataset(nac_data / "bridge_debug")
    assert [info.length for info in dataset.episodes] == [10] * 25 and dataset.fps == 5
    assert "put carrot on plate" in dataset.tasks and len(dataset.cameras) == 4
    episode = dataset.episode(24)
    assert episode.actions.shape == (10, 7) and np.isfinite(episode.actions).all()
    assert all(np.ptp(episode.images[f"image_{k}"]) > 100 for k in range(3))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[1]",
        b"{" * 5000,
        b'{"featuresDict": 5}',
        b'{"featuresDict": {"features": 7}}',
        b'{"featuresDict": {"features": {"steps": {"sequence": {"feature": []}}}}}',
    ],
)
def test_damaged_features_json_is_rejected_in_one_sentence(tmp_path, content):
    (tmp_path / "features.json").write_bytes(content)
    with pytest.raises(DatasetError, match=r"features\.json") as caught:
        RldsDataset.open(tmp_path)
    assert "\n" not in str(caught.value)
