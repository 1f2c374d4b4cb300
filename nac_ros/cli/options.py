"""Options that several commands of `nac` share, and how their values are read."""

import argparse
import json
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nac_ros.core import config as configs
from nac_ros.core.config import config_dir
from nac_ros.core.device import (
    DEVICE_NAME,
    PRECISIONS,
    PROVIDER_NAMES,
    ComputeDevice,
    DeviceConfig,
    resolve_device,
)
from nac_ros.core.errors import ConfigError, show_text
from nac_ros.core.yaml_reader import parse_value

Results = dict[str, Any]

DATA = "datasets: folders, HDF5 files, or OWNER/NAME[@REVISION] on the Hugging Face Hub"
RANDOMIZATION = "domain randomization: a name in config/randomization, or a YAML file"
TRANSITION = (
    "how a new chunk continues the current one: blend = the guard blends the two; best-of-n = the "
    "sample closest to the current chunk; constrained = the tokens of committed steps are forced"
)
BUNDLE = "bundle folder (default: models/default)"


def add_group(groups: Any, name: str, text: str) -> Any:
    """Adds `nac NAME` and returns its sub-commands."""
    parser = groups.add_parser(name, help=text, description=text)
    return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


def add_command(
    groups: Any, name: str, run: Callable[[Namespace], Any], text: str
) -> argparse.ArgumentParser:
    """Adds a command whose action is `run(args)`; its result is what --json writes."""
    parser = groups.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    return parser


def add_training_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, nargs="+", required=True, help=DATA)
    command.add_argument("--out", type=Path, required=True, help="folder of the run")
    command.add_argument(
        "--config", type=Path, help="YAML file with fields of the training config"
    )
    command.add_argument(
        "--set",
        type=key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a field of the training config, such as steps=2000",
    )
    command.add_argument(
        "--train-on",
        choices=("all", "interventions"),
        default="all",
        help="interventions = only the segments in which an operator took over from a policy",
    )
    command.add_argument("--resume", action="store_true", help="continue the run in --out")
    command.add_argument("--threads", type=positive_int, help="number of CPU threads of torch")
    add_column_options(command)


def add_comparison_options(command: argparse.ArgumentParser, out: str) -> None:
    command.add_argument("--data", type=Path, nargs="+", required=True, help=DATA)
    command.add_argument("--out", type=Path, default=Path(out), help="folder of the tables")
    command.add_argument("--train-seconds", type=float, help="time of each training run [s]")
    command.add_argument("--seeds", type=positive_int, help="runs per setting; medians are shown")
    command.add_argument("--preset", help="preset of the tokenizers")
    command.add_argument("--horizon", type=positive_int, default=32, help="steps of a chunk")
    command.add_argument("--threads", type=positive_int, help="number of CPU threads of torch")
    command.add_argument("--cache", help="folder in which finished runs are kept")
    add_representation_options(command)
    add_column_options(command)


def add_representation_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--robot", help="robot that defines the names, units and relative joints of the actions"
    )
    command.add_argument(
        "--relative",
        action=argparse.BooleanOptionalAction,
        help="encode all joints but the gripper relative to the joint state (default: as in "
        "the robot's YAML)",
    )
    command.add_argument(
        "--action-range",
        choices=("minmax", "quantiles"),
        default="minmax",
        help="range of a joint that becomes [-1, 1]: minimum and maximum, or the 1 and 99 %% "
        "quantiles, beyond which values are kept (default: minmax; with --robot at least 0.4 %% "
        "of the joint's position limits)",
    )


def add_device_options(
    command: argparse.ArgumentParser, precision: str | None = DeviceConfig.precision
) -> None:
    """--device and --precision.

    precision: the default of this command; None = it computes in fp32 alone
    """
    command.add_argument(
        "--device",
        type=device_name,
        default=DeviceConfig.device,
        metavar="DEVICE",
        help="where torch computes: auto, cpu, cuda or cuda:INDEX; auto = the first CUDA device "
        f"that works, else the CPU (default: {DeviceConfig.device})",
    )
    defaults = {"precision": DeviceConfig.precision, "onnx_providers": DeviceConfig.onnx_providers}
    command.set_defaults(**defaults)
    if precision is not None:
        command.add_argument(
            "--precision",
            choices=PRECISIONS,
            default=precision,
            help=f"of the networks; bf16, fp16 = mixed precision (default: {precision})",
        )


def add_provider_option(command: argparse.ArgumentParser) -> None:
    """--onnx-providers, of commands that decode with a bundle."""
    command.add_argument(
        "--onnx-providers",
        type=provider_names,
        default=DeviceConfig.onnx_providers,
        metavar="NAMES",
        help="of ONNX Runtime in order of preference, such as tensorrt,cuda,cpu; the first must "
        "start; auto = cuda on a CUDA device where it starts, else cpu "
        f"(default: {DeviceConfig.onnx_providers})",
    )


def compute_device(args: Namespace) -> ComputeDevice:
    """The device of `add_device_options`; prints what `auto` chose. Raises ConfigError."""
    names = ("device", "precision", "onnx_providers")
    return resolve_device(DeviceConfig(**{name: getattr(args, name) for name in names}), print)


