"""`nac policy` and `nac export`: arguments and actions."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from nac_ros.cli import options, output
from nac_ros.cli.options import Results, training_config
from nac_ros.core.errors import ConfigError
from nac_ros.robot.spec import load_robot


def add_commands(groups: Any) -> None:
    """Adds `nac policy list|train` and `nac export`."""
    group = options.add_group(groups, "policy", "list and train policies")
    options.add_command(group, "list", list_presets, "policies, presets and sizes")
    _add_train(group)
    _add_export(groups)


def list_presets(args: Namespace) -> Results:
    """Every policy and preset with its size, over a `nac` tokenizer and two cameras."""
    from nac_ros.policies import POLICIES, list_policies
    from nac_ros.policies.base import make_policy
    from nac_ros.tokenizers import make_tokenizer

    tokenizer = make_tokenizer("nac")
    facts = {"cameras": ["scene", "wrist"], "tasks": {"task": "prompt"}, "state_dim": 7}
    rows = []
    for name in list_policies():
        for preset in POLICIES.get(name).presets:
            policy = make_policy(name, preset, tokenizer, **facts)
            rows.append({"name": name, "preset": preset, "params_m": round(policy.params_m, 3)})
    output.table(rows)
    return {"rows": rows}


def _add_train(group: Any) -> None:
    command = options.add_command(
        group, "train", train, "train a policy on images by behavioural cloning"
    )
    command.add_argument("--policy", default="ar", help="name, see `nac policy list`")
    command.add_argument("--preset", default="small", help="preset, see `nac policy list`")
    command.add_argument("--tokenizer", type=Path, required=True, help="trained tokenizer folder")
    command.add_argument("--init", type=Path, help="saved policy whose weights are the start")
    command.add_argument("--cameras", nargs="+", help="camera names (default: all of the dataset)")
    command.add_argument(
        "--frames",
        type=Path,
        metavar="FOLDER",
        help="cache of decoded images (default: .cache/frames in each dataset)",
    )
    options.add_model_option(command, "policy")
    options.add_training_options(command)


def train(args: Namespace) -> Results:
    """Trains a policy over a trained tokenizer."""
    from nac_ros.datasets.convert import describe_datasets
    from nac_ros.datasets.frames import load_frames
    from nac_ros.policies.base import make_policy, warm_start
    from nac_ros.tokenizers import load_tokenizer
    from nac_ros.training.policy_trainer import Demonstrations, PolicyTrainer, PolicyTrainingConfig

    tokenizer, datasets = load_tokenizer(args.tokenizer), options.open_data(args.data, args)
    options.check_tokenizer_fits(tokenizer, datasets, args.tokenizer)
    if not datasets[0].state_names:
        raise ConfigError(
            f"{datasets[0].root} has no joint state, which a policy observes; choose its column "
            "with --state-key"
        )
    cameras, size = args.cameras or list(datasets[0].cameras), _image_size(args)
    frames = load_frames(
        datasets, cameras, image_size=size, cache_dir=args.frames, progress=output.image_progress
    )
    facts = {
        "cameras": cameras,
        "tasks": _task_ids(frames.tasks),
        "state_dim": frames.proprio.shape[1],
    }
    training = training_config(PolicyTrainingConfig, args, {"train_on": args.train_on})
    policy = make_policy(args.policy, args.preset, tokenizer, **{**facts, **dict(args.model)})
    if args.init:
        print(f"{warm_start(policy, args.init)} tensors copied from {args.init}")
    demonstrations = Demonstrations.build(frames, tokenizer, policy)
    print(
        f"{args.policy} ({args.preset}), {policy.params_m:.3f} M parameters; {len(frames)} frames"
    )
    trainer = PolicyTrainer(
        policy, demonstrations, training, args.out, describe_datasets(datasets)
    )
    return trainer.run(args.resume)


def _image_size(args: Namespace) -> int:
    """Width and height of the policy's images [pixels]: from --model, its preset or its config."""
    from nac_ros.policies import POLICIES

    cls = POLICIES.get(args.policy)
    defaults = {field.name: field.default for field in fields(cls.Config)}
    merged = {**defaults, **cls.presets.get(args.preset, {}), **dict(args.model)}
    size = merged["image_size"]
    if not isinstance(size, int) or isinstance(size, bool) or not 8 <= size <= 4096:
        raise ConfigError(f"image_size must be a whole number in 8 .. 4096 pixels, got {size}")
    return size


def _task_ids(prompts: Sequence[str]) -> dict[str, str]:
    """Task id -> prompt; a prompt that the simulation does not know is its own id."""
    from nac_ros.simulation.tasks import list_tasks, make_task

    known = {make_task(task).prompt: task for task in list_tasks()}
    return {known.get(prompt, prompt): prompt for prompt in dict.fromkeys(prompts)}


def _add_export(groups: Any) -> None:
    command = options.add_command(
        groups, "export", export, "write a bundle from a policy, its tokenizer and a robot"
    )
    command.add_argument("--policy", type=Path, required=True, help="run of `nac policy train`")
    command.add_argument("--tokenizer", type=Path, required=True, help="trained tokenizer folder")
    command.add_argument("--robot", default="vx300s", help="name or YAML file of the robot")
    command.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    command.add_argument("--card", type=Path, help="model card (Markdown file)")


def export(args: Namespace) -> Results:
    """Writes a bundle and verifies it."""
    from nac_ros.core.provenance import environment
    from nac_ros.export.bundle import write_bundle
    from nac_ros.policies.base import load_policy
    from nac_ros.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(args.tokenizer)
    run = args.policy / "policy"
    policy = load_policy(run if run.is_dir() else args.policy, tokenizer)
    if args.card is not None and not args.card.is_file():
        raise ConfigError(f"--card {args.card} is not a file; name a Markdown file")
    card = args.card.read_text() if args.card else f"# {policy.name} policy, {tokenizer.name}\n"
    bundle = write_bundle(args.out, policy, tokenizer, load_robot(args.robot), environment(), card)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    print(f"{bundle}: {size / 1e6:.1f} MB, verified")
    return {"bundle": str(bundle), "bytes": size}
