"""`nac data`: arguments and actions."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from nac_ros.cli import options, output
from nac_ros.cli.output import Figures
from nac_ros.core.errors import ConfigError, DatasetError, NacError


def data_generate(a: Namespace) -> Figures:
    """Demonstrations by the scripted expert."""
    from nac_ros.demonstrations.generate import GenerateConfig, generate

    config = GenerateConfig(
        task=a.task, seed=a.seed, robot=a.robot, noise=a.noise,
        bundle=str(a.bundle.resolve()) if a.bundle else "", scenes=a.scenes,
    )  # fmt: skip
    attempt = None
    if a.bundle:
        from nac_ros.demonstrations.dagger import demonstrate_after_policy as attempt

    def report(progress: Any) -> None:
        output.progress(progress.line(), progress.kept, progress.wanted)

    done = generate(config, a.episodes, a.out, workers=a.workers, report=report, attempt=attempt)
    print(
        f"{done.kept} episodes in {a.out}; {done.failed} demonstrations failed and were left out"
    )
    return {"episodes": done.kept, "failed": done.failed, "out": str(a.out)}


def data_info(a: Namespace) -> Figures:
    """What a dataset holds."""
    from nac_ros.datasets import hub
    from nac_ros.datasets.factory import open_dataset

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
    from nac_ros.datasets.lerobot.layout import IMAGE_PREFIX

    keys = getattr(dataset, "picture_keys", {})
    other = {name: key for name, key in keys.items() if key != IMAGE_PREFIX + name}
    depth = {name: list(size) for name, size in getattr(dataset, "depth_cameras", {}).items()}
    return {**({"columns": other} if other else {}), **({"depth": depth} if depth else {})}


def _constant(dataset: Any) -> list[str]:
    """What no statistic may divide by, or why that is not known."""
    from nac_ros.core.errors import DatasetError
    from nac_ros.datasets.validate import degenerate_columns

    try:
        return degenerate_columns(dataset)
    except DatasetError as error:
        return [f"not known: {error}"]


def data_check(a: Namespace) -> Figures:
    """Findings about a dataset; none raises when it is sound."""
    from nac_ros.core.errors import DatasetError
    from nac_ros.datasets.factory import holds_recordings, locate, open_dataset
    from nac_ros.datasets.validate import check_path

    path, keys = locate(a.path), (a.action_key, a.state_key)
    if holds_recordings(path):
        from nac_ros.datasets.validate import check_recordings

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


RERUN = "episode.rrd"


def repair(a: Namespace) -> dict[str, Any]:
    """Completes what a crash left, and says what was lost."""
    from nac_ros.datasets.mcap import reader

    places = [place for path in a.paths for place in _damaged(path)]
    rows, failed = [], []
    for place in places:
        try:
            done = reader.repair(place)
        except NacError as error:
            failed.append(str(error))
            print(error)
            continue
        print(done)
        rows.append({**done._asdict(), "folder": str(done.folder)})
    if failed and not rows:
        raise DatasetError(failed[-1])
    if not places:
        print("nothing to repair: no episode there was cut off or damaged")
    return {"repaired": rows, "failed": failed}


def edit_recordings(a: Namespace) -> dict[str, Any]:
    """Relabels, discards, merges or splits recorded episodes."""
    from nac_ros.datasets.mcap import editing

    if a.deed == "relabel":
        wanted = {"task": a.task, "outcome": a.outcome, "note": a.note}
        facts = {key: value for key, value in wanted.items() if value is not None}
        if not facts:
            raise ConfigError("relabel needs --task, --outcome or --note")
        for path in a.paths:
            editing.relabel(path, facts)
        done = list(a.paths)
    elif a.deed == "discard":
        done = [editing.discard(path) for path in a.paths]
    elif a.deed == "merge":
        if a.out is None:
            raise ConfigError("merge needs --out, the folder that the episodes go to")
        done = editing.merge(a.paths, a.out)
    else:
        if a.at is None:
            raise ConfigError("split needs --at, seconds after the episode's first message")
        done = [part for path in a.paths for part in editing.split(path, a.at)]
    for path in done:
        print(path)
    return {"paths": [str(path) for path in done]}


def view(a: Namespace) -> dict[str, Any]:
    """One episode as a page, and as a rerun recording."""
    from nac_ros.datasets.factory import open_dataset
    from nac_ros.reporting.episode_report import write_page

    dataset = open_dataset(a.path, a.action_key, a.state_key)
    folder = a.out / f"episode-{a.episode:06d}"
    written = [write_page(folder, dataset, a.episode, _findings(a.path, a.episode))]
    try:
        from nac_ros.reporting.rerun import write_rerun

        (folder / RERUN).unlink(missing_ok=True)
        written.append(write_rerun(folder / RERUN, dataset, a.episode))
    except (ImportError, NacError) as error:
        print(f"no rerun recording: {error}")
    for path in written:
        print(path)
    return {"paths": [str(path) for path in written]}


def _findings(path: Path, index: int) -> list[str]:
    """What `nac data check` says of one recorded episode."""
    from nac_ros.datasets.factory import holds_recordings

    if not holds_recordings(path):
        return []
    from nac_ros.datasets.validate import check_recordings

    return [finding.message for finding in check_recordings(path) if finding.episode == index]


def demonstrate(a: Namespace) -> dict[str, Any]:
    """Episodes that a scripted operator records by teleoperation."""
    from nac_ros.apps.scripted_operator import HandConfig, record_demonstrations

    config = HandConfig(task=a.task, episodes=a.episodes, seed=a.seed, out=str(a.out))
    figures = record_demonstrations(config)
    print(f"{figures['kept']} episodes in {figures['out']}, {figures['minutes']:.1f} min")
    return figures


def rerun(a: Namespace) -> dict[str, Any]:
    """An episode through the guard, on the twin or on the arm."""
    from nac_ros.apps.episode_replay import RerunConfig, rerun_episode

    config = RerunConfig(
        data=str(a.path), episode=a.episode, action_key=a.action_key or "", robot=a.robot,
        speed=a.speed, out=str(a.out),
    )  # fmt: skip
    figures = rerun_episode(config)
    print("joint            commanded: rms, max   measured: rms, max")
    for joint in figures["commanded_rms"]:
        row = [
            figures[f"{w}_{k}"][joint] for w in ("commanded", "measured") for k in ("rms", "max")
        ]
        print(f"{joint:16s} {row[0]:11.4f} {row[1]:7.4f} {row[2]:11.4f} {row[3]:7.4f}")
    for what in ("holds", "refusals", "clips"):
        if figures[what]:
            print(f"{what}: {', '.join(f'{key} {n}' for key, n in figures[what].items())}")
    return figures


def _damaged(path: Path) -> list[Path]:
    """The episode itself, or those of a folder that are unfinished or cannot be read whole."""
    from nac_ros.datasets.mcap import reader, writer

    if not path.is_dir():
        raise DatasetError(f"{path} is no folder; name an episode, or a folder of them")
    if (path / writer.FILE).is_file():
        return [path]
    return reader.unfinished(path) + [
        folder
        for folder in sorted(path.iterdir())
        if reader.is_episode(folder) and not reader.is_whole(folder)
    ]


FORMATS = ("lerobot", "hdf5", "mcap")
NO_VIDEO = "none"


def convert(a: Namespace) -> dict[str, Any]:
    """Any datasets into one of another format."""
    from nac_ros.datasets import convert as conversions
    from nac_ros.datasets.factory import open_all

    sources = [d for path in a.sources for d in open_all(path, a.action_key, a.state_key)]
    conversion = conversions.Conversion(fps=_rate(a.fps), video=_video(a), **_of_recordings(a))

    def report(done: int, total: int) -> None:
        output.progress(f"converting: {done}/{total} episodes", done, total)

    done = _converter(a.to)(sources, a.out, conversion, report)
    kept = f", {done.before} of them were there already" if done.before else ""
    print(f"{done.episodes} episodes, {done.frames} frames in {done.path}{kept}")
    if done.doubtful:
        print(f"{done.doubtful} of them are not read back as they were; see `nac data check`")
    return {**done._asdict(), "path": str(done.path)}


def edit(a: Namespace) -> dict[str, Any]:
    """Relabels, discards, merges or splits episodes, recorded ones or of LeRobot folders."""

    from nac_ros.core.errors import ConfigError
    from nac_ros.datasets.lerobot import editing

    if not any(editing.is_lerobot(path) for path in a.paths):
        if a.episode:
            raise ConfigError("--episode goes with a LeRobot folder; name recorded episodes")
        return edit_recordings(a)
    if a.deed == "merge":
        if a.out is None:
            raise ConfigError("merge needs --out, the folder that all become one in")
        done = [editing.merge(a.paths, a.out, _copying)]
    else:
        done = [_edit_one(a, path) for path in a.paths]
    for path in done:
        print(path)
    return {"paths": [str(path) for path in done]}


def _edit_one(a: Namespace, path: Path) -> Path:
    """Changes one LeRobot folder; raises ConfigError where an option is missing."""
    from nac_ros.core.errors import ConfigError
    from nac_ros.datasets.lerobot import editing

    if a.deed == "discard":
        if not a.episode:
            raise ConfigError("discard needs --episode, the numbers of the episodes to take out")
        return editing.discard(path, a.episode, _copying)
    if a.deed == "split":
        if a.at is None or not a.episode or len(a.episode) != 1:
            raise ConfigError("split needs --episode N and --at, seconds after its first frame")
        return editing.split(path, a.episode[0], a.at, _copying)
    if a.note is not None:
        raise ConfigError("--note goes with recorded episodes; LeRobot folders hold none")
    if a.task is None and a.outcome is None:
        raise ConfigError("relabel needs --task or --outcome")
    return editing.relabel(path, a.episode or (), a.task, a.outcome, _copying)


def _copying(done: int, total: int) -> None:
    output.progress(f"editing: {done}/{total} data files", done, total)


def _rate(fps: float | None) -> float:
    """[Hz], 0 where none was given; raises ConfigError for one that is no rate."""
    from nac_ros.core.errors import ConfigError
    from nac_ros.datasets.lerobot.info import MAX_FPS, MIN_FPS, plain_rate

    if fps is None:
        return 0
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ConfigError(f"--fps is {fps:g}; wanted a rate in {MIN_FPS:g} .. {MAX_FPS:g} Hz")
    return plain_rate(fps)


def _converter(to: str) -> Callable[..., Any]:
    from nac_ros.core.errors import DatasetError
    from nac_ros.datasets import convert as conversions

    if to != "mcap":
        return conversions.to_lerobot if to == "lerobot" else conversions.to_hdf5
    try:
        from nac_ros.datasets.mcap.exporter import to_mcap
    except ImportError as error:
        raise DatasetError(
            f"recordings need {error.name}: pip install 'nac_ros[record]'"
        ) from error
    return to_mcap


def _of_recordings(a: Namespace) -> dict[str, Any]:
    """The options that only recordings have; raises ConfigError where others are made."""
    from nac_ros.core.errors import ConfigError

    given = {"robot": a.robot, "cameras": tuple(a.cameras or ())}
    given = {name: value for name, value in given.items() if value}
    if given and a.to != "mcap":
        raise ConfigError(f"--{next(iter(given))} goes with --to mcap")
    return given


def _video(a: Namespace) -> Any:
    """None where images stay as they are; raises ConfigError for options without a video."""
    from nac_ros.core.errors import ConfigError
    from nac_ros.datasets.lerobot.video import VideoConfig

    given = {f.name: getattr(a, f.name, None) for f in fields(VideoConfig) if f.name != "codec"}
    given = {name: value for name, value in given.items() if value is not None}
    if a.video != NO_VIDEO:
        if a.to != "lerobot":
            raise ConfigError(f"--video {a.video} goes with --to lerobot; {a.to} holds the images")
        return VideoConfig(codec=a.video, **given)
    if given:
        raise ConfigError(f"--{next(iter(given))} goes with --video h264 or av1")
    return None


def add_commands(groups: Any) -> None:
    """`nac data` and its commands."""
    data = options.add_group(groups, "data", "demonstrations: make, look at, check")
    make = options.add_command(
        data, "generate", data_generate, "demonstrations by scripted experts"
    )
    make.add_argument("--task", required=True, help="task id, such as marker")
    make.add_argument("--episodes", type=options.positive_int, required=True)
    make.add_argument(
        "--out", type=Path, required=True, help="LeRobot v3 folder; resumed if there"
    )
    make.add_argument("--robot", default="vx300s")
    make.add_argument("--scenes", default="nominal", help=options.SCENES)
    make.add_argument("--noise", type=float, default=0.5, help="share that begins disturbed")
    make.add_argument(
        "--bundle", type=Path, help="a policy that drives first; the expert takes over from it"
    )
    make.add_argument("--workers", type=options.positive_int, default=2)
    for name, run, text in (
        ("info", data_info, "what a dataset holds"),
        ("check", data_check, "whether a dataset is sound"),
    ):
        command = options.add_command(data, name, run, text)
        command.add_argument("path", type=Path, help="dataset, or OWNER/NAME on Hugging Face")
        command.add_argument("--action-key", help="column of the actions")
        command.add_argument("--state-key", help="column of the joint state")
    _convert(data)
    _recordings(data)


def _recordings(data: Any) -> None:
    mend = options.add_command(data, "repair", repair, "complete recordings that were cut off")
    mend.add_argument(
        "paths", type=Path, nargs="+", help="episodes, or folders of which all are mended"
    )
    _edit(data)
    look = options.add_command(data, "view", view, "an episode as a page and a rerun recording")
    look.add_argument("path", type=Path, help="dataset, or recorded episodes")
    look.add_argument("--episode", type=int, default=0)
    look.add_argument("--action-key", help="column of the actions")
    look.add_argument("--state-key", help="column of the joint state")
    look.add_argument("--out", type=Path, default=Path("runs/view"))
    _played(data)


def _played(data: Any) -> None:
    """What moves an arm."""
    show = options.add_command(
        data, "demonstrate", demonstrate,
        "a scripted operator leads the twin by a leader arm, over ROS 2, and records it",
    )  # fmt: skip
    show.add_argument("--task", required=True)
    show.add_argument("--episodes", type=options.positive_int, default=20, help="that succeed")
    show.add_argument("--out", type=Path, required=True, help="folder of the episodes")
    again = options.add_command(
        data, "replay", rerun, "an episode through the guard, on twin or arm"
    )
    again.add_argument("path", type=Path, help="dataset, or recorded episodes")
    again.add_argument("--episode", type=int, default=0)
    again.add_argument("--action-key", help="column of the actions")
    again.add_argument(
        "--robot", default="twin", help="robot whose guard runs; `twin` starts one and its guard"
    )
    again.add_argument("--speed", type=float, default=1.0, help="share of the recorded speed")
    again.add_argument("--out", type=Path, default=Path("runs/replay"))


def _edit(data: Any) -> None:
    change = options.add_command(data, "edit", edit, "relabel, discard, merge or split episodes")
    change.add_argument("deed", choices=("relabel", "discard", "merge", "split"))
    change.add_argument(
        "paths", type=Path, nargs="+", help="recorded episodes, or LeRobot v3 folders"
    )
    change.add_argument(
        "--episode", type=int, nargs="+", metavar="N", help="which ones of a LeRobot folder"
    )
    change.add_argument("--task", help="relabel: another prompt")
    change.add_argument(
        "--outcome", choices=("success", "failure"), help="relabel: another verdict"
    )
    change.add_argument("--note", help="relabel: another note")
    change.add_argument("--out", type=Path, help="merge: folder that the episodes go to")
    change.add_argument("--at", type=float, help="split: seconds after the episode's begin")


def _convert(data: Any) -> None:
    turn = options.add_command(
        data, "convert", convert, "datasets of any format into one of another"
    )
    turn.add_argument("sources", type=Path, nargs="+", metavar="SRC", help="datasets of one robot")
    turn.add_argument("--to", choices=FORMATS, required=True)
    turn.add_argument("--out", type=Path, required=True, help="folder; gone on with if there")
    turn.add_argument("--action-key", help="column of the actions")
    turn.add_argument("--state-key", help="column of the joint state")
    turn.add_argument(
        "--fps", type=float, help="rate [Hz] of sources that do not tell it, such as 29.97"
    )
    turn.add_argument(
        "--video", choices=("none", "h264", "av1"), default=NO_VIDEO,
        help="encode images in a LeRobot folder; PNG, which loses nothing, if none",
    )  # fmt: skip
    turn.add_argument(
        "--robot", help="mcap: name or YAML file of the robot; the sources' if they tell it"
    )
    turn.add_argument("--cameras", nargs="+", help="mcap: of these only; all if left out")
    turn.add_argument("--crf", type=int, help="of the video, 0 = best")
    turn.add_argument(
        "--gop", type=options.positive_int, help="frames from one whole one to the next"
    )
    turn.add_argument("--threads", type=options.positive_int, help="of each encoder")
