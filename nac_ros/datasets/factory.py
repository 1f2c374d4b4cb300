"""Opens a dataset of any format, at a path or on the Hugging Face Hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from nac_ros.core.errors import DatasetError, show_text
from nac_ros.datasets import hub, rlds
from nac_ros.datasets.aloha import AlohaDataset, episode_files, is_aloha
from nac_ros.datasets.compatibility import DatasetDescription
from nac_ros.datasets.episode import Episode, EpisodeInfo
from nac_ros.datasets.hdf5 import Hdf5Dataset
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.datasets.rlds import RldsDataset

HDF5 = ("*.hdf5", "*.h5")


class AnyDataset(DatasetDescription, Protocol):
    """Interface of every dataset; training and conversion need nothing else.

    names, units: of the D action dimensions; state_names: of the S state dimensions, S may be 0
    fps: frames per second, 0 if unknown; cameras: name -> (height, width) [pixels]
    environment_names: of the N dimensions of the environment state, () if there is none
    """

    robot_type: str
    environment_names: tuple[str, ...]
    cameras: dict[str, tuple[int, int]]
    tasks: list[str]
    episodes: Sequence[EpisodeInfo]

    def episode(self, index: int, images: bool = True) -> Episode:
        """Reads episode `index`; without `images` none are decoded, but frames are the same."""
        ...


def open_dataset(
    path: Path | str, action_key: str | None = None, state_key: str | None = None
) -> AnyDataset:
    """Opens a LeRobot folder, recorded episodes, a BridgeData-style folder of TFRecord files, an
    HDF5 file of robomimic or ALOHA, a folder with exactly one such file, or ALOHA's episodes.

    A path `owner/name` or `owner/name@revision` that does not exist is fetched from the Hugging
    Face Hub. The keys choose columns; the same key for both makes the action the next frame's
    state. Raises DatasetError.
    """
    path = find_dataset(path)
    keys = action_key, state_key
    if path.is_file():
        return _open_hdf5(path, *keys)
    if (path / "meta/info.json").is_file():
        return LeRobotDataset.open(path, *keys)
    if (path / rlds.FEATURES).is_file() and rlds.record_files(path):
        return RldsDataset.open(path, *keys)
    if holds_recordings(path):
        return _open_recordings(path, *keys)
    if _holds_aloha(path):
        return AlohaDataset.open(path, *keys)
    files = _hdf5_files(path, ("",))
    if len(files) == 1:
        return _open_hdf5(files[0], *keys)
    raise DatasetError(
        f"{path} is neither a LeRobot v3 folder (meta/info.json) nor a folder of recorded "
        f"episodes nor one with one HDF5 file ({len(files)} found)"
    )


def open_all(
    path: Path | str, action_key: str | None = None, state_key: str | None = None
) -> list[AnyDataset]:
    """Opens every dataset at the path: the one of `open_dataset`, or all HDF5 files of a folder
    and of its subfolders."""
    path = find_dataset(path)
    keys = action_key, state_key
    if path.is_file() or (path / "meta/info.json").is_file() or _holds_aloha(path):
        return [open_dataset(path, *keys)]
    folders = [folder for folder in sorted(path.glob("*/")) if _holds_aloha(folder)]
    episodes = {file for folder in folders for file in episode_files(folder)}
    files = [file for file in _hdf5_files(path, ("", "*/")) if file not in episodes]
    if not files and not folders:
        return [open_dataset(path, *keys)]
    return [
        *(_open_hdf5(file, *keys) for file in files),
        *(AlohaDataset.open(folder, *keys) for folder in folders),
    ]


def find_dataset(path: Path | str) -> Path:
    """The path itself if it exists, else the dataset of that id, fetched from the Hugging Face
    Hub; raises DatasetError if there is neither."""
    path = Path(path)
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:  # too long, or with a NUL
        raise DatasetError(f"no dataset at {show_text(path)}: not a valid path") from error
    if exists:
        return path
    if hub.is_dataset_id(str(path)):
        return hub.fetch(str(path))
    raise DatasetError(f"no dataset at {path}; name a LeRobot v3 folder or an HDF5 file")


def holds_recordings(path: Path) -> bool:
    """Whether the path is a recorded episode or a folder of them."""
    return path.is_dir() and any(any(path.glob(mcap)) for mcap in ("*.mcap", "*/*.mcap"))


def _open_recordings(path: Path, *keys: str | None) -> Any:
    try:
        from nac_ros.datasets.mcap.dataset import RecordingDataset
    except ImportError as error:
        raise DatasetError(
            f"{path} contains recordings, and reading them needs {error.name}: "
            "pip install 'nac_ros[record]'"
        ) from error
    return RecordingDataset.open(path, *keys)


def _open_hdf5(path: Path, *keys: str | None) -> AnyDataset:
    reader = AlohaDataset if is_aloha(path) else Hdf5Dataset
    return reader.open(path, *keys)


def _hdf5_files(path: Path, folders: Sequence[str]) -> list[Path]:
    patterns = [f"{folder}{pattern}" for folder in folders for pattern in HDF5]
    return [file for pattern in patterns for file in sorted(path.glob(pattern))]


def _holds_aloha(path: Path) -> bool:
    """Whether the path is a folder of ALOHA's episodes."""
    files = episode_files(path) if path.is_dir() else []
    return bool(files) and is_aloha(files[0])
