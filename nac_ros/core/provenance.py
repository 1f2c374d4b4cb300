"""Provenance of a result: command, commit, package versions, machine and data hash."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    "nac_ros",
    "torch",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "safetensors",
    "mujoco",
    "mink",
    "ruckig",
    "pyarrow",
    "opencv-python",
)


def environment() -> dict[str, Any]:
    """Command, commit, versions and machine, as they are stored with every result."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git_commit": git_commit(),
        "python": sys.version.split()[0],
        "versions": versions,
        "cpu_count": os.cpu_count(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def digest_of(arrays: Sequence[np.ndarray | None], texts: Sequence[str] = ()) -> str:
    """SHA-256 of the values, shapes and dtypes of the arrays, and of the texts."""
    digest = hashlib.sha256(json.dumps(list(texts)).encode())
    for array in arrays:
        if array is None:
            digest.update(b"none")
            continue
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def git_commit() -> str:
    """Commit of the source tree, with '+' if there are changes; 'unknown' outside of git."""
    root = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
