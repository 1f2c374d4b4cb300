"""`nac trials` and `nac report`: arguments and actions."""

import argparse
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nac_ros.cli import options, output
from nac_ros.cli.options import Results
from nac_ros.core.config import config_dir
from nac_ros.core.errors import ConfigError

RUNS = Path("runs/trials")


def add_commands(groups: Any) -> None:
    """Adds `nac trials` and `nac report`."""
    _add_trials(groups)
    _add_report(groups)


def _add_trials(groups: Any) -> None:
    command = options.add_command(
        groups, "trials", run_trials, "compare methods by a frozen protocol"
    )
    command.set_defaults(seed=None)
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "--protocol", type=Path, help="YAML file; the options below replace its fields"
    )
    what.add_argument(
        "--unblind", type=Path, metavar="RUN", help="end a run and show which code is which method"
    )
    what.add_argument(
        "--power",
        type=float,
        nargs="*",
        metavar="RATE",
        help="number of trials needed to tell two or more success rates apart",
    )
    command.add_argument("--robot", help="only `twin` runs without an operator (default: twin)")
    command.add_argument("--tasks", help="task ids separated by commas, or `all`")
    command.add_argument("--methods", help="`expert`, BUNDLE or NAME=BUNDLE, separated by commas")
    command.add_argument("--trials", type=options.positive_int, help="trials per method and task")
    options.add_condition_options(command)
    command.add_argument(
        "--out", type=Path, help="run folder, continued if it exists (default: a new one)"
    )
    command.add_argument(
        "--workers", type=options.positive_int, default=1, help="number of processes (default: 1)"
    )
    command.add_argument("--ray", default="", metavar="ADDRESS", help="Ray cluster to run on")
    command.add_argument(
        "--film-strips",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write a film strip of each trial; needs OpenGL",
    )
    options.add_device_options(command)
    options.add_provider_option(command)


def run_trials(args: Namespace) -> Results:
    """Runs all trials of a protocol and writes the report; or --power, or --unblind."""
    if args.power is not None:
        return _power(args.power)
    if args.unblind is not None:
        return _unblind(args.unblind, args.json)
    from nac_ros.trials.executors import make_executor
    from nac_ros.trials.run import TrialRun
    from nac_ros.trials.simulated import check_unattended, run_unattended

    executor, protocol = make_executor(args.workers, args.ray), _protocol(args)
    device = options.compute_device(args)
    check_unattended(protocol)
    out = args.out or RUNS / time.strftime("%Y%m%d-%H%M%S")
    _check_json(out, args.json)
    run = TrialRun.create_or_resume(out, protocol)
    print(f"{len(run.slots)} trials in {out}; `nac trials --out {out}` continues them")
    try:
        if not run.unblinded:
            run_unattended(
                run, executor, args.film_strips, lambda record: _print_trial(run, record), device
            )
        return _write_report(run)
    finally:
        run.close()


def _print_trial(run: Any, record: Any) -> None:
    done = f"{len(run.records)}/{len(run.slots)}"
    print(
        f"{done} {record.task} trial {record.trial}, {record.code}: {record.outcome} after "
        f"{record.steps} steps, {record.reason}",
        flush=True,
    )


def _unblind(folder: Path, json_file: Path | None) -> Results:
    from nac_ros.trials.run import TrialRun

    _check_json(folder, json_file)
    run = TrialRun.resume(folder)
    try:
        for code, method in run.unblind().items():
            print(f"{code} is {method}")
        return _write_report(run)
    finally:
        run.close()


def _check_json(folder: Path, json_file: Path | None) -> None:
    """Raises ConfigError if --json would overwrite the log or the protocol of the run."""
    from nac_ros.trials.run import LOG, PROTOCOL

    own = [folder.resolve() / name for name in (LOG, PROTOCOL)]
    if json_file is not None and json_file.resolve() in own:
        raise ConfigError(f"--json {json_file} is a file of the run; name another")


