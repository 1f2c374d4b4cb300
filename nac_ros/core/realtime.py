"""Timers, delayed calls, SCHED_FIFO priority, locked memory and CPU affinity of this process."""

import ctypes
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from threading import Condition, Event, Thread

from nac_ros.core.errors import ConfigError

Callback = Callable[[], None]
SWITCH_S = 1e-4  # longest time that a thread keeps the interpreter from a waiting one
OFFSET_TOLERANCE_S = 3e-3  # a larger change of the offset between two clocks is followed
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4  # <sys/mman.h>
HELP = "give the user `rtprio` and `memlock` in /etc/security/limits.d, see docs/bring-up.md"


class PeriodicTimer:
    """Calls `callback` every `period` [s] of the monotonic clock, in a thread; starts at once.

    Missed calls are left out, and the grid of times stays. An exception in the callback ends the
    thread, see `threading.excepthook`.
    """

    def __init__(self, period: float, callback: Callback, name: str = "periodic_timer"):
        self._period, self._callback = period, callback
        self._stopped = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Waits for a callback that is running, and ends the thread."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopped.is_set():
            self._callback()
            now = time.monotonic()
            n_periods = max(1, -(-(now - due) // self._period))
            due += self._period * n_periods
            time.sleep(max(due - now, 0.0))


class DelayedExecutor:
    """Runs callbacks `ahead` [s] before they are due, in the order of submission, in a thread.

    Due times are on a clock that may be set; between callbacks only their differences matter.
    Reduces the thread switch interval of the whole process to SWITCH_S, so that a busy thread
    delays no callback.
    """

    def __init__(self, ahead: float):
        self._ahead = ahead
        self._offset: float | None = None  # monotonic time minus the caller's time [s]
        self._queue: deque[tuple[float, Callback]] = deque()
        self._changed, self._closed = Condition(), False
        self._thread = Thread(target=self._run, name="delayed_executor", daemon=True)
        sys.setswitchinterval(SWITCH_S)
        self._thread.start()

    def submit(self, due: float, now: float, steady: float, callback: Callback) -> None:
        """Queues `callback`, due at `due` [s] on the clock that read `now` when
        `time.monotonic()` was `steady`."""
        offset = steady - now
        if self._offset is None or abs(offset - self._offset) > OFFSET_TOLERANCE_S:
            self._offset = offset
        with self._changed:
            self._queue.append((due + self._offset - self._ahead, callback))
            self._changed.notify()

    def flush(self) -> None:
        """Runs all queued callbacks now."""
        with self._changed:
            while self._queue:
                self._queue.popleft()[1]()
            self._offset = None

    def close(self) -> None:
        """Runs all queued callbacks now, and ends the thread."""
        self.flush()
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                wait = self._queue[0][0] - time.monotonic()
                if wait <= 0:
                    self._queue.popleft()[1]()
                    continue
            time.sleep(wait)


def set_realtime_priority(priority: int, but: Collection[int] = ()) -> str:
    """Gives all threads of this process SCHED_FIFO priority 1..99, and locks its memory; new
    threads inherit both. 0 changes nothing. Returns the result as a text.

    All threads, because one that waits for the interpreter's lock is as slow as its holder.

    but: native ids of threads that hold the lock briefly and compute long, which are left out
    """
    if not priority:
        return "default scheduling"
    if obstacle := realtime_obstacle(priority):
        return f"default scheduling, not real time: {obstacle}; {HELP}"
    for thread in set(_threads()) - set(but):
        try:
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
        except ProcessLookupError:  # the thread has ended
            continue
    return f"real time, priority {priority}, {_lock_memory()}"


def set_cpu_affinity(cpus: Collection[int]) -> str:
    """Restricts all threads of this process to some CPUs; new threads inherit it. No CPU named
    means all. Returns the result as a text.

    Raises ConfigError for a CPU that does not exist or that the process may not use.
    """
    if not cpus:
        return "any CPU"
    shown = ", ".join(map(str, sorted(set(cpus))))
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError(f"cpus is {shown}, but this system has no CPU affinity; leave it empty")
    known = _online_cpus()
    if unknown := sorted(set(cpus) - known):
        raise ConfigError(
            f"cpus: this machine has no CPU {', '.join(map(str, unknown))}; it has "
            f"{', '.join(map(str, sorted(known)))}"
        )
    for thread in _threads():
        try:
            os.sched_setaffinity(thread, cpus)
        except ProcessLookupError:  # the thread has ended
            continue
        except OSError as error:
            raise ConfigError(
                f"cpus: this process may not use CPU {shown}: {error.strerror}; name others"
            ) from None
    return f"on CPU {shown}"


def realtime_obstacle(priority: int = 1) -> str:
    """Why this process cannot have real-time priority, '' if it can."""
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        os.sched_setscheduler(0, *before)
    except (AttributeError, OSError) as error:  # not Linux, or not permitted
        return getattr(error, "strerror", None) or "this system has no SCHED_FIFO"
    return ""


def threads_with_prefix(prefix: str) -> set[int]:
    """Native ids of the threads of this process whose system name begins with `prefix`."""
    return {thread for thread, name in _threads().items() if name.startswith(prefix)}


def _threads() -> dict[int, str]:
    """Native id -> system name of the living threads."""
    threads = {}
    for folder in Path("/proc/self/task").iterdir():
        try:
            threads[int(folder.name)] = (folder / "comm").read_text()
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended
            continue
    return threads


def _online_cpus() -> set[int]:
    path = Path("/sys/devices/system/cpu/online")
    if not path.exists():
        return set(range(os.cpu_count() or 1))
    cpus: set[int] = set()
    for part in path.read_text().strip().split(","):  # such as 0-3,8
        first, _, last = part.partition("-")
        cpus |= set(range(int(first), int(last or first) + 1))
    return cpus


def _lock_memory() -> str:
    """Keeps the pages in use in memory; returns the result as a text."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if os.geteuid() and soft != resource.RLIM_INFINITY:
        return f"memory may be swapped out; {HELP}"  # allocations beyond the limit would fail
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT):
        return f"memory may be swapped out: {os.strerror(ctypes.get_errno())}"
    return "memory locked"
