"""`nac policy` and `nac export`: arguments and actions."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from nac_ros.cli import options, output
from nac_ros.cli.options import check_tokenizer_fits, open_data, training_config
from nac_ros.cli.output import Figures
from nac_ros.core.errors import ConfigError
from nac_ros.robot.spec import load_robot


def add_commands(groups: Any) -> None:
    """Adds the commands of this file to the parser of `nac`."""
    _add_policy(groups)
    _add_export(groups)


def _add_policy(groups: Any) -> None:
    policy = options.add_group(groups, "policy", "policies: list, train")
    options.add_command(policy, "list", policy_list, "names, presets and sizes")
    train = options.add_command(policy, "train", policy_train, "behavioural cloning with images")
    train.add_argument("--policy", default="ar")
    train.add_argument("--preset", default="small")
    train.add_argument("--tokenizer", type=Path, required=True, help="trained tokenizer folder")
    train.add_argument("--init", type=Path, help="saved policy to start from, over any tokenizer")
    train.add_argument(
        "--cameras", nargs="+", help="cameras to see; all of the dataset's if left out"
    )
    train.add_argument(
        "--frames", type=Path, metavar="FOLDER",
        help="for the decoded images; .cache/frames in each dataset if left out",
    )  # fmt: skip
    train.add_argument(
        "--model", type=options.key_value, action="append", default=[], metavar="KEY=VALUE",
        help="change a field of the policy's config",
    )  # fmt: skip
    options.add_training_options(train)


def _add_export(groups: Any) -> None:
    export_command = options.add_command(
        groups, "export", export, "put policy and tokenizer into one bundle"
    )
    export_command.add_argument(
        "--policy", type=Path, required=True, help="run folder of `policy train`"
    )
    export_command.add_argument(
        "--tokenizer", type=Path, required=True, help="trained tokenizer folder"
    )
    export_command.add_argument("--robot", default="vx300s")
    export_command.add_argument("--out", type=Path, required=True)
    export_command.add_argument(
        "--card", type=Path, help="model card (Markdown); a plain one if left out"
    )


def policy_list(a: Namespace) -> Figures:
    """Every policy and preset with its size over a `nac` tokenizer and two cameras."""
    from nac_ros.policies import POLICIES, list_policies
    from nac_ros.policies.base import make_policy
    from nac_ros.tokenizers import make_tokenizer

    tokenizer = make_tokenizer("nac")
    facts = {"cameras": ["scene", "wrist"], "tasks": {"task": "prompt"}, "state_dim": 7}
    rows = []
    for name in list_policies():
        for preset in POLICIES.get(name).presets:
            made = make_policy(name, preset, tokenizer, **facts)
            rows.append({"name": name, "preset": preset, "params_m": round(made.params_m, 3)})
    output.table(rows)
    return {"rows": rows}


def policy_train(a: Namespace) -> Figures:
    """Behavioural cloning over a trained tokenizer."""
    from nac_ros.datasets.convert import describe_datasets
    from nac_ros.datasets.frames import load_frames
    from nac_ros.policies.base import make_policy, warm_start
    from nac_ros.tokenizers import load_tokenizer
    from nac_ros.training.policy_trainer import Demonstrations, PolicyTrainer, PolicyTrainingConfig

    tokenizer, datasets = load_tokenizer(a.tokenizer), open_data(a.data, a)
    check_tokenizer_fits(tokenizer, datasets, a.tokenizer)
    if not datasets[0].state_names:
        raise ConfigError(
            f"{datasets[0].root} has no joint state, which a policy observes; choose its column "
            "with --state-key"
        )
    cameras, size = a.cameras or list(datasets[0].cameras), _image_size(a)
    frames = load_frames(
        datasets, cameras, image_size=size, cache_dir=a.frames, report=output.decoding
    )
    tasks, state_dim = _task_ids(frames.tasks), frames.proprio.shape[1]
    facts = {"cameras": cameras, "tasks": tasks, "state_dim": state_dim}
    training = training_config(PolicyTrainingConfig, a, {"train_on": a.train_on})
    policy = make_policy(a.policy, a.preset, tokenizer, **{**facts, **dict(a.model)})
    if a.init:
        print(f"{warm_start(policy, a.init)} tensors taken over from {a.init}")
    demonstrations = Demonstrations.build(frames, tokenizer, policy)
    print(f"{a.policy} ({a.preset}), {policy.params_m:.3f} M parameters; {len(frames)} frames")
    trainer = PolicyTrainer(policy, demonstrations, training, a.out, describe_datasets(datasets))
    return trainer.run(a.resume)


def _image_size(a: Namespace) -> int:
    """[pixels] of the square images that the policy sees: of --model, its preset or its config."""
    from nac_ros.policies import POLICIES

    cls = POLICIES.get(a.policy)
    usual = {field.name: field.default for field in fields(cls.Config)}
    size = {**usual, **cls.presets.get(a.preset, {}), **dict(a.model)}["image_size"]
    if not isinstance(size, int) or isinstance(size, bool) or not 8 <= size <= 4096:
        raise ConfigError(f"image_size {size} is no number of pixels in 8 .. 4096")
    return size


def export(a: Namespace) -> Figures:
    """Policy + tokenizer + robot -> bundle."""
    from nac_ros.core.provenance import environment
    from nac_ros.export.bundle import write_bundle
    from nac_ros.policies.base import load_policy
    from nac_ros.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(a.tokenizer)
    folder = a.policy / "policy" if (a.policy / "policy").is_dir() else a.policy
    policy = load_policy(folder, tokenizer)
    if a.card is not None and not a.card.is_file():
        raise ConfigError(f"no model card at {a.card}")
    card = a.card.read_text() if a.card else f"# {policy.name} policy over {tokenizer.name}\n"
    made = write_bundle(a.out, policy, tokenizer, load_robot(a.robot), environment(), card)
    size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    print(f"{made}: {size / 1e6:.1f} MB, verified")
    return {"bundle": str(made), "bytes": size}


def _task_ids(prompts: Sequence[str]) -> dict[str, str]:
    """Prompt -> task id where the simulation knows the task, else the prompt stands for itself."""
    from nac_ros.simulation.tasks import list_tasks, make_task

    known = {make_task(task).prompt: task for task in list_tasks()}
    return {known.get(prompt, prompt): prompt for prompt in dict.fromkeys(prompts)}
