"""`nac eval` and `nac verify-log`: arguments and actions."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from nac_ros.cli import options, output
from nac_ros.cli.options import Results
from nac_ros.core.errors import NacError


def add_commands(groups: Any) -> None:
    """Adds `nac eval` and `nac verify-log`."""
    command = options.add_command(
        groups, "eval", evaluate, "success rates of a bundle over rollouts in the twin"
    )
    command.add_argument("--bundle", type=Path, help=options.BUNDLE)
    command.add_argument("--task", nargs="+", help="task ids (default: all tasks of the bundle)")
    command.add_argument(
        "--trials", type=options.positive_int, default=50, help="trials per task (default: 50)"
    )
    options.add_condition_options(command)
    command.add_argument(
        "--baseline",
        choices=("none", "black-images", "mean-demonstration"),
        default="none",
        help="black-images = the policy sees black images; mean-demonstration = the mean of the "
        "demonstrations in --data replaces the policy",
    )
    command.add_argument(
        "--compare-with",
        type=Path,
        metavar="FILE",
        help="results (--json) of an earlier run on the same scenes",
    )
    command.add_argument("--data", type=Path, nargs="+", help="datasets for mean-demonstration")
    command.add_argument(
        "--workers", type=options.positive_int, default=1, help="number of processes (default: 1)"
    )
    command.add_argument(
        "--runtime",
        choices=("auto", "torch", "onnx"),
        help="what runs the policy (default: auto = onnx where the bundle has it, else torch)",
    )
    options.add_device_options(command)
    options.add_provider_option(command)

    command = options.add_command(
        groups, "verify-log", verify_log, "recompute a run's call logs and compare bit for bit"
    )
    command.add_argument("run_folder", metavar="RUN", type=Path, help="run folder of a demo")
    command.add_argument("--bundle", type=Path, help="bundle of the run, if it has been moved")


def evaluate(args: Namespace) -> Results:
    """Runs the trials and prints a success rate per task."""
    from nac_ros.evaluation.rollout import EvaluationConfig, load_results, run_evaluation

    config = EvaluationConfig(
        bundle=str(options.bundle_path(args.bundle)),
        tasks=tuple(args.task or ()),
        trials=args.trials,
        seed=args.seed,
        baseline=args.baseline,
        data=tuple(str(path) for path in args.data or ()),
        workers=args.workers,
        **options.given(args, "runtime"),
        **options.condition_options(args),
    )
    earlier = None
    if args.compare_with is not None:
        earlier = load_results(args.compare_with, config.seed, config.randomization)
    results = run_evaluation(config, options.compute_device(args))
    for task, row in results["tasks"].items():
        print(f"{task:12s} {output.success_rate(row, 'wilson95')}")
    if earlier is not None:
        results["comparison"] = _compare(results, earlier, args.compare_with)
    return results


def _compare(results: Results, earlier: Results, path: Path) -> Results:
    """Prints the paired difference of the success rates from an earlier run's."""
    from nac_ros.evaluation.rollout import compare_success_rates

    rows = compare_success_rates(results, earlier, str(path))
    for task, row in rows.items():
        low, high = (100 * bound for bound in row["difference95"])
        print(
            f"{task:12s} {100 * row['difference']:+8.1f} points from {path.name}, "
            f"95 % {low:+.1f} .. {high:+.1f}, {row['trials']} shared scenes"
        )
    return rows


def verify_log(args: Namespace) -> Results:
    """Repeats the logged calls; raises NacError at the first result that differs."""
    from nac_ros.evaluation.log_replay import replay

    folder = (
        args.run_folder / "call_log"
        if (args.run_folder / "call_log").is_dir()
        else args.run_folder
    )
    parts = replay(folder, args.bundle)
    for name, found in parts.items():
        lost = f", {found.lost_lines} lines lost" if found.lost_lines else ""
        gaps = f", the log is incomplete: {found.gaps} gaps{lost}" if found.gaps else ""
        print(
            f"{name:8s} {found.calls} calls, {found.values} numbers, "
            f"{found.differences} differ{gaps}"
        )
    for name, found in parts.items():
        if found.first_difference:
            raise NacError(f"{name}: the first difference is in {found.first_difference}")
    return {name: vars(found) for name, found in parts.items()}
