"""Reads HDF5 episodes of ACT and ALOHA: `/action`, `/observations/qpos`, `/observations/images`.

One file is one episode; a folder of `episode_*.hdf5` is a dataset. Images are uint8
`[T, H, W, 3]`, or JPEG: in padded rows `[T, L]` with the true lengths in `/compress_len`
`[cameras, T]`, or in rows of variable length `[T]`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from nac_ros.core import image_codec
from nac_ros.core.errors import DatasetError
from nac_ros.datasets import hdf5_access as access
from nac_ros.datasets.compatibility import numbered_names
from nac_ros.datasets.episode import Episode, EpisodeInfo, EpisodeReader
from nac_ros.datasets.hdf5_access import MAX_IMAGE, open_hdf5

FPS = 50  # Hz: DT = 0.02 s of ACT and ALOHA
ACTION, STATE = "action", "observations/qpos"
IMAGES, LENGTHS = "observations/images", "compress_len"
CAMERA = re.compile(r"[\w.-]+")
ARM = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
NAMES = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in ARM)


class Columns(NamedTuple):
    """HDF5 paths of the actions `[T, D]` and the joint states `[T, S]`."""

    action: str
    state: str

    @property
    def next_state_is_action(self) -> bool:
        """Whether the action of a frame is the next frame's state."""
        return self.action == self.state


class AlohaDataset(EpisodeReader):
    """A file or a folder of files, opened by `AlohaDataset.open`; images are read on demand.

    Actions are `/action` and states `/observations/qpos` unless other HDF5 paths are given, such
    as `observations/qvel`. JPEG is decoded to RGB according to its standard.
    """

    robot_type = "aloha"

    def __init__(self, root: Path, files: Sequence[Path], columns: Columns):
        self.root, self.files, self._columns = root, list(files), columns
        self.fps: float = FPS
        self.cameras: dict[str, tuple[int, int]] = {}
        self._dims = (0, 0)
        self.episodes: list[EpisodeInfo] = []
        for file in self.files:
            self._add(file)
        self.names = _names(columns.action, self._dims[0])
        self.state_names = _names(columns.state, self._dims[1])
        self.units = ("",) * self._dims[0]

    @classmethod
    def open(
        cls, path: Path | str, action_key: str | None = None, state_key: str | None = None
    ) -> "AlohaDataset":
        """The episodes of the file or folder; raises DatasetError naming what is missing."""
        path = Path(path)
        files = [path] if path.is_file() else episode_files(path)
        if not files:
            raise DatasetError(f"{path} has no episode_*.hdf5")
        keys = (action_key or ACTION).strip("/"), (state_key or STATE).strip("/")
        return cls(path, files, Columns(*keys))

    def episode(self, index: int, images: bool = True) -> Episode:
        info = self._info(index)
        with open_hdf5(self.files[index]) as file:
            actions = self._read(file, self._columns.action, info.length)
            states = self._read(file, self._columns.state, info.length)
            if self._columns.next_state_is_action:
                actions, states = actions[1:], states[:-1]
            frames = {
                camera: np.empty((info.length, *size, 3), np.uint8)
                for camera, size in (self.cameras.items() if images else ())
            }
            self._read_images(file, frames)
        return Episode(states, actions, info.task, frames)

    def write_images(self, index: int, outs: Mapping[str, np.ndarray]) -> None:
        """Reads images of episode `index` into `outs`, camera -> uint8 `[T, H, W, 3]` RGB, a few
        frames at a time."""
        self._info(index)
        with open_hdf5(self.files[index]) as file:
            self._read_images(file, outs)

    def _add(self, path: Path) -> None:
        """Adds one file; raises DatasetError if its shapes or cameras differ from the first's."""
        with open_hdf5(path) as file:
            actions, states = (access.require_table(file, key) for key in self._columns)
            if len(actions) != len(states):
                raise DatasetError(f"{path} has {len(actions)} actions and {len(states)} states")
            dims = actions.shape[1], states.shape[1]
            cameras = self._find_cameras(file)
            if not self.episodes:
                self._dims, self.cameras = dims, cameras
            if (dims, cameras) != (self._dims, self.cameras):
                raise DatasetError(
                    f"{path} has {dims} dimensions of action and state and cameras {cameras}, "
                    f"{self.files[0]} has {self._dims} and {self.cameras}; put them into "
                    "separate folders"
                )
            task = access.text_attribute(file.attrs, "task") or self._folder_name()
            length = max(0, len(actions) - self._columns.next_state_is_action)
            self.episodes.append(EpisodeInfo(length, task))

    def _folder_name(self) -> str:
        """Default task: ACT keeps the episodes of each task in a folder with the task's name."""
        folder = self.root if self.root.is_dir() else self.root.absolute().parent
        return folder.resolve().name

    def _read(self, file: h5py.File, key: str, length: int) -> np.ndarray:
        found = access.require_table(file, key)
        if len(found) != length + self._columns.next_state_is_action:
            raise DatasetError(f"{file.filename} has changed: it has {len(found)} rows of {key}")
        return access.read_table(found)

    def _find_cameras(self, file: h5py.File) -> dict[str, tuple[int, int]]:
        group = access.subgroup(file, IMAGES)
        sizes = {}
        for name in access.names_in(group):
            found = access.find(group, name)
            if not CAMERA.fullmatch(name) or not isinstance(found, h5py.Dataset):
                continue
            if access.is_images(found):
                sizes[name] = (found.shape[1], found.shape[2])
            elif _is_jpeg(found) and len(found):
                access.check_storage(found)
                sizes[name] = jpeg_size(found[0].tobytes(), f"{file.filename}, {name} frame 0")
        return dict(sorted(sizes.items()))

    def _read_images(self, file: h5py.File, outs: Mapping[str, np.ndarray]) -> None:
        for camera, out in outs.items():
            found = access.find(file, f"{IMAGES}/{camera}")
            if not isinstance(found, h5py.Dataset) or len(found) < len(out):
                raise DatasetError(
                    f"{file.filename} should have {len(out)} images of {camera}, it has "
                    f"{getattr(found, 'shape', 'none')}"
                )
            access.check_storage(found)
            lengths = self._jpeg_lengths(file, camera, len(found)) if _is_jpeg(found) else None
            if lengths is None and found.shape[1:] != out.shape[1:]:
                raise DatasetError(
                    f"{file.filename}: images of {camera} are {found.shape[1:]}, not "
                    f"{out.shape[1:]}"
                )
            for first, frames in access.blocks(found, len(out)):
                if lengths is None:
                    out[first : first + len(frames)] = frames
                    continue
                for k, frame in enumerate(frames, first):
                    data = frame[: lengths[k]].tobytes()
                    _decode_into(out[k], data, f"{file.filename}, {camera} frame {k}")

    def _jpeg_lengths(self, file: h5py.File, camera: str, count: int) -> np.ndarray:
        """Bytes to read of each frame, int64 `[T]`.

        `compress_len` has one row per camera, in an order that the file does not name. The
        padding is zeros, so the longest of the rows is safe for every camera.
        """
        found = access.find(file, f"{IMAGES}/{camera}")
        if found.ndim == 1:  # rows of variable length
            return np.full(count, MAX_IMAGE)
        padded = np.full(count, found.shape[1], np.int64)
        known = access.table(file, LENGTHS)
        if known is None:
            return padded
        rows = np.asarray(known[()], np.float64)
        if rows.shape[1] < count or not np.isfinite(rows).all() or (rows < 0).any():
            raise DatasetError(
                f"{file.filename}: {LENGTHS} is {rows.shape}, not a length for {count} frames"
            )
        longest = rows[:, :count].max(axis=0) if len(rows) else padded
        return np.minimum(longest, padded).astype(np.int64)


