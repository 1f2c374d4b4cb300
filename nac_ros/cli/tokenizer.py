"""`nac tokenizer`: arguments and actions."""

import argparse
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nac_ros.cli import options, output
from nac_ros.cli.options import Results, open_data, training_config
from nac_ros.core.device import ComputeDevice
from nac_ros.core.errors import ConfigError, DatasetError
from nac_ros.core.normalize import NormalizerConfig, min_half_range_of
from nac_ros.robot.spec import RobotSpec, load_robot


def add_commands(groups: Any) -> None:
    """Adds `nac tokenizer list|train|eval|bench|ablate|envelope`."""
    group = options.add_group(groups, "tokenizer", "list, train, evaluate and compare tokenizers")
    options.add_command(group, "list", list_presets, "tokenizers, presets, sizes and bits")
    _add_train(group)
    _add_eval(group)
    _add_bench(group)
    _add_ablate(group)
    _add_envelope(group)


def list_presets(args: Namespace) -> Results:
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


def _add_train(group: Any) -> None:
    command = options.add_command(group, "train", train, "train a tokenizer on demonstrations")
    command.add_argument("--tokenizer", default="nac", help="name, see `nac tokenizer list`")
    command.add_argument("--preset", default="small", help="preset, see `nac tokenizer list`")
    command.add_argument(
        "--horizon", type=options.positive_int, default=32, help="steps of a chunk (default: 32)"
    )
    command.add_argument(
        "--pad-end",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also train on chunks that run past the end of an episode, where the arm rests",
    )
    command.add_argument(
        "--embodiments",
        nargs="+",
        metavar="NAME",
        help="train one nac for several robots: a name for each dataset, saved in OUT/NAME",
    )
    options.add_representation_options(command)
    options.add_model_option(command, "tokenizer")
    options.add_training_options(command)
    options.add_device_options(command)


def train(args: Namespace) -> Results:
    """Fits and trains a tokenizer, and prints its errors on validation episodes."""
    from nac_ros.datasets.convert import describe_datasets
    from nac_ros.tokenizers import make_tokenizer
    from nac_ros.tokenizers.base import TOKENIZERS
    from nac_ros.training.loop import seed_everything
    from nac_ros.training.tokenizer_trainer import TokenizerTrainer, TokenizerTrainingConfig

    device = options.compute_device(args)
    if args.embodiments:
        return _train_cross_embodiment(args, device)
    datasets = open_data(args.data, args)
    facts = {**chunk_facts(args, datasets[0]), **dict(args.model)}
    defaults = TOKENIZERS.get(args.tokenizer).training_defaults.get(args.preset, {})
    training = training_config(TokenizerTrainingConfig, args, defaults)
    seed_everything(training.seed)  # before the initial weights are drawn
    tokenizer = make_tokenizer(
        args.tokenizer, args.preset, args.horizon, len(datasets[0].names), **facts
    )
    sides = _training_chunks(args, datasets)
    print(
        f"{args.tokenizer} ({args.preset}), {tokenizer.params_m:.3f} M parameters; "
        f"{len(sides.train.actions)} chunks to train on, {len(sides.validation.actions)} for "
        "validation"
    )
    trainer = TokenizerTrainer(tokenizer, training, args.out, describe_datasets(datasets), device)
    results = trainer.run(sides.train, sides.validation, args.resume)
    output.tokenizer_errors(results)
    return {**results, "constant": list(sides.constant)}


def _train_cross_embodiment(args: Namespace, device: ComputeDevice) -> Results:
    """Trains one codec for the robots of --embodiments, with one dataset each."""
    from nac_ros.datasets.compatibility import check_compatible
    from nac_ros.datasets.convert import describe_datasets
    from nac_ros.tokenizers.cross_embodiment import make_cross_embodiment
    from nac_ros.tokenizers.nac import Nac
    from nac_ros.training.loop import seed_everything
    from nac_ros.training.tokenizer_trainer import TokenizerTrainingConfig, train_cross_embodiment

    if args.tokenizer != "nac" or len(args.embodiments) != len(args.data):
        raise ConfigError(
            "--embodiments needs --tokenizer nac and one name for each dataset; got "
            f"{args.tokenizer}, {len(args.embodiments)} names and {len(args.data)} datasets"
        )
    training = training_config(
        TokenizerTrainingConfig, args, Nac.training_defaults.get(args.preset, {})
    )
    seed_everything(training.seed)
    facts, data, sources = {}, {}, {}
    for name, datasets in zip(args.embodiments, options.open_each(args.data, args)):
        check_compatible(datasets)
        sizes = {"horizon": args.horizon, "action_dim": len(datasets[0].names)}
        facts[name] = {**sizes, **chunk_facts(args, datasets[0])}
        sides = _training_chunks(args, datasets)
        data[name] = sides.train, sides.validation
        sources[name] = describe_datasets(datasets)
    family = make_cross_embodiment(facts, args.preset, **dict(args.model))
    results = train_cross_embodiment(
        family, data, training, args.out, args.resume, sources, device
    )
    for name, row in results.items():
        print(f"{name}, in {args.out / name}:")
        output.tokenizer_errors(row)
    return {"embodiments": results}


