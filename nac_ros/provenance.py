"""Where a result comes from: command, commit, versions and machine."""

import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

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


def git_commit() -> str:
    """Commit of the source tree, with '+' when it has changes; 'unknown' outside git."""
    root = Path(__file__).resolve().parent
    try:
        run = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
