"""Reads robomimic-style HDF5, LIBERO's too: `data/demo_<n>/actions`, `obs/<camera>_image`."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from nac_ros.core import files
from nac_ros.core.errors import DatasetError, show_text
from nac_ros.datasets import hdf5_access as access
from nac_ros.datasets.episode import Episode, EpisodeInfo
from nac_ros.datasets.hdf5_access import json_attribute, open_hdf5, subgroup

DEFAULT_FPS = 20  # robosuite's and robomimic's control frequency
FASTEST = 100_000  # [Hz] no arm is commanded at a higher rate
OWN_STATE = "obs/state"  # where our own files have it
DEMO = re.compile(r"demo_.*")
CAMERA = re.compile(r"(?P<name>[\w.-]+)_(image|rgb)")  # robomimic's and LIBERO's names of images
LARGEST_IMAGE = 1 << 28  # [bytes] of one frame


class Demo(NamedTuple):
    """One demonstration as it is listed: its group, frames T, task and verdict."""

    key: str
    length: int
    task: str
    success: bool | None


class Hdf5Dataset:
    """One file, opened by `Hdf5Dataset.open`; an episode is read when it is asked for.

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
        self._dims = (0, 0)  # D and S
        self.fps: float = DEFAULT_FPS
        self.robot_type, self._task, self._shaped = "", root.stem, False

    @classmethod
    def open(
        cls, path: Path | str, action_key: str | None = None, state_key: str | None = None
    ) -> "Hdf5Dataset":
        """The file's demonstrations; raises DatasetError naming what is missing."""
        path = Path(path)
        dataset = cls(path, action_key or "actions", state_key)
        with open_hdf5(path) as file:
            dataset._load(file)
        return dataset

    @property
    def files(self) -> list[Path]:
        """The files that hold the data."""
        return [self.root]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the D action dimensions, numbered ones where the file has none."""
        return self._named("names", "actions", self._action_key, self._dims[0])

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the S state dimensions."""
        return self._named("state_names", OWN_STATE, self._state_key or "", self._dims[1])

    @property
    def units(self) -> tuple[str, ...]:
        """Unit of each action dimension, "" where the file does not say."""
        if self._action_key != "actions":
            return ("",) * self._dims[0]
        return self._fact("units", self._dims[0]) or ("",) * self._dims[0]

    @property
    def tasks(self) -> list[str]:
        """Task texts in the order in which they come first."""
        return list(dict.fromkeys(demo.task for demo in self._demos))

    @cached_property
    def episodes(self) -> list[EpisodeInfo]:
        """Length and task of each demonstration."""
        return [EpisodeInfo(demo.length, demo.task) for demo in self._demos]

    def episode(self, index: int, images: bool = True) -> Episode:
        """Demonstration `index` in the order of their numbers."""
        demo = self._demo(index)
        with open_hdf5(self.root) as file:
            group = self._group(file, demo.key)
            actions, states = self._numbers(group, demo)
            pictures = {
                camera: np.empty((demo.length, *size, 3), np.uint8)
                for camera, size in (self.cameras.items() if images else ())
            }
            self._read_images(group, pictures)
            return Episode(
                states,
                actions,
                demo.task,
                pictures,
                demo.success,
                stamps_ns=access.column(group, "stamp_ns", demo.length),
                ages_ms=self._ages(group, demo.length),
                intervention=access.column(group, "intervention", demo.length),
            )

    def write_images(self, index: int, outs: Mapping[str, np.ndarray]) -> None:
        """Reads images of demonstration `index` into `outs`: camera -> uint8 `[T, H, W, 3]` RGB,
        a few frames at a time."""
        demo = self._demo(index)
        with open_hdf5(self.root) as file:
            self._read_images(self._group(file, demo.key), outs)

    def _demo(self, index: int) -> Demo:
        if not 0 <= index < len(self._demos):
            raise DatasetError(f"{self.root} has no episode {index}; it has {len(self._demos)}")
        return self._demos[index]

    def _group(self, file: h5py.File, key: str) -> h5py.Group:
        group = access.subgroup(file, f"data/{key}")
        if group is None:
            raise DatasetError(
                f"{self.root}: data/{show_text(key)} is no group of a demonstration"
            )
        return group

    def _load(self, file: h5py.File) -> None:
        group = access.subgroup(file, "data")
        keys = [name for name in access.names_in(group) if DEMO.fullmatch(name)]
        if group is None or not keys:
            raise DatasetError(f"{self.root} holds no data/demo_* group; is it robomimic-style?")
        self._describe(group.attrs)
        keys.sort(key=_number)
        first = self._group(file, keys[0])
        if self._state_key is None and access.table(first, OWN_STATE) is not None:
            self._state_key = OWN_STATE
        self._find_cameras(first)
        self._dims = self._dims_of(first)
        self._demos = [self._listed(self._group(file, key), key) for key in keys]

    def _listed(self, group: h5py.Group, key: str) -> Demo:
        if self._dims_of(group) != self._dims:
            raise DatasetError(
                f"{self.root}: {show_text(key)} has {self._dims_of(group)} dimensions of action "
                f"and state, the first demonstration has {self._dims}"
            )
        length = len(self._table(group, self._action_key))
        if self._state_key:
            states = len(self._table(group, self._state_key))
            if states != length:
                raise DatasetError(
                    f"{self.root}: {show_text(key)} has {length} actions and {states} states"
                )
        if self._shifted:
            length = max(0, length - 1)
        task = access.text_attribute(group.attrs, "task")
        return Demo(key, length, self._task if task is None else task, self._success(group))

    @property
    def _shifted(self) -> bool:
        """Whether the action of a frame is the next frame's state."""
        return self._state_key == self._action_key

    def _dims_of(self, group: h5py.Group) -> tuple[int, int]:
        state = self._table(group, self._state_key).shape[1] if self._state_key else 0
        return self._table(group, self._action_key).shape[1], state

    def _numbers(self, group: h5py.Group, demo: Demo) -> tuple[np.ndarray, np.ndarray]:
        """Actions `[T, D]` and states `[T, S]`, float32."""
        actions = _read(self._table(group, self._action_key))
        if self._shifted:
            return actions[1:], actions[:-1]
        if self._state_key is None:
            return actions, np.zeros((len(actions), 0), np.float32)
        return actions, _read(self._table(group, self._state_key))

    def _table(self, demo: h5py.Group, key: str) -> h5py.Dataset:
        found = access.table(demo, key)
        if found is None or not found.shape[1]:
            known = ", ".join(show_text(name) for name in access.tables_in(demo)[:20]) or "none"
            raise DatasetError(
                f"{self.root}: {show_text(demo.name)} has no table '{key}'; choose one with "
                f"--action-key or --state-key: {known}"
            )
        return found

    def _success(self, demo: h5py.Group) -> bool | None:
        """What our own files say; else a sparse reward that was given. Shaped rewards say nothing,
        and no reward is no failure: many files were never rewarded."""
        said = demo.attrs.get("success")
        if said is not None:
            return bool(said)
        rewards = access.find(demo, "rewards")
        if self._facts or self._shaped or not isinstance(rewards, h5py.Dataset):
            return None
        values = access.column(demo, "rewards", rewards.shape[0] if rewards.ndim else 0)
        return True if values is not None and np.any(values > 0) else None

    def _find_cameras(self, demo: h5py.Group) -> None:
        observed = access.subgroup(demo, "obs")
        for key in access.names_in(observed):
            match = CAMERA.fullmatch(key)
            found = access.find(observed, key) if match else None
            if match and is_images(found):
                self._pictures[match["name"]] = f"obs/{key}"
                self.cameras[match["name"]] = (found.shape[1], found.shape[2])

    def _read_images(self, demo: h5py.Group, outs: Mapping[str, np.ndarray]) -> None:
        for camera, out in outs.items():
            found = access.find(demo, self._pictures[camera])
            if (
                not is_images(found)
                or len(found) < len(out)
                or found.shape[1:3] != self.cameras[camera]
            ):
                shape = getattr(found, "shape", None)
                raise DatasetError(
                    f"{self.root}: {show_text(demo.name)} should have {len(out)} images of "
                    f"{camera} of {self.cameras[camera]} pixels, its shape is {shape}"
                )
            access.check_storage(found)
            for first, frames in access.blocks(found, len(out)):
                out[first : first + len(frames)] = frames

    def _ages(self, demo: h5py.Group, length: int) -> dict[str, np.ndarray]:
        ages = {c: access.column(demo, f"age_ms/{c}", length) for c in self.cameras}
        return {camera: values for camera, values in ages.items() if values is not None}

    def _named(self, fact: str, own: str, key: str, count: int) -> tuple[str, ...]:
        known = self._fact(fact, count) if key == own else ()
        return known or tuple(f"{key}.{i}" for i in range(count))

    def _fact(self, fact: str, count: int) -> tuple[str, ...]:
        """Texts of our own attribute; () without, raises DatasetError for another number."""
        known = self._facts.get(fact) or ()
        if not isinstance(known, (list, tuple)) or not all(isinstance(k, str) for k in known):
            raise DatasetError(f"{self.root}: the attribute 'nac' has {fact} that are no texts")
        if known and len(known) != count:
            raise DatasetError(
                f"{self.root}: the attribute 'nac' has {len(known)} {fact} for {count} dimensions"
            )
        return tuple(known)

    def _describe(self, attributes: Mapping[str, Any]) -> None:
        """Task, robot and rate: robosuite's `env_info`, robomimic's `env_args`, LIBERO's
        `problem_info`, and names and units from our own `nac`."""
        self._facts = access.json_attribute(attributes, "nac")
        known = "env_args" if "env_args" in attributes else "env_info"
        facts = access.json_attribute(attributes, known)
        details = facts.get("env_kwargs", facts)
        if not isinstance(details, dict):
            raise DatasetError(f"{self.root}: env_kwargs of {known} is no JSON object")
        self.fps = self._rate(details.get("control_freq", DEFAULT_FPS))
        self._shaped = bool(details.get("reward_shaping", False))
        said = access.json_attribute(attributes, "problem_info").get("language_instruction")
        name = access.text_attribute(attributes, "env") or facts.get("env_name", self._task)
        self._task = str(name) if said is None else "".join(map(str, _listed(said)))
        self.robot_type = "+".join(map(str, _listed(details.get("robots", ""))))

    def _rate(self, value: Any) -> float:
        """[Hz]; raises DatasetError where it is no rate."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise DatasetError(
                f"{self.root}: control_freq is {show_text(value)}, which is no rate"
            )
        if not 0 < value < FASTEST:
            raise DatasetError(
                f"{self.root}: control_freq {show_text(value)} Hz is no rate of an arm"
            )
        return int(value) if value == int(value) else float(value)


def is_images(found: Any) -> bool:
    """Whether it is a data set of images, uint8 `[T, H, W, 3]`."""
    return (
        isinstance(found, h5py.Dataset)
        and found.ndim == 4
        and found.shape[3] == 3
        and found.dtype == np.uint8
        and 0 < int(np.prod(found.shape[1:], dtype=object)) <= LARGEST_IMAGE
    )


def _read(found: h5py.Dataset) -> np.ndarray:
    """Float32 `[T, D]`; numbers beyond float32 become infinite, which no statistic accepts."""
    with np.errstate(over="ignore"):
        return np.asarray(found[()], np.float32)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _number(name: str) -> int:
    digits = re.search(r"\d+", name[:300])
    return int(digits.group()) if digits else 0


ROBOSUITE = 1  # robomimic's number of the kind of environment
OWN = "nac"  # attribute: names, units and whatever else the format has no place for


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a file says of all its demonstrations; more: anything that can be JSON."""

    names: Sequence[str]
    state_names: Sequence[str]
    units: Sequence[str]
    fps: float
    robot_type: str
    tasks: Sequence[str]
    more: Mapping[str, Any]