def _training_chunks(args: Namespace, datasets: Sequence[Any]) -> Any:
    """Chunks of each side of the split, selected by --train-on and --pad-end.

    The arm still moves where an intervention ends, so chunks are not padded there.
    """
    from nac_ros.datasets.action_chunks import split_chunks
    from nac_ros.datasets.interventions import interventions_only

    if args.train_on == "all":
        return split_chunks(datasets, args.horizon, args.pad_end)
    return split_chunks(interventions_only(datasets, args.horizon), args.horizon, False)


def _add_eval(group: Any) -> None:
    command = options.add_command(
        group,
        "eval",
        evaluate,
        "errors, token overlap and learnability on test episodes",
    )
    command.add_argument("path", type=Path, help="tokenizer folder or bundle")
    command.add_argument("--data", type=Path, nargs="+", required=True, help=options.DATA)
    options.add_column_options(command)
    command.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="test",
        help="episodes to evaluate on: test = those that neither training nor any choice of a "
        "setting used (default: test)",
    )
    _add_learnability_option(command)
    options.add_device_options(command, precision=None)


def evaluate(args: Namespace) -> Results:
    """Prints the errors of a trained tokenizer."""
    from nac_ros.datasets.action_chunks import split_chunks
    from nac_ros.tokenizers import load_tokenizer
    from nac_ros.training import tokenizer_metrics

    tokenizer = load_tokenizer(args.path).to(options.compute_device(args).name)
    datasets = open_data(args.data, args)
    options.check_tokenizer_fits(tokenizer, datasets, args.path)
    sides = split_chunks(datasets, tokenizer.config.horizon, False)
    chunks = getattr(sides, args.split)
    if chunks is None:
        raise DatasetError("the data has no test episodes; give more data, or --split validation")
    results = tokenizer_metrics.evaluate(tokenizer, chunks)
    results |= {"split": args.split, "constant": list(sides.constant)}
    results["onnx_error"] = _onnx_error(args.path, tokenizer)
    results |= _learnability(args, tokenizer, sides.train, chunks)
    output.tokenizer_errors(results)
    return results


def _add_learnability_option(command: Any) -> None:
    """--learnability-steps; with the default a measurement takes about a minute on one core."""
    command.add_argument(
        "--learnability-steps",
        type=options.whole_number,
        metavar="N",
        help="training steps of the transformer that measures how many bits held-out tokens need "
        "given the joint state (default: 600, about a minute on one core; 0 = do not measure; "
        "figures compare only at equal steps)",
    )


def _learnability(args: Namespace, tokenizer: Any, train: Any, held_out: Any) -> Results:
    """learnability: fields of `Learnability`, or None if it was switched off."""
    from dataclasses import asdict

    from nac_ros.evaluation.token_learnability import LearnabilityConfig, measure_learnability

    if args.learnability_steps == 0:
        return {"learnability": None}
    steps = {} if args.learnability_steps is None else {"steps": args.learnability_steps}
    found = measure_learnability(tokenizer, train, held_out, LearnabilityConfig(**steps))
    return {"learnability": asdict(found)}


def _onnx_error(path: Path, tokenizer: Any) -> float | None:
    from nac_ros.export.onnx import max_onnx_error
    from nac_ros.export.onnx_session import OnnxDetokenizer

    graph = path / "detokenizer.onnx"
    return max_onnx_error(tokenizer, OnnxDetokenizer(graph)) if graph.is_file() else None


def _add_bench(group: Any) -> None:
    command = options.add_command(
        group,
        "bench",
        bench,
        "train all tokenizers for the same time and compare them (Table 3 of the paper)",
    )
    command.add_argument(
        "--tokenizers", nargs="+", metavar="NAME", help="names (default: all that have the preset)"
    )
    command.add_argument(
        "--search",
        type=float,
        nargs="*",
        metavar="FACTOR",
        help="train every learned tokenizer with its learning rate times each factor (without "
        "factors: 0.3 1 3), and keep the one of least error on validation episodes",
    )
    _add_learnability_option(command)
    options.add_comparison_options(command, "runs/bench")
    options.add_device_options(command)


def bench(args: Namespace) -> Results:
    """Compares all tokenizers on the same data; writes a table and plots."""
    from nac_ros.evaluation import tokenizer_benchmark as benchmark

    config = benchmark.BenchmarkConfig(
        **_comparison_settings(args),
        **options.given(args, "learnability_steps"),
        tokenizers=tuple(args.tokenizers or ()),
        search=() if args.search is None else tuple(args.search) or benchmark.SEARCH_FACTORS,
    )
    device = options.compute_device(args)
    results = benchmark.run_benchmark(config, _comparison_data(args), args.out, device)
    print(benchmark.table(results))
    print(f"at most 120 bits, lowest error first: {', '.join(results['ranking'])}")
    for pair in results["dominates_nac"]:
        rival, own = pair["rival"], pair["nac"]
        print(
            f"{rival['label']} ({rival['bits']:.0f} bits, mse {rival['mse']:.2e}) has fewer bits "
            f"and a lower error than nac ({own['bits']:.0f} bits, mse {own['mse']:.2e})"
        )
    print(f"bench.json, table.md, rate_distortion.png and a plot per tokenizer are in {args.out}")
    return results


