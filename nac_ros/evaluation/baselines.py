"""Baselines to compare success rates with, and an engine that records its timing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from nac_ros.core.errors import DatasetError
from nac_ros.core.types import ActionChunk, Observation
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.inference.chunk_transition import CurrentChunk
from nac_ros.inference.engine import Engine, InferenceTime
from nac_ros.robot.spec import RobotSpec


class ChunkPredictor(Protocol):
    """Interface that a rollout needs from a policy; Engine implements it."""

    n_obs_steps: int
    n_past_commands: int
    n_action_steps: int
    cameras: tuple[str, ...]

    def predict_chunk(
        self, observation: Observation, current: CurrentChunk | None = None
    ) -> ActionChunk:
        """The chunk for an observation, which continues the one being executed."""


class TimedEngine:
    """An engine that keeps the timing of every prediction."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.timings: list[InferenceTime] = []
        self.n_obs_steps, self.cameras = engine.n_obs_steps, engine.cameras
        self.n_past_commands = engine.n_past_commands
        self.n_action_steps, self.horizon = engine.n_action_steps, engine.horizon

    def predict_chunk(
        self, observation: Observation, current: CurrentChunk | None = None
    ) -> ActionChunk:
        chunk = self._engine.predict_chunk(observation, current)
        self.timings.append(self._engine.timing)
        return chunk


class BlackImageBaseline(TimedEngine):
    """The policy with black images: its success rate without vision."""

    def predict_chunk(
        self, observation: Observation, current: CurrentChunk | None = None
    ) -> ActionChunk:
        black = {name: np.zeros_like(image) for name, image in observation.images.items()}
        return super().predict_chunk(replace(observation, images=black), current)


class MeanDemonstrationBaseline:
    """Replays the mean demonstration of a task by the time since the trial started.

    actions: set-points `[T, D]` at the control rate
    """

    n_obs_steps, n_past_commands = 1, 0
    cameras: tuple[str, ...] = ()

    def __init__(self, spec: RobotSpec, actions: np.ndarray, horizon: int, n_action_steps: int):
        self._spec, self._actions, self._horizon = spec, actions, horizon
        self.n_action_steps = n_action_steps

    def predict_chunk(
        self, observation: Observation, current: CurrentChunk | None = None
    ) -> ActionChunk:
        rate = self._spec.action_rate_hz
        steps = round(observation.stamp * rate) + np.arange(self._horizon)
        actions = self._actions[np.minimum(steps, len(self._actions) - 1)].astype(np.float32)
        no_tokens = np.empty(0, np.int64)
        return ActionChunk(observation.stamp, rate, self._spec.joint_names, actions, no_tokens)


def mean_demonstration(paths: Sequence[Path | str], prompt: str) -> np.ndarray:
    """Mean set-points `[T, D]` of a task's demonstrations, resampled to their median length T."""
    episodes = [actions for path in paths for actions in _actions(path, prompt)]
    if not episodes:
        raise DatasetError(f"no demonstration of '{prompt}' in {', '.join(map(str, paths))}")
    length = int(np.median([len(actions) for actions in episodes]))
    return np.mean([_resampled(actions, length) for actions in episodes], axis=0)


def _actions(path: Path | str, prompt: str) -> list[np.ndarray]:
    dataset = LeRobotDataset.open(path)
    indices = [i for i, episode in enumerate(dataset.episodes) if episode.tasks == (prompt,)]
    return [dataset.episode(i, images=False).actions for i in indices]


def _resampled(actions: np.ndarray, length: int) -> np.ndarray:
    steps, times = np.arange(len(actions)), np.linspace(0, len(actions) - 1, length)
    return np.stack([np.interp(times, steps, column) for column in actions.T], 1)
