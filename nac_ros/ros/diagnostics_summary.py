"""What the diagnostics of a trial add up to."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from nac_ros.reporting.trial_trace import TimeSpan

# told to hold, bringing the set-point to where motion begins, waiting for a trial's first chunk
PLANNED = ("", "mode_hold", "settling", "no_chunk")
HAND = "teleop"  # the mode in which the guard follows a hand

Report = dict[str, Any]


def counts_by_reason(report: Report, what: str) -> Counter[str]:
    """The values `what.<reason>` of a report as reason -> count."""
    prefix = f"{what}."
    found = {key: n for key, n in report.items() if key.startswith(prefix)}
    return Counter({key.removeprefix(prefix): int(n) for key, n in found.items()})


def count_increases(before: Report, after: Report, what: str) -> dict[str, int]:
    """What was counted between two reports, but for what was asked for."""
    more = counts_by_reason(after, what) - counts_by_reason(before, what)
    return {reason: n for reason, n in more.items() if reason not in PLANNED}


def chunk_reports(reports: Sequence[Report]) -> list[Report]:
    """One report of each chunk; the policy reports once or more for each."""
    found = {r["chunk_stamp"]: r for r in reports if r.get("chunks") and "chunk_stamp" in r}
    return list(found.values())


def transition_jumps(reports: Sequence[Report], before: Report) -> list[float]:
    """How far each chunk that took over from another since `before` lay off [rad or m]; one that
    started an arm at rest is no seam."""
    found, last = [], before
    for report in reports:
        stamp = report.get("chunk_stamp")
        if stamp is not None and stamp != last.get("chunk_stamp") and not last.get("hold"):
            found.append(report["transition_jump"])
        last = report
    return found


def hold_spans(reports: Sequence[dict[str, Any]], ended: float) -> tuple[TimeSpan, ...]:
    """When the guard held for another reason than that it was told to."""
    return _spans(
        reports, ended, lambda report: "" if report["hold"] in PLANNED else report["hold"]
    )


def interventions(reports: Sequence[dict[str, Any]], ended: float) -> tuple[TimeSpan, ...]:
    """When somebody's hand drove the arm instead of the policy."""
    return _spans(reports, ended, lambda report: report["mode"] if report["mode"] == HAND else "")


def _spans(
    reports: Sequence[dict[str, Any]], ended: float, why: Callable[[dict[str, Any]], str]
) -> tuple[TimeSpan, ...]:
    """From the first report with a reason to the next with another one."""
    spans, since, reason = [], 0.0, ""
    for report in reports:
        if (now := why(report)) == reason:
            continue
        if reason:
            spans.append(TimeSpan(since, report["stamp"], reason))
        since, reason = report["stamp"], now
    if reason:
        spans.append(TimeSpan(since, ended, reason))
    return tuple(spans)
