"""Reads parquet files and their columns, in any type that a library stores them as.

A file that is damaged, or that states far more values than its bytes can hold, is rejected before
it takes memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nac_ros.core.errors import DatasetError, show_text

# Largest sizes that a file may state. Constant columns compress well, but each row has its own
# index, which takes about a byte.
ROWS_PER_BYTE, ROWS_IN_ANY = 64, 1_000_000
BYTES_PER_BYTE, BYTES_IN_ANY = 1000, 64 << 20
MESSAGE = 160  # characters of a library's message that are quoted
FAULTS = (
    pa.ArrowException,
    OSError,
    MemoryError,
    RecursionError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
)
SCALARS = {"int64": np.int64, "float64": np.float64, "bool": np.bool_}


@contextmanager
def reading(path: Path, what: str = "parquet file") -> Iterator[None]:
    """Turns the errors of a library about the content of a file into a DatasetError."""
    try:
        yield
    except FAULTS as error:
        raise DatasetError(
            f"{path} is damaged or no {what} ({short_message(error)}); copy the file again"
        ) from error


def short_message(error: BaseException) -> str:
    """A library's message on one line, shortened."""
    return show_text(" ".join(str(error).split()) or type(error).__name__, MESSAGE)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of a parquet file, all of them when None; raises DatasetError naming what is
    missing."""
    with open_file(path) as file:
        names = file.schema_arrow.names
        wanted = names if columns is None else list(columns)
        require_columns(path, names, wanted)
        with reading(path):
            return file.read(columns=wanted).select(wanted)


def read_columns(path: Path) -> list[str]:
    """Names of a parquet file's columns."""
    with open_file(path) as file:
        return list(file.schema_arrow.names)


@contextmanager
def open_file(path: Path) -> Iterator[pq.ParquetFile]:
    """A parquet file whose sizes are plausible; raises DatasetError."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing; copy the folder again")
    with reading(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    with file:
        with reading(path):
            _check_sizes(path, file.metadata)
            _ = file.schema_arrow.names
        yield file


def require_columns(path: Path, known: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises DatasetError unless the file has each wanted column exactly once."""
    for name in wanted:
        if known.count(name) != 1:
            found = "no column" if name not in known else f"{known.count(name)} columns"
            raise DatasetError(
                f"{path} has {found} '{name}'; copy the file again, or correct meta/info.json"
            )


def read_scalars(column: pa.ChunkedArray, kind: str, where: str) -> np.ndarray:
    """One number per row -> `[R]` of `kind`, int64, float64 or bool; lists of one are numbers.

    where: names file and column in errors. A null is NaN as a float and an error otherwise.
    """
    with reading(Path(where), f"column of {kind}"):
        values = _flat_scalars(plain_array(column), where)
    numeric = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if not (numeric or pa.types.is_boolean(values.type) or pa.types.is_null(values.type)):
        raise DatasetError(f"{where} holds {values.type}, wanted one number per frame")
    if kind != "float64" and values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise DatasetError(f"{where} is null at row {row}; write a number there")
    with reading(Path(where), f"column of {kind}"):
        whole = values.cast(pa.type_for_alias("double" if kind == "float64" else kind))
        return np.asarray(whole.to_numpy(zero_copy_only=False), SCALARS[kind])


