"""`nac trials` and `nac report`: arguments and actions."""

import argparse
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nac_ros.cli import options, output
from nac_ros.cli.output import Figures
from nac_ros.core.config import config_dir
from nac_ros.core.errors import ConfigError


def add_commands(groups: Any) -> None:
    """Adds the commands of this file to the parser of `nac`."""
    _add_trials(groups)
    _add_report(groups)


def _add_trials(groups: Any) -> None:
    trials = options.add_command(
        groups, "trials", run_trials, "methods compared by a frozen protocol"
    )
    trials.set_defaults(seed=None)
    what = trials.add_mutually_exclusive_group()
    what.add_argument("--protocol", type=Path, help="YAML file; options below replace its fields")
    what.add_argument(
        "--unblind", type=Path, metavar="RUN", help="end a run: its codes get their names"
    )
    what.add_argument(
        "--power", type=float, nargs="*", metavar="RATE",
        help="how many trials tell success rates apart, for two or more of them",
    )  # fmt: skip
    trials.add_argument("--robot", help="`twin`, whose judge needs nobody; the default")
    trials.add_argument("--tasks", help="task ids with commas between them, or `all`")
    trials.add_argument(
        "--methods", help="`expert`, bundles, or NAME=BUNDLE, with commas between them"
    )
    trials.add_argument("--trials", type=options.positive_int, help="of each method on each task")
    trials.add_argument("--latency-ms", type=float, help="time from observation to chunk")
    trials.add_argument(
        "--n-action-steps", type=options.positive_int, help="executed of each chunk"
    )
    trials.add_argument("--seam", choices=("blend", "best", "force"), help="as of `nac eval`")
    trials.add_argument("--scenes", help=options.SCENES)
    trials.add_argument(
        "--out", type=Path, help="folder of the run, gone on with where there is one; by default "
        "a new one in runs/trials",
    )  # fmt: skip
    trials.add_argument("--workers", type=options.positive_int, default=1, help="processes")
    trials.add_argument("--ray", default="", metavar="ADDRESS", help="of a cluster to play on")
    trials.add_argument(
        "--pictures", action=argparse.BooleanOptionalAction, default=True,
        help="a film strip of each trial; needs GL",
    )  # fmt: skip


def _add_report(groups: Any) -> None:
    report_command = options.add_command(
        groups, "report", report, "report.html and report.json of a run of trials"
    )
    report_command.add_argument("run_folder", metavar="RUN", type=Path, help="folder of the run")


RUNS = Path("runs/trials")
CONDITIONS = ("latency_ms", "n_action_steps", "seam", "scenes")


def run_trials(a: Namespace) -> Figures:
    """A run from its protocol to its report, unless only planning or unblinding is asked for."""
    if a.power is not None:
        return _power(a.power)
    if a.unblind is not None:
        return _unblind(a.unblind, a.json)
    from nac_ros.trials.executors import choose
    from nac_ros.trials.run import TrialRun
    from nac_ros.trials.simulated import check_unattended, play_all

    executor, protocol = choose(a.workers, a.ray), _protocol(a)
    check_unattended(protocol)
    out = a.out or RUNS / time.strftime("%Y%m%d-%H%M%S")
    _spare(out, a.json)
    run = TrialRun.begin(out, protocol)
    print(f"{len(run.slots)} trials in {out}; after a crash: `nac trials --out {out}` goes on")
    try:
        if not run.unblinded:
            play_all(run, executor, a.pictures, lambda record: _told(run, record))
        return _reported(run)
    finally:
        run.close()


def report(a: Namespace) -> Figures:
    """The page and the figures of a run, also of one that goes on."""
    from nac_ros.trials.run import TrialRun

    _spare(a.run_folder, a.json)
    return _reported(TrialRun.read(a.run_folder))


def _unblind(folder: Path, figures: Path | None) -> Figures:
    from nac_ros.trials.run import TrialRun

    _spare(folder, figures)
    run = TrialRun.go_on(folder)
    try:
        for code, method in run.unblind().items():
            print(f"{code} is {method}")
        return _reported(run)
    finally:
        run.close()


def _spare(folder: Path, figures: Path | None) -> None:
    """Raises ConfigError where --json would go over what the run is."""
    from nac_ros.trials.run import LOG, PROTOCOL

    if figures is not None and figures.resolve() in (
        folder.resolve() / n for n in (LOG, PROTOCOL)
    ):
        raise ConfigError(f"--json {figures} is the run's own file; name another")


