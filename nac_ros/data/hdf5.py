"""Reads robomimic-style HDF5: `data/demo_<n>/actions`, and a state where the file has one."""

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nac_ros.data.episode import Episode, EpisodeInfo
from nac_ros.errors import DatasetError

DEFAULT_FPS = 20  # robosuite's and robomimic's control frequency


class Hdf5Dataset:
    """One file, opened by `Hdf5Dataset.open`; it has no images.

    The state is the data set `state_key` of each demonstration, e.g. `obs/robot0_joint_pos`;
    without one S = 0.
    """

    def __init__(self, root: Path, action_key: str, state_key: str | None):
        self.root = root
        self._action_key, self._state_key = action_key, state_key
        self.cameras: dict[str, tuple[int, int]] = {}
        self._demos: list[tuple[np.ndarray, np.ndarray]] = []
        self.fps, self.robot_type, self._task = DEFAULT_FPS, "", root.stem

    @classmethod
    def open(
        cls, path: Path | str, action_key: str | None = None, state_key: str | None = None
    ) -> "Hdf5Dataset":
        """The file's demonstrations; raises DatasetError naming what is missing."""
        path = Path(path)
        dataset = cls(path, action_key or "actions", state_key)
        try:
            with h5py.File(path) as file:
                dataset._load(file)
        except OSError as error:
            raise DatasetError(f"{path} is no HDF5 file: {error}") from error
        return dataset

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the D action dimensions; the format has none of its own."""
        return tuple(f"{self._action_key}.{i}" for i in range(self._demos[0][0].shape[1]))

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the S state dimensions."""
        return tuple(f"{self._state_key}.{i}" for i in range(self._demos[0][1].shape[1]))

    @property
    def units(self) -> tuple[str, ...]:
        return ("",) * len(self.names)

    @property
    def tasks(self) -> list[str]:
        return [self._task]

    @cached_property
    def episodes(self) -> list[EpisodeInfo]:
        return [EpisodeInfo(len(actions), self._task) for actions, _ in self._demos]

    def episode(self, index: int, images: bool = False) -> Episode:
        """Demonstration `index` in the order of their numbers."""
        if not 0 <= index < len(self._demos):
            raise DatasetError(f"{self.root} has no episode {index}; it has {len(self._demos)}")
        actions, states = self._demos[index]
        return Episode(states, actions, self._task)

    def _load(self, file: h5py.File) -> None:
        group = file.get("data")
        names = [n for n in (group or ()) if n.startswith("demo_")]
        if not names:
            raise DatasetError(f"{self.root} holds no data/demo_* group; is it robomimic-style?")
        for name in sorted(names, key=_number):
            actions = self._read(group[name], self._action_key)
            states = np.zeros((len(actions), 0), np.float32)
            if self._state_key:
                states = self._read(group[name], self._state_key)
            if self._state_key == self._action_key:  # the action is the next state
                actions, states = actions[1:], states[:-1]
            self._demos.append((actions, states))
        self._describe(group.attrs)

    def _read(self, demo: h5py.Group, key: str) -> np.ndarray:
        found = demo.get(key)
        if not isinstance(found, h5py.Dataset) or found.ndim != 2:
            known: list[str] = []
            demo.visititems(lambda n, o: known.append(n) if getattr(o, "ndim", 0) == 2 else None)
            raise DatasetError(
                f"{self.root}: {demo.name} has no table '{key}'; choose one with --action-key "
                f"or --state-key: {', '.join(known)}"
            )
        return np.asarray(found[()], np.float32)

    def _describe(self, attributes: Any) -> None:
        """Task, robot and rate from robosuite's `env_info` or robomimic's `env_args`."""
        text = attributes.get("env_args", attributes.get("env_info", "{}"))
        facts = json.loads(text)
        details = facts.get("env_kwargs", facts)
        self.fps = int(details.get("control_freq", DEFAULT_FPS))
        self._task = str(attributes.get("env", facts.get("env_name", self._task)))
        robots = details.get("robots", "")
        self.robot_type = robots if isinstance(robots, str) else "+".join(robots)


def _number(name: str) -> int:
    digits = re.search(r"\d+", name)
    return int(digits.group()) if digits else 0
