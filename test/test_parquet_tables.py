"""Columns of parquet files: every Arrow type of the same numbers reads the same."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.lerobot import tables

ROWS = [[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]]
LISTS = (
    pa.list_(pa.float32()),
    pa.list_(pa.float64()),
    pa.list_(pa.float32(), 2),
    pa.large_list(pa.float32()),
    pa.list_view(pa.float32()),
    pa.large_list_view(pa.float64()),
    pa.list_(pa.float16()),
)
TEXTS = (pa.string(), pa.large_string(), pa.string_view())


def chunked(values, kind=None) -> pa.ChunkedArray:
    """A column of two chunks, as in a file with several row groups."""
    array = pa.array(values, kind)
    return pa.chunked_array([array.slice(0, 1), array.slice(1)])


@pytest.mark.parametrize("kind", LISTS, ids=str)
def test_vectors_are_read_from_every_list_type(kind):
    values, faults = tables.read_vectors(chunked(ROWS, kind), 2, "file: action")
    np.testing.assert_array_equal(values, np.array(ROWS, np.float32))
    assert values.dtype == np.float32 and not faults


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_texts_are_read_from_every_string_type(kind):
    assert tables.read_texts(chunked(["a", "b"], kind), "file: task") == ["a", "b"]
    encoded = pa.chunked_array([pa.array(["a", "b", "a"], kind).dictionary_encode()])
    assert tables.read_texts(encoded, "file: task") == ["a", "b", "a"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2, 3], pa.int8()),
        pa.array([1, 2, 3], pa.uint64()),
        pa.array([1.0, 2.0, 3.0]),
        pa.array([[1], [2], [3]]),
        pa.array([1, 2, 3]).dictionary_encode(),
        pa.RunEndEncodedArray.from_arrays([1, 2, 3], [1, 2, 3]),
    ],
    ids=lambda column: str(column.type),
)
def test_numbers_are_read_from_every_scalar_type(column):
    values = tables.read_scalars(pa.chunked_array([column]), "int64", "file: index")
    np.testing.assert_array_equal(values, [1, 2, 3])
    assert values.dtype == np.int64


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (None, "is null, info.json says 2 values"),
        ([1.0], "has 1 values, info.json says 2 values"),
        ([], "has 0 values, info.json says 2 values"),
        ([1.0, None], "holds a null"),
    ],
)
@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list_view(pa.float64())])
def test_an_invalid_vector_is_nan_and_its_row_is_named(row, text, kind):
    values, faults = tables.read_vectors(chunked([ROWS[0], row, ROWS[2]], kind), 2, "file")
    assert faults == {1: text} and np.isnan(values[1]).any()
    np.testing.assert_array_equal(values[[0, 2]], np.array(ROWS, np.float32)[[0, 2]])


@pytest.mark.parametrize(
    "values", [["a", "b"], [1.0, 2.0], [["a"], ["b"]], [[[1.0]], [[2.0]]], [{"x": 1}, {"x": 2}]]
)
def test_a_column_without_vectors_is_rejected(values):
    with pytest.raises(DatasetError, match=r"file: action.*wanted"):
        tables.read_vectors(chunked(values), 1, "file: action")


@pytest.mark.parametrize(
    "values", [[1, None], [1.5, 2.0], ["1", "2"], [[1, 2], [3]], [2.0**70, 1]]
)
def test_a_column_without_integers_is_rejected(values):
    with pytest.raises(DatasetError, match="file: index"):
        tables.read_scalars(chunked(values), "int64", "file: index")


def test_a_null_number_is_nan_as_a_float():
    values = tables.read_scalars(chunked([1, None]), "float64", "file: timestamp")
    assert values[0] == 1 and np.isnan(values[1])


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_encoded_images_are_read_from_structs_and_every_binary_type(kind):
    plain = chunked([b"one", None], kind)
    inside = chunked(
        [{"bytes": b"one", "path": "a"}, {"bytes": None, "path": "b"}],
        pa.struct([("bytes", kind), ("path", pa.large_string())]),
    )
    for column in (plain, inside):
        assert tables.read_images(column, "file: image") == [b"one", None]


def test_a_file_that_claims_more_than_its_bytes_can_hold_is_rejected_before_it_is_read(tmp_path):
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"action": np.zeros(20_000_000, np.int8)}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(DatasetError, match=r"claims 20000000 rows; it is damaged"):
        tables.read_table(path)


def test_a_folder_whose_name_looks_like_a_partition_adds_no_column(tmp_path):
    path = tmp_path / "task=1/file.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"action": [1]}), path)
    assert tables.read_table(path).column_names == ["action"]


@pytest.mark.parametrize("damage", ["half", "empty", "text", "column"])
def test_an_unreadable_file_is_rejected_in_one_sentence(tmp_path, damage):
    path = tmp_path / "file.parquet"
    pq.write_table(pa.table({"action": ROWS}), path)
    whole = path.read_bytes()
    path.write_bytes(
        {"half": whole[: len(whole) // 2], "empty": b"", "text": b"no parquet"}.get(damage, whole)
    )
    with pytest.raises(DatasetError) as caught:
        tables.read_table(path, ["state" if damage == "column" else "action"])
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(DatasetError, match=r"absent\.parquet is missing"):
        tables.read_table(Path("absent.parquet"))