def _power(rates: list[float]) -> Figures:
    from nac_ros.stats.power import RATES, power_table

    if rates and len(set(rates)) == 1:
        raise ConfigError(
            f"--power {rates[0]:g}: name at least two success rates that differ, or none"
        )
    rows = power_table(rates or RATES)
    shown = [{key: "more than 200" if v is None else v for key, v in r.items()} for r in rows]
    output.table(shown)
    print(
        "trials of each method for which Barnard's test at .05 tells rates p1 and p2 apart with "
        "50, 80 and 90 % probability"
    )
    return {"rows": rows}


def _reported(run: Any) -> Figures:
    from nac_ros.trials.report import write_report

    path, figures = write_report(run)
    for method, rows in figures["methods"].items():
        for task, row in rows.items():
            low, high = row["clopper_pearson95"]
            rate = f"{row['successes']}/{row['trials']}"
            exact = f"Clopper-Pearson 95 % {100 * low:.0f} .. {100 * high:.0f} %"
            print(f"{task:14s} {method:14s} {rate:>9s}  {exact}")
    print(f"report {path}")
    return figures


def _told(run: Any, record: Any) -> None:
    done = f"{len(run.records)}/{len(run.slots)}"
    print(
        f"{done} {record.task} trial {record.trial}, {record.code}: {record.outcome} after "
        f"{record.steps} steps, {record.reason}",
        flush=True,
    )


def _protocol(a: Namespace) -> Any:
    """Of the file, of the run to go on with, or new; each with what the command line says."""
    from nac_ros.trials.protocol import Protocol, load_protocol
    from nac_ros.trials.run import PROTOCOL, TrialRun

    base = load_protocol(a.protocol) if a.protocol else None
    if base is None and a.out is not None and (a.out / PROTOCOL).is_file():
        base = TrialRun.read(a.out).protocol
    names = ("robot", "trials", "seed")
    given = {name: getattr(a, name) for name in names if getattr(a, name) is not None}
    if a.tasks:
        given["tasks"] = tuple(_tasks(a.tasks))
    if a.methods:
        given["methods"] = _methods(a.methods)
    if base is None and not (a.tasks and a.methods):
        there = f"{a.out} holds no run: " if a.out is not None else ""
        raise ConfigError(
            f"{there}name --tasks and --methods, a --protocol file, or the --out of a run to go "
            "on with"
        )
    protocol = Protocol(**given) if base is None else _changed(base, given)
    said = {name: getattr(a, name) for name in CONDITIONS if getattr(a, name) is not None}
    if said.get("scenes", "").endswith(".yaml"):  # to be found from elsewhere, too
        said["scenes"] = str(Path(said["scenes"]).resolve())
    return replace(protocol, conditions=replace(protocol.conditions, **said))


def _changed(base: Any, given: Figures) -> Any:
    """`base` with what is given; what it says about tasks that are left out goes with them."""
    for name in ("places", "criteria", "rubric"):
        kept = given.get("tasks", base.tasks)
        given[name] = {task: v for task, v in getattr(base, name).items() if task in kept}
    return replace(base, **given)


def _tasks(text: str) -> Iterator[str]:
    from nac_ros.simulation.tasks import list_tasks, make_task

    for name in list_tasks() if text == "all" else text.split(","):
        yield make_task(name).id


def _methods(text: str) -> dict[str, str]:
    """Name -> source of --methods."""
    found: dict[str, str] = {}
    for name, source in map(_method, text.split(",")):
        if name in found:
            raise ConfigError(
                f"--methods {text}: '{name}' is there twice; tell them apart with NAME=BUNDLE"
            )
        found[name] = source
    return found


def _method(text: str) -> tuple[str, str]:
    """Name and source of an item of --methods; a bare name is looked for among the models."""
    from nac_ros.trials.protocol import EXPERT

    name, equals, source = text.rpartition("=")
    if not source:
        raise ConfigError(
            f"--methods: '{text}' names no bundle; give `expert`, bundles, or NAME=BUNDLE, with a "
            "comma between two of them"
        )
    if source == EXPERT:
        return name or EXPERT, EXPERT
    path, shipped = Path(source), config_dir().parent / "models" / source
    chosen = (path if path.exists() or not shipped.is_dir() else shipped).resolve()
    return name if equals else chosen.name, str(chosen)
