"""Any datasets into one LeRobot v3 folder or one HDF5 file; interrupted, it goes on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nac_ros import config as configs
from nac_ros.data import hdf5_writer, layout, origins
from nac_ros.data.datasets import AnyDataset
from nac_ros.data.episode import Episode
from nac_ros.data.features import Extras
from nac_ros.data.info import MAX_FPS, read_info
from nac_ros.data.video import VideoConfig
from nac_ros.data.writer import DatasetWriter
from nac_ros.errors import DatasetError
from nac_ros.provenance import environment

RUN_FILE = "meta/convert.json"
HDF5_FILE = "demo.hdf5"
Report = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What decides the result beside the sources.

    fps: the sources' rate [Hz], for those that do not say it or say it wrongly; 0 = theirs
    video: how images are encoded in a LeRobot folder, as PNG when None
    robot: name or YAML file of the robot that recordings are of, '' = the sources'
    cameras: those that go into recordings, all of the sources' if left out
    """

    fps: float = configs.bounded(0, 0, MAX_FPS)
    video: VideoConfig | None = None
    robot: str = ""
    cameras: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        configs.check_bounds(self)


class Converted(NamedTuple):
    """What lies at `path` now; `before` episodes were there already, and `doubtful` ones of those
    that were not are read back with other frames than they had."""

    path: Path
    episodes: int
    frames: int
    before: int
    doubtful: int = 0


def to_lerobot(
    sources: Sequence[AnyDataset], out: Path, conversion: Conversion, report: Report
) -> Converted:
    """All episodes, one source after the other; report is called with (episodes done, all).

    Called again with the same sources, the last of which may have grown, it goes on after the
    last episode that was finished.
    Raises DatasetError where the sources differ or `out` holds something else.
    """
    fps, depth = origins.common_rate(sources, conversion.fps), origins.common_depth(sources)
    first = sources[0]
    origin = origins.origin(sources, fps, {"video": _plain(conversion.video)})
    run_file = out / RUN_FILE
    origins.check_same(run_file, origin, sources, out, _holds_episodes(out))
    writer = DatasetWriter.create_or_resume(
        out, fps=fps, robot_type=first.robot_type, names=first.names, units=first.units,
        state_names=first.state_names, cameras=first.cameras, video=conversion.video,
        extras=_extras(first.episode(0, images=False)), tell_outcomes=True, depth=depth,
    )  # fmt: skip
    with closing(writer):
        before = writer.n_episodes
        layout.write_json(run_file, {**origin, "environment": environment()})
        total = origins.count(sources)
        for done, episode in enumerate(origins.episodes(sources, before), start=before + 1):
            writer.add_episode(episode)
            report(done, total)
        return Converted(out, writer.n_episodes, writer.n_frames, before)


def to_hdf5(
    sources: Sequence[AnyDataset], out: Path, conversion: Conversion, report: Report
) -> Converted:
    """All episodes into `out`/demo.hdf5, which appears when it is complete.

    Interrupted, it begins anew; complete and of the same sources it is left as it is. Raises
    DatasetError where the sources differ or the file is there with another content.
    """
    fps = origins.common_rate(sources, conversion.fps)
    origins.check_single_tasks(sources, "HDF5")
    origins.check_no_depth(sources, "HDF5")
    first, path, total = sources[0], out / HDF5_FILE, origins.count(sources)
    frames = sum(info.length for source in sources for info in source.episodes)
    origin = origins.origin(sources, fps, {"video": None})
    if path.exists():
        if hdf5_writer.own_facts(path) != origin:
            raise DatasetError(f"{path} is there already; remove it or choose another folder")
        return Converted(path, total, frames, total)
    facts = hdf5_writer.Facts(
        names=first.names, state_names=first.state_names, units=first.units, fps=fps,
        robot_type=first.robot_type, more=origin,
        tasks=list(dict.fromkeys(task for source in sources for task in source.tasks)),
    )  # fmt: skip
    hdf5_writer.write_hdf5(path, facts, _told(origins.episodes(sources, 0), total, report))
    return Converted(path, total, frames, 0)


def _told(episodes: Iterator[Episode], total: int, report: Report) -> Iterator[Episode]:
    for done, episode in enumerate(episodes, start=1):
        yield episode
        report(done, total)


def _extras(episode: Episode) -> Extras:
    """The columns that all episodes are expected to have, for the first one has them."""
    return Extras(
        judged=episode.success is not None,
        stamped=episode.stamps_ns is not None,
        aged=tuple(episode.ages_ms),
        taken_over=episode.intervention is not None,
    )


def _holds_episodes(out: Path) -> bool:
    there = (out / "meta/info.json").is_file()
    return there and bool(read_info(out).get("total_episodes"))


def _plain(video: VideoConfig | None) -> dict[str, Any] | None:
    return configs.to_plain(video) if video else None
