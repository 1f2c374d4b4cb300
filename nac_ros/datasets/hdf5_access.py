"""Reads groups, tables, images and attributes of untrusted HDF5 files.

A file may refer to other files (external links, virtual data sets, external storage), may need
filters that HDF5 loads as code, and may state terabytes in a few bytes. All of that is rejected
before anything is read. Links inside the file are followed one by one.
"""

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nac_ros.core.errors import DatasetError, NacError, show_text
from nac_ros.core.json_reader import parse_json

# gzip, shuffle, Fletcher's checksum, szip, n-bit, scale-offset, h5py's LZF; others are plug-ins
FILTERS = (1, 2, 3, 4, 5, 6, 32000)
INFLATION = 1100  # largest compression ratio of a data set; DEFLATE reaches 1032
MAX_TABLE = 1 << 28  # [bytes] of one demonstration's actions or states
MAX_CHUNK = 1 << 28  # [bytes] that HDF5 decompresses at once
MAX_IMAGE = 1 << 28  # [bytes] of one frame
MAX_COLUMNS = 4096
BLOCK = 1 << 25  # [bytes] of images that are read at once
MAX_LINKS = 16  # in a chain of soft links
MIN_CHECKED = 1 << 20  # [bytes]; smaller data cannot exhaust the memory
# What h5py, HDF5 and JSON raise for a damaged file.
DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    SystemError,
    struct.error,
)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Opens the file for reading; errors of DAMAGE in the `with` block become DatasetErrors."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except NacError:
        raise
    except DAMAGE as error:
        lines = str(error).splitlines()
        cause = show_text(lines[0]) if lines else type(error).__name__
        state = "is damaged" if _has_signature(path) else "is no HDF5 file"
        raise DatasetError(f"{path} {state}: {cause}; copy it again") from error


def find(
    group: h5py.Group, path: str, max_links: int = MAX_LINKS
) -> h5py.Group | h5py.Dataset | None:
    """The group or data set at `path` from the group, None if there is none.

    Raises DatasetError if a link on the path leaves the file or links form a circle.
    """
    here: Any = group.file if path.startswith("/") else group
    for name in (part for part in path.split("/") if part not in ("", ".")):
        if not isinstance(here, h5py.Group):
            return None
        link = here.get(name, getlink=True)
        if link is None:
            return None
        if isinstance(link, h5py.SoftLink):
            if not max_links:
                raise DatasetError(
                    f"{group.file.filename}: the links at {show_text(path)} form a circle"
                )
            here = find(here, link.path, max_links - 1)
        elif isinstance(link, h5py.HardLink):
            here = here[name]
        else:
            raise DatasetError(
                f"{group.file.filename}: {show_text(here.name)}/{show_text(name)} is a "
                "link to another file; such links are not followed: copy its target into this file"
            )
    return here if isinstance(here, (h5py.Group, h5py.Dataset)) else None


def subgroup(group: h5py.Group, path: str) -> h5py.Group | None:
    """The group at `path`, None if there is none."""
    found = find(group, path)
    return found if isinstance(found, h5py.Group) else None


def names_in(group: h5py.Group | None) -> list[str]:
    """Names of a group's members; does not open them."""
    return [] if group is None else [name for name in group if isinstance(name, str)]


def table(group: h5py.Group, path: str) -> h5py.Dataset | None:
    """A data set of real numbers `[T, D]`, None if there is none.

    Raises DatasetError if it is stored in other files or is too large for a table of joints.
    """
    found = find(group, path)
    if not isinstance(found, h5py.Dataset) or found.ndim != 2 or found.dtype.kind not in "fiu":
        return None
    check_storage(found)
    if _size(found) > MAX_TABLE or found.shape[1] > MAX_COLUMNS:
        raise DatasetError(
            f"{_location(found)} has the shape {found.shape}; too large for actions or states"
        )
    return found


def require_table(group: h5py.Group, path: str) -> h5py.Dataset:
    """As `table`, but raises DatasetError, listing the tables in the group, if there is none."""
    found = table(group, path)
    if found is None or not found.shape[1]:
        known = ", ".join(show_text(name) for name in tables_in(group)[:20]) or "none"
        raise DatasetError(
            f"{_location(group)} has no table '{path}'; choose one with --action-key or "
            f"--state-key: {known}"
        )
    return found


