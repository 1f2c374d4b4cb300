"""What each command of `nac` does: open, call the library, print, return figures for --json."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nac_ros import config as configs
from nac_ros import terminal
from nac_ros.errors import ConfigError
from nac_ros.robot import config_dir, load_robot

Figures = dict[str, Any]


def demo(a: Namespace) -> Figures:
    """Trials of every task of the bundle over ROS 2."""
    from nac_ros.nodes.demo import DemoConfig, run_demo  # rclpy only where it is needed

    bundle = str(_bundle(a.bundle))
    config = DemoConfig(bundle=bundle, trials=a.trials, seed=a.seed, out=str(a.out))
    return run_demo(config)


def doctor(a: Namespace) -> Figures:
    """Everything that a run depends on; exit code 1 when something forbids one."""
    from nac_ros.nodes.doctor import DoctorConfig, run_doctor

    bundle = str(_bundle(a.bundle))
    return run_doctor(DoctorConfig(robot=a.robot, bundle=bundle, seconds=a.seconds))


def data_generate(a: Namespace) -> Figures:
    """Demonstrations by the scripted expert."""
    from nac_ros.data.generate import GenerateConfig, generate

    config = GenerateConfig(
        task=a.task, seed=a.seed, robot=a.robot, noise=a.noise,
        bundle=str(a.bundle.resolve()) if a.bundle else "",
    )  # fmt: skip
    attempt = None
    if a.bundle:
        from nac_ros.evaluation.aggregate import attempt_after_policy as attempt

    def report(progress: Any) -> None:
        terminal.progress(progress.line(), progress.kept, progress.wanted)

    done = generate(config, a.episodes, a.out, workers=a.workers, report=report, attempt=attempt)
    print(
        f"{done.kept} episodes in {a.out}; {done.failed} demonstrations failed and were left out"
    )
    return {"episodes": done.kept, "failed": done.failed, "out": str(a.out)}


def data_info(a: Namespace) -> Figures:
    """What a dataset holds."""
    dataset = _open(a.path)
    lengths = [episode.length for episode in dataset.episodes]
    figures = {
        "path": str(a.path),
        "robot": dataset.robot_type,
        "fps": dataset.fps,
        "episodes": len(lengths),
        "frames": sum(lengths),
        "tasks": list(dataset.tasks),
        "names": list(dataset.names),
        "cameras": {name: list(size) for name, size in dataset.cameras.items()},
    }
    for key, value in figures.items():
        print(f"{key:10s} {value}")
    return figures


def data_check(a: Namespace) -> Figures:
    """Findings about a dataset; none raises when it is sound."""
    from nac_ros.data.check import check
    from nac_ros.errors import DatasetError

    findings = [str(finding) for finding in check(_open(a.path))]
    for finding in findings:
        print(finding)
    if findings:
        raise DatasetError(f"{a.path} has {len(findings)} findings, listed above")
    print(f"{a.path} is sound")
    return {"findings": findings}


def tokenizer_list(a: Namespace) -> Figures:
    """Every tokenizer and preset with its size."""
    from nac_ros.tokenizers import list_tokenizers, make_tokenizer
    from nac_ros.tokenizers.base import TOKENIZERS

    rows = []
    for name in list_tokenizers():
        for preset in TOKENIZERS.get(name).presets:
            made = make_tokenizer(name, preset)
            rows.append(
                {
                    "name": name,
                    "preset": preset,
                    "params_m": round(made.params_m, 6),
                    "tokens": made.grammar.max_tokens,
                    "vocabulary": made.codes_per_position,
                    "bits": round(made.bits, 1),
                }
            )
    terminal.table(rows)
    return {"rows": rows}


def tokenizer_train(a: Namespace) -> Figures:
    """Fits and trains a tokenizer on the training episodes."""
    from nac_ros.tokenizers import make_tokenizer
    from nac_ros.training.tokenizer import TokenizerTrainer, TokenizerTraining

    datasets = [_open(path, a) for path in a.data]
    known = _chunk_facts(a, datasets[0])
    tokenizer = make_tokenizer(
        a.tokenizer, a.preset, a.horizon, len(datasets[0].names), **{**known, **dict(a.model)}
    )
    train, held_out = _windows(datasets, a.horizon, pad_end=a.pad_end)
    training = _training_config(TokenizerTraining, a)
    print(
        f"{a.tokenizer} ({a.preset}), {tokenizer.params_m:.3f} M parameters; "
        f"{len(train.actions)} chunks to train on, {len(held_out.actions)} held out"
    )
    figures = TokenizerTrainer(tokenizer, training, a.out).run(train, held_out, a.resume)
    terminal.tokenizer_errors(figures)
    return figures


def tokenizer_eval(a: Namespace) -> Figures:
    """Errors of a tokenizer on held-out episodes."""
    from nac_ros.tokenizers import load_tokenizer
    from nac_ros.training.judge import evaluate as judge

    tokenizer = load_tokenizer(a.path)
    train, held_out = _windows([_open(path, a) for path in a.data], tokenizer.config.horizon)
    figures = judge(tokenizer, train if a.all else held_out)
    figures["onnx_error"] = _onnx_error(a.path, tokenizer)
    terminal.tokenizer_errors(figures)
    return figures


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
    terminal.table(rows)
    return {"rows": rows}


def policy_train(a: Namespace) -> Figures:
    """Behavioural cloning over a trained tokenizer."""
    from nac_ros.data.frames import load_frames
    from nac_ros.policies.base import make_policy, warm_start
    from nac_ros.tokenizers import load_tokenizer
    from nac_ros.training.policy import Demonstrations, PolicyTrainer, PolicyTraining

    tokenizer = load_tokenizer(a.tokenizer)
    cameras = a.cameras or list(_open(a.data[0]).cameras)
    frames = load_frames(a.data, cameras, report=terminal.decoding)
    tasks, state_dim = _task_ids(frames.tasks), frames.proprio.shape[1]
    facts = {"cameras": cameras, "tasks": tasks, "state_dim": state_dim}
    training = _training_config(PolicyTraining, a)
    policy = make_policy(a.policy, a.preset, tokenizer, **{**facts, **dict(a.model)})
    if a.init:
        print(f"{warm_start(policy, a.init)} tensors taken over from {a.init}")
    demonstrations = Demonstrations.build(frames, tokenizer, policy)
    print(f"{a.policy} ({a.preset}), {policy.params_m:.3f} M parameters; {len(frames)} frames")
    return PolicyTrainer(policy, demonstrations, training, a.out).run(a.resume)


def export(a: Namespace) -> Figures:
    """Policy + tokenizer + robot -> bundle."""
    from nac_ros.export.bundle import write_bundle
    from nac_ros.policies.base import load_policy
    from nac_ros.provenance import environment
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


def evaluate(a: Namespace) -> Figures:
    """Judged trials in the twin."""
    from nac_ros.evaluation.evaluate import Evaluation, run

    changes = {"latency_ms": a.latency_ms, "n_action_steps": a.n_action_steps}
    given = {key: value for key, value in changes.items() if value is not None}
    config = Evaluation(
        bundle=str(_bundle(a.bundle)),
        tasks=tuple(a.task or ()),
        trials=a.trials,
        seed=a.seed,
        control=a.control,
        data=tuple(str(path) for path in a.data or ()),
        workers=a.workers,
    )
    figures = run(replace(config, **given))
    for task, row in figures["tasks"].items():
        low, high = row["wilson95"]
        rate = f"{row['successes']}/{row['trials']}"
        print(f"{task:12s} {rate:>8s}  Wilson 95 % {100 * low:.0f} .. {100 * high:.0f} %")
    return figures


def _bundle(path: Path | None) -> Path:
    return path or config_dir().parent / "models" / "default"


def _open(path: Path, a: Namespace | None = None):
    from nac_ros.data.datasets import open_dataset

    keys = (getattr(a, "action_key", None), getattr(a, "state_key", None))
    return open_dataset(path, *keys)


def _windows(datasets: Sequence[Any], horizon: int, pad_end: bool = False):
    from nac_ros.data.windows import action_windows, benchmark_split, concatenate

    sides: tuple[list, list] = ([], [])
    for dataset in datasets:
        split = benchmark_split(len(dataset.episodes))
        if len(split.train):
            sides[0].append(action_windows(dataset, split.train, horizon, pad_end))
        if len(split.held_out):
            sides[1].append(action_windows(dataset, split.held_out, horizon))
    if not sides[0] or not sides[1]:
        raise ConfigError("every fifth episode is held out: give datasets of at least 5 episodes")
    return concatenate(sides[0]), concatenate(sides[1])


def _chunk_facts(a: Namespace, dataset: Any) -> Figures:
    facts = {"names": dataset.names, "units": dataset.units, "rate_hz": float(dataset.fps)}
    if a.robot is None:
        return facts
    robot = load_robot(a.robot)
    if robot.joint_names != tuple(dataset.names):
        raise ConfigError(
            f"robot {robot.name} has joints {', '.join(robot.joint_names)}; the dataset's actions "
            f"are {', '.join(dataset.names)}"
        )
    return {**facts, "units": robot.units, "relative": robot.relative_mask.tolist()}


def _task_ids(prompts: Sequence[str]) -> dict[str, str]:
    """Prompt -> task id where the simulation knows the task, else the prompt stands for itself."""
    from nac_ros.simulation.tasks import list_tasks, make_task

    known = {make_task(task).prompt: task for task in list_tasks()}
    return {known.get(prompt, prompt): prompt for prompt in dict.fromkeys(prompts)}


def _training_config(cls: type, a: Namespace) -> Any:
    import torch

    torch.set_num_threads(a.threads or torch.get_num_threads())
    values = configs.load_yaml(a.config) if a.config else {}
    return configs.build(cls, {"seed": a.seed, **values, **dict(a.set)}, cls.__name__)


def _onnx_error(path: Path, tokenizer: Any) -> float | None:
    from nac_ros.export.onnx import OnnxDetokenizer, parity

    graph = path / "detokenizer.onnx"
    return parity(tokenizer, OnnxDetokenizer(graph)) if graph.is_file() else None
