"""Damaged robot files are rejected in one line, or describe a robot that the guard can move."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent / "robot_fuzz.py"
CASES = 500


def test_a_damaged_robot_file_is_rejected_or_gives_finite_setpoints(tmp_path):
    """Each case takes at most 10 s and 1 GiB, and nothing in a file is executed."""
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment = {**os.environ, **one, "PYTHONPATH": str(SCRIPT.parent.parent)}
    command = [sys.executable, str(SCRIPT), str(tmp_path), "18", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout)
    assert counts["accepted"] > CASES // 20 and counts["rejected"] > CASES // 2, counts
    assert not (tmp_path / "executed").exists()