def write_hdf5(path: Path, facts: Facts, episodes: Iterable[Episode]) -> None:
    """`data/demo_<n>` of each episode, with `actions`, `dones`, `rewards`, `obs/state` where
    there is one, `obs/<camera>_image`; rewards are 1 where an episode succeeded."""
    files.replace_with(path, lambda to: _write(to, facts, episodes))


def own_facts(path: Path) -> dict[str, Any]:
    """What `Facts.more` was when the file was written."""
    with open_hdf5(path) as file:
        data = subgroup(file, "data")
        more = {} if data is None else json_attribute(data.attrs, OWN).get("more", {})
        return more if isinstance(more, dict) else {}


def _write(path: Path, facts: Facts, episodes: Iterable[Episode]) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        total = 0
        for number, episode in enumerate(episodes):
            _add(data.create_group(f"demo_{number}"), episode)
            total += len(episode)
        data.attrs["total"] = total
        data.attrs["env_args"] = json.dumps(
            {
                "env_name": facts.tasks[0] if facts.tasks else facts.robot_type,
                "type": ROBOSUITE,
                "env_kwargs": {"control_freq": facts.fps, "robots": facts.robot_type},
            }
        )
        if len(facts.tasks) == 1:
            said = {"language_instruction": facts.tasks[0]}
            data.attrs["problem_info"] = json.dumps(said)
        own = {
            "names": list(facts.names),
            "state_names": list(facts.state_names),
            "units": list(facts.units),
            "more": dict(facts.more),
        }
        data.attrs[OWN] = json.dumps(own)


def _add(demo: h5py.Group, episode: Episode) -> None:
    last = np.zeros(len(episode), bool)
    last[-1] = True
    demo["actions"] = np.asarray(episode.actions, np.float32)
    demo["dones"] = last.astype(np.int64)
    demo["rewards"] = (last & bool(episode.success)).astype(np.float64)
    if episode.proprio.shape[1]:
        demo["obs/state"] = np.asarray(episode.proprio, np.float32)
    for camera, images in episode.images.items():
        demo.create_dataset(
            f"obs/{camera}_image", data=images, compression="gzip", compression_opts=1,
            chunks=(1, *images.shape[1:]),
        )  # fmt: skip
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
