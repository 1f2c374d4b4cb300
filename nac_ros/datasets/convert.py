"""What a conversion is made from, and whether one that was cut off may go on."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from nac_ros.core import config as configs
from nac_ros.core import files
from nac_ros.core.errors import DatasetError
from nac_ros.core.provenance import environment
from nac_ros.datasets import hdf5, hub
from nac_ros.datasets.compatibility import check_compatible
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.factory import AnyDataset
from nac_ros.datasets.lerobot import layout
from nac_ros.datasets.lerobot.info import MAX_FPS, read_info
from nac_ros.datasets.lerobot.schema import Extras
from nac_ros.datasets.lerobot.video import VideoConfig
from nac_ros.datasets.lerobot.writer import DatasetWriter

ALIKE = ("names", "state_names", "units", "robot_type", "cameras")
OTHERS = ("robot_type", "cameras")  # those that `check_compatible` does not compare


def episodes(sources: Sequence[AnyDataset], skip: int) -> Iterator[Episode]:
    """Episodes of all sources but the first `skip`."""
    places = ((source, i) for source in sources for i in range(len(source.episodes)))
    for source, index in islice(places, skip, None):
        yield source.episode(index)


def count(sources: Sequence[AnyDataset]) -> int:
    """How many episodes there are in all."""
    return sum(len(source.episodes) for source in sources)


def common_rate(sources: Sequence[AnyDataset], given: float) -> float:
    """[Hz] of all, the one `given` unless that is 0.

    Raises DatasetError where the sources cannot be one dataset.
    """
    first = sources[0]
    for source in sources:
        if not source.episodes:
            raise DatasetError(f"{source.root} holds no episode; there is nothing to convert")
        for key in OTHERS:
            if getattr(source, key) != getattr(first, key):
                raise DatasetError(
                    f"{source.root} has {key} {getattr(source, key)}, {first.root} has "
                    f"{getattr(first, key)}; convert them into separate folders"
                )
    check_compatible(sources, given)
    rate = given or first.fps
    if not rate:
        raise DatasetError(f"{first.root} does not say its rate; give it with --fps")
    return rate


def check_single_tasks(sources: Sequence[AnyDataset], what: str) -> None:
    """Raises DatasetError naming the first episode with several tasks, which `what` cannot keep;
    those whose table of contents does not tell raise when they are read."""
    for source in sources:
        for info in source.episodes:
            if len(info.tasks) > 1:
                raise DatasetError(
                    f"{info.source or source.root} has {len(info.tasks)} tasks, and {what} keeps "
                    "one per episode; `nac data edit split` it, or convert --to lerobot"
                )


def common_depth(sources: Sequence[AnyDataset]) -> dict[str, dict[str, Any]]:
    """Features of the depth cameras of all; raises DatasetError where they differ, or where one is
    a video, which cannot be encoded again without loss."""
    found = [getattr(source, "depth_features", {}) for source in sources]
    for source, one in zip(sources, found):
        if one != found[0]:
            raise DatasetError(
                f"{source.root} has depth cameras {one}, {sources[0].root} has {found[0]}; "
                "convert them into separate folders"
            )
        videos = [camera for camera, feature in one.items() if feature["dtype"] == "video"]
        if videos:
            _refuse_depth(source, videos, "a video of depth")
    return found[0]


def check_no_depth(sources: Sequence[AnyDataset], what: str) -> None:
    """Raises DatasetError where a source has a depth camera, which `what` cannot keep."""
    for source in sources:
        if depth := getattr(source, "depth_cameras", {}):
            _refuse_depth(source, list(depth), what)


def _refuse_depth(source: AnyDataset, cameras: Sequence[str], what: str) -> None:
    known = getattr(source, "picture_keys", {})
    keys = ", ".join(f"'{known.get(camera, camera)}'" for camera in cameras)
    raise DatasetError(
        f"{source.root} has images of other than 3 channels in {keys}, such as depth, and {what} "
        "cannot keep them; take them out of meta/info.json to convert the rest"
    )


def source_fingerprint(
    sources: Sequence[AnyDataset], fps: float, more: Mapping[str, Any]
) -> dict[str, Any]:
    """What a conversion that goes on must have in common with the one that began."""
    return {"sources": [_identity(source) for source in sources], "fps": fps, **more}


def _identity(source: AnyDataset, n: int | None = None) -> dict[str, Any]:
    """Of a source, wherever it lies: its name, its columns, and what its first `n` episodes are,
    all of them without `n`."""
    episodes = [[info.length, *(info.tasks or [""])] for info in source.episodes[:n]]
    content = json.dumps([source.names, source.state_names, episodes])
    digest = hashlib.sha256(content.encode()).hexdigest()
    facts = {"name": source.root.name, "episodes": len(episodes), "digest": digest[:16]}
    return {**facts, **hub.origin_of(source.root)}


def describe(sources: Sequence[AnyDataset]) -> list[dict[str, Any]]:
    """Of each dataset where it lies, what it holds, and the Hub's revision if it came from there;
    what a run writes beside its results."""
    return [
        {"path": str(source.root), "fps": source.fps, **_identity(source)} for source in sources
    ]


def check_same(
    run_file: Path,
    origin: Mapping[str, Any],
    sources: Sequence[AnyDataset],
    out: Path,
    holds: bool,
) -> None:
    """Raises DatasetError unless `run_file` tells of the same conversion, whose last source may
    have grown since; where there is none, if `out` holds episodes already."""
    if not run_file.is_file():
        if holds:
            raise DatasetError(f"{out} holds episodes of another origin; choose another folder")
        return
    found = layout.read_json(run_file)
    before, now = found["sources"], origin["sources"]
    grown = before[:-1] == now[:-1] and before[-1] == _identity(
        sources[-1], before[-1]["episodes"]
    )
    for key, value in origin.items():
        if found.get(key) != value and not (key == "sources" and grown):
            raise DatasetError(
                f"{out} was converted with {key} = {_short(found.get(key))}, now it is "
                f"{_short(value)}; give the same to go on, or choose another folder"
            )


def _short(value: Any) -> str:
    """Sources by their names and numbers of episodes."""
    if not isinstance(value, list):
        return str(value)
    return ", ".join(f"{one['name']} ({one['episodes']} episodes)" for one in value)


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
    fps, depth = common_rate(sources, conversion.fps), common_depth(sources)
    first = sources[0]
    origin = source_fingerprint(sources, fps, {"video": _plain(conversion.video)})
    run_file = out / RUN_FILE
    check_same(run_file, origin, sources, out, _holds_episodes(out))
    writer = DatasetWriter.create_or_resume(
        out, fps=fps, robot_type=first.robot_type, names=first.names, units=first.units,
        state_names=first.state_names, cameras=first.cameras, video=conversion.video,
        extras=_extras(first.episode(0, images=False)), tell_outcomes=True, depth=depth,
    )  # fmt: skip
    with closing(writer):
        before = writer.n_episodes
        files.write_json(run_file, {**origin, "environment": environment()})
        total = count(sources)
        for done, episode in enumerate(episodes(sources, before), start=before + 1):
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
    fps = common_rate(sources, conversion.fps)
    check_single_tasks(sources, "HDF5")
    check_no_depth(sources, "HDF5")
    first, path, total = sources[0], out / HDF5_FILE, count(sources)
    frames = sum(info.length for source in sources for info in source.episodes)
    origin = source_fingerprint(sources, fps, {"video": None})
    if path.exists():
        if hdf5.own_facts(path) != origin:
            raise DatasetError(f"{path} is there already; remove it or choose another folder")
        return Converted(path, total, frames, total)
    facts = hdf5.Facts(
        names=first.names, state_names=first.state_names, units=first.units, fps=fps,
        robot_type=first.robot_type, more=origin,
        tasks=list(dict.fromkeys(task for source in sources for task in source.tasks)),
    )  # fmt: skip
    hdf5.write_hdf5(path, facts, _told(episodes(sources, 0), total, report))
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
