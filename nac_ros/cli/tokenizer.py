"""`nac tokenizer`: arguments and actions."""

import argparse
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nac_ros.cli import options, output
from nac_ros.cli.options import (
    check_tokenizer_fits,
    open_data,
    open_each,
    training_config,
    windows_of,
)
from nac_ros.cli.output import Figures
from nac_ros.core.errors import ConfigError
from nac_ros.robot.spec import RobotSpec, load_robot


def add_commands(groups: Any) -> None:
    tokenizer = options.add_group(groups, "tokenizer", "tokenizers: list, train, judge")
    options.add_command(tokenizer, "list", list_presets, "names, presets, sizes and bits")
    train_command = options.add_command(tokenizer, "train", train, "fit and train on a dataset")
    train_command.add_argument("--tokenizer", default="nac")
    train_command.add_argument("--preset", default="small")
    train_command.add_argument(
        "--horizon", type=options.positive_int, default=32, help="steps of a chunk"
    )
    train_command.add_argument(
        "--pad-end", action=argparse.BooleanOptionalAction, default=True,
        help="also learn the chunks that end at rest after an episode's end",
    )  # fmt: skip
    train_command.add_argument(
        "--embodiments", nargs="+", metavar="NAME",
        help="robots that share one nac codec, a name for each dataset; saved in OUT/NAME",
    )  # fmt: skip
    options.add_representation_options(train_command)
    train_command.add_argument(
        "--model", type=options.key_value, action="append", default=[], metavar="KEY=VALUE",
        help="change a field of the tokenizer's config",
    )  # fmt: skip
    options.add_training_options(train_command)
    judge = options.add_command(
        tokenizer, "eval", evaluate_tokenizer, "errors on held-out episodes"
    )
    judge.add_argument("path", type=Path, help="tokenizer folder or bundle")
    judge.add_argument("--data", type=Path, nargs="+", required=True, help=options.DATA)
    options.add_column_options(judge)
    judge.add_argument("--all", action="store_true", help="every episode, not only held-out ones")
    _add_comparisons(tokenizer)


def _add_comparisons(tokenizer: Any) -> None:
    bench_command = options.add_command(
        tokenizer, "bench", bench,
        "train all tokenizers for the same time and compare them: the paper's Table 3",
    )  # fmt: skip
    bench_command.add_argument("--tokenizers", nargs="+", metavar="NAME", help="all if left out")
    options.add_comparison_options(bench_command, "runs/bench")
    ablate_command = options.add_command(
        tokenizer, "ablate", ablate,
        "change one thing of nac at a time: the paper's Table 1",
    )  # fmt: skip
    ablate_command.add_argument(
        "--groups", nargs="+", metavar="GROUP",
        help="of settings; Table 1's and commitment if left out, any other word lists all",
    )  # fmt: skip
    options.add_comparison_options(ablate_command, "runs/ablation")
    worst = options.add_command(
        tokenizer, "envelope", envelope,
        "the worst that a codec was seen to output, beside a robot's limits",
    )  # fmt: skip
    worst.add_argument("path", type=Path, help="tokenizer folder or bundle; stored there")
    worst.add_argument("--robot", required=True, help="name or YAML file of the robot")
    worst.add_argument(
        "--samples", type=options.positive_int, help="random sequences to begin with"
    )


def list_presets(a: Namespace) -> Figures:
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
    output.table(rows)
    return {"rows": rows}


