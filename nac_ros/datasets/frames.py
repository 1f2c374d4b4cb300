"""Frames of datasets as arrays for policy training; images are decoded once, into a disk cache.

Numbers come from `episode(index, images=False)`, images through `write_images` into
memory-mapped files, a few frames at a time.
"""

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from nac_ros.core import files as file_io
from nac_ros.core.errors import DatasetError
from nac_ros.core.provenance import digest_of
from nac_ros.datasets.compatibility import check_compatible
from nac_ros.datasets.episode import Episode, Progress
from nac_ros.datasets.episode_split import split_episodes
from nac_ros.datasets.factory import AnyDataset, open_all
from nac_ros.datasets.lerobot.reader import LeRobotDataset

CACHE = ".cache/frames"
DIGEST_IMAGES = 64  # images of each camera that a digest includes, besides all numbers


class ImageStack:
    """uint8 `[N, H, W, 3]` RGB over several memory-mapped files; indexed by int64 arrays."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray | int) -> np.ndarray:
        """Frames `[...]` -> `[..., H, W, 3]`, copied into memory."""
        wanted = np.asarray(index)
        flat = wanted.reshape(-1)
        if flat.size and not (flat.min() >= 0 and flat.max() < len(self)):
            raise IndexError(f"frame {flat.min()} .. {flat.max()} is not in 0 .. {len(self) - 1}")
        out = np.empty((flat.size, *self.shape[1:]), np.uint8)
        part = np.searchsorted(self._starts, flat, side="right") - 1
        for i in np.unique(part):
            chosen = part == i
            out[chosen] = self._parts[i][flat[chosen] - self._starts[i]]
        return out.reshape(*wanted.shape, *self.shape[1:])


@dataclass(frozen=True)
class Frames:
    """N frames of E episodes, one episode after the other.

    images: camera -> stack `[N, H, W, 3]`; proprio: float32 `[N, S]`; actions: float32 `[N, D]`
    episode: int64 `[N]`, episode of each frame; start, end: int64 `[N]`, first frame and one past
        the last frame of that episode
    tasks: text of each of the E episodes; names: of the action dimensions
    validation, test: bool `[E]`, episodes that are not trained on (`split_episodes`)
    intervention: bool `[N]`, where an operator took over from a policy, False if unknown
    environment_state: float32 `[N, E]`, low-dimensional state of the scene; None unless every
        dataset has one of the same dimensions
    """

    images: dict[str, ImageStack]
    proprio: np.ndarray
    actions: np.ndarray
    episode: np.ndarray
    start: np.ndarray
    end: np.ndarray
    tasks: tuple[str, ...]
    validation: np.ndarray
    test: np.ndarray
    names: tuple[str, ...]
    fps: float
    intervention: np.ndarray
    environment_state: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.actions)

    def history_indices(self, index: np.ndarray, n_obs_steps: int) -> np.ndarray:
        """Frames `[B]` -> the K frames up to each, `[B, K]`, oldest first; before the start of an
        episode its first frame is repeated."""
        steps = np.arange(n_obs_steps)[::-1]
        return np.maximum(index[:, None] - steps, self.start[index][:, None])

    def indices_after(self, index: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Frames `[B]` and offsets `[M]` [steps] -> frames `[B, M]`; after the end of an episode
        its last frame is repeated."""
        return np.minimum(index[:, None] + offsets, self.end[index][:, None] - 1)

    def past_commands(self, index: np.ndarray, n: int) -> np.ndarray:
        """The n actions before frames `[B]`, oldest first, float32 `[B, n, D]`. Before an episode
        the arm was at rest: the joint state of its first frame stands in."""
        steps = index[:, None] - np.arange(n, 0, -1)
        start = self.start[index][:, None]
        actions = self.actions[np.maximum(steps, start)]
        return np.where((steps < start)[..., None], self.proprio[start], actions)

    def digest(self) -> str:
        """Hash of all numbers, the tasks and the split, and of some images of each camera."""
        split = (self.validation, self.test)
        numbers = [self.actions, self.proprio, self.episode, *split, self.intervention]
        numbers += [] if self.environment_state is None else [self.environment_state]
        some = np.unique(np.linspace(0, len(self) - 1, DIGEST_IMAGES).astype(np.int64))
        images = [stack[some] for stack in self.images.values()]
        return digest_of([*numbers, *images], [*self.tasks, *self.names, *self.images])


