"""Reads and writes HDF5 of robomimic and LIBERO: `data/demo_<n>/actions`, `obs/<camera>_image`."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from nac_ros.core import files
from nac_ros.core.errors import DatasetError, show_text
from nac_ros.datasets import hdf5_access as access
from nac_ros.datasets.compatibility import numbered_names
from nac_ros.datasets.episode import Episode, EpisodeInfo, EpisodeReader
from nac_ros.datasets.hdf5_access import open_hdf5

DEFAULT_FPS = 20  # control frequency of robosuite and robomimic
MAX_FPS = 100_000  # [Hz] no arm is commanded at a higher rate
ACTIONS = "actions"
OWN_STATE = "obs/state"  # the state in files of this package
OWN_ENVIRONMENT, ROBOMIMIC_ENVIRONMENT = "obs/environment_state", "obs/object"
OWN_METADATA = "nac"  # attribute with everything that robomimic's format has no place for
ROBOSUITE = 1  # robomimic's number of the environment type
DEMO = re.compile(r"demo_.*")
CAMERA = re.compile(r"(?P<name>[\w.-]+)_(image|rgb)")  # robomimic's and LIBERO's names of images


class Demo(NamedTuple):
    """Table entry of a demonstration: its group, number of frames T, task and verdict."""

    key: str
    length: int
    task: str
    success: bool | None


class Hdf5Dataset(EpisodeReader):
    """One file, opened by `Hdf5Dataset.open`; an episode is read on demand.

    The state is the data set `state_key` of each demonstration, such as `obs/robot0_joint_pos`,
    by default `obs/state`; without one S = 0. The environment state is robomimic's `obs/object`,
    or that of this package. Images are returned as stored: LIBERO's are upside down.
    """

    def __init__(self, root: Path, action_key: str, state_key: str | None):
        self.root, self.files = root, [root]
        self._action_key, self._state_key = action_key, state_key
        self._environment_key, self._environment_dim = "", 0  # without an environment state
        self.cameras: dict[str, tuple[int, int]] = {}
        self._image_keys: dict[str, str] = {}
        self._demos: list[Demo] = []
        self._own_metadata: dict[str, Any] = {}
        self._dims = (0, 0)  # D and S
        self.fps: float = DEFAULT_FPS
        self.robot_type, self._task, self._shaped_rewards = "", root.stem, False

    @classmethod
    def open(
        cls, path: Path | str, action_key: str | None = None, state_key: str | None = None
    ) -> "Hdf5Dataset":
        """The file's demonstrations; raises DatasetError naming what is missing."""
        path = Path(path)
        dataset = cls(path, action_key or ACTIONS, state_key)
        with open_hdf5(path) as file:
            dataset._read_table(file)
        dataset._name_dimensions()
        return dataset

    def _name_dimensions(self) -> None:
        """Names and units from this package's attribute, else numbered names and no units."""
        (d, s), own_actions = self._dims, self._action_key == ACTIONS
        names = self._own_texts("names", d) if own_actions else ()
        units = self._own_texts("units", d) if own_actions else ()
        states = self._own_texts("state_names", s) if self._state_key == OWN_STATE else ()
        self.names = names or numbered_names(self._action_key, d)
        self.state_names = states or numbered_names(self._state_key or "", s)
        self.units = units or ("",) * d
        self.environment_names = numbered_names(self._environment_key, self._environment_dim)

    def episode(self, index: int, images: bool = True) -> Episode:
        self._info(index)
        demo = self._demos[index]
        with open_hdf5(self.root) as file:
            group = self._group(file, demo.key)
            actions, states = self._read_vectors(group)
            frames = {
                camera: np.empty((demo.length, *size, 3), np.uint8)
                for camera, size in (self.cameras.items() if images else ())
            }
            self._read_images(group, frames)
            ages = {c: access.column(group, f"age_ms/{c}", demo.length) for c in self.cameras}
            environment = None
            if self._environment_key:
                table = access.require_table(group, self._environment_key)
                environment = access.read_table(table)[: demo.length]
            return Episode(
                states,
                actions,
                demo.task,
                frames,
                demo.success,
                stamps_ns=access.column(group, "stamp_ns", demo.length),
                ages_ms={camera: ms for camera, ms in ages.items() if ms is not None},
                intervention=access.column(group, "intervention", demo.length),
                environment_state=environment,
            )

    def write_images(self, index: int, outs: Mapping[str, np.ndarray]) -> None:
        """Reads images of demonstration `index` into `outs`, camera -> uint8 `[T, H, W, 3]` RGB,
        a few frames at a time."""
        self._info(index)
        with open_hdf5(self.root) as file:
            self._read_images(self._group(file, self._demos[index].key), outs)

    def _read_table(self, file: h5py.File) -> None:
        group = access.subgroup(file, "data")
        keys = [name for name in access.names_in(group) if DEMO.fullmatch(name)]
        if group is None or not keys:
            raise DatasetError(f"{self.root} has no data/demo_* group; is it robomimic-style?")
        self._read_attributes(group.attrs)
        keys.sort(key=_number)
        first = self._group(file, keys[0])
        if self._state_key is None and access.table(first, OWN_STATE) is not None:
            self._state_key = OWN_STATE
        for key in (OWN_ENVIRONMENT, ROBOMIMIC_ENVIRONMENT):
            if not self._environment_key and access.table(first, key) is not None:
                self._environment_key = key
        self._find_cameras(first)
        self._dims = self._find_dims(first)
        self._demos = [self._read_demo(self._group(file, key), key) for key in keys]
        self.episodes = [EpisodeInfo(demo.length, demo.task) for demo in self._demos]

    def _group(self, file: h5py.File, key: str) -> h5py.Group:
        group = access.subgroup(file, f"data/{key}")
        if group is None:
            raise DatasetError(f"{self.root}: data/{show_text(key)} is not a group")
        return group

    def _read_demo(self, group: h5py.Group, key: str) -> Demo:
        if self._find_dims(group) != self._dims:
            raise DatasetError(
                f"{self.root}: {show_text(key)} has {self._find_dims(group)} dimensions of action "
                f"and state, the first demonstration has {self._dims}"
            )
        length = len(access.require_table(group, self._action_key))
        if self._state_key:
            states = len(access.require_table(group, self._state_key))
            if states != length:
                raise DatasetError(
                    f"{self.root}: {show_text(key)} has {length} actions and {states} states"
                )
        self._check_environment(group, key, length)
        if self._next_state_is_action:
            length = max(0, length - 1)
        task = access.text_attribute(group.attrs, "task")
        return Demo(key, length, self._task if task is None else task, self._success(group))

    def _check_environment(self, group: h5py.Group, key: str, length: int) -> None:
        """Raises DatasetError unless the environment state has the `length` of the actions and
        the dimensions of the first demonstration."""
        if not self._environment_key:
            return
        shape = access.require_table(group, self._environment_key).shape
        self._environment_dim = self._environment_dim or shape[1]
        if shape != (length, self._environment_dim):
            raise DatasetError(
                f"{self.root}: {self._environment_key} of {show_text(key)} is {shape}, wanted "
                f"{(length, self._environment_dim)}"
            )

    @property
    def _next_state_is_action(self) -> bool:
        return self._state_key == self._action_key

    def _find_dims(self, group: h5py.Group) -> tuple[int, int]:
        """D and S."""
        action_dim = access.require_table(group, self._action_key).shape[1]
        if not self._state_key:
            return action_dim, 0
        return action_dim, access.require_table(group, self._state_key).shape[1]

    def _read_vectors(self, group: h5py.Group) -> tuple[np.ndarray, np.ndarray]:
        """Actions `[T, D]` and states `[T, S]`, float32."""
        actions = access.read_table(access.require_table(group, self._action_key))
        if self._next_state_is_action:
            return actions[1:], actions[:-1]
        if self._state_key is None:
            return actions, np.zeros((len(actions), 0), np.float32)
        return actions, access.read_table(access.require_table(group, self._state_key))

    def _success(self, demo: h5py.Group) -> bool | None:
        """The verdict in files of this package, else True for a positive sparse reward.

        Otherwise None: shaped rewards give no verdict, and a file without a positive reward may
        just lack rewards, as many do.
        """
        verdict = demo.attrs.get("success")
        if verdict is not None:
            return bool(verdict)
        rewards = access.find(demo, "rewards")
        if self._own_metadata or self._shaped_rewards or not isinstance(rewards, h5py.Dataset):
            return None
        values = access.column(demo, "rewards", rewards.shape[0] if rewards.ndim else 0)
        return True if values is not None and np.any(values > 0) else None

    def _find_cameras(self, demo: h5py.Group) -> None:
        observations = access.subgroup(demo, "obs")
        for key in access.names_in(observations):
            match = CAMERA.fullmatch(key)
            found = access.find(observations, key) if match else None
            if match and access.is_images(found):
                self._image_keys[match["name"]] = f"obs/{key}"
                self.cameras[match["name"]] = (found.shape[1], found.shape[2])

    def _read_images(self, demo: h5py.Group, outs: Mapping[str, np.ndarray]) -> None:
        for camera, out in outs.items():
            found, size = access.find(demo, self._image_keys[camera]), self.cameras[camera]
            readable = access.is_images(found) and found.shape[1:3] == size
            if not readable or len(found) < len(out):
                raise DatasetError(
                    f"{self.root}: {show_text(demo.name)} should have {len(out)} images of "
                    f"{camera} of {size} pixels, its shape is {getattr(found, 'shape', None)}"
                )
            access.check_storage(found)
            for first, frames in access.blocks(found, len(out)):
                out[first : first + len(frames)] = frames

    def _own_texts(self, key: str, count: int) -> tuple[str, ...]:
        """Texts in the attribute of this package, () if it has none; raises DatasetError if they
        are not `count` texts."""
        texts = self._own_metadata.get(key) or ()
        if not isinstance(texts, (list, tuple)) or not all(isinstance(t, str) for t in texts):
            raise DatasetError(
                f"{self.root}: the attribute '{OWN_METADATA}' has {key} that are no texts"
            )
        if texts and len(texts) != count:
            raise DatasetError(
                f"{self.root}: the attribute '{OWN_METADATA}' has {len(texts)} {key} for {count} "
                "dimensions"
            )
        return tuple(texts)

    def _read_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Task, robot and rate from robosuite's `env_info`, robomimic's `env_args` and LIBERO's
        `problem_info`; names and units from this package's attribute."""
        self._own_metadata = access.json_attribute(attributes, OWN_METADATA)
        key = "env_args" if "env_args" in attributes else "env_info"
        environment = access.json_attribute(attributes, key)
        details = environment.get("env_kwargs", environment)
        if not isinstance(details, dict):
            raise DatasetError(f"{self.root}: env_kwargs of {key} is no JSON object")
        self.fps = self._check_rate(details.get("control_freq", DEFAULT_FPS))
        self._shaped_rewards = bool(details.get("reward_shaping", False))
        self.robot_type = "+".join(map(str, _as_list(details.get("robots", ""))))
        problem = access.json_attribute(attributes, "problem_info")
        instruction = problem.get("language_instruction")
        name = access.text_attribute(attributes, "env") or environment.get("env_name", self._task)
        self._task = str(name) if instruction is None else "".join(map(str, _as_list(instruction)))

    def _check_rate(self, value: Any) -> float:
        """The rate [Hz], an int if it is whole; raises DatasetError if it is none."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < MAX_FPS:
            raise DatasetError(
                f"{self.root}: control_freq is {show_text(value)}, wanted a rate in Hz below "
                f"{MAX_FPS}"
            )
        return int(value) if value == int(value) else float(value)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _number(name: str) -> int:
    digits = re.search(r"\d+", name[:300])
    return int(digits.group()) if digits else 0


@dataclass(frozen=True, kw_only=True)
class Hdf5Metadata:
    """Metadata of a file; more: any JSON object."""

    names: Sequence[str]
    state_names: Sequence[str]
    units: Sequence[str]
    fps: float
    robot_type: str
    tasks: Sequence[str]
    more: Mapping[str, Any]


def write_hdf5(path: Path, metadata: Hdf5Metadata, episodes: Iterable[Episode]) -> None:
    """Writes a file that appears when it is complete: `data/demo_<n>` of each episode with
    `actions`, `dones`, `rewards`, `obs/state` if it has a state, and `obs/<camera>_image`.

    The reward is 1 at the last frame of a successful episode, else 0.
    """
    files.replace_atomically(path, lambda temporary: _write(temporary, metadata, episodes))


def read_own_metadata(path: Path) -> dict[str, Any]:
    """`Hdf5Metadata.more` of the file; {} if another program wrote it."""
    with open_hdf5(path) as file:
        data = access.subgroup(file, "data")
        if data is None:
            return {}
        more = access.json_attribute(data.attrs, OWN_METADATA).get("more", {})
        return more if isinstance(more, dict) else {}


def _write(path: Path, metadata: Hdf5Metadata, episodes: Iterable[Episode]) -> None:
    environment = {
        "env_name": metadata.tasks[0] if metadata.tasks else metadata.robot_type,
        "type": ROBOSUITE,
        "env_kwargs": {"control_freq": metadata.fps, "robots": metadata.robot_type},
    }
    own = {key: getattr(metadata, key) for key in ("names", "state_names", "units", "more")}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        total = 0
        for number, episode in enumerate(episodes):
            _write_demo(data.create_group(f"demo_{number}"), episode)
            total += len(episode)
        data.attrs["total"] = total
        data.attrs["env_args"] = json.dumps(environment)
        if len(metadata.tasks) == 1:
            data.attrs["problem_info"] = json.dumps({"language_instruction": metadata.tasks[0]})
        data.attrs[OWN_METADATA] = json.dumps(own)


def _write_demo(demo: h5py.Group, episode: Episode) -> None:
    last = np.zeros(len(episode), bool)
    last[-1] = True
    demo[ACTIONS] = np.asarray(episode.actions, np.float32)
    demo["dones"] = last.astype(np.int64)
    demo["rewards"] = (last & bool(episode.success)).astype(np.float64)
    if episode.proprio.shape[1]:
        demo[OWN_STATE] = np.asarray(episode.proprio, np.float32)
    if episode.environment_state is not None:
        demo[OWN_ENVIRONMENT] = np.asarray(episode.environment_state, np.float32)
    for camera, images in episode.images.items():
        demo.create_dataset(
            f"obs/{camera}_image",
            data=images,
            compression="gzip",
            compression_opts=1,
            chunks=(1, *images.shape[1:]),
        )
    for camera, ages in episode.ages_ms.items():
        demo[f"age_ms/{camera}"] = ages
    if episode.stamps_ns is not None:
        demo["stamp_ns"] = episode.stamps_ns
    if episode.intervention is not None:
        demo["intervention"] = episode.intervention
    demo.attrs["num_samples"] = len(episode)
    demo.attrs["task"] = episode.task
    if episode.success is not None:
        demo.attrs["success"] = episode.success
