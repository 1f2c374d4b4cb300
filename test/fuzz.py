"""Damages files at random, and runs their readers with limits on time and memory.

A fuzz test names a function of its own file that yields cases. All cases run one after another in
one subprocess (`run_cases`): each may take 10 s and 1 GB, and may raise NacError, nothing else.

    def cases(folder, seed, count):
        for n in range(count):
            path = damage_copy(...)
            yield f"case {n}: ...", lambda: load(path)

    def test_...(tmp_path):
        run_cases(__file__, "cases", tmp_path, count=500)
"""

import copy
import faulthandler
import importlib
import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

SECONDS, MEMORY = 10.0, 1 << 30  # of a case, [s] and [bytes]
LONGEST_MESSAGE = 2000  # characters of an error message
HOSTILE_BYTES = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"\xff" * 8,
    b"\0" * 8,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"NaN",
    b"-Infinity",
    b"9" * 5000,
    b"[" * 5000,
    b"{" * 3000,
    b'"',
    b"'",
    b"\xc3\x28",
    b"{}",
    b"null",
    b"../../etc/passwd",
    b"\n",
    b"!!python/object/apply:os.system",
)
HOSTILE_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    1e-300,
    1e300,
    10**6,
    2**31,
    2**63,
    -(2**63),
    2**64,
    10**400,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "\0",
    "../../outside",
    "/etc/passwd",
    "x" * 9999,
    "\ud800",
    [],
    {},
    [[]],
    [None],
    {"": None},
    "nan",
    "1e3",
    [0] * 999,
    "__class__",
    "__init__",
)


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """One to four random changes: cut off, flipped, replaced, inserted, repeated, left out."""
    kept = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_BYTE_CHANGES)(kept, rng)
    return bytes(kept)


def damage_tree(tree: Any, rng: random.Random, values: Iterable[Any] = HOSTILE_VALUES) -> Any:
    """A copy of a JSON or YAML tree with one to three changes.

    A value is replaced by a hostile one, removed, multiplied by 1000, or replaced by another one.
    """
    changed = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        locations = list(_locations(changed))
        if not locations:
            return rng.choice(tuple(values))
        holder, key = rng.choice(locations)
        _change_value(holder, key, locations, rng, tuple(values))
    return changed


def nested(depth: int, kind: str = "list") -> str:
    """JSON text that is nested `depth` deep."""
    opening, closing = ("[", "]") if kind == "list" else ('{"a":', "}")
    return opening * depth + ("1" if kind == "dict" else "") + closing * depth


def pickle_payload(marker: Path) -> bytes:
    """A pickle that creates the file `marker` when it is loaded."""
    return pickle.dumps(_Payload(str(marker)))


def run_cases(
    test_file: str, function: str, folder: Path, count: int = 500, seed: int = 0
) -> dict[str, int]:
    """Runs `function(folder, seed, count)` of a test file in a subprocess, case by case.

    count: how many cases there are to be; 0 where the function itself knows
    Returns how many cases were accepted and how many refused; fails the test with the first
    faults, which are exceptions other than NacError, and cases beyond SECONDS or MEMORY.
    """
    here = Path(__file__).resolve()
    name = Path(test_file).stem
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(here.parent.parent), str(here.parent)])
    done = subprocess.run(
        [sys.executable, str(here), name, function, str(folder), str(seed), str(count)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert done.returncode == 0, f"the cases ended the process:\n{done.stderr[-4000:]}"
    result = json.loads(done.stdout.splitlines()[-1])
    faults = result.pop("faults")
    assert not faults, f"{len(faults)} of {count} cases:\n\n" + "\n\n".join(faults[:5])
    assert count in (0, result["accepted"] + result["rejected"])
    return result


class CaseTimeout(BaseException):
    """A case took longer than SECONDS."""


class _Payload:
    def __init__(self, marker: str):
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (open, (self._marker, "w"))


def _cut_off(kept: bytearray, rng: random.Random) -> None:
    del kept[rng.randint(0, len(kept)) :]


def _flip(kept: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 8, 64))):
        if kept:
            kept[rng.randrange(len(kept))] ^= 1 << rng.randrange(8)


def _replace(kept: bytearray, rng: random.Random) -> None:
    first, new = rng.randint(0, len(kept)), rng.choice(HOSTILE_BYTES)
    kept[first : first + len(new)] = new


def _insert(kept: bytearray, rng: random.Random) -> None:
    first = rng.randint(0, len(kept))
    kept[first:first] = rng.choice((*HOSTILE_BYTES, rng.randbytes(rng.randint(1, 64))))


def _repeat(kept: bytearray, rng: random.Random) -> None:
    """Inserts a copy of a part of the file at another position."""
    source, target = rng.randint(0, len(kept)), rng.randint(0, len(kept))
    kept[target:target] = kept[source : source + rng.randint(1, 4096)]


def _leave_out(kept: bytearray, rng: random.Random) -> None:
    first = rng.randint(0, len(kept))
    del kept[first : first + rng.randint(1, 4096)]


_BYTE_CHANGES = (_cut_off, _flip, _flip, _replace, _insert, _repeat, _leave_out)


def _locations(tree: Any) -> Iterable[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from _locations(value)


def _change_value(
    holder: Any, key: Any, locations: list[tuple[Any, Any]], rng: random.Random, values: tuple
) -> None:
    kind, value = rng.random(), holder[key]
    if kind < 0.2:
        del holder[key]
    elif kind < 0.3 and isinstance(holder, dict):
        holder[rng.choice(("unknown", "", "__class__", "\0"))] = rng.choice(values)
    elif kind < 0.45 and isinstance(value, (int, float)):
        holder[key] = value * 1000
    elif kind < 0.6:
        other, other_key = rng.choice(locations)
        holder[key] = copy.deepcopy(other[other_key])
    else:
        holder[key] = copy.deepcopy(rng.choice(values))


def _run(name: str, function: str, folder: Path, seed: int, count: int) -> dict[str, Any]:
    from nac_ros.core.errors import NacError

    result: dict[str, Any] = {"accepted": 0, "rejected": 0, "faults": []}
    cases = getattr(importlib.import_module(name), function)(folder, seed, count)
    for label, case in cases:
        _limit_memory()
        faulthandler.dump_traceback_later(2 * SECONDS, exit=True)  # where no signal gets through
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            case()
            result["accepted"] += 1
        except NacError as error:
            result["rejected"] += 1
            text = str(error)
            if not text.strip() or "\n" in text or len(text) > LONGEST_MESSAGE:
                result["faults"].append(f"{label}: no sentence: {text[:300]!r}")
        except BaseException as error:  # whatever it is, it is a fault
            kind = f"{type(error).__name__}: {error}"[:300]
            lines = traceback.format_exc(limit=-4)
            result["faults"].append(f"{label}: {kind}\n{lines[-1500:]}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
    return result


def _limit_memory() -> None:
    """Limits memory to MEMORY more than the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))


def _stop(signal_number: int, frame: Any) -> None:
    raise CaseTimeout(f"it took longer than {SECONDS:g} s")


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _stop)
    sys.modules["fuzz"] = sys.modules["__main__"]
    name, function, folder, seed, count = sys.argv[1:]
    print(json.dumps(_run(name, function, Path(folder), int(seed), int(count))))
