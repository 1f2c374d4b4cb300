"""The one door to every dataset format, whatever is at the path."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nac_ros.data.hdf5 import Hdf5Dataset
from nac_ros.data.lerobot import Dataset
from nac_ros.errors import DatasetError

if TYPE_CHECKING:
    from nac_ros.data.recordings import RecordingDataset

AnyDataset: TypeAlias = "Dataset | Hdf5Dataset | RecordingDataset"


def open_dataset(
    path: Path | str, action_key: str | None = None, state_key: str | None = None
) -> AnyDataset:
    """A LeRobot v3 folder, recorded episodes, a robomimic-style HDF5 file, or a folder with
    exactly one such file.

    The keys choose columns; the same key for both makes the action the next frame's state.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"no dataset at {path}; name a LeRobot v3 folder or an HDF5 file")
    if path.is_file():
        return Hdf5Dataset.open(path, action_key, state_key)
    if (path / "meta/info.json").is_file():
        return Dataset.open(path, action_key, state_key)
    if holds_recordings(path):
        return _recordings(path, action_key, state_key)
    files = sorted(path.glob("*.hdf5")) + sorted(path.glob("*.h5"))
    if len(files) == 1:
        return Hdf5Dataset.open(files[0], action_key, state_key)
    raise DatasetError(
        f"{path} is neither a LeRobot v3 folder (meta/info.json) nor a folder of recorded "
        f"episodes nor one with one HDF5 file ({len(files)} found)"
    )


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
