"""Recorded episodes as a dataset; each MCAP file is resampled when an episode is read."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from nac_ros.core import config as configs
from nac_ros.core.errors import DatasetError, NacError, show_text
from nac_ros.datasets.episode import Episode, EpisodeInfo, EpisodeReader
from nac_ros.datasets.lerobot.info import int_if_whole
from nac_ros.datasets.mcap import reader, resampler, topics, writer
from nac_ros.datasets.mcap.resampler import RecordingResampler, ResampledRecording, Segment
from nac_ros.robot.spec import RobotSpec, list_robots, load_robot

ROBOT_YAML = "robot_yaml"  # metadata: the robot's description at the time of recording
UNKNOWN = "unknown"  # metadata: which of the following the source of a converted episode lacked
STAMPS, AGES, INTERVENTIONS = "stamps", "ages", "interventions"
STATE, ACTION = "joint_states", topics.COMMAND
MIN_FRAMES = 2
VERDICTS = ("success", "failure")


class SegmentLocation(NamedTuple):
    """An episode of the dataset: folder of the recording and number of its segment."""

    folder: Path
    segment: int


class RecordingDataset(EpisodeReader):
    """A folder of recorded episodes, or a single one, opened by `RecordingDataset.open`.

    Actions are the guard's set-points one control period after each frame; with the action key
    `joint_states` they are the joint states one frame later.
    """

    def __init__(self, root: Path, folders: Sequence[Path], action_key: str):
        self.root, self._action_key = root, action_key
        self._metadata = {folder: reader.read_metadata(folder) for folder in folders}
        self.spec = recorded_robot(self._metadata[folders[0]])
        for folder, metadata in self._metadata.items():
            if recorded_robot(metadata).joint_names != self.spec.joint_names:
                raise DatasetError(f"{folder} was recorded with another robot than {folders[0]}")
        self.fps, self.robot_type = int_if_whole(self.spec.action_rate_hz), self.spec.name
        self.names = self.state_names = self.spec.joint_names
        self.units = self.spec.units
        self.cameras = {c.name: (c.height, c.width) for c in self.spec.cameras}
        self._resample = lru_cache(maxsize=1)(self._resample_uncached)
        self.files = [folder / writer.FILE for folder in folders]
        self._locations, self.episodes = list[SegmentLocation](), list[EpisodeInfo]()
        for folder in folders:
            for number, segment in enumerate(self._resample(folder, False).segments):
                if len(segment) >= MIN_FRAMES:
                    self._locations.append(SegmentLocation(folder, number))
                    self.episodes.append(EpisodeInfo(len(segment), self._task(folder)))

    @classmethod
    def open(
        cls, path: Path | str, action_key: str | None = None, state_key: str | None = None
    ) -> "RecordingDataset":
        """All finished episodes below `path`; raises DatasetError if there are none, or if one is
        unfinished."""
        path = Path(path)
        if (action_key or ACTION) not in (ACTION, STATE) or (state_key or STATE) != STATE:
            raise DatasetError(
                f"{path} is a recording: its action key is {ACTION} or {STATE}, its state key "
                f"{STATE}"
            )
        folders = episode_folders(path)
        for partial in reader.unfinished(path):
            raise DatasetError(f"{partial} is unfinished; run `nac data repair {partial}`")
        if not folders:
            raise DatasetError(f"{path} contains no recorded episode")
        return cls(path, folders, action_key or ACTION)

    def episode(self, index: int, images: bool = True) -> Episode:
        self._info(index)
        folder, number = self._locations[index]
        recording, metadata = self._resample(folder, images), self._metadata[folder]
        segment = recording.segments[number]
        frames, stamps = segment.observations, segment.stamps
        proprio = np.stack([frame.proprio[-1] for frame in frames])  # [T, D]
        outcome, unknown = metadata.get("outcome"), metadata.get(UNKNOWN, "").split()
        return Episode(
            proprio,
            self._actions(folder, recording, stamps, proprio),
            self._task(folder),
            {
                camera: np.stack([frame.images[camera][-1] for frame in frames])
                for camera in (self.cameras if images else ())
            },
            outcome == "success" if outcome in VERDICTS else None,
            stamps_ns=None if STAMPS in unknown else recording.to_nanoseconds(stamps),
            ages_ms={} if AGES in unknown else self._ages_ms(segment),
            intervention=(
                None if INTERVENTIONS in unknown else recording.intervention_mask(stamps)
            ),
        )

    def write_images(self, index: int, outs: Mapping[str, np.ndarray]) -> None:
        """Decodes images of episode `index` into `outs`, camera -> uint8 `[T, H, W, 3]` RGB, a
        few at a time."""
        folder, segment = self._locations[index]
        recording = RecordingResampler(self.spec, tuple(self.cameras), self._task(folder))
        try:
            resampler.write_images(reader.read_messages(folder), recording, segment, outs)
        except DatasetError as error:
            raise DatasetError(f"{folder}: {error}") from error

    def _ages_ms(self, segment: Segment) -> dict[str, np.ndarray]:
        """Camera -> float32 `[T]` [ms]."""
        return {
            camera: np.array([1e3 * ages[camera] for ages in segment.image_ages], np.float32)
            for camera in self.cameras
        }

    def _actions(
        self, folder: Path, recording: ResampledRecording, stamps: np.ndarray, proprio: np.ndarray
    ) -> np.ndarray:
        if self._action_key == STATE:
            return np.concatenate([proprio[1:], proprio[-1:]])
        if not recording.commands.times:
            raise DatasetError(
                f"{folder} has no {ACTION}, because no guard ran; choose --action-key {STATE}"
            )
        return recording.commands.interpolate(stamps + 1 / self.spec.action_rate_hz)

    def _task(self, folder: Path) -> str:
        return self._metadata[folder].get("task", "")

    def _resample_uncached(self, folder: Path, images: bool) -> ResampledRecording:
        messages = reader.read_messages(folder)
        try:
            return resampler.resample(
                messages, self.spec, self.cameras, self._task(folder), images
            )
        except DatasetError as error:
            raise DatasetError(f"{folder}: {error}; see `nac data check {self.root}`") from error


def episode_folders(path: Path) -> list[Path]:
    """Finished episodes below a folder, sorted by name, or the folder itself if it is one."""
    if reader.is_episode(path):
        return [path]
    return sorted(folder for folder in path.iterdir() if reader.is_episode(folder))


def robot_metadata(spec: RobotSpec) -> dict[str, str]:
    """The robot's name and description, as the recorder stores them with each episode."""
    return {
        "robot": spec.name,
        ROBOT_YAML: yaml.safe_dump(configs.to_plain(spec), sort_keys=False),
    }


def recorded_robot(metadata: Mapping[str, str]) -> RobotSpec:
    """The robot as it was when the episode was recorded; raises DatasetError."""
    if ROBOT_YAML in metadata:
        where = "the recording's robot"
        try:
            content = configs.parse_mapping(metadata[ROBOT_YAML], where)
            return configs.build(RobotSpec, content, where)
        except NacError as error:
            raise DatasetError(f"{error}; record it again, or correct `{ROBOT_YAML}`") from error
    if "robot" not in metadata:
        raise DatasetError("the recording's metadata names no robot; record it again")
    if metadata["robot"] not in list_robots():
        raise DatasetError(
            f"the recording is of robot '{show_text(metadata['robot'], 80)}'; known are: "
            f"{', '.join(list_robots())}"
        )
    return load_robot(metadata["robot"])
