"""Tables and progress lines that commands of `nac` print."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]


def progress(line: str, done: int, total: int) -> None:
    """One line, overwritten on a terminal; printed every 10 % into a file or pipe."""
    if sys.stdout.isatty():
        print(f"\r{line}   ", end="\n" if done == total else "", flush=True)
    elif done == total or done % max(1, total // 10) == 0:
        print(line, flush=True)


def image_progress(done: int, total: int) -> None:
    """Progress of decoding the images of a dataset."""
    progress(f"decoding images: {done}/{total} episodes", done, total)


def percent_progress(unit: str) -> Callable[[int, int], None]:
    """A progress callback (done, at most) that prints a line for each new percent."""
    last = -1

    def report(done: int, most: int) -> None:
        nonlocal last
        percent = 100 * done // most
        if percent > last:
            last = percent
            progress(f"{percent} % of at most {most} {unit}", percent, 100)

    return report


def tokenizer_errors(results: Row) -> None:
    """Reconstruction errors of a tokenizer, in total and per joint."""
    use = ", ".join(f"{100 * share:.0f} %" for share in results["codebook_use"])
    print(
        f"mse {results['mse']:.2e}  l1 {results['l1']:.2e}  "
        f"(normalised, {results['chunks']} chunks)"
    )
    print(f"{results['tokens']:g} tokens, {results['bits']:.0f} bits, codebook use {use}")
    if results["failed_chunks"]:
        print(
            f"{results['failed_chunks']} chunks failed; they are scored as if the arm held its "
            "position"
        )
    if results["overlap"] is not None:
        shares = ", ".join(f"{100 * share:.0f}" for share in results["overlap_positions"][:16])
        print(
            f"overlap of chunks one step apart: {100 * results['overlap']:.1f} % of the tokens; "
            f"by position {shares} %"
        )
    if learned := results.get("learnability"):
        print(
            f"learnability: {learned['bits_per_chunk']:.1f} bits/chunk, "
            f"{learned['bits_per_token']:.2f} bits/token "
            f"(uniform: {learned['uniform_bits_per_chunk']:.1f} bits/chunk)"
        )
    for row in results["per_joint"]:
        print(f"  {row['name']:14s} rms {row['rms']:.5f}  max {row['max']:.5f} {row['unit']}")


def envelope(results: Row) -> None:
    """Extreme outputs of a tokenizer per joint, each with its share of the robot's limit."""

    def cell(worst: Row) -> str:
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
            for row in results["joints"]
        ]
    )
    print(
        f"in brackets: share of the limit of {results['robot']}, * found by the search; "
        f"{results['decoded']} sequences at {results['rate_hz']:g} Hz, seed {results['seed']}"
    )
    print(results["meaning"])


def success_rate(row: Row, interval: str) -> str:
    """Successes, trials and a 95 % interval in percent; interval: key of the interval in `row`."""
    low, high = (100 * bound for bound in row[interval])
    rate = f"{row['successes']}/{row['trials']}"
    name = {"wilson95": "Wilson", "clopper_pearson95": "Clopper-Pearson"}[interval]
    return f"{rate:>8s}  {name} 95 % {low:.0f} .. {high:.0f} %"


def table(rows: Sequence[Row]) -> None:
    """Rows with equal keys, as columns."""
    keys = list(rows[0])
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in keys}
    print("  ".join(f"{key:{widths[key]}}" for key in keys))
    for row in rows:
        print("  ".join(f"{row[key]!s:{widths[key]}}" for key in keys))
