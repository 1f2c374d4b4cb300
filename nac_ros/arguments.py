"""Arguments that several commands of `nac` share, and how their values are read."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nac_ros.errors import ConfigError, show_text
from nac_ros.yaml_reader import parse_value

DATA = "datasets: folders, HDF5 files, or OWNER/NAME[@REVISION] on the Hugging Face Hub"
SCENES = "how scenes vary: a name in config/scenes, or a YAML file"


def training(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, nargs="+", required=True, help=DATA)
    command.add_argument("--out", type=Path, required=True, help="folder for the run")
    command.add_argument("--config", type=Path, help="YAML with fields of the training config")
    command.add_argument(
        "--set", type=setting, action="append", default=[], metavar="KEY=VALUE",
        help="change a field of the training config, such as steps=2000",
    )  # fmt: skip
    command.add_argument(
        "--only", choices=("everything", "interventions"), default="everything",
        help="learn only from where a hand had taken over from a policy",
    )  # fmt: skip
    command.add_argument("--resume", action="store_true", help="go on with the run in --out")
    command.add_argument("--threads", type=count, help="CPU threads of torch")
    columns(command)


def comparison(command: argparse.ArgumentParser, out: str) -> None:
    command.add_argument("--data", type=Path, nargs="+", required=True, help=DATA)
    command.add_argument("--out", type=Path, default=Path(out), help="folder for the tables")
    command.add_argument("--train-seconds", type=float, help="of each training run")
    command.add_argument("--seeds", type=count, help="runs of each, of which the median counts")
    command.add_argument("--preset", help="of the tokenizers")
    command.add_argument("--horizon", type=count, default=32, help="steps of a chunk")
    command.add_argument("--threads", type=count, help="CPU threads of torch")
    command.add_argument("--cache", help="folder in which runs are kept")
    representation(command)
    columns(command)


def representation(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--robot", help="robot whose joints the actions are: names, units, relative"
    )
    command.add_argument(
        "--relative", action=argparse.BooleanOptionalAction,
        help="describe all but the gripper relative to the joint state; else as the robot says",
    )  # fmt: skip


def columns(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--action-key", nargs="+", help="column of the actions, one for all datasets or for each"
    )
    command.add_argument(
        "--state-key", nargs="+", help="column of the joint state, one for all or for each"
    )


def group(groups: Any, name: str, text: str) -> Any:
    parser = groups.add_parser(name, help=text, description=text)
    return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


def command(
    groups: Any, name: str, run: Callable[[argparse.Namespace], Any], text: str
) -> argparse.ArgumentParser:
    parser = groups.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def count(text: str) -> int:
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 1, got '{text}'")
    return value


def setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"wanted KEY=VALUE, got '{text}'")
    return key, parse_value(value, f"--set {show_text(key)}: the value")


def check_target(path: Path) -> None:
    """Before the work, not after it: raises ConfigError where --json can name no file."""
    place = next(place for place in (path, *path.absolute().parents) if place.exists())
    if path.is_dir() or (place != path and not place.is_dir()):
        kind = "a folder" if path.is_dir() else "a file"
        raise ConfigError(f"--json {path}: {place} is {kind}; name a file in a folder")
    if not os.access(place, os.W_OK):
        raise ConfigError(f"--json {path} may not be written; name a file in another folder")


def write_figures(path: Path, figures: Any) -> None:
    """Where --json says; raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(
            f"--json {path} cannot be written, {error.strerror}; all else is done"
        ) from error
