"""Damaged and hostile HDF5 is read or rejected: no other file, no code, no bomb is opened."""

import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from fuzz import HOSTILE_VALUES, damage_bytes, damage_tree, nested, run_cases

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.factory import open_all, open_dataset

SECRET = 42.5  # content of a file that must not be read through another one
LAYOUTS = ("robomimic", "libero", "aloha", "aloha-jpeg")
STATES = {"robomimic": "obs/robot0_joint_pos", "libero": "obs/joint_states"}
T = 6


def write_layout(path: Path, layout: str) -> None:
    """A small valid file of a layout."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        if layout.startswith("aloha"):
            write_aloha(file, rng, jpeg=layout == "aloha-jpeg")
        else:
            _write_demos(file, rng, layout)


def _write_demos(file: h5py.File, rng: np.random.Generator, layout: str) -> None:
    facts = {"env_name": "Lift", "env_kwargs": {"control_freq": 20, "robots": ["Panda"]}}
    file.create_group("data").attrs["env_args"] = json.dumps(facts)
    if layout == "libero":
        file["data"].attrs["problem_info"] = json.dumps({"language_instruction": "open it"})
    for n in range(3):
        group = file.create_group(f"data/demo_{n}")
        group["actions"] = rng.normal(size=(T, 7))
        group[STATES[layout]] = rng.normal(size=(T, 7))
        group["rewards"], group["dones"] = np.zeros(T), np.zeros(T, int)
        key = "obs/agentview_rgb" if layout == "libero" else "obs/agentview_image"
        frames = rng.integers(0, 255, (T, 8, 8, 3), np.uint8)
        group.create_dataset(key, data=frames, compression="gzip", chunks=(1, 8, 8, 3))


def write_aloha(file: h5py.File, rng: np.random.Generator, jpeg: bool) -> None:
    """An episode with two cameras in ACT's layout."""
    file.attrs["sim"] = False
    for key in ("action", "observations/qpos", "observations/qvel"):
        file[key] = rng.normal(size=(T, 14))
    lengths = []
    for camera in ("cam_high", "cam_low"):
        frames = rng.integers(0, 255, (T, 16, 24, 3), np.uint8)
        if jpeg:
            encoded = [cv2.imencode(".jpg", frame)[1].reshape(-1) for frame in frames]
            lengths.append([len(row) for row in encoded])
            longest = max(lengths[-1])
            frames = np.stack([np.pad(row, (0, longest - len(row))) for row in encoded])
        file[f"observations/images/{camera}"] = frames
    if jpeg:
        file["compress_len"] = np.array(lengths, float)


def read_whole(path: Path, state_key: str | None) -> None:
    """Reads everything that training and conversion read; fails on another file's content."""
    for dataset in [open_dataset(path, None, state_key), *open_all(path, None, state_key)]:
        facts = (dataset.names, dataset.state_names, dataset.units, dataset.fps, dataset.tasks)
        assert all(fact is not None for fact in facts) and dataset.fps > 0
        for index, info in list(enumerate(dataset.episodes))[:3]:
            episode = dataset.episode(index)
            assert len(episode.actions) == len(episode.proprio) == info.length
            assert not (episode.actions == SECRET).any() and not (episode.proprio == SECRET).any()
            outs = {
                c: np.empty((info.length, *s, 3), np.uint8) for c, s in dataset.cameras.items()
            }
            dataset.write_images(index, outs)


