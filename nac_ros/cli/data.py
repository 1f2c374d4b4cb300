"""`nac data`: arguments and actions."""

from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

from nac_ros.cli import options, output
from nac_ros.cli.options import Results
from nac_ros.core.errors import ConfigError, DatasetError, NacError

FORMATS = ("lerobot", "hdf5", "mcap")
RERUN = "episode.rrd"
RECORDINGS = "data set, or recorded episodes"


def add_commands(groups: Any) -> None:
    """Adds `nac data generate|info|check|convert|repair|edit|view|demonstrate|replay`."""
    group = options.add_group(groups, "data", "make, check, convert and replay demonstrations")
    _add_generate(group)
    _add_info(group)
    _add_check(group)
    _add_convert(group)
    _add_repair(group)
    _add_edit(group)
    _add_view(group)
    _add_demonstrate(group)
    _add_replay(group)


def _add_generate(group: Any) -> None:
    command = options.add_command(
        group, "generate", generate, "demonstrations by scripted experts in the twin"
    )
    command.add_argument("--task", required=True, help="task id, such as marker")
    command.add_argument("--episodes", type=options.positive_int, required=True)
    command.add_argument(
        "--out", type=Path, required=True, help="LeRobot v3 folder, continued if it exists"
    )
    command.add_argument("--robot", default="vx300s", help="name or YAML file of the robot")
    command.add_argument("--randomization", default="nominal", help=options.RANDOMIZATION)
    command.add_argument(
        "--disturbed-share",
        type=float,
        default=0.5,
        help="share of episodes that start with a disturbed approach (default: 0.5)",
    )
    command.add_argument(
        "--bundle", type=Path, help="DAgger: this policy drives first, then the expert takes over"
    )
    command.add_argument(
        "--workers", type=options.positive_int, default=2, help="number of processes (default: 2)"
    )


def generate(args: Namespace) -> Results:
    """Writes demonstrations of one task; failed ones are left out and counted."""
    from nac_ros.demonstrations.generate import GenerateConfig, generate

    config = GenerateConfig(
        task=args.task,
        seed=args.seed,
        robot=args.robot,
        disturbed_share=args.disturbed_share,
        bundle=str(args.bundle.resolve()) if args.bundle else "",
        randomization=args.randomization,
    )
    attempt = None
    if args.bundle:
        from nac_ros.demonstrations.dagger import dagger_attempt as attempt

    def report(progress: Any) -> None:
        output.progress(progress.line(), progress.kept, progress.wanted)

    done = generate(
        config, args.episodes, args.out, workers=args.workers, report=report, attempt=attempt
    )
    print(
        f"{done.kept} episodes in {args.out}; {done.failed} demonstrations failed and were left "
        "out"
    )
    return {"episodes": done.kept, "failed": done.failed, "out": str(args.out)}


def _add_info(group: Any) -> None:
    command = options.add_command(group, "info", info, "contents of a data set")
    command.add_argument("path", type=Path, help=options.DATA)
    options.add_column_option(command)


def info(args: Namespace) -> Results:
    """Prints robot, rate, episodes, tasks, joints and cameras of a data set."""
    from nac_ros.datasets import hub
    from nac_ros.datasets.factory import open_dataset

    dataset = open_dataset(args.path, args.action_key, args.state_key)
    lengths = [episode.length for episode in dataset.episodes]
    results = {
        "path": str(args.path),
        "robot": dataset.robot_type,
        "fps": dataset.fps,
        "episodes": len(lengths),
        "frames": sum(lengths),
        "tasks": list(dataset.tasks),
        "names": list(dataset.names),
        "cameras": {name: list(size) for name, size in dataset.cameras.items()},
        **_unusual_cameras(dataset),
        "constant": _constant(dataset),
        **hub.hub_revision(dataset.root),
    }
    for key, value in results.items():
        print(f"{key:10s} {value}")
    return results


def _unusual_cameras(dataset: Any) -> Results:
    """Camera columns that are not named `observation.images.<camera>`, and depth cameras."""
    from nac_ros.datasets.lerobot.layout import IMAGE_PREFIX

    keys = getattr(dataset, "image_keys", {})
    other = {name: key for name, key in keys.items() if key != IMAGE_PREFIX + name}
    depth = {name: list(size) for name, size in getattr(dataset, "depth_cameras", {}).items()}
    return {**({"columns": other} if other else {}), **({"depth": depth} if depth else {})}


def _constant(dataset: Any) -> list[str]:
    """Dimensions that are constant or nearly so, or the reason why they are unknown."""
    from nac_ros.datasets.validate import degenerate_columns

    try:
        return degenerate_columns(dataset)
    except DatasetError as error:
        return [f"unknown: {error}"]


