"""Every frame of some LeRobot datasets as arrays for policy training; images decoded once."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nac_ros.data import layout
from nac_ros.data.episode import Episode
from nac_ros.data.lerobot import Dataset
from nac_ros.data.windows import benchmark_split
from nac_ros.errors import DatasetError

CACHE = ".cache/frames"
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
    fps: int
    intervention: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)

    def history(self, index: np.ndarray, n_obs_steps: int) -> np.ndarray:
        """Frames `[B]` -> `[B, K]`, oldest first; before its start an episode stands still."""
        steps = np.arange(n_obs_steps)[::-1]
        return np.maximum(index[:, None] - steps, self.start[index][:, None])

    def future(self, index: np.ndarray, horizon: int, stride: int = 1) -> np.ndarray:
        """Frames `[B]` -> `[B, H]` whose actions are the chunk; the last one is repeated."""
        steps = index[:, None] + stride * np.arange(horizon)
        return np.minimum(steps, self.end[index][:, None] - 1)


def load_frames(
    roots: Sequence[Path | str],
    cameras: Sequence[str],
    *,
    cache_dir: Path | str | None = None,
    workers: int = 2,
    report: Report | None = None,
) -> Frames:
    """All frames of the datasets; the first call decodes the images into a cache.

    cameras: in the order wanted; none are decoded when empty
    cache_dir: where the decoded images lie, `.cache/frames` in each dataset by default
    report: called with (episodes decoded, episodes to decode)
    The benchmark split is taken inside each dataset.
    """
    datasets = [Dataset.open(root) for root in roots]
    _check_alike(datasets)
    episodes = [d.episode(i, images=False) for d in datasets for i in range(len(d.episodes))]
    lengths = np.array([len(episode) for episode in episodes], np.int64)
    ends = np.cumsum(lengths)
    images = {
        camera: ImageStack([_decoded(d, camera, cache_dir, workers, report) for d in datasets])
        for camera in cameras
    }
    return Frames(
        images=images,
        proprio=np.concatenate([episode.proprio for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        episode=np.repeat(np.arange(len(lengths)), lengths),
        start=np.repeat(ends - lengths, lengths),
        end=np.repeat(ends, lengths),
        tasks=tuple(episode.task for episode in episodes),
        held_out=np.concatenate([_held_out(d) for d in datasets]),
        names=datasets[0].names,
        fps=datasets[0].fps,
        intervention=np.concatenate([_marks(episode) for episode in episodes]),
    )


def _marks(episode: Episode) -> np.ndarray:
    marks = episode.intervention
    return np.zeros(len(episode), bool) if marks is None else np.asarray(marks, bool)


def _check_alike(datasets: Sequence[Dataset]) -> None:
    if not datasets:
        raise DatasetError("no dataset was named; give at least one folder")
    first = datasets[0]
    for other in datasets:
        if not other.episodes:
            raise DatasetError(f"{other.root} holds no episode yet")
        for key in ("names", "state_names", "fps"):
            if getattr(other, key) != getattr(first, key):
                raise DatasetError(
                    f"{other.root} has {key} {getattr(other, key)}, {first.root} has "
                    f"{getattr(first, key)}; they cannot be trained on together"
                )


def _held_out(dataset: Dataset) -> np.ndarray:
    mask = np.zeros(len(dataset.episodes), bool)
    mask[benchmark_split(len(mask)).held_out] = True
    return mask


def _decoded(
    dataset: Dataset,
    camera: str,
    cache_dir: Path | str | None,
    workers: int,
    report: Report | None,
) -> np.ndarray:
    """Memory-mapped uint8 `[N, H, W, 3]` of one camera, decoded now if the cache is outdated."""
    if camera not in dataset.cameras:
        known = ", ".join(dataset.cameras) or "none"
        raise DatasetError(f"{dataset.root} has no images of '{camera}'; it has: {known}")
    mark = _fingerprint(dataset, camera)
    name = f"{camera}-{mark[:16]}.npy"
    folder = Path(cache_dir) if cache_dir else dataset.root / CACHE
    if not (folder / name).is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / f".{camera}.lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be decoding the same
                if not (folder / name).is_file():
                    layout.replace_with(
                        folder / name, lambda to: _decode_all(dataset, camera, to, workers, report)
                    )
        except OSError as error:
            raise DatasetError(
                f"cannot write the decoded images to {folder} ({error.strerror}); name a folder "
                "with cache_dir"
            ) from error
        if not cache_dir:
            _drop_outdated(folder, camera, keep=name)
    return np.load(folder / name, mmap_mode="r")


def _decode_all(
    dataset: Dataset, camera: str, path: Path, workers: int, report: Report | None
) -> None:
    lengths = [info.length for info in dataset.episodes]
    ends = np.cumsum(lengths)
    shape = (int(ends[-1]), *dataset.cameras[camera], 3)
    stack = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)

    def decode(index: int) -> None:
        dataset.images(index, camera, out=stack[ends[index] - lengths[index] : ends[index]])

    with ThreadPoolExecutor(workers) as pool:
        for done, _ in enumerate(pool.map(decode, range(len(lengths))), start=1):
            if report:
                report(done, len(lengths))
    stack.flush()


def _fingerprint(dataset: Dataset, camera: str) -> str:
    """Changes whenever an episode is added, removed or rewritten."""
    paths = dataset.data_files() + dataset.video_files(camera)
    files = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    content = json.dumps([camera, dataset.episodes, files])
    return hashlib.sha256(content.encode()).hexdigest()


def _drop_outdated(folder: Path, camera: str, keep: str) -> None:
    for path in folder.glob(f"{camera}-*.npy*"):
        if path.name != keep:
            path.unlink()
