"""A child process that kills itself at its n-th write operation."""

import os
import subprocess
import sys
from pathlib import Path

COUNTED = """
import os, signal, sys
from pathlib import Path

root, fatal, done = Path(sys.argv[1]), int(sys.argv[2]), 0

def counted(operation):
    def call(*args):
        global done
        done += 1
        if done == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return operation(*args)
    return call

os.replace, os.fsync = counted(os.replace), counted(os.fsync)
"""


def kill_at(fatal: int, work: str, root: Path) -> int:
    """The exit code of Python that does `work` with `root`, up to its `fatal`-th replace or
    fsync."""
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here.parent}:{here}"}
    command = [sys.executable, "-c", COUNTED + work, str(root), str(fatal)]
    return subprocess.run(command, env=environment, check=False).returncode