def _add_check(group: Any) -> None:
    command = options.add_command(group, "check", check, "check a data set or recordings")
    command.add_argument("path", type=Path, help=options.DATA)
    options.add_column_option(command)


def check(args: Namespace) -> Results:
    """Prints each finding; raises DatasetError if there is one."""
    from nac_ros.datasets.factory import find_dataset, holds_recordings, open_dataset
    from nac_ros.datasets.validate import check_path

    path, keys = find_dataset(args.path), (args.action_key, args.state_key)
    if holds_recordings(path):
        from nac_ros.datasets.mcap.validate import check_recordings

        if any(keys):  # raises DatasetError: recordings have no columns to choose
            open_dataset(path, *keys)
        findings = [str(finding) for finding in check_recordings(path)]
    else:
        findings = [str(finding) for finding in check_path(path, *keys)]
    for finding in findings:
        print(finding)
    if findings:
        count = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
        raise DatasetError(f"{args.path} has {count}, listed above")
    print(f"{args.path}: no findings")
    return {"findings": findings}


def _add_convert(group: Any) -> None:
    command = options.add_command(group, "convert", convert, "convert data sets between formats")
    command.add_argument(
        "sources", type=Path, nargs="+", metavar="SRC", help="data sets of one robot"
    )
    command.add_argument("--to", choices=FORMATS, required=True)
    command.add_argument(
        "--out", type=Path, required=True, help="output folder, continued if it exists"
    )
    options.add_column_option(command)
    command.add_argument(
        "--fps", type=float, help="rate [Hz] of sources that do not state one, such as 29.97"
    )
    command.add_argument(
        "--video",
        choices=("none", "h264", "av1"),
        default="none",
        help="lerobot: encode images as video; none = lossless PNG (default)",
    )
    command.add_argument("--crf", type=int, help="lerobot: quality of the video, 0 = best")
    command.add_argument("--gop", type=options.positive_int, help="lerobot: frames per key frame")
    command.add_argument("--threads", type=options.positive_int, help="lerobot: encoder threads")
    command.add_argument(
        "--robot", help="mcap: name or YAML file of the robot (default: the sources' robot)"
    )
    command.add_argument("--cameras", nargs="+", help="mcap: camera names (default: all)")


def convert(args: Namespace) -> Results:
    """Converts data sets of any format."""
    from nac_ros.datasets import convert as conversion
    from nac_ros.datasets.factory import open_all

    sources = [d for path in args.sources for d in open_all(path, args.action_key, args.state_key)]
    settings = conversion.ConversionConfig(
        fps=_rate(args.fps), video=_video(args), **_recording_options(args)
    )

    def report(done: int, total: int) -> None:
        output.progress(f"converting: {done}/{total} episodes", done, total)

    write = {"lerobot": conversion.to_lerobot, "hdf5": conversion.to_hdf5, "mcap": _to_mcap}
    done = write[args.to](sources, args.out, settings, report)
    before = f", {done.already_converted} of them from before" if done.already_converted else ""
    print(f"{done.episodes} episodes, {done.frames} frames in {done.path}{before}")
    if done.changed:
        print(f"{done.changed} of them differ when they are read back; see `nac data check`")
    return {**done._asdict(), "path": str(done.path)}


def _to_mcap(*args: Any) -> Any:
    try:
        from nac_ros.datasets.mcap.exporter import to_mcap
    except ImportError as error:
        raise DatasetError(
            f"recordings need {error.name}: pip install 'nac_ros[record]'"
        ) from error
    return to_mcap(*args)


def _rate(fps: float | None) -> float:
    """--fps [Hz], 0 if it was not given; raises ConfigError if it is out of range."""
    from nac_ros.datasets.lerobot.info import MAX_FPS, MIN_FPS, int_if_whole

    if fps is None:
        return 0
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ConfigError(f"--fps must be in {MIN_FPS:g} .. {MAX_FPS:g} Hz, got {fps:g}")
    return int_if_whole(fps)


def _recording_options(args: Namespace) -> Results:
    """Options of --to mcap; raises ConfigError if another format is written."""
    values = {"robot": args.robot, "cameras": tuple(args.cameras or ())}
    values = {name: value for name, value in values.items() if value}
    if values and args.to != "mcap":
        raise ConfigError(f"--{next(iter(values))} needs --to mcap")
    return values


def _video(args: Namespace) -> Any:
    """Video settings, None for PNG; raises ConfigError if an option does not apply."""
    from nac_ros.datasets.lerobot.video import VideoConfig

    names = (field.name for field in fields(VideoConfig) if hasattr(args, field.name))
    values = options.given(args, *names)
    if args.video == "none":
        if values:
            raise ConfigError(f"--{next(iter(values))} needs --video h264 or av1")
        return None
    if args.to != "lerobot":
        raise ConfigError(f"--video {args.video} needs --to lerobot; {args.to} stores images")
    return VideoConfig(codec=args.video, **values)


