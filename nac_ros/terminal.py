"""What the commands print: tables, figures and progress."""

import sys
from collections.abc import Sequence
from typing import Any

Figures = dict[str, Any]


def decoding(done: int, total: int) -> None:
    """How far the images of a dataset are decoded."""
    progress(f"decoding images: {done}/{total} episodes", done, total)


def progress(line: str, done: int, total: int) -> None:
    """One line that is written over on a terminal; every tenth of the way in a file."""
    if sys.stdout.isatty():
        print(f"\r{line}   ", end="\n" if done == total else "", flush=True)
    elif done == total or done % max(1, total // 10) == 0:
        print(line, flush=True)


def tokenizer_errors(figures: Figures) -> None:
    """Errors of a tokenizer's round trip, whole and per joint."""
    use = ", ".join(f"{100 * share:.0f} %" for share in figures["codebook_use"])
    basis = f"(normalised, {figures['chunks']} chunks)"
    print(f"mse {figures['mse']:.2e}  l1 {figures['l1']:.2e}  {basis}")
    print(f"{figures['tokens']:g} tokens, {figures['bits']:.0f} bits, codebook use {use}")
    for row in figures["per_joint"]:
        print(f"  {row['name']:14s} rms {row['rms']:.5f}  max {row['max']:.5f} {row['unit']}")


def table(rows: Sequence[Figures]) -> None:
    """Rows with the same keys, in columns."""
    keys = list(rows[0])
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in keys}
    print("  ".join(f"{key:{widths[key]}}" for key in keys))
    for row in rows:
        print("  ".join(f"{row[key]!s:{widths[key]}}" for key in keys))