def read_table(found: h5py.Dataset) -> np.ndarray:
    """Float32 `[T, D]`; numbers beyond float32 become infinite, which no statistic accepts."""
    with np.errstate(over="ignore"):
        return np.asarray(found[()], np.float32)


def is_images(found: Any) -> bool:
    """Whether it is a data set of images, uint8 `[T, H, W, 3]`."""
    return (
        isinstance(found, h5py.Dataset)
        and found.ndim == 4
        and found.shape[3] == 3
        and found.dtype == np.uint8
        and 0 < int(np.prod(found.shape[1:], dtype=object)) <= MAX_IMAGE
    )


def tables_in(group: h5py.Group, below: str = "", depth: int = 3) -> list[str]:
    """Paths of the two-dimensional data sets below a group, for messages; does not open other
    files."""
    found: list[str] = []
    for name in names_in(group):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        member, path = group[name], below + name
        if isinstance(member, h5py.Group) and depth:
            found += tables_in(member, f"{path}/", depth - 1)
        elif isinstance(member, h5py.Dataset) and member.ndim == 2:
            found.append(path)
    return found


def column(group: h5py.Group, path: str, length: int) -> np.ndarray | None:
    """The first `length` values of a numeric or boolean data set `[T]`, None if there is none.

    Raises DatasetError if it is shorter, or of another type or shape.
    """
    found = find(group, path)
    if not isinstance(found, h5py.Dataset):
        return None
    if found.ndim != 1 or found.dtype.kind not in "fiub" or len(found) < length:
        raise DatasetError(
            f"{_location(found)} is {found.dtype} of {found.shape}, wanted {length} numbers"
        )
    check_storage(found)
    return found[:length]


def check_storage(found: h5py.Dataset) -> None:
    """Raises DatasetError if a data set is stored in other files, needs a plug-in, or stores far
    fewer bytes than its shape needs."""
    if found.is_virtual or found.external:
        raise DatasetError(
            f"{_location(found)} is stored in other files; copy its content into this one"
        )
    plist = found.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    unknown = [code for code in filters if code not in FILTERS]
    if unknown or len(set(filters)) < len(filters):
        raise DatasetError(
            f"{_location(found)} is stored with the HDF5 filters {filters}; write it with gzip: "
            "h5repack -f GZIP=4"
        )
    chunk_elements = int(np.prod(found.chunks, dtype=object)) if found.chunks else 0
    if chunk_elements * found.dtype.itemsize > MAX_CHUNK:
        raise DatasetError(
            f"{_location(found)} has chunks of {found.chunks}, more than fit into memory"
        )
    size, stored = _size(found), found.id.get_storage_size()
    if size > MIN_CHECKED and size > INFLATION * stored:
        raise DatasetError(
            f"{_location(found)} has a size of {size} bytes but stores {stored}; it is damaged or "
            "was never filled"
        )


def blocks(found: h5py.Dataset, length: int) -> Iterator[tuple[int, np.ndarray]]:
    """The first `length` frames of a data set in blocks: (index of the first, the frames)."""
    frame = max(1, _size(found) // max(1, len(found)))
    rows = max(1, BLOCK // frame)
    for first in range(0, length, rows):
        yield first, found[first : min(first + rows, length)]


def text_attribute(attributes: Mapping[str, Any], name: str) -> str | None:
    """A text attribute, None if it is missing; raises DatasetError if it is not a text."""
    value = attributes.get(name)
    if isinstance(value, bytes):
        value = value.decode()
    if value is not None and not isinstance(value, str):
        raise DatasetError(f"the attribute '{name}' is no text but {type(value).__name__}")
    if value is not None:
        value.encode()  # raises ValueError if it is not valid UTF-8
    return value


def json_attribute(attributes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A JSON object in an attribute, {} if it is missing; raises DatasetError if it is invalid."""
    text = text_attribute(attributes, name)
    if text is None:
        return {}
    content = parse_json(text.encode(), f"the attribute '{name}'", DatasetError, finite=False)
    if not isinstance(content, dict):
        raise DatasetError(f"the attribute '{name}' is no JSON object")
    return content


def _size(found: h5py.Dataset) -> int:
    """Decompressed size [bytes], computed without overflow."""
    return int(np.prod(found.shape, dtype=object)) * found.dtype.itemsize


def _location(found: h5py.Dataset | h5py.Group) -> str:
    return f"{found.file.filename}: {show_text(found.name)}"


def _has_signature(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError:
        return False
