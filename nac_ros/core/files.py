"""File operations that survive a crash: atomic replacement, fsync, hashes, folder locks, free space."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nac_ros.core.errors import BundleError, DatasetError, TrialError

TEMPORARY = ".partial"


def write_json(path: Path, content: Any) -> None:
    """Replaces the file in one step that survives a crash."""
    replace_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=4)))


def replace_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write(temporary path)`, forces it to disk and renames it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY)
    write(temporary)
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Forces a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(out: Path) -> int:
    """Room where episodes go; raises DatasetError where nothing can be written."""
    try:
        place = next((p for p in (out, *out.parents) if p.exists()), Path("/"))
        if not os.access(place, os.W_OK):
            raise DatasetError(f"{place} is not writable; choose another `out` or its rights")
        return shutil.disk_usage(place).free
    except OSError as error:
        raise DatasetError(f"{out} cannot be looked at: {error.strerror}") from error


BLOCK = 1 << 20  # bytes hashed at a time


def put(path: Path, content: str) -> None:
    """Writes a file whole or not at all; raises BundleError where that is not allowed."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(content)
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise BundleError(f"cannot write {path}: {error.strerror}; free the place") from error


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_error(path: Path, error: OSError) -> TrialError:
    """What is said where the disk does not take what belongs into a run's folder."""
    return TrialError(
        f"{path} cannot be written, {error.strerror or error}: make room or allow it, and do it "
        "again; what was judged is kept"
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other process is in here for the same folder meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
