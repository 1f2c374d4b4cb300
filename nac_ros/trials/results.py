"""Results of a run: success rates with intervals, measurements, tests and letter display."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from nac_ros.evaluation.published_results import TABLE_6
from nac_ros.stats.hypothesis_tests import (
    DiscordantPairs,
    SuccessCount,
    barnard_test,
    compact_letter_display,
    count_discordant,
    holm_adjust,
    mcnemar_test,
    stratified_test,
)
from nac_ros.stats.intervals import (
    bootstrap_mean,
    clopper_pearson,
    paired_difference,
    percentiles,
    wilson,
)
from nac_ros.stats.sequential import run_betting_test
from nac_ros.trials.protocol import ALL_TASKS
from nac_ros.trials.run import Record, TrialRun

Results = dict[str, Any]


def display_names(run: TrialRun) -> dict[str, str]:
    """Code -> name in reports: the method, in the protocol's order, once the run is unblinded;
    before that the code itself, in alphabetical order."""
    if not run.unblinded:
        return {code: code for code in sorted(run.codes.values())}
    return {run.codes[method]: method for method in run.protocol.methods}


def compute_results(run: TrialRun) -> Results:
    """The object of report.json, `nac trials --json` and `nac report --json`."""
    names, protocol = display_names(run), run.protocol
    tests = _tests(run)
    stopped = {task: run.stopped_after(task) for task in protocol.tasks}
    return {
        "run": str(run.folder),
        "protocol": run.sha256,
        "robot": protocol.robot,
        "seed": protocol.seed,
        "alpha": protocol.alpha,
        "stopping_rule": protocol.stopping.rule,
        "stopped_after": {task: n for task, n in stopped.items() if n is not None},
        "planned": len(run.slots),
        "verdicts": len(run.records),
        "finished": next(run.pending(), None) is None,
        "blind": not run.unblinded,
        "methods": {name: _of_method(run, code) for code, name in names.items()},
        "tests": tests,
        "letters": _letters(run, tests),
        "published": {task: TABLE_6[task] for task in protocol.tasks if task in TABLE_6},
    }


def paired_outcomes(run: TrialRun, first: str, second: str) -> list[tuple[bool, bool]]:
    """Whether two codes succeeded, over all tasks in order, up to the first missing verdict."""
    pairs = []
    for task in run.protocol.tasks:
        trials = run.stopped_after(task) or run.protocol.trials
        of_task = run.paired_outcomes(task, first, second, trials)
        pairs += of_task
        if len(of_task) < trials:
            break
    return pairs


def _of_method(run: TrialRun, code: str) -> Results:
    records = {task: run.valid_records(task, code) for task in run.protocol.tasks}
    return {task: _row(run, code, task, rows) for task, rows in records.items() if rows}


def _row(run: TrialRun, code: str, task: str, records: Sequence[Record]) -> Results:
    successes, n = _count(records)
    outcomes = Counter(r.outcome for r in run.records if (r.task, r.code) == (task, code))
    failed = [record for record in records if not record.succeeded]
    return {
        "trials": n,
        "successes": successes,
        "wilson95": list(wilson(successes, n)),
        "clopper_pearson95": list(clopper_pearson(successes, n)),
        "aborted": sum(record.outcome == "aborted" for record in records),
        "invalid": outcomes["invalid"],
        "failures": dict(Counter(record.reason or "no reason given" for record in failed)),
        "rubric": _rubric(run, task, records),
        **_measurements(records),
        "outcomes": [
            {"trial": r.trial, "outcome": r.outcome, "reason": r.reason, "steps": r.steps}
            for r in records
        ],
    }


def _measurements(records: Sequence[Record]) -> Results:
    times = [r.seconds for r in records if r.succeeded and r.seconds is not None]
    clips = [record.clips for record in records if record.clips is not None]
    sparcs = [record.sparc for record in records if record.sparc is not None]
    jerks = [record.jerk for record in records if record.jerk is not None]
    return {
        "seconds_to_success": {**percentiles(times), "n": len(times)},
        "guard_clips": {"mean": _mean(clips), "n": len(clips)},
        "transition_jump": percentiles([x for r in records for x in r.transition_jumps or ()]),
        "sparc": {"p50": float(np.median(sparcs)) if sparcs else None, "n": len(sparcs)},
        "jerk_rms_ratio": _mean(jerks),
        "chunk_ms": percentiles([ms for record in records for ms in record.chunk_ms]),
        "holds": dict(sum((Counter(record.holds) for record in records), Counter())),
        "rejections": dict(sum((Counter(record.rejections) for record in records), Counter())),
        "interventions": sum(record.interventions for record in records),
    }


def _rubric(run: TrialRun, task: str, records: Sequence[Record]) -> Results | None:
    """Mean share of the reached steps, over the trials for which it was entered."""
    steps = len(run.protocol.rubric.get(task, ()))
    shares = [record.rubric / steps for record in records if record.rubric is not None]
    if not shares:
        return None
    return {"mean": _mean(shares), "mean95": list(bootstrap_mean(shares)), "n": len(shares)}


def _tests(run: TrialRun) -> list[Results]:
    """A row per task and pair of methods that both ran it, then a row per pair over all tasks.

    Holm's adjustment is over all rows of a kind.
    """
    per_task, pooled = [], []
    for first, second in combinations(display_names(run), 2):
        found = [_task_test(run, task, first, second) for task in run.protocol.tasks]
        rows = [row for row in found if row is not None]
        per_task += rows
        pooled += [_pooled_test(run, rows, first, second)] if rows else []
    for group, key in ((per_task, "barnard"), (pooled, "stratified")):
        adjusted = holm_adjust({index: row[f"{key}_p"] for index, row in enumerate(group)})
        for index, row in enumerate(group):
            row[f"{key}_holm_p"] = adjusted[index]
    return per_task + pooled


def _task_test(run: TrialRun, task: str, first: str, second: str) -> Results | None:
    counts = [_count(run.valid_records(task, code)) for code in (first, second)]
    if not all(count.trials for count in counts):
        return None
    names, outcomes = display_names(run), _shared_outcomes(run, task, first, second)
    n_shared = len(outcomes[0])
    trials = run.stopped_after(task) or run.protocol.trials
    pairs = run.paired_outcomes(task, first, second, trials)
    return {
        "methods": [names[first], names[second]],
        "task": task,
        "counts": [list(count) for count in counts],
        "barnard_p": barnard_test(*counts),
        "shared": n_shared,
        "difference": _mean(outcomes[0]) - _mean(outcomes[1]) if n_shared else None,
        "difference95": list(paired_difference(*outcomes)) if n_shared else None,
        **_paired_tests(run, count_discordant(*outcomes), pairs),
    }


def _pooled_test(run: TrialRun, rows: Sequence[Results], first: str, second: str) -> Results:
    counts = [(SuccessCount(*a), SuccessCount(*b)) for a, b in (row["counts"] for row in rows)]
    discordant = (sum(row[key] for row in rows) for key in DiscordantPairs._fields)
    return {
        "methods": rows[0]["methods"],
        "task": ALL_TASKS,
        "counts": np.sum([row["counts"] for row in rows], axis=0).tolist(),
        "stratified_p": stratified_test(counts),
        "shared": sum(row["shared"] for row in rows),
        **_paired_tests(run, DiscordantPairs(*discordant), paired_outcomes(run, first, second)),
    }


def _paired_tests(
    run: TrialRun, discordant: DiscordantPairs, pairs: list[tuple[bool, bool]]
) -> Results:
    sequential = run_betting_test(pairs)
    return {
        **discordant._asdict(),
        "mcnemar_p": mcnemar_test(discordant),
        "anytime_p": sequential.p,
        "rejected_after": sequential.rejected_after(run.protocol.alpha),
    }


def _letters(run: TrialRun, tests: Sequence[Results]) -> dict[str, dict[str, str]]:
    """Task -> method -> letters, the best rate first; methods without a significant difference
    share a letter."""
    letters = {}
    for task in (*run.protocol.tasks, ALL_TASKS):
        rows = [row for row in tests if row["task"] == task]
        rates = {
            name: k / n for row in rows for name, (k, n) in zip(row["methods"], row["counts"])
        }
        key = "stratified_holm_p" if task == ALL_TASKS else "barnard_holm_p"
        different = {frozenset(r["methods"]) for r in rows if r[key] <= run.protocol.alpha}
        if rates:
            ordered = sorted(rates, key=lambda name: -rates[name])
            letters[task] = compact_letter_display(ordered, different)
    return letters


def _shared_outcomes(
    run: TrialRun, task: str, first: str, second: str
) -> tuple[list[bool], list[bool]]:
    """Successes of two codes on the trials for which both have a valid verdict."""
    a, b = ({r.trial: r.succeeded for r in run.valid_records(task, c)} for c in (first, second))
    shared = [trial for trial in a if trial in b]
    return [a[trial] for trial in shared], [b[trial] for trial in shared]


def _count(records: Sequence[Record]) -> SuccessCount:
    return SuccessCount(sum(record.succeeded for record in records), len(records))


def _mean(values: Sequence[float]) -> Any:
    return float(np.mean(values)) if values else None