def load_frames(
    sources: Sequence[Path | str | AnyDataset],
    cameras: Sequence[str],
    *,
    image_size: int | None = None,
    cache_dir: Path | str | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> Frames:
    """All frames of the datasets; the first call decodes the images into a cache.

    sources: opened datasets of any format, or what `open_dataset` opens
    cameras: in the order wanted; () decodes no image
    image_size: [pixels] of the square to which images are resized, each axis by its own factor,
        by area averaging; None = unchanged
    cache_dir: folder of the decoded images, by default `.cache/frames` in each dataset
    progress: called with (episodes decoded, episodes to decode)
    The held-out episodes are those of `benchmark_splits`, as for tokenizers. Raises DatasetError
    if the datasets cannot be joined.
    """
    datasets: list[AnyDataset] = []
    for source in sources:
        datasets += open_all(source) if isinstance(source, (Path, str)) else [source]
    _check_joinable(datasets, cameras, image_size)
    episodes = [d.episode(i, images=False) for d in datasets for i in range(len(d.episodes))]
    # The frames of all episodes are concatenated: episode e has frames starts[e] to before
    # ends[e], and each of its frames stores both limits.
    lengths = np.array([len(episode) for episode in episodes], np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    if not lengths.sum():
        raise DatasetError(f"{datasets[0].root} has no frame; record episodes first")
    decoding = _Decoding(image_size, cache_dir, workers, progress)
    stacks = [decoding.dataset_images(d, cameras) for d in datasets if _n_frames(d)]
    return Frames(
        images={camera: ImageStack([stack[camera] for stack in stacks]) for camera in cameras},
        proprio=np.concatenate([episode.proprio for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        episode=np.repeat(np.arange(len(lengths)), lengths),
        start=np.repeat(starts, lengths),
        end=np.repeat(ends, lengths),
        tasks=tuple(episode.task for episode in episodes),
        **_sides([len(dataset.episodes) for dataset in datasets]),
        names=datasets[0].names,
        fps=datasets[0].fps,
        intervention=np.concatenate([_intervention_mask(episode) for episode in episodes]),
        environment_state=_environment_states(datasets, episodes),
    )


def _check_joinable(
    datasets: Sequence[AnyDataset], cameras: Sequence[str], image_size: int | None
) -> None:
    if not datasets:
        raise DatasetError("no dataset was given; name at least one folder")
    first = datasets[0]
    for other in datasets:
        if not other.episodes:
            raise DatasetError(f"{other.root} has no episode yet")
        for camera in cameras:
            if camera not in other.cameras:
                known = ", ".join(other.cameras) or "none"
                raise DatasetError(f"{other.root} has no images of '{camera}'; it has: {known}")
            if image_size is None and first.cameras[camera] != other.cameras[camera]:
                raise DatasetError(
                    f"{other.root} has images of {camera} of {other.cameras[camera]} pixels, "
                    f"{first.root} of {first.cameras[camera]}; give an image size for both"
                )
    check_compatible(datasets)


def _sides(counts: Sequence[int]) -> dict[str, np.ndarray]:
    """Bool `[E]` of the validation and of the test episodes of all datasets; all False if there is
    a single episode in all."""
    if sum(counts) < 2:
        return {side: np.zeros(sum(counts), bool) for side in ("validation", "test")}
    splits = split_episodes(counts)
    return {
        side: np.concatenate(
            [np.isin(np.arange(n), getattr(split, side)) for n, split in zip(counts, splits)]
        )
        for side in ("validation", "test")
    }


def _intervention_mask(episode: Episode) -> np.ndarray:
    marks = episode.intervention
    return np.zeros(len(episode), bool) if marks is None else np.asarray(marks, bool)


def _environment_states(
    datasets: Sequence[AnyDataset], episodes: Sequence[Episode]
) -> np.ndarray | None:
    """Float32 `[N, E]`; None unless all datasets have the same number of dimensions E > 0."""
    states = [e.environment_state for e in episodes if e.environment_state is not None]
    sizes = {len(dataset.environment_names) for dataset in datasets}
    if len(sizes) > 1 or len(states) < len(episodes):
        return None
    return np.concatenate(states).astype(np.float32)


def _n_frames(dataset: AnyDataset) -> int:
    return sum(info.length for info in dataset.episodes)


def write_images(dataset: AnyDataset, index: int, outs: Mapping[str, np.ndarray]) -> None:
    """Images of an episode into `outs`, camera -> uint8 `[T, H, W, 3]` RGB, T as `episode` has.

    Uses the dataset's own `write_images` or LeRobot's `images`, else reads the whole episode.
    """
    if hasattr(dataset, "write_images"):
        dataset.write_images(index, outs)
    elif isinstance(dataset, LeRobotDataset) and all(
        len(out) == dataset.location(index).length for out in outs.values()
    ):  # with the state as action an episode is one frame shorter than on disk
        for camera, out in outs.items():
            dataset.images(index, camera, out=out)
    else:
        images = dataset.episode(index).images
        for camera, out in outs.items():
            out[:] = images[camera]


@dataclass(frozen=True)
class _Decoding:
    """Decodes the images of datasets into cache files; fields: see `load_frames`.

    A cache file's name has a fingerprint of the dataset's files, so that a changed dataset is
    decoded again. A lock lets only one process decode into a folder.
    """

    image_size: int | None
    cache_dir: Path | str | None
    workers: int
    progress: Progress | None

    def dataset_images(self, dataset: AnyDataset, cameras: Sequence[str]) -> dict[str, np.ndarray]:
        """Camera -> memory-mapped uint8 `[N, H, W, 3]`, decoded now if the cache is outdated."""
        folder = _cache_folder(dataset, self.cache_dir)
        paths = {
            camera: folder / f"{_file_stem(camera)}-{self._fingerprint(dataset, camera)}.npy"
            for camera in cameras
        }
        if not all(path.is_file() for path in paths.values()):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with open(folder / ".lock", "w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    missing = {c: path for c, path in paths.items() if not path.is_file()}
                    if missing:
                        self._decode_all(dataset, missing, folder)
            except OSError as error:
                raise DatasetError(
                    f"cannot write the decoded images to {folder} ({error.strerror}); name "
                    "another folder with --frames"
                ) from error
            if not self.cache_dir:
                for camera, path in paths.items():
                    _remove_outdated(folder, camera, keep=path.name)
        return {camera: np.load(path, mmap_mode="r") for camera, path in paths.items()}

    def _size(self, dataset: AnyDataset, camera: str) -> tuple[int, int]:
        """(height, width) [pixels] of the decoded images."""
        if self.image_size is None:
            return dataset.cameras[camera]
        return self.image_size, self.image_size

    def _fingerprint(self, dataset: AnyDataset, camera: str) -> str:
        """Changes if an episode is added, removed or rewritten, or another size is wanted."""
        stats = [(path, path.stat()) for path in data_files(dataset, camera)]
        files = [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
        size = self._size(dataset, camera)
        resized = [] if size == dataset.cameras[camera] else [size]
        content = json.dumps([camera, dataset.episodes, files, *resized])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def _decode_all(self, dataset: AnyDataset, paths: Mapping[str, Path], folder: Path) -> None:
        """Decodes cameras together, since some formats store them in one stream; the files appear
        when all are complete."""
        lengths = [info.length for info in dataset.episodes]
        ends = np.cumsum(lengths)
        temporaries = {
            c: path.with_name(path.name + file_io.TEMPORARY) for c, path in paths.items()
        }
        stacks = {
            camera: np.lib.format.open_memmap(
                temporary,
                mode="w+",
                dtype=np.uint8,
                shape=(int(ends[-1]), *self._size(dataset, camera), 3),
            )
            for camera, temporary in temporaries.items()
        }

        def decode(index: int) -> None:
            rows = slice(ends[index] - lengths[index], ends[index])
            _decode_episode(dataset, index, {c: s[rows] for c, s in stacks.items()}, folder)

        with ThreadPoolExecutor(self.workers) as pool:
            for done, _ in enumerate(pool.map(decode, range(len(lengths))), start=1):
                if self.progress:
                    self.progress(done, len(lengths))
        for camera, temporary in temporaries.items():
            stacks[camera].flush()
            file_io.fsync(temporary)
            os.replace(temporary, paths[camera])
        file_io.fsync(folder)


def _decode_episode(
    dataset: AnyDataset, index: int, outs: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Decodes into `outs` `[T, H', W', 3]`; images to be resized are first decoded into a
    temporary file in `folder`."""
    length = dataset.episodes[index].length
    if not length:
        return
    resized = [c for c, out in outs.items() if out.shape[1:3] != dataset.cameras[c]]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".decoding-") as scratch:
        decoded = dict(outs)
        for number, camera in enumerate(resized):
            shape = (length, *dataset.cameras[camera], 3)
            decoded[camera] = np.memmap(f"{scratch}/{number}", np.uint8, "w+", shape=shape)
        write_images(dataset, index, decoded)
        for camera in resized:
            out, (height, width) = outs[camera], outs[camera].shape[1:3]
            for k in range(length):
                frame = np.ascontiguousarray(decoded[camera][k])
                out[k] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def data_files(dataset: AnyDataset, camera: str = "") -> list[Path]:
    """The files of a dataset's numbers and of the images of one camera."""
    if isinstance(dataset, LeRobotDataset):
        return dataset.data_files() + (dataset.video_files(camera) if camera else [])
    return list(getattr(dataset, "files", [dataset.root]))


def _cache_folder(dataset: AnyDataset, cache_dir: Path | str | None) -> Path:
    if cache_dir:
        return Path(cache_dir)
    if dataset.root.is_dir():
        return dataset.root / CACHE
    return dataset.root.parent / CACHE / dataset.root.name


def _file_stem(camera: str) -> str:
    return re.sub(r"[^\w.-]", "_", camera)


def _remove_outdated(folder: Path, camera: str, keep: str) -> None:
    for path in folder.glob(f"{_file_stem(camera)}-*.npy*"):
        if path.name != keep:
            path.unlink()
