"""Randomly damaged LeRobot folders give findings and NacErrors, never another exception."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz import HOSTILE_VALUES, damage_bytes, damage_tree, nested, pickle_payload, run_cases
from lerobot_folder import V3, V21, write_folder

from nac_ros.core.errors import NacError
from nac_ros.datasets.convert import ConversionConfig, to_lerobot
from nac_ros.datasets.factory import open_dataset
from nac_ros.datasets.lerobot import editing
from nac_ros.datasets.validate import check_path

MARKER = "executed"  # a file that a pickle in the data would create
CONVERTED_EVERY = 5  # cases of which one is also converted, and one edited


def quiet(done: int, total: int) -> None:
    """Reports no progress."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", [V3, V21])
def test_a_damaged_folder_gives_findings_and_messages(tmp_path, version):
    name = {V3: "damaged_v3", V21: "damaged_v21"}[version]
    result = run_cases(__file__, name, tmp_path, count=500)
    assert min(result.values()) >= 25, result  # neither is all sound nor all refused
    assert not (tmp_path / MARKER).exists(), "a pickle in the data was executed"


def damaged_v3(folder: Path, seed: int, count: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Damage to a v3.0 folder."""
    yield from damaged(folder, V3, seed, count)


def damaged_v21(folder: Path, seed: int, count: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Damage to a v2.1 folder."""
    yield from damaged(folder, V21, seed, count)


def damaged(
    folder: Path, version: str, seed: int, count: int
) -> Iterator[tuple[str, Callable[[], None]]]:
    """A copy of one valid folder with new damage for each case."""
    sound = write_folder(
        folder / "sound",
        version=version,
        lengths=(20, 20, 20),
        fps=29.97,
        images={"observation.image": (16, 16)},
        videos={"observation.images.top": (16, 16)},
        tasks=("pick", "place"),
        task_index=lambda episode, length: np.arange(length) // 10,
    )
    for number in range(count):
        rng = random.Random(f"{seed}/{version}/{number}")
        root = folder / "case"
        shutil.rmtree(root, ignore_errors=True)
        for left in (root.with_name("case.before"), folder / "out"):
            shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(sound, root)
        change = rng.choice(CHANGES)
        label = change(root, rng, folder / MARKER)
        yield f"case {number}: {change.__name__} {label}", partial(read_all, root, number)


def read_all(root: Path, number: int) -> None:
    """Reads a folder as the commands do; only NacError may be raised, and none by the check."""
    try:
        found = [str(finding) for finding in check_path(root)]
    except NacError as error:
        raise AssertionError(f"check raised: {error}") from error
    assert all(text and "\n" not in text for text in found), found
    dataset = open_dataset(root)
    _ = dataset.names, dataset.state_names, dataset.units, dataset.cameras, dataset.tasks
    for index in range(len(dataset.episodes)):
        episode = dataset.episode(index)
        assert len(episode) == len(episode.proprio) == len(episode.frame_tasks())
    if number % CONVERTED_EVERY == 0:
        to_lerobot([dataset], root.with_name("out"), ConversionConfig(), quiet)
    if number % CONVERTED_EVERY == 1:
        editing.discard(root, [0], quiet)


def damage_file(root: Path, rng: random.Random, marker: Path) -> str:
    """Changes bytes of any file."""
    path = choose(root, rng, "*")
    path.write_bytes(damage_bytes(path.read_bytes(), rng))
    return path.name


def damage_json(root: Path, rng: random.Random, marker: Path) -> str:
    """Changes values of info.json, or of a line of JSON."""
    path = rng.choice([root / "meta/info.json", *root.glob("meta/*.jsonl")])
    lines = [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines()
    at = rng.randrange(len(lines))
    if rng.random() < 0.05:
        lines[at] = nested(100_000, rng.choice(("list", "dict")))
    else:
        lines[at] = json.dumps(damage_tree(json.loads(lines[at]), rng))
    path.write_text("\n".join(lines))
    return path.name


def damage_info_value(root: Path, rng: random.Random, marker: Path) -> str:
    """Changes one value of info.json or of one of its features."""
    info = json.loads((root / "meta/info.json").read_text())
    holder = info if rng.random() < 0.5 else info["features"][rng.choice(list(info["features"]))]
    key = rng.choice([*holder, "data_path", "video_path", "units", "info"])
    values = (
        *HOSTILE_VALUES,
        -30,
        0.5,
        1e308,
        1e-320,
        [0],
        [-1, 2],
        [2.0],
        [10**9] * 3,
        [1, 16, 16],
        "../{episode_index}.parquet",
        "/{chunk_index}",
        "{chunk_index.__class__}",
        "{0}",
        "{{}}",
        "data/{episode_index:099999d}",
        "image",
        "video",
        "float32",
        {"motors": ["x", "y"]},
    )
    holder[key] = rng.choice(values)
    (root / "meta/info.json").write_text(json.dumps(info))
    return f"{key} = {str(holder[key])[:40]}"


def damage_column(root: Path, rng: random.Random, marker: Path) -> str:
    """Changes values or type of a column of any parquet file."""
    path = choose(root, rng, "*.parquet")
    table = pq.read_table(path)
    key = rng.choice(table.column_names)
    kind = rng.choice(COLUMNS)
    try:
        array = kind(table[key].combine_chunks(), rng, marker)
    except (pa.ArrowException, TypeError, ValueError):  # it cannot have that type
        array = pa.array([f"row {k}" for k in range(len(table))])
    at = table.schema.get_field_index(key)
    pq.write_table(table.set_column(at, pa.field(key, array.type), array), path)
    return f"{path.name} {key} {kind.__name__}"


def damage_rows(root: Path, rng: random.Random, marker: Path) -> str:
    """Removes, repeats or reorders rows and columns of any parquet file."""
    path = choose(root, rng, "*.parquet")
    table = pq.read_table(path)
    n = len(table)
    order = {
        "none": [],
        "half": list(range(n // 2)),
        "twice": [*range(n), *range(n)],
        "mixed": rng.sample(range(n), n),
        "one less": [k for k in range(n) if k != n // 2],
    }
    how = rng.choice([*order, "column"])
    if how == "column":
        key = rng.choice(table.column_names)
        changed = table.drop_columns([key])
        if rng.random() < 0.5:
            changed = table.append_column(key, table[key])
    else:
        changed = table.take(pa.array(order[how], pa.int64()))
    pq.write_table(changed, path)
    return f"{path.name} {how}"


def damage_folder(root: Path, rng: random.Random, marker: Path) -> str:
    """Removes files, or replaces them by folders, broken or circular links, or other files."""
    path, other = choose(root, rng, "*"), choose(root, rng, "*")
    how = rng.choice(("gone", "folder", "loop", "nowhere", "empty", "other"))
    content = other.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    if how in ("loop", "nowhere"):
        path.symlink_to(path if how == "loop" else root / "nowhere")
    if how in ("empty", "other"):
        path.write_bytes(content if how == "other" else b"")
    return f"{path.name} {how}"


def damage_image(root: Path, rng: random.Random, marker: Path) -> str:
    """Replaces some images of the data files by ones that no camera takes."""
    path = choose(root, rng, "*.parquet", "data")
    table = pq.read_table(path)
    key = "observation.image"
    values = table[key].to_pylist()
    at, name = rng.randrange(len(values)), rng.choice(list(IMAGES))
    values[at] = IMAGES[name](values[at]["bytes"], rng)
    array = pa.array(values, table.schema.field(key).type)
    pq.write_table(table.set_column(table.schema.get_field_index(key), key, array), path)
    return name


def choose(root: Path, rng: random.Random, pattern: str, below: str = "") -> Path:
    return rng.choice(sorted(path for path in (root / below).rglob(pattern) if path.is_file()))


def _other_width(array, rng, marker):
    width = rng.choice((0, 1, 3, 1000))
    return pa.array([[0.5] * width for _ in range(len(array))], pa.list_(pa.float32()))


def _ragged(array, rng, marker):
    values = array.to_pylist()
    values[rng.randrange(len(values))] = rng.choice(([1.0], [1.0] * 9, [], None, [None, 1.0]))
    return pa.array(values, array.type)


def _some_null(array, rng, marker):
    values = array.to_pylist()
    values[rng.randrange(len(values))] = None
    return pa.array(values, array.type)


def _hostile_numbers(array, rng, marker):
    numbers = (float("nan"), float("inf"), -1.0, 1e308, 2.0**63, -(2.0**63), 0.5, 7e15)
    return pa.array([rng.choice(numbers) for _ in range(len(array))], pa.float64())


def _hostile_integers(array, rng, marker):
    numbers = (-1, 2**63 - 1, -(2**63), 10**12, 5, 0)
    return pa.array([rng.choice(numbers) for _ in range(len(array))], pa.int64())


def _hostile_vectors(array, rng, marker):
    numbers = (float("nan"), float("inf"), 1e300, 0.0)
    return pa.array([[rng.choice(numbers)] * 2 for _ in range(len(array))])


def _pickled(array, rng, marker):
    """A type that old versions of pyarrow loaded by unpickling it."""
    storage = pa.array([b"x"] * len(array), pa.binary())
    return pa.ExtensionArray.from_storage(_Payload(marker), storage)


class _Payload(pa.ExtensionType):
    def __init__(self, marker: Path):
        self._marker = marker
        super().__init__(pa.binary(), "arrow.py_extension_type")

    def __arrow_ext_serialize__(self) -> bytes:
        return pickle_payload(self._marker)

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        raise AssertionError("nothing registers this type")


def _nested_lists(array, rng, marker):
    return pa.array([[[1.0]]] * len(array))


def _dates(array, rng, marker):
    return pa.array([2**62] * len(array), pa.timestamp("ns", "UTC"))


def _texts(array, rng, marker):
    texts = ("", "1", "nan", "\0", "x" * 10_000, "../../outside", "\u202e", "a\nb")
    return pa.array([rng.choice(texts) for _ in range(len(array))])


def _bad_utf8(array, rng, marker):
    offsets = pa.array(range(len(array) + 1), pa.int32())
    data = pa.py_buffer(b"\xff" * len(array))
    return pa.StringArray.from_buffers(len(array), offsets.buffers()[1], data)


def _other_type(array, rng, marker):
    kind = rng.choice(
        (
            pa.large_list(pa.float64()),
            pa.list_(pa.float64(), 2),
            pa.list_view(pa.float32()),
            pa.large_list_view(pa.float32()),
            pa.list_(pa.int8()),
            pa.large_string(),
            pa.string_view(),
            pa.int8(),
            pa.uint64(),
            pa.float16(),
            pa.decimal128(20, 3),
            pa.bool_(),
            pa.large_binary(),
            pa.null(),
            pa.list_(pa.string()),
        )
    )
    return pa.array(array.to_pylist(), kind)


def _dictionary(array, rng, marker):
    return array.dictionary_encode()


COLUMNS = (
    _other_width,
    _ragged,
    _some_null,
    _hostile_numbers,
    _hostile_integers,
    _hostile_vectors,
    _pickled,
    _nested_lists,
    _dates,
    _texts,
    _bad_utf8,
    _other_type,
    _other_type,
    _dictionary,
)


def _encoded(image: np.ndarray, ending: str = ".png") -> bytes:
    return cv2.imencode(ending, image)[1].tobytes()


def _huge(data: bytes, rng: random.Random) -> bytes:
    """A PNG that declares 50,000 x 50,000 pixels."""
    size = (50_000).to_bytes(4, "big")
    return data[:16] + size + size + data[24:]


IMAGES = {
    "none": lambda data, rng: None,
    "no bytes": lambda data, rng: {"bytes": None, "path": "../../etc/passwd"},
    "damaged": lambda data, rng: {"bytes": damage_bytes(data, rng), "path": None},
    "huge": lambda data, rng: {"bytes": _huge(data, rng), "path": None},
    "depth": lambda data, rng: {"bytes": _encoded(np.full((16, 16), 9, np.uint16)), "path": None},
    "grey": lambda data, rng: {"bytes": _encoded(np.full((16, 16), 9, np.uint8)), "path": None},
    "alpha": lambda data, rng: {"bytes": _encoded(np.zeros((16, 16, 4), np.uint8)), "path": None},
    "jpeg": lambda data, rng: {
        "bytes": _encoded(np.zeros((16, 16, 3), np.uint8), ".jpg"),
        "path": None,
    },
    "small": lambda data, rng: {"bytes": _encoded(np.zeros((4, 4, 3), np.uint8)), "path": None},
}
CHANGES = (
    damage_file,
    damage_file,
    damage_file,
    damage_json,
    damage_json,
    damage_info_value,
    damage_info_value,
    damage_column,
    damage_column,
    damage_column,
    damage_rows,
    damage_folder,
    damage_image,
)
