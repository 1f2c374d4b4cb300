"""`nac eval` and `nac verify-log`: arguments and actions."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from nac_ros.cli import options
from nac_ros.cli.options import bundle_path
from nac_ros.cli.output import Figures
from nac_ros.core.errors import NacError


def add_commands(groups: Any) -> None:
    """Adds the commands of this file to the parser of `nac`."""
    _add_eval(groups)
    _add_verify_log(groups)


def _add_verify_log(groups: Any) -> None:
    again = options.add_command(
        groups, "replay", replay, "a run's tapes again, which must give the same"
    )
    again.add_argument(
        "run_folder", metavar="RUN", type=Path, help="folder of a demo, or of tapes"
    )
    again.add_argument("--bundle", type=Path, help="where the run's bundle is now")


def _add_eval(groups: Any) -> None:
    judge = options.add_command(groups, "eval", evaluate, "judged trials in the twin, one process")
    judge.add_argument("--bundle", type=Path, help="bundle to judge, models/default by default")
    judge.add_argument(
        "--task", nargs="+", help="task ids; all that the bundle learned if left out"
    )
    judge.add_argument(
        "--trials", type=options.positive_int, default=50, help="trials of each task"
    )
    judge.add_argument("--scenes", default="nominal", help=options.SCENES)
    judge.add_argument("--latency-ms", type=float, help="time from observation to chunk")
    judge.add_argument(
        "--n-action-steps", type=options.positive_int, help="executed steps of each chunk"
    )
    judge.add_argument(
        "--seam", choices=("blend", "best", "force"),
        help="how a chunk goes on from the one under way: faded by the guard alone, the best of "
        "several, or with the tokens of what is committed forced",
    )  # fmt: skip
    judge.add_argument(
        "--control", choices=("none", "black-images", "mean-demonstration"),
        default="none", help="replace the policy's eyes or the policy, to see a task's worth",
    )  # fmt: skip
    judge.add_argument(
        "--beside", type=Path, metavar="FILE",
        help="figures (--json) of an earlier run on the same scenes, to be compared with",
    )  # fmt: skip
    judge.add_argument("--data", type=Path, nargs="+", help="datasets for mean-demonstration")
    judge.add_argument("--workers", type=options.positive_int, default=1)


def evaluate(a: Namespace) -> Figures:
    """Judged trials in the twin."""
    from nac_ros.evaluation.rollout import Evaluation, load_earlier, run

    earlier = load_earlier(a.beside, a.seed, a.scenes) if a.beside is not None else None
    names = ("latency_ms", "n_action_steps", "seam", "scenes")
    changes = {name: getattr(a, name) for name in names}
    given = {key: value for key, value in changes.items() if value is not None}
    config = Evaluation(
        bundle=str(bundle_path(a.bundle)),
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
    from nac_ros.evaluation.rollout import compare_success_rates

    figures["beside"] = rows = compare_success_rates(figures, earlier, str(path))
    for task, row in rows.items():
        low, high = (100 * bound for bound in row["difference95"])
        print(f"{task:12s} {100 * row['difference']:+8.1f} points beside {path.name}, "
              f"95 % {low:+.1f} .. {high:+.1f}, {row['trials']} shared scenes")  # fmt: skip


def replay(a: Namespace) -> Figures:
    """A run's tapes again; raises NacError at the first difference."""
    from nac_ros.evaluation.log_replay import replay as again

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
