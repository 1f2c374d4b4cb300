"""`nac policy` and `nac export`: arguments and actions."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from nac_ros.cli import options, output
from nac_ros.cli.options import Results, training_config
from nac_ros.cli.tokenizer import chunk_facts
from nac_ros.core import config as configs
from nac_ros.core.device import POLICY_TRAINING_PRECISION
from nac_ros.core.errors import ConfigError
from nac_ros.robot.spec import load_robot


def add_commands(groups: Any) -> None:
    """Adds `nac policy list|train` and `nac export`."""
    group = options.add_group(groups, "policy", "list and train policies")
    options.add_command(group, "list", list_presets, "policies, presets and sizes")
    _add_train(group)
    _add_export(groups)


def list_presets(args: Namespace) -> Results:
    """Every policy and preset with its size, for two cameras and seven joints; those that predict
    tokens over a `nac` tokenizer. The size is unknown where it depends on files of the user."""
    from nac_ros.core.chunk_spec import ChunkSpec
    from nac_ros.policies import POLICIES, list_policies
    from nac_ros.policies.base import make_policy
    from nac_ros.tokenizers import make_tokenizer

    tokenizer = make_tokenizer("nac")
    facts = {"cameras": ["scene", "wrist"], "tasks": {"task": "prompt"}, "state_dim": 7}
    rows = []
    for name in list_policies():
        cls = POLICIES.get(name)
        for preset in cls.presets:
            size = None
            if not cls.required_folder:
                source = tokenizer if cls.takes_tokenizer else ChunkSpec()
                size = round(make_policy(name, preset, source, **facts).params_m, 3)
            rows.append({"name": name, "preset": preset, "params_m": size})
    output.table(rows)
    return {"rows": rows}


def _add_train(group: Any) -> None:
    command = options.add_command(
        group, "train", train, "train a policy on images by behavioural cloning"
    )
    command.add_argument("--policy", default="ar_guided", help="name, see `nac policy list`")
    command.add_argument("--preset", default="small", help="preset, see `nac policy list`")
    command.add_argument(
        "--tokenizer", type=Path, help="trained tokenizer folder, if the policy predicts tokens"
    )
    command.add_argument(
        "--horizon", type=int, default=32, help="steps of a chunk, if it predicts no tokens"
    )
    options.add_representation_options(command)
    command.add_argument("--init", type=Path, help="saved policy whose weights are the start")
    command.add_argument("--cameras", nargs="+", help="camera names (default: all of the dataset)")
    command.add_argument(
        "--environment-state",
        action="store_true",
        help="also observe the data's low-dimensional state of the scene "
        "(observation.environment_state; robomimic: obs/object)",
    )
    command.add_argument(
        "--frames",
        type=Path,
        metavar="FOLDER",
        help="cache of decoded images (default: .cache/frames in each dataset)",
    )
    command.add_argument(
        "--features",
        type=Path,
        metavar="FOLDER",
        help="cache of the features of frozen image encoders (cached_views), which runs with the "
        "same encoders, frames and augmentation share (default: none)",
    )
    options.add_model_option(command, "policy")
    options.add_training_options(command)
    options.add_device_options(command, POLICY_TRAINING_PRECISION)


def train(args: Namespace) -> Results:
    """Trains a policy, over a trained tokenizer if it predicts tokens."""
    from nac_ros.datasets.convert import describe_datasets
    from nac_ros.datasets.frames import load_frames
    from nac_ros.policies import POLICIES
    from nac_ros.policies.base import make_policy, warm_start
    from nac_ros.training.loop import seed_everything
    from nac_ros.training.policy_trainer import PolicyTrainer, PolicyTrainingConfig

    cls, device = POLICIES.get(args.policy), options.compute_device(args)
    source, datasets = _chunk_source(args, cls.takes_tokenizer)
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
        **_environment_facts(frames, args.environment_state),
    }
    defaults = {**cls.training_defaults.get(args.preset, {}), "train_on": args.train_on}
    training = training_config(PolicyTrainingConfig, args, defaults)
    seed_everything(training.seed)  # before the initial weights are drawn
    policy = make_policy(args.policy, args.preset, source, **{**facts, **dict(args.model)})
    if args.init:
        print(f"{warm_start(policy, args.init)} tensors copied from {args.init}")
    print(
        f"{args.policy} ({args.preset}), {policy.params_m:.3f} M parameters; {len(frames)} frames"
    )
    sources = describe_datasets(datasets)
    trainer = PolicyTrainer(
        policy,
        frames,
        training,
        args.out,
        sources,
        features_dir=args.features,
        device=device,
    )
    return trainer.run(args.resume)


def _chunk_source(args: Namespace, takes_tokenizer: bool) -> tuple[Any, list[Any]]:
    """The tokenizer of --tokenizer, or the ChunkSpec of the data; and the datasets."""
    from nac_ros.core.chunk_spec import ChunkSpec
    from nac_ros.tokenizers import load_tokenizer

    if takes_tokenizer != (args.tokenizer is not None):
        wanted = "needs" if takes_tokenizer else "predicts no tokens and takes no"
        raise ConfigError(f"policy {args.policy} {wanted} --tokenizer")
    if takes_tokenizer and (args.robot is not None or args.relative is not None):
        raise ConfigError("--robot and --relative are settings of the tokenizer; leave them out")
    if takes_tokenizer:
        tokenizer, datasets = load_tokenizer(args.tokenizer), options.open_data(args.data, args)
        options.check_tokenizer_fits(tokenizer, datasets, args.tokenizer)
        return tokenizer, datasets
    datasets = options.open_data(args.data, args)
    facts = chunk_facts(args, datasets[0])
    sizes = {"horizon": args.horizon, "action_dim": len(datasets[0].names)}
    return configs.build(ChunkSpec, {**sizes, **facts}, "chunks"), datasets


def _environment_facts(frames: Any, wanted: bool) -> dict[str, int]:
    """Size of the environment state that the policy observes; raises ConfigError without one."""
    if not wanted:
        return {}
    if frames.environment_state is None:
        raise ConfigError(
            "--environment-state: not every dataset has an environment state of the same "
            "dimensions; leave the option out"
        )
    return {"environment_state_dim": frames.environment_state.shape[1]}


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
    command.add_argument(
        "--tokenizer", type=Path, help="trained tokenizer folder, if the policy predicts tokens"
    )
    command.add_argument("--robot", default="vx300s", help="name or YAML file of the robot")
    command.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    command.add_argument("--card", type=Path, help="model card (Markdown file)")
    command.add_argument(
        "--model",
        type=options.key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a field of the policy's config that its weights do not depend on, such as "
        "acts_by=tokens",
    )
    command.add_argument(
        "--runtime",
        choices=("torch", "onnx"),
        default="torch",
        help="onnx = also export the whole policy, so that a robot needs ONNX Runtime and no "
        "torch (default: torch)",
    )
    options.add_device_options(command, precision=None)


def export(args: Namespace) -> Results:
    """Writes a bundle on the CPU, and verifies it there and on the chosen device."""
    from nac_ros.core.provenance import environment
    from nac_ros.export.bundle import load_bundle, write_bundle
    from nac_ros.inference.onnx_runtime import OnnxRuntime
    from nac_ros.policies.base import load_policy, takes_tokenizer
    from nac_ros.tokenizers import load_tokenizer

    device, run = options.compute_device(args), args.policy / "policy"
    folder = run if run.is_dir() else args.policy
    if takes_tokenizer(folder) != (args.tokenizer is not None):
        wanted = (
            "predicts tokens; give its" if takes_tokenizer(folder) else "has no tokenizer; omit"
        )
        raise ConfigError(f"the policy in {folder} {wanted} --tokenizer")
    tokenizer = None if args.tokenizer is None else load_tokenizer(args.tokenizer)
    policy = load_policy(folder, tokenizer)
    fields = {**configs.to_plain(policy.config), **dict(args.model)}
    policy.config = configs.build(type(policy.config), fields, f"policy {policy.name}")
    if args.card is not None and not args.card.is_file():
        raise ConfigError(f"--card {args.card} is not a file; name a Markdown file")
    card = args.card.read_text() if args.card else f"# {policy.describe()}\n"
    with_onnx = args.runtime == "onnx"
    robot, check = load_robot(args.robot), OnnxRuntime if with_onnx else None
    bundle = write_bundle(args.out, policy, robot, environment(), card, with_onnx, check)
    if device.kind != "cpu":
        load_bundle(bundle, device)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    print(f"{bundle}: {size / 1e6:.1f} MB, verified")
    return {"bundle": str(bundle), "bytes": size}
