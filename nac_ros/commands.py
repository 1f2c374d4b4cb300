"""What each command of `nac` does: open, call the library, print, return figures for --json."""

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields, replace
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
        bundle=str(a.bundle.resolve()) if a.bundle else "", scenes=a.scenes,
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
    from nac_ros.data import hub
    from nac_ros.data.datasets import open_dataset

    dataset = open_dataset(a.path, a.action_key, a.state_key)
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
        **_unusual_cameras(dataset),
        "constant": _constant(dataset),
        **hub.origin_of(dataset.root),
    }
    for key, value in figures.items():
        print(f"{key:10s} {value}")
    return figures


def _unusual_cameras(dataset: Any) -> Figures:
    """Columns of cameras that are not named `observation.images.<camera>`, and images that are
    none of a camera in colour; nothing where there are neither."""
    from nac_ros.data.layout import IMAGE_PREFIX

    keys = getattr(dataset, "picture_keys", {})
    other = {name: key for name, key in keys.items() if key != IMAGE_PREFIX + name}
    depth = {name: list(size) for name, size in getattr(dataset, "depth_cameras", {}).items()}
    return {**({"columns": other} if other else {}), **({"depth": depth} if depth else {})}


def _constant(dataset: Any) -> list[str]:
    """What no statistic may divide by, or why that is not known."""
    from nac_ros.data.check import odd
    from nac_ros.errors import DatasetError

    try:
        return odd(dataset)
    except DatasetError as error:
        return [f"not known: {error}"]


def data_check(a: Namespace) -> Figures:
    """Findings about a dataset; none raises when it is sound."""
    from nac_ros.data.check import check_path
    from nac_ros.data.datasets import holds_recordings, locate, open_dataset
    from nac_ros.errors import DatasetError

    path, keys = locate(a.path), (a.action_key, a.state_key)
    if holds_recordings(path):
        from nac_ros.data.check_recordings import check_recordings

        if any(keys):  # refuses columns that recordings have not
            open_dataset(path, *keys)
        findings = [str(finding) for finding in check_recordings(path)]
    else:
        findings = [str(finding) for finding in check_path(path, *keys)]
    for finding in findings:
        print(finding)
    if findings:
        count = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
        raise DatasetError(f"{a.path} has {count}, listed above")
    print(f"{a.path} is sound")
    return {"findings": findings}


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
    from nac_ros.data.origins import describe
    from nac_ros.policies.base import make_policy, warm_start
    from nac_ros.tokenizers import load_tokenizer
    from nac_ros.training.policy import Demonstrations, PolicyTrainer, PolicyTraining

    tokenizer, datasets = load_tokenizer(a.tokenizer), open_data(a.data, a)
    check_tokenizer_fits(tokenizer, datasets, a.tokenizer)
    if not datasets[0].state_names:
        raise ConfigError(
            f"{datasets[0].root} has no joint state, which a policy observes; choose its column "
            "with --state-key"
        )
    cameras, size = a.cameras or list(datasets[0].cameras), _image_size(a)
    frames = load_frames(
        datasets, cameras, image_size=size, cache_dir=a.frames, report=terminal.decoding
    )
    tasks, state_dim = _task_ids(frames.tasks), frames.proprio.shape[1]
    facts = {"cameras": cameras, "tasks": tasks, "state_dim": state_dim}
    training = training_config(PolicyTraining, a, {"only": a.only})
    policy = make_policy(a.policy, a.preset, tokenizer, **{**facts, **dict(a.model)})
    if a.init:
        print(f"{warm_start(policy, a.init)} tensors taken over from {a.init}")
    demonstrations = Demonstrations.build(frames, tokenizer, policy)
    print(f"{a.policy} ({a.preset}), {policy.params_m:.3f} M parameters; {len(frames)} frames")
    trainer = PolicyTrainer(policy, demonstrations, training, a.out, describe(datasets))
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
    from nac_ros.evaluation.beside import load_earlier
    from nac_ros.evaluation.evaluate import Evaluation, run

    earlier = load_earlier(a.beside, a.seed, a.scenes) if a.beside is not None else None
    names = ("latency_ms", "n_action_steps", "seam", "scenes")
    changes = {name: getattr(a, name) for name in names}
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
    if earlier is not None:
        _print_beside(figures, earlier, a.beside)
    return figures


