"""The tables of a run's report, as HTML; what a column means is said below its table."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nac_ros.core.files import locked, replace_with, unwritable
from nac_ros.reporting import plots
from nac_ros.reporting.html import figure, page, section, table
from nac_ros.reporting.plots import success_rates
from nac_ros.stats.sequential import bet
from nac_ros.trials.protocol import POOLED
from nac_ros.trials.results import Figures, figures, names_of, outcomes_of
from nac_ros.trials.run import Record, TrialRun

ALL = "all tasks"
EXACT_NOTE = "<p><small>k/n with Clopper and Pearson's exact 95 % interval.</small></p>"
SUCCESS_NOTE = (
    "<p><small>k/n with Clopper and Pearson's exact 95 % interval. Methods that share a "
    "letter are not told apart (Barnard's test with Holm's correction; over all tasks the "
    "exact stratified test).</small></p>"
)
TESTS_NOTE = (
    "<p><small>Difference: points of success rate on the scenes that both played, with "
    "Tango's paired 95 % interval. Alone: scenes on which only the first, and only the second "
    "method succeeded. Barnard: exact test of two rates; Holm: the same p adjusted for all "
    "tasks and pairs of methods. Over all tasks: exact conditional Cochran-Mantel-Haenszel "
    "test, stratified by task, adjusted for all pairs. McNemar: exact test on scenes alone "
    "won. Any time: p of the sequential test, valid at every look. McNemar and any time are not "
    "adjusted for several tasks and pairs. Bold: at most alpha.</small></p>"
)
MEASURES_NOTE = (
    "<p><small>Time: of the arm until success, median. SPARC: spectral arc length of the tool's "
    "speed, median; nearer to 0 is smoother, to be compared within a task. Jerk: root mean square "
    "of what was commanded, as a share of the limits. Clips: set-points of a trial that the guard "
    "held back, mean. Seam: how far a new chunk lay from what was commanded as it took over, of "
    "the joint that was farthest off [rad or m]; latency: observation to chunk; both p50 / p99. "
    "Columns of what was not recorded are left out.</small></p>"
)


def tiles(found: Figures) -> str:
    """All tasks of each method."""
    cells = []
    for method, rows in found["methods"].items():
        k, n = (sum(row[key] for row in rows.values()) for key in ("successes", "trials"))
        if n:
            shown = found["letters"].get(POOLED, {}).get(method, "")
            letters = f"; letters {shown}" if shown else ""
            cells.append(
                f'<div class="tile"><b>{k} of {n}</b><span>{escape(method)}</span>'
                f"<small>{100 * k / n:.0f} % over {_some(len(rows), 'task')}{letters}"
                "</small></div>"
            )
    return f'<div class="tiles">{"".join(cells)}</div>'


def success(found: Figures) -> str:
    """Tasks down, methods across."""
    methods = list(found["methods"])
    rows = [
        [escape(task), *(_rate(found, task, method) for method in methods)]
        for task in _tasks(found)
    ]
    return table(["task", *methods], rows)


def tests(found: Figures) -> str:
    """A row for each two methods and task."""
    heads = ("methods", "task", "difference", "alone", "Barnard", "Holm", "McNemar", "any time")
    rows = []
    for row in found["tests"]:
        test = "stratified" if row["task"] == POOLED else "barnard"
        task = ALL if row["task"] == POOLED else row["task"]
        rows.append(
            [
                " and ".join(escape(name) for name in row["methods"]),
                f"<b>{ALL}</b>" if task == ALL else escape(task),
                _difference(row),
                f"{row['gained']} : {row['lost']}",
                _p(row[f"{test}_p"], found),
                _p(row[f"{test}_holm_p"], found),
                _p(row["mcnemar_p"], found),
                _p(row["anytime_p"], found),
            ]
        )
    return table(heads, rows)


def measures(found: Figures) -> str:
    """Everything that was measured, for each method and task."""
    heads = (
        "task", "method", "time [s]", "SPARC", "jerk", "clips", "seam", "latency [ms]", "rubric",
        "by hand", "holds", "refusals",
    )  # fmt: skip
    rows = []
    for task, method, row in _rows(found):
        cells = [
            _number(row["seconds_to_success"]["p50"], 1),
            _number(row["sparc"]["p50"], 2),
            _number(row["jerk_rms_ratio"], 3),
            _number(row["guard_clips"]["mean"], 0),
            _two(row["seam_jump"], 3),
            _two(row["plan_ms"], 0),
            _rubric(row["rubric"]),
            str(row["interventions"] or ""),
            _counts(row["holds"]),
            _counts(row["refusals"]),
        ]
        rows.append([escape(task), escape(method), *cells])
    return compact(heads, rows)


def failures(found: Figures) -> str:
    """Reasons, most frequent first."""
    rows = []
    for task, method, row in _rows(found):
        ordered = sorted(row["failures"].items(), key=lambda item: -item[1])
        rows += [[escape(task), escape(method), str(n), escape(why)] for why, n in ordered]
        for what in ("aborted", "invalid"):
            if row[what]:
                told = {
                    "aborted": "of these, aborted by the operator",
                    "invalid": "invalid: played again, not counted",
                }[what]
                rows.append([escape(task), escape(method), str(row[what]), told])
    return table(("task", "method", "trials", "why"), rows) if rows else "<p>No trial failed.</p>"


def paper(found: Figures) -> str:
    """Success in per cent: ours, then the paper's real arm."""
    tasks, theirs = list(found["paper"]), next(iter(found["paper"].values()))
    rows = []
    for method, played in found["methods"].items():
        rates = [
            100 * played[t]["successes"] / played[t]["trials"] if t in played else None
            for t in tasks
        ]
        cells = [f"<b>{_number(rate, 0)}</b>" for rate in (*rates, _mean(rates))]
        rows.append([f"<b>{escape(method)}</b>", f"{found['robot']}, here", *cells])
    for method in theirs:
        rates = [found["paper"][task][method] for task in tasks]
        rows.append([method, "the paper's arm", *(_number(r, 0) for r in (*rates, _mean(rates)))])
    note = (
        "<p><small>Success [%]. The paper's are 10 trials of each method on its own real arm, "
        "here for scale, not for comparison.</small></p>"
    )
    return table(["method", "arm", *tasks, "mean"], rows) + note


