"""Converts datasets of any format to LeRobot or HDF5; an interrupted conversion can be resumed.

mcap/exporter.py converts to recordings with the checks of this file.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
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
from nac_ros.datasets.episode import Episode, Progress
from nac_ros.datasets.factory import AnyDataset
from nac_ros.datasets.lerobot import layout
from nac_ros.datasets.lerobot.info import MAX_FPS, read_info
from nac_ros.datasets.lerobot.schema import OptionalColumns
from nac_ros.datasets.lerobot.video import VideoConfig
from nac_ros.datasets.lerobot.writer import DatasetWriter

RUN_FILE = "meta/convert.json"
HDF5_FILE = "demo.hdf5"


@dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    """Settings that decide the result, besides the sources.

    fps: rate [Hz] of sources whose own rate is missing or wrong; 0 = their own
    video: how images of a LeRobot folder are encoded; None = PNG
    robot: name or YAML file of the robot, for recordings; '' = the sources'
    cameras: those that go into recordings; () = all
    """

    fps: float = configs.number_field(0, 0, MAX_FPS)
    video: VideoConfig | None = None
    robot: str = ""
    cameras: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        configs.check_fields(self)


class ConversionResult(NamedTuple):
    """Content of `path` after a conversion.

    episodes, frames: in all; already_converted: episodes that existed before
    changed: new episodes that are read back with other frames than their source has
    """

    path: Path
    episodes: int
    frames: int
    already_converted: int
    changed: int = 0


def to_lerobot(
    sources: Sequence[AnyDataset], out: Path, conversion: ConversionConfig, progress: Progress
) -> ConversionResult:
    """Converts all episodes, one source after the other, into a LeRobot folder.

    Called again with the same sources, the last of which may have grown, it continues after the
    last finished episode. Raises DatasetError if the sources differ or `out` has other content.
    """
    fps, depth = common_rate(sources, conversion.fps), common_depth(sources)
    first = sources[0]
    video = configs.to_plain(conversion.video) if conversion.video else None
    fingerprint = source_fingerprint(sources, fps, {"video": video})
    check_resumable(out / RUN_FILE, fingerprint, sources, out, _has_episodes(out))
    writer = DatasetWriter.create_or_resume(
        out,
        fps=fps,
        robot_type=first.robot_type,
        names=first.names,
        units=first.units,
        state_names=first.state_names,
        cameras=first.cameras,
        video=conversion.video,
        optional=_optional_columns(first),
        write_outcomes=True,
        depth=depth,
    )
    with closing(writer):
        before, total = writer.n_episodes, count_episodes(sources)
        files.write_json(out / RUN_FILE, {**fingerprint, "environment": environment()})
        for done, episode in enumerate(_episodes(sources, before), start=before + 1):
            writer.add_episode(episode)
            progress(done, total)
        return ConversionResult(out, writer.n_episodes, writer.n_frames, before)


def _optional_columns(dataset: AnyDataset) -> OptionalColumns:
    """The columns that all episodes should have, because the first one has them."""
    episode = dataset.episode(0, images=False)
    return OptionalColumns(
        success=episode.success is not None,
        stamps=episode.stamps_ns is not None,
        image_ages=tuple(episode.ages_ms),
        interventions=episode.intervention is not None,
        environment_names=dataset.environment_names,
    )


def _has_episodes(out: Path) -> bool:
    return (out / "meta/info.json").is_file() and bool(read_info(out).get("total_episodes"))


def to_hdf5(
    sources: Sequence[AnyDataset], out: Path, conversion: ConversionConfig, progress: Progress
) -> ConversionResult:
    """Converts all episodes into `out`/demo.hdf5, which appears when it is complete.

    An interrupted conversion starts again; a complete file of the same sources is kept. Raises
    DatasetError if the sources differ or the file exists with other content.
    """
    fps = common_rate(sources, conversion.fps)
    check_single_tasks(sources, "HDF5")
    check_no_depth(sources, "HDF5")
    first, path, total = sources[0], out / HDF5_FILE, count_episodes(sources)
    frames = sum(info.length for source in sources for info in source.episodes)
    fingerprint = source_fingerprint(sources, fps, {"video": None})
    if path.exists():
        if hdf5.read_own_metadata(path) != fingerprint:
            raise DatasetError(f"{path} exists already; remove it or choose another folder")
        return ConversionResult(path, total, frames, total)
    metadata = hdf5.Hdf5Metadata(
        names=first.names,
        state_names=first.state_names,
        units=first.units,
        fps=fps,
        robot_type=first.robot_type,
        tasks=list(dict.fromkeys(task for source in sources for task in source.tasks)),
        more=fingerprint,
    )

    def episodes() -> Iterator[Episode]:
        for done, episode in enumerate(_episodes(sources), start=1):
            yield episode
            progress(done, total)

    hdf5.write_hdf5(path, metadata, episodes())
    return ConversionResult(path, total, frames, 0)


def _episodes(sources: Sequence[AnyDataset], skip: int = 0) -> Iterator[Episode]:
    """Episodes of all sources except the first `skip`."""
    numbered = ((source, i) for source in sources for i in range(len(source.episodes)))
    for source, index in islice(numbered, skip, None):
        yield source.episode(index)


def count_episodes(sources: Sequence[AnyDataset]) -> int:
    """Number of episodes of all sources."""
    return sum(len(source.episodes) for source in sources)


def common_rate(sources: Sequence[AnyDataset], given: float) -> float:
    """The rate [Hz] of all sources, or the one `given` unless that is 0.

    Raises DatasetError if the sources cannot become one dataset.
    """
    first = sources[0]
    for source in sources:
        if not source.episodes:
            raise DatasetError(f"{source.root} has no episode; there is nothing to convert")
        for key in ("robot_type", "cameras"):  # `check_compatible` compares the rest
            if getattr(source, key) != getattr(first, key):
                raise DatasetError(
                    f"{source.root} has {key} {getattr(source, key)}, {first.root} has "
                    f"{getattr(first, key)}; convert them into separate folders"
                )
    check_compatible(sources, given)
    rate = given or first.fps
    if not rate:
        raise DatasetError(f"{first.root} does not state its rate; give it with --fps")
    return rate


def check_single_tasks(sources: Sequence[AnyDataset], target: str) -> None:
    """Raises DatasetError naming the first episode with several tasks, for a target format with
    one per episode. Episodes whose table does not list all tasks raise when they are read."""
    for source in sources:
        for info in source.episodes:
            if len(info.tasks) > 1:
                raise DatasetError(
                    f"{info.source or source.root} has {len(info.tasks)} tasks, and {target} "
                    "keeps one per episode; `nac data edit split` it, or convert --to lerobot"
                )


def common_depth(sources: Sequence[AnyDataset]) -> dict[str, dict[str, Any]]:
    """Features of the depth cameras of all sources; raises DatasetError if they differ, or if one
    is a video, which cannot be encoded again without loss."""
    found = [getattr(source, "depth_features", {}) for source in sources]
    for source, features in zip(sources, found):
        if features != found[0]:
            raise DatasetError(
                f"{source.root} has depth cameras {features}, {sources[0].root} has {found[0]}; "
                "convert them into separate folders"
            )
        videos = [camera for camera, feature in features.items() if feature["dtype"] == "video"]
        if videos:
            raise _depth_error(source, videos, "a video of depth")
    return found[0]


def check_no_depth(sources: Sequence[AnyDataset], target: str) -> None:
    """Raises DatasetError if a source has a depth camera, for a target format without depth."""
    for source in sources:
        if depth := getattr(source, "depth_cameras", {}):
            raise _depth_error(source, list(depth), target)


def _depth_error(source: AnyDataset, cameras: Sequence[str], target: str) -> DatasetError:
    image_keys = getattr(source, "image_keys", {})
    keys = ", ".join(f"'{image_keys.get(camera, camera)}'" for camera in cameras)
    return DatasetError(
        f"{source.root} has images of other than 3 channels in {keys}, such as depth, and "
        f"{target} cannot keep them; take them out of meta/info.json to convert the rest"
    )


def source_fingerprint(
    sources: Sequence[AnyDataset], fps: float, more: Mapping[str, Any]
) -> dict[str, Any]:
    """What a resumed conversion must have in common with the first one."""
    return {"sources": [_identity(source) for source in sources], "fps": fps, **more}


def _identity(source: AnyDataset, n: int | None = None) -> dict[str, Any]:
    """Name, number of episodes and a digest of columns and table of a source, wherever it is
    stored; with `n` of its first n episodes only."""
    episodes = [[info.length, *(info.tasks or [""])] for info in source.episodes[:n]]
    content = json.dumps([source.names, source.state_names, episodes])
    digest = hashlib.sha256(content.encode()).hexdigest()
    identity = {"name": source.root.name, "episodes": len(episodes), "digest": digest[:16]}
    return {**identity, **hub.hub_revision(source.root)}


def describe_datasets(sources: Sequence[AnyDataset]) -> list[dict[str, Any]]:
    """Path, rate, fingerprint and Hub revision of each dataset, to store with a run's results."""
    return [
        {"path": str(source.root), "fps": source.fps, **_identity(source)} for source in sources
    ]


def check_resumable(
    run_file: Path,
    fingerprint: Mapping[str, Any],
    sources: Sequence[AnyDataset],
    out: Path,
    has_content: bool,
) -> None:
    """Raises DatasetError unless `run_file` describes the same conversion, whose last source may
    have grown since; without that file, if `out` has content."""
    if not run_file.is_file():
        if has_content:
            raise DatasetError(f"{out} has episodes of another origin; choose another folder")
        return
    found = layout.read_json(run_file)
    before, now = found["sources"], fingerprint["sources"]
    grown = before[:-1] == now[:-1] and before[-1] == _identity(
        sources[-1], before[-1]["episodes"]
    )
    for key, value in fingerprint.items():
        if found.get(key) != value and not (key == "sources" and grown):
            raise DatasetError(
                f"{out} was converted with {key} = {_short(found.get(key))}, now it is "
                f"{_short(value)}; give the same to continue, or choose another folder"
            )


def _short(value: Any) -> str:
    """Sources by their names and numbers of episodes."""
    if not isinstance(value, list):
        return str(value)
    return ", ".join(f"{source['name']} ({source['episodes']} episodes)" for source in value)
