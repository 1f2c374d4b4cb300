"""The one door to every dataset format, whatever is at the path."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from nac_ros.data import rlds
from nac_ros.data.episode import Episode, EpisodeInfo
from nac_ros.data.hdf5 import Hdf5Dataset
from nac_ros.data.lerobot import Dataset
from nac_ros.data.rlds import RldsDataset
from nac_ros.errors import DatasetError

HDF5 = ("*.hdf5", "*.h5")


class AnyDataset(Protocol):
    """What every dataset offers, and all that training and conversion ask of one.

    names, units: of the D action dimensions; state_names: of the S state dimensions, S may be 0
    fps: frames per second, 0 where nobody knows; cameras: name -> (height, width) [pixels]
    """

    @property
    def root(self) -> Path: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def state_names(self) -> tuple[str, ...]: ...
    @property
    def units(self) -> tuple[str, ...]: ...
    @property
    def fps(self) -> float: ...
    @property
    def robot_type(self) -> str: ...
    @property
    def cameras(self) -> dict[str, tuple[int, int]]: ...
    @property
    def tasks(self) -> list[str]: ...
    @property
    def episodes(self) -> Sequence[EpisodeInfo]: ...
    def episode(self, index: int, images: bool = True) -> Episode:
        """Episode `index`; without images those are not decoded, but frames stay the same."""
        ...


def open_dataset(
    path: Path | str, action_key: str | None = None, state_key: str | None = None
) -> AnyDataset:
    """A LeRobot folder, recorded episodes, a BridgeData-style folder of TFRecord files, a
    robomimic-style HDF5 file, or a folder with exactly one such file.

    The keys choose columns; the same key for both makes the action the next frame's state.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"no dataset at {path}; name a LeRobot v3 folder or an HDF5 file")
    if path.is_file():
        return Hdf5Dataset.open(path, action_key, state_key)
    if (path / "meta/info.json").is_file():
        return Dataset.open(path, action_key, state_key)
    if (path / rlds.FEATURES).is_file() and rlds.record_files(path):
        return RldsDataset.open(path, action_key, state_key)
    if holds_recordings(path):
        return _recordings(path, action_key, state_key)
    files = [file for pattern in HDF5 for file in sorted(path.glob(pattern))]
    if len(files) == 1:
        return Hdf5Dataset.open(files[0], action_key, state_key)
    raise DatasetError(
        f"{path} is neither a LeRobot v3 folder (meta/info.json) nor a folder of recorded "
        f"episodes nor one with one HDF5 file ({len(files)} found)"
    )


def open_all(
    path: Path | str, action_key: str | None = None, state_key: str | None = None
) -> list[AnyDataset]:
    """Every dataset at the path: those of `open_dataset`, or all HDF5 files of a folder and of
    the folders in it."""
    path = Path(path)
    inside = [f"{deep}{pattern}" for deep in ("", "*/") for pattern in HDF5]
    files = [file for pattern in inside for file in sorted(path.glob(pattern))]
    if not files or (path / "meta/info.json").is_file():
        return [open_dataset(path, action_key, state_key)]
    return [Hdf5Dataset.open(file, action_key, state_key) for file in files]


def holds_recordings(path: Path) -> bool:
    """Whether it is a recorded episode, or a folder of them."""
    return path.is_dir() and any(any(path.glob(mcap)) for mcap in ("*.mcap", "*/*.mcap"))


def _recordings(path: Path, *keys: str | None) -> Any:
    try:
        from nac_ros.data.recordings import RecordingDataset
    except ImportError as error:
        raise DatasetError(
            f"{path} holds recordings, and reading them needs {error.name}: "
            "pip install 'nac_ros[record]'"
        ) from error
    return RecordingDataset.open(path, *keys)