def train(a: Namespace) -> Figures:
    """Fits and trains a tokenizer on the training episodes."""
    from nac_ros.datasets.convert import describe
    from nac_ros.tokenizers import make_tokenizer
    from nac_ros.tokenizers.base import TOKENIZERS
    from nac_ros.training.loop import seed_everything
    from nac_ros.training.tokenizer_trainer import TokenizerTrainer, TokenizerTraining

    if a.embodiments:
        return _train_family(a)
    datasets = open_data(a.data, a)
    facts = {**chunk_facts(a, datasets[0]), **dict(a.model)}
    usual = TOKENIZERS.get(a.tokenizer).recipes.get(a.preset, {})
    training = training_config(TokenizerTraining, a, usual)
    seed_everything(training.seed)  # before the first weights are drawn
    made = make_tokenizer(a.tokenizer, a.preset, a.horizon, len(datasets[0].names), **facts)
    chunks, held_out, constant = _windows(a, datasets)
    print(
        f"{a.tokenizer} ({a.preset}), {made.params_m:.3f} M parameters; "
        f"{len(chunks.actions)} chunks to train on, {len(held_out.actions)} held out"
    )
    trainer = TokenizerTrainer(made, training, a.out, describe(datasets))
    figures = trainer.run(chunks, held_out, a.resume)
    output.tokenizer_errors(figures)
    return {**figures, "constant": list(constant)}


def _train_family(a: Namespace) -> Figures:
    """One codec for the robots `a.embodiments`, one dataset each."""
    from nac_ros.datasets.compatibility import check_compatible
    from nac_ros.datasets.convert import describe
    from nac_ros.tokenizers.cross_embodiment import make_cross_embodiment
    from nac_ros.tokenizers.nac import Nac
    from nac_ros.training.loop import seed_everything
    from nac_ros.training.tokenizer_trainer import TokenizerTraining, train_family

    if a.tokenizer != "nac" or len(a.embodiments) != len(a.data):
        raise ConfigError(
            f"--embodiments are names of robots that share a nac codec, one for each dataset; got "
            f"{a.tokenizer}, {len(a.embodiments)} names and {len(a.data)} datasets"
        )
    training = training_config(TokenizerTraining, a, Nac.recipes.get(a.preset, {}))
    seed_everything(training.seed)
    facts, data, sources = {}, {}, {}
    for name, datasets in zip(a.embodiments, open_each(a.data, a)):
        check_compatible(datasets)
        sizes = {"horizon": a.horizon, "action_dim": len(datasets[0].names)}
        facts[name] = {**sizes, **chunk_facts(a, datasets[0])}
        data[name] = _windows(a, datasets)[:2]
        sources[name] = describe(datasets)
    family = make_cross_embodiment(facts, a.preset, **dict(a.model))
    figures = train_family(family, data, training, a.out, a.resume, sources)
    for name, row in figures.items():
        print(f"{name}, in {a.out / name}:")
        output.tokenizer_errors(row)
    return {"embodiments": figures}


def _windows(a: Namespace, datasets: Sequence[Any]) -> Any:
    """What to train on and what is held out, as --only and --pad-end say; an intervention ends
    where the arm does not rest, so nothing is padded there."""
    if a.only == "everything":
        return windows_of(datasets, a.horizon, pad_end=a.pad_end)
    from nac_ros.datasets.interventions import interventions_only

    return windows_of(interventions_only(datasets, a.horizon), a.horizon)


def evaluate_tokenizer(a: Namespace) -> Figures:
    """Errors of a tokenizer on held-out episodes."""
    from nac_ros.tokenizers import load_tokenizer
    from nac_ros.training.tokenizer_metrics import evaluate

    tokenizer = load_tokenizer(a.path)
    datasets = open_data(a.data, a)
    check_tokenizer_fits(tokenizer, datasets, a.path)
    chunks, held_out, constant = windows_of(datasets, tokenizer.config.horizon)
    figures = evaluate(tokenizer, chunks if a.all else held_out)
    figures["constant"] = list(constant)
    figures["onnx_error"] = _onnx_error(a.path, tokenizer)
    output.tokenizer_errors(figures)
    return figures


def envelope(a: Namespace) -> Figures:
    """The worst that a codec was seen to output, beside a robot's limits."""
    from nac_ros.export.output_envelope import SAMPLES, write_envelope

    robot, samples = load_robot(a.robot), a.samples or SAMPLES
    figures = write_envelope(a.path, robot, samples, a.seed, output.counting("sequences"))
    output.envelope(figures)
    return figures


