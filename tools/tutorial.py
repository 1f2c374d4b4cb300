"""`make tutorial`: runs the commands of docs/tutorial.md and checks the result.

Runs every shell block that follows a line `<!-- tutorial -->`, in order. Fails if a command fails,
if the share of successful trials is below SHARE, or if it takes longer than MINUTES.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "runs" / "tutorial"
SHARE, MINUTES = 0.3, 40.0
BLOCK = re.compile(r"^<!-- tutorial -->\n+```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[str]:
    """The shell blocks of the tutorial in a Markdown text."""
    return BLOCK.findall(text)


def run(block: str, venv: Path) -> float:
    """Runs one block with .venv activated; returns the duration [min].

    Raises subprocess.CalledProcessError if a command fails.
    """
    print(f"\n$ {block.strip()}", flush=True)
    path = f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
    began = time.monotonic()
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=ROOT,
        check=True,
        env={**os.environ, "PATH": path, "VIRTUAL_ENV": str(venv)},
    )
    minutes = (time.monotonic() - began) / 60
    print(f"({minutes:.1f} min)", flush=True)
    return minutes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    venv = parser.parse_args().venv.absolute()
    shutil.rmtree(RUN, ignore_errors=True)
    taken = [run(block, venv) for block in blocks((ROOT / "docs/tutorial.md").read_text())]
    (result,) = json.loads((RUN / "eval.json").read_text())["tasks"].values()
    share, minutes = result["successes"] / result["trials"], sum(taken)
    print(
        f"\n{result['successes']} of {result['trials']} trials succeeded, {minutes:.1f} min in all"
    )
    if share >= SHARE and minutes <= MINUTES:
        return 0
    print(f"required: {SHARE:.0%} within {MINUTES:.0f} min", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
