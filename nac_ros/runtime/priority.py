"""A process that goes before all others on its computer, where the system lets it.

Linux's SCHED_FIFO and locked memory, as ros2_control's manager has them (its documentation,
"Determinism"): a busy neighbour then neither delays a command nor swaps its sender out.
"""

import ctypes
import os
import resource
from collections.abc import Collection
from pathlib import Path

from nac_ros.errors import ConfigError

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4  # <sys/mman.h>
HELP = "give the user `rtprio` and `memlock` in /etc/security/limits.d, see docs/bring-up.md"


def go_first(priority: int, but: Collection[int] = ()) -> str:
    """Gives every thread of this process the real-time priority 1..99, and so those that they
    start; 0 leaves it as it is. Returns what came of it, for people.

    All of them, for a thread that waits for the interpreter's lock is no faster than its holder.

    but: threads (native ids) that hold it briefly and compute for long, which stay as they are
    """
    if not priority:
        return "as others"
    if reason := why_not_first(priority):
        return f"as others, not real time: {reason}; {HELP}"
    for thread in set(_threads()) - set(but):
        try:
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
        except ProcessLookupError:  # it has ended meanwhile
            continue
    return f"real time, priority {priority}, {_locked()}"


def use_cpus(cpus: Collection[int]) -> str:
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


def threads_named(beginning: str) -> set[int]:
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


def why_not_first(priority: int = 1) -> str:
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