def bench(a: Namespace) -> Figures:
    """All tokenizers on the same data: Table 3 and the plot."""
    from nac_ros.evaluation.tokenizer_benchmark import BenchConfig, table
    from nac_ros.evaluation.tokenizer_benchmark import bench as run

    config = BenchConfig(**_given(a), tokenizers=tuple(a.tokenizers or ()))
    figures = run(config, _material(a), a.out)
    print(table(figures))
    print(f"at most 120 bits, lowest error first: {', '.join(figures['ranking'])}")
    for pair in figures["dominates_nac"]:
        rival, own = pair["rival"], pair["nac"]
        print(
            f"{rival['label']} at {rival['bits']:.0f} bits, {rival['mse']:.2e}, lies left of and "
            f"below nac at {own['bits']:.0f} bits, {own['mse']:.2e}"
        )
    print(f"bench.json, table.md, rate_distortion.png and a picture of each are in {a.out}")
    return figures


def ablate(a: Namespace) -> Figures:
    """Table 1's grid."""
    from nac_ros.evaluation.tokenizer_ablation import AblationConfig, table
    from nac_ros.evaluation.tokenizer_ablation import ablate as run

    groups = {"groups": tuple(a.groups)} if a.groups else {}
    config = AblationConfig(**_given(a), **groups)
    figures = run(config, _material(a), a.out)
    print(table(figures))
    print(f"ablation.json and ablation.md are in {a.out}")
    return figures


def _given(a: Namespace) -> Figures:
    """What was said of a comparison's settings; the rest is its config's."""
    names = ("preset", "train_seconds", "seeds", "seed", "threads", "cache")
    return {name: getattr(a, name) for name in names if getattr(a, name) is not None}


def _material(a: Namespace) -> Any:
    """The datasets of a comparison; relative to the joint state wherever there is one."""
    from nac_ros.training.experiment import BenchmarkData

    datasets = open_data(a.data, a)
    if a.robot is None and a.relative is None:
        a.relative = all(len(d.state_names) == len(d.names) for d in datasets)
    facts = chunk_facts(a, datasets[0])
    label = ", ".join(f"{p.parent.name}/{p.stem}" if p.suffix else p.name for p in a.data)
    sides = windows_of(datasets, a.horizon)
    return BenchmarkData(label, sides.train, sides.held_out, facts, sides.constant)


def chunk_facts(a: Namespace, dataset: Any) -> Figures:
    """Names, units, rate and representation of a dataset's actions, as tokenizers want them."""
    facts = {"names": dataset.names, "units": dataset.units, "rate_hz": float(dataset.fps)}
    if a.robot is not None:
        facts |= _robot_facts(load_robot(a.robot), dataset)
    if a.relative is not None:
        facts["relative"] = [a.relative and "gripper" not in name for name in dataset.names]
    if any(facts.get("relative", ())) and len(dataset.state_names) != len(dataset.names):
        raise ConfigError(
            f"{dataset.root} has no joint state of the {len(dataset.names)} columns of its "
            "actions, which relative ones need; choose one with --state-key, or --no-relative"
        )
    return facts


def _robot_facts(robot: RobotSpec, dataset: Any) -> Figures:
    if robot.joint_names != tuple(dataset.names):
        raise ConfigError(
            f"robot {robot.name} has joints {', '.join(robot.joint_names)}; the dataset's actions "
            f"are {', '.join(dataset.names)}"
        )
    return {"units": robot.units, "relative": robot.relative_mask.tolist()}


def _onnx_error(path: Path, tokenizer: Any) -> float | None:
    from nac_ros.export.onnx import OnnxDetokenizer, parity

    graph = path / "detokenizer.onnx"
    return parity(tokenizer, OnnxDetokenizer(graph)) if graph.is_file() else None