def episode_files(folder: Path) -> list[Path]:
    """`episode_*.hdf5` of a folder, in the order of their numbers."""
    files = [*folder.glob("episode_*.hdf5"), *folder.glob("episode_*.h5")]
    return sorted(files, key=lambda path: (_number(path.stem), path.name))


def is_aloha(path: Path) -> bool:
    """Whether an HDF5 file has ACT's layout; False for a file that cannot be read."""
    try:
        with open_hdf5(path) as file:
            names = access.names_in(file)
            return ACTION in names and "observations" in names and "data" not in names
    except DatasetError:
        return False


def jpeg_size(data: bytes, where: str) -> tuple[int, int]:
    """(height, width) [pixels] in the header of a JPEG, without decoding it."""
    header = image_codec.read_header(data) if data.startswith(image_codec.JPEG) else None
    if header is None or not 0 < 3 * header.height * header.width <= MAX_IMAGE:
        raise DatasetError(f"{where}: the image is no JPEG; record it again")
    return header.height, header.width


def _decode_into(target: np.ndarray, data: bytes, where: str) -> None:
    """Decodes a JPEG into `target`, uint8 `[H, W, 3]` RGB; raises if its size differs."""
    size = jpeg_size(data, where)
    if size != target.shape[:2]:
        raise DatasetError(f"{where}: the image is {size}, the first one is {target.shape[:2]}")
    image_codec.decode_into(target, data, where)


def _is_jpeg(found: h5py.Dataset) -> bool:
    if found.ndim == 1:
        return h5py.check_vlen_dtype(found.dtype) == np.uint8
    return found.ndim == 2 and found.dtype == np.uint8 and 0 < found.shape[1] <= MAX_IMAGE


def _names(key: str, count: int) -> tuple[str, ...]:
    """ALOHA's joints if the default columns have 14 dimensions, else numbered names."""
    return NAMES if key in (ACTION, STATE) and count == len(NAMES) else numbered_names(key, count)


def _number(stem: str) -> int:
    digits = re.findall(r"\d+", stem[-300:])
    return int(digits[-1]) if digits else 0