def _add_repair(group: Any) -> None:
    command = options.add_command(
        group, "repair", repair, "complete recordings that were interrupted"
    )
    command.add_argument(
        "paths", type=Path, nargs="+", help="episodes, or folders with episodes to repair"
    )


def repair(args: Namespace) -> Results:
    """Repairs recordings and prints what was lost."""
    from nac_ros.datasets.mcap import reader

    folders = [folder for path in args.paths for folder in _damaged(path)]
    rows, failed = [], []
    for folder in folders:
        try:
            done = reader.repair(folder)
        except NacError as error:
            failed.append(str(error))
            print(error)
            continue
        print(done)
        rows.append({**done._asdict(), "folder": str(done.folder)})
    if failed and not rows:
        raise DatasetError(failed[-1])
    if not folders:
        print("nothing to repair: all episodes are complete")
    return {"repaired": rows, "failed": failed}


def _damaged(path: Path) -> list[Path]:
    """The episode at `path`, or the unfinished and damaged episodes of a folder."""
    from nac_ros.datasets.mcap import reader, writer

    if not path.is_dir():
        raise DatasetError(f"{path} is not a folder; name an episode, or a folder with episodes")
    if (path / writer.FILE).is_file():
        return [path]
    return reader.unfinished(path) + [
        folder
        for folder in sorted(path.iterdir())
        if reader.is_episode(folder) and not reader.is_intact(folder)
    ]


def _add_edit(group: Any) -> None:
    command = options.add_command(group, "edit", edit, "relabel, discard, merge or split episodes")
    command.add_argument("operation", choices=("relabel", "discard", "merge", "split"))
    command.add_argument(
        "paths", type=Path, nargs="+", help="recorded episodes, or LeRobot v3 folders"
    )
    command.add_argument(
        "--episode", type=int, nargs="+", metavar="N", help="episodes of a LeRobot folder"
    )
    command.add_argument("--task", help="relabel: new prompt")
    command.add_argument("--outcome", choices=("success", "failure"), help="relabel: new outcome")
    command.add_argument("--note", help="relabel: new note of a recorded episode")
    command.add_argument("--out", type=Path, help="merge: output folder")
    command.add_argument(
        "--at-seconds", type=float, help="split: time after the start of the episode [s]"
    )


def edit(args: Namespace) -> Results:
    """Edits recorded episodes or LeRobot folders."""
    from nac_ros.datasets.lerobot import editing

    if args.operation == "merge" and args.out is None:
        raise ConfigError("merge needs --out, the folder that the episodes are written to")
    if any(editing.is_lerobot(path) for path in args.paths):
        edited = _edit_lerobot(args)
    elif args.episode:
        raise ConfigError("--episode needs a LeRobot folder; name recorded episodes instead")
    else:
        edited = _edit_recordings(args)
    for path in edited:
        print(path)
    return {"paths": [str(path) for path in edited]}


def _edit_recordings(args: Namespace) -> list[Path]:
    from nac_ros.datasets.mcap import editing

    if args.operation == "relabel":
        changes = options.given(args, "task", "outcome", "note")
        if not changes:
            raise ConfigError("relabel needs --task, --outcome or --note")
        for path in args.paths:
            editing.relabel(path, changes)
        return list(args.paths)
    if args.operation == "discard":
        return [editing.discard(path) for path in args.paths]
    if args.operation == "merge":
        return list(editing.merge(args.paths, args.out))
    if args.at_seconds is None:
        raise ConfigError("split needs --at-seconds, the time after the first message")
    return [part for path in args.paths for part in editing.split(path, args.at_seconds)]


def _edit_lerobot(args: Namespace) -> list[Path]:
    from nac_ros.datasets.lerobot import editing

    if args.operation == "merge":
        return [editing.merge(args.paths, args.out, _edit_progress)]
    return [_edit_folder(args, path) for path in args.paths]


def _edit_folder(args: Namespace, path: Path) -> Path:
    """Edits one LeRobot folder; raises ConfigError if an option is missing."""
    from nac_ros.datasets.lerobot import editing

    episodes = args.episode or ()
    if args.operation == "discard":
        if not episodes:
            raise ConfigError("discard needs --episode, the numbers of the episodes")
        return editing.discard(path, episodes, _edit_progress)
    if args.operation == "split":
        if args.at_seconds is None or len(episodes) != 1:
            raise ConfigError(
                "split needs --episode N and --at-seconds, the time after its first frame"
            )
        return editing.split(path, episodes[0], args.at_seconds, _edit_progress)
    if args.note is not None:
        raise ConfigError("--note needs recorded episodes; LeRobot folders have no notes")
    if args.task is None and args.outcome is None:
        raise ConfigError("relabel needs --task or --outcome")
    return editing.relabel(path, episodes, args.task, args.outcome, _edit_progress)


