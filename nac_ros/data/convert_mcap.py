"""Any datasets into recorded episodes, as the recorder writes them; interrupted, it goes on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nac_ros import config as configs
from nac_ros.data import bag, bagfile, layout, origins, places, script, slices, streams
from nac_ros.data.bag import BagWriter
from nac_ros.data.compatibility import same_rate
from nac_ros.data.convert import Conversion, Converted, Report
from nac_ros.data.datasets import AnyDataset
from nac_ros.data.episode import Episode
from nac_ros.data.recordings import AGES, INTERVENTIONS, STAMPS, UNKNOWN, robot_fact
from nac_ros.data.take import slug
from nac_ros.errors import DatasetError
from nac_ros.provenance import environment
from nac_ros.robot import CameraSpec, RobotSpec, list_robots, load_robot

RUN_FILE = "convert.json"
INCOMPLETE = "a reader finds {} of its {} frames ({}), as the robot would have"


def to_mcap(
    sources: Sequence[AnyDataset], out: Path, conversion: Conversion, report: Report
) -> Converted:
    """A folder for each, `episode_<number>_<task>`; report is called with (episodes done, all).

    Called again with the same sources, the last of which may have grown, it adds what is missing.
    An episode that is read back with other frames than it had is kept and says so in its
    `findings`, as one whose camera stood still does.
    Raises DatasetError and ConfigError where the sources differ, are of another robot, or `out`
    holds something else.
    """
    fps = origins.common_rate(sources, conversion.fps)
    robot = robot_for(sources[0], conversion.robot)
    origins.check_single_tasks(sources, "a recording")
    origins.check_no_depth(sources, "a recording")
    order = columns_of(sources[0], robot)
    spec = as_seen(robot, sources[0], fps, conversion.cameras)
    origin = origins.origin(sources, fps, _identity(spec))
    run_file = out / RUN_FILE
    origins.check_same(run_file, origin, sources, out, out.is_dir() and any(out.iterdir()))
    out.mkdir(parents=True, exist_ok=True)
    layout.write_json(run_file, {**origin, "environment": environment()})
    total, before, frames, doubtful = origins.count(sources), 0, 0, 0
    numbered = [(source, i) for source in sources for i in range(len(source.episodes))]
    for number, (source, index) in enumerate(numbered):
        info = source.episodes[index]
        folder = out / f"episode_{number:06d}_{slug(info.task)}"
        frames += info.length
        if folder.exists() or bag.discarded_of(folder).exists():
            before += 1
            continue
        _clear(bag.partial_of(folder))
        facts = {"note": f"converted from {source.root.name}, episode {index}"}
        doubtful += not write_episode(folder, source.episode(index), spec, order, facts)
        report(number + 1, total)
    return Converted(out, total, frames, before, doubtful)


def write_episode(
    folder: Path, episode: Episode, spec: RobotSpec, order: Sequence[int], more: dict[str, str]
) -> bool:
    """One episode as a recording, `order`: the column of each of the robot's joints; whether it
    is read back with the frames that it had."""
    facts = {
        "task": episode.task, "operator": "", "bundle": "", **more, **robot_fact(spec),
        UNKNOWN: " ".join(_unknown(episode)),
        **{key: str(value) for key, value in environment().items()},
    }  # fmt: skip
    writer = BagWriter(folder, facts)
    for source in streams.recorded(spec):
        writer.open_topic(source.topic, source.kind)
    for row in script.rows(episode, spec, order):
        writer.write(*row)
    writer.flush()
    found = _read_back(bag.partial_of(folder), episode, spec)
    writer.finish({"outcome": places.told(episode.success), "findings": found, "lost": "0"})
    return not found


def robot_for(source: AnyDataset, named: str) -> RobotSpec:
    """The robot `named`, else the one that the source is of; raises DatasetError where nothing
    says which."""
    recorded: RobotSpec | None = getattr(source, "spec", None)
    if recorded is not None and not named:
        return recorded
    if not named and source.robot_type not in list_robots():
        raise DatasetError(
            f"{source.root} is of robot '{source.robot_type}', which config/robots does not have "
            f"({', '.join(list_robots())}); name it, or its YAML file, with --robot"
        )
    return load_robot(named or source.robot_type)


def as_seen(
    robot: RobotSpec, source: AnyDataset, fps: float, cameras: Sequence[str] = ()
) -> RobotSpec:
    """The robot at the source's rate, with its cameras that are wanted, all that the source has
    if none are named; raises UnknownName and DatasetError where one is not there."""
    names = cameras or tuple(source.cameras)
    for name in names:
        if name not in source.cameras:
            known = ", ".join(source.cameras) or "none"
            raise DatasetError(f"{source.root} has no camera '{name}'; it has: {known}")
    views = tuple(_view(robot.camera(name), source) for name in names)
    if same_rate(robot.action_rate_hz, fps):
        return replace(robot, cameras=views)
    views = tuple(replace(view, rate_hz=float(fps)) for view in views)
    return replace(robot, action_rate_hz=float(fps), cameras=views)


def columns_of(source: AnyDataset, spec: RobotSpec) -> list[int]:
    """Which column of actions and state is which of the robot's joints; columns that nobody named
    are taken in their order. Raises DatasetError."""
    names, states = list(source.names), list(source.state_names)
    if len(states) != len(names):
        raise DatasetError(
            f"{source.root} has {len(states)} columns of state and {len(names)} of actions, and a "
            "recording needs the state of each joint; choose columns with --state-key"
        )
    if _nameless(names) and len(names) == spec.action_dim:
        return list(range(len(names)))
    if sorted(names) != sorted(spec.joint_names) or not (states == names or _nameless(states)):
        raise DatasetError(
            f"{source.root} has actions of {', '.join(names)} and a state of {', '.join(states)}; "
            f"robot {spec.name} has joints {', '.join(spec.joint_names)}: choose another --robot"
        )
    order = [names.index(joint) for joint in spec.joint_names]
    units = [source.units[k] for k in order]
    if any(units) and units != list(spec.units):
        raise DatasetError(
            f"{source.root} has units {', '.join(units)}, robot {spec.name} has "
            f"{', '.join(spec.units)}; choose another --robot"
        )
    return order


def _identity(spec: RobotSpec) -> dict[str, str]:
    """What conversions that go on must have in common of their robot, in words for people."""
    content = json.dumps(configs.to_plain(spec))
    return {
        "robot": spec.name,
        "cameras": ", ".join(camera.name for camera in spec.cameras),
        "robot_digest": hashlib.sha256(content.encode()).hexdigest()[:16],
    }


def _view(camera: CameraSpec, source: AnyDataset) -> CameraSpec:
    size = source.cameras[camera.name]
    if (camera.height, camera.width) != size:
        raise DatasetError(
            f"{source.root} has images of {size[1]} x {size[0]} pixels of camera '{camera.name}', "
            f"the robot's YAML says {camera.width} x {camera.height}; give a YAML that fits"
        )
    return camera


def _nameless(names: Sequence[str]) -> bool:
    """Whether they are the numbered ones that a reader gives columns without names."""
    return all(name.endswith(f".{k}") for k, name in enumerate(names))


def _unknown(episode: Episode) -> list[str]:
    told = {
        STAMPS: episode.stamps_ns is not None,
        AGES: bool(episode.ages_ms),
        INTERVENTIONS: episode.intervention is not None,
    }
    return [what for what, known in told.items() if not known]


def _clear(partial: Path) -> None:
    """Removes what a conversion left that was cut off."""
    if partial.exists():
        if (partial / bag.FILE).is_file() and bag.in_use(partial):
            raise DatasetError(f"{partial} is being written by another process; wait for it")
        bag.remove(partial)


def _read_back(place: Path, episode: Episode, spec: RobotSpec) -> str:
    """What is wrong with the frames that a reader finds; "" where they are the episode's."""
    cameras = [camera.name for camera in spec.cameras]
    written = bagfile.messages(place, None, bagfile.Reading())
    cut = slices.cut(written, spec, cameras, episode.task, images=False)
    wanted = np.array(script.frame_times(episode, spec.action_rate_hz))
    found = [cut.nanoseconds(part.stamps) for part in cut.slices]
    if len(found) == 1 and np.array_equal(found[0], wanted):
        return ""
    kept = len(np.intersect1d(np.concatenate([*found, wanted[:0]]), wanted))
    why = ", ".join(f"{n} messages: {reason}" for reason, n in cut.refused.items())
    return INCOMPLETE.format(kept, len(wanted), why or f"{len(found)} stretches without a hole")