def read_vectors(
    column: pa.ChunkedArray, width: int, where: str
) -> tuple[np.ndarray, dict[int, str]]:
    """Lists of any kind -> float32 `[R, width]`, and row -> fault.

    A row that is null, has another length or holds a null is NaN. Raises DatasetError if the
    column does not hold lists of numbers.
    """
    faults: dict[int, str] = {}
    with reading(Path(where), "column of vectors"):
        lists = plain_array(column)
        if not is_list(lists.type):
            raise DatasetError(f"{where} holds {lists.type}, wanted lists of {width} numbers")
        lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), -1))
        for row in np.flatnonzero(lengths != width).tolist():
            known = "is null" if lengths[row] < 0 else f"has {lengths[row]} values"
            faults[row] = f"{known}, info.json says {width} values"
        good = lengths == width
        flat = plain_array(lists.filter(pa.array(good)).flatten())
        if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)) and len(flat):
            raise DatasetError(f"{where} holds lists of {flat.type}, wanted numbers")
        values = np.full((len(lists), width), np.nan, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = flat.cast(pa.float64()).to_numpy(zero_copy_only=False)
            values[good] = numbers.reshape(-1, width)
    if flat.null_count:
        rows = np.flatnonzero(good)[
            flat.is_null().to_numpy(zero_copy_only=False).nonzero()[0] // width
        ]
        faults |= {int(row): "holds a null" for row in rows}
    return values, faults


def read_texts(column: pa.ChunkedArray, where: str) -> list[str]:
    """Strings of any kind, one per row; raises DatasetError if one is null."""
    with reading(Path(where), "column of texts"):
        values = plain_array(column)
        if not is_text(values.type):
            raise DatasetError(f"{where} holds {values.type}, wanted texts")
        texts = values.to_pylist()
    if None in texts:
        raise DatasetError(f"{where} is null at row {texts.index(None)}; write a text there")
    return texts


def read_images(column: pa.ChunkedArray, where: str) -> list[bytes | None]:
    """Encoded images, of structs with a field `bytes` or binary; None where there is none."""
    with reading(Path(where), "column of images"):
        values = plain_array(column)
        if pa.types.is_struct(values.type) and "bytes" in [f.name for f in values.type]:
            values = plain_array(values.field("bytes"))
        if not (pa.types.is_null(values.type) or is_binary(values.type)):
            raise DatasetError(f"{where} holds {values.type}, wanted encoded images")
        return values.to_pylist()


def plain_array(column: Any) -> pa.Array:
    """One array without chunks, dictionaries, runs or extension types."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    while True:
        if isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        elif pa.types.is_dictionary(array.type):
            array = _decode_dictionary(array)
        elif pa.types.is_run_end_encoded(array.type):
            array = pc.run_end_decode(array)
        else:
            return array


def _decode_dictionary(array: pa.DictionaryArray) -> pa.Array:
    """As plain values; Arrow takes none from dictionaries of views, which are cast first."""
    values = array.dictionary
    if pa.types.is_string_view(values.type):
        values = values.cast(pa.large_string())
    elif pa.types.is_binary_view(values.type):
        values = values.cast(pa.large_binary())
    return pa.DictionaryArray.from_arrays(array.indices, values).dictionary_decode()


def is_list(kind: pa.DataType) -> bool:
    """Whether it is a list of any kind."""
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether it is a string of any kind, dictionary-encoded or not."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_binary(kind: pa.DataType) -> bool:
    """Whether it is binary of any kind."""
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _flat_scalars(values: pa.Array, where: str) -> pa.Array:
    """Lists of one value each -> those values."""
    if not is_list(values.type):
        return values
    lengths = np.asarray(pc.fill_null(pc.list_value_length(values), -1))
    wrong = np.flatnonzero(lengths != 1)
    if len(wrong):
        raise DatasetError(f"{where} has no single number at row {wrong[0]}")
    return plain_array(values.flatten())


def _check_sizes(path: Path, metadata: pq.FileMetaData) -> None:
    """Raises DatasetError if rows or bytes are implausibly many for the size of the file.

    Only metadata of row groups is read: pyarrow aborts the process if the metadata of a column is
    damaged (`RowGroupMetaData.column` does not handle C++ exceptions), while reading raises.
    """
    size = path.stat().st_size
    groups = [metadata.row_group(k) for k in range(metadata.num_row_groups)]
    rows = [metadata.num_rows, *(group.num_rows for group in groups)]
    total = sum(group.total_byte_size for group in groups)
    if min(rows) < 0 or max(rows) > ROWS_PER_BYTE * size + ROWS_IN_ANY:
        raise DatasetError(
            f"{path} of {size} bytes claims {max(rows)} rows; it is damaged, copy the file again"
        )
    if total > BYTES_PER_BYTE * size + BYTES_IN_ANY:
        raise DatasetError(
            f"{path} of {size} bytes claims {total} bytes of content; it is damaged, copy it again"
        )
