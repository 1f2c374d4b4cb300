"""Tables and progress lines that commands of `nac` print."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

Figures = dict[str, Any]

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


def counting(what: str) -> Callable[[int, int], None]:
    """Progress of work that is told in steps of any size: a line for each percent."""
    told = -1

    def report(done: int, most: int) -> None:
        nonlocal told
        percent = 100 * done // most
        if percent > told:
            told = percent
            progress(f"{percent} % of {most} {what} at most", percent, 100)

    return report


def tokenizer_errors(figures: Figures) -> None:
    """Errors of a tokenizer's round trip, whole and per joint."""
    use = ", ".join(f"{100 * share:.0f} %" for share in figures["codebook_use"])
    basis = f"(normalised, {figures['chunks']} chunks)"
    print(f"mse {figures['mse']:.2e}  l1 {figures['l1']:.2e}  {basis}")
    print(f"{figures['tokens']:g} tokens, {figures['bits']:.0f} bits, codebook use {use}")
    for row in figures["per_joint"]:
        print(f"  {row['name']:14s} rms {row['rms']:.5f}  max {row['max']:.5f} {row['unit']}")


def envelope(figures: Figures) -> None:
    """The worst of each joint, each quantity with its share of the robot's limit."""

    def cell(worst: Figures) -> str:
        return f"{worst['value']:.3g} ({worst['ratio']:.2f}{'*' * (worst['found'] == 'search')})"

    quantities = ("position", "velocity", "acceleration", "first_step")
    table(
        [
            {
                "joint": row["name"],
                "unit": row["unit"],
                "position_from": "reference" if row["relative"] else "middle",
                **{name: cell(row[name]) for name in quantities},
                "beyond_from_home": f"{row['beyond_from_home']:.3g}",
            }
            for row in figures["joints"]
        ]
    )
    print(
        f"in brackets: share of the limit of {figures['robot']}, * found by the search; "
        f"{figures['decoded']} sequences at {figures['rate_hz']:g} Hz, seed {figures['seed']}"
    )
    print(figures["meaning"])


def table(rows: Sequence[Figures]) -> None:
    """Rows with the same keys, in columns."""
    keys = list(rows[0])
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in keys}
    print("  ".join(f"{key:{widths[key]}}" for key in keys))
    for row in rows:
        print("  ".join(f"{row[key]!s:{widths[key]}}" for key in keys))


Figures = dict[str, Any]
