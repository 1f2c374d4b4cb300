"""Calls something at an even rate in a thread of its own."""

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


class PeriodicTimer:
    """Beats each `period` [s] of the steady clock from now on; beats that were missed are left
    out. What a beat raises ends the thread, see `threading.excepthook`."""

    def __init__(self, period: float, beat: Callable[[], None], name: str = "metronome"):
        self._period, self._beat = period, beat
        self._ended = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns after the last beat."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            self._beat()
            now = time.monotonic()
            due += self._period * max(1, -(-(now - due) // self._period))
            time.sleep(max(due - now, 0.0))


SWITCH_S = 1e-4  # so long another thread may keep the interpreter from this one
OFF_S = 3e-3  # a clock that strays farther from the steady one is followed anew

Deed = Callable[[], None]


class DelayedExecutor:
    """Deeds `ahead` [s] before they are due, in the order in which they were put.

    Due times are of a clock that somebody may set; between deeds only their differences count.
    The process's threads change places more often than by default, so that none is kept waiting.
    """

    def __init__(self, ahead: float):
        self._ahead = ahead
        self._offset: float | None = None  # of the steady clock from theirs [s]
        self._waiting: deque[tuple[float, Deed]] = deque()
        self._news, self._ending = Condition(), False
        self._thread = Thread(target=self._run, name="pacer", daemon=True)
        sys.setswitchinterval(SWITCH_S)
        self._thread.start()

    def submit(self, due: float, now: float, steady: float, deed: Deed) -> None:
        """`due` and `now` [s] on one clock, `now` when `time.monotonic()` said `steady`."""
        offset = steady - now
        if self._offset is None or abs(offset - self._offset) > OFF_S:
            self._offset = offset
        with self._news:
            self._waiting.append((due + self._offset - self._ahead, deed))
            self._news.notify()

    def flush(self) -> None:
        """Does at once what still waits."""
        with self._news:
            while self._waiting:
                self._waiting.popleft()[1]()
            self._offset = None

    def close(self) -> None:
        """Does what still waits, and ends."""
        self.flush()
        with self._news:
            self._ending = True
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._news:
                while not self._waiting and not self._ending:
                    self._news.wait()
                if self._ending:
                    return
                wait = self._waiting[0][0] - time.monotonic()
                if wait <= 0:
                    self._waiting.popleft()[1]()
                    continue
            time.sleep(wait)


MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4  # <sys/mman.h>
HELP = "give the user `rtprio` and `memlock` in /etc/security/limits.d, see docs/bring-up.md"


def set_realtime_priority(priority: int, but: Collection[int] = ()) -> str:
    """Gives every thread of this process the real-time priority 1..99, and so those that they
    start; 0 leaves it as it is. Returns what came of it, for people.

    All of them, for a thread that waits for the interpreter's lock is no faster than its holder.

    but: threads (native ids) that hold it briefly and compute for long, which stay as they are
    """
    if not priority:
        return "as others"
    if reason := realtime_obstacle(priority):
        return f"as others, not real time: {reason}; {HELP}"
    for thread in set(_threads()) - set(but):
        try:
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
        except ProcessLookupError:  # it has ended meanwhile
            continue
    return f"real time, priority {priority}, {_locked()}"


def set_cpu_affinity(cpus: Collection[int]) -> str:
    """Keeps every thread of this process, and those that they start, on some of the machine's
    CPUs; none named = all. Returns what came of it, for people.

    Raises ConfigError for a CPU that the machine does not have, or that the process may not use.
    """
    if not cpus:
        return "any CPU"
    shown = ", ".join(map(str, sorted(set(cpus))))
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError(f"cpus is {shown}, but this system cannot keep a process on some CPUs")
    there = _cpus()
    if unknown := sorted(set(cpus) - there):
        named, known = ", ".join(map(str, unknown)), ", ".join(map(str, sorted(there)))
        raise ConfigError(f"cpus: this machine has no CPU {named}; it has {known}")
    for thread in _threads():
        try:
            os.sched_setaffinity(thread, cpus)
        except ProcessLookupError:  # it has ended meanwhile
            continue
        except OSError as error:
            raise ConfigError(
                f"cpus: this process may not use CPU {shown}: {error.strerror}; name others"
            ) from None
    return f"on CPU {shown}"


def _cpus() -> set[int]:
    """CPUs of this machine that are switched on."""
    place, found = Path("/sys/devices/system/cpu/online"), set[int]()
    if not place.exists():
        return set(range(os.cpu_count() or 1))
    for part in place.read_text().strip().split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def threads_with_prefix(beginning: str) -> set[int]:
    """Native ids of this process's threads whose name for the system begins so."""
    return {thread for thread, name in _threads().items() if name.startswith(beginning)}


def _threads() -> dict[int, str]:
    """Native id -> name for the system, of the threads that live now."""
    found = {}
    for place in Path("/proc/self/task").iterdir():
        try:
            found[int(place.name)] = (place / "comm").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
    return found


def realtime_obstacle(priority: int = 1) -> str:
    """Why this process may have no real-time priority, '' if it may."""
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        os.sched_setscheduler(0, *before)
    except (AttributeError, OSError) as error:  # not Linux, or not allowed
        return getattr(error, "strerror", None) or "this system knows no SCHED_FIFO"
    return ""


def _locked() -> str:
    """Keeps the pages that are used in memory; what came of it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if os.geteuid() and soft != resource.RLIM_INFINITY:
        return f"memory may be swapped out; {HELP}"  # beyond the limit allocations would fail
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT):
        return f"memory may be swapped out: {os.strerror(ctypes.get_errno())}"
    return "memory locked"
