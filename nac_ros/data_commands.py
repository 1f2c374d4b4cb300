"""What `nac data convert` does: open every source, convert, print, return figures."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from nac_ros import terminal

FORMATS = ("lerobot", "hdf5", "mcap")
NO_VIDEO = "none"


def convert(a: Namespace) -> dict[str, Any]:
    """Any datasets into one of another format."""
    from nac_ros.data import convert as conversions
    from nac_ros.data.datasets import open_all

    sources = [d for path in a.sources for d in open_all(path, a.action_key, a.state_key)]
    conversion = conversions.Conversion(fps=a.fps or 0, video=_video(a), **_of_recordings(a))

    def report(done: int, total: int) -> None:
        terminal.progress(f"converting: {done}/{total} episodes", done, total)

    done = _converter(a.to)(sources, a.out, conversion, report)
    kept = f", {done.before} of them were there already" if done.before else ""
    print(f"{done.episodes} episodes, {done.frames} frames in {done.path}{kept}")
    if done.doubtful:
        print(f"{done.doubtful} of them are not read back as they were; see `nac data check`")
    return {**done._asdict(), "path": str(done.path)}


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
