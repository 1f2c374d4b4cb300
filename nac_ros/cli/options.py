"""Options that several commands of `nac` share, and how their values are read."""

import argparse
import json
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nac_ros.cli.output import Figures
from nac_ros.core import config as configs
from nac_ros.core.config import config_dir
from nac_ros.core.errors import ConfigError, show_text
from nac_ros.core.yaml_reader import parse_value

DATA = "datasets: folders, HDF5 files, or OWNER/NAME[@REVISION] on the Hugging Face Hub"
SCENES = "how scenes vary: a name in config/scenes, or a YAML file"


def add_training_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, nargs="+", required=True, help=DATA)
    command.add_argument("--out", type=Path, required=True, help="folder for the run")
    command.add_argument("--config", type=Path, help="YAML with fields of the training config")
    command.add_argument(
        "--set", type=key_value, action="append", default=[], metavar="KEY=VALUE",
        help="change a field of the training config, such as steps=2000",
    )  # fmt: skip
    command.add_argument(
        "--only", choices=("everything", "interventions"), default="everything",
        help="learn only from where a hand had taken over from a policy",
    )  # fmt: skip
    command.add_argument("--resume", action="store_true", help="go on with the run in --out")
    command.add_argument("--threads", type=positive_int, help="CPU threads of torch")
    add_column_options(command)


def add_comparison_options(command: argparse.ArgumentParser, out: str) -> None:
    command.add_argument("--data", type=Path, nargs="+", required=True, help=DATA)
    command.add_argument("--out", type=Path, default=Path(out), help="folder for the tables")
    command.add_argument("--train-seconds", type=float, help="of each training run")
    command.add_argument(
        "--seeds", type=positive_int, help="runs of each, of which the median counts"
    )
    command.add_argument("--preset", help="of the tokenizers")
    command.add_argument("--horizon", type=positive_int, default=32, help="steps of a chunk")
    command.add_argument("--threads", type=positive_int, help="CPU threads of torch")
    command.add_argument("--cache", help="folder in which runs are kept")
    add_representation_options(command)
    add_column_options(command)


def add_representation_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--robot", help="robot whose joints the actions are: names, units, relative"
    )
    command.add_argument(
        "--relative", action=argparse.BooleanOptionalAction,
        help="describe all but the gripper relative to the joint state; else as the robot says",
    )  # fmt: skip


def add_column_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--action-key", nargs="+", help="column of the actions, one for all datasets or for each"
    )
    command.add_argument(
        "--state-key", nargs="+", help="column of the joint state, one for all or for each"
    )


def add_group(groups: Any, name: str, text: str) -> Any:
    parser = groups.add_parser(name, help=text, description=text)
    return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


def add_command(
    groups: Any, name: str, run: Callable[[argparse.Namespace], Any], text: str
) -> argparse.ArgumentParser:
    parser = groups.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def positive_int(text: str) -> int:
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 1, got '{text}'")
    return value


def key_value(text: str) -> tuple[str, Any]:
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


def bundle_path(path: Path | None) -> Path:
    return path or config_dir().parent / "models" / "default"


def open_data(paths: Sequence[Path], a: Namespace) -> list[Any]:
    """Every dataset at the paths, with the columns of --action-key and --state-key: one for all or
    for each path. Raises DatasetError where they cannot be joined."""
    from nac_ros.datasets.compatibility import check_compatible

    datasets = [dataset for group in open_each(paths, a) for dataset in group]
    check_compatible(datasets)
    return datasets


def open_each(paths: Sequence[Path], a: Namespace) -> list[list[Any]]:
    """The datasets at each path, with the columns of --action-key and --state-key."""
    from nac_ros.datasets.factory import open_all

    keys = [_for_each(key, len(paths)) for key in (a.action_key, a.state_key)]
    return [open_all(path, *columns) for path, *columns in zip(paths, *keys)]


def check_tokenizer_fits(tokenizer: Any, datasets: Sequence[Any], path: Path) -> None:
    """Raises DatasetError unless the actions are of the tokenizer's joints, in their order, with
    their units and at their rate, as far as both sides say."""
    from nac_ros.datasets.compatibility import check_compatible

    config, first = tokenizer.config, datasets[0]
    if len(first.names) != config.action_dim:
        raise ConfigError(
            f"{first.root} has {len(first.names)} action dimensions, the tokenizer {path} has "
            f"{config.action_dim}; choose the columns with --action-key"
        )
    told = any(config.units) and any(first.units)
    known = Namespace(
        root=path,
        names=config.names or first.names,
        state_names=first.state_names,
        units=config.units if told else first.units,
        fps=config.rate_hz or first.fps,
    )
    check_compatible([known, first])


def _for_each(keys: Sequence[str] | None, n: int) -> list[str | None]:
    if not keys:
        return [None] * n
    if len(keys) not in (1, n):
        raise ConfigError(f"{len(keys)} columns ({', '.join(keys)}) for {n} datasets")
    return list(keys) * (n if len(keys) == 1 else 1)


def windows_of(datasets: Sequence[Any], horizon: int, pad_end: bool = False) -> Any:
    """Windows to train on and held-out ones of all datasets; what is left out goes to stderr."""
    from nac_ros.datasets.action_chunks import windows_of_sides

    return windows_of_sides(datasets, horizon, pad_end)


def training_config(cls: type, a: Namespace, usual: Figures | None = None) -> Any:
    """The fields of `cls`: its defaults, what is `usual`, then --config, then --set."""
    import torch

    torch.set_num_threads(a.threads or torch.get_num_threads())
    values = configs.load_yaml(a.config) if a.config else {}
    given = {"seed": a.seed, **(usual or {}), **values, **dict(a.set)}
    return configs.build(cls, given, cls.__name__)
