"""Report of a run: report.html, one self-contained page, and its numbers in report.json."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nac_ros.core.files import lock_folder
from nac_ros.reporting import plots
from nac_ros.reporting.html import figure, page, section, table
from nac_ros.stats.sequential import run_betting_test
from nac_ros.trials.protocol import ALL_TASKS
from nac_ros.trials.results import Results, compute_results, display_names, paired_outcomes
from nac_ros.trials.run import Record, TrialRun
from nac_ros.trials.trial_log import write_file

PAGE, NUMBERS = "report.html", "report.json"
WINDOW = 10  # trials of the moving success rate; a method with fewer is not plotted
INTERVAL_NOTE = "k/n with Clopper and Pearson's exact 95 % interval."
LETTERS_NOTE = (
    f"{INTERVAL_NOTE} Methods that share a letter do not differ significantly (Holm's p for a "
    "task, the stratified test for all)."
)
TESTS_NOTE = (
    "Difference: points of success rate on shared scenes, with Tango's paired 95 % interval. One "
    "only: scenes on which only the first, and only the second method succeeded. Barnard: exact "
    "test of two rates; Holm: its p adjusted for all tasks and pairs; over all tasks: exact "
    "Cochran-Mantel-Haenszel test, adjusted for all pairs. McNemar: exact test on the scenes of "
    "one only. Any time: sequential test, valid at every look. The last two are not adjusted. "
    "Bold: at most alpha."
)
MEASUREMENTS_NOTE = (
    "Time: until success, median. SPARC: smoothness of the tool's speed, median; nearer to 0 is "
    "smoother, comparable within a task only. Jerk: root mean square of the command, as a share "
    "of the limits. Clips: clipped set-points of a trial, mean. Transition: step of the command "
    "when a new chunk takes over [rad or m]; latency: observation to chunk; both p50 / p99. "
    "Columns that were not measured are left out."
)
SEQUENTIAL_NOTE = (
    "Only the sequential test (any time) is valid before the end of a run. Stopping because "
    "another p is small gives more false positives than alpha."
)
STOPPED_NOTE = (
    "The stopping rule ends a task when its methods look most different. For such a task quote "
    "the p of `any time`: other p, letters, differences and intervals are too optimistic."
)
PUBLISHED_NOTE = (
    "Success [%]. The paper's rates are from 10 trials of each method on its own real arm, with "
    "other objects: for orientation, not for comparison."
)


def write_report(run: TrialRun) -> tuple[Path, Results]:
    """Writes both files into the run's folder; returns the page's path and the results.

    Raises TrialError if the disk is full.
    """
    results = compute_results(run)
    numbers = escape(json.dumps(results, indent=2))
    sections = (
        _tiles(results),
        _state(results),
        _success(results),
        _comparison(run, results),
        _film_strips(run),
        _measurements(run, results),
        section("Why trials failed", _failures(results)),
        _drift(run),
        _published(results),
        _protocol(run),
        _trials(run),
        section("Results", _details(NUMBERS, f"<pre>{numbers}</pre>")),
    )
    subtitle = escape(
        f"{results['run']} · robot {results['robot']} · seed {results['seed']} · "
        f"{results['verdicts']} verdicts, {results['planned']} trials planned · "
        f"protocol {results['protocol'][:12]}"
    )
    with lock_folder(run.folder):
        write_file(run.folder / NUMBERS, (json.dumps(results, indent=1) + "\n").encode())
        write_file(run.folder / PAGE, page("Trials", subtitle, "\n".join(sections)).encode())
    return run.folder / PAGE, results


def _tiles(results: Results) -> str:
    """One tile per method with its success over all tasks."""
    tiles = []
    for method, rows in results["methods"].items():
        k, n = (sum(row[key] for row in rows.values()) for key in ("successes", "trials"))
        if n:
            shown = results["letters"].get(ALL_TASKS, {}).get(method, "")
            letters = f"; letters {shown}" if shown else ""
            tasks = "1 task" if len(rows) == 1 else f"{len(rows)} tasks"
            tiles.append(
                f'<div class="tile"><b>{k} of {n}</b><span>{escape(method)}</span>'
                f"<small>{100 * k / n:.0f} % over {tasks}{letters}</small></div>"
            )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _state(results: Results) -> str:
    """What a reader must know before using the numbers: blind, unfinished, stopped early."""
    notes = []
    if results["blind"]:
        notes.append("Methods are shown by their codes until the run is unblinded.")
    if not results["finished"] and results["blind"]:
        notes.append(f"The run is not finished: {results['verdicts']} verdicts. {SEQUENTIAL_NOTE}")
    elif not results["finished"]:
        notes.append(
            f"The run was ended by unblinding it: {results['verdicts']} verdicts, and "
            f"{results['planned']} trials were planned. The sequential test (any time) is valid; "
            "everything else only if the decision to end did not depend on the results."
        )
    for task, n in results["stopped_after"].items():
        notes.append(f"The stopping rule ended {escape(task)} after {n} trials of each method.")
    if results["stopped_after"]:
        notes.append(STOPPED_NOTE)
    return section("State", "".join(f'<p class="note">{n}</p>' for n in notes)) if notes else ""


def _success(results: Results) -> str:
    """Plot and table of the success rates, tasks down, methods across."""
    rates = {
        method: {
            task: (row["successes"], row["trials"], tuple(row["wilson95"]))
            for task, row in rows.items()
        }
        for method, rows in results["methods"].items()
        if rows
    }
    if not rates:
        reason = "All verdicts are `invalid`" if results["verdicts"] else "There is no verdict yet"
        return section("Success", f"<p>{reason}.</p>")
    total = sum(n for rows in rates.values() for _, n, _ in rows.values())
    caption = f"Success by task and method, n = {total} trials; bars are Wilson's 95 % intervals."
    methods = list(results["methods"])
    cells = [
        [escape(task), *(_rate(results, task, m) for m in methods)] for task in _tasks(results)
    ]
    note = _note(LETTERS_NOTE if results["letters"] else INTERVAL_NOTE)
    plot = figure(plots.plot_success_rates(rates), caption)
    return section("Success", plot + table(["task", *methods], cells) + note)


def _rate(results: Results, task: str, method: str) -> str:
    row = results["methods"][method].get(task)
    if row is None:
        return ""
    low, high = (100 * bound for bound in row["clopper_pearson95"])
    letters = results["letters"].get(task, {}).get(method, "")
    return (
        f"<b>{row['successes']}/{row['trials']}</b><sup>{letters}</sup> "
        f"<small>{low:.0f} to {high:.0f} %</small>"
    )


def _comparison(run: TrialRun, results: Results) -> str:
    """Tests of every pair of methods, and the wealth of the sequential test over all tasks."""
    if not results["tests"]:
        return ""
    codes = {name: code for code, name in display_names(run).items()}
    rows, wealth, alpha = [], {}, results["alpha"]
    for row in results["tests"]:
        pooled = row["task"] == ALL_TASKS
        test = "stratified" if pooled else "barnard"
        if pooled:
            pair = paired_outcomes(run, *(codes[name] for name in row["methods"]))
            wealth[" and ".join(row["methods"])] = run_betting_test(pair).wealth
        rows.append(
            {
                "methods": " and ".join(escape(name) for name in row["methods"]),
                "task": "<b>all tasks</b>" if pooled else escape(row["task"]),
                "difference": _difference(row),
                "one only": f"{row['first_only']} : {row['second_only']}",
                "Barnard": _p_value(row[f"{test}_p"], alpha),
                "Holm": _p_value(row[f"{test}_holm_p"], alpha),
                "McNemar": _p_value(row["mcnemar_p"], alpha),
                "any time": _p_value(row["anytime_p"], alpha),
            }
        )
    caption = (
        "Wealth of a bet against equal success rates, over all tasks in order. It may be looked "
        f"at any time: for two equal methods it ever reaches {1 / alpha:g} with a "
        f"probability of at most {alpha:g}."
    )
    curve = figure(plots.plot_wealth(wealth, alpha), caption)
    return section("Do the methods differ?", _table(rows) + _note(TESTS_NOTE) + curve)


def _difference(row: Results) -> str:
    if row.get("difference") is None:
        return ""
    low, high = (100 * bound for bound in row["difference95"])
    return f"{100 * row['difference']:+.0f} <small>{low:+.0f} to {high:+.0f}</small>"


def _p_value(value: float, alpha: float) -> str:
    text = "&lt; 0.001" if value < 0.001 else f"{value:.3f}"
    return f"<b>{text}</b>" if value <= alpha else text


def _film_strips(run: TrialRun) -> str:
    """Film strips of the first success and the first failure of each method on each task."""
    blocks = []
    for task in run.protocol.tasks:
        for code, name in display_names(run).items():
            for label, won in (("success", True), ("failure", False)):
                records = run.valid_records(task, code)
                records = [r for r in records if r.succeeded == won]
                shown = [r for r in records if (run.folder / r.film_strip).is_file()]
                if shown:
                    label += " with a film strip" if shown[0] != records[0] else ""
                    blocks.append(_film_strip(run, shown[0], name, label))
    return section("First success, first failure", "".join(blocks)) if blocks else ""


def _film_strip(run: TrialRun, record: Record, name: str, label: str) -> str:
    time = f" ({record.seconds:.1f} s)" if record.seconds is not None else ""
    text = f"{record.task}, {name}: first {label}, trial {record.trial}. {record.reason}{time}"
    return figure((run.folder / record.film_strip).read_bytes(), escape(text), "jpeg")


def _measurements(run: TrialRun, results: Results) -> str:
    """Plot of the times to success, and a table of all measurements."""
    if not any(results["methods"].values()):
        return ""
    seconds: dict[str, dict[str, list[float]]] = {}
    for code, name in display_names(run).items():
        for task in results["methods"][name]:
            records = [r for r in run.valid_records(task, code) if r.succeeded]
            if times := [r.seconds for r in records if r.seconds is not None]:
                seconds.setdefault(name, {})[task] = times
    n = sum(len(times) for tasks in seconds.values() for times in tasks.values())
    caption = f"Time to success, n = {n} successful trials; the line is the median."
    plot = figure(plots.plot_success_times(seconds), caption) if seconds else ""
    rows = [
        {
            "task": escape(task),
            "method": escape(method),
            "time [s]": _number(row["seconds_to_success"]["p50"], 1),
            "SPARC": _number(row["sparc"]["p50"], 2),
            "jerk": _number(row["jerk_rms_ratio"], 3),
            "clips": _number(row["guard_clips"]["mean"], 0),
            "transition": _percentiles(row["transition_jump"], 3),
            "latency [ms]": _percentiles(row["chunk_ms"], 0),
            "rubric": _rubric(row["rubric"]),
            "interventions": str(row["interventions"] or ""),
            "holds": _counts(row["holds"]),
            "rejections": _counts(row["rejections"]),
        }
        for task, method, row in _rows(results)
    ]
    note = _note(MEASUREMENTS_NOTE)
    return section("Measurements", plot + _table(rows) + note)


def _rubric(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    low, high = (100 * bound for bound in row["mean95"])
    return f"{100 * row['mean']:.0f} % <small>{low:.0f} to {high:.0f}</small>"


def _failures(results: Results) -> str:
    """Reasons of failure, the most frequent first, then aborted and invalid trials."""
    rows = []
    for task, method, row in _rows(results):
        reasons = sorted(row["failures"].items(), key=lambda item: -item[1])
        counts = [(n, escape(reason)) for reason, n in reasons]
        counts.append((row["aborted"], "of these, aborted by the operator"))
        counts.append((row["invalid"], "invalid: repeated, not counted"))
        rows += [[escape(task), escape(method), str(n), text] for n, text in counts if n]
    return (
        table(("task", "method", "trials", "reason"), rows) if rows else "<p>No trial failed.</p>"
    )


def _drift(run: TrialRun) -> str:
    """Moving success rate of each method, to show a drift during the run."""
    names = display_names(run)
    outcomes: dict[str, list[bool]] = {name: [] for name in names.values()}
    for record in run.records:
        if record.outcome != "invalid":
            outcomes[names[record.code]].append(record.succeeded)
    enough = {name: values for name, values in outcomes.items() if len(values) > WINDOW}
    if not enough:
        return ""
    caption = (
        f"Success over the last {WINDOW} trials of a method, in the order of the run, all tasks. "
        "Blocks and random order spread a drift evenly over the methods."
    )
    return section("Drift", figure(plots.plot_success_drift(enough, WINDOW), caption))


def _published(results: Results) -> str:
    """Success rates of the run above those of the paper's Table 6."""
    if not (published := results["published"]):
        return ""
    rows = []
    for method, tasks in results["methods"].items():
        rates = [
            100 * tasks[task]["successes"] / tasks[task]["trials"] if task in tasks else None
            for task in published
        ]
        cells = [f"<b>{_number(rate, 0)}</b>" for rate in (*rates, _mean(rates))]
        rows.append([f"<b>{escape(method)}</b>", f"{results['robot']}, here", *cells])
    for method in next(iter(published.values())):
        rates = [rates_of_task[method] for rates_of_task in published.values()]
        rows.append([method, "the paper's arm", *(_number(r, 0) for r in (*rates, _mean(rates)))])
    body = table(["method", "arm", *published, "mean"], rows) + _note(PUBLISHED_NOTE)
    return section("The paper's Table 6", body)


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean over tasks; None if one is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _protocol(run: TrialRun) -> str:
    protocol = run.protocol
    rows = [
        [escape(task), escape(criterion.success), escape(criterion.failure)]
        for task, criterion in protocol.criteria.items()
    ]
    text = (
        f"{protocol.trials} trials of each method on each task, at most {protocol.max_steps} "
        f"steps each; stopping rule {protocol.stopping.rule}. SHA-256 of the frozen protocol: "
        f"<code>{run.sha256}</code>"
    )
    return section("Protocol", f"<p>{text}</p>{table(('task', 'success', 'failure'), rows)}")


