"""Reads parquet files and their columns, whatever Arrow type a library chose for them.

A damaged file, or one that claims far more values than its bytes can hold, is rejected before it
takes memory.
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

# Largest sizes that a file may claim. Constant columns compress well, but each row has its own
# index, which takes about a byte.
ROWS_PER_BYTE, ROWS_IN_ANY = 64, 1_000_000
BYTES_PER_BYTE, BYTES_IN_ANY = 1000, 64 << 20
MAX_MESSAGE = 160  # characters quoted of a library's message
CONTENT_ERRORS = (  # raised by libraries for damaged content
    MemoryError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
)
READ_ERRORS = (pa.ArrowException, OSError, RecursionError, *CONTENT_ERRORS)
LIST_TYPES = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
TEXT_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
BINARY_TYPES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)
NUMBER_TYPES = (pa.types.is_integer, pa.types.is_floating)


@contextmanager
def reading(path: Path, what: str = "parquet file") -> Iterator[None]:
    """Turns a library's error about the content of a file into a DatasetError."""
    try:
        yield
    except READ_ERRORS as error:
        raise DatasetError(
            f"{path} is damaged or no {what} ({short_message(error)}); copy the file again"
        ) from error


def short_message(error: BaseException) -> str:
    """A library's message on one line, shortened."""
    return show_text(" ".join(str(error).split()) or type(error).__name__, MAX_MESSAGE)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of a parquet file, all by default; raises DatasetError naming a missing one."""
    with open_file(path) as file:
        names = file.schema_arrow.names
        wanted = names if columns is None else list(columns)
        require_columns(path, names, wanted)
        with reading(path):
            return file.read(columns=wanted).select(wanted)


def column_names(path: Path) -> list[str]:
    """Names of the columns of a parquet file."""
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


def require_columns(path: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises DatasetError unless the file has each wanted column exactly once."""
    for name in wanted:
        if names.count(name) != 1:
            found = "no column" if name not in names else f"{names.count(name)} columns"
            raise DatasetError(
                f"{path} has {found} '{name}'; copy the file again, or correct meta/info.json"
            )


def read_scalars(column: pa.ChunkedArray, dtype: str, where: str) -> np.ndarray:
    """One number per row `[R]` as int64, float64 or bool; a list of one number is a number.

    where: names file and column in errors. A null is NaN as float64 and an error otherwise.
    """
    with reading(Path(where), f"column of {dtype}"):
        values = _single_values(plain_array(column), where)
    known = (*NUMBER_TYPES, pa.types.is_boolean, pa.types.is_null)
    if not is_any(values.type, known):
        raise DatasetError(f"{where} holds {values.type}, wanted one number per frame")
    if dtype != "float64" and values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise DatasetError(f"{where} is null at row {row}; write a number there")
    with reading(Path(where), f"column of {dtype}"):
        whole = values.cast(pa.type_for_alias(dtype))
        return np.asarray(whole.to_numpy(zero_copy_only=False), dtype)