def _power(rates: list[float]) -> Results:
    from nac_ros.stats.power import RATES, power_table

    if rates and len(set(rates)) == 1:
        raise ConfigError(f"--power {rates[0]:g}: give at least two different rates, or none")
    rows = power_table(rates or RATES)
    output.table(
        [{key: "more than 200" if v is None else v for key, v in r.items()} for r in rows]
    )
    print(
        "trials per method with which Barnard's test at the 5 % level tells rates p1 and p2 apart "
        "with a probability of 50, 80 and 90 %"
    )
    return {"rows": rows}


def _add_report(groups: Any) -> None:
    command = options.add_command(
        groups, "report", report, "write report.html and report.json of a run of trials"
    )
    command.add_argument("run_folder", metavar="RUN", type=Path, help="run folder")


def report(args: Namespace) -> Results:
    """Writes the report of a run, finished or not."""
    from nac_ros.trials.run import TrialRun

    _check_json(args.run_folder, args.json)
    return _write_report(TrialRun.read(args.run_folder))


def _write_report(run: Any) -> Results:
    from nac_ros.trials.report import write_report

    path, results = write_report(run)
    for method, rows in results["methods"].items():
        for task, row in rows.items():
            print(f"{task:14s} {method:14s} {output.success_rate(row, 'clopper_pearson95')}")
    print(f"report {path}")
    return results


def _protocol(args: Namespace) -> Any:
    """The protocol of --protocol, of the run in --out, or a new one, changed by the options."""
    base = _base_protocol(args)
    changes = options.given(args, "robot", "trials", "seed")
    if args.tasks:
        changes["tasks"] = tuple(_tasks(args.tasks))
    if args.methods:
        changes["methods"] = _methods(args.methods)
    protocol = _apply(base, changes)
    conditions = options.condition_options(args)
    if conditions.get("randomization", "").endswith(".yaml"):  # the run may continue elsewhere
        conditions["randomization"] = str(Path(conditions["randomization"]).resolve())
    return replace(protocol, conditions=replace(protocol.conditions, **conditions))


def _base_protocol(args: Namespace) -> Any:
    """The protocol of --protocol or of the run in --out; None for a new run."""
    from nac_ros.trials.protocol import load_protocol
    from nac_ros.trials.run import PROTOCOL, TrialRun

    if args.protocol:
        return load_protocol(args.protocol)
    if args.out is not None and (args.out / PROTOCOL).is_file():
        return TrialRun.read(args.out).protocol
    if not (args.tasks and args.methods):
        place = f"{args.out} holds no run: " if args.out is not None else ""
        raise ConfigError(
            f"{place}give --tasks and --methods, a --protocol file, or the --out folder of a run "
            "to continue"
        )
    return None


def _apply(base: Any, changes: Results) -> Any:
    """`base` with the changes. Fields per task lose the tasks that are no longer in the run."""
    from nac_ros.trials.protocol import TrialProtocol

    if base is None:
        return TrialProtocol(**changes)
    tasks = changes.get("tasks", base.tasks)
    for name in ("start_positions", "criteria", "rubric"):
        per_task = getattr(base, name)
        changes[name] = {task: value for task, value in per_task.items() if task in tasks}
    return replace(base, **changes)


def _tasks(text: str) -> Iterator[str]:
    from nac_ros.simulation.tasks import list_tasks, make_task

    for name in list_tasks() if text == "all" else text.split(","):
        yield make_task(name).id


def _methods(text: str) -> dict[str, str]:
    """Name -> source (`expert` or a bundle folder) of --methods."""
    found: dict[str, str] = {}
    for name, source in map(_method, text.split(",")):
        if name in found:
            raise ConfigError(
                f"--methods {text}: '{name}' is given twice; use NAME=BUNDLE with two names"
            )
        found[name] = source
    return found


def _method(text: str) -> tuple[str, str]:
    """Name and source of one item of --methods; a bare name may be a folder of models/."""
    from nac_ros.trials.protocol import EXPERT

    name, equals, source = text.rpartition("=")
    if not source:
        raise ConfigError(
            f"--methods: '{text}' names no bundle; give `expert`, BUNDLE or NAME=BUNDLE, "
            "separated by commas"
        )
    if source == EXPERT:
        return name or EXPERT, EXPERT
    path, shipped = Path(source), config_dir().parent / "models" / source
    chosen = (path if path.exists() or not shipped.is_dir() else shipped).resolve()
    return name if equals else chosen.name, str(chosen)