def _print_beside(figures: Figures, earlier: Figures, path: Path) -> None:
    """How the rates differ from an earlier run's on the same scenes; put into the figures."""
    from nac_ros.evaluation.beside import beside

    figures["beside"] = rows = beside(figures, earlier, str(path))
    for task, row in rows.items():
        low, high = (100 * bound for bound in row["difference95"])
        print(f"{task:12s} {100 * row['difference']:+8.1f} points beside {path.name}, "
              f"95 % {low:+.1f} .. {high:+.1f}, {row['trials']} shared scenes")  # fmt: skip


def faults(a: Namespace) -> Figures:
    """What can fail, made to fail; raises NacError where the arm did not do as it should."""
    from nac_ros.errors import NacError
    from nac_ros.nodes.fault_list import FAULTS
    from nac_ros.nodes.faults import FaultsConfig, run_faults

    if a.list:
        for fault in FAULTS.values():
            limit = "goes on" if fault.stop_s is None else f"rests in {fault.stop_s} s"
            print(f"{fault.name:18s} {limit:16s} {fault.text}")
        return {"rows": [{"fault": name, "allowed_s": f.stop_s} for name, f in FAULTS.items()]}
    config = FaultsConfig(
        bundle=str(_bundle(a.bundle)), names=tuple(a.names), seed=a.seed, out=str(a.out),
        shuffled=a.random or 0,
    )  # fmt: skip
    figures = run_faults(config)
    if a.json:  # also where one failed
        a.json.write_text(json.dumps(figures, indent=1) + "\n")
    if failed := [row["fault"] for row in figures["rows"] if not row["passed"]]:
        raise NacError(f"{len(failed)} of {len(figures['rows'])} failed: {', '.join(failed)}")
    return figures


def replay(a: Namespace) -> Figures:
    """A run's tapes again; raises NacError at the first difference."""
    from nac_ros.errors import NacError
    from nac_ros.evaluation.replay import replay as again

    folder = a.run_folder / "tape" if (a.run_folder / "tape").is_dir() else a.run_folder
    parts = again(folder, a.bundle)
    for name, found in parts.items():
        lost = f", {found.lost} lines lost" if found.lost else ""
        gaps = f", the log is incomplete: {found.gaps} gaps{lost}" if found.gaps else ""
        print(
            f"{name:8s} {found.calls} calls, {found.values} numbers, "
            f"{found.differences} differ{gaps}"
        )
    for name, found in parts.items():
        if found.first:
            raise NacError(f"{name}: the first difference is in {found.first}")
    return {name: vars(found) for name, found in parts.items()}


def _bundle(path: Path | None) -> Path:
    return path or config_dir().parent / "models" / "default"


def open_data(paths: Sequence[Path], a: Namespace) -> list[Any]:
    """Every dataset at the paths, with the columns of --action-key and --state-key: one for all or
    for each path. Raises DatasetError where they cannot be joined."""
    from nac_ros.data.compatibility import check_compatible

    datasets = [dataset for group in open_each(paths, a) for dataset in group]
    check_compatible(datasets)
    return datasets


def open_each(paths: Sequence[Path], a: Namespace) -> list[list[Any]]:
    """The datasets at each path, with the columns of --action-key and --state-key."""
    from nac_ros.data.datasets import open_all

    keys = [_for_each(key, len(paths)) for key in (a.action_key, a.state_key)]
    return [open_all(path, *columns) for path, *columns in zip(paths, *keys)]


def check_tokenizer_fits(tokenizer: Any, datasets: Sequence[Any], path: Path) -> None:
    """Raises DatasetError unless the actions are of the tokenizer's joints, in their order, with
    their units and at their rate, as far as both sides say."""
    from nac_ros.data.compatibility import check_compatible

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
    from nac_ros.data.windows import windows_of_sides

    return windows_of_sides(datasets, horizon, pad_end)


def _task_ids(prompts: Sequence[str]) -> dict[str, str]:
    """Prompt -> task id where the simulation knows the task, else the prompt stands for itself."""
    from nac_ros.simulation.tasks import list_tasks, make_task

    known = {make_task(task).prompt: task for task in list_tasks()}
    return {known.get(prompt, prompt): prompt for prompt in dict.fromkeys(prompts)}


def training_config(cls: type, a: Namespace, usual: Figures | None = None) -> Any:
    """The fields of `cls`: its defaults, what is `usual`, then --config, then --set."""
    import torch

    torch.set_num_threads(a.threads or torch.get_num_threads())
    values = configs.load_yaml(a.config) if a.config else {}
    given = {"seed": a.seed, **(usual or {}), **values, **dict(a.set)}
    return configs.build(cls, given, cls.__name__)
