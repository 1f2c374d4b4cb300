"""Finds the rerun viewer that listens at an address, or opens one on this machine."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import BinaryIO

from nac_ros.errors import ConfigError, NacError

LOOPBACK = ("127.0.0.1", "localhost")
START_S = 20.0  # a viewer that does not listen by then does not come
SETTLE_S = 1.0  # one without a display listens first and ends right after
POLL_S = 0.1
MEMORY = "25%"  # of this machine's; above it a viewer drops the oldest data
INSTEAD = "give a file name as `save`, or the address of a viewer elsewhere as `connect`"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; raises ConfigError for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"view: connect must be host:port, such as 127.0.0.1:9876: '{address}'")
    return host, int(port)


def find_viewer(address: str) -> str:
    """URL of the viewer at `host:port`; on this machine one is opened where none listens.

    Raises NacError when there is none and none can be opened.
    """
    host, port = split_address(address)
    if not _listens(host, port):
        if host not in LOOPBACK:
            raise NacError(
                f"no rerun viewer listens at {address}; start one there with `rerun --port {port}`"
            )
        _open(host, port)
    return f"rerun+http://{address}/proxy"


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _open(host: str, port: int) -> None:
    """A viewer in a session of its own, which outlives the node and listens to `host` only."""
    command = [sys.executable, "-m", "rerun_cli", "--port", str(port), "--hide-welcome-screen"]
    command += ["--bind", host.replace("localhost", LOOPBACK[0]), "--memory-limit", MEMORY]
    with tempfile.TemporaryFile() as log:
        viewer = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        _wait(viewer, log, lambda: _listens(host, port), START_S)
        if not _listens(host, port):
            os.killpg(viewer.pid, signal.SIGTERM)
            raise NacError(f"the rerun viewer did not listen within {START_S:.0f} s; {INSTEAD}")
        _wait(viewer, log, lambda: False, SETTLE_S)


def _wait(
    viewer: subprocess.Popen, log: BinaryIO, ready: Callable[[], bool], seconds: float
) -> None:
    """Until `ready()` or time is up; raises NacError with the viewer's last words if it ends."""
    deadline = time.monotonic() + seconds
    while not ready() and time.monotonic() < deadline:
        if viewer.poll() is not None:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            said = lines[-1] if lines else "it said nothing"
            raise NacError(f"no rerun viewer can be opened here ({said}); {INSTEAD}")
        time.sleep(POLL_S)
