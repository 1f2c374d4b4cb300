"""Where a result comes from: command, commit, versions, machine and data."""

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
    "nac_ros", "torch", "numpy", "onnxruntime", "onnxruntime-gpu", "safetensors",
    "mujoco", "mink", "ruckig", "pyarrow", "opencv-python",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Written beside every dataset, run, bundle and demo."""
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
    """Hash of every number, shape and dtype of the arrays, and of the texts."""
    found = hashlib.sha256(json.dumps(list(texts)).encode())
    for array in arrays:
        if array is None:
            found.update(b"none")
            continue
        found.update(f"{array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def git_commit() -> str:
    """Commit of the source tree, with '+' when it has changes; 'unknown' outside git."""
    root = Path(__file__).resolve().parent
    try:
        run = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
