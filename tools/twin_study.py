"""Compares policies on the twin's tasks: one frozen image encoder, equal steps, the same scenes.

A cell is a policy, for one that predicts tokens also its tokenizer, such as `ar:nac`, and
optionally the way `ar_guided` acts, such as `ar_guided:nac:regression`. All cells share the
demonstrations, the image encoders of `--vision`, whose features are computed once, the number of
steps and the scenes of the trials. A finished cell is skipped, an interrupted one continues.

Example:

    nac data generate --task marker --episodes 150 --out data/marker
    nac tokenizer train --robot vx300s --tokenizer nac --data data/marker --out data/nac
    python -m tools.twin_study --data data/marker --tokenizers data/nac --vision models/default \\
        --cells ar:nac ar_guided:nac regression diffusion --report twin_study.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import torch

from nac_ros.cli.options import write_results
from nac_ros.core import config as configs
from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError, NacError
from nac_ros.core.files import write_json
from nac_ros.core.provenance import environment
from nac_ros.datasets.convert import describe_datasets
from nac_ros.datasets.factory import AnyDataset, open_dataset
from nac_ros.datasets.frames import Frames, load_frames
from nac_ros.evaluation.rollout import EvaluationConfig, compare_success_rates, run_evaluation
from nac_ros.export.bundle import write_bundle
from nac_ros.policies.base import POLICIES, Policy, load_policy, make_policy, warm_start
from nac_ros.robot.spec import RobotSpec, load_robot
from nac_ros.simulation.tasks import list_tasks, make_task
from nac_ros.stats.intervals import wilson
from nac_ros.tokenizers import Tokenizer, load_tokenizer
from nac_ros.training.loop import has_checkpoint, seed_everything
from nac_ros.training.policy_trainer import PolicyTrainer, PolicyTrainingConfig
from tools.study_cells import RESULT, add_study_options, is_finished

VISION = "observation_encoder.vision."  # of the policies' weights
VISION_FIELDS = ("cameras", "image_size", "n_obs_steps", "vision", "vision_width", "n_keypoints")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Settings of all cells; figures compare only between equal ones.

    vision: folder of a policy whose image encoders are taken and frozen; every policy has its
        width, which is that of the features
    steps, batch, learning_rate, cached_views: of training (`PolicyTrainingConfig`)
    trials: of each task; scenes_seed: of their scenes, which occur in no demonstration
    """

    vision: str
    steps: int = number_field(5000, 1)
    batch: int = number_field(64, 1)
    learning_rate: float = number_field(1e-3, 0)
    cached_views: int = number_field(2, 1)
    log_every: int = number_field(500, 1)
    trials: int = number_field(50, 1)
    scenes_seed: int = 6000
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)


class Cell(NamedTuple):
    """policy: name; tokenizer: name of its tokenizer, or ""; acts_by: of `ar_guided`, or "" """

    policy: str
    tokenizer: str = ""
    acts_by: str = ""

    @property
    def title(self) -> str:
        return ":".join(part for part in self if part)

    @property
    def trained(self) -> "Cell":
        """The cell whose training this one shares: `acts_by` matters only after it."""
        return self._replace(acts_by="")


class Study(NamedTuple):
    """What all cells share: tokenizers by name."""

    config: StudyConfig
    frames: Frames
    datasets: Sequence[AnyDataset]
    tokenizers: dict[str, Tokenizer]
    robot: RobotSpec
    out: Path


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        given = {"vision": str(args.vision), **dict(args.set)}
        config = configs.build(StudyConfig, given, "StudyConfig")
        run_cells(args.cells, make_study(args, config))
        if args.report:
            results = collect(args.cells, args.out)
            write_results(args.report, results)
            print(table(results))
    except NacError as error:
        print(f"twin_study: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cells", type=_cell, nargs="+", required=True, metavar="CELL", help="see above")
    add("--data", type=Path, nargs="+", required=True, help="data sets of the twin's tasks")
    add("--tokenizers", type=Path, nargs="*", default=[], help="folders of trained tokenizers")
    add("--vision", type=Path, required=True, help="policy or bundle with the image encoders")
    add("--robot", default="vx300s", help="name or YAML file of the robot")
    add_study_options(parser, Path("runs/twin_study"))
    return parser


