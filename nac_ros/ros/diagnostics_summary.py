"""Summarises the diagnostics of a trial: counts, holds, interventions, chunk transitions."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from nac_ros.reporting.trial_trace import TimeSpan
from nac_ros.ros.guard_mode import EXPECTED_HOLDS

Report = dict[str, Any]


def counts_by_reason(report: Report, name: str) -> Counter[str]:
    """The values `<name>.<reason>` of a report as reason -> count."""
    prefix = f"{name}."
    found = {key: n for key, n in report.items() if key.startswith(prefix)}
    return Counter({key.removeprefix(prefix): int(n) for key, n in found.items()})


def count_increases(before: Report, after: Report, name: str) -> dict[str, int]:
    """How much `<name>.<reason>` grew between two reports, without the expected reasons."""
    increases = counts_by_reason(after, name) - counts_by_reason(before, name)
    return {reason: n for reason, n in increases.items() if reason not in EXPECTED_HOLDS}


def chunk_reports(reports: Sequence[Report]) -> list[Report]:
    """The newest report about each chunk; the policy sends one or more for each."""
    found = {r["chunk_stamp"]: r for r in reports if r.get("chunks") and "chunk_stamp" in r}
    return list(found.values())


def transition_jumps(reports: Sequence[Report], before: Report) -> list[float]:
    """Distance [rad or m] between the commanded positions and each chunk that replaced another one
    since the report `before`. A chunk that starts an arm at rest is no transition."""
    jumps, last = [], before
    for report in reports:
        stamp = report.get("chunk_stamp")
        if stamp is not None and stamp != last.get("chunk_stamp") and not last.get("hold"):
            jumps.append(report["transition_jump"])
        last = report
    return jumps


def hold_spans(reports: Sequence[Report], ended: float) -> tuple[TimeSpan, ...]:
    """When the guard held for an unexpected reason; `ended` [s] is the end of the trial."""
    return _spans(
        reports, ended, lambda report: "" if report["hold"] in EXPECTED_HOLDS else report["hold"]
    )


def interventions(reports: Sequence[Report], ended: float) -> tuple[TimeSpan, ...]:
    """When the operator drove the arm instead of the policy."""
    return _spans(reports, ended, lambda report: "teleop" if report["mode"] == "teleop" else "")


def _spans(
    reports: Sequence[Report], ended: float, reason_of: Callable[[Report], str]
) -> tuple[TimeSpan, ...]:
    """One span for each run of reports with the same reason; '' is no reason."""
    spans, began, reason = [], 0.0, ""
    for report in reports:
        if reason_of(report) == reason:
            continue
        if reason:
            spans.append(TimeSpan(began, report["stamp"], reason))
        began, reason = report["stamp"], reason_of(report)
    if reason:
        spans.append(TimeSpan(began, ended, reason))
    return tuple(spans)
