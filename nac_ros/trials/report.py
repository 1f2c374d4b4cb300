"""report.html and report.json of a run: one page that opens anywhere, and its figures."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from nac_ros.data.layout import replace_with
from nac_ros.evaluation.figures import success_rates
from nac_ros.evaluation.page import page, table
from nac_ros.evaluation.report import figure, section
from nac_ros.trials import plots, tables
from nac_ros.trials.log import locked, unwritable
from nac_ros.trials.protocol import POOLED
from nac_ros.trials.run import Record, Run
from nac_ros.trials.sequential import bet
from nac_ros.trials.summary import Figures, figures, names_of, outcomes_of

PAGE, FIGURES = "report.html", "report.json"
WINDOW = 10  # trials of the moving rate; a run with fewer of each method shows none


def write_report(run: Run) -> tuple[Path, Figures]:
    """Writes both files into the run's folder; the page's path and the figures. Raises TrialError
    where the disk does not take them."""
    found = figures(run)
    sections = [
        tables.tiles(found), _state(found), _success(found), _comparison(run, found), _strips(run),
        _measures(run, found), section("Why trials failed", tables.failures(found)), _order(run),
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
    body = figure(success_rates(rates), caption) + tables.success(found)
    note = tables.SUCCESS_NOTE if found["letters"] else tables.EXACT_NOTE
    return section("Success", body + note)


def _comparison(run: Run, found: Figures) -> str:
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
    return section("Do the methods differ?", tables.tests(found) + tables.TESTS_NOTE + curve)


def _strips(run: Run) -> str:
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


def _strip(run: Run, record: Record, name: str, word: str) -> str:
    told = f"{record.task}, {name}: first {word}, trial {record.trial}. {record.reason}"
    time = f" ({record.seconds:.1f} s)" if record.seconds is not None else ""
    return figure((run.folder / record.strip).read_bytes(), escape(told + time), "jpeg")


def _measures(run: Run, found: Figures) -> str:
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
    return section("How it went", shown + tables.measures(found) + tables.MEASURES_NOTE)


def _timed(record: Record) -> bool:
    return record.outcome == "success" and record.seconds is not None


def _order(run: Run) -> str:
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
    return section("The paper's Table 6, beside", tables.paper(found)) if found["paper"] else ""


def _protocol(run: Run) -> str:
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


def _trials(run: Run) -> str:
    names = names_of(run)
    rows = [_trial(record, names[record.code]) for record in run.records]
    heads = ("task", "trial", "method", "place", "outcome", "why", "time [s]", "note", "judged")
    body = tables.compact(heads, rows)
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
