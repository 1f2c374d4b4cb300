"""`make test`: first the tests that can run in parallel, then those marked `alone`.

test/conftest.py marks tests that start nodes as `alone`; tests that measure time mark themselves.
Processes that share a busy machine may miss a deadline, so up to MAX_REPEATED failed tests of that
part run once more; those that pass only then are named, and count as passed.

Further arguments go to pytest. The last line sums up both parts.
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
WORKERS = min(os.cpu_count() or 1, 4)  # each process loads torch
TIMEOUT_S = 300  # more than twice the timeout of a test that runs alone
COUNT = re.compile(r"(\d+) (passed|failed|skipped|deselected|xfailed|xpassed|warnings?|errors?)")
NO_TESTS, SOME_FAILED = 5, 1  # pytest's exit statuses
MAX_REPEATED = 3


def parts() -> dict[str, tuple[list[str], dict[str, str]]]:
    """Name of a part -> arguments of pytest, and environment variables."""
    shared = ["-n", str(WORKERS), "--dist", "loadfile", "--timeout", str(TIMEOUT_S)]
    shared += ["-m", f"{ALWAYS} and not alone"]
    return {
        "in parallel": (shared, {"OMP_NUM_THREADS": "1"}),
        "alone": (["-m", f"{ALWAYS} and alone"], {}),
    }


def run(options: Sequence[str], variables: dict[str, str]) -> tuple[int, list[str]]:
    """Runs pytest and prints its output; returns its exit status and lines."""
    command = [sys.executable, "-m", "pytest", "-q", *options]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    return process.wait(), lines


def count_results(lines: Sequence[str]) -> Counter[str]:
    """Numbers of passed, failed ... tests from the last line of pytest."""
    closing = next((line for line in reversed(lines) if re.search(r" in [0-9.]+s", line)), "")
    found = {what: int(n) for n, what in COUNT.findall(closing)}
    found.pop("deselected", None)  # they belong to the other part
    singular = {"warnings": "warning", "errors": "error"}
    return Counter({singular.get(what, what): n for what, n in found.items()})


def failures(lines: Sequence[str]) -> list[str]:
    """Lines of pytest's summary that name the tests that failed."""
    return [line for line in lines if line.startswith(("FAILED ", "ERROR "))]


def run_part(
    name: str, options: Sequence[str], variables: dict[str, str]
) -> tuple[int, Counter[str], list[str], list[str]]:
    """Exit status, results, failures of one part, and failures that passed when repeated."""
    print(f"== {name}", flush=True)
    code, lines = run(options, variables)
    results, failed = count_results(lines), failures(lines)
    if name != "alone" or code != SOME_FAILED or len(failed) > MAX_REPEATED:
        return code, results, failed, []
    print("== alone, failed tests once more", flush=True)
    code, lines = run([*options, "--last-failed"], variables)
    del results["failed"], results["error"]
    still_failed = failures(lines)
    names = {line.split(" - ")[0] for line in still_failed}
    passed = [line for line in failed if line.split(" - ")[0] not in names]
    return code, results + count_results(lines), still_failed, passed


def main(arguments: Sequence[str]) -> int:
    began, total, status = time.monotonic(), Counter[str](), NO_TESTS
    failed, repeated = list[str](), list[str]()
    for name, (options, variables) in parts().items():
        code, results, found, passed = run_part(name, [*options, *arguments], variables)
        total += results
        failed += found
        repeated += passed
        if code != NO_TESTS:  # a part may be empty, both may not
            status = code if status in (0, NO_TESTS) else status
    print("\n".join(["== both", *failed]))
    for line in repeated:
        print(f"passed only when repeated: {line}")
    order = sorted(total, key=lambda what: (what != "failed", what != "error", what != "passed"))
    seconds = time.monotonic() - began
    summary = ", ".join(f"{total[what]} {what}" for what in order) or "no tests ran"
    print(f"{summary} in {seconds:.2f}s")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
