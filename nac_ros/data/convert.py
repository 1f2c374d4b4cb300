"""Any datasets into one LeRobot v3 folder or one HDF5 file; interrupted, it goes on."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from nac_ros import config as configs
from nac_ros.data import hdf5_writer, layout
from nac_ros.data.datasets import AnyDataset
from nac_ros.data.episode import Episode
from nac_ros.data.features import Extras
from nac_ros.data.video import VideoConfig
from nac_ros.data.writer import DatasetWriter
from nac_ros.errors import DatasetError
from nac_ros.provenance import environment

RUN_FILE = "meta/convert.json"
HDF5_FILE = "demo.hdf5"
ALIKE = ("names", "state_names", "units", "robot_type", "cameras")
Report = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What decides the result beside the sources.

    fps: the sources' rate [Hz], for those that do not say it or say it wrongly; 0 = theirs
    video: how images are encoded in a LeRobot folder, as PNG when None
    """

    fps: int = configs.bounded(0, 0, 1000)
    video: VideoConfig | None = None

    def __post_init__(self) -> None:
        configs.check_bounds(self)


class Converted(NamedTuple):
    """What lies at `path` now; `before` episodes were there already."""

    path: Path
    episodes: int
    frames: int
    before: int


def to_lerobot(
    sources: Sequence[AnyDataset], out: Path, conversion: Conversion, report: Report
) -> Converted:
    """All episodes, one source after the other; report is called with (episodes done, all).

    Called again with the same sources, the last of which may have grown, it goes on after the
    last episode that was finished.
    Raises DatasetError where the sources differ or `out` holds something else.
    """
    fps = _common_rate(sources, conversion)
    first = sources[0]
    origin = _origin(sources, fps, conversion.video)
    _check_same_origin(out, origin, sources)
    writer = DatasetWriter.create_or_resume(
        out, fps=fps, robot_type=first.robot_type, names=first.names, units=first.units,
        state_names=first.state_names, cameras=first.cameras, video=conversion.video,
        extras=_extras(first.episode(0, images=False)), tell_outcomes=True,
    )  # fmt: skip
    with closing(writer):
        before = writer.n_episodes
        layout.write_json(out / RUN_FILE, {**origin, "environment": environment()})
        total = _count(sources)
        for done, episode in enumerate(_episodes(sources, before), start=before + 1):
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
    fps = _common_rate(sources, conversion)
    first, path, total = sources[0], out / HDF5_FILE, _count(sources)
    frames = sum(info.length for source in sources for info in source.episodes)
    origin = _origin(sources, fps, None)
    if path.exists():
        if hdf5_writer.own_facts(path) != origin:
            raise DatasetError(f"{path} is there already; remove it or choose another folder")
        return Converted(path, total, frames, total)
    facts = hdf5_writer.Facts(
        names=first.names, state_names=first.state_names, units=first.units, fps=fps,
        robot_type=first.robot_type, more=origin,
        tasks=list(dict.fromkeys(task for source in sources for task in source.tasks)),
    )  # fmt: skip
    hdf5_writer.write_hdf5(path, facts, _told(_episodes(sources, 0), total, report))
    return Converted(path, total, frames, 0)


def _episodes(sources: Sequence[AnyDataset], skip: int) -> Iterator[Episode]:
    """Episodes of all sources but the first `skip`."""
    places = ((source, i) for source in sources for i in range(len(source.episodes)))
    for source, index in islice(places, skip, None):
        yield source.episode(index)


def _told(episodes: Iterator[Episode], total: int, report: Report) -> Iterator[Episode]:
    for done, episode in enumerate(episodes, start=1):
        yield episode
        report(done, total)


def _count(sources: Sequence[AnyDataset]) -> int:
    return sum(len(source.episodes) for source in sources)


def _common_rate(sources: Sequence[AnyDataset], conversion: Conversion) -> int:
    """[Hz] of all; raises DatasetError where the sources cannot be one dataset."""
    first = sources[0]
    for source in sources:
        if not source.episodes:
            raise DatasetError(f"{source.root} holds no episode; there is nothing to convert")
        for key in ALIKE:
            if getattr(source, key) != getattr(first, key):
                raise DatasetError(
                    f"{source.root} has {key} {getattr(source, key)}, {first.root} has "
                    f"{getattr(first, key)}; convert them into separate folders"
                )
    rates = sorted({conversion.fps or source.fps for source in sources})
    if 0 in rates:
        raise DatasetError(f"{first.root} does not say its rate; give it with --fps")
    if len(rates) > 1:
        raise DatasetError(
            f"the sources have rates of {rates} Hz; convert them into separate folders"
        )
    return rates[0]


def _extras(episode: Episode) -> Extras:
    """The columns that all episodes are expected to have, for the first one has them."""
    return Extras(
        judged=episode.success is not None,
        stamped=episode.stamps_ns is not None,
        aged=tuple(episode.ages_ms),
        taken_over=episode.intervention is not None,
    )


def _origin(sources: Sequence[AnyDataset], fps: int, video: VideoConfig | None) -> dict[str, Any]:
    """What a conversion that goes on must have in common with the one that began."""
    return {
        "sources": [_identity(source) for source in sources],
        "fps": fps,
        "video": configs.to_plain(video) if video else None,
    }


def _identity(source: AnyDataset, n: int | None = None) -> dict[str, Any]:
    """Of a source, wherever it lies: its name, its columns, and what its first `n` episodes are,
    all of them without `n`."""
    episodes = [list(info) for info in source.episodes[:n]]
    content = json.dumps([source.names, source.state_names, episodes])
    digest = hashlib.sha256(content.encode()).hexdigest()
    return {"name": source.root.name, "episodes": len(episodes), "digest": digest[:16]}


def _check_same_origin(out: Path, origin: dict[str, Any], sources: Sequence[AnyDataset]) -> None:
    path = out / RUN_FILE
    if not path.is_file():
        if (out / "meta/info.json").is_file() and layout.read_info(out)["total_episodes"]:
            raise DatasetError(f"{out} holds episodes of another origin; choose another folder")
        return
    found = json.loads(path.read_text())
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