def _cell(text: str) -> Cell:
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise argparse.ArgumentTypeError(
            f"must be POLICY[:TOKENIZER[:ACTS_BY]] such as ar:nac, got '{text}'"
        )
    return Cell(*parts)


def make_study(args: argparse.Namespace, config: StudyConfig) -> Study:
    """Opens data and tokenizers; two of one name are rejected with ConfigError."""
    robot, datasets = load_robot(args.robot), [open_dataset(path) for path in args.data]
    tokenizers: dict[str, Tokenizer] = {}
    for path in args.tokenizers:
        made = load_tokenizer(path)
        if made.name in tokenizers:
            raise ConfigError(f"{path}: a second {made.name} tokenizer; give one of each name")
        tokenizers[made.name] = made
    cameras = [camera.name for camera in robot.cameras]
    frames = load_frames(datasets, cameras, image_size=_vision_facts(args.vision)["image_size"])
    return Study(config, frames, datasets, tokenizers, robot, args.out)


def _vision_facts(vision: Path) -> dict[str, Any]:
    """Fields of the config of a policy with the same image encoders."""
    path = _policy_folder(vision) / "config.json"
    if not path.is_file():
        raise ConfigError(f"--vision {vision} holds no policy; name a bundle or a trained policy")
    config = json.loads(path.read_text())["config"]
    if missing := [name for name in (*VISION_FIELDS, "dim") if name not in config]:
        raise ConfigError(f"--vision {vision}: its policy has no {missing[0]}; name another one")
    return {name: config[name] for name in (*VISION_FIELDS, "dim")}


def _policy_folder(folder: Path) -> Path:
    return folder / "policy" if (folder / "policy").is_dir() else folder


def run_cells(cells: Sequence[Cell], study: Study) -> None:
    """Runs the cells that have no result yet, one after the other."""
    for cell in cells:
        if is_finished(_folder(study.out, cell), study.config):
            print(f"{cell.title}: found in {study.out}", flush=True)
            continue
        print(f"{cell.title}: starts", flush=True)
        result = run_cell(cell, study)
        write_json(_folder(study.out, cell) / RESULT, result)
        for task, row in result["tasks"].items():
            print(f"{cell.title}: {task} {row['successes']} of {row['trials']}", flush=True)


def _folder(out: Path, cell: Cell) -> Path:
    return out / cell.title.replace(":", "-")


def run_cell(cell: Cell, study: Study) -> dict[str, Any]:
    """Trains the policy unless another cell has done so, exports it and runs the trials."""
    check_acts_by(cell)
    policy, metrics = trained_policy(cell.trained, study)
    if cell.acts_by:
        policy.config = replace(policy.config, acts_by=cell.acts_by)
    bundle = write_bundle(
        _folder(study.out, cell) / "bundle", policy, study.robot, environment(), cell.title
    )
    config = study.config
    evaluation = EvaluationConfig(
        bundle=str(bundle), trials=config.trials, seed=config.scenes_seed
    )
    results = run_evaluation(evaluation)
    return {
        "cell": cell.title,
        "tasks": results["tasks"],
        "seed": results["seed"],
        "randomization": results["randomization"],
        "chunk_ms": results["chunk_ms"],
        "jerk_rms_ratio": results["jerk_rms_ratio"],
        "held_out": metrics,
        "params_m": policy.params_m,
        "tokenizer": cell.tokenizer,
        "frames": len(study.frames),
        "data": describe_datasets(study.datasets),
        "config": configs.to_plain(config),
        **environment(),
    }


def check_acts_by(cell: Cell) -> None:
    """Raises ConfigError unless the cell's policy can act as it says."""
    if not cell.acts_by:
        return
    ways = get_type_hints(POLICIES.get(cell.policy).Config).get("acts_by")
    if cell.acts_by not in get_args(ways):
        known = ", ".join(get_args(ways)) or "in one way alone"
        raise ConfigError(
            f"{cell.title}: {cell.policy} cannot act by '{cell.acts_by}'; it acts by: {known}"
        )


