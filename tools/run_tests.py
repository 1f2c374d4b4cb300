"""`make test`: tests that can share the machine side by side, then those that need it alone.

Which is which say the marks: `alone` has every test that starts nodes, and what else measures time
(test/conftest.py). Further arguments go to pytest. The last line adds both parts up.
"""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALWAYS = "not bench and not soak"
WORKERS = min(os.cpu_count() or 1, 4)  # each has a torch of its own
TIMEOUT_S = 300  # twice and more of what a test has that has the machine to itself
COUNT = re.compile(r"(\d+) (passed|failed|skipped|deselected|xfailed|xpassed|warnings?|errors?)")
NO_TESTS = 5  # pytest's exit status


def parts() -> dict[str, tuple[list[str], dict[str, str]]]:
    """Name -> arguments of pytest, and variables."""
    shared = ["-n", str(WORKERS), "--dist", "loadfile", "--timeout", str(TIMEOUT_S)]
    shared += ["-m", f"{ALWAYS} and not alone"]
    return {
        "side by side": (shared, {"OMP_NUM_THREADS": "1"}),
        "alone": (["-m", f"{ALWAYS} and alone"], {}),
    }


def run(options: Sequence[str], variables: dict[str, str]) -> tuple[int, list[str]]:
    """One call of pytest: its exit status and its lines, which are shown as they come."""
    command = [sys.executable, "-m", "pytest", "-q", *options]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **variables}, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    return process.wait(), lines


def counted(lines: Sequence[str]) -> Counter[str]:
    """What the closing line of pytest counts."""
    closing = next((line for line in reversed(lines) if re.search(r" in [0-9.]+s", line)), "")
    found = {what: int(n) for n, what in COUNT.findall(closing)}
    found.pop("deselected", None)  # they are the other part's
    return Counter({what.removesuffix("s") if what[0] in "we" else what: n
                    for what, n in found.items()})  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    began, total, failed, status = time.monotonic(), Counter[str](), list[str](), NO_TESTS
    for name, (options, variables) in parts().items():
        print(f"== {name}", flush=True)
        code, lines = run([*options, *arguments], variables)
        total += counted(lines)
        failed += [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
        if code != NO_TESTS:  # of this part alone
            status = code if status in (0, NO_TESTS) else status
    print("\n".join(["== both", *failed]))
    order = sorted(total, key=lambda what: (what != "failed", what != "error", what != "passed"))
    seconds = time.monotonic() - began
    said = ", ".join(f"{total[what]} {what}" for what in order) or "no tests ran"
    print(f"{said} in {seconds:.2f}s")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