def _add_ablate(group: Any) -> None:
    command = options.add_command(
        group,
        "ablate",
        ablate,
        "change one setting of a tokenizer at a time (Table 1 of the paper)",
    )
    command.add_argument(
        "--tokenizer", help="changed tokenizer (default: nac; head is nac's, tokens rotated_rvq's)"
    )
    command.add_argument(
        "--groups",
        nargs="+",
        metavar="GROUP",
        help="groups of settings (default: those of Table 1 and commitment; an unknown name lists "
        "all)",
    )
    options.add_comparison_options(command, "runs/ablation")
    options.add_device_options(command)


def ablate(args: Namespace) -> Results:
    """Trains a tokenizer with one setting changed at a time; writes a table."""
    from nac_ros.evaluation import tokenizer_ablation as ablation

    groups = {"groups": tuple(args.groups)} if args.groups else {}
    tokenizer = options.given(args, "tokenizer")
    config = ablation.AblationConfig(**_comparison_settings(args), **tokenizer, **groups)
    device = options.compute_device(args)
    results = ablation.run_ablation(config, _comparison_data(args), args.out, device)
    print(ablation.table(results))
    print(f"ablation.json and ablation.md are in {args.out}")
    return results


def _comparison_settings(args: Namespace) -> Results:
    return options.given(args, "preset", "train_seconds", "seeds", "seed", "threads", "cache")


def _comparison_data(args: Namespace) -> Any:
    """The datasets of a comparison. Actions are relative if every dataset has a joint state."""
    from nac_ros.datasets.action_chunks import split_chunks
    from nac_ros.training.experiment import BenchmarkData

    datasets = open_data(args.data, args)
    if args.robot is None and args.relative is None:
        args.relative = all(len(d.state_names) == len(d.names) for d in datasets)
    facts = chunk_facts(args, datasets[0])
    label = ", ".join(f"{p.parent.name}/{p.stem}" if p.suffix else p.name for p in args.data)
    sides = split_chunks(datasets, args.horizon, False)
    return BenchmarkData(label, sides.train, sides.validation, facts, sides.test, sides.constant)


def _add_envelope(group: Any) -> None:
    command = options.add_command(
        group, "envelope", envelope, "extreme outputs of a tokenizer against a robot's limits"
    )
    command.add_argument(
        "path", type=Path, help="tokenizer folder or bundle; the result is stored in it"
    )
    command.add_argument("--robot", required=True, help="name or YAML file of the robot")
    command.add_argument(
        "--samples", type=options.positive_int, help="random token sequences before the search"
    )
    options.add_device_options(command, precision=None)


def envelope(args: Namespace) -> Results:
    """Samples and searches for token sequences with extreme outputs."""
    from nac_ros.export.output_envelope import SAMPLES, write_envelope

    robot, samples = load_robot(args.robot), args.samples or SAMPLES
    report = output.percent_progress("sequences")
    device = options.compute_device(args)
    results = write_envelope(args.path, robot, samples, args.seed, report, device)
    output.envelope(results)
    return results


def chunk_facts(args: Namespace, dataset: Any) -> Results:
    """Names, units, rate and representation of a dataset's actions, for a tokenizer's config."""
    facts = {"names": dataset.names, "units": dataset.units, "rate_hz": float(dataset.fps)}
    facts["normalizer"] = NormalizerConfig(range=args.action_range)
    if args.robot is not None:
        facts |= _robot_facts(load_robot(args.robot), dataset, args.action_range)
    if args.relative is not None:
        facts["relative"] = [args.relative and "gripper" not in name for name in dataset.names]
    if any(facts.get("relative", ())) and len(dataset.state_names) != len(dataset.names):
        raise ConfigError(
            f"{dataset.root}: relative actions need a joint state with the {len(dataset.names)} "
            "columns of the actions; choose one with --state-key, or give --no-relative"
        )
    return facts


def _robot_facts(robot: RobotSpec, dataset: Any, action_range: Any) -> Results:
    if robot.joint_names != tuple(dataset.names):
        raise ConfigError(
            f"robot {robot.name} has joints {', '.join(robot.joint_names)}; the dataset's actions "
            f"are {', '.join(dataset.names)}"
        )
    floor = min_half_range_of(robot.position_low, robot.position_high)
    normalizer = NormalizerConfig(range=action_range, min_half_range=floor)
    return {
        "units": robot.units,
        "relative": robot.relative_mask.tolist(),
        "normalizer": normalizer,
    }