def trained_policy(cell: Cell, study: Study) -> tuple[Policy, dict[str, float]]:
    """The cell's policy with its averaged weights, and its held-out metrics."""
    folder, source = _folder(study.out, cell) / "training", _source(cell, study)
    metrics_file = folder / "metrics.json"
    tokenizer = source if isinstance(source, Tokenizer) else None
    if metrics_file.is_file():
        return load_policy(folder / "policy", tokenizer), json.loads(metrics_file.read_text())
    config = study.config
    seed_everything(config.seed)
    facts = {
        "tasks": {task: make_task(task).prompt for task in _task_ids(study.frames)},
        "state_dim": study.frames.proprio.shape[1],
        **_vision_facts(Path(config.vision)),
    }
    policy = make_policy(cell.policy, "small", source, **facts)
    copied = warm_start(policy, _policy_folder(Path(config.vision)), VISION)
    if copied != sum(key.startswith(VISION) for key in policy.state_dict()):
        raise ConfigError(f"{cell.title}: its image encoders differ from those of {config.vision}")
    print(f"{cell.title}: {policy.params_m:.3f} M parameters")
    training = PolicyTrainingConfig(
        **{
            key: getattr(config, key)
            for key in ("steps", "batch", "learning_rate", "cached_views", "log_every", "seed")
        }
    )
    trainer = PolicyTrainer(
        policy,
        study.frames,
        training,
        folder,
        describe_datasets(study.datasets),
        features_dir=study.out / "features",
    )
    metrics = trainer.run(has_checkpoint(folder))
    write_json(metrics_file, metrics)
    return load_policy(folder / "policy", tokenizer), metrics


def _source(cell: Cell, study: Study) -> Tokenizer | ChunkSpec:
    """The tokenizer of a policy that predicts tokens, else how its chunks are normalized."""
    if POLICIES.get(cell.policy).takes_tokenizer:
        if cell.tokenizer not in study.tokenizers:
            known = ", ".join(study.tokenizers) or "none"
            raise ConfigError(
                f"{cell.title}: no tokenizer '{cell.tokenizer}' in --tokenizers, which has {known}"
            )
        return study.tokenizers[cell.tokenizer]
    robot = study.robot
    return ChunkSpec(
        action_dim=robot.action_dim,
        names=robot.joint_names,
        units=robot.units,
        rate_hz=robot.action_rate_hz,
        relative=tuple(robot.relative_mask.tolist()),
    )


def _task_ids(frames: Frames) -> list[str]:
    """Ids of the twin's tasks that the frames have; raises ConfigError for another prompt."""
    known = {make_task(task).prompt: task for task in list_tasks()}
    prompts = list(dict.fromkeys(frames.tasks))
    if unknown := [prompt for prompt in prompts if prompt not in known]:
        raise ConfigError(f"the twin has no task with the prompt '{unknown[0]}'")
    return [known[prompt] for prompt in prompts]


def collect(cells: Sequence[Cell], out: Path) -> dict[str, Any]:
    """Results of the cells, each with its paired differences from the first one."""
    results = [json.loads((_folder(out, cell) / RESULT).read_text()) for cell in cells]
    for result in results[1:]:
        result["difference"] = compare_success_rates(result, results[0], results[0]["cell"])
    return {"study": "policies on the twin's tasks", "cells": results}


def table(results: dict[str, Any]) -> str:
    """Markdown: successes of each cell and task with Wilson's interval, and over all tasks the
    paired difference from the first cell, in points."""
    tasks = list(results["cells"][0]["tasks"])
    head = ["cell", "params [M]", *tasks, "all", "95 %", "L1", "chunk p50 [ms]"]
    lines = [head, ["---"] * len(head)]
    for cell in results["cells"]:
        rows = [cell["tasks"][task] for task in tasks]
        solved, trials = (sum(row[key] for row in rows) for key in ("successes", "trials"))
        interval = wilson(solved, trials)
        lines.append(
            [
                cell["cell"],
                f"{cell['params_m']:.2f}",
                *(f"{row['successes']}/{row['trials']}" for row in rows),
                f"{solved}/{trials}",
                f"{100 * interval.low:.0f} .. {100 * interval.high:.0f} %",
                f"{cell['held_out']['l1']:.4f}",
                f"{cell['chunk_ms']['p50']:.0f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