def compact(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without the columns that are empty."""
    keep = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    return table([heads[i] for i in keep], [[row[i] for i in keep] for row in rows])


def _some(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _tasks(found: Figures) -> list[str]:
    return list(dict.fromkeys(task for rows in found["methods"].values() for task in rows))


def _rows(found: Figures) -> Iterator[tuple[str, str, Figures]]:
    for task in _tasks(found):
        for method, rows in found["methods"].items():
            if task in rows:
                yield task, method, rows[task]


def _rate(found: Figures, task: str, method: str) -> str:
    row = found["methods"][method].get(task)
    if row is None:
        return ""
    low, high = (100 * bound for bound in row["clopper_pearson95"])
    letters = found["letters"].get(task, {}).get(method, "")
    return (
        f"<b>{row['successes']}/{row['trials']}</b><sup>{letters}</sup> "
        f"<small>{low:.0f} to {high:.0f} %</small>"
    )


def _difference(row: Figures) -> str:
    if row.get("difference") is None:
        return ""
    low, high = (100 * bound for bound in row["difference95"])
    return f"{100 * row['difference']:+.0f} <small>{low:+.0f} to {high:+.0f}</small>"


def _p(value: float, found: Figures) -> str:
    text = "&lt; 0.001" if value < 0.001 else f"{value:.3f}"
    return f"<b>{text}</b>" if value <= found["alpha"] else text


def _rubric(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    low, high = (100 * bound for bound in row["mean95"])
    return f"{100 * row['mean']:.0f} % <small>{low:.0f} to {high:.0f}</small>"


def _mean(values: Sequence[float | None]) -> float | None:
    """Over tasks, where all were played."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _two(values: Mapping[str, float | None], digits: int) -> str:
    shown: Sequence[str] = [_number(values[key], digits) for key in ("p50", "p99")]
    return " / ".join(shown) if all(shown) else ""


def _counts(counts: Mapping[str, int]) -> str:
    return escape(", ".join(f"{reason} {n}" for reason, n in sorted(counts.items())))


PAGE, FIGURES = "report.html", "report.json"
WINDOW = 10  # trials of the moving rate; a run with fewer of each method shows none


def write_report(run: TrialRun) -> tuple[Path, Figures]:
    """Writes both files into the run's folder; the page's path and the figures. Raises TrialError
    where the disk does not take them."""
    found = figures(run)
    sections = [
        tiles(found), _state(found), _success(found), _comparison(run, found), _strips(run),
        _measures(run, found), section("Why trials failed", failures(found)), _order(run),
        _paper(found), _protocol(run), _trials(run), _raw(found),
    ]  # fmt: skip
    facts = ("robot", "seed", "planned", "judged")
    subtitle = " · ".join(f"{key} {escape(str(found[key]))}" for key in facts)
    subtitle = f"{escape(found['run'])} · {subtitle} · protocol {found['protocol'][:12]}"
    with locked(run.folder):
        _put(run.folder / FIGURES, json.dumps(found, indent=1) + "\n")
        _put(run.folder / PAGE, page("Trials", subtitle, "\n".join(sections)))
    return run.folder / PAGE, found


def _put(path: Path, text: str) -> None:
    """Whole or not at all, so that a full disk leaves the report before."""
    try:
        replace_with(path, lambda to: to.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise unwritable(path, error) from error


def _state(found: Figures) -> str:
    notes = []
    if found["blind"]:
        notes.append("Methods are shown by their codes until the run is unblinded.")
    if not found["finished"] and found["blind"]:
        notes.append(
            f"{found['judged']} trials are judged and the run goes on. Only the test that may be "
            "looked at any time is valid before its end; whoever stops because another p is small "
            "errs more often than it says."
        )
    elif not found["finished"]:
        notes.append(
            f"The run was ended by unblinding it: {found['judged']} verdicts, and "
            f"{found['planned']} trials were planned. The test that may be looked at any time is "
            "valid all the same; all else only if the results so far did not decide when to end."
        )
    for task, n in found["stopped"].items():
        notes.append(f"The stop rule ended {escape(task)} after {n} trials of each method.")
    if found["stopped"]:
        notes.append(
            "The stop rule ends a task when its methods look most different. Where it did, quote "
            "the p of `any time`: other p, letters, differences and intervals promise too much."
        )
    return section("State", "".join(f'<p class="note">{n}</p>' for n in notes)) if notes else ""


def _success(found: Figures) -> str:
    rates = {
        method: {
            task: (row["successes"], row["trials"], tuple(row["wilson95"]))
            for task, row in rows.items()
        }
        for method, rows in found["methods"].items()
        if rows
    }
    if not rates:
        why = "No trial is judged yet." if not found["judged"] else "All verdicts are `invalid`."
        return section("Success", f"<p>{why}</p>")
    total = sum(n for rows in rates.values() for _, n, _ in rows.values())
    caption = f"Success by task and method, n = {total} trials; bars are Wilson's 95 % intervals."
    body = figure(success_rates(rates), caption) + success(found)
    note = SUCCESS_NOTE if found["letters"] else EXACT_NOTE
    return section("Success", body + note)


def _comparison(run: TrialRun, found: Figures) -> str:
    if not found["tests"]:
        return ""
    names, pairs = names_of(run), {}
    codes = {name: code for code, name in names.items()}
    for row in found["tests"]:
        if row["task"] == POOLED:
            first, second = (codes[name] for name in row["methods"])
            made = bet(outcomes_of(run, first, second))
            pairs[f"{row['methods'][0]} and {row['methods'][1]}"] = made.stakes
    caption = (
        "The stake of a bet against equal chances, all tasks in turn. It may be looked at any "
        f"time: a pair of equal methods ever reaches {1 / found['alpha']:g} with probability "
        f"{found['alpha']:g} at most."
    )
    curve = figure(plots.stakes(pairs, found["alpha"]), caption)
    return section("Do the methods differ?", tests(found) + TESTS_NOTE + curve)


def _strips(run: TrialRun) -> str:
    """The first success and the first failure of each method on each task, as pictures."""
    blocks = []
    for task in run.protocol.tasks:
        for code, name in names_of(run).items():
            for word, won in (("success", True), ("failure", False)):
                rows = [r for r in run.counted(task, code) if (r.outcome == "success") == won]
                seen = [row for row in rows if (run.folder / row.strip).is_file()]
                if seen and seen[0] != rows[0]:
                    word += " with a picture"
                blocks += [_strip(run, seen[0], name, word)] if seen else []
    return section("First success, first failure", "".join(blocks)) if blocks else ""


def _strip(run: TrialRun, record: Record, name: str, word: str) -> str:
    told = f"{record.task}, {name}: first {word}, trial {record.trial}. {record.reason}"
    time = f" ({record.seconds:.1f} s)" if record.seconds is not None else ""
    return figure((run.folder / record.strip).read_bytes(), escape(told + time), "jpeg")


def _measures(run: TrialRun, found: Figures) -> str:
    seconds = {
        name: {
            task: [r.seconds for r in run.counted(task, code) if _timed(r)]
            for task in found["methods"][name]
        }
        for code, name in names_of(run).items()
    }
    seconds = {
        name: {task: values for task, values in rows.items() if values}
        for name, rows in seconds.items()
    }
    seconds = {name: rows for name, rows in seconds.items() if rows}
    if not any(found["methods"].values()):
        return ""
    n = sum(len(values) for rows in seconds.values() for values in rows.values())
    caption = f"Time to success, n = {n} successful trials; the line is the median."
    shown = figure(plots.times(seconds), caption) if seconds else ""
    return section("How it went", shown + measures(found) + MEASURES_NOTE)


def _timed(record: Record) -> bool:
    return record.outcome == "success" and record.seconds is not None


def _order(run: TrialRun) -> str:
    """Whether something changed while the trials went on."""
    played: dict[str, list[bool]] = {name: [] for name in names_of(run).values()}
    for record in run.records:
        if record.outcome != "invalid":
            played[names_of(run)[record.code]].append(record.outcome == "success")
    enough = {name: values for name, values in played.items() if len(values) > WINDOW}
    if not enough:
        return ""
    caption = (
        f"Success over the last {WINDOW} trials of a method, in the order played, all tasks. "
        "Blocks and random order share a drift between the methods; it is shown all the same."
    )
    return section("Drift", figure(plots.drift(enough, WINDOW), caption))


def _paper(found: Figures) -> str:
    return section("The paper's Table 6, beside", paper(found)) if found["paper"] else ""


def _protocol(run: TrialRun) -> str:
    rows = [
        [escape(task), escape(criterion.success), escape(criterion.failure)]
        for task, criterion in run.protocol.criteria.items()
    ]
    stop, limit = run.protocol.stop, run.protocol.limits.steps
    text = (
        f"{run.protocol.trials} trials of each method on each task, at most {limit} steps each; "
        f"stop rule {stop.rule}. SHA-256 of the frozen protocol: <code>{run.sha256}</code>"
    )
    heads = ("task", "success", "failure")
    return section("Protocol", f"<p>{text}</p>{table(heads, rows)}")


def _trials(run: TrialRun) -> str:
    names = names_of(run)
    rows = [_trial(record, names[record.code]) for record in run.records]
    heads = ("task", "trial", "method", "place", "outcome", "why", "time [s]", "note", "judged")
    body = compact(heads, rows)
    return section(
        "Every trial",
        f"<details><summary>{len(rows)} trials in the order judged</summary>{body}</details>",
    )


def _trial(record: Record, name: str) -> Sequence[str]:
    time = "" if record.seconds is None else f"{record.seconds:.1f}"
    outcome = f'<i class="{record.outcome}">{record.outcome}</i>'
    told = (escape(text) for text in (record.reason, time, record.note, record.time))
    place = escape(record.place)
    return [escape(record.task), str(record.trial), escape(name), place, outcome, *told]


def _raw(found: Figures) -> str:
    text = escape(json.dumps(found, indent=2))
    return section("Figures", f"<details><summary>{FIGURES}</summary><pre>{text}</pre></details>")