def add_model_option(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument(
        "--model",
        type=key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"change a field of the {what}'s config",
    )


def add_column_options(command: argparse.ArgumentParser) -> None:
    """--action-key and --state-key of commands that read several datasets."""
    command.add_argument(
        "--action-key", nargs="+", help="column of the actions: one for all datasets or one each"
    )
    command.add_argument(
        "--state-key", nargs="+", help="column of the joint state: one for all or one each"
    )


def add_column_option(command: argparse.ArgumentParser) -> None:
    """--action-key and --state-key of commands that read one dataset."""
    command.add_argument("--action-key", help="column of the actions")
    command.add_argument("--state-key", help="column of the joint state")


def add_condition_options(command: argparse.ArgumentParser) -> None:
    """Options for the execution of chunks in a trial, and for the domain randomization."""
    command.add_argument("--randomization", help=RANDOMIZATION)
    command.add_argument("--latency-ms", type=float, help="time from observation to chunk [ms]")
    command.add_argument(
        "--n-action-steps", type=positive_int, help="executed steps of each chunk"
    )
    command.add_argument(
        "--transition", choices=("blend", "best-of-n", "constrained"), help=TRANSITION
    )


def condition_options(args: Namespace) -> Results:
    """The options of `add_condition_options` that were given."""
    return given(args, "latency_ms", "n_action_steps", "transition", "randomization")


def given(args: Namespace, *names: str) -> Results:
    """Name -> value of the options that were given."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def positive_int(text: str) -> int:
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got '{text}'")
    return value


def whole_number(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got '{text}'")
    return int(text)


def device_name(text: str) -> str:
    if not DEVICE_NAME.pattern.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be {DEVICE_NAME.description}, got '{text}'")
    return text


def provider_names(text: str) -> str:
    if not PROVIDER_NAMES.pattern.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be {PROVIDER_NAMES.description}, got '{text}'")
    return text


def key_value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got '{text}'")
    return key, parse_value(value, f"--set {show_text(key)}: the value")


def check_target(path: Path) -> None:
    """Called before the work starts; raises ConfigError if --json names no writable file."""
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if path.is_dir() or (existing != path and not existing.is_dir()):
        kind = "a folder" if path.is_dir() else "a file"
        raise ConfigError(f"--json {path}: {existing} is {kind}; name a file in a folder")
    if not os.access(existing, os.W_OK):
        raise ConfigError(f"--json {path} is not writable; name a file in another folder")


def write_results(path: Path, results: Any) -> None:
    """Writes the results of a command as JSON; raises ConfigError if the write fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(
            f"--json {path} cannot be written: {error.strerror}; the command itself succeeded"
        ) from error


def bundle_path(path: Path | None) -> Path:
    return path or config_dir().parent / "models" / "default"


def open_data(paths: Sequence[Path], args: Namespace) -> list[Any]:
    """Datasets at the paths, with the columns of --action-key and --state-key.

    Raises DatasetError if their joints, units or rates differ.
    """
    from nac_ros.datasets.compatibility import check_compatible

    datasets = [dataset for group in open_each(paths, args) for dataset in group]
    check_compatible(datasets)
    return datasets


def open_each(paths: Sequence[Path], args: Namespace) -> list[list[Any]]:
    """The datasets at each path, with the columns of --action-key and --state-key."""
    from nac_ros.datasets.factory import open_all

    keys = [_one_per_path(key, len(paths)) for key in (args.action_key, args.state_key)]
    return [open_all(path, *columns) for path, *columns in zip(paths, *keys)]


def _one_per_path(keys: Sequence[str] | None, n: int) -> list[str | None]:
    if not keys:
        return [None] * n
    if len(keys) not in (1, n):
        raise ConfigError(
            f"{len(keys)} columns ({', '.join(keys)}) for {n} datasets; give one column, or one "
            "for each dataset"
        )
    return list(keys) * (n if len(keys) == 1 else 1)


def check_tokenizer_fits(tokenizer: Any, datasets: Sequence[Any], path: Path) -> None:
    """Raises DatasetError unless the actions have the tokenizer's joints (in order), units and
    rate. A fact that one side does not state is not compared."""
    from nac_ros.datasets.compatibility import check_compatible

    config, first = tokenizer.config, datasets[0]
    if len(first.names) != config.action_dim:
        raise ConfigError(
            f"{first.root} has {len(first.names)} action dimensions, the tokenizer {path} has "
            f"{config.action_dim}; choose the columns with --action-key"
        )
    both_state_units = any(config.units) and any(first.units)
    expected = Namespace(
        root=path,
        names=config.names or first.names,
        state_names=first.state_names,
        units=config.units if both_state_units else first.units,
        fps=config.rate_hz or first.fps,
    )
    check_compatible([expected, first])


def training_config(cls: type, args: Namespace, defaults: Results | None = None) -> Any:
    """A config of class `cls`: its defaults, then `defaults`, then --config, then --set."""
    import torch

    torch.set_num_threads(args.threads or torch.get_num_threads())
    values = configs.load_yaml(args.config) if args.config else {}
    merged = {"seed": args.seed, **(defaults or {}), **values, **dict(args.set)}
    return configs.build(cls, merged, cls.__name__)
