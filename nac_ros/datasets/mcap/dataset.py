"""Recorded episodes as a dataset: each MCAP file is cut into frames when it is asked for."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from nac_ros.core import config as configs
from nac_ros.core.errors import DatasetError, NacError, show_text
from nac_ros.datasets.episode import Episode, EpisodeInfo
from nac_ros.datasets.lerobot.info import plain_rate
from nac_ros.datasets.mcap import reader, resampler, topics, writer
from nac_ros.datasets.mcap.images import write_images
from nac_ros.datasets.mcap.resampler import ResampledRecording, Segment
from nac_ros.robot.spec import RobotSpec, list_robots, load_robot

ROBOT = "robot_yaml"  # fact: the robot's description as it was
UNKNOWN = "unknown"  # fact: what the source of a converted episode did not tell, of these
STAMPS, AGES, INTERVENTIONS = "stamps", "ages", "interventions"
STATE, ACTION = "joint_states", topics.COMMAND
MIN_FRAMES = 2
JUDGED = ("success", "failure")


class RecordingLocation(NamedTuple):
    """Where an episode of the dataset is: which recording, and which slice of it."""

    folder: Path
    part: int


class RecordingDataset:
    """A folder of recorded episodes, or one of them, opened by `RecordingDataset.open`.

    Actions are what the guard commanded one control period after each frame; with `joint_states`
    as action key, where the arm was one frame later.
    """

    def __init__(self, root: Path, folders: Sequence[Path], action_key: str):
        self.root, self._folders, self._action_key = root, list(folders), action_key
        facts = [reader.facts_of(folder) for folder in folders]
        self.spec = spec_of(facts[0])
        for folder, one in zip(folders, facts):
            if spec_of(one).joint_names != self.spec.joint_names:
                raise DatasetError(f"{folder} was recorded with another robot than {folders[0]}")
        self._facts = dict(zip(self._folders, facts))
        self.fps, self.robot_type = plain_rate(self.spec.action_rate_hz), self.spec.name
        self.names = self.state_names = self.spec.joint_names
        self.units = self.spec.units
        self.cameras = {c.name: (c.height, c.width) for c in self.spec.cameras}
        self._cut = lru_cache(maxsize=1)(self._cut_whole)
        self._places, self._infos = list[RecordingLocation](), list[EpisodeInfo]()
        for folder in self._folders:
            self._count(folder)

    @classmethod
    def open(
        cls, path: Path | str, action_key: str | None = None, state_key: str | None = None
    ) -> "RecordingDataset":
        """Every finished episode below `path`; raises DatasetError where there is none, or one
        that was not finished."""
        path = Path(path)
        if (action_key or ACTION) not in (ACTION, STATE) or (state_key or STATE) != STATE:
            raise DatasetError(
                f"{path} is a recording: its actions are {ACTION} or {STATE}, its state is {STATE}"
            )
        folders = episode_folders(path)
        for partial in reader.unfinished(path):
            raise DatasetError(f"{partial} was never finished; run `nac data repair {partial}`")
        if not folders:
            raise DatasetError(f"{path} holds no recorded episode")
        return cls(path, folders, action_key or ACTION)

    @property
    def tasks(self) -> list[str]:
        """Task texts in the order in which they come first."""
        return list(dict.fromkeys(info.task for info in self.episodes))

    @property
    def episodes(self) -> list[EpisodeInfo]:
        """Frames and task of each."""
        return self._infos

    def episode(self, index: int, images: bool = True) -> Episode:
        """Episode `index`; without images those are not decoded, but frames stay the same."""
        if not 0 <= index < len(self._places):
            raise DatasetError(f"{self.root} has no episode {index}; it has {len(self._places)}")
        place = self._places[index]
        return self._episode(place, self._cut(place.folder, images), images)

    @property
    def files(self) -> list[Path]:
        """The files that hold the data."""
        return [folder / writer.FILE for folder in self._folders]

    def write_images(self, index: int, outs: Mapping[str, np.ndarray]) -> None:
        """Decodes images of episode `index` into `outs`: camera -> uint8 `[T, H, W, 3]` RGB, of
        which only a few are in memory at a time."""
        place = self._places[index]
        cutter = resampler.RecordingResampler(
            self.spec, tuple(self.cameras), self._infos[index].task
        )
        try:
            write_images(reader.messages(place.folder), cutter, place.part, outs)
        except DatasetError as error:
            raise DatasetError(f"{place.folder}: {error}") from error

    def _episode(self, place: RecordingLocation, cut: ResampledRecording, images: bool) -> Episode:
        part, facts = cut.slices[place.part], self._facts[place.folder]
        stamps, unknown = part.stamps, facts.get(UNKNOWN, "").split()
        proprio = np.stack([o.proprio[-1] for o in part.observations])  # [T, D]
        pictures = {}
        if images:
            names = self.cameras
            pictures = {n: np.stack([o.images[n][-1] for o in part.observations]) for n in names}
        return Episode(
            proprio,
            self._actions(place.folder, cut, stamps, proprio),
            facts.get("task", ""),
            pictures,
            facts["outcome"] == "success" if facts.get("outcome") in JUDGED else None,
            stamps_ns=None if STAMPS in unknown else cut.nanoseconds(stamps),
            ages_ms={} if AGES in unknown else self._ages(part),
            intervention=None if INTERVENTIONS in unknown else resampler.taken_over(cut, stamps),
        )

    def _ages(self, part: Segment) -> dict[str, np.ndarray]:
        """Camera -> float32 `[T]` [ms]."""
        return {
            name: np.array([1e3 * age[name] for age in part.ages], np.float32)
            for name in self.cameras
        }

    def _actions(
        self, folder: Path, cut: ResampledRecording, stamps: np.ndarray, proprio: np.ndarray
    ) -> np.ndarray:
        if self._action_key == STATE:
            return np.concatenate([proprio[1:], proprio[-1:]])
        if not cut.commands.times:
            raise DatasetError(
                f"{folder} holds no {ACTION}, for no guard ran; choose --action-key {STATE}"
            )
        return cut.commands.at(stamps + 1 / self.spec.action_rate_hz)

    def _count(self, folder: Path) -> None:
        task = self._facts[folder].get("task", "")
        for number, part in enumerate(self._cut(folder, False).slices):
            if len(part) >= MIN_FRAMES:
                self._places.append(RecordingLocation(folder, number))
                self._infos.append(EpisodeInfo(len(part), task))

    def _cut_whole(self, folder: Path, images: bool) -> ResampledRecording:
        task = self._facts[folder].get("task", "")
        try:
            return resampler.cut(reader.messages(folder), self.spec, self.cameras, task, images)
        except DatasetError as error:
            raise DatasetError(f"{folder}: {error}; see `nac data check {self.root}`") from error


def episode_folders(path: Path) -> list[Path]:
    """Finished episodes below a folder, sorted by name, or the folder itself."""
    if reader.is_episode(path):
        return [path]
    return sorted(folder for folder in path.iterdir() if reader.is_episode(folder))


def robot_fact(spec: RobotSpec) -> dict[str, str]:
    """What a recorder writes of the robot beside each episode."""
    return {"robot": spec.name, ROBOT: yaml.safe_dump(configs.to_plain(spec), sort_keys=False)}


def spec_of(facts: dict[str, str]) -> RobotSpec:
    """The robot as it was when the episode was recorded; raises DatasetError."""
    if ROBOT in facts:
        where, fix = "the recording's robot", "record it again, or put `robot_yaml` right"
        try:
            return configs.build(RobotSpec, configs.parse_mapping(facts[ROBOT], where), where)
        except NacError as error:
            raise DatasetError(f"{error}; {fix}") from error
    if "robot" not in facts:
        raise DatasetError("the recording does not say of which robot it is")
    if facts["robot"] not in list_robots():
        known = ", ".join(list_robots())
        raise DatasetError(
            f"the recording is of robot '{show_text(facts['robot'], 80)}'; known are: {known}"
        )
    return load_robot(facts["robot"])
