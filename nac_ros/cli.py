"""Make data, train, export and judge policies, run them; --json writes the figures to a file."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from nac_ros import commands
from nac_ros.errors import ConfigError, NacError

Arguments = argparse.Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 done, 2 bad input (one sentence on stderr), 1 anything else."""
    arguments = _parser().parse_args(argv)
    try:
        figures = arguments.run(arguments)
        if getattr(arguments, "json", None) and figures is not None:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    except NacError as error:
        print(f"nac: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nac: stopped", file=sys.stderr)
        return 130
    return 1 if figures and figures.get("failed") else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nac", description=__doc__)
    groups = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _demo(groups)
    _doctor(groups)
    _data(groups)
    _tokenizer(groups)
    _policy(groups)
    _export(groups)
    _eval(groups)
    return parser


def _demo(groups: Any) -> None:
    demo = _command(
        groups, "demo", commands.demo, "trials of both tasks over ROS 2, with a report"
    )
    demo.add_argument("--bundle", type=Path, help="bundle to run, models/default by default")
    demo.add_argument("--trials", type=int, default=5, help="trials of each task")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the run")


def _doctor(groups: Any) -> None:
    doctor = _command(groups, "doctor", commands.doctor, "what a run depends on, line by line")
    doctor.add_argument("--robot", default="vx300s", help="name or YAML file of the robot")
    doctor.add_argument("--bundle", type=Path, help="bundle to check, models/default by default")
    doctor.add_argument(
        "--seconds", type=float, default=3.0, help="how long topics are listened to; 0 = not"
    )


def _data(groups: Any) -> None:
    data = _group(groups, "data", "demonstrations: make, look at, check")
    make = _command(data, "generate", commands.data_generate, "demonstrations by scripted experts")
    make.add_argument("--task", required=True, help="task id, such as marker")
    make.add_argument("--episodes", type=_count, required=True)
    make.add_argument(
        "--out", type=Path, required=True, help="LeRobot v3 folder; resumed if there"
    )
    make.add_argument("--robot", default="vx300s")
    make.add_argument("--noise", type=float, default=0.5, help="share that begins disturbed")
    make.add_argument(
        "--bundle", type=Path, help="a policy that drives first; the expert takes over from it"
    )
    make.add_argument("--workers", type=_count, default=2)
    for name, run, text in (
        ("info", commands.data_info, "what a dataset holds"),
        ("check", commands.data_check, "whether a dataset is sound"),
    ):
        command = _command(data, name, run, text)
        command.add_argument("path", type=Path)


def _tokenizer(groups: Any) -> None:
    tokenizer = _group(groups, "tokenizer", "tokenizers: list, train, judge")
    _command(tokenizer, "list", commands.tokenizer_list, "names, presets, sizes and bits")
    train = _command(tokenizer, "train", commands.tokenizer_train, "fit and train on a dataset")
    train.add_argument("--tokenizer", default="nac")
    train.add_argument("--preset", default="small")
    train.add_argument("--horizon", type=_count, default=32, help="steps of a chunk")
    train.add_argument(
        "--pad-end", action=argparse.BooleanOptionalAction, default=True,
        help="also learn the chunks that end at rest after an episode's end",
    )  # fmt: skip
    train.add_argument(
        "--robot", help="robot whose joints the actions are: names, units, relative"
    )
    train.add_argument(
        "--model", type=_setting, action="append", default=[], metavar="KEY=VALUE",
        help="change a field of the tokenizer's config",
    )  # fmt: skip
    _training(train)
    judge = _command(tokenizer, "eval", commands.tokenizer_eval, "errors on held-out episodes")
    judge.add_argument("path", type=Path, help="tokenizer folder or bundle")
    judge.add_argument("--data", type=Path, nargs="+", required=True)
    _columns(judge)
    judge.add_argument("--all", action="store_true", help="every episode, not only held-out ones")


def _policy(groups: Any) -> None:
    policy = _group(groups, "policy", "policies: list, train")
    _command(policy, "list", commands.policy_list, "names, presets and sizes")
    train = _command(policy, "train", commands.policy_train, "behavioural cloning with images")
    train.add_argument("--policy", default="ar")
    train.add_argument("--preset", default="small")
    train.add_argument("--tokenizer", type=Path, required=True, help="trained tokenizer folder")
    train.add_argument("--init", type=Path, help="saved policy to start from, over any tokenizer")
    train.add_argument(
        "--cameras", nargs="+", help="cameras to see; all of the dataset's if left out"
    )
    train.add_argument(
        "--model", type=_setting, action="append", default=[], metavar="KEY=VALUE",
        help="change a field of the policy's config",
    )  # fmt: skip
    _training(train)


def _export(groups: Any) -> None:
    export = _command(
        groups, "export", commands.export, "put policy and tokenizer into one bundle"
    )
    export.add_argument("--policy", type=Path, required=True, help="run folder of `policy train`")
    export.add_argument("--tokenizer", type=Path, required=True, help="trained tokenizer folder")
    export.add_argument("--robot", default="vx300s")
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--card", type=Path, help="model card (Markdown); a plain one if left out")


def _eval(groups: Any) -> None:
    judge = _command(groups, "eval", commands.evaluate, "judged trials in the twin, one process")
    judge.add_argument("--bundle", type=Path, help="bundle to judge, models/default by default")
    judge.add_argument(
        "--task", nargs="+", help="task ids; all that the bundle learned if left out"
    )
    judge.add_argument("--trials", type=_count, default=50, help="trials of each task")
    judge.add_argument("--latency-ms", type=float, help="time from observation to chunk")
    judge.add_argument("--n-action-steps", type=_count, help="executed steps of each chunk")
    judge.add_argument(
        "--control", choices=("none", "black-images", "mean-demonstration"),
        default="none", help="replace the policy's eyes or the policy, to see a task's worth",
    )  # fmt: skip
    judge.add_argument("--data", type=Path, nargs="+", help="datasets for mean-demonstration")
    judge.add_argument("--workers", type=_count, default=1)


def _training(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, nargs="+", required=True, help="datasets")
    command.add_argument("--out", type=Path, required=True, help="folder for the run")
    command.add_argument("--config", type=Path, help="YAML with fields of the training config")
    command.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="KEY=VALUE",
        help="change a field of the training config, such as steps=2000",
    )  # fmt: skip
    command.add_argument("--resume", action="store_true", help="go on with the run in --out")
    command.add_argument("--threads", type=_count, help="CPU threads of torch")
    _columns(command)


def _columns(command: argparse.ArgumentParser) -> None:
    command.add_argument("--action-key", help="column of the actions")
    command.add_argument("--state-key", help="column of the joint state")


def _group(groups: Any, name: str, text: str) -> Any:
    parser = groups.add_parser(name, help=text, description=text)
    return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


def _command(
    groups: Any, name: str, run: Callable[[Arguments], Any], text: str
) -> argparse.ArgumentParser:
    parser = groups.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _count(text: str) -> int:
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 1, got '{text}'")
    return value


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"wanted KEY=VALUE, got '{text}'")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text}: the value is not YAML") from error
