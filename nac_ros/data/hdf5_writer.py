"""Writes robomimic-style HDF5 that appears complete or not at all."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nac_ros.data import layout
from nac_ros.data.episode import Episode
from nac_ros.data.hdf5_access import json_attribute, open_hdf5, subgroup

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
    layout.replace_with(path, lambda to: _write(to, facts, episodes))


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