def read_vectors(
    column: pa.ChunkedArray, width: int, where: str
) -> tuple[np.ndarray, dict[int, str]]:
    """Lists of numbers as float32 `[R, width]`, and row -> fault.

    A row that is null, has another length or holds a null is NaN. Raises DatasetError if the
    column does not hold lists of numbers.
    """
    faults: dict[int, str] = {}
    with reading(Path(where), "column of vectors"):
        lists = plain_array(column)
        if not is_any(lists.type, LIST_TYPES):
            raise DatasetError(f"{where} holds {lists.type}, wanted lists of {width} numbers")
        lengths = _list_lengths(lists)
        good = lengths == width
        for row in np.flatnonzero(~good).tolist():
            found = "is null" if lengths[row] < 0 else f"has {lengths[row]} values"
            faults[row] = f"{found}, info.json says {width} values"
        flat = plain_array(lists.filter(pa.array(good)).flatten())
        if not is_any(flat.type, NUMBER_TYPES) and len(flat):
            raise DatasetError(f"{where} holds lists of {flat.type}, wanted numbers")
        values = np.full((len(lists), width), np.nan, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = flat.cast(pa.float64()).to_numpy(zero_copy_only=False)
            values[good] = numbers.reshape(-1, width)
    if flat.null_count:
        nulls = flat.is_null().to_numpy(zero_copy_only=False).nonzero()[0]
        rows = np.flatnonzero(good)[nulls // width]
        faults |= {int(row): "holds a null" for row in rows}
    return values, faults


def read_numbers(column: Any, where: str) -> np.ndarray:
    """Scalars `[R]`, or lists of equal length `[R, D]`, in their own type; raises DatasetError."""
    array = plain_array(column)
    with reading(Path(where), "column of numbers"):
        shape: tuple[int, ...] = (len(array),)
        if is_any(array.type, LIST_TYPES):
            lengths = _list_lengths(array)
            if len(np.unique(lengths)) > 1 or (lengths < 0).any():
                raise DatasetError(
                    f"{where} holds lists of {np.unique(lengths)[:5]} values; make their lengths "
                    "equal"
                )
            shape = (len(array), -1)
            array = plain_array(array.flatten())
        values = array.to_numpy(zero_copy_only=False)
        if values.dtype.kind not in "biuf":
            raise DatasetError(f"{where} holds {array.type}, wanted numbers")
        return values.reshape(shape)


def read_texts(column: pa.ChunkedArray, where: str) -> list[str]:
    """One string per row; raises DatasetError if one is null."""
    with reading(Path(where), "column of texts"):
        values = plain_array(column)
        if not is_any(values.type, TEXT_TYPES):
            raise DatasetError(f"{where} holds {values.type}, wanted texts")
        texts = values.to_pylist()
    if None in texts:
        raise DatasetError(f"{where} is null at row {texts.index(None)}; write a text there")
    return texts


def read_images(column: pa.ChunkedArray, where: str) -> list[bytes | None]:
    """Encoded images from structs with a field `bytes`, or from binary; None for a null."""
    with reading(Path(where), "column of images"):
        values = plain_array(column)
        if pa.types.is_struct(values.type) and "bytes" in [f.name for f in values.type]:
            values = plain_array(values.field("bytes"))
        if not is_any(values.type, (pa.types.is_null, *BINARY_TYPES)):
            raise DatasetError(f"{where} holds {values.type}, wanted encoded images")
        return values.to_pylist()


def plain_array(column: Any) -> pa.Array:
    """One array without chunks, dictionaries, run-end encoding or extension types."""
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


def is_any(kind: pa.DataType, types: Sequence[Any]) -> bool:
    """Whether an Arrow type is one of those that the functions of `types` test for."""
    return any(is_type(kind) for is_type in types)


def is_text(kind: pa.DataType) -> bool:
    """Whether it is a string type, dictionary-encoded or not."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return is_any(plain, TEXT_TYPES)


def _decode_dictionary(array: pa.DictionaryArray) -> pa.Array:
    """Plain values; Arrow cannot decode dictionaries of views, so their values are cast first."""
    values = array.dictionary
    if pa.types.is_string_view(values.type):
        values = values.cast(pa.large_string())
    elif pa.types.is_binary_view(values.type):
        values = values.cast(pa.large_binary())
    return pa.DictionaryArray.from_arrays(array.indices, values).dictionary_decode()


def _single_values(values: pa.Array, where: str) -> pa.Array:
    """Flattens lists of one value each."""
    if not is_any(values.type, LIST_TYPES):
        return values
    wrong = np.flatnonzero(_list_lengths(values) != 1)
    if len(wrong):
        raise DatasetError(f"{where} has no single number at row {wrong[0]}")
    return plain_array(values.flatten())


def _list_lengths(lists: pa.Array) -> np.ndarray:
    """Length of each list, -1 for a null."""
    return np.asarray(pc.fill_null(pc.list_value_length(lists), -1))


def _check_sizes(path: Path, metadata: pq.FileMetaData) -> None:
    """Raises DatasetError if the file claims implausibly many rows or bytes for its size.

    Reads the metadata of row groups only: pyarrow aborts the process if the metadata of a column
    is damaged (`RowGroupMetaData.column` does not handle C++ exceptions), while reading raises.
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
