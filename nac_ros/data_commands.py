"""What `nac data convert` does: open every source, convert, print, return figures."""

from argparse import Namespace
from dataclasses import fields
from typing import Any

from nac_ros import terminal

FORMATS = ("lerobot", "hdf5")
NO_VIDEO = "none"


def convert(a: Namespace) -> dict[str, Any]:
    """Any datasets into one of another format."""
    from nac_ros.data import convert as conversions
    from nac_ros.data.datasets import open_all

    sources = [d for path in a.sources for d in open_all(path, a.action_key, a.state_key)]
    conversion = conversions.Conversion(fps=a.fps or 0, video=_video(a))

    def report(done: int, total: int) -> None:
        terminal.progress(f"converting: {done}/{total} episodes", done, total)

    run = conversions.to_lerobot if a.to == "lerobot" else conversions.to_hdf5
    done = run(sources, a.out, conversion, report)
    kept = f", {done.before} of them were there already" if done.before else ""
    print(f"{done.episodes} episodes, {done.frames} frames in {done.path}{kept}")
    return {**done._asdict(), "path": str(done.path)}


def _video(a: Namespace) -> Any:
    """None where images stay as they are; raises ConfigError for options without a video."""
    from nac_ros.data.video import VideoConfig
    from nac_ros.errors import ConfigError

    given = {f.name: getattr(a, f.name, None) for f in fields(VideoConfig) if f.name != "codec"}
    given = {name: value for name, value in given.items() if value is not None}
    if a.video != NO_VIDEO:
        if a.to != "lerobot":
            raise ConfigError(f"--video {a.video} goes with --to lerobot; HDF5 holds the images")
        return VideoConfig(codec=a.video, **given)
    if given:
        raise ConfigError(f"--{next(iter(given))} goes with --video h264 or av1")
    return None