def _trials(run: TrialRun) -> str:
    names = display_names(run)
    rows = [
        {
            "task": escape(record.task),
            "trial": str(record.trial),
            "method": escape(names[record.code]),
            "start position": escape(record.start_position),
            "outcome": f'<i class="{record.outcome}">{record.outcome}</i>',
            "reason": escape(record.reason),
            "time [s]": _number(record.seconds, 1),
            "note": escape(record.note),
            "verdict at": escape(record.time),
        }
        for record in run.records
    ]
    body = _table(rows)
    return section("All trials", _details(f"{len(rows)} trials in the order of the run", body))


def _tasks(results: Results) -> list[str]:
    return list(dict.fromkeys(task for rows in results["methods"].values() for task in rows))


def _rows(results: Results) -> Iterator[tuple[str, str, Results]]:
    """(task, method, row), by task."""
    for task in _tasks(results):
        for method, rows in results["methods"].items():
            if task in rows:
                yield task, method, rows[task]


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of rows {head: cell} without the columns that are empty in all rows."""
    heads = [head for head in (rows[0] if rows else ()) if any(row[head] for row in rows)]
    return table(heads, [[row[head] for head in heads] for row in rows])


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percentiles(values: Mapping[str, float | None], digits: int) -> str:
    shown = [_number(values[key], digits) for key in ("p50", "p99")]
    return " / ".join(shown) if all(shown) else ""


def _counts(counts: Mapping[str, int]) -> str:
    return escape(", ".join(f"{reason} {n}" for reason, n in sorted(counts.items())))


def _note(text: str) -> str:
    return f"<p><small>{text}</small></p>"


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>{body}</details>"
