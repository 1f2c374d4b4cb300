"""What `nac data convert` does: open every source, convert, print, return figures."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from nac_ros import terminal

FORMATS = ("lerobot", "hdf5", "mcap")
NO_VIDEO = "none"


def convert(a: Namespace) -> dict[str, Any]:
    """Any datasets into one of another format."""
    from nac_ros.data import convert as conversions
    from nac_ros.data.datasets import open_all

    sources = [d for path in a.sources for d in open_all(path, a.action_key, a.state_key)]
    conversion = conversions.Conversion(fps=_rate(a.fps), video=_video(a), **_of_recordings(a))

    def report(done: int, total: int) -> None:
        terminal.progress(f"converting: {done}/{total} episodes", done, total)

    done = _converter(a.to)(sources, a.out, conversion, report)
    kept = f", {done.before} of them were there already" if done.before else ""
    print(f"{done.episodes} episodes, {done.frames} frames in {done.path}{kept}")
    if done.doubtful:
        print(f"{done.doubtful} of them are not read back as they were; see `nac data check`")
    return {**done._asdict(), "path": str(done.path)}


def edit(a: Namespace) -> dict[str, Any]:
    """Relabels, discards, merges or splits episodes, recorded ones or of LeRobot folders."""
    from nac_ros import recording_commands
    from nac_ros.data import edit_lerobot
    from nac_ros.errors import ConfigError

    if not any(edit_lerobot.is_lerobot(path) for path in a.paths):
        if a.episode:
            raise ConfigError("--episode goes with a LeRobot folder; name recorded episodes")
        return recording_commands.edit(a)
    if a.deed == "merge":
        if a.out is None:
            raise ConfigError("merge needs --out, the folder that all become one in")
        done = [edit_lerobot.merge(a.paths, a.out, _copying)]
    else:
        done = [_edit_one(a, path) for path in a.paths]
    for path in done:
        print(path)
    return {"paths": [str(path) for path in done]}


def _edit_one(a: Namespace, path: Path) -> Path:
    """Changes one LeRobot folder; raises ConfigError where an option is missing."""
    from nac_ros.data import edit_lerobot
    from nac_ros.errors import ConfigError

    if a.deed == "discard":
        if not a.episode:
            raise ConfigError("discard needs --episode, the numbers of the episodes to take out")
        return edit_lerobot.discard(path, a.episode, _copying)
    if a.deed == "split":
        if a.at is None or not a.episode or len(a.episode) != 1:
            raise ConfigError("split needs --episode N and --at, seconds after its first frame")
        return edit_lerobot.split(path, a.episode[0], a.at, _copying)
    if a.note is not None:
        raise ConfigError("--note goes with recorded episodes; LeRobot folders hold none")
    if a.task is None and a.outcome is None:
        raise ConfigError("relabel needs --task or --outcome")
    return edit_lerobot.relabel(path, a.episode or (), a.task, a.outcome, _copying)


def _copying(done: int, total: int) -> None:
    terminal.progress(f"editing: {done}/{total} data files", done, total)


def _rate(fps: float | None) -> float:
    """[Hz], 0 where none was given; raises ConfigError for one that is no rate."""
    from nac_ros.data.info import MAX_FPS, MIN_FPS, plain_rate
    from nac_ros.errors import ConfigError

    if fps is None:
        return 0
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ConfigError(f"--fps is {fps:g}; wanted a rate in {MIN_FPS:g} .. {MAX_FPS:g} Hz")
    return plain_rate(fps)


def _converter(to: str) -> Callable[..., Any]:
    from nac_ros.data import convert as conversions
    from nac_ros.errors import DatasetError

    if to != "mcap":
        return conversions.to_lerobot if to == "lerobot" else conversions.to_hdf5
    try:
        from nac_ros.data.convert_mcap import to_mcap
    except ImportError as error:
        raise DatasetError(
            f"recordings need {error.name}: pip install 'nac_ros[record]'"
        ) from error
    return to_mcap


def _of_recordings(a: Namespace) -> dict[str, Any]:
    """The options that only recordings have; raises ConfigError where others are made."""
    from nac_ros.errors import ConfigError

    given = {"robot": a.robot, "cameras": tuple(a.cameras or ())}
    given = {name: value for name, value in given.items() if value}
    if given and a.to != "mcap":
        raise ConfigError(f"--{next(iter(given))} goes with --to mcap")
    return given


def _video(a: Namespace) -> Any:
    """None where images stay as they are; raises ConfigError for options without a video."""
    from nac_ros.data.video import VideoConfig
    from nac_ros.errors import ConfigError

    given = {f.name: getattr(a, f.name, None) for f in fields(VideoConfig) if f.name != "codec"}
    given = {name: value for name, value in given.items() if value is not None}
    if a.video != NO_VIDEO:
        if a.to != "lerobot":
            raise ConfigError(f"--video {a.video} goes with --to lerobot; {a.to} holds the images")
        return VideoConfig(codec=a.video, **given)
    if given:
        raise ConfigError(f"--{next(iter(given))} goes with --video h264 or av1")
    return None
