"""File operations that survive a crash: atomic replacement, fsync, locks, hashes, free space."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nac_ros.core.errors import DatasetError, TrialError

TEMPORARY = ".partial"  # suffix of a file that is being written
BLOCK = 1 << 20  # bytes hashed at a time


def replace_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Replaces the file at `path` by what `write(temporary path)` writes.

    A crash at any time leaves the old or the new file. If `write` raises, the old one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        write(temporary)
        fsync(temporary)
        os.replace(temporary, path)
    except Exception:
        temporary.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces a text file atomically; raises OSError."""
    replace_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Replaces a JSON file atomically; raises OSError."""
    write_text(path, json.dumps(content, indent=4))


def fsync(path: Path) -> None:
    """Forces the content of a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keeps other processes from locking the same folder meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def free_bytes(folder: Path) -> int:
    """Free space at `folder`, which need not exist yet; raises DatasetError if it cannot be
    written."""
    try:
        existing = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
        if not os.access(existing, os.W_OK):
            raise DatasetError(f"{existing} is not writable; set another `out` or its permissions")
        return shutil.disk_usage(existing).free
    except OSError as error:
        raise DatasetError(f"{folder} cannot be accessed: {error.strerror}") from error


def write_error(path: Path, error: OSError) -> TrialError:
    """The error to raise if a file in the folder of a trial run cannot be written."""
    return TrialError(
        f"{path} cannot be written, {error.strerror or error}; free space or set its permissions, "
        "then repeat the last action; verdicts so far are kept"
    )