def hdf5_cases(folder: Path, seed: int, count: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Half with damaged bytes, half with changed content."""
    secret = folder / "secret.hdf5"
    with h5py.File(secret, "w") as file:
        file["actions"] = np.full((T, 7), SECRET)
    sound = {layout: folder / f"{layout}.hdf5" for layout in LAYOUTS}
    for layout, path in sound.items():
        write_layout(path, layout)
        read_whole(path, STATES.get(layout))
    for n in range(count):
        rng = random.Random(seed * 1_000_003 + n)
        layout = rng.choice(LAYOUTS)
        content, path = sound[layout].read_bytes(), folder / "episode_0.hdf5"
        label = f"case {n}, {layout}"
        if n % 2:
            path.write_bytes(damage_bytes(content, rng))
        else:
            path.write_bytes(content)
            label += f", {change_content(path, secret, rng)}"
        yield label, partial(read_whole, path, STATES.get(layout))


def change_content(path: Path, secret: Path, rng: random.Random) -> str:
    """Changes one member or attribute of the file; returns the name of the change."""
    change = rng.choice(CHANGES)
    with h5py.File(path, "r+") as file:
        members: list[str] = []
        file.visit(members.append)
        key = rng.choice(members)
        change(file, key, secret, rng)
    return f"{change.__name__} {key}"


def _other_table(file, key, secret, rng):
    shape = rng.choice([(), (0,), (T,), (0, 7), (T, 0), (T, 5), (T + 3, 7), (1, 1, 7), (T, 9000)])
    dtype = rng.choice(["f8", "f2", "i1", "u8", "c16", "S3", "?", h5py.string_dtype()])
    del file[key]
    file.create_dataset(key, shape, dtype)


def _not_finite(file, key, secret, rng):
    del file[key]
    file[key] = np.full((T, 7), rng.choice([np.nan, np.inf, 1e300]))


def _ragged(file, key, secret, rng):
    del file[key]
    made = file.create_dataset(key, (T,), h5py.vlen_dtype(rng.choice([np.uint8, np.float64])))
    for k in range(T):
        made[k] = np.arange(k)


def _external_link(file, key, secret, rng):
    del file[key]
    file[key] = h5py.ExternalLink(rng.choice([str(secret), "/etc/passwd"]), "/actions")


def _soft_link(file, key, secret, rng):
    del file[key]
    file[key] = h5py.SoftLink(rng.choice([f"/{key}", "/", "..", "/absent", "/data", key + "/x"]))


def _circle(file, key, secret, rng):
    del file[key]
    file[key] = file["/"]


def _virtual(file, key, secret, rng):
    del file[key]
    layout = h5py.VirtualLayout((T, 7), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "actions", (T, 7))
    file.create_virtual_dataset(key, layout)


def _external_storage(file, key, secret, rng):
    del file[key]
    file.create_dataset(key, (T, 7), "f8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def _references(file, key, secret, rng):
    del file[key]
    made = file.create_dataset(key, (T, 7), h5py.ref_dtype)
    made[0, 0] = file.ref


def _bomb(file, key, secret, rng):
    del file[key]
    shape = rng.choice([(1 << 40, 7), (1 << 33, 8, 8, 3), (T, 1 << 20), (1 << 20, 64, 64, 3)])
    chunks = (1 << 14, *shape[1:]) if shape[0] > T else shape
    chunks = tuple(min(c, 1 << 16) for c in chunks)
    dtype = "u1" if len(shape) == 4 else "f8"
    file.create_dataset(key, shape, dtype, chunks=chunks, compression="gzip", fillvalue=1)


def _filled_bomb(file, key, secret, rng):
    del file[key]
    zeros = np.zeros((1 << 18, 16, 3) if rng.random() < 0.5 else (1 << 20, 7), np.uint8)
    file.create_dataset(key, data=zeros, chunks=True, compression="gzip", compression_opts=9)


def _attribute(file, key, secret, rng):
    holder = (
        file if "data" not in file else file[rng.choice(["data", "data/demo_0", "data/demo_1"])]
    )
    name = rng.choice(["env_args", "env_info", "problem_info", "nac", "task", "success", "env"])
    facts = json.loads(file["data"].attrs["env_args"]) if "data" in file else {"names": ["a"]}
    value = rng.choice(HOSTILE_VALUES)
    texts = [json.dumps(damage_tree(facts, rng)), nested(rng.choice([50, 5000])), "\ud800"[:0]]
    texts += [json.dumps({"names": value, "units": value, "control_freq": 1e9}, default=str)]
    holder.attrs[name] = rng.choice([*texts, 3.5, np.zeros(3), b"\xff\xfe", h5py.Empty("f8")])


CHANGES = (
    _other_table,
    _other_table,
    _not_finite,
    _ragged,
    _external_link,
    _soft_link,
    _circle,
    _virtual,
    _external_storage,
    _references,
    _bomb,
    _filled_bomb,
    _attribute,
    _attribute,
)


def test_500_damaged_files_are_read_or_rejected_in_a_sentence(tmp_path):
    result = run_cases(__file__, "hdf5_cases", tmp_path, count=500)
    assert result["rejected"] > 200 and result["accepted"] > 50


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("change", [_external_link, _virtual, _external_storage])
def test_actions_stored_in_another_file_are_rejected(tmp_path, layout, change):
    path, secret = tmp_path / "demo.hdf5", tmp_path / "secret.hdf5"
    write_layout(path, layout)
    with h5py.File(secret, "w") as file:
        file["actions"] = np.full((T, 7), SECRET)
    with h5py.File(path, "r+") as file:
        key = "action" if layout.startswith("aloha") else "data/demo_1/actions"
        change(file, key, secret, random.Random(1))
    with pytest.raises(DatasetError, match=r"other file|another file"):
        open_dataset(path)


def test_a_soft_link_inside_the_file_is_followed(tmp_path):
    path = tmp_path / "demo.hdf5"
    write_layout(path, "robomimic")
    with h5py.File(path, "r+") as file:
        file.move("data/demo_0/actions", "kept")
        file["data/demo_0/actions"] = h5py.SoftLink("/kept")
        wanted = file["kept"][()].astype(np.float32)
    np.testing.assert_array_equal(open_dataset(path).episode(0).actions, wanted)


def test_a_table_that_was_never_filled_is_rejected(tmp_path):
    path = tmp_path / "demo.hdf5"
    write_layout(path, "robomimic")
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/actions"]
        file.create_dataset("data/demo_1/actions", (1 << 22, 7), "f4", chunks=(1 << 10, 7))
    with pytest.raises(DatasetError, match=r"has a size of 117440512 bytes but stores 0"):
        open_dataset(path)
