"""What a run found, as figures: rates with intervals, measures, tests, letters."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from nac_ros.evaluation.published_results import TABLE_6
from nac_ros.stats.hypothesis_tests import (
    Count,
    Pairs,
    barnard,
    discordant,
    holm,
    letters,
    mcnemar,
    stratified,
)
from nac_ros.stats.intervals import (
    bootstrap_mean,
    clopper_pearson,
    paired_difference,
    percentiles,
    wilson,
)
from nac_ros.stats.sequential import bet
from nac_ros.trials.protocol import POOLED
from nac_ros.trials.run import Record, TrialRun

Figures = dict[str, Any]


def names_of(run: TrialRun) -> dict[str, str]:
    """Code -> what it is called in public: the method, in the protocol's order, once the run is
    unblinded; until then the code, in an order that tells nothing."""
    if not run.unblinded:
        return {code: code for code in sorted(run.codes.values())}
    return {run.codes[method]: method for method in run.protocol.methods}


def figures(run: TrialRun) -> Figures:
    """The object of `nac trials --json` and `nac report --json`."""
    names, protocol = names_of(run), run.protocol
    tests = _tests(run)
    stops = {task: n for task in protocol.tasks if (n := run.stopped(task)) is not None}
    return {
        "run": str(run.folder),
        "protocol": run.sha256,
        "robot": protocol.robot,
        "seed": protocol.seed,
        "alpha": protocol.alpha,
        "rule": protocol.stop.rule,
        "stopped": stops,
        "planned": len(run.slots),
        "judged": len(run.records),
        "finished": next(run.pending(), None) is None,
        "blind": not run.unblinded,
        "methods": {name: _of_method(run, code) for code, name in names.items()},
        "tests": tests,
        "letters": _letters(run, tests),
        "paper": {task: TABLE_6[task] for task in protocol.tasks if task in TABLE_6},
    }


def outcomes_of(run: TrialRun, first: str, second: str) -> list[tuple[bool, bool]]:
    """Whether two codes succeeded, scene by scene and task by task, up to the first scene that one
    of them has still to play: what others have played beyond it comes later, in its turn, or the
    test that may be looked at any time would depend on who was fast."""
    found = []
    for task in run.protocol.tasks:
        for trial in range(run.stopped(task) or run.protocol.trials):
            pair = run.record(task, trial, first), run.record(task, trial, second)
            if pair[0] is None or pair[1] is None:
                return found
            found.append((pair[0].outcome == "success", pair[1].outcome == "success"))
    return found


def _of_method(run: TrialRun, code: str) -> Figures:
    played = {task: run.counted(task, code) for task in run.protocol.tasks}
    return {task: _row(run, code, task, rows) for task, rows in played.items() if rows}


def _row(run: TrialRun, code: str, task: str, records: Sequence[Record]) -> Figures:
    count, outcomes = _count(records), Counter(record.outcome for record in records)
    every = [r for r in run.records if (r.task, r.code) == (task, code)]
    return {
        "trials": count.trials,
        "successes": count.successes,
        "wilson95": list(wilson(count.successes, count.trials)),
        "clopper_pearson95": list(clopper_pearson(count.successes, count.trials)),
        "aborted": outcomes["aborted"],
        "invalid": sum(record.outcome == "invalid" for record in every),
        "failures": dict(Counter(r.reason or "no reason given" for r in _failed(records))),
        "rubric": _rubric(run, task, records),
        **_measures(records),
        "outcomes": [
            {"trial": r.trial, "outcome": r.outcome, "reason": r.reason, "steps": r.steps}
            for r in records
        ],
    }


def _measures(records: Sequence[Record]) -> Figures:
    won = [r.seconds for r in records if r.outcome == "success" and r.seconds is not None]
    clips = [record.clips for record in records if record.clips is not None]
    smooth = [record.sparc for record in records if record.sparc is not None]
    jerks = [record.jerk for record in records if record.jerk is not None]
    return {
        "seconds_to_success": {**percentiles(won), "n": len(won)},
        "guard_clips": {"mean": _mean(clips), "n": len(clips)},
        "seam_jump": percentiles([jump for r in records for jump in r.jumps or ()]),
        "sparc": {"p50": float(np.median(smooth)) if smooth else None, "n": len(smooth)},
        "jerk_rms_ratio": _mean(jerks),
        "plan_ms": percentiles([ms for record in records for ms in record.plan_ms]),
        "holds": dict(sum((Counter(record.holds) for record in records), Counter())),
        "refusals": dict(sum((Counter(record.refusals) for record in records), Counter())),
        "interventions": sum(record.interventions for record in records),
    }


def _rubric(run: TrialRun, task: str, records: Sequence[Record]) -> Figures | None:
    """Share of the task's steps that were reached, where it was judged."""
    steps = len(run.protocol.rubric.get(task, ()))
    shares = [record.rubric / steps for record in records if record.rubric is not None]
    if not shares:
        return None
    return {"mean": _mean(shares), "mean95": list(bootstrap_mean(shares)), "n": len(shares)}


