"""Starts the nodes of a graph as processes without launch tools, and ends all of them again."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import nac_ros
from nac_ros.core.errors import NacError
from nac_ros.ros.node_graph import NodeProcess
from nac_ros.ros.node_main import STARTER

SHARED_MEMORY, PORT = Path("/dev/shm"), "fastdds_port"
GRACE_S = 8.0  # a node that has not ended so long after SIGINT is killed


class ProcessGroup:
    """Running nodes by name; leaving the context ends them.

    Each node runs in its own session, so Ctrl-C reaches only the starter, which ends the nodes in
    order.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]):
        self._folder, self._environment = folder, dict(environment)
        self._running: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "ProcessGroup":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, node: NodeProcess) -> int:
        """Starts one node; its output goes to <folder>/<name>.log. Returns its process id."""
        self._folder.mkdir(parents=True, exist_ok=True)
        arguments = node.arguments(self._folder / f"{node.name}.params.yaml")
        root = str(Path(nac_ros.__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, **node.environment, **self._environment}
        environment |= {"PYTHONPATH": path, STARTER: str(os.getpid())}
        with self.log_path(node.name).open("ab") as log:
            self._running[node.name] = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self._running[node.name].pid

    def log_path(self, name: str) -> Path:
        """File with the output of a node."""
        return self._folder / f"{name}.log"

    def check(self) -> None:
        """Raises NacError with the last line of output if a node has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                lines = self.log_path(name).read_text(errors="replace").strip().splitlines()
                last = lines[-1] if lines else "it printed nothing"
                code = process.returncode
                raise NacError(f"node {name} ended with code {code}: {last}")

    def kill(self, name: str) -> None:
        """Kills one node, as a crash would, and removes its shared memory."""
        process = self._running.pop(name)
        process.kill()
        process.wait()
        remove_stale_shared_memory()

    def pause(self, name: str) -> None:
        """Stops one node without ending it (SIGSTOP)."""
        self._running[name].send_signal(signal.SIGSTOP)

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to one node."""
        self._running[name].send_signal(number)

    def is_running(self, name: str) -> bool:
        """Whether a node was started and has not ended."""
        return name in self._running and self._running[name].poll() is None

    def pid(self, name: str) -> int:
        """Process id of a running node."""
        return self._running[name].pid

    def resource_usage(self, name: str) -> dict[str, int]:
        """Resident memory `memory_kib` and number of open `handles` of a running node."""
        process = Path(f"/proc/{self.pid(name)}")
        sizes = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        memory = int(sizes["VmRSS"].split()[0])
        return {"memory_kib": memory, "handles": len(list((process / "fd").iterdir()))}

    def end(self, names: Sequence[str] | None = None) -> None:
        """Sends SIGINT to the nodes, last started first, and SIGKILL to those that hang."""
        chosen = [n for n in reversed(self._running) if names is None or n in names]
        for name in chosen:
            if self._running[name].poll() is None:
                self._running[name].send_signal(signal.SIGINT)
        deadline = time.monotonic() + GRACE_S
        for name in chosen:
            process = self._running.pop(name)
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):  # Ctrl-C while waiting
                process.kill()
                process.wait()
                remove_stale_shared_memory()


def remove_stale_shared_memory(folder: Path = SHARED_MEMORY) -> int:
    """Removes the shared-memory segments of Fast DDS whose owner has ended; returns their number.

    The owner holds a file lock while it runs. Ports stay: a process that still sends to a removed
    port would lose its messages; Fast DDS resets a port that is opened again (its pull request
    4728).
    """
    n_removed = 0
    for lock in folder.glob("fastdds_*_el"):
        if lock.name.startswith(PORT):
            continue
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for part in (lock.with_name(lock.name.removesuffix("_el")), lock):
                    part.unlink(missing_ok=True)
                    n_removed += part is not lock
        except OSError:  # in use, or of another user
            continue
    return n_removed
