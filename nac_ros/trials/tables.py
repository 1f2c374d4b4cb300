"""The tables of a run's report, as HTML; what a column means is said below its table."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from nac_ros.evaluation.page import table
from nac_ros.trials.protocol import POOLED
from nac_ros.trials.summary import Figures

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