def _tests(run: TrialRun) -> list[Figures]:
    """A row for each two methods and task that both have played, and one for all tasks."""
    rows, pooled = [], []
    for first, second in combinations(names_of(run), 2):
        each = [_of_task(run, task, first, second) for task in run.protocol.tasks]
        found = [row for row in each if row is not None]
        rows += found
        pooled += [_of_all(run, found, first, second)] if found else []
    for group, key in ((rows, "barnard"), (pooled, "stratified")):
        adjusted = holm({index: row[f"{key}_p"] for index, row in enumerate(group)})
        for index, row in enumerate(group):
            row[f"{key}_holm_p"] = adjusted[index]
    return rows + pooled


def _of_task(run: TrialRun, task: str, first: str, second: str) -> Figures | None:
    counts = [_count(run.counted(task, code)) for code in (first, second)]
    if not all(count.trials for count in counts):
        return None
    names, outcomes = names_of(run), _shared(run, task, first, second)
    pairs, made = discordant(*outcomes), run.bet(task, first, second)
    shared = len(outcomes[0])
    return {
        "methods": [names[first], names[second]],
        "task": task,
        "counts": [list(count) for count in counts],
        "barnard_p": barnard(*counts),
        "shared": shared,
        "difference": _mean(outcomes[0]) - _mean(outcomes[1]) if shared else None,
        "difference95": list(paired_difference(*outcomes)) if shared else None,
        **pairs._asdict(),
        "mcnemar_p": mcnemar(pairs),
        "anytime_p": made.p,
        "told_apart_after": made.reached(run.protocol.alpha),
    }


def _of_all(run: TrialRun, rows: Sequence[Figures], first: str, second: str) -> Figures:
    counts = [tuple(Count(*count) for count in row["counts"]) for row in rows]
    pairs = Pairs(*(sum(row[key] for row in rows) for key in ("gained", "lost")))
    made = bet(outcomes_of(run, first, second))
    return {
        "methods": rows[0]["methods"],
        "task": POOLED,
        "counts": [[sum(part) for part in zip(*side)] for side in zip(*counts)],
        "stratified_p": stratified(counts),
        "shared": sum(row["shared"] for row in rows),
        **pairs._asdict(),
        "mcnemar_p": mcnemar(pairs),
        "anytime_p": made.p,
        "told_apart_after": made.reached(run.protocol.alpha),
    }


def _letters(run: TrialRun, tests: Sequence[Figures]) -> dict[str, dict[str, str]]:
    """Task -> method -> letters; the best rate comes first."""
    shown = {}
    for task in (*run.protocol.tasks, POOLED):
        rows = [row for row in tests if row["task"] == task]
        rates = {
            name: k / n for row in rows for name, (k, n) in zip(row["methods"], row["counts"])
        }
        key = "stratified_holm_p" if task == POOLED else "barnard_holm_p"
        different = {frozenset(r["methods"]) for r in rows if r[key] <= run.protocol.alpha}
        if rates:
            ordered = sorted(rates, key=lambda name: -rates[name])
            shown[task] = letters(ordered, different)
    return shown


def _shared(run: TrialRun, task: str, first: str, second: str) -> tuple[list[bool], list[bool]]:
    """Outcomes of two codes on the trials that both have played."""
    pairs = [
        (run.record(task, trial, first), run.record(task, trial, second))
        for trial in range(run.protocol.trials)
    ]
    both = [(a.outcome == "success", b.outcome == "success") for a, b in pairs if a and b]
    return [a for a, _ in both], [b for _, b in both]


def _count(records: Sequence[Record]) -> Count:
    return Count(sum(record.outcome == "success" for record in records), len(records))


def _failed(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.outcome != "success"]


def _mean(values: Sequence[float]) -> Any:
    return float(np.mean(values)) if values else None
