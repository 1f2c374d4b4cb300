"""Make data, train, export and judge policies, run them; --json writes the figures to a file."""

import argparse
import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nac_ros import arguments, commands, data_cli, tokenizer_commands, trial_commands
from nac_ros.errors import NacError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE)  # of a write that names no file


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 done, 2 bad input (one sentence on stderr), 1 anything else."""
    said = _parser().parse_args(argv)
    target = getattr(said, "json", None)
    try:
        if target:
            arguments.check_target(target)
        figures = said.run(said)
        if target and figures is not None:
            arguments.write_figures(target, figures)
    except NacError as error:
        print(f"nac: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        print(f"nac: {_of_disk(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nac: stopped", file=sys.stderr)
        return 130
    return 1 if figures and figures.get("failed") else 0


def _of_disk(error: OSError) -> str:
    if error.filename is None:
        return f"{error.strerror}: no room for what the command prints or writes; make some"
    return f"{error.filename}: {error.strerror}; give another or allow it"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nac", description=__doc__)
    groups = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _demo(groups)
    _doctor(groups)
    data_cli.add(groups)
    _tokenizer(groups)
    _policy(groups)
    _export(groups)
    _eval(groups)
    _trials(groups)
    _report(groups)
    _replay(groups)
    _faults(groups)
    return parser


def _demo(groups: Any) -> None:
    demo = arguments.command(
        groups, "demo", commands.demo, "trials of both tasks over ROS 2, with a report"
    )
    demo.add_argument("--bundle", type=Path, help="bundle to run, models/default by default")
    demo.add_argument("--trials", type=int, default=5, help="trials of each task")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the run")


def _doctor(groups: Any) -> None:
    doctor = arguments.command(
        groups, "doctor", commands.doctor, "what a run depends on, line by line"
    )
    doctor.add_argument("--robot", default="vx300s", help="name or YAML file of the robot")
    doctor.add_argument("--bundle", type=Path, help="bundle to check, models/default by default")
    doctor.add_argument(
        "--seconds", type=float, default=3.0, help="how long topics are listened to; 0 = not"
    )


def _tokenizer(groups: Any) -> None:
    tokenizer = arguments.group(groups, "tokenizer", "tokenizers: list, train, judge")
    arguments.command(
        tokenizer, "list", tokenizer_commands.sizes, "names, presets, sizes and bits"
    )
    train = arguments.command(
        tokenizer, "train", tokenizer_commands.train, "fit and train on a dataset"
    )
    train.add_argument("--tokenizer", default="nac")
    train.add_argument("--preset", default="small")
    train.add_argument("--horizon", type=arguments.count, default=32, help="steps of a chunk")
    train.add_argument(
        "--pad-end", action=argparse.BooleanOptionalAction, default=True,
        help="also learn the chunks that end at rest after an episode's end",
    )  # fmt: skip
    train.add_argument(
        "--embodiments", nargs="+", metavar="NAME",
        help="robots that share one nac codec, a name for each dataset; saved in OUT/NAME",
    )  # fmt: skip
    arguments.representation(train)
    train.add_argument(
        "--model", type=arguments.setting, action="append", default=[], metavar="KEY=VALUE",
        help="change a field of the tokenizer's config",
    )  # fmt: skip
    arguments.training(train)
    judge = arguments.command(
        tokenizer, "eval", tokenizer_commands.judge, "errors on held-out episodes"
    )
    judge.add_argument("path", type=Path, help="tokenizer folder or bundle")
    judge.add_argument("--data", type=Path, nargs="+", required=True, help=arguments.DATA)
    arguments.columns(judge)
    judge.add_argument("--all", action="store_true", help="every episode, not only held-out ones")
    _comparisons(tokenizer)


def _comparisons(tokenizer: Any) -> None:
    bench = arguments.command(
        tokenizer, "bench", tokenizer_commands.bench,
        "train all tokenizers for the same time and compare them: the paper's Table 3",
    )  # fmt: skip
    bench.add_argument("--tokenizers", nargs="+", metavar="NAME", help="all if left out")
    arguments.comparison(bench, "runs/bench")
    ablate = arguments.command(
        tokenizer, "ablate", tokenizer_commands.ablate,
        "change one thing of nac at a time: the paper's Table 1",
    )  # fmt: skip
    ablate.add_argument(
        "--groups", nargs="+", metavar="GROUP",
        help="of settings; Table 1's and commitment if left out, any other word lists all",
    )  # fmt: skip
    arguments.comparison(ablate, "runs/ablation")
    worst = arguments.command(
        tokenizer, "envelope", tokenizer_commands.envelope,
        "the worst that a codec was seen to output, beside a robot's limits",
    )  # fmt: skip
    worst.add_argument("path", type=Path, help="tokenizer folder or bundle; stored there")
    worst.add_argument("--robot", required=True, help="name or YAML file of the robot")
    worst.add_argument("--samples", type=arguments.count, help="random sequences to begin with")


def _policy(groups: Any) -> None:
    policy = arguments.group(groups, "policy", "policies: list, train")
    arguments.command(policy, "list", commands.policy_list, "names, presets and sizes")
    train = arguments.command(
        policy, "train", commands.policy_train, "behavioural cloning with images"
    )
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
        "--model", type=arguments.setting, action="append", default=[], metavar="KEY=VALUE",
        help="change a field of the policy's config",
    )  # fmt: skip
    arguments.training(train)


def _export(groups: Any) -> None:
    export = arguments.command(
        groups, "export", commands.export, "put policy and tokenizer into one bundle"
    )
    export.add_argument("--policy", type=Path, required=True, help="run folder of `policy train`")
    export.add_argument("--tokenizer", type=Path, required=True, help="trained tokenizer folder")
    export.add_argument("--robot", default="vx300s")
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--card", type=Path, help="model card (Markdown); a plain one if left out")


def _faults(groups: Any) -> None:
    faults = arguments.command(
        groups, "faults", commands.faults, "make things fail while a policy moves the twin"
    )
    what = faults.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="the faults and what they do")
    what.add_argument(
        "--run",
        dest="names",
        nargs="*",
        metavar="NAME",
        help="make these happen; all if none is named",
    )
    faults.add_argument("--random", type=arguments.count, help="so many at random instead")
    faults.add_argument(
        "--bundle", type=Path, help="bundle that drives, models/default by default"
    )
    faults.add_argument("--out", type=Path, default=Path("runs/faults"), help="folder of the run")


def _replay(groups: Any) -> None:
    again = arguments.command(
        groups, "replay", commands.replay, "a run's tapes again, which must give the same"
    )
    again.add_argument(
        "run_folder", metavar="RUN", type=Path, help="folder of a demo, or of tapes"
    )
    again.add_argument("--bundle", type=Path, help="where the run's bundle is now")


def _eval(groups: Any) -> None:
    judge = arguments.command(
        groups, "eval", commands.evaluate, "judged trials in the twin, one process"
    )
    judge.add_argument("--bundle", type=Path, help="bundle to judge, models/default by default")
    judge.add_argument(
        "--task", nargs="+", help="task ids; all that the bundle learned if left out"
    )
    judge.add_argument("--trials", type=arguments.count, default=50, help="trials of each task")
    judge.add_argument("--scenes", default="nominal", help=arguments.SCENES)
    judge.add_argument("--latency-ms", type=float, help="time from observation to chunk")
    judge.add_argument(
        "--n-action-steps", type=arguments.count, help="executed steps of each chunk"
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
    judge.add_argument("--workers", type=arguments.count, default=1)


def _trials(groups: Any) -> None:
    trials = arguments.command(
        groups, "trials", trial_commands.trials, "methods compared by a frozen protocol"
    )
    trials.set_defaults(seed=None)
    what = trials.add_mutually_exclusive_group()
    what.add_argument("--protocol", type=Path, help="YAML file; options below replace its fields")
    what.add_argument(
        "--unblind", type=Path, metavar="RUN", help="end a run: its codes get their names"
    )
    what.add_argument(
        "--power", type=float, nargs="*", metavar="RATE",
        help="how many trials tell success rates apart, for two or more of them",
    )  # fmt: skip
    trials.add_argument("--robot", help="`twin`, whose judge needs nobody; the default")
    trials.add_argument("--tasks", help="task ids with commas between them, or `all`")
    trials.add_argument(
        "--methods", help="`expert`, bundles, or NAME=BUNDLE, with commas between them"
    )
    trials.add_argument("--trials", type=arguments.count, help="of each method on each task")
    trials.add_argument("--latency-ms", type=float, help="time from observation to chunk")
    trials.add_argument("--n-action-steps", type=arguments.count, help="executed of each chunk")
    trials.add_argument("--seam", choices=("blend", "best", "force"), help="as of `nac eval`")
    trials.add_argument("--scenes", help=arguments.SCENES)
    trials.add_argument(
        "--out", type=Path, help="folder of the run, gone on with where there is one; by default "
        "a new one in runs/trials",
    )  # fmt: skip
    trials.add_argument("--workers", type=arguments.count, default=1, help="processes")
    trials.add_argument("--ray", default="", metavar="ADDRESS", help="of a cluster to play on")
    trials.add_argument(
        "--pictures", action=argparse.BooleanOptionalAction, default=True,
        help="a film strip of each trial; needs GL",
    )  # fmt: skip


def _report(groups: Any) -> None:
    report = arguments.command(
        groups, "report", trial_commands.report, "report.html and report.json of a run of trials"
    )
    report.add_argument("run_folder", metavar="RUN", type=Path, help="folder of the run")
