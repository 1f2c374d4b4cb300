"""Every frame of some datasets as arrays for policy training; images decoded once, to disk.

All formats come the same way: numbers by `episode(index, images=False)`, images by `write_images`
into a memory-mapped file, a few frames at a time.
"""

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from nac_ros.core import files as file_io
from nac_ros.core.errors import DatasetError
from nac_ros.core.provenance import digest_of
from nac_ros.datasets.action_chunks import splits
from nac_ros.datasets.compatibility import check_compatible
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.factory import AnyDataset, open_all
from nac_ros.datasets.lerobot.reader import Dataset

CACHE = ".cache/frames"
SAMPLED = 64  # images of each camera that a digest looks at, beside all numbers
Report = Callable[[int, int], None]


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
    episode: int64 `[N]`; start, end: int64 `[N]`, first frame and one past the last frame of the
    frame's own episode; tasks: text of each of the E episodes; held_out: bool `[E]`
    intervention: bool `[N]`, where a hand had taken over, False where nobody noted it
    """

    images: dict[str, ImageStack]
    proprio: np.ndarray
    actions: np.ndarray
    episode: np.ndarray
    start: np.ndarray
    end: np.ndarray
    tasks: tuple[str, ...]
    held_out: np.ndarray
    names: tuple[str, ...]
    fps: float
    intervention: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)

    def history(self, index: np.ndarray, n_obs_steps: int) -> np.ndarray:
        """Frames `[B]` -> `[B, K]`, oldest first; before its start an episode stands still."""
        steps = np.arange(n_obs_steps)[::-1]
        return np.maximum(index[:, None] - steps, self.start[index][:, None])

    def digest(self) -> str:
        """Hash of every number, of the tasks and the split, and of some images of each camera."""
        numbers = (self.actions, self.proprio, self.episode, self.held_out, self.intervention)
        some = np.unique(np.linspace(0, len(self) - 1, SAMPLED).astype(np.int64))
        seen = [stack[some] for stack in self.images.values()]
        return digest_of([*numbers, *seen], [*self.tasks, *self.names, *self.images])

    def future(self, index: np.ndarray, horizon: int, stride: int = 1) -> np.ndarray:
        """Frames `[B]` -> `[B, H]` whose actions are the chunk; the last one is repeated."""
        steps = index[:, None] + stride * np.arange(horizon)
        return np.minimum(steps, self.end[index][:, None] - 1)


def load_frames(
    sources: Sequence[Path | str | AnyDataset],
    cameras: Sequence[str],
    *,
    image_size: int | None = None,
    cache_dir: Path | str | None = None,
    workers: int = 2,
    report: Report | None = None,
) -> Frames:
    """All frames of the datasets; the first call decodes the images into a cache.

    sources: opened datasets of any format, or what `open_dataset` opens
    cameras: in the order wanted; none are decoded when empty
    image_size: [pixels] of the square that images are resized to, by the means of areas, each axis
        by its own factor; None = as they are
    cache_dir: where the decoded images lie, `.cache/frames` in each dataset by default
    report: called with (episodes decoded, episodes to decode)
    The held-out episodes are those of `splits`, as for tokenizers. Raises DatasetError where
    datasets cannot be joined.
    """
    datasets: list[AnyDataset] = []
    for source in sources:
        datasets += open_all(source) if isinstance(source, (Path, str)) else [source]
    _check_alike(datasets, cameras, image_size)
    episodes = [d.episode(i, images=False) for d in datasets for i in range(len(d.episodes))]
    lengths = np.array([len(episode) for episode in episodes], np.int64)
    if not lengths.sum():
        raise DatasetError(f"{datasets[0].root} holds no frame; record episodes first")
    ends = np.cumsum(lengths)
    images = _decoded(datasets, cameras, _Decoding(image_size, cache_dir, workers, report))
    return Frames(
        images=images,
        proprio=np.concatenate([episode.proprio for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        episode=np.repeat(np.arange(len(lengths)), lengths),
        start=np.repeat(ends - lengths, lengths),
        end=np.repeat(ends, lengths),
        tasks=tuple(episode.task for episode in episodes),
        held_out=_held_out(datasets),
        names=datasets[0].names,
        fps=datasets[0].fps,
        intervention=np.concatenate([_marks(episode) for episode in episodes]),
    )


def write_images(dataset: AnyDataset, index: int, outs: Mapping[str, np.ndarray]) -> None:
    """Images of an episode into `outs`: camera -> uint8 `[T, H, W, 3]` RGB, T as `episode` has.

    One way for all formats: their own `write_images`, LeRobot's `images`, else the whole episode.
    """
    if hasattr(dataset, "write_images"):
        dataset.write_images(index, outs)
    elif isinstance(dataset, Dataset) and _on_disk(dataset, index, outs):
        for camera, out in outs.items():
            dataset.images(index, camera, out=out)
    else:
        images = dataset.episode(index).images
        for camera, out in outs.items():
            out[:] = images[camera]


def _on_disk(dataset: Dataset, index: int, outs: Mapping[str, np.ndarray]) -> bool:
    """Whether the episode has as many frames as on disk; a state as action needs one more."""
    return all(len(out) == dataset.frames_on_disk(index) for out in outs.values())


@dataclass(frozen=True)
class _Decoding:
    """How images are decoded; see `load_frames`."""

    image_size: int | None
    cache_dir: Path | str | None
    workers: int
    report: Report | None

    def size(self, dataset: AnyDataset, camera: str) -> tuple[int, int]:
        """(height, width) [pixels] of the decoded images."""
        if self.image_size is None:
            return dataset.cameras[camera]
        return self.image_size, self.image_size


def _marks(episode: Episode) -> np.ndarray:
    marks = episode.intervention
    return np.zeros(len(episode), bool) if marks is None else np.asarray(marks, bool)


def _check_alike(
    datasets: Sequence[AnyDataset], cameras: Sequence[str], image_size: int | None
) -> None:
    if not datasets:
        raise DatasetError("no dataset was named; give at least one folder")
    for other in datasets:
        if not other.episodes:
            raise DatasetError(f"{other.root} holds no episode yet")
        for camera in cameras:
            if camera not in other.cameras:
                known = ", ".join(other.cameras) or "none"
                raise DatasetError(f"{other.root} has no images of '{camera}'; it has: {known}")
            sizes = [dataset.cameras[camera] for dataset in (datasets[0], other)]
            if image_size is None and sizes[0] != sizes[1]:
                raise DatasetError(
                    f"{other.root} has images of {camera} of {sizes[1]} pixels, "
                    f"{datasets[0].root} of {sizes[0]}; give an image size for both"
                )
    check_compatible(datasets)


def _held_out(datasets: Sequence[AnyDataset]) -> np.ndarray:
    """Bool `[E]` over the episodes of all datasets; False where one single episode is all."""
    masks = []
    counts = [len(dataset.episodes) for dataset in datasets]
    if sum(counts) < 2:
        return np.zeros(sum(counts), bool)
    for count, split in zip(counts, splits(counts)):
        mask = np.zeros(count, bool)
        mask[split.held_out] = True
        masks.append(mask)
    return np.concatenate(masks)


def _decoded(
    datasets: Sequence[AnyDataset], cameras: Sequence[str], how: _Decoding
) -> dict[str, ImageStack]:
    """Memory-mapped images of each camera, decoded now where the cache is outdated."""
    parts = [_of_dataset(dataset, cameras, how) for dataset in datasets if _length(dataset)]
    return {camera: ImageStack([part[camera] for part in parts]) for camera in cameras}


def _length(dataset: AnyDataset) -> int:
    return sum(info.length for info in dataset.episodes)


def _of_dataset(
    dataset: AnyDataset, cameras: Sequence[str], how: _Decoding
) -> dict[str, np.ndarray]:
    """Camera -> memory-mapped uint8 `[N, H, W, 3]`."""
    folder = _cache_folder(dataset, how.cache_dir)
    paths = {
        camera: folder / f"{_stem(camera)}-{_fingerprint(dataset, camera, how)[:16]}.npy"
        for camera in cameras
    }
    if not all(path.is_file() for path in paths.values()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / ".lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be decoding the same
                missing = {c: path for c, path in paths.items() if not path.is_file()}
                if missing:
                    _decode_all(dataset, missing, folder, how)
        except OSError as error:
            raise DatasetError(
                f"cannot write the decoded images to {folder} ({error.strerror}); name another "
                "folder with --frames"
            ) from error
        if not how.cache_dir:
            for camera, path in paths.items():
                _drop_outdated(folder, camera, keep=path.name)
    return {camera: np.load(path, mmap_mode="r") for camera, path in paths.items()}


def _cache_folder(dataset: AnyDataset, cache_dir: Path | str | None) -> Path:
    if cache_dir:
        return Path(cache_dir)
    if dataset.root.is_dir():
        return dataset.root / CACHE
    return dataset.root.parent / CACHE / dataset.root.name


def _stem(camera: str) -> str:
    return re.sub(r"[^\w.-]", "_", camera)


def _decode_all(
    dataset: AnyDataset, paths: Mapping[str, Path], folder: Path, how: _Decoding
) -> None:
    """Decodes cameras together, since some formats hold them in one stream; all or none appear."""
    lengths = [info.length for info in dataset.episodes]
    ends = np.cumsum(lengths)
    stacks = {
        camera: np.lib.format.open_memmap(
            path.with_name(path.name + file_io.TEMPORARY), mode="w+", dtype=np.uint8,
            shape=(int(ends[-1]), *how.size(dataset, camera), 3),
        )
        for camera, path in paths.items()
    }  # fmt: skip

    def decode(index: int) -> None:
        rows = slice(ends[index] - lengths[index], ends[index])
        _decode_episode(dataset, index, {c: stack[rows] for c, stack in stacks.items()}, folder)

    with ThreadPoolExecutor(how.workers) as pool:
        for done, _ in enumerate(pool.map(decode, range(len(lengths))), start=1):
            if how.report:
                how.report(done, len(lengths))
    for camera, path in paths.items():
        stacks[camera].flush()
        temporary = path.with_name(path.name + file_io.TEMPORARY)
        file_io.sync(temporary)
        os.replace(temporary, path)
    file_io.sync(folder)


def _decode_episode(
    dataset: AnyDataset, index: int, outs: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Decodes into `outs` `[T, H', W', 3]`, by way of a file where images must be resized."""
    count = dataset.episodes[index].length
    other = [camera for camera, out in outs.items() if out.shape[1:3] != dataset.cameras[camera]]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".decoding-") as scratch:
        native = dict(outs)
        for number, camera in enumerate(other if count else ()):
            shape = (count, *dataset.cameras[camera], 3)
            native[camera] = np.memmap(f"{scratch}/{number}", np.uint8, "w+", shape=shape)
        if count:
            write_images(dataset, index, native)
        for camera in other if count else ():
            out, (height, width) = outs[camera], outs[camera].shape[1:3]
            for k in range(count):
                frame = np.ascontiguousarray(native[camera][k])
                out[k] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def _fingerprint(dataset: AnyDataset, camera: str, how: _Decoding) -> str:
    """Changes whenever an episode is added, removed or rewritten, or another size is wanted."""
    files = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files_of(dataset, camera)]
    size = how.size(dataset, camera)
    resized = [] if size == dataset.cameras[camera] else [size]
    content = json.dumps([camera, dataset.episodes, files, *resized])
    return hashlib.sha256(content.encode()).hexdigest()


def files_of(dataset: AnyDataset, camera: str = "") -> list[Path]:
    """The files that hold the data of a dataset, and the images of one camera."""
    if isinstance(dataset, Dataset):
        return dataset.data_files() + (dataset.video_files(camera) if camera else [])
    return list(getattr(dataset, "files", [dataset.root]))


def _drop_outdated(folder: Path, camera: str, keep: str) -> None:
    for path in folder.glob(f"{_stem(camera)}-*.npy*"):
        if path.name != keep:
            path.unlink()
