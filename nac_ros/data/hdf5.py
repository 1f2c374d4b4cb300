"""Reads robomimic-style HDF5, LIBERO's too: `data/demo_<n>/actions`, `obs/<camera>_image`."""

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from nac_ros.data.episode import Episode, EpisodeInfo
from nac_ros.errors import DatasetError

DEFAULT_FPS = 20  # robosuite's and robomimic's control frequency
OWN_STATE = "obs/state"  # where our own files have it
CAMERA = re.compile(r"(?P<name>.+)_(image|rgb)")  # robomimic's and LIBERO's names of images


class Demo(NamedTuple):
    """One demonstration without its images."""

    key: str
    actions: np.ndarray
    states: np.ndarray
    task: str
    success: bool | None


class Hdf5Dataset:
    """One file, opened by `Hdf5Dataset.open`; images are read when an episode is asked for.

    The state is the data set `state_key` of each demonstration, e.g. `obs/robot0_joint_pos`;
    without one it is `obs/state`, and where there is none S = 0. Images are as stored: LIBERO's
    are upside down.
    """

    def __init__(self, root: Path, action_key: str, state_key: str | None):
        self.root = root
        self._action_key, self._state_key = action_key, state_key
        self.cameras: dict[str, tuple[int, int]] = {}
        self._pictures: dict[str, str] = {}
        self._demos: list[Demo] = []
        self._facts: dict[str, Any] = {}
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
        """Names of the D action dimensions, numbered ones where the file has none."""
        return self._named("names", "actions", self._action_key, self._demos[0].actions)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the S state dimensions."""
        return self._named("state_names", OWN_STATE, self._state_key or "", self._demos[0].states)

    @property
    def units(self) -> tuple[str, ...]:
        """Unit of each action dimension, "" where the file does not say."""
        known = self._facts.get("units", ()) if self._action_key == "actions" else ()
        return tuple(known) or ("",) * len(self.names)

    @property
    def tasks(self) -> list[str]:
        """Task texts in the order in which they come first."""
        return list(dict.fromkeys(demo.task for demo in self._demos))

    @cached_property
    def episodes(self) -> list[EpisodeInfo]:
        """Length and task of each demonstration."""
        return [EpisodeInfo(len(demo.actions), demo.task) for demo in self._demos]

    def episode(self, index: int, images: bool = True) -> Episode:
        """Demonstration `index` in the order of their numbers."""
        if not 0 <= index < len(self._demos):
            raise DatasetError(f"{self.root} has no episode {index}; it has {len(self._demos)}")
        demo = self._demos[index]
        with h5py.File(self.root) as file:
            group, length = file[f"data/{demo.key}"], len(demo.actions)
            ages = group.get("age_ms", {})
            return Episode(
                demo.states,
                demo.actions,
                demo.task,
                {c: self._images(group, c, length) for c in self.cameras} if images else {},
                demo.success,
                stamps_ns=_column(group, "stamp_ns", length),
                ages_ms={camera: ages[camera][:length] for camera in ages},
                intervention=_column(group, "intervention", length),
            )

    def _load(self, file: h5py.File) -> None:
        group = file.get("data")
        keys = [n for n in (group or ()) if n.startswith("demo_")]
        if not keys:
            raise DatasetError(f"{self.root} holds no data/demo_* group; is it robomimic-style?")
        self._describe(group.attrs)
        keys.sort(key=_number)
        if self._state_key is None and OWN_STATE in group[keys[0]]:
            self._state_key = OWN_STATE
        self._find_cameras(group[keys[0]])
        self._demos = [self._demo(group[key], key) for key in keys]

    def _demo(self, demo: h5py.Group, key: str) -> Demo:
        actions = self._read(demo, self._action_key)
        states = np.zeros((len(actions), 0), np.float32)
        if self._state_key:
            states = self._read(demo, self._state_key)
        if len(states) != len(actions):
            raise DatasetError(
                f"{self.root}: {key} has {len(actions)} actions and {len(states)} states"
            )
        if self._state_key == self._action_key:  # the action is the next state
            actions, states = actions[1:], states[:-1]
        task = str(demo.attrs.get("task", self._task))
        return Demo(key, actions, states, task, self._success(demo))

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

    def _success(self, demo: h5py.Group) -> bool | None:
        """What our own files say; else a sparse reward that was given. Shaped rewards say nothing,
        and no reward is no failure: many files were never rewarded."""
        if "success" in demo.attrs:
            return bool(demo.attrs["success"])
        if self._facts or self._shaped or "rewards" not in demo:
            return None
        return True if np.any(demo["rewards"][()] > 0) else None

    def _find_cameras(self, demo: h5py.Group) -> None:
        for key, found in demo.get("obs", {}).items():
            match = CAMERA.fullmatch(key)
            if match and found.ndim == 4 and found.shape[3] == 3 and found.dtype == np.uint8:
                self._pictures[match["name"]] = f"obs/{key}"
                self.cameras[match["name"]] = (found.shape[1], found.shape[2])

    def _images(self, demo: h5py.Group, camera: str, length: int) -> np.ndarray:
        found = demo.get(self._pictures[camera])
        if found is None or len(found) < length or found.shape[1:3] != self.cameras[camera]:
            shape = None if found is None else found.shape
            raise DatasetError(
                f"{self.root}: {demo.name} should have {length} images of {camera} of "
                f"{self.cameras[camera]} pixels, its shape is {shape}"
            )
        return found[:length]

    def _named(self, fact: str, own: str, key: str, values: np.ndarray) -> tuple[str, ...]:
        known = self._facts.get(fact, ()) if key == own else ()
        return tuple(known) or tuple(f"{key}.{i}" for i in range(values.shape[1]))

    def _describe(self, attributes: Any) -> None:
        """Task, robot and rate: robosuite's `env_info`, robomimic's `env_args`, LIBERO's
        `problem_info`, and names and units from our own `nac`."""
        self._facts = json.loads(attributes.get("nac", "{}"))
        facts = json.loads(attributes.get("env_args", attributes.get("env_info", "{}")))
        details = facts.get("env_kwargs", facts)
        self.fps = int(details.get("control_freq", DEFAULT_FPS))
        self._shaped = bool(details.get("reward_shaping", False))
        said = json.loads(attributes.get("problem_info", "{}")).get("language_instruction")
        name = attributes.get("env", facts.get("env_name", self._task))
        self._task = str(name) if said is None else "".join(said)
        robots = details.get("robots", "")
        self.robot_type = robots if isinstance(robots, str) else "+".join(robots)


def _column(demo: h5py.Group, key: str, length: int) -> np.ndarray | None:
    return demo[key][:length] if key in demo else None


def _number(name: str) -> int:
    digits = re.search(r"\d+", name)
    return int(digits.group()) if digits else 0
