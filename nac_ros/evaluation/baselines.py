"""Controls that show what a success rate is worth: a blind policy, and one that never looks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from nac_ros.core.errors import DatasetError
from nac_ros.core.types import ActionChunk, Observation
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.inference.chunk_transition import CurrentChunk
from nac_ros.inference.engine import Engine, Timing
from nac_ros.robot.spec import RobotSpec


class ChunkPredictor(Protocol):
    """What a trial needs of a policy; Engine is one."""

    n_obs_steps: int
    n_action_steps: int
    cameras: tuple[str, ...]

    def predict_chunk(
        self, observation: Observation, underway: CurrentChunk | None = None
    ) -> ActionChunk:
        """The chunk for an observation, which goes on from what is `underway`."""


class TimedEngine:
    """An engine that keeps what each plan took."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.timings: list[Timing] = []
        self.n_obs_steps, self.cameras = engine.n_obs_steps, engine.cameras
        self.n_action_steps, self.horizon = engine.n_action_steps, engine.horizon

    def predict_chunk(
        self, observation: Observation, underway: CurrentChunk | None = None
    ) -> ActionChunk:
        chunk = self._engine.predict_chunk(observation, underway)
        self.timings.append(self._engine.timing)
        return chunk


class BlackImageBaseline:
    """The policy behind closed eyes: every image is black."""

    def __init__(self, engine: ChunkPredictor):
        self._engine = engine
        self.n_obs_steps, self.cameras = engine.n_obs_steps, engine.cameras
        self.n_action_steps = engine.n_action_steps

    def predict_chunk(
        self, observation: Observation, underway: CurrentChunk | None = None
    ) -> ActionChunk:
        dark = {name: np.zeros_like(image) for name, image in observation.images.items()}
        seen = Observation(observation.stamp, dark, observation.proprio, observation.task)
        return self._engine.predict_chunk(seen, underway)


class MeanDemonstrationBaseline:
    """Plays the mean of a task's demonstrations by the time since the trial began."""

    n_obs_steps = 1
    cameras: tuple[str, ...] = ()

    def __init__(self, spec: RobotSpec, actions: np.ndarray, horizon: int, n_action_steps: int):
        self._spec, self._actions, self._horizon = spec, actions, horizon
        self.n_action_steps = n_action_steps

    def predict_chunk(
        self, observation: Observation, underway: CurrentChunk | None = None
    ) -> ActionChunk:
        rate = self._spec.action_rate_hz
        steps = round(observation.stamp * rate) + np.arange(self._horizon)
        actions = self._actions[np.minimum(steps, len(self._actions) - 1)].astype(np.float32)
        none = np.empty(0, np.int64)
        return ActionChunk(observation.stamp, rate, self._spec.joint_names, actions, none)


def mean_demonstration(paths: Sequence[Path | str], prompt: str) -> np.ndarray:
    """Mean set-points `[T, D]` of a task's demonstrations, T their median length.

    Each demonstration is stretched to T first, so that phases line up as well as time allows.
    """
    episodes = [actions for path in paths for actions in _actions(path, prompt)]
    if not episodes:
        raise DatasetError(f"no demonstration of '{prompt}' in {', '.join(map(str, paths))}")
    length = int(np.median([len(actions) for actions in episodes]))
    return np.mean([_stretched(actions, length) for actions in episodes], axis=0)


def _actions(path: Path | str, prompt: str) -> list[np.ndarray]:
    dataset = LeRobotDataset.open(path)
    chosen = [i for i, episode in enumerate(dataset.episodes) if episode.tasks == (prompt,)]
    return [dataset.episode(i, images=False).actions for i in chosen]


def _stretched(actions: np.ndarray, length: int) -> np.ndarray:
    at = np.linspace(0, len(actions) - 1, length)
    index = np.arange(len(actions))
    return np.stack([np.interp(at, index, column) for column in actions.T], 1)