def _edit_progress(done: int, total: int) -> None:
    output.progress(f"editing: {done}/{total} data files", done, total)


def _add_view(group: Any) -> None:
    command = options.add_command(
        group, "view", view, "write an HTML page and a rerun recording of one episode"
    )
    command.add_argument("path", type=Path, help=RECORDINGS)
    command.add_argument("--episode", type=int, default=0, help="number of the episode")
    options.add_column_option(command)
    command.add_argument("--out", type=Path, default=Path("runs/view"), help="output folder")


def view(args: Namespace) -> Results:
    """Writes a page of one episode, and a rerun recording if rerun is installed."""
    from nac_ros.datasets.factory import open_dataset
    from nac_ros.reporting.episode_report import write_episode_report

    dataset = open_dataset(args.path, args.action_key, args.state_key)
    folder = args.out / f"episode-{args.episode:06d}"
    written = [
        write_episode_report(folder, dataset, args.episode, _findings(args.path, args.episode))
    ]
    try:
        from nac_ros.reporting.rerun import write_rerun

        (folder / RERUN).unlink(missing_ok=True)
        written.append(write_rerun(folder / RERUN, dataset, args.episode))
    except (ImportError, NacError) as error:
        print(f"no rerun recording: {error}")
    for path in written:
        print(path)
    return {"paths": [str(path) for path in written]}


def _findings(path: Path, index: int) -> list[str]:
    """Findings of `nac data check` about one recorded episode."""
    from nac_ros.datasets.factory import holds_recordings

    if not holds_recordings(path):
        return []
    from nac_ros.datasets.mcap.validate import check_recordings

    return [finding.message for finding in check_recordings(path) if finding.episode == index]


def _add_demonstrate(group: Any) -> None:
    command = options.add_command(
        group,
        "demonstrate",
        demonstrate,
        "a scripted operator teleoperates the twin over ROS 2 and records episodes",
    )
    command.add_argument("--task", required=True, help="task id, such as marker")
    command.add_argument(
        "--episodes", type=options.positive_int, default=20, help="successful episodes to record"
    )
    command.add_argument("--out", type=Path, required=True, help="folder of the episodes")


def demonstrate(args: Namespace) -> Results:
    """Records episodes by scripted teleoperation of the twin."""
    from nac_ros.apps.scripted_operator import ScriptedOperatorConfig, record_demonstrations

    config = ScriptedOperatorConfig(
        task=args.task, episodes=args.episodes, seed=args.seed, out=str(args.out)
    )
    results = record_demonstrations(config)
    print(f"{results['kept']} episodes in {results['out']}, {results['minutes']:.1f} min")
    return results


def _add_replay(group: Any) -> None:
    command = options.add_command(
        group, "replay", replay, "replay an episode through the guard, on the twin or the arm"
    )
    command.add_argument("path", type=Path, help=RECORDINGS)
    command.add_argument("--episode", type=int, default=0, help="number of the episode")
    command.add_argument("--action-key", help="column of the actions")
    command.add_argument(
        "--robot",
        default="twin",
        help="robot whose guard is running; `twin` starts the twin and its guard (default)",
    )
    command.add_argument(
        "--speed", type=float, default=1.0, help="share of the recorded speed (default: 1)"
    )
    command.add_argument("--out", type=Path, default=Path("runs/replay"), help="output folder")


def replay(args: Namespace) -> Results:
    """Moves the arm along one episode and prints its tracking errors."""
    from nac_ros.apps.episode_replay import EpisodeReplayConfig, replay_episode

    config = EpisodeReplayConfig(
        data=str(args.path),
        episode=args.episode,
        action_key=args.action_key or "",
        robot=args.robot,
        speed=args.speed,
        out=str(args.out),
    )
    results = replay_episode(config)
    columns = [f"{what}_{kind}" for what in ("commanded", "measured") for kind in ("rms", "max")]
    print("joint            commanded: rms, max   measured: rms, max")
    for joint in results["commanded_rms"]:
        a, b, c, d = (results[column][joint] for column in columns)
        print(f"{joint:16s} {a:11.4f} {b:7.4f} {c:11.4f} {d:7.4f}")
    for what in ("holds", "rejections", "clips"):
        if results[what]:
            print(f"{what}: {', '.join(f'{key} {n}' for key, n in results[what].items())}")
    return results
